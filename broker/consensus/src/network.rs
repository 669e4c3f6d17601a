//! openraft's calls to other nodes, by a [`Transport`].

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use tidegate_peer::proto::Status;
use tidegate_peer::{AppendAck, AppendOutcome};
use tidegate_store::DiskFile;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::heartbeat::Beats;
use crate::limits::{APPEND_TIME_MAX, CHUNK_BYTES, CHUNK_TIME_MAX, INSTALL_TIME_MAX, PIPELINE};
use crate::log_id::GroupId;
use crate::machine::{SnapshotBody, on_disk};
use crate::raft_types::{Id, Snapshot, StoredEntry, Types, Vote};
use crate::snapshot::Stored;
use crate::transport::{CallKind, Transport, TransportError};
use crate::wire::{self, Offer};

type Rpc<R> = Result<R, RPCError<Types>>;

/// Makes the callers of one group.
pub(crate) struct Network<T, F> {
    pub(crate) group: GroupId,
    pub(crate) transport: T,
    pub(crate) beats: Arc<Beats<T>>,
    /// What a candidate that this node is to support has to have.
    pub(crate) floor: Floor,
    pub(crate) file: std::marker::PhantomData<fn() -> F>,
}

/// Term and index that a candidate has to have: what this node had of the group
/// before it gave its replica up (`RaftLog::floor`).
pub(crate) type Floor = Arc<dyn Fn() -> Option<(u64, u64)> + Send + Sync>;

/// Whether a candidate has all that this node ever had.
pub(crate) fn is_supported(floor: Option<(u64, u64)>, rpc: &VoteRequest<Types>) -> bool {
    floor <= rpc.last_log_id.as_ref().map(|last| (last.leader_id.term, last.index))
}

impl<T: Transport, F: DiskFile> Network<T, F> {
    fn caller(&self, to: u64, beats: bool) -> Caller<T, F> {
        Caller {
            group: self.group,
            to,
            transport: self.transport.clone(),
            beats: self.beats.clone(),
            is_heart: beats,
            floor: self.floor.clone(),
            file: self.file,
        }
    }
}

impl<T: Transport, F: DiskFile> RaftNetworkFactory<Types> for Network<T, F> {
    type Network = Caller<T, F>;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Caller<T, F> {
        self.caller(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> Caller<T, F> {
        self.caller(target, true)
    }
}

/// Calls one node for one group.
pub(crate) struct Caller<T, F> {
    group: GroupId,
    to: u64,
    transport: T,
    beats: Arc<Beats<T>>,
    /// Whether it is the one that sends heartbeats.
    is_heart: bool,
    floor: Floor,
    file: std::marker::PhantomData<fn() -> F>,
}

impl<T: Transport, F: DiskFile> Caller<T, F> {
    fn call(
        &self,
        kind: CallKind,
        body: Bytes,
        time_max: Duration,
    ) -> impl Future<Output = Result<Bytes, TransportError>> + Send + use<T, F> {
        let (transport, to, group) = (self.transport.clone(), self.to, self.group);
        async move {
            match timeout(time_max, transport.call(to, group, kind, body)).await {
                Ok(answer) => answer,
                Err(_) => Err(TransportError::Lost),
            }
        }
    }

    /// Sends one Append, or heartbeat, and reads its answer.
    fn append(
        &self,
        append: AppendEntriesRequest<Types>,
    ) -> impl Future<Output = (Option<Id>, Rpc<StreamAppendResult<Types>>)> + Send + use<T, F> {
        let prev = append.prev_log_id;
        let last = append.entries.last().map(|entry: &StoredEntry| entry.log_id).or(prev);
        let call = match self.is_heart && append.entries.is_empty() {
            true => Either::Left((self.beats.clone(), wire::lead_out(self.group, 0, &append))),
            false => {
                let body = wire::append_out(self.group, append);
                Either::Right(self.call(CallKind::Append, body, APPEND_TIME_MAX))
            }
        };
        let to = self.to;
        async move {
            let ack = match call {
                Either::Left((beats, lead)) => beats.beat(to, lead).await,
                Either::Right(call) => call.await.and_then(|body| {
                    AppendAck::decode(&body).map_err(|error| wire::WireError::from(error).into())
                }),
            };
            let result = ack.map_err(failed).and_then(|ack| {
                wire::ack_in(&ack, prev, last)
                    .map(|result| (ack.outcome, result))
                    .map_err(|error| failed(error.into()))
            });
            match result {
                Ok((AppendOutcome::Partly, Ok(matched))) => (last, Ok(Ok(matched))),
                Ok((_, result)) => (last, Ok(result)),
                Err(error) => (last, Err(error)),
            }
        }
    }

    /// What `append`, the `number`th of a stream, has no entries for, a later one
    /// of the stream tells as well, or else the next heartbeat: waits for what the
    /// follower says to either.
    fn ride(
        &self,
        append: &AppendEntriesRequest<Types>,
        number: u64,
        mut acked: watch::Receiver<u64>,
    ) -> impl Future<Output = (Option<Id>, Rpc<StreamAppendResult<Types>>)> + Send + use<T, F> {
        let prev = append.prev_log_id;
        let (beats, to, group) = (self.beats.clone(), self.to, wire::group_out(self.group));
        async move {
            let later = pin!(acked.wait_for(|acked| *acked > number));
            let beat = pin!(beats.ride(to, group));
            let ack = match timeout(APPEND_TIME_MAX, select(later, beat)).await {
                Ok(Either::Left((Ok(_), _))) => return (prev, Ok(Ok(prev))),
                Ok(Either::Right((ack, _))) => ack,
                Ok(Either::Left((Err(_), _))) | Err(_) => Err(TransportError::Lost),
            };
            let result = ack.and_then(|ack| match ack.outcome {
                AppendOutcome::Taken | AppendOutcome::Partly => Ok(Ok(prev)),
                // At another place than this one's.
                AppendOutcome::Conflict => Err(TransportError::Lost),
                AppendOutcome::HigherVote => Ok(wire::ack_in(&ack, prev, prev)?),
            });
            (prev, result.map_err(failed))
        }
    }

    async fn offer(&self, offer: &Offer) -> Result<Received, StreamingError<Types>> {
        let body = offer.encode(self.group);
        let answer = self.call(CallKind::SnapshotOffer, body, CHUNK_TIME_MAX).await;
        received(offer, answer)
    }

    /// Sends a snapshot from where the receiver is to its end.
    async fn send(
        &self,
        vote: Vote,
        snapshot: Stored<F>,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let header = &snapshot.header;
        let offer = Offer {
            // The connection's order tells transfers apart; so does the place.
            transfer: header.last().index,
            vote,
            meta: header.meta.clone(),
            name: header.name(),
            bytes: header.body_bytes,
        };
        let mut through = match self.offer(&offer).await? {
            Received::Done(vote) => return Ok(SnapshotResponse::new(vote)),
            Received::Through(through) => through,
        };
        loop {
            let from = snapshot.clone();
            let data = on_disk::<F, _>(move || from.read(through, CHUNK_BYTES)).await;
            let data = data.map_err(|error| network(&error))?;
            let is_last = through + data.len() as u64 >= header.body_bytes;
            let time_max = if is_last { INSTALL_TIME_MAX } else { CHUNK_TIME_MAX };
            let before = through;
            let body = wire::chunk_out(offer.transfer, through, data, is_last);
            let answer = self.call(CallKind::SnapshotChunk, body, time_max).await;
            match received(&offer, answer)? {
                Received::Done(vote) => return Ok(SnapshotResponse::new(vote)),
                Received::Through(now) if now > before && now < header.body_bytes => through = now,
                Received::Through(_) => {
                    let error = TransportError::Malformed("a snapshot that goes nowhere".into());
                    return Err(streaming(error));
                }
            }
        }
    }
}

/// What a receiver of a snapshot says.
enum Received {
    /// It is in force, or a higher vote is.
    Done(Vote),
    Through(u64),
}

fn received(
    offer: &Offer,
    answer: Result<Bytes, TransportError>,
) -> Result<Received, StreamingError<Types>> {
    let ack = answer
        .and_then(|body| wire::snapshot_ack_in(&body).map_err(TransportError::from))
        .map_err(streaming)?;
    let vote = ack.vote.map_or(offer.vote, wire::vote_in);
    match Status::try_from(ack.status).unwrap_or(Status::Unspecified) {
        Status::Done => Ok(Received::Done(offer.vote)),
        Status::Stale => Ok(Received::Done(vote)),
        Status::Busy if ack.through <= offer.bytes => Ok(Received::Through(ack.through)),
        Status::Busy
        | Status::Unspecified
        | Status::NotLeader
        | Status::Refused
        | Status::Absent => Err(streaming(TransportError::Busy)),
    }
}

/// openraft waits for a while after some errors, and not after others.
fn failed(error: TransportError) -> RPCError<Types> {
    match error {
        TransportError::Unreachable
        | TransportError::Closed
        | TransportError::Busy
        | TransportError::Malformed(_) => RPCError::Unreachable(Unreachable::new(&error)),
        TransportError::Lost => RPCError::Network(NetworkError::new(&error)),
    }
}

fn streaming(error: TransportError) -> StreamingError<Types> {
    StreamingError::Unreachable(Unreachable::new(&error))
}

fn network(error: &std::io::Error) -> StreamingError<Types> {
    StreamingError::Unreachable(Unreachable::new(error))
}

impl<T: Transport, F: DiskFile> RaftNetworkV2<Types> for Caller<T, F> {
    type SnapshotData = SnapshotBody<F>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<Types>> {
        let (last, result) = self.append(rpc).await;
        result.map(|result| match result {
            Ok(matched) if matched == last => AppendEntriesResponse::Success,
            Ok(matched) => AppendEntriesResponse::PartialSuccess(matched),
            Err(error) => AppendEntriesResponse::from(Err(error)),
        })
    }

    /// Several Appends are on their way at once. Answers come in order; the
    /// first that is not a plain yes is the last, since those behind it were
    /// sent in the hope of one. What only says that more is committed is no call
    /// of its own: one an entry would be as many as those that carry entries. The
    /// first of a stream is always one, as it asks where the follower is.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<Types>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let caller = &*self;
        let (mut number, acked) = (0, watch::Sender::new(0));
        let answer = move |append: AppendEntriesRequest<Types>| {
            number += 1;
            if append.entries.is_empty() && number > 1 {
                return Either::Left(caller.ride(&append, number, acked.subscribe()));
            }
            let (call, number, acked) = (caller.append(append), number, acked.clone());
            Either::Right(async move {
                let (last, result) = call.await;
                if matches!(&result, Ok(Ok(_))) {
                    acked.send_if_modified(|newest| {
                        let is_newer = number > *newest;
                        *newest = number.max(*newest);
                        is_newer
                    });
                }
                (last, result)
            })
        };
        let answers = input.map(answer).buffered(PIPELINE);
        let begun: (_, Option<Id>) = (Box::pin(answers), None);
        let answers = stream::unfold(Some(begun), |state| async move {
            let (mut answers, acked) = state?;
            let (last, result) = answers.next().await?;
            let result = match result {
                // It overtook the Append before it, which has arrived since.
                // openraft would take this for a log that went back, and panic.
                Ok(Err(StreamAppendError::Conflict(at))) if acked >= Some(at) => {
                    Err(failed(TransportError::Lost))
                }
                result => result,
            };
            let goes_on = matches!(&result, Ok(Ok(matched)) if *matched == last);
            Some((result, goes_on.then_some((answers, last))))
        });
        let answers: BoxStream<'s, _> = Box::pin(answers);
        Box::pin(async move { Ok(answers) })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        self.ask(&rpc, false, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<Types>> {
        self.ask(&rpc, true, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SnapshotBody<F>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let stored = match snapshot.snapshot {
            SnapshotBody::Stored(stored) => stored,
            // What was received is in its file before openraft hands it out.
            SnapshotBody::Received(_) => {
                return Err(StreamingError::Closed(wire::given_up("the snapshot is not stored")));
            }
        };
        let send = pin!(self.send(vote, stored));
        let cancel = pin!(cancel);
        match select(send, cancel).await {
            Either::Left((result, _)) => result,
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<Types>> {
        let body = wire::transfer_out(self.group, &req);
        let answer = self.call(CallKind::Transfer, body, option.hard_ttl()).await;
        let reply = answer
            .and_then(|body| wire::vote_reply_in(self.group, &body).map_err(TransportError::from));
        let reply = reply.map_err(failed)?;
        if reply.vote_granted {
            return Ok(Ok(()));
        }
        let expected = *req.from_leader();
        Ok(Err(if reply.vote == expected {
            let expected = req.last_log_id().copied();
            TransferLeaderError::LogNotFlushed { expected, actual: reply.last_log_id }
        } else {
            TransferLeaderError::VoteChanged { expected, actual: reply.vote }
        }))
    }
}

impl<T: Transport, F: DiskFile> Caller<T, F> {
    async fn ask(
        &self,
        rpc: &VoteRequest<Types>,
        pre: bool,
        time_max: Duration,
    ) -> Rpc<VoteResponse<Types>> {
        if !is_supported((self.floor)(), rpc) {
            return Err(failed(TransportError::Closed));
        }
        let body = wire::vote_request_out(self.group, rpc, pre);
        let answer = self.call(CallKind::Vote, body, time_max).await;
        let reply = answer
            .and_then(|body| wire::vote_reply_in(self.group, &body).map_err(TransportError::from));
        reply.map_err(failed)
    }
}
