//! Configurations of other brokers, turned into ours.
//!
//! What has no equal is never dropped silently: each line of the original is
//! either in what is written or in the report, with the reason. Where a line
//! that keeps clients out has no equal, what is written keeps more out, never
//! fewer.

mod mosquitto;
mod report;

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, ensure};

pub use report::{Kind, Report};

/// What an import makes.
#[derive(Debug)]
pub struct Imported {
    /// Text of `tidegate.toml`.
    pub config: String,
    /// Text of the password file, if there is to be one.
    pub passwords: Option<String>,
    /// Text of the ACL file, if there is to be one.
    pub acl: Option<String>,
    /// What could not be carried over as it was.
    pub report: Report,
}

const CONFIG: &str = "tidegate.toml";
const PASSWORDS: &str = "passwords";
const ACL: &str = "acl";
const REPORT: &str = "import-report.txt";

/// `tidegate import mosquitto FILE [--out DIR]`: what to print. With `out` the
/// files are written there, which replaces nothing; without, the config and
/// the report are printed and nothing is written.
///
/// # Errors
/// When the file cannot be read, or a file cannot be written.
pub fn mosquitto(file: &Path, out: Option<&Path>) -> anyhow::Result<String> {
    let dir = match out {
        None => None,
        Some(out) => {
            fs::create_dir_all(out).with_context(|| format!("cannot make {out:?}"))?;
            Some(fs::canonicalize(out).with_context(|| format!("cannot find {out:?}"))?)
        }
    };
    let imported = translate_mosquitto(file, dir.as_deref())?;
    let report = imported.report.to_string();
    let Some(dir) = dir else {
        let mut said = imported.config;
        let _ = writeln!(said, "\n# Nothing is written without --out DIR. The report:");
        report.lines().for_each(|line| {
            let _ = writeln!(said, "# {line}");
        });
        return Ok(said);
    };
    let files = [
        (CONFIG, Some(&imported.config), 0o644),
        (PASSWORDS, imported.passwords.as_ref(), 0o600),
        (ACL, imported.acl.as_ref(), 0o644),
        (REPORT, Some(&report), 0o644),
    ];
    let taken: Vec<_> = files
        .iter()
        .filter(|(name, text, _)| text.is_some() && dir.join(name).exists())
        .map(|(name, _, _)| *name)
        .collect();
    ensure!(
        taken.is_empty(),
        "{} has {} already; use another --out",
        dir.display(),
        taken.join(", ")
    );
    let mut said = report.clone();
    said.push('\n');
    for (name, text, mode) in files {
        let Some(text) = text else { continue };
        let path = dir.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {path:?}"))?;
        let _ = writeln!(said, "wrote {}", path.display());
    }
    Ok(said)
}

/// Reads mosquitto's files and turns them into ours, which are to stand in `dir`.
///
/// # Errors
/// When `file` cannot be read. What is wrong with others is in the report.
pub fn translate_mosquitto(file: &Path, dir: Option<&Path>) -> anyhow::Result<Imported> {
    let named = |name: &str| dir.map_or_else(|| name.into(), |dir| dir.join(name));
    mosquitto::translate(file, &named(PASSWORDS), &named(ACL))
}
