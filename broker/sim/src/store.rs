//! The store thread of a simulated node, in steps that chance orders.

use std::collections::{BTreeMap, VecDeque};

use tidegate_core::Fetch;
use tidegate_core::ids::PARTITIONS;
use tidegate_core::journal;
use tidegate_store::{
    AppendError, Batch, Kind, Log, ManifestError, OpenError, Options, PartitionPoint, Position,
    ReadError, RemoveError, SimDisk,
};

use crate::dice::Dice;
use crate::node::{Node, START};
use crate::plant::Plant;

const STORE_ID: u128 = 0x51;

/// Why the node has to end at once.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Stop(String);

/// Why a node does not start again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The disk's answer; a fault that was planted, perhaps.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What was written cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What was read is no record of core's.
    #[error("partition {partition}, index {index}: {what}")]
    Record {
        /// Whose.
        partition: u16,
        /// Which.
        index: u64,
        /// What is wrong.
        what: String,
    },
}

impl StartError {
    /// Whether the device itself failed.
    pub(crate) fn is_io(&self) -> bool {
        match self {
            StartError::Open(OpenError::Io { .. }) | StartError::Read(ReadError::Io(_)) => true,
            StartError::Open(_) | StartError::Read(_) | StartError::Record { .. } => false,
        }
    }
}

/// A batch that a shard has handed over.
struct Taken {
    shard: usize,
    since: u64,
    batch: journal::Batch,
}

/// A batch that is written.
struct Appended {
    shard: usize,
    number: u64,
    positions: Vec<u64>,
    points: Vec<PartitionPoint>,
}

/// How far an attempt to give space back has come.
enum Compaction {
    /// Nothing is under way.
    Idle,
    /// What lies below is being written again.
    Moving { limit: u64 },
    /// States that do not refer to it are being written.
    Writing { limit: u64, left: Vec<u8> },
}

/// The log of a running node, and what is on its way into it.
pub(crate) struct Store {
    log: Log<SimDisk>,
    pending: VecDeque<Taken>,
    unsynced: VecDeque<Appended>,
    /// Durable, and the shard does not know.
    told: Vec<VecDeque<(u64, Vec<u64>)>>,
    fetches: Vec<(usize, Fetch)>,
    points: BTreeMap<u16, PartitionPoint>,
    points_changed: bool,
    compaction: Compaction,
    plant: Option<Plant>,
    written: u64,
    /// While true, the disk does nothing.
    pub(crate) stalled: bool,
    /// Segments that were removed.
    pub(crate) removed: usize,
}

impl Store {
    /// Opens the log of a disk and the node whose state is in it.
    pub(crate) fn start(
        disk: &SimDisk,
        shards: u16,
        wall: u64,
        fresh: bool,
        segment_bytes: u64,
        plant: Option<Plant>,
    ) -> Result<(Node, Store), StartError> {
        let mut options = Options::new(STORE_ID).segment_bytes(segment_bytes);
        options.create = fresh;
        let (log, _) = Log::open(disk.clone(), options)?;
        let mut epoch = wall.saturating_sub(START);
        let mut node = loop {
            let mut node = Node::new(shards, epoch, plant);
            let newest = replay(&log, &mut node, plant)?;
            if newest <= START {
                break node;
            }
            // The wall clock was set back: time never does.
            epoch += newest - START;
        };
        for shard in &mut node.shards {
            if plant != Some(Plant::SkipResume) {
                shard.resume(START);
            }
        }
        let points = &log.manifest().partitions;
        let store = Store {
            points: points.iter().map(|point| (point.partition, *point)).collect(),
            log,
            pending: VecDeque::new(),
            unsynced: VecDeque::new(),
            told: (0..shards).map(|_| VecDeque::new()).collect(),
            fetches: Vec::new(),
            points_changed: false,
            compaction: Compaction::Idle,
            plant,
            written: 0,
            stalled: false,
            removed: 0,
        };
        Ok((node, store))
    }

    /// Takes what a shard wants written and read.
    pub(crate) fn take(&mut self, node: &mut Node, shard: usize) {
        self.fetches.extend(node.shards[shard].take_fetches().into_iter().map(|f| (shard, f)));
        if let Some(batch) = node.shards[shard].take_batch() {
            self.pending.push_back(Taken { shard, since: node.now, batch });
        }
    }

    /// How long the oldest batch waits.
    pub(crate) fn age(&self, now: u64) -> u64 {
        self.pending.front().map_or(0, |taken| now - taken.since)
    }

    /// Writes up to `most` batches as one group.
    pub(crate) fn append(&mut self, most: usize) -> Result<(), Stop> {
        let most = most.min(self.pending.len());
        if most == 0 || self.stalled {
            return Ok(());
        }
        let mut batches = Vec::new();
        let mut offsets = Vec::new();
        for taken in self.pending.iter().take(most) {
            let mut batch = Batch::new();
            let mut at = Vec::new();
            for (entry, body) in taken.batch.records() {
                let kind = if entry.state { Kind::Snapshot } else { Kind::Entry };
                self.written += 1;
                if self.plant == Some(Plant::LoseRecords)
                    && entry.partition % 2 == 1
                    && self.written.is_multiple_of(5)
                {
                    at.push(0);
                    continue;
                }
                let partition = u16::from(entry.partition);
                let put = |out: &mut Vec<u8>| out.extend_from_slice(body);
                at.push(batch.push(kind, 0, partition, 1, entry.index, put));
            }
            batches.push(batch);
            offsets.push(at);
        }
        let all: Vec<&Batch> = batches.iter().collect();
        let appended = match self.log.append(&all) {
            Ok(appended) => appended,
            Err(AppendError::Full { .. }) => return Ok(()),
            Err(AppendError::Fatal(fatal)) => return self.failed(fatal.to_string(), most),
            Err(error @ AppendError::TooLarge { .. }) => return Err(Stop(error.to_string())),
        };
        for (base, offsets) in appended.bases.iter().zip(offsets) {
            let Some(taken) = self.pending.pop_front() else { break };
            let positions: Vec<u64> = offsets.iter().map(|&at| base.0 + u64::from(at)).collect();
            let point = |written: &journal::Written| PartitionPoint {
                partition: u16::from(written.partition),
                snapshot: Position(positions[written.first as usize]),
                compacted: written.index,
            };
            let points = taken.batch.written.iter().map(point).collect();
            let number = taken.batch.number;
            self.unsynced.push_back(Appended { shard: taken.shard, number, positions, points });
        }
        if self.plant == Some(Plant::AckBeforeSync) {
            self.tell_all();
        }
        Ok(())
    }

    /// A failure of the log: the end, unless that is what is planted.
    fn failed(&mut self, what: String, most: usize) -> Result<(), Stop> {
        if self.plant != Some(Plant::IgnoreSyncError) {
            return Err(Stop(what));
        }
        for taken in self.pending.drain(..most) {
            let positions = vec![self.log.end().0; taken.batch.entries.len()];
            self.told[taken.shard].push_back((taken.batch.number, positions));
        }
        Ok(())
    }

    /// Makes durable what is written.
    pub(crate) fn sync(&mut self) -> Result<(), Stop> {
        if self.stalled || self.unsynced.is_empty() {
            return Ok(());
        }
        match self.log.sync() {
            Ok(_) => {}
            Err(_) if self.plant == Some(Plant::IgnoreSyncError) => {}
            Err(fatal) => return Err(Stop(fatal.to_string())),
        }
        self.tell_all();
        Ok(())
    }

    fn tell_all(&mut self) {
        for Appended { shard, number, positions, points } in self.unsynced.drain(..) {
            self.told[shard].push_back((number, positions));
            for point in points {
                if let Compaction::Writing { left, .. } = &mut self.compaction {
                    left.retain(|&partition| u16::from(partition) != point.partition);
                }
                self.points.insert(point.partition, point);
                self.points_changed = true;
            }
        }
    }

    /// A shard hears of one batch that is durable.
    pub(crate) fn tell(&mut self, node: &mut Node, shard: usize) -> bool {
        let Some((number, positions)) = self.told[shard].pop_front() else { return false };
        node.shards[shard].durable(node.now, number, &positions);
        true
    }

    /// A shard gets what it asked to be read.
    pub(crate) fn answer(&mut self, node: &mut Node, dice: &mut Dice) -> Result<bool, Stop> {
        if self.fetches.is_empty() {
            return Ok(false);
        }
        let nth = dice.below(self.fetches.len());
        let (shard, fetch) = self.fetches.remove(nth);
        let mut reader = self.log.reader();
        let mut bodies = Vec::new();
        for &at in &fetch.positions {
            let record = reader.read(Position(at)).map_err(|error| {
                Stop(format!("BROKEN: {error}, and partition {} wants it", fetch.partition()))
            })?;
            bodies.push(record.body);
        }
        node.shards[shard]
            .fetched(node.now, &fetch, &bodies)
            .map_err(|error| Stop(format!("BROKEN: fetched {fetch:?}: {error}")))?;
        Ok(true)
    }

    /// Writes the manifest, if a partition's state is newer than it says.
    pub(crate) fn note(&mut self) -> Result<(), Stop> {
        if !self.points_changed || self.stalled {
            return Ok(());
        }
        match self.log.set_manifest(self.points.values().copied().collect(), Vec::new()) {
            Ok(()) => self.points_changed = false,
            Err(ManifestError::Full) => {}
            Err(ManifestError::Fatal(_)) if self.plant == Some(Plant::IgnoreSyncError) => {}
            Err(ManifestError::NotDurable { .. }) if self.plant == Some(Plant::AckBeforeSync) => {}
            Err(ManifestError::Fatal(fatal)) => return Err(Stop(fatal.to_string())),
            Err(
                error @ (ManifestError::NotDurable { .. }
                | ManifestError::Gone { .. }
                | ManifestError::TooMany(_)),
            ) => return Err(Stop(format!("BROKEN: {error}"))),
        }
        Ok(())
    }

    /// One step of giving old segments back.
    pub(crate) fn compact(&mut self, node: &mut Node) -> Result<(), Stop> {
        let shards = node.shards.len();
        let idle = self.fetches.is_empty()
            && self.pending.is_empty()
            && self.unsynced.is_empty()
            && self.told.iter().all(VecDeque::is_empty)
            && node.shards.iter().all(|shard| shard.has_batch().is_none());
        if !idle {
            return Ok(());
        }
        let relocate = |node: &mut Node, limit| {
            let found = (0..PARTITIONS as u8).map(|partition| {
                let shard = usize::from(partition) % shards;
                node.shards[shard].relocate(node.now, partition, limit)
            });
            found.sum::<usize>()
        };
        self.compaction = match std::mem::replace(&mut self.compaction, Compaction::Idle) {
            Compaction::Idle => match self.log.segments().last() {
                Some(last) if last.base > self.log.first() => {
                    let limit = last.base.0;
                    if self.plant != Some(Plant::RemoveTooMuch) {
                        relocate(node, limit);
                    }
                    Compaction::Moving { limit }
                }
                Some(_) | None => Compaction::Idle,
            },
            Compaction::Moving { limit } => {
                let early = self.plant == Some(Plant::RemoveTooMuch);
                if !early && relocate(node, limit) > 0 {
                    Compaction::Moving { limit }
                } else {
                    for partition in 0..PARTITIONS as u8 {
                        let shard = usize::from(partition) % shards;
                        node.shards[shard].write_state(node.now, partition);
                    }
                    Compaction::Writing { limit, left: (0..PARTITIONS as u8).collect() }
                }
            }
            Compaction::Writing { limit, left } if left.is_empty() => {
                if self.points_changed {
                    Compaction::Writing { limit, left }
                } else {
                    match self.log.remove_before(Position(limit)) {
                        Ok(removed) => self.removed += removed.segments,
                        Err(RemoveError::Full) => {}
                        Err(RemoveError::Fatal(fatal)) => return Err(Stop(fatal.to_string())),
                    }
                    Compaction::Idle
                }
            }
            writing @ Compaction::Writing { .. } => writing,
        };
        Ok(())
    }

    /// Whether nothing is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pending.is_empty()
            && self.unsynced.is_empty()
            && self.fetches.is_empty()
            && self.told.iter().all(VecDeque::is_empty)
    }
}

/// Reads everything back; the newest time of a record, by the node's clock.
fn replay(log: &Log<SimDisk>, node: &mut Node, plant: Option<Plant>) -> Result<u64, StartError> {
    let points: BTreeMap<u16, PartitionPoint> =
        log.manifest().partitions.iter().map(|point| (point.partition, *point)).collect();
    let shards = node.shards.len();
    let mut newest = 0;
    // A partition whose state was never written needs all of it.
    let from = match points.len() < usize::from(PARTITIONS) {
        true => log.first(),
        false => log.manifest().replay_from(),
    };
    let mut scan = log.scan(from)?;
    while let Some((at, record)) = scan.next_record()? {
        let (partition, index) = (record.partition, record.index);
        let point = points.get(&partition);
        if point.is_some_and(|point| at < point.snapshot) {
            continue;
        }
        let failed = |error: tidegate_core::RecordError| StartError::Record {
            partition,
            index,
            what: error.to_string(),
        };
        let shard = &mut node.shards[usize::from(partition) % shards];
        match record.kind {
            Kind::Snapshot if point.is_some_and(|point| point.compacted == index) => {
                shard.restore(START, partition as u8, index, record.body).map_err(failed)?;
            }
            Kind::Entry if point.is_some() && plant == Some(Plant::StateWithoutTail) => {}
            Kind::Entry => {
                let time = shard
                    .replay(START, partition as u8, index, at.0, record.body)
                    .map_err(failed)?;
                newest = newest.max(time);
            }
            Kind::Snapshot
            | Kind::Vote
            | Kind::Truncate
            | Kind::Compacted
            | Kind::Membership
            | Kind::Blank
            | Kind::Committed => {}
        }
    }
    Ok(newest)
}
