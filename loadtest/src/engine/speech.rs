//! What a client says and hears, whoever puts it into bytes.
//!
//! The broker and this harness share a codec, so a fault in it could hide from
//! both. Everything that goes over the wire passes through here, and one word
//! on the command line has another implementation say and hear it.

use std::borrow::Cow;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tidegate_codec::{
    Ack, Connack, ConnectOut, Direction, Frame, Packet, PacketType, Property, PublishOut, QoS,
    ReasonCode, SubscribeOptions, Version, decode, encode_ack, encode_connect, encode_disconnect,
    encode_disconnect_v3, encode_pingreq, encode_publish, encode_subscribe, encode_unsubscribe,
};

use crate::oracle;

/// The property's identifier on the wire.
const SESSION_EXPIRY: u8 = 0x11;

/// Who puts packets into bytes and back.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Codec {
    /// Tidegate's own
    #[default]
    Own,
    /// The crate mqttbytes, as a second opinion; slower
    Mqttbytes,
}

/// A packet to the broker.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub(crate) enum Said<'a> {
    Connect {
        client_id: &'a str,
        /// Seconds that the session outlives its connection; none starts clean and ends with it.
        session_s: Option<u32>,
        keep_alive: u16,
        username: Option<&'a str>,
        password: Option<&'a str>,
    },
    Subscribe {
        packet_id: u16,
        filters: &'a [&'a str],
        qos: QoS,
    },
    Unsubscribe {
        packet_id: u16,
        filter: &'a str,
    },
    Publish {
        topic: &'a str,
        qos: QoS,
        dup: bool,
        retain: bool,
        packet_id: u16,
        payload: &'a [u8],
    },
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack {
        kind: PacketType,
        packet_id: u16,
    },
    Pingreq,
    Disconnect {
        /// The session ends too, as far as the version can say that.
        session_ends: bool,
    },
}

/// A packet from the broker.
#[derive(Clone, Debug, Eq, PartialEq)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub(crate) enum Heard<'a> {
    Connack {
        code: u8,
        session_present: bool,
        receive_maximum: u16,
        server_reference: Option<Cow<'a, str>>,
    },
    Suback {
        packet_id: u16,
        /// The worst of all codes: a refusal, or the lowest QoS granted.
        code: u8,
    },
    Unsuback {
        packet_id: u16,
    },
    Publish {
        qos: QoS,
        retain: bool,
        packet_id: u16,
        payload: Cow<'a, [u8]>,
    },
    /// PUBACK, PUBREC, PUBREL or PUBCOMP; success is any reason below 0x80.
    Ack {
        kind: PacketType,
        packet_id: u16,
        reason: u8,
    },
    Pingresp,
    Disconnect {
        reason: u8,
        server_reference: Option<Cow<'a, str>>,
    },
    /// Nothing that we asked for.
    Unasked,
}

/// What came is not MQTT, or is not what its frame says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Malformed;

impl Codec {
    /// In a report.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Mqttbytes => "mqttbytes",
        }
    }

    /// Appends a packet.
    pub(crate) fn say(self, version: Version, said: &Said<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Own => say(version, said, out),
            Self::Mqttbytes => oracle::say(version, said, out),
        }
    }

    /// Understands a packet of a whole frame.
    pub(crate) fn hear<'a>(
        self,
        version: Version,
        frame: &Frame,
        bytes: &'a [u8],
    ) -> Result<Heard<'a>, Malformed> {
        match self {
            Self::Own => hear(version, frame, bytes),
            Self::Mqttbytes => oracle::hear(version, bytes),
        }
    }
}

fn say(version: Version, said: &Said<'_>, out: &mut Vec<u8>) {
    match *said {
        Said::Connect { client_id, session_s, keep_alive, username, password } => {
            let mut expiry = [SESSION_EXPIRY, 0, 0, 0, 0];
            expiry[1..].copy_from_slice(&session_s.unwrap_or(0).to_be_bytes());
            let connect = ConnectOut {
                clean_start: session_s.is_none(),
                keep_alive,
                client_id,
                will: None,
                username,
                password: password.map(str::as_bytes),
                properties: if session_s.is_some() { &expiry } else { &[] },
            };
            encode_connect(out, version, &connect);
        }
        Said::Subscribe { packet_id, filters, qos } => {
            let options = SubscribeOptions { qos, ..SubscribeOptions::default() };
            let filters: Vec<_> = filters.iter().map(|filter| (*filter, options)).collect();
            encode_subscribe(out, version, packet_id, &filters, &[]);
        }
        Said::Unsubscribe { packet_id, filter } => {
            encode_unsubscribe(out, version, packet_id, &[filter], &[]);
        }
        Said::Publish { topic, qos, dup, retain, packet_id, payload } => {
            let payload_len = payload.len();
            let publish = PublishOut {
                topic,
                qos,
                dup,
                retain,
                packet_id,
                payload_len,
                ..PublishOut::default()
            };
            encode_publish(out, version, &publish, payload);
        }
        Said::Ack { kind, packet_id } => {
            encode_ack(out, version, kind, packet_id, ReasonCode::Success, None);
        }
        Said::Pingreq => encode_pingreq(out),
        Said::Disconnect { session_ends: true } if version.is_v5() => {
            encode_disconnect(out, ReasonCode::Success, Some(0), None, None);
        }
        Said::Disconnect { session_ends: _ } => encode_disconnect_v3(out),
    }
}

#[inline]
fn hear<'a>(version: Version, frame: &Frame, bytes: &'a [u8]) -> Result<Heard<'a>, Malformed> {
    let packet = decode(frame, bytes, version, Direction::FromServer).map_err(|_| Malformed)?;
    Ok(match packet {
        Packet::Publish(publish) => Heard::Publish {
            qos: publish.qos,
            retain: publish.retain,
            packet_id: publish.packet_id,
            payload: Cow::Borrowed(publish.payload),
        },
        Packet::Puback(ack) => acknowledged(PacketType::Puback, &ack),
        Packet::Pubrec(ack) => acknowledged(PacketType::Pubrec, &ack),
        Packet::Pubrel(ack) => acknowledged(PacketType::Pubrel, &ack),
        Packet::Pubcomp(ack) => acknowledged(PacketType::Pubcomp, &ack),
        Packet::Connack(connack) => Heard::Connack {
            code: connack.code,
            session_present: connack.session_present,
            receive_maximum: receive_maximum(&connack),
            server_reference: server_reference(&connack),
        },
        Packet::Suback(suback) => {
            let code = worst(suback.codes.iter().copied()).ok_or(Malformed)?;
            Heard::Suback { packet_id: suback.packet_id, code }
        }
        Packet::Unsuback(unsuback) => Heard::Unsuback { packet_id: unsuback.packet_id },
        Packet::Pingresp => Heard::Pingresp,
        Packet::Disconnect(disconnect) => Heard::Disconnect {
            reason: disconnect.reason as u8,
            server_reference: disconnect.server_reference.map(Cow::Borrowed),
        },
        Packet::Connect(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::Pingreq
        | Packet::Auth(_) => Heard::Unasked,
    })
}

fn acknowledged(kind: PacketType, ack: &Ack<'_>) -> Heard<'static> {
    Heard::Ack { kind, packet_id: ack.packet_id, reason: ack.reason as u8 }
}

fn receive_maximum(connack: &Connack<'_>) -> u16 {
    let given = connack.properties.iter().find_map(|property| match property {
        Property::ReceiveMaximum(count) => Some(count),
        _ => None,
    });
    // [MQTT-3.2.2.3.3]: absent is 65,535.
    given.unwrap_or(u16::MAX)
}

fn server_reference<'a>(connack: &Connack<'a>) -> Option<Cow<'a, str>> {
    connack.properties.iter().find_map(|property| match property {
        Property::ServerReference(at) => Some(Cow::Borrowed(at)),
        _ => None,
    })
}

/// A refusal if there is one, else the lowest QoS.
pub(crate) fn worst(codes: impl Iterator<Item = u8> + Clone) -> Option<u8> {
    codes.clone().find(|code| *code >= 0x80).or_else(|| codes.min())
}

#[cfg(test)]
mod tests {
    use tidegate_codec::{ConnackOut, encode_connack, encode_suback, encode_unsuback, frame};

    use super::*;

    fn both(version: Version, bytes: &[u8]) -> [Result<Heard<'_>, Malformed>; 2] {
        let frame = frame(bytes, 1 << 20).expect("sound").expect("whole");
        [Codec::Own, Codec::Mqttbytes].map(|codec| codec.hear(version, &frame, bytes))
    }

    #[test]
    fn both_codecs_say_the_same_bytes() {
        let words = [
            Said::Connect {
                client_id: "me",
                session_s: None,
                keep_alive: 9,
                username: None,
                password: None,
            },
            Said::Connect {
                client_id: "me",
                session_s: Some(3_600),
                keep_alive: 0,
                username: Some("a"),
                password: Some("b"),
            },
            Said::Subscribe { packet_id: 7, filters: &["a/+"], qos: QoS::ExactlyOnce },
            Said::Subscribe { packet_id: 7, filters: &["a/+", "b/#"], qos: QoS::AtMostOnce },
            Said::Unsubscribe { packet_id: 9, filter: "a/+" },
            Said::Publish {
                topic: "a",
                qos: QoS::AtMostOnce,
                dup: false,
                retain: true,
                packet_id: 0,
                payload: &[1; 300],
            },
            Said::Publish {
                topic: "a",
                qos: QoS::AtLeastOnce,
                dup: true,
                retain: false,
                packet_id: 65_535,
                payload: b"x",
            },
            Said::Ack { kind: PacketType::Puback, packet_id: 3 },
            Said::Ack { kind: PacketType::Pubrec, packet_id: 3 },
            Said::Ack { kind: PacketType::Pubrel, packet_id: 3 },
            Said::Ack { kind: PacketType::Pubcomp, packet_id: 3 },
            Said::Pingreq,
            Said::Disconnect { session_ends: false },
            Said::Disconnect { session_ends: true },
        ];
        for version in [Version::V3_1_1, Version::V5] {
            for said in &words {
                let (mut own, mut other) = (Vec::new(), Vec::new());
                Codec::Own.say(version, said, &mut own);
                Codec::Mqttbytes.say(version, said, &mut other);
                assert_eq!(own, other, "{version:?} {said:?}");
            }
        }
    }

    #[test]
    fn both_codecs_hear_the_same() {
        for version in [Version::V3_1_1, Version::V5] {
            let mut packets = vec![Vec::new(); 11];
            let connack = ConnackOut { receive_maximum: Some(20), ..ConnackOut::default() };
            encode_connack(&mut packets[0], version, &connack);
            let (one, two) = (ReasonCode::GrantedQoS1, ReasonCode::GrantedQoS2);
            encode_suback(&mut packets[1], version, 5, &[two], None);
            encode_suback(&mut packets[6], version, 5, &[two, one, two], None);
            encode_unsuback(&mut packets[7], version, 6, &[ReasonCode::Success]);
            let connack = ConnackOut { session_present: true, ..ConnackOut::default() };
            encode_connack(&mut packets[8], version, &connack);
            // A server says no farewell before 5.0.
            packets[9] = vec![0xD0, 0];
            packets[10] = vec![0xD0, 0];
            if version.is_v5() {
                packets[9] = vec![0xE0, 1, 0x8E];
                packets[10].clear();
                let (moved, to) = (ReasonCode::ServerMoved, Some("127.0.0.1:9"));
                encode_disconnect(&mut packets[10], moved, None, None, to);
            }
            let publish = PublishOut {
                topic: "t",
                qos: QoS::AtLeastOnce,
                retain: true,
                packet_id: 4,
                payload_len: 3,
                ..PublishOut::default()
            };
            encode_publish(&mut packets[2], version, &publish, b"abc");
            let (puback, full) = (PacketType::Puback, ReasonCode::QuotaExceeded);
            encode_ack(&mut packets[3], version, puback, 8, full, None);
            encode_ack(&mut packets[4], version, PacketType::Pubrel, 8, ReasonCode::Success, None);
            packets[5] = vec![0xD0, 0];
            for bytes in &packets {
                let [own, other] = both(version, bytes);
                assert!(own.is_ok(), "{version:?} {bytes:?}");
                assert_eq!(own, other, "{version:?} {bytes:?}");
            }
        }
    }

    #[test]
    fn both_codecs_refuse_what_is_cut_short() {
        for version in [Version::V3_1_1, Version::V5] {
            // A PUBLISH whose topic is longer than its frame.
            let bytes = [0x30, 3, 0, 9, b'a'];
            assert_eq!(both(version, &bytes), [Err(Malformed), Err(Malformed)]);
        }
    }
}
