//! The seam between a partition and what keeps its records.
//!
//! A partition's state changes only by records that came back from its log as
//! committed. Here the log is memory and commits at once; the store puts a
//! file behind the same trait, the cluster a Raft group. Nothing else moves.

use std::collections::VecDeque;

/// Who may propose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// This node.
    Leader,
    /// Another node.
    Follower,
}

/// An ordered log of one partition.
pub trait ReplicatedLog<R> {
    /// Appends a record; its index. It counts only once [`Self::committed`] yields it.
    fn propose(&mut self, record: R) -> u64;
    /// The next record that is as durable as promised, in order.
    fn committed(&mut self) -> Option<(u64, R)>;
    /// Whether this node may propose.
    fn role(&self) -> Role;
}

/// A log that keeps nothing: what is proposed is committed.
#[derive(Debug)]
pub struct MemoryLog<R> {
    records: VecDeque<R>,
    next: u64,
}

impl<R> Default for MemoryLog<R> {
    fn default() -> MemoryLog<R> {
        MemoryLog { records: VecDeque::new(), next: 1 }
    }
}

impl<R> ReplicatedLog<R> for MemoryLog<R> {
    fn propose(&mut self, record: R) -> u64 {
        self.records.push_back(record);
        self.next + self.records.len() as u64 - 1
    }

    fn committed(&mut self) -> Option<(u64, R)> {
        let record = self.records.pop_front()?;
        self.next += 1;
        Some((self.next - 1, record))
    }

    fn role(&self) -> Role {
        Role::Leader
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_in_order_under_the_index_they_were_given() {
        let mut log = MemoryLog::default();
        let a = log.propose("a");
        let b = log.propose("b");
        assert_eq!(log.committed(), Some((a, "a")));
        let c = log.propose("c");
        assert_eq!(log.committed(), Some((b, "b")));
        assert_eq!(log.committed(), Some((c, "c")));
        assert_eq!(log.committed(), None);
    }
}
