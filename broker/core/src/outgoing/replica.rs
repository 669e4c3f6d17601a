//! The queue of a session whose partition has replicas, or is read back.
//!
//! Whoever follows applies no limits and lets nothing expire: its leader tells what
//! it has dropped. Nothing counts as sent there. So that both have the same
//! queue when the client is away, what was in flight and is not released waits
//! again from then on.

use super::{Cold, Flight, FlightState, Kept, Outgoing, Waiting, ids};
use crate::delivery::Delivery;
use tidegate_codec::QoS;

impl Outgoing {
    /// Appends a message, whatever the limits say. What the disk has stays there.
    pub(crate) fn follow(&mut self, delivery: Delivery) {
        let sequence = self.sequence;
        self.sequence += 1;
        self.append(sequence, delivery, false);
    }

    /// The connection has gone: what it may have been sent waits again. It had
    /// at most the first `window` of what was owed; none: that cannot be told, as
    /// acknowledgements were lost with a leader, and it sent more behind them.
    pub(crate) fn unsend(&mut self, window: Option<u16>) {
        self.current = 0;
        let mut back = Vec::new();
        for mut flight in std::mem::take(&mut self.flights) {
            let sequence = flight.sequence;
            match (flight.state, flight.delivery.take()) {
                (FlightState::Published, Some(delivery)) => {
                    self.sent = self.sent.max(sequence + 1);
                    self.waiting_bytes += delivery.message.bytes() as u64;
                    back.push(Waiting { sequence, delivery });
                }
                (FlightState::Published, None) | (FlightState::Released, _) => {
                    self.flights.push_back(flight);
                }
            }
        }
        if !back.is_empty() {
            back.extend(std::mem::take(&mut self.waiting));
            back.sort_unstable_by_key(|waiting| waiting.sequence);
            self.waiting = back.into();
        }
        self.cool(Vec::new());
        let Some(window) = window else {
            self.maybe_sent = self.sequence;
            return;
        };
        if let Some(last) = self.owed_up_to(window) {
            self.maybe_sent = self.maybe_sent.max(last + 1);
        }
    }

    /// The number of the last of so many messages that wait, from the first on.
    fn owed_up_to(&self, count: u16) -> Option<u64> {
        let count = self.waiting().min(usize::from(count));
        let mut waiting = self.waiting.iter().map(|waiting| waiting.sequence).peekable();
        let mut cold = self.cold.iter().map(|cold| self.number(cold.sequence)).peekable();
        let mut last = None;
        for _ in 0..count {
            last = match (waiting.peek(), cold.peek()) {
                (Some(w), Some(c)) if w > c => cold.next(),
                (Some(_), _) => waiting.next(),
                (None, _) => cold.next(),
            };
        }
        last
    }

    /// Ends everything, as [`Outgoing::end`] does, when nothing counts as sent.
    pub(crate) fn end_unsent(&mut self) -> Vec<Delivery> {
        let maybe_sent = self.maybe_sent;
        // What a client may have is not for another one at QoS 2 [MQTT-4.8.2-4].
        let may_go = |w: &Waiting| w.delivery.qos == QoS::AtLeastOnce || w.sequence >= maybe_sent;
        let waiting = std::mem::take(&mut self.waiting);
        self.flights.clear();
        self.cold.clear();
        self.waiting_bytes = 0;
        self.current = 0;
        let gone = waiting.into_iter().filter(may_go).map(|waiting| waiting.delivery);
        gone.filter(|delivery| delivery.ticket.is_some()).collect()
    }

    /// The leader has dropped this message.
    pub(crate) fn drop_one(&mut self, sequence: u64) {
        if let Some(at) = self.find_cold(sequence) {
            let cold = self.cold.remove(at);
            self.waiting_bytes -= cold.map_or(0, Cold::bytes);
            return;
        }
        let found = self.waiting.binary_search_by_key(&sequence, |waiting| waiting.sequence);
        if let Some(waiting) = found.ok().and_then(|at| self.waiting.remove(at)) {
            self.waiting_bytes -= waiting.delivery.message.bytes() as u64;
        }
    }

    /// The number of the exchange that has this packet id.
    pub(crate) fn owed(&self, packet_id: u16) -> Option<u64> {
        self.find(packet_id).and_then(|at| self.flights.get(at)).map(|flight| flight.sequence)
    }

    /// Whether the packet id of this exchange is soon another message's.
    pub(crate) fn is_id_wanted(&self, sequence: u64) -> bool {
        self.sequence.saturating_sub(sequence) >= ids()
    }

    /// The messages that are owed and that the disk does not have, by number.
    pub(crate) fn owed_here(&self) -> Vec<(u64, &Delivery)> {
        let flights = self.flights.iter().filter(|f| f.state == FlightState::Published);
        let flights = flights.filter_map(|f| Some((f.sequence, f.delivery.as_ref()?)));
        let waiting = self.waiting.iter().map(|w| (w.sequence, &w.delivery));
        let here = |d: &Delivery| d.position.is_none() || d.ticket.is_some();
        let mut all: Vec<_> = flights.chain(waiting).filter(|(_, d)| here(d)).collect();
        all.sort_unstable_by_key(|&(sequence, _)| sequence);
        all
    }

    /// Numbers below it may have been sent on earlier connections.
    pub(crate) fn maybe_sent_before(&self) -> u64 {
        self.maybe_sent
    }

    /// As a replica has it.
    pub(crate) fn followed(sequence: u64, maybe_sent: u64) -> Outgoing {
        Outgoing { sequence, maybe_sent, ..Outgoing::default() }
    }

    /// A message of it, in their order.
    pub(crate) fn followed_message(&mut self, sequence: u64, delivery: Delivery) {
        self.waiting_bytes += delivery.message.bytes() as u64;
        self.waiting.push_back(Waiting { sequence, delivery });
    }

    /// The same of one that the disk has.
    pub(crate) fn followed_kept(&mut self, kept: Kept) {
        self.waiting_bytes += kept.bytes;
        self.cold.push_back(Cold::new(kept));
    }

    /// An exchange of it that is released, in their order.
    pub(crate) fn followed_release(&mut self, sequence: u64) {
        self.flights.push_back(Flight {
            sequence,
            qos: QoS::ExactlyOnce,
            state: FlightState::Released,
            delivery: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::tests::delivery;
    use crate::ids::Position;
    use crate::limits::Limits;
    use crate::outgoing::{Acked, Next, Outcome};

    const Q1: QoS = QoS::AtLeastOnce;
    const Q2: QoS = QoS::ExactlyOnce;

    fn owed(out: &Outgoing) -> Vec<u64> {
        let here = out.owed_here().into_iter().map(|(sequence, _)| sequence);
        let mut all: Vec<u64> = here.chain(out.all_kept().iter().map(|k| k.sequence)).collect();
        all.sort_unstable();
        all
    }

    /// One that the disk has, or not.
    fn of_disk(text: &str, qos: QoS, position: u64) -> Delivery {
        Delivery { position: Position::of(position), ..delivery(text, qos) }
    }

    #[test]
    fn a_replica_has_the_queue_that_its_leader_has() {
        // Where the messages lie: nowhere, or each somewhere.
        for step in [0, 1] {
            let limits = Limits { queue_messages_max: 3, ..Limits::default() };
            let (mut leader, mut replica) = (Outgoing::default(), Outgoing::default());
            let mut gone = Vec::new();
            for n in 0..9u64 {
                let qos = if n % 2 == 0 { Q1 } else { Q2 };
                leader.wait_telling(of_disk("m", qos, n * step), &limits, true, &mut gone);
                replica.follow(of_disk("m", qos, n * step));
                while let Some(next) = leader.next_telling(2, true, 0, &mut gone) {
                    assert!(matches!(next, Next::Publish { .. }));
                }
            }
            for (id, acked) in [(2, Acked::Pubrec), (1, Acked::Puback)] {
                let there = leader.acknowledge(id, acked);
                assert_eq!(replica.acknowledge_unsent(id, acked), there, "{id}");
            }
            assert_eq!(gone, [2, 3, 4, 5]);
            gone.iter().for_each(|&sequence| replica.drop_one(sequence));
            assert_eq!((owed(&leader), owed(&replica)), (vec![6, 7, 8], vec![6, 7, 8]));
            for side in [&mut leader, &mut replica] {
                side.unsend(Some(2));
                assert_eq!(side.maybe_sent_before(), 8);
                assert_eq!(side.all_released().collect::<Vec<_>>(), [1]);
                assert_eq!(side.load().0, 3);
                assert_eq!(side.all_kept().len(), if step == 0 { 0 } else { 3 });
            }
            assert_eq!(leader.load().1, replica.load().1);
            for side in [&mut leader, &mut replica] {
                side.unsend(None);
                assert_eq!(side.maybe_sent_before(), 9, "all of it may have been sent");
            }
        }
    }

    #[test]
    fn an_acknowledgement_of_the_wrong_kind_changes_no_replica() {
        for position in [0, 7] {
            let mut replica = Outgoing::default();
            replica.follow(of_disk("m", Q2, position));
            assert_eq!(replica.acknowledge_unsent(1, Acked::Puback), Outcome::Mismatch);
            assert_eq!(replica.acknowledge_unsent(1, Acked::Pubcomp), Outcome::Mismatch);
            assert_eq!(owed(&replica), [0]);
        }
    }

    #[test]
    fn an_id_that_has_come_round_is_the_first_messages_that_is_left() {
        let mut replica = Outgoing::default();
        let ids = ids();
        for n in 0..ids + 10 {
            // Some are in memory, some on the disk.
            replica.follow(of_disk("m", Q1, n % 3));
        }
        assert_eq!(replica.acknowledge_unsent(1, Acked::Puback), Outcome::Ended);
        replica.drop_one(5);
        assert_eq!(replica.acknowledge_unsent(6, Acked::Puback), Outcome::Ended);
        assert_eq!(replica.acknowledge_unsent(6, Acked::Puback), Outcome::Unknown);
        assert_eq!(replica.acknowledge_unsent(1, Acked::Puback), Outcome::Ended);
        assert_eq!(replica.acknowledge_unsent(1, Acked::Puback), Outcome::Unknown);
        let left: Vec<u64> = (0..ids + 10).filter(|n| ![0, 5, ids, ids + 5].contains(n)).collect();
        assert_eq!(owed(&replica), left);
    }

    #[test]
    fn what_may_have_been_sent_is_counted_over_memory_and_disk() {
        let mut replica = Outgoing::default();
        (0..10).for_each(|n| replica.follow(of_disk("m", Q1, n % 2)));
        [0, 3].iter().for_each(|&gone| replica.drop_one(gone));
        for (window, last) in [(0, None), (1, Some(1)), (2, Some(2)), (5, Some(6)), (50, Some(9))] {
            assert_eq!(replica.owed_up_to(window), last, "{window}");
        }
    }
}
