//! The clients of a worker from dial to farewell: CONNECT, SUBSCRIBE, PINGREQ,
//! and coming back.
//!
//! Dials follow a schedule: a connect that is due counts its latency from then,
//! however long the harness or the broker made it wait.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;

use anyhow::Result;
use tidegate_loadtest::latency::Recorder;
use tidegate_loadtest::ledger::Ledger;

use crate::engine::clock::{self, MILLISECOND, SECOND};
use crate::engine::source::Sources;
use crate::engine::{Gone, Heard, Net, News, Said};
use crate::scenario::backoff::{Chance, delay};
use crate::scenario::classes::Churn;
use crate::scenario::plan::{Plan, Role};
use crate::scenario::takeover::Takeovers;
use crate::scenario::tally::Tally;

/// Dials of one step; then the socket events have their turn.
const DIALS_A_STEP: usize = 64;
/// A handshake that takes longer has failed.
const HANDSHAKE_TIME_MAX: u64 = 30 * SECOND;
/// The packet id of the first SUBSCRIBE; others count down from it.
const SUBSCRIBE_ID: u16 = u16::MAX;
/// Filters of one SUBSCRIBE.
const FILTERS_A_SUBSCRIBE: usize = 64;
/// A broker that left so many pings unanswered is gone, though its connection is not.
const UNANSWERED_MAX: u8 = 3;
/// Reasons that send a client elsewhere.
const MOVES: [u8; 2] = [0x9C, 0x9D];
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
    /// It went on purpose.
    Left,
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
    /// PINGREQs since the last PINGRESP.
    unanswered: u8,
}

// With its slot of the slab this is the own memory of an idle connection.
const _: () = assert!(size_of::<Client>() <= 32);

/// The clients of a worker.
pub(crate) struct Fleet {
    clients: Vec<Client>,
    /// The shortest keep-alive, without those that have none.
    keep_alive_s: u16,
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
    /// SUBACKs that are awaited, where they are more than one.
    subacks: HashMap<u32, u16>,
    /// Those who go elsewhere than the plan says.
    elsewhere: HashMap<u32, SocketAddr>,
    /// Those whom a server sends elsewhere.
    sent_on: HashMap<u32, SocketAddr>,
    /// Who goes on purpose.
    leavers: Vec<Leavers>,
    takeovers: Takeovers,
    /// When churn begins and ends.
    churn_from: u64,
    churn_until: u64,
    /// What the traffic must be told, of clients that went without news from a socket.
    pub(crate) changes: Vec<(u32, Change)>,
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
                unanswered: 0,
            })
            .collect();
        // The most impatient class sets the pace for all.
        let keep_alives = clients.iter().map(|client| plan.keep_alive_s(client.role));
        let keep_alive_s = keep_alives.filter(|seconds| *seconds > 0).min().unwrap_or(0);
        let share = clients.len() as f64 / f64::from(plan.clients().max(1));
        let rate = plan.connect_rate * share;
        Self {
            ramp_interval: if rate > 0.0 { SECOND as f64 / rate } else { 0.0 },
            keep_alive_s,
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
            subacks: HashMap::new(),
            elsewhere: HashMap::new(),
            sent_on: HashMap::new(),
            leavers: Vec::new(),
            takeovers: Takeovers::default(),
            churn_from: u64::MAX,
            churn_until: 0,
            changes: Vec::new(),
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

    /// Messages flow until `stop`, and as long clients come and go as the plan says.
    pub(crate) fn churn(&mut self, plan: &Plan, start: u64, stop: u64) {
        (self.churn_from, self.churn_until) = (start, stop);
        if plan.takeover_rate > 0.0 {
            let all: Vec<u32> = (0..self.len()).collect();
            let rate = plan.takeover_rate * all.len() as f64 / f64::from(plan.clients().max(1));
            self.leavers.push(Leavers::new(all, rate, None, start));
        }
        for class in &plan.classes {
            let Some(churn) = class.churn else { continue };
            let own = class.first..class.first + class.count;
            let clients: Vec<u32> = (0..self.len())
                .filter(|index| matches!(self.role(*index), Role::Device(at) if own.contains(&at)))
                .collect();
            let rate = churn.per_minute / 60.0 * clients.len() as f64;
            self.leavers.push(Leavers::new(clients, rate, Some(churn), start));
        }
    }

    /// No client goes on purpose any more from then on.
    pub(crate) fn end_churn(&mut self, now: u64) {
        self.churn_until = self.churn_until.min(now);
    }

    /// Clients that go on purpose, or come a second time; says when the next is due.
    fn leave(
        &mut self,
        net: &mut Net,
        plan: &Plan,
        ledger: &mut Ledger,
        now: u64,
        tally: &mut Tally,
    ) -> Result<u64> {
        self.takeovers.expire(net, now, ledger, tally);
        tally.taking_over = self.takeovers.len() as u64;
        if now < self.churn_from || now >= self.churn_until {
            return Ok(u64::MAX);
        }
        let mut next = u64::MAX;
        for at in 0..self.leavers.len() {
            for _ in 0..DIALS_A_STEP {
                let leavers = &mut self.leavers[at];
                let due = leavers.due();
                if due > now {
                    break;
                }
                leavers.gone += 1;
                let index =
                    leavers.clients[self.chance.below(leavers.clients.len() as u64) as usize];
                let churn = leavers.churn;
                if !self.is_up(index) || self.takeovers.has(index) {
                    continue;
                }
                match churn {
                    Some(churn) => self.go(net, index, &churn, now, tally)?,
                    None => self.come_twice(net, plan, index, now, tally)?,
                }
            }
            next = next.min(self.leavers[at].due());
        }
        Ok(next)
    }

    /// A client goes, for a while, with or without a word.
    fn go(
        &mut self,
        net: &mut Net,
        index: u32,
        churn: &Churn,
        now: u64,
        tally: &mut Tally,
    ) -> Result<()> {
        if self.chance.share() >= churn.abrupt {
            net.say(index, &Said::Disconnect { session_ends: false });
            net.flush()?;
        }
        net.close(index);
        tally.up -= 1;
        tally.left += 1;
        let client = &mut self.clients[index as usize];
        (client.phase, client.tries) = (Phase::Waiting, 0);
        self.redials.push(Reverse((now + churn.away_ms * MILLISECOND, index)));
        self.changes.push((index, Change::Left));
        Ok(())
    }

    /// A client connects again while its connection lives.
    fn come_twice(
        &mut self,
        net: &mut Net,
        plan: &Plan,
        index: u32,
        now: u64,
        tally: &mut Tally,
    ) -> Result<()> {
        let spare = index + self.len();
        net.shift(index, spare)?;
        self.takeovers.begin(index, spare);
        tally.up -= 1;
        let client = &mut self.clients[index as usize];
        (client.phase, client.tries) = (Phase::Waiting, 0);
        self.down.insert(index, now);
        self.changes.push((index, Change::Down));
        self.dial(net, plan, index, now, now, tally)
    }

    /// Whether what comes in a slot is of a connection that was taken over.
    pub(crate) fn obsolete(&self, slot: u32) -> bool {
        slot >= self.len() && self.takeovers.obsolete(slot - self.len())
    }

    /// News of a connection that moved to a spare slot, when its client came a second time.
    pub(crate) fn told_of_first(
        &mut self,
        plan: &Plan,
        client: u32,
        news: &News<'_>,
        ledger: &mut Ledger,
    ) {
        let v5 = plan.wire(self.role(client)).1.is_v5();
        match news {
            News::Gone(gone) => self.takeovers.gone(client, *gone, v5, ledger),
            News::Packet(Heard::Disconnect { reason, .. }) => self.takeovers.told(client, *reason),
            News::Packet(_) | News::Ready => {}
        }
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
        ledger: &mut Ledger,
        now: u64,
        tally: &mut Tally,
    ) -> Result<u64> {
        if self.closing {
            return Ok(u64::MAX);
        }
        self.sweep(net, plan, now, tally)?;
        let leave = self.leave(net, plan, ledger, now, tally)?;
        for _ in 0..DIALS_A_STEP {
            let Some((due, index)) = self.next_dial(now, tally) else {
                return Ok(self.next_due(tally).min(leave));
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
        let target = match self.sent_on.remove(&index) {
            Some(target) => {
                tally.followed += 1;
                self.elsewhere.insert(index, target);
                target
            }
            None => self.target(plan, index),
        };
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

    fn target(&self, plan: &Plan, index: u32) -> SocketAddr {
        let elsewhere = self.elsewhere.get(&index).copied();
        elsewhere.unwrap_or_else(|| plan.target(self.role(index)))
    }

    /// A server says where to go instead. An address, or one of the targets by its name.
    fn send_on(&mut self, plan: &Plan, index: u32, reference: Option<&str>, tally: &mut Tally) {
        let at = reference.and_then(|text| {
            text.split_whitespace().find_map(|one| {
                let named = || plan.names.iter().position(|name| name == one);
                one.parse().ok().or_else(|| plan.targets.get(named()?).copied())
            })
        });
        match at {
            Some(at) => drop(self.sent_on.insert(index, at)),
            None if reference.is_some() => tally.error("a server reference that is no address"),
            None => {}
        }
    }

    /// The next of the targets, for who lost the one it had.
    fn wander(&mut self, plan: &Plan, index: u32) {
        if plan.wanders() && !self.sent_on.contains_key(&index) {
            let now = self.target(plan, index);
            let at = plan.targets.iter().position(|target| *target == now).unwrap_or(0);
            self.elsewhere.insert(index, plan.targets[(at + 1) % plan.targets.len()]);
        }
    }

    /// After its back-off.
    fn redial(&mut self, plan: &Plan, index: u32, now: u64) {
        self.wander(plan, index);
        let client = &mut self.clients[index as usize];
        client.phase = Phase::Waiting;
        let due = now + delay(plan, client.tries, &mut self.chance);
        client.tries = client.tries.saturating_add(1);
        self.redials.push(Reverse((due, index)));
    }

    /// Goes over all clients once in half a keep-alive, a slice at a time, so that pings of a
    /// million clients are spread evenly.
    fn sweep(&mut self, net: &mut Net, plan: &Plan, now: u64, tally: &mut Tally) -> Result<()> {
        let round = match self.keep_alive_s {
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
            let client = &mut self.clients[index as usize];
            match client.phase {
                Phase::Waiting => {}
                Phase::Up if client.unanswered >= UNANSWERED_MAX => {
                    net.close(index);
                    tally.error("no PINGRESP in one and a half keep-alives");
                    let change = self.fallen(plan, index, now, tally);
                    self.changes.push((index, change));
                }
                Phase::Up if plan.keep_alive_s(client.role) > 0 => {
                    client.unanswered += 1;
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
        self.subacks.remove(&index);
        if phase == Phase::Up { Change::Down } else { Change::Same }
    }

    /// Takes in what is the fleet's business; other packets are for the traffic.
    pub(crate) fn told(
        &mut self,
        net: &mut Net,
        plan: &Plan,
        index: u32,
        news: &News<'_>,
        ledger: &mut Ledger,
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
            News::Packet(Heard::Connack {
                code,
                session_present,
                receive_maximum,
                server_reference,
            }) => {
                if MOVES.contains(code) {
                    self.send_on(plan, index, server_reference.as_deref(), tally);
                }
                if *code == 0 {
                    let v5 = plan.wire(self.role(index)).1.is_v5();
                    self.takeovers.accepted(index, now, v5, ledger);
                }
                let client = &mut self.clients[index as usize];
                client.receive_maximum = *receive_maximum;
                client.session_present = *session_present;
                Ok(self.connack(net, plan, index, *code, now, tally))
            }
            News::Packet(Heard::Suback { code, packet_id: _ }) => {
                if *code >= 0x80 {
                    tally.error("SUBACK refuses");
                } else if *code < plan.granted(self.role(index)) as u8 {
                    tally.error("SUBACK grants a lower QoS");
                }
                // A reader of retained messages subscribes while it is up.
                if self.clients[index as usize].phase != Phase::Subscribing {
                    return Ok(Change::Same);
                }
                if let Some(left) = self.subacks.get_mut(&index) {
                    *left -= 1;
                    if *left > 0 {
                        return Ok(Change::Same);
                    }
                    self.subacks.remove(&index);
                }
                Ok(self.up(index, now, tally))
            }
            News::Packet(Heard::Pingresp) => {
                tally.pongs += 1;
                self.clients[index as usize].unanswered = 0;
                Ok(Change::Same)
            }
            News::Packet(Heard::Disconnect { reason, server_reference }) => {
                if MOVES.contains(reason) {
                    self.send_on(plan, index, server_reference.as_deref(), tally);
                }
                tally.error(&format!("DISCONNECT {reason:#04x}"));
                Ok(Change::Same)
            }
            News::Packet(Heard::Unsuback { .. }) => Ok(Change::Same),
            News::Packet(Heard::Unasked) => {
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
            keep_alive: plan.keep_alive_s(self.role(index)),
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
        let filters = if resumed { Vec::new() } else { plan.filters(client.role) };
        if filters.is_empty() {
            return self.up(index, now, tally);
        }
        let qos = plan.granted(client.role);
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let mut packet_id = SUBSCRIBE_ID;
        for filters in filters.chunks(FILTERS_A_SUBSCRIBE) {
            net.say(index, &Said::Subscribe { packet_id, filters, qos });
            packet_id -= 1;
        }
        if filters.len() > FILTERS_A_SUBSCRIBE {
            self.subacks.insert(index, SUBSCRIBE_ID - packet_id);
        }
        self.clients[index as usize].phase = Phase::Subscribing;
        Change::Same
    }

    fn up(&mut self, index: u32, now: u64, tally: &mut Tally) -> Change {
        let client = &mut self.clients[index as usize];
        self.connect_latency.record(client.due, now);
        client.due = 0;
        client.phase = Phase::Up;
        (client.tries, client.unanswered) = (0, 0);
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

/// Clients of whom one goes, or comes a second time, at a rate.
#[derive(Debug)]
struct Leavers {
    clients: Vec<u32>,
    /// None: they come a second time.
    churn: Option<Churn>,
    start: u64,
    interval: f64,
    gone: u64,
}

impl Leavers {
    fn new(clients: Vec<u32>, rate: f64, churn: Option<Churn>, start: u64) -> Self {
        let interval = if rate > 0.0 { SECOND as f64 / rate } else { f64::INFINITY };
        Self { clients, churn, start, interval, gone: 0 }
    }

    fn due(&self) -> u64 {
        let after = (self.gone + 1) as f64 * self.interval;
        if after.is_finite() { self.start + after as u64 } else { u64::MAX }
    }
}

/// Nobody waits longer than this in a turn: commands are looked at in between.
pub(crate) const TURN_TIME_MAX: u64 = 5 * MILLISECOND;
