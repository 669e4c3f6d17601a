//! Every encoder against the bytes that the standard asks for, and back.

use tidegate_codec::*;

fn read(bytes: &[u8], version: Version, from: Direction) -> Packet<'_> {
    let found = frame(bytes, u32::MAX).unwrap().unwrap();
    assert_eq!(found.total, bytes.len());
    decode(&found, bytes, version, from).unwrap()
}

fn bytes(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

#[test]
fn acks_are_in_their_shortest_form() {
    use PacketType::*;
    let ack = |version, kind, reason, text| {
        bytes(|out| encode_ack(out, version, kind, 0x102, reason, text))
    };
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        for (kind, first) in [(Puback, 0x40), (Pubrec, 0x50), (Pubrel, 0x62), (Pubcomp, 0x70)] {
            assert_eq!(ack(version, kind, ReasonCode::Success, None), [first, 2, 1, 2]);
        }
    }
    let lost = ReasonCode::PacketIdentifierNotFound;
    assert_eq!(ack(Version::V5, Pubcomp, lost, None), [0x70, 3, 1, 2, 0x92]);
    assert_eq!(ack(Version::V3_1_1, Pubcomp, lost, Some("x")), [0x70, 2, 1, 2]);
    let told = ack(Version::V5, Pubrel, lost, Some("no"));
    assert_eq!(told, [0x62, 9, 1, 2, 0x92, 5, 0x1F, 0, 2, b'n', b'o']);
    let Packet::Pubrel(found) = read(&told, Version::V5, Direction::FromClient) else { panic!() };
    assert_eq!((found.packet_id, found.reason), (0x102, lost));
    assert_eq!(found.properties.reason_string(), Some("no"));
}

#[test]
fn a_connack_lists_what_it_is_given() {
    let plain = ConnackOut::default();
    assert_eq!(bytes(|out| encode_connack(out, Version::V5, &plain)), [0x20, 3, 0, 0, 0]);
    let full = ConnackOut {
        session_present: true,
        reason: ReasonCode::Success,
        session_expiry: Some(1),
        receive_maximum: Some(2),
        maximum_qos: Some(1),
        retain_available: Some(false),
        maximum_packet_size: Some(3),
        assigned_client_id: Some("id"),
        topic_alias_maximum: Some(4),
        reason_string: Some("ok"),
        wildcard_available: Some(true),
        subscription_ids_available: Some(false),
        shared_available: Some(true),
        server_keep_alive: Some(5),
        response_information: Some("r"),
        server_reference: Some("s"),
        authentication_method: Some("m"),
        authentication_data: Some(b"d"),
    };
    let out = bytes(|out| encode_connack(out, Version::V5, &full));
    let Packet::Connack(found) = read(&out, Version::V5, Direction::FromServer) else { panic!() };
    assert_eq!((found.session_present, found.code), (true, 0));
    use Property::*;
    assert_eq!(
        found.properties.iter().collect::<Vec<_>>(),
        [
            SessionExpiryInterval(1),
            ReceiveMaximum(2),
            MaximumQoS(1),
            RetainAvailable(0),
            MaximumPacketSize(3),
            AssignedClientIdentifier("id"),
            TopicAliasMaximum(4),
            ReasonString("ok"),
            WildcardSubscriptionAvailable(1),
            SubscriptionIdentifierAvailable(0),
            SharedSubscriptionAvailable(1),
            Property::ServerKeepAlive(5),
            ResponseInformation("r"),
            ServerReference("s"),
            AuthenticationMethod("m"),
            AuthenticationData(b"d"),
        ]
    );
}

#[test]
fn a_refusal_before_5_is_a_return_code() {
    use ReasonCode::*;
    for (reason, code) in [
        (Success, 0),
        (UnsupportedProtocolVersion, 1),
        (ClientIdentifierNotValid, 2),
        (ServerUnavailable, 3),
        (ServerBusy, 3),
        (QuotaExceeded, 3),
        (ConnectionRateExceeded, 3),
        (BadUserNameOrPassword, 4),
        (NotAuthorized, 5),
    ] {
        let connack = ConnackOut { reason, ..Default::default() };
        let out = bytes(|out| encode_connack(out, Version::V3_1_1, &connack));
        assert_eq!(out, [0x20, 2, 0, code], "{reason:?}");
    }
    assert!(ReasonCode::ALL.iter().all(|r| (v3_return_code(*r) == 0) != r.is_error()));
}

#[test]
fn session_present_is_sent_from_3_1_1_on() {
    let connack = ConnackOut { session_present: true, ..Default::default() };
    for (version, flags) in [(Version::V3_1, 0), (Version::V3_1_1, 1)] {
        let out = bytes(|out| encode_connack(out, version, &connack));
        assert_eq!(out, [0x20, 2, flags, 0]);
    }
}

#[test]
fn suback_and_unsuback_have_a_code_a_filter_where_the_version_has_them() {
    let codes = [ReasonCode::GrantedQoS2, ReasonCode::NotAuthorized, ReasonCode::Success];
    let suback = |version| bytes(|out| encode_suback(out, version, 7, &codes, None));
    assert_eq!(suback(Version::V3_1_1), [0x90, 5, 0, 7, 2, 0x80, 0]);
    assert_eq!(suback(Version::V5), [0x90, 6, 0, 7, 0, 2, 0x87, 0]);
    let codes = [ReasonCode::NoSubscriptionExisted];
    let unsuback = |version| bytes(|out| encode_unsuback(out, version, 7, &codes));
    assert_eq!(unsuback(Version::V3_1), [0xB0, 2, 0, 7]);
    assert_eq!(unsuback(Version::V5), [0xB0, 4, 0, 7, 0, 0x11]);
}

#[test]
fn a_disconnect_is_in_its_shortest_form() {
    let taken = ReasonCode::SessionTakenOver;
    assert_eq!(bytes(|o| encode_disconnect(o, ReasonCode::Success, None, None, None)), [0xE0, 0]);
    assert_eq!(bytes(|o| encode_disconnect(o, taken, None, None, None)), [0xE0, 1, 0x8E]);
    let out = bytes(|o| encode_disconnect(o, taken, None, Some("r"), Some("s")));
    let Packet::Disconnect(found) = read(&out, Version::V5, Direction::FromServer) else {
        panic!()
    };
    assert_eq!((found.reason_string, found.server_reference), (Some("r"), Some("s")));
}

#[test]
fn pings_are_two_bytes() {
    assert_eq!(bytes(encode_pingreq), [0xC0, 0]);
    assert_eq!(bytes(encode_pingresp), [0xD0, 0]);
    assert_eq!(bytes(encode_disconnect_v3), [0xE0, 0]);
}

#[test]
fn a_publish_is_what_the_standard_draws() {
    let publish = PublishOut {
        qos: QoS::AtLeastOnce,
        retain: true,
        dup: true,
        topic: "a/b",
        packet_id: 10,
        payload_len: 2,
        ..Default::default()
    };
    let out = bytes(|out| encode_publish(out, Version::V3_1_1, &publish, b"hi"));
    assert_eq!(out, [0x3B, 9, 0, 3, b'a', b'/', b'b', 0, 10, b'h', b'i']);
    assert_eq!(out.len(), publish.len(Version::V3_1_1));
    let out = bytes(|out| encode_publish(out, Version::V5, &publish, b"hi"));
    assert_eq!(out, [0x3B, 10, 0, 3, b'a', b'/', b'b', 0, 10, 0, b'h', b'i']);
    assert_eq!(out.len(), publish.len(Version::V5));
}

#[test]
fn the_connections_own_properties_come_first_and_the_forwarded_follow_verbatim() {
    let mut forward = PropertyWriter::new();
    forward.user_property("k", "1").content_type("t").user_property("k", "0");
    let publish = PublishOut {
        topic: "",
        topic_alias: Some(3),
        message_expiry: Some(60),
        subscription_ids: &[1, 200],
        forward: forward.bytes(),
        ..Default::default()
    };
    let out = bytes(|out| encode_publish(out, Version::V5, &publish, b""));
    assert_eq!(out.len(), publish.len(Version::V5));
    let Packet::Publish(found) = read(&out, Version::V5, Direction::FromServer) else { panic!() };
    let properties = found.properties;
    assert_eq!((properties.topic_alias, properties.message_expiry), (Some(3), Some(60)));
    assert_eq!(properties.subscription_ids.collect::<Vec<_>>(), [1, 200]);
    assert_eq!(properties.forward.to_vec(), forward.bytes());
    assert_eq!(properties.forward.len(), forward.bytes().len());
    assert_eq!(properties.forward.whole(), None);
}

#[test]
fn a_list_without_the_connections_own_properties_is_forwarded_without_a_copy() {
    let mut list = PropertyWriter::new();
    list.payload_format_indicator(1).response_topic("r").correlation_data(b"\0\xFF");
    let publish = PublishOut { topic: "t", forward: list.bytes(), ..Default::default() };
    let out = bytes(|out| encode_publish(out, Version::V5, &publish, b""));
    let Packet::Publish(found) = read(&out, Version::V5, Direction::FromClient) else { panic!() };
    assert!(found.properties.payload_is_utf8);
    assert_eq!(found.properties.forward.whole(), Some(list.bytes()));
}
