//! What a server sends, PUBLISH apart.

use crate::encode::put_packet;
use crate::writer::put_list;
use crate::{PacketType, ReasonCode, Version, defect};

/// A CONNACK on its way out. What is `None` is left out, which means the
/// standard's default; before 5.0 only the first two fields are sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub struct ConnackOut<'a> {
    pub session_present: bool,
    pub reason: ReasonCode,
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<u16>,
    pub maximum_qos: Option<u8>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_id: Option<&'a str>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<&'a str>,
    pub wildcard_available: Option<bool>,
    pub subscription_ids_available: Option<bool>,
    pub shared_available: Option<bool>,
    pub server_keep_alive: Option<u16>,
    pub response_information: Option<&'a str>,
    pub server_reference: Option<&'a str>,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
}

impl Default for ConnackOut<'_> {
    fn default() -> Self {
        ConnackOut {
            session_present: false,
            reason: ReasonCode::Success,
            session_expiry: None,
            receive_maximum: None,
            maximum_qos: None,
            retain_available: None,
            maximum_packet_size: None,
            assigned_client_id: None,
            topic_alias_maximum: None,
            reason_string: None,
            wildcard_available: None,
            subscription_ids_available: None,
            shared_available: None,
            server_keep_alive: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
        }
    }
}

/// Appends a CONNACK. Before 5.0 the reason becomes a return code.
pub fn encode_connack(out: &mut Vec<u8>, version: Version, connack: &ConnackOut<'_>) {
    let mut present = u8::from(connack.session_present);
    // [MQTT-3.2.2-1]: the other seven bits are 0.
    if version.is_v5() && defect::on("5:3.2.2-1") {
        present |= 2;
    }
    if !version.is_v5() {
        // 3.1 has no Session Present: the byte is reserved there.
        let present = if version == Version::V3_1 { 0 } else { present };
        out.extend_from_slice(&[0x20, 2, present, v3_return_code(connack.reason)]);
        return;
    }
    put_packet(out, PacketType::Connack, 0, |out| {
        out.extend_from_slice(&[present, connack.reason as u8]);
        put_list(out, |list| {
            if let Some(seconds) = connack.session_expiry {
                list.session_expiry_interval(seconds);
            }
            if let Some(count) = connack.receive_maximum {
                list.receive_maximum(count);
            }
            if let Some(qos) = connack.maximum_qos {
                list.maximum_qos(qos);
            }
            if let Some(available) = connack.retain_available {
                list.retain_available(available.into());
            }
            if let Some(bytes) = connack.maximum_packet_size {
                list.maximum_packet_size(bytes);
            }
            if let Some(id) = connack.assigned_client_id {
                list.assigned_client_identifier(id);
            }
            if let Some(alias) = connack.topic_alias_maximum {
                list.topic_alias_maximum(alias);
            }
            if let Some(text) = connack.reason_string {
                list.reason_string(text);
            }
            if let Some(available) = connack.wildcard_available {
                list.wildcard_subscription_available(available.into());
            }
            if let Some(available) = connack.subscription_ids_available {
                list.subscription_identifier_available(available.into());
            }
            if let Some(available) = connack.shared_available {
                list.shared_subscription_available(available.into());
            }
            if let Some(seconds) = connack.server_keep_alive {
                list.server_keep_alive(seconds);
            }
            if let Some(text) = connack.response_information {
                list.response_information(text);
            }
            if let Some(text) = connack.server_reference {
                list.server_reference(text);
            }
            if let Some(method) = connack.authentication_method {
                list.authentication_method(method);
            }
            if let Some(data) = connack.authentication_data {
                list.authentication_data(data);
            }
        });
    });
}

/// The return code of a CONNACK before 5.0 that says most nearly the same.
pub const fn v3_return_code(reason: ReasonCode) -> u8 {
    const VERSION: u8 = 1;
    const IDENTIFIER: u8 = 2;
    const UNAVAILABLE: u8 = 3;
    const CREDENTIALS: u8 = 4;
    const NOT_AUTHORISED: u8 = 5;
    match reason {
        ReasonCode::Success
        | ReasonCode::GrantedQoS1
        | ReasonCode::GrantedQoS2
        | ReasonCode::DisconnectWithWill
        | ReasonCode::NoMatchingSubscribers
        | ReasonCode::NoSubscriptionExisted
        | ReasonCode::ContinueAuthentication
        | ReasonCode::ReAuthenticate => 0,
        ReasonCode::UnsupportedProtocolVersion => VERSION,
        ReasonCode::ClientIdentifierNotValid => IDENTIFIER,
        ReasonCode::BadUserNameOrPassword => CREDENTIALS,
        ReasonCode::NotAuthorized
        | ReasonCode::Banned
        | ReasonCode::BadAuthenticationMethod
        | ReasonCode::TopicFilterInvalid
        | ReasonCode::TopicNameInvalid => NOT_AUTHORISED,
        ReasonCode::UnspecifiedError
        | ReasonCode::MalformedPacket
        | ReasonCode::ProtocolError
        | ReasonCode::ImplementationSpecificError
        | ReasonCode::ServerUnavailable
        | ReasonCode::ServerBusy
        | ReasonCode::ServerShuttingDown
        | ReasonCode::KeepAliveTimeout
        | ReasonCode::SessionTakenOver
        | ReasonCode::PacketIdentifierInUse
        | ReasonCode::PacketIdentifierNotFound
        | ReasonCode::ReceiveMaximumExceeded
        | ReasonCode::TopicAliasInvalid
        | ReasonCode::PacketTooLarge
        | ReasonCode::MessageRateTooHigh
        | ReasonCode::QuotaExceeded
        | ReasonCode::AdministrativeAction
        | ReasonCode::PayloadFormatInvalid
        | ReasonCode::RetainNotSupported
        | ReasonCode::QoSNotSupported
        | ReasonCode::UseAnotherServer
        | ReasonCode::ServerMoved
        | ReasonCode::SharedSubscriptionsNotSupported
        | ReasonCode::ConnectionRateExceeded
        | ReasonCode::MaximumConnectTime
        | ReasonCode::SubscriptionIdentifiersNotSupported
        | ReasonCode::WildcardSubscriptionsNotSupported => UNAVAILABLE,
    }
}

/// Appends a PUBACK, PUBREC, PUBREL or PUBCOMP, in 5.0 in its shortest form.
/// Before 5.0 there is no reason and no reason string.
#[inline]
pub fn encode_ack(
    out: &mut Vec<u8>,
    version: Version,
    kind: PacketType,
    packet_id: u16,
    reason: ReasonCode,
    reason_string: Option<&str>,
) {
    let flags = if kind == PacketType::Pubrel { 0b0010 } else { 0 };
    let first = (kind as u8) << 4 | flags;
    let [high, low] = packet_id.to_be_bytes();
    match (version, reason_string) {
        (Version::V5, Some(text)) => put_packet(out, kind, flags, |out| {
            out.extend_from_slice(&[high, low, reason as u8]);
            put_list(out, |list| _ = list.reason_string(text));
        }),
        (Version::V5, None) if reason != ReasonCode::Success => {
            out.extend_from_slice(&[first, 3, high, low, reason as u8]);
        }
        (Version::V3_1 | Version::V3_1_1 | Version::V5, _) => {
            out.extend_from_slice(&[first, 2, high, low]);
        }
    }
}

/// Appends a SUBACK. Before 5.0 every error becomes 0x80.
pub fn encode_suback(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    codes: &[ReasonCode],
    reason_string: Option<&str>,
) {
    put_packet(out, PacketType::Suback, 0, |out| {
        out.extend_from_slice(&answered(packet_id, version).to_be_bytes());
        if version.is_v5() {
            put_reason_string(out, reason_string);
            out.extend(codes.iter().map(|code| *code as u8));
        } else {
            // [MQTT-3.9.3-2 of 3.1.1]
            let refused = |code: ReasonCode| code.is_error() && !defect::on("3:3.9.3-2");
            out.extend(codes.iter().map(|code| if refused(*code) { 0x80 } else { *code as u8 }));
        }
    });
}

/// Appends an UNSUBACK. Before 5.0 it has no payload.
pub fn encode_unsuback(out: &mut Vec<u8>, version: Version, packet_id: u16, codes: &[ReasonCode]) {
    put_packet(out, PacketType::Unsuback, 0, |out| {
        out.extend_from_slice(&answered(packet_id, version).to_be_bytes());
        if version.is_v5() {
            put_reason_string(out, None);
            out.extend(codes.iter().map(|code| *code as u8));
        }
    });
}

/// Appends a DISCONNECT of 5.0, in its shortest form.
pub fn encode_disconnect(
    out: &mut Vec<u8>,
    reason: ReasonCode,
    session_expiry: Option<u32>,
    reason_string: Option<&str>,
    server_reference: Option<&str>,
) {
    if session_expiry.is_none() && reason_string.is_none() && server_reference.is_none() {
        match reason {
            ReasonCode::Success => out.extend_from_slice(&[0xE0, 0]),
            code => out.extend_from_slice(&[0xE0, 1, code as u8]),
        }
        return;
    }
    put_packet(out, PacketType::Disconnect, 0, |out| {
        out.push(reason as u8);
        put_list(out, |list| {
            if let Some(seconds) = session_expiry {
                list.session_expiry_interval(seconds);
            }
            if let Some(text) = reason_string {
                list.reason_string(text);
            }
            if let Some(text) = server_reference {
                list.server_reference(text);
            }
        });
    });
}

/// Appends a PINGRESP.
pub fn encode_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// The identifier of the packet that is answered. [MQTT-2.2.1-6]
fn answered(packet_id: u16, version: Version) -> u16 {
    let off = defect::on(version.pick("5:2.2.1-6", "3:2.3.1-7"));
    packet_id.wrapping_add(u16::from(off))
}

fn put_reason_string(out: &mut Vec<u8>, reason_string: Option<&str>) {
    match reason_string {
        Some(text) => put_list(out, |list| _ = list.reason_string(text)),
        None => out.push(0),
    }
}
