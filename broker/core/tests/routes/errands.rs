//! What a node does not know to route is taken by the partition of its publisher.

use std::collections::BTreeMap;

use tidegate_core::ids::PartitionId;

use super::world::World;

/// A client of node 0, whose partition `led` leads.
fn publisher(world: &mut World, led: usize, clean: bool) -> usize {
    let of = |id: &str| world.rigs[0].node.partition_of_client(id);
    let id = (0..).map(|n| format!("p{n}")).find(|id| usize::from(of(id).0) % 3 == led);
    world.connect(0, &id.expect("there are many"), clean)
}

/// A cluster whose node 0 does not know of all routes: it has no link to node 1.
fn cut_off(seed: u64, level: u16) -> World {
    let mut world = World::replicated(3, seed);
    for rig in &world.rigs {
        rig.node.set_feature_level(level);
    }
    world.cut(0, 1);
    world.settle(4_000);
    world
}

/// Subscribers that node 0 does not know of, and their topic, whose retained message
/// they can ask for.
fn subscribers(world: &mut World) -> (Vec<usize>, String) {
    let of = |topic: &str| world.rigs[0].node.partition_of_topic(topic);
    let topic = (0..).map(|n| format!("t{n}")).find(|topic| of(topic).0 % 3 == 2);
    let topic = topic.expect("there are many");
    let connect = |(node, clean): (usize, bool)| {
        let side = world.connect(node, &format!("s{node}{clean}"), clean);
        world.subscribe(side, &topic, 2);
        side
    };
    let sides = [(1, true), (2, true), (2, false)].map(connect).to_vec();
    world.settle(5_000);
    (sides, topic)
}

#[test]
fn a_publish_is_acknowledged_once_its_partition_has_it_and_then_delivered_in_order() {
    for (seed, clean, qos) in [(0, true, 1), (1, false, 1), (2, true, 2), (3, false, 2)] {
        let mut world = cut_off(seed, 2);
        let (sides, topic) = subscribers(&mut world);
        let me = publisher(&mut world, 2, clean);
        let send = |world: &mut World, n: u64| world.publish(me, &topic, qos, &format!("{n}"));
        let mut ids: Vec<u16> = (0..5).map(|n| send(&mut world, n)).collect();
        world.settle(500);
        for &id in &ids {
            assert!(world.is_acked(me, id), "seed {seed}: {id}, of what node 0 cannot route");
        }
        // Node 2 knows all routes, and has routed it.
        assert!(sides.iter().all(|&side| world.counts(side).len() == 5), "seed {seed}");
        // Nothing overtakes it when the way is free again.
        ids.extend((5..10).map(|n| send(&mut world, n)));
        world.join(0, 1);
        for n in 10..40 {
            ids.push(send(&mut world, n));
            world.step(1 + n % 40);
        }
        world.settle(2_000);
        assert!(ids.iter().all(|&id| world.is_acked(me, id)), "seed {seed}");
        let all: Vec<String> = (0..40).map(|n| format!("{n}")).collect();
        for &side in &sides {
            assert_eq!(world.clients[side].got, all, "seed {seed}: {}", world.clients[side].id);
        }
    }
}

#[test]
fn a_publish_waits_where_members_do_not_know_errands_and_where_it_is_retained() {
    for (level, retain) in [(1, false), (2, true)] {
        let mut world = cut_off(7, level);
        let me = publisher(&mut world, 2, true);
        let id = world.publish_as(me, "t", 1, retain, "it waits");
        world.settle(3_000);
        assert!(!world.is_acked(me, id), "level {level}");
        world.join(0, 1);
        world.settle(1_000);
        assert!(world.is_acked(me, id), "level {level}");
    }
}

#[test]
fn what_the_partition_of_a_publisher_has_taken_survives_its_leader() {
    for seed in 0..8 {
        let mut world = cut_off(seed, 2);
        let (sides, topic) = subscribers(&mut world);
        let me = publisher(&mut world, 2, true);
        let partition = world.rigs[0].node.partition_of_client(&world.clients[me].id.clone());
        // Its leader does not know all routes either: nothing is routed there.
        world.cut(1, 2);
        world.settle(4_000);
        let ids: Vec<u16> = (0..6).map(|n| world.publish(me, &topic, 1, &format!("{n}"))).collect();
        world.settle(1_000);
        assert!(!ids.iter().any(|&id| world.is_acked(me, id)), "seed {seed}: too early");
        world.settle(1_500);
        assert!(ids.iter().all(|&id| world.is_acked(me, id)), "seed {seed}");
        assert!(sides.iter().all(|&side| world.counts(side).is_empty()), "seed {seed}");
        world.elect(PartitionId(partition.0), 0);
        world.join(0, 1);
        world.join(1, 2);
        world.settle(8_000);
        for &side in &sides {
            let counts = world.counts(side);
            let once: BTreeMap<&str, usize> =
                ["0", "1", "2", "3", "4", "5"].into_iter().map(|payload| (payload, 1)).collect();
            assert_eq!(counts, once, "seed {seed}: {}", world.clients[side].id);
        }
    }
}

#[test]
fn nothing_overtakes_an_errand_whose_end_is_not_committed() {
    let mut world = cut_off(21, 2);
    let (sides, topic) = subscribers(&mut world);
    let me = publisher(&mut world, 2, true);
    let partition = world.rigs[0].node.partition_of_client(&world.clients[me].id.clone());
    // Node 1 gets it late.
    while world.hold_line(2, 1, 4_000) == 0 {
        world.step(1);
    }
    let first = world.publish(me, &topic, 1, "first");
    world.settle(500);
    assert_eq!(world.clients[sides[1]].got, ["first"]);
    let late = world.connect(2, "late", false);
    world.subscribe(late, &topic, 1);
    world.join(0, 1);
    world.settle(2_000);
    world.publish(me, &topic, 1, "second");
    world.settle(500);
    assert!(world.clients[sides[0]].got.is_empty());
    // It is done, and that is not committed.
    world.stuck = Some(partition);
    world.settle(1_400);
    assert!(world.is_acked(me, first));
    assert_eq!(world.clients[sides[0]].got[0], "first");
    // The next leader routes it again, to who has subscribed since, too.
    world.elect(partition, 1);
    world.stuck = None;
    world.settle(5_000);
    assert_eq!(world.clients[late].got, ["first", "second"]);
    for side in sides {
        assert_eq!(world.clients[side].got, ["first", "second"], "{}", world.clients[side].id);
    }
}
