//! The seam between a partition and what keeps its records.
//!
//! A partition's state changes only by records that came back from its log as
//! committed. Which records are written at all, and which are waited for, is
//! said by the partition ([`Hold`]); where they are written is the journal's
//! business. A cluster puts a Raft group behind the same trait.

use std::collections::VecDeque;

use crate::ids::Position;
use crate::journal::{Journal, Place};

/// Who may propose.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// This node.
    Leader,
    /// Another node.
    Follower,
}

/// What a record waits for before it is committed, besides the records in front of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hold {
    /// For nothing, and it is not written: it has no index.
    Volatile,
    /// For nothing. It is written, and may be lost with the node.
    Written,
    /// Until its place in the journal is durable.
    Durable(Place),
    /// Until that place is durable; it is not written itself.
    Behind(Place),
}

/// A record that is as durable as promised.
#[derive(Debug, Eq, PartialEq)]
pub struct Committed<R> {
    /// Its index; none: it was not written.
    pub index: Option<u64>,
    /// What was proposed.
    pub record: R,
    /// Where its bytes lie, if it was waited for.
    pub position: Option<Position>,
}

/// The index of a partition's first record: in front of it is what the only
/// voter of a Raft group writes, its membership and the entry of its first term.
pub const FIRST_INDEX: u64 = 2;

/// An ordered log of one partition.
pub trait ReplicatedLog<R> {
    /// The index that the next record that is written will have.
    fn next_index(&self) -> u64;
    /// Appends a record. It counts only once [`Self::committed`] yields it.
    fn propose(&mut self, record: R, hold: Hold);
    /// The next record that is as durable as promised, in order.
    fn committed(&mut self, journal: Option<&Journal>) -> Option<Committed<R>>;
    /// Whether records wait for their commit.
    fn is_waiting(&self) -> bool;
    /// Whether this node may propose.
    fn role(&self) -> Role;
}

/// The log of a partition that this node leads: what is proposed is committed as
/// soon as the journal has it. Of one that another leads it has the numbers alone.
#[derive(Debug)]
pub struct LocalLog<R> {
    pending: VecDeque<(Hold, Option<u64>, R)>,
    next: u64,
    role: Role,
}

impl<R> Default for LocalLog<R> {
    fn default() -> LocalLog<R> {
        LocalLog { pending: VecDeque::new(), next: FIRST_INDEX, role: Role::Leader }
    }
}

impl<R> LocalLog<R> {
    /// Goes on after a record that was read back.
    pub(crate) fn resume_after(&mut self, index: u64) {
        self.next = self.next.max(index + 1);
    }

    pub(crate) fn set_role(&mut self, role: Role) {
        self.role = role;
    }

    /// Gives up what was proposed and is not committed.
    pub(crate) fn take_pending(&mut self) -> impl Iterator<Item = R> {
        std::mem::take(&mut self.pending).into_iter().map(|(_, _, record)| record)
    }
}

impl<R> ReplicatedLog<R> for LocalLog<R> {
    fn next_index(&self) -> u64 {
        self.next
    }

    fn propose(&mut self, record: R, hold: Hold) {
        let index = match hold {
            Hold::Written | Hold::Durable(_) => Some(self.next),
            Hold::Volatile | Hold::Behind(_) => None,
        };
        self.next += u64::from(index.is_some());
        self.pending.push_back((hold, index, record));
    }

    fn committed(&mut self, journal: Option<&Journal>) -> Option<Committed<R>> {
        let mut position = None;
        match self.pending.front()?.0 {
            Hold::Volatile | Hold::Written => {}
            Hold::Durable(place) | Hold::Behind(place) => {
                if let Some(journal) = journal {
                    if !journal.is_durable(place) {
                        return None;
                    }
                    position = journal.position(place);
                }
            }
        }
        let (_, index, record) = self.pending.pop_front()?;
        Some(Committed { index, record, position })
    }

    fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    fn role(&self) -> Role {
        self.role
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(log: &mut LocalLog<&'static str>, journal: &Journal) -> Option<&'static str> {
        log.committed(Some(journal)).map(|committed| committed.record)
    }

    #[test]
    fn records_come_back_in_order_and_those_that_are_written_are_counted() {
        let mut log = LocalLog::default();
        let journal = Journal::default();
        log.propose("a", Hold::Volatile);
        assert_eq!(log.next_index(), FIRST_INDEX);
        log.propose("b", Hold::Written);
        assert_eq!(next(&mut log, &journal), Some("a"));
        log.propose("c", Hold::Volatile);
        assert_eq!(next(&mut log, &journal), Some("b"));
        assert_eq!(next(&mut log, &journal), Some("c"));
        assert_eq!((next(&mut log, &journal), log.next_index()), (None, FIRST_INDEX + 1));
    }

    #[test]
    fn what_waits_for_nothing_waits_for_those_in_front_of_it() {
        let mut log = LocalLog::default();
        let mut journal = Journal::default();
        let place = journal.append(3, log.next_index(), true, |body| body.push(7));
        log.propose("durable", Hold::Durable(place));
        log.propose("behind it", Hold::Written);
        assert_eq!(next(&mut log, &journal), None);
        let batch = journal.take().expect("a batch");
        assert_eq!(next(&mut log, &journal), None, "written is not durable");
        journal.durable(batch.number, &[4_096]);
        let first = log.committed(Some(&journal)).expect("committed");
        assert_eq!((first.record, first.position), ("durable", Position::of(4_096)));
        assert_eq!(next(&mut log, &journal), Some("behind it"));
    }
}
