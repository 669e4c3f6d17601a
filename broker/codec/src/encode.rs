//! PUBLISH to bytes, and the small pieces that every encoder uses.
//!
//! Encoding appends and cannot fail. A field over 65,535 bytes or a packet over
//! the protocol's 256 MiB is a bug of the caller and asserted, in release too: it
//! would put a wrong length on the wire and hand payload bytes to the parser.

use crate::{FIELD_BYTES_MAX, PacketType, QoS, VARINT_MAX, Version};

/// A PUBLISH on its way out.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishOut<'a> {
    /// It may have been sent before.
    pub dup: bool,
    /// The QoS of this transfer.
    pub qos: QoS,
    /// The retain flag.
    pub retain: bool,
    /// The topic name; empty when the alias is already set.
    pub topic: &'a str,
    /// The packet identifier; left out at QoS 0 [MQTT-2.2.1-2].
    pub packet_id: u16,
    /// The alias to set or use (5.0).
    pub topic_alias: Option<u16>,
    /// Seconds left (5.0).
    pub message_expiry: Option<u32>,
    /// Identifiers of the matching subscriptions (5.0).
    pub subscription_ids: &'a [u32],
    /// The properties that go on unchanged (5.0), see [`Forward`](crate::Forward).
    pub forward: &'a [u8],
    /// Bytes of the payload that follows.
    pub payload_len: usize,
}

impl PublishOut<'_> {
    /// Bytes of the whole packet, payload included.
    #[inline]
    pub fn len(&self, version: Version) -> usize {
        let remaining = self.remaining(version);
        1 + varint_len(remaining) + remaining
    }

    /// Appends everything up to the payload.
    #[inline]
    pub fn encode_head(&self, version: Version, out: &mut Vec<u8>) {
        let remaining = self.remaining(version);
        let flags = (self.dup as u8) << 3 | (self.qos as u8) << 1 | self.retain as u8;
        out.push((PacketType::Publish as u8) << 4 | flags);
        put_varint(out, remaining);
        put_field(out, self.topic.as_bytes());
        if self.qos != QoS::AtMostOnce {
            out.extend_from_slice(&self.packet_id.to_be_bytes());
        }
        if version.is_v5() {
            let list = self.list_len();
            put_varint(out, list);
            if list > 0 {
                self.put_list(out);
            }
        }
    }

    /// The remaining length.
    #[inline]
    fn remaining(&self, version: Version) -> usize {
        let id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let list = match version {
            Version::V3_1 | Version::V3_1_1 => 0,
            Version::V5 => {
                let list = self.list_len();
                varint_len(list) + list
            }
        };
        2 + self.topic.len() + id + list + self.payload_len
    }

    #[inline]
    fn list_len(&self) -> usize {
        let alias = if self.topic_alias.is_some() { 3 } else { 0 };
        let expiry = if self.message_expiry.is_some() { 5 } else { 0 };
        let ids: usize = self.subscription_ids.iter().map(|id| 1 + varint_len(*id as usize)).sum();
        alias + expiry + ids + self.forward.len()
    }

    fn put_list(&self, out: &mut Vec<u8>) {
        if let Some(alias) = self.topic_alias {
            let [high, low] = alias.to_be_bytes();
            out.extend_from_slice(&[0x23, high, low]);
        }
        if let Some(seconds) = self.message_expiry {
            out.push(0x02);
            out.extend_from_slice(&seconds.to_be_bytes());
        }
        for id in self.subscription_ids {
            out.push(0x0B);
            put_varint(out, *id as usize);
        }
        out.extend_from_slice(self.forward);
    }
}

/// Appends a whole PUBLISH. `packet.payload_len` must be the payload's.
#[inline]
pub fn encode_publish(
    out: &mut Vec<u8>,
    version: Version,
    packet: &PublishOut<'_>,
    payload: &[u8],
) {
    assert_eq!(packet.payload_len, payload.len(), "the payload is the one that was announced");
    out.reserve(packet.len(version));
    packet.encode_head(version, out);
    out.extend_from_slice(payload);
}

/// Bytes that a variable byte integer takes.
#[inline]
pub const fn varint_len(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, value: usize) {
    if value < 0x80 {
        out.push(value as u8);
    } else {
        let (bytes, len) = varint(value);
        out.extend_from_slice(&bytes[..len]);
    }
}

fn varint(value: usize) -> ([u8; 4], usize) {
    assert!(value <= VARINT_MAX as usize, "{value} is no variable byte integer");
    let len = varint_len(value);
    let mut bytes = [0; 4];
    for (at, byte) in bytes.iter_mut().enumerate().take(len) {
        let more = if at + 1 < len { 0x80 } else { 0 };
        *byte = (value >> (7 * at)) as u8 & 0x7F | more;
    }
    (bytes, len)
}

/// Two bytes of length, then the bytes.
#[inline]
pub(crate) fn put_field(out: &mut Vec<u8>, field: &[u8]) {
    assert!(field.len() <= FIELD_BYTES_MAX, "a field of {} bytes", field.len());
    out.extend_from_slice(&(field.len() as u16).to_be_bytes());
    out.extend_from_slice(field);
}

/// Appends a packet whose body `write` appends, and then puts the remaining
/// length in front of it. For the rare packets: the body may move by up to three
/// bytes.
pub(crate) fn put_packet(
    out: &mut Vec<u8>,
    kind: PacketType,
    flags: u8,
    write: impl FnOnce(&mut Vec<u8>),
) {
    out.push((kind as u8) << 4 | flags);
    put_measured(out, write);
}

/// Appends what `write` appends, its length as a variable byte integer first.
pub(crate) fn put_measured(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(0);
    write(out);
    let (bytes, len) = varint(out.len() - at - 1);
    out.splice(at..=at, bytes[..len].iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_byte_integers_are_in_their_shortest_form() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[0x7F]),
            (128, &[0x80, 1]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 1]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 1]),
            (268_435_455, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!((&out[..], varint_len(value)), (bytes, bytes.len()));
        }
    }

    #[test]
    fn a_long_body_is_moved_behind_its_length() {
        for body in [0, 127, 128, 16_384] {
            let mut out = vec![9];
            put_measured(&mut out, |out| out.extend(vec![7u8; body]));
            assert_eq!(out.len(), 1 + varint_len(body) + body);
            assert_eq!((out[0], out[1 + varint_len(body)..].iter().all(|b| *b == 7)), (9, true));
        }
    }

    #[test]
    #[should_panic(expected = "a field of 65536 bytes")]
    fn a_field_over_the_limit_is_the_callers_bug() {
        put_field(&mut Vec::new(), &[0; 65_536]);
    }
}
