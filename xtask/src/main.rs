//! Chores of the workspace: `cargo xtask layers | docs | conformance | bench | crash-test |
//! cluster | cluster-test | dist | ebpf | vm | manifests`.
//!
//! Depends on nothing of ours, so that it builds at once and works on a tree
//! that does not.

mod bench;
mod cluster;
mod conformance;
mod crash;
mod dist;
mod docs;
mod ebpf;
mod layers;
mod manifests;
mod sbom;
mod vm;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// A chore: gets the root of the workspace and its own arguments.
type Chore = fn(&Path, &[String]) -> anyhow::Result<()>;

/// Name, usage, chore.
const CHORES: &[(&str, &str, Chore)] = &[
    ("layers", "layers: each ring depends only on the rings inside it", layers::run),
    ("conformance", conformance::USAGE, conformance::run),
    (
        "bench",
        "bench peers [ARGUMENTS]: measure beside other brokers, write docs/benchmarks.md; or bench \
         cluster [ARGUMENTS]: what clusters cost",
        bench::run,
    ),
    ("crash-test", crash::USAGE, crash::run),
    ("cluster", cluster::UP_USAGE, cluster::up),
    ("cluster-test", cluster::TEST_USAGE, cluster::test),
    ("dist", dist::USAGE, dist::run),
    ("ebpf", ebpf::USAGE, ebpf::run),
    ("vm", vm::USAGE, vm::run),
    ("manifests", manifests::USAGE, manifests::run),
    ("docs", "docs [--check]: write the generated pages, or fail on drift", docs::run),
];

/// Cargo, without what the one that runs this program says of this package: build scripts that
/// look at it (ring's) would run again, here and then outside, and all that depends on them.
fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let said = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_str().is_some_and(said)) {
        cargo.env_remove(name);
    }
    cargo
}

#[allow(clippy::print_stderr)]
fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let chosen = args.split_first().and_then(|(name, rest)| {
        let chore = CHORES.iter().find(|(known, ..)| known == name)?;
        Some((chore.2, rest))
    });
    let Some((chore, rest)) = chosen else {
        eprintln!("usage: cargo xtask CHORE\n");
        for (_, usage, _) in CHORES {
            eprintln!("  {usage}");
        }
        return ExitCode::from(2);
    };
    match chore(&root(), rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask stands in the workspace").to_owned()
}
