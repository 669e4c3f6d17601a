use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::ids::NodeId;
use crate::seeded::Seeded;

fn home(node: u64, zone: &str, weight: u16) -> Home {
    Home { node: NodeId(node), zone: zone.into(), weight, takes: true }
}

/// Nodes of random ids in one zone each, or in none.
fn homes(random: &mut Seeded, nodes: usize, zones: u64) -> Vec<Home> {
    (0..nodes)
        .map(|at| {
            let zone = if zones == 0 { String::new() } else { format!("z{}", at as u64 % zones) };
            home(random.next(), &zone, 100)
        })
        .collect()
}

fn loads(placement: &[Vec<NodeId>]) -> BTreeMap<NodeId, usize> {
    let mut loads = BTreeMap::new();
    placement.iter().flatten().for_each(|node| *loads.entry(*node).or_default() += 1);
    loads
}

fn leads(placement: &[Vec<NodeId>]) -> BTreeMap<NodeId, usize> {
    let mut leads = BTreeMap::new();
    placement.iter().for_each(|nodes| *leads.entry(nodes[0]).or_default() += 1);
    leads
}

fn moved(from: &[Vec<NodeId>], to: &[Vec<NodeId>]) -> usize {
    let new = |(from, to): (&Vec<NodeId>, &Vec<NodeId>)| {
        to.iter().filter(|node| !from.contains(node)).count()
    };
    from.iter().zip(to).map(new).sum()
}

fn spread(homes: &[Home], map: &BTreeMap<NodeId, usize>) -> usize {
    let of = |home: &Home| map.get(&home.node).copied().unwrap_or(0);
    homes.iter().map(of).max().unwrap_or(0) - homes.iter().map(of).min().unwrap_or(0)
}

/// What holds of every plan.
fn check(homes: &[Home], replicas: u8, placement: &[Vec<NodeId>], story: &str) {
    let zones: BTreeMap<_, _> = homes.iter().map(|home| (home.node, &home.zone)).collect();
    let zones_max = zones.values().collect::<BTreeSet<_>>().len();
    for nodes in placement {
        let distinct: BTreeSet<_> = nodes.iter().collect();
        assert_eq!(distinct.len(), nodes.len(), "{story}: two replicas on a node");
        assert_eq!(nodes.len(), usize::from(replicas).min(homes.len()), "{story}");
        let in_zones: BTreeSet<_> = nodes.iter().map(|node| zones[node]).collect();
        assert_eq!(in_zones.len(), zones_max.min(nodes.len()), "{story}: zones");
    }
}

#[test]
fn replicas_and_leaders_are_within_one_of_their_share() {
    for seed in 0..60 {
        let mut random = Seeded::new(seed);
        let nodes = 1 + random.below(12) as usize;
        let replicas = *random.one_of(&[1, 2, 3, 5]);
        let partitions = *random.one_of(&[16, 64, 100, 256]);
        // Equal zones: as many nodes in each, so balance is possible.
        let zones = *random.one_of(&[0, 3]);
        let nodes = if zones == 3 { nodes.div_ceil(3) * 3 } else { nodes };
        let homes = homes(&mut random, nodes, zones);
        let placement = plan(&homes, replicas, &vec![Vec::new(); partitions], Balance::Yes);
        let story = format!("seed {seed}: {nodes} nodes, {zones} zones, {partitions} x {replicas}");
        check(&homes, replicas, &placement, &story);
        assert!(spread(&homes, &loads(&placement)) <= 1, "{story}: {:?}", loads(&placement));
        assert!(spread(&homes, &leads(&placement)) <= 1, "{story}: {:?}", leads(&placement));
        let again = plan(&homes, replicas, &placement, Balance::Yes);
        assert_eq!(again, placement, "{story}: a plan is its own plan");
    }
}

#[test]
fn a_join_moves_no_more_than_the_newcomers_share() {
    for seed in 0..60 {
        let mut random = Seeded::new(seed);
        let nodes = 3 + random.below(9) as usize;
        let mut homes = homes(&mut random, nodes, 0);
        let replicas = *random.one_of(&[1, 2, 3]);
        let before = plan(&homes, replicas, &vec![Vec::new(); 64], Balance::Yes);
        homes.push(home(random.next(), "", 100));
        let after = plan(&homes, replicas, &before, Balance::Yes);
        let share = (64 * usize::from(replicas)).div_ceil(homes.len());
        assert!(moved(&before, &after) <= share, "seed {seed}: {}", moved(&before, &after));
        assert!(spread(&homes, &loads(&after)) <= 1, "seed {seed}");
        assert!(spread(&homes, &leads(&after)) <= 1, "seed {seed}");
    }
}

#[test]
fn a_loss_moves_what_the_lost_node_had_and_hardly_more() {
    for seed in 0..60 {
        let mut random = Seeded::new(seed);
        let nodes = 4 + random.below(8) as usize;
        let mut homes = homes(&mut random, nodes, 0);
        let before = plan(&homes, 3, &vec![Vec::new(); 64], Balance::Yes);
        let gone = homes.remove(random.below(homes.len() as u64) as usize);
        let had = loads(&before)[&gone.node];
        let least = plan(&homes, 3, &before, Balance::No);
        assert_eq!(moved(&before, &least), had, "seed {seed}");
        let even = plan(&homes, 3, &before, Balance::Yes);
        check(&homes, 3, &even, &format!("seed {seed}"));
        assert!(moved(&before, &even) <= had + homes.len(), "seed {seed}");
        assert!(spread(&homes, &loads(&even)) <= 1, "seed {seed}");
    }
}

#[test]
fn a_long_life_of_joins_and_losses_stays_balanced_and_spread() {
    for seed in 0..25 {
        let mut random = Seeded::new(seed);
        let mut homes = homes(&mut random, 3, 3);
        let mut placement = vec![Vec::new(); 64];
        for step in 0..30 {
            let zone = format!("z{}", random.below(3));
            if homes.len() < 4 || homes.len() < 14 && random.chance(55) {
                homes.push(home(random.next(), &zone, 100));
            } else {
                homes.remove(random.below(homes.len() as u64) as usize);
            }
            placement = plan(&homes, 3, &placement, Balance::Yes);
            check(&homes, 3, &placement, &format!("seed {seed}, step {step}"));
            let again = plan(&homes, 3, &placement, Balance::Yes);
            assert_eq!(moved(&placement, &again), 0, "seed {seed}, step {step}: not settled");
        }
    }
}

/// As many nodes and partitions as there may be: from nothing, and with one
/// more and one fewer node.
#[test]
fn the_largest_cluster_is_planned() {
    let mut random = Seeded::new(1);
    let mut homes = homes(&mut random, crate::limits::NODES_MAX, 3);
    let last = homes.pop().expect("128 homes");
    let first = plan(&homes, 5, &vec![Vec::new(); 256], Balance::Yes);
    check(&homes, 5, &first, "127 nodes");
    homes.push(last);
    let second = plan(&homes, 5, &first, Balance::Yes);
    check(&homes, 5, &second, "128 nodes");
    assert!(moved(&first, &second) <= 10 + homes.len() / 3);
    homes.remove(0);
    let third = plan(&homes, 5, &second, Balance::Yes);
    check(&homes, 5, &third, "127 nodes");
}

#[test]
fn weights_divide_the_load() {
    let homes = [home(1, "", 100), home(2, "", 100), home(3, "", 200)];
    let placement = plan(&homes, 1, &vec![Vec::new(); 64], Balance::Yes);
    let loads = loads(&placement);
    assert_eq!([loads[&NodeId(1)], loads[&NodeId(2)], loads[&NodeId(3)]], [16, 16, 32]);
    let placement = plan(&homes, 2, &vec![Vec::new(); 64], Balance::Yes);
    let loads = self::loads(&placement);
    let all = [loads[&NodeId(1)], loads[&NodeId(2)], loads[&NodeId(3)]];
    assert_eq!(all, [32, 32, 64], "not more than one replica of each partition");
}

#[test]
fn a_node_of_weight_0_holds_nothing() {
    let homes = [home(1, "", 100), home(2, "", 0)];
    let placement = plan(&homes, 2, &vec![Vec::new(); 8], Balance::Yes);
    assert!(placement.iter().all(|nodes| *nodes == [NodeId(1)]));
}

#[test]
fn zones_are_spread_even_where_that_is_uneven() {
    let homes = [home(1, "a", 100), home(2, "b", 100), home(3, "b", 100), home(4, "b", 100)];
    let placement = plan(&homes, 2, &vec![Vec::new(); 64], Balance::Yes);
    check(&homes, 2, &placement, "one node in zone a");
    assert_eq!(loads(&placement)[&NodeId(1)], 64);
}

#[test]
fn a_node_that_only_keeps_gets_nothing_new_and_leads_nothing() {
    let mut homes = vec![home(1, "", 100), home(2, "", 100), home(3, "", 100), home(4, "", 100)];
    let before = plan(&homes[..3], 2, &vec![Vec::new(); 64], Balance::Yes);
    homes[0].takes = false;
    let after = plan(&homes, 2, &before, Balance::No);
    assert_eq!(moved(&before, &after), 0);
    assert!(after.iter().all(|nodes| nodes[0] != NodeId(1)), "leadership leaves it");
    let after = plan(&homes, 2, &before, Balance::Yes);
    for (before, after) in before.iter().zip(&after) {
        assert!(!after.contains(&NodeId(1)) || before.contains(&NodeId(1)));
    }
}

#[test]
fn a_partition_without_homes_stays_as_it_is() {
    let current = vec![vec![NodeId(1)]];
    assert_eq!(plan(&[], 3, &current, Balance::Yes), current);
}

mod pace {
    use super::*;
    use crate::ids::{ClusterId, Incarnation, Life, Millis, StoreId};
    use crate::limits::{MOVES_MAX, REBALANCE_AFTER_JOIN_MS, REBUILD_AFTER_LOSS_MS};
    use crate::meta::{ClusterConfig, Command, Entry, Meta, MoveStep, NodeSpec, NodeState, Wish};

    struct Rig {
        meta: Meta,
        pacing: Pacing,
        now: Millis,
        moves: usize,
    }

    impl Rig {
        fn new() -> Rig {
            let mut rig = Rig { meta: Meta::new(), pacing: Pacing::new(), now: 0, moves: 0 };
            let config = ClusterConfig::default();
            let node = Rig::spec(1, 1);
            let cluster = ClusterId(1);
            rig.say(Command::Found { cluster, partitions: 64, level: 1, config, node });
            rig.serve(1, 1);
            rig
        }

        fn of(nodes: u64) -> Rig {
            let mut rig = Rig::new();
            rig.settle();
            (2..=nodes).for_each(|id| rig.join(id));
            rig.now += REBALANCE_AFTER_JOIN_MS;
            rig.settle();
            rig
        }

        fn spec(id: u64, incarnation: u64) -> NodeSpec {
            NodeSpec {
                id: NodeId(id),
                incarnation: Incarnation(incarnation),
                store: StoreId(id.into()),
                zone: String::new(),
                address: format!("10.0.0.{id}:1"),
                name: String::new(),
                weight: 100,
                level_min: 1,
                level_max: 1,
            }
        }

        fn say(&mut self, command: Command) {
            let at = self.now;
            let index = self.meta.applied() + 1;
            self.meta.apply(index, &Entry { at, command }).expect("not refused");
            self.pacing.observe(&self.meta, self.now);
        }

        fn life(&self, id: u64) -> Life {
            self.meta.node(NodeId(id)).expect("known").spec.life()
        }

        fn serve(&mut self, id: u64, incarnation: u64) {
            let life = Life { node: NodeId(id), incarnation: Incarnation(incarnation) };
            self.say(Command::Sync(life));
            let seen = self.meta.applied();
            self.say(Command::Ready { life, seen });
        }

        fn join(&mut self, id: u64) {
            let (cluster, node) = (ClusterId(1), Rig::spec(id, 1));
            self.say(Command::Register { cluster, node });
            self.serve(id, 1);
        }

        fn down(&mut self, id: u64) {
            self.say(Command::Down(self.life(id)));
        }

        fn decide(&self) -> Decision {
            self.pacing.decide(&self.meta, self.now)
        }

        /// Carries out what is decided until there is nothing to do now.
        fn settle(&mut self) -> Decision {
            self.moves = 0;
            for _ in 0..2_000 {
                match self.decide() {
                    Decision::Change(change) => {
                        change.commands.into_iter().for_each(|command| self.say(command));
                        let moving: Vec<_> = self.meta.moves().map(|(at, _)| at).collect();
                        assert!(moving.len() <= MOVES_MAX);
                        for partition in moving {
                            self.moves += 1;
                            for step in [MoveStep::CaughtUp, MoveStep::Joint] {
                                self.say(Command::MoveOn { partition, step });
                            }
                            self.say(Command::MoveDone(partition));
                        }
                    }
                    other => return other,
                }
            }
            panic!("it never settles");
        }

        fn replicas(&self, id: u64) -> u16 {
            self.meta.partitions_that_need(NodeId(id))
        }
    }

    #[test]
    fn the_first_node_gets_everything_at_once() {
        let mut rig = Rig::new();
        assert_eq!(rig.settle(), Decision::Settled);
        assert_eq!(rig.replicas(1), 64);
    }

    #[test]
    fn joins_are_waited_for_a_minute_and_then_three_nodes_have_three_replicas() {
        let mut rig = Rig::new();
        rig.settle();
        rig.join(2);
        rig.now += 30_000;
        rig.join(3);
        rig.now += REBALANCE_AFTER_JOIN_MS - 1;
        let (until, waiting) = (rig.now + 1, Waiting::Joins);
        assert_eq!(rig.decide(), Decision::Wait { until, waiting });
        rig.now += 1;
        assert_eq!(rig.settle(), Decision::Settled);
        for id in 1..=3 {
            assert_eq!(rig.replicas(id), 64);
        }
        assert!(
            spread(&[home(1, "", 1), home(2, "", 1), home(3, "", 1)], &leads(rig.meta.placement()))
                <= 1
        );
    }

    #[test]
    fn a_loss_is_waited_for_ten_minutes_and_then_rebuilt() {
        let mut rig = Rig::of(4);
        rig.down(4);
        rig.now += REBUILD_AFTER_LOSS_MS - 1;
        let (until, waiting) = (rig.now + 1, Waiting::Loss);
        assert_eq!(rig.decide(), Decision::Wait { until, waiting });
        rig.now += 1;
        let Decision::Change(change) = rig.decide() else { panic!("{:?}", rig.decide()) };
        assert_eq!(change.reason, Reason::Rebuild);
        rig.settle();
        assert_eq!(rig.replicas(4), 0);
        assert!(rig.meta.placement().iter().all(|nodes| nodes.len() == 3));
    }

    #[test]
    fn three_nodes_that_lose_one_keep_its_replicas_for_its_return() {
        let mut rig = Rig::of(3);
        rig.down(3);
        rig.now += 10 * REBUILD_AFTER_LOSS_MS;
        rig.settle();
        assert_eq!(rig.replicas(3), 64, "nobody else could hold a third copy");
    }

    #[test]
    fn two_replicas_are_never_rebuilt_around_a_node_that_is_down() {
        let mut rig = Rig::of(2);
        assert_eq!(rig.replicas(2), 64);
        rig.down(2);
        rig.now += 10 * REBUILD_AFTER_LOSS_MS;
        rig.settle();
        assert_eq!(rig.replicas(2), 64, "with one of two no membership change commits");
    }

    #[test]
    fn a_drain_empties_at_once_and_nothing_else_moves() {
        let mut rig = Rig::of(5);
        rig.join(6);
        let had = usize::from(rig.replicas(5));
        rig.say(Command::Drain { node: NodeId(5), wish: Wish::Empty });
        rig.settle();
        assert_eq!(rig.replicas(5), 0);
        assert_eq!(rig.moves, had, "only what was on it");
    }

    #[test]
    fn a_restart_moves_no_replica() {
        let mut rig = Rig::of(5);
        let before = rig.meta.placement().to_vec();
        rig.say(Command::Drain { node: NodeId(5), wish: Wish::Serve });
        rig.now += 10_000;
        rig.settle();
        rig.down(5);
        rig.now += 60_000;
        rig.settle();
        rig.say(Command::Register { cluster: ClusterId(1), node: Rig::spec(5, 2) });
        rig.serve(5, 2);
        rig.now += REBALANCE_AFTER_JOIN_MS;
        rig.settle();
        assert_eq!(moved(&before, rig.meta.placement()), 0);
    }

    #[test]
    fn three_nodes_become_two_only_if_the_third_leaves_for_good() {
        let mut rig = Rig::of(3);
        rig.say(Command::Drain { node: NodeId(3), wish: Wish::Empty });
        rig.settle();
        assert_eq!(rig.replicas(3), 64, "for maintenance no copy is given up");
        rig.say(Command::Drain { node: NodeId(3), wish: Wish::Leave });
        rig.settle();
        assert_eq!(rig.replicas(3), 0);
        rig.say(Command::Leave(rig.life(3)));
        assert_eq!(rig.meta.node(NodeId(3)).expect("known").state, NodeState::Left);
    }

    #[test]
    fn scale_from_3_to_5_and_back_ends_balanced() {
        let mut rig = Rig::of(3);
        rig.join(4);
        rig.join(5);
        rig.now += REBALANCE_AFTER_JOIN_MS;
        rig.settle();
        for id in 1..=5 {
            assert!((38..=39).contains(&rig.replicas(id)), "{}", rig.replicas(id));
        }
        assert!(rig.moves <= 2 * 39);
        for id in [1, 2] {
            rig.say(Command::Drain { node: NodeId(id), wish: Wish::Leave });
            rig.settle();
            rig.say(Command::Leave(rig.life(id)));
        }
        rig.now += REBALANCE_AFTER_JOIN_MS;
        rig.settle();
        for id in 3..=5 {
            assert_eq!(rig.replicas(id), 64);
        }
    }
}
