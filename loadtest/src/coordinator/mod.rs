//! One run from the first dial to the verdict.
//!
//! Workers do the work; this paces them, watches the broker from outside, and
//! adds up. Phases end when their aim is reached or their time is over, and
//! what was not reached is in the outcome, never papered over.

mod broker;
mod fill;
pub(crate) mod floor;
mod workers;

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use tidegate_loadtest::faces::terminal::Moment;
use tidegate_loadtest::latency::Recorder;
use tidegate_loadtest::outcome::{Cost, Event, Memory, Outcome, Sample};

use crate::engine::clock::{self, MILLISECOND};
use crate::procfs::Usage;
use crate::protocol::{Order, TICK_MS};
use crate::scenario::plan::{Plan, Scenario};
use crate::scenario::tally::Tally;
use broker::{Brokers, MemoryNow};
use workers::Workers;

/// Workers need a moment to take an order in; an instant given to them lies this far ahead.
const LEAD_MS: u64 = 50;
/// How long memory settles before it is read.
const SETTLE_MS: u64 = 300;

/// A trigger that takes longer is stuck.
const TRIGGER_TIME_MAX: Duration = Duration::from_secs(600);

/// The phase that lasts until nothing is missing.
const DRAINING: &str = "draining";

/// What is asked of a coordinator.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The run.
    pub(crate) plan: Plan,
    /// Worker processes.
    pub(crate) workers: u32,
    /// Where workers run; empty: here.
    pub(crate) agents: Vec<SocketAddr>,
    /// The brokers' process ids; empty to look for them.
    pub(crate) pids: Vec<u32>,
    /// What to call the run.
    pub(crate) label: String,
    /// What rolls a node, if the harness is to start it.
    pub(crate) trigger: Option<String>,
    /// Time before it and after.
    pub(crate) settle_ms: u64,
}

/// Who looks on while a run goes on.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(&Moment<'_>);

/// Runs it. `watch` sees each sample. Once `stop` is set, nothing new is begun: what is under way
/// is settled, and the outcome says that it was interrupted.
pub(crate) fn run(
    request: &Request,
    watch: Watch<'_>,
    stop: &'static AtomicBool,
) -> Result<Outcome> {
    let mut run = Run::start(request, watch, stop)?;
    run.open()?;
    match request.plan.scenario {
        // Nothing is up: there is nothing to hold, to break or to publish.
        _ if run.tally.up == 0 => {}
        Scenario::Connect => run.hold()?,
        Scenario::FanOut if request.plan.hold_ms > 0 => {
            run.hold()?;
            run.flow()?;
        }
        Scenario::Storm => run.storms()?,
        Scenario::FanIn
        | Scenario::FanOut
        | Scenario::Pairs
        | Scenario::Shared
        | Scenario::Wildcard
        | Scenario::Retained
        | Scenario::Takeover
        | Scenario::Mixed => run.flow()?,
        Scenario::Drain | Scenario::Upgrade => run.roll(request)?,
    }
    if request.plan.ping_all && run.tally.up > 0 {
        run.ping_all()?;
    }
    run.finish()
}

struct Run<'a> {
    plan: &'a Plan,
    watch: Watch<'a>,
    stop: &'static AtomicBool,
    phase: Phase,
    workers: Workers,
    brokers: Brokers,
    outcome: Outcome,
    began: Instant,
    epoch: u64,
    memory_before: Option<MemoryNow>,
    /// Latencies since the last sample.
    fresh: Recorder,
    /// The last sample's number, counts and usages.
    sampled: u64,
    tally: Tally,
    broker_usage: Option<Usage>,
    own_usage: Usage,
    /// The broker was there at first and is not any more.
    gone: bool,
    /// Others have taken its place so often.
    restarts: u32,
    /// The busiest worker's share of a core in the phase that matters.
    busiest: f64,
}

/// What is going on, for those who watch.
#[derive(Clone, Copy, Debug)]
struct Phase {
    name: &'static str,
    began: Instant,
    /// How long it takes; 0: until all is there.
    ms: u64,
}

/// Usages at the beginning of a phase.
struct Mark {
    at: Instant,
    broker: Option<Usage>,
    workers: Vec<Usage>,
    tally: Tally,
}

impl<'a> Run<'a> {
    fn start(request: &'a Request, watch: Watch<'a>, stop: &'static AtomicBool) -> Result<Self> {
        let plan = &request.plan;
        let brokers = Brokers::find(&request.pids, &plan.targets);
        let workers = Workers::start(plan, request.workers, &request.agents)?;
        let mut outcome = fill::begin(plan, request.workers, &request.label);
        if workers.clock_error > 0 {
            let error = format!("{} us at most", workers.clock_error.div_ceil(1_000));
            outcome.config.more.insert("clocks differ by".to_owned(), error);
        }
        outcome.machine.broker_cores = brokers.cores();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        outcome.started_unix_ms = unix.as_millis() as u64;
        Ok(Self {
            plan,
            watch,
            stop,
            phase: Phase { name: "starting", began: Instant::now(), ms: 0 },
            workers,
            memory_before: brokers.memory(),
            broker_usage: brokers.usage(),
            brokers,
            outcome,
            began: Instant::now(),
            epoch: 0,
            fresh: Recorder::default(),
            sampled: 0,
            tally: Tally::default(),
            own_usage: Usage::default(),
            gone: false,
            restarts: 0,
            busiest: 0.0,
        })
    }

    /// The ramp.
    fn open(&mut self) -> Result<()> {
        let mark = self.mark();
        self.phase("connecting", 0);
        self.epoch = clock::now() + LEAD_MS * MILLISECOND;
        self.workers.order(&Order::Open { epoch: self.epoch })?;
        let clients = u64::from(self.plan.clients());
        self.wait(self.plan.open_ms_max, |tally| tally.up >= clients)?;
        let ramp = self.tally.last_up.saturating_sub(self.epoch);
        self.outcome.connections.ramp_ms = (ramp / MILLISECOND).max(1);
        let subscribers = u64::from(self.plan.subscribers)
            + if self.plan.idle_subscribe { u64::from(self.plan.idle) } else { 0 };
        let event =
            if subscribers * 2 > clients { Event::ConnectSubscribe } else { Event::Connect };
        let connects = self.tally.established;
        self.cost(&mark, event, connects);
        if self.plan.scenario == Scenario::Connect {
            self.busy(&mark);
        }
        self.pause(SETTLE_MS)?;
        if self.plan.scenario != Scenario::Connect {
            self.remember();
        }
        Ok(())
    }

    fn hold(&mut self) -> Result<()> {
        let mark = self.mark();
        self.phase("holding", self.plan.hold_ms);
        self.pause(self.plan.hold_ms)?;
        let seconds = mark.at.elapsed().as_secs_f64();
        let up = self.tally.up;
        self.cost(&mark, Event::IdleSecond, (up as f64 * seconds) as u64);
        self.remember();
        Ok(())
    }

    fn storms(&mut self) -> Result<()> {
        let clients = u64::from(self.plan.clients());
        for number in 0..self.plan.storms {
            if self.stopped() {
                break;
            }
            self.phase("holding", self.plan.hold_ms);
            self.pause(self.plan.hold_ms)?;
            let mark = self.mark();
            self.phase("reconnecting", 0);
            self.workers.order(&Order::Storm)?;
            let began = clock::now();
            // Until the workers have ticked after it, all still seem to be up.
            let aim = self.tally.reconnected + self.tally.up;
            let back = self.wait(self.plan.open_ms_max, |tally| {
                tally.reconnected >= aim && tally.up >= clients
            })?;
            self.cost(&mark, Event::Reconnect, self.tally.established - mark.tally.established);
            self.busy(&mark);
            let ms = self.tally.last_up.saturating_sub(began) / MILLISECOND;
            let came = self.tally.reconnected - mark.tally.reconnected;
            let says = match back {
                true => format!("{came} back after {ms} ms"),
                false => format!("{} of {clients} up after {ms} ms", self.tally.up),
            };
            self.outcome.config.more.insert(format!("storm {}", number + 1), says);
        }
        self.pause(self.plan.hold_ms)
    }

    fn flow(&mut self) -> Result<()> {
        let mark = self.mark();
        let start = clock::now() + LEAD_MS * MILLISECOND;
        self.workers.order(&Order::Traffic { start })?;
        self.phase("publishing", self.plan.duration_ms + LEAD_MS);
        self.pause(self.plan.duration_ms + LEAD_MS)?;
        self.busy(&mark);
        if self.stopped() {
            self.workers.order(&Order::Stop)?;
        }
        self.drain()?;
        let (event, count) = match self.plan.scenario {
            Scenario::FanOut => (Event::Delivery, self.tally.delivered),
            Scenario::FanIn
            | Scenario::Pairs
            | Scenario::Connect
            | Scenario::Storm
            | Scenario::Shared
            | Scenario::Wildcard
            | Scenario::Retained
            | Scenario::Takeover
            | Scenario::Mixed
            | Scenario::Drain
            | Scenario::Upgrade => (Event::Message, self.tally.published),
        };
        self.cost(&mark, event, count);
        self.outcome.totals.flow_ms = self.plan.duration_ms;
        Ok(())
    }

    /// Until each connection has answered, or the time of the ramp is over.
    fn ping_all(&mut self) -> Result<()> {
        let mark = self.mark();
        self.phase("pinging", 0);
        self.workers.order(&Order::Ping)?;
        let (up, before) = (self.tally.up, self.tally.clone());
        self.wait(self.plan.open_ms_max, |tally| {
            tally.pings >= before.pings + up && tally.pongs + tally.lost >= tally.pings
        })?;
        let answers = self.tally.pongs.saturating_sub(before.pongs);
        self.cost(&mark, Event::Ping, answers);
        let ms = mark.at.elapsed().as_millis();
        let says = format!("{} of {up} answered within {ms} ms", answers.min(up));
        self.outcome.config.more.insert("pinged at the end".to_owned(), says);
        Ok(())
    }

    /// Messages flow while nodes go away and come back, by whoever's hand.
    fn roll(&mut self, request: &Request) -> Result<()> {
        let mark = self.mark();
        let began = clock::now() + LEAD_MS * MILLISECOND;
        self.workers.order(&Order::Traffic { start: began })?;
        self.phase("publishing", 0);
        match &request.trigger {
            None => self.pause(self.plan.duration_ms + LEAD_MS)?,
            Some(command) => {
                let times = match self.plan.scenario {
                    Scenario::Upgrade => self.plan.targets.len(),
                    _ => 1,
                };
                for at in 0..times {
                    self.pause(request.settle_ms)?;
                    let target = self.plan.targets[at];
                    let before = self.tally.lost;
                    let took = self.trigger(command, at, target)?;
                    self.phase("coming back", 0);
                    let clients = u64::from(self.plan.clients());
                    // Who is to be told has been; who is not back has time to come back.
                    self.pause(request.settle_ms)?;
                    self.wait(self.plan.open_ms_max, |tally| tally.up >= clients)?;
                    let lost = self.tally.lost - before;
                    let says = format!("{lost} connections ended, the command took {took} ms");
                    self.outcome.config.more.insert(format!("roll {} {target}", at + 1), says);
                }
                self.pause(request.settle_ms)?;
            }
        }
        self.busy(&mark);
        let seconds = (clock::now() - began) as f64 / 1e9;
        self.workers.order(&Order::Stop)?;
        self.outcome.totals.flow_ms = (seconds * 1e3) as u64;
        let back = (self.tally.reconnected - mark.tally.reconnected) as f64 / seconds;
        self.outcome.config.more.insert("reconnects a second".to_owned(), format!("{back:.1}"));
        self.drain()
    }

    /// Runs a command of the user's to its end, while the load goes on.
    fn trigger(&mut self, command: &str, at: usize, target: SocketAddr) -> Result<u64> {
        self.phase("rolling", 0);
        let began = Instant::now();
        let mut child = Command::new("sh")
            .args(["-c", command])
            .env("TARGET", target.to_string())
            .env("INDEX", at.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .context("start the trigger")?;
        let ends = Instant::now() + TRIGGER_TIME_MAX;
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "the trigger failed for {target}: {status}");
                return Ok(began.elapsed().as_millis() as u64);
            }
            if Instant::now() >= ends || self.stopped() {
                let _ = child.kill();
                let _ = child.wait();
                ensure!(self.stopped(), "the trigger for {target} took over {TRIGGER_TIME_MAX:?}");
                return Ok(began.elapsed().as_millis() as u64);
            }
            self.pause(TICK_MS)?;
        }
    }

    /// Somebody wants an end of it.
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Until all has come, or nothing does any more.
    fn drain(&mut self) -> Result<()> {
        let (mut news, mut since) = ((0, 0, 0), Instant::now());
        let began = Instant::now();
        let clients = u64::from(self.plan.clients());
        self.phase(DRAINING, 0);
        loop {
            self.pause(TICK_MS)?;
            let tally = &self.tally;
            let moves = self.plan.reconnect || self.plan.churns();
            let back = !moves || (tally.up >= clients && tally.taking_over == 0);
            let all_came = tally.arrived >= tally.expected;
            let all_taken = tally.acknowledged + tally.given_up >= tally.awaited;
            if back && all_came && all_taken {
                // One more tick: nothing must come twice.
                return self.pause(2 * TICK_MS);
            }
            let now = (tally.arrived, tally.acknowledged, tally.up);
            // Who is on the way back is waited for as long as who came first.
            let away = !back && began.elapsed() < Duration::from_millis(self.plan.open_ms_max);
            if news != now || away {
                (news, since) = (now, Instant::now());
            } else if since.elapsed() > Duration::from_millis(self.plan.drain_ms) {
                return Ok(());
            }
        }
    }

    fn finish(mut self) -> Result<Outcome> {
        self.gone |=
            !self.plan.reconnect && !self.brokers.is_empty() && self.brokers.usage().is_none();
        let clients = u64::from(self.plan.clients());
        let missing = clients.saturating_sub(self.tally.up);
        let own = fill::Own {
            interrupted: self.stopped(),
            usage: self.own_usage,
            busiest: self.busiest,
            gone: self.gone,
            restarts: self.restarts,
            missing,
            bytes_each: self.own_bytes_each(),
        };
        self.outcome.duration_ms = self.began.elapsed().as_millis() as u64;
        let parts = self.workers.finish()?;
        fill::end(&mut self.outcome, self.plan, &parts, &own)?;
        Ok(self.outcome)
    }

    /// What a connection takes of the workers: its slots, and what grew beside them.
    fn own_bytes_each(&self) -> Option<f64> {
        let now: u64 = self.workers.ticks.iter().map(|tick| tick.anonymous_bytes).sum();
        let slots = crate::engine::Net::SLOT_BYTES + crate::scenario::fleet::Fleet::CLIENT_BYTES;
        let grown = now.saturating_sub(self.workers.anonymous_before);
        let idle = self.plan.scenario == Scenario::Connect && self.tally.up > 0;
        idle.then(|| slots as f64 + grown as f64 / self.tally.up as f64)
    }

    fn mark(&self) -> Mark {
        Mark {
            at: Instant::now(),
            broker: self.brokers.usage(),
            workers: self.workers.ticks.iter().map(|tick| tick.usage).collect(),
            tally: self.tally.clone(),
        }
    }

    fn cost(&mut self, mark: &Mark, event: Event, events: u64) {
        let (Some(before), Some(after)) = (mark.broker, self.brokers.usage()) else { return };
        if self.restarts > 0 {
            // Not the same process: the difference says nothing.
            return;
        }
        self.outcome.costs.push(Cost {
            event,
            events,
            user_us: after.user_us.saturating_sub(before.user_us),
            kernel_us: after.kernel_us.saturating_sub(before.kernel_us),
            floor_us_each: None,
        });
    }

    fn busy(&mut self, mark: &Mark) {
        let passed = mark.at.elapsed().as_micros().max(1) as f64;
        for (before, tick) in mark.workers.iter().zip(&self.workers.ticks) {
            let spent = (tick.usage.user_us + tick.usage.kernel_us)
                .saturating_sub(before.user_us + before.kernel_us);
            self.busiest = self.busiest.max(spent as f64 / passed);
        }
    }

    /// The broker's memory with its connections.
    fn remember(&mut self) {
        let (Some(before), Some(with)) = (self.memory_before, self.brokers.memory()) else {
            return;
        };
        self.outcome.memory = Some(Memory {
            connections: self.tally.up,
            user_before_bytes: before.user_bytes,
            user_with_bytes: with.user_bytes,
            kernel_before_bytes: before.kernel_bytes,
            kernel_with_bytes: with.kernel_bytes,
        });
    }

    fn pause(&mut self, milliseconds: u64) -> Result<()> {
        self.wait(milliseconds, |_| false).map(drop)
    }

    /// Until the sum of all workers is as wished, or that long.
    fn wait(&mut self, milliseconds: u64, wished: impl Fn(&Tally) -> bool) -> Result<bool> {
        let deadline = Instant::now() + Duration::from_millis(milliseconds);
        loop {
            if let Some(worker) = self.workers.hear(deadline)? {
                self.fresh.merge_saved(&self.workers.ticks[worker].latency);
                self.sample();
            }
            if wished(&self.tally) {
                return Ok(true);
            }
            if Instant::now() >= deadline || (self.stopped() && self.phase.name != DRAINING) {
                return Ok(false);
            }
        }
    }

    /// One, once every worker has ticked since the last.
    fn sample(&mut self) {
        let ticks = &self.workers.ticks;
        let number = ticks.iter().map(|tick| tick.number).min().unwrap_or(0);
        if number <= self.sampled {
            return;
        }
        self.sampled = number;
        let mut tally = Tally::default();
        let mut own = Usage::default();
        for tick in ticks {
            tally.add(&tick.tally);
            own += tick.usage;
        }
        let broker = self.brokers.usage();
        let spent = |part: fn(&Usage) -> u64| {
            Some(part(&broker?).saturating_sub(part(&self.broker_usage?)))
        };
        let before = &self.tally;
        self.outcome.samples.push(Sample {
            at_ms: number * TICK_MS,
            connected: tally.up,
            connecting: tally.connecting,
            connects: tally.established - before.established,
            disconnects: tally.lost - before.lost,
            published: tally.published - before.published,
            acknowledged: tally.acknowledged - before.acknowledged,
            delivered: tally.delivered - before.delivered,
            errors: tally.error_count() - before.error_count(),
            latency: self.fresh.quantiles(),
            broker_user_us: spent(|usage| usage.user_us),
            broker_kernel_us: spent(|usage| usage.kernel_us),
            broker_rss_bytes: broker.map(|usage| usage.rss_bytes),
            harness_us: (own.user_us + own.kernel_us)
                .saturating_sub(self.own_usage.user_us + self.own_usage.kernel_us),
        });
        let gone = broker.is_none() && self.broker_usage.is_some();
        if gone && self.plan.reconnect && self.brokers.look_again() {
            self.restarts += 1;
        }
        self.gone |= gone && !self.plan.reconnect;
        let peak = &mut self.outcome.connections.peak;
        *peak = (*peak).max(tally.up);
        self.fresh.clear();
        (self.tally, self.own_usage) = (tally, own);
        self.broker_usage = broker.or(self.broker_usage);
        fill::so_far(&mut self.outcome, &self.tally);
        let outcome = &self.outcome;
        let Some(sample) = outcome.samples.last() else { return };
        let passed = self.phase.began.elapsed().as_millis() as u64;
        let (done, whole) = match (self.phase.ms, self.phase.name) {
            (0, DRAINING) => (self.tally.delivered, self.tally.expected),
            (0, _) => (self.tally.up, outcome.config.clients),
            (ms, _) => (passed, ms),
        };
        let span_us = f64::from(outcome.config.sample_ms * outcome.config.workers) * 1e3;
        (self.watch)(&Moment {
            config: &outcome.config,
            label: &outcome.label,
            phase: self.phase.name,
            done: done as f64 / whole.max(1) as f64,
            left_ms: (self.phase.ms > 0).then(|| self.phase.ms.saturating_sub(passed)),
            sample,
            busiest: sample.harness_us as f64 / span_us,
            errors: &outcome.errors,
        });
    }

    fn phase(&mut self, name: &'static str, ms: u64) {
        self.phase = Phase { name, began: Instant::now(), ms };
    }
}
