//! Node leases, from the meta leader.

/// What the cluster takes a node for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, prost::Enumeration)]
#[repr(i32)]
pub enum NodeState {
    /// Not said, or in a way that this version does not know.
    Unspecified = 0,
    /// Registered.
    Joining = 1,
    /// Getting routes and replicas.
    Syncing = 2,
    /// In service.
    Serving = 3,
    /// Giving up what it has.
    Draining = 4,
    /// Gone in order.
    Left = 5,
    /// Its lease ran out.
    Down = 6,
}

/// A node asks to be taken as alive.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LeaseRequest {
    /// The node.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Its process.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    /// Its clock when it sent this: the lease counts from then.
    #[prost(uint64, tag = "3")]
    pub sent_ns: u64,
    /// What it takes itself for.
    #[prost(enumeration = "NodeState", tag = "4")]
    pub state: i32,
    /// Partitions of which it leads the group.
    #[prost(uint32, tag = "5")]
    pub leads: u32,
    /// Sessions that are connected to it.
    #[prost(uint64, tag = "6")]
    pub sessions: u64,
    /// The highest cluster feature level that it supports.
    #[prost(uint32, tag = "7")]
    pub feature_level_max: u32,
}

/// It is, until then.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LeaseGrant {
    /// The node.
    #[prost(uint64, tag = "1")]
    pub node: u64,
    /// Its process.
    #[prost(uint64, tag = "2")]
    pub incarnation: u64,
    /// From the request.
    #[prost(uint64, tag = "3")]
    pub sent_ns: u64,
    /// How long from then on; 0: refused.
    #[prost(uint32, tag = "4")]
    pub lease_ms: u32,
    /// The meta leader's term.
    #[prost(uint64, tag = "5")]
    pub term: u64,
    /// What the cluster takes it for.
    #[prost(enumeration = "NodeState", tag = "6")]
    pub state: i32,
    /// The cluster's feature level.
    #[prost(uint32, tag = "7")]
    pub feature_level: u32,
    /// The meta group's commit index, so that a watcher sees that it lags.
    #[prost(uint64, tag = "8")]
    pub meta_index: u64,
}
