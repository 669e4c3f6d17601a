//! Checkpoints: from time to time every partition writes its state into the
//! log, one after the other. A start reads from the oldest of these states, and
//! files of the log that lie before it and hold no message that a queue still
//! needs can go. If a third of what is left is not needed, the queues' messages in
//! the oldest files are written again, so that those can go with the next round:
//! twice as many bytes as came since the last one. What is needed lies in front
//! of what is not, so that in the long run one byte of it has to be moved for
//! each byte that comes to keep a log under twice what lives.
//!
//! The writer's thread decides; the shards do the work within their turns.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tidegate_core::ids::{PARTITIONS, PartitionId};
use tidegate_core::journal::{LIVE_BUCKET_BYTES, Written};
use tidegate_core::room::Room;
use tidegate_store::{
    Batch, FileDisk, Kind, Log, ManifestError, PartitionPoint, Position, RemoveError,
};
use tracing::{debug, info};

use super::Store;
use super::submission::TERM;
use super::writer::die;
use crate::shard::Shared;
use crate::shard::mailbox::Order;

/// A round begins when the log has grown by so many segments,
const GROWN_SEGMENTS: u64 = 2;
/// and by so many times what the states took in the last round: they are then
/// at most an eighth of what is written.
const GROWN_STATES: u64 = 8;
/// Sooner where much may be given back, but not before so long.
const PAUSE: Duration = Duration::from_secs(30);
/// What a round writes at most a partition, besides its state.
const FRAME_BYTES: u64 = 128;
/// Bytes that are written again for each byte that came since the last round,
const MOVED_FOR_ONE: u64 = 2;
/// but in one round not more than this part of what is needed: until the next
/// round they are there twice.
const MOVED_AT_ONCE: u64 = 4;
/// Partitions that write their states at once: each waits for its records.
const ASKED_MAX: usize = 8;
/// Bytes of messages that are written again for one round,
const MOVED_BYTES_MAX: u64 = 256 << 20;
/// but not more than this part of the room that is left.
const MOVED_PART: u64 = 4;

/// The state of a partition, where it lies.
#[derive(Debug, Default)]
struct State {
    snapshot: u64,
    /// The last record that is in it.
    index: u64,
    /// What it needs of the log before it, by bucket; unknown of one that was
    /// written by another process.
    live: Option<BTreeMap<u64, u64>>,
    bytes: u64,
}

/// When they are written, and what may go then.
#[derive(Debug)]
pub(super) struct Checkpoints {
    segment_bytes: u64,
    states: Vec<Option<State>>,
    /// The partitions whose states were asked for, in a round.
    asked: BTreeSet<u16>,
    began: Instant,
    /// Where the log ended when the last round began.
    began_at: u64,
    /// Bytes that came between the beginnings of the last two rounds, without
    /// what was written again.
    came: u64,
    /// Bytes that were to be written again after the last round.
    moving: u64,
    /// Whether messages were written again to empty what lies before.
    moved: bool,
    /// May go once so many fetches are done.
    removable: Option<(u64, u64)>,
}

impl Checkpoints {
    pub(super) fn new(log: &Log<FileDisk>, segment_bytes: u64) -> Checkpoints {
        let mut states: Vec<_> = (0..PARTITIONS).map(|_| None).collect();
        for point in &log.manifest().partitions {
            if let Some(state) = states.get_mut(usize::from(point.partition)) {
                let (snapshot, index) = (point.snapshot.0, point.compacted);
                *state = Some(State { snapshot, index, live: None, bytes: 0 });
            }
        }
        // What was read at the start would be read again at the next one.
        let began_at = log.manifest().partitions.iter().map(|point| point.snapshot.0).min();
        Checkpoints {
            segment_bytes,
            states,
            asked: BTreeSet::new(),
            began: Instant::now(),
            began_at: began_at.unwrap_or(log.first().0),
            came: 0,
            moving: 0,
            moved: false,
            removable: None,
        }
    }

    /// A state is in the log; not yet necessarily durable.
    pub(super) fn written(&mut self, written: Written, snapshot: u64) {
        let Written { partition, index, live, bytes, .. } = written;
        let partition = u16::from(partition);
        if let Some(state) = self.states.get_mut(usize::from(partition)) {
            *state = Some(State { snapshot, index, live: Some(live), bytes });
        }
        if self.asked.remove(&partition) {
            debug!(partition, bytes, "the state of a partition is written");
        }
    }

    /// Does what is due. Called after each commit, and once a second.
    pub(super) fn look(
        &mut self,
        log: &mut Log<FileDisk>,
        shared: &Shared,
        store: &Store,
        next: &mut Option<u16>,
    ) {
        self.remove(log, store);
        match *next {
            Some(PARTITIONS..) if self.asked.is_empty() => {
                *next = None;
                self.complete(log, shared, store);
            }
            Some(_) => {}
            None if self.is_due(log) || self.is_pressed(log, shared) => {
                self.began = Instant::now();
                let grown = log.end().0.saturating_sub(self.began_at);
                self.came = grown.saturating_sub(std::mem::take(&mut self.moving));
                self.began_at = log.end().0;
                self.moved = false;
                *next = Some(0);
            }
            None => {}
        }
        while self.asked.len() < ASKED_MAX
            && let Some(partition) = next.filter(|next| *next < PARTITIONS)
        {
            if !self.ask(partition, shared) {
                break;
            }
            *next = Some(partition + 1);
        }
    }

    fn is_due(&self, log: &Log<FileDisk>) -> bool {
        let grown = log.end().0.saturating_sub(self.began_at);
        let states: u64 = self.states.iter().flatten().map(|state| state.bytes).sum();
        let wanted = (GROWN_SEGMENTS * self.segment_bytes).max(GROWN_STATES * states);
        if grown >= wanted {
            return true;
        }
        // Much may have been acknowledged; a round tells.
        let all = log.end().0 - log.first().0;
        let live_known = self.live().unwrap_or(0);
        let spare = all.saturating_sub(2 * (live_known + states));
        self.began.elapsed() >= PAUSE
            && all > wanted
            && (self.moved || (grown > 0 && spare > GROWN_SEGMENTS * self.segment_bytes))
    }

    /// Whether the disk is short of room and something has changed since the
    /// last round, so that one may give room back. It has to fit itself.
    fn is_pressed(&self, log: &Log<FileDisk>, shared: &Shared) -> bool {
        let states: u64 = self.states.iter().flatten().map(|state| state.bytes).sum();
        let grown = log.end().0.saturating_sub(self.began_at);
        shared.node.room() != Room::Enough
            && self.began.elapsed() >= PAUSE
            && grown > states + PARTITIONS as u64 * FRAME_BYTES
            && log.segments().len() > 1
            && log.space().is_ok_and(|space| space.free >= 4 * states + self.segment_bytes / 4)
    }

    /// Whether its shard was asked.
    fn ask(&mut self, partition: u16, shared: &Shared) -> bool {
        let mailbox = &shared.mailboxes[usize::from(partition) % shared.mailboxes.len()];
        let number = PartitionId(partition as u8);
        // Full of orders: asked again at the next look.
        let asked = mailbox.order(Order::WriteState(number.0)).is_ok();
        if asked {
            self.asked.insert(partition);
        }
        asked
    }

    /// All states are written.
    fn complete(&mut self, log: &mut Log<FileDisk>, shared: &Shared, store: &Store) {
        if self.states.iter().any(|state| state.as_ref().is_none_or(|s| s.live.is_none())) {
            return; // an order was lost with a full queue: the next round
        }
        if let Err(error) = log.sync() {
            die(&error);
        }
        let points = self.states.iter().enumerate().filter_map(|(partition, state)| {
            let state = state.as_ref()?;
            Some(PartitionPoint {
                partition: partition as u16,
                snapshot: Position(state.snapshot),
                compacted: state.index,
            })
        });
        match log.set_manifest(points.collect(), Vec::new()) {
            Ok(()) => {}
            // The old states still count; the next round is as good.
            Err(ManifestError::Full) => return,
            Err(
                error @ (ManifestError::Fatal(_)
                | ManifestError::NotDurable { .. }
                | ManifestError::Gone { .. }
                | ManifestError::TooMany(_)),
            ) => die(&error),
        }
        store.meters.checkpoints.add(1);
        let oldest = self.states.iter().flatten().map(|state| state.snapshot).min().unwrap_or(0);
        let segments = log.segments();
        let states: u64 = self.states.iter().flatten().map(|state| state.bytes).sum();
        let all = log.end().0 - log.first().0;
        let total = self.live().unwrap_or(0);
        let free = log.space().map_or(0, |space| space.free);
        let crowded = is_crowded(all, total + states, self.segment_bytes);
        let budget = (MOVED_FOR_ONE * self.came)
            .min((total + states) / MOVED_AT_ONCE)
            .max(GROWN_STATES * states)
            .max(GROWN_SEGMENTS * self.segment_bytes)
            .min(MOVED_BYTES_MAX)
            .min(free / MOVED_PART);
        let mut live_all = 0;
        let mut before = Vec::new();
        for segment in &segments {
            let live = self.live_in(segment.base.0, segment.end.0).min(segment.bytes());
            log.set_live(segment.base, live);
            live_all += live;
            if segment.sealed && segment.end.0 <= oldest {
                before.push((segment.end.0, live));
            }
        }
        let Plan { limit, target, moving } = Plan::of(&before, if crowded { budget } else { 0 });
        store.meters.live_bytes.set(live_all + states);
        if let Some(limit) = limit {
            let asked = store.fetches[0].load(std::sync::atomic::Ordering::Acquire);
            self.removable = Some((limit, asked));
            self.remove(log, store);
        }
        info!(
            states_bytes = states,
            live_bytes = live_all,
            log_bytes = log.end().0 - log.first().0,
            moving_bytes = moving,
            took_ms = self.began.elapsed().as_millis() as u64,
            "checkpoint"
        );
        if let Some(target) = target {
            self.moving = moving;
            self.relocate(target, shared);
        }
    }

    /// Empties what lies before `end`.
    fn relocate(&mut self, end: u64, shared: &Shared) {
        let limit = end.next_multiple_of(LIVE_BUCKET_BYTES);
        for (partition, state) in self.states.iter().enumerate() {
            let live = state.as_ref().and_then(|state| state.live.as_ref());
            let first = live.and_then(|live| live.first_key_value());
            if first.is_none_or(|(bucket, _)| bucket * LIVE_BUCKET_BYTES >= limit) {
                continue;
            }
            let mailbox = &shared.mailboxes[partition % shared.mailboxes.len()];
            // What is not asked for now is in a later round.
            let partition = partition as u8;
            self.moved |= mailbox.order(Order::Relocate { partition, limit }).is_ok();
        }
    }

    /// Removes what may go, as soon as nobody is about to read it.
    fn remove(&mut self, log: &mut Log<FileDisk>, store: &Store) {
        let Some((limit, asked)) = self.removable else { return };
        if store.fetches[1].load(std::sync::atomic::Ordering::Acquire) < asked {
            return;
        }
        self.removable = None;
        // What a replica would be told that asks for older records.
        let mut batch = Batch::new();
        for (partition, state) in self.states.iter().enumerate() {
            if let Some(State { index, .. }) = state {
                batch.push(Kind::Compacted, 0, partition as u16, TERM, *index, |_| {});
            }
        }
        match log.append(&[&batch]) {
            Ok(_) => {}
            // To be removed is what would make room, and it says nothing new to
            // a node that is alone.
            Err(tidegate_store::AppendError::Full { .. }) => {}
            Err(error) => die(&error),
        }
        if let Err(error) = log.sync() {
            die(&error);
        }
        match log.remove_before(Position(limit)) {
            Ok(removed) if removed.segments > 0 => {
                info!(segments = removed.segments, bytes = removed.bytes, "space was given back");
                store.meters.segments.set(log.segments().len() as u64);
            }
            Ok(_) | Err(RemoveError::Full) => {}
            Err(error @ RemoveError::Fatal(_)) => die(&error),
        }
    }

    /// Bytes of the log before the states that they need; messages for several
    /// partitions count for each.
    fn live(&self) -> Option<u64> {
        let each = self.states.iter().map(|state| state.as_ref()?.live.as_ref());
        each.map(|live| live.map(|live| live.values().sum::<u64>())).sum()
    }

    /// The same of a part of it; buckets on its border count as a whole.
    fn live_in(&self, base: u64, end: u64) -> u64 {
        let buckets = base / LIVE_BUCKET_BYTES..=end.saturating_sub(1) / LIVE_BUCKET_BYTES;
        let live = self.states.iter().flatten().filter_map(|state| state.live.as_ref());
        live.flat_map(|live| live.range(buckets.clone())).map(|(_, bytes)| *bytes).sum()
    }
}

/// Whether so much of the log is not needed that some of it is to be given back.
fn is_crowded(all: u64, needed: u64, segment_bytes: u64) -> bool {
    all > needed + needed / 2 + GROWN_SEGMENTS * segment_bytes
}

/// What becomes of the oldest segments.
#[derive(Debug, Default, Eq, PartialEq)]
struct Plan {
    /// Those that end here or before may go.
    limit: Option<u64>,
    /// What is needed of those that end here or before is written again.
    target: Option<u64>,
    /// So many bytes.
    moving: u64,
}

impl Plan {
    /// `segments`: from the oldest on, where each ends and what is needed of it.
    fn of(segments: &[(u64, u64)], budget: u64) -> Plan {
        let mut plan = Plan::default();
        for &(end, live) in segments {
            if live == 0 && plan.target.is_none() {
                plan.limit = Some(end);
            } else if plan.moving + live <= budget {
                plan.moving += live;
                plan.target = Some(end);
            } else {
                break; // they go in their order
            }
        }
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_segments_go_in_their_order() {
        let segments = [(10, 0), (20, 0), (30, 5), (40, 0), (50, 4), (60, 1)];
        let plan = |budget| Plan::of(&segments, budget);
        let all = |target, moving| Plan { limit: Some(20), target, moving };
        assert_eq!(plan(0), all(None, 0));
        assert_eq!(plan(4), all(None, 0), "none is passed over");
        assert_eq!(plan(5), all(Some(40), 5));
        assert_eq!(plan(8), all(Some(40), 5));
        assert_eq!(plan(100), all(Some(60), 10));
        assert_eq!(Plan::of(&[(10, 1), (20, 0)], 0), Plan::default());
    }

    #[test]
    fn a_log_of_which_a_third_is_not_needed_is_crowded() {
        assert!(!is_crowded(15 + 2, 10, 1));
        assert!(is_crowded(15 + 3, 10, 1));
        assert!(!is_crowded(2, 0, 1));
    }
}
