//! openraft as this crate uses it; nothing of this leaves it.

use openraft::vote::leader_id_std::{CommittedLeaderId, LeaderId};
use openraft::{EmptyNode, Entry, EntryPayload, LogId, OptionalSend, RaftTypeConfig};
use tidegate_store::raft::EntryBody;

use crate::propose::Reply;

/// What openraft is made of here.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Types;

impl RaftTypeConfig for Types {
    type D = EntryBody;
    type R = Vec<u8>;
    type NodeId = u64;
    type Node = EmptyNode;
    type Term = u64;
    type LeaderId = LeaderId<u64, u64>;
    type Vote = openraft::Vote<LeaderId<u64, u64>>;
    type Payload = Payload;
    type Entry = StoredEntry;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = Reply<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(crate) type Id = LogId<CommittedLeaderId<u64>>;
pub(crate) type Vote = <Types as RaftTypeConfig>::Vote;
pub(crate) type Payload = EntryPayload<EntryBody, u64, EmptyNode>;
pub(crate) type StoredEntry = Entry<CommittedLeaderId<u64>, Payload>;
pub(crate) type Members = openraft::Membership<u64, EmptyNode>;
pub(crate) type StoredMembers = openraft::StoredMembership<CommittedLeaderId<u64>, u64, EmptyNode>;
pub(crate) type Meta = openraft::SnapshotMeta<CommittedLeaderId<u64>, u64, EmptyNode>;
pub(crate) type Snapshot<S> = openraft::Snapshot<CommittedLeaderId<u64>, u64, EmptyNode, S>;

/// Our name for a place in the log.
pub(crate) fn log_id(id: &Id) -> crate::LogId {
    crate::LogId { term: id.leader_id.term, index: id.index }
}

/// openraft's.
pub(crate) fn raft_id(id: crate::LogId) -> Id {
    LogId { leader_id: CommittedLeaderId::new(id.term), index: id.index }
}
