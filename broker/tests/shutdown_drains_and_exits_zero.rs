//! SIGTERM: every client is told or closed, nobody gets in, and the exit is 0.

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use testkit::{Broker, Got, Raw};

const CONNECT_5: &[u8] = b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02v5";
const CONNECT_311: &[u8] = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02v4";

fn connected(broker: &Broker, connect: &[u8]) -> Raw {
    let mut raw = broker.raw();
    raw.send(connect);
    let Got::Packet(connack) = raw.recv() else { panic!("no CONNACK") };
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    raw
}

#[test]
fn sigterm_tells_clients_closes_them_and_exits_zero() {
    let mut broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let mut new = connected(&broker, CONNECT_5);
    let mut old = connected(&broker, CONNECT_311);

    let started = Instant::now();
    let mqtt = broker.mqtt;
    let exit = thread::spawn(move || broker.terminate());

    // 0x8B: server shutting down.
    assert!(matches!(new.recv(), Got::Packet(packet) if packet[0] == 0xE0 && packet[2] == 0x8B));
    assert_eq!(new.recv(), Got::Closed);
    // Before 5.0 a server has no DISCONNECT [MQTT-3.14].
    assert_eq!(old.recv(), Got::Closed);
    assert!(TcpStream::connect(mqtt).is_err(), "the listener is closed");

    new.abort();
    old.abort();
    assert_eq!(exit.join().expect("no panic"), Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "two clients need no deadline");
}

#[test]
fn an_idle_node_exits_zero_at_once() {
    let mut broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let started = Instant::now();
    assert_eq!(broker.terminate(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "nobody is waited for");
}
