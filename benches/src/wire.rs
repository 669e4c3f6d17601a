//! The few MQTT bytes that a load needs.
//!
//! Written apart from the broker's codec on purpose: a fault that both ends
//! share would hide, and a load that does less per message than the broker is
//! what keeps the broker the thing that is measured.

use anyhow::{Result, bail};

/// Bytes of a topic's number, so that it can be patched in place.
pub const NUMBER_DIGITS: usize = 7;

/// The last bytes of each payload; a receiver checks them.
pub const PAYLOAD_TAIL: &[u8; 8] = b"tidegate";

/// The protocol version a connection speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// MQTT 3.1.1
    V311,
    /// MQTT 5.0
    V5,
}

/// One packet as it lies in the read buffer.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The first byte: type and flags.
    pub head: u8,
    /// All behind the remaining length.
    pub body: &'a [u8],
}

impl Frame<'_> {
    /// The packet type, 1 to 15.
    pub fn kind(&self) -> u8 {
        self.head >> 4
    }

    /// The QoS bits of a PUBLISH.
    pub fn qos(&self) -> u8 {
        (self.head >> 1) & 3
    }

    /// The packet identifier of a packet that begins with one, or 0.
    pub fn leading_id(&self) -> u16 {
        number(self.body, 0)
    }

    /// The packet identifier of a PUBLISH, which stands behind its topic.
    pub fn publish_id(&self) -> u16 {
        number(self.body, 2 + usize::from(number(self.body, 0)))
    }
}

fn number(bytes: &[u8], at: usize) -> u16 {
    match bytes.get(at..at + 2) {
        Some(two) => u16::from_be_bytes([two[0], two[1]]),
        None => 0,
    }
}

/// Splits the first whole packet off `bytes`; `None` if more bytes are needed.
pub fn split(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>> {
    let Some(&head) = bytes.first() else { return Ok(None) };
    let mut length = 0;
    for (index, shift) in [0, 7, 14, 21].into_iter().enumerate() {
        let Some(&byte) = bytes.get(1 + index) else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let start = 2 + index;
            let Some(body) = bytes.get(start..start + length) else { return Ok(None) };
            return Ok(Some((Frame { head, body }, start + length)));
        }
    }
    bail!("the broker sent a remaining length of more than four bytes")
}

/// A CONNECT with a clean session.
pub fn connect(version: Version, client_id: &str, keep_alive: u16) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT".to_vec();
    body.push(match version {
        Version::V311 => 4,
        Version::V5 => 5,
    });
    body.push(0x02);
    body.extend_from_slice(&keep_alive.to_be_bytes());
    if version == Version::V5 {
        body.push(0);
    }
    text(&mut body, client_id.as_bytes());
    packet(0x10, &body)
}

/// A SUBSCRIBE to all of `filters` at `qos`.
pub fn subscribe<'a>(
    version: Version,
    id: u16,
    filters: impl Iterator<Item = &'a str>,
    qos: u8,
) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    for filter in filters {
        text(&mut body, filter.as_bytes());
        body.push(qos);
    }
    packet(0x82, &body)
}

/// A PUBACK, PUBREC, PUBREL or PUBCOMP by its first byte.
pub fn acknowledgement(head: u8, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [head, 2, high, low]
}

/// The topic of one number: as long as every other.
pub fn topic(number: usize) -> String {
    format!("dev/{number:07}/v")
}

/// The filter that matches [`topic`] of the same number and its siblings.
pub fn wildcard(number: usize) -> String {
    format!("dev/{number:07}/+")
}

/// A PUBLISH whose topic number, packet id and time are patched per message.
#[derive(Debug)]
pub struct Template {
    bytes: Vec<u8>,
    number_at: usize,
    id_at: Option<usize>,
    payload_at: usize,
}

impl Template {
    /// A message of `payload` bytes (at least 16) to [`topic`]`(number)`.
    pub fn new(
        version: Version,
        qos: u8,
        number: usize,
        payload: usize,
        user_properties: bool,
    ) -> Self {
        assert!(payload >= 16, "a payload holds a time and a tail");
        let mut body = Vec::new();
        text(&mut body, topic(number).as_bytes());
        let number_in_body = 2 + "dev/".len();
        let id_in_body = (qos > 0).then_some(body.len());
        if qos > 0 {
            body.extend_from_slice(&[0, 1]);
        }
        if version == Version::V5 {
            let mut properties = Vec::new();
            if user_properties {
                for (key, value) in [("site", "hamburg-07"), ("trace", "00f067aa0ba902b7")] {
                    properties.push(0x26);
                    text(&mut properties, key.as_bytes());
                    text(&mut properties, value.as_bytes());
                }
            }
            length(&mut body, properties.len());
            body.extend_from_slice(&properties);
        }
        let payload_in_body = body.len();
        body.resize(body.len() + payload - PAYLOAD_TAIL.len(), b'x');
        body.extend_from_slice(PAYLOAD_TAIL);
        let bytes = packet(0x30 | (qos << 1), &body);
        let start = bytes.len() - body.len();
        Self {
            number_at: start + number_in_body,
            id_at: id_in_body.map(|at| start + at),
            payload_at: start + payload_in_body,
            bytes,
        }
    }

    /// Writes another topic number into the message.
    pub fn renumber(&mut self, number: usize) {
        let mut rest = number;
        for digit in self.bytes[self.number_at..][..NUMBER_DIGITS].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }

    /// Writes the packet identifier of the `sent`-th message.
    pub fn identify(&mut self, sent: u64) {
        if let Some(at) = self.id_at {
            let id = (sent % 65_535) as u16 + 1;
            self.bytes[at..at + 2].copy_from_slice(&id.to_be_bytes());
        }
    }

    /// Writes the time at which the message was due.
    pub fn stamp(&mut self, nanoseconds: u64) {
        self.bytes[self.payload_at..][..8].copy_from_slice(&nanoseconds.to_be_bytes());
    }

    /// The packet.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn length(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![head];
    length(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_split_only_when_it_is_whole() {
        let template = Template::new(Version::V311, 1, 42, 200, false);
        let bytes = template.bytes();
        for cut in 0..bytes.len() {
            assert!(split(&bytes[..cut]).expect("a well-formed head").is_none());
        }
        let (frame, used) = split(bytes).expect("well-formed").expect("whole");
        assert_eq!((frame.kind(), frame.qos(), used), (3, 1, bytes.len()));
    }

    #[test]
    fn a_template_is_patched_where_the_receiver_looks() {
        let mut template = Template::new(Version::V5, 2, 0, 64, true);
        template.renumber(1_234_567);
        template.identify(65_534);
        template.stamp(0x0102_0304_0506_0708);
        let (frame, _) = split(template.bytes()).expect("well-formed").expect("whole");
        assert_eq!(&frame.body[2..15], b"dev/1234567/v");
        assert_eq!(frame.publish_id(), 65_535);
        let payload = &frame.body[frame.body.len() - 64..];
        assert_eq!(payload[..8], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(&payload[56..], PAYLOAD_TAIL);
    }
}
