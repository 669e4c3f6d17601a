//! Messages that go to other nodes, and those that come from them.
//!
//! A message goes once to each other node with sessions that want it and end with
//! their connection, and once to the leader of each partition with durable
//! sessions that do; it is matched there, and never goes on to a third node. At
//! QoS 0 that is all. At QoS 1 and 2 the message is kept here until the other
//! has confirmed it, and its publisher's acknowledgement waits for that (ACK-1).
//! When a link is lost or a partition has another leader, what was not confirmed
//! is sent again under its number, by which it is taken once (`Seen`). So does,
//! in a cluster, what goes to partitions that this node leads: it may lead them
//! no longer before the message is committed.
//!
//! What goes to a partition names the one in front of it that is not confirmed.
//! A shard that did not lead when that one came has not taken it. It takes none
//! behind it, though it leads by then, until all come again in order (ORD-1).
//!
//! At QoS 0 a message says which connection of its publisher it is of, and is
//! dropped behind one of a newer connection that came by another node (`newest`).
//! What waits for a link to a leader that is none any more is dropped too.
//!
//! Bounded by what publishers may have unacknowledged, and by
//! [`CROSSINGS_MAX`]: they are not read then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Shard;
use super::distribute::{Job, Source, shared_delivery};
use crate::conn::{Conn, Phase, pause};
use crate::counters::DropReason;
use crate::delivery::Ticket;
use crate::ids::{ConnRef, Member, Millis, PartitionId, SessionKey, ShardId};
use crate::index::Remote;
use crate::limits::{
    CROSSING_LOOK_MS, CROSSING_RETRIES_MAX, CROSSING_RETRY_MS, CROSSINGS_MAX, SHARE_HOPS_MAX,
    STEP_ITEMS_MAX,
};
use crate::mail::{Confirm, Cross, Kind, Lane, LaneSource, Mail, What, part};
use crate::message::{Draft, Message};
use crate::partition::{Change, Recipients, Seen};
use tidegate_codec::QoS;

/// Jobs of other nodes' QoS 0 messages that may wait.
const FOREIGN_JOBS_MAX: usize = 1_024;

/// What is under way to other nodes, and what came from them.
#[derive(Debug, Default)]
pub(super) struct Crossings {
    last: u64,
    open: BTreeMap<u64, Crossing>,
    to: BTreeMap<Remote, BTreeSet<u64>>,
    /// Where what is open was sent to last.
    ways: BTreeMap<Remote, Option<ShardId>>,
    paused: BTreeSet<ConnRef>,
    /// What came for sessions of this node that end with their connection.
    seen: Seen,
    /// The last that was taken for a partition of each shard, in the time of its
    /// present leader.
    tails: BTreeMap<(PartitionId, ShardId), u64>,
    /// When it is looked which partitions are silent, to be asked again.
    retry_due: Millis,
}

#[derive(Debug)]
struct Crossing {
    to: Remote,
    what: What,
    message: Arc<Message>,
    publisher: ConnRef,
    /// Of an errand, which has a number already.
    lane: Option<Lane>,
    /// Who waits for it, here or at the node that it came from.
    confirm: Option<Confirm>,
    /// While it lives it counts as outstanding for its member of a share group.
    _ticket: Option<Arc<Ticket>>,
    sent_at: Millis,
}

impl Crossings {
    #[inline]
    pub(super) fn due(&self) -> Option<Millis> {
        (!self.open.is_empty()).then_some(self.retry_due)
    }
}

impl Shard {
    /// Messages at QoS 1 and 2 that other nodes have not confirmed.
    pub fn open_crossings(&self) -> usize {
        self.crossings.open.len()
    }

    /// Sends a message to another node, once.
    pub(super) fn cross(
        &mut self,
        now: Millis,
        draft: &mut Draft<'_>,
        to: Remote,
        what: What,
        source: &mut Source,
        ticket: Option<Arc<Ticket>>,
    ) {
        let message = Arc::clone(draft.share());
        let publisher = source.publisher;
        if message.qos == QoS::AtMostOnce {
            let way = self.way_to(to, message.origin);
            let Some(shard) = way.filter(|&shard| !self.outbox(shard).is_over()) else {
                return self.counters().dropped(DropReason::PeerBuffer, 1);
            };
            let (lane, confirm) = (None, None);
            let after = match what {
                What::Everybody => self.spoken_since(publisher),
                What::Member { .. } | What::Retain { .. } | What::Errand | What::Settled => 0,
            };
            let cross = Cross { to, what, message, publisher, lane, confirm, after };
            return self.send(shard, Kind::Cross(Box::new(cross)));
        }
        let confirm = source.expect();
        let lane = source.lane.map(|lane| self.lane_of(lane, &what));
        let crossing =
            Crossing { to, what, message, publisher, lane, confirm, _ticket: ticket, sent_at: now };
        self.keep_crossing(now, crossing);
    }

    /// Which of its client's connections a publisher is, of a session that goes on
    /// from one to the next; 0: of another.
    fn spoken_since(&mut self, publisher: ConnRef) -> u64 {
        if publisher.shard != self.id {
            return 0;
        }
        let conn = self.conn(publisher).filter(|conn| conn.session_durable);
        conn.map_or(0, |conn| conn.claim.generation.into())
    }

    /// The lane of an errand's message that is for some.
    fn lane_of(&self, lane: Lane, what: &What) -> Lane {
        match what {
            What::Everybody | What::Errand | What::Settled => lane,
            What::Retain { .. } => Lane { part: part::RETAIN, ..lane },
            What::Member { name, filter, .. } => {
                Lane { part: part::share(self.node.share_hash(name, filter)), ..lane }
            }
        }
    }

    fn keep_crossing(&mut self, now: Millis, crossing: Crossing) {
        let (to, publisher) = (crossing.to, crossing.publisher);
        let origin = crossing.message.origin;
        if self.crossings.open.is_empty() {
            self.crossings.retry_due = now + CROSSING_LOOK_MS;
        }
        self.crossings.last += 1;
        let number = self.crossings.last;
        let numbers = self.crossings.to.entry(to).or_default();
        numbers.insert(number);
        let others = numbers.len() > 1;
        self.crossings.open.insert(number, crossing);
        let way = self.way_to(to, origin);
        // The home has moved, and this shard is about to hear of it: those that
        // went elsewhere go first then (ORD-1).
        let moved = matches!(to, Remote::Partition(_))
            && others
            && self.crossings.ways.get(&to).is_some_and(|before| *before != way);
        if !moved {
            self.crossings.ways.insert(to, way);
            self.send_crossing(now, number);
        }
        if let Some(shard) = way {
            self.press(shard, publisher);
        }
        if self.crossings.open.len() >= CROSSINGS_MAX
            && publisher.shard == self.id
            && let Some(conn) = self.conn(publisher)
            && conn.pause & pause::OUTBOX == 0
        {
            conn.pause |= pause::OUTBOX;
            self.counters().mailbox_pauses.add(1);
            self.crossings.paused.insert(publisher);
        }
    }

    /// Sends one that is open, if there is a way.
    fn send_crossing(&mut self, now: Millis, number: u64) {
        let Some(crossing) = self.crossings.open.get(&number) else { return };
        let Some(shard) = self.way_to(crossing.to, crossing.message.origin) else { return };
        let open = self.crossings.to.get(&crossing.to);
        let low = open.and_then(BTreeSet::first);
        let after = open.and_then(|open| open.range(..number).next_back());
        let own = Lane {
            source: LaneSource::Shard(self.id),
            number,
            low: low.copied().unwrap_or(number),
            part: part::SESSIONS,
        };
        let cross = Cross {
            to: crossing.to,
            what: crossing.what.clone(),
            message: Arc::clone(&crossing.message),
            publisher: crossing.publisher,
            lane: Some(crossing.lane.unwrap_or(own)),
            confirm: Some(Confirm::crossing(self.id, number)),
            after: after.copied().unwrap_or(0),
        };
        if let Some(crossing) = self.crossings.open.get_mut(&number) {
            crossing.sent_at = now;
        }
        self.send(shard, Kind::Cross(Box::new(cross)));
    }

    /// The shard that takes messages for `to`. Of one publisher always the same:
    /// it knows what came already.
    fn way_to(&self, to: Remote, origin: u64) -> Option<ShardId> {
        match to {
            Remote::Node(member) => {
                let shards = self.node.shards_of(member)?;
                Some(ShardId::of(member, (origin % u64::from(shards)) as u16))
            }
            Remote::Partition(partition) => self.node.home(partition),
        }
    }

    /// Whether a remote of the index is one to send to: not one that is gone, nor
    /// a partition that is led here, whose sessions the index has themselves.
    pub(super) fn is_elsewhere(&self, remote: Remote) -> bool {
        match remote {
            Remote::Node(member) => self.node.shards_of(member).is_some(),
            Remote::Partition(partition) => {
                self.node.home(partition).is_none_or(|home| home.member() != self.id.member())
            }
        }
    }

    /// Whether a session of the index may get messages from here.
    pub(super) fn is_reachable(&self, session: SessionKey) -> bool {
        Remote::of(session).is_none_or(|remote| self.is_elsewhere(remote))
    }

    /// What crossed has arrived, or need not any more.
    pub(super) fn crossing_done(&mut self, number: u64) -> Option<Confirm> {
        let crossing = self.crossings.open.remove(&number)?;
        if let Some(numbers) = self.crossings.to.get_mut(&crossing.to) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.crossings.to.remove(&crossing.to);
                self.crossings.ways.remove(&crossing.to);
            }
        }
        if self.crossings.open.len() <= CROSSINGS_MAX / 2 {
            for publisher in std::mem::take(&mut self.crossings.paused) {
                if self.conn(publisher).is_some() {
                    self.unpause(publisher.slot, pause::OUTBOX);
                }
            }
        }
        if let What::Settled = crossing.what {
            self.settled(crossing.publisher);
        }
        crossing.confirm
    }

    /// Sends again, in order, what `to` has not confirmed.
    fn send_again(&mut self, now: Millis, to: Remote) {
        let Some(numbers) = self.crossings.to.get(&to).cloned() else { return };
        if let Remote::Partition(partition) = to {
            self.crossings.ways.insert(to, self.node.home(partition));
        }
        for number in numbers {
            self.send_late(now, number);
        }
    }

    /// Sends one that has waited, unless nobody waits for it any more: what is to be
    /// retained, and whose publisher is gone without an acknowledgement. It has sent
    /// it again elsewhere, or will, and this one might replace what is newer.
    fn send_late(&mut self, now: Millis, number: u64) {
        let Some(crossing) = self.crossings.open.get(&number) else { return };
        let (publisher, owed) = (crossing.publisher, crossing.confirm.is_some());
        let own = owed && crossing.lane.is_none() && publisher.shard == self.id;
        let retains = matches!(crossing.what, What::Retain { .. });
        let waits = |conn: &&mut Conn| conn.phase == Phase::Live;
        if retains && own && self.conn(publisher).filter(waits).is_none() {
            self.counters().dropped(DropReason::PeerBuffer, 1);
            self.crossing_done(number);
            return;
        }
        self.send_crossing(now, number);
    }

    /// A partition has another leader.
    pub(super) fn crossings_moved(&mut self, now: Millis, partition: PartitionId) {
        self.drop_strays(partition);
        self.send_again(now, Remote::Partition(partition));
    }

    /// Drops what waits at QoS 0 for a link to a former leader of a partition. It may
    /// lead it again when there is one, and what went to others would be in front.
    fn drop_strays(&mut self, partition: PartitionId) {
        let home = self.node.home(partition);
        let strays = |mail: &Mail| match &mail.kind {
            Kind::Cross(cross) => {
                cross.confirm.is_none() && cross.to == Remote::Partition(partition)
            }
            _other => false,
        };
        let others = self.remote.iter_mut().filter(|(to, _)| Some(**to) != home);
        let dropped: usize = others.map(|(_, outbox)| outbox.drop_if(strays)).sum();
        if dropped > 0 {
            self.counters().dropped(DropReason::PeerBuffer, dropped as u64);
        }
    }

    /// The link to a member is lost. What still waits for it here would overtake
    /// what was lost: all of it goes again, in order.
    pub(super) fn crossings_lost(&mut self, now: Millis, member: Member) {
        if self.crossings.open.is_empty() {
            return;
        }
        let (first, last) = (ShardId::of(member, 0), ShardId::of(member, ShardId::LAST));
        for outbox in self.remote.range_mut(first..=last).map(|(_, outbox)| outbox) {
            for _ in 0..outbox.mails.len() {
                let Some(mail) = outbox.pop() else { break };
                let again = matches!(&mail.kind, Kind::Cross(cross) if cross.confirm.is_some());
                if !again {
                    outbox.push(mail);
                }
            }
        }
        let there = |to: &Remote| match *to {
            Remote::Node(other) => other == member,
            Remote::Partition(partition) => {
                self.node.home(partition).is_some_and(|home| home.member() == member)
            }
        };
        let targets: Vec<Remote> = self.crossings.to.keys().copied().filter(there).collect();
        for to in targets {
            self.send_again(now, to);
        }
    }

    /// A member is gone for good, and so are its sessions that end with their
    /// connection: their messages need not be there, and those of a share group
    /// go to another member. To be called on every shard after
    /// [`Node::peer_gone`](crate::Node::peer_gone).
    pub fn peer_gone(&mut self, now: Millis, member: Member) {
        self.transit.leave();
        self.crossings.seen.forget(member);
        self.crossings.tails.retain(|(_, from), _| from.member() != member);
        for number in self.crossings.to.get(&Remote::Node(member)).cloned().unwrap_or_default() {
            let Some(crossing) = self.crossings.open.get(&number) else { continue };
            let (what, publisher) = (crossing.what.clone(), crossing.publisher);
            let (message, lane) = (Arc::clone(&crossing.message), crossing.lane);
            let confirm = self.crossing_done(number);
            match what {
                What::Member { name, filter, hops } => {
                    let (to, group) = (Remote::Node(member), (&name, &filter, hops));
                    self.give_crossed(now, to, &message, group, publisher, lane, confirm);
                }
                What::Everybody | What::Retain { .. } | What::Errand | What::Settled => {
                    self.confirm(confirm);
                }
            }
        }
        self.settle(now);
    }

    /// Asks partitions again that have been silent for long: what was sent behind one
    /// that was lost has not been taken, and goes again with it.
    pub(super) fn retry_crossings(&mut self, now: Millis) {
        if self.crossings.due().is_none_or(|due| now < due) {
            return;
        }
        self.crossings.retry_due = now + CROSSING_LOOK_MS;
        let mut silent = BTreeSet::new();
        let goes = |(_, crossing): &(&u64, &Crossing)| {
            if matches!(crossing.to, Remote::Partition(_))
                && crossing.sent_at + CROSSING_RETRY_MS <= now
            {
                silent.insert(crossing.to);
            }
            silent.contains(&crossing.to)
        };
        let open = self.crossings.open.iter().filter(goes);
        let numbers: Vec<u64> = open.map(|(&n, _)| n).take(CROSSING_RETRIES_MAX).collect();
        for number in numbers {
            self.send_late(now, number);
        }
    }

    /// A message of another node, or an errand's for this node's own.
    pub(super) fn crossed(&mut self, now: Millis, cross: Cross) {
        let Cross { to, what, message, publisher, lane, confirm, after } = cross;
        if let Remote::Partition(partition) = to {
            // Whoever has sent it will hear who leads the partition now, or sends
            // all of it again.
            if !self.leads(partition) || !self.is_next(partition, confirm, after) {
                return;
            }
        }
        if message.qos == QoS::AtMostOnce
            && after != 0
            && !self.node.newest.note(now, message.origin, after as u32)
        {
            // What its publisher has sent since, by another node, is in front of it.
            return self.counters().dropped(DropReason::PeerBuffer, 1);
        }
        match (what, to) {
            (What::Retain { clear }, _) => {
                self.propose_retain(now, message, clear, lane, confirm);
            }
            (What::Everybody, Remote::Node(_)) => {
                if self.crossings.seen.is_next(lane, true) {
                    self.deliver_here(now, &message, publisher);
                }
                self.confirm(confirm);
            }
            (What::Everybody, Remote::Partition(partition)) => {
                self.enqueue_crossed(now, partition, message, lane, confirm);
            }
            (What::Errand, Remote::Partition(partition)) => {
                self.propose(now, partition, Change::Errand { message, lane, confirm });
            }
            (What::Settled, Remote::Partition(partition)) => {
                if let Some(confirm) = confirm {
                    let client = message.origin;
                    self.propose(now, partition, Change::Settled { client, confirm });
                }
            }
            // No node asks that of another.
            (What::Errand | What::Settled, Remote::Node(_)) => {}
            (What::Member { name, filter, hops }, to) => {
                if matches!(to, Remote::Node(_)) && !self.crossings.seen.is_new(lane, true) {
                    return self.confirm(confirm);
                }
                self.give_crossed(
                    now,
                    to,
                    &message,
                    (&name, &filter, hops),
                    publisher,
                    lane,
                    confirm,
                );
            }
        }
    }

    /// Whether what was sent in front of a message for a partition was taken; then
    /// this one is.
    fn is_next(&mut self, partition: PartitionId, confirm: Option<Confirm>, after: u64) -> bool {
        let number = |confirm: Confirm| Some((confirm.conn.shard, confirm.crossing_number()?));
        let Some((from, number)) = confirm.and_then(number) else { return true };
        let key = (partition, from);
        let tail = self.crossings.tails.get(&key).copied().unwrap_or(0);
        if after > tail {
            return false;
        }
        self.crossings.tails.insert(key, tail.max(number));
        true
    }

    /// A partition begins to be led here, or ends.
    pub(super) fn forget_tails(&mut self, partition: PartitionId) {
        self.crossings.tails.retain(|&(of, _), _| of != partition);
    }

    /// To all sessions of this node that end with their connection.
    fn deliver_here(&mut self, now: Millis, message: &Arc<Message>, publisher: ConnRef) {
        let mut draft = message.draft();
        let route = match &mut self.routes {
            Some(routes) => Arc::clone(routes.route(&self.node.index, draft.topic)),
            None => Arc::new(self.node.index.route(draft.topic)),
        };
        let best_effort = message.qos == QoS::AtMostOnce;
        for group in &route.groups {
            if group.durable || group.shard.member() != self.id.member() {
                continue;
            }
            let targets = Arc::clone(&group.targets);
            if group.shard != self.id {
                if best_effort && self.outbox(group.shard).is_over() {
                    self.counters().dropped(DropReason::PeerBuffer, targets.len() as u64);
                    continue;
                }
                let message = Arc::clone(message);
                let (durable, lane, confirm, report) = (false, None, None, false);
                let kind =
                    Kind::Deliver { message, targets, durable, publisher, lane, confirm, report };
                self.send(group.shard, kind);
                continue;
            }
            if targets.len() <= STEP_ITEMS_MAX && !self.has_job(publisher) {
                for target in targets.iter() {
                    self.deliver_live(now, target, targets.ids(target), &mut draft);
                }
                continue;
            }
            if best_effort && self.jobs.len() >= FOREIGN_JOBS_MAX {
                self.counters().dropped(DropReason::PeerBuffer, targets.len() as u64);
                continue;
            }
            let message = Arc::clone(message);
            let origin = self.transit.origin();
            let (lane, confirm) = (None, None);
            let (durable, at, report) = (false, 0, false);
            let job =
                Job { message, targets, durable, at, publisher, lane, confirm, report, origin };
            self.fan_out(now, job);
        }
    }

    /// To all durable sessions of a partition that is led here.
    fn enqueue_crossed(
        &mut self,
        now: Millis,
        partition: PartitionId,
        message: Arc<Message>,
        lane: Option<Lane>,
        confirm: Option<Confirm>,
    ) {
        let route = match &mut self.routes {
            Some(routes) => Arc::clone(routes.route(&self.node.index, message.topic())),
            None => Arc::new(self.node.index.route(message.topic())),
        };
        let mine = route.groups.iter().find(|group| group.durable && group.shard == self.id);
        let Some(group) = mine else { return self.confirm(confirm) };
        let targets = &group.targets;
        let from = targets.place_of(partition.session_slot(0));
        let to = targets.end_of(partition);
        if from >= to {
            return self.confirm(confirm);
        }
        let to = Recipients::Run { targets: Arc::clone(targets), from, to };
        let confirm = confirm.map(Arc::new);
        self.propose(now, partition, Change::Enqueue { message, to, lane, confirm });
    }

    /// To a member of a share group that is `to`'s; to another if there is none.
    fn give_crossed(
        &mut self,
        now: Millis,
        to: Remote,
        message: &Arc<Message>,
        (name, filter, hops): (&Arc<str>, &Arc<str>, u8),
        publisher: ConnRef,
        lane: Option<Lane>,
        confirm: Option<Confirm>,
    ) {
        let route = self.node.index.route(message.topic());
        let mut groups = route.shares.iter();
        let group = groups.find(|group| group.name() == &**name && group.filter() == filter);
        let is_of = |session: SessionKey| match to {
            Remote::Node(_) => !session.durable && Remote::of(session).is_none(),
            Remote::Partition(partition) => {
                session.durable
                    && Remote::of(session).is_none()
                    && PartitionId::split(session.slot).0 == partition
            }
        };
        let picked = group.and_then(|group| group.pick_where(|member| is_of(member.session)));
        if let (Some(group), Some(member)) = (group, picked) {
            let delivery = shared_delivery(group, member, &mut message.draft());
            let session = member.session;
            // A number is one of a partition's log: a session that ends with its
            // connection has none.
            let lane = lane.filter(|_| session.durable);
            return self
                .send(session.shard, Kind::DeliverShared { session, delivery, lane, confirm });
        }
        let others = |session: SessionKey| !is_of(session) && self.is_reachable(session);
        let other = group.and_then(|group| group.pick_where(|member| others(member.session)));
        let (Some(group), Some(member)) = (group, other.filter(|_| hops < SHARE_HOPS_MAX)) else {
            self.counters().dropped(DropReason::SessionEnded, 1);
            return self.confirm(confirm);
        };
        // An errand's number goes along: it may be routed again, to the same member
        // and at once. A shard's own number is one among those for `to`.
        let lane = lane.filter(|lane| matches!(lane.source, LaneSource::Partition(_)));
        let (session, hops) = (member.session, hops + 1);
        let partition = || Remote::Partition(PartitionId::split(session.slot).0);
        let way = Remote::of(session).or_else(|| session.durable.then(partition));
        let Some(remote) = way else {
            // Of this node, though not of the one that was meant.
            let delivery = shared_delivery(group, member, &mut message.draft());
            let lane = lane.filter(|_| session.durable);
            return self
                .send(session.shard, Kind::DeliverShared { session, delivery, lane, confirm });
        };
        let ticket = Some(Ticket::new(Arc::clone(group), Arc::clone(member)));
        let what = What::Member { name: Arc::clone(name), filter: Arc::clone(filter), hops };
        if message.qos == QoS::AtMostOnce {
            let mut source = Source::client(publisher);
            return self.cross(now, &mut message.draft(), remote, what, &mut source, ticket);
        }
        let message = Arc::clone(message);
        let crossing = Crossing {
            to: remote,
            what,
            message,
            publisher,
            lane,
            confirm,
            _ticket: ticket,
            sent_at: now,
        };
        self.keep_crossing(now, crossing);
    }

    /// Has what an errand brings to this node's own sessions taken once: whoever
    /// leads its partition next may send it again.
    pub(super) fn cross_here(&mut self, draft: &mut Draft<'_>, source: &Source, what: What) {
        let message = Arc::clone(draft.share());
        let to = Remote::Node(self.id.member());
        let shard = (message.origin % u64::from(self.node.shards)) as u16;
        let shard = ShardId::of(self.id.member(), shard);
        let lane = source.lane.map(|lane| self.lane_of(lane, &what));
        let publisher = source.publisher;
        let (confirm, after) = (None, 0);
        let cross = Cross { to, what, message, publisher, lane, confirm, after };
        self.send(shard, Kind::Cross(Box::new(cross)));
    }
}
