//! Bodies that are laid out by hand: `ver u8 | header_len u16 | …`.
//!
//! `header_len` counts from the body's first byte to the first behind the
//! header, so a newer sender may add fields at the header's end and an older
//! reader steps over them. `ver` changes when that is not enough. Everything is
//! little endian. What is reserved is sent as zero and not looked at.

use bytes::{Bytes, BytesMut};

use crate::reason::Reason;

/// A body that is not what its type says. The sender's fault.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BodyError {
    /// It ends before what it announces.
    #[error("{what} ends {missing} bytes early")]
    Short {
        /// Which part.
        what: &'static str,
        /// How many bytes are missing.
        missing: usize,
    },
    /// Bytes are left over.
    #[error("{0} bytes behind the end")]
    Trailing(usize),
    /// A layout that only a newer version knows, or none at all.
    #[error("layout {got}, and {known} is the newest known")]
    Layout {
        /// The body's.
        got: u8,
        /// Ours.
        known: u8,
    },
    /// A count or length over its bound.
    #[error("{what}: {got} is over the limit of {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The body's.
        got: usize,
        /// What is allowed.
        max: usize,
    },
    /// A value that its field cannot have.
    #[error("{what} cannot be {got}")]
    Value {
        /// Which field.
        what: &'static str,
        /// The body's.
        got: u64,
    },
    /// Text that is not UTF-8.
    #[error("{0} is not UTF-8")]
    Text(&'static str),
    /// Not protobuf.
    #[error("not a protobuf message: {0}")]
    Proto(&'static str),
}

impl BodyError {
    /// What the sender is told before we hang up.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Layout { .. } => Reason::UnknownLayout,
            Self::Short { .. }
            | Self::Trailing(_)
            | Self::TooMany { .. }
            | Self::Value { .. }
            | Self::Text(_)
            | Self::Proto(_) => Reason::BadBody,
        }
    }
}

/// A body being read: fields from the header, then parts from behind it.
///
/// The fourth byte is read when it is opened; every layout has one there.
pub(crate) struct Opened<'a> {
    body: &'a Bytes,
    /// In the header.
    at: usize,
    header_len: usize,
    /// Behind the header.
    rest: usize,
    /// The byte behind `header_len`.
    pub(crate) fourth: u8,
}

impl<'a> Opened<'a> {
    /// Of a body whose header has at least `header_min` bytes in `known`.
    pub(crate) fn new(body: &'a Bytes, known: u8, header_min: usize) -> Result<Self, BodyError> {
        debug_assert!(header_min >= 4, "every layout has a fourth byte");
        let short = |have: usize| BodyError::Short { what: "header", missing: header_min - have };
        let Some(&[ver, low, high, fourth]) = body.first_chunk::<4>() else {
            return Err(short(body.len()));
        };
        if ver == 0 || ver > known {
            return Err(BodyError::Layout { got: ver, known });
        }
        let header_len = usize::from(u16::from_le_bytes([low, high]));
        if header_len < header_min {
            return Err(short(header_len));
        }
        if header_len > body.len() {
            return Err(BodyError::Short { what: "body", missing: header_len - body.len() });
        }
        Ok(Self { body, at: 4, header_len, rest: header_len, fourth })
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], BodyError> {
        let field = self.body[self.at..self.header_len].first_chunk::<N>();
        self.at += N;
        field.copied().ok_or(BodyError::Short { what: "header", missing: N })
    }

    pub(crate) fn u8(&mut self) -> Result<u8, BodyError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, BodyError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, BodyError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, BodyError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn u128(&mut self) -> Result<u128, BodyError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(crate) fn block<const N: usize>(&mut self) -> Result<[u8; N], BodyError> {
        self.array()
    }

    /// A count in the header, held against its bound.
    pub(crate) fn count(&mut self, what: &'static str, max: usize) -> Result<usize, BodyError> {
        let got = self.u32()? as usize;
        if got > max {
            return Err(BodyError::TooMany { what, got, max });
        }
        Ok(got)
    }

    /// The next `len` bytes behind the header, shared with the body.
    pub(crate) fn part(&mut self, len: usize, what: &'static str) -> Result<Bytes, BodyError> {
        let left = self.body.len() - self.rest;
        if len > left {
            return Err(BodyError::Short { what, missing: len - left });
        }
        let from = self.rest;
        self.rest += len;
        Ok(self.body.slice(from..self.rest))
    }

    /// The next `count` rows of `N` bytes behind the header.
    pub(crate) fn rows<const N: usize>(
        &mut self,
        count: usize,
        what: &'static str,
    ) -> Result<&'a [[u8; N]], BodyError> {
        let left = &self.body[self.rest..];
        // The count is held against its bound, so this cannot overflow.
        let len = count * N;
        let Some(rows) = left.get(..len) else {
            return Err(BodyError::Short { what, missing: len - left.len() });
        };
        self.rest += len;
        Ok(rows.as_chunks::<N>().0)
    }

    /// The same as text, shared with the body.
    pub(crate) fn utf8(&mut self, len: usize, what: &'static str) -> Result<Bytes, BodyError> {
        let part = self.part(len, what)?;
        std::str::from_utf8(&part).map_err(|_| BodyError::Text(what))?;
        Ok(part)
    }

    /// The same as text, copied; for what is short and outlives the body.
    pub(crate) fn text(&mut self, len: usize, what: &'static str) -> Result<String, BodyError> {
        let part = self.part(len, what)?;
        String::from_utf8(part.to_vec()).map_err(|_| BodyError::Text(what))
    }

    /// All that is left behind the header.
    pub(crate) fn payload(self) -> Bytes {
        self.body.slice(self.rest..)
    }

    /// Nothing may be left.
    pub(crate) fn ends(self) -> Result<(), BodyError> {
        match self.body.len() - self.rest {
            0 => Ok(()),
            left => Err(BodyError::Trailing(left)),
        }
    }
}

/// A bit of a byte of flags.
pub(crate) fn flag(is_set: bool, bit: u8) -> u8 {
    if is_set { bit } else { 0 }
}

/// A body being written.
pub(crate) struct Writer(BytesMut);

impl Writer {
    pub(crate) fn new(ver: u8, fourth: u8) -> Self {
        let mut out = BytesMut::with_capacity(128);
        out.extend_from_slice(&[ver, 0, 0, fourth]);
        Self(out)
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.bytes(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn zeros(&mut self, count: usize) {
        self.0.resize(self.0.len() + count, 0);
    }

    /// A count or length that the caller keeps below 4 Gi.
    pub(crate) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("held against its bound by the caller"));
    }

    /// What follows is behind the header.
    pub(crate) fn header_ends(&mut self) {
        let len = u16::try_from(self.0.len()).expect("headers are bounded below 64 KiB");
        self.0[1..3].copy_from_slice(&len.to_le_bytes());
    }

    pub(crate) fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// One row of a table: fields at fixed places.
pub(crate) struct Row<'a, const N: usize>(pub(crate) &'a [u8; N]);

impl<const N: usize> Row<'_, N> {
    fn array<const M: usize>(&self, at: usize) -> [u8; M] {
        *self.0[at..].first_chunk::<M>().expect("rows are read within their width")
    }

    pub(crate) fn u8(&self, at: usize) -> u8 {
        self.0[at]
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}
