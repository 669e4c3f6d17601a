//! One message to all its subscribers: on this shard, on others, in steps.

use std::sync::Arc;

use tidegate_codec::{QoS, defect};

use super::Shard;
use super::receive::qos_of;
use crate::conn::pause;
use crate::counters::DropReason;
use crate::delivery::{Delivery, Ticket};
use crate::ids::{ConnRef, Millis, PartitionId, SessionKey, ShardId};
use crate::index::{Member, Remote, Route, RouteGroup, ShareGroup, Targets};
use crate::limits::STEP_ITEMS_MAX;
use crate::mail::{Confirm, Kind, Lane, What, is_system, part};
use crate::message::{Draft, Message};
use crate::outgoing::SubscriptionIds;
use crate::partition::{Change, Partition, Recipients};
use crate::transit::Origin;

/// Where a message comes from, and what its acknowledgement has to wait for.
pub(super) struct Source {
    pub(super) publisher: ConnRef,
    /// Set when the publisher wants to know.
    pub(super) confirm: Option<Confirm>,
    /// Set for an errand.
    pub(super) lane: Option<Lane>,
    /// Confirmations that will come.
    pub(super) confirms: u16,
    /// Partitions that it has gone to from here, a bit each: one that this node
    /// is about to lead, or led until now, is found in two ways.
    pub(super) partitions: u64,
    /// Whether anybody wants the message.
    pub(super) matched: bool,
    /// Whether a message that nobody wants is one dropped. `$SYS` values, which
    /// seldom have a subscriber, would else drown what clients lose.
    pub(super) counted: bool,
}

impl Source {
    /// A connected client.
    #[inline]
    pub(super) fn client(publisher: ConnRef) -> Source {
        let (confirm, lane) = (None, None);
        let (confirms, partitions, matched) = (0, 0, false);
        Source { publisher, confirm, lane, confirms, partitions, matched, counted: true }
    }

    /// A client that is no more: its will.
    pub(super) fn will(shard: ShardId) -> Source {
        Source::client(ConnRef { shard, slot: u32::MAX, generation: 0 })
    }

    /// A partition that has to see the message delivered.
    pub(super) fn errand(confirm: Confirm, lane: Option<Lane>) -> Source {
        Source { confirm: Some(confirm), lane, ..Source::client(confirm.conn) }
    }

    /// The broker itself.
    pub(super) fn own(shard: ShardId) -> Source {
        Source { counted: false, ..Source::will(shard) }
    }

    pub(super) fn expect(&mut self) -> Option<Confirm> {
        self.confirms += u16::from(self.confirm.is_some());
        self.confirm
    }
}

/// A fan-out too long for one step.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) message: Arc<Message>,
    pub(super) targets: Arc<Targets>,
    pub(super) durable: bool,
    pub(super) at: usize,
    pub(super) publisher: ConnRef,
    pub(super) lane: Option<Lane>,
    /// Shared by its records: the last that is applied confirms. One of a
    /// partition that is writing its state is not the last to be proposed.
    pub(super) confirm: Option<Arc<Confirm>>,
    /// Whether the publisher waits for the end.
    pub(super) report: bool,
    /// What its deliveries are timed by.
    pub(super) origin: Option<Origin>,
}

impl Shard {
    /// Hands a message to everybody who wants it.
    pub(super) fn distribute(&mut self, now: Millis, draft: &mut Draft<'_>, source: &mut Source) {
        if draft.retain && self.node.settings.retain_available {
            let clear = draft.payload.is_empty(); // [MQTT-3.3.1-6]
            let keeper = self.node.retained_partition(draft.topic);
            let there = Remote::Partition(keeper);
            if draft.qos > QoS::AtMostOnce && !self.node.is_alone() && !is_system(draft.topic) {
                self.cross(now, draft, there, What::Retain { clear }, source, None);
                self.press_home(keeper, source.publisher);
                return self.distribute_live(now, draft, source);
            }
            let message = Arc::clone(draft.share());
            let confirm = source.expect();
            let lane = source.lane.map(|lane| Lane { part: part::RETAIN, ..lane });
            let kind = Kind::Retain { message, clear, lane, confirm };
            if is_system(draft.topic) {
                self.send(self.node.place(keeper), kind);
            } else {
                self.send_home(keeper, kind);
                self.press_home(keeper, source.publisher);
            }
        }
        self.distribute_live(now, draft, source);
    }

    /// The same, when it was seen to that it is retained.
    fn distribute_live(&mut self, now: Millis, draft: &mut Draft<'_>, source: &mut Source) {
        if draft.expires <= now && !defect::on("5:3.3.2-5") {
            self.counters().dropped(DropReason::Expired, 1);
            return;
        }
        // The cache is lent out for the time of this publish, so that its route
        // needs no counted reference. A message that finds it gone (that of a
        // member who has left) looks its route up itself.
        let Some(mut routes) = self.routes.take() else {
            let route = self.node.index.route(draft.topic);
            return self.follow(now, &route, draft, source);
        };
        let route = routes.route(&self.node.index, draft.topic);
        self.follow(now, route, draft, source);
        self.routes = Some(routes);
    }

    #[inline]
    fn follow(&mut self, now: Millis, route: &Route, draft: &mut Draft<'_>, source: &mut Source) {
        if route.is_empty() {
            self.counters().dropped(DropReason::NoSubscriber, source.counted.into());
            return;
        }
        source.matched = true;
        let mut errand_here = false;
        for group in &route.groups {
            if group.shard.member() != self.id.member() {
                self.follow_elsewhere(now, group, draft, source);
                continue;
            }
            if !self.node.is_alone() {
                match group.durable {
                    true if message_qos(draft) => {
                        self.follow_partitions(now, group, draft, source);
                        continue;
                    }
                    false if source.lane.is_some() => {
                        errand_here = true;
                        continue;
                    }
                    true | false => {}
                }
            }
            let long = group.targets.len() > STEP_ITEMS_MAX;
            let here = group.shard == self.id;
            if here && !group.durable && !long && !self.has_job(source.publisher) {
                for target in group.targets.iter() {
                    self.deliver_live(now, target, group.targets.ids(target), draft);
                }
                continue;
            }
            let durable = group.durable;
            let confirm = if durable { source.expect() } else { None };
            let message = Arc::clone(draft.share());
            let publisher = source.publisher;
            let targets = Arc::clone(&group.targets);
            if long {
                self.wait_for_job(publisher);
            }
            let (lane, report) = (source.lane, long);
            self.send(
                group.shard,
                Kind::Deliver { message, targets, durable, publisher, lane, confirm, report },
            );
            if durable && message_qos(draft) {
                self.press_journal(group.shard, publisher);
                self.press_partitions(&group.targets, publisher);
            }
            if !here {
                self.press(group.shard, publisher);
            }
        }
        if errand_here {
            self.cross_here(draft, source, What::Everybody);
        }
        for group in &route.shares {
            self.share(now, group, draft, source);
        }
    }

    /// Others that want the message: nodes, and partitions that are led elsewhere.
    #[cold]
    fn follow_elsewhere(
        &mut self,
        now: Millis,
        group: &RouteGroup,
        draft: &mut Draft<'_>,
        source: &mut Source,
    ) {
        for target in group.targets.iter() {
            let (shard, durable) = (group.shard, group.durable);
            let (slot, generation) = (target.slot, target.generation);
            let remote = Remote::of(SessionKey { shard, durable, slot, generation });
            if let Some(remote) = remote.filter(|&remote| self.is_elsewhere(remote)) {
                self.cross_once(now, draft, remote, source);
            }
        }
    }

    /// Durable sessions of this node, in a cluster: who leads their partitions may
    /// change before the message is committed, so it is kept until it is.
    fn follow_partitions(
        &mut self,
        now: Millis,
        group: &RouteGroup,
        draft: &mut Draft<'_>,
        source: &mut Source,
    ) {
        let targets = &group.targets;
        let mut at = 0;
        while let Some(target) = targets.get(at) {
            let (partition, _) = PartitionId::split(target.slot);
            let to = Remote::Partition(partition);
            self.cross_once(now, draft, to, source);
            at = targets.end_of(partition);
        }
        self.press_partitions(targets, source.publisher);
    }

    fn cross_once(&mut self, now: Millis, draft: &mut Draft<'_>, to: Remote, source: &mut Source) {
        if let Remote::Partition(partition) = to {
            if source.partitions & partition.bit() != 0 {
                return;
            }
            source.partitions |= partition.bit();
        }
        self.cross(now, draft, to, What::Everybody, source, None);
    }

    /// Where a message for this member of a share group has to be sent, if it is
    /// one that waits until it is there.
    fn way_of_share(&self, member: &Member, draft: &Draft<'_>) -> Option<Remote> {
        let session = member.session;
        let partition = || Remote::Partition(PartitionId::split(session.slot).0);
        let kept = session.durable && message_qos(draft) && !self.node.is_alone();
        Remote::of(session).or_else(|| kept.then(partition))
    }

    /// A member of a share group that a message may go to from here.
    fn pick<'g>(&self, group: &'g ShareGroup) -> Option<&'g Arc<Member>> {
        if self.node.is_alone() {
            return group.pick(None);
        }
        group.pick_where(|member| self.is_reachable(member.session))
    }

    /// The same, of a message from `source`. An errand that comes again, from
    /// whoever leads its partition next, goes where it went before.
    fn pick_for<'g>(&self, group: &'g ShareGroup, source: &Source) -> Option<&'g Arc<Member>> {
        let Some(lane) = source.lane.filter(|_| !self.node.is_alone()) else {
            return self.pick(group);
        };
        let weight = |member: &Member| {
            let session = member.session;
            let (kind, number) = match (Remote::of(session), session.durable) {
                (Some(Remote::Partition(partition)), _) => (0, u64::from(partition.0)),
                (Some(Remote::Node(node)), _) => (1, u64::from(node.0)),
                (None, true) => (0, u64::from(PartitionId::split(session.slot).0.0)),
                (None, false) => (1, u64::from(self.id.member().0)),
            };
            mixed(mixed(lane.number ^ kind << 63) ^ number)
        };
        group.pick_heaviest(|member| self.is_reachable(member.session).then(|| weight(member)))
    }

    /// Sends a message to another node, for a member of a share group there.
    fn share_elsewhere(
        &mut self,
        now: Millis,
        group: &Arc<ShareGroup>,
        member: &Arc<Member>,
        remote: Remote,
        draft: &mut Draft<'_>,
        source: &mut Source,
    ) {
        let ticket = Some(Ticket::new(Arc::clone(group), Arc::clone(member)));
        self.cross(now, draft, remote, what_of(group), source, ticket);
    }

    /// Whether what goes to this member may come again from whoever leads its
    /// errand's partition next, and the member's session cannot tell.
    fn comes_again(&self, member: &Member, source: &Source) -> bool {
        source.lane.is_some() && !member.session.durable && !self.node.is_alone()
    }

    /// One member of a shared subscription gets the message [MQTT-4.8.2-3].
    fn share(
        &mut self,
        now: Millis,
        group: &Arc<ShareGroup>,
        draft: &mut Draft<'_>,
        source: &mut Source,
    ) {
        let Some(member) = self.pick_for(group, source) else { return };
        let member = Arc::clone(member);
        let session = member.session;
        if let Some(remote) = self.way_of_share(&member, draft) {
            return self.share_elsewhere(now, group, &member, remote, draft, source);
        }
        if self.comes_again(&member, source) {
            return self.cross_here(draft, source, what_of(group));
        }
        let confirm = if session.durable { source.expect() } else { None };
        let delivery = shared_delivery(group, &member, draft);
        let to = session.shard;
        let lane = source.lane.map(|lane| {
            let hash = self.node.share_hash(group.name(), group.filter());
            Lane { part: part::share(hash), ..lane }
        });
        if to == self.id && !session.durable {
            return self.deliver_shared(now, session, delivery, lane, confirm);
        }
        self.send(to, Kind::DeliverShared { session, delivery, lane, confirm });
        if to != self.id {
            self.press(to, source.publisher);
        }
    }

    /// A member has left with this message: another one gets it, as a new
    /// PUBLISH.
    pub(super) fn another_member(&mut self, now: Millis, delivery: Delivery) {
        let Some(ticket) = &delivery.ticket else { return };
        let group = &ticket.group;
        let mut source = Source::own(self.id);
        self.give_a_member(now, &delivery.message, group.name(), group.filter(), &mut source);
    }

    /// A message for any member of a share group.
    pub(super) fn give_a_member(
        &mut self,
        now: Millis,
        message: &Arc<Message>,
        name: &str,
        filter: &str,
        source: &mut Source,
    ) {
        let route = self.node.index.route(message.topic());
        let group = route.shares.iter().find(|g| g.name() == name && &**g.filter() == filter);
        // Who has left is no member any more, or is picked last: it is offline.
        let Some((group, member)) = group.and_then(|group| Some((group, self.pick(group)?))) else {
            return self.counters().dropped(DropReason::SessionEnded, 1);
        };
        let member = Arc::clone(member);
        let session = member.session;
        let mut draft = message.draft();
        if let Some(remote) = self.way_of_share(&member, &draft) {
            return self.share_elsewhere(now, group, &member, remote, &mut draft, source);
        }
        if self.comes_again(&member, source) {
            return self.cross_here(&mut draft, source, what_of(group));
        }
        let delivery = shared_delivery(group, &member, &mut draft);
        let confirm = if session.durable { source.expect() } else { None };
        let lane = source.lane;
        self.send(session.shard, Kind::DeliverShared { session, delivery, lane, confirm });
    }

    /// A message for one member that is on this shard.
    pub(super) fn deliver_shared(
        &mut self,
        now: Millis,
        session: SessionKey,
        delivery: Delivery,
        lane: Option<Lane>,
        confirm: Option<Confirm>,
    ) {
        if session.durable {
            let (partition, _) = crate::ids::PartitionId::split(session.slot);
            let change = Change::EnqueueOne { session, delivery, lane, confirm };
            return self.propose(now, partition, change);
        }
        let live = self.conns.at(session.slot).is_some_and(|conn| {
            conn.generation == session.generation && conn.phase == crate::conn::Phase::Live
        });
        if live {
            self.deliver_one(now, session.slot, delivery);
        } else {
            self.another_member(now, delivery);
        }
        self.confirm(confirm);
    }

    /// Tells a publisher that its message is where it must be.
    pub(super) fn confirm(&mut self, confirm: Option<Confirm>) {
        if let Some(confirm) = confirm {
            self.send(confirm.conn.shard, Kind::Confirmed(confirm));
        }
    }

    /// Begins a fan-out, and finishes it if it is short and nothing of the same
    /// publisher is in front of it (ORD-1).
    pub(super) fn fan_out(&mut self, now: Millis, mut job: Job) {
        if self.has_job(job.publisher) || job.targets.len() > STEP_ITEMS_MAX {
            self.jobs.push_back(job);
            return;
        }
        self.advance(now, &mut job);
        self.finish(&job);
    }

    /// One step of the job in front, which then goes to the back; jobs of one
    /// publisher stay in their order.
    pub(super) fn step(&mut self, now: Millis) {
        let Some(mut job) = self.jobs.pop_front() else { return };
        self.transit.enter(job.origin);
        self.advance(now, &mut job);
        if job.at >= job.targets.len() {
            return self.finish(&job);
        }
        let same = |other: &Job| other.publisher == job.publisher;
        if self.jobs.iter().any(same) {
            self.jobs.push_front(job);
            // Let others have their turn, behind the last of this publisher.
            let other = self.jobs.iter().position(|o| o.publisher != self.jobs[0].publisher);
            if let Some(job) = other.and_then(|at| self.jobs.remove(at)) {
                self.jobs.push_front(job);
            }
        } else {
            self.jobs.push_back(job);
        }
    }

    fn advance(&mut self, now: Millis, job: &mut Job) {
        if job.durable {
            let (partition, run) = Partition::run_end(&job.targets, job.at);
            let mut from = job.at;
            // An errand's number is good for one record a partition.
            let most = if job.lane.is_some() { usize::MAX } else { STEP_ITEMS_MAX };
            let mut to = run.min(from.saturating_add(most));
            let mut partition = partition;
            // Short runs of several partitions make one step.
            loop {
                let last = to >= job.targets.len();
                let change = Change::Enqueue {
                    message: Arc::clone(&job.message),
                    to: Recipients::Run { targets: Arc::clone(&job.targets), from, to },
                    lane: job.lane,
                    confirm: if last { job.confirm.take() } else { job.confirm.clone() },
                };
                self.propose(now, partition, change);
                from = to;
                if last || from - job.at >= STEP_ITEMS_MAX {
                    break;
                }
                let (next, run) = Partition::run_end(&job.targets, from);
                partition = next;
                to = run.min(job.at.saturating_add(most));
            }
            job.at = from;
            return;
        }
        let message = Arc::clone(&job.message);
        let targets = Arc::clone(&job.targets);
        let mut draft = message.draft();
        for target in targets.iter_from(job.at).take(STEP_ITEMS_MAX) {
            self.deliver_live(now, target, targets.ids(target), &mut draft);
        }
        job.at += STEP_ITEMS_MAX;
    }

    fn finish(&mut self, job: &Job) {
        if job.report {
            let conn = job.publisher;
            self.send(conn.shard, Kind::JobDone { conn });
        }
    }

    /// The publisher is not read until the fan-out has ended.
    fn wait_for_job(&mut self, publisher: ConnRef) {
        if publisher.shard == self.id
            && let Some(conn) = self.conn(publisher)
        {
            conn.pause |= pause::JOB;
            conn.active().jobs += 1;
        }
    }

    pub(super) fn job_done(&mut self, at: ConnRef) {
        let Some(conn) = self.conn(at) else { return };
        let Some(active) = &mut conn.active else { return };
        active.jobs = active.jobs.saturating_sub(1);
        if active.jobs == 0 {
            self.unpause(at.slot, pause::JOB);
        }
    }

    #[inline]
    pub(super) fn has_job(&self, publisher: ConnRef) -> bool {
        !self.jobs.is_empty() && self.jobs.iter().any(|job| job.publisher == publisher)
    }
}

/// SplitMix64's finish: the same at every node.
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A message for one member of a share group, whoever it is.
fn what_of(group: &ShareGroup) -> What {
    What::Member { name: group.name().into(), filter: Arc::clone(group.filter()), hops: 0 }
}

/// Whether a durable target has to keep it.
fn message_qos(draft: &Draft<'_>) -> bool {
    draft.qos > QoS::AtMostOnce
}

pub(super) fn shared_delivery(
    group: &Arc<ShareGroup>,
    member: &Arc<Member>,
    draft: &mut Draft<'_>,
) -> Delivery {
    let qos: QoS = draft.qos.min(qos_of(member.options.qos()));
    Delivery {
        qos,
        retain: draft.retain && member.options.retain_as_published(),
        ids: match member.subscription_id {
            0 => SubscriptionIds::None,
            id => SubscriptionIds::One(id),
        },
        position: None,
        ticket: Some(Ticket::new(Arc::clone(group), Arc::clone(member))),
        message: Arc::clone(draft.share()),
    }
}
