//! What a group applies its entries to, and openraft's view of it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tidegate_store::raft::{RaftLog, Writer};
use tidegate_store::{Batch, Disk, DiskFile};
use tokio::sync::oneshot;

use crate::body::{Body, Entries, SnapshotSource};
use crate::log_id::LogId;
use crate::raft_types::{Id, Meta, Snapshot, StoredMembers, Types, log_id};
use crate::receive::Spool;
use crate::snapshot::{SnapshotFile, Stored};

/// The state that a group replicates. One a group, called from one task, in
/// order; never again once the group is closed.
///
/// It begins empty: what was applied before a restart comes again, as an
/// `install` of the snapshot and an `apply` of each entry behind it.
pub trait StateMachine: Send + 'static {
    /// Takes in a committed entry. Each comes once, in the log's order; indexes
    /// have gaps where the group had something to say to itself. What is
    /// returned is the answer to who proposed it, on the node where it was.
    ///
    /// An entry with a newer term than that in which this node was told that it
    /// leads ([`GroupStatus::leads`](crate::GroupStatus::leads)) is another
    /// leader's, whatever the status says by now.
    ///
    /// Must not block for long: heartbeats go on, but the group stands still.
    fn apply(&mut self, log: LogId, payload: &Bytes) -> Vec<u8>;

    /// The state as it is at the moment of the call, written out by the time
    /// the future ends. Entries are applied meanwhile, and must not show. Who
    /// has handed the entries on, to a shard, hands the question on in the same
    /// way, behind them. `entries` reads what was applied, as far as the log
    /// still has it, for what is written out only when it is asked for.
    fn snapshot(
        &mut self,
        entries: Entries,
    ) -> impl Future<Output = io::Result<Box<dyn SnapshotSource>>> + Send + 'static;

    /// Forgets everything and takes in what `snapshot` wrote, here or on
    /// another node. It is durable already, and readable for as long as `body` is
    /// kept. An error ends the group.
    fn install(&mut self, body: Body) -> io::Result<()>;
}

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A state machine of any type.
pub(crate) trait AnyMachine: Send {
    fn apply(&mut self, log: LogId, payload: &Bytes) -> Vec<u8>;
    fn snapshot(&mut self, entries: Entries) -> BoxFuture<io::Result<Box<dyn SnapshotSource>>>;
    fn install(&mut self, body: Body) -> io::Result<()>;
}

impl<S: StateMachine> AnyMachine for S {
    fn apply(&mut self, log: LogId, payload: &Bytes) -> Vec<u8> {
        StateMachine::apply(self, log, payload)
    }

    fn snapshot(&mut self, entries: Entries) -> BoxFuture<io::Result<Box<dyn SnapshotSource>>> {
        Box::pin(StateMachine::snapshot(self, entries))
    }

    fn install(&mut self, body: Body) -> io::Result<()> {
        StateMachine::install(self, body)
    }
}

/// Where the state machine is while its group is open. Closing takes it out, so
/// that it is not called again, whatever openraft's tasks still do.
#[derive(Clone)]
pub(crate) struct Cell(Arc<Mutex<Option<Box<dyn AnyMachine>>>>);

impl Cell {
    pub(crate) fn new(machine: impl StateMachine) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(machine)))))
    }

    /// Takes it out, when the call that runs has ended.
    pub(crate) fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Box<dyn AnyMachine>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<R>(&self, f: impl FnOnce(&mut dyn AnyMachine) -> R) -> io::Result<R> {
        match self.lock().as_mut() {
            Some(machine) => Ok(f(machine.as_mut())),
            None => Err(io::Error::other("the group is closed")),
        }
    }
}

/// Runs what blocks on the disk on a thread for that.
pub(crate) async fn on_disk<F: DiskFile, R: Send + 'static>(
    f: impl FnOnce() -> io::Result<R> + Send + 'static,
) -> io::Result<R> {
    if !F::BLOCKS {
        return f();
    }
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Waits until everything is durable that was handed to the log before.
pub(crate) async fn barrier<W: Writer>(writer: &W) -> io::Result<()> {
    let (tx, rx) = oneshot::channel();
    writer.submit(
        Batch::new(),
        true,
        Box::new(move |result| {
            // Nobody waits any more if the group was dropped.
            let _ = tx.send(result);
        }),
    );
    match rx.await {
        Ok(result) => result.map(drop),
        Err(_) => Err(io::Error::other("the writer ended without an answer")),
    }
}

/// A snapshot's body.
#[derive(Debug)]
pub(crate) enum SnapshotBody<F> {
    /// In the group's file.
    Stored(Stored<F>),
    /// From the leader; under no name yet.
    Received(Spool<F>),
}

/// openraft's view of a group's state machine.
pub(crate) struct Machine<D: Disk, W> {
    cell: Cell,
    file: Arc<SnapshotFile<D>>,
    writer: W,
    log: RaftLog<D, W>,
    applied: Option<Id>,
    members: StoredMembers,
}

impl<D: Disk, W: Writer> Machine<D, W> {
    pub(crate) fn new(
        cell: Cell,
        file: Arc<SnapshotFile<D>>,
        writer: W,
        log: RaftLog<D, W>,
    ) -> Self {
        Self { cell, file, writer, log, applied: None, members: StoredMembers::default() }
    }

    /// What a snapshot of now would be; none of a group that has applied nothing.
    pub(crate) fn begin_snapshot(&mut self) -> Option<Draft> {
        let meta = Meta { last_log_id: Some(self.applied?), last_membership: self.members.clone() };
        let entries = Entries::of(&self.log);
        let body = self.cell.with(|machine| machine.snapshot(entries));
        let body = body.unwrap_or_else(|error| Box::pin(async { Err(error) }));
        Some(Draft { meta, body })
    }
}

/// A snapshot that is being written out.
pub(crate) struct Draft {
    meta: Meta,
    body: BoxFuture<io::Result<Box<dyn SnapshotSource>>>,
}

impl Draft {
    pub(crate) async fn write<D: Disk>(
        self,
        file: Arc<SnapshotFile<D>>,
    ) -> io::Result<Stored<D::File>> {
        let mut body = self.body.await?;
        let write = move || {
            let (stored, is_new) = file.write_from(&self.meta, &mut *body)?;
            if is_new {
                body.saved(Body::of(stored.clone()));
            }
            Ok(stored)
        };
        on_disk::<D::File, _>(write).await
    }
}

/// Gives openraft the snapshot that was written last. The work is done before,
/// by `Groups::snapshot`: for openraft an error here would be the group's end.
pub(crate) struct Builder<D: Disk> {
    file: Arc<SnapshotFile<D>>,
    /// Where none was ever written.
    draft: Mutex<Option<Draft>>,
}

impl<D: Disk> RaftSnapshotBuilder<Types> for Builder<D> {
    type SnapshotData = SnapshotBody<D::File>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<Self::SnapshotData>> {
        let draft = self.draft.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let stored = match (self.file.current(), draft) {
            (Some(stored), _) => stored,
            (None, Some(draft)) => draft.write(self.file.clone()).await?,
            (None, None) => return Err(io::Error::other("nothing was applied yet")),
        };
        let meta = stored.header.meta.clone();
        Ok(Snapshot { meta, snapshot: SnapshotBody::Stored(stored) })
    }
}

impl<D: Disk, W: Writer> RaftStateMachine<Types> for Machine<D, W> {
    type SnapshotData = SnapshotBody<D::File>;
    type SnapshotBuilder = Builder<D>;

    async fn applied_state(&mut self) -> io::Result<(Option<Id>, StoredMembers)> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let answer = match &entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(body) => {
                    let log = log_id(&entry.log_id);
                    self.cell.with(|machine| machine.apply(log, &body.bytes))?
                }
                EntryPayload::Membership(members) => {
                    self.members = StoredMembers::new(Some(entry.log_id), members.clone());
                    Vec::new()
                }
            };
            self.applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<Builder<D>> {
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<D> {
        let draft = match self.file.current() {
            Some(_) => None,
            None => self.begin_snapshot(),
        };
        Builder { file: self.file.clone(), draft: Mutex::new(draft) }
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: SnapshotBody<D::File>,
    ) -> io::Result<()> {
        let body = match snapshot {
            SnapshotBody::Stored(stored) => {
                on_disk::<D::File, _>(move || stored.check().map(|()| Body::of(stored))).await?
            }
            SnapshotBody::Received(body) => {
                // openraft has cut what contradicts the snapshot out of the log,
                // and does not wait for that; a crash that kept the snapshot
                // and not the cut would leave a log that it refuses to open.
                barrier(&self.writer).await?;
                let (file, meta) = (self.file.clone(), meta.clone());
                let write = move || {
                    let (stored, is_new) = file.write_from(&meta, &mut body.clone())?;
                    // A newer one has not what was agreed to be installed.
                    Ok(if is_new { Body::of(stored) } else { Body::of_spool(body) })
                };
                on_disk::<D::File, _>(write).await?
            }
        };
        self.cell.with(|machine| machine.install(body))??;
        self.applied = meta.last_log_id;
        self.members = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<SnapshotBody<D::File>>>> {
        Ok(self.file.current().map(|stored| {
            let meta = stored.header.meta.clone();
            Snapshot { meta, snapshot: SnapshotBody::Stored(stored) }
        }))
    }
}
