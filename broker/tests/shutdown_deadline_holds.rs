//! A client that neither reads nor hangs up cannot hold the node.

use std::time::{Duration, Instant};

use testkit::{Broker, Got};

#[test]
fn clients_that_do_not_react_are_cut_off_by_the_deadline() {
    let mut broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "[node]\ndrain_seconds = 1\n");
    let mut clients: Vec<_> = (0..50).map(|_| broker.raw()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        let mut connect = b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x03".to_vec();
        connect.extend_from_slice(format!("c{n:02}").as_bytes());
        client.send(&connect);
        assert!(matches!(client.recv(), Got::Packet(connack) if connack[0] == 0x20));
    }
    let started = Instant::now();
    assert_eq!(broker.terminate(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
}
