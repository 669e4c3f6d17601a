//! Many clients that only want to be connected.
//!
//! One that is refused comes back after a while that doubles, with jitter, as
//! client libraries do.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::net::{Net, News};
use crate::traffic::KEEP_ALIVE_S;
use benches::wire::{self, Version};
use tidegate_loadtest::transport::Transport;

/// The first wait of a refused client, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// An attempt that takes longer has failed.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(30);
/// Connections that may be under way while clients come in gently.
pub(crate) const GENTLE: usize = 48;

/// Clients and what became of their attempts.
pub(crate) struct Crowd {
    net: Net,
    addr: SocketAddr,
    transport: Transport,
    members: Vec<Member>,
    opening: VecDeque<usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    under_way: usize,
    under_way_max: usize,
    random: u64,
    up: usize,
    swept: Instant,
    /// When the clients were told to come.
    began: Instant,
    /// Attempts since then.
    pub(crate) attempts: u64,
    /// Attempts that failed since then, by reason.
    pub(crate) failures: BTreeMap<String, u64>,
    /// How long it took each that is back.
    pub(crate) returns: Vec<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    state: State,
    refusals: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Out,
    Opening(Instant),
    Up,
}

impl Crowd {
    /// Nobody has come yet.
    pub(crate) fn new(net: Net, addr: SocketAddr, transport: Transport, count: usize) -> Self {
        let now = Instant::now();
        Self {
            net,
            addr,
            transport,
            members: vec![Member { state: State::Out, refusals: 0 }; count],
            opening: VecDeque::new(),
            timers: BinaryHeap::new(),
            under_way: 0,
            under_way_max: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            up: 0,
            swept: now,
            began: now,
            attempts: 0,
            failures: BTreeMap::new(),
            returns: Vec::new(),
        }
    }

    /// How many are connected.
    pub(crate) fn up(&self) -> usize {
        self.up
    }

    /// Those of `members` come in, at most `under_way_max` at once. True when all are there
    /// within `limit`.
    pub(crate) fn come(
        &mut self,
        members: std::ops::Range<usize>,
        under_way_max: usize,
        limit: Duration,
    ) -> Result<bool> {
        self.under_way_max = under_way_max;
        self.began = Instant::now();
        self.attempts = 0;
        self.failures.clear();
        self.returns.clear();
        let wanted = self.up + members.len();
        self.opening.extend(members);
        while self.up < wanted && self.began.elapsed() < limit {
            self.turn(Duration::from_millis(20))?;
        }
        Ok(self.up >= wanted)
    }

    /// All are cut off at once, and none of them is told.
    pub(crate) fn cut(&mut self) {
        for index in 0..self.members.len() {
            self.net.close(index);
            self.members[index] = Member { state: State::Out, refusals: 0 };
        }
        self.opening.clear();
        self.timers.clear();
        self.under_way = 0;
        self.up = 0;
    }

    /// Opens what may be opened, and takes in what comes.
    pub(crate) fn turn(&mut self, wait: Duration) -> Result<()> {
        let now = Instant::now();
        while let Some(&Reverse((due, index))) = self.timers.peek() {
            if due > now {
                break;
            }
            self.timers.pop();
            self.opening.push_back(index);
        }
        while self.under_way < self.under_way_max {
            let Some(index) = self.opening.pop_front() else { break };
            self.net.open(index, self.addr, self.transport)?;
            self.members[index].state = State::Opening(now);
            self.under_way += 1;
            self.attempts += 1;
        }
        if now.duration_since(self.swept) > Duration::from_secs(1) {
            self.swept = now;
            self.sweep(now);
        }
        let mut happened = Vec::new();
        self.net.turn(now + wait, &mut |net, index, news| {
            match news {
                News::Ready => {
                    // Idle, as the floor reads it.
                    let id = format!("i{index:07}{index:08}");
                    net.push(index, &wire::connect(Version::V311, &id, KEEP_ALIVE_S));
                }
                News::Frame(frame) if frame.kind() == 2 => match frame.body.get(1) {
                    Some(0) => happened.push((index, None)),
                    code => {
                        happened.push((index, Some(format!("CONNACK {}", code.unwrap_or(&255)))));
                        net.close(index);
                    }
                },
                News::Frame(_) => {}
                News::Gone(why) => happened.push((index, Some(why.label().to_owned()))),
            }
            Ok(())
        })?;
        for (index, failure) in happened {
            match failure {
                None => self.arrived(index),
                Some(failure) => self.failed(index, failure),
            }
        }
        Ok(())
    }

    fn arrived(&mut self, index: usize) {
        self.under_way -= 1;
        self.up += 1;
        self.members[index] = Member { state: State::Up, refusals: 0 };
        self.returns.push(self.began.elapsed());
    }

    fn failed(&mut self, index: usize, failure: String) {
        let failure = match self.members[index].state {
            State::Up => {
                self.up -= 1;
                format!("{failure} after CONNACK")
            }
            State::Out | State::Opening(_) => {
                self.under_way -= 1;
                failure
            }
        };
        *self.failures.entry(failure).or_default() += 1;
        let refusals = self.members[index].refusals;
        self.members[index] = Member { state: State::Out, refusals: refusals + 1 };
        let (first, longest) = BACK_OFF;
        let wait = longest.min(first * 2_u32.pow(refusals.min(10)));
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let jitter = 0.5 + (self.random % 1_000) as f64 / 1_000.0;
        self.timers.push(Reverse((Instant::now() + wait.mul_f64(jitter), index)));
    }

    fn sweep(&mut self, now: Instant) {
        for index in 0..self.members.len() {
            if let State::Opening(since) = self.members[index].state
                && now.duration_since(since) > ATTEMPT_TIME_MAX
            {
                self.net.close(index);
                self.failed(index, "no answer".to_owned());
            }
        }
    }
}
