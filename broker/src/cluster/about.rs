//! How each node fares, as nodes tell each other once a second: what runs there,
//! how many clients it has, where others may be sent, who lacks how much of what
//! it leads. Nothing is decided by it that has to be right.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_cluster::DecodeError;
use tidegate_cluster::ids::{Millis, NodeId};
use tidegate_cluster::limits::{ADDRESS_BYTES_MAX, NODES_MAX, PARTITIONS_MAX};
use tidegate_consensus::META;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::core::Core;
use super::question::{In, Out, Question};
use super::wire::Wire;
use crate::shard::clock::Reading;

/// Between two questions, and for an answer.
const EVERY: Duration = Duration::from_secs(1);
/// What was told longer ago is not known any more.
const FRESH_MS: Millis = 5_000;
const VERSION_BYTES_MAX: usize = 64;

/// What a node says of itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct About {
    /// The version that runs.
    pub version: String,
    /// Where clients may be sent; empty: nobody is.
    pub clients_at: String,
    /// Clients that are connected.
    pub clients: u32,
    /// Milliseconds from a CONNECT to its CONNACK, of late.
    pub accept_ms: u32,
    /// Partitions that it leads.
    pub leads: u32,
    /// Of them those that it would hand over if it drained, and could.
    pub leaving: u32,
    /// Entries that others lack of the partitions that it leads.
    pub lags: BTreeMap<NodeId, u64>,
    /// Term and index of the last entry of its log of the metadata; 0: none.
    pub meta_last: (u64, u64),
    /// Partitions that have lost the majority of their voters for good, with
    /// term and index of the last entry that it has of each.
    pub stuck: BTreeMap<u16, (u64, u64)>,
}

/// The same as another node knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Known {
    /// What it said.
    pub about: About,
    /// When.
    pub at: Millis,
    /// How long the answer took.
    pub rtt: Duration,
}

impl Known {
    /// Whether it says how the node fares now.
    pub fn is_fresh(&self, now: Millis) -> bool {
        now.saturating_sub(self.at) < FRESH_MS
    }
}

impl About {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Out::default()
            .text(&self.version)
            .text(&self.clients_at)
            .u64(self.clients.into())
            .u64(self.accept_ms.into())
            .u64(self.leads.into())
            .u64(self.leaving.into())
            .u64(self.lags.len() as u64);
        for (node, lag) in &self.lags {
            out = out.u64(node.0).u64(*lag);
        }
        out = out.u64(self.meta_last.0).u64(self.meta_last.1).u64(self.stuck.len() as u64);
        for (partition, (term, index)) in &self.stuck {
            out = out.u64((*partition).into()).u64(*term).u64(*index);
        }
        out.end()
    }

    /// What a later version says besides is left out.
    pub(super) fn decode(bytes: &[u8]) -> Result<About, DecodeError> {
        let mut from = In(bytes);
        let number = |from: &mut In<'_>, what| {
            let value = from.u64(what)?;
            let wrong = || DecodeError::TooMany { what, got: value, max: u32::MAX.into() };
            u32::try_from(value).map_err(|_| wrong())
        };
        let mut about = About {
            version: from.text("version", VERSION_BYTES_MAX)?,
            clients_at: from.text("address", ADDRESS_BYTES_MAX)?,
            clients: number(&mut from, "clients")?,
            accept_ms: number(&mut from, "milliseconds")?,
            leads: number(&mut from, "partitions")?,
            leaving: number(&mut from, "partitions")?,
            ..About::default()
        };
        for _ in 0..count(&mut from, "nodes", NODES_MAX as u64)? {
            about.lags.insert(NodeId(from.u64("node")?), from.u64("lag")?);
        }
        about.meta_last = (from.u64("term")?, from.u64("index")?);
        for _ in 0..count(&mut from, "partitions", PARTITIONS_MAX.into())? {
            let partition = number(&mut from, "partition")? as u16;
            about.stuck.insert(partition, (from.u64("term")?, from.u64("index")?));
        }
        Ok(about)
    }
}

fn count(from: &mut In<'_>, what: &'static str, max: u64) -> Result<u64, DecodeError> {
    let got = from.u64(what)?;
    if got <= max { Ok(got) } else { Err(DecodeError::TooMany { what, got, max }) }
}

/// Asks the others. Runs for ever.
pub(super) async fn ask<W: Wire>(core: Arc<Core<W>>) {
    loop {
        let mut asking = JoinSet::new();
        for node in core.wire.up() {
            let core = Arc::clone(&core);
            asking.spawn(async move {
                let (what, began) = (Question::About as u16, Instant::now());
                let answer = core.wire.call(node, META, what, Bytes::new(), EVERY).await.ok()?;
                let (rtt, at) = (began.elapsed(), Reading::take().millis());
                Some((node, Known { about: About::decode(&answer).ok()?, at, rtt }))
            });
        }
        let answers = asking.join_all().await;
        let now = Reading::take().millis();
        let before = core.cluster.known();
        let kept = before.iter().filter(|(_, known)| known.is_fresh(now));
        let mut known: BTreeMap<NodeId, Known> =
            kept.map(|(node, known)| (*node, known.clone())).collect();
        known.extend(answers.into_iter().flatten());
        core.cluster.set_known(known);
        core.cluster.set_traffic(core.wire.traffic());
        sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard_and_what_is_cut_is_refused() {
        let about = About {
            version: "0.1.0".into(),
            clients_at: "a.example:1883".into(),
            clients: 7,
            accept_ms: 12,
            leads: 3,
            leaving: 2,
            lags: BTreeMap::from([(NodeId(1), 2), (NodeId(3), 4)]),
            meta_last: (5, 6),
            stuck: BTreeMap::from([(63, (7, 8))]),
        };
        let bytes = about.encode();
        assert_eq!(About::decode(&bytes), Ok(about));
        (0..bytes.len()).for_each(|cut| assert!(About::decode(&bytes[..cut]).is_err()));
        let more = [&bytes[..], b"more"].concat();
        assert!(About::decode(&more).is_ok(), "a later version says more");
        let mut many = About::default().encode().to_vec();
        let at = many.len() - 8;
        many[at..].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(About::decode(&many).is_err());
    }
}
