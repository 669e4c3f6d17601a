//! Where connection tracking is not to be seen, its metrics are absent, its
//! collector is down, and the reason is told.
//!
//! The broker runs in a mount namespace of its own in which an empty directory
//! lies over the kernel's.
#![allow(clippy::print_stderr)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;
use testkit::Broker;

const HIDE: &str = "mount -t tmpfs none /proc/sys/net/netfilter && \
                    mount --bind /dev/null /proc/$$/net/stat/nf_conntrack";

/// A program that runs the broker where there is no connection tracking; none
/// where that cannot be had.
///
/// It is written once: a file that one test starts while another has it open
/// to write is refused by the kernel (`ETXTBSY`).
fn hidden() -> Option<PathBuf> {
    static WRAPPER: OnceLock<Option<PathBuf>> = OnceLock::new();
    WRAPPER.get_or_init(wrapper).clone()
}

fn wrapper() -> Option<PathBuf> {
    if std::env::var_os("TIDEGATE_BIN").is_some() {
        eprintln!("not run: TIDEGATE_BIN stands in for the wrapper");
        return None;
    }
    let there = std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_count").exists();
    let hide = if there { HIDE } else { "true" };
    let probe = Command::new("unshare").args(["--mount", "sh", "-c", hide]).output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            eprintln!("not run: no mount namespace of our own: {why}");
            return None;
        }
        Err(error) => {
            eprintln!("not run: unshare: {error}");
            return None;
        }
    }
    let wrapper = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("tidegate-without-conntrack");
    let binary = env!("CARGO_BIN_EXE_tidegate");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c '{hide} && exec {binary} \"$@\"' sh \"$@\"\n"
    );
    std::fs::write(&wrapper, script).expect("a place for the wrapper");
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&wrapper, all).expect("chmod");
    Some(wrapper)
}

#[test]
fn metrics_are_absent_the_collector_is_down_and_says_why() {
    let Some(wrapper) = hidden() else { return };
    let broker = Broker::start(wrapper.to_str().expect("a plain path"), "");
    let (_, text) = broker.get("/metrics");
    let present = text.lines().filter(|line| line.starts_with("tidegate_conntrack_"));
    assert_eq!(present.collect::<Vec<_>>(), [""; 0]);
    let has = |line: &str| text.lines().any(|said| said == line);
    assert!(has(r#"tidegate_collector_up{collector="conntrack"} 0"#), "{text}");
    assert!(has(r#"tidegate_collector_up{collector="sockets"} 1"#), "{text}");
    assert!(has(r#"tidegate_preflight_check{check="conntrack",result="unknown"} 1"#), "{text}");

    let status = Command::new(&wrapper)
        .args(["bpf", "status", "--json", "--data-dir"])
        .arg(broker.dir().join("data"))
        .output()
        .expect("it runs");
    let told: Value = serde_json::from_slice(&status.stdout).expect("JSON on stdout");
    let collectors = told["collectors"].as_array().expect("a list");
    let conntrack = collectors.iter().find(|c| c["collector"] == "conntrack").expect("named");
    assert_eq!(conntrack["up"], false);
    let why = conntrack["why"].as_str().expect("a reason");
    assert!(why.contains("nf_conntrack_count: No such file"), "{why}");
}

#[test]
fn the_command_fails_with_the_reason_instead_of_zeros() {
    let Some(wrapper) = hidden() else { return };
    let output = Command::new(&wrapper).args(["conntrack", "show"]).output().expect("it runs");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("connection tracking is not there"), "{said}");
}
