//! One partition of the filters without a wildcard.
//!
//! The table holds 8 bytes a filter (hash and index), the entries stand side
//! by side and grow by an eighth: at a million filters this is what keeps a
//! subscription within 64 bytes. Growing never reads the texts again.

use std::sync::Arc;

use hashbrown::HashTable;

use super::place::Seed;
use super::subscriptions::{Change, Subscriptions};

#[derive(Default)]
pub(super) struct Exact {
    table: HashTable<Slot>,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    index: u32,
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
        let slot = self.table.find(spread(hash as u32), |slot| self.holds(slot, hash, topic))?;
        Some(&self.entries[slot.index as usize].subscriptions)
    }

    /// `filter` is asked for when it is new.
    pub(super) fn apply(
        &mut self,
        seed: &Seed,
        hash: u64,
        text: &str,
        filter: impl FnOnce() -> Arc<str>,
        change: Change<'_>,
    ) -> bool {
        let found = self.table.find(spread(hash as u32), |slot| self.holds(slot, hash, text));
        let Some(index) = found.map(|slot| slot.index as usize) else {
            if change.removes() {
                return false;
            }
            self.add(hash, filter(), change);
            return true;
        };
        let subscriptions = &mut self.entries[index].subscriptions;
        let changed = subscriptions.apply(change);
        if subscriptions.is_empty() {
            self.drop_entry(seed, hash, index);
        }
        changed
    }

    fn holds(&self, slot: &Slot, hash: u64, text: &str) -> bool {
        slot.hash == hash as u32 && *self.entries[slot.index as usize].filter == *text
    }

    fn add(&mut self, hash: u64, filter: Arc<str>, change: Change<'_>) {
        let mut subscriptions = Subscriptions::None;
        subscriptions.apply(change);
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(self.entries.len() / 8 + 4);
        }
        let slot = Slot { hash: hash as u32, index: self.entries.len() as u32 };
        self.entries.push(Entry { filter, subscriptions });
        self.table.insert_unique(spread(slot.hash), slot, |slot| spread(slot.hash));
    }

    fn drop_entry(&mut self, seed: &Seed, hash: u64, index: usize) {
        if let Ok(slot) =
            self.table.find_entry(spread(hash as u32), |slot| slot.index as usize == index)
        {
            slot.remove();
        }
        self.entries.swap_remove(index);
        if let Some(moved) = self.entries.get(index) {
            let hash = seed.hash(&moved.filter);
            let last = self.entries.len();
            let slot = self.table.find_mut(spread(hash as u32), |slot| slot.index as usize == last);
            slot.expect("every entry has a slot").index = index as u32;
        }
        if self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
            self.table.shrink_to(self.entries.len() * 2, |slot| spread(slot.hash));
        }
    }
}

/// The table wants its bits at both ends; 32 are kept.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
