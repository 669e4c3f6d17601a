use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Bound, Deref, DerefMut};

use super::*;
use crate::ids::{Incarnation, Millis, NodeId};
use crate::limits::{INCREMENTS_MAX, ROUTE_LEASE_MS};
use crate::seeded::Seeded;

fn life(id: u64) -> Life {
    Life { node: NodeId(id), incarnation: Incarnation(1) }
}

/// A follower, and what the core's index would hold by what it says: each filter
/// with its epoch.
#[derive(Debug, Default)]
struct Keeper {
    follower: Follower,
    kept: BTreeMap<(Authority, String), u16>,
    /// Where the walk goes on.
    after: Option<(Authority, String)>,
}

impl Deref for Keeper {
    type Target = Follower;

    fn deref(&self) -> &Follower {
        &self.follower
    }
}

impl DerefMut for Keeper {
    fn deref_mut(&mut self) -> &mut Follower {
        &mut self.follower
    }
}

impl Keeper {
    fn take_all(&mut self) {
        while let Some(Told { authority, filter, said }) = self.follower.take_told() {
            let key = (authority, filter.into_string());
            match said {
                Said::Has(epoch) | Said::Had(Some(epoch)) => _ = self.kept.insert(key, epoch),
                Said::HasNot => _ = self.kept.remove(&key),
                Said::Had(None) => {}
            }
        }
    }

    /// Drops what is void of so many filters; whether there is more to do.
    fn sweep(&mut self, most: usize) -> bool {
        self.take_all();
        if !self.follower.walk() {
            return false;
        }
        for _ in 0..most {
            let from = self.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.kept.range((from, Bound::Unbounded)).next();
            let Some(key) = next.map(|(key, _)| key.clone()) else { break };
            if !self.follower.is_valid(key.0, self.kept[&key]) {
                self.kept.remove(&key);
            }
            self.after = Some(key);
        }
        if self.kept.keys().next_back() <= self.after.as_ref() {
            self.after = None;
            self.follower.walked();
        }
        self.follower.walk()
    }
}

/// The rule of the standard, as plainly as it can be said.
fn fits(filter: &str, topic: &str) -> bool {
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        match (level, topic.next()) {
            ("#", _) => return true,
            (_, None) => return false,
            (level, Some(name)) if level != "+" && level != name => return false,
            (_, Some(_)) => {}
        }
    }
    topic.next().is_none()
}

/// Sends everything there is from one to the other, and the acknowledgements back.
fn drain(from: &mut Announcer, from_life: Life, to: &mut Keeper, to_life: Life) {
    while let Some(batch) = from.next_batch(to_life) {
        match to.take(from_life, &batch) {
            Taken::Ack(number) => assert_eq!(from.acked(to_life, number), Acked::Yes),
            Taken::More => {}
            Taken::Gap => panic!("the stream has a gap: {batch:?}"),
        }
    }
}

/// Node 1 announces, node 2 follows and holds a lease from `now`.
fn pair(now: Millis) -> (Announcer, Keeper) {
    let (mut announcer, mut follower) = (Announcer::new(1), Keeper::default());
    announcer.attach(life(2), None);
    drain(&mut announcer, life(1), &mut follower, life(2));
    renew(&mut announcer, &mut follower, now);
    (announcer, follower)
}

fn renew(announcer: &mut Announcer, follower: &mut Keeper, now: Millis) -> bool {
    let Some(request) = follower.ask(life(1), now) else { return false };
    let Some(newest) = announcer.ping(life(2), now) else { return false };
    follower.granted(life(1), request, newest);
    true
}

fn wants(keeper: &mut Keeper, topic: &str) -> Vec<Authority> {
    keeper.take_all();
    let Keeper { follower, kept, .. } = keeper;
    let wants = kept.iter().filter(|((authority, filter), epoch)| {
        fits(filter, topic) && follower.is_valid(*authority, **epoch)
    });
    let mut targets: Vec<_> = wants.map(|((authority, _), _)| *authority).collect();
    targets.dedup();
    targets
}

#[test]
fn a_filter_is_announced_once_however_many_subscribers_it_has() {
    let (mut announcer, mut follower) = pair(0);
    let first = announcer.subscribe(None, "a/+", 10);
    assert_eq!(announcer.subscribe(None, "a/+", 11), first, "it waits for the same change");
    drain(&mut announcer, life(1), &mut follower, life(2));
    assert_eq!(wants(&mut follower, "a/b"), [Authority::Node(life(1))]);
    announcer.unsubscribe(None, "a/+", 12);
    assert_eq!(announcer.next_batch(life(2)), None);
    announcer.unsubscribe(None, "a/+", 13);
    drain(&mut announcer, life(1), &mut follower, life(2));
    assert_eq!(wants(&mut follower, "a/b"), []);
    assert!(follower.kept.is_empty());
}

#[test]
fn a_suback_waits_for_every_peer_with_a_lease_and_for_nobody_else() {
    let (mut announcer, mut follower) = pair(0);
    let number = announcer.subscribe(None, "a", 10);
    let Ok(Waiting::Ticket(ticket)) = announcer.barrier(number, 10) else { panic!("no wait") };
    assert_eq!(announcer.released(11), []);
    let second = announcer.subscribe(None, "a", 12);
    assert!(matches!(announcer.barrier(second, 12), Ok(Waiting::Ticket(_))), "nor is it acked");
    drain(&mut announcer, life(1), &mut follower, life(2));
    assert_eq!(announcer.released(13), [ticket, ticket + 1]);
    let third = announcer.subscribe(None, "a", 14);
    assert_eq!(announcer.barrier(third, 14), Ok(Waiting::No));

    let mut lonely = Announcer::new(1);
    let number = lonely.subscribe(None, "a", 0);
    assert_eq!(lonely.barrier(number, 0), Ok(Waiting::No), "nobody holds a lease");
}

#[test]
fn a_silent_peer_delays_a_suback_by_4_seconds_at_most() {
    let (mut announcer, mut follower) = pair(0);
    for at in (500..10_000).step_by(500) {
        renew(&mut announcer, &mut follower, at);
    }
    // From here on it pings, and acknowledges nothing.
    let subscribed = 10_000;
    let number = announcer.subscribe(None, "a", subscribed);
    assert!(matches!(announcer.barrier(number, subscribed), Ok(Waiting::Ticket(_))));
    let mut now = subscribed;
    while announcer.released(now).is_empty() {
        renew(&mut announcer, &mut follower, now);
        now += 10;
        assert!(now <= subscribed + 4_000);
    }
    assert!(now >= subscribed + ROUTE_LEASE_MS, "it had a lease");
    let covered = follower.covered_until([life(1)].into_iter(), 0);
    assert!(covered.is_err() || covered.is_ok_and(|until| until <= now));
}

#[test]
fn a_second_subscriber_waits_too_while_a_peer_that_was_cut_off_holds_a_lease() {
    let (mut announcer, mut follower) = pair(0);
    let number = announcer.subscribe(None, "a", 10);
    announcer.detach(life(2));
    assert!(matches!(announcer.barrier(number, 11), Ok(Waiting::Ticket(_))));
    for other in 0..10_000 {
        announcer.subscribe(None, &format!("b/{other}"), 12);
    }
    let second = announcer.subscribe(None, "a", 13);
    assert!(matches!(announcer.barrier(second, 13), Ok(Waiting::Ticket(_))));
    assert_eq!(announcer.released(ROUTE_LEASE_MS).len(), 2, "its lease has run out");
    assert_eq!(follower.covered_until([life(1)].into_iter(), 0), Ok(2_900));
    follower.gone(life(1));
    assert!(follower.covered_until([life(1)].into_iter(), 0).is_err());
}

#[test]
fn a_peer_goes_on_where_it_was_or_gets_everything_anew() {
    let (mut announcer, mut follower) = pair(0);
    announcer.subscribe(None, "old", 1);
    drain(&mut announcer, life(1), &mut follower, life(2));
    announcer.detach(life(2));
    announcer.subscribe(None, "new", 2);
    announcer.unsubscribe(None, "old", 2);
    announcer.attach(life(2), follower.have(life(1)));
    let batch = announcer.next_batch(life(2)).expect("two changes");
    assert!(matches!(&batch, Batch::Increments { changes, .. } if changes.len() == 2));
    follower.take(life(1), &batch);

    announcer.detach(life(2));
    announcer.unsubscribe(None, "new", 3);
    for at in 0..=INCREMENTS_MAX {
        announcer.subscribe(None, &format!("n/{at}"), 3);
    }
    announcer.attach(life(2), follower.have(life(1)));
    let batch = announcer.next_batch(life(2)).expect("everything");
    assert!(matches!(batch, Batch::Snapshot { first: true, .. }));
    assert_eq!(follower.take(life(1), &batch), Taken::More);
    drain(&mut announcer, life(1), &mut follower, life(2));
    assert_eq!(wants(&mut follower, "n/7"), [Authority::Node(life(1))]);
    assert_eq!(wants(&mut follower, "new"), [], "not said again, so void");
    while follower.sweep(1_000) {}
    assert_eq!(follower.kept.len(), INCREMENTS_MAX + 1);
}

#[test]
fn a_dead_nodes_routes_are_void_at_once_and_swept_later() {
    let (mut announcer, mut follower) = pair(0);
    for at in 0..1_000 {
        announcer.subscribe(None, &format!("f/{at}"), 1);
    }
    drain(&mut announcer, life(1), &mut follower, life(2));
    while follower.sweep(100) {}
    follower.gone(life(1));
    assert_eq!(wants(&mut follower, "f/1"), []);
    assert_eq!(follower.kept.len(), 1_000);
    let mut steps = 1;
    while follower.sweep(100) {
        steps += 1;
    }
    assert_eq!((follower.kept.len(), steps), (0, 10));
}

#[test]
fn a_partition_is_covered_only_by_a_leader_that_has_said_everything() {
    let (mut announcer, mut follower) = pair(0);
    let p = PartitionId(0);
    let none = || std::iter::empty::<Life>();
    assert_eq!(follower.covered_until(none(), 1), Err(NotCovered::Partition(p)));
    announcer.lead(p, 5, ["a", "b"].into_iter(), 1);
    drain(&mut announcer, life(1), &mut follower, life(2));
    assert_eq!(follower.covered_until(none(), 1), Ok(2_900), "by the lease that it has");
    assert!(renew(&mut announcer, &mut follower, 600));
    assert_eq!(follower.covered_until(none(), 1), Ok(3_500));
    assert_eq!(wants(&mut follower, "a"), [Authority::Partition(p)]);

    // Its announcer dies: the routes stay, and are not enough.
    follower.gone(life(1));
    assert_eq!(wants(&mut follower, "a"), [Authority::Partition(p)]);
    assert_eq!(follower.covered_until(none(), 1), Err(NotCovered::Partition(p)));

    // The next leader knows of c and not of b.
    let mut next = Announcer::new(3);
    next.attach(life(2), None);
    next.lead(p, 9, ["a", "c"].into_iter(), 1_000);
    drain(&mut next, life(3), &mut follower, life(2));
    let request = follower.ask(life(3), 1_001).expect("due");
    follower.granted(life(3), request, next.ping(life(2), 1_001).expect("all acknowledged"));
    assert!(follower.covered_until(none(), 1).is_ok());
    assert_eq!(wants(&mut follower, "b"), []);
    assert_eq!(wants(&mut follower, "c"), [Authority::Partition(p)]);
}

#[test]
fn a_deposed_leader_changes_nothing_any_more() {
    let (mut old, mut follower) = pair(0);
    let p = PartitionId(0);
    old.lead(p, 5, ["a"].into_iter(), 1);
    drain(&mut old, life(1), &mut follower, life(2));
    let mut new = Announcer::new(3);
    new.attach(life(2), None);
    new.lead(p, 9, ["a"].into_iter(), 2);
    drain(&mut new, life(3), &mut follower, life(2));
    old.unsubscribe(Some(p), "a", 3);
    old.subscribe(Some(p), "z", 3);
    drain(&mut old, life(1), &mut follower, life(2));
    assert_eq!(wants(&mut follower, "a"), [Authority::Partition(p)]);
    assert_eq!(wants(&mut follower, "z"), []);
}

#[test]
fn a_leader_that_says_so_late_does_not_silence_the_next_one() {
    let (mut next, mut follower) = pair(0);
    let p = PartitionId(0);
    next.lead(p, 6, ["a"].into_iter(), 1);
    drain(&mut next, life(1), &mut follower, life(2));
    follower.lead(p, 5, ["z"].into_iter()).expect("room");
    follower.follow(p);
    assert!(follower.covered_until(std::iter::empty(), 1).is_ok());
    assert_eq!(wants(&mut follower, "a"), [Authority::Partition(p)]);
    assert_eq!(wants(&mut follower, "z"), []);
}

#[test]
fn what_a_peer_says_out_of_turn_is_refused() {
    let (mut announcer, mut follower) = pair(0);
    assert_eq!(announcer.acked(life(2), u64::MAX), Acked::Impossible);
    let increments = |first, changes: &[&str]| Batch::Increments {
        first,
        changes: changes.iter().map(|filter| Change::NodeAdd((*filter).into())).collect(),
    };
    assert_eq!(follower.take(life(1), &increments(9, &["a"])), Taken::Gap);
    assert_eq!(follower.take(life(1), &increments(u64::MAX, &["a"])), Taken::Gap);
    assert_eq!(follower.take(life(1), &increments(0, &[])), Taken::Ack(0));
    assert_eq!(follower.take(life(9), &increments(1, &["a"])), Taken::Gap, "it never began");
    assert_eq!(follower.take(life(1), &increments(1, &["a", "b"])), Taken::Ack(2));
    assert_eq!(follower.take(life(1), &increments(1, &["a", "b", "c"])), Taken::Ack(3));
}

/// The goal: 100 bytes a distinct filter. The filters are as long as those of a
/// large fleet, two in three with wildcards.
#[test]
fn a_filter_that_is_announced_costs_less_than_100_bytes() {
    const FILTERS: usize = 300_000;
    let text = |at: usize| match at % 3 {
        0 => format!("plant/{at}/temp"),
        1 => format!("plant/{at}/+/temp"),
        _ => format!("plant/{at}/#"),
    };
    let mut announcer = Announcer::new(1);
    for at in 0..FILTERS {
        announcer.subscribe(None, &text(at), 0);
    }
    let bytes = announcer.memory_bytes() / FILTERS;
    assert!(bytes <= 100, "{bytes} bytes a filter of this node");
}

/// What is broken on purpose, to see that the model finds it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hole {
    None,
    /// Publishes are acknowledged whatever is covered.
    NoLease,
    /// SUBACK without the barrier.
    NoBarrier,
    /// A cached clock: a paused node judges by the time before its pause.
    CachedNow,
    /// Partitions need no announcer.
    NoPartitions,
}

const NODES: usize = 3;
const PARTITIONS: u16 = 2;
const TOPICS: [&str; 4] = ["a", "b", "c", "d"];

/// Three nodes with links that are slow and cut, partitions that change their
/// leader, nodes that pause. Subscriptions and publishes at random; whenever a
/// publish is acknowledged by what its node knows, every subscription that was
/// acknowledged before has to be in that node's table.
struct World {
    random: Seeded,
    hole: Hole,
    now: Millis,
    announcers: Vec<Announcer>,
    followers: Vec<Keeper>,
    /// Batches and answers under way: by sender and receiver.
    links: BTreeMap<(usize, usize), VecDeque<(Millis, Letter)>>,
    cut_until: BTreeMap<(usize, usize), Millis>,
    attached: BTreeSet<(usize, usize)>,
    paused_until: [Millis; NODES],
    lives: [u64; NODES],
    phases: [Phase; NODES],
    /// The last time that a node looked at the clock.
    looked: [Millis; NODES],
    /// True leaders and the filters that are committed, and who thinks it leads.
    leaders: Vec<(usize, u64, BTreeMap<String, u32>)>,
    thinks: Vec<BTreeSet<u16>>,
    own: Vec<BTreeMap<String, u32>>,
    waiting: BTreeMap<(usize, u64), (Option<u16>, String)>,
    promised: BTreeMap<(Option<usize>, Option<u16>, String), u32>,
    checked: usize,
    outboxed: usize,
}

enum Letter {
    Batch(Batch),
    Ack(u64),
    Ping(u64),
    Pong(u64, u64),
}

/// What a process goes through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Serving,
    /// It does nothing; its peers are told at this time.
    Dead(Millis),
    /// Declared down; a new process starts at this time.
    Down(Millis),
    /// A new life that nobody may subscribe at before all know it.
    Syncing,
}

impl World {
    fn life(&self, at: usize) -> Life {
        Life { node: NodeId(at as u64 + 1), incarnation: Incarnation(self.lives[at]) }
    }

    fn serves(&self, at: usize) -> bool {
        self.phases[at] == Phase::Serving
    }

    fn die(&mut self, at: usize) {
        self.phases[at] = Phase::Dead(self.now + 2_500);
        for other in (0..NODES).filter(|other| *other != at) {
            self.cut(pair_of(at, other));
        }
        self.announcers[at] = Announcer::new(at as u64);
        self.followers[at] = Keeper::default();
        self.thinks[at].clear();
        self.own[at].clear();
        self.waiting.retain(|(of, _), _| *of != at);
        self.promised.retain(|(own, ..), _| *own != Some(at));
        for (leader, ..) in &mut self.leaders {
            if *leader == at {
                *leader = NODES;
            }
        }
    }

    fn age(&mut self, at: usize) {
        match self.phases[at] {
            Phase::Serving if self.random.below(1_500) == 0 => self.die(at),
            Phase::Serving => {}
            Phase::Dead(until) if until <= self.now => {
                let gone = self.life(at);
                for other in (0..NODES).filter(|other| *other != at) {
                    self.followers[other].gone(gone);
                    self.announcers[other].gone(gone);
                }
                self.phases[at] = Phase::Down(self.now + self.random.below(2_000));
            }
            Phase::Down(until) if until <= self.now => {
                self.lives[at] += 1;
                self.paused_until[at] = 0;
                self.phases[at] = Phase::Syncing;
            }
            Phase::Dead(_) | Phase::Down(_) => {}
            Phase::Syncing => {
                let counts = |phase| matches!(phase, Phase::Serving | Phase::Dead(_));
                let mut others = (0..NODES).filter(|other| *other != at);
                if others.all(|other| {
                    !counts(self.phases[other]) || self.announcers[at].is_known_to(self.life(other))
                }) {
                    self.phases[at] = Phase::Serving;
                }
            }
        }
    }

    fn cut(&mut self, (a, b): (usize, usize)) {
        self.attached.remove(&(a, b));
        for (from, to) in [(a, b), (b, a)] {
            self.links.remove(&(from, to));
            let peer = self.life(to);
            self.announcers[from].detach(peer);
        }
    }

    fn new(seed: u64, hole: Hole) -> World {
        World {
            random: Seeded::new(seed),
            hole,
            now: 0,
            announcers: (0..NODES).map(|at| Announcer::new(at as u64)).collect(),
            followers: (0..NODES).map(|_| Keeper::default()).collect(),
            links: BTreeMap::new(),
            cut_until: BTreeMap::new(),
            attached: BTreeSet::new(),
            paused_until: [0; NODES],
            lives: [1; NODES],
            phases: [Phase::Serving; NODES],
            looked: [0; NODES],
            leaders: (0..PARTITIONS).map(|_| (NODES, 0, BTreeMap::new())).collect(),
            thinks: vec![BTreeSet::new(); NODES],
            own: vec![BTreeMap::new(); NODES],
            waiting: BTreeMap::new(),
            promised: BTreeMap::new(),
            checked: 0,
            outboxed: 0,
        }
    }

    fn send(&mut self, from: usize, to: usize, letter: Letter) {
        if !self.attached.contains(&pair_of(from, to)) {
            return;
        }
        let late = if self.random.chance(3) { 800 } else { 30 };
        let line = self.links.entry((from, to)).or_default();
        let after = line.back().map_or(0, |(at, _)| *at);
        line.push_back((after.max(self.now + self.random.below(late)), letter));
    }

    fn elect(&mut self, partition: u16, leader: usize) {
        let (old, index, filters) = &mut self.leaders[usize::from(partition)];
        *old = leader;
        *index += 5;
        let (index, filters) = (*index, filters.clone());
        let p = PartitionId(partition);
        let names = || {
            filters
                .iter()
                .flat_map(|(name, count)| std::iter::repeat_n(name.as_str(), *count as usize))
        };
        self.announcers[leader].lead(p, index, names(), self.now);
        self.followers[leader].lead(p, index, names()).expect("there is room");
        self.thinks[leader].insert(partition);
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += 10;
        let now = self.now;
        for partition in 0..PARTITIONS {
            let none = self.leaders[usize::from(partition)].0 == NODES;
            let leader = self.random.below(NODES as u64) as usize;
            if self.random.below(if none { 100 } else { 400 }) == 0 && self.serves(leader) {
                self.elect(partition, leader);
            }
        }
        for a in 0..NODES {
            self.age(a);
            if self.random.below(900) == 0 {
                self.paused_until[a] = now + self.random.below(5_000);
            }
            for b in a + 1..NODES {
                self.link(a, b);
            }
        }
        for at in 0..NODES {
            let runs = matches!(self.phases[at], Phase::Serving | Phase::Syncing);
            if runs && self.paused_until[at] <= now {
                self.live(at)?;
            }
        }
        Ok(())
    }

    fn link(&mut self, a: usize, b: usize) {
        let cut = self.cut_until.get(&(a, b)).copied().unwrap_or(0);
        let run = |at: usize| matches!(self.phases[at], Phase::Serving | Phase::Syncing);
        if !run(a) || !run(b) {
            return;
        }
        if cut <= self.now && self.attached.insert((a, b)) {
            for (from, to) in [(a, b), (b, a)] {
                let have = self.followers[to].have(self.life(from));
                let peer = self.life(to);
                self.announcers[from].attach(peer, have);
            }
        }
        if self.random.below(500) == 0 {
            self.cut_until.insert((a, b), self.now + self.random.below(6_000));
            self.cut((a, b));
        }
    }

    /// One turn of a node that is not paused.
    fn live(&mut self, at: usize) -> Result<(), String> {
        let (now, before) = (self.now, self.looked[at]);
        // A publish that was in the socket is handled before anything else: with
        // the clock of now, or, with the hole, with that of before the pause.
        let judged_at = if self.hole == Hole::CachedNow { before } else { now };
        if self.serves(at) && self.random.chance(30) {
            self.publish(at, judged_at)?;
        }
        self.looked[at] = now;
        for from in (0..NODES).filter(|from| *from != at) {
            while let Some((due, _)) = self.links.get(&(from, at)).and_then(VecDeque::front) {
                if *due > now {
                    break;
                }
                let line = self.links.get_mut(&(from, at)).expect("looked up above");
                let (_, letter) = line.pop_front().expect("looked up above");
                self.read(from, at, letter);
            }
            let peer = self.life(from);
            while let Some(batch) = self.announcers[at].next_batch(peer) {
                self.send(at, from, Letter::Batch(batch));
            }
            if self.attached.contains(&pair_of(at, from))
                && let Some(request) = self.followers[at].ask(peer, now)
            {
                self.send(at, from, Letter::Ping(request));
            }
        }
        for partition in self.thinks[at].clone() {
            if self.leaders[usize::from(partition)].0 != at && self.random.chance(5) {
                // It hears that it was deposed.
                self.thinks[at].remove(&partition);
                self.announcers[at].follow(PartitionId(partition));
                self.followers[at].follow(PartitionId(partition));
            }
        }
        for ticket in self.announcers[at].released(now) {
            let key = self.waiting.remove(&(at, ticket)).expect("a ticket that was given");
            self.promise(at, key);
        }
        if self.serves(at) && self.random.chance(8) {
            self.subscribe(at);
        }
        if self.random.chance(6) {
            self.unsubscribe(at);
        }
        self.followers[at].sweep(2);
        Ok(())
    }

    fn read(&mut self, from: usize, at: usize, letter: Letter) {
        let peer = self.life(from);
        match letter {
            Letter::Batch(batch) => match self.followers[at].take(peer, &batch) {
                Taken::Ack(number) => self.send(at, from, Letter::Ack(number)),
                Taken::More => {}
                Taken::Gap => panic!("a gap on a link that keeps the order"),
            },
            Letter::Ack(number) => {
                assert_eq!(self.announcers[at].acked(peer, number), Acked::Yes);
            }
            Letter::Ping(request) => {
                if let Some(newest) = self.announcers[at].ping(peer, self.now) {
                    self.send(at, from, Letter::Pong(request, newest));
                }
            }
            Letter::Pong(request, newest) => {
                self.followers[at].granted(peer, request, newest);
            }
        }
    }

    fn subscribe(&mut self, at: usize) {
        let filter = (*self.random.one_of(&["a", "b", "c", "d", "+", "a/#"])).to_owned();
        let of = self.random.chance(50).then(|| self.random.below(u64::from(PARTITIONS)) as u16);
        if let Some(partition) = of {
            let (leader, _, filters) = &mut self.leaders[usize::from(partition)];
            if *leader != at {
                return;
            }
            *filters.entry(filter.clone()).or_default() += 1;
            self.followers[at].led(PartitionId(partition), &filter, true).expect("room");
        } else {
            *self.own[at].entry(filter.clone()).or_default() += 1;
        }
        let number = self.announcers[at].subscribe(of.map(PartitionId), &filter, self.now);
        let waiting = self.announcers[at].barrier(number, self.now).expect("room");
        match waiting {
            Waiting::Ticket(ticket) if self.hole != Hole::NoBarrier => {
                self.waiting.insert((at, ticket), (of, filter));
            }
            Waiting::Ticket(ticket) => {
                // Released later, and promised now.
                self.waiting.insert((at, ticket), (None, String::new()));
                self.promise(at, (of, filter));
            }
            Waiting::No => self.promise(at, (of, filter)),
        }
    }

    fn promise(&mut self, at: usize, (of, filter): (Option<u16>, String)) {
        if filter.is_empty() {
            return;
        }
        let key = (of.is_none().then_some(at), of, filter);
        *self.promised.entry(key).or_default() += 1;
    }

    /// One whose SUBACK has left.
    fn unsubscribe(&mut self, at: usize) {
        let mine = |(own, of, _): &(Option<usize>, Option<u16>, String)| match of {
            None => *own == Some(at),
            Some(partition) => self.leaders[usize::from(*partition)].0 == at,
        };
        let keys: Vec<_> = self.promised.keys().filter(|key| mine(key)).cloned().collect();
        if keys.is_empty() {
            return;
        }
        let key = self.random.one_of(&keys).clone();
        let count = self.promised.get_mut(&key).expect("listed");
        *count -= 1;
        if *count == 0 {
            self.promised.remove(&key);
        }
        let (_, of, filter) = key;
        let filters = match of {
            None => &mut self.own[at],
            Some(partition) => &mut self.leaders[usize::from(partition)].2,
        };
        let count = filters.get_mut(&filter).expect("it was subscribed");
        *count -= 1;
        let last = *count == 0;
        if last {
            filters.remove(&filter);
        }
        if let Some(partition) = of.filter(|_| last) {
            self.followers[at].led(PartitionId(partition), &filter, false).expect("room");
        }
        self.announcers[at].unsubscribe(of.map(PartitionId), &filter, self.now);
    }

    fn publish(&mut self, at: usize, judged_at: Millis) -> Result<(), String> {
        let topic = *self.random.one_of(&TOPICS);
        let counts = |phase| matches!(phase, Phase::Serving | Phase::Dead(_));
        let others = (0..NODES).filter(|other| *other != at && counts(self.phases[*other]));
        let required = others.map(|other| self.life(other));
        let partitions = if self.hole == Hole::NoPartitions { 0 } else { PARTITIONS };
        let until = self.followers[at].covered_until(required, partitions);
        let covered = until.is_ok_and(|until| judged_at < until);
        if !covered && self.hole != Hole::NoLease {
            self.outboxed += 1;
            return Ok(());
        }
        self.checked += 1;
        let targets = wants(&mut self.followers[at], topic);
        for (own, of, filter) in self.promised.keys() {
            if filter != topic && filter != "+" {
                continue;
            }
            let authority = match (own, of) {
                (Some(own), _) if *own == at => continue,
                (Some(own), _) => Authority::Node(self.life(*own)),
                (None, Some(partition)) => Authority::Partition(PartitionId(*partition)),
                (None, None) => unreachable!("a promise is somebody's"),
            };
            if !targets.contains(&authority) {
                return Err(format!(
                    "{} ms: node {at} acknowledged a publish to {topic} and does not know that \
                     {authority:?} wants {filter}",
                    self.now
                ));
            }
        }
        Ok(())
    }
}

fn pair_of(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

/// Publishes that were checked, and those that went to the outbox.
fn run(seed: u64, hole: Hole) -> Result<(usize, usize), String> {
    let mut world = World::new(seed, hole);
    for _ in 0..3_000 {
        world.step().map_err(|fault| format!("seed {seed}, {fault}"))?;
    }
    Ok((world.checked, world.outboxed))
}

#[test]
fn what_was_subscribed_before_a_publish_is_known_to_its_node_or_it_goes_to_the_outbox() {
    let (mut checked, mut outboxed) = (0, 0);
    for seed in 0..60 {
        let (more, boxed) = run(seed, Hole::None).unwrap_or_else(|fault| panic!("{fault}"));
        checked += more;
        outboxed += boxed;
    }
    assert!(checked > 30_000, "too few were checked: {checked}, {outboxed} in the outbox");
    assert!(outboxed > 1_000, "the faults of the model hurt nobody: {outboxed}");
}

#[test]
fn the_model_finds_each_hole_that_is_made_on_purpose() {
    for hole in [Hole::NoLease, Hole::NoBarrier, Hole::CachedNow, Hole::NoPartitions] {
        assert!((0..60).any(|seed| run(seed, hole).is_err()), "{hole:?} was not found");
    }
}
