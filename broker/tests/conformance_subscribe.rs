//! SUBSCRIBE and UNSUBSCRIBE: options, overlaps, replacement, answers, matching.

mod conformance;

use conformance::*;

const NONE: Props = Props(Vec::new());
const NO_LOCAL: u8 = 0x04;
const AS_PUBLISHED: u8 = 0x08;

/// Sends bytes on a fresh connection and requires its end: DISCONNECT with
/// `code` in 5.0, the bare close before.
#[track_caller]
fn ends(version: Version, bytes: &[u8], code: u8) {
    let mut client = join(version);
    client.id = format!("{bytes:02x?}");
    client.send(bytes);
    client.expect_end(code);
}

// [MQTT-3.8.1-1]
#[test]
fn subscribe_with_wrong_header_flags_is_malformed() {
    for v in OASIS {
        for flags in (0..16).filter(|f| *f != 2) {
            let mut bytes = subscribe(v, 1, &NONE, &[("t", 0)]);
            bytes[0] = 0x80 | flags;
            ends(v, &bytes, 0x81);
        }
    }
}

// [MQTT-3.8.3-1]
#[test]
fn topic_filter_must_be_utf8() {
    for v in ALL {
        for bad in [&b"\xff"[..], b"a/\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"a\0b"] {
            let props: &[u8] = if v.is_5() { &[0] } else { &[] };
            let body = concat(&[&[0, 1], props, &binary(bad), &[0]]);
            ends(v, &packet(0x82, &body), 0x81);
        }
    }
}

// 5.0 [MQTT-3.8.3-2], 3.1.1 [MQTT-3.8.3-3]
#[test]
fn subscribe_without_a_filter_is_a_protocol_error() {
    for v in ALL {
        ends(v, &subscribe(v, 1, &NONE, &[]), 0x82);
    }
}

// 5.0 [MQTT-3.8.3-5], 3.1.1 [MQTT-3.8.3-4]
#[test]
fn reserved_option_bits_are_malformed() {
    for options in [0x40, 0x80, 0xc1] {
        ends(Version::V5, &subscribe(Version::V5, 1, &NONE, &[("t", options)]), 0x81);
    }
    for options in [0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 3] {
        ends(Version::V311, &subscribe(Version::V311, 1, &NONE, &[("t", options)]), 0x81);
    }
}

// PROTOCOL: QoS 3 and retain handling 3 are 0x82; before 5.0 the close.
#[test]
fn qos_3_and_retain_handling_3_are_protocol_errors() {
    for v in ALL {
        ends(v, &subscribe(v, 1, &NONE, &[("good", 0), ("t", 3)]), 0x82);
    }
    ends(Version::V5, &subscribe(Version::V5, 1, &NONE, &[("t", 0x30)]), 0x82);
}

// 5.0 [MQTT-3.8.3-3]: by client id, for every way a message can come.
#[test]
fn no_local_keeps_a_clients_own_messages_from_it() {
    let v = Version::V5;
    let (id, topic) = (unique("me"), unique("t"));
    let mut me = open(&Connect::lasting(v, &id).will(Will::new(&topic, b"my will").qos(1)));
    me.subscribe(&topic, 1 | NO_LOCAL);
    let mut other = join(v);
    for qos in [0, 1, 2] {
        me.publish(&topic, qos, b"mine");
        other.publish(&topic, qos, b"theirs");
        me.hears("theirs");
    }
    // A will is its client's own, even when it comes to the next connection.
    me.drop_and_wait();
    let mut me = open(&Connect::lasting(v, &id));
    me.publish(&topic, 1, b"mine after resume");
    other.publish(&topic, 1, b"end");
    me.hears("end");
    // Retained messages sent because of the SUBSCRIBE are forwarded just the same.
    let kept = unique("kept");
    me.retain(&kept, 1, b"mine");
    me.subscribe(&kept, 1 | NO_LOCAL);
    other.publish(&kept, 1, b"end");
    me.hears("end");
}

// 5.0 [MQTT-3.8.3-4]
#[test]
fn no_local_on_a_shared_subscription_is_a_protocol_error() {
    let bytes = subscribe(Version::V5, 1, &NONE, &[("$share/g/t", NO_LOCAL)]);
    ends(Version::V5, &bytes, 0x82);
}

// [MQTT-3.8.4-1]
#[test]
fn subscribe_is_answered_with_suback() {
    for v in ALL {
        let mut client = join(v);
        let topic = unique("t");
        client.send(&subscribe(v, 1, &NONE, &[(&topic, 0)]));
        assert!(matches!(client.recv(), Packet::Suback { .. }));
    }
}

// [MQTT-3.8.4-2], 5.0 [MQTT-2.2.1-6], 3.1.1 [MQTT-2.3.1-7]
#[test]
fn suback_and_unsuback_carry_the_packet_id_of_their_request() {
    for v in ALL {
        let mut client = join(v);
        let topic = unique("t");
        for id in [1, 255, 256, 65535] {
            client.send(&subscribe(v, id, &NONE, &[(&topic, 0)]));
            let Packet::Suback { id: got, .. } = client.recv() else { panic!("no SUBACK") };
            assert_eq!(got, id);
            client.send(&unsubscribe(v, id, &[&topic]));
            let Packet::Unsuback { id: got, .. } = client.recv() else { panic!("no UNSUBACK") };
            assert_eq!(got, id);
        }
    }
}

// [MQTT-3.8.4-3]
#[test]
fn same_filter_again_replaces_the_subscription() {
    for v in ALL {
        let topic = unique("t");
        let mut client = join(v);
        let mut publisher = join(v);
        for qos in [2, 0, 1] {
            client.subscribe(&topic, qos);
            publisher.publish(&topic, 2, b"x");
            assert_eq!(client.hears("x").qos, qos);
            // One subscription means one copy.
            client.ping();
        }
        client.unsubscribe(&[&topic]);
        publisher.publish(&topic, 2, b"x");
        client.ping();
    }
    // In 5.0 the identifier and all the options are replaced as well.
    let v = Version::V5;
    let topic = unique("t");
    let mut client = join(v);
    client.subscribe_id(&topic, 1, 5);
    client.publish(&topic, 1, b"five");
    assert_eq!(client.hears("five").props.numbers(prop::SUBSCRIPTION_ID), [5]);
    client.subscribe_id(&topic, AS_PUBLISHED, 6);
    client.retain(&topic, 1, b"six");
    let six = client.hears("six");
    assert_eq!(six.props.numbers(prop::SUBSCRIPTION_ID), [6]);
    assert_eq!((six.retain, six.qos), (true, 0));
    client.subscribe(&topic, 0x20);
    client.retain(&topic, 1, b"none");
    let none = client.hears("none");
    assert_eq!(none.props.numbers(prop::SUBSCRIPTION_ID), []);
    assert!(!none.retain);
}

// 5.0 [MQTT-3.8.4-4], 3.1.1 [MQTT-3.8.4-3]
#[test]
fn replacing_a_subscription_sends_retained_again_and_loses_nothing() {
    for v in ALL {
        let topic = unique("t");
        let mut publisher = join(v);
        publisher.retain(&topic, 1, b"kept");
        let mut client = join(v);
        client.subscribe(&topic, 1);
        client.hears("kept");
        client.subscribe(&topic, 1);
        assert!(client.hears("kept").retain);
        // Messages keep flowing while the subscription is replaced many times.
        let (topic, other) = (unique("flow"), unique("flow"));
        client.subscribe(&topic, 1);
        for n in 0..100u16 {
            publisher.send(&Publish::new(&topic, 1, n.to_string().as_bytes()).id(n + 1).bytes(v));
            client.send(&subscribe(v, n + 1000, &NONE, &[(&topic, 1), (&other, 0)]));
        }
        let mut heard = Vec::new();
        let mut answered = 0;
        while heard.len() < 100 || answered < 100 {
            match client.recv() {
                Packet::Publish(p) => {
                    client.finish(&p);
                    heard.push(p.said());
                }
                Packet::Suback { .. } => answered += 1,
                other => panic!("{other:?}"),
            }
        }
        let all: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(heard, all);
    }
}

// 5.0 [MQTT-3.8.4-5], 3.1.1 [MQTT-3.8.4-4]
#[test]
fn many_filters_in_one_subscribe_act_as_many_subscribes() {
    for v in ALL {
        let base = unique("m");
        let topics: Vec<String> = (0..20).map(|n| format!("{base}/{n}")).collect();
        let filters: Vec<(&str, u8)> =
            topics.iter().enumerate().map(|(n, t)| (t.as_str(), (n % 3) as u8)).collect();
        let mut client = join(v);
        let codes = client.subscribe_all(&NONE, &filters);
        assert_eq!(codes, filters.iter().map(|(_, q)| *q).collect::<Vec<_>>());
        let mut publisher = join(v);
        for (n, topic) in topics.iter().enumerate() {
            publisher.publish(topic, 2, topic.as_bytes());
            assert_eq!(client.hears(topic).qos, (n % 3) as u8);
        }
        // The same filter twice in one packet: the later one counts, as it would in a row.
        let twice = unique("twice");
        assert_eq!(client.subscribe_all(&NONE, &[(&twice, 2), (&twice, 0)]), [2, 0]);
        publisher.publish(&twice, 2, b"x");
        assert_eq!(client.hears("x").qos, 0);
        client.ping();
    }
}

// 5.0 [MQTT-3.8.4-6], 3.1.1 [MQTT-3.8.4-5]
#[test]
fn suback_has_a_code_for_every_filter() {
    let server = broker("[limits]\ntopic_levels_max = 5\n");
    for v in ALL {
        let mut client = Connect::new(v, &unique("c")).open(server.mqtt);
        for count in [1, 2, 7, 50] {
            let names: Vec<String> = (0..count).map(|_| unique("t")).collect();
            let filters: Vec<(&str, u8)> = names.iter().map(|n| (n.as_str(), 0)).collect();
            assert_eq!(client.subscribe_all(&NONE, &filters).len(), count);
        }
    }
}

// 5.0 [MQTT-3.8.4-7] [MQTT-3.9.3-1], 3.1.1 [MQTT-3.9.3-1]
#[test]
fn suback_codes_are_in_the_order_of_the_filters() {
    let server = broker("[limits]\ntopic_levels_max = 5\n");
    for v in ALL {
        let mut client = Connect::new(v, &unique("c")).open(server.mqtt);
        let refused = if v.is_5() { 0x8f } else { 0x80 };
        let deep = "a/b/c/d/e/f";
        let codes =
            client.subscribe_all(&NONE, &[("p", 2), (deep, 1), ("q", 0), (deep, 0), ("r", 1)]);
        assert_eq!(codes, [2, refused, 0, refused, 1]);
        // The refused one does not hold, the others do.
        for (topic, qos) in [("p", 2), ("q", 0), ("r", 1)] {
            client.publish(topic, 2, b"x");
            assert_eq!(client.hears("x").qos, qos);
        }
    }
}

// 5.0 [MQTT-3.9.3-2], 3.1.1 [MQTT-3.9.3-2]
#[test]
fn suback_codes_are_of_the_table() {
    let server = broker(
        "[limits]\ntopic_levels_max = 5\nsubscriptions_max = 4\n[mqtt]\n\
         wildcard_subscription_available = false\nshared_subscription_available = false\n",
    );
    for v in OASIS {
        let codes_of_table: &[u8] = if v.is_5() {
            &[0, 1, 2, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2]
        } else {
            &[0, 1, 2, 0x80]
        };
        let mut client = Connect::new(v, &unique("c")).open(server.mqtt);
        let filters = ["a", "b", "a/b/c/d/e/f/g", "c", "d", "e", "f"].map(|f| (f, 1));
        let codes = client.subscribe_all(&NONE, &filters);
        assert!(codes.iter().all(|c| codes_of_table.contains(c)), "{codes:02x?}");
        assert_eq!(&codes[..2], [1, 1]);
        assert!(codes[2] >= 0x80 && codes[6] >= 0x80, "{codes:02x?}");
        // Subscriptions over the limit: 0x97, 0x80 before 5.0.
        assert_eq!(codes[6], if v.is_5() { 0x97 } else { 0x80 });
    }
}

// 3.1.1 [MQTT-3.8.3-2]; 5.0 0xA2, 0x9E, 0xA1.
#[test]
fn what_is_not_offered_is_refused() {
    let server = broker(
        "[mqtt]\nwildcard_subscription_available = false\n\
         subscription_identifier_available = false\nshared_subscription_available = false\n",
    );
    for v in ALL {
        let mut client = Connect::new(v, &unique("c")).open(server.mqtt);
        let codes = client.subscribe_all(&NONE, &[("plain", 0)]);
        assert_eq!(codes, [0]);
        for (filter, code) in [("a/#", 0xa2), ("+", 0xa2), ("$share/g/t", 0x9e)] {
            client.send(&subscribe(v, 9, &NONE, &[(filter, 0)]));
            match client.recv() {
                Packet::Suback { codes, .. } => {
                    assert_eq!(codes, [if v.is_5() { code } else { 0x80 }], "{filter}");
                }
                Packet::Disconnect { reason, .. } => {
                    assert_eq!(reason, code, "{filter}");
                    client.expect_closed();
                    client = Connect::new(v, &unique("c")).open(server.mqtt);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    let v = Version::V5;
    let mut client = Connect::new(v, &unique("c")).open(server.mqtt);
    let props = Props::from([var(prop::SUBSCRIPTION_ID, 1)]);
    client.send(&subscribe(v, 9, &props, &[("t", 0)]));
    match client.recv() {
        Packet::Suback { codes, .. } => assert_eq!(codes, [0xa1]),
        Packet::Disconnect { reason, .. } => assert_eq!(reason, 0xa1),
        other => panic!("{other:?}"),
    }
}

// 5.0 [MQTT-3.8.4-8], 3.1.1 [MQTT-3.8.4-6]
#[test]
fn messages_come_with_the_lower_of_published_and_granted_qos() {
    for v in ALL {
        for granted in [0, 1, 2] {
            let (mut publisher, mut subscriber, topic) = pair(v, granted);
            for published in [0, 1, 2] {
                publisher.publish(&topic, published, b"x");
                assert_eq!(subscriber.hears("x").qos, granted.min(published));
            }
        }
    }
}

// 5.0 [MQTT-3.3.4-2], 3.1.1 [MQTT-3.3.5-1]
#[test]
fn overlapping_filters_deliver_with_the_highest_qos() {
    for v in ALL {
        let base = unique("o");
        let topic = format!("{base}/a/b");
        let mut client = join(v);
        for (filter, qos) in [("#", 0), ("+/b", 2), ("a/b", 1), ("a/+", 0)] {
            client.subscribe(&format!("{base}/{filter}"), qos);
        }
        let mut publisher = join(v);
        for qos in [2, 1, 0] {
            publisher.publish(&topic, qos, b"x");
            // One copy, Tidegate's choice.
            assert_eq!(client.hears("x").qos, qos);
            client.ping();
        }
    }
}

// 5.0 [MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5]
#[test]
fn overlapping_filters_deliver_all_their_subscription_ids() {
    let v = Version::V5;
    let base = unique("o");
    let topic = format!("{base}/{base}");
    let mut client = join(v);
    client.subscribe_id(&format!("{base}/#"), 0, 1);
    client.subscribe_id(&format!("{base}/+"), 1, 268_435_455);
    client.subscribe(&topic, 2);
    client.subscribe_id(&format!("+/{base}"), 0, 300);
    client.subscribe_id(&format!("{base}/other"), 0, 77);
    let mut publisher = join(v);
    publisher.publish(&topic, 2, b"x");
    let message = client.hears("x");
    assert_eq!(message.props.numbers(prop::SUBSCRIPTION_ID), [1, 300, 268_435_455]);
    assert_eq!(message.qos, 2);
    client.ping();
    publisher.publish(&format!("{base}/b"), 1, b"y");
    let message = client.hears("y");
    assert_eq!(message.props.numbers(prop::SUBSCRIPTION_ID), [1, 268_435_455]);
    client.ping();
}

// PROTOCOL: id 0 is 0x82, ids go up to 268435455, and the property comes once.
#[test]
fn subscription_id_is_between_1_and_268435455() {
    let v = Version::V5;
    let with = |props: &Props| subscribe(v, 1, props, &[("t", 0)]);
    ends(v, &with(&Props::from([var(prop::SUBSCRIPTION_ID, 0)])), 0x82);
    let twice = Props::from([var(prop::SUBSCRIPTION_ID, 1), var(prop::SUBSCRIPTION_ID, 2)]);
    ends(v, &with(&twice), 0x82);
    for id in [1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455] {
        let topic = unique("t");
        let mut client = join(v);
        client.subscribe_id(&topic, 0, id);
        client.publish(&topic, 0, b"x");
        assert_eq!(client.hears("x").props.numbers(prop::SUBSCRIPTION_ID), [id]);
    }
}

// [MQTT-4.7.1-1] of 5.0, [MQTT-4.7.1-2] of 3.1.1
#[test]
fn multi_level_wildcard_anywhere_but_last_and_alone_is_malformed() {
    for v in ALL {
        for filter in ["a/#/b", "#/a", "a#", "#a", "a/b#", "a/#b", "##", "a/##"] {
            ends(v, &subscribe(v, 1, &NONE, &[("good", 0), (filter, 0)]), 0x81);
        }
        let mut client = join(v);
        for filter in ["#", "a/#", "/#", "a/+/#", "+/#"] {
            client.subscribe(filter, 0);
            client.unsubscribe(&[filter]);
        }
    }
}

// [MQTT-4.7.1-2] of 5.0, [MQTT-4.7.1-3] of 3.1.1
#[test]
fn single_level_wildcard_beside_other_characters_is_malformed() {
    for v in ALL {
        for filter in ["a+", "+a", "a/b+", "a/+b", "++", "a/++/b", "+#", "#+"] {
            ends(v, &subscribe(v, 1, &NONE, &[(filter, 0)]), 0x81);
        }
        let mut client = join(v);
        for filter in ["+", "+/+", "/+", "+/", "a/+/b", "+/a/#"] {
            client.subscribe(filter, 0);
            client.unsubscribe(&[filter]);
        }
    }
}

// 4.7.1: what the wildcards match, `a/#` the parent as well, empty levels too.
#[test]
fn filters_match_level_by_level() {
    for v in ALL {
        let base = unique("w");
        let mut publisher = join(v);
        for (filter, yes, no) in [
            ("a/#", &["a", "a/", "a/b", "a/b/c"][..], &["ab", "b", "/a", "A"][..]),
            ("+", &["a", ""], &["a/b", "/", "a/"]),
            ("a/+", &["a/b", "a/"], &["a", "a/b/c", "a//"]),
            ("+/+", &["a/b", "/", "a/", "/b"], &["a", "a/b/c"]),
            ("/+", &["/a", "/"], &["a", "//"]),
            ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/b/c"]),
            ("a/b", &["a/b"], &["a/b/", "/a/b", "a//b", "A/b", "a/ b"]),
            ("a//b", &["a//b"], &["a/b", "a/x/b"]),
            ("+/b/#", &["a/b", "/b", "a/b/c"], &["a/c", "b"]),
        ] {
            let mut client = join(v);
            client.subscribe(&format!("{base}/{filter}"), 0);
            let end = format!("{base}/end");
            client.subscribe(&end, 0);
            for topic in yes {
                let topic = format!("{base}/{topic}");
                publisher.publish(&topic, 0, topic.as_bytes());
                client.hears(&topic);
            }
            for topic in no {
                publisher.publish(&format!("{base}/{topic}"), 1, b"no match");
            }
            publisher.publish(&end, 1, b"end");
            client.hears("end");
        }
    }
}

// [MQTT-4.7.2-1]
#[test]
fn wildcards_first_do_not_match_dollar_topics() {
    for v in ALL {
        let base = unique("$own");
        let mut client = join(v);
        client.subscribe("#", 0);
        let mut plus = join(v);
        plus.subscribe("+/x", 0);
        let mut named = join(v);
        named.subscribe(&format!("{base}/#"), 0);
        named.subscribe(&format!("{base}/+"), 0);
        let mut publisher = join(v);
        let end = unique("end");
        client.subscribe(&end, 0);
        plus.subscribe(&end, 0);
        publisher.publish(&format!("{base}/x"), 0, b"hidden");
        publisher.publish(&end, 0, b"end");
        named.hears("hidden");
        named.ping();
        plus.hears("end");
        // Other tests publish as well; of `$` topics nothing may come.
        loop {
            let message = client.take();
            assert!(!message.topic.starts_with('$'), "{message:?}");
            if message.topic == end {
                break;
            }
        }
    }
}

// [MQTT-3.10.1-1]
#[test]
fn unsubscribe_with_wrong_header_flags_is_malformed() {
    for v in OASIS {
        for flags in (0..16).filter(|f| *f != 2) {
            let mut bytes = unsubscribe(v, 1, &["t"]);
            bytes[0] = 0xa0 | flags;
            ends(v, &bytes, 0x81);
        }
    }
}

// [MQTT-3.10.3-1]
#[test]
fn unsubscribe_filter_must_be_utf8() {
    for v in ALL {
        for bad in [&b"\xff"[..], b"a\0b", b"\xed\xa0\x80"] {
            let props: &[u8] = if v.is_5() { &[0] } else { &[] };
            ends(v, &packet(0xa2, &concat(&[&[0, 1], props, &binary(bad)])), 0x81);
        }
    }
}

// [MQTT-3.10.3-2]
#[test]
fn unsubscribe_without_a_filter_is_a_protocol_error() {
    for v in ALL {
        ends(v, &unsubscribe(v, 1, &[]), 0x82);
    }
}

// [MQTT-3.10.4-1]
#[test]
fn unsubscribe_ends_exactly_the_same_filter() {
    for v in ALL {
        let base = unique("u");
        let topic = format!("{base}/a");
        let mut client = join(v);
        client.subscribe(&format!("{base}/+"), 0);
        let mut publisher = join(v);
        for other in [topic.clone(), format!("{base}/#"), format!("{base}/+/"), base.to_uppercase()]
        {
            client.unsubscribe(&[&other]);
            publisher.publish(&topic, 0, b"still");
            client.hears("still");
        }
        client.unsubscribe(&[&format!("{base}/+")]);
        publisher.publish(&topic, 1, b"no more");
        client.subscribe(&topic, 0);
        publisher.publish(&topic, 0, b"end");
        client.hears("end");
    }
}

// [MQTT-3.10.4-2]
#[test]
fn unsubscribe_stops_new_messages() {
    for v in ALL {
        let (mut publisher, mut client, topic) = pair(v, 2);
        let end = unique("end");
        client.subscribe(&end, 0);
        publisher.publish(&topic, 1, b"before");
        client.hears("before");
        client.unsubscribe(&[&topic]);
        for qos in [0, 1, 2] {
            publisher.publish(&topic, qos, b"after");
        }
        publisher.publish(&end, 0, b"end");
        client.hears("end");
    }
}

// [MQTT-3.10.4-3]
#[test]
fn unsubscribe_completes_what_is_in_flight() {
    for v in ALL {
        let (id, topic) = (unique("u"), unique("t"));
        let mut client = open(&Connect::lasting(v, &id));
        client.subscribe(&topic, 2);
        let mut publisher = join(v);
        publisher.publish(&topic, 2, b"two");
        publisher.publish(&topic, 1, b"one");
        let two = client.message();
        let one = client.message();
        client.unsubscribe(&[&topic]);
        client.send(&ack(PUBREC, two.id));
        client.expect_ack(PUBREL, two.id);
        client.drop_and_wait();
        let mut client = open(&Connect::lasting(v, &id));
        client.expect_ack(PUBREL, two.id);
        client.send(&ack(PUBCOMP, two.id));
        let again = client.hears("one");
        assert_eq!((again.id, again.dup), (one.id, true));
        client.ping();
    }
}

// [MQTT-3.10.4-4] [MQTT-3.10.4-5]: also when nothing was subscribed.
#[test]
fn unsubscribe_is_always_answered_with_unsuback() {
    for v in ALL {
        let mut client = join(v);
        let topic = unique("t");
        client.subscribe(&topic, 0);
        for (id, code) in [(21, 0x00), (22, 0x11), (23, 0x11)] {
            client.send(&unsubscribe(v, id, &[&topic]));
            let Packet::Unsuback { id: got, codes, .. } = client.recv() else {
                panic!("no UNSUBACK")
            };
            assert_eq!(got, id);
            // 3.1.1 UNSUBACK has no payload.
            assert_eq!(codes, if v.is_5() { vec![code] } else { vec![] });
        }
    }
}

// [MQTT-3.10.4-6], 5.0 [MQTT-3.11.3-1]
#[test]
fn many_filters_in_one_unsubscribe_act_as_many_unsubscribes() {
    for v in ALL {
        let (a, b, c) = (unique("a"), unique("b"), unique("c"));
        let mut client = join(v);
        client.subscribe_all(&NONE, &[(&a, 0), (&b, 0), (&c, 0)]);
        let codes = client.unsubscribe(&[&a, "none", &c, &a]);
        if v.is_5() {
            assert_eq!(codes, [0, 0x11, 0, 0x11]);
        } else {
            assert_eq!(codes, []);
        }
        for topic in [&a, &c, &b] {
            client.publish(topic, 1, topic.as_bytes());
        }
        client.hears(&b);
        client.ping();
    }
}

// 5.0 [MQTT-3.11.3-2]
#[test]
fn unsuback_codes_are_of_the_table() {
    let mut client = join(Version::V5);
    let topic = unique("t");
    client.subscribe(&topic, 0);
    let shared = format!("$share/g/{topic}");
    client.subscribe(&shared, 0);
    let codes = client.unsubscribe(&[&topic, &shared, &shared, "$SYS/none", "a/b/c"]);
    let table = [0, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];
    assert!(codes.iter().all(|c| table.contains(c)), "{codes:02x?}");
    assert_eq!(&codes[..3], [0, 0, 0x11]);
}

// PROTOCOL: an UNSUBSCRIBE filter that breaks the wildcard rules is malformed too.
#[test]
fn unsubscribe_with_a_malformed_filter_is_malformed() {
    for v in ALL {
        for filter in ["a/#/b", "a+", ""] {
            ends(v, &unsubscribe(v, 1, &[filter]), 0x81);
        }
    }
}
