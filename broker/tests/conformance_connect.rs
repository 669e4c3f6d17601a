//! CONNECT: what a broker must refuse, and what it must take.

mod conformance;

use conformance::*;

/// Sends bytes on a new connection and requires a bare close.
#[track_caller]
fn closes_bare(version: Version, bytes: &[u8]) {
    let mut client = BROKER.bare(version);
    client.send(bytes);
    client.expect_closed();
}

/// Sends a CONNECT that is not well formed: 5.0 is told, before 5.0 closed.
#[track_caller]
fn malformed(version: Version, body: &[u8], code: u8) {
    let mut client = BROKER.bare(version);
    client.id = format!("{body:02x?}");
    client.send(&packet(0x10, body));
    client.expect_connect_end(code);
}

// [MQTT-3.1.0-1]
#[test]
fn anything_before_connect_is_a_bare_close() {
    for v in ALL {
        closes_bare(v, &PINGREQ);
        closes_bare(v, &DISCONNECT);
        closes_bare(v, &Publish::new("t", 0, b"x").bytes(v));
        closes_bare(v, &Publish::new("t", 1, b"x").bytes(v));
        closes_bare(v, &subscribe(v, 1, &Props::default(), &[("t", 0)]));
        closes_bare(v, &unsubscribe(v, 1, &["t"]));
        for kind in [PUBACK, PUBREC, PUBREL, PUBCOMP] {
            closes_bare(v, &ack(kind, 1));
        }
        closes_bare(v, &[0x20, 2, 0, 0]);
        closes_bare(v, &[0xf0, 0]);
    }
}

// [MQTT-3.1.0-2]
#[test]
fn second_connect_is_a_protocol_error() {
    for v in ALL {
        let id = unique("twice");
        let mut client = open(&Connect::new(v, &id));
        client.send(&Connect::new(v, &id).bytes());
        client.expect_end(0x82);
        let mut other = join(v);
        other.send(&Connect::new(v, &unique("other")).bytes());
        other.expect_end(0x82);
    }
}

// [MQTT-3.1.2-1]
#[test]
fn wrong_protocol_name_is_closed() {
    let rest = |level| concat(&[&[level, 2, 0, 0], &string(&unique("n"))]);
    for name in ["mqtt", "MQTt", "MQTTX", "MQT", "", "mqisdp", "MQIsdq", "HTTP"] {
        for level in [3, 4, 5] {
            let body = concat(&[&string(name), &rest(level)]);
            closes_bare(Version::V311, &packet(0x10, &body));
        }
    }
}

fn with_level(name: &str, level: u8) -> Vec<u8> {
    let mut body = concat(&[&string(name), &[level, 2, 0, 60]]);
    if name == "MQTT" && level >= 5 {
        body.push(0);
    }
    body.extend(string(&unique("l")));
    packet(0x10, &body)
}

#[track_caller]
fn level_answer(name: &str, level: u8, answer: &[u8]) {
    let mut client = BROKER.bare(Version::V311);
    client.send(&with_level(name, level));
    assert_eq!(client.recv_bytes(), answer, "{name} level {level:#04x}");
    client.expect_closed();
}

// [MQTT-3.1.2-2] of both standards; the bridge bit of 3.1.1 is an unknown level.
#[test]
fn unknown_protocol_level_is_refused() {
    for level in [6, 7, 100] {
        level_answer("MQTT", level, &[0x20, 3, 0, 0x84, 0]);
    }
    for level in [0, 1, 2, 3] {
        level_answer("MQTT", level, &[0x20, 2, 0, 1]);
    }
    for level in [0, 2, 4, 5, 6] {
        level_answer("MQIsdp", level, &[0x20, 2, 0, 1]);
    }
    level_answer("MQTT", 0x84, &[0x20, 2, 0, 1]);
    level_answer("MQIsdp", 0x83, &[0x20, 2, 0, 1]);
}

// [MQTT-3.1.2-3]
#[test]
fn reserved_connect_flag_is_malformed() {
    for v in OASIS {
        let connect = Connect::new(v, &unique("r")).flip(1);
        connect.attempt(BROKER.address()).expect_connect_end(0x81);
    }
}

// 5.0 [MQTT-3.1.2-12], 3.1.1 [MQTT-3.1.2-14]
#[test]
fn will_qos_3_is_malformed() {
    for v in ALL {
        for qos in [0, 1, 2] {
            open(&Connect::new(v, &unique("q")).will(Will::new("w", b"x").qos(qos))).leave();
        }
        let connect = Connect::new(v, &unique("q")).will(Will::new("w", b"x").qos(3));
        connect.attempt(BROKER.address()).expect_connect_end(0x81);
    }
}

// 5.0 [MQTT-3.1.2-11], 3.1.1 [MQTT-3.1.2-11] [MQTT-3.1.2-13]
#[test]
fn will_qos_without_will_is_malformed() {
    for v in OASIS {
        for bits in [0x08, 0x10] {
            let connect = Connect::new(v, &unique("q")).flip(bits);
            connect.attempt(BROKER.address()).expect_connect_end(0x81);
        }
    }
}

// 5.0 [MQTT-3.1.2-13], 3.1.1 [MQTT-3.1.2-15]
#[test]
fn will_retain_without_will_is_malformed() {
    for v in OASIS {
        let connect = Connect::new(v, &unique("q")).flip(0x20);
        connect.attempt(BROKER.address()).expect_connect_end(0x81);
    }
}

// [MQTT-3.1.2-9]: the fields must follow the flag; here they are cut away one by one.
#[test]
fn will_flag_without_will_fields_is_malformed() {
    for v in ALL {
        let connect = Connect::new(v, &unique("w")).will(Will::new("topic", b"load"));
        let (header, payload) = (connect.header(), connect.payload());
        let id = 2 + connect.id.len();
        let topic = id + usize::from(v.is_5());
        for end in [id, topic, topic + 7, payload.len() - 1] {
            malformed(v, &concat(&[&header, &payload[..end]]), 0x81);
        }
    }
    // The other way round: fields without the flag are trailing bytes.
    for v in OASIS {
        let connect = Connect::new(v, &unique("w")).will(Will::new("topic", b"load")).flip(4);
        connect.attempt(BROKER.address()).expect_connect_end(0x81);
    }
}

// 5.0 [MQTT-3.1.2-16] [MQTT-3.1.2-17], 3.1.1 [MQTT-3.1.2-18] [MQTT-3.1.2-19]
#[test]
fn user_name_is_there_exactly_when_its_flag_is_set() {
    for v in OASIS {
        open(&Connect::new(v, &unique("u")).username("alice")).leave();
        let absent = Connect::new(v, &unique("u")).username("alice").flip(0x80);
        absent.attempt(BROKER.address()).expect_connect_end(0x81);
        let missing = Connect::new(v, &unique("u")).flip(0x80);
        missing.attempt(BROKER.address()).expect_connect_end(0x81);
    }
}

// 5.0 [MQTT-3.1.2-18] [MQTT-3.1.2-19], 3.1.1 [MQTT-3.1.2-20] [MQTT-3.1.2-21]
#[test]
fn password_is_there_exactly_when_its_flag_is_set() {
    for v in OASIS {
        let both = Connect::new(v, &unique("u")).username("alice").password(b"\xff\x00secret");
        open(&both).leave();
        both.clone().flip(0x40).attempt(BROKER.address()).expect_connect_end(0x81);
        let missing = Connect::new(v, &unique("u")).username("alice").flip(0x40);
        missing.attempt(BROKER.address()).expect_connect_end(0x81);
    }
}

// 3.1.1 [MQTT-3.1.2-22]; 5.0 lifts the rule.
#[test]
fn password_without_user_name_is_malformed_in_3_1_1_only() {
    let old = Connect::new(Version::V311, &unique("p")).password(b"secret");
    old.attempt(BROKER.address()).expect_closed();
    open(&Connect::new(Version::V5, &unique("p")).password(b"secret")).leave();
}

// [MQTT-3.1.3-1]: every field is there, and each is taken for what it is.
#[test]
fn payload_fields_are_read_in_their_order() {
    for v in ALL {
        let topic = unique("will/of");
        let mut watcher = join(v);
        watcher.subscribe(&topic, 0);
        let client = open(
            &Connect::new(v, &unique("all"))
                .will(Will::new(&topic, b"the payload").props([user("k", "v")]))
                .username("alice")
                .password(b"secret"),
        );
        client.drop_and_wait();
        let will = watcher.hears("the payload");
        assert_eq!(will.topic, topic);
        if v.is_5() {
            assert_eq!(will.props.users(), [("k".to_owned(), "v".to_owned())]);
        }
    }
}

// [MQTT-3.1.3-2]
#[test]
fn client_id_names_the_session() {
    for v in OASIS {
        let (one, two) = (unique("one"), unique("two"));
        open(&Connect::lasting(v, &one)).leave();
        assert!(!open(&Connect::lasting(v, &two)).connack.present());
        assert!(open(&Connect::lasting(v, &one)).connack.present());
        // Ids are compared byte by byte.
        assert!(!open(&Connect::lasting(v, &one.to_uppercase())).connack.present());
    }
}

// [MQTT-3.1.3-3]
#[test]
fn connect_without_a_client_id_is_malformed() {
    for v in ALL {
        let header = Connect::new(v, "x").header();
        malformed(v, &header, 0x81);
        malformed(v, &concat(&[&header, &[0]]), 0x81);
        malformed(v, &concat(&[&header, &[0, 5, b'a', b'b']]), 0x81);
    }
}

// [MQTT-3.1.3-4]
#[test]
fn client_id_must_be_utf8() {
    for v in ALL {
        for id in [&b"\xff"[..], b"a\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"a\0b"] {
            let mut connect = Connect::new(v, "");
            connect.id = id.to_vec();
            connect.attempt(BROKER.address()).expect_connect_end(0x81);
        }
    }
}

// 5.0 [MQTT-3.1.3-11], 3.1.1 [MQTT-3.1.3-10]
#[test]
fn will_topic_must_be_a_utf8_topic_name() {
    for v in ALL {
        for topic in [&b"\xff"[..], b"a/\xed\xb0\x80", b"a\0b", b"a/+", b"#", b""] {
            let mut will = Will::new("", b"x");
            will.topic = topic.to_vec();
            let mut client = Connect::new(v, &unique("w")).will(will).attempt(BROKER.address());
            client.id = format!("will topic {topic:02x?}");
            if v.is_5() {
                let Packet::Connack(connack) = client.recv() else { panic!("no CONNACK") };
                // An empty or wild topic is no topic name; the rest is no string.
                assert!(matches!(connack.code, 0x81 | 0x82 | 0x90), "{:#04x}", connack.code);
            }
            client.expect_closed();
        }
    }
}

// 5.0 [MQTT-3.1.3-12], 3.1.1 [MQTT-3.1.3-11]
#[test]
fn user_name_must_be_utf8() {
    for v in ALL {
        for name in [&b"\xff"[..], b"\xed\xa0\x80", b"a\0b"] {
            let mut connect = Connect::new(v, &unique("u")).username("");
            connect.username = Some(name.to_vec());
            connect.attempt(BROKER.address()).expect_connect_end(0x81);
        }
    }
}

// [MQTT-3.1.3-5]
#[test]
fn client_ids_of_1_to_23_alphanumerics_are_accepted() {
    let letters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for v in ALL {
        for length in 1..=23 {
            let id: String = letters.chars().cycle().skip(7 * length).take(length).collect();
            open(&Connect::new(v, &id)).leave();
        }
        open(&Connect::new(v, &letters[39..])).leave();
        open(&Connect::new(v, &letters[..23])).leave();
    }
}

// 5.0 [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]: assigned, told, unique and usable.
#[test]
fn empty_client_id_gets_a_unique_one_assigned() {
    let v = Version::V5;
    let assigned = |connect: &Connect| {
        let client = open(connect);
        let id = match client.connack.props.get(prop::ASSIGNED_CLIENT_ID) {
            Some(Value::Text(id)) => id.clone(),
            other => panic!("Assigned Client Identifier: {other:?}"),
        };
        assert!(!id.is_empty());
        (client, id)
    };
    let (first, one) = assigned(&Connect::new(v, ""));
    let (second, two) = assigned(&Connect::lasting(v, ""));
    assert_ne!(one, two);
    assert!(!second.connack.present());
    // It stands for the session as an id of the client's own would.
    second.leave();
    assert!(open(&Connect::lasting(v, &two)).connack.present());
    let mut first = first;
    open(&Connect::new(v, &one)).leave();
    first.expect_end(0x8e);
    // Told only when it was assigned.
    let named = open(&Connect::new(v, &unique("named")));
    assert!(!named.connack.props.has(prop::ASSIGNED_CLIENT_ID));
}

// 3.1.1 [MQTT-3.1.3-6]
#[test]
fn empty_client_id_with_clean_session_is_accepted_in_3_1_1() {
    let v = Version::V311;
    let mut one = open(&Connect::new(v, ""));
    let mut two = open(&Connect::new(v, ""));
    one.ping();
    two.ping();
}

// 3.1.1 [MQTT-3.1.3-7] [MQTT-3.1.3-8]; 3.1 knows no empty id at all.
#[test]
fn empty_client_id_without_clean_session_is_refused_before_5() {
    Connect::lasting(Version::V311, "").refused(BROKER.address(), 2);
    Connect::lasting(Version::V31, "").refused(BROKER.address(), 2);
    Connect::new(Version::V31, "").refused(BROKER.address(), 2);
}

// 5.0 [MQTT-3.1.3-8], 3.1.1 [MQTT-3.1.3-9]
#[test]
fn client_id_over_the_limit_is_refused() {
    let server = broker("[limits]\nclient_id_bytes_max = 100\n");
    for v in ALL {
        Connect::new(v, &"a".repeat(100)).open(server.mqtt).leave();
        let code = if v.is_5() { 0x85 } else { 2 };
        Connect::new(v, &"a".repeat(101)).refused(server.mqtt, code);
    }
}

// [MQTT-3.1.4-1]: no CONNACK before 5.0.
#[test]
fn connect_that_is_not_well_formed_is_closed() {
    for v in ALL {
        let good = Connect::new(v, &unique("m"));
        let body = concat(&[&good.header(), &good.payload()]);
        // Trailing bytes (3.1 allowed to leave fields out, never to add some).
        malformed(v, &concat(&[&body, &[0]]), 0x81);
        malformed(v, &concat(&[&body, &string("more")]), 0x81);
        // Cut short anywhere behind the level byte.
        let level = if v == Version::V31 { 9 } else { 7 };
        for end in level..body.len() {
            malformed(v, &body[..end], 0x81);
        }
    }
    // Cut before the level is known: whose rules hold cannot be told.
    for end in 0..7 {
        let body = Connect::new(Version::V5, "x").header();
        closes_bare(Version::V311, &packet(0x10, &body[..end]));
    }
    // Reserved flags of the fixed header.
    for flags in 1..16 {
        let mut bytes = Connect::new(Version::V311, &unique("m")).bytes();
        bytes[0] |= flags;
        closes_bare(Version::V311, &bytes);
    }
}

// 5.0 [MQTT-3.1.4-2] [MQTT-4.12.0-1] [MQTT-4.12.0-4]
#[test]
fn unsupported_authentication_method_is_refused() {
    let connect = Connect::new(Version::V5, &unique("a"))
        .prop(text(prop::AUTH_METHOD, "SCRAM-SHA-1"))
        .prop(data(prop::AUTH_DATA, b"n,,n=user"));
    connect.refused(BROKER.address(), 0x8c);
    Connect::new(Version::V5, &unique("a"))
        .prop(text(prop::AUTH_METHOD, "x"))
        .refused(BROKER.address(), 0x8c);
}

// 3.1.2.11.10
#[test]
fn authentication_data_without_method_is_a_protocol_error() {
    Connect::new(Version::V5, &unique("a"))
        .prop(data(prop::AUTH_DATA, b"x"))
        .refused(BROKER.address(), 0x82);
}

// [MQTT-3.1.4-5] of 5.0, [MQTT-3.1.4-4] of 3.1.1
#[test]
fn good_connect_gets_a_connack_with_success() {
    for v in ALL {
        let mut client = Connect::new(v, &unique("ok")).attempt(BROKER.address());
        let Packet::Connack(connack) = client.recv() else { panic!("no CONNACK") };
        assert_eq!((connack.flags, connack.code), (0, 0));
        client.ping();
    }
}

// [MQTT-3.1.4-6] of 5.0, [MQTT-3.1.4-5] of 3.1.1
#[test]
fn data_behind_a_refused_connect_is_not_processed() {
    for v in ALL {
        let topic = unique("refused");
        let mut watcher = join(v);
        watcher.subscribe(&topic, 0);
        let refused = if v.is_5() {
            Connect::new(v, &unique("x")).prop(text(prop::AUTH_METHOD, "none such"))
        } else {
            Connect::lasting(v, "")
        };
        let mut client = BROKER.bare(v);
        client.send(&concat(&[
            &refused.bytes(),
            &Publish::new(&topic, 0, b"smuggled").bytes(v),
            &Publish::new(&topic, 1, b"smuggled").bytes(v),
        ]));
        client.expect_refusal(if v.is_5() { 0x8c } else { 2 });
        join(v).publish(&topic, 1, b"honest");
        watcher.hears("honest");
    }
}

// Data behind a good CONNECT need not wait for the CONNACK (3.1.4, non-normative).
#[test]
fn packets_sent_with_the_connect_are_processed_after_it() {
    for v in ALL {
        let topic = unique("early");
        let mut client = BROKER.bare(v);
        client.send(&concat(&[
            &Connect::new(v, &unique("e")).bytes(),
            &subscribe(v, 1, &Props::default(), &[(&topic, 0)]),
            &Publish::new(&topic, 0, b"self").bytes(v),
        ]));
        assert!(matches!(client.recv(), Packet::Connack(_)));
        assert!(matches!(client.recv(), Packet::Suback { .. }));
        client.hears("self");
    }
}

// 5.0 [MQTT-3.1.4-3], 3.1.1 [MQTT-3.1.4-2]
#[test]
fn second_client_with_the_same_id_takes_over() {
    for v in ALL {
        let id = unique("same");
        let mut old = open(&Connect::new(v, &id));
        let mut new = open(&Connect::new(v, &id));
        old.expect_end(0x8e);
        new.ping();
        // Also between versions.
        for other in ALL {
            let mut next = open(&Connect::new(other, &id));
            new.expect_end(0x8e);
            next.ping();
            new = next;
        }
    }
}

// 3.1.1 [MQTT-3.1.2-24], 5.0 [MQTT-3.1.2-22]
#[test]
fn silence_beyond_one_and_a_half_keep_alive_closes() {
    for v in ALL {
        let topic = unique("silent");
        let mut watcher = join(v);
        watcher.subscribe(&topic, 0);
        let started = std::time::Instant::now();
        let mut client = open(
            &Connect::new(v, &unique("k")).keep_alive(1).will(Will::new(&topic, b"fell silent")),
        );
        client.expect_end(0x8d);
        let waited = started.elapsed();
        assert!(waited >= Duration::from_millis(1400), "closed after {waited:?}");
        assert!(waited < Duration::from_secs(10), "closed after {waited:?}");
        watcher.hears("fell silent");
    }
}

// 3.1.1 [MQTT-3.1.2-24], 5.0 [MQTT-3.1.2-22] [MQTT-3.2.2-22]
#[test]
fn any_packet_within_the_keep_alive_keeps_the_connection() {
    for v in OASIS {
        let (mut pinger, mut speaker) = (
            open(&Connect::new(v, &unique("k")).keep_alive(1)),
            open(&Connect::new(v, &unique("k")).keep_alive(1)),
        );
        let mut free = open(&Connect::new(v, &unique("k")));
        for _ in 0..5 {
            pause(600);
            pinger.ping();
            speaker.send(&Publish::new("k", 0, b"x").bytes(v));
        }
        speaker.ping();
        // Keep alive 0: nothing is expected at all.
        free.ping();
    }
}

// 5.0 [MQTT-3.1.2-28]
#[test]
fn response_information_only_for_those_who_ask() {
    let server = broker("[mqtt]\nresponse_information = \"answers/here\"\n");
    let v = Version::V5;
    let plain = Connect::new(v, &unique("r")).open(server.mqtt);
    assert!(!plain.connack.props.has(prop::RESPONSE_INFORMATION));
    let no = Connect::new(v, &unique("r")).prop(byte(prop::REQUEST_RESPONSE_INFORMATION, 0));
    assert!(!no.open(server.mqtt).connack.props.has(prop::RESPONSE_INFORMATION));
    let yes = Connect::new(v, &unique("r")).prop(byte(prop::REQUEST_RESPONSE_INFORMATION, 1));
    let told = yes.open(server.mqtt).connack.props;
    assert_eq!(told.get(prop::RESPONSE_INFORMATION), Some(&Value::Text("answers/here".to_owned())));
}

// 5.0 [MQTT-3.1.2-29]
#[test]
fn no_reason_strings_when_problem_information_is_not_wanted() {
    let v = Version::V5;
    let mut client =
        open(&Connect::new(v, &unique("p")).prop(byte(prop::REQUEST_PROBLEM_INFORMATION, 0)));
    let bare = |packet: Packet| match packet {
        Packet::Ack { props, .. }
        | Packet::Suback { props, .. }
        | Packet::Unsuback { props, .. } => assert_eq!(props, Props::default()),
        other => panic!("{other:?}"),
    };
    // Each of these has something to complain about, or a reason to tell.
    client.send(&Publish::new("$SYS/x", 1, b"x").id(1).bytes(v));
    bare(client.recv());
    client.send(&Publish::new("$SYS/x", 2, b"x").id(2).bytes(v));
    bare(client.recv());
    client.send(&Publish::new(&unique("nobody"), 1, b"x").id(3).bytes(v));
    bare(client.recv());
    client.send(&ack(PUBREL, 77));
    bare(client.recv());
    client.send(&ack(PUBREC, 78));
    bare(client.recv());
    let deep = "a/".repeat(200);
    client.send(&subscribe(v, 4, &Props::default(), &[(&deep, 0)]));
    bare(client.recv());
    client.send(&unsubscribe(v, 5, &["not there"]));
    bare(client.recv());
}

// 3.1.2.11: Receive Maximum and Maximum Packet Size of 0, flags that are no
// booleans, and repetitions are protocol errors.
#[test]
fn forbidden_connect_properties_are_protocol_errors() {
    let bad: &[&[Property]] = &[
        &[two(prop::RECEIVE_MAXIMUM, 0)],
        &[four(prop::MAXIMUM_PACKET_SIZE, 0)],
        &[byte(prop::REQUEST_PROBLEM_INFORMATION, 2)],
        &[byte(prop::REQUEST_RESPONSE_INFORMATION, 2)],
        &[four(prop::SESSION_EXPIRY, 1), four(prop::SESSION_EXPIRY, 1)],
        &[two(prop::RECEIVE_MAXIMUM, 5), two(prop::RECEIVE_MAXIMUM, 5)],
        &[two(prop::TOPIC_ALIAS_MAXIMUM, 5), two(prop::TOPIC_ALIAS_MAXIMUM, 5)],
    ];
    for list in bad {
        let mut connect = Connect::new(Version::V5, &unique("b"));
        connect.props = Props(list.to_vec());
        connect.refused(BROKER.address(), 0x82);
    }
}

// No limit by default: the client's own keep alive is honoured and not overruled.
#[test]
fn keep_alive_is_the_clients_own_when_no_server_keep_alive_was_sent() {
    let client = open(&Connect::new(Version::V5, &unique("k")).keep_alive(65535));
    assert!(!client.connack.props.has(prop::SERVER_KEEP_ALIVE));
    // 5.0 [MQTT-3.2.2-22]: and it is enforced.
    let mut short = open(&Connect::new(Version::V5, &unique("k")).keep_alive(1));
    assert!(!short.connack.props.has(prop::SERVER_KEEP_ALIVE));
    short.expect_end(0x8d);
}
