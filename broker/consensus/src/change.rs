//! Members, handovers and snapshots: what an operator or the placement asks for.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use openraft::{ChangeMembers, EmptyNode};
use tidegate_store::Disk;
use tidegate_store::raft::Writer;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::group::{Raft, Running};
use crate::limits::{
    LAG_MAX, MEMBERS_MAX, SNAPSHOT_TIME_MAX, TRANSFER_TIME_MAX, TRANSFER_WAIT_MAX,
};
use crate::log_id::LogId;
use crate::machine::barrier;
use crate::raft_types::Types;
use crate::snapshot::SnapshotFile;
use crate::status::{GroupStatus, Role};

/// Why a group was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// This node does not lead, or not yet.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<u64>,
    },
    /// A voter that is to be is too far behind, or waits for a snapshot. Let it
    /// catch up first: until it has, its vote would only count against commits.
    #[error("node {node} lacks {entries} entries")]
    Lagging {
        /// Which.
        node: u64,
        /// How far it is behind.
        entries: u64,
    },
    /// A voter that is to be is no member yet: add it as a learner first.
    #[error("node {node} is not a member")]
    NotMember {
        /// Which.
        node: u64,
    },
    /// Another change is under way.
    #[error("another change is under way")]
    InProgress,
    /// It may or may not come into force: leadership was lost on the way.
    #[error("leadership was lost before the outcome was known")]
    Lost,
    /// The group is not open, or has failed.
    #[error("the group is not open")]
    Closed,
    /// It cannot be asked for.
    #[error("refused: {0}")]
    Refused(String),
    /// The snapshot could not be made or written.
    #[error("no snapshot: {0}")]
    Snapshot(io::Error),
}

/// Why leadership stays, or went elsewhere.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TransferError {
    /// This node does not lead.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<u64>,
    },
    /// The successor has no vote.
    #[error("node {0} does not vote")]
    NotVoter(u64),
    /// The successor did not get the last entry in time. Nothing has changed.
    #[error("the successor is behind")]
    Lagging,
    /// Another handover is under way.
    #[error("another handover is under way")]
    InProgress,
    /// It was triggered and the successor did not take it: an election follows.
    #[error("the successor did not take over")]
    NotTaken,
    /// The group is not open, or has failed.
    #[error("the group is not open")]
    Closed,
}

pub(crate) async fn initialize<D: Disk, W: Writer>(
    raft: &Raft<D, W>,
    mut status: watch::Receiver<GroupStatus>,
    writer: &W,
    voters: BTreeSet<u64>,
) -> Result<bool, ChangeError> {
    if voters.is_empty() || voters.len() > MEMBERS_MAX {
        return Err(ChangeError::Refused(format!("{} voters", voters.len())));
    }
    match raft.initialize(voters).await {
        Ok(()) => {
            // openraft answers before the entry is on its way to the disk.
            let there = status.wait_for(|now| now.last.is_some() || now.role == Role::Closed);
            there.await.map_err(|_| ChangeError::Closed)?;
            barrier(writer).await.map_err(|_| ChangeError::Closed)?;
            Ok(true)
        }
        Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(false),
        Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
            Err(ChangeError::Refused(error.to_string()))
        }
        Err(RaftError::Fatal(_)) => Err(ChangeError::Closed),
    }
}

pub(crate) async fn add_learner<D: Disk, W: Writer>(
    raft: &Raft<D, W>,
    status: &GroupStatus,
    node: u64,
) -> Result<(), ChangeError> {
    if status.is_voter(node) || status.learners.contains(&node) {
        return Ok(());
    }
    let members = status.voters.iter().map(Vec::len).sum::<usize>() + status.learners.len();
    if members >= MEMBERS_MAX {
        return Err(ChangeError::Refused(format!("{members} members are enough")));
    }
    raft.add_learner(node, EmptyNode {}, false).await.map(drop).map_err(refused)
}

pub(crate) async fn remove_learner<D: Disk, W: Writer>(
    raft: &Raft<D, W>,
    node: u64,
) -> Result<(), ChangeError> {
    let change = ChangeMembers::RemoveNodes(BTreeSet::from([node]));
    raft.change_membership(change, false).await.map(drop).map_err(refused)
}

pub(crate) async fn change_voters<D: Disk, W: Writer>(
    node: u64,
    raft: &Raft<D, W>,
    status: &GroupStatus,
    voters: BTreeSet<u64>,
) -> Result<(), ChangeError> {
    if !status.leads {
        return Err(ChangeError::NotLeader { leader: status.leader });
    }
    if voters.is_empty() || voters.len() > MEMBERS_MAX / 2 {
        return Err(ChangeError::Refused(format!("{} voters", voters.len())));
    }
    for &voter in voters.iter().filter(|voter| **voter != node) {
        let Some(&matched) = status.matched.get(&voter) else {
            return Err(ChangeError::NotMember { node: voter });
        };
        let entries = status.lag(voter).unwrap_or(u64::MAX);
        // Behind the log's beginning only a snapshot helps.
        if entries > LAG_MAX || matched < status.purged {
            return Err(ChangeError::Lagging { node: voter, entries });
        }
    }
    raft.change_membership(voters, false).await.map(drop).map_err(refused)
}

fn refused(error: RaftError<Types, ClientWriteError<Types>>) -> ChangeError {
    let error = match error {
        RaftError::APIError(error) => error,
        RaftError::Fatal(_) => return ChangeError::Closed,
    };
    match error {
        ClientWriteError::ForwardToLeader(forward) => {
            ChangeError::NotLeader { leader: forward.leader_id }
        }
        ClientWriteError::LogEntryDiscarded(_) => ChangeError::Lost,
        ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        ) => ChangeError::InProgress,
        ClientWriteError::ChangeMembershipError(error) => ChangeError::Refused(error.to_string()),
        ClientWriteError::PreconditionFailed(error) => ChangeError::Refused(error.to_string()),
    }
}

pub(crate) async fn transfer<D: Disk, W: Writer>(
    node: u64,
    running: &Running<D, W>,
    mut status: watch::Receiver<GroupStatus>,
    to: u64,
) -> Result<(), TransferError> {
    let term = {
        let now = status.borrow();
        if !now.leads {
            return Err(TransferError::NotLeader { leader: now.leader });
        }
        if to == node {
            return Ok(());
        }
        if !now.is_voter(to) {
            return Err(TransferError::NotVoter(to));
        }
        now.term
    };
    let outstanding = running.desk.outstanding();
    let _held = outstanding.hand_over().ok_or(TransferError::InProgress)?;

    // Everything that was proposed is answered, and the successor has it.
    let until = Instant::now() + TRANSFER_WAIT_MAX;
    loop {
        {
            let now = status.borrow_and_update();
            if !now.leads || now.term != term {
                return Err(TransferError::NotLeader { leader: now.leader });
            }
            if outstanding.is_empty() && now.lag(to) == Some(0) {
                break;
            }
        }
        // Answers go out without a change of the status: look again soon.
        let soon = until.min(Instant::now() + Duration::from_millis(2));
        let changed = timeout_at(soon, status.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return Err(TransferError::Closed);
        }
        if Instant::now() >= until {
            return Err(TransferError::Lagging);
        }
    }

    let triggered = running.raft.trigger().transfer_leader(to).await;
    triggered.map_err(|_| TransferError::Closed)?;
    let taken = status
        .wait_for(|now| now.role == Role::Closed || (now.term > term && now.leader.is_some()));
    match timeout(TRANSFER_TIME_MAX, taken).await {
        Ok(Ok(now)) if now.leader == Some(to) && now.role != Role::Closed => Ok(()),
        Ok(Ok(now)) if now.role == Role::Closed => Err(TransferError::Closed),
        Ok(Ok(_)) | Err(_) => Err(TransferError::NotTaken),
        Ok(Err(_)) => Err(TransferError::Closed),
    }
}

pub(crate) async fn snapshot<D: Disk, W: Writer>(
    raft: &Raft<D, W>,
    mut status: watch::Receiver<GroupStatus>,
    file: Arc<SnapshotFile<D>>,
) -> Result<Option<LogId>, ChangeError> {
    // The question stands between two entries, like an entry.
    let draft = raft.with_state_machine(|machine| {
        let draft = machine.begin_snapshot();
        Box::pin(async move { draft })
    });
    let Some(draft) = draft.await.map_err(|_| ChangeError::Closed)? else { return Ok(None) };
    let stored = draft.write(file).await.map_err(ChangeError::Snapshot)?;
    let last = stored.header.last();

    // It is durable; openraft has to know of it before the log may forget.
    let until = Instant::now() + SNAPSHOT_TIME_MAX;
    while Instant::now() < until {
        raft.trigger().snapshot().await.map_err(|_| ChangeError::Closed)?;
        let known = status.wait_for(|now| now.snapshot >= Some(last) || now.role == Role::Closed);
        match timeout(Duration::from_millis(100), known).await {
            Ok(Ok(now)) if now.role == Role::Closed => return Err(ChangeError::Closed),
            Ok(Ok(_)) => return Ok(Some(last)),
            Ok(Err(_)) => return Err(ChangeError::Closed),
            // It was building another one, which held up this.
            Err(_) => {}
        }
    }
    Err(ChangeError::Snapshot(io::ErrorKind::TimedOut.into()))
}
