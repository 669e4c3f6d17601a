//! `cargo xtask bench peers`: the comparison with other brokers; `bench cluster`:
//! what a cluster costs.
//!
//! `cluster` goes to a binary of its own, which prints its tables. `peers` builds what is measured, sees to it that mosquitto (Debian) and rumqttd
//! (crates.io) are there, and lets the `peers` binary measure and write table and
//! plot into `docs`. What stands behind the word `peers` goes to `peers run` as
//! it is, for example `--rows qos0-w16,qos1-w16 --reps 1`, or `--flashmq PATH`
//! for a broker that has to be brought along; but for `--trial`, which shows that
//! all this works with builds that are fast to make, and without rumqttd.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const MOSQUITTO: &str = "/usr/sbin/mosquitto";
const PAGE: &str = "docs/benchmarks.md";
const PLOT: &str = "docs/peers.svg";
const RUMQTTD: &str = "0.20.0";
/// A run of some rows or of few repetitions must not replace the whole table.
const PARTIAL: [&str; 6] =
    ["--rows", "--reps", "--seconds", "--no-mosquitto", "--tidegate-config", TRIAL];
/// That it works, not what it measures: what builds fast, and no rumqttd.
const TRIAL: &str = "--trial";

const USAGE: &str = "\
cargo xtask bench peers [--trial] [--rows A,B] [--reps N] [--seconds S] [--nice N] [--json] \
[--flashmq PATH] [--nanomq PATH] [--emqx PATH]
cargo xtask bench cluster [--nodes 1,3,5] [--rows A,B] [--seconds S] [--rate R]";

/// Runs `bench peers [ARGUMENT...]` or `bench cluster [ARGUMENT...]`.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    match args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        Some(("peers", rest)) => peers(root, rest),
        Some(("cluster", rest)) => cluster(root, rest),
        _ => bail!("{USAGE}"),
    }
}

fn target(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Five brokers at once tell ratios, not records: the profile that builds fast will do.
fn cluster(root: &Path, rest: &[String]) -> Result<()> {
    let bins = ["--bin", "tidegate", "--bin", "tidegate-loadtest", "--bin", "cluster"];
    cargo(root, &[&["build", "--profile", "quick", "--workspace"][..], &bins].concat())?;
    succeed(Command::new(target(root).join("quick/cluster")).current_dir(root).args(rest))
}

fn peers(root: &Path, rest: &[String]) -> Result<()> {
    let is_trial = rest.iter().any(|word| word == TRIAL);
    let profile = if is_trial { "quick" } else { "release" };
    // The load is no part of what is measured: the profile that builds fast will do.
    if is_trial {
        let both = ["--bin", "tidegate", "--bin", "peers"];
        cargo(root, &[&["build", "--profile", "quick", "--workspace"][..], &both].concat())?;
    } else {
        cargo(root, &["build", "--release", "--package", "tidegate", "--bin", "tidegate"])?;
        cargo(root, &["build", "--profile", "quick", "--package", "benches", "--bin", "peers"])?;
    }
    install_mosquitto()?;

    let target = target(root);
    let mut peers = Command::new(target.join("quick/peers"));
    peers.current_dir(root).arg("run").arg("--tidegate").arg(target.join(profile).join("tidegate"));
    if !is_trial {
        peers.arg("--rumqttd").arg(install_rumqttd(root, &target)?);
    }
    if !rest.iter().any(|word| PARTIAL.contains(&word.as_str())) {
        peers.args(["--write", PAGE, "--plot", PLOT]);
    }
    succeed(peers.args(rest.iter().filter(|word| *word != TRIAL)))
}

fn cargo(root: &Path, args: &[&str]) -> Result<()> {
    succeed(crate::cargo().current_dir(root).args(args))
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

/// Into a folder of its own under the target directory. Its lock file is too old for today's
/// compiler, so the newest dependencies that fit are taken.
fn install_rumqttd(root: &Path, target: &Path) -> Result<PathBuf> {
    let folder = target.join("peers");
    let program = folder.join("bin/rumqttd");
    if !program.exists() {
        let package = ["install", "rumqttd", "--version", RUMQTTD, "--no-default-features"];
        let folder = folder.to_string_lossy().into_owned();
        cargo(root, &[&package[..], &["--root", &folder]].concat())?;
    }
    Ok(program)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
