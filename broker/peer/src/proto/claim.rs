//! Claims: which connection speaks for a client id.

use bytes::Bytes;

use super::Status;

/// What is to be published for a client that is gone.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Will {
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
    /// Whether it is retained.
    #[prost(bool, tag = "5")]
    pub retain: bool,
    /// Seconds.
    #[prost(uint32, tag = "6")]
    pub delay_s: u32,
    /// Seconds; none: for ever.
    #[prost(uint32, optional, tag = "7")]
    pub expiry_s: Option<u32>,
}

/// A client id for a connection.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Claim {
    /// Repeated in the reply.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// In which partition it is.
    #[prost(uint32, tag = "2")]
    pub partition: u32,
    /// The client id.
    #[prost(string, tag = "3")]
    pub client_id: String,
    /// The connection's node.
    #[prost(uint64, tag = "4")]
    pub node: u64,
    /// Its process.
    #[prost(uint64, tag = "5")]
    pub incarnation: u64,
    /// The session begins anew.
    #[prost(bool, tag = "6")]
    pub clean_start: bool,
    /// Seconds that the session outlives its connection.
    #[prost(uint32, tag = "7")]
    pub session_expiry_s: u32,
    /// The will.
    #[prost(message, optional, tag = "8")]
    pub will: Option<Will>,
    /// Messages that the connection takes before it acknowledges.
    #[prost(uint32, tag = "9")]
    pub receive_maximum: u32,
}

/// Whether it got it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ClaimReply {
    /// From the claim.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// Done: it is the connection's.
    #[prost(enumeration = "Status", tag = "2")]
    pub status: i32,
    /// The claim's, in every later operation.
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    /// The session, as its partition numbers it.
    #[prost(uint64, tag = "4")]
    pub session: u64,
    /// Whether there was one.
    #[prost(bool, tag = "5")]
    pub session_present: bool,
    /// Who leads the partition, if it is known and not the receiver; 0: not known.
    #[prost(uint64, tag = "6")]
    pub leader: u64,
}

/// Another has it now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Evict {
    /// In which partition the client id is.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// The session.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// The claim that is over.
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    /// The client id, for a node that lost its tables.
    #[prost(string, tag = "4")]
    pub client_id: String,
    /// MQTT's reason code for the client; 0x8E when it connected elsewhere.
    #[prost(uint32, tag = "5")]
    pub reason: u32,
}

/// That one is gone.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Evicted {
    /// From the Evict.
    #[prost(uint32, tag = "1")]
    pub partition: u32,
    /// From the Evict.
    #[prost(uint64, tag = "2")]
    pub session: u64,
    /// From the Evict.
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    /// The node that held it.
    #[prost(uint64, tag = "4")]
    pub node: u64,
    /// Its process.
    #[prost(uint64, tag = "5")]
    pub incarnation: u64,
}
