//! Retained messages, asked for at their partitions.

use bytes::Bytes;

use super::Status;

/// Which retained messages match.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RetainedQuery {
    /// Repeated in the answers.
    #[prost(uint64, tag = "1")]
    pub query: u64,
    /// The partition that is asked.
    #[prost(uint32, tag = "2")]
    pub partition: u32,
    /// Topic filters.
    #[prost(string, repeated, tag = "3")]
    pub filters: Vec<String>,
    /// From an answer that was not the last; empty: from the first.
    #[prost(bytes = "bytes", tag = "4")]
    pub cursor: Bytes,
    /// Bytes that one answer may have.
    #[prost(uint32, tag = "5")]
    pub bytes_max: u32,
}

/// One of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RetainedMessage {
    /// The topic.
    #[prost(string, tag = "1")]
    pub topic: String,
    /// The payload.
    #[prost(bytes = "bytes", tag = "2")]
    pub payload: Bytes,
    /// MQTT 5 properties that are forwarded, as they came.
    #[prost(bytes = "bytes", tag = "3")]
    pub properties: Bytes,
    /// 0 to 2.
    #[prost(uint32, tag = "4")]
    pub qos: u32,
    /// When it was published, in milliseconds of Unix time.
    #[prost(uint64, tag = "5")]
    pub stamp_ms: u64,
    /// Seconds from then on; none: for ever.
    #[prost(uint32, optional, tag = "6")]
    pub expiry_s: Option<u32>,
    /// The partition's log index at which it was kept.
    #[prost(uint64, tag = "7")]
    pub index: u64,
    /// The publisher's client id; for No Local.
    #[prost(string, tag = "8")]
    pub publisher: String,
}

/// These.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RetainedAnswer {
    /// From the query.
    #[prost(uint64, tag = "1")]
    pub query: u64,
    /// Done: read under ReadIndex.
    #[prost(enumeration = "Status", tag = "2")]
    pub status: i32,
    /// Some of the messages.
    #[prost(message, repeated, tag = "3")]
    pub messages: Vec<RetainedMessage>,
    /// Where to go on; empty: this is the last.
    #[prost(bytes = "bytes", tag = "4")]
    pub cursor: Bytes,
    /// The log index of which it is true.
    #[prost(uint64, tag = "5")]
    pub index: u64,
    /// Who leads the partition, if it is known and not the receiver; 0: not known.
    #[prost(uint64, tag = "6")]
    pub leader: u64,
}
