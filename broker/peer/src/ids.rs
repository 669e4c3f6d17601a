//! Who and where, as types that cannot be mixed up.

use std::fmt;

macro_rules! ids {
    ($($(#[doc = $doc:literal])+ $name:ident($inner:ty, $width:literal);)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{:0", $width, "x}"), self.0)
            }
        }
    )+};
}

ids! {
    /// A cluster. Zero: of none yet.
    ClusterId(u128, "32");
    /// A node, as Raft and placement know it. Never used again once its log was lost.
    NodeId(u64, "16");
    /// A data directory's log.
    StoreId(u128, "32");
}

/// A Raft group: a partition, or the meta group.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Group(pub u32);

impl Group {
    /// The group of the cluster's own state.
    pub const META: Self = Self(u32::MAX);
}

/// Raft's vote: who leads, or wants to, in which term.
#[derive(Clone, Copy, Eq, Hash, PartialEq, prost::Message)]
pub struct Vote {
    /// The term.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// The candidate.
    #[prost(uint64, tag = "2")]
    pub node: u64,
    /// Whether a quorum granted it.
    #[prost(bool, tag = "3")]
    pub committed: bool,
}

/// A place in a Raft log: who wrote it, and where.
#[derive(Clone, Copy, Eq, Hash, PartialEq, prost::Message)]
pub struct LogId {
    /// The term of the leader that wrote the entry.
    #[prost(uint64, tag = "1")]
    pub term: u64,
    /// That leader.
    #[prost(uint64, tag = "2")]
    pub node: u64,
    /// The entry's index; the first is 0.
    #[prost(uint64, tag = "3")]
    pub index: u64,
}
