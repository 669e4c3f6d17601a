//! Filters as numbers.
//!
//! A filter is found by a hash of its text, with a wildcard or without. It costs
//! its text, an entry of 8 bytes and a place in a hash table (memory goal of a
//! route: 100 bytes a distinct filter a node).
//!
//! The texts lie one behind the other and are compacted when most is garbage:
//! the one operation whose cost grows with the whole.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// A filter in an index; used again after its removal.
pub(super) type FilterNo = u32;

/// Garbage below this is not worth a compaction.
const GARBAGE_BYTES_MIN: usize = 4_096;

#[derive(Clone, Debug)]
pub(super) struct Index {
    hasher: FixedState,
    texts: Vec<u8>,
    garbage: usize,
    filters: Vec<Filter>,
    free: Vec<FilterNo>,
    by_text: HashTable<FilterNo>,
}

/// A place in the texts.
#[derive(Clone, Copy, Debug)]
struct Filter {
    at: u32,
    len: u16,
    free: bool,
}

const _: () = assert!(size_of::<Filter>() == 8);

impl Index {
    pub(super) fn new(seed: u64) -> Index {
        Index {
            hasher: FixedState::with_seed(seed),
            texts: Vec::new(),
            garbage: 0,
            filters: Vec::new(),
            free: Vec::new(),
            by_text: HashTable::new(),
        }
    }

    /// How many filters there are.
    pub(super) fn len(&self) -> usize {
        self.by_text.len()
    }

    /// Numbers are below this.
    pub(super) fn end(&self) -> FilterNo {
        self.filters.len() as FilterNo
    }

    /// Bytes of all texts, garbage included.
    #[cfg(test)]
    fn text_bytes(&self) -> usize {
        self.texts.len()
    }

    /// The text of a filter, unless the number is free.
    pub(super) fn text(&self, filter: FilterNo) -> Option<&str> {
        let filter = self.filters.get(filter as usize).filter(|filter| !filter.free)?;
        Some(filter.text(&self.texts))
    }

    /// Bytes of memory, by the capacities of what it is made of.
    pub(super) fn memory_bytes(&self) -> usize {
        self.texts.capacity()
            + self.filters.capacity() * size_of::<Filter>()
            + self.free.capacity() * size_of::<FilterNo>()
            + self.by_text.allocation_size()
    }

    pub(super) fn find(&self, text: &str) -> Option<FilterNo> {
        let same = |filter: &FilterNo| self.filters[*filter as usize].text(&self.texts) == text;
        self.by_text.find(self.hasher.hash_one(text), same).copied()
    }

    /// The number of a filter, new if it has none. Its text has at most 65,535
    /// bytes; the caller keeps all of them below 4 GiB.
    pub(super) fn insert(&mut self, text: &str) -> FilterNo {
        if let Some(filter) = self.find(text) {
            return filter;
        }
        let new = Filter {
            at: u32::try_from(self.texts.len()).expect("the caller keeps it below 4 GiB"),
            len: u16::try_from(text.len()).expect("a filter of MQTT"),
            free: false,
        };
        self.texts.extend_from_slice(text.as_bytes());
        let filter = self.free.pop().unwrap_or_else(|| {
            self.filters.push(new);
            self.end() - 1
        });
        self.filters[filter as usize] = new;
        let (hasher, filters, texts) = (&self.hasher, &self.filters, &self.texts);
        self.by_text.insert_unique(hasher.hash_one(text), filter, |other| {
            hasher.hash_one(filters[*other as usize].text(texts))
        });
        filter
    }

    pub(super) fn remove(&mut self, filter: FilterNo) {
        let entry = &mut self.filters[filter as usize];
        if std::mem::replace(&mut entry.free, true) {
            return;
        }
        let hash = self.hasher.hash_one(entry.text(&self.texts));
        self.garbage += usize::from(entry.len);
        if let Ok(found) = self.by_text.find_entry(hash, |other| *other == filter) {
            found.remove();
        }
        self.free.push(filter);
        if self.garbage > GARBAGE_BYTES_MIN && self.garbage > self.texts.len() / 2 {
            self.compact();
        }
    }

    fn compact(&mut self) {
        let mut texts = Vec::with_capacity(self.texts.len() - self.garbage);
        for filter in self.filters.iter_mut().filter(|filter| !filter.free) {
            let at = texts.len() as u32;
            texts.extend_from_slice(filter.text(&self.texts).as_bytes());
            filter.at = at;
        }
        self.texts = texts;
        self.garbage = 0;
    }
}

impl Filter {
    fn text(self, texts: &[u8]) -> &str {
        let bytes = &texts[self.at as usize..self.at as usize + usize::from(self.len)];
        std::str::from_utf8(bytes).expect("it was a str")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::seeded::Seeded;

    #[test]
    fn random_filters_are_found_and_have_their_text() {
        let levels = ["a", "b", "", "$s", "+", "c"];
        for seed in 0..60 {
            let mut random = Seeded::new(seed);
            let mut index = Index::new(seed);
            let mut model: BTreeMap<String, FilterNo> = BTreeMap::new();
            for _ in 0..300 {
                let depth = 1 + random.below(4);
                let mut parts: Vec<&str> = (0..depth).map(|_| *random.one_of(&levels)).collect();
                if random.chance(25) {
                    parts.push("#");
                }
                let text = parts.join("/");
                if random.chance(60) {
                    let filter = index.insert(&text);
                    if let Some(before) = model.insert(text, filter) {
                        assert_eq!(before, filter);
                    }
                } else if let Some(filter) = model.remove(&text) {
                    index.remove(filter);
                }
                assert_eq!(index.len(), model.len());
            }
            for (text, filter) in &model {
                assert_eq!(index.find(text), Some(*filter), "seed {seed}: {text}");
                assert_eq!(index.text(*filter), Some(&**text), "seed {seed}");
            }
            index.compact();
            for text in model.keys() {
                for other in [format!("{text}/a"), format!("a/{text}")] {
                    let known = model.get(&other).copied();
                    assert_eq!(index.find(&other), known, "seed {seed}: {other}");
                }
            }
            for filter in model.values() {
                index.remove(*filter);
            }
            assert_eq!((index.len(), index.free.len()), (0, index.filters.len()));
        }
    }

    #[test]
    fn garbage_of_texts_is_bounded() {
        let mut index = Index::new(1);
        for round in 0..200_u32 {
            let filters: Vec<_> =
                (0..100).map(|at| index.insert(&format!("round/{round}/{at}/+"))).collect();
            filters.into_iter().for_each(|filter| index.remove(filter));
        }
        assert!(index.text_bytes() < 4 * GARBAGE_BYTES_MIN, "{}", index.text_bytes());
    }
}
