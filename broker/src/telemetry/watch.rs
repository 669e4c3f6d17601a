//! Whether every shard still takes turns.
//!
//! A shard counts its turns. The watch looks at the counts about once a second
//! and remembers when each last moved; an idle shard is pinged, so that it
//! moves as well. A shard that did not for [`STALL`] is stuck, and a stuck
//! shard is a reason to restart the node: its clients are not served and its
//! sessions look alive to the rest.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::source::Source;

/// Time without a turn after which a shard counts as stuck.
pub const STALL: Duration = Duration::from_secs(10);
/// Time between two looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was seen of each shard.
#[derive(Debug)]
pub struct Watch {
    // Taken once a second and by a health request, never by a shard.
    seen: Mutex<Vec<Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    turns: u64,
    moved_at: Instant,
}

/// A shard that does not move.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stuck {
    /// Which.
    pub shard: usize,
    /// For how long.
    pub since: Duration,
}

impl Watch {
    /// Of `shards` shards that are all taken to move at `now`.
    pub fn new(shards: usize, now: Instant) -> Watch {
        Watch { seen: Mutex::new(vec![Seen { turns: 0, moved_at: now }; shards]) }
    }

    /// Looks at the turns of all shards. True: some did not move since the
    /// last look, and should be pinged.
    pub fn look(&self, now: Instant, turns: impl Iterator<Item = u64>) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut some_stood = false;
        for (seen, turns) in seen.iter_mut().zip(turns) {
            if seen.turns == turns {
                some_stood = true;
            } else {
                *seen = Seen { turns, moved_at: now };
            }
        }
        some_stood
    }

    /// The shard that has stood still for the longest, if for [`STALL`].
    pub fn stuck(&self, now: Instant) -> Option<Stuck> {
        let seen = self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let since = |seen: &Seen| now.saturating_duration_since(seen.moved_at);
        let (shard, seen) = seen.iter().enumerate().max_by_key(|(_, seen)| since(seen))?;
        let since = since(seen);
        (since >= STALL).then_some(Stuck { shard, since })
    }

    /// Looks once a second, for ever.
    pub async fn keep_looking(&self, source: &dyn Source) {
        loop {
            let turns = source.counters().iter().map(|counters| counters.turns.value());
            if self.look(Instant::now(), turns) {
                source.ping();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_stands_for_ten_seconds_is_stuck_until_it_moves() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let watch = Watch::new(2, start);
        assert!(!watch.look(at(1), [5, 5].into_iter()));
        assert!(watch.look(at(9), [6, 5].into_iter()), "shard 1 stood and wants a ping");
        assert_eq!(watch.stuck(at(10)), None);

        watch.look(at(11), [7, 5].into_iter());
        let stuck = Stuck { shard: 1, since: Duration::from_secs(10) };
        assert_eq!(watch.stuck(at(11)), Some(stuck));

        watch.look(at(12), [7, 6].into_iter());
        assert_eq!(watch.stuck(at(12)), None);
    }
}
