//! Messages: when each is due, who sends it, and what came of it.
//!
//! The loop is open: the schedule says when a message is due, and neither a
//! slow broker nor a full window moves that time. A publisher that may not send
//! owes, and what it owes keeps its due time. With rate 0 the loop is closed:
//! a publisher sends whenever its window has room.

use std::collections::{HashMap, HashSet};

use tidegate_codec::{PacketType, QoS};
use tidegate_loadtest::identity::Identity;
use tidegate_loadtest::latency::Recorder;
use tidegate_loadtest::ledger::{Arrival, Expectation, Ledger};
use tidegate_loadtest::outcome::Latency;

use crate::engine::clock::{self, MILLISECOND, SECOND};
use crate::engine::{Heard, Net, Said};
use crate::scenario::audience::Audience;
use crate::scenario::fleet::{Change, Fleet};
use crate::scenario::plan::{Plan, Role, Scenario};
use crate::scenario::publisher::{Acknowledged, Press, Publisher, REFUSED};
use crate::scenario::tally::Tally;

/// Messages sent in one step; then the sockets have their turn.
const SENDS_A_STEP: usize = 2_048;
/// A socket with that much unsent takes no more for now.
const UNSENT_BYTES_MAX: usize = 256 * 1024;

/// Publishers that take turns.
#[derive(Debug)]
struct Schedule {
    publishers: Vec<u32>,
    /// When the first message is due, and the time between two.
    start: u64,
    interval: f64,
    /// Messages that came due.
    scheduled: u64,
}

impl Schedule {
    fn due(&self, number: u64) -> u64 {
        self.start + (number as f64 * self.interval) as u64
    }
}

/// The publishers and subscribers of a worker.
pub(crate) struct Traffic {
    plan: Plan,
    publishers: Vec<Publisher>,
    schedules: Vec<Schedule>,
    /// The publisher of a client, by the client's slot; `u32::MAX` for none.
    by_client: Vec<u32>,
    /// The local publisher of a pair's subscriber, for closed loops at QoS 0.
    by_number: Vec<u32>,
    closed: bool,
    press: Press,
    /// When messages begin and end.
    start: u64,
    stop: u64,
    /// Absences are excused by the times of publishes.
    timed: bool,
    /// Nothing new is published any more.
    over: bool,
    lagging: Vec<u32>,
    /// Packet ids at QoS 2 that durable subscribers have answered and that were not released:
    /// what comes again under these was delivered.
    received: HashMap<u32, HashSet<u16>>,
    /// What was published, acknowledged and delivered.
    pub(crate) ledger: Ledger,
    /// From due to delivery, up to the last tick.
    latency: Recorder,
    /// The same since then.
    pub(crate) latency_fresh: Recorder,
    /// From due to the last acknowledgement.
    pub(crate) ack_latency: Recorder,
    /// From due to the socket, of publishers that were free to send.
    pub(crate) lateness: Recorder,
}

impl Traffic {
    /// Nothing is due yet.
    pub(crate) fn new(plan: &Plan, fleet: &Fleet) -> Self {
        let mut ledger = Ledger::new(plan.run);
        let mut publishers = Vec::new();
        let mut by_client = vec![u32::MAX; fleet.len() as usize];
        let mut by_number = vec![u32::MAX; plan.publishers as usize];
        let flows = plan.scenario != Scenario::Retained;
        for client in 0..fleet.len() {
            let role = fleet.role(client);
            let Some(number) = plan.publisher(role).filter(|_| flows) else { continue };
            by_client[client as usize] = publishers.len() as u32;
            if let Some(at) = by_number.get_mut(number as usize) {
                *at = publishers.len() as u32;
            }
            let stream = ledger.stream(number, plan.message(number).0);
            let mut publisher = Publisher::new(plan, number, client, stream);
            publisher.durable = plan.session_s(role).is_some();
            publishers.push(publisher);
        }
        let copies = expect(&mut ledger, plan, fleet);
        for publisher in &mut publishers {
            publisher.copies += copies.get(&publisher.number).copied().unwrap_or(0);
        }
        let schedules = schedules(plan, &mut publishers);
        let most = publishers.iter().map(|publisher| publisher.payload_bytes).max();
        Self {
            press: Press {
                run: plan.run,
                epoch: 0,
                payload: vec![b'.'; most.unwrap_or(0) as usize],
            },
            plan: plan.clone(),
            timed: plan.excuses(),
            publishers,
            schedules,
            by_client,
            by_number,
            closed: plan.rate == 0.0 && plan.scenario != Scenario::Mixed,
            start: u64::MAX,
            stop: 0,
            over: false,
            lagging: Vec::new(),
            received: HashMap::new(),
            ledger,
            latency: Recorder::default(),
            latency_fresh: Recorder::default(),
            ack_latency: Recorder::default(),
            lateness: Recorder::default(),
        }
    }

    /// Messages are due from `start` on; worker by worker, their schedules interleave.
    pub(crate) fn begin(&mut self, epoch: u64, start: u64, worker: u32, workers: u32) {
        for schedule in &mut self.schedules {
            let shift = schedule.interval * f64::from(worker) / f64::from(workers.max(1));
            schedule.start = start + if shift.is_finite() { shift as u64 } else { 0 };
        }
        self.press.epoch = epoch;
        self.start = start;
        self.stop = start + self.plan.duration_ms * MILLISECOND;
        if self.closed {
            for index in 0..self.publishers.len() as u32 {
                self.lag(index);
            }
        }
    }

    /// Nothing is due any more from now on.
    pub(crate) fn end(&mut self, now: u64) {
        self.stop = self.stop.min(now);
    }

    /// When the last message is due.
    pub(crate) fn stop(&self) -> u64 {
        self.stop
    }

    /// Latencies from due to delivery since the last call.
    pub(crate) fn fresh_latency(&mut self) -> Latency {
        let fresh = self.latency_fresh.save();
        self.latency.merge(&self.latency_fresh);
        self.latency_fresh.clear();
        fresh
    }

    /// All of them; for the end.
    pub(crate) fn all_latency(&mut self) -> Latency {
        self.fresh_latency();
        self.latency.save()
    }

    /// Sends what is due; says when it wants to be called again.
    pub(crate) fn step(&mut self, net: &mut Net, now: u64, tally: &mut Tally) -> u64 {
        self.over = self.stop != 0 && now >= self.stop;
        if self.publishers.is_empty() {
            return u64::MAX;
        }
        if self.start > now {
            return self.start;
        }
        let mut sends = SENDS_A_STEP;
        let waiting = std::mem::take(&mut self.lagging);
        for index in waiting {
            self.publishers[index as usize].lagging = false;
            self.pump(net, index, &mut sends, true, tally);
        }
        if self.closed {
            return if sends == 0 { now } else { u64::MAX };
        }
        let mut next = u64::MAX;
        for at in 0..self.schedules.len() {
            next = next.min(self.come_due(net, at, now, &mut sends, tally));
        }
        if sends == 0 { now } else { next }
    }

    /// What a schedule has for now; says when it has more.
    fn come_due(
        &mut self,
        net: &mut Net,
        at: usize,
        now: u64,
        sends: &mut usize,
        tally: &mut Tally,
    ) -> u64 {
        while *sends > 0 {
            let schedule = &mut self.schedules[at];
            let due = schedule.due(schedule.scheduled);
            if due >= self.stop {
                return u64::MAX;
            }
            if due > now {
                return due;
            }
            let count = schedule.publishers.len() as u64;
            let index = schedule.publishers[(schedule.scheduled % count) as usize];
            schedule.scheduled += 1;
            let publisher = &mut self.publishers[index as usize];
            if publisher.left && publisher.owed == 0 {
                publisher.turn += 1;
                continue;
            }
            publisher.owed += 1;
            tally.owed += 1;
            self.pump(net, index, sends, false, tally);
        }
        now
    }

    fn lag(&mut self, index: u32) {
        let publisher = &mut self.publishers[index as usize];
        if !publisher.lagging {
            publisher.lagging = true;
            self.lagging.push(index);
        }
    }

    /// Sends what a publisher owes, as far as it may.
    fn pump(
        &mut self,
        net: &mut Net,
        index: u32,
        sends: &mut usize,
        held: bool,
        tally: &mut Tally,
    ) {
        loop {
            let publisher = &mut self.publishers[index as usize];
            let again = publisher.repeats();
            // What came due in time is sent, however late it is looked at.
            let fresh = (publisher.owed > 0 || self.closed) && !(self.over && held);
            if !fresh && !again {
                return;
            }
            let free = publisher.free();
            if !free || *sends == 0 || net.unsent(publisher.client) >= UNSENT_BYTES_MAX {
                // A full window and a lost connection end with news; a full socket does not.
                if free {
                    self.lag(index);
                }
                return;
            }
            *sends -= 1;
            match again {
                true => {
                    let Self { plan, press, ledger, .. } = self;
                    publisher.send_again(net, plan, press, ledger, tally);
                }
                false => self.send(net, index, held, tally),
            }
        }
    }

    fn send(&mut self, net: &mut Net, index: u32, held: bool, tally: &mut Tally) {
        let publisher = &mut self.publishers[index as usize];
        let now = if self.closed { net.heard_at().max(self.start) } else { clock::now() };
        let due = match self.closed {
            true => now,
            false => {
                // This publisher's turns are its place, and every `count` after that.
                let schedule = &self.schedules[usize::from(publisher.schedule)];
                let count = schedule.publishers.len() as u64;
                schedule.due(publisher.turn * count + u64::from(publisher.place))
            }
        };
        publisher.turn += 1;
        if !held && !self.closed {
            self.lateness.record(due, now);
        }
        let sequence = match self.timed {
            true => self.ledger.publish_at(publisher.stream, now),
            false => self.ledger.publish(publisher.stream),
        };
        publisher.sequence = sequence + 1;
        publisher.send(net, &self.plan, &mut self.press, due);
        if self.closed && publisher.qos == QoS::AtMostOnce {
            match self.plan.scenario {
                // The delivery to the pair makes room.
                Scenario::Pairs => publisher.unacknowledged += 1,
                _ => publisher.ping(net, tally),
            }
        }
        if !self.closed {
            publisher.owed -= 1;
            tally.owed -= 1;
        }
        tally.published += 1;
        tally.awaited += u64::from(publisher.qos != QoS::AtMostOnce);
        tally.expected += publisher.copies;
    }

    /// A client came or went.
    pub(crate) fn changed(
        &mut self,
        fleet: &Fleet,
        client: u32,
        change: &Change,
        tally: &mut Tally,
    ) {
        let role = fleet.role(client);
        let durable = self.plan.session_s(role).is_some();
        if matches!(change, Change::Up { again: true, resumed: false, .. }) && durable {
            self.ledger.forget();
        }
        if let Some(number) = self.plan.receiver(role) {
            match change {
                Change::Up { resumed: false, .. } => {
                    self.received.remove(&client);
                    if !durable {
                        self.ledger.present(number, clock::now());
                    }
                }
                Change::Down | Change::Left => {
                    self.ledger.cut_off(number);
                    if !durable {
                        self.ledger.absent(number);
                    }
                }
                Change::Up { resumed: true, .. } | Change::Same => {}
            }
        }
        let index = self.by_client[client as usize];
        let Some(publisher) = self.publishers.get_mut(index as usize) else { return };
        match change {
            Change::Up { receive_maximum, resumed, again: _ } => {
                let window = self.plan.window.min(u32::from(*receive_maximum));
                publisher.came(window, *resumed, tally);
                let waits = publisher.owed > 0 || self.closed || publisher.repeats();
                if self.start != u64::MAX && waits {
                    self.lag(index);
                }
            }
            Change::Down => publisher.went(false, tally),
            Change::Left => publisher.went(true, tally),
            Change::Same => {}
        }
    }

    /// Takes in what is not the fleet's business. Answers go to the slot that it came from.
    pub(crate) fn told(
        &mut self,
        net: &mut Net,
        fleet: &Fleet,
        (slot, client): (u32, u32),
        packet: &Heard<'_>,
        tally: &mut Tally,
    ) {
        match packet {
            Heard::Publish { qos, packet_id, payload, retain: _ } => {
                let known = *qos == QoS::ExactlyOnce
                    && self.plan.session_s(fleet.role(client)).is_some()
                    && !self.received.entry(client).or_default().insert(*packet_id);
                if !known {
                    self.delivered(fleet, client, payload, net.heard_at(), tally);
                }
                let kind = match qos {
                    QoS::AtMostOnce => return,
                    QoS::AtLeastOnce => PacketType::Puback,
                    QoS::ExactlyOnce => PacketType::Pubrec,
                };
                net.say(slot, &Said::Ack { kind, packet_id: *packet_id });
            }
            Heard::Ack { kind: PacketType::Pubrel, packet_id, reason: _ } => {
                if let Some(received) = self.received.get_mut(&client) {
                    received.remove(packet_id);
                }
                net.say(slot, &Said::Ack { kind: PacketType::Pubcomp, packet_id: *packet_id });
            }
            Heard::Ack { kind, packet_id, reason } => {
                let now = net.heard_at();
                self.acknowledged(client, *kind, *packet_id, *reason, now, tally);
                if *kind == PacketType::Pubrec && *reason < REFUSED {
                    let kind = PacketType::Pubrel;
                    net.say(slot, &Said::Ack { kind, packet_id: *packet_id });
                }
            }
            Heard::Pingresp => {
                let index = self.by_client[client as usize];
                if let Some(publisher) = self.publishers.get_mut(index as usize)
                    && publisher.pong()
                {
                    self.lag(index);
                }
            }
            Heard::Connack { .. }
            | Heard::Suback { .. }
            | Heard::Unsuback { .. }
            | Heard::Disconnect { .. }
            | Heard::Unasked => {}
        }
    }

    fn delivered(
        &mut self,
        fleet: &Fleet,
        client: u32,
        payload: &[u8],
        now: u64,
        tally: &mut Tally,
    ) {
        let Some(number) = self.plan.receiver(fleet.role(client)) else {
            tally.error("delivered to a client without a subscription");
            return;
        };
        tally.delivered += 1;
        let identity = Identity::decode(payload);
        let arrival = self.ledger.deliver(number, &identity);
        if let (Ok(identity), Arrival::First | Arrival::Late) = (identity, arrival) {
            tally.arrived += 1;
            let due = self.press.epoch + identity.due_ns;
            self.latency_fresh.record(due, now);
            self.credit(&identity);
        }
    }

    /// At QoS 0 the delivery of a pair makes room in a closed loop.
    fn credit(&mut self, identity: &Identity) {
        if !self.closed || identity.qos != QoS::AtMostOnce || self.plan.scenario != Scenario::Pairs
        {
            return;
        }
        let index = self.by_number.get(identity.publisher as usize).copied();
        if let Some(index) = index
            && let Some(publisher) = self.publishers.get_mut(index as usize)
        {
            publisher.unacknowledged = publisher.unacknowledged.saturating_sub(1);
            self.lag(index);
        }
    }

    fn acknowledged(
        &mut self,
        client: u32,
        kind: PacketType,
        packet_id: u16,
        reason: u8,
        now: u64,
        tally: &mut Tally,
    ) {
        let index = self.by_client[client as usize];
        let Some(publisher) = self.publishers.get_mut(index as usize) else {
            tally.error("acknowledged to a client that published nothing");
            return;
        };
        match publisher.acknowledged(&mut self.ledger, kind, packet_id, reason) {
            Acknowledged::Released => return,
            Acknowledged::Unknown => {
                tally.error("acknowledged a packet id that was not in flight");
                return;
            }
            Acknowledged::Refused => {
                tally.given_up += 1;
                tally.error(&format!("acknowledged with {reason:#04x}"));
            }
            Acknowledged::Done(due) => {
                tally.acknowledged += 1;
                self.ack_latency.record(due, now);
            }
        }
        if self.closed || publisher.owed > 0 || publisher.repeats() {
            self.lag(index);
        }
    }
}

/// One for all, or in a mixed fleet one a class.
fn schedules(plan: &Plan, publishers: &mut [Publisher]) -> Vec<Schedule> {
    let mut all: Vec<Schedule> = Vec::new();
    let mut of_class: HashMap<u32, u16> = HashMap::new();
    let here = publishers.len();
    for (index, publisher) in publishers.iter_mut().enumerate() {
        let (key, rate) = match plan.scenario {
            Scenario::Mixed => {
                let class = plan.class(publisher.number);
                (class.first, class.publish.as_ref().map_or(0.0, |publish| publish.rate))
            }
            _ => (0, plan.rate * here as f64 / f64::from(plan.publishers.max(1))),
        };
        let at = *of_class.entry(key).or_insert_with(|| {
            let interval = if rate > 0.0 { SECOND as f64 / rate } else { f64::INFINITY };
            let publishers = Vec::new();
            all.push(Schedule { publishers, start: u64::MAX, interval, scheduled: 0 });
            (all.len() - 1) as u16
        });
        let schedule = &mut all[usize::from(at)];
        (publisher.schedule, publisher.place) = (at, schedule.publishers.len() as u32);
        schedule.publishers.push(index as u32);
    }
    if plan.scenario == Scenario::Mixed {
        // A class's rate is a device's; what is between two messages, that of all here.
        for schedule in &mut all {
            schedule.interval /= schedule.publishers.len() as f64;
        }
    }
    all
}

/// Enters what the subscribers of this worker are promised. For a mixed fleet, says how many
/// deliveries a message of each publisher makes; a group takes one.
fn expect(ledger: &mut Ledger, plan: &Plan, fleet: &Fleet) -> HashMap<u32, u64> {
    if plan.scenario == Scenario::Mixed {
        return expect_of_filters(ledger, plan, fleet);
    }
    let here: HashSet<u32> =
        (0..fleet.len()).filter_map(|client| plan.receiver(fleet.role(client))).collect();
    for publisher in 0..plan.publishers {
        for receiver in plan.subscribers_of(publisher) {
            if here.contains(&receiver) {
                let (published, granted) = (plan.quality(), plan.quality());
                let group = plan.group(Role::Subscriber(receiver));
                let (ordered, from) = (group.is_none(), 0);
                let expectation =
                    Expectation { receiver, publisher, published, granted, ordered, from };
                ledger.expect(&expectation);
                if let Some(group) = group {
                    ledger.join(receiver, group);
                }
            }
        }
    }
    HashMap::new()
}

fn expect_of_filters(ledger: &mut Ledger, plan: &Plan, fleet: &Fleet) -> HashMap<u32, u64> {
    let here: HashSet<u32> =
        (0..fleet.len()).filter_map(|client| plan.receiver(fleet.role(client))).collect();
    let mut audience = Audience::default();
    let mut groups: HashMap<String, u32> = HashMap::new();
    let mut group_of: HashMap<u32, u32> = HashMap::new();
    for role in plan.roles(0, 1) {
        let Some(receiver) = plan.receiver(role) else { continue };
        for filter in plan.filters(role) {
            match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
                Some((_, shared)) => {
                    audience.add(shared, receiver);
                    let next = groups.len() as u32;
                    group_of.insert(receiver, *groups.entry(filter.clone()).or_insert(next));
                }
                None => audience.add(&filter, receiver),
            }
        }
    }
    let mut copies = HashMap::new();
    for role in plan.roles(0, 1) {
        let Some(publisher) = plan.publisher(role) else { continue };
        let receivers = audience.of(&plan.topic(publisher, 0));
        let groups: HashSet<u32> =
            receivers.iter().filter_map(|receiver| group_of.get(receiver).copied()).collect();
        let alone = receivers.iter().filter(|receiver| !group_of.contains_key(receiver)).count();
        copies.insert(publisher, (alone + groups.len()) as u64);
        for receiver in receivers.into_iter().filter(|receiver| here.contains(receiver)) {
            let group = group_of.get(&receiver).copied();
            ledger.expect(&Expectation {
                receiver,
                publisher,
                published: plan.message(publisher).0,
                granted: plan.granted(Role::Device(receiver)),
                ordered: group.is_none(),
                from: 0,
            });
            if let Some(group) = group {
                ledger.join(receiver, group);
            }
        }
    }
    copies
}
