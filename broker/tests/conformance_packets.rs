//! What holds for packets of every type: framing, reserved bits, properties,
//! PINGREQ, DISCONNECT and AUTH, and how errors end a connection.

mod conformance;

use conformance::*;

const NONE: Props = Props(Vec::new());

/// Sends bytes on a fresh connection and requires its end: DISCONNECT with
/// `code` in 5.0, the bare close before.
#[track_caller]
fn ends(version: Version, bytes: &[u8], code: u8) {
    let mut client = join(version);
    client.id = format!("{bytes:02x?}");
    client.send(bytes);
    client.expect_end(code);
}

/// One well-formed packet of every type that a client may send once connected.
fn one_of_each(version: Version) -> Vec<Vec<u8>> {
    let mut all = vec![
        ack(PUBACK, 1),
        ack(PUBREC, 1),
        ack(PUBREL, 1),
        ack(PUBCOMP, 1),
        subscribe(version, 1, &NONE, &[("t", 0)]),
        unsubscribe(version, 1, &["t"]),
        PINGREQ.to_vec(),
        DISCONNECT.to_vec(),
    ];
    if version.is_5() {
        all.push(vec![0xf0, 0]);
    }
    all
}

// 5.0 [MQTT-2.1.3-1], 3.1.1 [MQTT-2.2.2-1] [MQTT-2.2.2-2]
#[test]
fn reserved_flag_bits_are_malformed_in_every_packet() {
    for v in OASIS {
        for good in one_of_each(v) {
            for flip in [1u8, 2, 4, 8, 15] {
                let mut bytes = good.clone();
                bytes[0] ^= flip;
                ends(v, &bytes, 0x81);
            }
        }
    }
}

// [MQTT-3.6.1-1]
#[test]
fn pubrel_with_wrong_header_flags_is_malformed() {
    for v in OASIS {
        for flags in (0..16).filter(|f| *f != 2) {
            let mut client = join(v);
            client.send(&Publish::new(&unique("t"), 2, b"x").id(1).bytes(v));
            client.expect_ack(PUBREC, 1);
            client.send(&[0x60 | flags, 2, 0, 1]);
            client.expect_end(0x81);
        }
    }
}

// [MQTT-3.14.1-1]
#[test]
fn disconnect_with_reserved_bits_is_malformed() {
    for v in OASIS {
        for flags in 1..16 {
            ends(v, &[0xe0 | flags, 0], 0x81);
        }
        // So it is no DISCONNECT: the will is sent.
        let topic = unique("w");
        let mut watcher = join(v);
        watcher.subscribe(&topic, 0);
        let mut client = open(&Connect::new(v, &unique("c")).will(Will::new(&topic, b"will")));
        client.send(&[0xe1, 0]);
        client.expect_end(0x81);
        watcher.hears("will");
    }
}

// 5.0 [MQTT-3.15.1-1]
#[test]
fn auth_with_reserved_bits_is_malformed() {
    for flags in 1..16 {
        ends(Version::V5, &[0xf0 | flags, 0], 0x81);
    }
}

// 5.0 [MQTT-4.12.0-6], and what happens to a client that breaks [MQTT-4.12.0-7].
#[test]
fn auth_out_of_the_blue_is_a_protocol_error() {
    let v = Version::V5;
    let method = Props::from([text(prop::AUTH_METHOD, "x")]).bytes();
    ends(v, &[0xf0, 0], 0x82);
    for reason in [0x00, 0x18, 0x19] {
        ends(v, &packet(0xf0, &concat(&[&[reason], &method])), 0x82);
    }
    let connack = open(&Connect::new(v, &unique("c"))).connack;
    assert!(!connack.props.has(prop::AUTH_METHOD));
    // Before 5.0 there is no such packet.
    for v in OLD {
        ends(v, &[0xf0, 0], 0x81);
    }
}

// 5.0 [MQTT-4.12.0-2] [MQTT-4.12.0-3] [MQTT-4.12.0-5] [MQTT-4.12.1-1] [MQTT-4.12.1-2]
// [MQTT-3.15.2-1] [MQTT-3.15.2-2] [MQTT-3.15.2-3]: no method is offered, so no
// exchange begins: the broker sends no AUTH, and one that comes ends the connection.
#[test]
fn no_authentication_exchange_is_ever_begun() {
    let v = Version::V5;
    for method in ["SCRAM-SHA-1", "GS2-KRB5", "PLAIN", ""] {
        let connect = Connect::new(v, &unique("c"))
            .prop(text(prop::AUTH_METHOD, method))
            .prop(data(prop::AUTH_DATA, b"first"));
        let mut client = connect.attempt(BROKER.address());
        // A CONNACK, not an AUTH, and then the end whatever the client goes on with.
        client.send(&packet(0xf0, &concat(&[&[0x18], &connect.props.bytes()])));
        let Packet::Connack(connack) = client.recv() else { panic!("not a CONNACK") };
        assert_eq!(connack.code, 0x8c);
        client.expect_closed();
    }
    // Re-authentication of a client that never authenticated that way.
    let method = Props::from([text(prop::AUTH_METHOD, "SCRAM-SHA-1")]).bytes();
    ends(v, &packet(0xf0, &concat(&[&[0x19], &method])), 0x82);
    ends(v, &packet(0xf0, &concat(&[&[0x42], &method])), 0x82);
}

// [MQTT-3.12.4-1]
#[test]
fn pingreq_is_answered_with_pingresp() {
    for v in ALL {
        let mut client = join(v);
        for _ in 0..3 {
            client.send(&PINGREQ);
            assert_eq!(client.recv_bytes(), [0xd0, 0]);
        }
        client.send(&PINGREQ.repeat(100));
        for _ in 0..100 {
            assert_eq!(client.recv_bytes(), [0xd0, 0]);
        }
        ends(v, &[0xc0, 1, 0], 0x81);
    }
}

// 5.0 [MQTT-3.14.4-1] [MQTT-3.14.4-2], 3.1.1 [MQTT-3.14.4-1] [MQTT-3.14.4-2]: the
// broker closes when the client does not, and takes nothing that comes behind.
#[test]
fn packets_behind_a_disconnect_are_ignored_and_the_connection_closed() {
    for v in ALL {
        let (mut publisher, mut watcher, topic) = pair(v, 1);
        let mut client = join(v);
        client.send(&concat(&[
            &DISCONNECT,
            &Publish::new(&topic, 0, b"late").bytes(v),
            &Publish::new(&topic, 1, b"late").bytes(v),
            &PINGREQ,
        ]));
        client.expect_closed();
        publisher.publish(&topic, 1, b"end");
        watcher.hears("end");
    }
}

// 5.0 [MQTT-3.14.4-1] [MQTT-3.14.4-2] for the broker's own DISCONNECT.
#[test]
fn nothing_follows_a_disconnect_of_the_broker() {
    let v = Version::V5;
    let (mut publisher, _, topic) = pair(v, 0);
    let mut client = join(v);
    client.subscribe(&topic, 0);
    let mut bytes = vec![0x36, 0];
    bytes.extend(PINGREQ.repeat(10));
    client.send(&bytes);
    for n in 0..20 {
        publisher.publish(&topic, 0, format!("{n}").as_bytes());
    }
    let mut told = false;
    loop {
        match client.raw().recv() {
            Got::Packet(bytes) => {
                assert!(!told, "{bytes:02x?} behind a DISCONNECT");
                told = matches!(read(v, &bytes), Packet::Disconnect { reason: 0x81, .. });
            }
            Got::Closed => break,
            Got::Silence => panic!("the broker does not close"),
        }
    }
    assert!(told);
}

// 5.0 [MQTT-3.14.0-1]
#[test]
fn no_disconnect_before_a_connack_with_success() {
    let v = Version::V5;
    for bytes in [
        Connect::new(v, &unique("c")).flip(1).bytes(),
        Connect::new(v, &unique("c")).prop(text(prop::AUTH_METHOD, "x")).bytes(),
        Connect::new(v, &unique("c")).prop(two(prop::RECEIVE_MAXIMUM, 0)).bytes(),
        PINGREQ.to_vec(),
        disconnect(0, NONE),
        vec![0x36, 0],
        vec![0x10, 0xff, 0xff, 0xff, 0xff],
        vec![0, 0],
    ] {
        let mut client = BROKER.bare(v);
        client.send(&bytes);
        loop {
            match client.raw().recv() {
                Got::Packet(packet) => {
                    assert_ne!(packet[0] >> 4, 14, "{packet:02x?} for {bytes:02x?}")
                }
                Got::Closed => break,
                Got::Silence => panic!("no end for {bytes:02x?}"),
            }
        }
    }
}

// 5.0 [MQTT-3.14.2-1] [MQTT-3.14.2-2]: `read` allows no Session Expiry in it.
#[test]
fn disconnect_of_the_broker_has_a_reason_of_the_table() {
    let v = Version::V5;
    let table = [
        0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94, 0x95,
        0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
    ];
    for bytes in [
        vec![0x36, 0],
        vec![0, 0],
        Connect::new(v, "again").bytes(),
        Publish::new("", 0, b"").bytes(v),
        Publish::new("t", 0, b"").props([two(prop::TOPIC_ALIAS, 0)]).bytes(v),
        subscribe(v, 1, &NONE, &[("a/#/b", 0)]),
        vec![0xd0, 0],
        vec![0xff, 0xff, 0xff, 0xff, 0xff],
    ] {
        // A lasting session, which would have an expiry to tell.
        let mut client = open(&Connect::lasting(v, &unique("c")));
        client.send(&bytes);
        let Packet::Disconnect { reason, props, .. } = client.recv() else {
            panic!("{bytes:02x?}")
        };
        assert!(table.contains(&reason), "DISCONNECT {reason:#04x}");
        assert!(!props.has(prop::SESSION_EXPIRY));
        client.expect_closed();
    }
    // Nor may a client use a code that is not its own, or none at all.
    for reason in [0x01, 0x10, 0x84, 0x8b, 0x8e, 0xff] {
        ends(v, &disconnect(reason, NONE), 0x82);
    }
}

// 5.0 [MQTT-1.5.5-1]: remaining length, property length, and inside a property.
#[test]
fn variable_byte_integer_that_is_not_minimal_is_malformed() {
    let v = Version::V5;
    ends(v, &[0xc0, 0x80, 0x00], 0x81);
    ends(v, &[0xc0, 0x80, 0x80, 0x00], 0x81);
    ends(v, &[0x30, 0x85, 0x00, 0, 1, b't', 0, b'x'], 0x81);
    ends(v, &packet(0x30, &concat(&[&string("t"), &[0x80, 0x00], b"x"])), 0x81);
    let id = concat(&[&[0, 1, 4, prop::SUBSCRIPTION_ID, 0x81, 0x80, 0x00], &string("t"), &[0]]);
    ends(v, &packet(0x82, &id), 0x81);
    // Before 5.0 it is legal.
    for v in OLD {
        let mut client = join(v);
        client.send(&[0xc0, 0x80, 0x00]);
        assert_eq!(client.recv(), Packet::Pingresp);
    }
    // What the broker sends is minimal at every boundary (`read` insists).
    let (mut publisher, mut subscriber, topic) = pair(v, 0);
    let empty = Publish::new(&topic, 0, b"").bytes(v).len() - 2;
    for length in [127, 128, 16_383, 16_384] {
        publisher.publish(&topic, 0, &vec![b'x'; length - empty]);
        assert_eq!(subscriber.take().payload.len(), length - empty);
    }
}

// 5.0 [MQTT-2.2.2-1]
#[test]
fn packets_without_properties_say_so_with_length_0() {
    let v = Version::V5;
    let (mut publisher, mut subscriber, topic) = pair(v, 0);
    publisher.publish(&topic, 0, b"x");
    assert_eq!(subscriber.recv_bytes(), packet(0x30, &concat(&[&string(&topic), &[0], b"x"])));
    subscriber.send(&subscribe(v, 0x1234, &NONE, &[("a", 0)]));
    assert_eq!(subscriber.recv_bytes(), [0x90, 4, 0x12, 0x34, 0, 0]);
    subscriber.send(&unsubscribe(v, 0x1234, &["a"]));
    assert_eq!(subscriber.recv_bytes(), [0xb0, 4, 0x12, 0x34, 0, 0]);
    // From a client the length may not be left out either.
    ends(v, &packet(0x30, &string("t")), 0x81);
    ends(v, &packet(0x82, &[0, 1]), 0x81);
    let mut client = BROKER.bare(v);
    client.send(&packet(0x10, &concat(&[&string("MQTT"), &[5, 2, 0, 0]])));
    client.expect_refusal(0x81);
    // A DISCONNECT and the acknowledgements may end before it.
    let mut client = join(v);
    client.send(&ack_reason(PUBREL, 9, 0));
    assert_eq!(client.expect_answer(PUBCOMP, 9), 0x92);
    client.send(&packet(0x62, &[0, 9, 0, 0]));
    assert_eq!(client.expect_answer(PUBCOMP, 9), 0x92);
    client.send(&packet(0xe0, &[0]));
    client.expect_closed();
}

// 5.0 [MQTT-4.13.1-1], 3.1.1 [MQTT-4.8.0-1]
#[test]
fn every_protocol_error_closes_the_connection() {
    for v in ALL {
        for (bytes, code) in [
            (vec![0x36, 0], 0x81),
            (vec![0x00, 0], 0x81),
            (Connect::new(v, "again").bytes(), 0x82),
            (subscribe(v, 1, &NONE, &[]), 0x82),
            (subscribe(v, 0, &NONE, &[("t", 0)]), 0x82),
            (Publish::new("a/#", 1, b"x").bytes(v), 0x81),
            (vec![0xd0, 0], 0x82),
            (vec![0x40, 1, 0], 0x81),
        ] {
            ends(v, &bytes, code);
        }
        if v.is_5() {
            // 3.14.2.2.2: a session without an expiry does not get one in DISCONNECT.
            ends(v, &disconnect(0, [four(prop::SESSION_EXPIRY, 60)]), 0x82);
        }
        // And has no consequences for anyone else.
        let (mut publisher, mut subscriber, topic) = pair(v, 1);
        ends(v, &[0x36, 0], 0x81);
        publisher.publish(&topic, 1, b"x");
        subscriber.hears("x");
    }
}

// 5.0 [MQTT-4.13.2-1]
#[test]
fn connack_or_disconnect_with_an_error_closes_the_connection() {
    let v = Version::V5;
    Connect::new(v, &unique("c"))
        .prop(text(prop::AUTH_METHOD, "x"))
        .refused(BROKER.address(), 0x8c);
    ends(v, &Connect::new(v, "again").bytes(), 0x82);
    // Also when the client says it.
    for reason in [0x80, 0x81, 0x99] {
        let mut client = join(v);
        client.send(&disconnect(reason, NONE));
        client.expect_closed();
    }
}

// [MQTT-4.2.0-1]: TCP, however the stream is cut.
#[test]
fn packets_may_be_cut_and_joined_anyhow_by_the_transport() {
    for v in ALL {
        let topic = unique("t");
        let mut watcher = join(v);
        watcher.subscribe(&topic, 1);
        let story = || {
            concat(&[
                &Connect::new(v, &unique("c")).bytes(),
                &Publish::new(&topic, 1, b"one").id(1).bytes(v),
                &Publish::new(&topic, 0, &[b'x'; 200]).bytes(v),
                &PINGREQ,
            ])
        };
        let length = story().len();
        // One write, one byte at a time, and cut in two at a few places.
        let mut whole = BROKER.bare(v);
        whole.send(&story());
        let mut single = BROKER.bare(v);
        for b in story() {
            single.send(&[b]);
        }
        let mut clients = vec![whole, single];
        for at in [1, 2, 10, length - 205, length - 1] {
            let mut client = BROKER.bare(v);
            trickle(&mut client, &story(), at);
            clients.push(client);
        }
        for client in &mut clients {
            assert!(matches!(client.recv(), Packet::Connack(Connack { code: 0, .. })));
            client.expect_ack(PUBACK, 1);
            assert_eq!(client.recv(), Packet::Pingresp);
            watcher.take();
            watcher.take();
        }
        watcher.ping();
    }
}

// PROTOCOL "Malformed input": types 0 and 15, remaining length over four bytes.
#[test]
fn impossible_fixed_headers_are_malformed() {
    for v in ALL {
        ends(v, &[0x00, 0], 0x81);
        ends(v, &[0x0f, 0], 0x81);
        ends(v, &[0xc0, 0x80, 0x80, 0x80, 0x80, 0x01], 0x81);
        ends(v, &[0x30, 0xff, 0xff, 0xff, 0xff], 0x81);
        if !v.is_5() {
            ends(v, &[0xf0, 0], 0x81);
        }
    }
}

// PROTOCOL: packets that only a server sends.
#[test]
fn server_only_packets_from_a_client_are_protocol_errors() {
    for v in ALL {
        let props: &[u8] = if v.is_5() { &[0] } else { &[] };
        for bytes in [
            packet(0x20, &concat(&[&[0, 0], props])),
            packet(0x90, &concat(&[&[0, 1], props, &[0]])),
            packet(0xb0, &concat(&[&[0, 1], props, if v.is_5() { &[0] } else { &[] }])),
            vec![0xd0, 0],
        ] {
            ends(v, &bytes, 0x82);
        }
    }
}

// PROTOCOL: trailing bytes and bodies that are too short.
#[test]
fn bodies_of_the_wrong_length_are_malformed() {
    for v in ALL {
        for (n, good) in one_of_each(v).into_iter().enumerate() {
            let body = &good[2..];
            // In 5.0 a reason and a property length may follow; then nothing. A
            // SUBSCRIBE or UNSUBSCRIBE goes on with filters: half of one is wrong.
            let short = matches!(good[0] >> 4, PUBACK..=PUBCOMP | 14) && v.is_5();
            let extra: &[u8] = if short { &[0, 0, 0] } else { &[0] };
            if good[0] != 0xf0 {
                ends(v, &packet(good[0], &concat(&[body, extra])), 0x81);
            }
            if body.len() >= 2 {
                ends(v, &packet(good[0], &body[..1]), 0x81);
                if n >= 4 {
                    ends(v, &packet(good[0], &body[..body.len() - 1]), 0x81);
                }
            }
        }
        let publish = Publish::new("topic", 1, b"").bytes(v);
        let end = publish.len() - usize::from(v.is_5());
        for cut in 2..end {
            ends(v, &packet(0x32, &publish[2..cut]), 0x81);
        }
    }
}

// PROTOCOL: properties that are unknown, misplaced, cut short or wrongly typed are
// malformed; repeated ones, and forbidden values, protocol errors.
#[test]
fn wrong_properties_have_their_codes() {
    let v = Version::V5;
    let publish = |list: &[u8]| {
        packet(0x30, &concat(&[&string("t"), &varint(list.len() as u32), list, b"x"]))
    };
    for malformed in [
        &[0x00][..],
        &[0x04, 0],
        &[0x7f, 0, 0, 0],
        &[prop::WILL_DELAY, 0, 0, 0, 1],
        &[prop::SESSION_EXPIRY, 0, 0, 0, 1],
        &[prop::RECEIVE_MAXIMUM, 0, 1],
        &[prop::MAXIMUM_QOS, 1],
        &[prop::REASON_STRING, 0, 1, b'x'],
        &[prop::MESSAGE_EXPIRY, 0, 0, 1],
        &[prop::TOPIC_ALIAS, 1],
        &[prop::CONTENT_TYPE, 0, 9, b'x'],
        &[prop::USER, 0, 1, b'k', 0],
        &[prop::CORRELATION_DATA, 0],
    ] {
        ends(v, &publish(malformed), 0x81);
    }
    // A property list that is longer than the packet.
    ends(v, &packet(0x30, &concat(&[&string("t"), &[50], b"x"])), 0x81);
    for repeated in [
        Props::from([byte(prop::PAYLOAD_FORMAT, 1), byte(prop::PAYLOAD_FORMAT, 1)]),
        Props::from([four(prop::MESSAGE_EXPIRY, 1), four(prop::MESSAGE_EXPIRY, 1)]),
        Props::from([two(prop::TOPIC_ALIAS, 1), two(prop::TOPIC_ALIAS, 1)]),
        Props::from([text(prop::CONTENT_TYPE, "x"), text(prop::CONTENT_TYPE, "x")]),
        Props::from([text(prop::RESPONSE_TOPIC, "x"), text(prop::RESPONSE_TOPIC, "x")]),
        Props::from([data(prop::CORRELATION_DATA, b""), data(prop::CORRELATION_DATA, b"")]),
    ] {
        ends(v, &Publish::new("t", 0, b"x").props(repeated).bytes(v), 0x82);
    }
    // The same in acknowledgements and DISCONNECT.
    for first in [0x40, 0x50, 0x62, 0x70] {
        let expiry = Props::from([four(prop::SESSION_EXPIRY, 1)]).bytes();
        ends(v, &packet(first, &concat(&[&[0, 1, 0], &expiry])), 0x81);
        let twice = Props::from([text(prop::REASON_STRING, ""), text(prop::REASON_STRING, "")]);
        ends(v, &packet(first, &concat(&[&[0, 1, 0], &twice.bytes()])), 0x82);
    }
    ends(v, &disconnect(0, [two(prop::TOPIC_ALIAS, 1)]), 0x81);
    let twice = [four(prop::SESSION_EXPIRY, 0), four(prop::SESSION_EXPIRY, 0)];
    ends(v, &disconnect(0, twice), 0x82);
}

// 3.1.1 [MQTT-4.8.0-2]: a packet that cannot be processed for want of room ends
// its own connection, and no other.
#[test]
fn packet_that_cannot_be_processed_closes_its_connection() {
    let server = broker("[limits]\npacket_bytes_max = 2000\n");
    for v in ALL {
        let mut other = Connect::new(v, &unique("o")).open(server.mqtt);
        let mut client = Connect::new(v, &unique("c")).open(server.mqtt);
        client.send(&Publish::new("t", 1, &[0; 3000]).bytes(v));
        client.expect_end(0x95);
        other.ping();
    }
}

// PROTOCOL: nothing that a client sends may stop the broker.
#[test]
fn noise_does_not_stop_the_broker() {
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut own = broker("");
    for round in 0..300u32 {
        let v = ALL[round as usize % 3];
        let mut client = Connect::new(v, &unique("n")).open(own.mqtt);
        let kind = (next() % 16) as u8;
        let length = (next() % 40) as usize;
        let body: Vec<u8> = (0..length).map(|_| (next() % 256) as u8).collect();
        client.send(&packet(kind << 4 | (next() % 16) as u8, &body));
        client.send(&PINGREQ);
        let mut raw = Client::bare(own.mqtt, v);
        raw.send(&body);
        raw.lose();
        client.lose();
    }
    Connect::new(Version::V5, "after").open(own.mqtt).ping();
    assert!(own.alive());
}
