use super::*;
use crate::ids::{Incarnation, StoreId};
use crate::limits::{MEMBER_REST_MS, MEMBERS_MAX, NODES_MAX};
use crate::seeded::Seeded;

const CLUSTER: ClusterId = ClusterId(7);

/// A cluster whose log is written by the test.
struct Rig {
    meta: Meta,
    log: Vec<Entry>,
}

fn spec(id: u64) -> NodeSpec {
    NodeSpec {
        id: NodeId(id),
        incarnation: Incarnation(1),
        store: StoreId(u128::from(id) << 64 | 1),
        zone: format!("zone-{}", id % 3),
        address: format!("10.0.0.{id}:7883"),
        name: format!("node-{id}"),
        weight: 100,
        level_min: 1,
        level_max: 2,
    }
}

fn life(id: u64, incarnation: u64) -> Life {
    Life { node: NodeId(id), incarnation: Incarnation(incarnation) }
}

impl Rig {
    /// Node 1 has founded a cluster and serves.
    fn founded() -> Rig {
        let mut rig = Rig { meta: Meta::new(), log: Vec::new() };
        rig.must(Command::Found {
            cluster: CLUSTER,
            partitions: 4,
            level: 1,
            config: ClusterConfig::default(),
            node: spec(1),
        });
        rig.serve(1, 1);
        rig
    }

    /// Nodes 1 to `nodes` serve.
    fn of(nodes: u64) -> Rig {
        let mut rig = Rig::founded();
        for id in 2..=nodes {
            rig.register(spec(id)).expect("a new node");
            rig.serve(id, 1);
        }
        rig
    }

    fn say(&mut self, command: Command) -> Result<Vec<Effect>, Refused> {
        let entry = Entry { at: 1_000 * (self.log.len() as u64 + 1), command };
        self.log.push(entry.clone());
        self.meta.apply(self.log.len() as u64, &entry)
    }

    fn must(&mut self, command: Command) -> Vec<Effect> {
        self.say(command).expect("not refused")
    }

    fn register(&mut self, node: NodeSpec) -> Result<Vec<Effect>, Refused> {
        self.say(Command::Register { cluster: CLUSTER, node })
    }

    fn serve(&mut self, id: u64, incarnation: u64) {
        self.must(Command::Sync(life(id, incarnation)));
        let seen = self.meta.applied();
        self.must(Command::Ready { life: life(id, incarnation), seen });
    }

    fn state(&self, id: u64) -> NodeState {
        self.meta.node(NodeId(id)).expect("known").state
    }

    fn place(&mut self, nodes: &[u64]) {
        let replicas: Vec<_> = nodes.iter().map(|id| NodeId(*id)).collect();
        let placed = (0..4).map(|partition| (PartitionId(partition), replicas.clone()));
        self.must(Command::Place(placed.collect()));
    }
}

#[test]
fn nothing_is_taken_before_the_cluster_is_founded_and_it_is_founded_once() {
    let mut rig = Rig { meta: Meta::new(), log: Vec::new() };
    assert_eq!(rig.register(spec(2)), Err(Refused::NotFounded));
    let mut rig = Rig::founded();
    let again = Command::Found {
        cluster: ClusterId(8),
        partitions: 4,
        level: 1,
        config: ClusterConfig::default(),
        node: spec(2),
    };
    assert_eq!(rig.say(again), Err(Refused::FoundedAlready(CLUSTER)));
    assert_eq!(rig.meta.cluster(), Some(CLUSTER));
    assert!(rig.meta.node(NodeId(2)).is_none());
}

#[test]
fn a_cluster_is_founded_with_1_to_256_partitions() {
    for (partitions, good) in [(0, false), (1, true), (256, true), (257, false)] {
        let mut rig = Rig { meta: Meta::new(), log: Vec::new() };
        let config = ClusterConfig::default();
        let found =
            Command::Found { cluster: CLUSTER, partitions, level: 1, config, node: spec(1) };
        assert_eq!(rig.say(found).is_ok(), good, "{partitions}");
    }
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let mut rig = Rig::founded();
    let theirs = ClusterId(8);
    let said = rig.say(Command::Register { cluster: theirs, node: spec(2) });
    assert_eq!(said, Err(Refused::WrongCluster { ours: CLUSTER, theirs }));
}

#[test]
fn a_wiped_disk_under_an_old_id_is_refused() {
    let mut rig = Rig::of(2);
    let wiped = NodeSpec { store: StoreId(99), incarnation: Incarnation(2), ..spec(2) };
    let known = spec(2).store;
    assert_eq!(rig.register(wiped), Err(Refused::StoreChanged { node: NodeId(2), known }));
    assert_eq!(rig.state(2), NodeState::Serving);
}

#[test]
fn a_copied_disk_is_refused() {
    let mut rig = Rig::of(2);
    let copy = NodeSpec { store: spec(2).store, ..spec(3) };
    assert_eq!(rig.register(copy), Err(Refused::StoreCopied { of: NodeId(2) }));
}

#[test]
fn a_new_life_ends_the_old_one_once() {
    let mut rig = Rig::of(2);
    let reborn = NodeSpec { incarnation: Incarnation(2), ..spec(2) };
    let effects = rig.register(reborn.clone()).expect("a new life");
    assert_eq!(
        effects[..2],
        [Effect::NodeGone(life(2, 1), Member(2)), Effect::NodeChanged(NodeId(2)),]
    );
    assert_eq!(rig.state(2), NodeState::Joining);
    assert_eq!(rig.register(reborn), Ok(vec![]), "said again, it changes nothing");

    rig.must(Command::Down(life(2, 2)));
    let effects = rig.register(NodeSpec { incarnation: Incarnation(3), ..spec(2) });
    assert_eq!(effects, Ok(vec![Effect::NodeChanged(NodeId(2))]), "it was gone already");
}

#[test]
fn a_life_that_was_declared_over_stays_over() {
    let mut rig = Rig::of(2);
    assert_eq!(
        rig.must(Command::Down(life(2, 1)))[..2],
        [Effect::NodeGone(life(2, 1), Member(2)), Effect::NodeChanged(NodeId(2))]
    );
    let got = Incarnation(1);
    let over = Refused::LifeOver { node: NodeId(2), got, present: got };
    assert_eq!(rig.register(spec(2)), Err(over));
    let seen = rig.meta.applied();
    assert!(rig.say(Command::Ready { life: life(2, 1), seen }).is_err());
    assert_eq!(rig.must(Command::Down(life(2, 1))), [], "a second time there are no wills");
}

#[test]
fn down_of_an_old_life_does_not_harm_the_new_one() {
    let mut rig = Rig::of(2);
    rig.register(NodeSpec { incarnation: Incarnation(2), ..spec(2) }).expect("a new life");
    rig.serve(2, 2);
    assert!(matches!(rig.say(Command::Down(life(2, 1))), Err(Refused::LifeOver { .. })));
    assert_eq!(rig.state(2), NodeState::Serving);
}

#[test]
fn a_node_comes_back_with_a_new_address() {
    let mut rig = Rig::of(3);
    for id in 1..=3 {
        let moved = NodeSpec {
            incarnation: Incarnation(2),
            address: format!("10.9.9.{id}:7883"),
            ..spec(id)
        };
        rig.register(moved).expect("known by its id");
        assert_eq!(
            rig.meta.node(NodeId(id)).expect("known").spec.address,
            format!("10.9.9.{id}:7883")
        );
    }
    assert_eq!(rig.meta.nodes().count(), 3);
}

#[test]
fn a_node_serves_only_if_nobody_began_to_after_it_looked() {
    let mut rig = Rig::founded();
    for id in [2, 3] {
        rig.register(spec(id)).expect("new");
        rig.must(Command::Sync(life(id, 1)));
    }
    let seen = rig.meta.applied();
    rig.must(Command::Ready { life: life(2, 1), seen });
    let since = rig.meta.applied();
    let said = rig.say(Command::Ready { life: life(3, 1), seen });
    assert_eq!(said, Err(Refused::Outpaced { since }), "node 2 may not know its routes");
    let seen = rig.meta.applied();
    rig.must(Command::Ready { life: life(3, 1), seen });
    assert_eq!(rig.state(3), NodeState::Serving);
}

#[test]
fn a_drain_for_a_restart_ends_with_it_and_an_operators_does_not() {
    let mut rig = Rig::of(3);
    for (id, wish, after) in
        [(2, Wish::Serve, NodeState::Serving), (3, Wish::Empty, NodeState::Draining)]
    {
        rig.must(Command::Drain { node: NodeId(id), wish });
        assert_eq!(rig.state(id), NodeState::Draining);
        rig.must(Command::Down(life(id, 1)));
        rig.register(NodeSpec { incarnation: Incarnation(2), ..spec(id) }).expect("back");
        rig.serve(id, 2);
        assert_eq!(rig.state(id), after);
    }
    rig.must(Command::Undrain(NodeId(3)));
    assert_eq!(rig.state(3), NodeState::Serving);
}

#[test]
fn a_node_leaves_only_when_nothing_counts_on_it() {
    let mut rig = Rig::of(3);
    rig.place(&[1, 2]);
    rig.must(Command::Drain { node: NodeId(2), wish: Wish::Leave });
    let said = rig.say(Command::Leave(life(2, 1)));
    assert_eq!(said, Err(Refused::StillNeeded { node: NodeId(2), partitions: 4 }));
    for number in 0..4 {
        let partition = PartitionId(number);
        let (add, remove) = (Some(NodeId(3)), Some(NodeId(2)));
        rig.must(Command::MoveStart { partition, add, remove });
        rig.must(Command::MoveOn { partition, step: MoveStep::CaughtUp });
        rig.must(Command::MoveOn { partition, step: MoveStep::Joint });
        rig.must(Command::MoveDone(partition));
        assert_eq!(rig.meta.wanted(partition), [NodeId(1), NodeId(3)]);
    }
    assert!(
        rig.must(Command::Leave(life(2, 1))).contains(&Effect::NodeGone(life(2, 1), Member(2)))
    );
    rig.must(Command::Forget { node: NodeId(2), accept_data_loss: false });
    let back = NodeSpec { incarnation: Incarnation(2), ..spec(2) };
    assert_eq!(rig.register(back), Err(Refused::Forgotten(NodeId(2))));
}

#[test]
fn the_last_node_does_not_leave() {
    let mut rig = Rig::founded();
    rig.must(Command::Drain { node: NodeId(1), wish: Wish::Leave });
    assert_eq!(rig.say(Command::Leave(life(1, 1))), Err(Refused::NobodyLeft));
}

#[test]
fn a_node_is_forgotten_without_a_word_only_if_nothing_is_lost() {
    let mut rig = Rig::of(3);
    rig.place(&[2]);
    let forget = |accept_data_loss| Command::Forget { node: NodeId(2), accept_data_loss };
    assert!(matches!(rig.say(forget(true)), Err(Refused::WrongState { .. })), "it is alive");
    rig.must(Command::Down(life(2, 1)));
    assert_eq!(
        rig.say(forget(false)),
        Err(Refused::StillNeeded { node: NodeId(2), partitions: 4 })
    );
    assert_eq!(rig.meta.forgettable(u64::MAX), []);
    let effects = rig.must(forget(true));
    for number in 0..4 {
        assert!(effects.contains(&Effect::PartitionLost(PartitionId(number))));
    }
    assert!(rig.meta.is_forgotten(NodeId(2)));
}

#[test]
fn what_is_long_gone_and_not_needed_is_forgettable() {
    let mut rig = Rig::of(3);
    rig.must(Command::Down(life(3, 1)));
    let since = rig.meta.node(NodeId(3)).expect("known").since;
    let day = rig.meta.config().forget_after_ms;
    assert_eq!(rig.meta.forgettable(since + day - 1), []);
    assert_eq!(rig.meta.forgettable(since + day), [NodeId(3)]);
}

/// A new node with the name of another one.
fn in_place_of(old: u64, id: u64) -> NodeSpec {
    NodeSpec { name: spec(old).name, ..spec(id) }
}

#[test]
fn a_wiped_disk_is_replaced_at_once_and_does_not_come_back() {
    let mut rig = Rig::of(3);
    rig.place(&[2, 1, 3]);
    let moving = PartitionId(3);
    rig.register(spec(4)).expect("new");
    rig.serve(4, 1);
    let (add, remove) = (Some(NodeId(4)), Some(NodeId(2)));
    rig.must(Command::MoveStart { partition: moving, add, remove });
    let (node, state) = (NodeId(2), NodeState::Serving);
    let taken = Err(Refused::PlaceTaken { node, state });
    assert_eq!(rig.register(in_place_of(2, 9)), taken, "it may only be slow");

    rig.must(Command::Down(life(2, 1)));
    let effects = rig.register(in_place_of(2, 9)).expect("its place is free");
    assert!(effects.contains(&Effect::NodeForgotten(NodeId(2))));
    for number in 0..3 {
        let wanted = rig.meta.wanted(PartitionId(number));
        assert_eq!(wanted, [1, 3, 9].map(NodeId), "the one without a log is not the first");
    }
    assert_eq!(rig.meta.wanted(moving), [1, 3].map(NodeId), "it was on its way to node 4");
    let of = rig.meta.moves().next().expect("the newcomer still comes").1;
    assert_eq!((of.add, of.remove), (Some(NodeId(4)), None));
    let back = NodeSpec { incarnation: Incarnation(2), ..spec(2) };
    assert_eq!(rig.register(back), Err(Refused::Forgotten(NodeId(2))));
}

#[test]
fn a_node_that_may_be_the_only_one_with_something_is_not_replaced() {
    let mut rig = Rig::of(3);
    rig.place(&[1, 2, 3]);
    rig.must(Command::Down(life(2, 1)));
    rig.must(Command::Down(life(3, 1)));
    let (node, partition) = (NodeId(2), PartitionId(0));
    let needed = Err(Refused::NoMajority { node, partition });
    assert_eq!(rig.register(in_place_of(2, 9)), needed);
    rig.register(NodeSpec { incarnation: Incarnation(2), ..spec(3) }).expect("back");
    rig.must(Command::Sync(life(3, 2)));
    assert_eq!(rig.register(in_place_of(2, 9)), needed, "it has not caught up");
    let seen = rig.meta.applied();
    rig.must(Command::Ready { life: life(3, 2), seen });
    rig.register(in_place_of(2, 9)).expect("two of three serve");

    // Of two replicas each may be the only one.
    let mut rig = Rig::of(3);
    rig.place(&[1, 2]);
    rig.must(Command::Down(life(2, 1)));
    assert_eq!(rig.register(in_place_of(2, 9)), needed);
}

#[test]
fn without_a_name_the_address_says_where_a_node_is() {
    let mut rig = Rig::of(3);
    rig.place(&[1, 2, 3]);
    rig.must(Command::Down(life(2, 1)));
    let at =
        |id, name: &str| NodeSpec { address: spec(2).address, name: name.to_owned(), ..spec(id) };
    rig.register(at(4, "node-4")).expect("another pod has its address");
    assert_eq!(rig.meta.wanted(PartitionId(0)), [1, 2, 3].map(NodeId));
    let (node, state) = (NodeId(4), NodeState::Joining);
    assert_eq!(rig.register(at(9, "")), Err(Refused::PlaceTaken { node, state }));
    rig.must(Command::Down(life(4, 1)));
    rig.must(Command::Forget { node, accept_data_loss: false });
    rig.register(at(9, "")).expect("its place is free");
    assert_eq!(rig.meta.wanted(PartitionId(0)), [1, 3, 9].map(NodeId));
}

#[test]
fn nodes_that_are_known_may_exchange_their_addresses() {
    let mut rig = Rig::of(3);
    rig.place(&[1, 2, 3]);
    rig.must(Command::Down(life(2, 1)));
    let second = |id, address| NodeSpec { incarnation: Incarnation(2), address, ..spec(id) };
    rig.register(second(3, spec(2).address)).expect("it is known");
    rig.register(second(2, spec(3).address)).expect("it is known");
    assert_eq!(rig.meta.nodes().count(), 3);
    assert_eq!(rig.meta.wanted(PartitionId(0)), [1, 2, 3].map(NodeId));
}

#[test]
fn the_life_of_a_node_that_has_left_is_not_over_but_stays_so() {
    let mut rig = Rig::of(2);
    rig.must(Command::Drain { node: NodeId(2), wish: Wish::Leave });
    rig.must(Command::Leave(life(2, 1)));
    let (node, state) = (NodeId(2), NodeState::Left);
    assert_eq!(rig.register(spec(2)), Err(Refused::WrongState { node, state }));
}

#[test]
fn recovery_is_said_aloud_and_raises_the_generation() {
    let mut rig = Rig::of(3);
    rig.place(&[1, 2, 3]);
    let lost = vec![NodeId(2), NodeId(3)];
    let recover = |accept_data_loss, lost| Command::Recover { lost, accept_data_loss };
    assert_eq!(rig.say(recover(false, lost.clone())), Err(Refused::DataLossNotAccepted));
    let all = vec![NodeId(1), NodeId(2), NodeId(3)];
    assert_eq!(rig.say(recover(true, all)), Err(Refused::NobodyLeft));
    assert_eq!(rig.meta.generation(), 1);
    let effects = rig.must(recover(true, lost));
    assert!(effects.contains(&Effect::NodeGone(life(2, 1), Member(2))));
    assert!(effects.contains(&Effect::GenerationRaised(2)));
    assert_eq!(rig.meta.wanted(PartitionId(0)), [NodeId(1)]);
    assert!(matches!(rig.register(spec(2)), Err(Refused::Forgotten(_))));
}

#[test]
fn the_feature_level_rises_when_all_members_support_it_and_never_falls() {
    let mut rig = Rig::founded();
    rig.register(NodeSpec { level_max: 1, ..spec(2) }).expect("level 1 is spoken");
    rig.must(Command::Down(life(2, 1)));
    assert_eq!(rig.meta.level_possible(), None);
    let behind = Refused::LevelTooHigh { node: NodeId(2), max: 1 };
    assert_eq!(rig.say(Command::SetLevel(2)), Err(behind), "it may come back");
    rig.register(NodeSpec { incarnation: Incarnation(2), ..spec(2) }).expect("upgraded");
    assert_eq!(rig.meta.level_possible(), Some(2));
    assert_eq!(rig.must(Command::SetLevel(2)), [Effect::LevelRaised(2)]);
    assert_eq!(rig.say(Command::SetLevel(1)), Err(Refused::LevelReached(2)));
    let old = NodeSpec { level_max: 1, ..spec(3) };
    let (level, min, max) = (2, 1, 1);
    assert_eq!(rig.register(old), Err(Refused::LevelNotSupported { level, min, max }));
}

#[test]
fn two_nodes_are_warned_of_once() {
    let mut rig = Rig::founded();
    let effects = rig.register(spec(2)).expect("new");
    assert!(effects.contains(&Effect::Warn(Warning::TwoNodes)));
    assert!(effects.contains(&Effect::Warn(Warning::TwoReplicas)));
    assert!(!rig.must(Command::Sync(life(2, 1))).contains(&Effect::Warn(Warning::TwoNodes)));
    rig.register(spec(3)).expect("new");
    assert_eq!(rig.meta.warnings(), []);
}

#[test]
fn partitions_with_fewer_replicas_that_run_than_wanted_are_counted() {
    for (factor, wanted, before, after) in [(1, 1, 0, 0), (2, 2, 0, 4), (3, 3, 4, 4), (5, 3, 4, 4)]
    {
        let mut rig = Rig::of(3);
        let config = ClusterConfig { replication_factor: factor, ..ClusterConfig::default() };
        rig.must(Command::SetConfig { base: rig.meta.config_at(), config });
        assert_eq!(rig.meta.under_replicated(), 0, "nothing is placed");
        rig.place(&[1, 2]);
        assert_eq!(rig.meta.replicas_wanted(), wanted, "there are three nodes");
        assert_eq!(rig.meta.under_replicated(), before, "of factor {factor}");
        rig.must(Command::Down(life(2, 1)));
        assert_eq!(rig.meta.under_replicated(), after, "of factor {factor}");
    }
}

#[test]
fn settings_are_changed_by_who_has_seen_the_present_ones() {
    let mut rig = Rig::founded();
    let base = rig.meta.config_at();
    let config = ClusterConfig { replication_factor: 5, ..ClusterConfig::default() };
    rig.must(Command::SetConfig { base, config });
    let at = rig.meta.config_at();
    assert_eq!(rig.say(Command::SetConfig { base, config }), Err(Refused::ConfigChanged { at }));
    let config = ClusterConfig { replication_factor: 4, ..config };
    let key = "replication_factor";
    assert_eq!(rig.say(Command::SetConfig { base: at, config }), Err(Refused::BadConfig { key }));
    assert!(rig.meta.warnings().contains(&Warning::TooFewNodes { wanted: 5, nodes: 1 }));
}

#[test]
fn a_move_goes_forward_step_by_step_and_is_not_called_off_at_the_end() {
    let mut rig = Rig::of(4);
    rig.place(&[1, 2]);
    let partition = PartitionId(0);
    let start = |add, remove| Command::MoveStart {
        partition,
        add: Some(NodeId(add)),
        remove: Some(NodeId(remove)),
    };
    assert_eq!(rig.say(start(2, 1)), Err(Refused::BadReplicas(partition)), "twice on a node");
    assert!(matches!(rig.say(start(3, 4)), Err(Refused::NoReplica { .. })));
    rig.must(start(3, 1));
    assert_eq!(rig.say(start(4, 2)), Err(Refused::Moving(partition)));
    let on = |step| Command::MoveOn { partition, step };
    assert!(matches!(rig.say(on(MoveStep::Joint)), Err(Refused::WrongStep { .. })));
    assert!(matches!(rig.say(Command::MoveDone(partition)), Err(Refused::WrongStep { .. })));
    rig.must(on(MoveStep::CaughtUp));
    rig.must(Command::MoveAbort(partition));
    rig.must(start(3, 1));
    rig.must(on(MoveStep::CaughtUp));
    rig.must(on(MoveStep::Joint));
    assert!(matches!(rig.say(Command::MoveAbort(partition)), Err(Refused::WrongStep { .. })));
    rig.must(Command::MoveDone(partition));
    assert_eq!(rig.meta.wanted(partition), [NodeId(3), NodeId(2)]);
}

#[test]
fn a_replica_is_never_sent_to_a_node_that_drains_or_is_down() {
    let mut rig = Rig::of(3);
    rig.place(&[1]);
    rig.must(Command::Drain { node: NodeId(2), wish: Wish::Empty });
    rig.must(Command::Down(life(3, 1)));
    for id in [2, 3] {
        let (partition, add) = (PartitionId(0), Some(NodeId(id)));
        let said = rig.say(Command::MoveStart { partition, add, remove: None });
        assert!(matches!(said, Err(Refused::WrongState { .. })), "{said:?}");
    }
}

#[test]
fn there_are_so_many_nodes_and_no_more() {
    let mut rig = Rig::founded();
    for id in 2..=NODES_MAX as u64 {
        rig.register(spec(id)).expect("there is room");
    }
    let one_more = rig.register(spec(NODES_MAX as u64 + 1));
    assert_eq!(one_more, Err(Refused::TooManyNodes(NODES_MAX)));
}

/// A random command, right ones and wrong ones.
fn any_command(random: &mut Seeded, meta: &Meta) -> Command {
    let id = NodeId(random.below(6) + 1);
    let present = meta.node(id).map_or(0, |node| node.spec.incarnation.0);
    let incarnation = Incarnation((present + random.below(3)).saturating_sub(1));
    let life = Life { node: id, incarnation };
    let partition = PartitionId(random.below(5) as u16);
    match random.below(20) {
        0..=2 => {
            let cluster = if random.chance(95) { CLUSTER } else { ClusterId(8) };
            let store = StoreId(if random.chance(90) { id.0.into() } else { 3 });
            let incarnation = Incarnation(present + random.below(2));
            Command::Register { cluster, node: NodeSpec { incarnation, store, ..spec(id.0) } }
        }
        3..=4 => Command::Sync(life),
        5..=7 => Command::Ready { life, seen: meta.applied().saturating_sub(random.below(4)) },
        8 => Command::Down(life),
        9 => {
            let wish = *random.one_of(&[Wish::Serve, Wish::Empty, Wish::Leave]);
            Command::Drain { node: id, wish }
        }
        10 => Command::Undrain(id),
        11 => Command::Leave(life),
        12 => Command::Forget { node: id, accept_data_loss: random.chance(10) },
        13 => {
            let nodes = (0..=random.below(3)).map(|_| NodeId(random.below(6) + 1)).collect();
            Command::Place(vec![(partition, nodes)])
        }
        14 => Command::Prefer(vec![(partition, id)]),
        15 => {
            let mut end = || random.chance(70).then(|| NodeId(random.below(6) + 1));
            Command::MoveStart { partition, add: end(), remove: end() }
        }
        16 => {
            let steps = [MoveStep::Learner, MoveStep::CaughtUp, MoveStep::Joint];
            Command::MoveOn { partition, step: *random.one_of(&steps) }
        }
        17 => Command::MoveDone(partition),
        18 => Command::MoveAbort(partition),
        _ if random.chance(70) => Command::SetLevel(random.below(4) as u16),
        _ => Command::Recover { lost: vec![id], accept_data_loss: random.chance(50) },
    }
}

fn check(meta: &Meta) {
    for (number, replicas) in meta.placement().iter().enumerate() {
        let distinct: BTreeSet<_> = replicas.iter().collect();
        assert_eq!(distinct.len(), replicas.len(), "partition {number} is twice on a node");
        for node in replicas {
            let node = meta.node(*node).expect("a replica is on a node that is known");
            assert_ne!(node.state, NodeState::Left, "a node left with a replica");
        }
    }
    for (partition, of) in meta.moves() {
        let replicas = meta.wanted(partition);
        assert!(of.add.is_none_or(|node| !replicas.contains(&node)));
        assert!(of.remove.is_none_or(|node| replicas.contains(&node)));
        assert!(!of.done(replicas).is_empty());
        assert!(of.add.is_none_or(|node| meta.node(node).is_some()));
    }
    let alive: Vec<_> = meta.nodes().filter(|node| node.state.is_alive()).collect();
    let numbers: BTreeSet<_> = alive.iter().map(|node| node.member).collect();
    assert_eq!(numbers.len(), alive.len(), "two lives have one number");
    assert!(numbers.iter().all(|number| (1..=MEMBERS_MAX).contains(&number.0)));
    assert!(meta.nodes().all(|node| !meta.is_forgotten(node.spec.id)));
    let stores: BTreeSet<_> = meta.nodes().map(|node| node.spec.store).collect();
    assert_eq!(stores.len(), meta.nodes().count(), "a disk counts twice");
}

#[test]
fn random_commands_keep_the_rules_and_replay_to_the_same_bytes() {
    let mut taken = 0;
    for seed in 0..150 {
        let mut random = Seeded::new(seed);
        let mut rig = Rig::founded();
        let mut all_effects = Vec::new();
        let mut gone = BTreeSet::new();
        // A second replica that restarts from a snapshot now and then.
        let mut other = Meta::new();
        for (at, entry) in rig.log.iter().enumerate() {
            let _ = other.apply(at as u64 + 1, entry);
        }
        for _ in 0..120 {
            let command = any_command(&mut random, &rig.meta);
            let before = rig.meta.clone();
            let said = rig.say(command);
            let entry = rig.log.last().expect("just said");
            let decoded = Entry::decode(&entry.encode()).expect("our own bytes");
            assert_eq!(&decoded, entry);
            if random.chance(20) {
                other = Meta::restore(&other.snapshot()).expect("our own bytes");
            }
            assert_eq!(other.apply(rig.log.len() as u64, &decoded), said, "seed {seed}");
            assert_eq!(other.snapshot(), rig.meta.snapshot(), "seed {seed}");
            match said {
                Ok(effects) => {
                    taken += 1;
                    for effect in &effects {
                        if let Effect::NodeGone(life, _) = effect {
                            assert!(gone.insert(*life), "seed {seed}: {life} went twice");
                        }
                    }
                    all_effects.extend(effects);
                }
                Err(_) => {
                    let same = Meta { applied: before.applied, at: before.at, ..rig.meta.clone() };
                    assert_eq!(same, before, "seed {seed}: a refusal changed something");
                }
            }
            check(&rig.meta);
        }
        let mut replayed = Meta::new();
        for (at, entry) in rig.log.iter().enumerate() {
            let _ = replayed.apply(at as u64 + 1, entry);
        }
        assert_eq!(replayed, rig.meta, "seed {seed}");
        assert!(!all_effects.is_empty());
    }
    assert!(taken > 2_500, "most commands of the model were refused: {taken} taken");
}

#[test]
fn an_entry_applied_twice_changes_nothing() {
    let mut rig = Rig::of(2);
    let bytes = rig.meta.snapshot();
    let log = rig.log.clone();
    for (at, entry) in log.iter().enumerate() {
        assert_eq!(rig.meta.apply(at as u64 + 1, entry), Ok(vec![]));
    }
    assert_eq!(rig.meta.snapshot(), bytes);
}

#[test]
fn broken_bytes_are_refused_and_never_panic() {
    let mut rig = Rig::of(3);
    rig.place(&[1, 2, 3]);
    let (partition, add, remove) = (PartitionId(1), None, Some(NodeId(1)));
    rig.must(Command::MoveStart { partition, add, remove });
    let snapshot = rig.meta.snapshot();
    for cut in 0..snapshot.len() {
        assert!(Meta::restore(&snapshot[..cut]).is_err());
    }
    let mut longer = snapshot.clone();
    longer.push(0);
    assert_eq!(Meta::restore(&longer), Err(crate::DecodeError::Left(1)));
    let mut random = Seeded::new(1);
    for _ in 0..20_000 {
        let mut bytes = snapshot.clone();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
        if let Ok(meta) = Meta::restore(&bytes) {
            assert_eq!(meta.snapshot(), bytes, "what is taken has one form");
            let _ = meta.warnings();
        }
        for entry in &rig.log[..3] {
            let mut bytes = entry.encode();
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
            if let Ok(entry) = Entry::decode(&bytes) {
                assert_eq!(entry.encode(), bytes);
            }
        }
    }
}

/// Restarts node 2 until `wanted` says enough.
fn restart(rig: &mut Rig, lives: std::ops::Range<u64>, every_ms: u64) -> Vec<Member> {
    let mut numbers = Vec::new();
    for incarnation in lives {
        let node = NodeSpec { incarnation: Incarnation(incarnation), ..spec(2) };
        let command = Command::Register { cluster: CLUSTER, node };
        let at = rig.log.last().map_or(0, |last| last.at) + every_ms;
        let entry = Entry { at, command };
        rig.log.push(entry.clone());
        match rig.meta.apply(rig.log.len() as u64, &entry) {
            Ok(_) => numbers.push(rig.meta.node(NodeId(2)).expect("known").member),
            Err(refused) => {
                assert_eq!(refused, Refused::NoMemberNumber);
                break;
            }
        }
    }
    numbers
}

#[test]
fn each_life_has_a_number_of_its_own_and_they_are_given_in_turn() {
    let mut rig = Rig::of(3);
    let numbers: Vec<_> = rig.meta.nodes().map(|node| node.member).collect();
    assert_eq!(numbers, [Member(1), Member(2), Member(3)]);
    assert_eq!(restart(&mut rig, 2..4, 1_000), [Member(4), Member(5)]);
    assert_eq!(rig.meta.member(Member(5)).expect("alive").spec.id, NodeId(2));
    assert!(rig.meta.member(Member(2)).is_none(), "that life is over");
    rig.must(Command::Down(life(2, 3)));
    assert!(rig.meta.member(Member(5)).is_none());
    assert_eq!(restart(&mut rig, 4..5, 1_000), [Member(6)], "5 rests");
}

#[test]
fn a_number_comes_again_only_after_all_others_and_its_rest() {
    let mut rig = Rig::of(3);
    // A start a second: those of ten minutes rest, and so there are enough.
    let numbers = restart(&mut rig, 2..3_000, 1_000);
    assert_eq!(numbers.len(), 2_998);
    let mut last = std::collections::BTreeMap::new();
    for (turn, number) in numbers.iter().enumerate() {
        assert!(!matches!(number.0, 1 | 3), "in use by others");
        if let Some(before) = last.insert(*number, turn) {
            assert_eq!(turn - before, usize::from(MEMBERS_MAX) - 2, "all others came first");
        }
    }
    // Ten a second: when all rest, nobody comes in, and after the rest again.
    let many = restart(&mut rig, 3_000..6_000, 100);
    assert!(many.len() < usize::from(MEMBERS_MAX), "{}", many.len());
    assert_eq!(restart(&mut rig, 6_000..6_001, MEMBER_REST_MS).len(), 1);
}
