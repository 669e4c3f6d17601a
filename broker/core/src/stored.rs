//! Where a record of a partition with replicas lies, as one number.
//!
//! To the core a [`Position`] is a name. Of a partition with replicas it names an
//! entry of the Raft log with the place of the record in its payload; or, once
//! the log has been cut off, a place in the image that this node keeps. Of
//! records that were written one behind the other the order of the numbers is
//! that of the records, those of the image first.

use crate::ids::Position;
use crate::partition::RecordError;

/// A record of an image is shorter: more than a message can be.
const RECORD_BYTES_MAX: u32 = 1 << 29;
/// The kind of an image's item that is a record.
pub(crate) const RECORD_ITEM: u8 = 13;
/// Bytes of such an item in front of the record: length, kind, checksum.
pub const RECORD_HEAD_BYTES: usize = 9;
/// Bytes of an entry's header.
pub(crate) const HEADER_BYTES: usize = 18;
/// Bytes in front of each of its records: index, length.
pub(crate) const RECORD_BYTES: usize = 12;

/// Bits of a place within an entry's payload.
const WITHIN: u32 = 24;
/// Marks a record of the log.
const LOG: u64 = 1 << 63;
/// Bits of a place within an image.
const IMAGE: u32 = 33;

/// A record, wherever it lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stored {
    /// In the payload of an entry of the Raft log.
    Entry {
        /// The entry's index.
        index: u64,
        /// Where the record begins in the payload.
        at: u32,
    },
    /// In an image.
    Image {
        /// Which one, as its keeper numbers them.
        generation: u32,
        /// Where the item of the record begins.
        at: u64,
    },
}

impl Stored {
    /// What a position of a partition with replicas names.
    pub fn of(position: u64) -> Stored {
        if position & LOG != 0 {
            let index = (position & !LOG) >> WITHIN;
            return Stored::Entry { index, at: (position & ((1 << WITHIN) - 1)) as u32 };
        }
        let generation = (position >> IMAGE) as u32;
        Stored::Image { generation, at: position & ((1 << IMAGE) - 1) }
    }

    /// Its name. None: it is farther than names go, and what it brings has to
    /// stay in memory: 2^39 entries, payloads of 16 MiB, images of 8 GiB.
    pub fn position(self) -> Option<Position> {
        match self {
            Stored::Entry { index, at } => {
                let fits = index > 0 && index < 1 << (63 - WITHIN) && at < 1 << WITHIN;
                fits.then(|| Position::of(LOG | index << WITHIN | u64::from(at))).flatten()
            }
            Stored::Image { generation, at } => {
                let fits = generation > 0 && generation < 1 << (63 - IMAGE) && at < 1 << IMAGE;
                fits.then(|| Position::of(u64::from(generation) << IMAGE | at)).flatten()
            }
        }
    }
}

/// What stands in front of a record in an image. `check` is its checksum, by
/// whatever rule the shell has.
///
/// # Errors
/// It is longer than an item can be.
pub(crate) fn head(record: &[u8], check: u32) -> Result<[u8; RECORD_HEAD_BYTES], RecordError> {
    let bytes = u32::try_from(record.len() + 5);
    let bytes = bytes.map_err(|_| RecordError::Long(record.len()))?.to_le_bytes();
    let mut head = [0; RECORD_HEAD_BYTES];
    head[..4].copy_from_slice(&bytes);
    head[4] = RECORD_ITEM;
    head[5..].copy_from_slice(&check.to_le_bytes());
    Ok(head)
}

/// Reads what stands in front of a record in an image: how long the record is,
/// and its checksum.
///
/// # Errors
/// No record begins here.
pub fn in_image(head: &[u8; RECORD_HEAD_BYTES]) -> Result<(usize, u32), RecordError> {
    let [a, b, c, d, kind, check @ ..] = *head;
    let bytes = u32::from_le_bytes([a, b, c, d]);
    match (kind, bytes.checked_sub(5).filter(|&bytes| bytes < RECORD_BYTES_MAX)) {
        (RECORD_ITEM, Some(bytes)) => Ok((bytes as usize, u32::from_le_bytes(check))),
        _ => Err(RecordError::Unknown { what: "item of a record", value: kind.into() }),
    }
}

/// The record that begins at this place of an entry's payload.
///
/// # Errors
/// None begins there.
pub fn in_entry(payload: &[u8], at: u32) -> Result<&[u8], RecordError> {
    let rest = payload.get(at as usize..).ok_or(RecordError::Short("entry"))?;
    record(rest).map(|(_, body, _)| body)
}

/// The next record of an entry: index and body; with what is behind it.
pub(crate) fn record(rest: &[u8]) -> Result<(u64, &[u8], &[u8]), RecordError> {
    let (index, rest) = rest.split_first_chunk::<8>().ok_or(RecordError::Short("index"))?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(RecordError::Short("length"))?;
    let length = u32::from_le_bytes(*length) as usize;
    let (body, rest) = rest.split_at_checked(length).ok_or(RecordError::Short("record"))?;
    Ok((u64::from_le_bytes(*index), body, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_names_what_it_was_made_of_in_the_order_of_the_records() {
        let all = [
            Stored::Image { generation: 1, at: 0 },
            Stored::Image { generation: 1, at: (1 << 33) - 1 },
            Stored::Image { generation: 2, at: 5 },
            Stored::Image { generation: (1 << 30) - 1, at: 5 },
            Stored::Entry { index: 1, at: 18 },
            Stored::Entry { index: 1, at: (1 << 24) - 1 },
            Stored::Entry { index: 2, at: 18 },
            Stored::Entry { index: (1 << 39) - 1, at: 18 },
        ];
        let names: Vec<_> = all.iter().map(|s| s.position().expect("it has a name")).collect();
        assert!(names.is_sorted());
        for (stored, name) in all.into_iter().zip(names) {
            assert_eq!(Stored::of(name.offset()), stored);
        }
        for far in [
            Stored::Entry { index: 1 << 39, at: 0 },
            Stored::Entry { index: 0, at: 18 },
            Stored::Entry { index: 1, at: 1 << 24 },
            Stored::Image { generation: 0, at: 1 },
            Stored::Image { generation: 1, at: 1 << 33 },
        ] {
            assert_eq!(far.position(), None, "{far:?}");
        }
    }
}
