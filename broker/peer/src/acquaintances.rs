//! Whom a node has met: against processes that are over, logs that were
//! changed under an id, and recordings.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::auth::Nonce;
use crate::handshake::Established;
use crate::ids::{NodeId, StoreId};
use crate::limits::{ACQUAINTANCES_MAX, NONCES_MAX};

/// What is known of a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Known {
    /// Its log.
    pub store: StoreId,
    /// The newest of its processes that was heard of.
    pub incarnation: u64,
    /// The cluster has forgotten it: it may not come back under this id.
    pub is_forgotten: bool,
}

/// Whom a node has met.
#[derive(Debug, Default)]
pub struct Acquaintances {
    nodes: BTreeMap<NodeId, Known>,
    /// Of Hellos whose senders proved themselves; nobody else can push one out.
    nonces: BTreeSet<Nonce>,
    order: VecDeque<Nonce>,
}

impl Acquaintances {
    /// What is known of `node`.
    pub fn known(&self, node: NodeId) -> Option<Known> {
        self.nodes.get(&node).copied()
    }

    /// Whether a Hello with this nonce has led to a connection.
    pub fn has_seen(&self, nonce: &Nonce) -> bool {
        self.nonces.contains(nonce)
    }

    /// The peer of a connection that has been established.
    pub fn met(&mut self, peer: &Established) {
        let hello = &peer.peer;
        self.learn(hello.node, hello.store, hello.incarnation);
        if self.nonces.insert(hello.nonce) {
            self.order.push_back(hello.nonce);
        }
        if self.order.len() > NONCES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.nonces.remove(&oldest);
        }
    }

    /// What the cluster's metadata says of a node. An older process than the
    /// one known is no news. When `ACQUAINTANCES_MAX` are known, nobody new is.
    pub fn learn(&mut self, node: NodeId, store: StoreId, incarnation: u64) {
        let is_full = self.nodes.len() >= ACQUAINTANCES_MAX;
        match self.nodes.get_mut(&node) {
            Some(known) if known.is_forgotten || known.incarnation > incarnation => {}
            Some(known) => *known = Known { store, incarnation, is_forgotten: false },
            None if is_full => {}
            None => {
                self.nodes.insert(node, Known { store, incarnation, is_forgotten: false });
            }
        }
    }

    /// The cluster has forgotten a node.
    pub fn forget(&mut self, node: NodeId) {
        if let Some(known) = self.nodes.get_mut(&node) {
            known.is_forgotten = true;
        } else if self.nodes.len() < ACQUAINTANCES_MAX {
            let known = Known { store: StoreId(0), incarnation: 0, is_forgotten: true };
            self.nodes.insert(node, known);
        }
    }
}
