//! `tidegate preflight`: what it prints, and how it exits.
#![allow(clippy::print_stderr)]

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs it with this config, below these limits of the shell.
fn preflight(name: &str, config: &str, limits: &str, args: &[&str]) -> Output {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, config).expect("a place for the config");
    let script = format!("{limits}; exec \"$0\" preflight \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_tidegate"), "--config"]).arg(&file);
    command.args(args).output().expect("a shell")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON on stdout")
}

fn check(told: &Value, name: &str) -> Value {
    let checks = told["checks"].as_array().expect("a list");
    checks.iter().find(|check| check["check"] == name).expect("a check of that name").clone()
}

#[test]
fn json_has_every_check_with_result_reason_and_remedy() {
    let output = preflight("preflight-json.toml", "", ":", &["--json"]);
    let told = json(&output);
    let checks = told["checks"].as_array().expect("a list");
    assert!(checks.len() >= 18, "{told:#}");
    for check in checks {
        let text = |key: &str| check[key].as_str().unwrap_or_else(|| panic!("{key}: {check}"));
        assert!(["ok", "warn", "fail", "unknown"].contains(&text("result")), "{check}");
        assert!(["process", "pod", "node"].contains(&text("who")), "{check}");
        for key in ["check", "found", "needed", "why", "fix"] {
            assert!(!text(key).is_empty(), "{key}: {check}");
        }
    }
    for result in ["ok", "warn", "fail", "unknown"] {
        let count = checks.iter().filter(|check| check["result"] == result).count();
        assert_eq!(told["totals"][result], count, "{result}");
    }
    let failed = told["totals"]["fail"] != 0;
    assert_eq!(output.status.code(), Some(i32::from(failed)));
}

#[test]
fn a_low_limit_of_descriptors_fails_and_says_how_to_raise_it() {
    let config = "[limits]\nconnections_max = 5000\n[node]\nshards = 2";
    let output = preflight("preflight-low.toml", config, "ulimit -n 1024", &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let nofile = check(&json(&output), "nofile");
    assert_eq!((&nofile["result"], &nofile["found"]), (&"fail".into(), &"1024".into()));
    assert_eq!(nofile["needed"], "5514 hard");
    let fix = nofile["fix"].as_str().expect("text");
    assert!(fix.contains("LimitNOFILE=5514") && fix.contains("ulimit -Hn 5514"), "{fix}");

    // For people the same, and what to do below the table.
    let output = preflight("preflight-low.toml", config, "ulimit -n 1024", &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(said.lines().any(|line| line.starts_with("fail    nofile")), "{said}");
    assert!(said.contains("\nfail: nofile\n"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() <= 100), "{said}");
}

#[test]
fn a_soft_limit_does_as_the_node_raises_it() {
    let config = "[limits]\nconnections_max = 500";
    let limits = "ulimit -Sn 256";
    let nofile =
        check(&json(&preflight("preflight-soft.toml", config, limits, &["--json"])), "nofile");
    assert_eq!(nofile["result"], "ok", "{nofile}");
    assert!(nofile["found"].as_str().is_some_and(|found| found.starts_with("256 soft, ")));
}

#[test]
fn what_is_missing_for_ebpf_fails_only_where_it_is_required() {
    // Bounded to nothing, whoever runs the test.
    for (mode, wanted) in [("off", "ok"), ("auto", "warn"), ("require", "fail")] {
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ebpf-{mode}.toml"));
        let config =
            format!("[ebpf]\nsteer = \"{mode}\"\ntcpstat = \"off\"\nconntrack = \"off\"\n");
        std::fs::write(&file, config).expect("a place for the config");
        let output = Command::new("setpriv")
            .args(["--bounding-set=-all", "--inh-caps=-all", env!("CARGO_BIN_EXE_tidegate")])
            .args(["preflight", "--json", "--config"])
            .arg(&file)
            .output();
        let Some(output) = output.ok().filter(|output| !output.stdout.is_empty()) else {
            eprintln!("not run: no setpriv, or no right to give capabilities up");
            return;
        };
        let held = check(&json(&output), "capabilities");
        assert_eq!(held["result"], wanted, "{mode}: {held}");
        assert_eq!(held["found"], "without BPF, PERFMON, NET_ADMIN");
    }
}

#[test]
fn a_config_with_a_fault_is_told_and_exits_1() {
    let output = preflight("preflight-bad.toml", "[node]\nshard = 1", ":", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("node.shard: unknown key"), "{said}");
}

#[test]
fn a_small_volume_for_the_data_directory_fails_with_its_size() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("small-volume");
    std::fs::create_dir_all(&dir).expect("a place to mount it");
    let config = dir.with_extension("toml");
    std::fs::write(&config, format!("[node]\ndata_dir = \"{}/data\"\n", dir.display()))
        .expect("a place for the config");
    // In a mount namespace of its own; it goes with the process.
    let script = "mount -t tmpfs -o size=64m none \"$1\" || exit 77; \
                  exec \"$0\" preflight --json --config \"$2\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_tidegate")])
        .args([&dir, &config])
        .output();
    let Some(output) = output.ok().filter(|output| !output.stdout.is_empty()) else {
        eprintln!("not run: no mount namespace of our own");
        return;
    };
    let volume = check(&json(&output), "data_dir");
    assert_eq!((&volume["result"], &volume["found"]), (&"fail".into(), &"64 MiB free".into()));
    assert_eq!(output.status.code(), Some(1));
}
