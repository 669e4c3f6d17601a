//! Emptying a node.

/// A node is to be emptied, or no longer.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Drain {
    /// The node.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Its process.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    /// To be emptied; else: to serve again.
    #[prost(bool, tag = "3")]
    pub on: bool,
    /// Reconnects that the rest of the cluster takes from it.
    #[prost(uint32, tag = "4")]
    pub reconnects_per_second: u32,
}

/// How much is left.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct DrainProgress {
    /// The node.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Its process.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    /// Sessions that are connected.
    #[prost(uint64, tag = "3")]
    pub sessions: u64,
    /// Groups that it leads.
    #[prost(uint32, tag = "4")]
    pub leads: u32,
    /// Replicas that have no other place yet.
    #[prost(uint32, tag = "5")]
    pub replicas: u32,
}
