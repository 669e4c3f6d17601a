//! Who votes in a partition, as records say it; and what a sole voter writes.
//!
//! ```text
//! configs u16 | configs x { voters u16 | voters x u64 } | learners u16 | learners x u64
//! ```
//!
//! Little endian, ids ascending. Raft knows ids only; addresses change with
//! every pod and come from discovery.

use crate::batch::Batch;
use crate::record::{Kind, u64_at};

/// The flag of a vote that a quorum has granted.
pub const VOTE_COMMITTED: u8 = 1;

/// The voters of a partition: one set, or two while they change.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Membership {
    /// Ids ascending in each.
    pub voters: Vec<Vec<u64>>,
    /// Nodes that follow and do not vote; ascending.
    pub learners: Vec<u64>,
}

impl Membership {
    /// Appends the body of a [`Kind::Membership`] record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let ids = |out: &mut Vec<u8>, ids: &[u64]| {
            out.extend_from_slice(&(ids.len() as u16).to_le_bytes());
            ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
        };
        out.extend_from_slice(&(self.voters.len() as u16).to_le_bytes());
        self.voters.iter().for_each(|voters| ids(out, voters));
        ids(out, &self.learners);
    }

    /// Reads such a body; none if it is not one.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let count = |bytes: &mut &[u8]| {
            let (count, rest) = bytes.split_first_chunk::<2>()?;
            *bytes = rest;
            Some(usize::from(u16::from_le_bytes(*count)))
        };
        let mut sets = Vec::new();
        let configs = count(&mut bytes)?;
        for _ in 0..=configs {
            let count = count(&mut bytes)?;
            let (ids, rest) = bytes.split_at_checked(count * 8)?;
            bytes = rest;
            sets.push(ids.chunks_exact(8).map(|id| u64_at(id, 0)).collect::<Vec<_>>());
        }
        let learners = sets.pop()?;
        bytes.is_empty().then_some(Self { voters: sets, learners })
    }
}

/// Appends the body of a [`Kind::Vote`] record.
pub(crate) fn encode_vote(out: &mut Vec<u8>, node: u64) {
    out.extend_from_slice(&node.to_le_bytes());
}

/// What openraft would write for a partition whose only voter this node is:
/// the membership at index 0, a vote for itself in term 1 that its quorum (of
/// one) granted, and the blank entry of a new leader. A log of a node alone
/// begins with it, so that the node can become one of a cluster: `initialize`
/// refuses a log with entries. The owner's first entry has index 2.
pub fn push_sole_voter(batch: &mut Batch, partition: u16, node: u64) {
    let membership = Membership { voters: vec![vec![node]], learners: Vec::new() };
    batch.push(Kind::Membership, 0, partition, 0, 0, |out| membership.encode(out));
    batch.push(Kind::Vote, VOTE_COMMITTED, partition, 1, 0, |out| encode_vote(out, node));
    batch.push(Kind::Blank, 0, partition, 1, 1, |_| {});
}

/// The same for a partition whose state up to an entry is in a snapshot: the
/// log is empty behind it, and the node has voted for itself in that term.
pub fn push_sole_voter_behind(batch: &mut Batch, partition: u16, node: u64, term: u64, index: u64) {
    batch.push(Kind::Vote, VOTE_COMMITTED, partition, term, 0, |out| encode_vote(out, node));
    batch.push(Kind::Compacted, 0, partition, term, index, |_| {});
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_reads_back_and_no_part_of_it_does() {
        let membership =
            Membership { voters: vec![vec![1, 2, u64::MAX], vec![2, 3]], learners: vec![9] };
        let mut bytes = Vec::new();
        membership.encode(&mut bytes);
        assert_eq!(Membership::decode(&bytes), Some(membership));
        for len in 0..bytes.len() {
            assert_eq!(Membership::decode(&bytes[..len]), None, "cut to {len}");
        }
        bytes.push(0);
        assert_eq!(Membership::decode(&bytes), None);
    }
}
