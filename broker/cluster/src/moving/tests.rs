use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::ids::{ClusterId, Incarnation, Life, Millis, NodeId, PartitionId, StoreId};
use crate::limits::{
    PREFERRED_LEADER_AFTER_MS, TRANSFER_AGAIN_MS, TRANSFER_GAP_MS, TRANSFERS_PRESSING_MAX,
};
use crate::meta::{ClusterConfig, Command, Entry, Meta, NodeSpec, NodeState, Refused, Wish};
use crate::placement::{Decision, Pacing};
use crate::seeded::Seeded;

const PARTITIONS: u16 = 12;

/// A cluster's metadata, whose log the test writes.
#[derive(Clone)]
struct Book(Meta);

impl Book {
    /// Nodes 1 to `nodes` serve.
    fn of(nodes: u64, replication_factor: u8) -> Book {
        let mut book = Book(Meta::new());
        let config = ClusterConfig { replication_factor, ..ClusterConfig::default() };
        let (cluster, partitions, level) = (ClusterId(7), PARTITIONS, 1);
        let node = spec(1);
        book.must(Command::Found { cluster, partitions, level, config, node });
        book.serve(1);
        (2..=nodes).for_each(|node| book.join(node));
        book
    }

    fn say(&mut self, command: Command) -> Result<(), Refused> {
        let index = self.0.applied() + 1;
        self.0.apply(index, &Entry { at: index * 1_000, command }).map(drop)
    }

    fn must(&mut self, command: Command) {
        self.say(command).expect("not refused");
    }

    fn join(&mut self, node: u64) {
        self.must(Command::Register { cluster: ClusterId(7), node: spec(node) });
        self.serve(node);
    }

    fn life(&self, node: u64) -> Life {
        let known = self.0.node(NodeId(node)).map(|node| node.spec.life());
        known.unwrap_or(Life { node: NodeId(node), incarnation: Incarnation(1) })
    }

    fn serve(&mut self, node: u64) {
        let life = self.life(node);
        self.must(Command::Sync(life));
        let seen = self.0.applied();
        self.must(Command::Ready { life, seen });
    }

    fn down(&mut self, node: u64) {
        let life = self.life(node);
        self.must(Command::Down(life));
    }

    /// In another life.
    fn back(&mut self, node: u64) {
        let incarnation = Incarnation(self.life(node).incarnation.0 + 1);
        let node_spec = NodeSpec { incarnation, ..spec(node) };
        self.must(Command::Register { cluster: ClusterId(7), node: node_spec });
        self.serve(node);
    }

    fn drain(&mut self, node: u64, wish: Wish) {
        self.must(Command::Drain { node: NodeId(node), wish });
    }

    fn place(&mut self, partition: u16, nodes: &[u64]) {
        let nodes = nodes.iter().copied().map(NodeId).collect();
        self.must(Command::Place(vec![(PartitionId(partition), nodes)]));
    }
}

fn spec(id: u64) -> NodeSpec {
    NodeSpec {
        id: NodeId(id),
        incarnation: Incarnation(1),
        store: StoreId(u128::from(id)),
        zone: String::new(),
        address: format!("10.0.0.{id}:7883"),
        name: String::new(),
        weight: 100,
        level_min: 1,
        level_max: 1,
    }
}

fn ids<const N: usize>(nodes: [u64; N]) -> BTreeSet<NodeId> {
    nodes.into_iter().map(NodeId).collect()
}

const AT: PartitionId = PartitionId(0);
const NONE: BTreeSet<PartitionId> = BTreeSet::new();

fn led<const N: usize>(in_sync: [u64; N]) -> Vec<Led> {
    vec![Led { partition: AT, in_sync: ids(in_sync) }]
}

#[test]
fn leadership_goes_to_the_first_that_is_wanted_after_10_seconds_in_sync() {
    let mut book = Book::of(3, 3);
    book.place(0, &[2, 1, 3]);
    let mut leaders = Leaders::default();
    let me = NodeId(1);
    assert_eq!(leaders.next(&book.0, me, &led([2, 3]), false, &NONE, 0), None);
    assert_eq!(leaders.next(&book.0, me, &led([3]), false, &NONE, 5_000), None, "it lags");
    assert_eq!(leaders.next(&book.0, me, &led([2, 3]), false, &NONE, 6_000), None);
    let due = 6_000 + PREFERRED_LEADER_AFTER_MS;
    assert_eq!(leaders.next(&book.0, me, &led([2, 3]), false, &NONE, due - 1), None);
    let handed = Some((AT, NodeId(2)));
    assert_eq!(leaders.next(&book.0, me, &led([2, 3]), false, &NONE, due), handed);
    leaders.tried(AT, due);
    let again = due + PREFERRED_LEADER_AFTER_MS;
    assert_eq!(
        leaders.next(&book.0, me, &led([2, 3]), false, &NONE, again - 1),
        None,
        "not at once"
    );
    assert_eq!(leaders.next(&book.0, me, &led([2, 3]), false, &NONE, again), handed);
    assert_eq!(
        leaders.next(&book.0, NodeId(2), &led([1, 3]), false, &NONE, again),
        None,
        "as it should"
    );

    // It is down: the next one should lead, and that is this node.
    book.down(2);
    assert_eq!(leaders.next(&book.0, me, &led([3]), false, &NONE, 2 * again), None);
    assert_eq!(leaders.next(&book.0, NodeId(3), &led([1]), false, &NONE, again), None, "not yet");
    let later = again + PREFERRED_LEADER_AFTER_MS;
    let next = leaders.next(&book.0, NodeId(3), &led([1]), false, &NONE, later);
    assert_eq!(next, Some((AT, NodeId(1))));
}

#[test]
fn who_leaves_or_drains_hands_over_at_once_and_to_nobody_that_does_so_too() {
    let mut book = Book::of(3, 3);
    book.place(0, &[1, 2, 3]);
    let (mut leaders, me) = (Leaders::default(), NodeId(1));
    let both = led([2, 3]);
    assert_eq!(leaders.next(&book.0, me, &both, false, &NONE, 0), None);
    assert_eq!(
        leaders.next(&book.0, me, &both, true, &NONE, 0),
        Some((AT, NodeId(2))),
        "it leaves"
    );
    assert_eq!(movable(&book.0, me, &both, false), 0);
    assert_eq!(movable(&book.0, me, &both, true), 1);
    book.drain(1, Wish::Empty);
    book.drain(2, Wish::Serve);
    assert_eq!(leaders.next(&book.0, me, &both, false, &NONE, 0), Some((AT, NodeId(3))));
    leaders.tried(AT, 0);
    assert_eq!(leaders.next(&book.0, me, &both, false, &NONE, TRANSFER_AGAIN_MS - 1), None);
    assert!(leaders.next(&book.0, me, &both, false, &NONE, TRANSFER_AGAIN_MS).is_some());
    assert_eq!(movable(&book.0, me, &led([2]), true), 0, "only one that drains is in sync");
}

#[test]
fn what_is_pressing_goes_several_at_a_time_and_none_holds_another_up() {
    let mut book = Book::of(3, 3);
    (0..PARTITIONS).for_each(|partition| book.place(partition, &[1, 2, 3]));
    let all = (0..PARTITIONS).map(PartitionId);
    let led: Vec<Led> = all.map(|partition| Led { partition, in_sync: ids([2, 3]) }).collect();
    let (mut leaders, me) = (Leaders::default(), NodeId(1));
    let mut under_way = BTreeSet::new();
    while let Some((at, _)) = leaders.next(&book.0, me, &led, true, &under_way, 0) {
        assert!(under_way.insert(at), "{at:?} is handed over already");
    }
    assert_eq!(under_way.len(), TRANSFERS_PRESSING_MAX);
    // All but one end: it is that one's slot alone that is taken.
    let slow = under_way.pop_first().expect("some are under way");
    let mut done: BTreeSet<_> = std::mem::take(&mut under_way);
    under_way.insert(slow);
    for now in 0..Millis::from(PARTITIONS) - TRANSFERS_PRESSING_MAX as Millis {
        let left: Vec<Led> =
            led.iter().filter(|led| !done.contains(&led.partition)).cloned().collect();
        match leaders.next(&book.0, me, &left, true, &under_way, now) {
            Some((at, _)) => assert!(done.insert(at)),
            None => panic!("{} are done", done.len()),
        }
    }
    assert_eq!(done.len(), led.len() - 1);
    // What is not pressing waits until nothing is under way.
    let mut book = Book::of(3, 3);
    book.place(0, &[2, 1, 3]);
    let rest = [Led { partition: AT, in_sync: ids([2, 3]) }];
    let other = BTreeSet::from([PartitionId(1)]);
    let due = PREFERRED_LEADER_AFTER_MS;
    assert_eq!(leaders.next(&book.0, me, &rest, false, &other, 0), None);
    assert_eq!(leaders.next(&book.0, me, &rest, false, &other, due), None);
    assert!(leaders.next(&book.0, me, &rest, false, &NONE, due).is_some());
}

#[test]
fn what_is_not_pressing_is_paced() {
    let mut book = Book::of(3, 3);
    (0..3).for_each(|partition| book.place(partition, &[2, 1, 3]));
    let led: Vec<Led> =
        (0..3).map(|at| Led { partition: PartitionId(at), in_sync: ids([2, 3]) }).collect();
    let (mut leaders, mut now) = (Leaders::default(), 0);
    leaders.next(&book.0, NodeId(1), &led, false, &NONE, now);
    now += PREFERRED_LEADER_AFTER_MS;
    for _ in 0..3 {
        let (at, to) =
            leaders.next(&book.0, NodeId(1), &led, false, &NONE, now).expect("one is due");
        assert_eq!(to, NodeId(2));
        leaders.tried(at, now);
        assert_eq!(
            leaders.next(&book.0, NodeId(1), &led, false, &NONE, now),
            None,
            "one at a time"
        );
        now += TRANSFER_GAP_MS;
    }
}

#[test]
fn a_move_goes_by_steps_that_may_be_asked_for_again() {
    let mut book = Book::of(4, 3);
    book.place(0, &[1, 2, 3]);
    let me = NodeId(1);
    let (add, remove) = (Some(NodeId(4)), Some(NodeId(3)));
    book.must(Command::MoveStart { partition: AT, add, remove });
    let mut group =
        Group { voters: ids([1, 2, 3]), settled: true, near: ids([2, 3]), ..Group::default() };
    assert_eq!(next(&book.0, AT, me, &group), Step::Teach(NodeId(4)));
    group.learners = ids([4]);
    assert_eq!(next(&book.0, AT, me, &group), Step::Wait, "it learns");
    group.near = ids([2, 3, 4]);
    for step in [crate::meta::MoveStep::CaughtUp, crate::meta::MoveStep::Joint] {
        assert_eq!(next(&book.0, AT, me, &group), Step::Say(step));
        book.must(Command::MoveOn { partition: AT, step });
    }
    let target = ids([1, 2, 4]);
    assert_eq!(next(&book.0, AT, me, &group), Step::Change(target.clone()));
    (group.voters, group.joint) = (ids([1, 2, 3, 4]), true);
    assert_eq!(next(&book.0, AT, me, &group), Step::Change(target.clone()), "half-way");
    // Who is to go leads: it hands over first, if it can.
    assert_eq!(next(&book.0, AT, NodeId(3), &group), Step::Wait);
    let alone = Group { near: ids([]), ..group.clone() };
    assert_eq!(next(&book.0, AT, NodeId(3), &alone), Step::Change(target.clone()));
    (group.voters, group.joint, group.learners) = (target, false, ids([]));
    assert_eq!(next(&book.0, AT, me, &group), Step::Done);
    book.must(Command::MoveDone(AT));
    assert_eq!(next(&book.0, AT, me, &group), Step::Stay);
    assert_eq!(book.0.wanted(AT), [NodeId(1), NodeId(2), NodeId(4)]);
}

#[test]
fn a_newcomer_in_the_place_of_a_wiped_disk_votes_in_the_change_in_which_that_one_stops() {
    let mut book = Book::of(3, 3);
    book.place(0, &[2, 1, 3]);
    book.down(2);
    let new = NodeSpec { address: spec(2).address, ..spec(9) };
    book.must(Command::Register { cluster: ClusterId(7), node: new });
    let me = NodeId(1);
    let mut group =
        Group { voters: ids([1, 2, 3]), settled: true, near: ids([3]), ..Group::default() };
    assert_eq!(next(&book.0, AT, me, &group), Step::Teach(NodeId(9)));
    group.learners = ids([9]);
    assert_eq!(next(&book.0, AT, me, &group), Step::Wait, "it learns");
    group.near = ids([3, 9]);
    assert_eq!(next(&book.0, AT, me, &group), Step::Change(ids([1, 3, 9])));
    let done = Group { voters: ids([1, 3, 9]), learners: ids([]), ..group };
    assert_eq!(next(&book.0, AT, me, &done), Step::Stay);
}

#[test]
fn a_newcomer_that_is_gone_ends_the_move_and_is_no_member_any_more() {
    let mut book = Book::of(4, 3);
    book.place(0, &[1, 2, 3]);
    let (add, remove) = (Some(NodeId(4)), Some(NodeId(3)));
    book.must(Command::MoveStart { partition: AT, add, remove });
    book.down(4);
    let group = Group {
        voters: ids([1, 2, 3]),
        settled: true,
        learners: ids([4]),
        near: ids([2, 3]),
        ..Group::default()
    };
    assert_eq!(next(&book.0, AT, NodeId(1), &group), Step::Abort);
    book.must(Command::MoveAbort(AT));
    assert_eq!(next(&book.0, AT, NodeId(1), &group), Step::Dismiss(NodeId(4)));
}

#[test]
fn who_was_struck_off_votes_no_more() {
    let mut book = Book::of(4, 3);
    book.place(0, &[1, 2, 3]);
    book.down(3);
    book.must(Command::Forget { node: NodeId(3), accept_data_loss: true });
    let group = Group { voters: ids([1, 2, 3]), settled: true, near: ids([2]), ..Group::default() };
    assert_eq!(next(&book.0, AT, NodeId(1), &group), Step::Change(ids([1, 2])));
}

/// A partition's group: what openraft would be asked, and may leave half done.
#[derive(Clone, Debug, Default)]
struct Raft {
    voters: BTreeSet<NodeId>,
    /// The set that votes as well, of a change that stands half-way.
    to: Option<BTreeSet<NodeId>>,
    learners: BTreeSet<NodeId>,
    near: BTreeSet<NodeId>,
    leader: Option<NodeId>,
}

impl Raft {
    fn all(&self) -> BTreeSet<NodeId> {
        self.voters.iter().chain(self.to.iter().flatten()).copied().collect()
    }

    fn has_quorum(set: &BTreeSet<NodeId>, up: &BTreeSet<NodeId>) -> bool {
        2 * set.intersection(up).count() > set.len()
    }

    fn works(&self, up: &BTreeSet<NodeId>) -> bool {
        Raft::has_quorum(&self.voters, up)
            && self.to.as_ref().is_none_or(|to| Raft::has_quorum(to, up))
    }

    fn group(&self) -> Group {
        Group {
            voters: self.all(),
            joint: self.to.is_some(),
            settled: true,
            learners: self.learners.clone(),
            near: self.near.clone(),
        }
    }

    fn elect(&mut self, random: &mut Seeded, up: &BTreeSet<NodeId>) {
        let able: Vec<_> = self.all().intersection(up).copied().collect();
        let works = self.works(up) && !able.is_empty();
        self.leader = works.then(|| *random.one_of(&able));
    }

    fn change(&mut self, to: BTreeSet<NodeId>, random: &mut Seeded, up: &BTreeSet<NodeId>) {
        let known: BTreeSet<_> = self.all().union(&self.learners).copied().collect();
        let caught_up = |node: &NodeId| Some(*node) == self.leader || self.near.contains(node);
        // As `Groups::change_voters` refuses.
        let new = to.difference(&self.voters).all(|node| known.contains(node) && caught_up(node));
        if !new || !self.works(up) || !Raft::has_quorum(&to, up) {
            return;
        }
        if random.chance(40) && self.to.is_none() {
            self.to = Some(to);
            return;
        }
        self.learners = self.learners.difference(&to).copied().collect();
        (self.voters, self.to) = (to, None);
        if self.leader.is_none_or(|leader| !self.voters.contains(&leader)) {
            self.elect(random, up);
        }
    }
}

struct World {
    random: Seeded,
    book: Book,
    /// What nodes that are behind still go by.
    old: Meta,
    pacing: Pacing,
    groups: BTreeMap<PartitionId, Raft>,
    now: Millis,
    /// Never fewer votes than that.
    least: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Seeded::new(seed);
        let replicas = *random.one_of(&[1, 3]);
        let book = Book::of(3, replicas);
        let mut pacing = Pacing::new();
        pacing.observe(&book.0, 0);
        let old = book.0.clone();
        let least = usize::from(replicas);
        World { random, book, old, pacing, groups: BTreeMap::new(), now: 0, least }
    }

    fn up(&self) -> BTreeSet<NodeId> {
        let alive = self.book.0.nodes().filter(|node| node.state.is_alive());
        alive.map(|node| node.spec.id).collect()
    }

    fn plan(&mut self) {
        self.pacing.observe(&self.book.0, self.now);
        if let Decision::Change(change) = self.pacing.decide(&self.book.0, self.now) {
            for command in change.commands {
                let _ = self.book.say(command);
            }
        }
        for number in 0..PARTITIONS {
            let at = PartitionId(number);
            let wanted = self.book.0.wanted(at);
            if !wanted.is_empty() && !self.groups.contains_key(&at) {
                let voters = wanted.iter().copied().collect();
                self.groups.insert(at, Raft { voters, ..Raft::default() });
            }
        }
    }

    /// The leader of a partition takes its next step, perhaps by old metadata.
    fn act(&mut self, at: PartitionId, behind: bool) {
        let up = self.up();
        let Some(group) = self.groups.get_mut(&at) else { return };
        if group.leader.is_none_or(|leader| !up.contains(&leader)) || !group.works(&up) {
            group.elect(&mut self.random, &up);
        }
        let Some(me) = group.leader else { return };
        let members: BTreeSet<_> = group.all().union(&group.learners).copied().collect();
        group.near = members.intersection(&up).copied().filter(|node| *node != me).collect();
        if behind && self.random.chance(50) {
            group.near.pop_first();
        }
        let meta = if behind { &self.old } else { &self.book.0 };
        match next(meta, at, me, &group.group()) {
            Step::Stay => {}
            Step::Wait => {
                let led = [Led { partition: at, in_sync: group.near.clone() }];
                if let Some((_, to)) =
                    Leaders::default().next(meta, me, &led, false, &NONE, self.now)
                    && group.all().contains(&to)
                {
                    group.leader = Some(to);
                }
            }
            Step::Teach(node) => drop(group.learners.insert(node)),
            Step::Dismiss(node) => drop(group.learners.remove(&node)),
            Step::Change(voters) => group.change(voters, &mut self.random, &up),
            Step::Say(step) => drop(self.book.say(Command::MoveOn { partition: at, step })),
            Step::Done => drop(self.book.say(Command::MoveDone(at))),
            Step::Abort => drop(self.book.say(Command::MoveAbort(at))),
        }
        let group = &self.groups[&at];
        let votes = group.voters.len().min(group.to.as_ref().map_or(usize::MAX, BTreeSet::len));
        let story = || {
            let nodes: Vec<_> =
                self.book.0.nodes().map(|n| (n.spec.id.0, n.state, n.wish)).collect();
            let moves: Vec<_> = self.book.0.moves().filter(|(of, _)| *of == at).collect();
            format!("{nodes:?} {:?} {moves:?} {behind}", self.book.0.wanted(at))
        };
        assert!(votes >= self.least, "{at:?}: {votes} votes of {}: {}", self.least, story());
    }

    fn event(&mut self, joined: &mut u64) {
        let nodes: Vec<u64> = self.book.0.nodes().map(|node| node.spec.id.0).collect();
        let node = *self.random.one_of(&nodes);
        let state = self.book.0.node(NodeId(node)).expect("one of them").state;
        let down = self.book.0.nodes().filter(|node| !node.state.is_alive()).count();
        match (self.random.below(6), state) {
            (0, _) if *joined < 6 => {
                *joined += 1;
                self.book.join(*joined);
            }
            (1, NodeState::Serving) if nodes.len() > 3 => self.book.drain(node, Wish::Empty),
            (2, NodeState::Draining) => self.book.must(Command::Undrain(NodeId(node))),
            (3, NodeState::Serving | NodeState::Draining) if down == 0 => self.book.down(node),
            (4, NodeState::Down) => self.book.back(node),
            _ => self.old = self.book.0.clone(),
        }
    }
}

/// Nodes come, drain, die and come back, leaders of partitions change at any
/// moment and some go by old metadata; in the end each group is what is wanted.
#[test]
fn whatever_happens_meanwhile_groups_become_what_is_wanted() {
    let mut moves = 0;
    for seed in 0..80 {
        let mut world = World::new(seed);
        world.plan();
        let mut joined = 3;
        for _ in 0..400 {
            world.now += world.random.below(5_000);
            if world.random.chance(5) {
                world.event(&mut joined);
            }
            world.plan();
            moves += world.book.0.moves().count();
            for number in 0..PARTITIONS {
                if world.random.chance(10) {
                    let up = world.up();
                    let random = &mut world.random;
                    let group = world.groups.get_mut(&PartitionId(number));
                    group.into_iter().for_each(|group| group.elect(random, &up));
                }
                let behind = world.random.chance(10);
                world.act(PartitionId(number), behind);
            }
        }
        // All is well again.
        let nodes: Vec<_> = world.book.0.nodes().map(|node| (node.spec.id.0, node.state)).collect();
        for (node, state) in nodes {
            match state {
                NodeState::Down => world.book.back(node),
                NodeState::Draining => world.book.must(Command::Undrain(NodeId(node))),
                _ => {}
            }
            let _ = world.book.say(Command::Undrain(NodeId(node)));
        }
        for _ in 0..400 {
            world.now += 5_000;
            world.plan();
            (0..PARTITIONS).for_each(|number| world.act(PartitionId(number), false));
        }
        if let Some((at, of)) = world.book.0.moves().next() {
            let group = &world.groups[&at];
            let wanted = world.book.0.wanted(at);
            panic!("seed {seed}: {at:?} still moves: {of:?}, {wanted:?}, {group:?}");
        }
        let mut loads: BTreeMap<NodeId, usize> = world.up().into_iter().map(|n| (n, 0)).collect();
        for (at, group) in &world.groups {
            let wanted: BTreeSet<_> = world.book.0.wanted(*at).iter().copied().collect();
            assert_eq!((&group.voters, &group.to), (&wanted, &None), "seed {seed}: {at:?}");
            assert!(group.learners.is_empty(), "seed {seed}: {at:?}");
            wanted.iter().for_each(|node| *loads.entry(*node).or_default() += 1);
        }
        let (most, least) = (loads.values().max(), loads.values().min());
        let spread = most.expect("nodes") - least.expect("nodes");
        assert!(spread <= 1, "seed {seed}: {loads:?}");
    }
    assert!(moves > 300, "something moved: {moves}");
}
