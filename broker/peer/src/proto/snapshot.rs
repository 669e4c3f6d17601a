//! Snapshots of a group on their way to a replica, over a bulk connection.

use bytes::Bytes;

use super::Status;
use crate::ids::{LogId, Vote};

/// A snapshot is there, of this length.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotOffer {
    /// Of this connection; the sender's to choose.
    #[prost(uint64, tag = "1")]
    pub transfer: u64,
    /// Of which group.
    #[prost(uint32, tag = "2")]
    pub group: u32,
    /// By which vote the sender leads.
    #[prost(message, optional, tag = "3")]
    pub vote: Option<Vote>,
    /// The last entry that it holds.
    #[prost(message, optional, tag = "4")]
    pub last: Option<LogId>,
    /// Its name; the same name has the same bytes, so that it can be resumed.
    #[prost(string, tag = "5")]
    pub name: String,
    /// Bytes; 0: not known before its end.
    #[prost(uint64, tag = "6")]
    pub bytes: u64,
    /// The group's members, in the records' own encoding.
    #[prost(bytes = "bytes", tag = "7")]
    pub membership: Bytes,
    /// The place of the entry that made them so.
    #[prost(message, optional, tag = "8")]
    pub membership_at: Option<LogId>,
}

/// A piece of it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapshotChunk {
    /// From the offer.
    #[prost(uint64, tag = "1")]
    pub transfer: u64,
    /// Where it belongs.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// At most `SNAPSHOT_CHUNK_BYTES_MAX`.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
    /// It is the last.
    #[prost(bool, tag = "4")]
    pub last: bool,
}

/// Up to where it is held, and whether it is installed.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SnapshotAck {
    /// From the offer.
    #[prost(uint64, tag = "1")]
    pub transfer: u64,
    /// Held up to here; the sender goes on from here.
    #[prost(uint64, tag = "2")]
    pub through: u64,
    /// Done: durable and in force. Busy: go on. Refused: not wanted.
    #[prost(enumeration = "Status", tag = "3")]
    pub status: i32,
    /// The receiver's vote.
    #[prost(message, optional, tag = "4")]
    pub vote: Option<Vote>,
}
