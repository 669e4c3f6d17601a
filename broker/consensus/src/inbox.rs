//! Appends that come in, handed to openraft in the order in which they came.
//!
//! Several of one leader are on their way at once; out of order, each that
//! comes before its predecessor would be refused and sent again.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError};
use tidegate_peer::AppendAck;
use tidegate_store::Disk;
use tidegate_store::raft::Writer;
use tokio::select;
use tokio::sync::{mpsc, oneshot};

use crate::group::Raft;
use crate::limits::APPENDS_MAX;
use crate::log_id::GroupId;
use crate::raft_types::{StoredEntry, Types};
use crate::transport::TransportError;
use crate::wire::ack_out;

/// An Append, or heartbeat, and who waits for its answer.
struct Incoming {
    request: u64,
    append: AppendEntriesRequest<Types>,
    answer: oneshot::Sender<AppendAck>,
}

/// Where Appends of a group come in.
#[derive(Clone)]
pub(crate) struct Inbox(mpsc::Sender<Incoming>);

impl Inbox {
    /// An inbox, and the task that empties it until the inbox is dropped.
    pub(crate) fn new<D: Disk, W: Writer>(
        group: GroupId,
        raft: Raft<D, W>,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (tx, rx) = mpsc::channel(APPENDS_MAX);
        (Self(tx), serve(group, raft, rx))
    }

    /// Takes an Append in before it returns; what is returned gets the answer.
    pub(crate) fn push(
        &self,
        request: u64,
        append: AppendEntriesRequest<Types>,
    ) -> Result<oneshot::Receiver<AppendAck>, TransportError> {
        let (answer, rx) = oneshot::channel();
        self.0.try_send(Incoming { request, append, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TransportError::Busy,
            mpsc::error::TrySendError::Closed(_) => TransportError::Closed,
        })?;
        Ok(rx)
    }
}

async fn serve<D: Disk, W: Writer>(
    group: GroupId,
    raft: Raft<D, W>,
    mut rx: mpsc::Receiver<Incoming>,
) {
    // Polls what is new in the order in which it was pushed; the first poll
    // hands it to openraft.
    let mut running = FuturesUnordered::new();
    loop {
        select! {
            biased;
            next = rx.recv(), if running.len() < APPENDS_MAX => match next {
                Some(incoming) => running.push(append(group, &raft, incoming)),
                None => break,
            },
            Some(()) = running.next() => {}
        }
    }
}

async fn append<D: Disk, W: Writer>(group: GroupId, raft: &Raft<D, W>, incoming: Incoming) {
    let Incoming { request, append, answer } = incoming;
    let prev = append.prev_log_id;
    let last = append.entries.last().map(|entry: &StoredEntry| entry.log_id).or(prev);
    let result = match raft.append_entries(append).await {
        Ok(AppendEntriesResponse::Success) => Ok(last),
        Ok(AppendEntriesResponse::PartialSuccess(matched)) => Ok(matched),
        Ok(AppendEntriesResponse::HigherVote(vote)) => Err(StreamAppendError::HigherVote(vote)),
        Ok(AppendEntriesResponse::Conflict) => match prev {
            Some(prev) => Err(StreamAppendError::Conflict(prev)),
            // Nothing is before the first entry to contradict it.
            None => return,
        },
        // The group has ended: no answer.
        Err(_) => return,
    };
    // Who called may have given up.
    let _ = answer.send(ack_out(group, request, result));
}
