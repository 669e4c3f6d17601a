//! One partition of the filters without a wildcard.
//!
//! The table holds an index a filter, the entries stand in blocks that never
//! move: at a million filters this is what keeps a subscription within 64
//! bytes, and no subscribe waits for megabytes to be copied. Their hashes stand
//! apart, so that growing the table never reads the texts.

use std::sync::Arc;

use hashbrown::HashTable;

use super::subscriptions::{Change, Subscriptions};

#[derive(Default)]
pub(super) struct Exact {
    table: HashTable<u32>,
    /// The lower half of each entry's hash; read only when the table grows.
    hashes: Blocks<u32>,
    entries: Blocks<Entry>,
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
        self.index_of(hash, topic).map(|index| &self.entries.at(index).subscriptions)
    }

    /// Of `len`; the last takes the place of one that goes.
    pub(super) fn entry(&self, index: usize) -> (&Arc<str>, &Subscriptions) {
        let Entry { filter, subscriptions } = self.entries.at(index);
        (filter, subscriptions)
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
        let subscriptions = &mut self.entries.at_mut(index).subscriptions;
        let changed = subscriptions.apply(change);
        if subscriptions.is_empty() {
            self.drop_entry(hash, index);
        }
        changed
    }

    fn index_of(&self, hash: u64, text: &str) -> Option<usize> {
        let holds = |index: &u32| *self.entries.at(*index as usize).filter == *text;
        self.table.find(spread(hash as u32), holds).map(|index| *index as usize)
    }

    fn add(&mut self, hash: u64, filter: Arc<str>, change: Change<'_>) {
        let mut subscriptions = Subscriptions::None;
        subscriptions.apply(change);
        let len = self.entries.len();
        let hash = hash as u32;
        self.entries.push(Entry { filter, subscriptions });
        self.hashes.push(hash);
        let hashes = &self.hashes;
        self.table
            .insert_unique(spread(hash), len as u32, |index| spread(*hashes.at(*index as usize)));
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
            let slot = self.table.find_mut(spread(*self.hashes.at(index)), at(last));
            *slot.expect("every entry has a slot") = index as u32;
        }
        if last < self.table.capacity() / 4 {
            let hashes = &self.hashes;
            self.table.shrink_to(last * 2, |index| spread(*hashes.at(*index as usize)));
        }
    }
}

/// A list in blocks.
struct Blocks<T>(Vec<Vec<T>>);

impl<T> Blocks<T> {
    const LEN: usize = 128;

    fn len(&self) -> usize {
        match self.0.split_last() {
            Some((last, full)) => full.len() * Blocks::<T>::LEN + last.len(),
            None => 0,
        }
    }

    fn at(&self, index: usize) -> &T {
        &self.0[index / Blocks::<T>::LEN][index % Blocks::<T>::LEN]
    }

    fn at_mut(&mut self, index: usize) -> &mut T {
        &mut self.0[index / Blocks::<T>::LEN][index % Blocks::<T>::LEN]
    }

    fn push(&mut self, item: T) {
        // The first block grows as it fills: most nodes have few filters.
        let first = self.0.is_empty();
        match self.0.last_mut() {
            Some(last) if last.len() < Blocks::<T>::LEN => last.push(item),
            Some(_) | None => {
                let room = if first { 4 } else { Blocks::<T>::LEN };
                let mut block = Vec::with_capacity(room);
                block.push(item);
                self.0.push(block);
            }
        }
    }

    /// The last item takes the place of the one at `index`.
    fn swap_remove(&mut self, index: usize) {
        let Some(last) = self.0.last_mut() else { return };
        let item = last.pop();
        if last.is_empty() {
            self.0.pop();
        }
        if let Some(item) = item
            && index < self.len()
        {
            *self.at_mut(index) = item;
        }
    }
}

impl<T> Default for Blocks<T> {
    fn default() -> Blocks<T> {
        Blocks(Vec::new())
    }
}

/// The table wants its bits at both ends; 32 are kept.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}
