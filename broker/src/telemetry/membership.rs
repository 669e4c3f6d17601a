//! What is told of the cluster, where there is one.

use std::collections::BTreeMap;
use std::fmt;

use tidegate_cluster::ids::NodeId;
use tidegate_cluster::lease::Hold;
use tidegate_cluster::meta::NodeState;
use tidegate_mesh::FRAME_KINDS;

use super::exposition::Families;
use super::histogram::Distribution;
use super::metric;
use super::source::ClusterCounts;
use crate::cluster::{Replica, View, is_under_replicated};

/// The states in which a node of the cluster may be.
const STATES: [NodeState; 6] = [
    NodeState::Joining,
    NodeState::Syncing,
    NodeState::Serving,
    NodeState::Draining,
    NodeState::Left,
    NodeState::Down,
];

pub(super) fn write(
    view: &View,
    hold: Hold,
    replicas: &[Replica],
    families: &mut Families<'_>,
) -> fmt::Result {
    families.family(&metric::CLUSTER_MEMBERS, |series| {
        STATES
            .iter()
            .try_for_each(|state| series.add(&[state.name()], view.in_state(*state) as u64))
    })?;
    families.family(&metric::PEER_UP, |series| {
        let others = view.meta.nodes().filter(|node| node.spec.id != view.me.node);
        let mut others = others.filter(|node| node.state != NodeState::Left);
        others.try_for_each(|node| {
            let is_up = u64::from(view.up.contains(&node.spec.id));
            series.add(&[&node.spec.id.to_string()], is_up)
        })
    })?;
    let lease = match hold {
        Hold::Serving => 0u64,
        Hold::Silent => 1,
        Hold::Isolated => 2,
    };
    families.single(&metric::CLUSTER_LEASE, lease)?;
    families.single(&metric::CLUSTER_META_TERM, view.term)?;
    let leads = u64::from(view.leader == Some(view.me.node));
    families.single(&metric::CLUSTER_META_LEADER, leads)?;
    families.single(&metric::CLUSTER_META_VOTERS, view.voters.len() as u64)?;
    families.single(&metric::CLUSTER_META_APPLIED, view.meta.applied())?;
    let placed = view.meta.placement().iter().filter(|replicas| !replicas.is_empty()).count();
    families.single(&metric::CLUSTER_PARTITIONS_PLACED, placed as u64)?;
    families.single(&metric::REBALANCE_MOVING, view.meta.moves().count() as u64)?;
    replication(view, replicas, families)
}

/// What is counted between this node and the others.
pub(super) fn write_peers(counts: &ClusterCounts<'_>, families: &mut Families<'_>) -> fmt::Result {
    let traffic = &counts.traffic;
    families.family(&metric::PEER_BYTES, |series| {
        traffic.iter().try_for_each(|of| {
            let peer = of.node.to_string();
            series.add(&[&peer, "received"], of.received)?;
            series.add(&[&peer, "sent"], of.sent)
        })
    })?;
    families.family(&metric::PEER_FRAMES, |series| {
        traffic.iter().try_for_each(|of| {
            let peer = of.node.to_string();
            FRAME_KINDS.iter().enumerate().try_for_each(|(at, kind)| {
                series.add(&[&peer, "received", kind], of.frames_received[at])?;
                series.add(&[&peer, "sent", kind], of.frames_sent[at])
            })
        })
    })?;
    families.family(&metric::PEER_PROTOCOL, |series| {
        let mut known = traffic.iter().filter_map(|of| Some((of.node, of.protocol?)));
        known.try_for_each(|(node, protocol)| series.add(&[&node.to_string()], u64::from(protocol)))
    })?;
    families.family(&metric::PEER_SEND_BUFFER, |series| {
        traffic.iter().try_for_each(|of| series.add(&[&of.node.to_string()], of.queued))
    })?;
    families.family(&metric::PEER_RTT, |series| {
        let mut known = counts.known.iter();
        known
            .try_for_each(|(node, known)| series.add(&[&node.to_string()], known.rtt.as_secs_f64()))
    })?;
    families.single(&metric::CLUSTER_CUT_OFF, counts.cut_offs)?;
    let acks = Distribution::of([counts.acks]);
    families.family(&metric::REPLICATION_ACK, |series| series.distribute(&[], &acks))
}

fn replication(view: &View, replicas: &[Replica], families: &mut Families<'_>) -> fmt::Result {
    let led = replicas.iter().filter(|replica| replica.leader == Some(view.me.node));
    families.single(&metric::REPLICATION_LEADERS, led.count() as u64)?;
    families.single(&metric::REPLICATION_REPLICAS, replicas.len() as u64)?;
    let mut lags: BTreeMap<NodeId, u64> = BTreeMap::new();
    for (node, lag) in replicas.iter().flat_map(|replica| &replica.lag) {
        *lags.entry(*node).or_default() += lag;
    }
    families.family(&metric::REPLICATION_LAG, |series| {
        lags.iter().try_for_each(|(node, lag)| series.add(&[&node.to_string()], *lag))
    })?;
    let under = replicas.iter().filter(|replica| is_under_replicated(&view.meta, replica));
    families.single(&metric::REPLICATION_UNDER, under.count() as u64)
}
