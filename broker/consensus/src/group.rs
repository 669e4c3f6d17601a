//! One group: what stays of it while it is closed, and what runs while it is open.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::{RaftDataMetrics, RaftServerMetrics};
use tidegate_store::Disk;
use tidegate_store::raft::{EntryBody, RaftLog, Writer};
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::heard::Heard;
use crate::inbox::Inbox;
use crate::log_id::GroupId;
use crate::machine::{Cell, Machine, barrier};
use crate::network::Network;
use crate::propose::{Desk, Proposal};
use crate::raft_types::{Types, log_id};
use crate::receive::Receiving;
use crate::snapshot::{SnapshotError, SnapshotFile};
use crate::status::{GroupStatus, Role};
use crate::transport::Transport;
use crate::wire::members_out;

/// openraft, with our parts.
pub(crate) type Raft<D, W> = openraft::Raft<Types, Machine<D, W>>;

/// Why a group cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is open, or was: `open` is for the first time, `reopen` for later.
    #[error("group {0} is known already")]
    Known(GroupId),
    /// It was never opened.
    #[error("group {0} is not known")]
    Unknown(GroupId),
    /// Its snapshot cannot be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The log's writer has failed, or the disk.
    #[error("the log has failed: {0}")]
    Log(io::Error),
    /// Log, snapshot and state machine do not go together, or one of them failed.
    #[error("the group cannot start: {0}")]
    Start(String),
}

/// A group that this node has, open or not.
pub(crate) struct Slot<D: Disk, W: Writer> {
    pub(crate) group: GroupId,
    pub(crate) log: RaftLog<D, W>,
    pub(crate) file: Arc<SnapshotFile<D>>,
    pub(crate) writer: W,
    running: Mutex<Option<Arc<Running<D, W>>>>,
    status: watch::Sender<GroupStatus>,
    /// Held while the group is opened or closed.
    pub(crate) lifecycle: tokio::sync::Mutex<()>,
    pub(crate) receiving: tokio::sync::Mutex<Option<Receiving<D::File>>>,
    pub(crate) heard: Mutex<Heard>,
}

/// What runs while a group is open.
pub(crate) struct Running<D: Disk, W: Writer> {
    pub(crate) raft: Raft<D, W>,
    pub(crate) desk: Desk,
    pub(crate) inbox: Inbox,
    cell: Cell,
    tasks: Vec<AbortHandle>,
}

impl<D: Disk, W: Writer> Drop for Running<D, W> {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl<D: Disk, W: Writer> Slot<D, W> {
    pub(crate) fn new(
        group: GroupId,
        log: RaftLog<D, W>,
        file: SnapshotFile<D>,
        writer: W,
    ) -> Self {
        Self {
            group,
            log,
            file: Arc::new(file),
            writer,
            running: Mutex::default(),
            status: watch::Sender::new(GroupStatus::default()),
            lifecycle: tokio::sync::Mutex::default(),
            receiving: tokio::sync::Mutex::default(),
            heard: Mutex::new(Heard::new(Instant::now())),
        }
    }

    pub(crate) fn running(&self) -> Option<Arc<Running<D, W>>> {
        lock(&self.running).clone()
    }

    pub(crate) fn status(&self) -> watch::Receiver<GroupStatus> {
        self.status.subscribe()
    }

    /// What this node is in the group, and who leads it.
    pub(crate) fn role(&self) -> (Role, Option<u64>) {
        let status = self.status.borrow();
        (status.role, status.leader)
    }

    /// Starts openraft on log, snapshot and an empty state machine. The caller
    /// holds `lifecycle`, and the group is closed.
    pub(crate) async fn start<T: Transport>(
        self: &Arc<Self>,
        node: u64,
        config: Arc<openraft::Config>,
        network: Network<T, D::File>,
        cell: Cell,
    ) -> Result<(), OpenError> {
        // openraft takes what it finds in the log for durable, and would count
        // it towards a quorum; what the last one wrote may still be on its way.
        barrier(&self.writer).await.map_err(OpenError::Log)?;
        let (file, writer, log) = (self.file.clone(), self.writer.clone(), self.log.clone());
        let machine = Machine::new(cell.clone(), file, writer, log);
        let raft = Raft::new(node, config, network, self.log.clone(), machine).await;
        let raft = raft.map_err(|error| OpenError::Start(error.to_string()))?;
        let (desk, proposals) = Desk::new();
        let (inbox, serve) = Inbox::new(self.group, raft.clone());
        let tasks = vec![
            tokio::spawn(serve).abort_handle(),
            tokio::spawn(propose(raft.clone(), proposals)).abort_handle(),
            tokio::spawn(follow_status(node, raft.clone(), self.status.clone())).abort_handle(),
        ];
        *lock(&self.running) = Some(Arc::new(Running { raft, desk, inbox, cell, tasks }));
        Ok(())
    }

    /// Ends what runs; its state machine is not called any more when this
    /// returns. The caller holds `lifecycle`.
    pub(crate) async fn stop(&self) {
        let Some(running) = lock(&self.running).take() else { return };
        running.tasks.iter().for_each(AbortHandle::abort);
        // An error is that of a core that has ended already.
        let _ = running.raft.shutdown().await;
        running.cell.close();
        *self.receiving.lock().await = None;
        self.status.send_modify(|status| {
            *status = GroupStatus { term: status.term, ..GroupStatus::default() };
        });
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands proposals on in order. Their answers go straight to who waits.
async fn propose<D: Disk, W: Writer>(raft: Raft<D, W>, mut proposals: mpsc::Receiver<Proposal>) {
    while let Some(Proposal { payload, reply }) = proposals.recv().await {
        let body = EntryBody { flags: 0, bytes: payload };
        if raft.client_write_ff(body, Some(reply)).await.is_err() {
            // openraft has ended: whoever waits learns that the outcome is unknown.
            return;
        }
    }
}

/// Keeps the status up to date until openraft ends.
async fn follow_status<D: Disk, W: Writer>(
    node: u64,
    raft: Raft<D, W>,
    status: watch::Sender<GroupStatus>,
) {
    let (mut data, mut server) = (raft.data_metrics(), raft.server_metrics());
    loop {
        // Who leads first: what is applied in a term is newer than its leader.
        let server_now = server.borrow_and_update().clone();
        let data_now = data.borrow_and_update().clone();
        let now = status_of(node, &data_now, &server_now);
        status.send_if_modified(|status| {
            let is_new = *status != now;
            *status = now;
            is_new
        });
        let changed = select! {
            changed = data.changed() => changed,
            changed = server.changed() => changed,
        };
        if changed.is_err() {
            break;
        }
    }
    let why = match &raft.metrics().borrow_watched().running_state {
        Ok(()) => "openraft ended".to_owned(),
        Err(fatal) => fatal.to_string(),
    };
    status.send_modify(|status| {
        status.role = Role::Closed;
        status.leads = false;
        status.failed = Some(why);
    });
}

fn status_of(
    node: u64,
    data: &RaftDataMetrics<Types>,
    server: &RaftServerMetrics<Types>,
) -> GroupStatus {
    let term = server.vote.leader_id.term;
    let role = match server.state {
        ServerState::Learner => Role::Learner,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Leader => Role::Leader,
        ServerState::Shutdown => Role::Closed,
    };
    let applied = data.last_applied.as_ref().map(log_id);
    let leads = role == Role::Leader
        && server.vote.committed
        && server.vote.leader_id.voted_for == node
        && applied.is_some_and(|applied| applied.term == term);
    let members = members_out(server.membership_config.membership());
    let matched = data.replication.iter().flatten();
    GroupStatus {
        term,
        leader: server.current_leader,
        role,
        leads,
        applied,
        last: data.last_log.as_ref().map(log_id),
        snapshot: data.snapshot.as_ref().map(log_id),
        purged: data.purged.as_ref().map(log_id),
        voters: members.voters,
        learners: members.learners,
        settled: server.membership_config == server.committed_membership_config,
        matched: matched
            .filter(|(member, _)| **member != node)
            .map(|(member, id)| (*member, id.as_ref().map(log_id)))
            .collect(),
        failed: None,
    }
}
