//! What a client sends, PUBLISH apart: for the load harness and the tests.

use crate::encode::{put_field, put_packet, put_varint};
use crate::writer::put_list;
use crate::{PacketType, QoS, ReasonCode, SubscribeOptions, Version};

/// A CONNECT on its way out.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectOut<'a> {
    /// Clean Start; before 5.0 Clean Session.
    pub clean_start: bool,
    /// Seconds; 0 for none.
    pub keep_alive: u16,
    /// The client identifier.
    pub client_id: &'a str,
    /// The will.
    pub will: Option<WillOut<'a>>,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password.
    pub password: Option<&'a [u8]>,
    /// A property list as [`PropertyWriter`](crate::PropertyWriter) makes it (5.0).
    pub properties: &'a [u8],
}

/// The will in a CONNECT.
#[derive(Clone, Copy, Debug, Default)]
pub struct WillOut<'a> {
    /// Where.
    pub topic: &'a str,
    /// What.
    pub payload: &'a [u8],
    /// At which QoS.
    pub qos: QoS,
    /// Stored or not.
    pub retain: bool,
    /// A property list (5.0).
    pub properties: &'a [u8],
}

/// Appends a CONNECT.
pub fn encode_connect(out: &mut Vec<u8>, version: Version, connect: &ConnectOut<'_>) {
    put_packet(out, PacketType::Connect, 0, |out| {
        match version {
            Version::V3_1 => put_field(out, b"MQIsdp"),
            Version::V3_1_1 | Version::V5 => put_field(out, b"MQTT"),
        }
        out.extend_from_slice(&[version as u8, connect_flags(connect)]);
        out.extend_from_slice(&connect.keep_alive.to_be_bytes());
        put_properties(out, version, connect.properties);
        put_field(out, connect.client_id.as_bytes());
        if let Some(will) = &connect.will {
            put_properties(out, version, will.properties);
            put_field(out, will.topic.as_bytes());
            put_field(out, will.payload);
        }
        if let Some(name) = connect.username {
            put_field(out, name.as_bytes());
        }
        if let Some(password) = connect.password {
            put_field(out, password);
        }
    });
}

fn connect_flags(connect: &ConnectOut<'_>) -> u8 {
    let mut flags = u8::from(connect.clean_start) << 1;
    if let Some(will) = &connect.will {
        flags |= 1 << 2 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
    }
    flags | u8::from(connect.password.is_some()) << 6 | u8::from(connect.username.is_some()) << 7
}

/// Appends a SUBSCRIBE. Before 5.0 only the QoS of the options is sent.
pub fn encode_subscribe(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    filters: &[(&str, SubscribeOptions)],
    properties: &[u8],
) {
    put_packet(out, PacketType::Subscribe, 0b0010, |out| {
        out.extend_from_slice(&packet_id.to_be_bytes());
        put_properties(out, version, properties);
        for (filter, options) in filters {
            put_field(out, filter.as_bytes());
            out.push(if version.is_v5() { options.bits() } else { options.qos as u8 });
        }
    });
}

/// Appends an UNSUBSCRIBE.
pub fn encode_unsubscribe(
    out: &mut Vec<u8>,
    version: Version,
    packet_id: u16,
    filters: &[&str],
    properties: &[u8],
) {
    put_packet(out, PacketType::Unsubscribe, 0b0010, |out| {
        out.extend_from_slice(&packet_id.to_be_bytes());
        put_properties(out, version, properties);
        for filter in filters {
            put_field(out, filter.as_bytes());
        }
    });
}

/// Appends a DISCONNECT as before 5.0; in 5.0 it is Normal disconnection.
pub fn encode_disconnect_v3(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xE0, 0]);
}

/// Appends a PINGREQ.
pub fn encode_pingreq(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xC0, 0]);
}

/// Appends an AUTH (5.0).
pub fn encode_auth(out: &mut Vec<u8>, reason: ReasonCode, method: &str, data: Option<&[u8]>) {
    put_packet(out, PacketType::Auth, 0, |out| {
        out.push(reason as u8);
        put_list(out, |list| {
            list.authentication_method(method);
            if let Some(data) = data {
                list.authentication_data(data);
            }
        });
    });
}

fn put_properties(out: &mut Vec<u8>, version: Version, list: &[u8]) {
    if version.is_v5() {
        put_varint(out, list.len());
        out.extend_from_slice(list);
    }
}
