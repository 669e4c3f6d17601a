//! A segment: one file of the log, `<base, 16 hex digits>.seg`.
//!
//! ```text
//! magic [8] | version u32 | reserved u32 | base u64 | store u128 | number u64
//! | chain u32 | reserved [8] | crc u32
//! ```
//!
//! 64 bytes, little endian, then groups up to the end of the file. The first
//! group carries every partition's newest vote and compaction point, so that
//! the newest segment alone answers for them and older ones can go. `number`
//! and `chain` belong to the group before the segment. The checksum lies in
//! the last four bytes in every version, so that an older program can tell a
//! newer format from damage.

use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use crate::position::Position;
use crate::record::{u32_at, u64_at};

/// Bytes of a segment before its first group.
pub const SEGMENT_HEADER_BYTES: usize = 64;

/// The first eight bytes of each segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"TGlog\r\n\x1a";

/// The format that is written.
pub const FORMAT: u32 = 1;

/// The head of a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SegmentHeader {
    /// The position of its first group.
    pub base: u64,
    /// The store that it belongs to.
    pub store: u128,
    /// The number of the last group before it.
    pub number: u64,
    /// The header checksum of the last group before it.
    pub chain: u32,
}

/// Why bytes are no segment header of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// Cut, changed or something else.
    #[error("the header is damaged")]
    Damaged,
    /// Written by a newer program.
    #[error("format {found} is newer than {FORMAT}, the newest that this program reads")]
    Newer {
        /// The version it says.
        found: u32,
    },
}

impl SegmentHeader {
    /// The bytes at the start of the file.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[16..24].copy_from_slice(&self.base.to_le_bytes());
        out[24..40].copy_from_slice(&self.store.to_le_bytes());
        out[40..48].copy_from_slice(&self.number.to_le_bytes());
        out[48..52].copy_from_slice(&self.chain.to_le_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header at the start of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        if bytes.len() < SEGMENT_HEADER_BYTES
            || bytes[..8] != SEGMENT_MAGIC
            || crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60)
        {
            return Err(HeaderError::Damaged);
        }
        match u32_at(bytes, 8) {
            FORMAT => Ok(Self {
                base: u64_at(bytes, 16),
                store: u128::from_le_bytes(bytes[24..40].try_into().expect("sixteen bytes")),
                number: u64_at(bytes, 40),
                chain: u32_at(bytes, 48),
            }),
            0 => Err(HeaderError::Damaged),
            found => Err(HeaderError::Newer { found }),
        }
    }
}

/// The file name of the segment that starts at `base`.
pub fn file_name(base: u64) -> String {
    format!("{base:016x}.seg")
}

/// The base in a file name, if it is a segment's.
pub fn base_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let lower = digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (digits.len() == 16 && lower).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// An open segment, shared by the log and its readers.
#[derive(Debug)]
pub(crate) struct Segment<F> {
    pub(crate) base: u64,
    pub(crate) file: F,
    pub(crate) before: Before,
    /// The position after its last group that was handed to the kernel.
    pub(crate) end: AtomicU64,
    /// What the owner says is still needed of it.
    pub(crate) live: AtomicU64,
    /// Holders who forbid its removal. Changed under the set's lock.
    pub(crate) pins: AtomicU64,
}

/// What came before a group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Before {
    pub(crate) number: u64,
    pub(crate) chain: u32,
}

impl<F> Segment<F> {
    pub(crate) fn new(base: u64, file: F, before: Before, end: u64) -> Self {
        let [end, live, pins] = [end, 0, 0].map(AtomicU64::new);
        Self { base, file, before, end, live, pins }
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Where in the file a position lies.
    pub(crate) fn offset(&self, position: u64) -> u64 {
        position - self.base + SEGMENT_HEADER_BYTES as u64
    }
}

/// The segments of a log, oldest first.
#[derive(Debug)]
pub(crate) struct SegmentSet<F> {
    list: RwLock<Vec<Arc<Segment<F>>>>,
    /// Everything below is durable.
    pub(crate) durable: AtomicU64,
}

impl<F> SegmentSet<F> {
    pub(crate) fn new(list: Vec<Arc<Segment<F>>>, durable: u64) -> Self {
        Self { list: RwLock::new(list), durable: AtomicU64::new(durable) }
    }

    /// The segment in which a position lies.
    pub(crate) fn of(&self, position: u64) -> Option<Arc<Segment<F>>> {
        self.read(|list| index_of(list, position).map(|i| list[i].clone()))
    }

    /// All from the one in which `position` lies.
    pub(crate) fn from(&self, position: u64) -> Option<Vec<Arc<Segment<F>>>> {
        self.read(|list| index_of(list, position).map(|i| list[i..].to_vec()))
    }

    /// Forbids the removal of the segment of a position and of all after it.
    pub(crate) fn pin(&self, position: Position) -> Option<Arc<Segment<F>>> {
        self.read(|list| {
            let segment = list[index_of(list, position.0)?].clone();
            segment.pins.fetch_add(1, Ordering::AcqRel);
            Some(segment)
        })
    }

    pub(crate) fn read<T>(&self, f: impl FnOnce(&[Arc<Segment<F>>]) -> T) -> T {
        // Nothing under the lock panics half-way.
        f(&self.list.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn write<T>(&self, f: impl FnOnce(&mut Vec<Arc<Segment<F>>>) -> T) -> T {
        f(&mut self.list.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The end of the last segment counts as in it: a scan may start there.
fn index_of<F>(list: &[Arc<Segment<F>>], position: u64) -> Option<usize> {
    let i = list.partition_point(|segment| segment.base <= position).checked_sub(1)?;
    (position <= list[i].end()).then_some(i)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader { base: 77, store: 1 << 100, number: 3, chain: 4 };

    #[test]
    fn a_header_reads_back_and_every_changed_bit_is_noticed() {
        let bytes = HEADER.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(HEADER));
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad), Err(HeaderError::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut bytes = HEADER.encode();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderError::Newer { found: 2 }));
    }

    #[test]
    fn only_our_own_names_are_segments() {
        assert_eq!(base_of(&file_name(0xabc)), Some(0xabc));
        for name in ["abc.seg", "0000000000000ABC.seg", "+000000000000abc.seg", "manifest"] {
            assert_eq!(base_of(name), None, "{name}");
        }
    }
}
