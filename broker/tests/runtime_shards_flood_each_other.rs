//! Clients on both shards publish to each other as fast as the broker reads:
//! nothing deadlocks, nothing of QoS 1 is lost, and the order holds.

use std::thread;

use testkit::{Broker, Got, Raw};

const PAIRS: usize = 8;
const MESSAGES: u16 = 3_000;

fn connected(broker: &Broker, id: &str) -> Raw {
    let mut raw = broker.raw();
    let mut connect = vec![0x10, (12 + id.len()) as u8, 0, 4];
    connect.extend_from_slice(b"MQTT\x04\x02\x00\x00");
    connect.extend_from_slice(&(id.len() as u16).to_be_bytes());
    connect.extend_from_slice(id.as_bytes());
    raw.send(&connect);
    assert!(matches!(raw.recv(), Got::Packet(connack) if connack[3] == 0));
    raw
}

/// QoS 1, the id as payload.
fn publish(topic: u8, id: u16) -> [u8; 9] {
    let [high, low] = id.to_be_bytes();
    [0x32, 0x07, 0x00, 0x01, topic, high, low, high, low]
}

#[test]
fn a_flood_both_ways_arrives_complete_and_in_order() {
    let broker = Broker::start(
        env!("CARGO_BIN_EXE_tidegate"),
        "[limits]\nqueue_messages_max = 100000\nqueue_bytes_max = 104857600\n",
    );
    let mut threads = Vec::new();
    // The kernel hashes the connections over both shards: of eight topics with
    // a publisher and a subscriber each, some cross in either direction.
    for n in 0..PAIRS as u8 {
        let topic = b'a' + n;
        let mut subscriber = connected(&broker, &format!("sub{n}"));
        subscriber.send(&[0x82, 0x06, 0x00, 0x01, 0x00, 0x01, topic, 0x01]);
        assert!(matches!(subscriber.recv(), Got::Packet(suback) if suback[4] == 1));
        let mut publisher = connected(&broker, &format!("pub{n}"));
        threads.push(thread::spawn(move || {
            for ids in (1..=MESSAGES).collect::<Vec<_>>().chunks(100) {
                let burst: Vec<u8> = ids.iter().flat_map(|id| publish(topic, *id)).collect();
                publisher.send(&burst);
                for id in ids {
                    let [high, low] = id.to_be_bytes();
                    assert_eq!(publisher.recv(), Got::Packet(vec![0x40, 0x02, high, low]));
                }
            }
        }));
        threads.push(thread::spawn(move || {
            for id in 1..=MESSAGES {
                let Got::Packet(packet) = subscriber.recv() else { panic!("message {id} missing") };
                assert_eq!(packet[7..9], id.to_be_bytes(), "in order");
                subscriber.send(&[0x40, 0x02, packet[5], packet[6]]);
            }
        }));
    }
    for thread in threads {
        thread.join().expect("no client failed");
    }
    assert_eq!(broker.raw().recv_within(testkit::QUIET), Got::Silence);
}
