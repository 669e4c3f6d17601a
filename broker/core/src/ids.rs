//! Identities: each is a type of its own.

/// Milliseconds of the shell's clock (CLOCK_BOOTTIME). The inner rings never
/// read a clock: every call that needs the time is given it.
pub type Millis = u64;

/// An incarnation of a node in a cluster: 1 to 1,023, given at its registration.
/// 0: this node is alone.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Member(pub u16);

impl Member {
    /// The one of a node that is in no cluster.
    pub const ALONE: Member = Member(0);
    /// The highest.
    pub const MAX: Member = Member((1 << (16 - SHARD_BITS)) - 1);
}

/// Bits of a [`ShardId`] that count within its node.
const SHARD_BITS: u32 = 6;

/// A shard: one thread, one core. The high 10 bits say of which member, so that
/// an address means the same at every node; of a node that is alone they are 0.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The highest number within a node.
    pub(crate) const LAST: u16 = (1 << SHARD_BITS) - 1;

    /// The shard with this number of a member.
    #[inline]
    pub fn of(member: Member, shard: u16) -> ShardId {
        debug_assert!(member <= Member::MAX && shard < 1 << SHARD_BITS);
        ShardId(member.0 << SHARD_BITS | shard)
    }

    /// Whose shard it is.
    #[inline]
    pub fn member(self) -> Member {
        Member(self.0 >> SHARD_BITS)
    }

    /// As an index into a table with one entry a shard of its member.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0 & ((1 << SHARD_BITS) - 1))
    }
}

/// A session's place, cluster wide. `slot` may be reused after the session's end;
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

/// A connection. A slot is used again, a generation is not.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
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

impl ConnRef {
    /// No connection.
    pub(crate) const NOBODY: ConnRef = ConnRef { shard: ShardId(0), slot: u32::MAX, generation: 0 };
}

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
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
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

    /// The shard that a partition is pinned to, on a node with so many.
    #[inline]
    pub fn shard(self, member: Member, shards: u16) -> ShardId {
        ShardId::of(member, u16::from(self.0) % shards)
    }

    /// Its bit in a set of partitions.
    #[inline]
    pub fn bit(self) -> u64 {
        1 << (self.0 & 63)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_its_members_and_a_number() {
        let last = ShardId::of(Member::MAX, 63);
        assert_eq!((last, last.member(), last.index()), (ShardId(u16::MAX), Member(1_023), 63));
        let alone = ShardId::of(Member::ALONE, 5);
        assert_eq!((alone, alone.member(), alone.index()), (ShardId(5), Member::ALONE, 5));
    }
}
