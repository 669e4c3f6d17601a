//! Retained messages: a writer sets one, and once that is acknowledged a reader
//! subscribes, sees what it is sent, subscribes again, and leaves.
//!
//! Every so many rounds the writer ends the retained message instead, and the
//! reader must be sent nothing for a while. One round of a register at a time:
//! what is kept is known whenever somebody looks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tidegate_codec::{PacketType, QoS};
use tidegate_loadtest::identity::Identity;
use tidegate_loadtest::latency::Recorder;
use tidegate_loadtest::ledger::Ledger;
use tidegate_loadtest::ledger::registers::Kept;

use crate::engine::clock::{MILLISECOND, SECOND};
use crate::engine::{Heard, Net, Said};
use crate::scenario::fleet::{Change, Fleet};
use crate::scenario::plan::{Plan, Role, Scenario};
use crate::scenario::publisher::REFUSED;
use crate::scenario::tally::Tally;

/// Rounds begun in one step; then the sockets have their turn.
const ROUNDS_A_STEP: usize = 256;
/// Looks of a round with a value: of a new subscription, and of the same one made again.
const LOOKS: u8 = 2;

/// Where a register stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Between rounds.
    Resting,
    /// The set or clear is not acknowledged.
    Writing { since: u64, clears: bool },
    /// The SUBSCRIBE went then; the SUBACK or the message, or both, are awaited.
    Looking { since: u64, granted: bool, came: bool },
    /// The UNSUBACK is awaited.
    Leaving,
}

struct Register {
    number: u32,
    writer: u32,
    reader: u32,
    topic: Box<str>,
    kept: Kept,
    step: Step,
    /// Looks of this round.
    looks: u8,
    /// Rounds so far, and those that are due and wait.
    rounds: u64,
    owed: u32,
    packet_id: u16,
    /// When looking is over at the latest.
    until: u64,
}

/// The registers of a worker.
pub(crate) struct Registers {
    qos: QoS,
    run: u32,
    clear_every: u64,
    quiet: u64,
    patience: u64,
    payload: Vec<u8>,
    all: Vec<Register>,
    /// The register of a client; `u32::MAX` for none.
    by_client: Vec<u32>,
    interval: f64,
    start: u64,
    stop: u64,
    epoch: u64,
    due: u64,
    deadlines: BinaryHeap<Reverse<(u64, u32)>>,
}

impl Registers {
    /// Nothing is due yet. A writer and its reader are in the same worker.
    pub(crate) fn new(plan: &Plan, fleet: &Fleet) -> Self {
        let mut by_client = vec![u32::MAX; fleet.len() as usize];
        let mut all = Vec::new();
        if plan.scenario == Scenario::Retained {
            let mut readers = vec![u32::MAX; plan.subscribers as usize];
            for client in 0..fleet.len() {
                match fleet.role(client) {
                    Role::Subscriber(number) => readers[number as usize] = client,
                    Role::Publisher(number) => {
                        let reader = readers[number as usize];
                        by_client[client as usize] = all.len() as u32;
                        by_client[reader as usize] = all.len() as u32;
                        all.push(Register {
                            number,
                            writer: client,
                            reader,
                            topic: plan.topic(number, 0).into(),
                            kept: Kept::Unknown,
                            step: Step::Resting,
                            looks: 0,
                            rounds: 0,
                            owed: 0,
                            packet_id: 0,
                            until: 0,
                        });
                    }
                    Role::Idle(_) | Role::Device(_) => {}
                }
            }
        }
        let rate = plan.rate * all.len() as f64 / f64::from(plan.publishers.max(1));
        Self {
            qos: plan.quality(),
            run: plan.run,
            clear_every: u64::from(plan.clear_every),
            quiet: plan.quiet_ms * MILLISECOND,
            patience: plan.drain_ms * MILLISECOND,
            payload: vec![b'.'; plan.payload_bytes as usize],
            all,
            by_client,
            interval: if rate > 0.0 { SECOND as f64 / rate } else { f64::INFINITY },
            start: u64::MAX,
            stop: 0,
            epoch: 0,
            due: 0,
            deadlines: BinaryHeap::new(),
        }
    }

    /// Rounds are due from `start` to `stop`.
    pub(crate) fn begin(&mut self, epoch: u64, start: u64, stop: u64) {
        (self.epoch, self.start, self.stop) = (epoch, start, stop);
    }

    /// No round begins any more.
    pub(crate) fn end(&mut self, now: u64) {
        self.stop = self.stop.min(now);
    }

    /// Begins the rounds that are due; says when it wants to be called again.
    pub(crate) fn step(
        &mut self,
        net: &mut Net,
        fleet: &Fleet,
        ledger: &mut Ledger,
        now: u64,
        tally: &mut Tally,
    ) -> u64 {
        while let Some(Reverse((until, index))) = self.deadlines.peek().copied()
            && until <= now
        {
            self.deadlines.pop();
            self.give_up(net, index, until, ledger, now, tally);
        }
        let waits = self.deadlines.peek().map_or(u64::MAX, |Reverse((until, _))| *until);
        if self.all.is_empty() || now < self.start {
            return if self.all.is_empty() { u64::MAX } else { self.start };
        }
        for _ in 0..ROUNDS_A_STEP {
            let due = self.start + (self.due as f64 * self.interval) as u64;
            if due >= self.stop {
                return waits;
            }
            if due > now {
                return due.min(waits);
            }
            let index = (self.due % self.all.len() as u64) as u32;
            self.due += 1;
            self.all[index as usize].owed += 1;
            tally.owed += 1;
            self.write(net, fleet, index, now, tally);
        }
        now
    }

    /// The next round, if one is due and nothing else is under way.
    fn write(&mut self, net: &mut Net, fleet: &Fleet, index: u32, now: u64, tally: &mut Tally) {
        let register = &mut self.all[index as usize];
        let ready = register.step == Step::Resting
            && fleet.is_up(register.writer)
            && fleet.is_up(register.reader);
        if register.owed == 0 || !ready {
            return;
        }
        register.owed -= 1;
        tally.owed -= 1;
        register.rounds += 1;
        register.looks = 0;
        register.packet_id = register.packet_id % 60_000 + 1;
        let clears = self.clear_every > 0 && register.rounds.is_multiple_of(self.clear_every);
        register.kept = Kept::Unknown;
        register.step = Step::Writing { since: now, clears };
        let identity = Identity {
            run: self.run,
            publisher: register.number,
            qos: self.qos,
            sequence: register.rounds,
            due_ns: now.saturating_sub(self.epoch),
        };
        identity.write(&mut self.payload);
        let publish = Said::Publish {
            topic: &register.topic,
            qos: self.qos,
            dup: false,
            retain: true,
            packet_id: register.packet_id,
            payload: if clears { &[] } else { &self.payload },
        };
        net.say(register.writer, &publish);
        tally.published += 1;
        tally.awaited += 1;
    }

    /// The reader subscribes.
    fn look(
        &mut self,
        net: &mut Net,
        index: u32,
        ledger: &mut Ledger,
        now: u64,
        tally: &mut Tally,
    ) {
        let (patience, quiet) = (self.patience, self.quiet);
        let register = &mut self.all[index as usize];
        register.looks += 1;
        register.step = Step::Looking { since: now, granted: false, came: false };
        register.packet_id = register.packet_id % 60_000 + 1;
        let (packet_id, qos) = (register.packet_id, self.qos);
        net.say(register.reader, &Said::Subscribe { packet_id, filters: &[&register.topic], qos });
        let wait = match register.kept {
            Kept::Nothing => {
                ledger.retained.empty_looks += 1;
                // The time counts from the SUBACK; until then patience does.
                patience.max(quiet)
            }
            Kept::Value(_) | Kept::Unknown => {
                ledger.retained.looks += 1;
                patience
            }
        };
        register.until = now + wait;
        self.deadlines.push(Reverse((register.until, index)));
        tally.expected += 1;
    }

    /// A look's time is over.
    fn give_up(
        &mut self,
        net: &mut Net,
        index: u32,
        until: u64,
        ledger: &mut Ledger,
        now: u64,
        tally: &mut Tally,
    ) {
        let register = &mut self.all[index as usize];
        let Step::Looking { granted, came, .. } = register.step else { return };
        if register.until != until {
            return;
        }
        match register.kept {
            Kept::Nothing if granted => {}
            Kept::Value(_) if granted && !came => ledger.retained.missing += 1,
            Kept::Nothing | Kept::Value(_) | Kept::Unknown => {
                tally.error("a SUBSCRIBE without a SUBACK in time");
            }
        }
        self.looked(net, index, ledger, now, tally);
    }

    /// A look is over: another, or the end of the round.
    fn looked(
        &mut self,
        net: &mut Net,
        index: u32,
        ledger: &mut Ledger,
        now: u64,
        tally: &mut Tally,
    ) {
        tally.arrived += 1;
        let register = &mut self.all[index as usize];
        let again = matches!(register.kept, Kept::Value(_)) && register.looks < LOOKS;
        if again {
            return self.look(net, index, ledger, now, tally);
        }
        register.step = Step::Leaving;
        register.packet_id = register.packet_id % 60_000 + 1;
        let (packet_id, filter) = (register.packet_id, &*register.topic);
        net.say(register.reader, &Said::Unsubscribe { packet_id, filter });
    }

    /// A client came or went.
    pub(crate) fn changed(&mut self, client: u32, change: &Change, tally: &mut Tally) {
        let Some(register) = self.all.get_mut(self.by_client[client as usize] as usize) else {
            return;
        };
        match change {
            Change::Down | Change::Left => {
                match register.step {
                    // What is kept now nobody knows, and nobody looks.
                    Step::Writing { .. } => tally.given_up += 1,
                    Step::Looking { .. } => tally.arrived += 1,
                    Step::Resting | Step::Leaving => {}
                }
                (register.step, register.kept) = (Step::Resting, Kept::Unknown);
            }
            Change::Up { .. } | Change::Same => {}
        }
    }

    /// Takes in a packet.
    pub(crate) fn told(
        &mut self,
        net: &mut Net,
        fleet: &Fleet,
        client: u32,
        packet: &Heard<'_>,
        ledger: &mut Ledger,
        latency: (&mut Recorder, &mut Recorder),
        tally: &mut Tally,
    ) {
        let index = self.by_client[client as usize];
        let now = net.heard_at();
        let Some(register) = self.all.get_mut(index as usize) else { return };
        match packet {
            Heard::Publish { qos, packet_id, payload, retain } => {
                tally.delivered += 1;
                let kind = match qos {
                    QoS::AtMostOnce => None,
                    QoS::AtLeastOnce => Some(PacketType::Puback),
                    QoS::ExactlyOnce => Some(PacketType::Pubrec),
                };
                if let Some(kind) = kind {
                    net.say(client, &Said::Ack { kind, packet_id: *packet_id });
                }
                let identity = Identity::decode(payload);
                if identity.is_ok_and(|identity| identity.run != self.run) {
                    tally.error("a retained message of another run");
                    return;
                }
                let Step::Looking { since, granted, came } = register.step else {
                    // It may have crossed the UNSUBSCRIBE.
                    if register.step != Step::Leaving {
                        tally.error("delivered to a reader that does not look");
                    }
                    return;
                };
                ledger.retained.came(register.number, register.kept, &identity, *retain);
                latency.0.record(since, now);
                if !came {
                    register.step = Step::Looking { since, granted, came: true };
                }
                if granted && !came && matches!(register.kept, Kept::Value(_)) {
                    self.looked(net, index, ledger, now, tally);
                }
            }
            Heard::Suback { .. } => {
                let Step::Looking { since, granted: false, came } = register.step else { return };
                register.step = Step::Looking { since, granted: true, came };
                match register.kept {
                    Kept::Nothing => {
                        register.until = now + self.quiet;
                        self.deadlines.push(Reverse((register.until, index)));
                    }
                    Kept::Value(_) | Kept::Unknown if came => {
                        self.looked(net, index, ledger, now, tally);
                    }
                    Kept::Value(_) | Kept::Unknown => {}
                }
            }
            Heard::Unsuback { .. } if register.step == Step::Leaving => {
                register.step = Step::Resting;
                self.write(net, fleet, index, now, tally);
            }
            Heard::Ack { kind, packet_id, reason } => {
                self.acknowledged(
                    net,
                    client,
                    (*kind, *packet_id, *reason),
                    ledger,
                    latency.1,
                    tally,
                );
            }
            Heard::Unsuback { .. }
            | Heard::Connack { .. }
            | Heard::Pingresp
            | Heard::Disconnect { .. }
            | Heard::Unasked => {}
        }
    }

    fn acknowledged(
        &mut self,
        net: &mut Net,
        client: u32,
        (kind, packet_id, reason): (PacketType, u16, u8),
        ledger: &mut Ledger,
        latency: &mut Recorder,
        tally: &mut Tally,
    ) {
        let index = self.by_client[client as usize];
        let now = net.heard_at();
        match kind {
            PacketType::Pubrel => {
                return net.say(client, &Said::Ack { kind: PacketType::Pubcomp, packet_id });
            }
            PacketType::Pubrec if reason < REFUSED => {
                return net.say(client, &Said::Ack { kind: PacketType::Pubrel, packet_id });
            }
            _ => {}
        }
        let register = &mut self.all[index as usize];
        let Step::Writing { since, clears } = register.step else {
            tally.error("acknowledged a packet id that was not in flight");
            return;
        };
        if reason >= REFUSED {
            tally.error(&format!("acknowledged with {reason:#04x}"));
            tally.given_up += 1;
            register.step = Step::Resting;
            return;
        }
        tally.acknowledged += 1;
        latency.record(since, now);
        match clears {
            true => {
                register.kept = Kept::Nothing;
                ledger.retained.cleared += 1;
            }
            false => {
                register.kept = Kept::Value(register.rounds);
                ledger.retained.set += 1;
            }
        }
        self.look(net, index, ledger, now, tally);
    }
}
