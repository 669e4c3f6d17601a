//! Raft's calls of partitions over the mesh, out and in, and where their entries
//! lie in the log: what replication is without the shards.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tidegate_consensus::{CallKind, GroupId, Groups, Transport, TransportError};
use tidegate_mesh::{CallError, ConnectionKind, Mesh, NodeId, Request};
use tidegate_store::raft::{PartitionIndex, Writer};
use tidegate_store::{Disk, Log};

/// Marks the calls of partitions among all calls between nodes.
const PARTITION_CALL: u16 = 0x100;
/// How long an answer is waited for: longer than an election, and than a disk
/// that is slow for once.
const PATIENCE: Duration = Duration::from_secs(3);
/// The same for a piece of a snapshot, which is slowed down on purpose.
const BULK_PATIENCE: Duration = Duration::from_secs(60);

/// A future of any type.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// Answers a call of another node: from whom, group, what, and the body.
pub type Answering =
    Box<dyn Fn(u64, GroupId, u16, Bytes) -> BoxFuture<Result<Bytes, (u16, String)>> + Send + Sync>;

/// Whether a call of another node is for the partitions.
pub fn is_ours(what: u16) -> bool {
    what & PARTITION_CALL != 0
}

/// Raft's calls of partitions over the mesh.
#[derive(Clone, Debug)]
pub struct MeshTransport(pub Mesh);

impl Transport for MeshTransport {
    async fn call(
        &self,
        to: u64,
        group: GroupId,
        kind: CallKind,
        body: Bytes,
    ) -> Result<Bytes, TransportError> {
        let (over, timeout) = match kind {
            CallKind::Append => (ConnectionKind::Data, PATIENCE),
            CallKind::Heartbeats | CallKind::Vote | CallKind::Transfer => {
                (ConnectionKind::Control, PATIENCE)
            }
            CallKind::SnapshotOffer | CallKind::SnapshotChunk => {
                (ConnectionKind::Bulk, BULK_PATIENCE)
            }
        };
        let what = PARTITION_CALL | u16::from(kind.code());
        let request = Request { over, group, what, body, timeout };
        self.0.call(NodeId(to), request).await.map_err(|error| match error {
            CallError::NotConnected => TransportError::Unreachable,
            CallError::Lost | CallError::TimedOut => TransportError::Lost,
            CallError::Full | CallError::Busy => TransportError::Busy,
            CallError::TooLarge { .. } => TransportError::Malformed(error.to_string()),
            CallError::Refused { code, .. } => {
                TransportError::from_code(u8::try_from(code).unwrap_or(0))
            }
        })
    }
}

/// What answers the calls of other nodes for these groups.
pub fn answering<D: Disk, W: Writer, T: Transport>(groups: Groups<D, W, T>) -> Answering {
    Box::new(move |from, group, what, body| {
        let kind = u8::try_from(what & !PARTITION_CALL).ok().and_then(CallKind::from_code);
        // What comes before the future keeps the order of calls.
        let answer = kind.map(|kind| groups.handle(from, group, kind, body));
        Box::pin(async move {
            let unknown = || (0, "a call that this version does not know".to_owned());
            let answer = answer.ok_or_else(unknown)?;
            answer.await.map_err(|error| (error.code().into(), error.to_string()))
        })
    })
}

/// Where the entries of each partition lie.
///
/// # Errors
/// The log cannot be read, or says what cannot follow on what it said before.
pub fn read_back<D: Disk>(log: &Log<D>) -> anyhow::Result<HashMap<u16, PartitionIndex>> {
    let mut indexes: HashMap<u16, PartitionIndex> = HashMap::new();
    let mut scan = log.scan(log.first()).context("the log")?;
    while let Some((at, record)) = scan.next_record().context("the log")? {
        let index = indexes.entry(record.partition).or_default();
        index.replay(at, &record).with_context(|| {
            format!("the log: partition {}, position {}", record.partition, at.0)
        })?;
    }
    for (partition, index) in &indexes {
        index.check().with_context(|| format!("the log: partition {partition}"))?;
    }
    Ok(indexes)
}
