//! One partition of the filters without a wildcard.
//!
//! The table holds an index a filter, the entries stand side by side and grow
//! by an eighth: at a million filters this is what keeps a subscription within
//! 64 bytes. Their hashes stand apart, so that growing never reads the texts.

use std::sync::Arc;

use hashbrown::HashTable;

use super::subscriptions::{Change, Subscriptions};

#[derive(Default)]
pub(super) struct Exact {
    table: HashTable<u32>,
    /// The lower half of each entry's hash; read only when the table grows.
    hashes: Vec<u32>,
    entries: Vec<Entry>,
}

struct Entry {
    filter: Arc<str>,
    subscriptions: Subscriptions,
}

const _: () = assert!(size_of::<Entry>() == 40);

impl Exact {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn find(&self, hash: u64, topic: &str) -> Option<&Subscriptions> {
        self.index_of(hash, topic).map(|index| &self.entries[index].subscriptions)
    }

    /// `filter` is asked for when it is new.
    pub(super) fn apply(
        &mut self,
        hash: u64,
        text: &str,
        filter: impl FnOnce() -> Arc<str>,
        change: Change<'_>,
    ) -> bool {
        let Some(index) = self.index_of(hash, text) else {
            if change.removes() {
                return false;
            }
            self.add(hash, filter(), change);
            return true;
        };
        let subscriptions = &mut self.entries[index].subscriptions;
        let changed = subscriptions.apply(change);
        if subscriptions.is_empty() {
            self.drop_entry(hash, index);
        }
        changed
    }

    fn index_of(&self, hash: u64, text: &str) -> Option<usize> {
        let holds = |index: &u32| *self.entries[*index as usize].filter == *text;
        self.table.find(spread(hash as u32), holds).map(|index| *index as usize)
    }

    fn add(&mut self, hash: u64, filter: Arc<str>, change: Change<'_>) {
        let mut subscriptions = Subscriptions::None;
        subscriptions.apply(change);
        let len = self.entries.len();
        if len == self.entries.capacity() {
            self.entries.reserve_exact(len / 8 + 4);
            self.hashes.reserve_exact(len / 8 + 4);
        }
        let hash = hash as u32;
        self.entries.push(Entry { filter, subscriptions });
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.table.insert_unique(spread(hash), len as u32, |index| spread(hashes[*index as usize]));
    }

    /// The last entry takes the place of the one dropped.
    fn drop_entry(&mut self, hash: u64, index: usize) {
        let last = self.entries.len() - 1;
        let at = |wanted: usize| move |index: &u32| *index as usize == wanted;
        if let Ok(slot) = self.table.find_entry(spread(hash as u32), at(index)) {
            slot.remove();
        }
        self.entries.swap_remove(index);
        self.hashes.swap_remove(index);
        if index != last {
            let slot = self.table.find_mut(spread(self.hashes[index]), at(last));
            *slot.expect("every entry has a slot") = index as u32;
        }
        if self.entries.len() < self.entries.capacity() / 4 {
            let room = self.entries.len() * 2;
            self.entries.shrink_to(room);
            self.hashes.shrink_to(room);
            let hashes = &self.hashes;
            self.table.shrink_to(room, |index| spread(hashes[*index as usize]));
        }
    }
}

/// The table wants its bits at both ends; 32 are kept.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
