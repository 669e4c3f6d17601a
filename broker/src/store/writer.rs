//! The writer: one thread, one commit group after the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tidegate_store::{AppendError, FileDisk, Log};
use tracing::{error, info, warn};

use super::checkpoint::Checkpoints;
use super::open::Opened;
use super::{EXIT_STORE_FAILED, Store, Submission};
use crate::commands::backup::Parts;
use crate::config::Durability;
use crate::shard::Shared;
use crate::telemetry::log;

/// How long there is nothing to do before what is durable is written down as such.
const IDLE: Duration = Duration::from_secs(1);
/// How soon an append that found no room is tried again.
const RETRY: Duration = Duration::from_millis(100);

struct Writer {
    /// Holds the lock of the directory, and the metadata beside the log.
    opened: Opened,
    shared: Arc<Shared>,
    store: Arc<Store>,
    window: Duration,
    /// How long the last sync took, and how many batches it was for.
    last: (Duration, usize),
    checkpoints: Checkpoints,
    /// The partition whose state is to be written next, in a round.
    next_state: Option<u16>,
    /// Whether something was written that the log does not know to be durable.
    unproven: bool,
}

/// Starts the thread.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn start(
    opened: Opened,
    shared: Arc<Shared>,
    store: Arc<Store>,
    window: Duration,
    segment_bytes: u64,
) -> io::Result<JoinHandle<()>> {
    let own = Arc::clone(&store);
    let checkpoints = Checkpoints::new(&opened.log, segment_bytes);
    let writer = Writer {
        opened,
        shared,
        store: own,
        window,
        last: (Duration::ZERO, 0),
        checkpoints,
        next_state: None,
        unproven: true,
    };
    let thread = thread::Builder::new().name("store".to_owned()).spawn(move || writer.run())?;
    // Only here; what was submitted before is found by the first look.
    let _ = store.writer.set(thread.thread().clone());
    thread.thread().unpark();
    Ok(thread)
}

impl Writer {
    fn run(mut self) {
        // The shard of each submission, and it.
        let mut group: Vec<(usize, Submission)> = Vec::new();
        let mut since = Instant::now();
        self.count();
        loop {
            self.collect(&mut group);
            if !group.is_empty() {
                self.wait_for_company(&mut group);
                self.commit(&mut group);
                since = Instant::now();
                self.look();
                continue;
            }
            if self.store.ending.load(Ordering::Acquire) {
                self.prove();
                self.store.ended.store(true, Ordering::Release);
                return;
            }
            if self.unproven && since.elapsed() >= IDLE {
                self.prove();
            }
            self.look();
            thread::park_timeout(IDLE);
        }
    }

    /// What a backup is made of.
    fn hand_out(&mut self) -> anyhow::Result<Parts> {
        if let Err(error) = self.opened.log.sync() {
            die(&error);
        }
        // Nobody writes it while a node runs.
        let identity = std::fs::read(self.opened.directory.identity())?;
        Ok(Parts { log: self.opened.log.backup(), identity })
    }

    fn look(&mut self) {
        if let Some(answer) = self.store.backups.pop() {
            // Who asked may have left.
            let _ = answer.send(self.hand_out());
        }
        let Writer { opened, shared, store, checkpoints, next_state, .. } = self;
        checkpoints.look(&mut opened.log, shared, store, next_state);
        self.count();
    }

    /// Takes what the shards sent, in their order.
    fn collect(&self, group: &mut Vec<(usize, Submission)>) {
        for (shard, submitted) in self.store.submitted.iter().enumerate() {
            // Bounded: what a shard may have on its way is.
            while let Some(submission) = submitted.pop() {
                group.push((shard, submission));
            }
        }
    }

    /// Under load a group is larger, and so the disk quicker, for a moment's wait.
    fn wait_for_company(&self, group: &mut Vec<(usize, Submission)>) {
        let (took, batches) = self.last;
        let window = self.window.min(took / 2);
        if batches > group.len() && !window.is_zero() {
            thread::sleep(window);
            self.collect(group);
        }
    }

    /// Writes a group, makes it as durable as promised, and gives the batches back.
    fn commit(&mut self, group: &mut Vec<(usize, Submission)>) {
        let began = Instant::now();
        let batches: Vec<_> = group.iter().map(|(_, submission)| &submission.batch).collect();
        let records: u64 = batches.iter().map(|batch| u64::from(batch.records())).sum();
        let bases = loop {
            match self.opened.log.append(&batches) {
                Ok(appended) => break appended.bases,
                Err(AppendError::Full { bytes }) => self.wait_for_room(bytes),
                Err(error @ (AppendError::TooLarge { .. } | AppendError::Fatal(_))) => die(&error),
            }
        };
        self.unproven = true;
        if self.store.full.swap(false, Ordering::AcqRel) {
            info!("there is room on the disk again");
        }
        let meters = &self.store.meters;
        let written = Instant::now();
        let append = written - began;
        meters.timings.append.observe(append.as_micros() as u64, 1);
        if self.store.durability == Durability::Fsync {
            if let Err(error) = self.opened.log.sync() {
                die(&error);
            }
            let took = written.elapsed();
            meters.timings.fsync.observe(took.as_micros() as u64, 1);
            self.last = (took, group.len());
        }
        meters.timings.group_records.observe(records, 1);
        self.count();
        for ((shard, mut submission), base) in group.drain(..).zip(bases) {
            submission.base = base.0;
            for written in std::mem::take(&mut submission.written) {
                let first = submission.offsets[written.first as usize];
                self.checkpoints.written(written, base.0 + u64::from(first));
            }
            self.shared.mailboxes[shard].complete(submission);
        }
        for mailbox in &self.shared.mailboxes {
            if mailbox.has_completions() {
                mailbox.wake();
            }
        }
    }

    /// Nothing was written. What does not write goes on meanwhile.
    fn wait_for_room(&self, bytes: u64) {
        self.store.meters.append_errors.add(1);
        self.opened.reserve.no_room(&self.shared.node);
        if self.opened.reserve.give() {
            return; // tried again at once
        }
        if !self.store.full.swap(true, Ordering::AcqRel) {
            warn!(bytes, "no room on the disk: what has to be kept waits for it, and is refused");
        }
        thread::sleep(RETRY);
        if self.store.ending.load(Ordering::Acquire) {
            // None of it was acknowledged.
            warn!(bytes, "the node ends without room for what was to be written");
            self.store.ended.store(true, Ordering::Release);
            loop {
                thread::park();
            }
        }
    }

    /// Writes down that everything is durable, so that later damage to it is
    /// told from a torn tail.
    fn prove(&mut self) {
        if !std::mem::take(&mut self.unproven) {
            return;
        }
        match self.opened.log.prove() {
            Ok(_) => self.count(),
            Err(AppendError::Full { .. }) => {}
            Err(error @ (AppendError::TooLarge { .. } | AppendError::Fatal(_))) => die(&error),
        }
    }

    /// Tells the scrape what the log has done.
    fn count(&self) {
        let log: &Log<FileDisk> = &self.opened.log;
        let (meters, counters) = (&self.store.meters, log.counters());
        meters.appends.set(counters.groups);
        meters.records.set(counters.records);
        meters.record_bytes.set(counters.record_bytes);
        meters.written_bytes.set(counters.written_bytes);
        meters.syncs.set(counters.syncs);
        // A new segment is the only way to more of them.
        if counters.segments != meters.segments_begun.value() || meters.segments.value() == 0 {
            meters.segments_begun.set(counters.segments);
            meters.segments.set(log.segments().len() as u64);
        }
        meters.bytes.set(log.end().0 - log.first().0);
    }
}

/// The end: a second try could succeed though what was written is lost.
pub(super) fn die(error: &dyn std::error::Error) -> ! {
    error!(
        error = %error,
        "the disk failed, the process ends; the next start reads what is really there"
    );
    log::flush();
    std::process::exit(EXIT_STORE_FAILED);
}
