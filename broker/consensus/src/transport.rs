//! How a call gets to another node.

use std::future::Future;

use bytes::Bytes;
use tidegate_peer::MessageType;

use crate::log_id::GroupId;

/// What is called, and so which message the body and the answer are.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum CallKind {
    /// Entries for a group's log.
    Append = 1,
    /// Heartbeats of all groups that the caller leads and the called node
    /// follows. The group of such a call says nothing.
    Heartbeats = 2,
    /// A candidate asks for a vote, or whether it would get it.
    Vote = 3,
    /// A leader hands over; answered with a `VoteReply`.
    Transfer = 4,
    /// A snapshot is there.
    SnapshotOffer = 5,
    /// A piece of it.
    SnapshotChunk = 6,
}

impl CallKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Append,
        Self::Heartbeats,
        Self::Vote,
        Self::Transfer,
        Self::SnapshotOffer,
        Self::SnapshotChunk,
    ];

    /// Its number between nodes.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The message that the body is.
    pub fn message_type(self) -> MessageType {
        match self {
            Self::Append => MessageType::Append,
            Self::Heartbeats => MessageType::Heartbeats,
            Self::Vote => MessageType::VoteRequest,
            Self::Transfer => MessageType::TransferLeader,
            Self::SnapshotOffer => MessageType::SnapshotOffer,
            Self::SnapshotChunk => MessageType::SnapshotChunk,
        }
    }

    /// The message that the answer is.
    pub fn answer_type(self) -> MessageType {
        match self {
            Self::Append => MessageType::AppendAck,
            Self::Heartbeats => MessageType::HeartbeatAcks,
            Self::Vote | Self::Transfer => MessageType::VoteReply,
            Self::SnapshotOffer | Self::SnapshotChunk => MessageType::SnapshotAck,
        }
    }
}

/// Why a call has no answer. It may have been carried out nevertheless.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TransportError {
    /// There is no connection: try again after a while.
    #[error("the node cannot be reached")]
    Unreachable,
    /// There was one, and it ended before the answer; or the answer took too long.
    #[error("no answer came")]
    Lost,
    /// The called node has no such group open.
    #[error("the group is not open there")]
    Closed,
    /// The called node has too much to do.
    #[error("the node is busy")]
    Busy,
    /// The body, or the answer, is not what its kind says: a fault of whoever
    /// wrote it.
    #[error("{0}")]
    Malformed(String),
}

impl TransportError {
    /// Its number between nodes, for what a called node answers.
    pub fn code(&self) -> u8 {
        match self {
            Self::Unreachable => 1,
            Self::Lost => 2,
            Self::Closed => 3,
            Self::Busy => 4,
            Self::Malformed(_) => 5,
        }
    }

    /// The error with this number; an unknown one counts as lost.
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Unreachable,
            3 => Self::Closed,
            4 => Self::Busy,
            5 => Self::Malformed("the called node could not read the call".into()),
            _ => Self::Lost,
        }
    }
}

/// Carries calls to other nodes.
///
/// Calls of one kind to one node and group arrive in the order in which the
/// futures were first polled; other orders cost time, not safety. Who drops the
/// future wants no answer any more. Calls may get lost and their answers too,
/// but never come twice or changed. `SnapshotChunk` is the transport's to pace.
pub trait Transport: Clone + Send + Sync + 'static {
    /// Calls [`Groups::handle`](crate::Groups::handle) on the node `to` and
    /// brings its answer back.
    fn call(
        &self,
        to: u64,
        group: GroupId,
        kind: CallKind,
        body: Bytes,
    ) -> impl Future<Output = Result<Bytes, TransportError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_error_has_its_own_number() {
        for kind in CallKind::ALL {
            assert_eq!(CallKind::from_code(kind.code()), Some(kind));
        }
        assert_eq!(CallKind::from_code(0), None);
        assert_eq!(CallKind::from_code(7), None);
        for error in [
            TransportError::Unreachable,
            TransportError::Lost,
            TransportError::Closed,
            TransportError::Busy,
        ] {
            assert_eq!(TransportError::from_code(error.code()), error);
        }
    }
}
