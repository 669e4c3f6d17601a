//! When the broker was up: a process between two kills, a cluster between two
//! faults.
//!
//! A kill makes some moments uncertain: what has no acknowledgement of its own
//! (a DISCONNECT, the loss of a socket) may be forgotten if the broker dies
//! right after it, and then counts from the next start. Rules about time ask
//! here which moment they may hold the broker to.

use crate::history::{Event, What};

/// After this long a lazily written record has to be there, in microseconds:
/// ten times what the store allows itself.
const LAZY_US: u64 = 500_000;

/// The times between `Ready` and `Down`.
#[derive(Debug, Default)]
pub(crate) struct Lives {
    /// From, to.
    up: Vec<(u64, u64)>,
    /// How long it may take a cluster to say that one of its own is gone.
    grace: u64,
}

impl Lives {
    /// Reads them out of a history.
    pub(crate) fn read(events: &[Event], grace: u64) -> Lives {
        let mut lives = Vec::new();
        let mut since = None;
        for event in events {
            match event.what {
                What::Ready => since = Some(event.at),
                What::Down => lives.extend(since.take().map(|since| (since, event.at))),
                _ => {}
            }
        }
        lives.extend(since.map(|since| (since, u64::MAX)));
        Lives { up: lives, grace }
    }

    /// By how much later than on one node what follows from the end of a
    /// connection may come.
    pub(crate) fn grace(&self) -> u64 {
        self.grace
    }

    /// How many there were.
    pub(crate) fn count(&self) -> usize {
        self.up.len()
    }

    /// The latest moment at which the broker may take something to have
    /// happened that happened at `at` and was not acknowledged.
    pub(crate) fn settles(&self, at: u64) -> u64 {
        let mut at = at;
        for &(ready, down) in &self.up {
            if down <= at {
                continue;
            }
            at = at.max(ready);
            if down > at.saturating_add(LAZY_US) {
                return at;
            }
            // Died too soon after it: the next life decides.
            at = down;
        }
        u64::MAX
    }

    /// Whether what happened at `at` is sure to be remembered.
    pub(crate) fn remembers(&self, at: u64) -> bool {
        self.settles(at) == at
    }

    /// Whether the broker was up for `long` at one stretch between two moments.
    pub(crate) fn up_for(&self, long: u64, from: u64, to: u64) -> bool {
        self.up.iter().any(|&(ready, down)| down.min(to).saturating_sub(ready.max(from)) >= long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lives() -> Lives {
        // Up 1 s to 5 s, 6 s to 6.2 s, and from 7 s on.
        let up = vec![(1_000_000, 5_000_000), (6_000_000, 6_200_000), (7_000_000, u64::MAX)];
        Lives { up, grace: 0 }
    }

    #[test]
    fn what_comes_just_before_a_kill_counts_from_a_life_that_is_long_enough() {
        assert_eq!(lives().settles(2_000_000), 2_000_000);
        assert_eq!(lives().settles(4_800_000), 7_000_000);
        assert_eq!(lives().settles(5_500_000), 7_000_000);
        assert!(!lives().remembers(5_500_000));
    }

    #[test]
    fn a_stretch_does_not_go_over_a_kill() {
        assert!(lives().up_for(2_000_000, 0, 5_000_000));
        assert!(!lives().up_for(2_000_000, 3_500_000, 7_500_000));
    }
}
