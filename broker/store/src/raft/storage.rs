//! A partition's log as openraft drives it.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::async_runtime::oneshot::OneshotSender;
use openraft::vote::leader_id_std::{CommittedLeaderId, LeaderId};
use openraft::{Entry, EntryPayload, LogId, LogState, OptionalSend, RaftLogReader, Vote};

use super::index::{PartitionIndex, Place};
use super::{Config, EntryBody, Payload, Writer};
use crate::batch::Batch;
use crate::disk::Disk;
use crate::limits::{READ_ENTRIES_BYTES, TAIL_BYTES_MAX};
use crate::membership::{Membership, VOTE_COMMITTED, encode_vote};
use crate::position::Position;
use crate::reader::{ReadError, Reader};
use crate::record::{EMPTIED, Kind, Record, u64_at};

type Id = LogId<CommittedLeaderId<u64>>;
type StoredEntry = Entry<CommittedLeaderId<u64>, Payload>;

/// One partition's log. Clones are the same log; each reads with a buffer of
/// its own.
#[derive(Debug)]
pub struct RaftLog<D: Disk, W> {
    partition: u16,
    state: Arc<Mutex<State>>,
    /// Held from a change of the index until its records are submitted.
    order: Arc<Mutex<()>>,
    reader: Reader<D>,
    writer: W,
}

#[derive(Debug)]
struct State {
    index: PartitionIndex,
    writes: u64,
    /// The writer's first error: nothing after it can be trusted.
    failed: Option<String>,
}

impl<D: Disk, W: Writer> Clone for RaftLog<D, W> {
    fn clone(&self) -> Self {
        Self {
            partition: self.partition,
            state: self.state.clone(),
            order: self.order.clone(),
            reader: self.reader.clone(),
            writer: self.writer.clone(),
        }
    }
}

impl<D: Disk, W: Writer> RaftLog<D, W> {
    /// Of a partition whose records up to now were replayed into `index`.
    pub fn new(partition: u16, index: PartitionIndex, reader: Reader<D>, writer: W) -> Self {
        let state = State { index, writes: 0, failed: None };
        let state = Arc::new(Mutex::new(state));
        Self { partition, state, order: Arc::default(), reader, writer }
    }

    /// The oldest position that this partition still needs for its entries.
    pub fn oldest(&self) -> Option<Position> {
        self.lock().index.oldest()
    }

    /// What an entry of the owner says; none: the entry is gone, or is none of
    /// the owner's. Blocks on the disk.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written.
    pub fn entry(&mut self, index: u64) -> io::Result<Option<Bytes>> {
        let found = self.entries(index..index + 1, usize::MAX)?.pop();
        Ok(found.and_then(|entry| match entry.payload {
            EntryPayload::Normal(body) => Some(body.bytes),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        }))
    }

    /// Bytes of the bodies that are not durable yet.
    pub fn tail_bytes(&self) -> usize {
        self.lock().index.tail_bytes()
    }

    /// What it had before it was given up: [`PartitionIndex::floor`].
    pub fn floor(&self) -> Option<(u64, u64)> {
        self.lock().index.floor()
    }

    /// Gives the partition up: of its log only the vote stays, so that this node
    /// never votes twice in a term, and the place of its last entry, so that it
    /// supports no candidate that lacks what it may have confirmed. `done` is called when that is durable. What
    /// drove the log before must not use it any more.
    ///
    /// # Errors
    /// The writer has failed before.
    pub fn empty(&self, done: impl FnOnce(io::Result<()>) + Send + 'static) -> io::Result<()> {
        let partition = self.partition;
        let change = |index: &mut PartitionIndex, _, batch: &mut Batch| {
            index.empty();
            let (term, last) = index.floor().unwrap_or_default();
            batch.push(Kind::Compacted, EMPTIED, partition, term, last, |_| {});
            Ok(())
        };
        self.write(true, change, done)
    }

    /// Makes `node` the only voter, whoever voted before: behind the last entry
    /// comes a membership of it alone, in a term above all that is known here,
    /// with a vote for itself. With `from`, the log first becomes one that ends
    /// there, as behind a snapshot. `done` is called when that is durable. What
    /// drove the log before must not use it any more.
    ///
    /// # Errors
    /// The writer has failed before, or there is nothing behind which it could
    /// come.
    pub fn force(
        &self,
        node: u64,
        from: Option<(u64, u64)>,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<(u64, u64)> {
        let partition = self.partition;
        let mut forced = (0, 0);
        let change = |index: &mut PartitionIndex, write, batch: &mut Batch| {
            if let Some((term, last)) = from {
                index.empty();
                batch.push(Kind::Compacted, EMPTIED, partition, 0, 0, |_| {});
                index.purge(term, last);
                batch.push(Kind::Compacted, 0, partition, term, last, |_| {});
            }
            let nothing = || io::Error::other("this replica has no entry");
            let (last_term, last) = index.last().or(index.purged()).ok_or_else(nothing)?;
            let voted = index.vote().map_or(0, |vote| vote.term);
            forced = (last_term.max(voted) + 1, last + 1);
            let record = |kind, index, body: Vec<u8>| Record {
                kind,
                flags: 0,
                partition,
                term: forced.0,
                index,
                body: body.into(),
            };
            let mut body = Vec::new();
            encode_vote(&mut body, node);
            let vote = record(Kind::Vote, 0, body);
            push(batch, &vote);
            index.set_vote(vote);
            let mut body = Vec::new();
            Membership { voters: vec![vec![node]], learners: Vec::new() }.encode(&mut body);
            let membership = record(Kind::Membership, forced.1, body);
            let offset = push(batch, &membership);
            index.push(write, offset, membership).map_err(io::Error::other)
        };
        self.write(true, change, done)?;
        Ok(forced)
    }

    /// What is known of the log, for when it is opened again.
    pub fn index(&self) -> PartitionIndex {
        self.lock().index.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index and submits what says so. The order of records is the
    /// order of changes, also if the writer answers before it returns.
    fn write(
        &self,
        durable: bool,
        change: impl FnOnce(&mut PartitionIndex, u64, &mut Batch) -> io::Result<()>,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) -> io::Result<()> {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = Batch::new();
        let write = {
            let mut state = self.lock();
            if let Some(failed) = &state.failed {
                return Err(io::Error::other(failed.clone()));
            }
            state.writes += 1;
            let write = state.writes;
            change(&mut state.index, write, &mut batch)?;
            write
        };
        let shared = self.state.clone();
        let written = move |result: io::Result<Position>| {
            let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let result = match result {
                Ok(base) => {
                    if durable {
                        state.index.flushed(write, base);
                    }
                    Ok(())
                }
                Err(error) => {
                    state.failed.get_or_insert_with(|| error.to_string());
                    Err(error)
                }
            };
            drop(state);
            done(result);
        };
        self.writer.submit(batch, durable, Box::new(written));
        drop(order);
        Ok(())
    }

    /// The same, and waits until it is durable.
    async fn write_and_wait<C: Config>(
        &self,
        change: impl FnOnce(&mut PartitionIndex, u64, &mut Batch) -> io::Result<()>,
    ) -> io::Result<()> {
        let (tx, rx) = C::oneshot::<io::Result<()>>();
        self.write(true, change, move |result| {
            // Nobody waits any more if openraft is shutting down.
            let _ = tx.send(result);
        })?;
        rx.await.map_err(|_| io::Error::other("the writer ended without an answer"))?
    }

    /// Entries of a range in order, at least one if there is one, and no more
    /// bytes than said after it.
    fn entries(
        &mut self,
        range: std::ops::Range<u64>,
        bytes: usize,
    ) -> io::Result<Vec<StoredEntry>> {
        let mut found = Vec::new();
        let mut sum = 0;
        let mut next = range.start;
        while next < range.end {
            let place = {
                let state = self.lock();
                // What was purged meanwhile may be missing at the beginning only.
                if found.is_empty() {
                    next = next.max(state.index.range().start);
                }
                state.index.place(next).filter(|_| next < range.end)
            };
            let record = match place {
                None => break,
                Some(Place::Tail(record)) => record,
                Some(Place::At(at)) => match self.reader.read(at) {
                    Ok(record) => record,
                    Err(ReadError::Absent { .. }) if found.is_empty() && self.is_purged(next) => {
                        continue;
                    }
                    Err(error) => return Err(io::Error::other(error)),
                },
            };
            sum += record.body.len();
            if sum > bytes && !found.is_empty() {
                break;
            }
            found.push(decode(record)?);
            next += 1;
        }
        Ok(found)
    }

    fn is_purged(&self, index: u64) -> bool {
        self.lock().index.purged().is_some_and(|(_, purged)| index <= purged)
    }
}

impl<C: Config, D: Disk, W: Writer> RaftLogReader<C> for RaftLog<D, W> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<StoredEntry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start..end, usize::MAX)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<StoredEntry>, io::Error> {
        self.entries(start..end, READ_ENTRIES_BYTES)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<LeaderId<u64, u64>>>, io::Error> {
        let Some(record) = self.lock().index.vote().cloned() else { return Ok(None) };
        if record.body.len() != 8 {
            return Err(damaged(&record));
        }
        let leader_id = LeaderId { term: record.term, voted_for: u64_at(&record.body, 0) };
        Ok(Some(Vote { leader_id, committed: record.flags & VOTE_COMMITTED != 0 }))
    }
}

impl<C: Config, D: Disk, W: Writer> RaftLogStorage<C> for RaftLog<D, W> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        let state = self.lock();
        let last_purged_log_id = state.index.purged().map(id);
        let last_log_id = state.index.last().map(id).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<LeaderId<u64, u64>>) -> Result<(), io::Error> {
        let mut body = Vec::new();
        encode_vote(&mut body, vote.leader_id.voted_for);
        let record = Record {
            kind: Kind::Vote,
            flags: if vote.committed { VOTE_COMMITTED } else { 0 },
            partition: self.partition,
            term: vote.leader_id.term,
            index: 0,
            body: body.into(),
        };
        let change = |index: &mut PartitionIndex, _, batch: &mut Batch| {
            push(batch, &record);
            index.set_vote(record);
            Ok(())
        };
        self.write_and_wait::<C>(change).await
    }

    async fn save_committed(&mut self, committed: Option<Id>) -> Result<(), io::Error> {
        // It is written with the next entries: a record of its own would wake the
        // writer once more for each, and what is not known to be committed after
        // a start will be as soon as there is a leader.
        self.lock().index.set_committed(committed.map(|id| (id.leader_id.term, id.index)));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<Id>, io::Error> {
        Ok(self.lock().index.committed().map(id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = StoredEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let partition = self.partition;
        let change = |index: &mut PartitionIndex, write, batch: &mut Batch| {
            if let Some((term, committed)) = index.take_unwritten() {
                batch.push(Kind::Committed, 0, partition, term, committed, |_| {});
            }
            for entry in entries {
                let record = encode(partition, entry);
                let offset = push(batch, &record);
                index.push(write, offset, record).map_err(io::Error::other)?;
            }
            Ok(())
        };
        let full = self.lock().index.tail_bytes() > TAIL_BYTES_MAX;
        let (tx, rx) = C::oneshot::<()>();
        self.write(true, change, move |result| {
            callback.io_completed(result);
            let _ = tx.send(());
        })?;
        if full {
            // The bound of the tail: openraft waits here, and so do its clients.
            let _ = rx.await;
        }
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<Id>) -> Result<(), io::Error> {
        let partition = self.partition;
        let from = last_log_id.map_or(0, |id| id.index + 1);
        let change = |index: &mut PartitionIndex, _, batch: &mut Batch| {
            index.truncate(from);
            batch.push(Kind::Truncate, 0, partition, 0, from, |_| {});
            Ok(())
        };
        // In order with what replaces them, so it need not be waited for.
        self.write(false, change, drop)
    }

    async fn purge(&mut self, log_id: Id) -> Result<(), io::Error> {
        let partition = self.partition;
        let (term, last) = (log_id.leader_id.term, log_id.index);
        let change = |index: &mut PartitionIndex, _, batch: &mut Batch| {
            index.purge(term, last);
            batch.push(Kind::Compacted, 0, partition, term, last, |_| {});
            Ok(())
        };
        self.write(false, change, drop)
    }
}

fn id((term, index): (u64, u64)) -> Id {
    LogId { leader_id: CommittedLeaderId::new(term), index }
}

fn push(batch: &mut Batch, record: &Record) -> u32 {
    let Record { kind, flags, partition, term, index, ref body } = *record;
    batch.push(kind, flags, partition, term, index, |out| out.extend_from_slice(body))
}

fn encode(partition: u16, entry: StoredEntry) -> Record {
    let (kind, flags, body) = match entry.payload {
        EntryPayload::Blank => (Kind::Blank, 0, Bytes::new()),
        EntryPayload::Normal(EntryBody { flags, bytes }) => (Kind::Entry, flags, bytes),
        EntryPayload::Membership(membership) => {
            let voters = membership.get_joint_config();
            let voters = voters.iter().map(|ids| ids.iter().copied().collect()).collect();
            let learners = membership.learner_ids().collect();
            let mut body = Vec::new();
            Membership { voters, learners }.encode(&mut body);
            (Kind::Membership, 0, body.into())
        }
    };
    let Id { leader_id, index } = entry.log_id;
    Record { kind, flags, partition, term: leader_id.term, index, body }
}

fn decode(record: Record) -> io::Result<StoredEntry> {
    let log_id = id((record.term, record.index));
    let payload = match record.kind {
        Kind::Blank => EntryPayload::Blank,
        Kind::Entry => EntryPayload::Normal(EntryBody { flags: record.flags, bytes: record.body }),
        Kind::Membership => {
            let read = Membership::decode(&record.body).ok_or_else(|| damaged(&record))?;
            let voters = read.voters.into_iter().map(BTreeSet::from_iter).collect();
            let membership = openraft::Membership::new_with_defaults(voters, read.learners);
            EntryPayload::Membership(membership)
        }
        Kind::Vote | Kind::Truncate | Kind::Compacted | Kind::Snapshot | Kind::Committed => {
            return Err(damaged(&record));
        }
    };
    Ok(Entry { log_id, payload })
}

fn damaged(record: &Record) -> io::Error {
    let Record { kind, partition, index, .. } = record;
    io::Error::other(format!("{kind:?} {index} of partition {partition} is not in its form"))
}
