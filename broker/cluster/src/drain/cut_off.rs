//! Two nodes that can't reach each other although both reach the others.
//!
//! Each lives, by its lease, and neither may acknowledge a publish by what it
//! knows of the other's routes. After 5 s the leader of the meta group drains
//! the worse-connected one.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Millis, NodeId};
use crate::limits::CUT_OFF_MS;

/// Whom a node with clients reports to reach.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reach {
    /// Who reports.
    pub node: NodeId,
    /// Its clients: the one with fewer rather goes.
    pub clients: u32,
    /// Whom it reaches and is reached by, itself left out.
    pub peers: BTreeSet<NodeId>,
}

/// Pairs that are cut off, since when.
#[derive(Clone, Debug, Default)]
pub struct CutOff {
    pairs: BTreeMap<(NodeId, NodeId), Millis>,
}

impl CutOff {
    /// The reports of now, of every node that serves and has a lease (one that
    /// drains no more). Returns who is to be drained, one at a time, and nobody
    /// if fewer than a majority of all `members` would serve then.
    pub fn drains(&mut self, reports: &[Reach], members: usize, now: Millis) -> Option<NodeId> {
        let mut cut = BTreeSet::new();
        for (at, a) in reports.iter().enumerate() {
            for b in &reports[at + 1..] {
                // Cut in one direction is cut.
                if !a.peers.contains(&b.node) || !b.peers.contains(&a.node) {
                    cut.insert((a.node.min(b.node), a.node.max(b.node)));
                }
            }
        }
        self.pairs.retain(|pair, _| cut.contains(pair));
        cut.into_iter().for_each(|pair| {
            self.pairs.entry(pair).or_insert(now);
        });
        if 2 * reports.len().saturating_sub(1) <= members {
            return None;
        }
        let long: Vec<_> = self
            .pairs
            .iter()
            .filter(|(_, since)| now.saturating_sub(**since) >= CUT_OFF_MS)
            .map(|(pair, _)| *pair)
            .collect();
        let reached = |report: &&Reach| {
            let present = |peer: &&NodeId| reports.iter().any(|other| other.node == **peer);
            (report.peers.iter().filter(present).count(), report.clients, report.node)
        };
        let involved = |node| long.iter().any(|(a, b)| *a == node || *b == node);
        let worst = reports.iter().filter(|report| involved(report.node)).min_by_key(reached)?;
        Some(worst.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node: u64, clients: u32, peers: &[u64]) -> Reach {
        let peers = peers.iter().map(|peer| NodeId(*peer)).collect();
        Reach { node: NodeId(node), clients, peers }
    }

    #[test]
    fn after_5_seconds_the_worse_connected_one_is_drained() {
        let mut cut = CutOff::default();
        let reports = [
            report(1, 9, &[2, 3, 4]),
            report(2, 9, &[1, 4]),
            report(3, 0, &[1, 4]),
            report(4, 9, &[1, 2, 3]),
        ];
        assert_eq!(cut.drains(&reports, reports.len(), 0), None);
        assert_eq!(cut.drains(&reports, reports.len(), 4_999), None);
        assert_eq!(
            cut.drains(&reports, reports.len(), 5_000),
            Some(NodeId(3)),
            "it has fewer clients"
        );
        let worse =
            [report(1, 9, &[2, 3]), report(2, 9, &[1]), report(3, 0, &[1, 4]), report(4, 9, &[3])];
        assert_eq!(
            cut.drains(&worse, worse.len(), 6_000),
            Some(NodeId(2)),
            "3 reaches more than 2 does"
        );
    }

    #[test]
    fn one_direction_is_enough_and_a_moment_is_not() {
        let mut cut = CutOff::default();
        let one_way = [report(1, 1, &[2, 3]), report(2, 2, &[3]), report(3, 3, &[1, 2])];
        let whole = [report(1, 1, &[2, 3]), report(2, 2, &[1, 3]), report(3, 3, &[1, 2])];
        cut.drains(&one_way, one_way.len(), 0);
        cut.drains(&whole, whole.len(), 3_000);
        assert_eq!(cut.drains(&one_way, one_way.len(), 6_000), None, "it begins anew");
        assert_eq!(cut.drains(&one_way, one_way.len(), 11_000), Some(NodeId(2)));
    }

    #[test]
    fn nobody_is_drained_if_no_majority_would_be_left() {
        let mut cut = CutOff::default();
        let reports = [report(1, 1, &[2, 3]), report(2, 1, &[1]), report(3, 1, &[1])];
        cut.drains(&reports, 5, 0);
        assert_eq!(cut.drains(&reports, 5, 60_000), None, "two of five are down already");
        assert_eq!(cut.drains(&reports, 3, 60_000), Some(NodeId(2)));
    }

    #[test]
    fn of_two_nodes_none_is_drained() {
        let mut cut = CutOff::default();
        let reports = [report(1, 1, &[]), report(2, 1, &[])];
        cut.drains(&reports, reports.len(), 0);
        assert_eq!(cut.drains(&reports, reports.len(), 60_000), None);
    }
}
