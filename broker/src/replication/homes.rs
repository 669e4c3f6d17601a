//! Who leads which partition, as nodes tell each other.
//!
//! Every node tells every other what it leads, when that changes and when a link
//! comes up. The newest term counts. An announcement is, little endian: version
//! u8 (1), how many shards the sender has u8, then for each partition: partition
//! u16, term u64, shard u16 (cluster wide).

use tidegate_core::ids::{Member, PARTITIONS, PartitionId, ShardId};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 2;
const ENTRY_BYTES: usize = 12;

/// That a shard leads a partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Home {
    pub(crate) partition: PartitionId,
    pub(crate) term: u64,
    pub(crate) shard: ShardId,
}

/// Why bytes are no announcement.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum HomesError {
    #[error("an announcement of version {0}, this node knows version {VERSION}")]
    Version(u8),
    #[error("an announcement of {0} bytes is cut")]
    Length(usize),
    #[error("partition {0}, but there are {PARTITIONS}")]
    Partition(u16),
}

/// Writes an announcement.
pub(crate) fn encode(shards: u8, homes: &[Home]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + homes.len() * ENTRY_BYTES);
    out.extend([VERSION, shards]);
    for home in homes {
        out.extend_from_slice(&u16::from(home.partition.0).to_le_bytes());
        out.extend_from_slice(&home.term.to_le_bytes());
        out.extend_from_slice(&home.shard.0.to_le_bytes());
    }
    out
}

/// Reads one: how many shards the sender has, and what it leads.
///
/// # Errors
/// See [`HomesError`].
pub(crate) fn decode(bytes: &[u8]) -> Result<(u8, Vec<Home>), HomesError> {
    let (&[version, shards], rest) =
        bytes.split_first_chunk().ok_or(HomesError::Length(bytes.len()))?;
    if version != VERSION {
        return Err(HomesError::Version(version));
    }
    let (entries, []) = rest.as_chunks::<ENTRY_BYTES>() else {
        return Err(HomesError::Length(bytes.len()));
    };
    if entries.len() > usize::from(PARTITIONS) {
        return Err(HomesError::Length(bytes.len()));
    }
    let home = |entry: &[u8; ENTRY_BYTES]| {
        let [a, b, term @ .., y, z] = entry;
        let partition = u16::from_le_bytes([*a, *b]);
        if partition >= PARTITIONS {
            return Err(HomesError::Partition(partition));
        }
        Ok(Home {
            partition: PartitionId(partition as u8),
            term: term.iter().rev().fold(0, |term, byte| term << 8 | u64::from(*byte)),
            shard: ShardId(u16::from_le_bytes([*y, *z])),
        })
    };
    Ok((shards, entries.iter().map(home).collect::<Result<_, _>>()?))
}

/// What is known here.
#[derive(Debug)]
pub(crate) struct Homes {
    /// By partition.
    known: Vec<Option<Home>>,
}

impl Homes {
    pub(crate) fn new() -> Homes {
        Homes { known: vec![None; usize::from(PARTITIONS)] }
    }

    /// Takes one in; whether it is news.
    pub(crate) fn learn(&mut self, home: Home) -> bool {
        let known = &mut self.known[usize::from(home.partition.0)];
        let news = known.is_none_or(|known| {
            home.term > known.term || (home.term == known.term && home.shard != known.shard)
        });
        if news {
            *known = Some(home);
        }
        news
    }

    /// A member is no more: the partitions that it led.
    pub(crate) fn forget(&mut self, gone: Member) -> Vec<PartitionId> {
        let led = |known: &&mut Option<Home>| known.is_some_and(|home| home.shard.member() == gone);
        // The term stays known: an older announcement is still on its way.
        let nobody = |known: &mut Option<Home>| {
            let home = known.as_mut()?;
            home.shard = ShardId::of(Member::ALONE, 0);
            Some(home.partition)
        };
        self.known.iter_mut().filter(led).filter_map(nobody).collect()
    }

    /// What this member leads.
    pub(crate) fn of(&self, member: Member) -> Vec<Home> {
        let led = |home: &Home| home.shard.member() == member;
        self.known.iter().flatten().copied().filter(led).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(partition: u8, term: u64, member: u16) -> Home {
        let shard = ShardId::of(Member(member), 1);
        Home { partition: PartitionId(partition), term, shard }
    }

    #[test]
    fn the_newest_term_counts_whatever_comes_last() {
        let mut homes = Homes::new();
        assert!(homes.learn(home(3, 7, 1)));
        assert!(!homes.learn(home(3, 6, 2)), "an old leader speaks late");
        assert!(!homes.learn(home(3, 7, 1)), "no news");
        assert!(homes.learn(home(3, 8, 2)));
        assert_eq!(homes.of(Member(2)), [home(3, 8, 2)]);
        assert_eq!(homes.forget(Member(2)), [PartitionId(3)]);
        assert!(homes.of(Member(2)).is_empty());
        assert!(!homes.learn(home(3, 7, 1)), "what was old stays old");
        assert!(homes.learn(home(3, 9, 1)));
    }

    #[test]
    fn an_announcement_is_read_as_it_was_written_and_nothing_else_is_one() {
        let homes = [home(0, 1, 1), home(63, u64::MAX, 1023)];
        let bytes = encode(4, &homes);
        assert_eq!(decode(&bytes), Ok((4, homes.to_vec())));
        assert_eq!(decode(&[1, 9]), Ok((9, Vec::new())));
        for length in (0..bytes.len()).filter(|length| length % ENTRY_BYTES != HEADER_BYTES) {
            assert_eq!(decode(&bytes[..length]), Err(HomesError::Length(length)));
        }
        assert_eq!(decode(&[2, 0]), Err(HomesError::Version(2)));
        let mut far = bytes;
        far[2] = 64;
        assert_eq!(decode(&far), Err(HomesError::Partition(64)));
    }
}
