//! Every packet: encoded, framed, decoded, the same again; in any splitting of
//! the stream; and arbitrary bytes never panic and never ask for more.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use tidegate_codec::{
    ConnackOut, ConnectOut, Direction, Filter, Packet, PacketType, PropertyWriter, PublishOut, QoS,
    ReasonCode, RetainHandling, SubscribeOptions, Version, WillOut, decode, decode_connect,
    encode_ack, encode_auth, encode_connack, encode_connect, encode_disconnect, encode_publish,
    encode_suback, encode_subscribe, encode_unsuback, encode_unsubscribe, frame, matches,
    topic_name,
};

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V3_1), Just(Version::V3_1_1), Just(Version::V5)]
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn code(kind: PacketType) -> impl Strategy<Value = ReasonCode> {
    let codes: &[u8] = match kind {
        PacketType::Suback => &[0, 1, 2, 0x80, 0x87, 0x8F, 0x97, 0xA2],
        PacketType::Unsuback => &[0, 0x11, 0x87],
        PacketType::Pubrel | PacketType::Pubcomp => &[0, 0x92],
        _ => &[0, 0x80, 0x87, 0x97, 0x99],
    };
    proptest::sample::select(codes).prop_map(|byte| ReasonCode::try_from(byte).unwrap())
}

fn text() -> impl Strategy<Value = String> {
    "[^\0]{0,20}"
}

fn topic() -> impl Strategy<Value = String> {
    "[^\0#+]{1,40}"
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![Just("+".to_owned()), "[^\0#+/$]{0,5}"];
    (option::of("[^\0#+/]{1,5}"), vec(level, 1..5), any::<bool>()).prop_map(
        |(share, levels, all)| {
            let mut filter = levels.join("/");
            if all {
                filter.push_str("/#");
            }
            if filter.is_empty() {
                filter.push('x');
            }
            share.map_or(filter.clone(), |name| format!("$share/{name}/{filter}"))
        },
    )
}

/// A list that may stand in a PUBLISH and goes on unchanged.
fn forward() -> impl Strategy<Value = Vec<u8>> {
    (any::<Option<bool>>(), option::of(topic()), option::of(text()), vec((text(), text()), 0..4))
        .prop_map(|(utf8, response, content, users)| {
            let mut list = PropertyWriter::new();
            if let Some(utf8) = utf8 {
                list.payload_format_indicator(utf8.into());
            }
            for (name, value) in users {
                list.user_property(&name, &value);
            }
            if let Some(topic) = response {
                list.response_topic(&topic).correlation_data(topic.as_bytes());
            }
            if let Some(content) = content {
                list.content_type(&content);
            }
            list.into_vec()
        })
}

fn options() -> impl Strategy<Value = SubscribeOptions> {
    (qos(), any::<bool>(), 0..3u8).prop_map(|(qos, retain_as_published, handling)| {
        SubscribeOptions {
            qos,
            no_local: false,
            retain_as_published,
            retain_handling: match handling {
                0 => RetainHandling::SendAlways,
                1 => RetainHandling::SendIfNew,
                _ => RetainHandling::Never,
            },
        }
    })
}

fn read(bytes: &[u8], version: Version, from: Direction) -> Packet<'_> {
    let found = frame(bytes, u32::MAX).unwrap().expect("a whole packet");
    assert_eq!(found.total, bytes.len());
    assert!(found.minimal);
    decode(&found, bytes, version, from).unwrap()
}

proptest! {
    #[test]
    fn publish(
        version in version(), qos in qos(), dup: bool, retain: bool, topic in topic(),
        packet_id in 1..=u16::MAX, alias in option::of(1..=u16::MAX), expiry: Option<u32>,
        ids in vec(1..=268_435_455u32, 0..4), forward in forward(),
        payload in vec(any::<u8>(), 0..300),
    ) {
        let sent = PublishOut {
            dup: dup && qos != QoS::AtMostOnce,
            qos,
            retain,
            topic: &topic,
            packet_id,
            topic_alias: alias,
            message_expiry: expiry,
            subscription_ids: &ids,
            forward: &forward,
            payload_len: payload.len(),
        };
        let mut out = Vec::new();
        encode_publish(&mut out, version, &sent, &payload);
        prop_assert_eq!(out.len(), sent.len(version));
        let Packet::Publish(found) = read(&out, version, Direction::FromServer) else { panic!() };
        prop_assert_eq!((found.dup, found.qos, found.retain), (sent.dup, qos, retain));
        prop_assert_eq!((found.topic, found.payload), (&topic[..], &payload[..]));
        let id = if qos == QoS::AtMostOnce { 0 } else { packet_id };
        prop_assert_eq!(found.packet_id, id);
        let properties = found.properties;
        if version.is_v5() {
            prop_assert_eq!((properties.topic_alias, properties.message_expiry), (alias, expiry));
            prop_assert_eq!(properties.subscription_ids.collect::<Vec<_>>(), ids);
            prop_assert_eq!(properties.forward.to_vec(), forward);
        } else {
            prop_assert_eq!(properties, Default::default());
        }
    }

    #[test]
    fn connect(
        version in version(), clean_start: bool, keep_alive: u16, client_id in text(),
        will in option::of((topic(), vec(any::<u8>(), 0..50), qos(), any::<bool>(), any::<u32>(),
            forward())),
        username in option::of(text()), password in option::of(vec(any::<u8>(), 0..30)),
        expiry: Option<u32>, receive in option::of(1..=u16::MAX), users in vec((text(), text()), 0..3),
    ) {
        // 3.1.1 has no password without a user name.
        let password = password.filter(|_| username.is_some() || version != Version::V3_1_1);
        let mut list = PropertyWriter::new();
        if let Some(seconds) = expiry {
            list.session_expiry_interval(seconds);
        }
        if let Some(count) = receive {
            list.receive_maximum(count);
        }
        for (name, value) in &users {
            list.user_property(name, value);
        }
        let will_list = will.as_ref().map(|will| {
            let mut list = PropertyWriter::new();
            list.will_delay_interval(will.4);
            let mut list = list.into_vec();
            list.extend_from_slice(&will.5);
            list
        });
        let sent = ConnectOut {
            clean_start,
            keep_alive,
            client_id: &client_id,
            will: will.as_ref().map(|(topic, payload, qos, retain, ..)| WillOut {
                topic,
                payload,
                qos: *qos,
                retain: *retain,
                properties: will_list.as_deref().unwrap(),
            }),
            username: username.as_deref(),
            password: password.as_deref(),
            properties: list.bytes(),
        };
        let mut out = Vec::new();
        encode_connect(&mut out, version, &sent);
        let header = frame(&out, u32::MAX).unwrap().unwrap();
        let found = decode_connect(&header, &out).unwrap();
        prop_assert_eq!((found.version, found.client_id), (version, &client_id[..]));
        prop_assert_eq!((found.clean_start, found.keep_alive), (clean_start, keep_alive));
        prop_assert_eq!(found.username, username.as_deref());
        prop_assert_eq!(found.password, password.as_deref());
        if version.is_v5() {
            prop_assert_eq!(found.properties.session_expiry, expiry);
            prop_assert_eq!(found.properties.receive_maximum, receive);
            let got: Vec<_> = found.properties.raw.user_properties().collect();
            let sent: Vec<_> = users.iter().map(|(n, v)| (&n[..], &v[..])).collect();
            prop_assert_eq!(got, sent);
        }
        prop_assert_eq!(found.will.is_some(), will.is_some());
        if let (Some(found), Some((topic, payload, qos, retain, delay, forward))) = (found.will, &will) {
            prop_assert_eq!((found.topic, found.payload), (&topic[..], &payload[..]));
            prop_assert_eq!((found.qos, found.retain), (*qos, *retain));
            if version.is_v5() {
                prop_assert_eq!(found.delay, *delay);
                prop_assert_eq!(&found.forward.to_vec(), forward);
            }
        }
    }

    #[test]
    fn acknowledgements(
        version in version(), packet_id in 1..=u16::MAX, text in option::of(text()),
        (kind, reason) in prop_oneof![
            code(PacketType::Puback).prop_map(|code| (PacketType::Puback, code)),
            code(PacketType::Pubrec).prop_map(|code| (PacketType::Pubrec, code)),
            code(PacketType::Pubrel).prop_map(|code| (PacketType::Pubrel, code)),
            code(PacketType::Pubcomp).prop_map(|code| (PacketType::Pubcomp, code)),
        ],
    ) {
        let mut out = Vec::new();
        encode_ack(&mut out, version, kind, packet_id, reason, text.as_deref());
        let packet = read(&out, version, Direction::FromClient);
        prop_assert_eq!(packet.packet_type(), kind);
        let (Packet::Puback(ack) | Packet::Pubrec(ack) | Packet::Pubrel(ack) | Packet::Pubcomp(ack))
            = packet else { panic!() };
        prop_assert_eq!(ack.packet_id, packet_id);
        if version.is_v5() {
            prop_assert_eq!((ack.reason, ack.properties.reason_string()), (reason, text.as_deref()));
        }
    }

    #[test]
    fn subscribe_and_unsubscribe(
        version in version(), packet_id in 1..=u16::MAX, id in option::of(1..=268_435_455u32),
        filters in vec((filter(), options()), 1..6),
    ) {
        let mut list = PropertyWriter::new();
        if let Some(id) = id {
            list.subscription_identifier(id);
        }
        let asked: Vec<_> = filters.iter().map(|(filter, options)| (&filter[..], *options)).collect();
        let mut out = Vec::new();
        encode_subscribe(&mut out, version, packet_id, &asked, list.bytes());
        let Packet::Subscribe(found) = read(&out, version, Direction::FromClient) else { panic!() };
        prop_assert_eq!(found.packet_id, packet_id);
        prop_assert_eq!(found.filters.len(), asked.len());
        for ((text, options), (asked, wanted)) in found.filters.zip(&asked) {
            prop_assert_eq!(text, *asked);
            prop_assert_eq!(options.qos, wanted.qos);
            if version.is_v5() {
                prop_assert_eq!(options, *wanted);
                prop_assert_eq!(found.subscription_id, id);
            }
        }
        let texts: Vec<_> = asked.iter().map(|(text, _)| *text).collect();
        let mut out = Vec::new();
        encode_unsubscribe(&mut out, version, packet_id, &texts, b"");
        let Packet::Unsubscribe(found) = read(&out, version, Direction::FromClient) else { panic!() };
        prop_assert_eq!(found.packet_id, packet_id);
        prop_assert_eq!(found.filters.collect::<Vec<_>>(), texts);
    }

    #[test]
    fn suback_and_unsuback(
        packet_id in 1..=u16::MAX, text in option::of(text()),
        codes in vec(code(PacketType::Suback), 1..5), gone in vec(code(PacketType::Unsuback), 1..5),
    ) {
        let bytes = |codes: &[ReasonCode]| codes.iter().map(|code| *code as u8).collect::<Vec<_>>();
        let mut out = Vec::new();
        encode_suback(&mut out, Version::V5, packet_id, &codes, text.as_deref());
        let Packet::Suback(found) = read(&out, Version::V5, Direction::FromServer) else { panic!() };
        prop_assert_eq!((found.packet_id, found.codes.to_vec()), (packet_id, bytes(&codes)));
        prop_assert_eq!(found.properties.reason_string(), text.as_deref());
        let mut out = Vec::new();
        encode_suback(&mut out, Version::V3_1_1, packet_id, &codes, text.as_deref());
        let Packet::Suback(found) = read(&out, Version::V3_1_1, Direction::FromServer) else {
            panic!()
        };
        let before_5 = codes.iter().map(|code| if code.is_error() { 0x80 } else { *code as u8 });
        prop_assert_eq!(found.codes.to_vec(), before_5.collect::<Vec<_>>());
        let mut out = Vec::new();
        encode_unsuback(&mut out, Version::V5, packet_id, &gone);
        let Packet::Unsuback(found) = read(&out, Version::V5, Direction::FromServer) else { panic!() };
        prop_assert_eq!((found.packet_id, found.codes.to_vec()), (packet_id, bytes(&gone)));
    }

    #[test]
    fn disconnect_auth_and_connack(
        text in option::of(text()), server in option::of(text()), expiry: Option<u32>,
        data in option::of(vec(any::<u8>(), 0..40)), method in text(), present: bool,
    ) {
        let mut out = Vec::new();
        let reason = ReasonCode::ServerMoved;
        encode_disconnect(&mut out, reason, None, text.as_deref(), server.as_deref());
        let Packet::Disconnect(found) = read(&out, Version::V5, Direction::FromServer) else {
            panic!()
        };
        prop_assert_eq!((found.reason, found.reason_string), (reason, text.as_deref()));
        prop_assert_eq!(found.server_reference, server.as_deref());
        let mut out = Vec::new();
        encode_disconnect(&mut out, ReasonCode::DisconnectWithWill, expiry, None, None);
        let Packet::Disconnect(found) = read(&out, Version::V5, Direction::FromClient) else {
            panic!()
        };
        prop_assert_eq!(found.session_expiry, expiry);
        let mut out = Vec::new();
        encode_auth(&mut out, ReasonCode::ReAuthenticate, &method, data.as_deref());
        let Packet::Auth(found) = read(&out, Version::V5, Direction::FromClient) else { panic!() };
        prop_assert_eq!((found.method, found.data), (Some(&method[..]), data.as_deref()));
        let connack = ConnackOut {
            session_present: present,
            session_expiry: expiry,
            reason_string: text.as_deref(),
            ..Default::default()
        };
        let mut out = Vec::new();
        encode_connack(&mut out, Version::V5, &connack);
        let Packet::Connack(found) = read(&out, Version::V5, Direction::FromServer) else { panic!() };
        prop_assert_eq!((found.session_present, found.code), (present, 0));
        prop_assert_eq!(found.properties.reason_string(), text.as_deref());
        prop_assert_eq!(found.properties.iter().count(),
            usize::from(expiry.is_some()) + usize::from(text.is_some()));
    }

    /// A stream in pieces of any size gives the packets that it gives in one.
    #[test]
    fn splitting_does_not_matter(
        sizes in vec(0..400usize, 1..20), cuts in vec(1..50usize, 1..40),
    ) {
        let mut stream = Vec::new();
        for size in &sizes {
            let packet = PublishOut { topic: "t", payload_len: *size, ..Default::default() };
            encode_publish(&mut stream, Version::V5, &packet, &vec![*size as u8; *size]);
        }
        let (mut buffer, mut fed, mut got) = (Vec::new(), 0, Vec::new());
        for cut in cuts.iter().cycle() {
            let next = (fed + cut).min(stream.len());
            buffer.extend_from_slice(&stream[fed..next]);
            fed = next;
            while let Some(found) = frame(&buffer, u32::MAX).unwrap() {
                let packet = decode(&found, &buffer, Version::V5, Direction::FromClient).unwrap();
                let Packet::Publish(publish) = packet else { panic!() };
                got.push(publish.payload.len());
                buffer.drain(..found.total);
            }
            if fed == stream.len() {
                break;
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(got, sizes);
    }
}

fn no_panic(bytes: &[u8]) {
    let Ok(Some(found)) = frame(bytes, 1 << 20) else { return };
    let _ = decode_connect(&found, bytes).map(|connect| connect.properties.raw.iter().count());
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        for from in [Direction::FromClient, Direction::FromServer] {
            match decode(&found, bytes, version, from) {
                Ok(Packet::Subscribe(found)) => {
                    assert_eq!(found.filters.len(), found.filters.count());
                    found.filters.for_each(|(filter, _)| assert!(Filter::parse(filter).is_ok()));
                }
                Ok(Packet::Publish(found)) => {
                    let forward = found.properties.forward;
                    assert_eq!(forward.to_vec().len(), forward.len());
                }
                Ok(_) => {}
                Err(error) => assert!(error.reason().is_error()),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..Default::default() })]

    /// A whole frame is decided, whatever is in it: `decode` has no 'need more'.
    #[test]
    fn arbitrary_bodies_never_panic(first: u8, body in vec(any::<u8>(), 0..100)) {
        let mut bytes = vec![first, body.len() as u8];
        bytes.extend_from_slice(&body);
        prop_assert!(frame(&bytes, 1000).unwrap().is_some());
        no_panic(&bytes);
    }

    #[test]
    fn damaged_packets_never_panic(
        forward in forward(), at in any::<proptest::sample::Index>(), byte: u8, cut: bool,
    ) {
        let packet = PublishOut { topic: "a/b", message_expiry: Some(1), forward: &forward,
            ..Default::default() };
        let mut bytes = Vec::new();
        encode_publish(&mut bytes, Version::V5, &packet, b"");
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut && bytes.len() < 128 {
            bytes.truncate(at.max(2));
            bytes[1] = bytes.len() as u8 - 2;
        }
        no_panic(&bytes);
    }

    #[test]
    fn arbitrary_streams_never_panic(bytes in vec(any::<u8>(), 0..64)) {
        no_panic(&bytes);
        let _ = topic_name(&bytes).map(|name| matches("#", name));
        let _ = std::str::from_utf8(&bytes).map(Filter::parse);
    }

    /// A filter made from a topic by wildcards matches it.
    #[test]
    fn a_filter_made_from_a_topic_matches_it(topic in "[a-c/é]{1,12}", holes: u16, cut in 0..6usize) {
        let levels: Vec<_> = topic.split('/').collect();
        let mut filter: Vec<_> = levels.iter().enumerate()
            .map(|(at, level)| if holes >> (at % 16) & 1 == 1 { "+" } else { level }).collect();
        if cut < filter.len() {
            filter.truncate(cut);
            filter.push("#");
        }
        let filter = filter.join("/");
        prop_assert!(Filter::parse(&filter).is_ok());
        prop_assert!(matches(&filter, &topic), "{} {}", filter, topic);
    }
}

/// The size limit is decided in `frame`, which stores nothing, from five bytes;
/// `decode` borrows all that it returns. So nothing is allocated before it.
#[test]
fn the_size_limit_is_decided_from_the_fixed_header_alone() {
    for (header, got) in [
        (&[0x30, 0x7F][..], 129),
        (&[0x30, 0xFF, 0x7F], 16_386),
        (&[0x10, 0xFF, 0xFF, 0x7F], 2_097_155),
        (&[0x82, 0xFF, 0xFF, 0xFF, 0x7F], 268_435_460),
    ] {
        let error = tidegate_codec::DecodeError::TooLarge { got, max: 128 };
        assert_eq!(frame(header, 128), Err(error));
        assert_eq!(frame(header, got), Ok(None));
    }
}
