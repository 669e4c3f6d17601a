//! A slab in fixed chunks: a million entries without one big copy when it
//! grows, and without the slack of a doubled vector.

/// Entries a chunk.
const CHUNK: usize = 256;

/// Values by slot. A freed slot is used again, the last freed first.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[Entry<T>]>>,
    free: u32,
    length: usize,
}

#[derive(Debug)]
enum Entry<T> {
    /// The next free slot, or `NONE`.
    Free(u32),
    Used(T),
}

const NONE: u32 = u32::MAX;

impl<T> Default for Slab<T> {
    fn default() -> Slab<T> {
        Slab { chunks: Vec::new(), free: NONE, length: 0 }
    }
}

impl<T> Slab<T> {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Slots that exist, used or free.
    pub(crate) fn slots(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    /// Bytes of all slots, without what the values own elsewhere.
    pub(crate) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Entry<T>>()
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if self.free == NONE {
            let base = self.slots();
            let last = base + CHUNK as u32 - 1;
            let chunk = (base..=last)
                .map(|slot| Entry::Free(if slot == last { NONE } else { slot + 1 }))
                .collect();
            self.chunks.push(chunk);
            self.free = base;
        }
        let slot = self.free;
        let entry = &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK];
        match std::mem::replace(entry, Entry::Used(value)) {
            Entry::Free(next) => self.free = next,
            Entry::Used(_) => unreachable!("the free list holds free slots only"),
        }
        self.length += 1;
        slot
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<T> {
        let entry = self.chunks.get_mut(slot as usize / CHUNK)?.get_mut(slot as usize % CHUNK)?;
        if matches!(entry, Entry::Free(_)) {
            return None;
        }
        let Entry::Used(value) = std::mem::replace(entry, Entry::Free(self.free)) else {
            return None;
        };
        self.free = slot;
        self.length -= 1;
        Some(value)
    }

    #[inline]
    pub(crate) fn at(&self, slot: u32) -> Option<&T> {
        match self.chunks.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)? {
            Entry::Used(value) => Some(value),
            Entry::Free(_) => None,
        }
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut T> {
        match self.chunks.get_mut(slot as usize / CHUNK)?.get_mut(slot as usize % CHUNK)? {
            Entry::Used(value) => Some(value),
            Entry::Free(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_slot_is_used_again_and_values_stay_where_they_are() {
        let mut slab = Slab::default();
        let slots: Vec<u32> = (0..1000).map(|n| slab.insert(n)).collect();
        assert_eq!(slab.len(), 1000);
        assert!(slots.iter().zip(0..).all(|(&slot, n)| slab.at(slot) == Some(&n)));
        assert_eq!(slab.remove(slots[500]), Some(500));
        assert_eq!(slab.remove(slots[500]), None);
        assert_eq!(slab.insert(7), slots[500]);
        assert_eq!(slab.len(), 1000);
    }
}
