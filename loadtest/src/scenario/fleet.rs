//! The clients of a worker from dial to farewell: CONNECT, SUBSCRIBE, PINGREQ,
//! and coming back.
//!
//! Dials follow a schedule: a connect that is due counts its latency from then,
//! however long the harness or the broker made it wait.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use anyhow::Result;
use tidegate_codec::QoS;
use tidegate_loadtest::latency::Recorder;

use crate::engine::clock::{self, MILLISECOND, SECOND};
use crate::engine::source::Sources;
use crate::engine::{Gone, Heard, Net, News, Said};
use crate::scenario::backoff::{Chance, delay};
use crate::scenario::plan::{Plan, Role};
use crate::scenario::tally::Tally;

/// Dials of one step; then the socket events have their turn.
const DIALS_A_STEP: usize = 64;
/// A handshake that takes longer has failed.
const HANDSHAKE_TIME_MAX: u64 = 30 * SECOND;
/// The packet id of the one SUBSCRIBE.
const SUBSCRIBE_ID: u16 = u16::MAX;
/// EADDRNOTAVAIL, EADDRINUSE, EMFILE, ENFILE: the harness's own limits.
const PORTS_ERRORS: [i32; 2] = [99, 98];
const FILES_ERRORS: [i32; 2] = [24, 23];

/// Where a client stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Not dialled, or waiting to dial again.
    Waiting,
    /// TCP, TLS, WebSocket or CONNECT are under way.
    Dialling,
    /// Accepted, the SUBACK is awaited.
    Subscribing,
    /// There.
    Up,
}

/// What the traffic must know.
#[derive(Debug)]
pub(crate) enum Change {
    /// Accepted and subscribed.
    Up {
        /// Packets the client may have in flight at the broker.
        receive_maximum: u16,
        /// It had been there before.
        again: bool,
        /// It found the session that it had left.
        resumed: bool,
    },
    /// Not any more.
    Down,
    /// Nothing.
    Same,
}

struct Client {
    role: Role,
    /// When it should have dialled first, however many tries it took; 0 once it is up.
    due: u64,
    /// When it dialled.
    since: u64,
    receive_maximum: u16,
    tries: u8,
    phase: Phase,
    once_up: bool,
    /// The CONNACK said so.
    session_present: bool,
}

// With its slot of the slab this is the own memory of an idle connection.
const _: () = assert!(size_of::<Client>() <= 32);

/// The clients of a worker.
pub(crate) struct Fleet {
    clients: Vec<Client>,
    sources: Sources,
    chance: Chance,
    /// The ramp's next client, when it began and the time between two dials.
    ramp_next: u32,
    ramp_start: u64,
    ramp_interval: f64,
    /// This worker's share of the handshakes that may be under way.
    handshakes_max: u64,
    redials: BinaryHeap<Reverse<(u64, u32)>>,
    /// From where the sweep for pings and stuck handshakes goes on.
    sweep_next: u32,
    sweep_last: u64,
    /// Losses are asked for: the end is near.
    closing: bool,
    /// Since when those are without service that lost it.
    down: HashMap<u32, u64>,
    /// From the loss of a connection to its return.
    pub(crate) gap: Recorder,
    /// From due to accepted and subscribed.
    pub(crate) connect_latency: Recorder,
    /// Why the run is worth nothing: the harness lacked this.
    pub(crate) lacking: Option<&'static str>,
}

impl Fleet {
    /// What a client takes here.
    pub(crate) const CLIENT_BYTES: usize = size_of::<Client>();

    /// Nobody has dialled yet.
    pub(crate) fn new(plan: &Plan, worker: u32, workers: u32) -> Self {
        let clients: Vec<Client> = plan
            .roles(worker, workers)
            .into_iter()
            .map(|role| Client {
                role,
                due: 0,
                since: 0,
                receive_maximum: u16::MAX,
                tries: 0,
                phase: Phase::Waiting,
                once_up: false,
                session_present: false,
            })
            .collect();
        let share = clients.len() as f64 / f64::from(plan.clients().max(1));
        let rate = plan.connect_rate * share;
        Self {
            ramp_interval: if rate > 0.0 { SECOND as f64 / rate } else { 0.0 },
            clients,
            sources: Sources::new(plan.sources.clone(), plan.clients_per_source),
            chance: Chance::new(u64::from(plan.run) << 32 | u64::from(worker)),
            handshakes_max: u64::from((plan.handshakes_max / workers.max(1)).max(1)),
            ramp_next: u32::MAX,
            ramp_start: 0,
            redials: BinaryHeap::new(),
            sweep_next: 0,
            sweep_last: 0,
            closing: false,
            down: HashMap::new(),
            gap: Recorder::default(),
            connect_latency: Recorder::default(),
            lacking: None,
        }
    }

    /// How many clients there are.
    pub(crate) fn len(&self) -> u32 {
        self.clients.len() as u32
    }

    /// What a client is for.
    pub(crate) fn role(&self, index: u32) -> Role {
        self.clients[index as usize].role
    }

    /// Whether a client is there.
    pub(crate) fn is_up(&self, index: u32) -> bool {
        self.clients[index as usize].phase == Phase::Up
    }

    /// The ramp begins.
    pub(crate) fn open(&mut self, start: u64) {
        (self.ramp_next, self.ramp_start) = (0, start);
    }

    /// All connections break; each client comes back after its back-off.
    pub(crate) fn storm(&mut self, net: &mut Net, plan: &Plan, now: u64, tally: &mut Tally) {
        for index in 0..self.len() {
            if self.is_up(index) {
                net.close(index);
                tally.up -= 1;
                self.clients[index as usize].tries = 0;
                self.redial(plan, index, now);
            }
        }
    }

    /// No more dials, and losses no longer count. Sessions end, where a DISCONNECT can say that.
    pub(crate) fn close(&mut self, net: &mut Net) -> Result<()> {
        self.closing = true;
        for index in 0..self.len() {
            if self.is_up(index) {
                net.say(index, &Said::Disconnect { session_ends: true });
            }
        }
        net.flush()?;
        for index in 0..self.len() {
            net.close(index);
        }
        Ok(())
    }

    /// Dials who is due, pings who was quiet; says when it wants to be called again.
    pub(crate) fn step(
        &mut self,
        net: &mut Net,
        plan: &Plan,
        now: u64,
        tally: &mut Tally,
    ) -> Result<u64> {
        if self.closing {
            return Ok(u64::MAX);
        }
        self.sweep(net, plan, now, tally)?;
        for _ in 0..DIALS_A_STEP {
            let Some((due, index)) = self.next_dial(now, tally) else {
                return Ok(self.next_due(tally));
            };
            self.dial(net, plan, index, due, now, tally)?;
        }
        Ok(now)
    }

    fn ramp_due(&self) -> u64 {
        self.ramp_start + (f64::from(self.ramp_next) * self.ramp_interval) as u64
    }

    /// A ramp without a rate has as many handshakes under way as allowed, no more.
    fn ramp_waits(&self, tally: &Tally) -> bool {
        self.ramp_interval == 0.0 && tally.connecting >= self.handshakes_max
    }

    fn next_due(&self, tally: &Tally) -> u64 {
        let redial = self.redials.peek().map_or(u64::MAX, |Reverse((due, _))| *due);
        let ramp = self.ramp_next < self.len() && !self.ramp_waits(tally);
        if ramp { redial.min(self.ramp_due()) } else { redial }
    }

    fn next_dial(&mut self, now: u64, tally: &Tally) -> Option<(u64, u32)> {
        if let Some(Reverse((due, _))) = self.redials.peek()
            && *due <= now
        {
            return self.redials.pop().map(|Reverse(next)| next);
        }
        if self.ramp_next >= self.len() || self.ramp_waits(tally) {
            return None;
        }
        let due = self.ramp_due();
        if due > now {
            return None;
        }
        let index = self.ramp_next;
        self.ramp_next += 1;
        // Without a rate nobody was due before his turn came.
        Some((if self.ramp_interval == 0.0 { now } else { due }, index))
    }

    fn dial(
        &mut self,
        net: &mut Net,
        plan: &Plan,
        index: u32,
        due: u64,
        now: u64,
        tally: &mut Tally,
    ) -> Result<()> {
        let role = self.role(index);
        let target = plan.target(role);
        let source = self.sources.of(plan.number(role), target);
        tally.attempted += 1;
        let client = &mut self.clients[index as usize];
        if client.due == 0 {
            client.due = due;
        }
        if let Err(error) = net.open(index, target, source, plan.wire(role)) {
            let code = error.downcast_ref::<std::io::Error>().and_then(|io| io.raw_os_error());
            let name = match code {
                Some(code) if PORTS_ERRORS.contains(&code) => "no port left on this side",
                Some(code) if FILES_ERRORS.contains(&code) => "no file descriptor left",
                Some(_) => "connect failed",
                None => return Err(error),
            };
            if name != "connect failed" {
                self.lacking = Some(if name.contains("port") { "ports" } else { "open files" });
            }
            tally.error(name);
            tally.failed += 1;
            self.redial(plan, index, now);
            return Ok(());
        }
        let client = &mut self.clients[index as usize];
        client.since = now;
        client.phase = Phase::Dialling;
        tally.connecting += 1;
        Ok(())
    }

    /// After its back-off.
    fn redial(&mut self, plan: &Plan, index: u32, now: u64) {
        let client = &mut self.clients[index as usize];
        client.phase = Phase::Waiting;
        let due = now + delay(plan, client.tries, &mut self.chance);
        client.tries = client.tries.saturating_add(1);
        self.redials.push(Reverse((due, index)));
    }

    /// Goes over all clients once in half a keep-alive, a slice at a time, so that pings of a
    /// million clients are spread evenly.
    fn sweep(&mut self, net: &mut Net, plan: &Plan, now: u64, tally: &mut Tally) -> Result<()> {
        let round = match plan.keep_alive_s {
            0 => HANDSHAKE_TIME_MAX,
            seconds => u64::from(seconds) * SECOND / 2,
        };
        let passed = now.saturating_sub(self.sweep_last).min(round);
        let count = u128::from(self.len()) * u128::from(passed) / u128::from(round);
        if count == 0 {
            return Ok(());
        }
        self.sweep_last = now;
        for _ in 0..count {
            let index = self.sweep_next;
            self.sweep_next = (index + 1) % self.len();
            let client = &self.clients[index as usize];
            match client.phase {
                Phase::Waiting => {}
                Phase::Up if plan.keep_alive_s > 0 => {
                    net.say(index, &Said::Pingreq);
                    tally.pings += 1;
                }
                Phase::Up => {}
                Phase::Dialling | Phase::Subscribing => {
                    if now > client.since + HANDSHAKE_TIME_MAX {
                        net.close(index);
                        tally.error("handshake took over 30 s");
                        self.fallen(plan, index, now, tally);
                    }
                }
            }
        }
        Ok(())
    }

    /// A connection is over that was to go on.
    fn fallen(&mut self, plan: &Plan, index: u32, now: u64, tally: &mut Tally) -> Change {
        let phase = self.clients[index as usize].phase;
        match phase {
            Phase::Waiting => return Change::Same,
            Phase::Dialling | Phase::Subscribing => {
                tally.connecting -= 1;
                tally.failed += 1;
            }
            Phase::Up => {
                tally.up -= 1;
                tally.lost += 1;
                if plan.reconnect {
                    self.down.insert(index, now);
                }
            }
        }
        if !self.closing {
            self.redial(plan, index, now);
        }
        if phase == Phase::Up { Change::Down } else { Change::Same }
    }

    /// Takes in what is the fleet's business; other packets are for the traffic.
    pub(crate) fn told(
        &mut self,
        net: &mut Net,
        plan: &Plan,
        index: u32,
        news: &News<'_>,
        tally: &mut Tally,
    ) -> Result<Change> {
        // A message on the hot path needs no time from here.
        if matches!(news, News::Packet(Heard::Publish { .. } | Heard::Ack { .. })) {
            return Ok(Change::Same);
        }
        let now = clock::now();
        match news {
            News::Ready => {
                self.say_connect(net, plan, index);
                Ok(Change::Same)
            }
            News::Gone(gone) => {
                if self.closing {
                    return Ok(Change::Same);
                }
                self.count_gone(*gone, index, tally);
                Ok(self.fallen(plan, index, now, tally))
            }
            News::Packet(Heard::Connack { code, session_present, receive_maximum, .. }) => {
                let client = &mut self.clients[index as usize];
                client.receive_maximum = *receive_maximum;
                client.session_present = *session_present;
                Ok(self.connack(net, plan, index, *code, now, tally))
            }
            News::Packet(Heard::Suback { code, packet_id: _ }) => {
                if *code >= 0x80 {
                    tally.error("SUBACK refuses");
                } else if *code < self.granted(plan, index) as u8 {
                    tally.error("SUBACK grants a lower QoS");
                }
                Ok(self.up(index, now, tally))
            }
            News::Packet(Heard::Pingresp) => {
                tally.pongs += 1;
                Ok(Change::Same)
            }
            News::Packet(Heard::Disconnect { reason, server_reference: _ }) => {
                tally.error(&format!("DISCONNECT {reason:#04x}"));
                Ok(Change::Same)
            }
            News::Packet(Heard::Unasked | Heard::Unsuback { .. }) => {
                tally.error("a packet that nobody asked for");
                Ok(Change::Same)
            }
            News::Packet(Heard::Publish { .. } | Heard::Ack { .. }) => Ok(Change::Same),
        }
    }

    fn count_gone(&self, gone: Gone, index: u32, tally: &mut Tally) {
        match self.clients[index as usize].phase {
            Phase::Waiting => {}
            Phase::Dialling | Phase::Subscribing => {
                tally.error(&format!("{} in the handshake", gone.label()));
            }
            Phase::Up => tally.error(gone.label()),
        }
    }

    fn say_connect(&self, net: &mut Net, plan: &Plan, index: u32) {
        let connect = Said::Connect {
            client_id: &plan.client_id(self.role(index)),
            session_s: plan.session_s(self.role(index)),
            keep_alive: plan.keep_alive_s,
            username: plan.username.as_deref(),
            password: plan.password.as_deref(),
        };
        net.say(index, &connect);
    }

    fn connack(
        &mut self,
        net: &mut Net,
        plan: &Plan,
        index: u32,
        code: u8,
        now: u64,
        tally: &mut Tally,
    ) -> Change {
        if code != 0 {
            tally.error(&format!("CONNACK {code:#04x}"));
            tally.refused += 1;
            tally.connecting -= 1;
            net.close(index);
            self.redial(plan, index, now);
            return Change::Same;
        }
        let client = &mut self.clients[index as usize];
        let durable = plan.session_s(client.role).is_some();
        if client.session_present && !durable {
            // [MQTT-3.2.2-2]
            tally.error("CONNACK speaks of a session after a clean start");
        }
        // One that never came to its SUBACK may have a session without a subscription.
        let resumed = durable && client.once_up && client.session_present;
        client.session_present = resumed;
        let Some(filter) = plan.filter(client.role).filter(|_| !resumed) else {
            return self.up(index, now, tally);
        };
        let qos = self.granted(plan, index);
        let filters = &[filter.as_str()][..];
        net.say(index, &Said::Subscribe { packet_id: SUBSCRIBE_ID, filters, qos });
        self.clients[index as usize].phase = Phase::Subscribing;
        Change::Same
    }

    fn granted(&self, plan: &Plan, index: u32) -> QoS {
        match self.role(index) {
            Role::Subscriber(_) => plan.quality(),
            Role::Publisher(_) | Role::Idle(_) => QoS::AtMostOnce,
        }
    }

    fn up(&mut self, index: u32, now: u64, tally: &mut Tally) -> Change {
        let client = &mut self.clients[index as usize];
        self.connect_latency.record(client.due, now);
        client.due = 0;
        client.phase = Phase::Up;
        client.tries = 0;
        tally.connecting -= 1;
        tally.established += 1;
        tally.up += 1;
        let again = client.once_up;
        tally.reconnected += u64::from(again);
        tally.last_up = now;
        client.once_up = true;
        let resumed = client.session_present;
        tally.resumed += u64::from(resumed);
        if let Some(since) = self.down.remove(&index) {
            self.gap.record(since, now);
        }
        Change::Up { receive_maximum: client.receive_maximum, again, resumed }
    }
}

/// Nobody waits longer than this in a turn: commands are looked at in between.
pub(crate) const TURN_TIME_MAX: u64 = 5 * MILLISECOND;
