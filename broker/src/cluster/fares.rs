//! How the nodes of a cluster fare, for people: what runs there, how many clients
//! they have, what they lack, and how far a drain is.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tidegate_cluster::ids::{Millis, NodeId};
use tidegate_cluster::meta::{NodeState, Wish};

use super::about::About;
use super::view::{Cluster, View};

/// What is known of each node.
#[derive(Debug, Default)]
pub(crate) struct Fares {
    of: BTreeMap<NodeId, About>,
    /// Entries that a node lacks, by who leads.
    lags: BTreeMap<NodeId, u64>,
}

impl Fares {
    /// What this node and those that answered of late say.
    pub(crate) fn of(cluster: &Cluster, now: Millis) -> Fares {
        let known = cluster.known();
        let fresh = known.iter().filter(|(_, known)| known.is_fresh(now));
        let mut of: BTreeMap<NodeId, About> =
            fresh.map(|(node, known)| (*node, known.about.clone())).collect();
        of.insert(cluster.view().me.node, About::clone(&cluster.about()));
        let mut lags: BTreeMap<NodeId, u64> = BTreeMap::new();
        for (node, lag) in of.values().flat_map(|about| &about.lags) {
            *lags.entry(*node).or_default() += lag;
        }
        Fares { of, lags }
    }

    /// The version and clients of a node, and the entries that it lacks of what
    /// others lead; what is not known is `-`.
    pub(crate) fn cells(&self, node: NodeId) -> [String; 3] {
        let text = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        let about = self.of.get(&node);
        [
            text(about.map(|about| about.version.clone())),
            text(about.map(|about| about.clients.to_string())),
            text(self.lags.get(&node).map(ToString::to_string)),
        ]
    }

    /// The same for machines.
    pub(crate) fn fields(&self, node: NodeId) -> [(&'static str, Value); 3] {
        let about = self.of.get(&node);
        [
            ("version", json!(about.map(|about| &about.version))),
            ("clients", json!(about.map(|about| about.clients))),
            ("lag", json!(self.lags.get(&node))),
        ]
    }
}

/// How far the drain of a node is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Progress {
    state: &'static str,
    /// Clients that are connected; none: not known.
    clients: Option<u32>,
    /// Partitions that it leads and others can.
    leaderships: Option<u32>,
    /// Replicas that others can hold.
    replicas: usize,
    /// Replicas that stay, as the other nodes are too few.
    stuck: usize,
    pub(crate) done: bool,
}

impl Progress {
    /// None: there is no such node any more.
    pub(crate) fn of(view: &View, fares: &Fares, node: NodeId) -> Option<Progress> {
        let known = view.meta.node(node)?;
        let takes = |other: &&tidegate_cluster::meta::Node| {
            other.spec.id != node && other.state.takes_replicas()
        };
        let others = view.meta.nodes().filter(takes).count();
        let held = view.meta.placement().iter().filter(|replicas| replicas.contains(&node));
        let stays = |replicas: &&Vec<NodeId>| known.wish != Wish::Leave && replicas.len() > others;
        let (stuck, goes): (Vec<_>, Vec<_>) = held.partition(stays);
        let about = fares.of.get(&node);
        let clients = about.map(|about| about.clients);
        let leaderships = about.map(|about| about.leaving);
        let done = match known.state {
            NodeState::Left | NodeState::Down => true,
            NodeState::Joining | NodeState::Syncing | NodeState::Serving => false,
            NodeState::Draining => {
                let empty = clients == Some(0) && leaderships == Some(0) && goes.is_empty();
                empty && known.wish != Wish::Leave
            }
        };
        let (replicas, stuck) = (goes.len(), stuck.len());
        Some(Progress { state: known.state.name(), clients, leaderships, replicas, stuck, done })
    }

    /// In a line.
    pub(crate) fn text(&self) -> String {
        let number = |n: Option<u32>| n.map_or("?".to_owned(), |n| n.to_string());
        let Progress { state, replicas, stuck, .. } = self;
        let (clients, leaderships) = (number(self.clients), number(self.leaderships));
        let mut text = format!(
            "{state}: {clients} clients, {leaderships} leaderships and {replicas} replicas to go"
        );
        if *stuck > 0 {
            text += &format!("; {stuck} replicas stay, as the other nodes are too few for them");
        }
        text
    }
}
