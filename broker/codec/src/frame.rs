//! Where a packet ends: the fixed header, and nothing behind it.
//!
//! Kept apart from body parsing on purpose. This is the only place that asks for
//! more bytes, and the size limit is checked here, before anything is stored.

use crate::{DecodeError, PacketType};

/// One whole packet at the start of a buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame {
    /// The first byte: type and flags.
    pub first: u8,
    /// Bytes of the fixed header, 2 to 5. The body is `bytes[header..total]`.
    pub header: usize,
    /// Bytes of the whole packet.
    pub total: usize,
    /// Whether the remaining length is in its shortest form, as 5.0 demands.
    pub minimal: bool,
}

impl Frame {
    /// The packet's type; `None` for the reserved type 0.
    pub fn packet_type(&self) -> Option<PacketType> {
        PacketType::try_from(self.first >> 4).ok()
    }

    /// The low four bits of the first byte.
    #[inline]
    pub fn flags(&self) -> u8 {
        self.first & 0x0F
    }
}

/// Finds the packet at the start of `bytes`.
///
/// `Ok(None)`: more bytes are needed. `TooLarge` counts the whole packet against
/// `max` and is decided as soon as the length is known, so at the latest with the
/// fifth byte; `MalformedLength` likewise.
#[inline]
pub fn frame(bytes: &[u8], max: u32) -> Result<Option<Frame>, DecodeError> {
    let [first, length, ..] = *bytes else {
        return Ok(None);
    };
    if length >= 0x80 {
        return long_frame(bytes, max);
    }
    let total = 2 + usize::from(length);
    if total > max as usize {
        return Err(DecodeError::TooLarge { got: total as u32, max });
    }
    if bytes.len() < total {
        return Ok(None);
    }
    Ok(Some(Frame { first, header: 2, total, minimal: true }))
}

/// A remaining length of two bytes or more.
fn long_frame(bytes: &[u8], max: u32) -> Result<Option<Frame>, DecodeError> {
    let mut remaining = 0u32;
    for at in 1..=4usize {
        let Some(&byte) = bytes.get(at) else {
            return Ok(None);
        };
        remaining |= u32::from(byte & 0x7F) << (7 * (at - 1));
        if byte < 0x80 {
            let header = at + 1;
            let got = header as u32 + remaining;
            if got > max {
                return Err(DecodeError::TooLarge { got, max });
            }
            let total = got as usize;
            if bytes.len() < total {
                return Ok(None);
            }
            return Ok(Some(Frame { first: bytes[0], header, total, minimal: byte != 0 }));
        }
    }
    Err(DecodeError::MalformedLength)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_decided_before_the_length_is_known() {
        for part in [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 0xFF, 0xFF, 0xFF]] {
            assert_eq!(frame(part, 10), Ok(None), "{part:02x?}");
        }
    }

    #[test]
    fn five_bytes_are_enough_to_refuse_the_largest_packet() {
        let got = 268_435_460;
        assert_eq!(
            frame(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], 1 << 20),
            Err(DecodeError::TooLarge { got, max: 1 << 20 })
        );
        assert_eq!(frame(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], got), Ok(None));
    }

    #[test]
    fn the_limit_counts_the_fixed_header() {
        let packet = [0x30, 4, 0, 1, b'a', 0];
        assert!(frame(&packet, 6).is_ok_and(|f| f.is_some_and(|f| f.total == 6)));
        assert_eq!(frame(&packet[..2], 5), Err(DecodeError::TooLarge { got: 6, max: 5 }));
    }

    #[test]
    fn a_fifth_length_byte_is_malformed() {
        let error = frame(&[0x30, 0x80, 0x80, 0x80, 0x80], 100).unwrap_err();
        assert_eq!(error, DecodeError::MalformedLength);
        assert_eq!(error.reason() as u8, 0x81);
    }

    #[test]
    fn a_long_form_is_framed_and_marked() {
        for (bytes, header) in [
            (&[0xC0, 0x80, 0x00][..], 3),
            (&[0xC0, 0x80, 0x80, 0], 4),
            (&[0xC0, 128, 128, 128, 0], 5),
        ] {
            let found = frame(bytes, 100).unwrap().unwrap();
            assert_eq!(found, Frame { first: 0xC0, header, total: header, minimal: false });
        }
    }

    #[test]
    fn bytes_of_the_next_packet_are_left_alone() {
        let found = frame(&[0xC0, 0, 0xC0, 0], 100).unwrap().unwrap();
        assert_eq!((found.header, found.total, found.flags()), (2, 2, 0));
        assert_eq!(found.packet_type(), Some(PacketType::Pingreq));
    }
}
