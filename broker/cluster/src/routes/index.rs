//! Filters as numbers.
//!
//! Exact filters are found by a hash of their text. Filters with wildcards hang
//! in a trie; the part of a filter that no other shares is the text of one node,
//! which is split when another comes. So a filter costs its text, an entry of 8
//! bytes and a place in a hash table, or a node of 20 bytes instead (memory goal
//! of a route: 100 bytes a distinct filter a node).
//!
//! The texts lie one behind the other and are compacted when most is garbage:
//! the one operation whose cost grows with the whole.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

/// A filter in an index; used again after its removal.
pub(super) type FilterNo = u32;

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;
/// Garbage below this is not worth a compaction.
const GARBAGE_BYTES_MIN: usize = 4_096;

#[derive(Clone, Debug)]
pub(super) struct Index {
    hasher: FixedState,
    texts: Vec<u8>,
    garbage: usize,
    filters: Vec<Filter>,
    free: Vec<FilterNo>,
    len: usize,
    /// Filters without wildcards.
    exact: HashTable<FilterNo>,
    trie: Vec<Branch>,
    trie_free: Vec<u32>,
    /// The branches below another, by the first level of their text.
    edges: HashTable<u32>,
}

/// A place in the texts, or the branch at which a filter with wildcards ends.
#[derive(Clone, Copy, Debug)]
struct Filter {
    at: u32,
    len: u16,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Free,
    Exact,
    Wild,
}

/// One level of filters with wildcards; or, with several levels, the rest of the
/// only filter that goes through it.
#[derive(Clone, Copy, Debug)]
struct Branch {
    parent: u32,
    at: u32,
    /// The filter that ends here.
    filter: FilterNo,
    /// Branches below.
    below: u32,
    len: u16,
}

impl Index {
    pub(super) fn new(seed: u64) -> Index {
        let root = Branch { parent: NONE, at: 0, filter: NONE, below: 0, len: 0 };
        Index {
            hasher: FixedState::with_seed(seed),
            texts: Vec::new(),
            garbage: 0,
            filters: Vec::new(),
            free: Vec::new(),
            len: 0,
            exact: HashTable::new(),
            trie: vec![root],
            trie_free: Vec::new(),
            edges: HashTable::new(),
        }
    }

    /// How many filters there are.
    pub(super) fn len(&self) -> usize {
        self.len
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
    pub(super) fn text(&self, filter: FilterNo) -> Option<String> {
        let entry = self.filters.get(filter as usize)?;
        match entry.kind {
            Kind::Free => None,
            Kind::Exact => Some(slice(&self.texts, entry.at, entry.len).to_owned()),
            Kind::Wild => {
                let mut parts = Vec::new();
                let mut at = entry.at;
                while at != ROOT {
                    parts.push(self.branch_text(at));
                    at = self.trie[at as usize].parent;
                }
                parts.reverse();
                Some(parts.join("/"))
            }
        }
    }

    /// Bytes of memory, by the capacities of what it is made of.
    pub(super) fn memory_bytes(&self) -> usize {
        self.texts.capacity()
            + self.filters.capacity() * size_of::<Filter>()
            + self.free.capacity() * size_of::<FilterNo>()
            + self.trie.capacity() * size_of::<Branch>()
            + self.trie_free.capacity() * size_of::<u32>()
            + self.exact.allocation_size()
            + self.edges.allocation_size()
    }

    pub(super) fn find(&self, text: &str) -> Option<FilterNo> {
        if !has_wildcard(text) {
            return self.find_exact(text);
        }
        let (mut at, mut rest) = (ROOT, text);
        loop {
            let next = self.below(at, first_level(rest))?;
            let branch = self.branch_text(next);
            match rest.strip_prefix(branch)? {
                "" => {
                    return Some(self.trie[next as usize].filter).filter(|filter| *filter != NONE);
                }
                more => {
                    rest = more.strip_prefix('/')?;
                    at = next;
                }
            }
        }
    }

    fn find_exact(&self, text: &str) -> Option<FilterNo> {
        let same = |filter: &FilterNo| {
            let Filter { at, len, .. } = self.filters[*filter as usize];
            slice(&self.texts, at, len) == text
        };
        self.exact.find(self.hasher.hash_one(text), same).copied()
    }

    /// The number of a filter, new if it has none. Its text has at most 65,535
    /// bytes; the caller keeps all of them below 4 GiB.
    pub(super) fn insert(&mut self, text: &str) -> FilterNo {
        if let Some(filter) = self.find(text) {
            return filter;
        }
        self.len += 1;
        let filter = self.free.pop().unwrap_or_else(|| {
            self.filters.push(Filter { at: 0, len: 0, kind: Kind::Free });
            (self.filters.len() - 1) as FilterNo
        });
        if has_wildcard(text) {
            let at = self.hang(filter, text);
            self.filters[filter as usize] = Filter { at, len: 0, kind: Kind::Wild };
            return filter;
        }
        let (at, len) = self.keep(text);
        self.filters[filter as usize] = Filter { at, len, kind: Kind::Exact };
        let (hasher, filters, texts) = (&self.hasher, &self.filters, &self.texts);
        self.exact.insert_unique(hasher.hash_one(text), filter, |other| {
            let Filter { at, len, .. } = filters[*other as usize];
            hasher.hash_one(slice(texts, at, len))
        });
        filter
    }

    fn keep(&mut self, text: &str) -> (u32, u16) {
        let at = u32::try_from(self.texts.len()).expect("the caller keeps it below 4 GiB");
        self.texts.extend_from_slice(text.as_bytes());
        (at, u16::try_from(text.len()).expect("a filter of MQTT"))
    }

    pub(super) fn remove(&mut self, filter: FilterNo) {
        let entry = self.filters[filter as usize];
        match entry.kind {
            Kind::Free => return,
            Kind::Exact => {
                let hash = self.hasher.hash_one(slice(&self.texts, entry.at, entry.len));
                if let Ok(found) = self.exact.find_entry(hash, |other| *other == filter) {
                    found.remove();
                }
                self.garbage += usize::from(entry.len);
            }
            Kind::Wild => self.prune(entry.at),
        }
        self.len -= 1;
        self.filters[filter as usize].kind = Kind::Free;
        self.free.push(filter);
        if self.garbage > GARBAGE_BYTES_MIN && self.garbage > self.texts.len() / 2 {
            self.compact();
        }
    }

    fn compact(&mut self) {
        let mut texts = Vec::with_capacity(self.texts.len() - self.garbage);
        let mut take = |at: &mut u32, len: u16| {
            let from = *at as usize;
            *at = texts.len() as u32;
            texts.extend_from_slice(&self.texts[from..from + usize::from(len)]);
        };
        let exact = self.filters.iter_mut().filter(|filter| filter.kind == Kind::Exact);
        exact.for_each(|filter| take(&mut filter.at, filter.len));
        // What is free has no length.
        self.trie.iter_mut().for_each(|branch| take(&mut branch.at, branch.len));
        self.texts = texts;
        self.garbage = 0;
    }

    fn branch_text(&self, at: u32) -> &str {
        let Branch { at, len, .. } = self.trie[at as usize];
        slice(&self.texts, at, len)
    }

    fn below(&self, parent: u32, level: &str) -> Option<u32> {
        let same = |at: &u32| {
            self.trie[*at as usize].parent == parent && first_level(self.branch_text(*at)) == level
        };
        self.edges.find(self.hasher.hash_one((parent, level)), same).copied()
    }

    /// Where a filter that is not there yet ends from now on.
    fn hang(&mut self, filter: FilterNo, text: &str) -> u32 {
        let (mut at, mut rest) = (ROOT, text);
        loop {
            let Some(next) = self.below(at, first_level(rest)) else {
                let (text_at, len) = self.keep(rest);
                return self.grow(at, text_at, len, filter);
            };
            self.split(next);
            match rest.split_once('/') {
                Some((_, more)) => (at, rest) = (next, more),
                None => {
                    self.trie[next as usize].filter = filter;
                    return next;
                }
            }
        }
    }

    /// Makes a branch of several levels one of its first, with the others below.
    fn split(&mut self, at: u32) {
        let Branch { at: text_at, len, filter, .. } = self.trie[at as usize];
        let first = first_level(self.branch_text(at)).len() as u16;
        if first == len {
            return;
        }
        let branch = &mut self.trie[at as usize];
        branch.len = first;
        branch.filter = NONE;
        let rest_at = text_at + u32::from(first) + 1;
        self.garbage += 1;
        let end = self.grow(at, rest_at, len - first - 1, filter);
        self.filters[filter as usize].at = end;
    }

    fn grow(&mut self, parent: u32, text_at: u32, len: u16, filter: FilterNo) -> u32 {
        let branch = Branch { parent, at: text_at, filter, below: 0, len };
        let at = self.trie_free.pop().unwrap_or_else(|| {
            self.trie.push(branch);
            (self.trie.len() - 1) as u32
        });
        self.trie[at as usize] = branch;
        let (hasher, texts, trie) = (&self.hasher, &self.texts, &self.trie);
        let key = |at: u32| {
            let Branch { parent, at, len, .. } = trie[at as usize];
            hasher.hash_one((parent, first_level(slice(texts, at, len))))
        };
        self.edges.insert_unique(key(at), at, |other| key(*other));
        self.trie[parent as usize].below += 1;
        at
    }

    /// Takes a filter from its end, and with it the branches that only it used.
    fn prune(&mut self, end: u32) {
        self.trie[end as usize].filter = NONE;
        let mut at = end;
        while at != ROOT {
            let Branch { parent, filter, below, len, .. } = self.trie[at as usize];
            if filter != NONE || below > 0 {
                return;
            }
            let level = first_level(self.branch_text(at));
            let key = self.hasher.hash_one((parent, level));
            if let Ok(found) = self.edges.find_entry(key, |other| *other == at) {
                found.remove();
            }
            self.garbage += usize::from(len);
            self.trie[at as usize].len = 0;
            self.trie_free.push(at);
            self.trie[parent as usize].below -= 1;
            at = parent;
        }
    }
}

fn first_level(text: &str) -> &str {
    text.split_once('/').map_or(text, |(first, _)| first)
}

fn slice(texts: &[u8], at: u32, len: u16) -> &str {
    let bytes = &texts[at as usize..at as usize + usize::from(len)];
    std::str::from_utf8(bytes).expect("it was a str")
}

fn has_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
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
                assert_eq!(index.text(*filter).as_ref(), Some(text), "seed {seed}");
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
            assert_eq!((index.len(), index.edges.len(), index.exact.len()), (0, 0, 0));
            assert_eq!(index.trie_free.len() + 1, index.trie.len(), "no branch is left");
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
