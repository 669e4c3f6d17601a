//! What a shard has on its way to the disk and back: batches of records, and
//! fetches of messages that are on the disk alone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_core::ids::{Millis, ShardId};
use tidegate_core::journal::{self, Written};
use tidegate_core::limits::JOURNAL_BYTES_MAX;
use tidegate_core::{Fetch, RecordError, Shard, Why};
use tidegate_store::{Batch, Kind};

use super::Store;
use super::reader::{Ask, Fetched};

/// Batches of one shard that may be on their way; what comes meanwhile makes
/// one larger batch.
pub(crate) const SUBMISSIONS_MAX: usize = 64;
/// How long records may lie that nobody waits for.
pub(crate) const LAZY_MS: Millis = 50;
/// Submissions whose buffers are kept for the next ones, and how large they
/// may be.
const SPARE_MAX: usize = 4;
const SPARE_BYTES_MAX: usize = 256 << 10;
/// The term of a node that is alone.
pub(crate) const TERM: u64 = 1;
/// Fetches of one shard that the reader may have at once.
pub(crate) const FETCHES_MAX: usize = 16;
/// How long the end of a shard waits for the disk.
pub(crate) const FINISH_PATIENCE: Duration = Duration::from_millis(500);

/// One batch, framed as it will lie in the log.
#[derive(Debug, Default)]
pub struct Submission {
    /// The core's number of the batch.
    pub(super) number: u64,
    pub(super) batch: Batch,
    /// Where each record lies in it.
    pub(super) offsets: Vec<u32>,
    /// States of partitions that are in it.
    pub(super) written: Vec<Written>,
    /// Where the batch lies in the log, once it is there.
    pub(super) base: u64,
}

impl Submission {
    fn fill(&mut self, mut from: journal::Batch) {
        self.written = std::mem::take(&mut from.written);
        self.number = from.number;
        self.batch.clear();
        self.offsets.clear();
        for (entry, body) in from.records() {
            let partition = u16::from(entry.partition);
            let write = |out: &mut Vec<u8>| out.extend_from_slice(body);
            let kind = if entry.state { Kind::Snapshot } else { Kind::Entry };
            self.offsets.push(self.batch.push(kind, 0, partition, TERM, entry.index, write));
        }
    }
}

/// A shard's end of the store.
#[derive(Debug)]
pub(crate) struct Submitter {
    store: Arc<Store>,
    shard: ShardId,
    /// Submissions that have not come back.
    outstanding: usize,
    /// A batch that was taken from the core though there is no room for it, so
    /// that the core knows how far behind the store is.
    held: Option<journal::Batch>,
    spare: Vec<Submission>,
    /// Fetches that the reader has not been asked for, and how many it has.
    fetches: VecDeque<Fetch>,
    fetching: usize,
    positions: Vec<u64>,
    lazy_at: Option<Millis>,
}

impl Submitter {
    pub(crate) fn new(store: Arc<Store>, shard: ShardId) -> Submitter {
        Submitter {
            store,
            shard,
            outstanding: 0,
            held: None,
            spare: Vec::new(),
            fetches: VecDeque::new(),
            fetching: 0,
            positions: Vec::new(),
            lazy_at: None,
        }
    }

    /// Hands over what the core wants written, unless nobody waits for it and it
    /// has not lain long, or there is no room: then what comes back wakes the shard.
    #[inline]
    pub(crate) fn submit(&mut self, now: Millis, core: &mut Shard) {
        match core.has_batch() {
            None if self.held.is_none() => {
                self.lazy_at = None;
                return;
            }
            Some(false) if self.held.is_none() => {
                if now < *self.lazy_at.get_or_insert(now + LAZY_MS) {
                    return;
                }
            }
            None | Some(_) => {}
        }
        self.submit_all(core);
    }

    fn submit_all(&mut self, core: &mut Shard) {
        self.lazy_at = None;
        while self.outstanding < SUBMISSIONS_MAX {
            let Some(batch) = self.held.take().or_else(|| core.take_batch()) else { break };
            let mut submission = self.spare.pop().unwrap_or_default();
            submission.fill(batch);
            self.store.submit(self.shard, submission);
            self.outstanding += 1;
        }
        if self.held.is_none()
            && self.outstanding == SUBMISSIONS_MAX
            && core.journal_bytes() >= JOURNAL_BYTES_MAX
        {
            self.held = core.take_batch();
        }
    }

    /// What was handed over is as durable as promised.
    pub(crate) fn complete(&mut self, now: Millis, core: &mut Shard, mut submission: Submission) {
        self.outstanding -= 1;
        self.positions.clear();
        let base = submission.base;
        self.positions.extend(submission.offsets.iter().map(|offset| base + u64::from(*offset)));
        core.durable(now, submission.number, &self.positions);
        if self.spare.len() < SPARE_MAX {
            submission.batch.clear();
            submission.batch.shrink_to(SPARE_BYTES_MAX);
            submission.offsets.clear();
            self.spare.push(submission);
        }
    }

    /// When records that nobody waits for have lain long enough.
    pub(crate) fn next_tick(&self) -> Option<Millis> {
        self.lazy_at.filter(|_| self.outstanding < SUBMISSIONS_MAX)
    }

    /// Asks the reader for what the core wants to have from the disk. What is
    /// only moved waits while much is on its way to the disk.
    #[inline]
    pub(crate) fn fetch(&mut self, core: &mut Shard) {
        let asked = core.take_fetches();
        if !asked.is_empty() {
            self.store.fetches_asked(asked.len());
            // Clients wait for those, and nobody for the rest.
            let (send, moves): (Vec<_>, Vec<_>) =
                asked.into_iter().partition(|fetch| fetch.why == Why::Send);
            send.into_iter().rev().for_each(|fetch| self.fetches.push_front(fetch));
            self.fetches.extend(moves);
        }
        while self.fetching < FETCHES_MAX
            && let Some(fetch) = self.fetches.pop_front()
        {
            if fetch.why == Why::Move && core.journal_bytes() >= JOURNAL_BYTES_MAX / 4 {
                self.fetches.push_front(fetch);
                return;
            }
            self.store.fetch(self.shard, Ask { fetch, image: None });
            self.fetching += 1;
        }
    }

    /// What was fetched is here.
    ///
    /// # Errors
    /// It is no record of a message: the log is not what was written.
    pub(crate) fn fetched(
        &mut self,
        now: Millis,
        core: &mut Shard,
        fetched: Fetched,
    ) -> Result<(), RecordError> {
        self.fetching -= 1;
        core.fetched(now, &fetched.fetch, &fetched.bodies)
    }

    /// Hands everything over and waits until it is durable, for at most
    /// `patience` if there is one.
    pub(crate) fn settle(
        &mut self,
        core: &mut Shard,
        patience: Option<Duration>,
        now: impl Fn() -> Millis,
        mut next: impl FnMut() -> Option<Submission>,
    ) {
        let until = patience.map(|patience| Instant::now() + patience);
        loop {
            while let Some(submission) = next() {
                self.complete(now(), core, submission);
            }
            self.submit_all(core);
            let done = self.outstanding == 0 && core.has_batch().is_none();
            if done || until.is_some_and(|until| Instant::now() >= until) {
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}
