//! Routes: which filters lead to a node, and to its partitions.
//!
//! Each node numbers its own changes. A peer that has all of them, and a lease,
//! may acknowledge publishes.

/// One filter that leads there, or no longer does.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RouteChange {
    /// The topic filter.
    #[prost(string, tag = "1")]
    pub filter: String,
    /// To which partition; none: to the node itself.
    #[prost(uint32, optional, tag = "2")]
    pub partition: Option<u32>,
    /// The partition's log index at which it became so; the highest counts.
    #[prost(uint64, tag = "3")]
    pub version: u64,
    /// It no longer does.
    #[prost(bool, tag = "4")]
    pub removed: bool,
    /// The share group; empty: no shared subscription.
    #[prost(string, tag = "5")]
    pub share: String,
}

/// All routes of a node, in parts in the order of their filters.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RouteSnapshot {
    /// The node's process.
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
    /// The number of changes that it holds; increments go on behind it.
    #[prost(uint64, tag = "2")]
    pub through: u64,
    /// Some of them.
    #[prost(message, repeated, tag = "3")]
    pub changes: Vec<RouteChange>,
    /// Where this part begins: behind that filter. Empty: at the first.
    #[prost(string, tag = "4")]
    pub after: String,
    /// It is the last part.
    #[prost(bool, tag = "5")]
    pub last: bool,
}

/// What changed since.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RouteIncrement {
    /// The node's process.
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
    /// The number of the first change here.
    #[prost(uint64, tag = "2")]
    pub first: u64,
    /// The changes, numbered from there on.
    #[prost(message, repeated, tag = "3")]
    pub changes: Vec<RouteChange>,
}

/// Up to where they are in force at the receiver.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RouteAck {
    /// From the changes.
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
    /// All up to this number.
    #[prost(uint64, tag = "2")]
    pub through: u64,
    /// The holder's clock: the lease that this is answered with counts from then.
    #[prost(uint64, tag = "3")]
    pub sent_ns: u64,
}

/// The newest change's number, which renews the lease.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct RoutePing {
    /// The node's process.
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
    /// The newest change's number.
    #[prost(uint64, tag = "2")]
    pub newest: u64,
    /// From the RouteAck that this answers; 0: it answers none and renews nothing.
    #[prost(uint64, tag = "3")]
    pub sent_ns: u64,
    /// How long from then on; 0: no renewal, an increment is not acknowledged.
    #[prost(uint32, tag = "4")]
    pub lease_ms: u32,
}

/// From which number on they are wanted.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RouteResume {
    /// Whose numbers; 0, or one that is over: all are wanted.
    #[prost(uint64, tag = "1")]
    pub incarnation: u64,
    /// The first that is missing.
    #[prost(uint64, tag = "2")]
    pub from: u64,
    /// The asker's clock.
    #[prost(uint64, tag = "3")]
    pub sent_ns: u64,
}
