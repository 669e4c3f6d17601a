//! The meta group's own log: `meta/` in the data directory, and a thread that
//! writes it.
//!
//! It is apart from the log of sessions and messages: an entry of the metadata
//! never waits behind a backlog of messages, and one sync for it alone is cheap,
//! as there are a few a minute (docs/decisions/0022-*.md). Votes and entries are
//! in it in order, as in the other.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use std::{io, thread};

use anyhow::Context;
use tidegate_consensus::META;
use tidegate_store::raft::{PartitionIndex, Writer, Written};
use tidegate_store::{Batch, FileDisk, IdentityFile, Log, Options, Position, Reader};

/// Below the data directory.
const DIRECTORY: &str = "meta";
const SNAPSHOTS: &str = "meta-snapshots";
/// In the identity: the log was made, and one that is missing was lost.
const CREATED: &str = "cluster.meta_log";
const SEGMENT_BYTES: u64 = 4 << 20;
/// Batches that are made durable by one sync.
const GROUP_MAX: usize = 256;

/// The log, open.
pub(crate) struct MetaLog {
    pub(crate) reader: Reader<FileDisk>,
    pub(crate) writer: LogWriter,
    pub(crate) snapshots: FileDisk,
    pub(crate) index: PartitionIndex,
}

/// Hands batches to the thread.
#[derive(Clone)]
pub(crate) struct LogWriter(Sender<Submitted>);

struct Submitted {
    batch: Batch,
    durable: bool,
    written: Written,
}

impl Writer for LogWriter {
    fn submit(&self, batch: Batch, durable: bool, written: Written) {
        if let Err(lost) = self.0.send(Submitted { batch, durable, written }) {
            (lost.0.written)(Err(io::Error::other("the writer of the meta log has ended")));
        }
    }
}

/// Opens the log, reads it back, and starts its thread.
///
/// # Errors
/// When it was lost or is damaged: this node must not vote again.
pub(crate) fn open(
    data_dir: &Path,
    store: u128,
    identity: &IdentityFile,
) -> anyhow::Result<MetaLog> {
    let path = data_dir.join(DIRECTORY);
    let told = || {
        format!(
            "{}: a node whose log of votes was lost must not vote again under its id; begin with \
             an empty data directory, and it joins as a new node",
            path.display()
        )
    };
    let snapshots = data_dir.join(SNAPSHOTS);
    let snapshots =
        FileDisk::open(&snapshots).with_context(|| format!("{}", snapshots.display()))?;
    let disk = FileDisk::open(&path).with_context(told)?;
    let created = identity.value(CREATED)?.is_some();
    let options = Options::new(store).segment_bytes(SEGMENT_BYTES);
    let options = if created { options } else { options.create() };
    let (log, _) = Log::open(disk, options).with_context(told)?;
    if !created {
        identity.set_value(CREATED, Some(&[1]))?;
    }
    let mut index = PartitionIndex::default();
    let mut scan = log.scan(log.first()).with_context(told)?;
    while let Some((at, record)) = scan.next_record().with_context(told)? {
        if record.partition == META {
            index.replay(at, &record).with_context(told)?;
        }
    }
    index.check().with_context(told)?;
    let reader = log.reader();
    let (sender, submitted) = channel();
    thread::Builder::new()
        .name("meta-log".to_owned())
        .spawn(move || write(log, &submitted))
        .context("cannot start the thread of the meta log")?;
    Ok(MetaLog { reader, writer: LogWriter(sender), snapshots, index })
}

/// Writes until nobody is left who submits, or the disk fails: then every
/// further batch is refused, as what the disk holds is not known any more.
fn write(mut log: Log<FileDisk>, submitted: &Receiver<Submitted>) {
    let mut failed: Option<String> = None;
    loop {
        let first = match submitted.recv_timeout(Duration::from_secs(60)) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut group = vec![first];
        while group.len() < GROUP_MAX
            && let Ok(next) = submitted.try_recv()
        {
            group.push(next);
        }
        let bases = match &failed {
            Some(why) => Err(why.clone()),
            None => put(&mut log, &group).map_err(|error| format!("the meta log: {error:#}")),
        };
        match bases {
            Ok(bases) => {
                for (submitted, base) in group.into_iter().zip(bases) {
                    (submitted.written)(Ok(base));
                }
            }
            Err(why) => {
                if failed.is_none() {
                    tracing::error!(why, "the metadata cannot be written; this node votes no more");
                    failed = Some(why.clone());
                }
                for submitted in group {
                    (submitted.written)(Err(io::Error::other(why.clone())));
                }
            }
        }
    }
}

fn put(log: &mut Log<FileDisk>, group: &[Submitted]) -> anyhow::Result<Vec<Position>> {
    let batches: Vec<&Batch> = group.iter().map(|submitted| &submitted.batch).collect();
    let appended = log.append(&batches)?;
    if group.iter().any(|submitted| submitted.durable) {
        log.sync()?;
    }
    Ok(appended.bases)
}
