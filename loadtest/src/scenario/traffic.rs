//! Messages: when each is due, who sends it, and what came of it.
//!
//! The loop is open: the schedule says when a message is due, and neither a
//! slow broker nor a full window moves that time. A publisher that may not send
//! owes, and what it owes keeps its due time. With rate 0 the loop is closed:
//! a publisher sends whenever its window has room.

use std::collections::{HashMap, HashSet, VecDeque};

use tidegate_codec::{PacketType, QoS};
use tidegate_loadtest::identity::Identity;
use tidegate_loadtest::latency::Recorder;
use tidegate_loadtest::ledger::{Arrival, Expectation, Ledger, StreamId};

use crate::engine::clock::{self, MILLISECOND, SECOND};
use tidegate_loadtest::outcome::Latency;

use crate::engine::{Heard, Net, Said};
use crate::scenario::fleet::{Change, Fleet};
use crate::scenario::plan::{Plan, Role};
use crate::scenario::tally::Tally;

/// Messages sent in one step; then the sockets have their turn.
const SENDS_A_STEP: usize = 2_048;
/// A socket with that much unsent takes no more for now.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// Packet ids go from 1 to this.
const PACKET_IDS: u64 = 65_535;
/// Reasons from here on are errors.
const REFUSED: u8 = 0x80;

struct Publisher {
    client: u32,
    number: u32,
    stream: StreamId,
    /// Copies of each message.
    copies: u64,
    topic: Box<str>,
    /// The next message's place.
    sequence: u64,
    /// Messages that are due and not sent.
    owed: u64,
    /// Messages from `sequence - in_flight.len()` on.
    in_flight: VecDeque<Flight>,
    /// How many of them were sent on an earlier connection, and not yet on this one.
    unsent: usize,
    /// Those sent on this connection that are not done.
    unacknowledged: u32,
    window: u32,
    /// Its session outlives its connection, and what is in flight with it.
    durable: bool,
    up: bool,
    lagging: bool,
}

/// How far a message in flight has come; with the time when it was due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flight {
    /// Sent; PUBACK or PUBREC is awaited.
    Sent(u64),
    /// The PUBREC came; PUBCOMP is awaited.
    Released(u64),
    /// Acknowledged, or refused.
    Done,
}

/// The publishers and subscribers of a worker.
pub(crate) struct Traffic {
    qos: QoS,
    run: u32,
    publishers: Vec<Publisher>,
    /// The publisher of a client, by the client's slot; `u32::MAX` for none.
    by_client: Vec<u32>,
    /// The local publisher of a pair's subscriber, for closed loops at QoS 0.
    by_number: Vec<u32>,
    closed: bool,
    /// Sessions outlive their connections.
    durable: bool,
    payload: Vec<u8>,
    /// When the first message is due, when the last, and the time between two.
    start: u64,
    stop: u64,
    interval: f64,
    /// Nothing new is published any more.
    over: bool,
    /// Messages of this worker that came due.
    scheduled: u64,
    /// Zero of the due times in payloads.
    epoch: u64,
    lagging: Vec<u32>,
    /// Packet ids at QoS 2 that durable subscribers have answered and that were not released:
    /// what comes again under these was delivered.
    received: HashMap<u32, HashSet<u16>>,
    /// Absences are excused by the times of publishes.
    timed: bool,
    /// What was published, acknowledged and delivered.
    pub(crate) ledger: Ledger,
    /// From due to delivery, up to the last tick.
    latency: Recorder,
    /// The same since then.
    latency_fresh: Recorder,
    /// From due to the last acknowledgement.
    pub(crate) ack_latency: Recorder,
    /// From due to the socket, of publishers that were free to send.
    pub(crate) lateness: Recorder,
}

impl Traffic {
    /// Nothing is due yet.
    pub(crate) fn new(plan: &Plan, fleet: &Fleet) -> Self {
        let mut ledger = Ledger::new(plan.run);
        expect(&mut ledger, plan, fleet);
        let mut publishers = Vec::new();
        let mut by_client = vec![u32::MAX; fleet.len() as usize];
        let mut by_number = vec![u32::MAX; plan.publishers as usize];
        for client in 0..fleet.len() {
            let Role::Publisher(number) = fleet.role(client) else { continue };
            by_client[client as usize] = publishers.len() as u32;
            by_number[number as usize] = publishers.len() as u32;
            publishers.push(Publisher {
                client,
                number,
                stream: ledger.stream(number, plan.quality()),
                copies: plan.copies(number),
                topic: plan.topic(number).into(),
                sequence: 0,
                owed: 0,
                in_flight: VecDeque::new(),
                unsent: 0,
                unacknowledged: 0,
                window: plan.window,
                durable: plan.session_s(fleet.role(client)).is_some(),
                up: false,
                lagging: false,
            });
        }
        let rate = plan.rate * publishers.len() as f64 / f64::from(plan.publishers.max(1));
        Self {
            qos: plan.quality(),
            run: plan.run,
            publishers,
            by_client,
            by_number,
            closed: plan.rate == 0.0,
            durable: plan.session_s.is_some(),
            payload: vec![b'.'; plan.payload_bytes as usize],
            start: u64::MAX,
            stop: 0,
            over: false,
            interval: if rate > 0.0 { SECOND as f64 / rate } else { f64::INFINITY },
            scheduled: 0,
            epoch: 0,
            lagging: Vec::new(),
            received: HashMap::new(),
            timed: plan.reconnect && plan.session_s.is_none(),
            ledger,
            latency: Recorder::default(),
            latency_fresh: Recorder::default(),
            ack_latency: Recorder::default(),
            lateness: Recorder::default(),
        }
    }

    /// Messages are due from `start` on; worker by worker, their schedules interleave.
    pub(crate) fn begin(&mut self, plan: &Plan, epoch: u64, start: u64, worker: u32, workers: u32) {
        let shift = self.interval * f64::from(worker) / f64::from(workers.max(1));
        self.epoch = epoch;
        self.start = start + if shift.is_finite() { shift as u64 } else { 0 };
        self.stop = start + plan.duration_ms * MILLISECOND;
        if self.closed {
            for index in 0..self.publishers.len() as u32 {
                self.lag(index);
            }
        }
    }

    /// Whether no more will be sent.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        self.stop != 0 && now >= self.stop
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
        self.over = self.is_over(now);
        if self.start > now || self.publishers.is_empty() {
            return if self.publishers.is_empty() { u64::MAX } else { self.start };
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
        while sends > 0 {
            let due = self.due(self.scheduled);
            if due >= self.stop {
                return u64::MAX;
            }
            if due > now {
                return due;
            }
            let index = (self.scheduled % self.publishers.len() as u64) as u32;
            self.scheduled += 1;
            self.publishers[index as usize].owed += 1;
            tally.owed += 1;
            self.pump(net, index, &mut sends, false, tally);
        }
        now
    }

    fn due(&self, place: u64) -> u64 {
        self.start + (place as f64 * self.interval) as u64
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
            let publisher = &self.publishers[index as usize];
            let again = publisher.unsent > 0;
            let fresh = (publisher.owed > 0 || self.closed) && !self.over;
            if !fresh && !again {
                return;
            }
            let room = publisher.up
                && publisher.unacknowledged < publisher.window
                && (again || publisher.in_flight.len() < PACKET_IDS as usize)
                && net.unsent(publisher.client) < UNSENT_BYTES_MAX;
            if !room || *sends == 0 {
                // A full window and a lost connection end with news; a full socket does not.
                if publisher.up && publisher.unacknowledged < publisher.window {
                    self.lag(index);
                }
                return;
            }
            *sends -= 1;
            match again {
                true => self.send_again(net, index, tally),
                false => self.send(net, index, held, tally),
            }
        }
    }

    /// [MQTT-4.4.0-1]: what was not acknowledged is sent again after a reconnect, in its order.
    fn send_again(&mut self, net: &mut Net, index: u32, tally: &mut Tally) {
        let publisher = &mut self.publishers[index as usize];
        let place = publisher.in_flight.len() - publisher.unsent;
        publisher.unsent -= 1;
        let sequence = publisher.sequence - (publisher.in_flight.len() - place) as u64;
        let packet_id = (sequence % PACKET_IDS) as u16 + 1;
        match publisher.in_flight[place] {
            Flight::Done => return,
            Flight::Released(_) => {
                let kind = PacketType::Pubrel;
                net.say(publisher.client, &Said::Ack { kind, packet_id });
            }
            Flight::Sent(due) => {
                let identity = Identity {
                    run: self.run,
                    publisher: publisher.number,
                    qos: self.qos,
                    sequence,
                    due_ns: due - self.epoch,
                };
                identity.write(&mut self.payload);
                let publish = Said::Publish {
                    topic: &publisher.topic,
                    qos: self.qos,
                    dup: true,
                    retain: false,
                    packet_id,
                    payload: &self.payload,
                };
                net.say(publisher.client, &publish);
            }
        }
        publisher.unacknowledged += 1;
        tally.resent += 1;
    }

    fn send(&mut self, net: &mut Net, index: u32, held: bool, tally: &mut Tally) {
        let now = if self.closed { net.heard_at().max(self.start) } else { clock::now() };
        let count = self.publishers.len() as u64;
        let publisher = &self.publishers[index as usize];
        let due = match self.closed {
            true => now,
            // This publisher's turns are `index`, `index + count` and so on.
            false => self.due((publisher.sequence * count) + u64::from(index)),
        };
        if !held && !self.closed {
            self.lateness.record(due, now);
        }
        let publisher = &mut self.publishers[index as usize];
        let sequence = match self.timed {
            true => self.ledger.publish_at(publisher.stream, now),
            false => self.ledger.publish(publisher.stream),
        };
        publisher.sequence = sequence + 1;
        let identity = Identity {
            run: self.run,
            publisher: publisher.number,
            qos: self.qos,
            sequence,
            due_ns: due - self.epoch,
        };
        identity.write(&mut self.payload);
        let publish = Said::Publish {
            topic: &publisher.topic,
            qos: self.qos,
            dup: false,
            retain: false,
            packet_id: (sequence % PACKET_IDS) as u16 + 1,
            payload: &self.payload,
        };
        net.say(publisher.client, &publish);
        match self.qos {
            QoS::AtMostOnce => publisher.unacknowledged += u32::from(self.closed),
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                publisher.in_flight.push_back(Flight::Sent(due));
                publisher.unacknowledged += 1;
            }
        }
        if !self.closed {
            publisher.owed -= 1;
            tally.owed -= 1;
        }
        tally.published += 1;
        tally.expected += publisher.copies;
    }

    /// A client came or went.
    pub(crate) fn changed(
        &mut self,
        plan: &Plan,
        fleet: &Fleet,
        client: u32,
        change: &Change,
        tally: &mut Tally,
    ) {
        let role = fleet.role(client);
        let durable = plan.session_s(role).is_some();
        if matches!(change, Change::Up { again: true, resumed: false, .. }) && durable {
            self.ledger.forget();
        }
        if let Role::Subscriber(number) = role {
            match change {
                Change::Up { resumed: false, .. } => {
                    self.received.remove(&client);
                    if !durable {
                        self.ledger.present(number, clock::now());
                    }
                }
                Change::Down if !durable => self.ledger.absent(number),
                Change::Up { resumed: true, .. } | Change::Down | Change::Same => {}
            }
        }
        let index = self.by_client[client as usize];
        let Some(publisher) = self.publishers.get_mut(index as usize) else { return };
        match change {
            Change::Up { receive_maximum, resumed, again: _ } => {
                publisher.up = true;
                publisher.window = plan.window.min(u32::from(*receive_maximum));
                publisher.unsent = publisher.in_flight.len();
                if !resumed {
                    // [MQTT-3.2.2-5]: the broker's half is gone, so ours goes too.
                    give_up(publisher, tally);
                }
                if self.start != u64::MAX
                    && (publisher.owed > 0 || self.closed || publisher.unsent > 0)
                {
                    self.lag(index);
                }
            }
            Change::Down => {
                publisher.up = false;
                publisher.unacknowledged = 0;
                publisher.unsent = 0;
                if !publisher.durable {
                    give_up(publisher, tally);
                }
            }
            Change::Same => {}
        }
    }

    /// Takes in what is not the fleet's business.
    pub(crate) fn told(
        &mut self,
        net: &mut Net,
        fleet: &Fleet,
        client: u32,
        packet: &Heard<'_>,
        tally: &mut Tally,
    ) {
        match packet {
            Heard::Publish { qos, packet_id, payload, retain: _ } => {
                let known = *qos == QoS::ExactlyOnce
                    && self.durable
                    && !self.received.entry(client).or_default().insert(*packet_id);
                if !known {
                    self.delivered(fleet, client, payload, net.heard_at(), tally);
                }
                let kind = match qos {
                    QoS::AtMostOnce => return,
                    QoS::AtLeastOnce => PacketType::Puback,
                    QoS::ExactlyOnce => PacketType::Pubrec,
                };
                net.say(client, &Said::Ack { kind, packet_id: *packet_id });
            }
            Heard::Ack { kind: PacketType::Pubrel, packet_id, reason: _ } => {
                if let Some(received) = self.received.get_mut(&client) {
                    received.remove(packet_id);
                }
                net.say(client, &Said::Ack { kind: PacketType::Pubcomp, packet_id: *packet_id });
            }
            Heard::Ack { kind, packet_id, reason } => {
                let now = net.heard_at();
                self.acknowledged(client, *kind, *packet_id, *reason, now, tally);
                if *kind == PacketType::Pubrec && *reason < REFUSED {
                    let kind = PacketType::Pubrel;
                    net.say(client, &Said::Ack { kind, packet_id: *packet_id });
                }
            }
            Heard::Connack { .. }
            | Heard::Suback { .. }
            | Heard::Unsuback { .. }
            | Heard::Pingresp
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
        let Role::Subscriber(number) = fleet.role(client) else {
            tally.error("delivered to a client without a subscription");
            return;
        };
        tally.delivered += 1;
        let identity = Identity::decode(payload);
        let arrival = self.ledger.deliver(number, &identity);
        if let (Ok(identity), Arrival::First | Arrival::Late) = (identity, arrival) {
            tally.arrived += 1;
            let due = self.epoch + identity.due_ns;
            self.latency_fresh.record(due, now);
            self.credit(&identity);
        }
    }

    /// At QoS 0 the delivery of a pair makes room in a closed loop.
    fn credit(&mut self, identity: &Identity) {
        if !self.closed || self.qos != QoS::AtMostOnce {
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

    /// PUBACK and PUBCOMP end a message; PUBREC makes it the broker's, or ends it if it refuses.
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
        let first = publisher.sequence - publisher.in_flight.len() as u64;
        let place =
            (u64::from(packet_id.max(1) - 1) + PACKET_IDS - first % PACKET_IDS) % PACKET_IDS;
        let flight = publisher.in_flight.get(place as usize).copied();
        let Some(Flight::Sent(due) | Flight::Released(due)) = flight else {
            tally.error("acknowledged a packet id that was not in flight");
            return;
        };
        // A PUBCOMP that knows no such packet id answers a PUBREL that was sent again.
        let refused = reason >= REFUSED && kind != PacketType::Pubcomp;
        if refused {
            tally.error(&format!("acknowledged with {reason:#04x}"));
        } else if kind != PacketType::Pubcomp {
            self.ledger.acknowledge(publisher.stream, first + place);
        }
        if kind == PacketType::Pubrec && !refused {
            publisher.in_flight[place as usize] = Flight::Released(due);
            return;
        }
        publisher.in_flight[place as usize] = Flight::Done;
        // What waits to be sent again keeps its place.
        while publisher.in_flight.front() == Some(&Flight::Done)
            && publisher.unsent < publisher.in_flight.len()
        {
            publisher.in_flight.pop_front();
        }
        publisher.unacknowledged = publisher.unacknowledged.saturating_sub(1);
        if !refused {
            tally.acknowledged += 1;
            self.ack_latency.record(due, now);
        }
        if self.closed || publisher.owed > 0 || publisher.unsent > 0 {
            self.lag(index);
        }
    }
}

/// The session is gone, and with it what was in flight: nobody will acknowledge that any more.
fn give_up(publisher: &mut Publisher, tally: &mut Tally) {
    let open = publisher.in_flight.iter().filter(|flight| **flight != Flight::Done);
    tally.given_up += open.count() as u64;
    publisher.in_flight.clear();
    publisher.unsent = 0;
}

/// Enters what the subscribers of this worker are promised.
fn expect(ledger: &mut Ledger, plan: &Plan, fleet: &Fleet) {
    let here: HashSet<u32> = (0..fleet.len())
        .filter_map(|client| match fleet.role(client) {
            Role::Subscriber(number) => Some(number),
            Role::Publisher(_) | Role::Idle(_) => None,
        })
        .collect();
    for publisher in 0..plan.publishers {
        for receiver in plan.subscribers_of(publisher) {
            if here.contains(&receiver) {
                let (published, granted) = (plan.quality(), plan.quality());
                let (ordered, from) = (true, 0);
                let expectation =
                    Expectation { receiver, publisher, published, granted, ordered, from };
                ledger.expect(&expectation);
            }
        }
    }
}
