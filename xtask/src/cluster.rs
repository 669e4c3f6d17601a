//! `cargo xtask cluster` and `cluster-test`: build what starts clusters on this
//! machine, and become it.
//!
//! Both are the program of the crash tests (`broker/crash`): it has the clients,
//! the judge, and the care for processes.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// How a local cluster is started.
pub(crate) const UP_USAGE: &str =
    "cluster up N [--port P | --free-ports] [--data DIR]: N nodes on this machine, until Ctrl-C";

/// How clusters are tested.
pub(crate) const TEST_USAGE: &str = "cluster-test [--all] [--only NAME] [--seed S] [--loopback] [--strict-times] ...: clusters under \
     load, their nodes killed and their links cut (--help tells all)";

/// Runs `cluster`.
pub(crate) fn up(root: &Path, args: &[String]) -> Result<()> {
    become_it(root, "cluster", args)
}

/// Runs `cluster-test`.
pub(crate) fn test(root: &Path, args: &[String]) -> Result<()> {
    become_it(root, "cluster-test", args)
}

fn become_it(root: &Path, what: &str, args: &[String]) -> Result<()> {
    let mut build = crate::cargo();
    build.current_dir(root).args(["build", "--workspace", "--bin", "crash-test"]);
    if !args.iter().any(|arg| ["--binary", "--help", "-h", "--list"].contains(&arg.as_str())) {
        build.args(["--bin", "tidegate"]);
    }
    let status = build.status().with_context(|| format!("start {build:?}"))?;
    ensure!(status.success(), "{build:?}: {status}");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut program = Command::new(target.join("debug/crash-test"));
    program.env("CARGO_TARGET_DIR", &target).arg(what).args(args);
    // In place of this process: Ctrl-C meets the one that has nodes to end.
    let error = program.exec();
    Err(error).with_context(|| format!("start {program:?}"))
}
