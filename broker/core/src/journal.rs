//! What a shard wants written, batch by batch.
//!
//! The records of one turn go to the store together. When the store says that
//! a batch is durable, the partitions go on with what waited for it. The bytes
//! are the records' bodies; how they lie on the disk is the store's business.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::Position;
use crate::limits::JOURNAL_BYTES_MAX;

/// A record's place: its batch, and its number within.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    batch: u64,
    nth: u32,
}

impl Place {
    /// Stands for a whole batch, see [`Journal::barrier`].
    const WHOLE: u32 = u32::MAX;
}

/// One record of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Whose it is.
    pub partition: u8,
    /// Its number in that partition's log.
    pub index: u64,
    /// Where its body ends in the batch; it begins where the one before ends.
    pub end: u32,
    /// Whether it is a piece of the partition's state, as of `index`.
    pub state: bool,
}

/// The state of a partition, written in the middle of its records.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Written {
    /// Whose.
    pub partition: u8,
    /// The last record that is in it.
    pub index: u64,
    /// The number of its first piece in the batch.
    pub first: u32,
    /// Bytes of messages further back in the log that it refers to, by
    /// [`LIVE_BUCKET_BYTES`] of the log.
    pub live: BTreeMap<u64, u64>,
    /// Its own bytes.
    pub bytes: u64,
}

/// How finely what is still needed of the log is told.
pub const LIVE_BUCKET_BYTES: u64 = 1 << 20;

/// The records of one turn.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Batch {
    /// Counts the batches of this shard, from 1.
    pub number: u64,
    /// In the order in which they have to be written.
    pub entries: Vec<Entry>,
    /// Their bodies.
    pub bodies: Vec<u8>,
    /// Whether somebody waits for it. One that is not may lie for a while.
    pub urgent: bool,
    /// States that are in it.
    pub written: Vec<Written>,
}

impl Batch {
    /// The records with their bodies.
    pub fn records(&self) -> impl Iterator<Item = (Entry, &[u8])> {
        let mut start = 0;
        self.entries.iter().map(move |entry| {
            let body = &self.bodies[start..entry.end as usize];
            start = entry.end as usize;
            (*entry, body)
        })
    }
}

/// The batches of one shard: the open one, and those on their way.
#[derive(Debug)]
pub struct Journal {
    open: Batch,
    /// The last batch that is durable, with its positions.
    durable: u64,
    positions: Vec<u64>,
    /// Bytes of the batches that were taken and are not durable.
    taken: VecDeque<usize>,
    bytes: usize,
}

impl Default for Journal {
    fn default() -> Journal {
        let open = Batch { number: 1, ..Batch::default() };
        Journal { open, durable: 0, positions: Vec::new(), taken: VecDeque::new(), bytes: 0 }
    }
}

impl Journal {
    /// Appends a record. `urgent`: somebody waits for it.
    pub(crate) fn append(
        &mut self,
        partition: u8,
        index: u64,
        urgent: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Place {
        let open = &mut self.open;
        let place = Place { batch: open.number, nth: open.entries.len() as u32 };
        let start = open.bodies.len();
        write(&mut open.bodies);
        self.bytes += open.bodies.len() - start;
        let end = open.bodies.len() as u32;
        open.entries.push(Entry { partition, index, end, state: false });
        open.urgent |= urgent;
        place
    }

    /// Appends a piece of a partition's state.
    pub(crate) fn append_state(&mut self, partition: u8, index: u64, body: &[u8]) {
        let open = &mut self.open;
        open.bodies.extend_from_slice(body);
        self.bytes += body.len();
        let end = open.bodies.len() as u32;
        open.entries.push(Entry { partition, index, end, state: true });
    }

    /// The number that the next record has in its batch.
    pub(crate) fn next_in_batch(&self) -> u32 {
        self.open.entries.len() as u32
    }

    /// A state is complete.
    pub(crate) fn state_written(&mut self, written: Written) {
        self.open.written.push(written);
        self.open.urgent = true;
    }

    /// The place of all that was written until now; none: it is durable.
    pub(crate) fn barrier(&mut self) -> Option<Place> {
        let batch = match self.open.entries.is_empty() {
            true => self.open.number - 1,
            false => {
                self.open.urgent = true;
                self.open.number
            }
        };
        (batch > self.durable).then_some(Place { batch, nth: Place::WHOLE })
    }

    /// The open batch, if it has anything.
    pub(crate) fn take(&mut self) -> Option<Batch> {
        if self.open.entries.is_empty() {
            return None;
        }
        let next = Batch { number: self.open.number + 1, ..Batch::default() };
        self.taken.push_back(self.open.bodies.len());
        Some(std::mem::replace(&mut self.open, next))
    }

    /// Batch `number` is durable; its records lie at these positions. Batches
    /// are told in their order.
    pub(crate) fn durable(&mut self, number: u64, positions: &[u64]) {
        while self.durable < number {
            self.durable += 1;
            self.bytes -= self.taken.pop_front().unwrap_or(0);
        }
        self.positions.clear();
        self.positions.extend_from_slice(positions);
    }

    pub(crate) fn is_durable(&self, place: Place) -> bool {
        place.batch <= self.durable
    }

    /// Where a record of the batch that became durable last lies.
    pub(crate) fn position(&self, place: Place) -> Option<Position> {
        let nth = (place.batch == self.durable).then_some(place.nth as usize)?;
        self.positions.get(nth).copied().and_then(Position::of)
    }

    /// Whether the open batch has records, and somebody waits for them.
    pub(crate) fn is_open(&self) -> Option<bool> {
        (!self.open.entries.is_empty()).then_some(self.open.urgent)
    }

    /// Whether more is on its way than the store keeps up with.
    pub(crate) fn is_over(&self) -> bool {
        self.bytes >= JOURNAL_BYTES_MAX
    }

    pub(crate) fn is_relieved(&self) -> bool {
        self.bytes < JOURNAL_BYTES_MAX / 2
    }

    /// Bytes that are not durable.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_is_the_last_thing_written() {
        let mut journal = Journal::default();
        assert_eq!(journal.barrier(), None);
        journal.append(0, 1, false, |body| body.push(1));
        let open = journal.barrier().expect("something is open");
        assert_eq!(journal.is_open(), Some(true), "who asks waits for it");
        journal.take();
        let taken = journal.barrier().expect("something is on its way");
        assert_eq!(open, taken);
        journal.durable(1, &[64]);
        assert!(journal.is_durable(open));
        assert_eq!((journal.barrier(), journal.position(open)), (None, None));
    }

    #[test]
    fn a_batch_hands_out_each_body() {
        let mut journal = Journal::default();
        journal.append(9, 1, true, |body| body.extend_from_slice(b"one"));
        journal.append(8, 5, true, |_| ());
        journal.append(9, 2, true, |body| body.extend_from_slice(b"three"));
        assert_eq!(journal.bytes(), 8);
        let batch = journal.take().expect("a batch");
        let records: Vec<_> = batch.records().map(|(e, b)| (e.partition, e.index, b)).collect();
        assert_eq!(records, [(9, 1, &b"one"[..]), (8, 5, b""), (9, 2, b"three")]);
        assert_eq!(journal.take(), None);
    }
}
