//! A bound on log lines that a peer can trigger at will.
//!
//! ```
//! use tidegate::telemetry::throttle::Throttle;
//!
//! static MALFORMED: Throttle = Throttle::new(5, 20);
//! let now_ms = 0;
//! if let Some(suppressed) = MALFORMED.admit(now_ms) {
//!     tracing::info!(suppressed, "malformed packet");
//! }
//! ```

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A token bucket without a lock, for use in a `static`.
#[derive(Debug)]
pub struct Throttle {
    /// Microseconds that one line costs.
    cost: u64,
    /// Microseconds of credit that can pile up.
    credit_max: u64,
    /// When the bucket will be full again, in microseconds of the caller's clock.
    full_at: AtomicU64,
    suppressed: AtomicU64,
}

impl Throttle {
    /// `per_second` lines on average, `burst` at once. Both at least 1.
    pub const fn new(per_second: u64, burst: u64) -> Throttle {
        assert!(per_second > 0 && burst > 0, "a throttle lets something through");
        let cost = 1_000_000 / per_second;
        Throttle {
            cost,
            credit_max: cost * burst,
            full_at: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Whether a line may be written at `now_ms`, and then how many were not
    /// since the last one that was.
    pub fn admit(&self, now_ms: u64) -> Option<u64> {
        let now = now_ms.saturating_mul(1_000);
        let admitted = self.full_at.fetch_update(Relaxed, Relaxed, |full_at| {
            let next = full_at.max(now) + self.cost;
            (next - now <= self.credit_max).then_some(next)
        });
        match admitted {
            Ok(_) => Some(self.suppressed.swap(0, Relaxed)),
            Err(_) => {
                self.suppressed.fetch_add(1, Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds_and_the_rest_is_counted() {
        let throttle = Throttle::new(10, 3);
        let admitted: Vec<_> = (0..5).map(|_| throttle.admit(1_000)).collect();
        assert_eq!(admitted, [Some(0), Some(0), Some(0), None, None]);
        assert_eq!(throttle.admit(1_099), None);
        assert_eq!(throttle.admit(1_100), Some(3), "one token is back after 100 ms");
        assert_eq!(throttle.admit(1_100), None);
        assert_eq!(throttle.admit(60_000), Some(1), "credit does not pile up");
        assert_eq!(throttle.admit(60_000), Some(0));
        assert_eq!(throttle.admit(60_000), Some(0));
        assert_eq!(throttle.admit(60_000), None);
    }
}
