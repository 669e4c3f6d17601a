//! That a message between partitions is enqueued once, and in order.
//!
//! A lane leads into one partition (or into one life of a node, for sessions
//! that end with their connection). Each message on it has a number and names
//! its predecessor, and the target checks both **in apply** ([`Arrivals`]): a
//! repeat is acknowledged again, a gap refused. So a sender whose outcome is
//! unknown sends the same again, and nothing is lost or doubled.
//!
//! - [`Publishing`]: from one life of a node, contiguous numbers; the lane ends
//!   with that life.
//! - [`OutboxLane`]: from a partition, whoever leads it; the number is the index
//!   of the outbox's record. A lane by the leader's life would enqueue twice
//!   when the outbox's leader moves.

mod arrivals;
mod outbox;
mod publishing;
#[cfg(test)]
mod tests;

use crate::ids::{Life, PartitionId};

pub use arrivals::{Arrivals, Offer};
pub use outbox::{Diverged, OutboxFull, OutboxLane};
pub use publishing::{LaneFull, Publishing, TargetLost};

/// Where messages come from.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Lane {
    /// Publishers of that life of a node.
    Publish(Life),
    /// The outbox of that partition.
    Outbox(PartitionId),
}

/// What each message on a lane carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    /// Its lane.
    pub lane: Lane,
    /// Its number; grows along the lane.
    pub number: u64,
    /// The number of the one before; 0: it is the first.
    pub after: u64,
}
