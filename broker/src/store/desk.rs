//! The writer of a node in a cluster: what all Raft groups append goes through
//! one thread into the one log, many groups' batches in one commit group with
//! one sync.
//!
//! Answers leave in the order of the batches, as openraft's one flush watermark
//! a group wants. An error of a write or a sync ends the process (`die`): what
//! the disk holds is known again only to a new process that reads it.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tidegate_store::raft::{self, Written};
use tidegate_store::{AppendError, Batch, Disk, Log, Position, RemoveError};
use tracing::{info, warn};

use super::Store;
use super::reserve::Reserve;
use super::writer::die;
use crate::config::Durability;

/// Batches that are taken into one group; what is over waits for the next.
const GROUP_BATCHES_MAX: usize = 4_096;
/// How long there is nothing to do before what is durable is written down as such.
const IDLE: Duration = Duration::from_secs(1);
/// How soon an append that found no room is tried again.
const RETRY: Duration = Duration::from_millis(100);

struct Job {
    batch: Batch,
    durable: bool,
    written: Written,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Below it nothing is needed any more, as the owner says.
    removable: Option<Position>,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the thread, and says when it has to end.
    store: Arc<Store>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where Raft groups hand in what they want written. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").field("waiting", &self.shared.lock().jobs.len()).finish()
    }
}

impl raft::Writer for Desk {
    fn submit(&self, batch: Batch, durable: bool, written: Written) {
        self.shared.lock().jobs.push_back(Job { batch, durable, written });
        self.shared.store.wake();
    }
}

impl Desk {
    /// Files of the log that lie wholly below `position` may go.
    pub(crate) fn remove_before(&self, position: Position) {
        self.shared.lock().removable = Some(position);
        self.shared.store.wake();
    }

    /// Starts the thread. It ends when the store does ([`Store::end`]). What is
    /// set aside in `reserve` is used when the disk is full.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start<D: Disk + Send + 'static>(
        log: Log<D>,
        reserve: Option<Arc<Reserve>>,
        store: Arc<Store>,
    ) -> io::Result<(Desk, JoinHandle<()>)>
    where
        D::File: Send + Sync,
    {
        // Otherwise what is durable has to survive the process alone.
        let sync = store.durability == Durability::Fsync;
        let shared = Arc::new(Shared { state: Mutex::default(), store: Arc::clone(&store) });
        let desk = Desk { shared: Arc::clone(&shared) };
        let store_of = Arc::clone(&store);
        let worker = Worker { log, reserve, sync, store: store_of, shared, unproven: true };
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || worker.run())?;
        // Only here; what was handed in before is found by the first look.
        let _ = store.writer.set(thread.thread().clone());
        thread.thread().unpark();
        Ok((desk, thread))
    }
}

struct Worker<D: Disk> {
    log: Log<D>,
    reserve: Option<Arc<Reserve>>,
    sync: bool,
    store: Arc<Store>,
    shared: Arc<Shared>,
    /// Whether something was written that the log does not know to be durable.
    unproven: bool,
}

impl<D: Disk> Worker<D> {
    fn run(mut self) {
        let mut since = Instant::now();
        loop {
            let (jobs, removable) = self.take();
            let idle = jobs.is_empty() && removable.is_none();
            if !jobs.is_empty() {
                if !self.commit(jobs) {
                    self.store.ended.store(true, Ordering::Release);
                    return;
                }
                since = Instant::now();
            }
            if let Some(position) = removable {
                self.remove(position);
            }
            self.count();
            if !idle {
                continue;
            }
            if self.store.ending.load(Ordering::Acquire) {
                self.prove();
                self.store.ended.store(true, Ordering::Release);
                return;
            }
            if since.elapsed() >= IDLE {
                self.prove();
            }
            thread::park_timeout(IDLE);
        }
    }

    /// What there is to do. Nothing is removed while a job waits, as it may be
    /// the one that says why that is not needed.
    fn take(&self) -> (Vec<Job>, Option<Position>) {
        let mut state = self.shared.lock();
        let count = state.jobs.len().min(GROUP_BATCHES_MAX);
        let jobs = state.jobs.drain(..count).collect();
        (jobs, if state.jobs.is_empty() { state.removable.take() } else { None })
    }

    /// False: the node ends, and there is no room for them.
    fn commit(&mut self, jobs: Vec<Job>) -> bool {
        let began = Instant::now();
        let batches: Vec<&Batch> = jobs.iter().map(|job| &job.batch).collect();
        let records: u64 = batches.iter().map(|batch| u64::from(batch.records())).sum();
        let mut said = false;
        let bases = loop {
            match self.log.append(&batches) {
                Ok(appended) => break appended.bases,
                Err(AppendError::Full { bytes }) => {
                    self.store.meters.append_errors.add(1);
                    if self.reserve.as_ref().is_some_and(|reserve| reserve.give()) {
                        continue;
                    }
                    if !std::mem::replace(&mut said, true) {
                        warn!(bytes, "no room on the disk: this replica takes nothing more");
                    }
                    thread::sleep(RETRY);
                    if self.store.ending.load(Ordering::Acquire) {
                        // None of it was acknowledged.
                        warn!(bytes, "the node ends without room for what was to be written");
                        return false;
                    }
                }
                Err(error @ (AppendError::TooLarge { .. } | AppendError::Fatal(_))) => die(&error),
            }
        };
        if said {
            info!("there is room on the disk again");
        }
        self.unproven = true;
        let written = Instant::now();
        self.store.meters.timings.append.observe((written - began).as_micros() as u64, 1);
        if self.sync && jobs.iter().any(|job| job.durable) {
            if let Err(error) = self.log.sync() {
                die(&error);
            }
            self.store.meters.timings.fsync.observe(written.elapsed().as_micros() as u64, 1);
        }
        self.store.meters.timings.group_records.observe(records, 1);
        for (job, base) in jobs.into_iter().zip(bases) {
            (job.written)(Ok(base));
        }
        true
    }

    fn remove(&mut self, position: Position) {
        match self.log.remove_before(position) {
            Ok(removed) if removed.segments > 0 => {
                info!(segments = removed.segments, bytes = removed.bytes, "space was given back");
            }
            Ok(_) | Err(RemoveError::Full) => {}
            Err(RemoveError::Fatal(fatal)) => die(&fatal),
        }
    }

    /// Writes down that everything is durable, so that later damage to it is
    /// told from a torn tail.
    fn prove(&mut self) {
        if !std::mem::take(&mut self.unproven) {
            return;
        }
        match self.log.prove() {
            Ok(_) | Err(AppendError::Full { .. }) => {}
            Err(error @ (AppendError::TooLarge { .. } | AppendError::Fatal(_))) => die(&error),
        }
    }

    /// Tells the scrape what the log has done.
    fn count(&self) {
        let (meters, counters) = (&self.store.meters, self.log.counters());
        meters.appends.set(counters.groups);
        meters.records.set(counters.records);
        meters.record_bytes.set(counters.record_bytes);
        meters.written_bytes.set(counters.written_bytes);
        meters.syncs.set(counters.syncs);
        if counters.segments != meters.segments_begun.value() || meters.segments.value() == 0 {
            meters.segments_begun.set(counters.segments);
            meters.segments.set(self.log.segments().len() as u64);
        }
        meters.bytes.set(self.log.end().0 - self.log.first().0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tidegate_store::raft::Writer;
    use tidegate_store::{Kind, Options, SimDisk};

    use super::*;

    fn batch(index: u64, body: &[u8]) -> Batch {
        let mut batch = Batch::new();
        batch.push(Kind::Entry, 0, 3, 1, index, |out| out.extend_from_slice(body));
        batch
    }

    #[test]
    fn answers_come_in_order_and_what_was_answered_is_durable() {
        let disk = SimDisk::new(7);
        let (log, _) = Log::open(disk.clone(), Options::new(1).create()).expect("a new log");
        let store = Arc::new(Store::new(Durability::Fsync, 1));
        let (desk, thread) = Desk::start(log, None, Arc::clone(&store)).expect("a thread");
        let (tell, told) = mpsc::channel();
        for index in 0..100 {
            let tell = tell.clone();
            let written = move |result: io::Result<Position>| {
                tell.send((index, result.expect("room"))).expect("the test waits");
            };
            desk.submit(batch(index, b"body"), index % 2 == 0, Box::new(written));
        }
        let mut last = None;
        for wanted in 0..100 {
            let (index, base) = told.recv().expect("an answer each");
            assert_eq!(index, wanted);
            assert!(last < Some(base), "one behind the other");
            last = Some(base);
        }
        store.end();
        thread.join().expect("it ends by itself");
        disk.crash();
        let (log, _) = Log::open(disk, Options::new(1)).expect("it is there");
        let mut scan = log.scan(log.first()).expect("readable");
        let mut found = 0;
        while let Some((_, record)) = scan.next_record().expect("undamaged") {
            assert_eq!((record.index, record.body), (found, &b"body"[..]));
            found += 1;
        }
        assert_eq!(found, 100);
    }
}
