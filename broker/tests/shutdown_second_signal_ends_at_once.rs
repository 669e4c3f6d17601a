//! Who signals twice does not want to wait for the drain.

use std::process::Command;

use testkit::{Broker, Got};

#[test]
fn a_second_sigterm_ends_the_process_with_its_signal_status() {
    let mut broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    // A client that is told and does not hang up holds the drain open for the
    // time that its socket lingers.
    let mut client = broker.raw();
    client.send(b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02v5");
    assert!(matches!(client.recv(), Got::Packet(connack) if connack[0] == 0x20));

    let pid = broker.pid().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("run kill").success());
    assert!(matches!(client.recv(), Got::Packet(disconnect) if disconnect[0] == 0xE0));
    // A drain that ends by itself ends with 0.
    assert_eq!(broker.terminate(), Some(128 + 15));
}
