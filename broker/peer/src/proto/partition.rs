//! What is asked of a partition's leader besides claims.

use bytes::Bytes;

use super::Status;

/// A record for a partition's log.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Command {
    /// Repeated in the reply.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The group; a partition, or 0xFFFFFFFF for the meta group's.
    #[prost(uint32, tag = "2")]
    pub group: u32,
    /// The claim in whose name it is; 0: in none.
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    /// In the records' own encoding.
    #[prost(bytes = "bytes", tag = "4")]
    pub record: Bytes,
}

/// What became of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommandReply {
    /// From the command.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Done: committed and applied.
    #[prost(enumeration = "Status", tag = "2")]
    pub status: i32,
    /// The record's log index.
    #[prost(uint64, tag = "3")]
    pub index: u64,
    /// What applying it yielded, in the records' own encoding.
    #[prost(bytes = "bytes", tag = "4")]
    pub outcome: Bytes,
    /// Who leads the group, if it is known and not the receiver; 0: not known.
    #[prost(uint64, tag = "5")]
    pub leader: u64,
}

/// Up to which batch Acks have been committed.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct AckConfirm {
    /// The partition.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// All up to this batch.
    #[prost(uint64, tag = "2")]
    pub through: u64,
}

/// Where a lane of Enqueues stands. A new leader of an outbox asks first.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LaneQuery {
    /// Repeated in the reply.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The target partition; none: the receiving node.
    #[prost(uint32, optional, tag = "2")]
    pub target: Option<u32>,
    /// The source partition; none: the lane of a node.
    #[prost(uint32, optional, tag = "3")]
    pub source: Option<u32>,
    /// The node at the lane's begin or end; 0: none.
    #[prost(uint64, tag = "4")]
    pub node: u64,
    /// Its process.
    #[prost(uint64, tag = "5")]
    pub incarnation: u64,
}

/// There.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LanePosition {
    /// From the query.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Done: the rest is said.
    #[prost(enumeration = "Status", tag = "2")]
    pub status: i32,
    /// The highest number that is taken; 0: none.
    #[prost(uint64, tag = "3")]
    pub through: u64,
    /// Who leads the partition, if it is known and not the receiver; 0: not known.
    #[prost(uint64, tag = "4")]
    pub leader: u64,
}
