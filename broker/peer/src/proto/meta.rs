//! Joining, and watching what the meta group commits.

use bytes::Bytes;

use super::Status;

/// A node asks to be of the cluster.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Register {
    /// Repeated in the reply.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// The node.
    #[prost(uint64, tag = "2")]
    pub node: u64,
    /// Its log, 16 bytes, little endian.
    #[prost(bytes = "bytes", tag = "3")]
    pub store: Bytes,
    /// Its process.
    #[prost(uint64, tag = "4")]
    pub incarnation: u64,
    /// Where it is reached, host and port.
    #[prost(string, tag = "5")]
    pub address: String,
    /// Its zone; empty: none.
    #[prost(string, tag = "6")]
    pub zone: String,
    /// The highest cluster feature level that it supports.
    #[prost(uint32, tag = "7")]
    pub feature_level_max: u32,
    /// The least that it can do with.
    #[prost(uint32, tag = "8")]
    pub feature_level_min: u32,
}

/// Whether it is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RegisterReply {
    /// From the request.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Done: it is.
    #[prost(enumeration = "Status", tag = "2")]
    pub status: i32,
    /// The cluster, 16 bytes, little endian.
    #[prost(bytes = "bytes", tag = "3")]
    pub cluster: Bytes,
    /// Where nodes that may know more are reached.
    #[prost(string, repeated, tag = "4")]
    pub addresses: Vec<String>,
    /// For people: why not.
    #[prost(string, tag = "5")]
    pub detail: String,
    /// Who leads the meta group, if it is known and not the receiver; 0: not known.
    #[prost(uint64, tag = "6")]
    pub leader: u64,
}

/// From which index on the meta group's deltas are wanted.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct MetaWatch {
    /// The first that is missing; 0: all of the state.
    #[prost(uint64, tag = "1")]
    pub from: u64,
}

/// What the meta group has committed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetaDelta {
    /// The index of the first record here.
    #[prost(uint64, tag = "1")]
    pub first: u64,
    /// Committed records in order, in their own encoding.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub records: Vec<Bytes>,
    /// The whole state as of before `first`, in place of what the watcher has;
    /// empty: only the records.
    #[prost(bytes = "bytes", tag = "3")]
    pub state: Bytes,
}
