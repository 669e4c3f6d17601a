//! Elections. Appends are laid out by hand.

use crate::ids::{LogId, Vote};

/// A candidate asks for a vote.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct VoteRequest {
    /// Of which group.
    #[prost(uint32, tag = "1")]
    pub group: u32,
    /// Repeated in the reply.
    #[prost(uint64, tag = "2")]
    pub request: u64,
    /// What it wants.
    #[prost(message, optional, tag = "3")]
    pub vote: Option<Vote>,
    /// The end of its log; none: empty.
    #[prost(message, optional, tag = "4")]
    pub last: Option<LogId>,
    /// It only asks whether it would get it.
    #[prost(bool, tag = "5")]
    pub pre: bool,
    /// Its leader told it to: leases do not hold it up.
    #[prost(bool, tag = "6")]
    pub transfer: bool,
}

/// The answer.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct VoteReply {
    /// Of which group.
    #[prost(uint32, tag = "1")]
    pub group: u32,
    /// From the request.
    #[prost(uint64, tag = "2")]
    pub request: u64,
    /// The voter's vote, after the answer.
    #[prost(message, optional, tag = "3")]
    pub vote: Option<Vote>,
    /// The end of the voter's log; none: empty.
    #[prost(message, optional, tag = "4")]
    pub last: Option<LogId>,
    /// Whether it is granted, or would be.
    #[prost(bool, tag = "5")]
    pub granted: bool,
}

/// A leader asks the receiver to succeed it at once.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct TransferLeader {
    /// Of which group.
    #[prost(uint32, tag = "1")]
    pub group: u32,
    /// By which vote it led.
    #[prost(message, optional, tag = "2")]
    pub from: Option<Vote>,
    /// Who is to lead.
    #[prost(uint64, tag = "3")]
    pub to: u64,
    /// What the successor must have.
    #[prost(message, optional, tag = "4")]
    pub last: Option<LogId>,
}
