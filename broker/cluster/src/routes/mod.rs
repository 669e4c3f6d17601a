//! Who wants which topic on other nodes, and when that is certain.
//!
//! Each node streams its own changes to every peer: first all it has, then
//! increments with contiguous numbers ([`Announcer`]). A change is about one of
//! two kinds of [`Authority`]: the node itself, for sessions that end with their
//! connection, or a partition that it leads. Peers watch the streams in a
//! [`Follower`], which keeps no filter: it says what the core's index has to know,
//! and which of what was said is void.
//!
//! Two rules make subscribe-then-publish hold across nodes:
//!
//! - **R1** ([`Follower::covered_until`]): a publish is acknowledged only under an
//!   unexpired lease from every node with clients, with all its changes applied,
//!   and with every partition's routes complete from a node that is so covered;
//!   otherwise it goes to the outbox first.
//! - **R2** ([`Announcer::barrier`]): a SUBACK leaves when every peer that may
//!   hold a lease has acknowledged the change. Not the metadata but the leases
//!   say who that is: who holds none can't acknowledge a publish either.
//!
//! A partition's routes outlive their announcer, and a new leader announces all
//! of them again. Until it has, the partition is not covered: the old leader
//! may have promised a subscription that this node had not heard of.

mod announcer;
mod epochs;
mod exchange;
mod follower;
mod index;
#[cfg(test)]
mod tests;
mod word;

use crate::ids::{Life, PartitionId};

pub use announcer::{Acked, Announcer, BarrierFull, Batch, Waiting};
pub use exchange::{Call, Exchange, Own, ReadError, Target};
pub use follower::{Follower, Full, NotCovered, Said, Taken, Told};
pub use word::Word;

/// Whose filter it is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Authority {
    /// Sessions that live and die with that life of a node.
    Node(Life),
    /// Sessions and share groups of a partition, wherever it is led.
    Partition(PartitionId),
}

/// A change in the stream of one node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// The node has its first subscriber of a filter.
    NodeAdd(Box<str>),
    /// It has lost the last one.
    NodeRemove(Box<str>),
    /// The node leads a partition, and begins to say all that it has. What was
    /// announced of it before stays until [`Change::Complete`].
    Begin {
        /// Which.
        partition: PartitionId,
        /// The index in its log from which on it speaks; grows with each leader.
        index: u64,
    },
    /// A filter of a partition.
    Add {
        /// Whose.
        partition: PartitionId,
        /// The index in its log.
        index: u64,
        /// The filter.
        filter: Box<str>,
    },
    /// The partition has lost its last subscriber of the filter.
    Remove {
        /// Whose.
        partition: PartitionId,
        /// The index in its log.
        index: u64,
        /// The filter.
        filter: Box<str>,
    },
    /// All that the partition has was said.
    Complete {
        /// Which.
        partition: PartitionId,
        /// The index of its `Begin`.
        index: u64,
    },
}

impl Change {
    /// Bytes of its filter.
    fn text_bytes(&self) -> usize {
        match self {
            Change::NodeAdd(filter)
            | Change::NodeRemove(filter)
            | Change::Add { filter, .. }
            | Change::Remove { filter, .. } => filter.len(),
            Change::Begin { .. } | Change::Complete { .. } => 0,
        }
    }
}
