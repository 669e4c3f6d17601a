//! The frame: sixteen bytes of header and a body.
//!
//! `parse` says how many bytes are missing, what the header says, or whose
//! fault it is. The length is held against its bound on the first four bytes,
//! so nothing is ever read, let alone allocated, for a length that is refused:
//! an HTTP request that strays here ends with its fourth byte.

use std::ops::BitOr;

use crate::lane::Lane;
use crate::limits::HEADER_BYTES;
use crate::reason::Reason;

/// What the header's flags say.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Flags(u16);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// Whoever does not know the type skips the frame.
    pub const OPTIONAL: Self = Self(1 << 0);
    /// Further frames of the same message follow on this lane.
    pub const MORE: Self = Self(1 << 1);
    /// The frame goes on with the message that the last one on this lane left.
    pub const CONTINUED: Self = Self(1 << 2);

    const KNOWN: u16 = 0b111;

    /// Those of a header; none if it carries some that nobody has defined.
    pub fn from_bits(bits: u16) -> Option<Self> {
        (bits & !Self::KNOWN == 0).then_some(Self(bits))
    }

    /// As in the header.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Whether all of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Bytes of the body in this frame.
    pub len: u32,
    /// What the body is; see `MessageType`. Not necessarily one we know.
    pub kind: u16,
    /// See there.
    pub flags: Flags,
    /// What it is ordered and credited with.
    pub lane: Lane,
    /// CRC-32C of the header's first twelve bytes and the body.
    pub crc: u32,
}

/// What some bytes begin with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Parsed {
    /// Not a whole frame: at least so many bytes are missing.
    NeedMore(usize),
    /// A whole frame, of `HEADER_BYTES + header.len` bytes, its checksum right.
    Frame(Header),
}

/// A frame or a row of frames that breaks the rules. All are the sender's fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// Refused on the first four bytes.
    #[error("a frame of {got} bytes is over the limit of {max}")]
    TooLarge {
        /// The length in the header.
        got: u32,
        /// What was allowed here.
        max: u32,
    },
    /// Flags that no version has defined.
    #[error("reserved flags {0:#06x}")]
    ReservedFlags(u16),
    /// The bytes are not those that were sent.
    #[error("checksum {said:#010x} in the header, {is:#010x} of the bytes")]
    Checksum {
        /// The header's.
        said: u32,
        /// The bytes'.
        is: u32,
    },
    /// A continuation with nothing to continue, of another type, or one
    /// message begun within another.
    #[error("{lane}: {what}")]
    Fragment {
        /// Where.
        lane: Lane,
        /// What is wrong.
        what: &'static str,
    },
    /// A message announces more than any may have.
    #[error("a message of {got} bytes is over the limit of {max}")]
    MessageTooLarge {
        /// What its first frame announces.
        got: u32,
        /// What is allowed.
        max: u32,
    },
    /// More messages are partly through than a sender may begin.
    #[error("{partials} messages of {bytes} bytes together are partly through")]
    TooManyPartials {
        /// Messages, with the one refused.
        partials: usize,
        /// Their bytes when complete.
        bytes: usize,
    },
    /// Nobody here knows the type, and it may not be skipped.
    #[error("unknown type {0:#06x}")]
    UnknownType(u16),
}

impl FrameError {
    /// What the sender is told before we hang up.
    pub fn reason(&self) -> Reason {
        match self {
            Self::TooLarge { .. } | Self::MessageTooLarge { .. } => Reason::TooLarge,
            Self::ReservedFlags(_) => Reason::ReservedFlags,
            Self::Checksum { .. } => Reason::BadChecksum,
            Self::Fragment { .. } => Reason::BadFragment,
            Self::TooManyPartials { .. } => Reason::TooManyPartials,
            Self::UnknownType(_) => Reason::UnknownType,
        }
    }
}

/// What `bytes` begin with, when a body may have `body_max` bytes.
pub fn parse(bytes: &[u8], body_max: usize) -> Result<Parsed, FrameError> {
    let Some(len) = bytes.first_chunk::<4>() else {
        return Ok(Parsed::NeedMore(HEADER_BYTES - bytes.len()));
    };
    let len = u32::from_le_bytes(*len);
    if len as usize > body_max {
        let max = u32::try_from(body_max).unwrap_or(u32::MAX);
        return Err(FrameError::TooLarge { got: len, max });
    }
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(Parsed::NeedMore(HEADER_BYTES - bytes.len()));
    };
    let [_, _, _, _, k0, k1, f0, f1, l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    let flags = u16::from_le_bytes([f0, f1]);
    let flags = Flags::from_bits(flags).ok_or(FrameError::ReservedFlags(flags))?;
    let total = HEADER_BYTES + len as usize;
    let Some(body) = bytes.get(HEADER_BYTES..total) else {
        return Ok(Parsed::NeedMore(total - bytes.len()));
    };
    let header = Header {
        len,
        kind: u16::from_le_bytes([k0, k1]),
        flags,
        lane: Lane::from_u32(u32::from_le_bytes([l0, l1, l2, l3])),
        crc: u32::from_le_bytes([c0, c1, c2, c3]),
    };
    let is = checksum(&head[..12], [body]);
    if is != header.crc {
        return Err(FrameError::Checksum { said: header.crc, is });
    }
    Ok(Parsed::Frame(header))
}

/// The header of a frame with the body `parts`, ready to be sent.
pub fn header<'a>(
    kind: u16,
    flags: Flags,
    lane: Lane,
    parts: impl IntoIterator<Item = &'a [u8]> + Clone,
) -> [u8; HEADER_BYTES] {
    let len: usize = parts.clone().into_iter().map(<[u8]>::len).sum();
    let len = u32::try_from(len).expect("a frame's body is at most 64 KiB");
    let mut head = [0; HEADER_BYTES];
    head[0..4].copy_from_slice(&len.to_le_bytes());
    head[4..6].copy_from_slice(&kind.to_le_bytes());
    head[6..8].copy_from_slice(&flags.bits().to_le_bytes());
    head[8..12].copy_from_slice(&lane.as_u32().to_le_bytes());
    let crc = checksum(&head[..12], parts);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    head
}

/// A whole frame with a short body, as the handshake sends them.
pub fn whole(kind: u16, flags: Flags, lane: Lane, body: &[u8]) -> bytes::Bytes {
    let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
    frame.extend_from_slice(&header(kind, flags, lane, [body]));
    frame.extend_from_slice(body);
    frame.into()
}

fn checksum<'a>(head: &[u8], parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    parts.into_iter().fold(crc32c::crc32c(head), crc32c::crc32c_append)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FRAME_BODY_BYTES_MAX;

    const LANE: Lane = Lane::from_u32(0x0102_0304);

    #[test]
    fn a_frame_is_parsed_however_it_is_cut() {
        let frame = whole(0x0110, Flags::OPTIONAL, LANE, b"body");
        for cut in 0..frame.len() {
            let Ok(Parsed::NeedMore(missing)) = parse(&frame[..cut], FRAME_BODY_BYTES_MAX) else {
                panic!("{cut} bytes are not a frame");
            };
            assert!((1..=frame.len() - cut).contains(&missing), "{missing} after {cut}");
        }
        let Ok(Parsed::Frame(header)) = parse(&frame, FRAME_BODY_BYTES_MAX) else {
            panic!("all bytes are a frame");
        };
        assert_eq!((header.len, header.kind, header.lane), (4, 0x0110, LANE));
        assert_eq!(header.flags, Flags::OPTIONAL);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_on_four_bytes() {
        let said = parse(b"GET ", FRAME_BODY_BYTES_MAX).expect_err("not a frame");
        assert_eq!(said, FrameError::TooLarge { got: 0x2054_4547, max: 65_536 });
        assert_eq!(said.reason(), Reason::TooLarge);
        assert_eq!(parse(&65_536u32.to_le_bytes(), 65_536), Ok(Parsed::NeedMore(12)));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let frame = whole(0x0110, Flags::NONE, LANE, b"some bytes of a body");
        for bit in 0..frame.len() * 8 {
            let mut bad = frame.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            // A longer length asks for bytes that do not come; none is taken.
            let parsed = parse(&bad, FRAME_BODY_BYTES_MAX);
            assert!(!matches!(parsed, Ok(Parsed::Frame(_))), "bit {bit}: {parsed:?}");
        }
    }

    #[test]
    fn flags_that_nobody_defined_are_refused() {
        let mut frame = whole(0x0110, Flags::NONE, LANE, b"").to_vec();
        frame[6] = 0x08;
        assert_eq!(parse(&frame, 0), Err(FrameError::ReservedFlags(8)));
    }
}
