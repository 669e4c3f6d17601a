//! The first packet of a connection: what passes, and what the peer is told.

use tidegate_codec::ConnectAnswer::{Close, V3, V5, V5Level};
use tidegate_codec::DecodeError::*;
use tidegate_codec::PacketType::{Connect as CONNECT, Pingreq};
use tidegate_codec::*;

fn first(bytes: &[u8]) -> Result<Connect<'_>, ConnectError> {
    let found = frame(bytes, u32::MAX).unwrap().expect("the packet is whole");
    decode_connect(&found, bytes)
}

/// A CONNECT: name, level, flags, keep alive 10, and the rest.
fn connect(name: &[u8], level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    let len = 2 + name.len() + 4 + rest.len();
    let mut bytes = vec![0x10, len as u8, 0, name.len() as u8];
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&[level, flags, 0, 10]);
    bytes.extend_from_slice(rest);
    bytes
}

fn v5(flags: u8, rest: &[u8]) -> Vec<u8> {
    connect(b"MQTT", 5, flags, rest)
}

fn v4(flags: u8, rest: &[u8]) -> Vec<u8> {
    connect(b"MQTT", 4, flags, rest)
}

fn v3(flags: u8, rest: &[u8]) -> Vec<u8> {
    connect(b"MQIsdp", 3, flags, rest)
}

#[track_caller]
fn refused(bytes: &[u8], answer: ConnectAnswer, error: DecodeError) {
    assert_eq!(first(bytes), Err(ConnectError { answer, error }), "{bytes:02x?}");
}

/// The same fault in 5.0, told with its reason, and before, met by a bare close.
#[track_caller]
fn refused_in_all(flags: u8, payload: &[u8], error: DecodeError) {
    refused(&v5(flags, &[b"\0", payload].concat()), V5(error.reason()), error);
    refused(&v4(flags, payload), Close, error);
    refused(&v3(flags, payload), Close, error);
}

#[test]
fn three_versions_are_spoken() {
    for (bytes, version) in [
        (v3(2, b"\0\x01c"), Version::V3_1),
        (v4(2, b"\0\x01c"), Version::V3_1_1),
        (v5(2, b"\0\0\x01c"), Version::V5),
    ] {
        let found = first(&bytes).unwrap();
        assert_eq!((found.version, found.client_id), (version, "c"));
        assert_eq!((found.clean_start, found.keep_alive), (true, 10));
        assert_eq!((found.will, found.username, found.password), (None, None, None));
        assert_eq!(found.properties, ConnectProperties::default());
    }
}

#[test]
fn an_unknown_level_is_told_so() {
    for level in 6..=0x7F {
        let bytes = connect(b"MQTT", level, 2, b"\0\0");
        refused(&bytes, V5Level, ProtocolLevel(level));
    }
    for level in [0, 1, 2, 3, 0x80, 0x83, 0x84, 0x85, 0xFF] {
        refused(&connect(b"MQTT", level, 2, b"\0\0"), V3(1), ProtocolLevel(level));
    }
    for level in [0, 1, 2, 4, 5, 0x83] {
        refused(&connect(b"MQIsdp", level, 2, b"\0\0"), V3(1), ProtocolLevel(level));
    }
    // The level alone decides: what follows may be of a future shape.
    refused(&[0x10, 7, 0, 4, b'M', b'Q', b'T', b'T', 6], V5Level, ProtocolLevel(6));
}

#[test]
fn answers_are_the_bytes_of_the_checklist() {
    for (answer, bytes) in [
        (Close, &[][..]),
        (V3(1), &[0x20, 2, 0, 1]),
        (V5Level, &[0x20, 3, 0, 0x84, 0]),
        (V5(ReasonCode::ProtocolError), &[0x20, 3, 0, 0x82, 0]),
    ] {
        let mut out = Vec::new();
        answer.encode(&mut out);
        assert_eq!(out, bytes);
    }
}

#[test]
fn a_wrong_name_is_met_by_a_close() {
    for name in [&b"mqtt"[..], b"MQTt", b"MQT", b"MQTTT", b"", b"MQIsdP", b"HTTP", b"\xFF"] {
        refused(&connect(name, 4, 2, b"\0\0"), Close, ProtocolName);
        refused(&connect(name, 5, 2, b"\0\0\0"), Close, ProtocolName);
    }
    for cut in
        [&[0x10u8, 0][..], &[0x10, 1, 0], &[0x10, 3, 0, 4, b'M'], &[0x10, 6, 0, 4, 77, 81, 84, 84]]
    {
        refused(cut, Close, Truncated(CONNECT));
    }
}

#[test]
fn anything_before_connect_is_met_by_a_close() {
    refused(&[0xC0, 0], Close, NotConnect(Pingreq as u8));
    for kind in (0..=15).filter(|kind| *kind != 1) {
        refused(&[kind << 4, 0], Close, NotConnect(kind));
    }
}

#[test]
fn fixed_header_flags_are_zero() {
    for flags in 1..16 {
        let error = ReservedFlags(CONNECT, flags);
        let mut bytes = v5(2, b"\0\0\0");
        bytes[0] |= flags;
        refused(&bytes, V5(ReasonCode::MalformedPacket), error);
        let mut bytes = v4(2, b"\0\0");
        bytes[0] |= flags;
        refused(&bytes, Close, error);
    }
}

#[test]
fn a_non_minimal_length_is_malformed_in_5_0_only() {
    let stretch = |mut bytes: Vec<u8>| {
        bytes[1] |= 0x80;
        bytes.insert(2, 0);
        bytes
    };
    let malformed = V5(ReasonCode::MalformedPacket);
    refused(&stretch(v5(2, b"\0\0\0")), malformed, NonMinimalLength);
    assert!(first(&stretch(v4(2, b"\0\0"))).is_ok());
    assert!(first(&stretch(v3(2, b"\0\0"))).is_ok());
}

#[test]
fn connect_flags() {
    refused_in_all(0x01, b"\0\0", ConnectFlagReserved(0x01));
    refused_in_all(0x03, b"\0\0", ConnectFlagReserved(0x03));
    refused_in_all(0x08, b"\0\0", WillFlagsWithoutWill(0x08));
    refused_in_all(0x10, b"\0\0", WillFlagsWithoutWill(0x10));
    refused_in_all(0x20, b"\0\0", WillFlagsWithoutWill(0x20));
    refused_in_all(0x1C, b"\0\0\0\x01w\0\0", QoS3(CONNECT));
    refused_in_all(0x18, b"\0\0", QoS3(CONNECT));
}

#[test]
fn a_password_without_a_user_name_is_for_3_1_and_5_0() {
    refused(&v4(0x42, b"\0\0\0\x01p"), Close, PasswordWithoutUserName);
    for bytes in [v5(0x42, b"\0\0\0\0\x01p"), v3(0x42, b"\0\0\0\x01p")] {
        let found = first(&bytes).unwrap();
        assert_eq!((found.username, found.password), (None, Some(&b"p"[..])));
    }
}

#[test]
fn user_name_and_password_may_be_left_out_in_3_1_alone() {
    for (flags, payload) in [(0xC2, &b"\0\0"[..]), (0x82, b"\0\0"), (0xC2, b"\0\0\0\x01u")] {
        refused(&v4(flags, payload), Close, Truncated(CONNECT));
        let five = v5(flags, &[b"\0", payload].concat());
        refused(&five, V5(ReasonCode::MalformedPacket), Truncated(CONNECT));
        assert!(first(&v3(flags, payload)).is_ok_and(|found| found.password.is_none()));
    }
    refused(&v3(0x82, b"\0\0\0\x02u"), Close, Truncated(CONNECT));
}

#[test]
fn payload_fields() {
    refused_in_all(0x02, b"", Truncated(CONNECT));
    refused_in_all(0x02, b"\0", Truncated(CONNECT));
    refused_in_all(0x02, b"\0\x02a", Truncated(CONNECT));
    refused_in_all(0x02, b"\0\x01a\0", TrailingBytes(CONNECT, 1));
    refused_in_all(0x82, b"\0\0\0\x01u\0", TrailingBytes(CONNECT, 1));
    refused_in_all(0x02, b"\0\x01\xFF", NotUtf8(CONNECT));
    refused_in_all(0x02, b"\0\x01\0", NulInString(CONNECT));
    refused_in_all(0x82, b"\0\0\0\x01\xFF", NotUtf8(CONNECT));
    refused_in_all(0x82, b"\0\0\0\x01\0", NulInString(CONNECT));
    refused_in_all(0xC2, b"\0\0\0\x01u\0\x02p", Truncated(CONNECT));
    let bytes = v4(0xC0, b"\0\0\0\0\0\x02\0\xFF");
    let found = first(&bytes).unwrap();
    assert_eq!((found.clean_start, found.client_id), (false, ""));
    assert_eq!((found.username, found.password), (Some(""), Some(&b"\0\xFF"[..])));
}

#[test]
fn wills() {
    let will = |topic: &[u8]| [b"\0\0\0", &[topic.len() as u8][..], topic, b"\0\0"].concat();
    for (topic, error) in [
        (&b""[..], EmptyTopic(CONNECT)),
        (b"a/#", TopicWildcard(CONNECT)),
        (b"+", TopicWildcard(CONNECT)),
        (b"a\0", NulInString(CONNECT)),
        (b"\xC0\x80", NotUtf8(CONNECT)),
    ] {
        refused(&v4(0x06, &will(topic)), Close, error);
        refused(&v3(0x06, &will(topic)), Close, error);
        let five = [b"\0\0\0\0\0", &[topic.len() as u8][..], topic, b"\0\0"].concat();
        refused(&v5(0x06, &five), V5(error.reason()), error);
    }
    refused(&v4(0x06, b"\0\0"), Close, Truncated(CONNECT));
    refused(&v4(0x06, b"\0\0\0\x01w"), Close, Truncated(CONNECT));
    let bytes = v4(0x36, b"\0\0\0\x01w\0\x02hi");
    let found = first(&bytes).unwrap().will.unwrap();
    assert_eq!((found.topic, found.payload), ("w", &b"hi"[..]));
    assert_eq!((found.qos, found.retain, found.delay), (QoS::ExactlyOnce, true, 0));
    // A zero-length payload is legal.
    assert!(first(&v4(0x06, b"\0\0\0\x01w\0\0")).is_ok());
}

#[test]
fn will_properties() {
    let with = |list: &[u8]| {
        v5(0x06, &[b"\0\0\0", &[list.len() as u8][..], list, b"\0\x01w\0\0"].concat())
    };
    let list = b"\x18\0\0\0\x05\x03\0\x01t\x02\0\0\0\x09\x01\x01\x26\0\x01a\0\x01b";
    let bytes = with(list);
    let will = first(&bytes).unwrap().will.unwrap();
    assert_eq!((will.delay, will.message_expiry, will.payload_is_utf8), (5, Some(9), true));
    // The delay and the expiry stay here, the rest goes on in its order.
    assert_eq!(will.forward.to_vec(), b"\x03\0\x01t\x01\x01\x26\0\x01a\0\x01b");
    let told = |list: &[u8], error: DecodeError| refused(&with(list), V5(error.reason()), error);
    told(b"\x18\0\0\0\x05\x18\0\0\0\x05", PropertyRepeated { packet: CONNECT, id: 0x18 });
    told(b"\x23\0\x01", PropertyMisplaced { packet: CONNECT, id: 0x23 });
    told(b"\x11\0\0\0\x01", PropertyMisplaced { packet: CONNECT, id: 0x11 });
    told(b"\x01\x02", PropertyValue { packet: CONNECT, id: 0x01 });
    told(b"\x08\0\x01#", PropertyValue { packet: CONNECT, id: 0x08 });
    told(b"\x18\0\0", Truncated(CONNECT));
}

#[test]
fn connect_properties() {
    let with = |list: &[u8]| v5(2, &[&[list.len() as u8][..], list, b"\0\0"].concat());
    let told = |list: &[u8], error: DecodeError| refused(&with(list), V5(error.reason()), error);
    let value = |id| PropertyValue { packet: CONNECT, id };
    told(b"\x21\0\0", value(0x21));
    told(b"\x27\0\0\0\0", value(0x27));
    told(b"\x17\x02", value(0x17));
    told(b"\x19\x02", value(0x19));
    told(b"\x16\0\x01d", AuthenticationDataAlone(CONNECT));
    told(b"\x80", PropertyUnknown { packet: CONNECT, id: 0x80 });
    told(b"\x15\0\x01\xFF", NotUtf8(CONNECT));
    for (id, one) in [
        (0x11, &b"\x11\0\0\0\x01"[..]),
        (0x15, b"\x15\0\x01m"),
        (0x17, b"\x17\x01"),
        (0x19, b"\x19\x01"),
        (0x21, b"\x21\0\x01"),
        (0x22, b"\x22\0\x01"),
        (0x27, b"\x27\0\0\0\x01"),
    ] {
        assert!(first(&with(one)).is_ok(), "{one:02x?}");
        told(&[one, one].concat(), PropertyRepeated { packet: CONNECT, id });
        told(&one[..one.len() - 1], Truncated(CONNECT));
    }
    for id in [1, 2, 3, 8, 9, 0x0B, 0x12, 0x13, 0x18, 0x1A, 0x1C, 0x1F, 0x23, 0x24, 0x25, 0x28] {
        told(&[id, 0, 1, 0, 0], PropertyMisplaced { packet: CONNECT, id });
    }
    let list = b"\x11\xFF\xFF\xFF\xFF\x21\0\x07\x27\0\0\x10\0\x22\0\x03\x19\x01\x17\0\
        \x26\0\x01k\0\x01v\x15\0\x01m\x16\0\x01\xFF\x26\0\x01k\0\x01w";
    let bytes = with(list);
    let found = first(&bytes).unwrap().properties;
    assert_eq!((found.session_expiry, found.receive_maximum), (Some(u32::MAX), Some(7)));
    assert_eq!((found.maximum_packet_size, found.topic_alias_maximum), (Some(4096), 3));
    assert!(found.request_response_information && !found.request_problem_information);
    assert_eq!(found.authentication_method, Some("m"));
    assert_eq!(found.authentication_data, Some(&b"\xFF"[..]));
    assert_eq!(found.raw.user_properties().collect::<Vec<_>>(), [("k", "v"), ("k", "w")]);
    assert_eq!(found.raw.raw(), list);
}

#[test]
fn the_property_length_itself() {
    let malformed = V5(ReasonCode::MalformedPacket);
    refused(&v5(2, b""), malformed, Truncated(CONNECT));
    refused(&v5(2, b"\x05\0\0"), malformed, Truncated(CONNECT));
    refused(&v5(2, b"\x80\0\0\0"), malformed, NonMinimalLength);
    refused(&v5(2, b"\xFF\xFF\xFF\xFF\0"), malformed, MalformedVarint(CONNECT));
}
