//! A worker: one process, one thread for all its connections.
//!
//! A second thread only reads orders, since a pipe may hold half a line.

use std::io::{BufReader, Read, Write};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::engine::clock::{self, MILLISECOND};
use crate::engine::{Net, News};
use crate::procfs;
use crate::protocol::{Order, Part, Report, TICK_MS, Tick, hear, say};
use crate::scenario::census::Roll;
use crate::scenario::fleet::{Change, Fleet, TURN_TIME_MAX};
use crate::scenario::plan::{Plan, Scenario};
use crate::scenario::registers::Registers;
use crate::scenario::tally::Tally;
use crate::scenario::traffic::Traffic;

/// Orders that wait; there are a handful in a run.
const ORDERS_MAX: usize = 64;

/// Works until it is told to finish, or until the orders end.
pub(crate) fn work(from: impl Read + Send + 'static, to: impl Write) -> Result<()> {
    let mut to = to;
    match obey(from, &mut to) {
        Ok(()) => Ok(()),
        Err(error) => {
            say(&mut to, &Report::Broken { why: format!("{error:#}") })?;
            Err(error)
        }
    }
}

fn obey(from: impl Read + Send + 'static, to: &mut impl Write) -> Result<()> {
    lift_file_limit();
    let orders = orders(from);
    let Order::Job { plan, worker, workers } = orders.recv().context("no job came")? else {
        bail!("the first order is no job");
    };
    let mut job = Job::new(*plan, worker, workers)?;
    let pid = std::process::id();
    say(to, &Report::Hello { pid, anonymous_bytes: job.anonymous_bytes })?;
    loop {
        loop {
            match orders.try_recv() {
                Ok(Order::Finish) => {
                    // First: to say farewell to a million takes minutes.
                    say(to, &Report::Part(Box::new(job.part())))?;
                    return job.fleet.close(&mut job.net);
                }
                Ok(Order::Clock { sent }) => say(to, &Report::Clock { sent, here: clock::now() })?,
                Ok(order) => job.order(order)?,
                Err(TryRecvError::Empty) => break,
                // The coordinator is gone; nobody wants the part.
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
        job.turn()?;
        if let Some(tick) = job.tick() {
            say(to, &Report::Tick(Box::new(tick)))?;
        }
    }
}

fn orders(from: impl Read + Send + 'static) -> Receiver<Order> {
    let (sender, receiver) = sync_channel(ORDERS_MAX);
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        while let Ok(Some(order)) = hear(&mut from) {
            if sender.send(order).is_err() {
                return;
            }
        }
    });
    receiver
}

/// As many descriptors as the system lets us have.
pub(crate) fn lift_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Refused: then the limit stays, and a dial that hits it is counted.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The own memory of an idle connection, without a layer over TCP.
const IDLE_BYTES: usize = Net::SLOT_BYTES + Fleet::CLIENT_BYTES;
const _: () = assert!(IDLE_BYTES <= 200);

struct Job {
    plan: Plan,
    worker: u32,
    workers: u32,
    net: Net,
    fleet: Fleet,
    traffic: Traffic,
    roll: Roll,
    registers: Registers,
    tally: Tally,
    epoch: Option<u64>,
    ticks: u64,
    anonymous_bytes: u64,
    /// How far this machine's clock is ahead of the coordinator's.
    ahead: i64,
}

/// Ticks between two looks at our own anonymous memory, which costs more than the others.
const MEMORY_TICKS: u64 = 5;

impl Job {
    fn new(plan: Plan, worker: u32, workers: u32) -> Result<Self> {
        let fleet = Fleet::new(&plan, worker, workers);
        let traffic = Traffic::new(&plan, &fleet);
        let registers = Registers::new(&plan, &fleet);
        // Who comes a second time needs a second slot.
        let slots = if plan.takeover_rate > 0.0 { fleet.len() * 2 } else { fleet.len() };
        let net = Net::new(slots, plan.codec)?;
        let tally = Tally::default();
        let anonymous_bytes = procfs::anonymous_bytes(std::process::id()).unwrap_or(0);
        let (epoch, ticks, ahead) = (None, 0, 0);
        Ok(Self {
            plan,
            worker,
            workers,
            net,
            fleet,
            traffic,
            roll: Roll::default(),
            registers,
            tally,
            epoch,
            ticks,
            anonymous_bytes,
            ahead,
        })
    }

    fn order(&mut self, order: Order) -> Result<()> {
        match order {
            Order::Job { .. } => bail!("a second job"),
            Order::Finish | Order::Clock { .. } => bail!("that is the caller's to answer"),
            Order::Shift { ahead } => self.ahead = ahead,
            Order::Open { epoch } => {
                let epoch = epoch.saturating_add_signed(self.ahead);
                self.epoch = Some(epoch);
                self.fleet.open(epoch);
            }
            Order::Storm => {
                self.fleet.storm(&mut self.net, &self.plan, clock::now(), &mut self.tally);
            }
            Order::Ping => self.roll.begin(&self.fleet),
            Order::Traffic { start } => {
                let epoch = self.epoch.context("traffic before the ramp")?;
                let start = start.saturating_add_signed(self.ahead);
                self.traffic.begin(epoch, start, self.worker, self.workers);
                self.registers.begin(epoch, start, self.traffic.stop());
                self.fleet.churn(&self.plan, start, self.traffic.stop());
            }
            Order::Stop => {
                let now = clock::now();
                self.traffic.end(now);
                self.registers.end(now);
                self.fleet.end_churn(now);
            }
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<()> {
        let Self { plan, net, fleet, traffic, roll, registers, tally, .. } = self;
        let now = clock::now();
        let dial = fleet.step(net, plan, &mut traffic.ledger, now, tally)?;
        for (client, change) in std::mem::take(&mut fleet.changes) {
            traffic.changed(fleet, client, &change, tally);
            registers.changed(client, &change, tally);
        }
        let send = traffic.step(net, now, tally).min(roll.step(net, fleet, now, tally));
        let write = registers.step(net, fleet, &mut traffic.ledger, now, tally);
        net.flush()?;
        let until = dial.min(send).min(write).min(now + TURN_TIME_MAX);
        let (clients, retained) = (fleet.len(), plan.scenario == Scenario::Retained);
        net.turn(until, &mut |net, slot, news| {
            let client = slot % clients;
            if slot >= clients {
                // A first connection, whose client came a second time.
                if let News::Packet(packet) = &news
                    && !fleet.obsolete(slot)
                {
                    traffic.told(net, fleet, (slot, client), packet, tally);
                }
                fleet.told_of_first(plan, client, &news, &mut traffic.ledger);
                return Ok(());
            }
            let change = fleet.told(net, plan, client, &news, &mut traffic.ledger, tally)?;
            if !matches!(change, Change::Same) {
                traffic.changed(fleet, client, &change, tally);
                registers.changed(client, &change, tally);
            }
            match &news {
                News::Packet(packet) if retained => {
                    let Traffic { ledger, latency_fresh, ack_latency, .. } = traffic;
                    let latency = (latency_fresh, ack_latency);
                    registers.told(net, fleet, client, packet, ledger, latency, tally);
                }
                News::Packet(packet) => {
                    traffic.told(net, fleet, (slot, client), packet, tally);
                }
                News::Ready | News::Gone(_) => {}
            }
            Ok(())
        })
    }

    /// The tick, if it is time for one.
    fn tick(&mut self) -> Option<Tick> {
        let passed = clock::now().checked_sub(self.epoch?)?;
        let number = passed / (TICK_MS * MILLISECOND);
        if number <= self.ticks {
            return None;
        }
        self.ticks = number;
        let pid = std::process::id();
        if number.is_multiple_of(MEMORY_TICKS) {
            self.anonymous_bytes = procfs::anonymous_bytes(pid).unwrap_or(0);
        }
        let latency = self.traffic.fresh_latency();
        Some(Tick {
            number,
            tally: self.tally(),
            latency,
            usage: procfs::usage(pid).unwrap_or_default(),
            anonymous_bytes: self.anonymous_bytes,
        })
    }

    /// The counts so far, in the coordinator's time.
    fn tally(&self) -> Tally {
        Tally {
            received_bytes: self.net.bytes_in(),
            sent_bytes: self.net.bytes_out(),
            last_up: self.tally.last_up.saturating_add_signed(-self.ahead),
            ..self.tally.clone()
        }
    }

    fn part(&mut self) -> Part {
        let mut ledger = self.traffic.ledger.part();
        ledger.set_clock(self.ahead);
        Part {
            gap: self.fleet.gap.save(),
            latency: self.traffic.all_latency(),
            ack_latency: self.traffic.ack_latency.save(),
            connect_latency: self.fleet.connect_latency.save(),
            lateness: self.traffic.lateness.save(),
            ledger,
            lacking: self.fleet.lacking.map(str::to_owned),
            tally: self.tally(),
        }
    }
}
