//! What waits for the other nodes: SUBACKs until they know a filter (R2), and
//! PUBLISHes of QoS 1 and 2 while this node may not know all of theirs (R1). Most
//! of these need not wait: the partition of their publisher takes them as errands,
//! and routes them when the node that leads it knows all routes. Later ones of that
//! publisher go the same way until it has (ORD-1).
//!
//! So a SUBACK at one node before a PUBLISH at another means that the message is
//! delivered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_codec::{Frame, PacketType, QoS};

use super::Shard;
use super::distribute::Source;
use crate::conn::{Order, pause};
use crate::ids::{ConnRef, Millis, PartitionId, ShardId};
use crate::index::Remote;
use crate::limits::ERRAND_PATIENCE_MS;
use crate::mail::{Kind, Replay, What};
use crate::message::Draft;
use crate::partition::Errand;

/// Of the first byte of a PUBLISH.
const QOS: u8 = 0b0110;
const EXACTLY_ONCE: u8 = 0b0100;
const RETAIN: u8 = 0b0001;

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
    errands: VecDeque<Held>,
}

/// An errand that may not be routed yet.
#[derive(Debug)]
struct Held {
    partition: PartitionId,
    token: u32,
    errand: Errand,
    since: Millis,
    /// Its publisher has its acknowledgement, if that need not wait.
    relieved: bool,
}

impl Waiting {
    /// Those in front of it are relieved, those behind it are younger.
    fn first_unrelieved(&mut self) -> Option<&mut Held> {
        let at = self.errands.partition_point(|held| held.relieved);
        self.errands.get_mut(at)
    }

    /// When the next is to be.
    pub(super) fn due(&self) -> Option<Millis> {
        let at = self.errands.partition_point(|held| held.relieved);
        self.errands.get(at).map(|held| held.since + ERRAND_PATIENCE_MS)
    }

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
                    self.unpause(publisher.slot, pause::OUTBOX | pause::PARKED);
                }
            }
            // Those that come meanwhile wait behind them.
            while let Some(held) = self.waiting.errands.pop_front() {
                self.route_errand(now, held.partition, held.token, held.errand);
            }
        }
        self.relieve_errands(now);
        self.settle(now);
    }

    /// Has publishers acknowledged whose messages have waited for long to be routed.
    fn relieve_errands(&mut self, now: Millis) {
        while let Some(held) = self.waiting.first_unrelieved()
            && held.since + ERRAND_PATIENCE_MS <= now
        {
            held.relieved = true;
            let (partition, token) = (held.partition, held.token);
            let at = self.local_number(partition);
            self.with_partition(now, at, |partition, cx| partition.relieve(token, cx));
        }
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
    pub(super) fn is_early(&self, now: Millis, order: Order, frame: &Frame) -> bool {
        frame.first >> 4 == PacketType::Publish as u8
            && frame.first & QOS != 0
            && (order != Order::Direct || !self.node.is_covered(now))
    }

    /// The same of one that is early: whether it may be taken nevertheless, to be an
    /// errand of its publisher's partition. If not its connection is not read until
    /// more is known.
    #[cold]
    pub(super) fn is_errand(&mut self, now: Millis, slot: u32, frame: &Frame) -> bool {
        let covered = self.node.is_covered(now);
        let Some(conn) = self.conns.at(slot) else { return true };
        // One of a durable session at QoS 2 always is. To be retained it is not
        // acknowledged before that, nor if it was sent before.
        let retained = frame.first & RETAIN != 0;
        let exactly_once = frame.first & QOS == EXACTLY_ONCE;
        if conn.session_durable && exactly_once && self.keeps() && !retained {
            return true;
        }
        let unconfirmed = conn.active.as_ref().is_some_and(|active| !active.parked.is_empty());
        match conn.order {
            Order::Direct | Order::Behind if !covered => {
                if retained || !self.node.takes_errands() {
                    self.wait_for_routes(slot, pause::OUTBOX);
                    return false;
                }
                // One that went from here may still have to come again.
                if conn.order == Order::Direct && unconfirmed {
                    self.wait_for_routes(slot, pause::PARKED);
                    return false;
                }
                if let Some(conn) = self.conns.at_mut(slot) {
                    conn.order = Order::Behind;
                }
                true
            }
            Order::Direct => true,
            Order::Behind => {
                self.ask_settled(now, slot);
                false
            }
            Order::Asked => {
                if let Some(conn) = self.conns.at_mut(slot) {
                    conn.pause |= pause::OUTBOX;
                }
                false
            }
        }
    }

    /// Asks the partition of a publisher to say when none of its errands is open.
    fn ask_settled(&mut self, now: Millis, slot: u32) {
        let id = self.id;
        let Some(conn) = self.conns.at_mut(slot) else { return };
        conn.order = Order::Asked;
        conn.pause |= pause::OUTBOX;
        let (origin, me) = (conn.hash, conn.reference(id, slot));
        let mut draft = Draft {
            topic: "",
            forward: &[],
            payload: &[],
            qos: QoS::AtLeastOnce,
            retain: false,
            origin,
            expires: Millis::MAX,
            id: self.next_message(),
            shared: None,
        };
        let to = Remote::Partition(PartitionId::of(origin));
        self.cross(now, &mut draft, to, What::Settled, &mut Source::client(me), None);
    }

    /// None of its errands is: its PUBLISHes go from here again.
    pub(super) fn settled(&mut self, publisher: ConnRef) {
        let Some(conn) = self.conn(publisher).filter(|conn| conn.order == Order::Asked) else {
            return;
        };
        conn.order = Order::Direct;
        self.unpause(publisher.slot, pause::OUTBOX);
    }

    /// Has the partition of a publisher see to the delivery of its message.
    pub(super) fn give_errand(&mut self, now: Millis, draft: &mut Draft<'_>, source: &mut Source) {
        let partition = PartitionId::of(draft.origin);
        self.counters().errands.add(1);
        self.cross(now, draft, Remote::Partition(partition), What::Errand, source, None);
        self.press_home(partition, source.publisher);
    }

    /// Does not read a connection until more is known, or what it is paused for has
    /// come.
    fn wait_for_routes(&mut self, slot: u32, why: u8) {
        let id = self.id;
        let Some(conn) = self.conns.at_mut(slot) else { return };
        conn.pause |= why;
        let me = conn.reference(id, slot);
        self.waiting.publishers.insert(me);
    }

    /// A partition is led here no more: whoever leads it next routes its errands.
    pub(super) fn forget_errands(&mut self, partition: PartitionId) {
        self.waiting.errands.retain(|held| held.partition != partition);
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
        let (since, relieved) = (now, false);
        self.waiting.errands.push_back(Held { partition, token, errand, since, relieved });
        None
    }
}
