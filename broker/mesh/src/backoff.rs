//! How long to wait before calling again.

use std::time::Duration;

/// After `failures` in a row: twice as long each time, within bounds, and
/// between a half and all of it, so that those who failed together do not
/// come back together. `chance` is any random number.
pub(crate) fn backoff(failures: u32, bounds: (Duration, Duration), chance: u64) -> Duration {
    let (least, most) = bounds;
    let whole = least.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(most);
    let part = whole / 2;
    part + part.mul_f64((chance >> 11) as f64 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_bound_and_is_never_the_same_for_all() {
        let bounds = (Duration::from_millis(100), Duration::from_secs(2));
        for (failures, ms) in [(1, 100), (2, 200), (5, 1_600), (6, 2_000), (u32::MAX, 2_000)] {
            let whole = Duration::from_millis(ms);
            assert_eq!(backoff(failures, bounds, 0), whole / 2);
            let most = backoff(failures, bounds, u64::MAX);
            assert!(most > whole * 9 / 10 && most <= whole, "{failures}: {most:?}");
        }
    }
}
