//! What the membership needs of the connections between nodes.

use std::time::Duration;

use bytes::Bytes;
use tidegate_cluster::ids::{ClusterId, Incarnation, NodeId, StoreId};
use tidegate_consensus::{CallKind, GroupId, Transport, TransportError};
use tidegate_mesh::FRAME_KINDS;

/// Who was asked, by its own Hello.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Seen {
    pub(crate) node: NodeId,
    pub(crate) incarnation: Incarnation,
    /// Where it says that it is reached.
    pub(crate) address: String,
}

/// Why nobody at an address answered.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("no answer: {0}")]
    Silent(String),
    #[error("it is this process")]
    Myself,
    #[error("a cluster of another name: {0}")]
    OtherName(String),
    #[error("not trusted: {0}")]
    NotTrusted(String),
    #[error("refused: {0}")]
    Refused(String),
}

/// Why a call to a node has no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum CallFailed {
    #[error("not connected")]
    NotConnected,
    #[error("no answer came")]
    Lost,
    #[error("the node is busy")]
    Busy,
    #[error("refused ({code}): {detail}")]
    Refused { code: u16, detail: String },
}

/// Carries questions to other nodes. The mesh does, and doubles in tests.
pub(crate) trait Wire: Clone + Send + Sync + 'static {
    /// Asks whoever is at an address, over a connection of its own.
    fn ask(
        &self,
        address: &str,
        what: u16,
        body: Bytes,
        patience: Duration,
    ) -> impl Future<Output = Result<(Seen, Bytes), Unanswered>> + Send;

    /// Asks a member over the connections that are kept with it; `group` says
    /// over which.
    fn call(
        &self,
        node: NodeId,
        group: GroupId,
        what: u16,
        body: Bytes,
        patience: Duration,
    ) -> impl Future<Output = Result<Bytes, CallFailed>> + Send;

    /// This node is a member of that cluster from here on.
    fn joined(&self, cluster: ClusterId);

    /// With whom connections are to be kept.
    fn keep(&self, peers: Vec<(NodeId, String)>);

    /// A life of a node that is known: older ones are refused.
    fn learn(&self, node: NodeId, store: StoreId, incarnation: Incarnation);

    /// A node is struck off: it is refused.
    fn forget(&self, node: NodeId);

    /// With whom they are up.
    fn up(&self) -> Vec<NodeId>;

    /// What went over them.
    fn traffic(&self) -> Vec<Traffic>;
}

/// Bytes between this node and another, since the process began.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Traffic {
    /// Which.
    pub node: NodeId,
    /// From it.
    pub received: u64,
    /// To it.
    pub sent: u64,
    /// That wait to be sent.
    pub queued: u64,
    /// Messages from it, by [`tidegate_mesh::FRAME_KINDS`].
    pub frames_received: [u64; FRAME_KINDS.len()],
    /// To it.
    pub frames_sent: [u64; FRAME_KINDS.len()],
    /// The protocol's version, while connections are up.
    pub protocol: Option<u16>,
}

/// How long an answer to Raft is waited for: longer than an election, and than
/// a disk that is slow for once.
const RAFT_PATIENCE: Duration = Duration::from_secs(3);

/// Raft's calls, of the meta group and of partitions, over a [`Wire`]. The number of a call's kind
/// is what is asked.
#[derive(Clone)]
pub(crate) struct RaftWire<W>(pub(crate) W);

impl<W: Wire> Transport for RaftWire<W> {
    async fn call(
        &self,
        to: u64,
        group: GroupId,
        kind: CallKind,
        body: Bytes,
    ) -> Result<Bytes, TransportError> {
        let answer = self.0.call(NodeId(to), group, kind.code().into(), body, RAFT_PATIENCE).await;
        answer.map_err(|failed| match failed {
            CallFailed::NotConnected => TransportError::Unreachable,
            CallFailed::Lost => TransportError::Lost,
            CallFailed::Busy => TransportError::Busy,
            CallFailed::Refused { code, .. } => {
                TransportError::from_code(u8::try_from(code).unwrap_or(0))
            }
        })
    }
}
