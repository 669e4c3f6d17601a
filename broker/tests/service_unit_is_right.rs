//! The systemd unit and the config that the package installs.

use std::path::{Path, PathBuf};
use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(path)
}

fn unit() -> String {
    std::fs::read_to_string(manifest("systemd/tidegate.service")).expect("the unit")
}

#[test]
fn the_unit_speaks_the_protocol_of_the_node() {
    let unit = unit();
    let lines: Vec<&str> = unit.lines().collect();
    for wanted in [
        "Type=notify",
        "WatchdogSec=30",
        "Restart=on-failure",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "ExecStart=/usr/bin/tidegate run --config /etc/tidegate/tidegate.toml",
        "StateDirectory=tidegate",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
    ] {
        assert!(lines.contains(&wanted), "no {wanted}");
    }
}

#[test]
fn systemd_finds_no_fault_and_little_exposure() {
    let dir = std::env::temp_dir().join(format!("tidegate-unit-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a scratch directory");
    let file = dir.join("tidegate.service");
    // The program of this build stands in for the installed one.
    std::fs::write(&file, unit().replace("/usr/bin/tidegate", BINARY)).expect("write the unit");
    let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).arg(&file).output();
    let Ok(verified) = analyze(&["verify", "--man=no"]) else {
        // Not everybody has it; CI installs it and fails without.
        assert!(std::env::var_os("CI").is_none(), "systemd-analyze (Debian: systemd) is missing");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{said}");
    // 0 is a program that can do nothing, 10 one that can do everything.
    let exposed = analyze(&["security", "--offline=true", "--threshold=20"]).expect("it is there");
    let said = String::from_utf8_lossy(&exposed.stdout).into_owned();
    assert!(exposed.status.success(), "exposure above 2.0:\n{said}");
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn the_installed_config_has_no_fault_and_stays_on_loopback() {
    let output = Command::new(BINARY)
        .arg("check")
        .arg(manifest("deb/tidegate.toml"))
        .output()
        .expect("run the check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nor a warning");
    let effective = String::from_utf8_lossy(&output.stdout);
    for wanted in [
        "data_dir = \"/var/lib/tidegate\"",
        "bind = \"127.0.0.1:1883\"",
        "bind = \"127.0.0.1:8888\"",
    ] {
        assert!(effective.contains(wanted), "no {wanted} in:\n{effective}");
    }
}
