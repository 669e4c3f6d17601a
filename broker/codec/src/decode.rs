//! One whole frame to a packet.
//!
//! In this order: type, length form, flags, side, body. A PUBLISH, nearly all of
//! the traffic, is told apart first.

use crate::error::refuse;
use crate::property::{Place, Properties, Property, Walk};
use crate::reader::Reader;
use crate::{
    Ack, Auth, Connack, DecodeError, Direction, Disconnect, Frame, Packet, PacketType, ReasonCode,
    Suback, Subscribe, SubscribeFilters, Unsuback, Unsubscribe, UnsubscribeFilters, Version,
    decode_publish, defect, publish,
};

/// Decodes one whole frame of a connection that is already open.
///
/// `bytes` is what `frame` was found in; `version` is the connection's; `from`
/// is who sent it. Nothing is copied and nothing allocated.
///
/// # Errors
/// Whatever is wrong with the packet on its own; a CONNECT is always a second
/// one here. [`DecodeError::reason`] is what a 5.0 peer is told, others are only
/// disconnected.
#[inline]
pub fn decode<'a>(
    frame: &Frame,
    bytes: &'a [u8],
    version: Version,
    from: Direction,
) -> Result<Packet<'a>, DecodeError> {
    if frame.first >> 4 == PacketType::Publish as u8 {
        return Ok(Packet::Publish(publish::in_place(frame, bytes, version, from)?));
    }
    match short_ack(frame, bytes) {
        Some(packet) => Ok(packet),
        None => decode_other(frame, bytes, version, from),
    }
}

/// The four-byte form of an acknowledgement, which is the usual one and the same
/// in all versions and from both sides. `None`: take the long way.
#[inline]
fn short_ack<'a>(frame: &Frame, bytes: &'a [u8]) -> Option<Packet<'a>> {
    if (frame.header, frame.total) != (2, 4) {
        return None;
    }
    let packet_id = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    if packet_id == 0 {
        return None;
    }
    let ack = Ack { packet_id, reason: ReasonCode::Success, properties: Properties::default() };
    match frame.first {
        0x40 => Some(Packet::Puback(ack)),
        0x50 => Some(Packet::Pubrec(ack)),
        0x62 => Some(Packet::Pubrel(ack)),
        0x70 => Some(Packet::Pubcomp(ack)),
        _ => None,
    }
}

#[inline(never)]
fn decode_other<'a>(
    frame: &Frame,
    bytes: &'a [u8],
    version: Version,
    from: Direction,
) -> Result<Packet<'a>, DecodeError> {
    let kind = packet_type(frame, version)?;
    if !frame.minimal && version.is_v5() {
        // [MQTT-1.5.5-1]
        refuse("5:1.5.5-1", DecodeError::NonMinimalLength)?;
    }
    check_flags(kind, frame.flags(), version)?;
    if kind == PacketType::Connect && defect::on(version.pick("5:3.1.0-2", "3:3.1.0-2")) {
        return Ok(Packet::Pingreq);
    }
    check_side(kind, version, from)?;
    let Some(body) = bytes.get(frame.header..frame.total) else {
        return Err(DecodeError::Truncated(kind));
    };
    let body = Reader::new(body, kind, version);
    match kind {
        PacketType::Publish => decode_publish(frame, bytes, version, from).map(Packet::Publish),
        PacketType::Puback => ack(body, Place::Puback, from).map(Packet::Puback),
        PacketType::Pubrec => ack(body, Place::Pubrec, from).map(Packet::Pubrec),
        PacketType::Pubrel => ack(body, Place::Pubrel, from).map(Packet::Pubrel),
        PacketType::Pubcomp => ack(body, Place::Pubcomp, from).map(Packet::Pubcomp),
        PacketType::Subscribe => subscribe(body, from).map(Packet::Subscribe),
        PacketType::Unsubscribe => unsubscribe(body, from).map(Packet::Unsubscribe),
        PacketType::Pingreq => body.end().map(|()| Packet::Pingreq),
        PacketType::Pingresp => body.end().map(|()| Packet::Pingresp),
        PacketType::Disconnect => disconnect(body, from).map(Packet::Disconnect),
        PacketType::Auth => auth(body, from).map(Packet::Auth),
        PacketType::Connack => connack(body, from).map(Packet::Connack),
        PacketType::Suback => suback(body, from).map(Packet::Suback),
        PacketType::Unsuback => unsuback(body, from).map(Packet::Unsuback),
        PacketType::Connect => Err(DecodeError::SecondConnect),
    }
}

fn packet_type(frame: &Frame, version: Version) -> Result<PacketType, DecodeError> {
    let number = frame.first >> 4;
    match PacketType::try_from(number) {
        Ok(PacketType::Auth) if !version.is_v5() => Err(DecodeError::ReservedPacketType(number)),
        Ok(kind) => Ok(kind),
        Err(_) => Err(DecodeError::ReservedPacketType(number)),
    }
}

/// The low bits of the first byte: 0b0010 for three types, else 0.
fn check_flags(kind: PacketType, flags: u8, version: Version) -> Result<(), DecodeError> {
    let (expected, statement) = match kind {
        PacketType::Pubrel => (0b0010, version.pick("5:3.6.1-1", "3:3.6.1-1")),
        PacketType::Subscribe => (0b0010, version.pick("5:3.8.1-1", "3:3.8.1-1")),
        PacketType::Unsubscribe => (0b0010, version.pick("5:3.10.1-1", "3:3.10.1-1")),
        PacketType::Disconnect => (0, version.pick("5:3.14.1-1", "3:3.14.1-1")),
        PacketType::Auth => (0, "5:3.15.1-1"),
        PacketType::Connect
        | PacketType::Connack
        | PacketType::Publish
        | PacketType::Puback
        | PacketType::Pubrec
        | PacketType::Pubcomp
        | PacketType::Suback
        | PacketType::Unsuback
        | PacketType::Pingreq
        | PacketType::Pingresp => (0, version.pick("5:2.1.3-1", "3:2.2.2-1")),
    };
    // 3.1 clients send these three again with DUP set.
    let resent = version == Version::V3_1 && expected == 0b0010 && flags == 0b1010;
    if flags == expected || resent {
        return Ok(());
    }
    refuse(statement, DecodeError::ReservedFlags(kind, flags))
}

fn check_side(kind: PacketType, version: Version, from: Direction) -> Result<(), DecodeError> {
    let wrong = match kind {
        // [MQTT-3.1.0-2]
        PacketType::Connect if from == Direction::FromClient => {
            return Err(DecodeError::SecondConnect);
        }
        PacketType::Connect
        | PacketType::Subscribe
        | PacketType::Unsubscribe
        | PacketType::Pingreq => from == Direction::FromServer,
        PacketType::Connack | PacketType::Suback | PacketType::Unsuback | PacketType::Pingresp => {
            from == Direction::FromClient
        }
        PacketType::Disconnect => from == Direction::FromServer && !version.is_v5(),
        PacketType::Publish
        | PacketType::Puback
        | PacketType::Pubrec
        | PacketType::Pubrel
        | PacketType::Pubcomp
        | PacketType::Auth => false,
    };
    if wrong { Err(DecodeError::WrongDirection(kind)) } else { Ok(()) }
}

/// A reason code that this packet may carry from this side.
fn reason(body: &mut Reader<'_>, from: Direction) -> Result<ReasonCode, DecodeError> {
    let byte = body.u8()?;
    let kind = body.packet();
    match ReasonCode::try_from(byte) {
        Ok(code) if code.allowed(kind, from) => Ok(code),
        known => {
            let statement = match kind {
                PacketType::Puback => "5:3.4.2-1",
                PacketType::Pubrec => "5:3.5.2-1",
                PacketType::Pubrel => "5:3.6.2-1",
                PacketType::Pubcomp => "5:3.7.2-1",
                PacketType::Disconnect => "5:3.14.2-1",
                // The core answers every AUTH with 0x82, so none is planted there.
                PacketType::Auth
                | PacketType::Connect
                | PacketType::Connack
                | PacketType::Publish
                | PacketType::Subscribe
                | PacketType::Suback
                | PacketType::Unsubscribe
                | PacketType::Unsuback
                | PacketType::Pingreq
                | PacketType::Pingresp => "",
            };
            refuse(statement, DecodeError::UnlistedReason(kind, byte))?;
            Ok(known.unwrap_or(ReasonCode::Success))
        }
    }
}

/// A list whose values nobody needs one by one; it may end the packet.
fn properties<'a>(
    body: &mut Reader<'a>,
    place: Place,
    from: Direction,
) -> Result<Properties<'a>, DecodeError> {
    let list = body.property_list()?;
    Walk::new(list, place, from).finish()?;
    Ok(Properties::validated(list.rest()))
}

fn ack<'a>(mut body: Reader<'a>, place: Place, from: Direction) -> Result<Ack<'a>, DecodeError> {
    let packet_id = body.packet_id()?;
    let mut found =
        Ack { packet_id, reason: ReasonCode::Success, properties: Properties::default() };
    if body.version().is_v5() && !body.is_empty() {
        found.reason = reason(&mut body, from)?;
        if !body.is_empty() {
            found.properties = properties(&mut body, place, from)?;
        }
    }
    body.end()?;
    Ok(found)
}

fn subscribe(mut body: Reader<'_>, from: Direction) -> Result<Subscribe<'_>, DecodeError> {
    let packet_id = body.packet_id()?;
    let mut subscription_id = None;
    let mut properties = Properties::default();
    if body.version().is_v5() {
        let list = body.property_list()?;
        properties = Properties::validated(list.rest());
        let mut walk = Walk::new(list, Place::Subscribe, from);
        while let Some(property) = walk.next()? {
            if let Property::SubscriptionIdentifier(id) = property {
                subscription_id = Some(id);
            }
        }
    }
    let filters = SubscribeFilters::check(body)?;
    Ok(Subscribe { packet_id, subscription_id, filters, properties })
}

fn unsubscribe(mut body: Reader<'_>, from: Direction) -> Result<Unsubscribe<'_>, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = match body.version() {
        Version::V3_1 | Version::V3_1_1 => Properties::default(),
        Version::V5 => properties(&mut body, Place::Unsubscribe, from)?,
    };
    let filters = UnsubscribeFilters::check(body)?;
    Ok(Unsubscribe { packet_id, filters, properties })
}

fn disconnect(mut body: Reader<'_>, from: Direction) -> Result<Disconnect<'_>, DecodeError> {
    let mut found = Disconnect {
        reason: ReasonCode::Success,
        session_expiry: None,
        reason_string: None,
        server_reference: None,
        properties: Properties::default(),
    };
    if body.version().is_v5() && !body.is_empty() {
        found.reason = reason(&mut body, from)?;
        if !body.is_empty() {
            let list = body.property_list()?;
            found.properties = Properties::validated(list.rest());
            let mut walk = Walk::new(list, Place::Disconnect, from);
            while let Some(property) = walk.next()? {
                match property {
                    Property::SessionExpiryInterval(secs) => found.session_expiry = Some(secs),
                    Property::ReasonString(text) => found.reason_string = Some(text),
                    Property::ServerReference(text) => found.server_reference = Some(text),
                    _ => {}
                }
            }
        }
    }
    body.end()?;
    Ok(found)
}

fn auth(mut body: Reader<'_>, from: Direction) -> Result<Auth<'_>, DecodeError> {
    let mut found = Auth {
        reason: ReasonCode::Success,
        method: None,
        data: None,
        properties: Properties::default(),
    };
    if body.is_empty() {
        // The short form of Success, which only a server may say.
        if from == Direction::FromClient {
            return Err(DecodeError::UnlistedReason(PacketType::Auth, 0));
        }
        return Ok(found);
    }
    found.reason = reason(&mut body, from)?;
    let list = body.property_list()?;
    found.properties = Properties::validated(list.rest());
    let mut walk = Walk::new(list, Place::Auth, from);
    while let Some(property) = walk.next()? {
        match property {
            Property::AuthenticationMethod(method) => found.method = Some(method),
            Property::AuthenticationData(data) => found.data = Some(data),
            _ => {}
        }
    }
    body.end()?;
    if found.method.is_none() {
        return Err(DecodeError::AuthenticationMethodMissing);
    }
    Ok(found)
}

fn connack(mut body: Reader<'_>, from: Direction) -> Result<Connack<'_>, DecodeError> {
    let flags = body.u8()?;
    if flags > 1 {
        // [MQTT-3.2.2-1]
        return Err(DecodeError::AcknowledgeFlags(flags));
    }
    let v5 = body.version().is_v5();
    let code = if v5 { reason(&mut body, from)? as u8 } else { body.u8()? };
    if !v5 && code > 5 {
        return Err(DecodeError::UnlistedReason(PacketType::Connack, code));
    }
    let properties =
        if v5 { properties(&mut body, Place::Connack, from)? } else { Properties::default() };
    body.end()?;
    Ok(Connack { session_present: flags == 1, code, properties })
}

fn suback(mut body: Reader<'_>, from: Direction) -> Result<Suback<'_>, DecodeError> {
    let packet_id = body.packet_id()?;
    let v5 = body.version().is_v5();
    let properties =
        if v5 { properties(&mut body, Place::Suback, from)? } else { Properties::default() };
    let codes = body.rest();
    if codes.is_empty() {
        return Err(DecodeError::Truncated(PacketType::Suback));
    }
    while !body.is_empty() {
        if v5 {
            reason(&mut body, from)?;
        } else {
            let code = body.u8()?;
            // [MQTT-3.9.3-2 of 3.1.1]
            if !matches!(code, 0..=2 | 0x80) {
                return Err(DecodeError::UnlistedReason(PacketType::Suback, code));
            }
        }
    }
    Ok(Suback { packet_id, codes, properties })
}

fn unsuback(mut body: Reader<'_>, from: Direction) -> Result<Unsuback<'_>, DecodeError> {
    let packet_id = body.packet_id()?;
    if !body.version().is_v5() {
        body.end()?;
        return Ok(Unsuback { packet_id, codes: &[], properties: Properties::default() });
    }
    let properties = properties(&mut body, Place::Unsuback, from)?;
    let codes = body.rest();
    if codes.is_empty() {
        return Err(DecodeError::Truncated(PacketType::Unsuback));
    }
    while !body.is_empty() {
        reason(&mut body, from)?;
    }
    Ok(Unsuback { packet_id, codes, properties })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_of_an_acknowledgement_agrees_with_the_long_one() {
        for first in 0..=255u8 {
            for id in [[0, 0], [0, 1], [1, 0], [0xFF, 0xFF]] {
                let bytes = [first, 2, id[0], id[1]];
                let frame = crate::frame(&bytes, 100).unwrap().unwrap();
                let Some(short) = short_ack(&frame, &bytes) else { continue };
                for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
                    for from in [Direction::FromClient, Direction::FromServer] {
                        assert_eq!(decode_other(&frame, &bytes, version, from), Ok(short));
                    }
                }
            }
        }
    }

    #[test]
    fn a_packet_is_no_larger_than_a_publish_and_its_tag() {
        assert!(size_of::<Result<Packet<'_>, DecodeError>>() <= 104);
    }
}
