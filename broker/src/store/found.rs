//! A node that was alone becomes the first of a cluster, with what it has kept.
//!
//! Its client ids and topics stay in their partitions, since the cluster's id is
//! drawn for its seed. At a start with a cluster the log is read back once, and
//! each partition is written as the first snapshot of its Raft group, with the
//! messages of queues in it. The log stays as it is meanwhile: until the node
//! has founded its cluster it may go back to being alone. Only then the log is
//! begun anew, behind the snapshots.
//!
//! What is on the disk at any moment is said by one value of the identity
//! ([`Form`]), which is changed at once and durably; each step may be done again.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use tidegate_consensus::{LogId, Put, begin_with, begin_without};
use tidegate_core::access::Open;
use tidegate_core::ids::{Millis, PARTITIONS, PartitionId, ShardId};
use tidegate_core::limits::Limits;
use tidegate_core::{Keeps, Node, RecordError, Shard};
use tidegate_store::{
    AppendError, Batch, Disk, FileDisk, IdentityError, IdentityFile, Log, OpenError, Options,
    Position, ReadError, Recovered, push_sole_voter_behind,
};
use tidegate_system::values;
use tracing::info;

use super::replay::Recovery;
use crate::config::Config;
use crate::node::queues;
use crate::overload::memory::Meter;
use crate::replication::start::SNAPSHOTS;
use crate::shard::clock::Reading;

/// Under this name the identity keeps what the log's partitions are.
const FORM: &str = "cluster.partitions";
/// The entry that a first snapshot ends with. Records have numbers of their own.
const FIRST: LogId = LogId { term: 1, index: 1 };

/// Memory of a message that waits in one queue.
const ENTRY_BYTES: u64 = 48;

/// What the log of a data directory is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// That of a node that is alone; or there is none yet.
    Alone,
    /// Its partitions are Raft groups.
    Groups,
    /// They are, and begin with snapshots; the log is to begin anew behind these.
    Founding,
    /// The log is to begin anew: a node that was alone has kept nothing.
    Blank,
}

impl Form {
    pub(super) fn read(identity: &IdentityFile) -> anyhow::Result<Form> {
        match identity.value(FORM)?.as_deref() {
            None => Ok(Form::Alone),
            Some([1]) => Ok(Form::Groups),
            Some([2]) => Ok(Form::Founding),
            Some([3]) => Ok(Form::Blank),
            Some(other) => bail!(
                "the identity's {FORM} is {other:?}, which this version does not know; start the \
                 version that wrote it, or a newer one"
            ),
        }
    }

    pub(super) fn write(self, identity: &IdentityFile) -> Result<(), IdentityError> {
        match self {
            Form::Alone => identity.set_value(FORM, None),
            Form::Groups => identity.set_value(FORM, Some(&[1])),
            Form::Founding => identity.set_value(FORM, Some(&[2])),
            Form::Blank => identity.set_value(FORM, Some(&[3])),
        }
    }
}

/// Why a partition has no first state.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a log cannot begin anew.
#[derive(Debug, thiserror::Error)]
pub(super) enum AnewError {
    #[error("the log of before cannot be removed: {0}")]
    Remove(io::Error),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Sync(#[from] tidegate_store::Fatal),
}

/// What a node has kept alone.
pub(super) struct Alone<'a> {
    pub(super) config: &'a Config,
    pub(super) log: &'a Log<FileDisk>,
    pub(super) seed: u64,
    pub(super) epoch: Millis,
    /// Its id among nodes.
    pub(super) node: u64,
}

impl Alone<'_> {
    /// Writes the first snapshots of its partitions, if it has kept anything; how
    /// much. Takes the memory that the node takes alone, and what is in memory of
    /// the largest partition once more.
    ///
    /// # Errors
    /// The log's, the disk's; or there is more than a node of a cluster may have.
    pub(super) fn prepare(&self) -> anyhow::Result<Keeps> {
        let began = Instant::now();
        let mut settings = self.config.settings.clone();
        queues::derive(&mut settings.limits, self.config);
        let limits = settings.limits.clone();
        let node = Node::kept(settings, 1, self.seed, Box::new(Open), self.epoch);
        let now = Reading::take().millis();
        let mut shard = Shard::new(Arc::new(node), ShardId(0), now);
        shard.keep();
        let replayed = Recovery::new(self.log).replay(now, &mut shard, ShardId(0), 1)?;
        let now = Reading::take().millis().max(replayed.newest);
        shard.end_alone(now)?;
        let keeps = shard.keeps_alone();
        if keeps.is_nothing() {
            return Ok(keeps);
        }
        fits(&keeps, &limits)?;
        let path = self.config.data_dir.join(SNAPSHOTS);
        let place = || format!("{}", path.display());
        let disk = FileDisk::open(&path).with_context(place)?;
        let mut reader = self.log.reader();
        let (mut bytes, memory) = (0, memory(&limits));
        // What is not in records is in memory, and while a state is written
        // once more.
        let (mut held, mut largest) = (0, 0);
        for partition in 0..PARTITIONS {
            let read =
                |at| -> Result<Vec<u8>, BodyError> { Ok(reader.read(Position(at))?.body.to_vec()) };
            let image = shard.image_alone(now, PartitionId(partition as u8));
            let pieces = image.pieces.iter().map(|piece| piece.len() as u64).sum::<u64>();
            held += pieces;
            largest = largest.max(pieces);
            if let Err(error) = fits_memory(&keeps, held + largest, memory) {
                forget(&self.config.data_dir)?;
                return Err(error);
            }
            let state = |put: Put<'_>| {
                let put = |piece: &[u8]| put(piece).map_err(BodyError::Io);
                image.write(read, crc32c::crc32c, put).map(drop).map_err(io::Error::other)
            };
            let written = begin_with(&disk, partition, self.node, FIRST, state);
            bytes += written.with_context(|| {
                format!(
                    "{}: cannot write the state of partition {partition}; what this node has kept \
                     alone is as it was",
                    path.display()
                )
            })?;
        }
        let Keeps { sessions, messages, retained, .. } = keeps;
        let took_ms = began.elapsed().as_millis() as u64;
        info!(
            sessions,
            messages,
            retained,
            bytes,
            took_ms,
            "what this node has kept alone can go into a cluster"
        );
        Ok(keeps)
    }
}

/// Whether a node of a cluster may have so much in its queues.
fn fits(keeps: &Keeps, limits: &Limits) -> anyhow::Result<()> {
    let (messages, bytes) = (keeps.messages, keeps.bytes);
    let over = match limits {
        Limits { queue_node_messages_max: max, .. } if messages > *max => {
            (messages, "messages", "limits.queue_node_messages_max", *max)
        }
        Limits { queue_node_bytes_max: max, .. } if bytes > *max => {
            (bytes, "bytes of messages", "limits.queue_node_bytes_max", *max)
        }
        _ => return Ok(()),
    };
    let (have, what, key, max) = over;
    bail!(
        "{have} {what} wait in the queues of this node, and {key} allows {max} in a cluster. \
         Nothing was changed. Set {key} to {have} or more if there is the room for it; or leave \
         cluster.name out until clients have fetched what waits for them"
    )
}

/// `bytes` that the first states take, besides 48 for each message of a queue;
/// `memory` that there is; 0: not known.
fn fits_memory(keeps: &Keeps, bytes: u64, memory: u64) -> anyhow::Result<()> {
    let need = bytes + keeps.messages * ENTRY_BYTES;
    if memory == 0 || need <= memory / 4 * 3 {
        return Ok(());
    }
    bail!(
        "what this node has kept takes {need} bytes of memory or more in a cluster, and there \
         are {memory} (limits.memory_bytes_max, or the machine's or container's). Nothing was \
         changed. Give it more; or leave cluster.name out until clients have fetched what waits \
         for them"
    )
}

/// The memory that this node may take; 0: not known.
fn memory(limits: &Limits) -> u64 {
    let limit = Meter::new(limits.memory_bytes_max).take().limit;
    let text = || std::fs::read_to_string("/proc/meminfo").ok();
    let total = || text().and_then(|text| values::memory(&text, "MemTotal")).unwrap_or(0);
    if limit > 0 { limit } else { total() }
}

/// Removes the log, and begins it anew: empty, or behind the first snapshots
/// with `founder` as the only voter. May be done again after it was interrupted.
pub(super) fn begin_anew(
    disk: &FileDisk,
    options: Options,
    founder: Option<u64>,
) -> Result<(Log<FileDisk>, Recovered), AnewError> {
    for name in disk.list().map_err(AnewError::Remove)? {
        disk.remove(&name).map_err(AnewError::Remove)?;
    }
    disk.sync_dir().map_err(AnewError::Remove)?;
    let (mut log, recovered) = Log::open(disk.clone(), options.create())?;
    if let Some(node) = founder {
        let mut batch = Batch::new();
        for partition in 0..PARTITIONS {
            push_sole_voter_behind(&mut batch, partition, node, FIRST.term, FIRST.index);
        }
        log.append(&[&batch])?;
        log.sync()?;
    }
    Ok((log, recovered))
}

/// Removes the snapshots of a node that went back to being alone.
pub(super) fn forget(data_dir: &Path) -> anyhow::Result<()> {
    let path = data_dir.join(SNAPSHOTS);
    if !path.exists() {
        return Ok(());
    }
    let disk = FileDisk::open(&path).with_context(|| format!("{}", path.display()))?;
    (0..PARTITIONS)
        .try_for_each(|partition| begin_without(&disk, partition))
        .with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests;
