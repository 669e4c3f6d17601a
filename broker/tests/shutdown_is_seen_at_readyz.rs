//! A load balancer is told before anyone else: `/readyz` is 503 from the
//! start of a drain, before the listener closes, and while clients are connected.

use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::{Broker, Got, PATIENCE, Raw};

/// One shard ends 64 connections in a step of 20 ms: this many take a moment.
const CLIENTS: usize = 800;

fn is_told(client: &mut Raw, patience: Duration) -> bool {
    match client.recv_within(patience) {
        Got::Silence => false,
        // 0x8B: server shutting down.
        Got::Packet(packet) => {
            assert_eq!((packet[0], packet[2]), (0xE0, 0x8B));
            true
        }
        Got::Closed => panic!("closed without a word"),
    }
}

#[test]
fn readyz_is_503_from_the_start_of_a_drain_while_clients_are_connected() {
    let config = "[node]\ndrain_seconds = 20\n";
    let mut broker = Broker::start_with(env!("CARGO_BIN_EXE_tidegate"), config, &["--shards", "1"]);
    let mut clients: Vec<Raw> = (0..CLIENTS)
        .map(|n| {
            let mut client = broker.raw();
            let id = format!("c{n:03}");
            client.send(&[b"\x10\x11\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x04", id.as_bytes()].concat());
            assert!(matches!(client.recv(), Got::Packet(connack) if connack[..4] == [0x20, connack[1], 0, 0]));
            client
        })
        .collect();
    assert_eq!(broker.get("/readyz"), (200, "ready\n".to_owned()));

    let pid = broker.pid().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("run kill").success());
    let end = Instant::now() + PATIENCE;
    let instant = Duration::from_millis(1);
    loop {
        // The first to be told is the first that came.
        let begun = is_told(&mut clients[0], instant);
        let refused = TcpStream::connect(broker.mqtt).is_err();
        match broker.get("/readyz") {
            (503, body) => {
                assert_eq!(body, "draining\n");
                break;
            }
            (status, _) => assert_eq!(status, 200),
        }
        assert!(!refused, "the listener was closed, and /readyz still said 200");
        assert!(!begun, "a client was ended, and /readyz still said 200");
        assert!(Instant::now() < end, "no drain");
    }
    assert!(!is_told(&mut clients[CLIENTS - 1], instant), "the last one is still connected");
    assert_eq!(broker.get("/livez").0, 200, "a drain is no reason to be killed");

    for client in &mut clients[1..] {
        assert!(is_told(client, PATIENCE));
    }
    drop(clients);
    let ended = Instant::now() + PATIENCE;
    while broker.alive() {
        assert!(Instant::now() < ended, "the clients are gone, and it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}
