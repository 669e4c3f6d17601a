//! Which binaries are run in the guest, and with which rights.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::guest::Run;
use crate::dist::output;

const PACKAGE: &str = "tidegate-kernel";

/// Seconds that one binary may take.
const SECONDS_MAX: u64 = 120;

/// What a deployment is given.
const DEPLOYED: &str = "bpf,perfmon,net_admin";

/// What is run besides, as root's rights would hide what is missing: the binary,
/// the rights that it has to be content with, and which of its tests show it.
const WITH_LESS: &[(&str, &str, &str)] = &[
    ("rights", DEPLOYED, ""),
    ("steering", DEPLOYED, "each_program each_choice blocked a_source a_drained"),
    ("steering", "bpf", "each_program each_choice blocked a_source a_drained"),
];

/// A test binary.
pub(crate) struct Binary {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// The binaries of the crate's tests.
pub(crate) fn built(root: &Path) -> Result<Vec<Binary>> {
    let mut build = crate::cargo();
    // Without its examples, which are no tests.
    build.args(["test", "--package", PACKAGE, "--lib", "--tests", "--locked", "--no-run"]);
    build.args(["--message-format", "json-render-diagnostics"]).current_dir(root);
    let said = output(build.stdin(Stdio::null()))?;
    let mut binaries = Vec::new();
    for line in said.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages")?;
        let name = message.pointer("/target/name").and_then(Value::as_str);
        let path = message.get("executable").and_then(Value::as_str);
        if let (Some(name), Some(path)) = (name, path) {
            binaries.push(Binary { name: name.to_owned(), path: path.into() });
        }
    }
    ensure!(!binaries.is_empty(), "vm test: {PACKAGE} has no tests");
    Ok(binaries)
}

/// A binary that was named.
pub(crate) fn named(path: &Path) -> Result<Binary> {
    ensure!(path.is_file(), "vm test: --binary {path:?}: no such file");
    let name = path.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
    Ok(Binary { name, path: path.to_owned() })
}

/// How each binary is run; `arguments` go to every one.
pub(crate) fn runs(binaries: &[Binary], arguments: &[String]) -> Vec<Run> {
    let arguments: String = arguments.iter().map(|word| format!(" {}", quoted(word))).collect();
    let mut runs = Vec::new();
    for Binary { name, .. } in binaries {
        let test = format!("timeout {SECONDS_MAX} /tests/{name} --test-threads=1{arguments}");
        runs.push(Run { name: format!("{name} as root"), command: test.clone() });
        for (_, rights, filters) in WITH_LESS.iter().filter(|(of, ..)| of == name) {
            let command = format!("{} {test} {filters}", restricted(rights));
            let command = command.trim_end().to_owned();
            runs.push(Run { name: format!("{name} with {rights}"), command });
        }
    }
    runs
}

/// The front of a command for a user who has only these capabilities.
fn restricted(rights: &str) -> String {
    let only = format!("-all,+{}", rights.replace(',', ",+"));
    format!(
        // By its path: busybox would take its own, which knows less.
        "/bin/setpriv --reuid 1000 --regid 1000 --clear-groups --inh-caps {only} --ambient-caps {only} \
         --bounding-set {only}"
    )
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod cases {
    use super::*;

    #[test]
    fn each_binary_runs_as_root_and_what_shows_it_with_less() {
        let binary = |name: &str| Binary { name: name.into(), path: name.into() };
        let runs = runs(&[binary("steering"), binary("other")], &["it's".into()]);
        let names: Vec<_> = runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "steering as root",
                "steering with bpf,perfmon,net_admin",
                "steering with bpf",
                "other as root",
            ]
        );
        assert_eq!(runs[0].command, r"timeout 120 /tests/steering --test-threads=1 'it'\''s'");
        assert!(runs[1].command.starts_with("/bin/setpriv "));
        assert!(runs[1].command.contains("--ambient-caps -all,+bpf,+perfmon,+net_admin "));
        assert!(runs[2].command.contains("--bounding-set -all,+bpf timeout"));
        assert!(runs[2].command.contains(" each_program "));
    }
}
