//! Flow control both ways, and the sizes that a client takes.

mod conformance;

use conformance::*;

const NONE: Props = Props(Vec::new());

/// A 5.0 client that takes `max` unacknowledged messages at a time.
fn takes(max: u16) -> Connect {
    Connect::new(Version::V5, &unique("f")).prop(two(prop::RECEIVE_MAXIMUM, max))
}

/// A 5.0 client that takes packets of at most `bytes`.
fn fits(bytes: u32) -> Connect {
    Connect::new(Version::V5, &unique("f")).prop(four(prop::MAXIMUM_PACKET_SIZE, bytes))
}

/// Publishes `count` numbered messages.
fn flood(topic: &str, qos: u8, count: usize) {
    let mut publisher = join(Version::V5);
    for n in 0..count {
        publisher.publish(topic, qos, n.to_string().as_bytes());
    }
}

// 5.0 [MQTT-3.3.4-9] [MQTT-4.9.0-2]
#[test]
fn no_more_is_in_flight_than_the_clients_receive_maximum() {
    for max in [1, 2, 5] {
        for qos in [1, 2] {
            let topic = unique("t");
            let mut client = open(&takes(max));
            client.subscribe(&topic, qos);
            flood(&topic, qos, 20);
            let mut waiting: Vec<Publish> = (0..max).map(|_| client.message()).collect();
            client.quiet();
            // Each completed exchange lets exactly one more through.
            for n in usize::from(max)..20 {
                let done = waiting.remove(0);
                client.finish(&done);
                let next = client.message();
                assert_eq!(next.said(), n.to_string());
                waiting.push(next);
                client.ping();
            }
        }
    }
}

// 4.9: the slot of a QoS 2 message comes back at PUBCOMP, not at PUBREC.
#[test]
fn slot_comes_back_at_pubcomp_not_at_pubrec() {
    let topic = unique("t");
    let mut client = open(&takes(1));
    client.subscribe(&topic, 2);
    flood(&topic, 2, 2);
    let first = client.message();
    client.send(&ack(PUBREC, first.id));
    client.expect_ack(PUBREL, first.id);
    client.quiet();
    client.send(&ack(PUBCOMP, first.id));
    client.hears("1");
}

// 4.9: and at a PUBREC or PUBACK that is an error.
#[test]
fn slot_comes_back_at_an_error() {
    for (qos, kind) in [(1, PUBACK), (2, PUBREC)] {
        let topic = unique("t");
        let mut client = open(&takes(1));
        client.subscribe(&topic, qos);
        flood(&topic, qos, 3);
        for n in 0..2 {
            let message = client.message();
            assert_eq!(message.said(), n.to_string());
            client.send(&ack_reason(kind, message.id, 0x80));
        }
        client.hears("2");
    }
}

// 5.0 [MQTT-3.3.4-10] [MQTT-4.9.0-3]
#[test]
fn everything_else_flows_while_the_quota_is_used_up() {
    let v = Version::V5;
    let topic = unique("t");
    let mut client = open(&takes(1));
    client.subscribe(&topic, 2);
    flood(&topic, 1, 3);
    let held = client.message();
    client.ping();
    let other = unique("t");
    client.subscribe(&other, 0);
    client.unsubscribe(&["none"]);
    client.publish(&unique("nobody"), 1, b"x");
    client.publish(&unique("nobody"), 2, b"x");
    // QoS 0 needs no slot.
    join(v).publish(&other, 0, b"zero");
    assert_eq!(client.message().said(), "zero");
    client.finish(&held);
    client.hears("1");
    client.hears("2");
    // PUBREL too: a QoS 2 exchange with Receive Maximum 1.
    flood(&topic, 2, 2);
    client.hears("0");
    client.hears("1");
}

// 5.0 [MQTT-4.9.0-1]: the quota starts anew at each connection, at what this one said.
#[test]
fn send_quota_starts_anew_at_each_connection() {
    let v = Version::V5;
    let (id, topic) = (unique("f"), unique("t"));
    let connect = |max| Connect::lasting(v, &id).prop(two(prop::RECEIVE_MAXIMUM, max));
    let mut client = open(&connect(10));
    client.subscribe(&topic, 1);
    flood(&topic, 1, 10);
    let first: Vec<Publish> = (0..10).map(|_| client.message()).collect();
    client.drop_and_wait();
    // A smaller maximum resends only that many at first.
    let mut client = open(&connect(3));
    for sent in &first[..3] {
        let again = client.message();
        assert_eq!((again.id, again.dup), (sent.id, true));
    }
    client.quiet();
    for n in 0..10 {
        client.send(&ack(PUBACK, first[n].id));
        if n + 3 < 10 {
            let again = client.message();
            assert_eq!((again.id, again.dup), (first[n + 3].id, true));
        }
    }
    client.ping();
    // Nothing acknowledged, same connection parameters: the same again.
    flood(&topic, 1, 2);
    for dup in [false, true, true] {
        let (a, b) = (client.message(), client.message());
        assert_eq!((a.dup, b.dup), (dup, dup));
        client.drop_and_wait();
        client = open(&connect(3));
    }
}

// 5.0 [MQTT-3.3.4-7]: what happens to a client that sends more than our Receive Maximum.
#[test]
fn publishes_over_the_announced_receive_maximum_are_refused() {
    let v = Version::V5;
    let server = broker("[limits]\ninflight_in_max = 3\n");
    let mut client = Connect::new(v, &unique("f")).open(server.mqtt);
    assert_eq!(client.connack.props.number(prop::RECEIVE_MAXIMUM), Some(3));
    let topic = unique("t");
    for id in 1..=3 {
        client.send(&Publish::new(&topic, 2, b"x").id(id).bytes(v));
        client.expect_ack(PUBREC, id);
    }
    // One that is released makes room; QoS 0 needs none; the same again is no new one.
    client.send(&ack(PUBREL, 1));
    client.expect_ack(PUBCOMP, 1);
    client.send(&Publish::new(&topic, 2, b"x").id(4).bytes(v));
    client.expect_ack(PUBREC, 4);
    client.send(&Publish::new(&topic, 2, b"x").id(4).dup().bytes(v));
    client.expect_ack(PUBREC, 4);
    client.publish(&topic, 0, b"x");
    client.ping();
    client.send(&Publish::new(&topic, 2, b"x").id(5).bytes(v));
    client.expect_end(0x93);
}

// 5.0 [MQTT-3.3.4-8]: packets other than PUBLISH are taken at any time.
#[test]
fn other_packets_are_taken_when_the_receive_maximum_is_reached() {
    let v = Version::V5;
    let server = broker("[limits]\ninflight_in_max = 2\n");
    let mut client = Connect::new(v, &unique("f")).open(server.mqtt);
    for id in [1, 2] {
        client.send(&Publish::new("t", 2, b"x").id(id).bytes(v));
        client.expect_ack(PUBREC, id);
    }
    client.ping();
    client.subscribe("other", 0);
    client.unsubscribe(&["other"]);
    for id in [1, 2] {
        client.send(&ack(PUBREL, id));
        client.expect_ack(PUBCOMP, id);
    }
}

// PROTOCOL: before 5.0 the publisher waits, and nothing is lost or stuck.
#[test]
fn old_publishers_over_the_limit_are_neither_refused_nor_stuck() {
    let server = broker("[limits]\ninflight_in_max = 3\n");
    for v in OLD {
        let mut watcher = Connect::new(v, &unique("w")).open(server.mqtt);
        let topic = unique("t");
        watcher.subscribe(&topic, 2);
        let mut client = Connect::new(v, &unique("f")).open(server.mqtt);
        for id in 1..=50 {
            let publish = Publish::new(&topic, 1, id.to_string().as_bytes()).id(id);
            client.send(&publish.bytes(v));
        }
        for id in 1..=50 {
            client.expect_ack(PUBACK, id);
            watcher.hears(&id.to_string());
        }
        for id in 1..=3 {
            client.send(&Publish::new(&topic, 2, b"two").id(id).bytes(v));
            client.expect_ack(PUBREC, id);
        }
        for id in 1..=3 {
            client.send(&ack(PUBREL, id));
            client.expect_ack(PUBCOMP, id);
            watcher.hears("two");
        }
        client.ping();
    }
}

// 5.0 [MQTT-3.1.2-24]: the whole packet counts, properties and all.
#[test]
fn no_packet_is_larger_than_the_client_takes() {
    let v = Version::V5;
    let mut publisher = join(v);
    for extra in [0usize, 1] {
        for props in [NONE, Props::from([user("key", "value"), text(prop::CONTENT_TYPE, "x")])] {
            let topic = unique("t");
            let publish = Publish::new(&topic, 0, &[b'x'; 300]).props(props);
            let size = publish.bytes(v).len();
            let mut client = open(&fits((size - extra) as u32));
            client.subscribe(&topic, 1);
            publisher.put(publish);
            publisher.publish(&topic, 0, b"end");
            if extra == 0 {
                assert_eq!(client.message().payload.len(), 300);
            }
            client.hears("end");
        }
    }
}

// 5.0 [MQTT-3.1.2-25]: dropped, and the exchange counts as done.
#[test]
fn message_too_large_for_the_client_counts_as_delivered() {
    let v = Version::V5;
    for qos in [0, 1, 2] {
        let (id, topic) = (unique("f"), unique("t"));
        let connect = Connect::lasting(v, &id)
            .prop(four(prop::MAXIMUM_PACKET_SIZE, 200))
            .prop(two(prop::RECEIVE_MAXIMUM, 1));
        let mut client = open(&connect);
        client.subscribe(&topic, qos);
        let mut publisher = join(v);
        for _ in 0..3 {
            publisher.publish(&topic, qos, &[b'x'; 500]);
        }
        publisher.publish(&topic, qos, b"small");
        client.hears("small");
        client.ping();
        // The same out of the queue, and for retained messages. QoS 0 has no queue, and
        // what is on its way between shards may still find the client back.
        client.leave();
        if qos > 0 {
            publisher.publish(&topic, qos, &[b'x'; 500]);
            publisher.publish(&topic, qos, b"queued");
        }
        let mut client = open(&connect);
        if qos > 0 {
            client.hears("queued");
        }
        let kept = unique("kept");
        publisher.retain(&kept, qos, &[b'x'; 500]);
        client.subscribe(&kept, qos);
        publisher.publish(&kept, qos, b"live");
        client.hears("live");
    }
}

// What no queue holds is not sent late either. On one shard, where an answer to the
// publisher means that what it sent before has passed.
#[test]
fn qos_0_to_an_absent_client_is_not_kept() {
    const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");
    let broker = testkit::Broker::start_with(BINARY, "", &["--shards", "1"]);
    let lasting = Connect::lasting(Version::V5, "absent");
    let mut client = lasting.open(broker.mqtt);
    client.subscribe("t", 0);
    client.leave();
    let mut publisher = Connect::new(Version::V5, "publisher").open(broker.mqtt);
    publisher.publish("t", 0, b"missed");
    publisher.ping();
    let mut client = lasting.open(broker.mqtt);
    publisher.publish("t", 0, b"live");
    client.hears("live");
}

// 3.1.2.11.4: of a shared subscription another member may get it; ours does.
#[test]
fn message_too_large_for_one_member_is_not_the_end_of_the_connection() {
    let v = Version::V5;
    let topic = unique("t");
    let filter = format!("$share/g/{topic}");
    let mut small = open(&fits(200));
    small.subscribe(&filter, 1);
    let mut publisher = join(v);
    publisher.publish(&topic, 1, &[b'x'; 500]);
    publisher.publish(&topic, 1, b"small");
    small.hears("small");
}

// 5.0: reason strings and user properties are left out where they would not fit.
// [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3] [MQTT-3.6.2-2] [MQTT-3.6.2-3]
// [MQTT-3.7.2-2] [MQTT-3.7.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2] [MQTT-3.11.2-1] [MQTT-3.11.2-2]
#[test]
fn answers_fit_the_clients_maximum_packet_size() {
    let v = Version::V5;
    // The CONNACK has to fit as well, and takes more than these answers need.
    let connack = open(&Connect::new(v, &unique("f"))).connack.size as u32;
    for max in connack.max(6)..connack.max(6) + 60 {
        let mut client = open(&fits(max));
        client.send(&Publish::new("$SYS/x", 1, b"x").id(1).bytes(v));
        client.send(&Publish::new("$SYS/x", 2, b"x").id(2).bytes(v));
        client.send(&Publish::new(&unique("nobody"), 1, b"x").id(3).bytes(v));
        client.send(&ack(PUBREL, 77));
        client.send(&ack(PUBREC, 78));
        let deep = "a/".repeat(200);
        client.send(&subscribe(v, 4, &NONE, &[(&deep, 0)]));
        client.send(&unsubscribe(v, 5, &["not there"]));
        let mut kinds = Vec::new();
        for _ in 0..7 {
            let bytes = client.recv_bytes();
            assert!(bytes.len() <= max as usize, "{bytes:02x?} to a client that takes {max}");
            read(v, &bytes);
            kinds.push(bytes[0] >> 4);
        }
        kinds.sort_unstable();
        assert_eq!(kinds, [4, 4, 5, 6, 7, 9, 11]);
    }
}

// 5.0 [MQTT-3.14.2-3] [MQTT-3.14.2-4]
#[test]
fn disconnect_fits_the_clients_maximum_packet_size() {
    let v = Version::V5;
    let connack = open(&Connect::new(v, &unique("f"))).connack.size as u32;
    for max in connack..connack + 40 {
        let mut client = open(&fits(max));
        client.send(&[0x36, 0]);
        let bytes = client.recv_bytes();
        assert!(bytes.len() <= max as usize, "{bytes:02x?} to a client that takes {max}");
        assert!(matches!(read(v, &bytes), Packet::Disconnect { reason: 0x81, .. }));
        client.expect_closed();
    }
}

// 3.1.2.11.3: absent means 65,535; a broker's own smaller window is its own affair.
#[test]
fn receive_maximum_absent_does_not_mean_none() {
    for v in ALL {
        let topic = unique("t");
        let mut client = join(v);
        client.subscribe(&topic, 1);
        flood(&topic, 1, 100);
        for n in 0..100 {
            assert_eq!(client.message().said(), n.to_string());
        }
    }
}

// BND-1: with `refuse` a message that a full queue would have to take is the publisher's.
#[test]
fn a_publisher_is_refused_while_a_queue_is_full() {
    let limits = "[limits]\nqueue_messages_max = 3\nqueue_policy = \"refuse\"\n";
    let server = broker(limits);
    for v in ALL {
        let connect = Connect::lasting(v, &unique("q"));
        let mut client = connect.open(server.mqtt);
        let topic = unique("t");
        client.subscribe(&topic, 1);
        client.leave();
        let mut publisher = Connect::new(Version::V5, &unique("p")).open(server.mqtt);
        for id in 1..=3 {
            publisher.send(&Publish::new(&topic, 1, b"kept").id(id).bytes(Version::V5));
            assert!(publisher.expect_answer(PUBACK, id) < 0x80);
        }
        publisher.send(&Publish::new(&topic, 1, b"refused").id(4).bytes(Version::V5));
        assert_eq!(publisher.expect_answer(PUBACK, 4), 0x97);
        let mut older = Connect::new(Version::V311, &unique("o")).open(server.mqtt);
        older.send(&Publish::new(&topic, 1, b"refused").id(5).bytes(Version::V311));
        older.expect_closed();
        let (_, metrics) = server.get("/metrics");
        let count = metrics
            .lines()
            .filter(|line| line.starts_with("tidegate_messages_dropped_total"))
            .find(|line| line.contains("queue_refused"))
            .expect("the reason is there");
        assert!(!count.ends_with(" 0"), "{count}");

        let mut client = connect.open(server.mqtt);
        for _ in 0..3 {
            client.hears("kept");
        }
        client.ping();
        publisher.send(&Publish::new(&topic, 1, b"again").id(6).bytes(Version::V5));
        assert!(publisher.expect_answer(PUBACK, 6) < 0x80);
        client.hears("again");
    }
}

// BND-1: the session's queue is bounded; the oldest give way by default.
#[test]
fn queue_of_an_absent_client_is_bounded() {
    for (policy, kept) in [("drop_oldest", 15..20), ("drop_new", 0..5)] {
        let server =
            broker(&format!("[limits]\nqueue_messages_max = 5\nqueue_policy = \"{policy}\"\n"));
        for v in ALL {
            let connect = Connect::lasting(v, &unique("q"));
            let mut client = connect.open(server.mqtt);
            let topic = unique("t");
            client.subscribe(&topic, 1);
            client.leave();
            let mut publisher = Connect::new(v, &unique("p")).open(server.mqtt);
            for n in 0..20 {
                publisher.publish(&topic, 1, n.to_string().as_bytes());
            }
            let mut client = connect.open(server.mqtt);
            for n in kept.clone() {
                client.hears(&n.to_string());
            }
            client.ping();
        }
    }
}
