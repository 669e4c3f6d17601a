//! The store: what has to survive is on the disk before anybody is told so.
//!
//! The shards hand the records of a turn to one thread, the writer, which puts
//! what all of them sent into one commit group, makes it durable with one sync,
//! and gives the batches back; only then do the partitions apply the records
//! and the acknowledgements leave (ACK-1). Nobody waits for anybody: a shard
//! whose batches have not come back goes on, and stops reading publishers when
//! too much is on its way.
//!
//! At a start each shard reads the records of its own partitions back, all at
//! once, and nobody is let in before the last one has.
//!
//! Messages of queues that nobody reads are on the disk alone; another thread,
//! the reader, brings them back when their client does. From time to time all
//! partitions write their state, so that a start reads from there and older
//! files can go (`checkpoint`).
//!
//! An error of a sync or write ends the process at once with
//! [`EXIT_STORE_FAILED`]: what the disk holds is known again only to a new
//! process that reads it.

pub mod directory;
pub mod meters;

mod checkpoint;
pub(crate) mod desk;
mod failure;
mod found;
mod open;
pub(crate) mod reader;
mod replay;
mod reserve;
mod submission;
mod volume;
mod writer;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use tidegate_core::counters::Count;
use tidegate_core::ids::{Millis, ShardId};
use tokio::sync::oneshot;
use tracing::info;

use self::meters::StoreMeters;
use crate::commands::backup::Parts;
use crate::config::Durability;

pub use self::failure::exit_status;
pub(crate) use self::open::{Held, Opened, open};
use self::reader::Ask;
pub use self::reader::Fetched;
pub(crate) use self::replay::{Recovery, ReplayError, Replayed};
pub use self::submission::Submission;
pub(crate) use self::submission::{
    FETCHES_MAX, FINISH_PATIENCE, LAZY_MS, SUBMISSIONS_MAX, Submitter,
};

/// The exit status when the disk failed (EX_IOERR of sysexits.h).
pub const EXIT_STORE_FAILED: i32 = 74;

/// What the shards, the writer and the scrape share.
#[derive(Debug)]
pub struct Store {
    /// How surely things are kept.
    pub durability: Durability,
    /// What is counted.
    pub meters: StoreMeters,
    /// What each shard sent; a shard never has more on its way than fits.
    submitted: Box<[ArrayQueue<Submission>]>,
    writer: OnceLock<Thread>,
    /// What each shard wants to have from the disk; bounded in the same way.
    asked: Box<[ArrayQueue<Ask>]>,
    reader: OnceLock<Thread>,
    /// Fetches that the cores asked for, and those that are done: what a fetch
    /// may still need is not removed.
    fetches: [AtomicU64; 2],
    /// The last append found no room.
    full: AtomicBool,
    /// Whoever wants a backup, one at a time.
    backups: ArrayQueue<oneshot::Sender<anyhow::Result<Parts>>>,
    ending: AtomicBool,
    ended: AtomicBool,
}

impl Store {
    pub(crate) fn new(durability: Durability, shards: usize) -> Store {
        Store {
            durability,
            meters: StoreMeters::default(),
            submitted: (0..shards).map(|_| ArrayQueue::new(SUBMISSIONS_MAX)).collect(),
            writer: OnceLock::new(),
            asked: (0..shards).map(|_| ArrayQueue::new(FETCHES_MAX)).collect(),
            reader: OnceLock::new(),
            fetches: [AtomicU64::new(0), AtomicU64::new(0)],
            full: AtomicBool::new(false),
            backups: ArrayQueue::new(1),
            ending: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// All shards have read their records back; the time of the newest one.
    pub(crate) fn recovered(&self, replayed: &[Replayed], bytes: u64, took: Duration) -> Millis {
        let records = replayed.iter().map(|replayed| replayed.records).sum();
        let values = [records, bytes, took.as_micros() as u64];
        for (gauge, value) in self.meters.recovery.iter().zip(values) {
            gauge.set(value);
        }
        replayed.iter().map(|replayed| replayed.newest).max().unwrap_or(0)
    }

    /// Says what came back.
    pub(crate) fn announce(&self) {
        let [records, bytes, micros] = self.meters.recovery.each_ref().map(Count::value);
        info!(records, bytes, took_ms = micros / 1_000, "what was kept is back");
    }

    fn submit(&self, shard: ShardId, submission: Submission) {
        let room = self.submitted[shard.index()].push(submission);
        assert!(room.is_ok(), "a shard has at most as many on their way as fit");
        self.wake();
    }

    /// Asks for what a backup is made of; none: another one is being asked for.
    pub(crate) fn backup(&self) -> Option<oneshot::Receiver<anyhow::Result<Parts>>> {
        let (answer, answered) = oneshot::channel();
        self.backups.push(answer).ok()?;
        self.wake();
        Some(answered)
    }

    fn fetches_asked(&self, count: usize) {
        self.fetches[0].fetch_add(count as u64, Ordering::AcqRel);
    }

    /// Hands a question to the reader; a shard has at most [`FETCHES_MAX`] there.
    pub(crate) fn fetch(&self, shard: ShardId, ask: Ask) {
        let room = self.asked[shard.index()].push(ask);
        assert!(room.is_ok(), "a shard has at most as many on their way as fit");
        if let Some(reader) = self.reader.get() {
            reader.unpark();
        }
    }

    fn fetch_done(&self) {
        self.fetches[1].fetch_add(1, Ordering::AcqRel);
    }

    /// Wakes the writer if it sleeps; costs no system call if it does not.
    fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// All shards have ended: the writer may, after the rest.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether everything is on the disk and the writer has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}
