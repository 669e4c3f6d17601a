//! Reading the records back at a start: each shard those of its partitions.

use tidegate_core::ids::{Millis, PARTITIONS, ShardId};
use tidegate_core::{RecordError, Shard};
use tidegate_store::segment::{SEGMENT_HEADER_BYTES, file_name};
use tidegate_store::{FileDisk, Kind, Log, Position, ReadError, Reader};

/// What all shards read from, once.
#[derive(Clone, Debug)]
pub(crate) struct Recovery {
    reader: Reader<FileDisk>,
    from: Position,
    /// Where each partition's newest state begins, if it was ever written.
    states: [Option<u64>; PARTITIONS as usize],
    /// Where each segment begins, oldest first.
    bases: Vec<u64>,
}

/// What a shard has read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Replayed {
    /// Records of its partitions.
    pub(crate) records: u64,
    /// The time of the newest of them, by the shell's clock.
    pub(crate) newest: Millis,
}

/// Why a shard cannot read its records.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    /// The disk's or its bytes' fault.
    #[error("{place}: {error}; {}", advice(.error))]
    Read { place: String, error: ReadError },
    /// A record of another version, or our own mistake.
    #[error(
        "{place}, partition {partition}, index {index}: {error}; if a newer version wrote it, \
         start that one"
    )]
    Record { place: String, partition: u16, index: u64, error: RecordError },
    /// The manifest names a state that is not whole.
    #[error("the state of partition {partition} is not whole; restore a backup")]
    Half { partition: usize },
    /// Partitions are numbered from 0 to 63.
    #[error("{place}: a record of partition {partition}, which this version does not have")]
    Partition { place: String, partition: u16 },
}

fn advice(error: &ReadError) -> &'static str {
    match error {
        ReadError::Io(_) => "look at the kernel's log, and at the device",
        ReadError::Absent { .. } | ReadError::Record { .. } | ReadError::Damage { .. } => {
            "`tidegate store check` tells all that is damaged; restore a backup into an empty \
             directory, or move the data directory aside and begin anew"
        }
    }
}

impl Recovery {
    pub(super) fn new(log: &Log<FileDisk>) -> Recovery {
        let mut states = [None; PARTITIONS as usize];
        for point in &log.manifest().partitions {
            if let Some(state) = states.get_mut(usize::from(point.partition)) {
                *state = Some(point.snapshot.0);
            }
        }
        Recovery {
            states,
            reader: log.reader(),
            from: replay_from(log, &states),
            bases: log.segments().iter().map(|segment| segment.base.0).collect(),
        }
    }

    /// Has the core of a shard apply the records of its partitions.
    ///
    /// # Errors
    /// When one cannot be read or is none; the node must not start.
    pub(crate) fn replay(
        &self,
        now: Millis,
        core: &mut Shard,
        shard: ShardId,
        shards: u16,
    ) -> Result<Replayed, ReplayError> {
        let mut replayed = Replayed::default();
        // By partition: whether its state, if there is one, is read.
        let mut restored = self.states.map(|state| state.is_none());
        let read = |error| self.read_error(error);
        let mut scan = self.reader.scan(self.from).map_err(read)?;
        while let Some((at, record)) = scan.next_record().map_err(read)? {
            let (partition, index) = (record.partition, record.index);
            if partition >= PARTITIONS {
                return Err(ReplayError::Partition { place: self.place(at), partition });
            }
            if partition % shards != shard.0 {
                continue;
            }
            let number = usize::from(partition);
            let outcome = match record.kind {
                Kind::Entry if restored[number] => {
                    core.replay(now, partition as u8, index, at.0, record.body)
                }
                // One piece after the other; an older or newer state does not count.
                Kind::Snapshot
                    if !restored[number]
                        && self.states[number].is_some_and(|from| from <= at.0) =>
                {
                    core.restore(now, partition as u8, index, record.body).map(|ended| {
                        restored[number] = ended;
                        0
                    })
                }
                Kind::Entry
                | Kind::Snapshot
                | Kind::Vote
                | Kind::Truncate
                | Kind::Compacted
                | Kind::Membership
                | Kind::Blank
                | Kind::Committed => continue,
            };
            match outcome {
                Ok(time) => replayed.newest = replayed.newest.max(time),
                Err(error) => {
                    let place = self.place(at);
                    return Err(ReplayError::Record { place, partition, index, error });
                }
            }
            replayed.records += 1;
        }
        let mut own = (usize::from(shard.0)..restored.len()).step_by(usize::from(shards));
        match own.find(|partition| !restored[*partition]) {
            Some(partition) => Err(ReplayError::Half { partition }),
            None => Ok(replayed),
        }
    }

    /// Bytes of the log that are read.
    pub(crate) fn bytes(&self) -> u64 {
        self.reader.durable().0.saturating_sub(self.from.0)
    }

    fn read_error(&self, error: ReadError) -> ReplayError {
        let at = match &error {
            ReadError::Absent { at }
            | ReadError::Record { at, .. }
            | ReadError::Damage { at, .. } => Some(*at),
            ReadError::Io(_) => None,
        };
        let place = at.map_or_else(|| "the log".to_owned(), |at| self.place(at));
        ReplayError::Read { place, error }
    }

    /// Where to look on the disk.
    fn place(&self, at: Position) -> String {
        let base = self.bases.iter().rev().find(|base| **base <= at.0).copied().unwrap_or(0);
        let offset = at.0 - base + SEGMENT_HEADER_BYTES as u64;
        format!("{}, offset {offset}", file_name(base))
    }
}

/// Where reading begins: at the oldest state; at the log's start while some
/// partition has none.
fn replay_from(log: &Log<FileDisk>, states: &[Option<u64>]) -> Position {
    let all: Option<Vec<u64>> = states.iter().copied().collect();
    let oldest = all.and_then(|all| all.into_iter().min());
    oldest.map_or_else(|| log.first(), |oldest| Position(oldest).max(log.first()))
}
