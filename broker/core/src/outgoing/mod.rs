//! QoS 1 and 2 towards one client: what is in flight, and what waits.
//!
//! Both halves of a session use it: an ephemeral session keeps it beside its
//! socket, a durable one in its partition. A message has its number when it
//! comes, and with it its packet id: what a durable session's client knows by
//! an id is the same message after a crash, whatever was acknowledged just
//! before. An id is never used while it is still owed [MQTT-2.2.1-3],
//! [MQTT-4.3.2-1]: a client that leaves one exchange open and finishes the
//! 65,534 behind it gets nothing new until it has finished that one.
//! On a new connection everything in flight is owed again, in its first order,
//! before anything new [MQTT-4.4.0-1], [MQTT-4.6.0-1].

mod disk;
mod replica;

use std::collections::VecDeque;
use std::sync::Arc;

use tidegate_codec::QoS;

use crate::counters::Load;
use crate::delivery::Delivery;
use crate::hole::{self, Hole};
use crate::ids::{Millis, Position};
use crate::limits::{Limits, QueuePolicy};

/// Packet ids there are: 1..=65,535.
const IDS: u64 = 65_535;
/// Cycles of packet ids that are looked at one by one.
const CYCLES_MAX: u64 = 8;

/// One exchange that has begun.
#[derive(Debug)]
pub(crate) struct Flight {
    /// Counts the messages that came; the packet id is `1 + sequence % 65,535`.
    sequence: u64,
    qos: QoS,
    state: FlightState,
    /// Kept only when it may have to be sent again: a durable session's, or one
    /// of a shared subscription.
    delivery: Option<Delivery>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum FlightState {
    /// PUBLISH sent, PUBACK or PUBREC owed to us.
    Published,
    /// PUBREC came; PUBREL sent, PUBCOMP owed to us.
    Released,
}

/// What to send next.
#[derive(Debug)]
pub(crate) enum Next {
    /// A PUBLISH.
    Publish {
        /// Its packet id.
        packet_id: u16,
        /// Whether it was sent on an earlier connection.
        dup: bool,
        /// The message, to be encoded.
        delivery: Delivery,
    },
    /// A PUBREL that is still owed.
    Release {
        /// Its packet id.
        packet_id: u16,
    },
}

/// An acknowledgement from the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Acked {
    /// PUBACK.
    Puback,
    /// PUBREC with a success.
    Pubrec,
    /// PUBREC with a reason of 0x80 or above.
    PubrecRefused,
    /// PUBCOMP.
    Pubcomp,
}

/// What an acknowledgement did.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// The exchange is over.
    Ended,
    /// Answer with PUBREL.
    Release,
    /// No exchange has this packet id.
    Unknown,
    /// The exchange has it, but not at this step: the client breaks the protocol.
    Mismatch,
}

/// What became of a message that had to wait.
#[derive(Debug)]
pub(crate) enum Queued {
    /// It waits.
    Kept,
    /// So many gave way: older ones, or this one.
    Dropped(u64),
}

/// A message that has not been sent.
#[derive(Debug)]
struct Waiting {
    sequence: u64,
    delivery: Delivery,
}

/// A message that is on the disk alone.
#[derive(Clone, Copy, Debug)]
struct Cold {
    position: Position,
    /// The end of its number.
    sequence: u32,
    /// Its bytes, and its QoS in the highest two bits.
    size: u32,
}

// Ten million of them may wait.
const _: () = assert!(size_of::<Cold>() == 16);

impl Cold {
    const BYTES: u32 = (1 << 30) - 1;

    fn new(kept: Kept) -> Cold {
        let bytes = kept.bytes.min(u64::from(Cold::BYTES)) as u32;
        let size = bytes | (kept.qos as u32) << 30;
        Cold { position: kept.position, sequence: kept.sequence as u32, size }
    }

    fn bytes(self) -> u64 {
        u64::from(self.size & Cold::BYTES)
    }

    fn qos(self) -> QoS {
        QoS::try_from((self.size >> 30) as u8).unwrap_or_default()
    }
}

/// A message of a queue as it is written with the state of its session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Kept {
    pub(crate) sequence: u64,
    pub(crate) position: Position,
    pub(crate) qos: QoS,
    pub(crate) bytes: u64,
}

/// Messages of a session with a connection that are kept in memory while they
/// wait, when the disk has them too.
const WARM_MAX: usize = 64;

/// The outgoing side of one session.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    flights: VecDeque<Flight>,
    /// Flights before this one have been sent on the present connection.
    current: usize,
    waiting: VecDeque<Waiting>,
    /// On the disk; each is fetched before it is sent.
    cold: VecDeque<Cold>,
    /// Some of them are being fetched.
    fetching: bool,
    /// Messages below this number were sent on an earlier connection.
    sent: u64,
    /// Those below this one may have been, on one of before the start.
    maybe_sent: u64,
    /// Of all that have not been sent.
    waiting_bytes: u64,
    /// Of the next message.
    sequence: u64,
    expired: u64,
}

impl Outgoing {
    /// Empty, after so many messages.
    pub(crate) fn after(sequence: u64) -> Outgoing {
        Outgoing { sequence, ..Outgoing::default() }
    }

    /// How many messages have come.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Messages that have not been sent.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len() + self.cold.len()
    }

    /// What the gauges count.
    #[inline]
    pub(crate) fn load(&self) -> Load {
        (self.waiting(), self.waiting_bytes, self.flights.len())
    }

    /// Messages that expired while they waited, since the last call.
    pub(crate) fn take_expired(&mut self) -> u64 {
        std::mem::take(&mut self.expired)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.flights.is_empty() && self.waiting.is_empty() && self.cold.is_empty()
    }

    /// Whether a new message may leave at once, in front of nothing.
    #[inline]
    pub(crate) fn has_room(&self, window: u16) -> bool {
        self.waiting.is_empty()
            && self.cold.is_empty()
            && self.current == self.flights.len()
            && self.current < usize::from(window)
    }

    /// Begins an exchange for a message that leaves now. `keep`: for resending.
    #[inline]
    pub(crate) fn begin(&mut self, qos: QoS, keep: Option<Delivery>) -> u16 {
        while self.is_owed(self.sequence) {
            self.sequence += 1;
        }
        let sequence = self.sequence;
        self.sequence = sequence + 1;
        self.start(sequence, qos, keep)
    }

    #[inline]
    fn start(&mut self, sequence: u64, qos: QoS, keep: Option<Delivery>) -> u16 {
        let flight = Flight { sequence, qos, state: FlightState::Published, delivery: keep };
        // In front of exchanges that went on while this one's message was away.
        let at = match self.flights.back() {
            Some(last) if last.sequence > sequence => {
                self.flights.partition_point(|flight| flight.sequence < sequence)
            }
            Some(_) | None => self.flights.len(),
        };
        self.flights.insert(at, flight);
        self.current += 1;
        packet_id(sequence)
    }

    /// Takes back the exchange begun last: its message was not sent after all.
    pub(crate) fn undo(&mut self) {
        if let Some(flight) = self.flights.pop_back() {
            self.sequence = flight.sequence;
            self.current -= 1;
        }
    }

    /// Appends a message that has to wait, within the limits.
    /// `warm`: it may be sent soon, and is kept in memory though the disk has it.
    pub(crate) fn wait(&mut self, delivery: Delivery, limits: &Limits, warm: bool) -> Queued {
        self.wait_telling(delivery, limits, warm, &mut Vec::new())
    }

    /// The same; tells the numbers of what gave way.
    pub(crate) fn wait_telling(
        &mut self,
        delivery: Delivery,
        limits: &Limits,
        warm: bool,
        gone: &mut Vec<u64>,
    ) -> Queued {
        let sequence = self.sequence;
        self.sequence += 1;
        let bytes = delivery.message.bytes() as u64;
        if bytes > limits.queue_bytes_max || limits.queue_messages_max == 0 {
            gone.push(sequence);
            return Queued::Dropped(1); // whatever gave way, it would not fit
        }
        let full = |own: &Outgoing| {
            own.waiting() >= limits.queue_messages_max as usize
                || own.waiting_bytes + bytes > limits.queue_bytes_max
        };
        let mut dropped = 0;
        while full(self) {
            dropped += 1;
            let oldest = match limits.queue_policy {
                QueuePolicy::DropNew | QueuePolicy::Refuse => None,
                QueuePolicy::DropOldest => self.drop_oldest(),
            };
            gone.push(oldest.unwrap_or(sequence));
            if oldest.is_none() {
                return Queued::Dropped(dropped);
            }
        }
        self.append(sequence, delivery, warm);
        if dropped == 0 { Queued::Kept } else { Queued::Dropped(dropped) }
    }

    /// The same limits, for a queue that may not become longer.
    pub(crate) fn squeezed(&self, limits: &Limits) -> Limits {
        Limits {
            queue_messages_max: limits.queue_messages_max.min(self.waiting() as u32),
            queue_bytes_max: limits.queue_bytes_max.min(self.waiting_bytes),
            ..limits.clone()
        }
    }

    fn append(&mut self, sequence: u64, delivery: Delivery, warm: bool) {
        let bytes = delivery.message.bytes() as u64;
        self.waiting_bytes += bytes;
        match delivery.position {
            Some(position)
                if delivery.ticket.is_none()
                    && (!warm || !self.cold.is_empty() || self.waiting.len() >= WARM_MAX) =>
            {
                let kept = Kept { sequence, position, qos: delivery.qos, bytes };
                self.cold.push_back(Cold::new(kept));
            }
            Some(_) | None => self.waiting.push_back(Waiting { sequence, delivery }),
        }
    }

    /// Whether the message that is next is on the disk.
    fn is_cold(&self) -> bool {
        match (self.cold.front(), self.waiting.front()) {
            (Some(cold), Some(waiting)) => self.number(cold.sequence) < waiting.sequence,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// The number that ends so: none is 2^32 behind the newest.
    fn number(&self, end: u32) -> u64 {
        self.sequence - u64::from((self.sequence as u32).wrapping_sub(end))
    }

    /// Lets the oldest go; its number, if there was one.
    fn drop_oldest(&mut self) -> Option<u64> {
        let (sequence, bytes) = if self.is_cold() {
            let cold = self.cold.pop_front()?;
            (self.number(cold.sequence), cold.bytes())
        } else {
            let oldest = self.waiting.pop_front()?;
            (oldest.sequence, oldest.delivery.message.bytes() as u64)
        };
        self.waiting_bytes -= bytes;
        Some(sequence)
    }

    /// Lets the oldest go until at most `bytes` wait; the numbers of those that went.
    pub(crate) fn trim(&mut self, bytes: u64) -> Vec<u64> {
        let mut gone = Vec::new();
        while self.waiting_bytes > bytes
            && let Some(sequence) = self.drop_oldest()
        {
            gone.push(sequence);
        }
        gone
    }

    /// The next packet to send, if the window allows one. `keep` decides whether
    /// a message that leaves for the first time is kept for resending.
    pub(crate) fn next(&mut self, window: u16, durable: bool, now: Millis) -> Option<Next> {
        self.next_telling(window, durable, now, &mut Vec::new())
    }

    /// The same; tells the numbers of what has expired.
    pub(crate) fn next_telling(
        &mut self,
        window: u16,
        durable: bool,
        now: Millis,
        gone: &mut Vec<u64>,
    ) -> Option<Next> {
        if self.current >= usize::from(window) {
            return None;
        }
        loop {
            // What was owed before goes in its first order, wherever it is now.
            let flight = self.flights.get(self.current).map(|flight| flight.sequence);
            let waiting = self.waiting.front().map(|waiting| waiting.sequence);
            let cold = self.cold.front().map(|cold| self.number(cold.sequence));
            let first = [flight, waiting, cold].into_iter().flatten().min()?;
            if cold == Some(first) {
                return None; // to be fetched
            }
            if flight == Some(first) {
                return self.again();
            }
            if self.is_owed(first) {
                return None;
            }
            let Waiting { sequence, delivery } = self.waiting.pop_front()?;
            self.waiting_bytes -= delivery.message.bytes() as u64;
            let dup = sequence < self.sent.max(self.maybe_sent);
            // What is in flight goes on after its time [MQTT-3.3.2-5].
            if sequence >= self.sent && delivery.message.expired(now) {
                self.expired += 1;
                gone.push(sequence);
                continue;
            }
            let keep = (durable || delivery.ticket.is_some()).then(|| delivery.clone());
            let packet_id = self.start(sequence, delivery.qos, keep);
            return Some(Next::Publish { packet_id, dup, delivery });
        }
    }

    /// The next exchange that began on an earlier connection.
    fn again(&mut self) -> Option<Next> {
        let flight = self.flights.get(self.current)?;
        self.current += 1;
        let packet_id = packet_id(flight.sequence);
        Some(match (&flight.delivery, flight.state) {
            (Some(delivery), FlightState::Published) => {
                Next::Publish { packet_id, dup: true, delivery: delivery.clone() }
            }
            (_, FlightState::Released) | (None, FlightState::Published) => {
                Next::Release { packet_id }
            }
        })
    }

    /// An acknowledgement came.
    pub(crate) fn acknowledge(&mut self, packet_id: u16, acked: Acked) -> Outcome {
        let Some(at) = self.find(packet_id) else { return Outcome::Unknown };
        let flight = &mut self.flights[at];
        match (acked, flight.qos, flight.state) {
            (Acked::Puback, QoS::AtLeastOnce, FlightState::Published)
            | (Acked::PubrecRefused, QoS::ExactlyOnce, FlightState::Published)
            | (Acked::Pubcomp, QoS::ExactlyOnce, FlightState::Released) => {
                self.flights.remove(at);
                if at < self.current {
                    self.current -= 1;
                }
                Outcome::Ended
            }
            (Acked::Pubrec, QoS::ExactlyOnce, _) => {
                flight.state = FlightState::Released;
                flight.delivery = None;
                Outcome::Release
            }
            (Acked::Puback | Acked::Pubrec | Acked::PubrecRefused | Acked::Pubcomp, _, _) => {
                Outcome::Mismatch
            }
        }
    }

    /// A new connection: everything in flight is owed again.
    pub(crate) fn reconnect(&mut self) {
        self.current = 0;
    }

    /// Ends everything; yields what belonged to shared subscriptions and may
    /// go to another member: QoS 1, and what was never sent [MQTT-4.8.2-4].
    pub(crate) fn end(&mut self) -> Vec<Delivery> {
        let flights = std::mem::take(&mut self.flights);
        let waiting = std::mem::take(&mut self.waiting);
        self.cold.clear();
        self.waiting_bytes = 0;
        self.current = 0;
        flights
            .into_iter()
            .filter(|f| f.qos == QoS::AtLeastOnce)
            .filter_map(|f| f.delivery)
            .chain(waiting.into_iter().map(|waiting| waiting.delivery))
            .filter(|d| d.ticket.is_some())
            .collect()
    }

    /// Takes the QoS 1 messages of shared subscriptions that have not been
    /// acknowledged, for another member, and leaves the rest.
    pub(crate) fn take_shared(&mut self) -> Vec<Delivery> {
        let mut taken = Vec::new();
        let shared = |d: &Delivery| d.ticket.is_some() && d.qos == QoS::AtLeastOnce;
        self.flights.retain_mut(|flight| {
            if flight.delivery.as_ref().is_some_and(shared) {
                taken.extend(flight.delivery.take());
                return false;
            }
            true
        });
        self.current = 0;
        let bytes = &mut self.waiting_bytes;
        self.waiting.retain(|Waiting { delivery, .. }| {
            if shared(delivery) {
                *bytes -= delivery.message.bytes() as u64;
                taken.push(delivery.clone());
                return false;
            }
            true
        });
        taken
    }

    /// Whether the packet id of this number is still owed by an earlier one.
    #[inline]
    fn is_owed(&self, sequence: u64) -> bool {
        !hole::on(Hole::EarlyPacketId)
            && self.flights.front().is_some_and(|first| {
                sequence.saturating_sub(first.sequence) >= ids()
                    && self.find(packet_id(sequence)).is_some()
            })
    }

    /// Where the exchange with this id is. Flights are sorted by sequence; the
    /// usual one is at the place that its distance from the first says.
    #[inline]
    fn find(&self, id: u16) -> Option<usize> {
        let first = self.flights.front()?.sequence;
        if id == 0 {
            return None;
        }
        // The latest sequence before the next one with this id, then a cycle earlier, ...
        let ahead = (u64::from(id) + ids() - u64::from(packet_id(self.sequence))) % ids();
        let mut candidate = (self.sequence + ahead).checked_sub(ids());
        if ahead == 0 && self.sequence == 0 {
            candidate = None;
        }
        while let Some(sequence) = candidate
            && sequence >= first
        {
            let guess = (sequence - first) as usize;
            if self.flights.get(guess).is_some_and(|f| f.sequence == sequence) {
                return Some(guess);
            }
            if let Ok(at) = self.flights.binary_search_by_key(&sequence, |f| f.sequence) {
                return Some(at);
            }
            if sequence - first > CYCLES_MAX * ids() {
                // Behind an exchange that is never finished a cycle after cycle
                // has nothing; what is in flight is at most a window.
                return self.flights.iter().position(|f| packet_id(f.sequence) == id);
            }
            candidate = sequence.checked_sub(ids());
        }
        None
    }
}

/// How many packet ids there are.
#[inline]
fn ids() -> u64 {
    if hole::on(Hole::EarlyPacketId) { 4 } else { IDS }
}

#[inline]
fn packet_id(sequence: u64) -> u16 {
    (1 + sequence % ids()) as u16
}

/// The identifiers of the subscriptions that a message matched.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum SubscriptionIds {
    #[default]
    None,
    One(u32),
    Many(Arc<[u32]>),
}

impl SubscriptionIds {
    pub(crate) fn as_slice(&self) -> &[u32] {
        match self {
            SubscriptionIds::None => &[],
            SubscriptionIds::One(id) => std::slice::from_ref(id),
            SubscriptionIds::Many(ids) => ids,
        }
    }

    pub(crate) fn from_slice(ids: &[u32]) -> SubscriptionIds {
        match ids {
            [] => SubscriptionIds::None,
            [id] => SubscriptionIds::One(*id),
            many => SubscriptionIds::Many(many.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::tests::delivery;

    const Q1: QoS = QoS::AtLeastOnce;
    const Q2: QoS = QoS::ExactlyOnce;

    #[test]
    fn an_id_that_is_owed_is_never_given_again() {
        let mut out = Outgoing::default();
        let stuck = out.begin(Q1, None);
        for _ in 0..200_000 {
            let id = out.begin(Q1, None);
            assert_ne!(id, stuck);
            assert_ne!(id, 0);
            assert_eq!(out.acknowledge(id, Acked::Puback), Outcome::Ended);
        }
        assert_eq!(out.acknowledge(stuck, Acked::Puback), Outcome::Ended);
        assert_eq!(out.acknowledge(stuck, Acked::Puback), Outcome::Unknown);
        assert!(out.is_empty());
    }

    #[test]
    fn acknowledgements_out_of_order_find_their_exchange() {
        let mut out = Outgoing::default();
        let ids: Vec<u16> = (0..100).map(|_| out.begin(Q1, None)).collect();
        for id in ids.iter().rev() {
            assert_eq!(out.acknowledge(*id, Acked::Puback), Outcome::Ended, "id {id}");
        }
    }

    #[test]
    fn a_wrong_step_of_an_exchange_is_told_from_an_unknown_id() {
        let mut out = Outgoing::default();
        let one = out.begin(Q1, None);
        let two = out.begin(Q2, None);
        assert_eq!(out.acknowledge(one, Acked::Pubrec), Outcome::Mismatch);
        assert_eq!(out.acknowledge(two, Acked::Puback), Outcome::Mismatch);
        assert_eq!(out.acknowledge(two, Acked::Pubcomp), Outcome::Mismatch);
        assert_eq!(out.acknowledge(99, Acked::Puback), Outcome::Unknown);
        assert_eq!(out.acknowledge(two, Acked::Pubrec), Outcome::Release);
        assert_eq!(out.acknowledge(two, Acked::Pubcomp), Outcome::Ended);
    }

    #[test]
    fn a_resume_sends_again_in_the_first_order_before_anything_new() {
        let mut out = Outgoing::default();
        let limits = Limits::default();
        for text in ["a", "b", "c"] {
            assert!(matches!(out.wait(delivery(text, Q2), &limits, true), Queued::Kept));
        }
        let Some(Next::Publish { packet_id: first, dup: false, .. }) = out.next(2, true, 0) else {
            panic!("the first message leaves")
        };
        let Some(Next::Publish { packet_id: second, .. }) = out.next(2, true, 0) else {
            panic!("and the second")
        };
        assert!(out.next(2, true, 0).is_none(), "the window is full");
        assert_eq!(out.acknowledge(first, Acked::Pubrec), Outcome::Release);
        out.reconnect();
        assert!(
            matches!(out.next(1, true, 0), Some(Next::Release { packet_id }) if packet_id == first)
        );
        assert!(out.next(1, true, 0).is_none(), "a smaller Receive Maximum sends only that many");
        assert_eq!(out.acknowledge(first, Acked::Pubcomp), Outcome::Ended);
        assert!(
            matches!(out.next(1, true, 0), Some(Next::Publish { packet_id, dup: true, .. }) if packet_id == second)
        );
    }

    #[test]
    fn a_message_that_can_never_fit_does_not_empty_the_queue() {
        let mut out = Outgoing::default();
        let small = delivery("1", Q1);
        let room = small.message.bytes() as u64 + 10;
        let limits = Limits { queue_bytes_max: room, ..Limits::default() };
        out.wait(small, &limits, true);
        let large = delivery("a payload of more than ten bytes", Q1);
        assert!(matches!(out.wait(large, &limits, true), Queued::Dropped(1)));
        assert_eq!(out.waiting(), 1);
    }

    #[test]
    fn an_unknown_id_is_told_at_once_however_old_the_oldest_exchange_is() {
        let mut out = Outgoing::default();
        let stuck = out.begin(Q1, None);
        out.sequence = u64::MAX / 2;
        for _ in 0..1_000 {
            let id = out.begin(Q1, None);
            assert_ne!(id, stuck);
            assert_eq!(out.acknowledge(id.wrapping_add(9).max(2), Acked::Puback), Outcome::Unknown);
            assert_eq!(out.acknowledge(id, Acked::Puback), Outcome::Ended);
        }
        assert_eq!(out.acknowledge(stuck, Acked::Puback), Outcome::Ended);
    }

    #[test]
    fn a_full_queue_drops_by_its_policy() {
        let mut out = Outgoing::default();
        let mut limits = Limits { queue_messages_max: 2, ..Limits::default() };
        out.wait(delivery("1", Q1), &limits, true);
        out.wait(delivery("2", Q1), &limits, true);
        assert!(matches!(out.wait(delivery("3", Q1), &limits, true), Queued::Dropped(1)));
        let first = out.next(1, false, 0);
        assert!(
            matches!(first, Some(Next::Publish { delivery, .. }) if delivery.message.payload() == b"2")
        );
        limits.queue_policy = QueuePolicy::DropNew;
        out.wait(delivery("4", Q1), &limits, true);
        assert!(matches!(out.wait(delivery("5", Q1), &limits, true), Queued::Dropped(1)));
        assert_eq!(out.waiting(), 2);
    }
}
