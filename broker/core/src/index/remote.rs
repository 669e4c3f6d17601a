//! Others that want messages: nodes, and partitions that are led elsewhere.
//!
//! To the index each is a session among others, so that the route cache and its
//! versions see them come and go. A message goes to each once, whatever number
//! of its filters match, and is matched there again.

use super::subscriber::Options;
use crate::ids::{Member, PartitionId, SessionKey, ShardId};

/// One of them.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Remote {
    /// The sessions of a node that end with their connection.
    Node(Member),
    /// The durable sessions of a partition, whoever leads it.
    Partition(PartitionId),
}

/// The shard in the keys of partitions: of the one member number that no node has.
pub(super) const NOWHERE: ShardId = ShardId(u16::MAX);
/// No connection has it.
const SLOT: u32 = u32::MAX;
/// Within its partition, no session has it.
const PARTITION_SLOT: u32 = (1 << 26) - 1;
/// No tenant has it.
pub(super) const GENERATION: u32 = u32::MAX;

impl Remote {
    /// What it asks for: everything. What its sessions ask for is known there.
    pub(crate) const OPTIONS: Options = Options::new(2, false, true);

    /// As a session of the index.
    pub(crate) fn key(self) -> SessionKey {
        let generation = GENERATION;
        match self {
            Remote::Node(member) => {
                SessionKey { shard: ShardId::of(member, 0), durable: false, slot: SLOT, generation }
            }
            Remote::Partition(partition) => {
                let slot = partition.session_slot(PARTITION_SLOT);
                SessionKey { shard: NOWHERE, durable: true, slot, generation }
            }
        }
    }

    /// The reverse of `key`; none: a session of this node.
    #[inline]
    pub(crate) fn of(key: SessionKey) -> Option<Remote> {
        if key.generation != GENERATION {
            return None;
        }
        match key.durable {
            true if key.shard == NOWHERE => Some(Remote::Partition(PartitionId::split(key.slot).0)),
            false if key.slot == SLOT => Some(Remote::Node(key.shard.member())),
            true | false => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_is_told_from_every_session() {
        for remote in [
            Remote::Node(Member(1)),
            Remote::Node(Member(1_022)),
            Remote::Partition(PartitionId(0)),
            Remote::Partition(PartitionId(63)),
        ] {
            let key = remote.key();
            assert_eq!(Remote::of(key), Some(remote));
            assert_eq!(Remote::of(SessionKey { generation: 7, ..key }), None);
        }
    }
}
