//! The sending end of a lane out of a partition's outbox.

use std::collections::VecDeque;

use super::{Lane, Stamp};
use crate::ids::PartitionId;
use crate::limits::OUTBOX_LANE_MAX;

/// The records of one partition's outbox for one target. `record` and `settle`
/// are called in apply, so every replica has the same; the rest is the leader's.
#[derive(Clone, Debug)]
pub struct OutboxLane {
    source: PartitionId,
    /// The index of the last record, settled or not: the next one names it.
    last: u64,
    /// Those not settled: each index and its predecessor's.
    records: VecDeque<(u64, u64)>,
    phase: Phase,
    /// Up to where the target has taken them, as far as this leader knows.
    position: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Not the leader.
    Following,
    /// The target is asked for its position; nothing is sent before.
    Asking,
    /// So many of `records` were sent.
    Sending(usize),
}

/// So many records wait that one more is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("too many messages wait in the outbox for that target")]
pub struct OutboxFull;

/// The target's position is none of this lane's: two logs have gone apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the target is at {position}, which is no record of this outbox")]
pub struct Diverged {
    /// What the target says.
    pub position: u64,
}

impl OutboxLane {
    /// An empty lane.
    pub fn new(source: PartitionId) -> OutboxLane {
        let records = VecDeque::new();
        OutboxLane { source, last: 0, records, phase: Phase::Following, position: 0 }
    }

    /// In apply: the record at this index of the source's log has a message for
    /// the target.
    ///
    /// # Errors
    /// Too many wait. The same on every replica: the record is refused.
    pub fn record(&mut self, index: u64) -> Result<(), OutboxFull> {
        if self.records.len() >= OUTBOX_LANE_MAX {
            return Err(OutboxFull);
        }
        assert!(index > self.last, "a log's indexes grow");
        self.records.push_back((index, self.last));
        self.last = index;
        Ok(())
    }

    /// In apply: the target has everything up to this index; bodies may go.
    pub fn settle(&mut self, index: u64) {
        let settled = self.records.partition_point(|(at, _)| *at <= index);
        self.records.drain(..settled);
        if let Phase::Sending(sent) = &mut self.phase {
            *sent = sent.saturating_sub(settled);
        }
    }

    /// This replica leads: the target is to be asked for its position.
    pub fn lead(&mut self) {
        self.phase = Phase::Asking;
        self.position = 0;
    }

    /// It does not any more.
    pub fn follow(&mut self) {
        self.phase = Phase::Following;
    }

    /// Whether the target has to be asked for its position (again).
    pub fn asks(&self) -> bool {
        self.phase == Phase::Asking
    }

    /// The target has told its position, asked or with a gap. Returns the index
    /// up to which to propose `settle`, if there is anything.
    ///
    /// # Errors
    /// The position is of another log than this: stop, and tell an operator.
    pub fn position(&mut self, position: u64) -> Result<Option<u64>, Diverged> {
        if self.phase == Phase::Following {
            return Ok(None);
        }
        if position < self.position {
            // A late answer.
            return Ok(None);
        }
        let taken = self.records.partition_point(|(at, _)| *at <= position);
        // The first that is not taken has to follow the position exactly.
        let follows = self.records.get(taken).is_none_or(|(_, after)| *after == position);
        if position > self.last || !follows {
            return Err(Diverged { position });
        }
        self.position = position;
        self.phase = Phase::Sending(taken);
        Ok((taken > 0).then_some(position))
    }

    /// The next record to send.
    pub fn next_to_send(&mut self) -> Option<Stamp> {
        let Phase::Sending(sent) = &mut self.phase else { return None };
        let (number, after) = *self.records.get(*sent)?;
        *sent += 1;
        Some(Stamp { lane: Lane::Outbox(self.source), number, after })
    }

    /// The target has taken, or had taken, everything up to this number. Returns
    /// the index up to which to propose `settle`.
    pub fn acked(&mut self, number: u64) -> Option<u64> {
        if self.phase == Phase::Following || number <= self.position || number > self.last {
            return None;
        }
        self.position = number;
        Some(number)
    }

    /// The target has a new leader, or an outcome is unknown: what was sent may
    /// or may not arrive, so it is asked again.
    pub fn again(&mut self) {
        if self.phase != Phase::Following {
            self.phase = Phase::Asking;
        }
    }

    /// Records that are not settled.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether all are.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// For a snapshot: the index of the last record, and those not settled with
    /// their predecessors.
    pub fn parts(&self) -> (u64, impl Iterator<Item = (u64, u64)> + '_) {
        (self.last, self.records.iter().copied())
    }

    /// From a snapshot.
    pub fn from_parts(source: PartitionId, last: u64, records: VecDeque<(u64, u64)>) -> OutboxLane {
        OutboxLane { source, last, records, phase: Phase::Following, position: 0 }
    }
}
