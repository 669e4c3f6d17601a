//! Which parts of the index a topic or a filter touches.
//!
//! Exact filters are spread over 256 partitions by their whole text. Wildcard
//! filters are spread by what comes before the first wildcard: nothing, one
//! literal level (256 buckets), or two (4,096). Each part has a counter that
//! goes up after every change of it; a topic is touched by one part of each
//! kind, so the sum of four counters stands for its routes, and a thousand
//! subscribes a second to `dev/ID/#` leave the other topics' routes valid.

use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::SharedSeed;
use foldhash::quality::FoldHasher;

pub(super) const EXACT: usize = 256;
pub(super) const FIRST: usize = 256;
pub(super) const SECOND: usize = 4_096;

/// Tries: the wildcard-first one, then by first level, then by the first two.
pub(super) const TRIES: usize = 1 + FIRST + SECOND;

/// The counters of the tries, those of the exact partitions, and one that
/// never moves, for the topics of one level that no two-level trie concerns.
const COUNTERS: usize = TRIES + EXACT + 1;
const STILL: u16 = (COUNTERS - 1) as u16;
const _: () = assert!(COUNTERS <= u16::MAX as usize);

/// The hash of this index. The seed comes from the shell, and is secret: a
/// client that knew it could choose topics that collide.
pub(super) struct Seed {
    hasher: u64,
    shared: SharedSeed,
}

impl Seed {
    pub(super) fn new(seed: u64) -> Seed {
        Seed { hasher: seed.rotate_left(32), shared: SharedSeed::from_u64(seed) }
    }

    pub(super) fn hash(&self, text: &str) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.hasher, &self.shared);
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

/// Where the routes of a topic come from: four counters by number. A cache
/// keeps it, so that a hit hashes nothing again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    exact: u16,
    first: u16,
    second: u16,
}

impl Place {
    /// Also the text's hash, for the exact partition.
    pub(super) fn of_topic(seed: &Seed, topic: &str) -> (Place, u64) {
        let hash = seed.hash(topic);
        let exact = (TRIES + partition(hash)) as u16;
        let Some((one, rest)) = topic.split_once('/') else {
            return (Place { exact, first: first(hash), second: STILL }, hash);
        };
        let second = match rest.find('/') {
            Some(end) => second(seed.hash(&topic[..one.len() + 1 + end])),
            None => second(hash),
        };
        (Place { exact, first: first(seed.hash(one)), second }, hash)
    }

    /// The tries in which a filter that matches the topic can stand. None do
    /// when its first level has a wildcard and the topic begins with `$`
    /// [MQTT-4.7.2-1].
    pub(super) fn tries(self, topic: &str) -> impl Iterator<Item = usize> {
        let any = (!topic.starts_with('$')).then_some(0);
        let second = (self.second != STILL).then_some(usize::from(self.second));
        any.into_iter().chain([usize::from(self.first)]).chain(second)
    }
}

/// The trie of a filter with a wildcard.
pub(super) fn trie_of(seed: &Seed, filter: &str) -> usize {
    let wild = |level: &str| level == "+" || level == "#";
    let one = filter.split('/').next().unwrap_or(filter);
    if wild(one) {
        return 0;
    }
    let rest = filter.get(one.len() + 1..).unwrap_or("");
    let two = rest.split('/').next().unwrap_or(rest);
    if wild(two) {
        return usize::from(first(seed.hash(one)));
    }
    usize::from(second(seed.hash(&filter[..one.len() + 1 + two.len()])))
}

/// Of an exact filter's hash; from bits that its table does not use.
pub(super) fn partition(hash: u64) -> usize {
    (hash >> 56) as usize
}

fn first(hash: u64) -> u16 {
    1 + (hash >> 32) as u16 % FIRST as u16
}

fn second(hash: u64) -> u16 {
    1 + FIRST as u16 + (hash >> 32) as u16 % SECOND as u16
}

/// A counter a part, apart from the locks so that reading them stays cheap
/// while others subscribe.
pub(super) struct Versions(Box<[AtomicU64]>);

impl Versions {
    pub(super) fn new() -> Versions {
        Versions((0..COUNTERS).map(|_| AtomicU64::new(0)).collect())
    }

    /// Equal to an earlier answer only if nothing has changed in between: all
    /// four only ever go up, so their sum tells.
    pub(super) fn of(&self, place: Place) -> u64 {
        let read = |counter: u16| self.0[usize::from(counter)].load(Ordering::Acquire);
        read(0) + read(place.first) + read(place.second) + read(place.exact)
    }

    /// After the change can be seen, never before: a reader takes the version
    /// first and matches second, and must not file an old answer as new.
    pub(super) fn trie_changed(&self, trie: usize) {
        self.0[trie].fetch_add(1, Ordering::Release);
    }

    pub(super) fn partition_changed(&self, partition: usize) {
        self.0[TRIES + partition].fetch_add(1, Ordering::Release);
    }
}
