//! All groups of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use futures_util::future::join_all;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::raft::{TransferLeaderError, VoteResponse};
use openraft::{ReadPolicy, SnapshotPolicy};
use tidegate_peer::proto::{SnapshotAck, Status};
use tidegate_peer::{AppendAck, Heartbeats};
use tidegate_store::raft::{PartitionIndex, RaftLog, Writer};
use tidegate_store::{Disk, Position, Reader};
use tokio::sync::{oneshot, watch};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, timeout};

use crate::body::Entries;
use crate::campaign;
use crate::change::{self, ChangeError, TransferError};
use crate::group::{OpenError, Running, Slot, lock};
use crate::heartbeat::{Beats, acks_body};
use crate::limits::BEAT_TIME_MAX;
use crate::log_id::{GroupId, LogId};
use crate::machine::{Cell, SnapshotBody, StateMachine, barrier, on_disk};
use crate::network::{Network, is_supported};
use crate::propose::{ProposeError, ReadError};
use crate::raft_types::{Members, Meta, Snapshot, StoredMembers, log_id, raft_id};
use crate::receive::{self, Fit, Receiving, Taken};
use crate::snapshot::SnapshotFile;
use crate::status::{GroupStatus, Role};
use crate::timers::Timers;
use crate::transport::{CallKind, Transport, TransportError};
use crate::wire::{self, Offer, WireError};

/// The answer to a call that has come in.
type Answer = Pin<Box<dyn Future<Output = Result<Bytes, TransportError>> + Send>>;

/// The Raft groups of a node. Clones are the same; the groups end when the last
/// one is dropped, or in order with [`Groups::shutdown`].
pub struct Groups<D: Disk, W: Writer, T>(Arc<Shared<D, W, T>>);

impl<D: Disk, W: Writer, T> Clone for Groups<D, W, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Disk, W: Writer, T> std::fmt::Debug for Groups<D, W, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").field("node", &self.0.node).finish_non_exhaustive()
    }
}

pub(crate) struct Shared<D: Disk, W: Writer, T> {
    pub(crate) node: u64,
    config: Arc<openraft::Config>,
    pub(crate) timers: Timers,
    reader: Reader<D>,
    writer: W,
    snapshots: D,
    transport: T,
    beats: Arc<Beats<T>>,
    pub(crate) slots: Mutex<BTreeMap<GroupId, Arc<Slot<D, W>>>>,
    /// Nodes whose groups are being asked to elect.
    pub(crate) losing: Mutex<BTreeSet<u64>>,
}

impl<D: Disk, W: Writer, T: Transport> Groups<D, W, T> {
    /// Of the node `node`, with no group yet. `reader` and `writer` are of the
    /// node's log; the writer has to take an empty durable batch for a question
    /// whether everything before it is durable. `snapshots` is a directory of
    /// its own. Needs a tokio runtime around it, and starts the one timer there.
    ///
    /// # Panics
    ///
    /// If the election's shortest time is not above that between heartbeats, or
    /// not below the longest.
    pub fn new(
        node: u64,
        timers: Timers,
        reader: Reader<D>,
        writer: W,
        snapshots: D,
        transport: T,
    ) -> Self {
        let config = Arc::new(config(timers));
        let beats = Arc::new(Beats::new(transport.clone(), timers.heartbeat * 3 / 4));
        let slots = Mutex::default();
        let shared = Arc::new(Shared {
            node,
            config,
            timers,
            reader,
            writer,
            snapshots,
            transport,
            beats,
            slots,
            losing: Mutex::default(),
        });
        tokio::spawn(beat(Arc::downgrade(&shared), timers));
        Self(shared)
    }

    /// This node's id.
    pub fn node(&self) -> u64 {
        self.0.node
    }

    /// Opens a group for the first time in this process. `index` is what the
    /// group's records of the log were replayed into; a group that never was
    /// begins with an empty one. Returns when the state machine has taken in
    /// what is known to be committed; from then on the group takes part.
    pub async fn open(
        &self,
        group: GroupId,
        index: PartitionIndex,
        machine: impl StateMachine,
    ) -> Result<(), OpenError> {
        let shared = &self.0;
        index.check().map_err(|error| OpenError::Log(io::Error::other(error)))?;
        let log = RaftLog::new(group, index, shared.reader.clone(), shared.writer.clone());
        let file = SnapshotFile::open(shared.snapshots.clone(), group)?;
        let slot = Arc::new(Slot::new(group, log, file, shared.writer.clone()));
        let lifecycle = slot.lifecycle.lock().await;
        {
            let mut slots = lock(&shared.slots);
            if slots.contains_key(&group) {
                return Err(OpenError::Known(group));
            }
            slots.insert(group, slot.clone());
        }
        let started = self.start(&slot, Cell::new(machine)).await;
        drop(lifecycle);
        if started.is_err() {
            lock(&shared.slots).remove(&group);
        }
        started
    }

    /// Closes a group: it takes no part any more, and its state machine is not
    /// called again when this returns. Its log stays.
    pub async fn close(&self, group: GroupId) {
        if let Some(slot) = self.slot(group) {
            let _lifecycle = slot.lifecycle.lock().await;
            slot.stop().await;
        }
    }

    /// Closes a group if it is open, and opens it again with an empty state
    /// machine, as at a start: from its snapshot and log. The machine that it
    /// had is not called any more when this returns.
    pub async fn reopen(
        &self,
        group: GroupId,
        machine: impl StateMachine,
    ) -> Result<(), OpenError> {
        let slot = self.slot(group).ok_or(OpenError::Unknown(group))?;
        let _lifecycle = slot.lifecycle.lock().await;
        slot.stop().await;
        self.start(&slot, Cell::new(machine)).await
    }

    /// Gives up this node's replica of a group: closes it if it is open, and
    /// gives back its log and its snapshot. Only the vote stays, so that this
    /// node never votes twice in a term, and the place of the last entry: a member
    /// that does not know yet that this one has left finds no support here for a
    /// leadership that lacks what this replica has confirmed. With what is returned the group may be
    /// opened as for the first time, when it comes back to this node.
    ///
    /// Whoever calls this has to know that the group does not count on this
    /// replica any more, and has not since before it was closed.
    ///
    /// # Errors
    /// The log or the disk has failed. The group is closed, and giving it up may
    /// be tried again.
    pub async fn give_up(&self, group: GroupId) -> Result<PartitionIndex, OpenError> {
        let slot = self.slot(group).ok_or(OpenError::Unknown(group))?;
        let _lifecycle = slot.lifecycle.lock().await;
        slot.stop().await;
        let index = give_back(&slot.log, slot.file.clone()).await?;
        lock(&self.0.slots).remove(&group);
        Ok(index)
    }

    /// The same for a group that this process has not opened: `index` is what
    /// its records were replayed into.
    ///
    /// # Errors
    /// As those of [`Groups::give_up`].
    pub async fn discard(
        &self,
        group: GroupId,
        index: PartitionIndex,
    ) -> Result<PartitionIndex, OpenError> {
        if self.slot(group).is_some() {
            return Err(OpenError::Known(group));
        }
        let shared = &self.0;
        let log = RaftLog::new(group, index, shared.reader.clone(), shared.writer.clone());
        let file = SnapshotFile::open(shared.snapshots.clone(), group)?;
        give_back(&log, Arc::new(file)).await
    }

    /// Makes this node the only voter of a group that has lost the majority of
    /// its voters for good, and opens it again: it will elect itself, in a term
    /// above all that was, and what it has in its log is what was committed.
    /// What it lacks is lost. With `state` the group begins again from that,
    /// which is what was applied up to an index; what the log has is forgotten.
    /// Returns the place of the new membership.
    ///
    /// Whoever calls this has to know that the others never come back, and that
    /// no other replica that is left has more.
    ///
    /// # Errors
    /// The log or the disk has failed, or the replica has nothing.
    pub async fn force(
        &self,
        group: GroupId,
        state: Option<(LogId, Bytes)>,
        machine: impl StateMachine,
    ) -> Result<LogId, OpenError> {
        let node = self.0.node;
        let slot = self.slot(group).ok_or(OpenError::Unknown(group))?;
        let _lifecycle = slot.lifecycle.lock().await;
        slot.stop().await;
        let from = state.as_ref().map(|(last, _)| (last.term, last.index));
        if let Some((last, mut body)) = state {
            let members =
                Members::new_with_defaults(vec![BTreeSet::from([node])], Vec::<u64>::new());
            let id = Some(raft_id(last));
            let last_membership = StoredMembers::new(id, members);
            let meta = Meta { last_log_id: id, last_membership };
            let file = slot.file.clone();
            let written = on_disk::<D::File, _>(move || {
                file.remove()?;
                file.write_from(&meta, &mut body).map(drop)
            });
            written.await.map_err(OpenError::Log)?;
        }
        let (tell, told) = oneshot::channel();
        let forced = slot.log.force(node, from, move |result| {
            // Who asked may have gone.
            let _ = tell.send(result);
        });
        let (term, index) = forced.map_err(OpenError::Log)?;
        let ended = |_| io::Error::other("the writer ended without an answer");
        told.await.map_err(ended).and_then(|result| result).map_err(OpenError::Log)?;
        self.start(&slot, Cell::new(machine)).await?;
        Ok(LogId { term, index })
    }

    /// Closes all groups.
    pub async fn shutdown(&self) {
        join_all(self.known().into_iter().map(|group| self.close(group))).await;
    }

    /// The groups that were opened, closed ones included.
    pub fn known(&self) -> Vec<GroupId> {
        lock(&self.0.slots).keys().copied().collect()
    }

    /// Gives a new group its first voters: once in its life, on one of them, or
    /// on several with the same set. Returns when that is durable here, with
    /// whether it was new.
    pub async fn initialize(
        &self,
        group: GroupId,
        voters: BTreeSet<u64>,
    ) -> Result<bool, ChangeError> {
        let slot = self.slot(group).ok_or(ChangeError::Closed)?;
        let running = slot.running().ok_or(ChangeError::Closed)?;
        change::initialize(&running.raft, slot.status(), &slot.writer, voters).await
    }

    /// Proposes an entry. It is taken in, in the order of the calls, before this
    /// returns; the future ends when the entry is applied here, with what
    /// [`StateMachine::apply`] returned. Dropping it takes nothing back.
    pub fn propose(
        &self,
        group: GroupId,
        payload: Bytes,
    ) -> impl Future<Output = Result<Vec<u8>, ProposeError>> + Send + use<D, W, T> {
        let running = self.running(group).ok_or(ProposeError::Closed);
        let taken = running.and_then(|running| running.desk.propose(payload));
        async move { taken?.await }
    }

    /// What a group does; the receiver outlives closing and opening.
    pub fn watch(&self, group: GroupId) -> Option<watch::Receiver<GroupStatus>> {
        Some(self.slot(group)?.status())
    }

    /// What a group does now; closed if it is not known.
    pub fn status(&self, group: GroupId) -> GroupStatus {
        self.slot(group).map(|slot| slot.status().borrow().clone()).unwrap_or_default()
    }

    /// Ends when a quorum has said that this node leads and everything that was
    /// committed before the call is applied here: what is read then is current.
    pub async fn read_index(&self, group: GroupId) -> Result<LogId, ReadError> {
        let running = self.running(group).ok_or(ReadError::Closed)?;
        let read = running.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match timeout(self.0.timers.election_max, read).await {
            Err(_) => Err(ReadError::NoQuorum),
            Ok(Ok(read)) => Ok(log_id(read.log_id())),
            Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Closed),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(ReadError::NotLeader { leader: forward.leader_id })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {
                Err(ReadError::NoQuorum)
            }
        }
    }

    /// The connection with a node was closed: what it leads elects another leader
    /// as soon as those that follow it may, which is at the end of the longest
    /// election time and not one more after it. A leader that most still hear
    /// stays.
    pub fn lost(&self, node: u64) {
        if lock(&self.0.losing).insert(node) {
            tokio::spawn(campaign::without(Arc::downgrade(&self.0), node));
        }
    }

    /// For how long this replica has certainly confirmed no other leader than
    /// `leader`, which leads in `term`, and never will one of an earlier term;
    /// none if that cannot be said. Nothing counts that was before this process.
    pub async fn silence(&self, group: GroupId, leader: u64, term: u64) -> Option<Duration> {
        let slot = self.slot(group)?;
        if slot.status().borrow().term < term {
            return None;
        }
        // What forbids to follow an earlier one has to outlive this process.
        barrier(&slot.writer).await.ok()?;
        let silence = lock(&slot.heard).silence_but(leader, Instant::now());
        Some(silence)
    }

    /// Adds a node that takes part without a vote. On the leader; returns when
    /// that is committed, not when the node has caught up
    /// ([`GroupStatus::lag`]).
    pub async fn add_learner(&self, group: GroupId, node: u64) -> Result<(), ChangeError> {
        let running = self.running(group).ok_or(ChangeError::Closed)?;
        change::add_learner(&running.raft, &self.status(group), node).await
    }

    /// Removes a node that has no vote.
    pub async fn remove_learner(&self, group: GroupId, node: u64) -> Result<(), ChangeError> {
        let running = self.running(group).ok_or(ChangeError::Closed)?;
        change::remove_learner(&running.raft, node).await
    }

    /// Makes these the voters, by a joint membership; who is no voter any more
    /// leaves. Each has to be a member already and near the end of the log
    /// ([`ChangeError::Lagging`]). Returns when both steps are committed; when
    /// it fails between them, calling it again goes on.
    pub async fn change_voters(
        &self,
        group: GroupId,
        voters: BTreeSet<u64>,
    ) -> Result<(), ChangeError> {
        let running = self.running(group).ok_or(ChangeError::Closed)?;
        change::change_voters(self.0.node, &running.raft, &self.status(group), voters).await
    }

    /// Hands leadership to a voter: holds proposals back, waits until the voter
    /// has the last entry, at most
    /// [`TRANSFER_WAIT_MAX`](crate::limits::TRANSFER_WAIT_MAX), and only then
    /// lets go. Returns when that voter leads.
    pub async fn transfer_leadership(&self, group: GroupId, to: u64) -> Result<(), TransferError> {
        let running = self.running(group).ok_or(TransferError::Closed)?;
        let status = self.watch(group).ok_or(TransferError::Closed)?;
        change::transfer(self.0.node, &running, status, to).await
    }

    /// Writes a snapshot of what is applied now, and says what it holds; none if
    /// nothing is applied. An error leaves the group as it was.
    pub async fn snapshot(&self, group: GroupId) -> Result<Option<LogId>, ChangeError> {
        let slot = self.slot(group).ok_or(ChangeError::Closed)?;
        let running = slot.running().ok_or(ChangeError::Closed)?;
        change::snapshot(&running.raft, slot.status(), slot.file.clone()).await
    }

    /// Lets the group's log forget the entries up to an index that the snapshot
    /// holds. It does so when no transfer needs them; see
    /// [`GroupStatus::purged`].
    pub async fn purge(&self, group: GroupId, up_to: u64) -> Result<(), ChangeError> {
        let slot = self.slot(group).ok_or(ChangeError::Closed)?;
        let running = slot.running().ok_or(ChangeError::Closed)?;
        let held = slot.status().borrow().snapshot;
        let Some(held) = held else { return Ok(()) };
        let purge = running.raft.trigger().purge_log(up_to.min(held.index)).await;
        purge.map_err(|_| ChangeError::Closed)
    }

    /// Bytes of the state in a group's snapshot; 0: it has none.
    pub fn snapshot_bytes(&self, group: GroupId) -> u64 {
        let stored = self.slot(group).and_then(|slot| slot.file.current());
        stored.map_or(0, |stored| stored.header.body_bytes)
    }

    /// Reads payloads of a group's log; none: the group is not known. It may be
    /// closed.
    pub fn entries(&self, group: GroupId) -> Option<Entries> {
        Some(Entries::of(&self.slot(group)?.log))
    }

    /// The oldest position of the log that a group still needs for its entries,
    /// if any does: segments before may go, as far as groups are concerned.
    pub fn oldest(&self) -> Option<Position> {
        lock(&self.0.slots).values().filter_map(|slot| slot.log.oldest()).min()
    }

    /// Takes in a call of another node: its sender as the transport has proved
    /// it, and the parts that [`Transport::call`] was given there. Calls of one
    /// node and group are to be made in the order in which they came: what this
    /// does before it returns keeps it. The future gives the answer.
    pub fn handle(
        &self,
        from: u64,
        group: GroupId,
        kind: CallKind,
        body: Bytes,
    ) -> impl Future<Output = Result<Bytes, TransportError>> + Send + use<D, W, T> {
        self.take(from, group, kind, &body).unwrap_or_else(|error| Box::pin(async { Err(error) }))
    }

    fn take(
        &self,
        from: u64,
        group: GroupId,
        kind: CallKind,
        body: &Bytes,
    ) -> Result<Answer, TransportError> {
        if kind == CallKind::Heartbeats {
            return self.heartbeats(from, body);
        }
        let slot = self.slot(group).ok_or(TransportError::Closed)?;
        let running = slot.running().ok_or(TransportError::Closed)?;
        match kind {
            // Before it is taken in: an answer may be on its way by then.
            CallKind::Append | CallKind::SnapshotOffer | CallKind::SnapshotChunk => {
                lock(&slot.heard).took(from, Instant::now());
            }
            CallKind::Heartbeats | CallKind::Vote | CallKind::Transfer => {}
        }
        match kind {
            CallKind::Append => {
                let append = wire::append_in(from, group, body)?;
                let ack = running.inbox.push(0, append)?;
                Ok(Box::pin(async move {
                    let ack = ack.await.map_err(|_| TransportError::Closed)?;
                    Ok(ack.encode().to_bytes())
                }))
            }
            CallKind::Heartbeats => Err(TransportError::Closed),
            CallKind::Vote => {
                let (request, pre) = wire::vote_request_in(from, group, body)?;
                if !is_supported(slot.log.floor(), &request) {
                    use openraft::async_runtime::watch::WatchReceiver;
                    let own = running.raft.metrics().borrow_watched().vote;
                    let reply = VoteResponse::new(own, None, false);
                    return Ok(Box::pin(async move { Ok(wire::vote_reply_out(group, &reply)) }));
                }
                Ok(Box::pin(async move {
                    let reply = match pre {
                        true => running.raft.pre_vote(request).await,
                        false => running.raft.vote(request).await,
                    };
                    let reply = reply.map_err(|_| TransportError::Closed)?;
                    Ok(wire::vote_reply_out(group, &reply))
                }))
            }
            CallKind::Transfer => {
                let request = wire::transfer_in(from, group, body)?;
                Ok(Box::pin(async move {
                    let vote = *request.from_leader();
                    let reply = running.raft.handle_transfer_leader(request).await;
                    let reply = match reply.map_err(|_| TransportError::Closed)? {
                        Ok(()) => VoteResponse::new(vote, None, true),
                        Err(TransferLeaderError::VoteChanged { actual, .. }) => {
                            VoteResponse::new(actual, None, false)
                        }
                        Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                            VoteResponse::new(vote, actual, false)
                        }
                    };
                    Ok(wire::vote_reply_out(group, &reply))
                }))
            }
            CallKind::SnapshotOffer => {
                let offer = Offer::decode(from, group, body)?;
                Ok(Box::pin(async move {
                    let ack = take_offer(&slot, &running, from, offer).await?;
                    Ok(wire::snapshot_ack_out(ack))
                }))
            }
            CallKind::SnapshotChunk => {
                let chunk = wire::chunk_in(body)?;
                Ok(Box::pin(async move {
                    let ack = take_chunk(&slot, &running, from, chunk).await?;
                    Ok(wire::snapshot_ack_out(ack))
                }))
            }
        }
    }

    /// Each group answers by itself; one that cannot in time is left out.
    fn heartbeats(&self, from: u64, body: &Bytes) -> Result<Answer, TransportError> {
        let Heartbeats { sent_ns, beats } = Heartbeats::decode(body).map_err(WireError::from)?;
        let mut waiting: Vec<oneshot::Receiver<AppendAck>> = Vec::with_capacity(beats.len());
        for beat in &beats {
            let Ok(group) = wire::group_in(beat.group) else { continue };
            let Some(slot) = self.slot(group) else { continue };
            let Some(running) = slot.running() else { continue };
            let append = wire::lead_in(from, beat)?;
            lock(&slot.heard).took(from, Instant::now());
            // A group that is busy gets Appends, which are as good.
            if let Ok(ack) = running.inbox.push(beat.request, append) {
                waiting.push(ack);
            }
        }
        Ok(Box::pin(async move {
            let acks = waiting.into_iter().map(|ack| timeout(BEAT_TIME_MAX, ack));
            let acks = join_all(acks).await.into_iter();
            let acks = acks.filter_map(|ack| ack.ok()?.ok()).collect();
            Ok(acks_body(sent_ns, acks))
        }))
    }

    fn slot(&self, group: GroupId) -> Option<Arc<Slot<D, W>>> {
        lock(&self.0.slots).get(&group).cloned()
    }

    fn running(&self, group: GroupId) -> Option<Arc<Running<D, W>>> {
        self.slot(group)?.running()
    }

    async fn start(&self, slot: &Arc<Slot<D, W>>, cell: Cell) -> Result<(), OpenError> {
        let shared = &self.0;
        let network = Network {
            group: slot.group,
            transport: shared.transport.clone(),
            beats: shared.beats.clone(),
            floor: Arc::new({
                let log = slot.log.clone();
                move || log.floor()
            }),
            file: PhantomData,
        };
        slot.start(shared.node, shared.config.clone(), network, cell).await
    }
}

/// The log first: without its snapshot it would be cut off at its beginning,
/// while the snapshot alone is what the group was then.
async fn give_back<D: Disk, W: Writer>(
    log: &RaftLog<D, W>,
    file: Arc<SnapshotFile<D>>,
) -> Result<PartitionIndex, OpenError> {
    let index = log.index();
    if index.last().is_some() || index.purged().is_some() || index.committed().is_some() {
        let (tell, told) = oneshot::channel();
        let emptied = log.empty(move |result| {
            // Who asked may have gone.
            let _ = tell.send(result);
        });
        emptied.map_err(OpenError::Log)?;
        let ended = |_| io::Error::other("the writer ended without an answer");
        told.await.map_err(ended).and_then(|result| result).map_err(OpenError::Log)?;
    }
    on_disk::<D::File, _>(move || file.remove()).await.map_err(OpenError::Log)?;
    Ok(log.index())
}

fn config(timers: Timers) -> openraft::Config {
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: "tidegate".to_owned(),
        heartbeat_interval: ms(timers.heartbeat),
        election_timeout_min: ms(timers.election_min),
        election_timeout_max: ms(timers.election_max),
        // The node's one timer does it for all groups.
        enable_heartbeat: false,
        enable_pre_vote: Some(true),
        // A leader that restarts would go on in the same term, and whoever
        // tells leaderships apart by their term would not notice.
        enable_leader_restore: Some(false),
        // When, the owner says.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        max_payload_entries: tidegate_peer::limits::ENTRIES_MAX as u64,
        api_channel_size: Some(crate::limits::PROPOSALS_MAX as u64),
        max_append_entries: Some(tidegate_peer::limits::ENTRIES_MAX as u64),
        ..openraft::Config::default()
    };
    config.validate().expect("elections take longer than heartbeats")
}

/// The node's timer: lets all groups that lead beat at once, and those tick that
/// may have to ask for an election. A tick costs as much as a heartbeat, and
/// openraft has five of them for each.
async fn beat<D: Disk, W: Writer, T: Transport>(shared: Weak<Shared<D, W, T>>, timers: Timers) {
    let mut ticks = interval(timers.heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        let slots: Vec<_> = lock(&shared.slots).values().cloned().collect();
        for slot in slots {
            let Some(running) = slot.running() else { continue };
            let (role, leader) = slot.role();
            let is_calm = match role {
                Role::Leader => true,
                Role::Follower => {
                    let silence = |leader| lock(&slot.heard).silence_of(leader, Instant::now());
                    leader.and_then(silence).is_some_and(|silence| silence < 2 * timers.heartbeat)
                }
                Role::Closed | Role::Learner | Role::Candidate => false,
            };
            running.raft.runtime_config().tick(!is_calm);
            if role == Role::Leader {
                // An error is that of a group that has ended; its status says so.
                let _ = running.raft.trigger().heartbeat().await;
            }
        }
    }
}

fn ack(transfer: u64, through: u64, status: Status) -> SnapshotAck {
    SnapshotAck { transfer, through, status: status as i32, vote: None }
}

async fn take_offer<D: Disk, W: Writer>(
    slot: &Slot<D, W>,
    running: &Running<D, W>,
    from: u64,
    offer: Offer,
) -> Result<SnapshotAck, TransportError> {
    use openraft::async_runtime::watch::WatchReceiver;
    let metrics = running.raft.metrics();
    let (vote, applied) = {
        let metrics = metrics.borrow_watched();
        (metrics.vote, metrics.last_applied)
    };
    if vote > offer.vote {
        let vote = Some(wire::vote_out(&vote));
        return Ok(SnapshotAck { vote, ..ack(offer.transfer, 0, Status::Stale) });
    }
    if applied >= offer.meta.last_log_id {
        return Ok(ack(offer.transfer, offer.bytes, Status::Done));
    }
    let mut receiving = slot.receiving.lock().await;
    let (transfer, before, file) = (offer.transfer, receiving.take(), slot.file.clone());
    let begin = move || Receiving::begin(before, from, offer, || file.spool());
    let begun = on_disk::<D::File, _>(begin).await.map_err(|_| TransportError::Busy)?;
    let through = begun.through();
    *receiving = Some(begun);
    Ok(ack(transfer, through, Status::Busy))
}

async fn take_chunk<D: Disk, W: Writer>(
    slot: &Slot<D, W>,
    running: &Running<D, W>,
    from: u64,
    chunk: tidegate_peer::proto::SnapshotChunk,
) -> Result<SnapshotAck, TransportError> {
    let taken = {
        let mut receiving = slot.receiving.lock().await;
        let Some(coming) = receiving.as_mut().filter(|coming| coming.is_of(from, &chunk)) else {
            return Ok(ack(chunk.transfer, 0, Status::Absent));
        };
        let taken = match coming.fit(&chunk) {
            Fit::Elsewhere(through) => Taken::Through(through),
            Fit::Damaged => Taken::Damaged,
            Fit::Next(file, at) => {
                let data = chunk.data.clone();
                match on_disk::<D::File, _>(move || receive::write(&*file, at, &data)).await {
                    Ok(()) => coming.wrote(&chunk),
                    // No room, most likely. It begins again when it is offered again.
                    Err(_) => Taken::Damaged,
                }
            }
        };
        if !matches!(taken, Taken::Through(_)) {
            *receiving = None;
        }
        taken
    };
    match taken {
        Taken::Through(through) => Ok(ack(chunk.transfer, through, Status::Busy)),
        Taken::Damaged => Ok(ack(chunk.transfer, 0, Status::Refused)),
        Taken::Whole(vote, meta, body) => {
            let last = meta.last_log_id.as_ref().map(log_id).map(raft_id);
            let through = body.bytes();
            let snapshot = Snapshot { meta, snapshot: SnapshotBody::Received(body) };
            let installed = running.raft.install_full_snapshot(vote, snapshot).await;
            let installed = installed.map_err(|_| TransportError::Closed)?;
            debug_assert!(last.is_some(), "an offer names its last entry");
            let status = if installed.vote > vote { Status::Stale } else { Status::Done };
            let vote = Some(wire::vote_out(&installed.vote));
            Ok(SnapshotAck { vote, ..ack(chunk.transfer, through, status) })
        }
    }
}
