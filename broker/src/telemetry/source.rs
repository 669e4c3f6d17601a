//! Where a scrape finds the numbers: what the shards count, seen from outside.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_cluster::ids::NodeId;
use tidegate_cluster::lease::Hold;
use tidegate_core::counters::Counters;

use tidegate_kernel::program::Facts;
use tidegate_kernel::tcpstat::Stats;

use crate::cluster::{Known, Replica, Traffic, View};
use crate::steering::Status;
use crate::system::sampler::Snapshot;

use super::histogram::{ConnectTimings, Histogram, Timings};
use super::storage::StorageCounts;

/// The shards of a node, as telemetry sees them. The runtime implements it.
///
/// All methods are called from a node thread, and take no lock that a shard
/// could wait for.
pub trait Source: Send + Sync + 'static {
    /// What the core counts, one a shard.
    fn counters(&self) -> &[Counters];

    /// What the shell counts for one shard.
    fn shell(&self, shard: usize) -> ShellCounts;

    /// What the settings in effect hash to.
    fn config_digest(&self) -> u32 {
        0
    }

    /// What is counted for one listener on one shard; none where listeners are
    /// not told apart.
    fn listener(&self, shard: usize, listener: usize) -> Option<ListenerCounts> {
        let _ = (shard, listener);
        None
    }

    /// What the shell times for one shard.
    fn timings(&self, shard: usize) -> &Timings;

    /// What is timed for one listener on one shard; none where listeners are
    /// not told apart.
    fn connect_timings(&self, shard: usize, listener: usize) -> Option<&ConnectTimings> {
        let _ = (shard, listener);
        None
    }

    /// What is counted of TLS, PROXY and WebSocket, by the index of the listener.
    fn layers(&self) -> Vec<LayerCounts> {
        Vec::new()
    }

    /// What was done about passwords, where there are any.
    fn passwords(&self) -> Option<PasswordCounts> {
        None
    }

    /// How short memory is, where that is measured.
    fn overload(&self) -> Option<OverloadCounts> {
        None
    }

    /// What the store counts, where there is one.
    fn storage(&self) -> Option<StorageCounts<'_>> {
        None
    }

    /// What the kernel does about new connections, where that is known.
    fn steering(&self) -> Option<Status> {
        None
    }

    /// What the kernel counts of connections, where it does.
    fn observed(&self) -> Option<Observed> {
        None
    }

    /// What the kernel tells without eBPF, where it is asked.
    fn system(&self) -> Option<Arc<Snapshot>> {
        None
    }

    /// The cluster, where there is one, and the lease.
    fn membership(&self) -> Option<(Arc<View>, Hold)> {
        None
    }

    /// The replicas of partitions that are here.
    fn replicas(&self) -> Arc<Vec<Replica>> {
        Arc::default()
    }

    /// What is counted between this node and the others of its cluster.
    fn peers(&self) -> Option<ClusterCounts<'_>> {
        None
    }

    /// Asks every shard for a turn, so that an idle one shows that it lives.
    fn ping(&self);
}

/// What is counted between this node and the others of its cluster.
#[derive(Debug)]
pub struct ClusterCounts<'a> {
    /// Times that the lease has run out.
    pub cut_offs: u64,
    /// From a proposal to its commit.
    pub acks: &'a Histogram,
    /// What went over the connections.
    pub traffic: Arc<Vec<Traffic>>,
    /// How the others fare.
    pub known: Arc<BTreeMap<NodeId, Known>>,
}

/// What the kernel counts for us by eBPF.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Of each listener, in the order of the config; empty where it does not.
    pub connections: Vec<Stats>,
    /// Whether resets are among it.
    pub resets: bool,
    /// Events of connection tracking.
    pub tracking: Vec<(&'static str, u64)>,
    /// Objects, and the programs of those that are loaded.
    pub objects: Vec<(&'static str, Option<Vec<Facts>>)>,
}

/// What the shell of one shard counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ShellCounts {
    /// Bytes read from sockets.
    pub bytes_received: u64,
    /// Bytes written to sockets.
    pub bytes_sent: u64,
    /// Reads that brought bytes.
    pub receives: u64,
    /// Attempts to send.
    pub sends: u64,
    /// Times that accepting was halted for want of descriptors or memory.
    pub accept_halts: u64,
    /// Times that another shard's mailbox was full.
    pub mailbox_full: u64,
    /// Gauge: batches in the shard's mailbox; none where it is not known.
    pub mailbox_depth: Option<u64>,
    /// Gauge: bytes of the tables of connections.
    pub table_bytes: u64,
    /// Wake-ups of other shards.
    pub wakes: u64,
    /// Times that the shard slept.
    pub sleeps: u64,
}

/// What is counted for one listener on one shard.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ListenerCounts {
    /// Gauge: open connections.
    pub connections: u64,
    /// Connections accepted.
    pub accepted: u64,
}

/// What is counted of the layers below MQTT on one listener.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LayerCounts {
    /// Of its TLS, if it has any.
    pub tls: Option<TlsCounts>,
    /// PROXY headers taken and refused, if it wants any.
    pub proxy: Option<[u64; 2]>,
    /// WebSockets opened and refused, if it is for them.
    pub websocket: Option<[u64; 2]>,
}

/// What is counted of TLS on one listener.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TlsCounts {
    /// Handshakes completed with 1.2 and 1.3, and failed ones.
    pub handshakes: [u64; 3],
    /// When the first of its certificates expires, in Unix seconds.
    pub expires: i64,
    /// Readings of changed files that were taken over, and that were refused.
    pub reloads: [u64; 2],
}

/// How short memory is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct OverloadCounts {
    /// 0 to 3.
    pub stage: u64,
    /// Bytes in use.
    pub memory_used: u64,
    /// Bytes there may be; 0: no limit.
    pub memory_limit: u64,
}

/// What was done about passwords.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PasswordCounts {
    /// Right, wrong, refused because too many waited, and expired.
    pub results: [u64; 4],
    /// Those that wait.
    pub waiting: u64,
    /// Time spent on hashing.
    pub nanos: u64,
}
