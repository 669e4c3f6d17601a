//! What waits for the other nodes: SUBACKs until they know a filter (R2), and
//! PUBLISHes of QoS 1 and 2 while this node may not know all of theirs (R1).
//!
//! So a SUBACK at one node before a PUBLISH at another means that the message is
//! delivered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_codec::{Frame, PacketType, QoS};

use super::Shard;
use crate::conn::pause;
use crate::ids::{ConnRef, Millis, PartitionId, ShardId};
use crate::mail::{Kind, Replay};
use crate::partition::Errand;

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Mails with a SUBACK, by the ticket that they wait for.
    subacks: BTreeMap<(u64, u64), (ShardId, Kind)>,
    serial: u64,
    /// What connections ask for behind such a SUBACK.
    pub(super) replays: BTreeMap<ConnRef, Vec<Replay>>,
    /// Connections whose next packet is a PUBLISH that may not be taken yet.
    publishers: BTreeSet<ConnRef>,
    /// Errands that may not be routed yet.
    errands: VecDeque<(PartitionId, u32, Errand)>,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.subacks.is_empty() && self.publishers.is_empty() && self.errands.is_empty()
    }
}

impl Shard {
    /// More may be known of the other nodes' routes, or they know more of this
    /// one's: to be called on every shard after
    /// [`Node::set_covered`](crate::Node::set_covered) has let publishes go on
    /// that waited, and after [`Index::pass`](crate::index::Index::pass).
    pub fn routes_moved(&mut self, now: Millis) {
        if self.waiting.is_empty() {
            return;
        }
        self.transit.leave();
        while let Some(entry) = self.waiting.subacks.first_entry()
            && self.node.index.has_passed(entry.key().0)
        {
            let (to, kind) = entry.remove();
            self.send(to, kind);
        }
        if self.node.is_covered(now) {
            for publisher in std::mem::take(&mut self.waiting.publishers) {
                if self.conn(publisher).is_some() {
                    self.unpause(publisher.slot, pause::OUTBOX);
                }
            }
            // Those that come meanwhile wait behind them.
            while let Some((partition, token, errand)) = self.waiting.errands.pop_front() {
                self.route_errand(now, partition, token, errand);
            }
        }
        self.settle(now);
    }

    /// SUBACKs, publishers and errands that wait for other nodes.
    pub fn waiting_for_routes(&self) -> (usize, usize, usize) {
        let waiting = &self.waiting;
        (waiting.subacks.len(), waiting.publishers.len(), waiting.errands.len())
    }

    /// Sends a SUBACK's mail, when the ticket of its filters has passed.
    pub(super) fn send_after(&mut self, ticket: u64, to: ShardId, kind: Kind) {
        if ticket == 0 || self.node.index.has_passed(ticket) {
            return self.send(to, kind);
        }
        self.waiting.serial += 1;
        self.waiting.subacks.insert((ticket, self.waiting.serial), (to, kind));
    }

    /// Whether a packet is a PUBLISH that may not be taken yet. The clock of `now`
    /// was read after the socket was, or a process that had stood still would
    /// take its old knowledge for good.
    #[inline]
    pub(super) fn is_early(&self, now: Millis, frame: &Frame) -> bool {
        const QOS: u8 = 0b0110;
        frame.first >> 4 == PacketType::Publish as u8
            && frame.first & QOS != 0
            && !self.node.is_covered(now)
    }

    /// Does not read a connection until more is known.
    #[cold]
    pub(super) fn wait_for_routes(&mut self, slot: u32) {
        let id = self.id;
        let Some(conn) = self.conns.at_mut(slot) else { return };
        conn.pause |= pause::OUTBOX;
        let me = conn.reference(id, slot);
        self.waiting.publishers.insert(me);
    }

    /// A partition is led here no more: whoever leads it next routes its errands.
    pub(super) fn forget_errands(&mut self, partition: PartitionId) {
        self.waiting.errands.retain(|(of, ..)| *of != partition);
    }

    /// Keeps an errand that may not be routed yet, or would overtake one that may
    /// not (ORD-1); none: it was kept.
    pub(super) fn errand_in_time(
        &mut self,
        now: Millis,
        partition: PartitionId,
        token: u32,
        errand: Errand,
    ) -> Option<Errand> {
        let promised = errand.share.is_none() && errand.message.qos > QoS::AtMostOnce;
        if !promised || (self.node.is_covered(now) && self.waiting.errands.is_empty()) {
            return Some(errand);
        }
        self.waiting.errands.push_back((partition, token, errand));
        None
    }
}
