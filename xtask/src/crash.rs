//! `cargo xtask crash-test`: builds a broker and what kills it, and lets it.
//!
//! The test is a program of its own (`broker/crash`), so that the chores stay
//! quick to build.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// How it is called.
pub(crate) const USAGE: &str = "crash-test [--scenario NAME] [--kills N] [--seed S] [--binary PATH] \
     [--plant] ...: kill brokers under load and see what they forgot (--help tells all)";

/// Runs `crash-test`; what stands behind it goes to the program as it is.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let mut build = crate::cargo();
    build.current_dir(root).args(["build", "--workspace", "--bin", "crash-test"]);
    if !args.iter().any(|arg| arg == "--binary" || arg == "--help") {
        build.args(["--bin", "tidegate"]);
    }
    succeed(&mut build)?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut test = Command::new(target.join("debug/crash-test"));
    succeed(test.env("CARGO_TARGET_DIR", &target).args(args))
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
