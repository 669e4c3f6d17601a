//! One publisher: what it owes, what is in flight, what it says again.

use std::collections::VecDeque;

use tidegate_codec::{PacketType, QoS};
use tidegate_loadtest::identity::Identity;
use tidegate_loadtest::ledger::{Ledger, StreamId};

use crate::engine::{Net, Said};
use crate::scenario::plan::Plan;
use crate::scenario::tally::Tally;

/// Packet ids go from 1 to this.
pub(super) const PACKET_IDS: u64 = 65_535;
/// Reasons from here on are errors.
pub(super) const REFUSED: u8 = 0x80;

/// What publishes.
pub(super) struct Publisher {
    pub(super) client: u32,
    pub(super) number: u32,
    pub(super) stream: StreamId,
    pub(super) qos: QoS,
    pub(super) payload_bytes: u32,
    /// Copies of each message.
    pub(super) copies: u64,
    /// None: another for each message.
    pub(super) topic: Option<Box<str>>,
    /// Its schedule, its place in it, and which of its turns is next.
    pub(super) schedule: u16,
    pub(super) place: u32,
    pub(super) turn: u64,
    /// The next message's place.
    pub(super) sequence: u64,
    /// Messages that are due and not sent.
    pub(super) owed: u64,
    /// Messages from `sequence - in_flight.len()` on.
    in_flight: VecDeque<Flight>,
    /// How many of them were sent on an earlier connection, and not yet on this one.
    unsent: usize,
    /// Those sent on this connection that are not done.
    pub(super) unacknowledged: u32,
    pub(super) window: u32,
    /// Its session outlives its connection, and what is in flight with it.
    pub(super) durable: bool,
    pub(super) up: bool,
    /// It went on purpose: what comes due is nobody's.
    pub(super) left: bool,
    pub(super) lagging: bool,
    /// In a closed loop at QoS 0: messages since the last PINGREQ, and before each that is under
    /// way.
    since_ping: u32,
    pings: VecDeque<u32>,
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

/// What all publishers of a worker share.
#[derive(Debug)]
pub(super) struct Press {
    pub(super) run: u32,
    /// Zero of the due times in payloads.
    pub(super) epoch: u64,
    pub(super) payload: Vec<u8>,
}

/// What an acknowledgement did.
pub(super) enum Acknowledged {
    /// The message is through; it was due then.
    Done(u64),
    /// It was refused.
    Refused,
    /// It goes on.
    Released,
    /// No such message.
    Unknown,
}

impl Publisher {
    pub(super) fn new(plan: &Plan, number: u32, client: u32, stream: StreamId) -> Self {
        let (qos, payload_bytes) = plan.message(number);
        Self {
            client,
            number,
            stream,
            qos,
            payload_bytes,
            copies: plan.copies(number),
            topic: (!plan.topics_change()).then(|| plan.topic(number, 0).into()),
            schedule: 0,
            place: 0,
            turn: 0,
            sequence: 0,
            owed: 0,
            in_flight: VecDeque::new(),
            unsent: 0,
            unacknowledged: 0,
            window: plan.window,
            durable: false,
            up: false,
            left: false,
            lagging: false,
            since_ping: 0,
            pings: VecDeque::new(),
        }
    }

    /// Something waits to be said again.
    pub(super) fn repeats(&self) -> bool {
        self.unsent > 0
    }

    /// Whether its window has room.
    pub(super) fn free(&self) -> bool {
        self.up
            && self.unacknowledged < self.window
            && (self.unsent > 0 || self.in_flight.len() < PACKET_IDS as usize)
    }

    /// A message that was due then goes out for the first time.
    pub(super) fn send(&mut self, net: &mut Net, plan: &Plan, press: &mut Press, due: u64) {
        self.say(net, plan, press, (self.sequence - 1, due), false);
        if self.qos != QoS::AtMostOnce {
            self.in_flight.push_back(Flight::Sent(due));
            self.unacknowledged += 1;
        }
    }

    /// At QoS 0 nobody says that a message came; a PINGRESP says that all before it did.
    pub(super) fn ping(&mut self, net: &mut Net, tally: &mut Tally) {
        self.unacknowledged += 1;
        self.since_ping += 1;
        if self.since_ping >= (self.window / 2).max(1) {
            net.say(self.client, &Said::Pingreq);
            tally.pings += 1;
            self.pings.push_back(std::mem::take(&mut self.since_ping));
        }
    }

    /// The answer; says whether it made room.
    pub(super) fn pong(&mut self) -> bool {
        let through = self.pings.pop_front();
        self.unacknowledged = self.unacknowledged.saturating_sub(through.unwrap_or(0));
        through.is_some()
    }

    /// [MQTT-4.4.0-1]: what was not acknowledged is sent again after a reconnect, in its order.
    pub(super) fn send_again(
        &mut self,
        net: &mut Net,
        plan: &Plan,
        press: &mut Press,
        ledger: &mut Ledger,
        tally: &mut Tally,
    ) {
        ledger.repeat(self.stream);
        let place = self.in_flight.len() - self.unsent;
        let sequence = self.sequence - self.unsent as u64;
        self.unsent -= 1;
        match self.in_flight[place] {
            Flight::Done => return,
            Flight::Released(_) => {
                let (kind, packet_id) = (PacketType::Pubrel, packet_id(sequence));
                net.say(self.client, &Said::Ack { kind, packet_id });
            }
            Flight::Sent(due) => self.say(net, plan, press, (sequence, due), true),
        }
        self.unacknowledged += 1;
        tally.resent += 1;
    }

    fn say(
        &self,
        net: &mut Net,
        plan: &Plan,
        press: &mut Press,
        (sequence, due): (u64, u64),
        dup: bool,
    ) {
        let identity = Identity {
            run: press.run,
            publisher: self.number,
            qos: self.qos,
            sequence,
            due_ns: due.saturating_sub(press.epoch),
        };
        let payload = &mut press.payload[..self.payload_bytes as usize];
        identity.write(payload);
        let once;
        let topic = match &self.topic {
            Some(topic) => topic,
            None => {
                once = plan.topic(self.number, sequence);
                once.as_str()
            }
        };
        let publish = Said::Publish {
            topic,
            qos: self.qos,
            dup,
            retain: false,
            packet_id: packet_id(sequence),
            payload,
        };
        net.say(self.client, &publish);
    }

    /// It is there again.
    pub(super) fn came(&mut self, window: u32, resumed: bool, tally: &mut Tally) {
        (self.up, self.left) = (true, false);
        self.window = window;
        self.unsent = self.in_flight.len();
        if !resumed {
            // [MQTT-3.2.2-5]: the broker's half is gone, so ours goes too.
            self.give_up(tally);
        }
    }

    /// Its connection is over.
    pub(super) fn went(&mut self, left: bool, tally: &mut Tally) {
        (self.up, self.left) = (false, left);
        (self.unacknowledged, self.unsent, self.since_ping) = (0, 0, 0);
        self.pings.clear();
        if !self.durable {
            self.give_up(tally);
        }
    }

    /// The session is gone, and with it what was in flight: nobody will acknowledge that any more.
    fn give_up(&mut self, tally: &mut Tally) {
        let open = self.in_flight.iter().filter(|flight| **flight != Flight::Done);
        tally.given_up += open.count() as u64;
        self.in_flight.clear();
        self.unsent = 0;
    }

    /// PUBACK and PUBCOMP end a message; PUBREC makes it the broker's, or ends it if it refuses.
    pub(super) fn acknowledged(
        &mut self,
        ledger: &mut Ledger,
        kind: PacketType,
        packet_id: u16,
        reason: u8,
    ) -> Acknowledged {
        let first = self.sequence - self.in_flight.len() as u64;
        let place =
            (u64::from(packet_id.max(1) - 1) + PACKET_IDS - first % PACKET_IDS) % PACKET_IDS;
        let flight = self.in_flight.get(place as usize).copied();
        let Some(Flight::Sent(due) | Flight::Released(due)) = flight else {
            return Acknowledged::Unknown;
        };
        // A PUBCOMP that knows no such packet id answers a PUBREL that was sent again.
        let refused = reason >= REFUSED && kind != PacketType::Pubcomp;
        if !refused && kind != PacketType::Pubcomp {
            ledger.acknowledge(self.stream, first + place);
        }
        if kind == PacketType::Pubrec && !refused {
            self.in_flight[place as usize] = Flight::Released(due);
            return Acknowledged::Released;
        }
        self.in_flight[place as usize] = Flight::Done;
        // What waits to be sent again keeps its place.
        while self.in_flight.front() == Some(&Flight::Done) && self.unsent < self.in_flight.len() {
            self.in_flight.pop_front();
        }
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
        if refused { Acknowledged::Refused } else { Acknowledged::Done(due) }
    }
}

fn packet_id(sequence: u64) -> u16 {
    (sequence % PACKET_IDS) as u16 + 1
}
