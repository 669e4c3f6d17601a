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
