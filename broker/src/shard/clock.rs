//! The node's clock: CLOCK_BOOTTIME, so that a suspended machine counts as
//! time gone by. Read once a turn; the inner rings are handed the result.
//!
//! It starts at ten years, so that times of before the machine's start, which
//! the store brings back, are times as well.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::time::{ClockId, clock_gettime};
use tidegate_core::ids::Millis;
use tidegate_core::transit::Stamp;

const YEAR_NANOS: u64 = 365 * 24 * 3_600 * 1_000_000_000;

/// What is added to CLOCK_BOOTTIME. Keep-alive ticks (32 bits of 250 ms) reach
/// 34 years.
static OFFSET: AtomicU64 = AtomicU64::new(10 * YEAR_NANOS);

/// Sets the clock forward to `millis` unless it is there already: what was
/// read back is never younger than now. Only before the shards take turns.
pub(crate) fn advance_to(millis: Millis) {
    let behind = millis.saturating_sub(Reading::take().millis());
    OFFSET.fetch_add(behind * 1_000_000, Relaxed);
}

/// What CLOCK_BOOTTIME shows, in nanoseconds, when this clock shows `millis`.
pub(crate) fn boottime_of(millis: Millis) -> u64 {
    (millis * 1_000_000).saturating_sub(OFFSET.load(Relaxed))
}

/// A reading of the clock, in nanoseconds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Reading(u64);

impl Reading {
    /// Reads the clock (no system call: the vDSO answers).
    pub(crate) fn take() -> Reading {
        let time = clock_gettime(ClockId::Boottime);
        let nanos = time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned();
        Reading(OFFSET.load(Relaxed) + nanos)
    }

    /// What the inner rings call `now`.
    pub(crate) fn millis(self) -> Millis {
        self.0 / 1_000_000
    }

    /// What rates are held against.
    pub(crate) fn micros(self) -> u64 {
        self.0 / 1_000
    }

    /// What the core times by.
    pub(crate) fn stamp(self) -> Stamp {
        Stamp::of_nanos(self.0)
    }

    /// Nanoseconds since an earlier reading.
    pub(crate) fn nanos_since(self, earlier: Reading) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
