//! PUBLISH: what is refused, what goes on unchanged, and how it is answered.

mod conformance;

use conformance::*;

/// Sends bytes on a fresh connection and requires its end: DISCONNECT with
/// `code` in 5.0, the bare close before.
#[track_caller]
fn ends(version: Version, bytes: &[u8], code: u8) {
    let mut client = join(version);
    client.id = format!("{bytes:02x?}");
    client.send(bytes);
    client.expect_end(code);
}

// 5.0 [MQTT-3.3.1-2], 3.1.1 [MQTT-3.3.1-2]
#[test]
fn dup_with_qos_0_is_malformed() {
    for v in OASIS {
        ends(v, &Publish::new("t", 0, b"x").dup().bytes(v), 0x81);
    }
}

// [MQTT-3.3.1-3]
#[test]
fn dup_of_the_publisher_does_not_reach_the_subscriber() {
    for v in ALL {
        for qos in [1, 2] {
            let (mut publisher, mut subscriber, topic) = pair(v, qos);
            publisher.put(Publish::new(&topic, qos, b"x").dup());
            let message = subscriber.hears("x");
            assert_eq!((message.qos, message.dup), (qos, false));
        }
    }
}

// [MQTT-3.3.1-4]
#[test]
fn qos_3_is_malformed() {
    for v in ALL {
        for first in [0x36, 0x37, 0x3e, 0x3f] {
            let mut bytes = Publish::new("t", 2, b"x").bytes(v);
            bytes[0] = first;
            ends(v, &bytes, 0x81);
        }
    }
}

// 5.0 [MQTT-2.2.1-2], 3.1.1 [MQTT-2.3.1-5]
#[test]
fn qos_0_publish_carries_no_packet_id() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 2);
        // Were two bytes taken for an id, the payload would lose them.
        publisher.publish(&topic, 0, &[0, 7, b'x']);
        let bytes = subscriber.recv_bytes();
        assert_eq!(bytes, Publish::new(&topic, 0, &[0, 7, b'x']).bytes(v));
    }
}

// 5.0 [MQTT-2.2.1-3], 3.1.1 [MQTT-2.3.1-1]
#[test]
fn packet_id_0_is_a_protocol_error() {
    for v in ALL {
        for qos in [1, 2] {
            ends(v, &Publish::new("t", qos, b"x").id(0).bytes(v), 0x82);
        }
        ends(v, &subscribe(v, 0, &Props::default(), &[("t", 0)]), 0x82);
        ends(v, &unsubscribe(v, 0, &["t"]), 0x82);
    }
}

// 5.0 [MQTT-2.2.1-5], 3.1.1 [MQTT-2.3.1-6]: and of any id that the client chose.
#[test]
fn acknowledgements_carry_the_packet_id_of_the_publish() {
    for v in ALL {
        let mut client = join(v);
        let topic = unique("nobody");
        for id in [1, 2, 255, 256, 32768, 65535] {
            client.send(&Publish::new(&topic, 1, b"x").id(id).bytes(v));
            client.expect_ack(PUBACK, id);
            client.send(&Publish::new(&topic, 2, b"x").id(id).bytes(v));
            client.expect_ack(PUBREC, id);
            client.send(&ack(PUBREL, id));
            client.expect_ack(PUBCOMP, id);
        }
    }
}

// [MQTT-3.3.4-1]
#[test]
fn publish_is_answered_by_its_qos() {
    for v in ALL {
        let mut client = join(v);
        let topic = unique("nobody");
        client.send(&Publish::new(&topic, 0, b"x").bytes(v));
        client.ping();
        client.send(&Publish::new(&topic, 1, b"x").id(5).bytes(v));
        client.expect_ack(PUBACK, 5);
        client.ping();
        client.send(&Publish::new(&topic, 2, b"x").id(6).bytes(v));
        client.expect_ack(PUBREC, 6);
        client.ping();
        client.send(&ack(PUBREL, 6));
        client.expect_ack(PUBCOMP, 6);
        client.ping();
    }
}

// [MQTT-3.3.2-1]
#[test]
fn topic_name_must_be_there_and_utf8() {
    for v in ALL {
        let publish = |topic: &[u8]| {
            let mut body = binary(topic);
            if v.is_5() {
                body.push(0);
            }
            body.extend(b"load");
            packet(0x30, &body)
        };
        for topic in
            [&b"\xff"[..], b"a/\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"a\0"]
        {
            ends(v, &publish(topic), 0x81);
        }
        // No topic field, half a length, a length beyond the packet.
        for body in [&b""[..], b"\0", b"\0\x05ab"] {
            ends(v, &packet(0x30, body), 0x81);
        }
    }
}

// [MQTT-3.3.2-2]
#[test]
fn topic_name_with_a_wildcard_is_malformed() {
    for v in ALL {
        for topic in ["#", "+", "a/#", "a/+", "a/+/b", "a+", "a#b"] {
            for qos in [0, 1, 2] {
                ends(v, &Publish::new(topic, qos, b"x").bytes(v), 0x81);
            }
        }
    }
}

// [MQTT-3.3.2-3]
#[test]
fn a_message_comes_with_its_own_topic_which_matches_the_filter() {
    for v in ALL {
        let base = unique("m");
        let mut subscriber = join(v);
        subscriber.subscribe(&format!("{base}/+/c/#"), 0);
        let mut publisher = join(v);
        for (tail, matches) in [
            ("a/c", true),
            ("a/b", false),
            ("/c", true),
            ("a/c/d/e", true),
            ("a/a/c", false),
            ("a/c/", true),
            ("a", false),
            ("end/c", true),
        ] {
            let topic = format!("{base}/{tail}");
            publisher.publish(&topic, 0, tail.as_bytes());
            if matches {
                assert_eq!(subscriber.hears(tail).topic, topic);
            }
        }
    }
}

// PROTOCOL: an empty topic without an alias is 0x82 in 5.0.
#[test]
fn empty_topic_without_an_alias_is_a_protocol_error() {
    for v in ALL {
        ends(v, &Publish::new("", 0, b"x").bytes(v), 0x82);
        ends(v, &Publish::new("", 1, b"x").bytes(v), 0x82);
    }
}

/// The properties that belong to the message, in an order of their own.
fn message_props() -> Props {
    Props::from([
        user("b", "2"),
        text(prop::CONTENT_TYPE, "application/x-\u{feff}ü"),
        user("a", "1"),
        data(prop::CORRELATION_DATA, &[0, 255, 1, 0]),
        byte(prop::PAYLOAD_FORMAT, 1),
        user("b", "2"),
        text(prop::RESPONSE_TOPIC, "answers/to me"),
        user("", ""),
        user("a", "0"),
    ])
}

#[track_caller]
fn same_message_props(got: &Props) {
    let sent = message_props();
    for id in
        [prop::PAYLOAD_FORMAT, prop::CONTENT_TYPE, prop::RESPONSE_TOPIC, prop::CORRELATION_DATA]
    {
        assert_eq!(got.get(id), sent.get(id), "property {id:#04x}");
    }
    assert_eq!(got.users(), sent.users());
    assert_eq!(got.0.len(), sent.0.len(), "{got:?}");
}

// 5.0 [MQTT-3.3.2-4]
#[test]
fn payload_format_indicator_is_forwarded_unchanged() {
    let (mut publisher, mut subscriber, topic) = pair(Version::V5, 1);
    for sent in [Some(0), Some(1), None] {
        let props = Props(sent.map(|n| byte(prop::PAYLOAD_FORMAT, n)).into_iter().collect());
        publisher.put(Publish::new(&topic, 1, b"x").props(props));
        let got = subscriber.hears("x").props.number(prop::PAYLOAD_FORMAT);
        // Absent and 0 mean the same.
        assert_eq!(got.unwrap_or(0), u32::from(sent.unwrap_or(0)));
    }
}

// 5.0 [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-20]
#[test]
fn request_response_properties_are_forwarded_unchanged() {
    for qos in [0, 1, 2] {
        let (mut publisher, mut subscriber, topic) = pair(Version::V5, 2);
        publisher.put(Publish::new(&topic, qos, b"x").props(message_props()));
        same_message_props(&subscriber.hears("x").props);
        // None appears where none was.
        publisher.publish(&topic, qos, b"y");
        assert_eq!(subscriber.hears("y").props, Props::default());
    }
}

// 5.0 [MQTT-3.3.2-17] [MQTT-3.3.2-18]
#[test]
fn user_properties_are_forwarded_in_order_and_repeated() {
    let (mut publisher, mut subscriber, topic) = pair(Version::V5, 1);
    let many: Vec<Property> =
        (0..100).map(|n| user(["z", "a", "m"][n % 3], &format!("{}", n / 2))).collect();
    publisher.put(Publish::new(&topic, 1, b"x").props(Props(many.clone())));
    assert_eq!(subscriber.hears("x").props, Props(many));
}

// The same for a message that waits in a session, and one that is retained.
#[test]
fn properties_survive_the_queue_and_the_retained_store() {
    let v = Version::V5;
    let (id, topic) = (unique("q"), unique("t"));
    let mut sleeper = open(&Connect::lasting(v, &id));
    sleeper.subscribe(&topic, 1);
    sleeper.leave();
    let mut publisher = join(v);
    publisher.put(Publish::new(&topic, 1, b"x").retain().props(message_props()));
    same_message_props(&open(&Connect::lasting(v, &id)).hears("x").props);
    let mut late = join(v);
    late.subscribe(&topic, 0);
    same_message_props(&late.hears("x").props);
}

// Between versions a message loses what the other cannot say, and nothing else.
#[test]
fn messages_cross_versions() {
    for from in ALL {
        for to in ALL {
            for qos in [0, 1, 2] {
                let topic = unique("x");
                let mut subscriber = join(to);
                subscriber.subscribe(&topic, 2);
                let publish = Publish::new(&topic, qos, b"load").props(message_props());
                join(from).put(publish);
                let got = subscriber.hears("load");
                assert_eq!((got.qos, got.retain, got.topic.as_str()), (qos, false, &*topic));
                if from.is_5() && to.is_5() {
                    same_message_props(&got.props);
                }
            }
        }
    }
}

// 5.0 [MQTT-3.3.2-13]
#[test]
fn response_topic_must_be_utf8() {
    for bad in [&b"\xff"[..], b"a\0b", b"\xed\xa0\x80"] {
        let list = concat(&[&[prop::RESPONSE_TOPIC], &binary(bad)]);
        let props = concat(&[&[list.len() as u8], &list]);
        let body = concat(&[&string("t"), &props, b"x"]);
        ends(Version::V5, &packet(0x30, &body), 0x81);
    }
}

// 5.0 [MQTT-3.3.2-14]
#[test]
fn response_topic_with_a_wildcard_is_a_protocol_error() {
    for topic in ["a/#", "+", "a/+/b"] {
        let publish = Publish::new("t", 0, b"x").props([text(prop::RESPONSE_TOPIC, topic)]);
        ends(Version::V5, &publish.bytes(Version::V5), 0x82);
    }
}

// 5.0 [MQTT-3.3.2-19]
#[test]
fn content_type_must_be_utf8() {
    for bad in [&b"\xff"[..], b"a\0b", b"\xed\xa0\x80"] {
        let list = concat(&[&[prop::CONTENT_TYPE], &binary(bad)]);
        let props = concat(&[&[list.len() as u8], &list]);
        let body = concat(&[&string("t"), &props, b"x"]);
        ends(Version::V5, &packet(0x30, &body), 0x81);
    }
}

// PROTOCOL: values above 1 are 0x82; the payload is checked when so configured.
#[test]
fn payload_format_above_1_is_a_protocol_error() {
    let publish = |n, payload: &[u8]| {
        Publish::new("t", 1, payload).props([byte(prop::PAYLOAD_FORMAT, n)]).bytes(Version::V5)
    };
    ends(Version::V5, &publish(2, b"x"), 0x82);
    let server = broker("[mqtt]\npayload_format_check = true\n");
    let mut client = Connect::new(Version::V5, &unique("f")).open(server.mqtt);
    client.send(&publish(0, b"\xff"));
    client.expect_ack(PUBACK, 1);
    client.send(&publish(1, "ü".as_bytes()));
    client.expect_ack(PUBACK, 1);
    client.send(&publish(1, b"\xff"));
    match client.recv() {
        Packet::Ack { kind: PUBACK, id: 1, reason: 0x99, .. } => {}
        Packet::Disconnect { reason: 0x99, .. } => client.expect_closed(),
        other => panic!("{other:?} for a payload that is not UTF-8"),
    }
}

// 5.0 [MQTT-3.3.4-6]: what happens to a client that sends one.
#[test]
fn subscription_id_from_a_client_is_a_protocol_error() {
    let publish = Publish::new("t", 0, b"x").props([var(prop::SUBSCRIPTION_ID, 1)]);
    ends(Version::V5, &publish.bytes(Version::V5), 0x82);
}

// 3.1.1 [MQTT-3.3.5-2]; 5.0 says what happened. `$SYS` belongs to the broker.
#[test]
fn publish_that_is_not_allowed_is_acknowledged_and_dropped() {
    for v in ALL {
        let topic = format!("$SYS/{}", unique("forged"));
        let mut watcher = join(v);
        watcher.subscribe("$SYS/#", 0);
        let mut client = join(v);
        client.send(&Publish::new(&topic, 0, b"forged").bytes(v));
        client.send(&Publish::new(&topic, 1, b"forged").id(9).bytes(v));
        let refused = if v.is_5() { 0x87 } else { 0 };
        assert_eq!(client.expect_answer(PUBACK, 9), refused);
        client.send(&Publish::new(&topic, 2, b"forged").id(10).bytes(v));
        assert_eq!(client.expect_answer(PUBREC, 10), refused);
        if !v.is_5() {
            client.send(&ack(PUBREL, 10));
            client.expect_ack(PUBCOMP, 10);
        }
        client.ping();
        while let Some(packet) = watcher.within(QUIET) {
            let Packet::Publish(message) = packet else { panic!("{packet:?}") };
            assert_ne!(message.topic, topic, "a client wrote below $SYS");
        }
    }
}

// 3.1.1 [MQTT-3.3.5-2], the other choice it leaves.
#[test]
fn publish_that_is_not_allowed_closes_old_clients_when_configured() {
    let server = broker("[mqtt]\nrefused_publish_closes = true\n");
    for v in OLD {
        let mut client = Connect::new(v, &unique("c")).open(server.mqtt);
        client.send(&Publish::new("$SYS/forged", 1, b"x").bytes(v));
        client.expect_closed();
    }
    let mut client = Connect::new(Version::V5, &unique("c")).open(server.mqtt);
    client.send(&Publish::new("$SYS/forged", 1, b"x").bytes(Version::V5));
    assert_eq!(client.expect_answer(PUBACK, 1), 0x87);
    client.ping();
}

/// Requires that a client's acknowledgement with a code that its table does not
/// list is a protocol error.
#[track_caller]
fn unlisted_reasons_are_refused(kind: u8, unlisted: &[u8]) {
    for reason in unlisted {
        ends(Version::V5, &ack_reason(kind, 7, *reason), 0x82);
    }
}

// 5.0 [MQTT-3.4.2-1]
#[test]
fn puback_reasons_are_of_the_table() {
    let (mut publisher, mut subscriber, topic) = pair(Version::V5, 1);
    for (topic, allowed) in
        [(topic.as_str(), &[0u8][..]), (&unique("nobody"), &[0, 0x10]), ("$SYS/x", &[0x87])]
    {
        publisher.send(&Publish::new(topic, 1, b"x").bytes(Version::V5));
        let reason = publisher.expect_answer(PUBACK, 1);
        assert!(allowed.contains(&reason), "PUBACK {reason:#04x} for {topic}");
    }
    unlisted_reasons_are_refused(PUBACK, &[0x01, 0x11, 0x92, 0xff]);
    subscriber.hears("x");
}

// 5.0 [MQTT-3.5.2-1]
#[test]
fn pubrec_reasons_are_of_the_table() {
    let (mut publisher, mut subscriber, topic) = pair(Version::V5, 2);
    for (id, (topic, allowed)) in
        [(topic.as_str(), &[0u8][..]), (&unique("nobody"), &[0, 0x10]), ("$SYS/x", &[0x87])]
            .into_iter()
            .enumerate()
    {
        let id = id as u16 + 1;
        publisher.send(&Publish::new(topic, 2, b"x").id(id).bytes(Version::V5));
        let reason = publisher.expect_answer(PUBREC, id);
        assert!(allowed.contains(&reason), "PUBREC {reason:#04x} for {topic}");
    }
    unlisted_reasons_are_refused(PUBREC, &[0x01, 0x11, 0x92, 0xff]);
    subscriber.hears("x");
}

// 5.0 [MQTT-3.6.2-1]: success for a known id, 0x92 for an unknown one.
#[test]
fn pubrec_for_an_unknown_id_is_answered_with_pubrel_0x92() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 2);
        publisher.publish(&topic, 2, b"x");
        let message = subscriber.message();
        subscriber.send(&ack(PUBREC, message.id));
        assert_eq!(subscriber.expect_answer(PUBREL, message.id), 0);
        subscriber.send(&ack(PUBCOMP, message.id));
        subscriber.send(&ack(PUBREC, 4242));
        if v.is_5() {
            assert_eq!(subscriber.expect_answer(PUBREL, 4242), 0x92);
        } else {
            // Before 5.0 there is nothing to tell; a PUBREL is harmless.
            subscriber.send(&PINGREQ);
            match subscriber.recv() {
                Packet::Pingresp => {}
                Packet::Ack { kind: PUBREL, id: 4242, .. } => {
                    assert_eq!(subscriber.recv(), Packet::Pingresp);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    unlisted_reasons_are_refused(PUBREL, &[0x01, 0x10, 0x80, 0x91]);
}

// 5.0 [MQTT-3.7.2-1]: success for a known id, 0x92 for an unknown one; plain before.
#[test]
fn pubrel_for_an_unknown_id_is_answered_with_pubcomp_0x92() {
    for v in ALL {
        let mut client = join(v);
        client.send(&Publish::new(&unique("t"), 2, b"x").id(3).bytes(v));
        client.expect_ack(PUBREC, 3);
        client.send(&ack(PUBREL, 3));
        assert_eq!(client.expect_answer(PUBCOMP, 3), 0);
        for id in [3, 4242] {
            client.send(&ack(PUBREL, id));
            let reason = client.expect_answer(PUBCOMP, id);
            assert_eq!(reason, if v.is_5() { 0x92 } else { 0 });
        }
        client.ping();
    }
    unlisted_reasons_are_refused(PUBCOMP, &[0x01, 0x10, 0x80, 0x91]);
}

// PROTOCOL: 0x10 may be said, and is a success.
#[test]
fn publish_without_a_subscriber_succeeds() {
    for v in ALL {
        let mut client = join(v);
        for qos in [1, 2] {
            let kind = if qos == 1 { PUBACK } else { PUBREC };
            client.send(&Publish::new(&unique("nobody"), qos, b"x").id(8).bytes(v));
            let reason = client.expect_answer(kind, 8);
            assert!(matches!(reason, 0 | 0x10), "{reason:#04x}");
        }
    }
}

// PROTOCOL: a will that the server cannot take is refused at CONNECT as a publish would be.
#[test]
fn large_payloads_pass_whole() {
    for v in ALL {
        let (mut publisher, mut subscriber, topic) = pair(v, 1);
        for size in [0, 1, 127, 128, 1023, 1024, 16_383, 16_384, 70_000, 500_000] {
            let load: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            publisher.publish(&topic, 1, &load);
            assert!(subscriber.take().payload == load, "a payload of {size} bytes changed");
        }
    }
}
