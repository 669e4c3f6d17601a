//! `tidegate check FILE`: what it prints and how it exits.

use std::path::PathBuf;
use std::process::{Command, Output};

fn check(name: &str, text: &str) -> Output {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, text).expect("a place for the config");
    tidegate(&["check", file.to_str().expect("a plain path")])
}

fn tidegate(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().to_ascii_uppercase().starts_with("TIDEGATE__") {
            command.env_remove(name);
        }
    }
    command.args(args).output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn a_good_file_is_ok_with_what_it_means_on_stdout() {
    let output =
        check("good.toml", "[limits]\nsessions_max = 7\n[node]\nlb_idle_timeout_seconds = 60");
    assert_eq!(output.status.code(), Some(0));
    let said = text(&output.stdout);
    assert!(said.starts_with("ok\n\n[node]\n"), "{said}");
    for line in [
        "sessions_max = 7",
        "keep_alive_max_seconds = 36",
        "bind = \"127.0.0.1:1883\"",
        "# TCP keepalive: 36 s idle, 12 s interval, 3 probes",
    ] {
        assert!(said.lines().any(|said| said == line), "no {line:?} in\n{said}");
    }
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn a_bad_file_fails_with_its_faults_on_stderr() {
    let output = check("bad.toml", "[limits]\npacket_bytes_max = 10\n[node]\nshard = 1");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let expected = "limits.packet_bytes_max: 10 is below 1024; use 1024 to 268435455\n\
                    node.shard: unknown key; did you mean node.shards?\n";
    assert_eq!(text(&output.stderr), expected);
}

#[test]
fn a_file_that_is_not_there_fails() {
    let output = tidegate(&["check", "/no/such/file"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).starts_with("cannot read \"/no/such/file\": "));
}

#[test]
fn misuse_exits_2() {
    let misuses: [&[&str]; 6] = [
        &[],
        &["chekc"],
        &["check"],
        &["run", "--listen", "nowhere"],
        &["run", "--shards", "0"],
        &["run", "--verbose"],
    ];
    for args in misuses {
        assert_eq!(tidegate(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn run_refuses_to_leave_loopback_unasked() {
    let output = tidegate(&["run", "--listen", "0.0.0.0:1883"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("listener.default.anonymous = true to let anybody in"), "{said}");
}

#[test]
fn version_is_one_line_on_stdout() {
    let output = tidegate(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), concat!("tidegate ", env!("CARGO_PKG_VERSION"), "\n"));
}
