//! The pages of `docs/` that are made from the code.
//!
//! The `tidegate` binary prints them (`tidegate docs PAGE`), as it has the
//! definitions; this chore puts them in their place, or says where they drift.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail, ensure};

/// The page as the binary knows it, and its file.
const PAGES: &[(&str, &str)] = &[("config", "docs/config.md"), ("metrics", "docs/metrics.md")];

pub(crate) fn run(root: &Path, args: &[String]) -> anyhow::Result<()> {
    let check = match args {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => bail!("usage: cargo xtask docs [--check]"),
    };
    let mut drifts = Vec::new();
    for (page, file) in PAGES {
        let fresh = print(root, page)?;
        let path = root.join(file);
        if check {
            let there = fs::read_to_string(&path).unwrap_or_default();
            drifts.extend(drift(file, &there, &fresh));
        } else {
            fs::create_dir_all(path.parent().expect("a page stands in docs"))?;
            fs::write(&path, fresh).with_context(|| format!("cannot write {file}"))?;
        }
    }
    ensure!(drifts.is_empty(), "{}\nrun `cargo xtask docs`", drifts.join("\n"));
    Ok(())
}

fn print(root: &Path, page: &str) -> anyhow::Result<String> {
    let output = crate::cargo()
        .args(["run", "--quiet", "--bin", "tidegate", "--", "docs", page])
        .current_dir(root)
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "`tidegate docs {page}` failed");
    let text = String::from_utf8(output.stdout).context("the page is not UTF-8")?;
    ensure!(!text.trim().is_empty(), "`tidegate docs {page}` printed nothing");
    Ok(text)
}

/// The first line in which a page differs from what the code says.
fn drift(file: &str, there: &str, fresh: &str) -> Option<String> {
    if there == fresh {
        return None;
    }
    let same = there.lines().zip(fresh.lines()).take_while(|(there, fresh)| there == fresh).count();
    let line = |text: &str| text.lines().nth(same).unwrap_or("(the end)").to_owned();
    Some(format!("{file}:{}:\n- {}\n+ {}", same + 1, line(there), line(fresh)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_names_the_first_line_that_differs() {
        assert_eq!(drift("f", "a\nb\n", "a\nb\n"), None);
        assert_eq!(drift("f", "a\nb\n", "a\nc\n"), Some("f:2:\n- b\n+ c".into()));
        assert_eq!(drift("f", "", "a\n"), Some("f:1:\n- (the end)\n+ a".into()));
        assert_eq!(drift("f", "a", "a\n"), Some("f:2:\n- (the end)\n+ (the end)".into()));
    }
}
