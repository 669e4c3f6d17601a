//! The node's clock: CLOCK_BOOTTIME, so that a suspended machine counts as
//! time gone by. Read once a turn; the inner rings are handed the result.

use rustix::time::{ClockId, clock_gettime};
use tidegate_core::ids::Millis;
use tidegate_core::transit::Stamp;

/// A reading of the clock, in nanoseconds.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Reading(u64);

impl Reading {
    /// Reads the clock (no system call: the vDSO answers).
    pub(crate) fn take() -> Reading {
        let time = clock_gettime(ClockId::Boottime);
        Reading(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
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
