//! A record: what a partition put into the log.
//!
//! ```text
//! crc u32 | len u32 | kind u8 | flags u8 | partition u16 | term u64 | index u64 | body
//! ```
//!
//! Little endian; `len` is the body's; `crc` (CRC32C) is of everything after
//! itself, so that one record read by its position proves itself without the
//! group around it.

use bytes::Bytes;

use crate::limits::RECORD_BODY_BYTES_MAX;

/// Bytes before the body.
pub const RECORD_HEADER_BYTES: usize = 28;

/// The flag that the log keeps to itself: a vote or compaction point repeated
/// at the start of a segment, so that older segments can go.
pub const CARRIED: u8 = 0x80;

/// The flag of a [`Kind::Compacted`] that gives a partition up: its entries
/// before this record are void, whatever their index, and the next one may have
/// any. Its vote stays; term and index are those of the last entry that it had.
/// Voids nothing where it is [`CARRIED`]: what it spoke of lay before it, and is
/// gone.
pub const EMPTIED: u8 = 0x01;

/// What a record is. The numbers are on disk.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Kind {
    /// An entry of the partition's log; the body is the owner's.
    Entry = 1,
    /// The partition's vote: `term` is the vote's, the body the voter's. The
    /// newest one counts. In order with the entries: one watermark is true of both.
    Vote = 2,
    /// Entries from `index` on that stand before this record are void.
    Truncate = 3,
    /// Entries up to `index` (of `term`) are no longer needed.
    Compacted = 4,
    /// A piece of the partition's state; the body is the owner's.
    Snapshot = 5,
    /// An entry that says who votes.
    Membership = 6,
    /// An entry without content, as a new leader writes.
    Blank = 7,
    /// How far entries are known to be committed. Never waited for.
    Committed = 8,
}

impl Kind {
    /// Every kind of format 1.
    pub const ALL: [Self; 8] = [
        Self::Entry,
        Self::Vote,
        Self::Truncate,
        Self::Compacted,
        Self::Snapshot,
        Self::Membership,
        Self::Blank,
        Self::Committed,
    ];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether the record has a place (`index`) in the partition's own log.
    pub fn is_entry(self) -> bool {
        match self {
            Self::Entry | Self::Membership | Self::Blank => true,
            Self::Vote | Self::Truncate | Self::Compacted | Self::Snapshot | Self::Committed => {
                false
            }
        }
    }

    /// Whether its newest of each partition is repeated in every segment.
    pub(crate) fn is_carried(self) -> bool {
        match self {
            Self::Vote | Self::Compacted => true,
            Self::Entry
            | Self::Truncate
            | Self::Snapshot
            | Self::Membership
            | Self::Blank
            | Self::Committed => false,
        }
    }
}

/// A record where it lies in a buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecordRef<'a> {
    /// What it is.
    pub kind: Kind,
    /// The owner's; the highest bit is the log's ([`CARRIED`]).
    pub flags: u8,
    /// Whose it is.
    pub partition: u16,
    /// The term it was written in.
    pub term: u64,
    /// Its place in the partition's log, or what `kind` says.
    pub index: u64,
    /// What it says.
    pub body: &'a [u8],
}

/// A record of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// The owner's; the highest bit is the log's ([`CARRIED`]).
    pub flags: u8,
    /// Whose it is.
    pub partition: u16,
    /// The term it was written in.
    pub term: u64,
    /// Its place in the partition's log, or what `kind` says.
    pub index: u64,
    /// What it says. Exactly its size: it may be kept.
    pub body: Bytes,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecordError {
    /// More bytes are needed.
    #[error("a record needs {need} bytes, {have} are there")]
    Short {
        /// What it takes.
        need: usize,
        /// What there is.
        have: usize,
    },
    /// Larger than any record.
    #[error("a record of {len} bytes is over the limit")]
    TooLarge {
        /// What it claims.
        len: u32,
    },
    /// The checksum does not match.
    #[error("the record's checksum does not match")]
    Crc,
    /// A kind that format 1 does not have.
    #[error("record kind {0} is unknown")]
    Kind(u8),
}

impl<'a> RecordRef<'a> {
    /// Reads the record at the start of `bytes` and checks its checksum.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let record = Self::decode_unchecked(bytes)?;
        let end = RECORD_HEADER_BYTES + record.body.len();
        if crc32c::crc32c(&bytes[4..end]) != u32_at(bytes, 0) {
            return Err(RecordError::Crc);
        }
        Ok(record)
    }

    /// The same inside a group whose own checksum was right.
    pub(crate) fn decode_unchecked(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let end = record_bytes(bytes)?;
        if end > bytes.len() {
            return Err(RecordError::Short { need: end, have: bytes.len() });
        }
        Ok(Self {
            kind: Kind::from_byte(bytes[8]).ok_or(RecordError::Kind(bytes[8]))?,
            flags: bytes[9],
            partition: u16::from_le_bytes([bytes[10], bytes[11]]),
            term: u64_at(bytes, 12),
            index: u64_at(bytes, 20),
            body: &bytes[RECORD_HEADER_BYTES..end],
        })
    }

    /// Bytes of the record in the log.
    pub fn len(&self) -> usize {
        RECORD_HEADER_BYTES + self.body.len()
    }

    /// Never: a record has at least its header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// A record of its own, with a body of exactly its size.
    pub fn to_record(&self) -> Record {
        Record {
            kind: self.kind,
            flags: self.flags,
            partition: self.partition,
            term: self.term,
            index: self.index,
            body: Bytes::copy_from_slice(self.body),
        }
    }
}

/// What the record that starts here takes, body included.
pub(crate) fn record_bytes(bytes: &[u8]) -> Result<usize, RecordError> {
    if bytes.len() < RECORD_HEADER_BYTES {
        return Err(RecordError::Short { need: RECORD_HEADER_BYTES, have: bytes.len() });
    }
    let len = u32_at(bytes, 4);
    if len as usize > RECORD_BODY_BYTES_MAX {
        return Err(RecordError::TooLarge { len });
    }
    Ok(RECORD_HEADER_BYTES + len as usize)
}

/// Appends a record to `out`; the body is written in place.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    kind: Kind,
    flags: u8,
    partition: u16,
    term: u64,
    index: u64,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    let mut header = [0; RECORD_HEADER_BYTES];
    header[8] = kind as u8;
    header[9] = flags;
    header[10..12].copy_from_slice(&partition.to_le_bytes());
    header[12..20].copy_from_slice(&term.to_le_bytes());
    header[20..28].copy_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&header);
    body(out);
    let len = out.len().checked_sub(start + RECORD_HEADER_BYTES).expect("a body only appends");
    assert!(len <= RECORD_BODY_BYTES_MAX, "a body of {len} bytes passed the packet limit");
    out[start + 4..start + 8].copy_from_slice(&(len as u32).to_le_bytes());
    let crc = crc32c::crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The records of a group's body, in order.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// Of a body whose checksum was right.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    /// Offset within the body, and the record.
    type Item = Result<(usize, RecordRef<'a>), RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.bytes.len() {
            return None;
        }
        let at = self.at;
        match RecordRef::decode_unchecked(&self.bytes[at..]) {
            Ok(record) => {
                self.at += record.len();
                Some(Ok((at, record)))
            }
            Err(error) => {
                self.at = self.bytes.len();
                Some(Err(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut out = Vec::new();
        encode(&mut out, Kind::Entry, 3, 17, 5, 1 << 40, |out| out.extend_from_slice(b"tide"));
        out
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let bytes = sample();
        let read = RecordRef::decode(&bytes).expect("ours");
        let wrote = RecordRef {
            kind: Kind::Entry,
            flags: 3,
            partition: 17,
            term: 5,
            index: 1 << 40,
            body: b"tide",
        };
        assert_eq!(read, wrote);
        assert_eq!(read.len(), bytes.len());
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(RecordRef::decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(RecordRef::decode(&bytes[..len]).is_err(), "cut to {len}");
        }
    }

    #[test]
    fn every_kind_has_its_own_number() {
        for (i, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, i + 1);
            assert_eq!(Kind::from_byte(kind as u8), Some(kind));
        }
        assert_eq!(Kind::from_byte(0), None);
        assert_eq!(Kind::from_byte(9), None);
    }
}
