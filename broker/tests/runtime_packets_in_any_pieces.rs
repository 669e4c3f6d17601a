//! TCP cuts where it likes: a packet a byte at a time, many packets at once,
//! one packet larger than every buffer on the way.

use std::time::Duration;

use testkit::{Broker, Got, Raw};

fn connected(broker: &Broker, id: &[u8; 2]) -> Raw {
    let mut raw = broker.raw();
    let mut connect = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02".to_vec();
    connect.extend_from_slice(id);
    raw.send(&connect);
    assert!(matches!(raw.recv(), Got::Packet(connack) if connack[3] == 0));
    raw
}

fn subscribed(broker: &Broker) -> Raw {
    let mut raw = connected(broker, b"su");
    raw.send(b"\x82\x06\x00\x01\x00\x01t\x00");
    assert!(matches!(raw.recv(), Got::Packet(suback) if suback[0] == 0x90));
    raw
}

/// A QoS 0 PUBLISH to `t`.
fn publish(payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x30];
    let mut length = payload.len() + 3;
    loop {
        let byte = (length & 0x7f) as u8;
        length >>= 7;
        packet.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    packet.extend_from_slice(b"\x00\x01t");
    packet.extend_from_slice(payload);
    packet
}

#[test]
fn a_byte_at_a_time_is_a_packet_in_the_end() {
    let broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let (mut alice, mut bob) = (subscribed(&broker), connected(&broker, b"pu"));
    for byte in publish(b"drip") {
        bob.send(&[byte]);
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(alice.recv(), Got::Packet(publish(b"drip")));
}

#[test]
fn a_packet_larger_than_the_read_buffer_arrives_whole_and_once() {
    let broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let (mut alice, mut bob) = (subscribed(&broker), connected(&broker, b"pu"));
    let large = publish(&(0..900_000u32).map(|n| (n % 251) as u8).collect::<Vec<u8>>());
    // Odd pieces, the last one with the beginning of the next packet.
    let mut both = large.clone();
    both.extend_from_slice(&publish(b"after"));
    for piece in both.chunks(50_021) {
        bob.send(piece);
    }
    assert_eq!(alice.recv(), Got::Packet(large));
    assert_eq!(alice.recv(), Got::Packet(publish(b"after")));
    assert_eq!(alice.recv_within(testkit::QUIET), Got::Silence);
}

#[test]
fn many_packets_of_one_write_are_all_answered_in_order() {
    let broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let mut alice = connected(&broker, b"pu");
    let mut burst = Vec::new();
    for id in 1..=1_000u16 {
        burst.extend_from_slice(b"\x32\x06\x00\x01x");
        burst.extend_from_slice(&id.to_be_bytes());
        burst.push(b'p');
    }
    alice.send(&burst);
    for id in 1..=1_000u16 {
        let [high, low] = id.to_be_bytes();
        assert_eq!(alice.recv(), Got::Packet(vec![0x40, 0x02, high, low]));
    }
}

#[test]
fn packets_sent_together_with_the_fin_are_handled() {
    let broker = Broker::start(env!("CARGO_BIN_EXE_tidegate"), "");
    let mut alice = subscribed(&broker);
    let mut bob = connected(&broker, b"pu");
    bob.send(&publish(b"last words"));
    bob.stream().shutdown(std::net::Shutdown::Write).expect("the FIN");
    assert_eq!(alice.recv(), Got::Packet(publish(b"last words")));
    assert_eq!(bob.recv(), Got::Closed);
}
