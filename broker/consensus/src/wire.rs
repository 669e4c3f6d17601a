//! openraft's messages in the encodings of `tidegate-peer`.
//!
//! Everything that comes in is checked here: what is left cannot make openraft
//! panic. A log id's node is sent as 0 and not looked at: a term has one leader.

use std::collections::BTreeSet;

use bytes::Bytes;
use openraft::errors::ReplicationClosed;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::vote::leader_id_std::LeaderId;
use openraft::{EntryPayload, StoredMembership};
use tidegate_peer::{self as peer, BodyError, EntryKind, Lead, Message, MessageType};
use tidegate_store::Membership;
use tidegate_store::raft::EntryBody;

use crate::limits::{MEMBERS_MAX, SNAPSHOT_BYTES_MAX, SNAPSHOT_NAME_BYTES_MAX};
use crate::log_id::{GroupId, LogId, META};
use crate::raft_types::{Id, Members, Meta, StoredEntry, StoredMembers, Types, Vote, raft_id};
use crate::transport::TransportError;

/// What does not stand in a body, or cannot.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum WireError {
    /// Not such a message.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Of another group than was called.
    #[error("group {got} in a call of group {called}")]
    Group { got: u32, called: GroupId },
    /// A vote of another node, which only that node may bring.
    #[error("node {from} speaks for node {node}")]
    Sender { from: u64, node: u64 },
    /// A member set that is none.
    #[error("a membership that is not in its form")]
    Membership,
    /// Entries that do not follow from what is before them.
    #[error("entries of term {term} behind those of term {before}")]
    Order { term: u64, before: u64 },
    /// A field that has to be there.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value over its bound.
    #[error("{what}: {got} is over the limit of {max}")]
    TooMuch { what: &'static str, got: u64, max: u64 },
}

impl From<WireError> for TransportError {
    fn from(error: WireError) -> Self {
        Self::Malformed(error.to_string())
    }
}

pub(crate) fn group_out(group: GroupId) -> peer::Group {
    if group == META { peer::Group::META } else { peer::Group(group.into()) }
}

pub(crate) fn group_in(group: peer::Group) -> Result<GroupId, WireError> {
    if group == peer::Group::META {
        return Ok(META);
    }
    u16::try_from(group.0)
        .ok()
        .filter(|group| *group < 256)
        .ok_or(WireError::Group { got: group.0, called: META })
}

fn check_group(got: u32, called: GroupId) -> Result<(), WireError> {
    if group_in(peer::Group(got)).ok() == Some(called) {
        Ok(())
    } else {
        Err(WireError::Group { got, called })
    }
}

fn check_sender(vote: &Vote, from: u64) -> Result<(), WireError> {
    let node = vote.leader_id.voted_for;
    if node == from { Ok(()) } else { Err(WireError::Sender { from, node }) }
}

pub(crate) fn vote_out(vote: &Vote) -> peer::Vote {
    peer::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn vote_in(vote: peer::Vote) -> Vote {
    Vote {
        leader_id: LeaderId { term: vote.term, voted_for: vote.node },
        committed: vote.committed,
    }
}

pub(crate) fn id_out(id: &Id) -> peer::LogId {
    peer::LogId { term: id.leader_id.term, node: 0, index: id.index }
}

pub(crate) fn id_in(id: peer::LogId) -> Id {
    raft_id(LogId { term: id.term, index: id.index })
}

/// Sorted sets of members, as openraft has them.
pub(crate) fn members_out(members: &Members) -> Membership {
    let voters = members.get_joint_config().iter();
    let voters = voters.map(|ids| ids.iter().copied().collect()).collect();
    Membership { voters, learners: members.learner_ids().collect() }
}

pub(crate) fn members_in(membership: Membership) -> Result<Members, WireError> {
    let Membership { voters, learners } = membership;
    let count = voters.iter().map(Vec::len).sum::<usize>() + learners.len();
    if count > MEMBERS_MAX || voters.len() > 2 || voters.iter().any(Vec::is_empty) {
        return Err(WireError::Membership);
    }
    let voters = voters.into_iter().map(BTreeSet::from_iter).collect();
    Ok(Members::new_with_defaults(voters, learners))
}

pub(crate) fn members_bytes(members: &Members) -> Bytes {
    let mut out = Vec::new();
    members_out(members).encode(&mut out);
    out.into()
}

pub(crate) fn members_from(bytes: &[u8]) -> Result<Members, WireError> {
    members_in(Membership::decode(bytes).ok_or(WireError::Membership)?)
}

/// Vote, prev and commit of an Append or heartbeat.
pub(crate) fn lead_out(group: GroupId, request: u64, append: &AppendEntriesRequest<Types>) -> Lead {
    Lead {
        group: group_out(group),
        request,
        vote: vote_out(&append.vote),
        prev: append.prev_log_id.as_ref().map(id_out),
        commit: append.leader_commit.as_ref().map(id_out),
    }
}

pub(crate) fn append_out(group: GroupId, append: AppendEntriesRequest<Types>) -> Bytes {
    let lead = lead_out(group, 0, &append);
    let entries = append.entries.into_iter().map(entry_out).collect();
    peer::Append { lead, entries }.encode().to_bytes()
}

fn entry_out(entry: StoredEntry) -> peer::Entry {
    let (kind, data) = match entry.payload {
        EntryPayload::Blank => (EntryKind::Blank, Bytes::new()),
        EntryPayload::Normal(EntryBody { flags, bytes }) => {
            debug_assert_eq!(flags, 0, "entries of a group have no flags");
            (EntryKind::Normal, bytes)
        }
        EntryPayload::Membership(members) => (EntryKind::Membership, members_bytes(&members)),
    };
    peer::Entry { term: entry.log_id.leader_id.term, node: 0, kind, data }
}

/// A heartbeat, or the head of an Append.
pub(crate) fn lead_in(from: u64, lead: &Lead) -> Result<AppendEntriesRequest<Types>, WireError> {
    let vote = vote_in(lead.vote);
    check_sender(&vote, from)?;
    if !vote.committed {
        return Err(WireError::Missing("the quorum's consent to the leader"));
    }
    for id in [lead.prev, lead.commit].into_iter().flatten() {
        check_term(id.term, vote.leader_id.term)?;
        if id.index == u64::MAX {
            return Err(WireError::TooMuch { what: "index", got: id.index, max: u64::MAX - 1 });
        }
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id: lead.prev.map(id_in),
        leader_commit: lead.commit.map(id_in),
        entries: Vec::new(),
    })
}

fn check_term(before: u64, term: u64) -> Result<(), WireError> {
    if before <= term { Ok(()) } else { Err(WireError::Order { term, before }) }
}

pub(crate) fn append_in(
    from: u64,
    group: GroupId,
    body: &Bytes,
) -> Result<AppendEntriesRequest<Types>, WireError> {
    let peer::Append { lead, entries } = peer::Append::decode(body)?;
    check_group(lead.group.0, group)?;
    let mut append = lead_in(from, &lead)?;
    let mut index = lead.prev.map_or(0, |prev| prev.index + 1);
    let mut before = lead.prev.map_or(0, |prev| prev.term);
    for entry in entries {
        let peer::Entry { term, node: _, kind, data } = entry;
        check_term(before, term)?;
        check_term(term, lead.vote.term)?;
        before = term;
        let payload = match kind {
            EntryKind::Blank => EntryPayload::Blank,
            EntryKind::Normal => EntryPayload::Normal(EntryBody { flags: 0, bytes: data }),
            EntryKind::Membership => EntryPayload::Membership(members_from(&data)?),
        };
        append.entries.push(StoredEntry { log_id: raft_id(LogId { term, index }), payload });
        index = index.checked_add(1).ok_or(WireError::Missing("room for an index"))?;
    }
    Ok(append)
}

/// The answer to an Append or heartbeat. `vote` counts with a higher vote only.
pub(crate) fn ack_out(
    group: GroupId,
    request: u64,
    result: StreamAppendResult<Types>,
) -> peer::AppendAck {
    let (outcome, vote, matched) = match result {
        Ok(matched) => (peer::AppendOutcome::Taken, peer::Vote::default(), matched),
        Err(StreamAppendError::Conflict(id)) => {
            (peer::AppendOutcome::Conflict, peer::Vote::default(), Some(id))
        }
        Err(StreamAppendError::HigherVote(vote)) => {
            (peer::AppendOutcome::HigherVote, vote_out(&vote), None)
        }
    };
    let matched = matched.as_ref().map(id_out);
    peer::AppendAck { group: group_out(group), request, vote, matched, outcome }
}

/// What an answer says of the Append from `prev` to `last`.
pub(crate) fn ack_in(
    ack: &peer::AppendAck,
    prev: Option<Id>,
    last: Option<Id>,
) -> Result<StreamAppendResult<Types>, WireError> {
    match ack.outcome {
        peer::AppendOutcome::Taken => Ok(Ok(last)),
        peer::AppendOutcome::Partly => {
            let matched = ack.matched.map(id_in);
            if matched < prev || matched > last {
                return Err(WireError::Missing("a matched entry of those sent"));
            }
            Ok(Ok(matched))
        }
        // openraft takes the place that was refused, which is ours to know.
        peer::AppendOutcome::Conflict => match prev {
            Some(prev) => Ok(Err(StreamAppendError::Conflict(prev))),
            None => Err(WireError::Missing("an entry that could be in conflict")),
        },
        peer::AppendOutcome::HigherVote => {
            Ok(Err(StreamAppendError::HigherVote(vote_in(ack.vote))))
        }
    }
}

pub(crate) fn vote_request_out(group: GroupId, request: &VoteRequest<Types>, pre: bool) -> Bytes {
    let message = peer::proto::VoteRequest {
        group: group_out(group).0,
        request: 0,
        vote: Some(vote_out(&request.vote)),
        last: request.last_log_id.as_ref().map(id_out),
        pre,
        transfer: request.leadership_transfer,
    };
    Message::from(message).encode().to_bytes()
}

/// The request, and whether it is only a question.
pub(crate) fn vote_request_in(
    from: u64,
    group: GroupId,
    body: &Bytes,
) -> Result<(VoteRequest<Types>, bool), WireError> {
    let Message::VoteRequest(message) = Message::decode(MessageType::VoteRequest, body)? else {
        return Err(WireError::Missing("a vote request"));
    };
    check_group(message.group, group)?;
    let vote = vote_in(message.vote.ok_or(WireError::Missing("the candidate's vote"))?);
    check_sender(&vote, from)?;
    if vote.committed {
        return Err(WireError::Missing("a candidate that does not lead yet"));
    }
    let mut request = VoteRequest::new(vote, message.last.map(id_in));
    request.leadership_transfer = message.transfer;
    Ok((request, message.pre))
}

pub(crate) fn vote_reply_out(group: GroupId, reply: &VoteResponse<Types>) -> Bytes {
    let message = peer::proto::VoteReply {
        group: group_out(group).0,
        request: 0,
        vote: Some(vote_out(&reply.vote)),
        last: reply.last_log_id.as_ref().map(id_out),
        granted: reply.vote_granted,
    };
    Message::from(message).encode().to_bytes()
}

pub(crate) fn vote_reply_in(
    group: GroupId,
    body: &Bytes,
) -> Result<VoteResponse<Types>, WireError> {
    let Message::VoteReply(message) = Message::decode(MessageType::VoteReply, body)? else {
        return Err(WireError::Missing("a vote reply"));
    };
    check_group(message.group, group)?;
    let vote = vote_in(message.vote.ok_or(WireError::Missing("the voter's vote"))?);
    Ok(VoteResponse::new(vote, message.last.map(id_in), message.granted))
}

pub(crate) fn transfer_out(group: GroupId, request: &TransferLeaderRequest<Types>) -> Bytes {
    let message = peer::proto::TransferLeader {
        group: group_out(group).0,
        from: Some(vote_out(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(id_out),
    };
    Message::from(message).encode().to_bytes()
}

pub(crate) fn transfer_in(
    from: u64,
    group: GroupId,
    body: &Bytes,
) -> Result<TransferLeaderRequest<Types>, WireError> {
    let Message::TransferLeader(message) = Message::decode(MessageType::TransferLeader, body)?
    else {
        return Err(WireError::Missing("a handover"));
    };
    check_group(message.group, group)?;
    let vote = vote_in(message.from.ok_or(WireError::Missing("the leader's vote"))?);
    check_sender(&vote, from)?;
    Ok(TransferLeaderRequest::new(vote, message.to, message.last.map(id_in)))
}

/// What a receiver is told of a snapshot before its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) transfer: u64,
    pub(crate) vote: Vote,
    pub(crate) meta: Meta,
    /// The same name has the same bytes.
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

impl Offer {
    pub(crate) fn encode(&self, group: GroupId) -> Bytes {
        let members = &self.meta.last_membership;
        let message = peer::proto::SnapshotOffer {
            transfer: self.transfer,
            group: group_out(group).0,
            vote: Some(vote_out(&self.vote)),
            last: self.meta.last_log_id.as_ref().map(id_out),
            name: self.name.clone(),
            bytes: self.bytes,
            membership: members_bytes(members.membership()),
            membership_at: members.log_id().as_ref().map(id_out),
        };
        Message::from(message).encode().to_bytes()
    }

    pub(crate) fn decode(from: u64, group: GroupId, body: &Bytes) -> Result<Self, WireError> {
        let Message::SnapshotOffer(message) = Message::decode(MessageType::SnapshotOffer, body)?
        else {
            return Err(WireError::Missing("a snapshot's offer"));
        };
        check_group(message.group, group)?;
        let vote = vote_in(message.vote.ok_or(WireError::Missing("the leader's vote"))?);
        check_sender(&vote, from)?;
        let last = id_in(message.last.ok_or(WireError::Missing("the snapshot's last entry"))?);
        // openraft would take the contrary for a damaged store and panic.
        check_term(last.leader_id.term, vote.leader_id.term)?;
        let at = message.membership_at.map(id_in);
        if at > Some(last) || last.index == u64::MAX {
            return Err(WireError::Membership);
        }
        let (what, max) = ("a snapshot's bytes", SNAPSHOT_BYTES_MAX);
        if message.bytes > max {
            return Err(WireError::TooMuch { what, got: message.bytes, max });
        }
        let (what, max) = ("a snapshot's name", SNAPSHOT_NAME_BYTES_MAX as u64);
        if message.name.len() as u64 > max {
            return Err(WireError::TooMuch { what, got: message.name.len() as u64, max });
        }
        let members: StoredMembers = StoredMembership::new(at, members_from(&message.membership)?);
        Ok(Self {
            transfer: message.transfer,
            vote,
            meta: Meta { last_log_id: Some(last), last_membership: members },
            name: message.name,
            bytes: message.bytes,
        })
    }
}

pub(crate) fn chunk_out(transfer: u64, offset: u64, data: Bytes, last: bool) -> Bytes {
    let message = peer::proto::SnapshotChunk { transfer, offset, data, last };
    Message::from(message).encode().to_bytes()
}

pub(crate) fn chunk_in(body: &Bytes) -> Result<peer::proto::SnapshotChunk, WireError> {
    match Message::decode(MessageType::SnapshotChunk, body)? {
        Message::SnapshotChunk(chunk) => Ok(chunk),
        _ => Err(WireError::Missing("a snapshot's chunk")),
    }
}

pub(crate) fn snapshot_ack_out(ack: peer::proto::SnapshotAck) -> Bytes {
    Message::from(ack).encode().to_bytes()
}

pub(crate) fn snapshot_ack_in(body: &Bytes) -> Result<peer::proto::SnapshotAck, WireError> {
    match Message::decode(MessageType::SnapshotAck, body)? {
        Message::SnapshotAck(ack) => Ok(ack),
        _ => Err(WireError::Missing("a snapshot's answer")),
    }
}

/// What openraft is told when a transfer was given up.
pub(crate) fn given_up(why: &str) -> ReplicationClosed {
    ReplicationClosed::new(why)
}

#[cfg(test)]
mod tests;
