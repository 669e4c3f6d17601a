//! Addresses: what discovery says now, and what members said of themselves.
//!
//! Pods get new addresses, DNS lags and sometimes answers nothing. An empty or
//! failed answer never takes away what was known.

use std::collections::BTreeMap;

use crate::ids::{Incarnation, Life, Millis, NodeId};
use crate::limits::{NODES_MAX, PEERS_MAX};

/// Until the next look while not in a cluster, or after a failure, doubled each time.
const RETRY_MS: Millis = 1_000;
const RETRY_MAX_MS: Millis = 30_000;

/// The addresses that discovery has named.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Peers {
    addresses: Vec<String>,
    /// Of the data directory, from the last time.
    remembered: Vec<String>,
    failures: u32,
    next: Millis,
    left_out: usize,
}

impl Peers {
    /// With the addresses that the data directory remembers.
    pub fn new(remembered: Vec<String>) -> Peers {
        let mut peers = Peers { remembered, ..Peers::default() };
        peers.remembered.truncate(PEERS_MAX);
        peers
    }

    /// Discovery has answered; `None`: it failed.
    pub fn resolved(&mut self, answer: Option<Vec<String>>, now: Millis) {
        let Some(mut addresses) = answer.filter(|answer| !answer.is_empty()) else {
            self.failures = self.failures.saturating_add(1);
            let wait = RETRY_MS << self.failures.min(6).saturating_sub(1);
            self.next = now + wait.min(RETRY_MAX_MS);
            return;
        };
        addresses.sort();
        addresses.dedup();
        self.left_out = addresses.len().saturating_sub(PEERS_MAX);
        addresses.truncate(PEERS_MAX);
        self.addresses = addresses;
        self.failures = 0;
        self.next = now + RETRY_MS;
    }

    /// Whether to ask discovery again: often until the node is in a cluster.
    pub fn is_due(&self, now: Millis, in_cluster: bool) -> bool {
        let rest = if in_cluster && self.failures == 0 { RETRY_MAX_MS - RETRY_MS } else { 0 };
        now >= self.next + rest
    }

    /// Whom to probe: who was named, then who is remembered, without this node.
    pub fn to_probe(&self, me: &str) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for address in self.addresses.iter().chain(&self.remembered) {
            if address != me && !all.contains(address) && all.len() < PEERS_MAX {
                all.push(address.clone());
            }
        }
        all
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Addresses that were named beyond the limit.
    pub fn left_out(&self) -> usize {
        self.left_out
    }
}

/// Where each node was last seen, by its own Hello or by the metadata.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AddressBook {
    nodes: BTreeMap<NodeId, (Incarnation, String)>,
}

impl AddressBook {
    /// A node says where it is. A later life wins; says whether that is news.
    pub fn learn(&mut self, life: Life, address: &str) -> bool {
        let known = self.nodes.get(&life.node);
        let older = known.is_some_and(|(incarnation, _)| *incarnation > life.incarnation);
        let same = known.is_some_and(|(_, known)| known == address);
        if older || known.is_none() && self.nodes.len() >= 2 * NODES_MAX {
            return false;
        }
        self.nodes.insert(life.node, (life.incarnation, address.to_owned()));
        !same
    }

    /// Where a node is.
    pub fn address(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node).map(|(_, address)| address.as_str())
    }

    /// The node was struck off.
    pub fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// What the data directory should remember.
    pub fn all(&self) -> Vec<String> {
        self.nodes.values().map(|(_, address)| address.clone()).collect()
    }
}
