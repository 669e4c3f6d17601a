//! A password file of mosquitto: `$7$` hashes are ours as they are.

use std::path::Path;

use tidegate_auth::Passwords;

use crate::import::report::{Kind, Place, Report};

/// The users that we can check. No password or hash gets into the report: a
/// file made without TLS holds passwords as they are.
pub(super) fn translate(file: &Path, text: &str, report: &mut Report) -> String {
    let mut out = String::from("# Imported from a password file of mosquitto.\n");
    let mut names = std::collections::HashSet::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split(':').next().unwrap_or_default();
        let place =
            Place { file: file.into(), line: i + 1, shown: format!("{}:…", name.escape_debug()) };
        if let Err(faults) = Passwords::parse(line) {
            let problems = faults.iter().map(|fault| fault.problem.to_string());
            report.say(Kind::Lost, &place, problems.collect::<Vec<_>>().join("; "));
        } else if !names.insert(name) {
            report.say(Kind::Lost, &place, "the user stands above already");
        } else {
            report.carried += 1;
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}
