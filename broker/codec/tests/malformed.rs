//! Malformed packets, a table a packet type, each with the exact error; and the
//! near misses beside them, which must pass.

use tidegate_codec::DecodeError::*;
use tidegate_codec::PacketType::*;
use tidegate_codec::{
    DecodeError, Direction, FilterError, Packet, PacketType, QoS, RetainHandling, SubscribeOptions,
    Version, decode, decode_publish, frame,
};

const ALL: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];
const BEFORE_5: [Version; 2] = [Version::V3_1, Version::V3_1_1];
const V5: [Version; 1] = [Version::V5];

/// A packet with this first byte and body.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128);
    let mut bytes = vec![first, body.len() as u8];
    bytes.extend_from_slice(body);
    bytes
}

fn try_decode(bytes: &[u8], version: Version, from: Direction) -> Result<(), DecodeError> {
    let found = frame(bytes, u32::MAX).unwrap().expect("the packet is whole");
    decode(&found, bytes, version, from).map(|_| ())
}

#[track_caller]
fn refused(versions: &[Version], first: u8, body: &[u8], error: DecodeError) {
    refused_from(Direction::FromClient, versions, first, body, error);
}

#[track_caller]
fn refused_from(from: Direction, versions: &[Version], first: u8, body: &[u8], error: DecodeError) {
    for version in versions {
        let got = try_decode(&packet(first, body), *version, from);
        assert_eq!(got, Err(error), "{version:?} {first:02x} {body:02x?}");
    }
}

#[track_caller]
fn taken(versions: &[Version], first: u8, body: &[u8]) {
    for version in versions {
        let got = try_decode(&packet(first, body), *version, Direction::FromClient);
        assert_eq!(got, Ok(()), "{version:?} {first:02x} {body:02x?}");
    }
}

fn value(packet: PacketType, id: u8) -> DecodeError {
    PropertyValue { packet, id }
}

fn repeated(packet: PacketType, id: u8) -> DecodeError {
    PropertyRepeated { packet, id }
}

#[test]
fn errors_carry_the_reason_that_the_checklist_asks_for() {
    for (error, reason) in [
        (TooLarge { got: 2, max: 1 }, 0x95),
        (TopicAliasZero, 0x94),
        (ProtocolLevel(9), 0x84),
        (MalformedLength, 0x81),
        (NonMinimalLength, 0x81),
        (MalformedVarint(Publish), 0x81),
        (ReservedFlags(Pingreq, 1), 0x81),
        (ReservedPacketType(0), 0x81),
        (Truncated(Publish), 0x81),
        (TrailingBytes(Puback, 1), 0x81),
        (NotUtf8(Publish), 0x81),
        (NulInString(Publish), 0x81),
        (QoS3(Publish), 0x81),
        (DupAtQoS0, 0x81),
        (TopicWildcard(Publish), 0x81),
        (PropertyUnknown { packet: Publish, id: 0 }, 0x81),
        (PropertyMisplaced { packet: Publish, id: 0x21 }, 0x81),
        (SubscribeOptionsReserved(0xC0), 0x81),
        (MalformedFilter(Subscribe, FilterError::Empty), 0x81),
        (WrongDirection(Suback), 0x82),
        (SecondConnect, 0x82),
        (ZeroPacketId(Publish), 0x82),
        (EmptyTopic(Publish), 0x82),
        (repeated(Publish, 1), 0x82),
        (value(Publish, 1), 0x82),
        (PropertyFromWrongSide { packet: Publish, id: 0x0B }, 0x82),
        (AuthenticationDataAlone(Connect), 0x82),
        (SubscribeQoS3, 0x82),
        (RetainHandling3, 0x82),
        (NoLocalOnShared, 0x82),
        (NoFilters(Subscribe), 0x82),
        (UnlistedReason(Puback, 1), 0x82),
    ] {
        assert_eq!(error.reason() as u8, reason, "{error}");
    }
}

#[test]
fn reserved_types_are_malformed() {
    refused(&ALL, 0x00, b"", ReservedPacketType(0));
    refused(&BEFORE_5, 0xF0, b"", ReservedPacketType(15));
}

#[test]
fn a_non_minimal_remaining_length_is_malformed_from_5_0_on() {
    let body = [0xC0u8, 0x80, 0x00];
    assert_eq!(try_decode(&body, Version::V5, Direction::FromClient), Err(NonMinimalLength));
    for version in BEFORE_5 {
        assert_eq!(try_decode(&body, version, Direction::FromClient), Ok(()));
    }
    let publish = [0x30u8, 0x85, 0x00, 0, 1, b'a', 0, 0];
    assert_eq!(try_decode(&publish, Version::V5, Direction::FromClient), Err(NonMinimalLength));
    assert_eq!(try_decode(&publish, Version::V3_1_1, Direction::FromClient), Ok(()));
}

#[test]
fn every_type_has_its_flags_and_no_others() {
    for kind in PacketType::ALL {
        let expected = match kind {
            Publish => continue,
            Pubrel | Subscribe | Unsubscribe => 0b0010,
            _ => 0,
        };
        for flags in (0..16).filter(|flags| *flags != expected) {
            let first = (kind as u8) << 4 | flags;
            // Legal in 3.1: sent again with DUP.
            if expected == 2 && flags == 0b1010 {
                let got = try_decode(&packet(first, b""), Version::V3_1, Direction::FromClient);
                assert_eq!(got, Err(Truncated(kind)));
                refused(&[Version::V3_1_1, Version::V5], first, b"", ReservedFlags(kind, flags));
            } else if kind == Auth {
                refused(&V5, first, b"", ReservedFlags(kind, flags));
            } else {
                refused(&ALL, first, b"", ReservedFlags(kind, flags));
            }
        }
    }
}

#[test]
fn packets_of_the_other_side_are_protocol_errors() {
    for kind in [Connack, Suback, Unsuback, Pingresp] {
        refused(&ALL, (kind as u8) << 4, b"", WrongDirection(kind));
        refused(&ALL, (kind as u8) << 4, b"\0\x01\0\0", WrongDirection(kind));
    }
    refused(&ALL, 0x10, b"\0\x04MQTT\x05\x02\0\0\0\0\0", SecondConnect);
    refused(&ALL, 0x10, b"", SecondConnect);
    let server = Direction::FromServer;
    refused_from(server, &ALL, 0x10, b"", WrongDirection(Connect));
    refused_from(server, &ALL, 0x82, b"", WrongDirection(Subscribe));
    refused_from(server, &ALL, 0xA2, b"", WrongDirection(Unsubscribe));
    refused_from(server, &ALL, 0xC0, b"", WrongDirection(Pingreq));
    refused_from(server, &BEFORE_5, 0xE0, b"", WrongDirection(PacketType::Disconnect));
}

#[test]
fn publish_header() {
    for first in [0x36, 0x37, 0x3E, 0x3F] {
        refused(&ALL, first, b"\0\x01a\0\x01\0", QoS3(Publish));
    }
    for first in [0x38, 0x39] {
        refused(&ALL, first, b"\0\x01a\0", DupAtQoS0);
    }
    refused(&ALL, 0x32, b"\0\x01a\0\0\0", ZeroPacketId(Publish));
    refused(&ALL, 0x34, b"\0\x01a\0\0\0", ZeroPacketId(Publish));
    refused(&ALL, 0x30, b"", Truncated(Publish));
    refused(&ALL, 0x30, b"\0", Truncated(Publish));
    refused(&ALL, 0x30, b"\0\x02a", Truncated(Publish));
    refused(&ALL, 0x32, b"\0\x01a", Truncated(Publish));
    refused(&ALL, 0x32, b"\0\x01a\0", Truncated(Publish));
    refused(&V5, 0x30, b"\0\x01a", Truncated(Publish));
    refused(&V5, 0x32, b"\0\x01a\0\x01", Truncated(Publish));
    for first in [0x30, 0x31] {
        taken(&ALL, first, b"\0\x01a\0");
    }
    for first in [0x32, 0x33, 0x34, 0x35, 0x3A, 0x3B, 0x3C, 0x3D] {
        taken(&ALL, first, b"\0\x01a\xFF\xFF\0");
    }
    taken(&BEFORE_5, 0x30, b"\0\x01a");
}

#[test]
fn publish_topic() {
    refused(&ALL, 0x30, b"\0\x01#\0", TopicWildcard(Publish));
    refused(&ALL, 0x30, b"\0\x03a/+\0", TopicWildcard(Publish));
    refused(&ALL, 0x30, b"\0\x02a+\0", TopicWildcard(Publish));
    refused(&ALL, 0x30, b"\0\x03a\0b\0", NulInString(Publish));
    refused(&ALL, 0x30, b"\0\x01\xFF\0", NotUtf8(Publish));
    refused(&ALL, 0x30, b"\0\x03\xED\xA0\x80\0", NotUtf8(Publish));
    refused(&ALL, 0x30, b"\0\x02\xC0\x80\0", NotUtf8(Publish));
    refused(&ALL, 0x30, b"\0\0\0", EmptyTopic(Publish));
    taken(&ALL, 0x30, b"\0\x01/\0");
    taken(&ALL, 0x30, b"\0\x01 \0");
    taken(&ALL, 0x30, b"\0\x05$SYS/\0");
    taken(&ALL, 0x30, b"\0\x03\xEF\xBB\xBF\0");
    taken(&ALL, 0x30, b"\0\x04\xF0\x9F\x92\xA9\0");
    taken(&ALL, 0x30, b"\0\x01\x01\0");
}

/// A 5.0 PUBLISH to `a` with this property list.
fn with(list: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 1, b'a', list.len() as u8];
    body.extend_from_slice(list);
    body
}

#[test]
fn publish_properties() {
    let no = |list: &[u8], error| refused(&V5, 0x30, &with(list), error);
    no(b"\x23\0\0", TopicAliasZero);
    no(b"\x23\0\x01\x23\0\x01", repeated(Publish, 0x23));
    no(b"\x01\x02", value(Publish, 0x01));
    no(b"\x01\xFF", value(Publish, 0x01));
    no(b"\x01\x01\x01\x01", repeated(Publish, 0x01));
    no(b"\x02\0\0\0\x01\x02\0\0\0\x01", repeated(Publish, 0x02));
    no(b"\x03\0\x01t\x03\0\x01t", repeated(Publish, 0x03));
    no(b"\x08\0\x01t\x08\0\x01t", repeated(Publish, 0x08));
    no(b"\x09\0\x01t\x09\0\x01t", repeated(Publish, 0x09));
    no(b"\x08\0\x01#", value(Publish, 0x08));
    no(b"\x08\0\x03a/+", value(Publish, 0x08));
    no(b"\x08\0\0", value(Publish, 0x08));
    no(b"\x08\0\x01\xFF", NotUtf8(Publish));
    no(b"\x08\0\x01\0", NulInString(Publish));
    no(b"\x03\0\x01\xFF", NotUtf8(Publish));
    no(b"\x03\0\x01\0", NulInString(Publish));
    no(b"\x26\0\x01\xFF\0\x01a", NotUtf8(Publish));
    no(b"\x26\0\x01a\0\x01\xFF", NotUtf8(Publish));
    no(b"\x26\0\x01a\0\x01\0", NulInString(Publish));
    no(b"\x0B\x01", PropertyFromWrongSide { packet: Publish, id: 0x0B });
    for cut in [
        &b"\x01"[..],
        b"\x02\0\0\0",
        b"\x03\0",
        b"\x03\0\x02a",
        b"\x09\0\x01",
        b"\x23\0",
        b"\x26\0\x01a",
        b"\x26\0\x01a\0",
        b"\x26\0\x01a\0\x02b",
        b"\x26",
    ] {
        no(cut, Truncated(Publish));
    }
    for id in [0x00, 0x04, 0x0A, 0x10, 0x14, 0x1B, 0x1D, 0x20, 0x2B, 0x7F, 0x80, 0xFF] {
        no(&[id, 0, 0, 0, 0], PropertyUnknown { packet: Publish, id });
    }
    for id in [
        0x11, 0x12, 0x13, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25,
        0x27, 0x28, 0x29, 0x2A,
    ] {
        no(&[id, 0, 1, 0, 1, 0], PropertyMisplaced { packet: Publish, id });
    }
    for yes in [
        &b"\x01\0"[..],
        b"\x01\x01",
        b"\x02\0\0\0\0",
        b"\x03\0\0",
        b"\x08\0\x01/",
        b"\x09\0\0",
        b"\x09\0\x02\0\xFF",
        b"\x23\xFF\xFF",
        b"\x26\0\0\0\0",
        b"\x26\0\x01a\0\x01b\x26\0\x01a\0\x01b",
        b"\x26\0\x01a\0\x01b\x01\x01\x26\0\x01a\0\x01c",
    ] {
        taken(&V5, 0x30, &with(yes));
    }
    // An empty topic is fine beside an alias.
    taken(&V5, 0x30, b"\0\0\x03\x23\0\x01payload");
    // The list ends where its length says: what follows is payload.
    taken(&V5, 0x30, b"\0\x01a\x02\x01\x01\x01\x07");
    // The property length itself.
    refused(&V5, 0x30, b"\0\x01a\x05\x01\x01", Truncated(Publish));
    refused(&V5, 0x30, b"\0\x01a\x80", Truncated(Publish));
    refused(&V5, 0x30, b"\0\x01a\x80\0", NonMinimalLength);
    refused(&V5, 0x30, b"\0\x01a\xFF\xFF\xFF\xFF\x01", MalformedVarint(Publish));
}

#[test]
fn publish_from_a_server_carries_subscription_identifiers() {
    let bytes = packet(0x30, &with(b"\x0B\x01\x0B\x01\x0B\xFF\xFF\xFF\x7F"));
    let found = frame(&bytes, 100).unwrap().unwrap();
    let publish = decode_publish(&found, &bytes, Version::V5, Direction::FromServer).unwrap();
    let ids: Vec<u32> = publish.properties.subscription_ids.collect();
    assert_eq!(ids, [1, 1, 268_435_455]);
    assert!(publish.properties.forward.is_empty());
    let server = |list: &[u8], error| {
        refused_from(Direction::FromServer, &V5, 0x30, &with(list), error);
    };
    server(b"\x0B\0", value(Publish, 0x0B));
    server(b"\x0B\x81\0", NonMinimalLength);
    server(b"\x0B\xFF\xFF\xFF\xFF\x01", MalformedVarint(Publish));
    server(b"\x0B\x80", Truncated(Publish));
}

#[test]
fn acknowledgements() {
    for (kind, first) in [(Puback, 0x40), (Pubrec, 0x50), (Pubrel, 0x62), (Pubcomp, 0x70)] {
        refused(&ALL, first, b"", Truncated(kind));
        refused(&ALL, first, b"\0", Truncated(kind));
        refused(&ALL, first, b"\0\0", ZeroPacketId(kind));
        refused(&BEFORE_5, first, b"\0\x01\0", TrailingBytes(kind, 1));
        refused(&V5, first, b"\0\x01\x01", UnlistedReason(kind, 1));
        refused(&V5, first, b"\0\x01\xFF", UnlistedReason(kind, 0xFF));
        refused(&V5, first, b"\0\x01\x8E\0", UnlistedReason(kind, 0x8E));
        refused(&V5, first, b"\0\x01\0\0\0", TrailingBytes(kind, 1));
        refused(&V5, first, b"\0\x01\0\x01", Truncated(kind));
        refused(&V5, first, b"\0\x01\0\x02\x01\x01", PropertyMisplaced { packet: kind, id: 1 });
        refused(&V5, first, b"\0\x01\0\x80\0", NonMinimalLength);
        let twice = b"\0\x01\0\x08\x1F\0\x01a\x1F\0\x01b";
        refused(&V5, first, twice, repeated(kind, 0x1F));
        taken(&ALL, first, b"\0\x01");
        taken(&ALL, first, b"\xFF\xFF");
        taken(&V5, first, b"\0\x01\0");
        taken(&V5, first, b"\0\x01\0\0");
        taken(&V5, first, b"\0\x01\0\x0E\x1F\0\0\x26\0\0\0\0\x26\0\x01a\0\0");
    }
    for code in [0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99] {
        taken(&V5, 0x40, &[0, 1, code]);
        taken(&V5, 0x50, &[0, 1, code]);
        refused(&V5, 0x62, &[0, 1, code], UnlistedReason(Pubrel, code));
    }
    for (kind, first) in [(Puback, 0x40), (Pubrec, 0x50)] {
        refused(&V5, first, &[0, 1, 0x92], UnlistedReason(kind, 0x92));
    }
    taken(&V5, 0x62, &[0, 1, 0x92]);
    taken(&V5, 0x70, &[0, 1, 0x92]);
    taken(&[Version::V3_1], 0x6A, b"\0\x01");
}

/// A SUBSCRIBE body of either version: identifier, (list,) the rest.
fn sub(version: Version, list: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut body = vec![0, 1];
    if version.is_v5() {
        body.push(list.len() as u8);
        body.extend_from_slice(list);
    }
    body.extend_from_slice(rest);
    body
}

#[test]
fn filters() {
    use FilterError::*;
    for version in ALL {
        for (text, error) in [
            (&b""[..], Empty),
            (b"a#", MultiLevelWildcard),
            (b"a/#/b", MultiLevelWildcard),
            (b"a+", SingleLevelWildcard),
            (b"$share//a", ShareNameEmpty),
            (b"$share/+/a", ShareNameWildcard),
            (b"$share/g", ShareWithoutFilter),
            (b"$share/g/", ShareWithoutFilter),
        ] {
            let mut one = vec![0, text.len() as u8];
            one.extend_from_slice(text);
            let body = sub(version, b"", &one);
            refused(&[version], 0xA2, &body, MalformedFilter(Unsubscribe, error));
            one.push(0);
            let body = sub(version, b"", &one);
            refused(&[version], 0x82, &body, MalformedFilter(Subscribe, error));
        }
        // Also when it is not the first.
        let body = sub(version, b"", b"\0\x01a\0\0\x02a#\0");
        let error = MalformedFilter(Subscribe, MultiLevelWildcard);
        refused(&[version], 0x82, &body, error);
        for (text, error) in
            [(&b"\0\x01\xFF"[..], NotUtf8 as fn(_) -> _), (b"\0\x03a\0b", NulInString)]
        {
            refused(&[version], 0xA2, &sub(version, b"", text), error(Unsubscribe));
            let with_options = [text, b"\0"].concat();
            refused(&[version], 0x82, &sub(version, b"", &with_options), error(Subscribe));
        }
        for text in [&b"#"[..], b"+", b"/", b"$share/g/#", b"$share", b"$SYS/#", b"a/+/#"] {
            let mut one = vec![0, text.len() as u8];
            one.extend_from_slice(text);
            taken(&[version], 0xA2, &sub(version, b"", &one));
            one.push(2);
            taken(&[version], 0x82, &sub(version, b"", &one));
        }
    }
}

#[test]
fn subscribe() {
    for version in ALL {
        let one = [version];
        let body = |rest: &[u8]| sub(version, b"", rest);
        refused(&one, 0x82, b"", Truncated(Subscribe));
        refused(&one, 0x82, b"\0\0\0\0\x01a\0", ZeroPacketId(Subscribe));
        refused(&one, 0x82, &body(b""), NoFilters(Subscribe));
        refused(&one, 0x82, &body(b"\0\x01a"), Truncated(Subscribe));
        refused(&one, 0x82, &body(b"\0\x02a"), Truncated(Subscribe));
        refused(&one, 0x82, &body(b"\0\x01a\0\0"), Truncated(Subscribe));
        refused(&one, 0x82, &body(b"\0\x01a\x03"), SubscribeQoS3);
        for bits in [0x40, 0x80, 0xC0, 0xC3] {
            let error = SubscribeOptionsReserved(bits);
            refused(&one, 0x82, &body(&[0, 1, b'a', bits]), error);
        }
        taken(&one, 0x82, &body(b"\0\x01a\0\0\x01a\x01\0\x01b\x02"));
    }
    for bits in [0x04, 0x08, 0x10, 0x20, 0x2C] {
        let error = SubscribeOptionsReserved(bits);
        refused(&BEFORE_5, 0x82, &[0, 1, 0, 1, b'a', bits], error);
        taken(&V5, 0x82, &[0, 1, 0, 0, 1, b'a', bits]);
    }
    refused(&V5, 0x82, b"\0\x01\0\0\x01a\x30", RetainHandling3);
    refused(&V5, 0x82, b"\0\x01\0\0\x0A$share/g/a\x04", NoLocalOnShared);
    taken(&V5, 0x82, b"\0\x01\0\0\x0A$share/g/a\x2A");
    taken(&[Version::V3_1], 0x8A, b"\0\x01\0\x01a\0");

    let v5 = |list: &[u8]| sub(Version::V5, list, b"\0\x01a\0");
    refused(&V5, 0x82, &v5(b"\x0B\0"), value(Subscribe, 0x0B));
    refused(&V5, 0x82, &v5(b"\x0B\x01\x0B\x02"), repeated(Subscribe, 0x0B));
    refused(&V5, 0x82, &v5(b"\x0B\x80\0"), NonMinimalLength);
    refused(&V5, 0x82, &v5(b"\x0B\xFF\xFF\xFF\xFF\x7F"), MalformedVarint(Subscribe));
    let misplaced = PropertyMisplaced { packet: Subscribe, id: 0x23 };
    refused(&V5, 0x82, &v5(b"\x23\0\x01"), misplaced);
    taken(&V5, 0x82, &v5(b"\x0B\xFF\xFF\xFF\x7F"));
    taken(&V5, 0x82, &v5(b"\x0B\x01\x26\0\x01a\0\x01b\x26\0\x01a\0\x01b"));
}

#[test]
fn subscribe_options_are_read_bit_by_bit() {
    let bytes = packet(0x82, b"\0\x01\x02\x0B\x07\0\x01a\x00\0\x01b\x2E\0\x01c\x11");
    let found = frame(&bytes, 100).unwrap().unwrap();
    let decoded = decode(&found, &bytes, Version::V5, Direction::FromClient).unwrap();
    let Packet::Subscribe(subscribe) = decoded else { panic!("{decoded:?}") };
    assert_eq!((subscribe.packet_id, subscribe.subscription_id), (1, Some(7)));
    assert_eq!(subscribe.filters.len(), 3);
    let expected = [
        ("a", SubscribeOptions::at(QoS::AtMostOnce)),
        (
            "b",
            SubscribeOptions {
                qos: QoS::ExactlyOnce,
                no_local: true,
                retain_as_published: true,
                retain_handling: RetainHandling::Never,
            },
        ),
        (
            "c",
            SubscribeOptions {
                retain_handling: RetainHandling::SendIfNew,
                ..SubscribeOptions::at(QoS::AtLeastOnce)
            },
        ),
    ];
    assert_eq!(subscribe.filters.collect::<Vec<_>>(), expected);
}

#[test]
fn unsubscribe() {
    for version in ALL {
        let one = [version];
        let body = |rest: &[u8]| sub(version, b"", rest);
        refused(&one, 0xA2, b"", Truncated(Unsubscribe));
        refused(&one, 0xA2, b"\0\0\0\0\x01a", ZeroPacketId(Unsubscribe));
        refused(&one, 0xA2, &body(b""), NoFilters(Unsubscribe));
        refused(&one, 0xA2, &body(b"\0\x02a"), Truncated(Unsubscribe));
        refused(&one, 0xA2, &body(b"\0\x01a\0"), Truncated(Unsubscribe));
        taken(&one, 0xA2, &body(b"\0\x01a\0\x01a"));
    }
    let misplaced = PropertyMisplaced { packet: Unsubscribe, id: 0x0B };
    refused(&V5, 0xA2, &sub(Version::V5, b"\x0B\x01", b"\0\x01a"), misplaced);
    taken(&V5, 0xA2, &sub(Version::V5, b"\x26\0\0\0\0", b"\0\x01a"));
    taken(&[Version::V3_1], 0xAA, b"\0\x01\0\x01a");
}

#[test]
fn pings_have_no_body() {
    refused(&ALL, 0xC0, b"\0", TrailingBytes(Pingreq, 1));
    refused_from(Direction::FromServer, &ALL, 0xD0, b"\0", TrailingBytes(Pingresp, 1));
    taken(&ALL, 0xC0, b"");
}

#[test]
fn disconnect() {
    const KIND: PacketType = PacketType::Disconnect;
    refused(&BEFORE_5, 0xE0, b"\0", TrailingBytes(KIND, 1));
    taken(&ALL, 0xE0, b"");
    for code in [0, 4, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99] {
        taken(&V5, 0xE0, &[code]);
        taken(&V5, 0xE0, &[code, 0]);
    }
    for code in [1, 2, 3, 5, 0x10, 0x7F, 0x84, 0x87, 0x8B, 0x8D, 0x8E, 0x9C, 0xA2, 0xFF] {
        refused(&V5, 0xE0, &[code], UnlistedReason(KIND, code));
    }
    refused(&V5, 0xE0, b"\0\x01", Truncated(KIND));
    refused(&V5, 0xE0, b"\0\0\0", TrailingBytes(KIND, 1));
    refused(&V5, 0xE0, b"\0\x02\x21\x01", PropertyMisplaced { packet: KIND, id: 0x21 });
    let twice = b"\0\x0A\x11\0\0\0\x01\x11\0\0\0\x01";
    refused(&V5, 0xE0, twice, repeated(KIND, 0x11));
    let moved = PropertyFromWrongSide { packet: KIND, id: 0x1C };
    refused(&V5, 0xE0, b"\x04\x04\x1C\0\x01a", moved);
    taken(&V5, 0xE0, b"\x04\x09\x11\0\0\0\x01\x1F\0\x01a");
    let expiry = PropertyFromWrongSide { packet: KIND, id: 0x11 };
    refused_from(Direction::FromServer, &V5, 0xE0, b"\x8E\x05\x11\0\0\0\x01", expiry);
    refused_from(Direction::FromServer, &V5, 0xE0, b"\x04", UnlistedReason(KIND, 4));
}

#[test]
fn auth() {
    const KIND: PacketType = PacketType::Auth;
    refused(&V5, 0xF0, b"", UnlistedReason(KIND, 0));
    refused(&V5, 0xF0, b"\0\x04\x15\0\x01m", UnlistedReason(KIND, 0));
    refused(&V5, 0xF0, b"\x1A\0", UnlistedReason(KIND, 0x1A));
    refused(&V5, 0xF0, b"\x18", Truncated(KIND));
    refused(&V5, 0xF0, b"\x18\0", AuthenticationMethodMissing);
    refused(&V5, 0xF0, b"\x18\x04\x16\0\x01d", AuthenticationMethodMissing);
    refused(&V5, 0xF0, b"\x18\x08\x15\0\x01m\x15\0\x01m", repeated(KIND, 0x15));
    refused(&V5, 0xF0, b"\x18\x04\x15\0\x01m\0", TrailingBytes(KIND, 1));
    taken(&V5, 0xF0, b"\x18\x04\x15\0\x01m");
    taken(&V5, 0xF0, b"\x19\x08\x15\0\x01m\x16\0\x01\xFF");
}

#[test]
fn answers_from_a_server() {
    let no = |versions: &[Version], first, body: &[u8], error| {
        refused_from(Direction::FromServer, versions, first, body, error);
    };
    no(&ALL, 0x20, b"", Truncated(Connack));
    no(&ALL, 0x20, b"\x02\0\0", AcknowledgeFlags(2));
    no(&BEFORE_5, 0x20, b"\0\x06", UnlistedReason(Connack, 6));
    no(&BEFORE_5, 0x20, b"\0\0\0", TrailingBytes(Connack, 1));
    no(&V5, 0x20, b"\0\0", Truncated(Connack));
    no(&V5, 0x20, b"\0\x01\0", UnlistedReason(Connack, 1));
    no(&V5, 0x20, b"\0\0\x02\x24\x02", value(Connack, 0x24));
    no(&V5, 0x20, b"\0\0\x03\x21\0\0", value(Connack, 0x21));
    no(&BEFORE_5, 0x90, b"\0\x01\x03", UnlistedReason(Suback, 3));
    no(&V5, 0x90, b"\0\x01\0\x03", UnlistedReason(Suback, 3));
    no(&ALL, 0x90, b"\0\x01", Truncated(Suback));
    no(&BEFORE_5, 0xB0, b"\0\x01\0", TrailingBytes(Unsuback, 1));
    no(&V5, 0xB0, b"\0\x01\0", Truncated(Unsuback));
    no(&V5, 0xB0, b"\0\x01\0\x01", UnlistedReason(Unsuback, 1));
}
