//! The routes that one shard looked up lately.
//!
//! A hot topic costs a hash, a compare and four loads of counters; nothing is
//! locked and nothing is allocated. Entries are validated, never invalidated:
//! each carries the version that the index had before its match.

use std::sync::Arc;

use super::Index;
use super::place::{Place, Seed};
use super::route::Route;

/// Entries that one hash can be in: their tags are half a cache line.
const WAYS: usize = 8;

/// Topics longer than this are looked up each time: what a cache may keep must
/// not be 8,192 times 64 KiB.
const TOPIC_BYTES_MAX: usize = 512;

/// Topic to route, with at most a given number of topics.
pub struct RouteCache {
    seed: Seed,
    sets_max: usize,
    /// A power of two of sets; of each way 31 bits of the hash and, lowest,
    /// whether it was hit since the hand last went by. 0 is a free way.
    tags: Vec<[u32; WAYS]>,
    entries: Vec<Option<Entry>>,
    hand: usize,
    /// The answer for a topic that is not kept.
    unkept: Arc<Route>,
    hits: u64,
    misses: u64,
}

struct Entry {
    version: u64,
    topic: Box<str>,
    route: Arc<Route>,
    hash: u64,
    place: Place,
}

const _: () = assert!(size_of::<Option<Entry>>() == 48);

impl RouteCache {
    /// For `capacity` topics, rounded up to a power of two; the memory grows
    /// with the topics that are seen.
    pub fn new(capacity: usize, seed: u64) -> RouteCache {
        RouteCache {
            seed: Seed::new(seed),
            sets_max: capacity.div_ceil(WAYS).next_power_of_two(),
            tags: Vec::new(),
            entries: Vec::new(),
            hand: 0,
            unkept: Arc::default(),
            hits: 0,
            misses: 0,
        }
    }

    /// The route of `topic` as of now.
    pub fn route(&mut self, index: &Index, topic: &str) -> &Arc<Route> {
        let hash = self.seed.hash(topic);
        let Some(at) = self.find(hash, topic) else {
            self.misses += 1;
            return self.look_up(index, hash, topic);
        };
        let Some(entry) = &mut self.entries[at] else { return &self.unkept };
        // Before the match: a change in between makes the entry stale, not wrong.
        let version = index.version_at(entry.place);
        if entry.version == version {
            self.hits += 1;
        } else {
            self.misses += 1;
            entry.route = Arc::new(index.route(topic));
            entry.version = version;
        }
        &entry.route
    }

    /// Answers that needed no match.
    pub fn hits(&self) -> u64 {
        self.hits
    }

    /// Answers that did.
    pub fn misses(&self) -> u64 {
        self.misses
    }

    /// Topics kept.
    pub fn len(&self) -> usize {
        self.tags.iter().flatten().filter(|tag| **tag != 0).count()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn find(&mut self, hash: u64, topic: &str) -> Option<usize> {
        let set = self.set_of(hash);
        let tags = self.tags.get_mut(set)?;
        let tag = tag_of(hash);
        for (way, kept) in tags.iter_mut().enumerate() {
            if *kept | 1 == tag {
                let at = set * WAYS + way;
                if self.entries[at].as_ref().is_some_and(|entry| *entry.topic == *topic) {
                    *kept = tag;
                    return Some(at);
                }
            }
        }
        None
    }

    #[cold]
    fn look_up(&mut self, index: &Index, hash: u64, topic: &str) -> &Arc<Route> {
        let place = index.place(topic);
        let version = index.version_at(place);
        let route = Arc::new(index.route(topic));
        if topic.len() > TOPIC_BYTES_MAX {
            self.unkept = route;
            return &self.unkept;
        }
        let at = self.room_for(hash);
        self.tags[at / WAYS][at % WAYS] = tag_of(hash);
        &self.entries[at].insert(Entry { version, topic: topic.into(), route, hash, place }).route
    }

    /// A way for `hash`: a free one, or that of an entry not hit lately.
    fn room_for(&mut self, hash: u64) -> usize {
        loop {
            let set = self.set_of(hash);
            if let Some(tags) = self.tags.get_mut(set) {
                if let Some(way) = tags.iter().position(|tag| *tag == 0) {
                    return set * WAYS + way;
                }
                if self.tags.len() >= self.sets_max {
                    return set * WAYS + self.evict(set);
                }
            }
            self.grow();
        }
    }

    fn evict(&mut self, set: usize) -> usize {
        let tags = &mut self.tags[set];
        loop {
            self.hand = (self.hand + 1) % WAYS;
            if tags[self.hand] & 1 == 0 {
                return self.hand;
            }
            tags[self.hand] &= !1;
        }
    }

    /// Twice the sets; an entry stays in its set or moves to the new twin.
    fn grow(&mut self) {
        let sets = (self.tags.len() * 2).max(1);
        let old = std::mem::take(&mut self.entries);
        self.tags = vec![[0; WAYS]; sets];
        self.entries.resize_with(sets * WAYS, || None);
        for entry in old.into_iter().flatten() {
            let set = self.set_of(entry.hash);
            let way = self.tags[set].iter().position(|tag| *tag == 0);
            let way = way.expect("a set's entries are at most those of its old half");
            self.tags[set][way] = tag_of(entry.hash);
            self.entries[set * WAYS + way] = Some(entry);
        }
    }

    fn set_of(&self, hash: u64) -> usize {
        hash as usize & self.tags.len().wrapping_sub(1)
    }
}

/// Never 0, and from bits that the set does not go by. A full tag has the
/// lowest bit set.
fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32 | 1
}
