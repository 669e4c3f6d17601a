//! Messages of queues of partitions with replicas, where they lie: in the log of
//! the partition's Raft group, or in the image that this node keeps of it.

use std::io;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tidegate_consensus::{Body, Entries, Groups, Transport};
use tidegate_core::RecordError;
use tidegate_core::ids::PartitionId;
use tidegate_core::stored::{self, RECORD_HEAD_BYTES, Stored};
use tidegate_store::Disk;
use tidegate_store::raft::Writer;

use super::run::group;
use crate::store::reader::{Ask, die};

/// How long what lies elsewhere by now is held back: the shard is about to hear
/// where.
const PAUSE: Duration = Duration::from_millis(1);
/// Bytes that are read at once in the hope that they are all of a record.
const READ_BYTES: usize = 4 << 10;

/// Why the record at a position cannot be read.
#[derive(Debug, Error)]
pub(crate) enum BodyError {
    /// The device's.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No record lies there.
    #[error("{0}")]
    Record(#[from] RecordError),
    /// Other bytes than were written.
    #[error("the record at {at} of an image does not match its checksum")]
    Damaged {
        /// Where.
        at: u64,
    },
    /// Neither the log nor the image has it.
    #[error("position {0:#x} is not there any more")]
    Gone(u64),
}

/// The record at a position; none: log and image do not have it any more.
pub(super) fn read(
    position: u64,
    entries: &mut Entries,
    image: Option<&(u32, Body)>,
) -> Result<Option<Bytes>, BodyError> {
    match Stored::of(position) {
        Stored::Entry { index, at } => {
            let Some(payload) = entries.get(index)? else { return Ok(None) };
            let record = stored::in_entry(&payload, at)?;
            Ok(Some(payload.slice_ref(record)))
        }
        Stored::Image { generation, at } => {
            let Some((_, body)) = image.filter(|(number, _)| *number == generation) else {
                return Ok(None);
            };
            of_image(body, at).map(Some)
        }
    }
}

/// The record that begins at a place of an image.
fn of_image(image: &Body, at: u64) -> Result<Bytes, BodyError> {
    let piece = image.read(at, READ_BYTES)?;
    let head = piece.first_chunk().ok_or(RecordError::Short("head"))?;
    let (bytes, check) = stored::in_image(head)?;
    let end = RECORD_HEAD_BYTES + bytes;
    let record = match piece.len() < end {
        true => image.read(at + RECORD_HEAD_BYTES as u64, bytes)?,
        false => piece.slice(RECORD_HEAD_BYTES..end),
    };
    match record.len() == bytes && crc32c::crc32c(&record) == check {
        true => Ok(record),
        false => Err(BodyError::Damaged { at }),
    }
}

/// What the reader of a node in a cluster reads with.
pub(super) fn reading<D: Disk, W: Writer, T: Transport>(
    groups: Groups<D, W, T>,
) -> impl FnMut(&Ask) -> Vec<Bytes> + Send {
    move |ask| {
        let partition = PartitionId(ask.fetch.partition());
        let gone = || {
            thread::sleep(PAUSE);
            Vec::new()
        };
        let Some(mut entries) = groups.entries(group(partition)) else { return gone() };
        let mut bodies = Vec::with_capacity(ask.fetch.positions.len());
        for &position in &ask.fetch.positions {
            match read(position, &mut entries, ask.image.as_ref()) {
                // What shares the buffer of a payload would keep all of it.
                Ok(Some(body)) => bodies.push(Bytes::copy_from_slice(&body)),
                Ok(None) => return gone(),
                Err(error) => die(&error),
            }
        }
        bodies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_image_is_what_was_written_or_an_error() {
        for bytes in [0, 1, READ_BYTES - RECORD_HEAD_BYTES, READ_BYTES, 3 * READ_BYTES] {
            let record: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
            let mut image = b"in front".to_vec();
            image.extend_from_slice(&(bytes as u32 + 5).to_le_bytes());
            image.push(13);
            image.extend_from_slice(&crc32c::crc32c(&record).to_le_bytes());
            image.extend_from_slice(&record);
            let end = image.len();
            image.extend_from_slice(b"behind");
            let read = |image: &[u8]| of_image(&Bytes::copy_from_slice(image).into(), 8);
            assert_eq!(read(&image).expect("it is whole"), record);
            assert!(read(&image[..end.saturating_sub(1)]).is_err(), "{bytes} of an image cut off");
            for bit in (8 * 8..end * 8).step_by(bytes / 7 + 1) {
                let mut bad = image.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(read(&bad).is_err(), "{bytes}, bit {bit}");
            }
        }
    }
}
