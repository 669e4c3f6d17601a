//! Which nodes hold which partition.
//!
//! [`plan`] starts from the placement of now and changes as little as it can:
//! first what has to go, then what is missing, then zones, then balance, one
//! replica at a time along the shortest way from who has too many to who has
//! too few. It is a pure function: the same input gives the same plan, so a new
//! leader goes on where the last one stopped.
//!
//! [`Pacing`] says when to ask for a plan.

mod pacing;
mod plan;
#[cfg(test)]
mod tests;

pub use pacing::{Change, Decision, Pacing, Reason, Waiting};
pub use plan::{Balance, Home, plan};

/// Spreads the bits of a number (SplitMix64's finish). The rank of a node for a
/// partition comes of it, so it never changes.
pub fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
