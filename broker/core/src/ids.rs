//! Identities: each is a type of its own.

/// Milliseconds of the shell's clock (CLOCK_BOOTTIME). The inner rings never
/// read a clock: every call that needs the time is given it.
pub type Millis = u64;

/// A shard of this node: one thread, one core.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ShardId(pub u16);

impl ShardId {
    /// As an index into a table with one entry a shard.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// A session's place, node wide. `slot` may be reused after the session's end;
/// `generation` tells the old tenant from the new one.
///
/// An ephemeral session lives in the connection table of the shard that its
/// socket was steered to; a durable one in the session table of the shard that
/// its partition is pinned to. The two tables number their slots apart, so
/// `durable` is part of the identity.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionKey {
    /// The shard that owns the session.
    pub shard: ShardId,
    /// Which of the shard's two tables `slot` counts in.
    pub durable: bool,
    /// The place in that table.
    pub slot: u32,
    /// Tells this tenant of the slot from the ones before.
    pub generation: u32,
}

/// A connection of this node. A slot is used again, a generation is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnRef {
    /// The shard that owns the socket.
    pub shard: ShardId,
    /// Its place in that shard.
    pub slot: u32,
    /// Tells this tenant of the slot from the ones before.
    pub generation: u32,
}

/// Where a record lies: bytes since the log began. Nothing lies at its start.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Position(std::num::NonZeroU64);

impl Position {
    /// `None` for the start, where no record can lie.
    pub fn of(offset: u64) -> Option<Position> {
        std::num::NonZeroU64::new(offset).map(Position)
    }

    /// As an offset.
    pub fn offset(self) -> u64 {
        self.0.get()
    }
}

/// A partition of the durable state: client ids, or topics, with the same hash.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PartitionId(pub u8);

/// Partitions a node. Fixed: the store and the cluster number their logs by it.
pub const PARTITIONS: u16 = 64;

/// Bits of a durable session's slot that count within its partition.
const SLOT_BITS: u32 = 26;

impl PartitionId {
    /// The partition of a client id or topic with this hash.
    #[inline]
    pub fn of(hash: u64) -> PartitionId {
        PartitionId((hash >> 58) as u8)
    }

    /// The shard that a partition is pinned to.
    #[inline]
    pub fn shard(self, shards: u16) -> ShardId {
        ShardId(u16::from(self.0) % shards)
    }

    /// The node-wide slot of a session in this partition.
    #[inline]
    pub(crate) fn session_slot(self, slot: u32) -> u32 {
        debug_assert!(slot < 1 << SLOT_BITS);
        u32::from(self.0) << SLOT_BITS | slot
    }

    /// The reverse of `session_slot`.
    #[inline]
    pub(crate) fn split(session_slot: u32) -> (PartitionId, u32) {
        (PartitionId((session_slot >> SLOT_BITS) as u8), session_slot & ((1 << SLOT_BITS) - 1))
    }
}
