//! Gives memory that nobody uses any more back to the kernel.
//!
//! The allocator keeps what was freed between what is still in use. After a
//! crowd has left, or slow readers were ended, that may be most of the process:
//! it would count against the limit, and nobody new would be let in.

use std::time::{Duration, Instant};

use tidegate_core::pressure::Stage;

/// Between two times while memory is short, and otherwise. It walks what is
/// free, about a millisecond a hundred megabytes, and a shard that frees or
/// allocates meanwhile may have to wait that long.
const SHORT: Duration = Duration::from_millis(500);
const CALM: Duration = Duration::from_secs(10);
/// In calm it is worth while when at least this share of the connections left,
/// and so many.
const LEFT_SHARE: u64 = 4;
const LEFT_MIN: u64 = 1_000;

/// When it was done last, and what was there since.
#[derive(Debug)]
pub(crate) struct Trimmer {
    last: Option<Instant>,
    /// The most connections since then.
    most: u64,
}

impl Trimmer {
    pub(crate) fn new() -> Trimmer {
        Trimmer { last: None, most: 0 }
    }

    /// Does it if it is due.
    pub(crate) fn look(&mut self, now: Instant, stage: Stage, connections: u64) {
        if self.is_due(now, stage, connections) {
            give_back();
        }
    }

    fn is_due(&mut self, now: Instant, stage: Stage, connections: u64) -> bool {
        self.most = self.most.max(connections);
        let left = self.most - connections;
        let (pause, worth) = match stage {
            Stage::Calm => (CALM, left >= LEFT_MIN && left >= self.most / LEFT_SHARE),
            Stage::Refuse | Stage::Shrink | Stage::Shed => (SHORT, true),
        };
        let due = worth && self.last.is_none_or(|last| now.duration_since(last) >= pause);
        if due {
            self.last = Some(now);
            self.most = connections;
        }
        due
    }
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: malloc_trim may be called at any time from any thread; it touches
    // nothing but free memory, under the allocator's own locks.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators than glibc's do it themselves, or not at all.
#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_calm_only_after_many_have_left_and_not_often() {
        let mut trimmer = Trimmer::new();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert!(!trimmer.is_due(at(0), Stage::Calm, 100_000));
        assert!(!trimmer.is_due(at(1), Stage::Calm, 80_000), "a fifth is not enough");
        assert!(trimmer.is_due(at(2), Stage::Calm, 50_000));
        assert!(!trimmer.is_due(at(3), Stage::Calm, 49_000));
        assert!(!trimmer.is_due(at(4), Stage::Calm, 10_000), "too soon");
        assert!(trimmer.is_due(at(12), Stage::Calm, 10_000), "and then it is made up for");
        assert!(!trimmer.is_due(at(99), Stage::Calm, 10_000));
    }

    #[test]
    fn while_memory_is_short_twice_a_second() {
        let mut trimmer = Trimmer::new();
        let start = Instant::now();
        assert!(trimmer.is_due(start, Stage::Refuse, 1));
        assert!(!trimmer.is_due(start + SHORT / 2, Stage::Shed, 1));
        assert!(trimmer.is_due(start + SHORT, Stage::Shed, 1));
    }

    #[cfg(target_env = "gnu")]
    #[test]
    fn what_was_freed_goes_back() {
        use crate::overload::memory::Meter;
        let used = || Meter::new(u64::MAX >> 4).take().used;
        // Small enough to lie in the heap; every second page stays.
        let mut kept: Vec<Vec<u8>> = (0..8_000).map(|_| vec![1; 8_000]).collect();
        let full = used();
        let mut index = 0;
        kept.retain(|_| {
            index += 1;
            index % 16 == 0
        });
        give_back();
        let left = used();
        assert!(full - left > 40_000_000, "{full} before, {left} after; {} kept", kept.len());
    }
}
