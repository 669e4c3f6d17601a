//! CONNECT, and what a peer that gets it wrong is told.
//!
//! The version is in the packet itself, so the answer to a bad one depends on
//! how far it could be read: nothing before the level is known, a return code
//! for a level we do not speak, a reason code for 5.0, a bare close before.

use crate::error::refuse;
use crate::forward::{Forward, is_forwarded};
use crate::property::{Place, Properties, Property, Walk};
use crate::reader::Reader;
use crate::{DecodeError, Direction, Frame, PacketType, QoS, ReasonCode, Version, defect, topic};

const CONNECT: PacketType = PacketType::Connect;

/// The first packet of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connect<'a> {
    /// The version that both sides now speak.
    pub version: Version,
    /// Clean Start; before 5.0 Clean Session.
    pub clean_start: bool,
    /// Seconds between packets; 0 for no limit.
    pub keep_alive: u16,
    /// The client identifier; may be empty.
    pub client_id: &'a str,
    /// The message to publish when the connection ends badly.
    pub will: Option<Will<'a>>,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password: any bytes.
    pub password: Option<&'a [u8]>,
    /// The properties; the defaults before 5.0.
    pub properties: ConnectProperties<'a>,
}

/// The properties of a CONNECT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnectProperties<'a> {
    /// Seconds that the session outlives the connection.
    pub session_expiry: Option<u32>,
    /// Unacknowledged QoS 1 and 2 messages the client takes; never 0.
    pub receive_maximum: Option<u16>,
    /// Bytes of the largest packet the client takes; never 0.
    pub maximum_packet_size: Option<u32>,
    /// The largest topic alias the client takes; 0 for none.
    pub topic_alias_maximum: u16,
    /// Whether the client asks for Response Information.
    pub request_response_information: bool,
    /// Whether reason strings and user properties may be sent everywhere.
    pub request_problem_information: bool,
    /// The method of extended authentication.
    pub authentication_method: Option<&'a str>,
    /// Data for that method.
    pub authentication_data: Option<&'a [u8]>,
    /// The whole list, user properties included.
    pub raw: Properties<'a>,
}

impl Default for ConnectProperties<'_> {
    fn default() -> Self {
        ConnectProperties {
            session_expiry: None,
            receive_maximum: None,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
            raw: Properties::default(),
        }
    }
}

/// The will of a CONNECT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Will<'a> {
    /// Where it is published; a topic name, not empty.
    pub topic: &'a str,
    /// What is published; may be empty.
    pub payload: &'a [u8],
    /// At which QoS.
    pub qos: QoS,
    /// Whether it is stored as a retained message.
    pub retain: bool,
    /// Seconds to wait first.
    pub delay: u32,
    /// Seconds that the message is worth delivering.
    pub message_expiry: Option<u32>,
    /// Payload Format Indicator 1.
    pub payload_is_utf8: bool,
    /// The properties that subscribers get.
    pub forward: Forward<'a>,
}

/// What the peer is told before the close.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConnectAnswer {
    /// Nothing.
    Close,
    /// A CONNACK as before 5.0, with this return code.
    V3(u8),
    /// A CONNACK of 5.0 with this reason code.
    V5(ReasonCode),
    /// `20 03 00 84 00`, to a level above 5 [MQTT-3.1.2-2].
    V5Level,
}

impl ConnectAnswer {
    /// Appends the answer, if there is one.
    pub fn encode(self, out: &mut Vec<u8>) {
        match self {
            Self::Close => {}
            Self::V3(code) => out.extend_from_slice(&[0x20, 2, 0, code]),
            Self::V5(reason) => out.extend_from_slice(&[0x20, 3, 0, reason as u8, 0]),
            Self::V5Level => out.extend_from_slice(&[0x20, 3, 0, 0x84, 0]),
        }
    }
}

/// A first packet that does not open a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{error}")]
pub struct ConnectError {
    /// What the peer is told.
    pub answer: ConnectAnswer,
    /// What is wrong.
    pub error: DecodeError,
}

/// Decodes the first packet of a connection.
///
/// # Errors
/// What is wrong, and what the peer is told about it.
pub fn decode_connect<'a>(frame: &Frame, bytes: &'a [u8]) -> Result<Connect<'a>, ConnectError> {
    let unheard = |error| ConnectError { answer: ConnectAnswer::Close, error };
    let kind = frame.first >> 4;
    if kind != CONNECT as u8 {
        // [MQTT-3.1.0-1]
        return Err(unheard(DecodeError::NotConnect(kind)));
    }
    let body = bytes.get(frame.header..frame.total);
    let body = body.ok_or(unheard(DecodeError::Truncated(CONNECT)))?;
    let mut body = Reader::new(body, CONNECT, Version::V5);

    let name = body.binary().map_err(unheard)?;
    let level = body.u8().map_err(unheard)?;
    let version = version(name, level)?;
    let told = |error: DecodeError| ConnectError {
        answer: match version {
            Version::V3_1 | Version::V3_1_1 => ConnectAnswer::Close,
            Version::V5 => ConnectAnswer::V5(error.reason()),
        },
        error,
    };
    if frame.flags() != 0 {
        // [MQTT-2.1.3-1] [MQTT-2.2.2-1 of 3.1.1]
        let statement = version.pick("5:2.1.3-1", "3:2.2.2-1");
        refuse(statement, DecodeError::ReservedFlags(CONNECT, frame.flags())).map_err(told)?;
    }
    if !frame.minimal && version.is_v5() {
        refuse("5:1.5.5-1", DecodeError::NonMinimalLength).map_err(told)?;
    }
    rest(Reader::new(body.rest(), CONNECT, version)).map_err(told)
}

fn version(name: &[u8], level: u8) -> Result<Version, ConnectError> {
    let error = DecodeError::ProtocolLevel(level);
    match (name, level) {
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQTT", 4) => Ok(Version::V3_1_1),
        (b"MQIsdp", 3) => Ok(Version::V3_1),
        (b"MQTT", 6..=0x7F) if defect::on("5:3.1.2-2") => {
            Err(ConnectError { answer: ConnectAnswer::Close, error })
        }
        (b"MQTT", 6..=0x7F) => Err(ConnectError { answer: ConnectAnswer::V5Level, error }),
        // The bridge bit of some clients included. [MQTT-3.1.2-2 of 3.1.1]
        (b"MQTT" | b"MQIsdp", _) if defect::on("3:3.1.2-2") => {
            Err(ConnectError { answer: ConnectAnswer::Close, error })
        }
        (b"MQTT" | b"MQIsdp", _) => Err(ConnectError { answer: ConnectAnswer::V3(1), error }),
        // [MQTT-3.1.2-1]
        (_, 5) if defect::on("5:3.1.2-1") => Ok(Version::V5),
        (_, 4) if defect::on("3:3.1.2-1") => Ok(Version::V3_1_1),
        _ => Err(ConnectError { answer: ConnectAnswer::Close, error: DecodeError::ProtocolName }),
    }
}

/// Everything behind the level.
fn rest(mut body: Reader<'_>) -> Result<Connect<'_>, DecodeError> {
    let version = body.version();
    let flags = Flags::check(body.u8()?, version)?;
    let keep_alive = body.u16()?;
    let properties = match version {
        Version::V3_1 | Version::V3_1_1 => ConnectProperties::default(),
        Version::V5 => properties(body.property_list()?)?,
    };
    // [MQTT-3.1.3-1]: the fields of the payload come in this order.
    let client_id = body.string_of("5:3.1.3-4", "3:3.1.3-4")?;
    let will = if flags.will { Some(will(&mut body, flags)?) } else { None };
    let username = if flags.username && !left_out(&body, "5:3.1.2-17", "3:3.1.2-19") {
        Some(body.string_of("5:3.1.3-12", "3:3.1.3-11")?)
    } else {
        None
    };
    let password = if flags.password && !left_out(&body, "5:3.1.2-19", "3:3.1.2-21") {
        Some(body.binary()?)
    } else {
        None
    };
    if let Err(error) = body.end() {
        // A field whose flag is 0 must not be there. [MQTT-3.1.2-16, -18]
        let statement = match (flags.username, flags.password) {
            (false, _) => version.pick("5:3.1.2-16", "3:3.1.2-18"),
            (true, false) => version.pick("5:3.1.2-18", "3:3.1.2-20"),
            (true, true) => "",
        };
        refuse(statement, error)?;
    }
    Ok(Connect {
        version,
        clean_start: flags.clean_start,
        keep_alive,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

/// 3.1 lets a client set a flag and leave the field out at the end; later
/// versions only under a planted defect. [MQTT-3.1.2-17, -19]
fn left_out(body: &Reader<'_>, five: &'static str, three: &'static str) -> bool {
    let version = body.version();
    body.is_empty() && (version == Version::V3_1 || defect::on(version.pick(five, three)))
}

#[derive(Clone, Copy)]
struct Flags {
    clean_start: bool,
    will: bool,
    will_qos: QoS,
    will_retain: bool,
    password: bool,
    username: bool,
}

impl Flags {
    fn check(byte: u8, version: Version) -> Result<Flags, DecodeError> {
        let bit = |at: u8| byte >> at & 1 == 1;
        if bit(0) {
            // [MQTT-3.1.2-3]
            let statement = version.pick("5:3.1.2-3", "3:3.1.2-3");
            refuse(statement, DecodeError::ConnectFlagReserved(byte))?;
        }
        let will = bit(2);
        let will_qos = match QoS::try_from(byte >> 3 & 0b11) {
            Ok(qos) => qos,
            Err(_) => {
                // [MQTT-3.1.2-12] [MQTT-3.1.2-14 of 3.1.1]
                let statement = version.pick("5:3.1.2-12", "3:3.1.2-14");
                refuse(statement, DecodeError::QoS3(CONNECT))?;
                QoS::ExactlyOnce
            }
        };
        if !will && will_qos != QoS::AtMostOnce {
            // [MQTT-3.1.2-11] [MQTT-3.1.2-13 of 3.1.1]
            let statement = version.pick("5:3.1.2-11", "3:3.1.2-13");
            refuse(statement, DecodeError::WillFlagsWithoutWill(byte))?;
        }
        if !will && bit(5) {
            // [MQTT-3.1.2-13] [MQTT-3.1.2-15 of 3.1.1]
            let statement = version.pick("5:3.1.2-13", "3:3.1.2-15");
            refuse(statement, DecodeError::WillFlagsWithoutWill(byte))?;
        }
        if version == Version::V3_1_1 && bit(6) && !bit(7) {
            // [MQTT-3.1.2-22 of 3.1.1]
            refuse("3:3.1.2-22", DecodeError::PasswordWithoutUserName)?;
        }
        Ok(Flags {
            clean_start: bit(1),
            will,
            will_qos,
            will_retain: bit(5),
            password: bit(6),
            username: bit(7),
        })
    }
}

fn properties<'a>(list: Reader<'a>) -> Result<ConnectProperties<'a>, DecodeError> {
    let mut found =
        ConnectProperties { raw: Properties::validated(list.rest()), ..Default::default() };
    let mut walk = Walk::new(list, Place::Connect, Direction::FromClient);
    while let Some(property) = walk.next()? {
        match property {
            Property::SessionExpiryInterval(seconds) => found.session_expiry = Some(seconds),
            Property::ReceiveMaximum(count) => found.receive_maximum = Some(count),
            Property::MaximumPacketSize(bytes) => found.maximum_packet_size = Some(bytes),
            Property::TopicAliasMaximum(alias) => found.topic_alias_maximum = alias,
            Property::RequestResponseInformation(byte) => {
                found.request_response_information = byte == 1;
            }
            Property::RequestProblemInformation(byte) => {
                found.request_problem_information = byte != 0;
            }
            Property::AuthenticationMethod(method) => found.authentication_method = Some(method),
            Property::AuthenticationData(data) => found.authentication_data = Some(data),
            _ => {}
        }
    }
    if found.authentication_data.is_some() && found.authentication_method.is_none() {
        return Err(DecodeError::AuthenticationDataAlone(CONNECT));
    }
    Ok(found)
}

fn will<'a>(body: &mut Reader<'a>, flags: Flags) -> Result<Will<'a>, DecodeError> {
    let version = body.version();
    let mut will = Will {
        topic: "",
        payload: &[],
        qos: flags.will_qos,
        retain: flags.will_retain,
        delay: 0,
        message_expiry: None,
        payload_is_utf8: false,
        forward: Forward::default(),
    };
    if version.is_v5() {
        will_properties(body.property_list()?, &mut will)?;
    }
    will.topic = topic::name_or_empty(body.binary()?, CONNECT, version)?;
    if will.topic.is_empty() {
        // [MQTT-4.7.3-1]
        refuse(version.pick("5:4.7.3-1", "3:4.7.3-1"), DecodeError::EmptyTopic(CONNECT))?;
    }
    will.payload = body.binary()?;
    Ok(will)
}

fn will_properties<'a>(list: Reader<'a>, will: &mut Will<'a>) -> Result<(), DecodeError> {
    let raw = list.rest();
    let mut dropped = 0;
    let mut before = raw.len();
    let mut walk = Walk::new(list, Place::Will, Direction::FromClient);
    while let Some(property) = walk.next()? {
        let left = walk.left();
        if !is_forwarded(property.id()) {
            dropped += before - left;
        }
        before = left;
        match property {
            Property::WillDelayInterval(seconds) => will.delay = seconds,
            Property::MessageExpiryInterval(seconds) => will.message_expiry = Some(seconds),
            Property::PayloadFormatIndicator(format) => will.payload_is_utf8 = format == 1,
            _ => {}
        }
    }
    will.forward = Forward::new(raw, dropped);
    Ok(())
}
