//! PUBLISH, the hot path: a dozen nanoseconds, borrowed, one pass over the topic.

use crate::error::refuse;
use crate::forward::{Forward, SubscriptionIds, is_forwarded};
use crate::property::{Place, Properties, Property, Walk};
use crate::reader::Reader;
use crate::{DecodeError, Direction, Frame, PacketType, QoS, Version, topic};

/// A message, as it stands in the read buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Publish<'a> {
    /// The sender says that it may have sent it before.
    pub dup: bool,
    /// The QoS of this transfer.
    pub qos: QoS,
    /// Store it, or (from a server) it was stored.
    pub retain: bool,
    /// The topic name; empty only beside a topic alias.
    pub topic: &'a str,
    /// The packet identifier; 0 at QoS 0 and never else.
    pub packet_id: u16,
    /// The application's bytes.
    pub payload: &'a [u8],
    /// The properties; all absent before 5.0.
    pub properties: PublishProperties<'a>,
}

/// The properties of a PUBLISH.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PublishProperties<'a> {
    /// The alias that is used or set; never 0.
    pub topic_alias: Option<u16>,
    /// Seconds that the message is worth delivering; 0 means at once.
    pub message_expiry: Option<u32>,
    /// Payload Format Indicator 1: the payload says that it is UTF-8.
    pub payload_is_utf8: bool,
    /// The identifiers of the matching subscriptions; only from a server.
    pub subscription_ids: SubscriptionIds<'a>,
    /// What goes on to subscribers.
    pub forward: Forward<'a>,
}

impl<'a> PublishProperties<'a> {
    /// All properties, in the sender's order, when they are wanted one by one.
    pub fn all(&self) -> Properties<'a> {
        Properties::validated(self.forward.list())
    }
}

/// Decodes a PUBLISH. [`decode`](crate::decode) does the same for any packet.
///
/// # Errors
/// What the standard calls malformed or a protocol error; also when `frame` is
/// of another type or does not belong to `bytes`.
#[inline]
pub fn decode_publish<'a>(
    frame: &Frame,
    bytes: &'a [u8],
    version: Version,
    from: Direction,
) -> Result<Publish<'a>, DecodeError> {
    in_place(frame, bytes, version, from)
}

/// The body of [`decode_publish`], always inlined, so that the 96 bytes of a
/// [`Publish`] are written once, to where the caller wants them.
#[inline(always)]
pub(crate) fn in_place<'a>(
    frame: &Frame,
    bytes: &'a [u8],
    version: Version,
    from: Direction,
) -> Result<Publish<'a>, DecodeError> {
    const PUBLISH: PacketType = PacketType::Publish;
    if frame.first >> 4 != PUBLISH as u8 {
        return Err(DecodeError::ReservedPacketType(frame.first >> 4));
    }
    if !frame.minimal && version.is_v5() {
        refuse("5:1.5.5-1", DecodeError::NonMinimalLength)?;
    }
    let Some(body) = bytes.get(frame.header..frame.total) else {
        return Err(DecodeError::Truncated(PUBLISH));
    };
    let (dup, qos, retain) = flags(frame.first, version)?;

    let mut body = Reader::new(body, PUBLISH, version);
    let topic = topic::name_or_empty(body.binary()?, PUBLISH, version)?;
    let packet_id = match qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce | QoS::ExactlyOnce => body.packet_id()?,
    };
    let properties = match version {
        Version::V3_1 | Version::V3_1_1 => PublishProperties::default(),
        Version::V5 => match body.rest() {
            [0, payload @ ..] => {
                body = Reader::new(payload, PUBLISH, version);
                PublishProperties::default()
            }
            _ => properties(body.property_list()?, from)?,
        },
    };
    if topic.is_empty() && properties.topic_alias.is_none() {
        // [MQTT-4.7.3-1]
        refuse(version.pick("5:4.7.3-1", "3:4.7.3-1"), DecodeError::EmptyTopic(PUBLISH))?;
    }
    Ok(Publish { dup, qos, retain, topic, packet_id, payload: body.rest(), properties })
}

#[inline]
fn flags(first: u8, version: Version) -> Result<(bool, QoS, bool), DecodeError> {
    let dup = first & 0b1000 != 0;
    let qos = match first >> 1 & 0b11 {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        2 => QoS::ExactlyOnce,
        _ => {
            // [MQTT-3.3.1-4]
            let statement = version.pick("5:3.3.1-4", "3:3.3.1-4");
            refuse(statement, DecodeError::QoS3(PacketType::Publish))?;
            QoS::ExactlyOnce
        }
    };
    if dup && qos == QoS::AtMostOnce {
        // [MQTT-3.3.1-2]
        refuse(version.pick("5:3.3.1-2", "3:3.3.1-2"), DecodeError::DupAtQoS0)?;
    }
    Ok((dup, qos, first & 1 != 0))
}

/// A list that is not empty.
#[inline(never)]
fn properties<'a>(list: Reader<'a>, from: Direction) -> Result<PublishProperties<'a>, DecodeError> {
    let raw = list.rest();
    let mut found = PublishProperties::default();
    let mut dropped = 0;
    let mut walk = Walk::new(list, Place::Publish, from);
    let mut before = raw.len();
    while let Some(property) = walk.next()? {
        let left = walk.left();
        if !is_forwarded(property.id()) {
            dropped += before - left;
        }
        before = left;
        match property {
            Property::TopicAlias(alias) => found.topic_alias = Some(alias),
            Property::MessageExpiryInterval(seconds) => found.message_expiry = Some(seconds),
            Property::PayloadFormatIndicator(format) => found.payload_is_utf8 = format == 1,
            Property::SubscriptionIdentifier(_) => {
                found.subscription_ids = SubscriptionIds::new(raw);
            }
            _ => {}
        }
    }
    found.forward = Forward::new(raw, dropped);
    Ok(found)
}
