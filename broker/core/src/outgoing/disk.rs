//! The part of a queue that is on the disk.
//!
//! What a client that is away has to get needs 16 bytes of memory a message: it
//! is fetched before it is sent. After a start all of a queue is there, and
//! nothing counts as sent; acknowledgements that are read back find their
//! message wherever it stands.

use tidegate_codec::QoS;

use super::{Acked, Cold, Flight, FlightState, Kept, Outcome, Outgoing, Waiting, ids};
use crate::delivery::Delivery;
use crate::ids::Position;

impl Outgoing {
    /// The messages to fetch, if the next to be sent is on the disk: at most
    /// so many, and of so many bytes in all. None while a fetch is on its way.
    pub(crate) fn fetch(&mut self, window: u16, most: usize, mut bytes: u64) -> Vec<Position> {
        if self.fetching || self.current >= usize::from(window) || !self.is_cold() {
            return Vec::new();
        }
        self.fetching = true;
        let next = self.waiting.front().map(|waiting| waiting.sequence);
        let mut positions = Vec::new();
        for cold in &self.cold {
            let before = next.is_none_or(|next| self.number(cold.sequence) < next);
            if !before || positions.len() >= most || (bytes == 0 && !positions.is_empty()) {
                break;
            }
            bytes = bytes.saturating_sub(cold.bytes());
            positions.push(cold.position);
        }
        positions
    }

    /// What was fetched, in the order in which it was asked for. What has gone
    /// from the queue meanwhile is left out.
    pub(crate) fn warm(&mut self, fetched: Vec<Delivery>) {
        self.fetching = false;
        let mut warm = Vec::new();
        for delivery in fetched {
            // The oldest may have given way.
            let Some(&cold) = self.cold.front() else { break };
            if delivery.position == Some(cold.position) {
                self.cold.pop_front();
                self.waiting_bytes -= cold.bytes();
                self.waiting_bytes += delivery.message.bytes() as u64;
                warm.push(Waiting { sequence: self.number(cold.sequence), delivery });
            }
        }
        for waiting in warm.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
    }

    /// The connection has gone. What the disk has needs no memory. `unknown`: it
    /// is not known what was sent on it. Its window does not tell: it moved over
    /// what expired, and over what was acknowledged and lost with the node.
    pub(crate) fn park(&mut self, unknown: bool) {
        self.current = 0;
        let mut parked: Vec<Kept> = Vec::new();
        let mut sent = self.sent;
        let mut bytes = 0;
        self.flights.retain(|flight| match (&flight.delivery, flight.state) {
            (Some(delivery), FlightState::Published) => match delivery.position {
                Some(position) if delivery.ticket.is_none() => {
                    sent = sent.max(flight.sequence + 1);
                    let size = delivery.message.bytes() as u64;
                    bytes += size;
                    let (sequence, qos) = (flight.sequence, flight.qos);
                    parked.push(Kept { sequence, position, qos, bytes: size });
                    false
                }
                Some(_) | None => true,
            },
            (None, _) | (_, FlightState::Released) => true,
        });
        self.waiting_bytes += bytes;
        self.cool(parked);
        if unknown {
            self.maybe_sent = self.sequence;
        }
        self.sent = sent;
    }

    /// What waits needs no memory where the disk has it; `parked` waits with it.
    pub(super) fn cool(&mut self, mut parked: Vec<Kept>) {
        self.waiting.retain(|Waiting { sequence, delivery }| match delivery.position {
            Some(position) if delivery.ticket.is_none() => {
                let (qos, bytes) = (delivery.qos, delivery.message.bytes() as u64);
                parked.push(Kept { sequence: *sequence, position, qos, bytes });
                false
            }
            Some(_) | None => true,
        });
        if !parked.is_empty() {
            let cold = std::mem::take(&mut self.cold);
            parked.extend(cold.iter().map(|&cold| self.kept(cold)));
            parked.sort_unstable_by_key(|kept| kept.sequence);
            self.cold = parked.into_iter().map(Cold::new).collect();
        }
    }

    fn kept(&self, cold: Cold) -> Kept {
        Kept {
            sequence: self.number(cold.sequence),
            position: cold.position,
            qos: cold.qos(),
            bytes: cold.bytes(),
        }
    }

    /// All that the disk has of the queue, sent or not.
    pub(crate) fn all_kept(&self) -> Vec<Kept> {
        let hot = |sequence, delivery: &Delivery| {
            if delivery.ticket.is_some() {
                return None;
            }
            let bytes = delivery.message.bytes() as u64;
            let qos = delivery.qos;
            delivery.position.map(|position| Kept { sequence, position, qos, bytes })
        };
        let flights = self.flights.iter().filter(|f| f.state == FlightState::Published);
        let mut all: Vec<Kept> = flights
            .filter_map(|f| hot(f.sequence, f.delivery.as_ref()?))
            .chain(self.waiting.iter().filter_map(|w| hot(w.sequence, &w.delivery)))
            .chain(self.cold.iter().map(|&cold| self.kept(cold)))
            .collect();
        all.sort_unstable_by_key(|kept| kept.sequence);
        all
    }

    /// Where each message lies that the disk has, to be looked at or changed.
    pub(crate) fn each_position(&mut self, f: &mut dyn FnMut(&mut Position)) {
        self.cold.iter_mut().for_each(|cold| f(&mut cold.position));
        let flights = self.flights.iter_mut().filter_map(|f| f.delivery.as_mut());
        let waiting = self.waiting.iter_mut().map(|w| &mut w.delivery);
        flights.chain(waiting).filter_map(|d| d.position.as_mut()).for_each(f);
    }

    /// The messages of shared subscriptions, which are kept in memory too.
    pub(crate) fn all_shared(&self) -> impl Iterator<Item = (u64, &Delivery)> {
        let flights = self.flights.iter().filter(|f| f.state == FlightState::Published);
        let flights = flights.filter_map(|f| Some((f.sequence, f.delivery.as_ref()?)));
        let waiting = self.waiting.iter().map(|w| (w.sequence, &w.delivery));
        flights.chain(waiting).filter(|(_, delivery)| delivery.ticket.is_some())
    }

    /// The numbers of the exchanges whose PUBREC came.
    pub(crate) fn all_released(&self) -> impl Iterator<Item = u64> {
        let released = self.flights.iter().filter(|f| f.state == FlightState::Released);
        released.map(|flight| flight.sequence)
    }

    /// Numbers below it may have been sent, as far as the queue's state says.
    pub(crate) fn maybe_sent(&self) -> u64 {
        let published = self.flights.iter().rfind(|f| f.state == FlightState::Published);
        let published = published.map_or(0, |flight| flight.sequence + 1);
        self.sent.max(self.maybe_sent).max(published)
    }

    /// As it was written.
    pub(crate) fn restored(
        sequence: u64,
        maybe_sent: u64,
        kept: Vec<Kept>,
        shared: Vec<(u64, Delivery)>,
        released: Vec<u64>,
    ) -> Outgoing {
        let mut outgoing = Outgoing { sequence, maybe_sent, ..Outgoing::default() };
        for kept in kept {
            outgoing.waiting_bytes += kept.bytes;
            outgoing.cold.push_back(Cold::new(kept));
        }
        for (sequence, delivery) in shared {
            outgoing.waiting_bytes += delivery.message.bytes() as u64;
            outgoing.waiting.push_back(Waiting { sequence, delivery });
        }
        for sequence in released {
            outgoing.flights.push_back(Flight {
                sequence,
                qos: QoS::ExactlyOnce,
                state: FlightState::Released,
                delivery: None,
            });
        }
        outgoing
    }

    /// The message with this number, if that is known, lies elsewhere now.
    pub(crate) fn moved(&mut self, sequence: Option<u64>, from: Position, to: Position) {
        let at = match sequence {
            Some(sequence) => self.find_cold(sequence),
            None => self.cold.iter().position(|cold| cold.position == from),
        };
        if let Some(at) = at {
            let cold = &mut self.cold[at];
            if cold.position == from {
                cold.position = to;
            }
            return;
        }
        let flights = self.flights.iter_mut().map(|f| (f.sequence, f.delivery.as_mut()));
        let waiting = self.waiting.iter_mut().map(|w| (w.sequence, Some(&mut w.delivery)));
        for (number, delivery) in flights.chain(waiting) {
            if let Some(delivery) = delivery
                && sequence.is_none_or(|sequence| number == sequence)
                && delivery.position == Some(from)
            {
                delivery.position = Some(to);
            }
        }
    }

    pub(super) fn find_cold(&self, sequence: u64) -> Option<usize> {
        self.cold.binary_search_by_key(&sequence, |cold| self.number(cold.sequence)).ok()
    }

    /// An acknowledgement that was read back. Nothing counts as sent then, so
    /// the message may stand anywhere; an id that two have is the first one's.
    pub(crate) fn acknowledge_unsent(&mut self, packet_id: u16, acked: Acked) -> Outcome {
        if self.find(packet_id).is_some() {
            return self.acknowledge(packet_id, acked);
        }
        let is_it = |w: &Waiting| super::packet_id(w.sequence) == packet_id;
        let warm = self.waiting.iter().position(is_it);
        let warm = warm.and_then(|at| Some((self.waiting.get(at)?.sequence, at)));
        let cold = self.cold_with(packet_id);
        let (sequence, qos) = match (warm, cold) {
            (Some((warm, at)), cold) if cold.is_none_or(|(cold, _)| warm < cold) => {
                (warm, self.waiting.get(at).map(|w| w.delivery.qos))
            }
            (_, Some((cold, at))) => (cold, self.cold.get(at).map(|cold| cold.qos())),
            (_, None) => return Outcome::Unknown,
        };
        let outcome = match (acked, qos) {
            (Acked::Puback, Some(QoS::AtLeastOnce))
            | (Acked::PubrecRefused, Some(QoS::ExactlyOnce)) => Outcome::Ended,
            (Acked::Pubrec, Some(QoS::ExactlyOnce)) => Outcome::Release,
            (Acked::Puback | Acked::Pubrec | Acked::PubrecRefused | Acked::Pubcomp, _) => {
                return Outcome::Mismatch;
            }
        };
        self.drop_one(sequence);
        match outcome {
            Outcome::Release => self.release_unsent(sequence),
            Outcome::Ended | Outcome::Unknown | Outcome::Mismatch => outcome,
        }
    }

    /// Number and place of the first message on the disk with this packet id.
    fn cold_with(&self, packet_id: u16) -> Option<(u64, usize)> {
        let first = self.number(self.cold.front()?.sequence);
        let last = self.number(self.cold.back()?.sequence);
        let ahead = (u64::from(packet_id) + ids() - u64::from(super::packet_id(first))) % ids();
        // One of them may have gone, and the next cycle has it.
        let mut numbers = (first + ahead..=last).step_by(ids() as usize);
        numbers.find_map(|number| Some((number, self.find_cold(number)?)))
    }

    fn release_unsent(&mut self, sequence: u64) -> Outcome {
        self.start(sequence, QoS::ExactlyOnce, None);
        self.current = 0;
        if let Ok(at) = self.flights.binary_search_by_key(&sequence, |f| f.sequence) {
            self.flights[at].state = FlightState::Released;
        }
        Outcome::Release
    }
}
