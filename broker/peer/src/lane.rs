//! Lanes: what is ordered and credited together on one connection.
//!
//! Each direction has its own. A lane is its class and a number within it;
//! it begins with its first frame and is not announced.

use std::fmt;

/// A lane of one direction of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Lane(u32);

/// What a lane carries; the upper eight bits of its number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum LaneClass {
    /// Lane 0 alone: handshake, heartbeats, credit. It has no credit, and its
    /// messages are never split.
    Link = 0,
    /// Raft of the group with that number.
    Raft = 1,
    /// Messages on their way into the partition with that number.
    Enqueue = 2,
    /// Messages on their way from it to clients, and their acknowledgements.
    Deliver = 3,
    /// Claims, commands, queries: what is asked of that partition.
    Ask = 4,
    /// Routes, of all partitions.
    Routes = 5,
    /// The transfer with that number.
    Bulk = 6,
    /// Calls about the group with that number.
    Call = 7,
    /// Their answers: a lane of their own, so that a call is answered however
    /// many other calls wait.
    Answer = 8,
    /// Mail of a class; see `MailClass::lane`.
    Mail = 9,
}

impl Lane {
    /// The connection itself.
    pub const LINK: Self = Self(0);
    /// In grants alone: all lanes together.
    pub const ALL: Self = Self(u32::MAX);
    const NUMBER_MAX: u32 = 0x00FF_FFFF;

    /// A lane of a class. The upper eight bits of `number` are dropped: groups
    /// and partitions have fewer, and the meta group is `0xFFFFFF` here.
    pub const fn new(class: LaneClass, number: u32) -> Self {
        Self((class as u32) << 24 | number & Self::NUMBER_MAX)
    }

    /// As in a header; any number is a lane, whatever its class.
    pub const fn from_u32(number: u32) -> Self {
        Self(number)
    }

    /// As in a header.
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane {}:{}", self.0 >> 24, self.0 & Self::NUMBER_MAX)
    }
}
