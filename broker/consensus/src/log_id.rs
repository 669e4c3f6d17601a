//! What a group and a place in its log are called.

use std::fmt;

/// A Raft group: a partition (0 to 255), or [`META`].
pub type GroupId = u16;

/// The group of the cluster's own state.
pub const META: GroupId = 0xFFFF;

/// A place in a group's log. A term has one leader, so term and index say it
/// all: two logs that have the same `LogId` agree on everything up to there.
/// Ordered as Raft does: by term, then by index.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LogId {
    /// The term in which it was written.
    pub term: u64,
    /// Its place; the first is 0.
    pub index: u64,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.term, self.index)
    }
}
