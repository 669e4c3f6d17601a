//! A second opinion on every byte: the crate mqttbytes.
//!
//! It copies and allocates, so figures of CPU and rate belong to the other
//! codec; the ledger's verdict is what this is for.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use mqttbytes::{QoS as Quality, v4, v5};
use tidegate_codec::{PacketType, QoS, Version};

use crate::engine::{Heard, Malformed, Said, worst};

const PACKET_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Appends a packet as mqttbytes writes it.
pub(crate) fn say(version: Version, said: &Said<'_>, out: &mut Vec<u8>) {
    let mut bytes = BytesMut::new();
    let written = match version {
        Version::V3_1 | Version::V3_1_1 => say_v4(said, &mut bytes),
        Version::V5 => say_v5(said, &mut bytes),
    };
    written.expect("mqttbytes writes what the plan allows: short topics, sound packet ids");
    out.extend_from_slice(&bytes);
}

fn say_v4(said: &Said<'_>, to: &mut BytesMut) -> Result<usize, mqttbytes::Error> {
    match *said {
        Said::Connect { client_id, session_s, keep_alive, username, password } => {
            let mut connect = v4::Connect::new(client_id);
            connect.clean_session = session_s.is_none();
            connect.keep_alive = keep_alive;
            if let Some(name) = username {
                connect.set_login(name, password.unwrap_or_default());
            }
            connect.write(to)
        }
        Said::Subscribe { packet_id, filters, qos } => {
            let filter = |path: &&str| v4::SubscribeFilter::new((*path).to_owned(), quality(qos));
            let mut subscribe = v4::Subscribe::new_many(filters.iter().map(filter));
            subscribe.pkid = packet_id;
            subscribe.write(to)
        }
        Said::Unsubscribe { packet_id, filter } => {
            let mut unsubscribe = v4::Unsubscribe::new(filter);
            unsubscribe.pkid = packet_id;
            unsubscribe.write(to)
        }
        Said::Publish { topic, qos, dup, retain, packet_id, payload } => {
            let payload = Bytes::copy_from_slice(payload);
            let mut publish = v4::Publish::from_bytes(topic, quality(qos), payload);
            publish.pkid = packet_id;
            (publish.dup, publish.retain) = (dup, retain);
            publish.write(to)
        }
        Said::Ack { kind: PacketType::Puback, packet_id } => v4::PubAck::new(packet_id).write(to),
        Said::Ack { kind: PacketType::Pubrec, packet_id } => v4::PubRec::new(packet_id).write(to),
        Said::Ack { kind: PacketType::Pubrel, packet_id } => v4::PubRel::new(packet_id).write(to),
        Said::Ack { kind: _, packet_id } => v4::PubComp::new(packet_id).write(to),
        Said::Pingreq => v4::PingReq.write(to),
        Said::Disconnect { session_ends: _ } => v4::Disconnect.write(to),
    }
}

fn say_v5(said: &Said<'_>, to: &mut BytesMut) -> Result<usize, mqttbytes::Error> {
    match *said {
        Said::Connect { client_id, session_s, keep_alive, username, password } => {
            let mut connect = v5::Connect::new(client_id);
            connect.clean_session = session_s.is_none();
            if session_s.is_some() {
                connect.properties = Some(v5::ConnectProperties {
                    session_expiry_interval: session_s,
                    receive_maximum: None,
                    max_packet_size: None,
                    topic_alias_max: None,
                    request_response_info: None,
                    request_problem_info: None,
                    user_properties: Vec::new(),
                    authentication_method: None,
                    authentication_data: None,
                });
            }
            connect.keep_alive = keep_alive;
            if let Some(name) = username {
                connect.set_login(name, password.unwrap_or_default());
            }
            connect.write(to)
        }
        Said::Subscribe { packet_id, filters, qos } => {
            let filter = |path: &&str| v5::SubscribeFilter::new((*path).to_owned(), quality(qos));
            let mut subscribe = v5::Subscribe::new_many(filters.iter().map(filter));
            subscribe.pkid = packet_id;
            subscribe.write(to)
        }
        Said::Unsubscribe { packet_id, filter } => {
            let mut unsubscribe = v5::Unsubscribe::new(filter);
            unsubscribe.pkid = packet_id;
            unsubscribe.write(to)
        }
        Said::Publish { topic, qos, dup, retain, packet_id, payload } => {
            let payload = Bytes::copy_from_slice(payload);
            let mut publish = v5::Publish::from_bytes(topic, quality(qos), payload);
            publish.pkid = packet_id;
            (publish.dup, publish.retain) = (dup, retain);
            publish.write(to)
        }
        Said::Ack { kind: PacketType::Puback, packet_id } => v5::PubAck::new(packet_id).write(to),
        Said::Ack { kind: PacketType::Pubrec, packet_id } => v5::PubRec::new(packet_id).write(to),
        Said::Ack { kind: PacketType::Pubrel, packet_id } => v5::PubRel::new(packet_id).write(to),
        Said::Ack { kind: _, packet_id } => v5::PubComp::new(packet_id).write(to),
        Said::Pingreq => v5::PingReq.write(to),
        Said::Disconnect { session_ends } => {
            let mut disconnect = v5::Disconnect::new();
            if session_ends {
                let mut properties = v5::DisconnectProperties::new();
                properties.session_expiry_interval = Some(0);
                disconnect.properties = Some(properties);
            }
            disconnect.write(to)
        }
    }
}

/// Understands a packet as mqttbytes reads it; it must agree where the packet ends.
pub(crate) fn hear(version: Version, bytes: &[u8]) -> Result<Heard<'static>, Malformed> {
    // [MQTT5 3.14.2.2.1]: without a property length there are no properties, but mqttbytes
    // insists on one.
    if let (Version::V5, [0xE0, 1, reason]) = (version, bytes) {
        return Ok(Heard::Disconnect { reason: *reason, server_reference: None });
    }
    let mut stream = BytesMut::from(bytes);
    let heard = match version {
        Version::V3_1 | Version::V3_1_1 => {
            hear_v4(v4::read(&mut stream, PACKET_BYTES_MAX).map_err(|_| Malformed)?)
        }
        Version::V5 => hear_v5(v5::read(&mut stream, PACKET_BYTES_MAX).map_err(|_| Malformed)?),
    };
    if stream.is_empty() { Ok(heard) } else { Err(Malformed) }
}

fn hear_v4(packet: v4::Packet) -> Heard<'static> {
    match packet {
        v4::Packet::ConnAck(connack) => {
            let (code, session_present) = (connack.code as u8, connack.session_present);
            Heard::Connack {
                code,
                session_present,
                receive_maximum: u16::MAX,
                server_reference: None,
            }
        }
        v4::Packet::SubAck(suback) => {
            let codes = suback.return_codes.iter().map(|code| match code {
                v4::SubscribeReasonCode::Success(qos) => *qos as u8,
                v4::SubscribeReasonCode::Failure => 0x80,
            });
            Heard::Suback { packet_id: suback.pkid, code: worst(codes).unwrap_or(0x80) }
        }
        v4::Packet::UnsubAck(unsuback) => Heard::Unsuback { packet_id: unsuback.pkid },
        v4::Packet::Publish(publish) => Heard::Publish {
            qos: level(publish.qos),
            retain: publish.retain,
            packet_id: publish.pkid,
            payload: Cow::Owned(publish.payload.to_vec()),
        },
        v4::Packet::PubAck(ack) => acknowledged(PacketType::Puback, ack.pkid, 0),
        v4::Packet::PubRec(ack) => acknowledged(PacketType::Pubrec, ack.pkid, 0),
        v4::Packet::PubRel(ack) => acknowledged(PacketType::Pubrel, ack.pkid, 0),
        v4::Packet::PubComp(ack) => acknowledged(PacketType::Pubcomp, ack.pkid, 0),
        v4::Packet::PingResp => Heard::Pingresp,
        v4::Packet::Connect(_)
        | v4::Packet::Subscribe(_)
        | v4::Packet::Unsubscribe(_)
        | v4::Packet::PingReq
        | v4::Packet::Disconnect => Heard::Unasked,
    }
}

fn hear_v5(packet: v5::Packet) -> Heard<'static> {
    match packet {
        v5::Packet::ConnAck(connack) => {
            let (code, session_present) = (connack.code as u8, connack.session_present);
            let properties = connack.properties;
            let given = properties.as_ref().and_then(|properties| properties.receive_max);
            let receive_maximum = given.unwrap_or(u16::MAX);
            let reference = properties.and_then(|properties| properties.server_reference);
            let server_reference = reference.map(Cow::Owned);
            Heard::Connack { code, session_present, receive_maximum, server_reference }
        }
        v5::Packet::SubAck(suback) => {
            let codes = suback.return_codes.iter().map(|code| match code {
                v5::SubscribeReasonCode::QoS0 => 0,
                v5::SubscribeReasonCode::QoS1 => 1,
                v5::SubscribeReasonCode::QoS2 => 2,
                _ => 0x80,
            });
            Heard::Suback { packet_id: suback.pkid, code: worst(codes).unwrap_or(0x80) }
        }
        v5::Packet::UnsubAck(unsuback) => Heard::Unsuback { packet_id: unsuback.pkid },
        v5::Packet::Publish(publish) => Heard::Publish {
            qos: level(publish.qos),
            retain: publish.retain,
            packet_id: publish.pkid,
            payload: Cow::Owned(publish.payload.to_vec()),
        },
        v5::Packet::PubAck(ack) => acknowledged(PacketType::Puback, ack.pkid, ack.reason as u8),
        v5::Packet::PubRec(ack) => acknowledged(PacketType::Pubrec, ack.pkid, ack.reason as u8),
        v5::Packet::PubRel(ack) => acknowledged(PacketType::Pubrel, ack.pkid, ack.reason as u8),
        v5::Packet::PubComp(ack) => acknowledged(PacketType::Pubcomp, ack.pkid, ack.reason as u8),
        v5::Packet::PingResp => Heard::Pingresp,
        v5::Packet::Disconnect(disconnect) => {
            let reason = disconnect.reason_code as u8;
            let reference = disconnect.properties.and_then(|given| given.server_reference);
            Heard::Disconnect { reason, server_reference: reference.map(Cow::Owned) }
        }
        v5::Packet::Connect(_)
        | v5::Packet::Subscribe(_)
        | v5::Packet::Unsubscribe(_)
        | v5::Packet::PingReq => Heard::Unasked,
    }
}

fn acknowledged(kind: PacketType, packet_id: u16, reason: u8) -> Heard<'static> {
    Heard::Ack { kind, packet_id, reason }
}

fn quality(qos: QoS) -> Quality {
    match qos {
        QoS::AtMostOnce => Quality::AtMostOnce,
        QoS::AtLeastOnce => Quality::AtLeastOnce,
        QoS::ExactlyOnce => Quality::ExactlyOnce,
    }
}

fn level(quality: Quality) -> QoS {
    match quality {
        Quality::AtMostOnce => QoS::AtMostOnce,
        Quality::AtLeastOnce => QoS::AtLeastOnce,
        Quality::ExactlyOnce => QoS::ExactlyOnce,
    }
}
