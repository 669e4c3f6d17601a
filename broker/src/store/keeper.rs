//! Gives space back: has partitions write their state, and what queues still
//! need of old segments written again, until whole segments can go.
//!
//! The log is read back from the oldest state that recovery needs, so states
//! also bound how long a start takes. A round over all partitions is spread
//! evenly over the bytes that are written meanwhile, so that states are at most
//! a fifth of what is written.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidegate_core::ids::{PARTITIONS, PartitionId};
use tidegate_core::journal::{LIVE_BUCKET_BYTES, Written};
use tidegate_store::{Disk, Log, ManifestError, PartitionPoint, Position, RemoveError};

use crate::shard::Shared;
use crate::shard::mailbox::Order;

/// A round of states is at most this part of what is written meanwhile.
const STATE_SHARE: u64 = 5;
/// How often a state is asked for when little is written but there is much to
/// give back.
const PACE: Duration = Duration::from_millis(50);
/// After that long a state that was asked for counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often the manifest is written, at most, while states come in.
const MANIFEST_EVERY: Duration = Duration::from_secs(1);

/// What is known of one partition.
#[derive(Debug, Default)]
struct Partition {
    /// Where its state begins, and the last record in it.
    point: Option<(Position, u64)>,
    /// Bytes of its state.
    state_bytes: u64,
    /// Bytes of the log that it needs beside, by bucket.
    live: BTreeMap<u64, u64>,
}

/// Decides what goes.
#[derive(Debug)]
pub(super) struct Keeper {
    partitions: Vec<Partition>,
    segment_bytes: u64,
    /// The partition that is next to write its state.
    next: u8,
    /// The one that was asked, and when.
    asked: Option<(u8, Instant)>,
    /// The end of the log when it was.
    asked_at: u64,
    /// States that the manifest does not name yet.
    unnamed: bool,
    named: Instant,
    /// Everything below was asked to be written again, and in which round.
    moving: Option<(u64, u8)>,
}

impl Keeper {
    pub(super) fn new<D: Disk>(log: &Log<D>, segment_bytes: u64) -> Keeper {
        let mut partitions: Vec<Partition> = Vec::new();
        partitions.resize_with(usize::from(PARTITIONS), Partition::default);
        for point in &log.manifest().partitions {
            if let Some(partition) = partitions.get_mut(usize::from(point.partition)) {
                partition.point = Some((point.snapshot, point.compacted));
                // What it needs beside is known when it is written next; until
                // then everything counts as needed.
                partition.live.insert(log.first().0 / LIVE_BUCKET_BYTES, 0);
            }
        }
        Keeper {
            partitions,
            segment_bytes,
            next: 0,
            asked: None,
            asked_at: log.end().0,
            unnamed: false,
            named: Instant::now(),
            moving: None,
        }
    }

    /// A state is durable, and begins there.
    pub(super) fn written(&mut self, begin: Position, written: Written) {
        let partition = &mut self.partitions[usize::from(written.partition)];
        partition.point = Some((begin, written.index));
        partition.state_bytes = written.bytes;
        partition.live = written.live;
        self.unnamed = true;
        if self.asked.is_some_and(|(asked, _)| asked == written.partition) {
            self.asked = None;
        }
    }

    /// Bytes that are needed: live messages and states.
    pub(super) fn needed(&self) -> u64 {
        let live: u64 = self.partitions.iter().flat_map(|p| p.live.values()).sum();
        live + self.partitions.iter().map(|partition| partition.state_bytes).sum::<u64>()
    }

    /// A look after each commit and when there is nothing to do; when the next
    /// is due.
    pub(super) fn look<D: Disk>(
        &mut self,
        log: &mut Log<D>,
        shared: &Shared,
    ) -> Result<Option<Duration>, KeeperError> {
        let now = Instant::now();
        if self.unnamed && now.duration_since(self.named) >= MANIFEST_EVERY {
            self.name(log)?;
            self.named = now;
        }
        if self.asked.is_some_and(|(_, since)| now.duration_since(since) < PATIENCE) {
            return Ok(Some(PACE));
        }
        let (end, size) = (log.end().0, log.end().0 - log.first().0);
        let states: u64 = self.partitions.iter().map(|partition| partition.state_bytes).sum();
        let round = self.segment_bytes.max(STATE_SHARE * states);
        let step = round / u64::from(PARTITIONS);
        // Most of the log is not needed any more, and more than one segment.
        let much = size > 2 * self.needed() + 2 * self.segment_bytes;
        if end - self.asked_at < step && !much {
            return Ok(self.unnamed.then_some(MANIFEST_EVERY));
        }
        self.empty_oldest(log, shared);
        let partition = self.next;
        if order(shared, partition, Order::WriteState(partition)) {
            self.asked = Some((partition, now));
            self.asked_at = end;
            self.next = (partition + 1) % PARTITIONS as u8;
        }
        Ok(Some(PACE))
    }

    /// Names the states where recovery begins, and lets go what is in front of all.
    fn name<D: Disk>(&mut self, log: &mut Log<D>) -> Result<(), KeeperError> {
        self.unnamed = false;
        let points = self.partitions.iter().zip(0..).filter_map(|(partition, number)| {
            let (snapshot, compacted) = partition.point?;
            Some(PartitionPoint { partition: number, snapshot, compacted })
        });
        let points: Vec<PartitionPoint> = points.collect();
        if points.len() < usize::from(PARTITIONS) {
            return Ok(()); // recovery reads everything as yet
        }
        let owner = log.manifest().owner.clone();
        log.set_manifest(points, owner)?;
        let needed = self.partitions.iter().filter_map(|partition| {
            let begin = partition.point?.0.0;
            let live = partition.live.keys().next().map(|bucket| bucket * LIVE_BUCKET_BYTES);
            Some(begin.min(live.unwrap_or(begin)))
        });
        if let Some(needed) = needed.min() {
            log.remove_before(Position(needed))?;
        }
        Ok(())
    }

    /// When the oldest segment has little that is needed, that is written again.
    fn empty_oldest<D: Disk>(&mut self, log: &Log<D>, shared: &Shared) {
        if self.moving.is_some_and(|(_, round)| round != self.next) {
            return; // what was moved is known after a round of states
        }
        self.moving = None;
        let segments = log.segments();
        if segments.len() < 2 || self.partitions.iter().any(|partition| partition.point.is_none()) {
            return;
        }
        // The longest run of oldest segments that are mostly not needed.
        let mut limit = None;
        let (mut bytes, mut live) = (0, 0);
        for pair in segments.windows(2) {
            let (from, to) = (pair[0].base.0, pair[1].base.0);
            bytes += to - from;
            live += self.live_between(from, to);
            if live * 2 > bytes {
                break;
            }
            if live > 0 {
                limit = Some(to);
            }
            if live > self.segment_bytes {
                break; // enough for one round
            }
        }
        let Some(limit) = limit else { return };
        for partition in 0..PARTITIONS as u8 {
            let first = self.partitions[usize::from(partition)].live.keys().next();
            if first.is_some_and(|bucket| bucket * LIVE_BUCKET_BYTES < limit) {
                order(shared, partition, Order::Relocate(partition, limit));
            }
        }
        self.moving = Some((limit, self.next));
    }

    fn live_between(&self, from: u64, to: u64) -> u64 {
        let buckets = from / LIVE_BUCKET_BYTES..to.div_ceil(LIVE_BUCKET_BYTES);
        let live = |partition: &Partition| -> u64 {
            partition.live.range(buckets.clone()).map(|(_, bytes)| bytes).sum()
        };
        self.partitions.iter().map(live).sum()
    }
}

/// Why space could not be given back.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeeperError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Remove(#[from] RemoveError),
}

/// Gives an order to the shard of a partition; false: it has too many.
fn order(shared: &Shared, partition: u8, order: Order) -> bool {
    let shard = PartitionId(partition).shard(shared.node.shards());
    let mailbox = &shared.mailboxes[shard.index()];
    let taken = mailbox.order(order).is_ok();
    mailbox.wake();
    taken
}
