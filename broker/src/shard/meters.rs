//! What the shell of a shard counts beside the core's counters. Same rule: one
//! writer, many readers.

use std::sync::atomic::AtomicBool;

use tidegate_core::counters::Count;

use crate::telemetry::histogram::{ConnectTimings, Timings};

/// The shell's counts of one shard. On cache lines of its own: the next
/// shard's counts lie beside it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Meters {
    /// Bytes read from sockets.
    pub bytes_received: Count,
    /// Bytes written to sockets.
    pub bytes_sent: Count,
    /// Reads that brought bytes.
    pub receives: Count,
    /// Send attempts.
    pub sends: Count,
    /// Times that accepting was halted because the process or the machine was
    /// out of descriptors or memory.
    pub accept_halts: Count,
    /// Times that another shard's mailbox was full.
    pub mailbox_full: Count,
    /// Wake-ups of other shards.
    pub wakes: Count,
    /// Times that the shard slept.
    pub sleeps: Count,
    /// Gauge: bytes of records that are not durable.
    pub journal_bytes: Count,
    /// Gauge: bytes of the tables of connections.
    pub table_bytes: Count,
    /// How long turns and deliveries take.
    pub timings: Timings,
    /// What is counted for each listener, in the order of the config.
    pub listeners: Box<[ListenerMeters]>,
    /// Whether the shard has heard that clients may come, of a node in a cluster.
    pub admits: AtomicBool,
}

/// What is counted for one listener on one shard.
#[derive(Debug, Default)]
pub struct ListenerMeters {
    /// Connections taken in.
    pub accepted: Count,
    /// Gauge: open connections.
    pub connections: Count,
    /// How long connecting takes.
    pub connect: ConnectTimings,
}

impl Meters {
    /// All zero, for a shard with so many listeners.
    pub fn new(listeners: usize) -> Meters {
        Meters {
            listeners: (0..listeners).map(|_| ListenerMeters::default()).collect(),
            ..Meters::default()
        }
    }
}
