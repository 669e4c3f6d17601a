//! `cargo xtask vm test`: the native tests on a kernel that many have; `vm million`
//! is in a file of its own.
//!
//! What the verifier takes and which capabilities it asks for differs between
//! kernels, so the tests of `tidegate-kernel` are run on Debian's stock cloud
//! kernel too, in a guest of QEMU. The guest is an initramfs with busybox, the
//! test binaries and what they need. All run as root; those that need nothing
//! else run again as a user with the three capabilities of a deployment, and the
//! steering with CAP_BPF alone, as root's rights would hide what is missing.
//!
//! In the guest `TIDEGATE_EBPF_TESTS` is `guest`: a test that can't run fails,
//! unless all it lacks is a tool that this machine has not either.
//!
//! Always by emulation: /dev/kvm may be there and hang the guest.

mod guest;
mod kernel;
mod million;
mod tests;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::dist::output;
use guest::{Contents, Guest, Machine, Run};
use kernel::Kernel;

/// How they are called, in short.
pub(crate) const USAGE: &str = "vm test|million [ARGUMENT...]: run tests on Debian's kernel, or a \
     million connections, under QEMU";

const TEST_USAGE: &str = "vm test [--binary PATH]... [-- ARGUMENTS]: run the tests of \
     tidegate-kernel, or other test binaries, on Debian's kernel under QEMU";

/// The whole of it, in the guest.
const GUEST_SECONDS_MAX: u64 = 180;
const MEMORY_MIB: u32 = 2048;

/// Programs that tests may call; those that this machine has are in the guest.
const TOOLS: &[&str] =
    &["capsh", "conntrack", "ip", "iptables", "nsenter", "nstat", "setpriv", "ss", "tc", "unshare"];

/// perf_event_paranoid is 3 by default, which is Debian's own and keeps kprobes from all without
/// CAP_SYS_ADMIN.
const PREPARATION: &str = "ulimit -n 65536
echo 2 > /proc/sys/kernel/perf_event_paranoid
";

pub(crate) fn run(root: &Path, args: &[String]) -> Result<()> {
    let target_dir =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let place = target_dir.join("vm");
    fs::create_dir_all(&place).with_context(|| format!("cannot make {place:?}"))?;
    match args.split_first() {
        Some((what, rest)) if what == "test" => test(root, &place, rest),
        Some((what, rest)) if what == "million" => million::run(root, &place, rest),
        Some(_) | None => {
            bail!("usage: cargo xtask {TEST_USAGE}\nor: cargo xtask {}", million::USAGE)
        }
    }
}

fn test(root: &Path, place: &Path, args: &[String]) -> Result<()> {
    let mut rest = args;
    let mut binaries = Vec::new();
    let mut arguments: &[String] = &[];
    while let Some((arg, after)) = rest.split_first() {
        match (arg.as_str(), after.split_first()) {
            ("--", _) => {
                arguments = after;
                break;
            }
            ("--binary", Some((path, after))) => {
                binaries.push(tests::named(Path::new(path))?);
                rest = after;
            }
            _ => bail!("usage: cargo xtask {TEST_USAGE}"),
        }
    }
    let qemu = program("qemu-system-x86_64", "qemu-system-x86")?;
    program("cpio", "cpio")?;
    let busybox = program("busybox", "busybox-static")?;
    let kernel = Kernel::set_up(place)?;
    if binaries.is_empty() {
        binaries = tests::built(root)?;
    }
    let runs = tests::runs(&binaries, arguments);
    ensure!(on_path("setpriv").is_some(), "setpriv is missing; install Debian's util-linux");
    let contents = Contents {
        binaries: &binaries,
        tools: TOOLS,
        modules: &kernel.modules,
        files: &[],
        preparation: PREPARATION,
    };
    let guest = Guest::pack(place, &busybox, &contents, &runs)?;
    let limit = Duration::from_secs(GUEST_SECONDS_MAX);
    let machine = Machine { memory_mib: MEMORY_MIB, cpu: "max", append: "", limit };
    let said = guest.boot(&qemu, &kernel, &machine)?;
    judge(&runs, &said.outcomes)
}

/// Fails unless every run ended well.
fn judge(runs: &[Run], outcomes: &[(String, i32)]) -> Result<()> {
    let mut faults = Vec::new();
    for run in runs {
        match outcomes.iter().find(|(name, _)| *name == run.name) {
            Some((_, 0)) => {}
            Some((_, status)) => faults.push(format!("{}: status {status}", run.name)),
            None => faults.push(format!("{}: did not end", run.name)),
        }
    }
    if !faults.is_empty() {
        bail!("vm test: of {} runs failed\n{}", runs.len(), faults.join("\n"));
    }
    say(&format!("vm test: {} runs passed", runs.len()));
    Ok(())
}

/// Where a program is; installs its package if it is missing and that is allowed.
fn program(name: &str, package: &str) -> Result<PathBuf> {
    if let Some(found) = on_path(name) {
        return Ok(found);
    }
    say(&format!("installing {package}"));
    let mut install = Command::new("apt-get");
    install.args(["install", "--quiet=2", "--yes", "--no-install-recommends", package]);
    output(install.env("DEBIAN_FRONTEND", "noninteractive"))
        .with_context(|| format!("{name} is missing; install Debian's {package}"))?;
    on_path(name).with_context(|| format!("{package} is installed but brings no {name}"))
}

/// Where a program is, if it is there.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders = env::split_paths(&path).chain(system);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

#[allow(clippy::print_stderr)]
fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod judging {
    use super::*;

    fn run(name: &str) -> Run {
        Run { name: name.into(), command: String::new() }
    }

    #[test]
    fn a_run_that_failed_or_never_ended_fails_the_whole() {
        let runs = [run("one"), run("two")];
        judge(&runs, &[("one".into(), 0), ("two".into(), 0)]).expect("both ended well");
        let said = judge(&runs, &[("one".into(), 0), ("two".into(), 101)]).expect_err("one failed");
        assert!(said.to_string().contains("two: status 101"), "{said}");
        let said = judge(&runs, &[("two".into(), 0)]).expect_err("one is missing");
        assert!(said.to_string().contains("one: did not end"), "{said}");
    }
}
