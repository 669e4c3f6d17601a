//! What a node can read of a partition: entries of its log, from where it was
//! cut off on, and the image that it keeps.

use std::collections::BTreeMap;
use std::rc::Rc;

use tidegate_core::stored::{RECORD_HEAD_BYTES, Stored, in_entry, in_image};
use tidegate_core::{Image, RecordError};

use super::raft::Payload;

/// An image that was written out.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) generation: u32,
    /// Where its records lie.
    pub(super) places: Rc<[u64]>,
    pub(super) bytes: Payload,
}

/// One partition.
#[derive(Debug, Default)]
pub(super) struct Kept {
    entries: BTreeMap<u64, Payload>,
    image: Option<(u32, Payload)>,
    images: u32,
}

impl Kept {
    /// The number of the next image.
    pub(super) fn next_image(&mut self) -> u32 {
        self.images += 1;
        self.images
    }

    /// An entry was committed.
    pub(super) fn append(&mut self, index: u64, payload: Payload) {
        self.entries.insert(index, payload);
    }

    /// An image takes the place of the one before.
    pub(super) fn set_image(&mut self, generation: u32, bytes: Payload) {
        self.image = Some((generation, bytes));
    }

    /// All entries go, as an image has come in from elsewhere.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.image = None;
    }

    /// Entries before this one go.
    pub(super) fn purge(&mut self, index: u64) {
        self.entries = self.entries.split_off(&index);
    }

    /// The record at a place; none: it is there no more.
    pub(super) fn read(&self, position: u64) -> Option<Vec<u8>> {
        match Stored::of(position) {
            Stored::Entry { index, at } => {
                in_entry(self.entries.get(&index)?, at).ok().map(<[u8]>::to_vec)
            }
            Stored::Image { generation, at } => {
                let (_, bytes) = self.image.as_ref().filter(|(of, _)| *of == generation)?;
                let rest = bytes.get(usize::try_from(at).ok()?..)?;
                let (head, rest) = rest.split_first_chunk::<RECORD_HEAD_BYTES>()?;
                let (length, _) = in_image(head).ok()?;
                rest.get(..length).map(<[u8]>::to_vec)
            }
        }
    }

    /// Writes an image out; none: a message that it needs is not there.
    pub(super) fn write(&self, generation: u32, image: &Image) -> Option<Written> {
        let mut bytes = Vec::new();
        let read = |at| self.read(at).ok_or(RecordError::Short("log"));
        let put = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        let places = image.write(read, |_| 0, put).ok()?;
        Some(Written { generation, places: places.into(), bytes: bytes.into() })
    }
}
