//! The pace at which a shard that shuts down ends its connections.
//!
//! All at once would send every client to the other nodes in the same
//! millisecond. The connections go evenly over three quarters of the time left,
//! in steps, but never slower than a floor, so that a small node stops at once.

use tidegate_core::ids::Millis;

/// Time between two steps.
const STEP_MS: Millis = 20;
/// Connections ended in one step at least.
const STEP_CONNECTIONS_MIN: usize = 64;

/// A shutdown under way.
#[derive(Debug)]
pub(crate) struct Drain {
    /// When the last connection should end: three quarters of the time given.
    paced_until: Millis,
    next_step: Millis,
    reported: bool,
}

impl Drain {
    /// A drain that has to be over by `until`. The first step is due at once.
    pub(crate) fn new(now: Millis, until: Millis) -> Drain {
        let paced_until = now + until.saturating_sub(now) * 3 / 4;
        Drain { paced_until, next_step: now, reported: false }
    }

    /// How many of the `connections` to end now; none when no step is due.
    pub(crate) fn step(&mut self, now: Millis, connections: usize) -> Option<usize> {
        if now < self.next_step {
            return None;
        }
        self.next_step = now + STEP_MS;
        let time = self.paced_until.saturating_sub(now);
        let steps = usize::try_from(time / STEP_MS).unwrap_or(usize::MAX).max(1);
        Some(connections.div_ceil(steps).max(STEP_CONNECTIONS_MIN))
    }

    /// When a step is due, as long as something is `left`.
    pub(crate) fn next_tick(&self, left: bool) -> Option<Millis> {
        left.then_some(self.next_step)
    }

    /// True once: when the last connection has gone.
    pub(crate) fn report(&mut self, finished: bool) -> bool {
        let first = finished && !self.reported;
        self.reported |= first;
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_connections_end_in_the_first_step() {
        let mut drain = Drain::new(1000, 31_000);
        assert!(drain.step(1000, 10).is_some_and(|n| n >= 10));
        assert_eq!(drain.next_tick(false), None);
    }

    #[test]
    fn many_connections_end_evenly_and_before_the_deadline() {
        let mut drain = Drain::new(0, 20_000);
        let (mut left, mut now, mut largest) = (1_000_000, 0, 0);
        while left > 0 {
            let n = drain.step(now, left).expect("a step is due").min(left);
            largest = largest.max(n);
            left -= n;
            now = drain.next_tick(true).expect("more to do");
        }
        assert!(now <= 16_000, "took {now} ms");
        assert!(largest < 3_000, "{largest} at once");
    }

    #[test]
    fn a_late_start_ends_everything_at_once() {
        let mut drain = Drain::new(500, 500);
        assert!(drain.step(500, 100_000).is_some_and(|n| n >= 100_000));
    }

    #[test]
    fn the_end_is_reported_once() {
        let mut drain = Drain::new(0, 10);
        assert!(!drain.report(false));
        assert!(drain.report(true));
        assert!(!drain.report(true));
    }
}
