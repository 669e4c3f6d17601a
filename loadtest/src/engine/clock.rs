//! One clock for all processes of a machine.
//!
//! Due times are stamped by one process and read by another, so they count on
//! CLOCK_MONOTONIC itself and not on an `Instant`, which cannot be handed over.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of a millisecond.
pub(crate) const MILLISECOND: u64 = 1_000_000;
/// Nanoseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Nanoseconds on CLOCK_MONOTONIC.
#[inline]
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * SECOND + time.tv_nsec as u64
}
