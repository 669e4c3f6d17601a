//! Which of a publisher's messages take the way through the outbox.
//!
//! A message goes there when its target is slow, or when what the node knows of
//! the routes is not certain. What the publisher sends after it to the same
//! partition takes the same way until that one has arrived; otherwise it would
//! overtake (ORD-1).

use std::collections::BTreeMap;

use crate::ids::PartitionId;

/// The detours of one publisher. At most one entry a partition.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Detour {
    /// The index of its last outbox record for each.
    last: BTreeMap<PartitionId, u64>,
    /// The index of its last record whose targets are not known yet.
    unmatched: Option<u64>,
}

impl Detour {
    /// Whether the next message for a partition goes through the outbox.
    pub fn is_on(&self, to: PartitionId) -> bool {
        self.unmatched.is_some() || self.last.contains_key(&to)
    }

    /// Whether any goes through it.
    pub fn is_any(&self) -> bool {
        self.unmatched.is_some() || !self.last.is_empty()
    }

    /// A message for these partitions is in the outbox at this index.
    pub fn took(&mut self, index: u64, to: impl Iterator<Item = PartitionId>) {
        self.last.extend(to.map(|partition| (partition, index)));
    }

    /// A message is in the outbox at this index whose targets the outbox's leader
    /// has to find: until it has, everything follows it.
    pub fn took_unmatched(&mut self, index: u64) {
        self.unmatched = Some(index);
    }

    /// The outbox's leader has found the targets of the record at this index.
    pub fn matched(&mut self, index: u64, to: impl Iterator<Item = PartitionId>) {
        for partition in to {
            let last = self.last.entry(partition).or_insert(index);
            *last = (*last).max(index);
        }
        if self.unmatched.is_some_and(|last| last <= index) {
            self.unmatched = None;
        }
    }

    /// Everything in the outbox for a partition has arrived up to this index.
    pub fn arrived(&mut self, to: PartitionId, index: u64) {
        if self.last.get(&to).is_some_and(|last| *last <= index) {
            self.last.remove(&to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(1);
    const Q: PartitionId = PartitionId(2);

    #[test]
    fn what_follows_a_message_in_the_outbox_takes_its_way_until_it_has_arrived() {
        let mut detour = Detour::default();
        assert!(!detour.is_on(P));
        detour.took(5, [P].into_iter());
        assert!(detour.is_on(P) && !detour.is_on(Q));
        detour.took(9, [P].into_iter());
        detour.arrived(P, 5);
        assert!(detour.is_on(P), "the second is still on its way");
        detour.arrived(P, 9);
        assert!(!detour.is_any());
    }

    #[test]
    fn while_its_targets_are_not_known_everything_follows() {
        let mut detour = Detour::default();
        detour.took_unmatched(5);
        assert!(detour.is_on(P) && detour.is_on(Q));
        detour.matched(5, [Q].into_iter());
        assert!(!detour.is_on(P) && detour.is_on(Q));
        detour.took_unmatched(7);
        detour.matched(6, [P].into_iter());
        assert!(detour.is_on(PartitionId(9)), "that was an earlier one");
    }
}
