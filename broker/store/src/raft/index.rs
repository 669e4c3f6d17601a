//! Where a partition's entries lie.

use std::collections::VecDeque;

use crate::position::Position;
use crate::record::{CARRIED, EMPTIED, Kind, Record, RecordRef};

/// A partition's log as its records tell it: 16 bytes an entry, and the bodies
/// of those that are not durable yet.
#[derive(Clone, Debug, Default)]
pub struct PartitionIndex {
    vote: Option<Record>,
    purged: Option<(u64, u64)>,
    committed: Option<(u64, u64)>,
    /// Whether no record says so yet.
    unwritten: bool,
    /// Term and index of the last entry that it ever had, if it was given up.
    floor: Option<(u64, u64)>,
    /// The index of the first entry.
    first: u64,
    /// Term and place of each entry that is durable.
    written: VecDeque<(u64, Position)>,
    tail: VecDeque<Waiting>,
    tail_bytes: usize,
}

/// An entry whose place is not known yet.
#[derive(Clone, Debug)]
struct Waiting {
    write: u64,
    offset: u32,
    record: Record,
}

/// Where to get an entry.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// From the log.
    At(Position),
    /// Here it is.
    Tail(Record),
}

/// A record that does not follow from those before: the log of this partition
/// cannot be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("entry {found} follows where {expected} belongs")]
pub struct IndexError {
    /// The index that comes next.
    pub expected: u64,
    /// The index of the record.
    pub found: u64,
}

impl PartitionIndex {
    /// Takes in a record of the log at recovery, in order. [`Self::check`] when
    /// the last one was.
    pub fn replay(&mut self, at: Position, record: &RecordRef<'_>) -> Result<(), IndexError> {
        match record.kind {
            Kind::Entry | Kind::Membership | Kind::Blank => {
                if self.purged.is_some_and(|(_, purged)| record.index <= purged) {
                    return Ok(());
                }
                // Those in front of it may be gone with their segment, and what
                // says that they are not needed comes further behind.
                if self.len() == 0 {
                    self.first = record.index;
                }
                self.expect(record.index)?;
                self.written.push_back((record.term, at));
            }
            Kind::Vote => self.vote = Some(record.to_record()),
            Kind::Truncate => self.truncate(record.index),
            Kind::Compacted if record.flags & EMPTIED != 0 => {
                if record.flags & CARRIED == 0 {
                    self.empty();
                }
                let had = Some((record.term, record.index)).filter(|had| *had != (0, 0));
                self.floor = self.floor.max(had);
            }
            Kind::Compacted => self.purge(record.term, record.index),
            Kind::Committed => self.committed = Some((record.term, record.index)),
            Kind::Snapshot => {}
        }
        Ok(())
    }

    /// Whether all entries are there behind what was purged, when the whole log
    /// was taken in.
    ///
    /// # Errors
    /// The first entries are missing, and nothing says that they may.
    pub fn check(&self) -> Result<(), IndexError> {
        match self.purged {
            Some((_, purged)) if self.len() > 0 && self.first != purged + 1 => {
                Err(IndexError { expected: purged + 1, found: self.first })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes in an entry that was handed to the writer as part of `write`.
    pub(super) fn push(
        &mut self,
        write: u64,
        offset: u32,
        record: Record,
    ) -> Result<(), IndexError> {
        self.expect(record.index)?;
        self.tail_bytes += record.body.len();
        self.tail.push_back(Waiting { write, offset, record });
        Ok(())
    }

    /// The writer has made a write durable: its entries leave the memory.
    pub(super) fn flushed(&mut self, write: u64, base: Position) {
        while let Some(waiting) = self.tail.pop_front_if(|waiting| waiting.write <= write) {
            self.tail_bytes -= waiting.record.body.len();
            let at = base.after(waiting.offset.into());
            self.written.push_back((waiting.record.term, at));
        }
    }

    /// Forgets the entries from an index on.
    pub(super) fn truncate(&mut self, index: u64) {
        let keep = index.saturating_sub(self.first) as usize;
        while self.tail.len() + self.written.len() > keep
            && let Some(waiting) = self.tail.pop_back()
        {
            self.tail_bytes -= waiting.record.body.len();
        }
        self.written.truncate(keep);
    }

    /// Forgets the entries up to an index. One beyond the last empties the log.
    pub(super) fn purge(&mut self, term: u64, index: u64) {
        if self.purged.is_some_and(|(_, purged)| index <= purged) {
            return;
        }
        self.purged = Some((term, index));
        while self.len() > 0 && self.first <= index {
            match self.written.pop_front() {
                Some(_) => {}
                None => {
                    let waiting = self.tail.pop_front().expect("the log is not empty");
                    self.tail_bytes -= waiting.record.body.len();
                }
            }
            self.first += 1;
        }
        if self.len() == 0 {
            self.first = index + 1;
        }
    }

    /// Forgets all but the vote and the floor, as if the partition never had an
    /// entry here.
    pub(super) fn empty(&mut self) {
        let floor = self.floor.max(self.end());
        *self = Self { vote: self.vote.take(), floor, ..Self::default() };
    }

    pub(super) fn set_vote(&mut self, vote: Record) {
        self.vote = Some(vote);
    }

    pub(super) fn set_committed(&mut self, committed: Option<(u64, u64)>) {
        self.unwritten |= self.committed != committed;
        self.committed = committed;
    }

    /// What [`PartitionIndex::committed`] is, if no record says so yet; from now
    /// on one does.
    pub(super) fn take_unwritten(&mut self) -> Option<(u64, u64)> {
        std::mem::take(&mut self.unwritten).then_some(self.committed).flatten()
    }

    /// The newest vote.
    pub fn vote(&self) -> Option<&Record> {
        self.vote.as_ref()
    }

    /// Term and index of the last entry that is gone.
    pub fn purged(&self) -> Option<(u64, u64)> {
        self.purged
    }

    /// Term and index up to which entries were last known to be committed.
    pub fn committed(&self) -> Option<(u64, u64)> {
        self.committed
    }

    /// Term and index of the last entry.
    pub fn last(&self) -> Option<(u64, u64)> {
        let term = match (self.tail.back(), self.written.back()) {
            (Some(waiting), _) => waiting.record.term,
            (None, Some((term, _))) => *term,
            (None, None) => return None,
        };
        Some((term, self.first + self.len() as u64 - 1))
    }

    /// Term and index of the last entry, or of the last one that was purged.
    fn end(&self) -> Option<(u64, u64)> {
        self.last().or(self.purged)
    }

    /// Term and index of the last entry that the partition had here before it was
    /// given up. It may have confirmed it: as long as a candidate lacks it, this
    /// node must not support it, itself included.
    pub fn floor(&self) -> Option<(u64, u64)> {
        self.floor
    }

    /// The indexes of the entries.
    pub fn range(&self) -> std::ops::Range<u64> {
        self.first..self.first + self.len() as u64
    }

    /// Where to get an entry of [`Self::range`].
    pub fn place(&self, index: u64) -> Option<Place> {
        let at = usize::try_from(index.checked_sub(self.first)?).ok()?;
        match self.written.get(at) {
            Some((_, position)) => Some(Place::At(*position)),
            None => {
                let waiting = self.tail.get(at - self.written.len())?;
                Some(Place::Tail(waiting.record.clone()))
            }
        }
    }

    /// The oldest position that an entry lies at: what is before, this
    /// partition no longer needs. Everything is needed while entries come again
    /// that were given up once, as the floor is told by nothing else.
    pub fn oldest(&self) -> Option<Position> {
        if self.end().is_some() && self.floor > self.end() {
            return Some(Position(0));
        }
        self.written.front().map(|(_, at)| *at)
    }

    /// Bytes of the bodies that are not durable yet.
    pub fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    fn len(&self) -> usize {
        self.written.len() + self.tail.len()
    }

    /// A log that was never written, or purged to nothing known, begins anywhere.
    fn expect(&mut self, index: u64) -> Result<(), IndexError> {
        if self.len() == 0 && self.purged.is_none() {
            self.first = index;
        }
        let expected = self.first + self.len() as u64;
        if index == expected { Ok(()) } else { Err(IndexError { expected, found: index }) }
    }
}
