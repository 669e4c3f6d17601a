//! A run: hosts under one seed, what happens to them, and what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidegate_consensus::{ChangeError, GroupId, GroupStatus};
use tidegate_store::SimDisk;
use tokio::time::timeout;
use turmoil::Sim;

use crate::ledger::{Acked, Happened, Ledger, judge, lock};
use crate::node::{Job, NodeGroups, Plant, Seat, begin_anew, host, run};

/// Of simulated time a step.
const TICK: Duration = Duration::from_millis(2);
/// How long what was proposed is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// From when all is well again until all has to be in order.
const HEALED_STEPS: u64 = 20_000 / 2;

/// What a run is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Plan {
    /// Anything, at any time.
    Chaos,
    /// One node is away until only a snapshot helps it, and gets one slowly while
    /// members change and leaderships move.
    Lagging,
}

/// What a run was.
pub(crate) struct Ran {
    pub(crate) trace: u64,
    pub(crate) acked: usize,
    pub(crate) happened: Happened,
}

/// Links that are not well, by pair of nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cut {
    Lost,
    OneWay,
    Held,
}

/// Resets when dropped, also with the node on which it is.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A group, as whoever moves its replicas sees it.
struct Moving {
    wanted: BTreeSet<u64>,
    busy: Arc<AtomicBool>,
    /// A replica that does not count any more.
    left: Arc<Mutex<Option<u64>>>,
}

struct World {
    sim: Sim<'static>,
    seats: BTreeMap<u64, Arc<Seat>>,
    ledger: Ledger,
    groups: Vec<GroupId>,
    moving: BTreeMap<GroupId, Moving>,
    cuts: BTreeMap<(u64, u64), Cut>,
    down: BTreeSet<u64>,
    proposed: u64,
    random: u64,
    /// The membership that each node showed last, as leader.
    shown: BTreeMap<(u64, GroupId), usize>,
}

/// Runs a plan; an error is a promise that was not kept.
pub(crate) fn play(plan: Plan, seed: u64, plant: Option<Plant>) -> Result<Ran, String> {
    let mut world = World::new(plan, seed, plant);
    let played = match plan {
        Plan::Chaos => world.chaos(),
        Plan::Lagging => world.lagging(),
    };
    let ended = played.and_then(|()| world.end());
    for seat in world.seats.values() {
        let Some(live) = lock(&seat.live).take() else { continue };
        for status in live.mesh.status() {
            let (received, sent) = (status.received_bytes, status.sent_bytes);
            world.ledger.trace(&format!("{} {received} {sent}", status.node.0));
        }
    }
    ended?;
    let acked = world.ledger.all_acked().len();
    Ok(Ran { trace: world.ledger.hash(), acked, happened: world.ledger.happened() })
}

impl World {
    fn new(plan: Plan, seed: u64, plant: Option<Plant>) -> Self {
        let (nodes, groups, bulk) = match plan {
            Plan::Chaos => (5, 6, 1 << 20),
            Plan::Lagging => (4, 4, 128 << 10),
        };
        let groups: Vec<GroupId> = (1..=groups).collect();
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(3_600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(12))
            .tcp_capacity(1_024)
            .enable_random_order()
            .build();
        let ledger = Ledger::default();
        let mut seats = BTreeMap::new();
        for node in 1..=nodes {
            let disk = |what| SimDisk::new(seed.wrapping_mul(1_000) + node * 10 + what);
            let seat = Arc::new(Seat {
                node,
                nodes,
                groups: groups.clone(),
                ledger: ledger.clone(),
                plant,
                log: disk(0),
                snapshots: disk(1),
                sync: Duration::from_millis(1 + (seed + node) % 5),
                bulk,
                lives: AtomicU64::new(0),
                live: Mutex::default(),
            });
            let own = seat.clone();
            sim.host(host(node), move || run(own.clone()));
            seats.insert(node, seat);
        }
        let moving = |&group: &GroupId| {
            let first = u64::from(group) % nodes;
            let wanted = match plan {
                Plan::Chaos => (0..3).map(|i| 1 + (first + i) % nodes).collect(),
                Plan::Lagging => (1..=3).collect(),
            };
            (group, Moving { wanted, busy: Arc::default(), left: Arc::default() })
        };
        let moving = groups.iter().map(moving).collect();
        Self {
            sim,
            seats,
            ledger,
            groups,
            moving,
            cuts: BTreeMap::new(),
            down: BTreeSet::new(),
            proposed: 0,
            random: seed,
            shown: BTreeMap::new(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }

    fn node(&mut self) -> u64 {
        1 + self.below(self.seats.len() as u64)
    }

    fn group(&mut self) -> GroupId {
        let at = self.below(self.groups.len() as u64) as usize;
        self.groups[at]
    }

    fn status(&self, node: u64, group: GroupId) -> Option<GroupStatus> {
        lock(&self.seats[&node].live).as_ref().map(|live| live.groups.status(group))
    }

    fn leader(&self, group: GroupId) -> Option<(u64, GroupStatus)> {
        let statuses =
            self.seats.keys().filter_map(|node| Some((*node, self.status(*node, group)?)));
        statuses.filter(|(_, status)| status.leads).max_by_key(|(_, status)| status.term)
    }

    /// Has a node do something; what it does ends with the node.
    fn job<F>(&self, node: u64, job: impl FnOnce(NodeGroups) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let job: Job = Box::new(move |groups| Box::pin(job(groups)));
        if let Some(live) = lock(&self.seats[&node].live).as_ref() {
            // It may be about to start.
            let _ = live.jobs.send(job);
        }
    }

    /// One tick of all hosts, and a look at what they show.
    fn step(&mut self) -> Result<(), String> {
        self.ledger.set_step(self.ledger.step() + 1);
        self.sim.step().map_err(|error| format!("a node ended: {error:#}"))?;
        let step = self.ledger.step();
        for (&node, seat) in &self.seats {
            let live = lock(&seat.live);
            let Some(live) = live.as_ref() else { continue };
            for &group in &self.groups {
                let Some(watch) = live.groups.watch(group) else { continue };
                let status = watch.borrow();
                if let Some(why) = &status.failed {
                    return Err(format!("node {node}: group {group} has failed: {why}"));
                }
                if !status.leads {
                    self.shown.remove(&(node, group));
                    continue;
                }
                let sets = status.voters.len();
                let before = self.shown.insert((node, group), sets);
                if before == Some(1) && sets == 2 {
                    let stay = status.voters[1].iter().filter(|to| **to != node);
                    let gets = stay.clone().find(|to| {
                        self.ledger.installs((group, node, **to), step.saturating_sub(1))
                    });
                    if let Some(to) = gets {
                        return Err(format!(
                            "node {node} changes the members of group {group} while {to}, which \
                             is to stay, gets a snapshot"
                        ));
                    }
                    self.ledger.count("joint");
                }
            }
        }
        match self.ledger.found() {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    fn propose(&mut self) {
        let group = self.group();
        let node = match self.leader(group) {
            Some((leader, _)) if self.below(8) > 0 => leader,
            Some(_) | None => self.node(),
        };
        let bytes = 24 + self.below(1_500) as usize;
        let mut payload = format!("{}-{}-", group, self.proposed).into_bytes();
        payload.resize(bytes, b'x');
        self.proposed += 1;
        self.say(node, group, payload.into());
    }

    fn say(&self, node: u64, group: GroupId, payload: Bytes) {
        let (ledger, made) = (self.ledger.clone(), self.ledger.step());
        self.job(node, move |groups| async move {
            let answer = timeout(PATIENCE, groups.propose(group, payload.clone())).await;
            let Ok(Ok(answer)) = answer else { return };
            let place = String::from_utf8_lossy(&answer).parse().unwrap_or(0);
            let answered = ledger.step();
            ledger.acked(Acked { group, payload, made, answered, place });
        });
    }

    fn snapshot(&mut self) {
        let (node, group) = (self.node(), self.group());
        self.job(node, move |groups| async move {
            let Ok(Some(last)) = groups.snapshot(group).await else { return };
            // It may have been closed meanwhile.
            let _ = groups.purge(group, last.index).await;
        });
    }

    /// One step of a group's members towards those that are wanted.
    fn churn(&mut self, group: GroupId, is_over: bool) {
        let Some((leader, status)) = self.leader(group) else { return };
        let of = &self.moving[&group];
        if of.busy.swap(true, Ordering::Relaxed) {
            return;
        }
        let busy = Busy(of.busy.clone());
        let (wanted, left, ledger) = (of.wanted.clone(), of.left.clone(), self.ledger.clone());
        if let Some(node) = lock(&left).take() {
            if let Some(seat) = self.seats.get(&node).cloned() {
                self.job(node, move |groups| async move {
                    let _busy = busy;
                    begin_anew(seat, groups, group).await;
                });
            }
            return;
        }
        let is_there = status.voters.len() == 1
            && status.voters[0].iter().copied().eq(wanted.iter().copied())
            && status.learners.is_empty()
            && status.settled;
        if is_there && !is_over {
            self.want(group, leader, &status, busy);
            return;
        }
        let missing =
            wanted.iter().copied().find(|n| !status.is_voter(*n) && !status.learners.contains(n));
        let over = status.learners.iter().copied().find(|node| !wanted.contains(node));
        self.job(leader, move |groups| async move {
            let _busy = busy;
            let done = match (missing, over) {
                (Some(node), _) => groups.add_learner(group, node).await,
                (None, Some(node)) => groups.remove_learner(group, node).await,
                (None, None) if !is_there => {
                    let changed = groups.change_voters(group, wanted).await;
                    if changed.is_ok() {
                        ledger.count("changed");
                    }
                    changed
                }
                (None, None) => Ok(()),
            };
            if let Err(ChangeError::Lagging { .. }) = done {
                ledger.count("held back");
            }
            let now = groups.status(group);
            let (voters, learners) = (now.voters, now.learners);
            ledger.trace(&format!("members of {group}: {done:?}, {voters:?} and {learners:?}"));
        });
    }

    /// The members are as they should be: another leader, or others.
    fn want(&mut self, group: GroupId, leader: u64, status: &GroupStatus, busy: Busy) {
        let out: Vec<u64> =
            self.seats.keys().copied().filter(|node| !status.is_voter(*node)).collect();
        match self.below(6) {
            0 | 1 => {
                let to = status.voters[0][self.below(status.voters[0].len() as u64) as usize];
                let ledger = self.ledger.clone();
                self.job(leader, move |groups| async move {
                    let _busy = busy;
                    let done = groups.transfer_leadership(group, to).await;
                    if done.is_ok() && to != leader {
                        ledger.count("handed over");
                    }
                    ledger.trace(&format!("leadership of {group} to {to}: {done:?}"));
                });
            }
            2 if !out.is_empty() => {
                // A replica outside has left for good once the leader is one indeed.
                let node = out[self.below(out.len() as u64) as usize];
                let left = self.moving[&group].left.clone();
                self.job(leader, move |groups| async move {
                    let _busy = busy;
                    if groups.read_index(group).await.is_err() {
                        return;
                    }
                    let now = groups.status(group);
                    if now.settled && !now.is_voter(node) && !now.learners.contains(&node) {
                        *lock(&left) = Some(node);
                    }
                });
            }
            3 | 4 if !out.is_empty() => {
                let comes = out[self.below(out.len() as u64) as usize];
                let goes = self.below(3) as usize;
                let wanted = &mut self.moving.get_mut(&group).expect("known").wanted;
                let goes = wanted.iter().copied().nth(goes).expect("three");
                wanted.remove(&goes);
                wanted.insert(comes);
            }
            _ => {}
        }
    }

    /// The power of a node fails: what was not synced is lost.
    fn crash(&mut self, node: u64) {
        if !self.down.insert(node) {
            return;
        }
        if self.below(2) == 0 {
            // No last word.
            for other in self.seats.keys().filter(|other| **other != node) {
                self.sim.partition(host(node), host(*other));
            }
        }
        self.sim.crash(host(node));
        let seat = &self.seats[&node];
        lock(&seat.live).take();
        seat.log.crash();
        seat.snapshots.crash();
        for other in self.seats.keys().copied().filter(|other| *other != node) {
            if !self.cuts.contains_key(&pair(node, other)) {
                self.sim.repair(host(node), host(other));
            }
        }
        self.ledger.gone(node);
        self.shown.retain(|(of, _), _| *of != node);
        self.ledger.count("crashes");
        self.ledger.trace(&format!("{node} crashes"));
    }

    fn start(&mut self, node: u64) {
        if self.down.remove(&node) {
            self.sim.bounce(host(node));
            self.ledger.trace(&format!("{node} starts"));
        }
    }

    fn cut(&mut self, a: u64, b: u64, how: Cut) {
        if a == b || self.cuts.contains_key(&pair(a, b)) {
            return;
        }
        match how {
            Cut::Lost => self.sim.partition(host(a), host(b)),
            Cut::OneWay => self.sim.partition_oneway(host(a), host(b)),
            Cut::Held => self.sim.hold(host(a), host(b)),
        }
        self.cuts.insert(pair(a, b), how);
        self.ledger.count(match how {
            Cut::Lost => "cuts",
            Cut::OneWay => "cuts one way",
            Cut::Held => "held",
        });
        self.ledger.trace(&format!("{a} {b} {how:?}"));
    }

    fn mend(&mut self, (a, b): (u64, u64)) {
        match self.cuts.remove(&(a, b)) {
            Some(Cut::Held) => self.sim.release(host(a), host(b)),
            Some(Cut::Lost | Cut::OneWay) => self.sim.repair(host(a), host(b)),
            None => {}
        }
    }

    fn heal(&mut self) {
        for pair in self.cuts.keys().copied().collect::<Vec<_>>() {
            self.mend(pair);
        }
    }

    fn isolate(&mut self, node: u64, how: Cut) {
        for other in self.seats.keys().copied().collect::<Vec<_>>() {
            self.cut(node, other, how);
        }
    }

    fn fault(&mut self) {
        let (a, b) = (self.node(), self.node());
        let how = match self.below(3) {
            0 => Cut::Lost,
            1 => Cut::OneWay,
            _ => Cut::Held,
        };
        match self.below(10) {
            0 => self.isolate(a, how),
            1..=3 => self.cut(a, b, how),
            4 | 5 => self.heal(),
            // Most of the time a majority is there.
            6 | 7 if self.down.len() < 2 => self.crash(a),
            8 => {
                let most = Duration::from_millis(5 + self.below(60));
                self.sim.set_max_message_latency(most);
            }
            _ => {
                if let Some(node) = self.down.iter().next().copied() {
                    self.start(node);
                }
            }
        }
    }

    /// The first members; a group is begun once.
    fn begin(&mut self) -> Result<(), String> {
        while self.seats.values().any(|seat| lock(&seat.live).is_none()) {
            self.step()?;
            if self.ledger.step() > 1_000 {
                return Err("the nodes do not start".into());
            }
        }
        for group in self.groups.clone() {
            let voters = self.moving[&group].wanted.clone();
            let first = *voters.first().expect("three");
            let ledger = self.ledger.clone();
            self.job(first, move |groups| async move {
                if let Err(error) = groups.initialize(group, voters).await {
                    ledger.fault(format!("group {group} was not begun: {error}"));
                }
            });
        }
        self.work(3_000, |_, _| {})
    }

    /// Works for so many milliseconds, and does something else at each step.
    fn work(&mut self, ms: u64, mut also: impl FnMut(&mut Self, u64)) -> Result<(), String> {
        for step in 0..ms / 2 {
            if step % 10 == 0 {
                self.propose();
            }
            if step % 40 == 0 {
                self.snapshot();
            }
            also(self, step);
            self.step()?;
        }
        Ok(())
    }

    fn chaos(&mut self) -> Result<(), String> {
        self.begin()?;
        self.work(18_000, |world, step| {
            if step % 50 == 0 {
                let group = world.group();
                world.churn(group, false);
            }
            if step % 150 == 0 {
                world.fault();
            }
        })
    }

    fn lagging(&mut self) -> Result<(), String> {
        self.begin()?;
        let lags = 1 + self.below(3);
        self.crash(lags);
        self.work(6_000, |_, _| {})?;
        self.start(lags);
        // It is to stay, and another one is to come.
        for moving in self.moving.values_mut() {
            moving.wanted = (1..=4).collect();
        }
        let again = 200 + self.below(1_200);
        let is_held = self.below(2) == 0;
        self.work(10_000, |world, step| {
            if step % 20 == 0 {
                let group = world.groups[(step / 20) as usize % world.groups.len()];
                if (step / 80) % 3 == 0 {
                    world.hand_over(group);
                } else {
                    world.churn(group, true);
                }
            }
            // On the way it is cut off, or crashes again.
            if step == again && is_held {
                world.isolate(lags, Cut::Held);
            } else if step == again {
                world.crash(lags);
            } else if step == again + 500 {
                world.heal();
                world.start(lags);
            }
        })
    }

    /// Leadership goes to another voter, whatever else is under way.
    fn hand_over(&mut self, group: GroupId) {
        let Some((leader, status)) = self.leader(group) else { return };
        let voters = &status.voters[0];
        let to = voters[self.below(voters.len() as u64) as usize];
        let ledger = self.ledger.clone();
        self.job(leader, move |groups| async move {
            let done = groups.transfer_leadership(group, to).await;
            if done.is_ok() && to != leader {
                ledger.count("handed over");
            }
            ledger.trace(&format!("leadership of {group} to {to}: {done:?}"));
        });
    }

    /// All is well again: the members become those that are wanted, all of them
    /// get what was committed, and what was acknowledged is there.
    fn end(&mut self) -> Result<(), String> {
        self.heal();
        self.sim.set_max_message_latency(Duration::from_millis(12));
        for node in self.down.clone() {
            self.start(node);
        }
        let mut left: BTreeSet<GroupId> = self.groups.iter().copied().collect();
        let before = self.ledger.all_acked().len();
        for step in 0..HEALED_STEPS {
            if step % 50 == 0 {
                for group in left.clone() {
                    self.churn(group, true);
                    if let Some((leader, _)) = self.leader(group) {
                        self.say(leader, group, format!("end-{group}-{step}").into());
                    }
                }
            }
            self.step()?;
            if step % 50 == 49 {
                left.retain(|group| !self.is_in_order(*group, before));
            }
            if left.is_empty() {
                break;
            }
        }
        if let Some(group) = left.first() {
            return Err(format!("no order after it was healed:\n{}", self.report(*group)));
        }
        // What was proposed last arrives everywhere.
        for _ in 0..1_500 {
            self.step()?;
        }
        let acked = self.ledger.all_acked();
        for &group in &self.groups {
            let replicas = self.replicas(group);
            let (first, entries) = &replicas[0];
            judge(group, entries, &acked)?;
            for (node, other) in &replicas[1..] {
                if other != entries {
                    let (here, there) = (entries.len(), other.len());
                    return Err(format!(
                        "group {group}: node {first} has {here} entries, node {node} has {there}, \
                         and they differ"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether the members are the wanted ones, and something was acknowledged.
    fn is_in_order(&self, group: GroupId, before: usize) -> bool {
        let Some((_, status)) = self.leader(group) else { return false };
        let wanted = &self.moving[&group].wanted;
        let acked = self.ledger.all_acked();
        status.settled
            && status.voters.len() == 1
            && status.voters[0].iter().eq(wanted.iter())
            && acked[before..].iter().any(|acked| acked.group == group)
    }

    /// What each member has, its leader first.
    fn replicas(&self, group: GroupId) -> Vec<(u64, Vec<Bytes>)> {
        let entries = |node: u64| {
            let live = lock(&self.seats[&node].live);
            live.as_ref().map(|live| live.machines[&group].payloads()).unwrap_or_default()
        };
        self.moving[&group].wanted.iter().map(|node| (*node, entries(*node))).collect()
    }

    fn report(&self, group: GroupId) -> String {
        let mut out = format!("group {group}, wanted {:?}\n", self.moving[&group].wanted);
        for node in self.seats.keys() {
            out.push_str(&format!("{node}: {:?}\n", self.status(*node, group)));
            if let Some(live) = lock(&self.seats[node].live).as_ref() {
                let installs = live.machines[&group].installs();
                out.push_str(&format!("   {installs} installs; links:"));
                for peer in live.mesh.status() {
                    let up = peer.generation.is_some();
                    out.push_str(&format!(" {} {up} {:?}", peer.node.0, peer.last_error));
                }
                out.push('\n');
            }
        }
        out
    }
}

fn pair(a: u64, b: u64) -> (u64, u64) {
    (a.min(b), a.max(b))
}
