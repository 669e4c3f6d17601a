//! What a node can read of a partition: its log, from where it was cut off on,
//! and the image that it keeps.

use tidegate_core::Fetch;
use tidegate_core::ids::Member;
use tidegate_core::stored::{RECORD_HEAD_BYTES, Stored, in_entry, in_image};

#[derive(Default)]
pub struct Disk {
    /// Entries up to this one are gone.
    gone: usize,
    /// The image, with its number.
    image: Option<(u32, Vec<u8>)>,
    images: u32,
    /// Counts what made something unreadable.
    pub epoch: u64,
}

/// An image that is written and not durable.
pub struct Saving {
    pub generation: u32,
    pub places: Vec<u64>,
    pub bytes: Vec<u8>,
    /// The last entry that is in it.
    pub upto: usize,
}

/// A read that was asked for.
pub struct Wanted {
    pub node: usize,
    pub member: Member,
    pub shard: usize,
    pub fetch: Fetch,
    pub epoch: u64,
}

impl Disk {
    pub fn next_image(&mut self) -> u32 {
        self.images += 1;
        self.images
    }

    pub fn keep(&mut self, generation: u32, bytes: Vec<u8>) {
        self.epoch += 1;
        self.image = Some((generation, bytes));
    }

    pub fn forget(&mut self, upto: usize) {
        self.epoch += 1;
        self.gone = self.gone.max(upto);
    }

    /// The record at a place; none: it is not there any more.
    pub fn read(&self, entries: &[Vec<u8>], position: u64) -> Option<Vec<u8>> {
        match Stored::of(position) {
            Stored::Entry { index, at } => {
                let index = usize::try_from(index).ok().filter(|&index| index > self.gone)?;
                Some(in_entry(&entries[index - 1], at).expect("a record").to_vec())
            }
            Stored::Image { generation, at } => {
                let (_, bytes) = self.image.as_ref().filter(|(of, _)| *of == generation)?;
                let (head, rest) = bytes[at as usize..].split_first_chunk().expect("a head");
                let head: &[u8; RECORD_HEAD_BYTES] = head;
                let (length, _) = in_image(head).expect("a record");
                Some(rest[..length].to_vec())
            }
        }
    }
}
