//! The route lease, between each two nodes that have clients.

use std::collections::BTreeMap;

use crate::ids::{Life, Millis};
use crate::limits::{ROUTE_LEASE_MARGIN_MS, ROUTE_LEASE_MS, ROUTE_LEASE_RENEW_MS};

/// The lease on one peer's routes, at who publishes.
#[derive(Clone, Debug, Default)]
pub struct RouteHold {
    requests: u64,
    sent: Option<(u64, Millis)>,
    until: Option<Millis>,
    /// The newest change that the peer had when it granted.
    needs: u64,
}

impl RouteHold {
    /// The number of the next ping, if it is time for one.
    pub fn ask(&mut self, now: Millis) -> Option<u64> {
        if self.sent.is_some_and(|(_, sent)| now < sent + ROUTE_LEASE_RENEW_MS) {
            return None;
        }
        self.requests += 1;
        self.sent = Some((self.requests, now));
        Some(self.requests)
    }

    /// The answer to a ping, with the number of the peer's newest change.
    pub fn granted(&mut self, request: u64, newest: u64) {
        let Some((asked, sent)) = self.sent else { return };
        if request != asked {
            return;
        }
        self.needs = self.needs.max(newest);
        let until = sent + ROUTE_LEASE_MS - ROUTE_LEASE_MARGIN_MS;
        self.until = Some(self.until.map_or(until, |before| before.max(until)));
    }

    /// Until when the peer's routes may be trusted, with the changes up to
    /// `applied`; `None`: not at all.
    pub fn until(&self, applied: u64) -> Option<Millis> {
        self.until.filter(|_| applied >= self.needs)
    }
}

/// The leases on this node's routes that its peers may hold.
#[derive(Clone, Debug, Default)]
pub struct RouteGrants {
    peers: BTreeMap<Life, Millis>,
}

impl RouteGrants {
    /// The peer's ping is answered now.
    pub fn grant(&mut self, peer: Life, now: Millis) {
        self.peers.insert(peer, now + ROUTE_LEASE_MS);
    }

    /// Until when the peer may hold a lease; `None`: it does not.
    pub fn until(&self, peer: Life, now: Millis) -> Option<Millis> {
        self.peers.get(&peer).copied().filter(|until| now < *until)
    }

    /// Who may hold a lease now.
    pub fn holders(&self, now: Millis) -> impl Iterator<Item = (Life, Millis)> {
        let held = self.peers.iter().map(|(peer, until)| (*peer, *until));
        held.filter(move |(_, until)| now < *until)
    }

    /// Forgets the leases that have ended.
    pub fn sweep(&mut self, now: Millis) {
        self.peers.retain(|_, until| now < *until);
    }

    /// The peer's life is over, by the metadata: its lease is worth nothing.
    pub fn gone(&mut self, peer: Life) {
        self.peers.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeId};

    const PEER: Life = Life { node: NodeId(2), incarnation: Incarnation(1) };

    #[test]
    fn the_holder_is_done_before_the_granter_whatever_the_network_does() {
        let (mut hold, mut grants) = (RouteHold::default(), RouteGrants::default());
        let request = hold.ask(1_000).expect("due");
        grants.grant(PEER, 1_001);
        hold.granted(request, 0);
        assert_eq!(hold.until(0), Some(3_900));
        assert_eq!(grants.until(PEER, 4_000), Some(4_001));
        assert_eq!(grants.until(PEER, 4_001), None);
    }

    #[test]
    fn a_lease_holds_only_with_every_change_that_the_peer_had() {
        let mut hold = RouteHold::default();
        let request = hold.ask(0).expect("due");
        hold.granted(request, 7);
        assert_eq!(hold.until(6), None);
        assert_eq!(hold.until(7), Some(2_900));
    }

    #[test]
    fn a_late_answer_to_an_earlier_ping_does_not_count() {
        let mut hold = RouteHold::default();
        let first = hold.ask(0).expect("due");
        assert_eq!(hold.ask(499), None);
        let _second = hold.ask(500).expect("due");
        hold.granted(first, 0);
        assert_eq!(hold.until(0), None);
    }
}
