//! How long a client that was cut off waits, and the chance in it.

use crate::engine::clock::MILLISECOND;
use crate::scenario::plan::{Backoff, Plan};

/// A small generator: the spread matters, not the secrecy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// Another sequence for each seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// splitmix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `bound`; 0 for 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// From 0 to below 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Nanoseconds to wait before try number `tries`, counted from 0.
pub(crate) fn delay(plan: &Plan, tries: u8, chance: &mut Chance) -> u64 {
    let base = plan.backoff_base_ms * MILLISECOND;
    match plan.backoff {
        // Even the most impatient client needs a moment when it is refused.
        Backoff::None if tries == 0 => 0,
        Backoff::None => 10 * MILLISECOND,
        Backoff::Fixed => chance.below(base),
        Backoff::Exponential => {
            let most = plan.backoff_ms_max * MILLISECOND;
            chance.below(base.saturating_mul(1 << tries.min(20)).min(most))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::plan::{Scenario, tests::plan};

    #[test]
    fn exponential_delays_grow_to_the_maximum() {
        let plan = Plan { backoff: Backoff::Exponential, ..plan(Scenario::Storm, 0, 0) };
        let mut chance = Chance::new(1);
        let mut most = |tries| (0..1_000).map(|_| delay(&plan, tries, &mut chance)).max();
        let (first, second, late) = (most(0), most(1), most(200));
        assert!(first < Some(10 * MILLISECOND) && first > Some(9 * MILLISECOND));
        assert!(second < Some(20 * MILLISECOND) && second > Some(18 * MILLISECOND));
        assert!(late < Some(100 * MILLISECOND) && late > Some(90 * MILLISECOND));
    }
}
