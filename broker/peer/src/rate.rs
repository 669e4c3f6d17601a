//! The rate cap of a bulk connection: a token bucket.
//!
//! Snapshots and moves must not take the network from the messages. The caller
//! asks before each frame; the bucket says how much may go, or when to ask again.

use std::time::Duration;

/// A token bucket of bytes.
#[derive(Clone, Copy, Debug)]
pub struct RateCap {
    bytes_per_second: u64,
    burst: u64,
    tokens: u64,
    /// Up to where tokens have been given out; never later than `now`.
    since: Duration,
}

const NANOS: u128 = 1_000_000_000;

impl RateCap {
    /// Full at first. A rate or burst of 0 is taken as 1.
    pub fn new(bytes_per_second: u64, burst: u64, now: Duration) -> Self {
        let burst = burst.max(1);
        Self { bytes_per_second: bytes_per_second.max(1), burst, tokens: burst, since: now }
    }

    /// Another rate from now on; what has been saved up stays, within the burst.
    pub fn change(&mut self, bytes_per_second: u64, burst: u64, now: Duration) {
        self.fill(now);
        self.bytes_per_second = bytes_per_second.max(1);
        self.burst = burst.max(1);
        self.tokens = self.tokens.min(self.burst);
    }

    /// Takes up to `wanted` bytes; returns how many may go now.
    pub fn take(&mut self, wanted: u64, now: Duration) -> u64 {
        self.fill(now);
        let taken = wanted.min(self.tokens);
        self.tokens -= taken;
        taken
    }

    /// Bytes that may go now, for who does not know yet how many it will send.
    pub fn available(&mut self, now: Duration) -> u64 {
        self.fill(now);
        self.tokens
    }

    /// Takes bytes that were found available.
    pub fn spend(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }

    /// When `wanted` bytes, or a full burst if that is less, will be there.
    pub fn ready_at(&self, wanted: u64, now: Duration) -> Duration {
        let mut then = *self;
        then.fill(now);
        let missing = wanted.min(then.burst).saturating_sub(then.tokens);
        if missing == 0 {
            return now;
        }
        let nanos = (u128::from(missing) * NANOS).div_ceil(u128::from(then.bytes_per_second));
        then.since.saturating_add(duration(nanos))
    }

    fn fill(&mut self, now: Duration) {
        // A clock that went back gives nothing and takes nothing.
        let Some(passed) = now.checked_sub(self.since) else { return };
        let new = passed.as_nanos() * u128::from(self.bytes_per_second) / NANOS;
        let room = u128::from(self.burst - self.tokens);
        if new >= room {
            self.tokens = self.burst;
            self.since = now;
            return;
        }
        self.tokens += u64::try_from(new).expect("less than the burst");
        // The rest of a byte stays for the next time.
        let nanos = (new * NANOS).div_ceil(u128::from(self.bytes_per_second));
        self.since = self.since.saturating_add(duration(nanos)).min(now);
    }
}

fn duration(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_rate_holds_however_often_it_is_asked() {
        for step_us in [1, 7, 1_000, 250_000] {
            let mut cap = RateCap::new(1_000_000, 10_000, ms(0));
            let (mut sent, mut now) = (0, ms(0));
            while now < ms(2_000) {
                sent += cap.take(u64::MAX, now);
                now += Duration::from_micros(step_us);
            }
            let most = 2_000_000 + 10_000;
            assert!(sent <= most, "{sent} in steps of {step_us} us");
            // A bucket that is asked rarely overflows; often asked it loses nothing.
            let least = if step_us <= 10_000 { most * 99 / 100 } else { 8 * 10_000 };
            assert!(sent >= least, "{sent} in steps of {step_us} us");
        }
    }

    #[test]
    fn at_the_time_it_names_the_bytes_are_there() {
        let mut cap = RateCap::new(333, 1_000, ms(5));
        assert_eq!(cap.take(1_000, ms(5)), 1_000);
        let then = cap.ready_at(100, ms(5));
        assert!(then > ms(300) && then < ms(310), "{then:?}");
        assert_eq!(cap.take(100, then), 100);
        assert_eq!(cap.ready_at(u64::MAX, then), cap.ready_at(1_000, then), "no more than a burst");
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing() {
        let mut cap = RateCap::new(1_000, 1_000, ms(1_000));
        assert_eq!(cap.take(1_000, ms(1_000)), 1_000);
        assert_eq!(cap.take(1_000, ms(0)), 0);
        assert_eq!(cap.take(1_000, ms(1_500)), 500);
    }
}
