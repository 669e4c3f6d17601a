//! Does the steps of a plan, one after the other, on a thread of its own, so
//! that no step waits for a client.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::fleet::Fleet;
use super::plan::{Step, WARM_MS};
use crate::history::{Mark, What};
use crate::killer::{Board, board};

/// How long nodes may take to be ready: of a cluster, recovery and the transfer
/// of what they have missed included.
const READY: Duration = Duration::from_secs(60);

/// And at the first time, when all partitions are to be placed.
const FIRST_READY: Duration = Duration::from_secs(120);

/// Acknowledgements come again within this after a kill, and after a heal.
const AFTER_KILL_MS: u32 = 3_000;
const AFTER_HEAL_MS: u32 = 10_000;

/// Who does them.
#[derive(Debug)]
pub(crate) struct Director {
    fleet: Fleet,
    board: Arc<Mutex<Board>>,
    /// The nodes go by one log, which a majority of them can write.
    joined: bool,
    /// A partition whose node is down waits for it.
    waits_for_its_node: bool,
    /// Whether nothing is out of order.
    calm: bool,
    /// Whether clients know where the nodes are.
    opened: bool,
}

impl Director {
    /// One that has not begun.
    pub(crate) fn new(fleet: Fleet, board: Arc<Mutex<Board>>, joined: bool, waits: bool) -> Self {
        Director { fleet, board, joined, waits_for_its_node: waits, calm: false, opened: false }
    }

    /// Does all of a plan on a thread of its own, and leaves the nodes running.
    pub(crate) fn perform(mut self, steps: &'static [Step]) -> JoinHandle<Director> {
        thread::spawn(move || {
            if let Err(error) = self.plan(steps) {
                let told = self.fleet.tell();
                board(&self.board).faults.push(format!("{error:#}\n{told}"));
            }
            board(&self.board).done = true;
            self
        })
    }

    fn plan(&mut self, steps: &[Step]) -> Result<()> {
        self.step(&Step::StartAll).context("the first start")?;
        if self.joined {
            self.fleet.command(1, &["cluster", "init"]).context("the first start")?;
        }
        self.fleet.ready_within(FIRST_READY).context("the first start")?;
        // Only now anybody comes in.
        self.opened = true;
        self.tell_doors();
        self.step(&Step::Ready).context("the first start")?;
        self.step(&Step::Wait(WARM_MS))?;
        for (at, step) in steps.iter().enumerate() {
            self.step(step).with_context(|| format!("step {} of the plan, {step:?}", at + 1))?;
        }
        // Whatever was done, in the end all is well.
        self.step(&Step::Heal)?;
        self.step(&Step::Ready)
    }

    /// Sees to it that all that runs goes on running, until told to stop; one
    /// that ends by itself is a fault.
    pub(crate) fn watch(mut self, stop: Arc<AtomicBool>) -> JoinHandle<()> {
        thread::spawn(move || {
            loop {
                let over = stop.load(Ordering::Relaxed);
                if let Err(error) = self.fleet.stay(Duration::from_millis(100)) {
                    board(&self.board).faults.push(format!("{error:#}"));
                }
                self.note_reborn();
                if over {
                    return;
                }
            }
        })
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let done = self.perform_step(step);
        self.note_reborn();
        done
    }

    fn note_reborn(&mut self) {
        for (when, node) in self.fleet.reborn() {
            let (mark, within_ms) = (Mark::Reborn(node), None);
            board(&self.board).happened.push((when, What::Done { mark, within_ms }));
        }
    }

    fn perform_step(&mut self, step: &Step) -> Result<()> {
        match *step {
            Step::Wait(ms) => return self.fleet.stay(Duration::from_millis(ms)),
            Step::Ready => return self.ready(),
            Step::Kill(node) => {
                self.disturbed();
                self.fleet.kill(node)?;
                board(&self.board).kills += 1;
                self.done(Mark::Killed(node), self.after_kill());
            }
            Step::KillAll => {
                self.disturbed();
                board(&self.board).kills += self.fleet.count() as u64;
                self.fleet.kill_all();
                self.done(Mark::AllKilled, None);
            }
            Step::Stop(node) => {
                self.disturbed();
                self.done(Mark::Stopped(node), None);
                self.fleet.stop(node)?;
                board(&self.board).stops += 1;
            }
            Step::Start(node) => self.start(&[node])?,
            Step::StartAll => {
                let all: Vec<u8> = (1..=self.fleet.count() as u8).collect();
                self.start(&all)?;
            }
            Step::Pause(node) => {
                self.disturbed();
                self.fleet.pause(node, true)?;
                self.done(Mark::Paused(node), None);
            }
            Step::Resume(node) => {
                self.fleet.pause(node, false)?;
                self.done(Mark::Resumed(node), self.joined.then_some(AFTER_HEAL_MS));
            }
            Step::Cut(a, b) => self.cut(&[(a, b), (b, a)])?,
            Step::CutOneWay(from, to) => self.cut(&[(from, to)])?,
            Step::Split(parts) => {
                let mut links = Vec::new();
                for (at, part) in parts.iter().enumerate() {
                    let others = || parts.iter().enumerate().filter(|(other, _)| *other != at);
                    let others: Vec<u8> = others().flat_map(|(_, part)| *part).copied().collect();
                    links.extend(
                        part.iter().flat_map(|&from| others.iter().map(move |&to| (from, to))),
                    );
                }
                self.cut(&links)?;
            }
            Step::Slow(node, kbit) => {
                self.disturbed();
                self.fleet.network().slow(node, kbit)?;
                self.done(Mark::Slowed(node), None);
            }
            Step::Heal => {
                self.fleet.network().heal()?;
                if !self.calm {
                    self.done(Mark::Healed, self.joined.then_some(AFTER_HEAL_MS));
                }
            }
            Step::Wipe(node) => {
                self.fleet.wipe(node)?;
                self.done(Mark::Wiped(node), None);
            }
            Step::Corrupt(node) => {
                self.fleet.corrupt(node)?;
                self.done(Mark::Corrupted(node), None);
            }
            Step::Renew(node) => {
                if self.fleet.refuses(node)? {
                    self.fleet.wipe(node)?;
                    self.done(Mark::Wiped(node), None);
                    self.start(&[node])?;
                }
            }
            Step::Readdress => {
                self.fleet.readdress()?;
                self.tell_doors();
                self.done(Mark::Moved, None);
            }
            Step::Leave(node) => self.leave(node)?,
            Step::Upgrade(node) => self.fleet.upgrade(node)?,
        }
        Ok(())
    }

    fn start(&mut self, nodes: &[u8]) -> Result<()> {
        self.disturbed();
        for &node in nodes {
            self.fleet.start(node)?;
            self.done(Mark::Started(node), None);
        }
        self.tell_doors();
        Ok(())
    }

    fn tell_doors(&self) {
        if self.opened {
            board(&self.board).doors = self.fleet.doors();
        }
    }

    fn cut(&mut self, links: &[(u8, u8)]) -> Result<()> {
        self.disturbed();
        links.iter().try_for_each(|&(from, to)| self.fleet.network().cut(from, to))?;
        self.done(Mark::Cut, None);
        Ok(())
    }

    fn leave(&mut self, node: u8) -> Result<()> {
        self.disturbed();
        self.done(Mark::Left(node), None);
        if self.joined {
            self.fleet.command(node, &["cluster", "leave"])?;
        }
        self.fleet.stop(node)?;
        board(&self.board).stops += 1;
        self.fleet.forget(node)?;
        self.tell_doors();
        Ok(())
    }

    fn ready(&mut self) -> Result<()> {
        let began = Instant::now();
        self.fleet.ready_within(READY)?;
        let mut board = board(&self.board);
        board.start_max = board.start_max.max(began.elapsed());
        if !self.calm && self.fleet.running().len() == self.fleet.count() {
            self.calm = true;
            board.happened.push((Instant::now(), What::Ready));
        }
        Ok(())
    }

    /// From now on rules about time do not hold, until all is well again.
    fn disturbed(&mut self) {
        if std::mem::take(&mut self.calm) {
            board(&self.board).happened.push((Instant::now(), What::Down));
        }
    }

    fn done(&self, mark: Mark, within_ms: Option<u32>) {
        board(&self.board).happened.push((Instant::now(), What::Done { mark, within_ms }));
    }

    /// A majority that is left goes on by itself.
    fn after_kill(&self) -> Option<u32> {
        let majority = self.fleet.running().len() * 2 > self.fleet.count();
        (self.joined && majority && !self.waits_for_its_node).then_some(AFTER_KILL_MS)
    }
}
