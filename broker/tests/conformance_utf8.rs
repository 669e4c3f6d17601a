//! Strings: well-formed UTF-8, no NUL, nothing changed or normalised.

mod conformance;

use conformance::*;

const NONE: Props = Props(Vec::new());

/// Byte strings that are no UTF-8 as MQTT wants it.
const ILL_FORMED: [&[u8]; 9] = [
    b"\xff",
    b"\xc3",
    b"a\x80b",
    b"\xc0\xaf",
    b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",
];

/// Sends bytes on a fresh connection and requires the end of it.
#[track_caller]
fn ends(version: Version, bytes: &[u8]) {
    let mut client = join(version);
    client.id = format!("{bytes:02x?}");
    client.send(bytes);
    client.expect_end(0x81);
}

/// Every packet that carries `bad` in a place for a string.
fn packets_with(version: Version, bad: &[u8]) -> Vec<Vec<u8>> {
    let v5 = version.is_5();
    let props: &[u8] = if v5 { &[0] } else { &[] };
    let mut all = vec![
        packet(0x30, &concat(&[&binary(bad), props, b"x"])),
        packet(0x82, &concat(&[&[0, 1], props, &binary(bad), &[0]])),
        packet(0xa2, &concat(&[&[0, 1], props, &binary(bad)])),
    ];
    if v5 {
        let with = |list: Vec<u8>| concat(&[&varint(list.len() as u32), &list]);
        let user = |k: &[u8], v: &[u8]| with(concat(&[&[prop::USER], &binary(k), &binary(v)]));
        for list in [
            user(bad, b"v"),
            user(b"k", bad),
            with(concat(&[&[prop::CONTENT_TYPE], &binary(bad)])),
            with(concat(&[&[prop::RESPONSE_TOPIC], &binary(bad)])),
        ] {
            all.push(packet(0x30, &concat(&[&string("t"), &list, b"x"])));
        }
        all.push(packet(0x82, &concat(&[&[0, 1], &user(bad, b""), &string("t"), &[0]])));
        all.push(packet(0xa2, &concat(&[&[0, 1], &user(b"", bad), &string("t")])));
        let reason = with(concat(&[&[prop::REASON_STRING], &binary(bad)]));
        all.push(packet(0x40, &concat(&[&[0, 1, 0], &reason])));
        all.push(packet(0xe0, &concat(&[&[0], &reason])));
    }
    all
}

/// The CONNECTs that carry `bad` in a place for a string.
#[track_caller]
fn connects_end(version: Version, bad: &[u8]) {
    let good = || Connect::new(version, &unique("u"));
    let mut id = good();
    id.id = bad.to_vec();
    let mut name = good();
    name.username = Some(bad.to_vec());
    let mut will = good().will(Will::new("", b"x"));
    if let Some(w) = &mut will.will {
        w.topic = bad.to_vec();
    }
    for connect in [id, name, will] {
        connect.attempt(BROKER.address()).expect_connect_end(0x81);
    }
}

// 5.0 [MQTT-1.5.4-1], 3.1.1 [MQTT-1.5.3-1]
#[test]
fn strings_that_are_not_well_formed_close_the_connection() {
    for v in ALL {
        for bad in ILL_FORMED {
            for bytes in packets_with(v, bad) {
                ends(v, &bytes);
            }
            connects_end(v, bad);
        }
    }
}

// 5.0 [MQTT-1.5.4-2], 3.1.1 [MQTT-1.5.3-2], [MQTT-4.7.3-2] of both
#[test]
fn strings_with_a_nul_close_the_connection() {
    for v in ALL {
        for bad in [&b"\0"[..], b"a\0b", b"a\0"] {
            for bytes in packets_with(v, bad) {
                ends(v, &bytes);
            }
            connects_end(v, bad);
        }
    }
}

// 5.0 [MQTT-1.5.4-3], 3.1.1 [MQTT-1.5.3-3]
#[test]
fn byte_order_mark_is_a_character_like_any_other() {
    for v in ALL {
        let plain = unique("b");
        let (front, inner) = (format!("\u{feff}{plain}"), format!("{plain}/\u{feff}/x"));
        let mut client = join(v);
        client.subscribe(&front, 1);
        client.subscribe(&inner, 1);
        let mut publisher = join(v);
        publisher.publish(&plain, 1, b"no match");
        publisher.publish(&format!("{plain}//x"), 1, b"no match");
        publisher.put(Publish::new(&front, 1, b"x").props([user("\u{feff}k", "v\u{feff}")]));
        let got = client.hears("x");
        assert_eq!(got.topic.as_bytes(), front.as_bytes());
        if v.is_5() {
            assert_eq!(got.props.users(), [("\u{feff}k".to_owned(), "v\u{feff}".to_owned())]);
        }
        publisher.publish(&inner, 1, b"y");
        assert_eq!(client.hears("y").topic, inner);
    }
    // Client ids too: with and without it are two clients.
    let id = unique("b");
    let mut one = open(&Connect::new(Version::V5, &id));
    let _two = open(&Connect::new(Version::V5, &format!("\u{feff}{id}")));
    one.ping();
}

// 5.0 [MQTT-1.5.7-1]
#[test]
fn both_strings_of_a_user_property_must_be_utf8() {
    let v = Version::V5;
    for bad in [&b"\xff"[..], b"a\0b", b"\xed\xa0\x80"] {
        for (key, value) in [(bad, &b"v"[..]), (b"k", bad)] {
            let list = concat(&[&[prop::USER], &binary(key), &binary(value)]);
            let props = concat(&[&varint(list.len() as u32), &list]);
            ends(v, &packet(0x30, &concat(&[&string("t"), &props, b"x"])));
            let mut client = BROKER.bare(v);
            let connect = concat(&[&string("MQTT"), &[5, 2, 0, 0], &props, &string("")]);
            client.send(&packet(0x10, &connect));
            client.expect_refusal(0x81);
        }
    }
    // Well formed, whatever the script.
    let (mut publisher, mut subscriber, topic) = pair(v, 0);
    let pairs = [user("ключ", "値"), user("🔑", "\u{10ffff}"), user("", "")];
    publisher.put(Publish::new(&topic, 0, b"x").props(pairs.clone()));
    assert_eq!(subscriber.hears("x").props, Props::from(pairs));
}

// [MQTT-4.7.3-1]
#[test]
fn topics_and_filters_have_at_least_one_character() {
    for v in ALL {
        let mut client = join(v);
        client.send(&subscribe(v, 1, &NONE, &[("", 0)]));
        client.expect_end(0x81);
        let mut client = join(v);
        client.send(&unsubscribe(v, 1, &[""]));
        client.expect_end(0x81);
        let mut client = join(v);
        client.send(&Publish::new("", 0, b"x").bytes(v));
        client.expect_end(0x82);
        // One is enough, a space or a separator too.
        let mut client = join(v);
        for topic in ["a", " ", "/"] {
            client.subscribe(topic, 0);
            client.publish(topic, 0, b"x");
            assert_eq!(client.hears("x").topic, topic);
            client.unsubscribe(&[topic]);
        }
    }
}

// [MQTT-4.7.3-3]
#[test]
fn topics_and_filters_may_have_65535_bytes() {
    for v in ALL {
        let start = unique("long");
        let topic = format!("{start}{}", "x".repeat(65_535 - start.len()));
        let mut client = join(v);
        client.subscribe(&topic, 0);
        client.publish(&topic, 0, b"x");
        assert!(client.hears("x").topic == topic);
        assert_eq!(client.unsubscribe(&[&topic]).len(), usize::from(v.is_5()));
    }
}

// [MQTT-4.7.3-4]
#[test]
fn topics_are_compared_without_normalisation() {
    for v in ALL {
        let base = unique("n");
        // Composed and decomposed, case, compatibility forms, spaces, empty levels.
        let names = [
            "\u{e9}", "e\u{301}", "A", "a", "\u{fb01}", "fi", "x y", "x  y", "\u{c5}", "\u{212b}",
            "p//q", "p/q", "%41",
        ];
        let mut clients: Vec<Client> = names
            .iter()
            .map(|name| {
                let mut client = join(v);
                client.subscribe(&format!("{base}/{name}"), 0);
                client.subscribe(&format!("{base}-end"), 0);
                client
            })
            .collect();
        let mut publisher = join(v);
        for name in names {
            publisher.publish(&format!("{base}/{name}"), 0, name.as_bytes());
        }
        publisher.publish(&format!("{base}-end"), 0, b"end");
        for (name, client) in names.iter().zip(&mut clients) {
            // Messages of one publisher on different topics may overtake each other.
            let mut got = [client.take(), client.take()];
            got.sort_by_key(|m| m.said() == "end");
            assert_eq!(got[0].topic, format!("{base}/{name}"));
            assert_eq!((got[0].said().as_str(), got[1].said().as_str()), (*name, "end"));
            client.ping();
        }
    }
}

// 4.7.0-1 of 5.0, 4.7.1-1 of 3.1.1
#[test]
fn wildcards_belong_in_filters_not_in_names() {
    for v in ALL {
        for topic in ["#", "+", "a/#", "+/a"] {
            let mut client = join(v);
            client.subscribe(topic, 0);
            client.send(&Publish::new(topic, 1, b"x").bytes(v));
            // Messages of other tests may match; the end has to come among them.
            loop {
                match client.raw().recv() {
                    Got::Packet(bytes) => match read(v, &bytes) {
                        Packet::Publish(_) => {}
                        Packet::Disconnect { reason, .. } => assert_eq!(reason, 0x81),
                        other => panic!("{other:?}"),
                    },
                    Got::Closed => break,
                    Got::Silence => panic!("a wildcard in a topic name was taken"),
                }
            }
        }
    }
}
