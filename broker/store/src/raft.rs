//! openraft's log storage on this log.
//!
//! All partitions of a node share one log and one writer; each has a
//! [`RaftLog`], which openraft drives. Votes, entries, truncations and purges
//! are records in the order in which openraft asked for them, so the writer's
//! one watermark is true of all.
//!
//! An entry is readable when `append` returns, before it is on disk: what is
//! not yet durable stays in a bounded tail in memory. Reads of older entries
//! block on the disk; Rafts run on node threads, where that is allowed.

mod index;
mod storage;

use std::fmt;
use std::io;

use bytes::Bytes;
use openraft::vote::leader_id_std::{CommittedLeaderId, LeaderId};
use openraft::{EmptyNode, Entry, EntryPayload, RaftTypeConfig, Vote};

use crate::batch::Batch;
use crate::position::Position;

pub use index::{IndexError, PartitionIndex};
pub use storage::RaftLog;

/// What an entry of the owner says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct EntryBody {
    /// The record's flags.
    pub flags: u8,
    /// The record's body.
    pub bytes: Bytes,
}

impl fmt::Display for EntryBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

/// An openraft payload as it is stored.
pub type Payload = EntryPayload<EntryBody, u64, EmptyNode>;

/// The configurations of openraft that this log can store: nodes are ids, and
/// a term has one leader, so that a record's term and index say it all. What
/// is applied and answered, and the runtime, are the caller's.
pub trait Config:
    RaftTypeConfig<
        D = EntryBody,
        NodeId = u64,
        Node = EmptyNode,
        Term = u64,
        LeaderId = LeaderId<u64, u64>,
        Vote = Vote<LeaderId<u64, u64>>,
        Payload = Payload,
        Entry = Entry<CommittedLeaderId<u64>, Payload>,
    >
{
}

impl<C> Config for C where
    C: RaftTypeConfig<
            D = EntryBody,
            NodeId = u64,
            Node = EmptyNode,
            Term = u64,
            LeaderId = LeaderId<u64, u64>,
            Vote = Vote<LeaderId<u64, u64>>,
            Payload = Payload,
            Entry = Entry<CommittedLeaderId<u64>, Payload>,
        >
{
}

/// What a [`Writer`] calls once: the batch's base when it is durable (or, if
/// that was not asked for, written), or why it never will be.
pub type Written = Box<dyn FnOnce(io::Result<Position>) + Send>;

/// Hands batches to the one who appends to the log.
pub trait Writer: Clone + Send + Sync + 'static {
    /// Appends a batch after all that were submitted before and answers in that
    /// order. `durable`: not before it is; else it need not trigger a sync.
    fn submit(&self, batch: Batch, durable: bool, written: Written);
}

#[cfg(test)]
mod tests;
