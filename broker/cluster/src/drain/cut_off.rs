//! Two nodes that can't reach each other although both reach the others.
//!
//! Each lives, by its lease, and neither may acknowledge a publish by what it
//! knows of the other's routes. After 5 s the leader of the meta group gives the
//! worse-connected one no lease any more, so that the others can go on without
//! it. Its next life serves when it reaches all that do ([`Whole`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Millis, NodeId};
use crate::limits::{CUT_OFF_MS, LINKS_COME_MS, WHOLE_AGAIN_MS};

/// Whom a node with clients reports to reach.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reach {
    /// Who reports.
    pub node: NodeId,
    /// It leads the metadata: rather another one goes, as that costs an election.
    pub leads: bool,
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
    /// The reports of now, of every node that serves and has a lease. Returns who
    /// is to go, one at a time, and nobody if fewer than a majority of all
    /// `members` would serve then.
    pub fn goes(&mut self, reports: &[Reach], members: usize, now: Millis) -> Option<NodeId> {
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
            (report.peers.iter().filter(present).count(), report.leads, report.clients, report.node)
        };
        let involved = |node| long.iter().any(|(a, b)| *a == node || *b == node);
        let worst = reports.iter().filter(|report| involved(report.node)).min_by_key(reached)?;
        Some(worst.node)
    }
}

/// When a node that comes may serve, as it is told whether it reaches all that
/// do. One for each life.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    since: Option<Millis>,
    /// Since when a link is missing.
    broken: Option<Millis>,
    /// One was missing for so long that those which come up have to last.
    shaky: bool,
}

impl Whole {
    /// Whether a link was missing for long.
    pub fn is_shaky(&self) -> bool {
        self.shaky
    }

    /// Whether it may serve, with the links of now.
    pub fn may_serve(&mut self, reaches_all: bool, now: Millis) -> bool {
        if !reaches_all {
            self.since = None;
            let broken = *self.broken.get_or_insert(now);
            self.shaky |= now.saturating_sub(broken) >= LINKS_COME_MS;
            return false;
        }
        self.broken = None;
        let since = *self.since.get_or_insert(now);
        !self.shaky || now.saturating_sub(since) >= WHOLE_AGAIN_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(node: u64, clients: u32, peers: &[u64]) -> Reach {
        let peers = peers.iter().map(|peer| NodeId(*peer)).collect();
        Reach { node: NodeId(node), leads: false, clients, peers }
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
        assert_eq!(cut.goes(&reports, reports.len(), 0), None);
        assert_eq!(cut.goes(&reports, reports.len(), 4_999), None);
        assert_eq!(
            cut.goes(&reports, reports.len(), 5_000),
            Some(NodeId(3)),
            "it has fewer clients"
        );
        let worse =
            [report(1, 9, &[2, 3]), report(2, 9, &[1]), report(3, 0, &[1, 4]), report(4, 9, &[3])];
        assert_eq!(
            cut.goes(&worse, worse.len(), 6_000),
            Some(NodeId(2)),
            "3 reaches more than 2 does"
        );
    }

    #[test]
    fn one_direction_is_enough_and_a_moment_is_not() {
        let mut cut = CutOff::default();
        let one_way = [report(1, 1, &[2, 3]), report(2, 2, &[3]), report(3, 3, &[1, 2])];
        let whole = [report(1, 1, &[2, 3]), report(2, 2, &[1, 3]), report(3, 3, &[1, 2])];
        cut.goes(&one_way, one_way.len(), 0);
        cut.goes(&whole, whole.len(), 3_000);
        assert_eq!(cut.goes(&one_way, one_way.len(), 6_000), None, "it begins anew");
        assert_eq!(cut.goes(&one_way, one_way.len(), 11_000), Some(NodeId(2)));
    }

    #[test]
    fn the_leader_of_the_metadata_rather_stays() {
        let mut cut = CutOff::default();
        let leader = Reach { leads: true, ..report(1, 0, &[3]) };
        let reports = [leader, report(2, 9, &[3]), report(3, 0, &[1, 2])];
        cut.goes(&reports, reports.len(), 0);
        assert_eq!(cut.goes(&reports, reports.len(), CUT_OFF_MS), Some(NodeId(2)));
    }

    #[test]
    fn who_comes_serves_at_once_unless_a_link_was_missing() {
        let mut whole = Whole::default();
        assert!(whole.may_serve(true, 0));
        let mut whole = Whole::default();
        assert!(!whole.may_serve(false, 0));
        assert!(whole.may_serve(true, LINKS_COME_MS - 1), "links take a moment");
        assert!(!whole.may_serve(false, 10_000));
        assert!(!whole.may_serve(false, 10_000 + LINKS_COME_MS));
        assert!(!whole.may_serve(true, 20_000), "they have to last");
        assert!(!whole.may_serve(false, 21_000));
        assert!(!whole.may_serve(true, 22_000));
        assert!(!whole.may_serve(true, 22_000 + WHOLE_AGAIN_MS - 1));
        assert!(whole.may_serve(true, 22_000 + WHOLE_AGAIN_MS));
    }

    #[test]
    fn nobody_is_drained_if_no_majority_would_be_left() {
        let mut cut = CutOff::default();
        let reports = [report(1, 1, &[2, 3]), report(2, 1, &[1]), report(3, 1, &[1])];
        cut.goes(&reports, 5, 0);
        assert_eq!(cut.goes(&reports, 5, 60_000), None, "two of five are down already");
        assert_eq!(cut.goes(&reports, 3, 60_000), Some(NodeId(2)));
    }

    #[test]
    fn of_two_nodes_none_is_drained() {
        let mut cut = CutOff::default();
        let reports = [report(1, 1, &[]), report(2, 1, &[])];
        cut.goes(&reports, reports.len(), 0);
        assert_eq!(cut.goes(&reports, reports.len(), 60_000), None);
    }
}
