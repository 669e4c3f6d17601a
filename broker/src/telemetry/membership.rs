//! What is told of the cluster, where there is one.

use std::fmt;

use tidegate_cluster::lease::Hold;
use tidegate_cluster::meta::NodeState;

use super::exposition::Families;
use super::metric;
use crate::cluster::View;

/// The states in which a node of the cluster may be.
const STATES: [NodeState; 6] = [
    NodeState::Joining,
    NodeState::Syncing,
    NodeState::Serving,
    NodeState::Draining,
    NodeState::Left,
    NodeState::Down,
];

pub(super) fn write(view: &View, hold: Hold, families: &mut Families<'_>) -> fmt::Result {
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
    families.single(&metric::CLUSTER_PARTITIONS_PLACED, placed as u64)
}
