//! One message to all its subscribers: on this shard, on others, in steps.

use std::sync::Arc;

use tidegate_codec::{QoS, defect};

use super::Shard;
use super::receive::qos_of;
use crate::conn::pause;
use crate::counters::DropReason;
use crate::delivery::{Delivery, Ticket};
use crate::ids::{ConnRef, Millis, SessionKey, ShardId};
use crate::index::{Member, Route, ShareGroup, Targets};
use crate::limits::STEP_ITEMS_MAX;
use crate::mail::{Confirm, Kind};
use crate::message::{Draft, Message};
use crate::outgoing::SubscriptionIds;
use crate::partition::{Change, Partition};
use crate::transit::Origin;

/// Where a message comes from, and what its acknowledgement has to wait for.
pub(super) struct Source {
    pub(super) publisher: ConnRef,
    /// Set when the publisher wants to know.
    pub(super) confirm: Option<Confirm>,
    /// Confirmations that will come.
    pub(super) confirms: u16,
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
        Source { publisher, confirm: None, confirms: 0, matched: false, counted: true }
    }

    /// A client that is no more: its will.
    pub(super) fn will(shard: ShardId) -> Source {
        Source::client(ConnRef { shard, slot: u32::MAX, generation: 0 })
    }

    /// The broker itself.
    pub(super) fn own(shard: ShardId) -> Source {
        Source { counted: false, ..Source::will(shard) }
    }

    fn expect(&mut self) -> Option<Confirm> {
        self.confirms += u16::from(self.confirm.is_some());
        self.confirm
    }
}

/// A fan-out too long for one step.
#[derive(Debug)]
pub(super) struct Job {
    message: Arc<Message>,
    targets: Arc<Targets>,
    durable: bool,
    at: usize,
    publisher: ConnRef,
    confirm: Option<Confirm>,
    /// Whether the publisher waits for the end.
    report: bool,
    /// What its deliveries are timed by.
    origin: Option<Origin>,
}

impl Job {
    pub(super) fn new(
        message: Arc<Message>,
        targets: Arc<Targets>,
        durable: bool,
        publisher: ConnRef,
        confirm: Option<Confirm>,
        report: bool,
        origin: Option<Origin>,
    ) -> Job {
        Job { message, targets, durable, at: 0, publisher, confirm, report, origin }
    }
}

impl Shard {
    /// Hands a message to everybody who wants it.
    pub(super) fn distribute(&mut self, now: Millis, draft: &mut Draft<'_>, source: &mut Source) {
        if draft.retain && self.node.settings.retain_available {
            let clear = draft.payload.is_empty(); // [MQTT-3.3.1-6]
            let message = Arc::clone(draft.share());
            let to = self.node.retained_shard(draft.topic);
            let confirm = source.expect();
            self.send(to, Kind::Retain { message, clear, confirm });
            self.press(to, source.publisher);
        }
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
        for group in &route.groups {
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
            let deliver =
                Kind::Deliver { message, targets, durable, publisher, confirm, report: long };
            self.send(group.shard, deliver);
            if !here {
                self.press(group.shard, publisher);
            }
        }
        for group in &route.shares {
            self.share(now, group, draft, source);
        }
    }

    /// One member of a shared subscription gets the message [MQTT-4.8.2-3].
    fn share(
        &mut self,
        now: Millis,
        group: &Arc<ShareGroup>,
        draft: &mut Draft<'_>,
        source: &mut Source,
    ) {
        let Some(member) = group.pick(None) else { return };
        let member = Arc::clone(member);
        let confirm = if member.session.durable { source.expect() } else { None };
        let delivery = shared_delivery(group, &member, draft);
        let to = member.session.shard;
        if to == self.id && !member.session.durable {
            return self.deliver_shared(now, member.session, delivery, confirm);
        }
        self.send(to, Kind::DeliverShared { session: member.session, delivery, confirm });
        if to != self.id {
            self.press(to, source.publisher);
        }
    }

    /// A member has left with this message: another one gets it, as a new
    /// PUBLISH.
    pub(super) fn another_member(&mut self, now: Millis, delivery: Delivery) {
        let Some(ticket) = &delivery.ticket else { return };
        let left = ticket.member.session;
        let route = self.node.index.route(delivery.message.topic());
        let group = route.shares.iter().find(|group| {
            group.name() == ticket.group.name() && group.filter() == ticket.group.filter()
        });
        let Some(group) = group else {
            return self.counters().dropped(DropReason::SessionEnded, 1);
        };
        let Some(member) = group.pick(Some(left)).or_else(|| group.pick(None)) else {
            return self.counters().dropped(DropReason::SessionEnded, 1);
        };
        if member.session == left && !member.session.durable {
            return self.counters().dropped(DropReason::SessionEnded, 1);
        }
        let member = Arc::clone(member);
        let delivery = shared_delivery(group, &member, &mut delivery.message.draft());
        let _ = now;
        let to = member.session.shard;
        self.send(to, Kind::DeliverShared { session: member.session, delivery, confirm: None });
    }

    /// A message for one member that is on this shard.
    pub(super) fn deliver_shared(
        &mut self,
        now: Millis,
        session: SessionKey,
        delivery: Delivery,
        confirm: Option<Confirm>,
    ) {
        if session.durable {
            let (partition, _) = crate::ids::PartitionId::split(session.slot);
            let change = Change::EnqueueOne { session, delivery, confirm };
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
            let mut to = run.min(from + STEP_ITEMS_MAX);
            let mut partition = partition;
            // Short runs of several partitions make one step.
            loop {
                let last = to >= job.targets.len();
                let change = Change::Enqueue {
                    message: Arc::clone(&job.message),
                    targets: Arc::clone(&job.targets),
                    from,
                    to,
                    confirm: if last { job.confirm } else { None },
                };
                self.propose(now, partition, change);
                from = to;
                if last || from - job.at >= STEP_ITEMS_MAX {
                    break;
                }
                let (next, run) = Partition::run_end(&job.targets, from);
                partition = next;
                to = run.min(job.at + STEP_ITEMS_MAX);
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
    fn has_job(&self, publisher: ConnRef) -> bool {
        !self.jobs.is_empty() && self.jobs.iter().any(|job| job.publisher == publisher)
    }
}

fn shared_delivery(
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
        ticket: Some(Ticket::new(Arc::clone(group), Arc::clone(member))),
        message: Arc::clone(draft.share()),
    }
}
