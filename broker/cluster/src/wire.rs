//! Our own encoding: little endian, lengths checked before anything is
//! allocated, nothing left over at the end.
//!
//! What is written here lives in logs and snapshots for years and is read by
//! the next release, so nothing is derived from the shape of a Rust type.

use crate::ids::{ClusterId, Incarnation, NodeId, PartitionId, StoreId};

/// Why bytes are not what they should be. They come from a log or a peer of
/// the same cluster: at fault is a broken disk, a broken peer, or a version
/// that this one does not know.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end within a field.
    #[error("ends within {0}")]
    Short(&'static str),
    /// There are bytes behind the last field.
    #[error("{0} bytes too many")]
    Left(usize),
    /// A version that is not ours to read.
    #[error("version {0} is not known here")]
    Version(u16),
    /// A number that stands for nothing.
    #[error("{value} is no {what}")]
    Unknown {
        /// What it should have been.
        what: &'static str,
        /// What it was.
        value: u64,
    },
    /// More entries or bytes than there may be.
    #[error("{got} {what} are over the limit of {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        got: u64,
        /// The limit.
        max: u64,
    },
    /// A text that is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// Entries that are not in order, or twice.
    #[error("{0} are not in order")]
    Unordered(&'static str),
    /// A value that contradicts another one.
    #[error("{0}")]
    Contradiction(&'static str),
}

/// Writes fields one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn count(&mut self, len: usize) {
        self.u16(u16::try_from(len).expect("bounded by limits.rs when it was taken"));
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn nodes(&mut self, nodes: &[NodeId]) {
        self.count(nodes.len());
        nodes.iter().for_each(|node| self.u64(node.0));
    }
}

/// Reads fields one behind the other.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

macro_rules! number {
    ($name:ident, $type:ty) => {
        pub(crate) fn $name(&mut self, what: &'static str) -> Result<$type, DecodeError> {
            let bytes = self.take(size_of::<$type>(), what)?;
            Ok(<$type>::from_le_bytes(bytes.try_into().expect("took as many bytes")))
        }
    };
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Short(what))?;
        self.0 = rest;
        Ok(taken)
    }

    number!(u8, u8);
    number!(u16, u16);
    number!(u32, u32);
    number!(u64, u64);
    number!(u128, u128);

    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(DecodeError::Unknown { what, value: value.into() }),
        }
    }

    pub(crate) fn cluster(&mut self) -> Result<ClusterId, DecodeError> {
        self.u128("cluster id").map(ClusterId)
    }

    pub(crate) fn store(&mut self) -> Result<StoreId, DecodeError> {
        self.u128("store id").map(StoreId)
    }

    pub(crate) fn node(&mut self) -> Result<NodeId, DecodeError> {
        self.u64("node id").map(NodeId)
    }

    pub(crate) fn incarnation(&mut self) -> Result<Incarnation, DecodeError> {
        self.u64("incarnation").map(Incarnation)
    }

    pub(crate) fn partition(&mut self) -> Result<PartitionId, DecodeError> {
        self.u16("partition").map(PartitionId)
    }

    /// A number of entries of which each takes at least `bytes_min`.
    pub(crate) fn count(
        &mut self,
        what: &'static str,
        max: usize,
        bytes_min: usize,
    ) -> Result<usize, DecodeError> {
        let got = usize::from(self.u16(what)?);
        if got > max {
            return Err(DecodeError::TooMany { what, got: got as u64, max: max as u64 });
        }
        if got * bytes_min > self.0.len() {
            return Err(DecodeError::Short(what));
        }
        Ok(got)
    }

    pub(crate) fn text(&mut self, what: &'static str, max: usize) -> Result<String, DecodeError> {
        let len = self.count(what, max, 1)?;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| DecodeError::NotUtf8(what))
    }

    pub(crate) fn nodes(&mut self, max: usize) -> Result<Vec<NodeId>, DecodeError> {
        let len = self.count("node ids", max, 8)?;
        (0..len).map(|_| self.node()).collect()
    }

    pub(crate) fn end(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Left(self.0.len())) }
    }
}
