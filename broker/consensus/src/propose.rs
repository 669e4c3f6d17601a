//! Proposals and reads.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use openraft::OptionalSend;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use tokio::sync::{mpsc, oneshot};

use crate::limits::{PAYLOAD_BYTES_MAX, PROPOSAL_BYTES_MAX, PROPOSALS_MAX};
use crate::raft_types::Types;

/// Why a proposal has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was appended: another node leads, or none that is known.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<u64>,
    },
    /// Nothing was appended: leadership is being handed over. Try again; either
    /// it fails soon and this node leads on, or another does.
    #[error("leadership is being handed over")]
    HandingOver,
    /// It may or may not be committed, now or later: this node was deposed, or
    /// the group closed, before that was known.
    #[error("leadership was lost before the outcome was known")]
    Lost,
    /// Nothing was appended: the group is not open.
    #[error("the group is not open")]
    Closed,
    /// Nothing was appended: too many proposals wait, or too many bytes of them.
    #[error("too many proposals wait")]
    Busy,
    /// Nothing was appended: the payload is over its limit.
    #[error("a payload of {bytes} bytes is over the limit of {PAYLOAD_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
}

/// Why a read cannot be answered here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReadError {
    /// Another node leads, or none that is known.
    #[error("this node does not lead the group")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<u64>,
    },
    /// No quorum said in time that this node still leads.
    #[error("no quorum has answered")]
    NoQuorum,
    /// The group is not open.
    #[error("the group is not open")]
    Closed,
}

/// A proposal on its way to openraft.
pub(crate) struct Proposal {
    pub(crate) payload: Bytes,
    pub(crate) reply: Reply<ClientWriteResult<Types>>,
}

/// Who waits for what becomes of a proposal. Its share of what is outstanding
/// is given back when openraft has answered, also if nobody waits any more.
pub(crate) struct Reply<T> {
    tx: oneshot::Sender<T>,
    _share: Share,
}

impl<T: OptionalSend + 'static> Responder<Types, T> for Reply<T> {
    fn on_complete(self, result: T) {
        // Who proposed may have given up.
        let _ = self.tx.send(result);
    }
}

/// Where proposals of a group wait, in the order in which they were made.
#[derive(Clone)]
pub(crate) struct Desk {
    proposals: mpsc::Sender<Proposal>,
    outstanding: Arc<Outstanding>,
}

/// What has no answer yet.
#[derive(Debug, Default)]
pub(crate) struct Outstanding {
    count: AtomicUsize,
    bytes: AtomicUsize,
    handing_over: AtomicBool,
}

impl Outstanding {
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Holds proposals back until the guard is dropped; none if that is so already.
    pub(crate) fn hand_over(self: &Arc<Self>) -> Option<HandingOver> {
        let was = self.handing_over.swap(true, Ordering::SeqCst);
        (!was).then(|| HandingOver(self.clone()))
    }
}

/// No proposals are taken while it lives.
pub(crate) struct HandingOver(Arc<Outstanding>);

impl Drop for HandingOver {
    fn drop(&mut self) {
        self.0.handing_over.store(false, Ordering::SeqCst);
    }
}

/// A proposal's share of what is outstanding.
pub(crate) struct Share {
    bytes: usize,
    outstanding: Arc<Outstanding>,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.outstanding.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.outstanding.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Desk {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Proposal>) {
        let (proposals, taken) = mpsc::channel(PROPOSALS_MAX);
        (Self { proposals, outstanding: Arc::default() }, taken)
    }

    pub(crate) fn outstanding(&self) -> &Arc<Outstanding> {
        &self.outstanding
    }

    /// Takes a proposal in before it returns; the future waits for its answer.
    pub(crate) fn propose(
        &self,
        payload: Bytes,
    ) -> Result<impl Future<Output = Result<Vec<u8>, ProposeError>> + Send + use<>, ProposeError>
    {
        let bytes = payload.len();
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes });
        }
        let outstanding = self.outstanding.clone();
        // Counted before it is asked whether to wait, as who lets wait asks after
        // the count: one of both sees the other.
        let waiting = outstanding.count.fetch_add(1, Ordering::SeqCst);
        let before = outstanding.bytes.fetch_add(bytes, Ordering::Relaxed);
        // From here on it is given back, whatever happens.
        let share = Share { bytes, outstanding };
        if share.outstanding.handing_over.load(Ordering::SeqCst) {
            return Err(ProposeError::HandingOver);
        }
        if (before > 0 && before + bytes > PROPOSAL_BYTES_MAX) || waiting >= PROPOSALS_MAX {
            return Err(ProposeError::Busy);
        }
        let (tx, answer) = oneshot::channel();
        let reply = Reply { tx, _share: share };
        match self.proposals.try_send(Proposal { payload, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(ProposeError::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(ProposeError::Closed),
        }
        Ok(answered(answer))
    }
}

async fn answered(
    answer: oneshot::Receiver<ClientWriteResult<Types>>,
) -> Result<Vec<u8>, ProposeError> {
    match answer.await {
        Ok(Ok(response)) => Ok(response.data),
        Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
            Err(ProposeError::NotLeader { leader: forward.leader_id })
        }
        Ok(Err(
            ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_),
        ))
        | Err(_) => Err(ProposeError::Lost),
    }
}
