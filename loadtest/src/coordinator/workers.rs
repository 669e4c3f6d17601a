//! The worker processes and what they last said.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::engine::clock;
use crate::protocol::{Order, Part, Report, Tick, hear, say};
use crate::scenario::plan::Plan;

/// Reports that wait for the coordinator; a worker that is further ahead waits.
const REPORTS_MAX: usize = 1_024;
/// A worker that is silent that long is stuck.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// An agent that takes longer to answer is not there.
const AGENT_TIME_MAX: Duration = Duration::from_secs(5);
/// How often a worker elsewhere is asked for its time.
const CLOCK_ROUNDS: u32 = 16;

/// The workers of a run. Dropped, they are ended.
pub(crate) struct Workers {
    children: Vec<Child>,
    orders: Vec<Box<dyn Write>>,
    reports: Receiver<(usize, Report)>,
    /// Each worker's last tick.
    pub(crate) ticks: Vec<Tick>,
    /// Each worker's anonymous memory before its first connection.
    pub(crate) anonymous_before: u64,
    parts: Vec<Option<Part>>,
    /// The clocks of workers elsewhere are wrong by this at most, in nanoseconds; 0 if all are here.
    pub(crate) clock_error: u64,
}

/// Where a worker's reports come from and its orders go to.
type Line = (Box<dyn Read + Send>, Box<dyn Write>);

impl Workers {
    /// Starts `count` processes, here or with the agents in turn, and gives each its share.
    pub(crate) fn start(plan: &Plan, count: u32, agents: &[SocketAddr]) -> Result<Self> {
        let (sender, reports) = sync_channel(REPORTS_MAX);
        let mut workers = Self {
            children: Vec::new(),
            orders: Vec::new(),
            reports,
            ticks: vec![Tick::default(); count as usize],
            anonymous_before: 0,
            parts: vec![None; count as usize],
            clock_error: 0,
        };
        for worker in 0..count {
            let (reports, mut orders) = match agents {
                [] => workers.spawn()?,
                some => remote(some[worker as usize % some.len()])?,
            };
            let sender = sender.clone();
            thread::spawn(move || {
                let mut reports = BufReader::new(reports);
                loop {
                    let report = match hear(&mut reports) {
                        Ok(Some(report)) => report,
                        Ok(None) => return,
                        Err(error) => Report::Broken { why: format!("no report: {error}") },
                    };
                    if sender.send((worker as usize, report)).is_err() {
                        return;
                    }
                }
            });
            say(&mut orders, &Order::Job { plan: Box::new(plan.clone()), worker, workers: count })?;
            workers.orders.push(orders);
        }
        drop(sender);
        let mut hellos = 0;
        while hellos < count {
            match workers.reports.recv_timeout(SILENCE_MAX).context("a worker does not start")?.1 {
                Report::Hello { pid: _, anonymous_bytes } => {
                    hellos += 1;
                    workers.anonymous_before += anonymous_bytes;
                }
                Report::Broken { why } => bail!("a worker: {why}"),
                Report::Tick(_) | Report::Part(_) | Report::Clock { .. } => {
                    bail!("a worker speaks before its hello")
                }
            }
        }
        if !agents.is_empty() {
            for worker in 0..count as usize {
                workers.set_clock(worker)?;
            }
        }
        Ok(workers)
    }

    fn spawn(&mut self) -> Result<Line> {
        let program = std::env::current_exe().context("find this program")?;
        let mut command = Command::new(&program);
        command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C is for the coordinator, which ends its workers.
        command.process_group(0);
        let mut child = command.spawn().context("start a worker")?;
        let orders = child.stdin.take().context("a worker without stdin")?;
        let reports = child.stdout.take().context("a worker without stdout")?;
        self.children.push(child);
        Ok((Box::new(reports), Box::new(orders)))
    }

    /// Asks a worker elsewhere for its time, and believes the quickest answer: it is wrong by half
    /// of its round trip at most.
    fn set_clock(&mut self, worker: usize) -> Result<()> {
        let mut best = (u64::MAX, 0);
        for _ in 0..CLOCK_ROUNDS {
            say(&mut self.orders[worker], &Order::Clock { sent: clock::now() })?;
            let answer = self.reports.recv_timeout(SILENCE_MAX).context("a worker is silent")?;
            let (_, Report::Clock { sent, here }) = answer else { bail!("no time was told") };
            let now = clock::now();
            let trip = now - sent;
            if trip < best.0 {
                best = (trip, here as i64 - (sent + trip / 2) as i64);
            }
        }
        self.clock_error = self.clock_error.max(best.0 / 2);
        Ok(say(&mut self.orders[worker], &Order::Shift { ahead: best.1 })?)
    }

    /// Tells all the same.
    pub(crate) fn order(&mut self, order: &Order) -> Result<()> {
        for orders in &mut self.orders {
            say(orders, order).context("a worker is gone")?;
            orders.flush()?;
        }
        Ok(())
    }

    /// Takes in one report, or none until `until`. Says whether it was a tick, and whose.
    pub(crate) fn hear(&mut self, until: Instant) -> Result<Option<usize>> {
        let wait = until.saturating_duration_since(Instant::now());
        match self.reports.recv_timeout(wait) {
            Ok((worker, Report::Tick(tick))) => {
                self.ticks[worker] = *tick;
                Ok(Some(worker))
            }
            Ok((worker, Report::Part(part))) => {
                self.parts[worker] = Some(*part);
                Ok(None)
            }
            Ok((worker, Report::Broken { why })) => bail!("worker {worker}: {why}"),
            Ok((worker, Report::Hello { .. } | Report::Clock { .. })) => {
                bail!("worker {worker} answers what was not asked")
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) if self.parts.iter().all(Option::is_some) => {
                Ok(None)
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the workers are gone"),
        }
    }

    /// Ends the run and returns what each found.
    pub(crate) fn finish(mut self) -> Result<Vec<Part>> {
        self.order(&Order::Finish)?;
        let deadline = Instant::now() + SILENCE_MAX;
        while self.parts.iter().any(Option::is_none) {
            self.hear(deadline)?;
            if Instant::now() >= deadline {
                bail!("a worker does not hand over its part");
            }
        }
        Ok(std::mem::take(&mut self.parts).into_iter().flatten().collect())
    }
}

fn remote(agent: SocketAddr) -> Result<Line> {
    let stream = TcpStream::connect_timeout(&agent, AGENT_TIME_MAX)
        .with_context(|| format!("agent {agent}"))?;
    stream.set_nodelay(true)?;
    let reports = stream.try_clone()?;
    Ok((Box::new(reports), Box::new(stream)))
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Without orders a worker ends by itself.
        self.orders.clear();
        for child in &mut self.children {
            let deadline = Instant::now() + Duration::from_secs(5);
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
