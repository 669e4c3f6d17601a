//! A rate in one number: the generic cell rate algorithm.
//!
//! What is kept is the time at which everything taken so far would be due if it
//! came evenly. It may lie ahead of now by what a burst allows. Times are in
//! microseconds of any clock; one that stands still or goes back is harmless.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Attempts to change a number that others change as well; then it is as if the
/// rate were reached.
const ATTEMPTS_MAX: usize = 64;

const MICROS: u64 = 1_000_000;

/// So many a second in the long run, and so many at once after a rest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// In the long run, at least one.
    pub per_second: u32,
    /// At once, at least one.
    pub burst: u32,
}

impl Rate {
    /// With a burst of one second's worth.
    pub fn per_second(per_second: u32) -> Rate {
        Rate { per_second, burst: per_second }
    }

    /// How long `n` take, in microseconds, in 1/256 parts of one.
    fn cost(self, n: u64) -> u64 {
        n.saturating_mul(MICROS << 8) / u64::from(self.per_second.max(1))
    }

    /// The due time after `n` more, and by how much it is ahead of what is
    /// allowed; both in parts.
    fn next(self, due: u64, now: u64, n: u64) -> (u64, u64) {
        let now = now << 8;
        let burst = self.cost(u64::from(self.burst.max(1)));
        // A due time further ahead than any that was ever granted is of another
        // rate, or of a clock that went back: begin anew.
        let due = if due > now.saturating_add(burst) { now } else { due.max(now) };
        let next = due.saturating_add(self.cost(n));
        (next, next.saturating_sub(now.saturating_add(burst)))
    }
}

/// A bucket with one owner.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bucket {
    due: u64,
}

impl Bucket {
    /// Takes `n` if the rate allows them now.
    pub fn take(&mut self, rate: Rate, now_micros: u64, n: u64) -> bool {
        let (next, ahead) = rate.next(self.due, now_micros, n);
        if ahead == 0 {
            self.due = next;
        }
        ahead == 0
    }

    /// Takes `n` whatever the rate says; how many microseconds to wait until it
    /// allows more.
    pub fn spend(&mut self, rate: Rate, now_micros: u64, n: u64) -> u64 {
        let now = now_micros << 8;
        let burst = rate.cost(u64::from(rate.burst.max(1)));
        // What was spent beyond a burst stays to be paid for.
        self.due = self.due.max(now).saturating_add(rate.cost(n));
        self.due.saturating_sub(now.saturating_add(burst)).div_ceil(256)
    }
}

/// A bucket that several threads take from, without a lock.
#[derive(Debug, Default)]
pub struct SharedBucket {
    due: AtomicU64,
}

impl SharedBucket {
    /// Takes one if the rate allows it now.
    pub fn take(&self, rate: Rate, now_micros: u64) -> bool {
        let mut due = self.due.load(Relaxed);
        for _ in 0..ATTEMPTS_MAX {
            let (next, ahead) = rate.next(due, now_micros, 1);
            if ahead > 0 {
                return false;
            }
            match self.due.compare_exchange_weak(due, next, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(other) => due = other,
            }
        }
        false
    }

    /// Takes one if the rate allows it now; else how many microseconds to wait
    /// until it does.
    pub fn take_or_wait(&self, rate: Rate, now_micros: u64) -> Result<(), u64> {
        let mut wait = 0;
        let mut due = self.due.load(Relaxed);
        for _ in 0..ATTEMPTS_MAX {
            let (next, ahead) = rate.next(due, now_micros, 1);
            wait = ahead.div_ceil(256);
            if ahead > 0 {
                return Err(wait);
            }
            match self.due.compare_exchange_weak(due, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => due = other,
            }
        }
        Err(wait.max(1))
    }

    /// Whether the rate allows one now; takes nothing.
    pub fn has_room(&self, rate: Rate, now_micros: u64) -> bool {
        rate.next(self.due.load(Relaxed), now_micros, 1).1 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 100, burst: 20 };

    /// How many of a flood a bucket lets through in each of some seconds.
    fn flood(bucket: &SharedBucket, rate: Rate, seconds: u64) -> Vec<u64> {
        let second = |second: u64| {
            let times = (0..10_000).map(|n| (10 + second) * MICROS + n * 100);
            times.filter(|now| bucket.take(rate, *now)).count() as u64
        };
        (0..seconds).map(second).collect()
    }

    #[test]
    fn a_flood_gets_its_burst_and_then_the_rate() {
        assert_eq!(flood(&SharedBucket::default(), RATE, 3), [119, 100, 100]);
    }

    #[test]
    fn odd_rates_are_exact_over_time() {
        for per_second in [1, 3, 7, 333, 9_999] {
            let rate = Rate { per_second, burst: per_second / 10 + 2 };
            let let_in: u64 = flood(&SharedBucket::default(), rate, 20).iter().sum();
            let wanted = 20 * u64::from(per_second);
            assert!(let_in.abs_diff(wanted) <= wanted / 100 + 2, "{per_second}: {let_in}");
        }
    }

    #[test]
    fn a_rest_restores_the_burst_and_no_more() {
        let bucket = SharedBucket::default();
        flood(&bucket, RATE, 1);
        let later = 1_000 * MICROS;
        assert_eq!((0..50).filter(|_| bucket.take(RATE, later)).count(), 20);
    }

    #[test]
    fn a_clock_that_goes_back_locks_nobody_out() {
        let bucket = SharedBucket::default();
        assert!(bucket.take(RATE, 1_000_000 * MICROS));
        assert!((0..20).any(|n| bucket.take(RATE, MICROS + n * 10_000)));
    }

    #[test]
    fn what_is_spent_beyond_the_burst_is_waited_for() {
        let mut bucket = Bucket::default();
        let now = 5 * MICROS;
        assert_eq!(bucket.spend(RATE, now, 20), 0);
        assert_eq!(bucket.spend(RATE, now, 10), 100_000);
        assert_eq!(bucket.spend(RATE, now + 100_000, 1), 10_000);
        // One large packet is let through, and paid for.
        let mut bucket = Bucket::default();
        assert_eq!(bucket.spend(RATE, now, 1_020), 10 * MICROS);
    }

    #[test]
    fn threads_together_get_no_more_than_the_rate() {
        let bucket = SharedBucket::default();
        let rate = Rate { per_second: 1_000, burst: 500 };
        let now = 7 * MICROS;
        let total: usize = std::thread::scope(|scope| {
            let take = || (0..1_000).filter(|_| bucket.take(rate, now)).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(total, 500);
    }

    #[test]
    fn a_wait_is_as_long_as_it_has_to_be() {
        let bucket = SharedBucket::default();
        let rate = Rate { per_second: 2, burst: 1 };
        assert_eq!(bucket.take_or_wait(rate, MICROS), Ok(()));
        let Err(wait) = bucket.take_or_wait(rate, MICROS) else { panic!("taken") };
        assert_eq!(wait, 500_000);
        assert_eq!(bucket.take_or_wait(rate, MICROS + wait - 1), Err(1));
        assert_eq!(bucket.take_or_wait(rate, MICROS + wait), Ok(()));
    }
}
