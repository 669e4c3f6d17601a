//! What an `Exchange` tells the core, with links that come and go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use tidegate_cluster::ids::{Incarnation, Life, NodeId, PartitionId};
use tidegate_cluster::routes::{Exchange, NotCovered, Own, Said, Target};

const PARTITIONS: u16 = 2;

fn life(at: usize) -> Life {
    Life { node: NodeId(at as u64 + 1), incarnation: Incarnation(1) }
}

/// Nodes, the lines between them, and what the core of each was told.
struct World {
    nodes: Vec<Exchange>,
    /// With the epoch under which it was said.
    told: Vec<BTreeMap<(u16, String), u16>>,
    /// Where each walk goes on.
    walks: Vec<Option<(u16, String)>>,
    /// By sender and receiver; none: cut.
    lines: BTreeMap<(usize, usize), VecDeque<Vec<u8>>>,
    tickets: Vec<u64>,
    now: u64,
}

/// Targets as numbers: members are below 100.
fn number(target: Target) -> u16 {
    match target {
        Target::Node(member) => member,
        Target::Partition(partition) => 100 + partition.0,
    }
}

fn target(number: u16) -> Target {
    match number.checked_sub(100) {
        None => Target::Node(number),
        Some(partition) => Target::Partition(PartitionId(partition)),
    }
}

impl World {
    fn new(nodes: usize) -> World {
        let mut world = World {
            nodes: (0..nodes).map(|at| Exchange::new(at as u64, PARTITIONS)).collect(),
            told: vec![BTreeMap::new(); nodes],
            walks: vec![None; nodes],
            lines: BTreeMap::new(),
            tickets: vec![0; nodes],
            now: 1_000,
        };
        for at in 0..nodes {
            world.nodes[at].serving((0..nodes).filter(|other| *other != at).map(life));
            for other in 0..at {
                world.join(at, other);
            }
        }
        world
    }

    fn join(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            self.nodes[from].up(life(to), to as u16 + 1);
            self.lines.insert((from, to), VecDeque::new());
        }
    }

    fn cut(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            self.nodes[from].down(life(to));
            self.lines.remove(&(from, to));
        }
    }

    fn own(&mut self, at: usize, own: Own) -> u64 {
        self.tickets[at] += 1;
        let ticket = self.tickets[at];
        self.nodes[at].own(ticket, &own, self.now);
        self.calls(at);
        ticket
    }

    fn appeared(&mut self, at: usize, of: Option<u16>, filter: &str) -> u64 {
        self.own(at, Own::Appeared { of: of.map(PartitionId), filter: filter.into() })
    }

    fn vanished(&mut self, at: usize, of: Option<u16>, filter: &str) -> u64 {
        self.own(at, Own::Vanished { of: of.map(PartitionId), filter: filter.into() })
    }

    fn calls(&mut self, at: usize) {
        let (node, told) = (&mut self.nodes[at], &mut self.told[at]);
        while let Some(call) = node.next_call() {
            let key = (number(call.target), call.filter.into_string());
            match call.said {
                Said::Has(epoch) | Said::Had(Some(epoch)) => _ = told.insert(key, epoch),
                Said::HasNot => _ = told.remove(&key),
                Said::Had(None) => {}
            }
        }
    }

    /// Looks at some of what a node's core has; whether there is more.
    fn walk(&mut self, at: usize, most: usize) -> bool {
        self.calls(at);
        let (node, told) = (&mut self.nodes[at], &mut self.told[at]);
        if !node.walk() {
            return false;
        }
        let from = self.walks[at].take().map_or(Bound::Unbounded, Bound::Excluded);
        let some = told.range((from, Bound::Unbounded)).take(most);
        let some: Vec<_> = some.map(|(key, epoch)| (key.clone(), *epoch)).collect();
        if some.len() < most {
            node.walked();
        } else {
            self.walks[at] = some.last().map(|(key, _)| key.clone());
        }
        for (key, epoch) in some {
            if node.is_void(target(key.0), epoch) {
                told.remove(&key);
            }
        }
        node.walk()
    }

    /// Words go over one line.
    fn carry(&mut self, from: usize, to: usize) {
        while let Some(word) = self.nodes[from].write(life(to), self.now) {
            match self.lines.get_mut(&(from, to)) {
                Some(line) => line.push_back(word),
                None => panic!("a word for a line that is cut"),
            }
        }
        let words = self.lines.get_mut(&(from, to)).map(std::mem::take).unwrap_or_default();
        for word in words {
            self.nodes[to].read(life(from), &word, self.now).expect("our own words");
            self.calls(to);
        }
    }

    /// Everything that can be said is said, for a while.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.now += 100;
            for (from, to) in self.lines.keys().copied().collect::<Vec<_>>() {
                self.carry(from, to);
            }
            for at in 0..self.nodes.len() {
                while self.walk(at, 700) {}
                self.nodes[at].tick(self.now);
            }
        }
    }

    fn knows(&self, at: usize) -> Vec<(u16, &str)> {
        self.told[at].keys().map(|(target, filter)| (*target, &**filter)).collect()
    }
}

#[test]
fn what_appears_here_is_a_call_there_and_its_ticket_passes_when_all_know() {
    let mut world = World::new(3);
    world.settle();
    let ticket = world.appeared(0, None, "a/+");
    assert!(world.nodes[0].passed(world.now) < ticket);
    world.carry(0, 1);
    world.carry(1, 0);
    assert!(world.nodes[0].passed(world.now) < ticket, "one does not know");
    world.carry(0, 2);
    world.carry(2, 0);
    assert_eq!(world.nodes[0].passed(world.now), ticket);
    assert_eq!(world.knows(1), [(1, "a/+")]);
    assert_eq!(world.knows(2), [(1, "a/+")]);
    world.vanished(0, None, "a/+");
    world.settle();
    assert_eq!(world.knows(1), []);
}

#[test]
fn nothing_is_covered_until_every_partition_is_led_by_a_node_that_is_known() {
    let mut world = World::new(2);
    world.settle();
    assert_eq!(world.nodes[1].covered_until(u64::MAX), Err(NotCovered::Partition(PartitionId(0))));
    for partition in 0..PARTITIONS {
        world.appeared(0, Some(partition), "kept");
        world.own(0, Own::Led { partition: PartitionId(partition), index: 5 });
    }
    world.settle();
    assert_eq!(world.knows(1), [(100, "kept"), (101, "kept")]);
    assert_eq!(world.knows(0), [], "it leads them itself");
    let until = world.nodes[1].covered_until(u64::MAX).expect("all is known");
    assert!(until > world.now && until <= world.now + 2_900);
    assert!(world.nodes[0].covered_until(u64::MAX).is_ok());
    world.cut(0, 1);
    assert_eq!(world.nodes[1].covered_until(u64::MAX), Ok(until), "as long as the lease lasts");
    assert!(!world.nodes[1].is_fresh(life(0), until));
    let end = until - 1;
    assert_eq!(world.nodes[1].covered_until(end), Ok(end), "not beyond the node's own lease");
    let ticket = world.appeared(0, None, "later");
    assert!(world.nodes[0].passed(world.now) < ticket);
    let due = world.nodes[0].next_passing(world.now).expect("a lease runs out");
    assert_eq!(world.nodes[0].passed(due), ticket, "who holds no lease acknowledges nothing");
    assert!(due > until);
}

#[test]
fn a_new_leader_says_everything_anew_and_what_it_does_not_say_is_taken_back() {
    let mut world = World::new(3);
    world.appeared(0, Some(1), "old");
    world.appeared(0, Some(1), "both");
    world.own(0, Own::Led { partition: PartitionId(1), index: 5 });
    world.settle();
    assert_eq!(world.knows(2), [(101, "both"), (101, "old")]);
    world.own(0, Own::Followed(PartitionId(1)));
    world.vanished(0, Some(1), "old");
    world.vanished(0, Some(1), "both");
    world.settle();
    assert_eq!(world.knows(2), [(101, "both"), (101, "old")], "nobody has said otherwise");
    assert_eq!(world.knows(0), [(101, "both"), (101, "old")], "nor to the one that led it");
    world.appeared(1, Some(1), "both");
    world.appeared(1, Some(1), "new");
    world.own(1, Own::Led { partition: PartitionId(1), index: 9 });
    world.settle();
    assert_eq!(world.knows(2), [(101, "both"), (101, "new")]);
    assert_eq!(world.knows(0), [(101, "both"), (101, "new")]);
    assert_eq!(world.knows(1), []);
    // What one that was deposed says late counts for nothing.
    world.appeared(0, Some(1), "late");
    world.settle();
    assert_eq!(world.knows(2), [(101, "both"), (101, "new")]);
}

#[test]
fn a_node_that_is_gone_is_forgotten_with_all_its_filters() {
    let mut world = World::new(2);
    for n in 0..10_000 {
        world.appeared(0, None, &format!("n/{n}"));
    }
    world.settle();
    assert_eq!(world.told[1].len(), 10_000);
    world.cut(0, 1);
    world.nodes[1].gone(life(0));
    world.settle();
    assert_eq!(world.knows(1), []);
    assert_eq!((world.nodes[1].filters(), world.nodes[0].filters()), (0, 10_000));
    assert!(world.nodes[1].read(life(0), &[1, 5, 0, 0, 0, 0, 0, 0, 0, 0], world.now).is_err());
}

#[test]
fn whatever_lines_are_cut_all_know_in_the_end_what_there_is() {
    for seed in 0..40u64 {
        let mut state = seed;
        let mut below = |n: u64| {
            state =
                (state ^ (state >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb).wrapping_add(seed + 1);
            (state >> 33) % n
        };
        let mut world = World::new(3);
        let mut own: Vec<BTreeSet<String>> = vec![BTreeSet::new(); 3];
        for _ in 0..600 {
            world.now += below(40);
            let at = below(3) as usize;
            let other = (at + 1 + below(2) as usize) % 3;
            let filter = format!("f/{}", below(12));
            let joined = world.lines.contains_key(&(at, other));
            match below(10) {
                0 if joined => world.cut(at, other),
                0 | 1 if !joined => world.join(at, other),
                2..=4 if own[at].insert(filter.clone()) => {
                    world.appeared(at, None, &filter);
                }
                7 => _ = world.walk(at, 3),
                5 | 6 if own[at].remove(&filter) => {
                    world.vanished(at, None, &filter);
                }
                _ if joined => world.carry(at, other),
                _ => {}
            }
        }
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            if !world.lines.contains_key(&(a, b)) {
                world.join(a, b);
            }
        }
        world.settle();
        for at in 0..3 {
            let others = (0..3).filter(|other| *other != at);
            let there = others.flat_map(|other| {
                own[other].iter().map(move |filter| (other as u16 + 1, filter.clone()))
            });
            let told: BTreeSet<_> = world.told[at].keys().cloned().collect();
            assert_eq!(told, there.collect(), "seed {seed}, node {at}");
            assert_eq!(world.nodes[at].passed(world.now), world.tickets[at]);
        }
    }
}

#[test]
fn nothing_of_a_new_life_passes_before_all_that_have_clients_have_heard_of_it() {
    for gone in [false, true] {
        let mut world = World::new(3);
        // The life of node 0 is new, and node 2 is cut off from it; it leads a partition
        // and knows of no such life.
        world.cut(0, 2);
        world.nodes[2].serving([life(1)].into_iter());
        for partition in 0..PARTITIONS {
            world.own(2, Own::Led { partition: PartitionId(partition), index: 5 });
        }
        world.settle();
        world.own(0, Own::Led { partition: PartitionId(0), index: 9 });
        let ticket = world.appeared(0, Some(0), "new");
        world.settle();
        assert_eq!(world.knows(1), [(100, "new")]);
        let covered = world.nodes[2].covered_until(u64::MAX).expect("it leads all there is");
        assert!(covered > world.now, "what it takes goes to nobody with this filter");
        assert!(world.nodes[0].passed(world.now) < ticket, "so nobody is told that it has it");
        if gone {
            world.nodes[0].gone(life(2));
        } else {
            world.join(0, 2);
            world.settle();
            assert_eq!(world.knows(2), [(100, "new")]);
            assert_eq!(world.nodes[0].passed(world.now), ticket);
            // Known once, it may be cut off: it holds a lease, or takes nothing.
            world.cut(0, 2);
            let later = world.appeared(0, Some(0), "later");
            assert!(world.nodes[0].passed(world.now) < later);
            let due = world.nodes[0].next_passing(world.now).expect("a lease runs out");
            assert!(world.nodes[2].covered_until(u64::MAX).is_ok_and(|until| until <= due));
        }
        assert!(world.nodes[0].passed(world.now) >= ticket);
    }
}
