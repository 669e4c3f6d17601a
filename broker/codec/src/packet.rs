//! The packets, borrowed from the read buffer. PUBLISH and CONNECT have files of
//! their own.

use crate::error::refuse;
use crate::property::Properties;
use crate::reader::Reader;
use crate::{
    Connect, DecodeError, Filter, PacketType, Publish, QoS, ReasonCode, RetainHandling,
    SubscribeOptions, Version, defect,
};

/// Any packet. CONNECT is here for those who keep packets of all kinds, and by
/// reference, as it would double the size of all others;
/// [`decode`](crate::decode) never returns one, as it is always a second one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum Packet<'a> {
    Connect(&'a Connect<'a>),
    Connack(Connack<'a>),
    Publish(Publish<'a>),
    Puback(Ack<'a>),
    Pubrec(Ack<'a>),
    Pubrel(Ack<'a>),
    Pubcomp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    Suback(Suback<'a>),
    Unsubscribe(Unsubscribe<'a>),
    Unsuback(Unsuback<'a>),
    Pingreq,
    Pingresp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

impl Packet<'_> {
    /// Which packet it is.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::Connack(_) => PacketType::Connack,
            Self::Publish(_) => PacketType::Publish,
            Self::Puback(_) => PacketType::Puback,
            Self::Pubrec(_) => PacketType::Pubrec,
            Self::Pubrel(_) => PacketType::Pubrel,
            Self::Pubcomp(_) => PacketType::Pubcomp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::Suback(_) => PacketType::Suback,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::Unsuback(_) => PacketType::Unsuback,
            Self::Pingreq => PacketType::Pingreq,
            Self::Pingresp => PacketType::Pingresp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

/// The answer to a CONNECT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connack<'a> {
    /// Whether the server had state for the session.
    pub session_present: bool,
    /// The byte as it is: a reason code in 5.0, a return code before.
    pub code: u8,
    /// The properties; none before 5.0.
    pub properties: Properties<'a>,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ack<'a> {
    /// Whose step this is; never 0.
    pub packet_id: u16,
    /// `Success` before 5.0.
    pub reason: ReasonCode,
    /// The properties; none before 5.0.
    pub properties: Properties<'a>,
}

/// A wish for subscriptions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subscribe<'a> {
    /// To be repeated in the SUBACK; never 0.
    pub packet_id: u16,
    /// The Subscription Identifier of all its filters; never 0.
    pub subscription_id: Option<u32>,
    /// The filters, at least one, all well formed.
    pub filters: SubscribeFilters<'a>,
    /// The properties; none before 5.0.
    pub properties: Properties<'a>,
}

/// The answer to a SUBSCRIBE.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Suback<'a> {
    /// Of the SUBSCRIBE.
    pub packet_id: u16,
    /// One a filter: reason codes in 5.0; 0 to 2 or 0x80 before.
    pub codes: &'a [u8],
    /// The properties; none before 5.0.
    pub properties: Properties<'a>,
}

/// A wish to end subscriptions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unsubscribe<'a> {
    /// To be repeated in the UNSUBACK; never 0.
    pub packet_id: u16,
    /// The filters, at least one, all well formed.
    pub filters: UnsubscribeFilters<'a>,
    /// The properties; none before 5.0.
    pub properties: Properties<'a>,
}

/// The answer to an UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unsuback<'a> {
    /// Of the UNSUBSCRIBE.
    pub packet_id: u16,
    /// One a filter; none before 5.0.
    pub codes: &'a [u8],
    /// The properties; none before 5.0.
    pub properties: Properties<'a>,
}

/// A farewell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Disconnect<'a> {
    /// `Success` is Normal disconnection, and what it is before 5.0.
    pub reason: ReasonCode,
    /// The client changes the session's expiry.
    pub session_expiry: Option<u32>,
    /// For people.
    pub reason_string: Option<&'a str>,
    /// Where to go instead; only from a server.
    pub server_reference: Option<&'a str>,
    /// The properties; none before 5.0.
    pub properties: Properties<'a>,
}

/// A step of extended authentication (5.0).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Auth<'a> {
    /// Where the exchange stands.
    pub reason: ReasonCode,
    /// The method; absent only in the two-byte form.
    pub method: Option<&'a str>,
    /// Data for that method.
    pub data: Option<&'a [u8]>,
    /// The properties.
    pub properties: Properties<'a>,
}

/// The filters of a SUBSCRIBE with their options, in order. All have been
/// checked; [`Filter::parse`] succeeds on each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SubscribeFilters<'a> {
    rest: Reader<'a>,
    count: usize,
}

impl<'a> SubscribeFilters<'a> {
    /// Checks all filters and options to the end of the packet.
    pub(crate) fn check(body: Reader<'a>) -> Result<SubscribeFilters<'a>, DecodeError> {
        let version = body.version();
        let mut rest = body;
        let mut count = 0;
        while !rest.is_empty() {
            let filter = filter(&mut rest)?;
            let options = options(rest.u8()?, version)?;
            if options.no_local && filter.share().is_some() {
                // [MQTT-3.8.3-4]
                refuse("5:3.8.3-4", DecodeError::NoLocalOnShared)?;
            }
            count += 1;
        }
        if count == 0 {
            // [MQTT-3.8.3-2] [MQTT-3.8.3-3 of 3.1.1]
            let statement = version.pick("5:3.8.3-2", "3:3.8.3-3");
            refuse(statement, DecodeError::NoFilters(PacketType::Subscribe))?;
        }
        Ok(SubscribeFilters { rest: body, count })
    }

    /// How many are left; at first at least one.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Iterator for SubscribeFilters<'a> {
    type Item = (&'a str, SubscribeOptions);

    fn next(&mut self) -> Option<Self::Item> {
        let filter = filter_text(&mut self.rest).ok()?;
        let options = options(self.rest.u8().ok()?, self.rest.version()).ok()?;
        self.count -= 1;
        Some((filter, options))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for SubscribeFilters<'_> {}

/// The filters of an UNSUBSCRIBE, in order. All have been checked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnsubscribeFilters<'a> {
    rest: Reader<'a>,
    count: usize,
}

impl<'a> UnsubscribeFilters<'a> {
    /// Checks all filters to the end of the packet.
    pub(crate) fn check(body: Reader<'a>) -> Result<UnsubscribeFilters<'a>, DecodeError> {
        let mut rest = body;
        let mut count = 0;
        while !rest.is_empty() {
            filter(&mut rest)?;
            count += 1;
        }
        if count == 0 {
            // [MQTT-3.10.3-2]
            let statement = body.version().pick("5:3.10.3-2", "3:3.10.3-2");
            refuse(statement, DecodeError::NoFilters(PacketType::Unsubscribe))?;
        }
        Ok(UnsubscribeFilters { rest: body, count })
    }

    /// How many are left; at first at least one.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Iterator for UnsubscribeFilters<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let filter = filter_text(&mut self.rest).ok()?;
        self.count -= 1;
        Some(filter)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.count, Some(self.count))
    }
}

impl ExactSizeIterator for UnsubscribeFilters<'_> {}

fn filter<'a>(body: &mut Reader<'a>) -> Result<Filter<'a>, DecodeError> {
    let text = filter_text(body)?;
    Filter::parse_for(text, body.version())
        .map_err(|error| DecodeError::MalformedFilter(body.packet(), error))
}

fn filter_text<'a>(body: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    // [MQTT-3.8.3-1] [MQTT-3.10.3-1]
    match body.packet() {
        PacketType::Unsubscribe => body.string_of("5:3.10.3-1", "3:3.10.3-1"),
        _ => body.string_of("5:3.8.3-1", "3:3.8.3-1"),
    }
}

/// Before 5.0 the six high bits are reserved, in 5.0 two of them.
fn options(byte: u8, version: Version) -> Result<SubscribeOptions, DecodeError> {
    let reserved = if version.is_v5() { 0b1100_0000 } else { 0b1111_1100 };
    if byte & reserved != 0 {
        // [MQTT-3.8.3-5] [MQTT-3.8.3-4 of 3.1.1]
        let statement = version.pick("5:3.8.3-5", "3:3.8.3-4");
        refuse(statement, DecodeError::SubscribeOptionsReserved(byte))?;
    }
    let qos = match QoS::try_from(byte & 0b11) {
        Ok(qos) => qos,
        // [MQTT-3.8.3-4 of 3.1.1]
        Err(_) if !version.is_v5() && defect::on("3:3.8.3-4") => QoS::ExactlyOnce,
        Err(_) => return Err(DecodeError::SubscribeQoS3),
    };
    let retain_handling = match byte >> 4 & 0b11 {
        0 => RetainHandling::SendAlways,
        1 => RetainHandling::SendIfNew,
        2 => RetainHandling::Never,
        _ if version.is_v5() => return Err(DecodeError::RetainHandling3),
        _ => RetainHandling::SendAlways,
    };
    let v5 = version.is_v5();
    Ok(SubscribeOptions {
        qos,
        no_local: v5 && byte & 0b100 != 0 && !defect::on("5:3.8.3-3"),
        retain_as_published: v5 && byte & 0b1000 != 0,
        retain_handling: if v5 { retain_handling } else { RetainHandling::SendAlways },
    })
}
