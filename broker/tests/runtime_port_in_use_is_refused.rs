//! A second broker on the same port says so and exits with 1, instead of
//! joining the SO_REUSEPORT group and taking half of the connections.

use std::process::Command;

use testkit::Broker;

#[test]
fn a_port_of_another_broker_is_not_shared() {
    let first = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "--listen", &first.mqtt.to_string(), "--admin", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(first.dir().join("second"))
        .output()
        .expect("start the second");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&format!("cannot listen on {}", first.mqtt)), "said: {said}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("ready"));
}
