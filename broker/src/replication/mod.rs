//! Partitions and mail across the nodes of a cluster: what the shards, the Raft
//! groups and the connections between nodes have to do with each other.
//!
//! A shard hears of the cluster by `Word`s through its mailbox, in the order in
//! which they were said: what a Raft group has committed, whether this node leads
//! a partition, what other nodes' shards have sent. It answers through the
//! `Outlet`: batches of records to be committed, and mail. Nothing here blocks
//! a shard.

mod bodies;
mod handover;
pub(crate) mod homes;
mod isolation;
pub(crate) mod machine;
pub(crate) mod moving;
pub(crate) mod post;
mod recover;
pub(crate) mod routes;
pub(crate) mod run;
pub(crate) mod start;
pub mod transport;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tidegate_consensus::Body;
use tidegate_core::ids::{Member, PartitionId, ShardId};
use tidegate_mesh::{Peer, Room};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use self::machine::Painted;
use crate::telemetry::histogram::ReplicationTimings;

/// Batches of one partition that may be on their way to their commit; what comes
/// meanwhile makes one larger batch.
pub(crate) const BATCHES_MAX: u32 = 64;
/// Bytes of mail in one piece for another node.
pub(crate) const MAIL_BYTES_MAX: usize = 256 << 10;

/// What a shard is told of the cluster.
pub(crate) enum Word {
    /// An entry of a partition's Raft group was committed.
    Committed {
        /// Whose.
        partition: PartitionId,
        /// Its index in the group's log.
        index: u64,
        /// What the core of a leader gave out.
        payload: Bytes,
    },
    /// This node leads the partition in this term: all that was committed before
    /// has been said.
    Promote(PartitionId, u64),
    /// The partition goes to another node: its sessions are counted.
    Moved(PartitionId),
    /// What is known of the partition is void: what follows is said from its
    /// snapshot, or its beginning, on.
    Reset(PartitionId),
    /// The state of the partition is wanted as it is here.
    Snapshot(PartitionId, oneshot::Sender<io::Result<Painted>>),
    /// The state of the partition is this.
    Install(PartitionId, Body),
    /// A state that was given out is durable here.
    Saved {
        /// Whose.
        partition: PartitionId,
        /// Its number.
        generation: u32,
        /// Where its records lie in it.
        places: Vec<u64>,
        /// All of it.
        body: Body,
    },
    /// The oldest entry of the log is wanted that a queue of the partition needs.
    Oldest(PartitionId, oneshot::Sender<Option<u64>>),
    /// Mail of another node's shards for this one.
    Mail {
        /// Who sent it.
        from: Member,
        /// Parcels for this shard alone.
        parcels: Vec<u8>,
        /// Gives the sender its credit back.
        room: Arc<Room>,
    },
    /// The partition has another leader: the node knows which.
    HomeMoved(PartitionId),
    /// A link to a member is there: mail goes over it, and what comes over it is
    /// said after this.
    MemberUp(Member, Peer),
    /// The link to a member has broken: what was sent may not have come. Its last
    /// mail was said before.
    MemberLost(Member),
    /// A process has become a member under this number.
    MemberNew(Member),
    /// A member is no more, and will not come back as the same: what it still
    /// says does not count.
    MemberGone(Member),
    /// A link takes mail that it did not take before.
    Writable,
    /// More is known of the other nodes' routes, or they know more of this one's.
    RoutesMoved,
    /// A quorum has said that this node leads these of the partitions that it was
    /// asked about, a bit each; what was committed before has been said.
    Proven(u64),
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::Committed { partition, index, payload } => {
                write!(f, "Committed({}, {index}, {} bytes)", partition.0, payload.len())
            }
            Word::Saved { partition, generation, body, .. } => {
                write!(f, "Saved({}, {generation}, {body:?})", partition.0)
            }
            Word::Oldest(partition, _) => write!(f, "Oldest({})", partition.0),
            Word::Promote(partition, term) => write!(f, "Promote({}, {term})", partition.0),
            Word::RoutesMoved => f.write_str("RoutesMoved"),
            Word::Proven(partitions) => write!(f, "Proven({partitions:x})"),
            Word::Moved(partition) => write!(f, "Moved({})", partition.0),
            Word::Reset(partition) => write!(f, "Reset({})", partition.0),
            Word::Snapshot(partition, _) => write!(f, "Snapshot({})", partition.0),
            Word::Install(partition, body) => write!(f, "Install({}, {body:?})", partition.0),
            Word::Mail { from, parcels, .. } => {
                write!(f, "Mail({}, {} bytes)", from.0, parcels.len())
            }
            Word::HomeMoved(partition) => write!(f, "HomeMoved({})", partition.0),
            Word::MemberUp(member, _) => write!(f, "MemberUp({})", member.0),
            Word::MemberNew(member) => write!(f, "MemberNew({})", member.0),
            Word::MemberLost(member) => write!(f, "MemberLost({})", member.0),
            Word::MemberGone(member) => write!(f, "MemberGone({})", member.0),
            Word::Writable => f.write_str("Writable"),
        }
    }
}

/// What a shard says of one of its partitions, and the term in which it was told
/// that it leads: what is said of an earlier one is void.
#[derive(Debug)]
pub(crate) enum Said {
    /// This entry wants to be committed.
    Propose(PartitionId, u64, Bytes),
    /// Another leader's entry was committed: this node leads no longer.
    Deposed(PartitionId, u64),
    /// The shard leads: from now on the partition's sessions are in the index,
    /// and what comes for them is taken.
    Leads(PartitionId, u64),
    /// Whether this node still leads the partitions of a shard, a bit each: it is
    /// answered with [`Word::Proven`].
    Prove(ShardId, u64),
}

/// Where shards hand out what is for the cluster. From any thread.
pub(crate) struct Outlet {
    said: mpsc::UnboundedSender<Said>,
    /// Members that are not down.
    alive: ArcSwap<BTreeSet<u16>>,
    /// Members that were, and are no more.
    gone: ArcSwap<BTreeSet<u16>>,
    /// Wakes the task of routes.
    routes: Arc<Notify>,
    /// This process is about to end: what it leads goes elsewhere.
    leaving: AtomicBool,
    /// Leaderships that still have to go, and can; none before that was looked at,
    /// and of a node that stays.
    left: watch::Sender<Option<usize>>,
    /// The same of clients.
    clients: watch::Sender<Option<u32>>,
    /// Written by the thread of partitions alone.
    pub(crate) timings: ReplicationTimings,
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").field("alive", &self.alive.load().len()).finish()
    }
}

impl Outlet {
    /// And where what is said comes out.
    pub(crate) fn new() -> (Outlet, mpsc::UnboundedReceiver<Said>) {
        let (said, heard) = mpsc::unbounded_channel();
        let outlet = Outlet {
            said,
            alive: ArcSwap::default(),
            gone: ArcSwap::default(),
            routes: Arc::default(),
            leaving: AtomicBool::new(false),
            left: watch::Sender::new(None),
            clients: watch::Sender::new(None),
            timings: ReplicationTimings::default(),
        };
        (outlet, heard)
    }

    /// Says something of a partition. A shard has at most [`BATCHES_MAX`] entries
    /// of a partition on their way, which bounds the channel.
    pub(crate) fn say(&self, said: Said) {
        // The end of the process may have begun.
        let _ = self.said.send(said);
    }

    /// The index may have changed.
    pub(crate) fn wake_routes(&self) {
        self.routes.notify_one();
    }

    /// What wakes the task of routes.
    pub(crate) fn routes(&self) -> Arc<Notify> {
        Arc::clone(&self.routes)
    }

    /// Hands the leaderships of this node over. Ends when no other node can take
    /// one that is left.
    pub(crate) async fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        let mut left = self.left.subscribe();
        // The task of partitions may have ended.
        let _ = left.wait_for(|left| *left == Some(0)).await;
    }

    /// Ends when no client is left that another node could take.
    pub(crate) async fn clients_gone(&self) {
        let mut clients = self.clients.subscribe();
        // The task that sends them may have ended.
        let _ = clients.wait_for(|clients| *clients == Some(0)).await;
    }

    /// So many clients have to go, and can; none: this node stays.
    pub(crate) fn set_clients(&self, clients: Option<u32>) {
        self.clients.send_if_modified(|before| std::mem::replace(before, clients) != clients);
    }

    /// Whether [`Outlet::leave`] was called.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// So many leaderships have to go, and can; none: this node stays.
    pub(crate) fn set_left(&self, left: Option<usize>) {
        self.left.send_if_modified(|before| std::mem::replace(before, left) != left);
    }

    /// What was said last.
    pub(crate) fn left(&self) -> Option<usize> {
        *self.left.borrow()
    }

    /// Says which members are not down.
    pub(crate) fn set_alive(&self, alive: BTreeSet<u16>) {
        self.alive.store(Arc::new(alive));
    }

    /// Says which members are no more, before anybody else is told.
    pub(crate) fn set_gone(&self, gone: BTreeSet<u16>) {
        self.gone.store(Arc::new(gone));
    }

    /// Whether a member is no more. What it still says does not bring it back.
    pub(crate) fn is_gone(&self, member: Member) -> bool {
        self.gone.load().contains(&member.0)
    }

    /// Whether a member is believed to run.
    pub(crate) fn is_alive(&self, member: Member) -> bool {
        self.alive.load().contains(&member.0)
    }
}
