//! `cargo xtask bench peers`: the comparison with other brokers.
//!
//! Builds what is measured, sees to it that the peer is there, and lets the
//! `peers` binary measure and write the table into `docs/benchmarks.md`. What
//! stands behind the word `peers` goes to `peers run` as it is, for example
//! `--rows qos0-w16,qos1-w16 --reps 1`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";
const PAGE: &str = "docs/benchmarks.md";

/// Runs `bench peers [ARGUMENT...]`.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let Some(("peers", rest)) = args.split_first().map(|(first, rest)| (first.as_str(), rest))
    else {
        bail!("cargo xtask bench peers [--rows A,B] [--reps N] [--seconds S] [--json]");
    };
    cargo(root, &["build", "--release", "--package", "tidegate", "--bin", "tidegate"])?;
    // The load is no part of what is measured: the profile that builds fast will do.
    cargo(root, &["build", "--profile", "quick", "--package", "benches", "--bin", "peers"])?;
    install_mosquitto()?;

    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let mut peers = Command::new(target.join("quick/peers"));
    peers.current_dir(root).arg("run").arg("--tidegate").arg(target.join("release/tidegate"));
    // A run of some rows or of few repetitions must not replace the whole table.
    if rest.is_empty() {
        peers.args(["--write", PAGE]);
    }
    succeed(peers.args(rest))
}

fn cargo(root: &Path, args: &[&str]) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    succeed(Command::new(cargo).current_dir(root).args(args))
}

fn install_mosquitto() -> Result<()> {
    if Path::new(MOSQUITTO).exists() {
        return Ok(());
    }
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends", "mosquitto"]);
    // The package would start a broker of its own on port 1883.
    install.env("RUNLEVEL", "1").env("DEBIAN_FRONTEND", "noninteractive");
    succeed(&mut install)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
