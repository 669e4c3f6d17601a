//! What the nodes that are left do when another has died or been replaced.
#![allow(missing_docs, unreachable_pub)]

mod rig;
#[path = "routes/world.rs"]
mod world;

use tidegate_core::ids::{PARTITIONS, PartitionId};
use world::World;

fn partitions() -> impl Iterator<Item = PartitionId> {
    (0..PARTITIONS).map(|partition| PartitionId(partition as u8))
}

/// Every shard that asks is told that it leads these.
fn prove(world: &mut World, mask: u64) -> u32 {
    let mut asked = 0;
    for shard in world.rigs.iter_mut().flat_map(|rig| &mut rig.shards) {
        while let Some(partitions) = shard.take_unproven() {
            asked += partitions.count_ones();
            shard.proven(partitions & mask);
        }
    }
    asked
}

#[test]
fn a_share_groups_message_for_a_member_that_died_with_its_node_goes_to_another() {
    for qos in 1..3 {
        let mut world = World::with(3, 7, false, |p| usize::from(p.0) % 2);
        let members = [world.connect(1, "stays", true), world.connect(2, "dies", true)];
        for member in members {
            world.subscribe(member, "$share/g/t", 2);
        }
        let publisher = world.connect(0, "p", true);
        world.settle(500);
        world.kill(2);
        let ids: Vec<u16> =
            (0..20).map(|n| world.publish(publisher, "t", qos, &format!("{n}"))).collect();
        world.settle(500);
        assert!(ids.iter().any(|id| !world.is_acked(publisher, *id)), "some went to the dead one");
        world.bury(2);
        world.settle(2_000);
        assert!(ids.iter().all(|id| world.is_acked(publisher, *id)));
        let counts = world.counts(members[0]);
        assert_eq!(counts.len(), 20, "QoS {qos}");
        assert!(counts.values().all(|&n| n == 1), "QoS {qos}: {counts:?}");
    }
}

#[test]
fn a_leader_that_is_named_too_early_confirms_nothing() {
    let mut world = World::replicated(2, 8);
    for p in partitions() {
        world.elect(p, 0);
    }
    let away = world.connect(0, "away", false);
    world.subscribe(away, "t", 1);
    world.settle(500);
    world.abort(away);
    let publisher = world.connect(0, "p", true);
    world.settle(500);
    for p in partitions() {
        // Its shard has not been told yet, as another thread may.
        let home = world.rigs[1].node.place(p);
        for at in 0..2 {
            world.rigs[at].node.set_home(p, Some(home));
            let rig = &mut world.rigs[at];
            rig.shards.iter_mut().for_each(|shard| shard.home_moved(rig.now, p));
        }
    }
    let id = world.publish(publisher, "t", 1, "kept");
    world.settle(500);
    assert!(!world.is_acked(publisher, id), "nobody has it");
    for p in partitions() {
        world.elect(p, 1);
    }
    world.settle(2_000);
    assert!(world.is_acked(publisher, id));
    let away = world.connect(1, "away", false);
    world.settle(500);
    assert_eq!(world.clients[away].got, ["kept"]);
}

#[test]
fn an_errand_that_comes_again_from_the_next_leader_reaches_a_live_member_once() {
    for seed in 0..8 {
        let mut world = World::replicated(3, seed);
        let member = world.connect(2, "member", true);
        world.subscribe(member, "$share/g/t", 2);
        world.settle(500);
        for round in 0..6 {
            for p in partitions() {
                world.elect(p, 1);
            }
            world.settle(500);
            let publisher = world.connect(0, &format!("p{round}"), false);
            world.settle(500);
            let payload = format!("{round}");
            world.publish(publisher, "t", 2, &payload);
            for _ in 0..200 {
                world.step(1);
                if world.counts(member).contains_key(&*payload) {
                    break;
                }
            }
            // The member's node leads next, and knows not that the errand is done.
            for p in partitions() {
                world.elect(p, 2);
            }
            world.settle(2_500);
            world.abort(publisher);
            world.settle(500);
        }
        let counts = world.counts(member);
        assert_eq!(counts.len(), 6, "seed {seed}: {counts:?}");
        assert!(counts.values().all(|&n| n == 1), "seed {seed}: {counts:?}");
    }
}

#[test]
fn what_is_retained_is_read_of_a_leader_that_a_quorum_has_confirmed() {
    let mut world = World::replicated(3, 9);
    world.rigs.iter_mut().flat_map(|rig| &mut rig.shards).for_each(|shard| shard.want_proofs());
    let publisher = world.connect(0, "p", true);
    let ids: Vec<u16> =
        (0..12).map(|n| world.publish_as(publisher, &format!("r/{n}"), 1, true, "v")).collect();
    world.settle(500);
    assert!(ids.iter().all(|id| world.is_acked(publisher, *id)));
    let reader = world.connect(1, "reader", true);
    let suback = world.subscribe(reader, "r/#", 1);
    world.settle(500);
    assert!(world.is_subscribed(reader, suback), "SUBACK does not wait");
    assert!(world.clients[reader].got.is_empty(), "no leader was confirmed");
    // Nobody leads any more, as far as a quorum has said.
    assert!(prove(&mut world, 0) > 0);
    world.settle(500);
    assert!(world.clients[reader].got.is_empty());
    assert_eq!(prove(&mut world, 0), 0, "it is not asked for ever");
    // It is asked again, of whoever leads then.
    for _ in 0..40 {
        world.settle(100);
        prove(&mut world, u64::MAX);
    }
    assert_eq!(world.clients[reader].got.len(), 12);
    let exact = world.connect(2, "exact", true);
    world.subscribe(exact, "r/3", 1);
    world.settle(500);
    assert_eq!(prove(&mut world, u64::MAX), 1, "one topic, one partition");
    world.settle(500);
    assert_eq!(world.clients[exact].got, ["v"]);
}

#[test]
fn a_will_outlives_its_node_though_its_session_does_not() {
    for seed in 0..4 {
        let mut world = World::replicated(3, seed);
        let mourner = world.connect(0, "mourner", true);
        world.subscribe(mourner, "w/+", 1);
        let dies = world.connect_with_will(2, "dies", "w/1", "dead");
        let back = world.connect_with_will(2, "back", "w/2", "back in time");
        let leaves = world.connect_with_will(2, "leaves", "w/3", "withdrawn");
        let drops = world.connect_with_will(2, "drops", "w/4", "dropped");
        for side in [dies, back, leaves, drops] {
            assert!(world.is_open(side));
            let id = world.subscribe(side, "own", 1);
            world.settle(300);
            assert!(world.is_subscribed(side, id));
        }
        world.disconnect(leaves);
        world.abort(drops);
        world.settle(500);
        assert_eq!(world.clients[mourner].got, ["dropped"], "seed {seed}: at once");
        world.kill(2);
        for p in partitions() {
            world.elect(p, usize::from(p.0) % 2);
        }
        world.bury(2);
        world.settle(500);
        let again = world.connect_with_will(1, "back", "w/2", "again");
        world.settle(20_000);
        assert!(world.is_open(again));
        let mut got = world.clients[mourner].got.clone();
        got.sort_unstable();
        assert_eq!(got, ["dead", "dropped"], "seed {seed}");
        let id = world.publish(again, "own", 1, "nothing is left of the old session");
        world.settle(500);
        assert!(world.is_acked(again, id) && world.clients[again].got.is_empty());
    }
}

#[test]
fn an_errand_that_waited_for_routes_is_the_next_leaders_alone() {
    let mut world = World::replicated(3, 12);
    for p in partitions() {
        world.elect(p, 1);
    }
    let live = world.connect(0, "live", true);
    let kept = world.connect(0, "kept", false);
    world.subscribe(live, "t", 2);
    world.subscribe(kept, "t", 2);
    let publisher = world.connect(0, "p", false);
    world.settle(500);
    // Their leader does not know all routes any more.
    world.cut(1, 2);
    world.settle(4_000);
    world.publish(publisher, "t", 2, "v");
    world.settle(500);
    assert!(world.clients[live].got.is_empty(), "it waits: {}", world.state());
    for p in partitions() {
        world.elect(p, 0);
    }
    world.settle(1_000);
    world.join(1, 2);
    world.settle(4_000);
    let kept = world.connect(0, "kept", false);
    world.settle(1_000);
    assert_eq!(world.clients[live].got, ["v"]);
    assert_eq!(world.clients[kept].got.len() + world.clients[1].got.len(), 1);
}

#[test]
fn a_durable_share_group_gets_what_comes_again_at_the_same_member() {
    let mut world = World::replicated(3, 13);
    for p in partitions() {
        world.elect(p, 1);
    }
    let ids: Vec<String> = (0..4).map(|n| format!("member-{n}")).collect();
    let mut members = Vec::new();
    for id in &ids {
        let member = world.connect(2, id, false);
        world.subscribe(member, "$share/g/t", 2);
        members.push(member);
    }
    world.settle(500);
    let mut got = std::collections::BTreeMap::new();
    for round in 0..24 {
        let publisher = world.connect(0, &format!("p{round}"), false);
        world.settle(300);
        world.publish(publisher, "t", 2, &format!("{round}"));
        // Somewhere between its commit and that of its end there is another leader.
        world.settle(5 + round);
        for p in partitions() {
            world.elect(p, round as usize % 3);
        }
        world.settle(1_500);
        world.abort(publisher);
        for (id, member) in ids.iter().zip(&mut members) {
            for payload in &world.clients[*member].got {
                got.entry(payload.clone()).or_insert_with(Vec::new).push(id.clone());
            }
            world.abort(*member);
            world.settle(20);
            *member = world.connect(2, id, false);
        }
    }
    world.settle(1_000);
    for (id, member) in ids.iter().zip(&members) {
        for payload in &world.clients[*member].got {
            got.entry(payload.clone()).or_insert_with(Vec::new).push(id.clone());
        }
    }
    for (payload, mut members) in got {
        members.dedup();
        assert_eq!(members.len(), 1, "{payload} came to {members:?}");
    }
}

#[test]
fn a_farewell_that_was_lost_is_still_one_when_the_next_leader_asks_for_the_claim() {
    let mut world = World::replicated(3, 21);
    for p in partitions() {
        world.elect(p, 0);
    }
    let mourner = world.connect(1, "mourner", true);
    world.subscribe(mourner, "w/+", 1);
    let leaves = world.connect_with_will(2, "leaves", "w/1", "withdrawn");
    world.settle(500);
    assert!(world.is_open(leaves));
    world.disconnect(leaves);
    for _ in 0..50 {
        world.step(1);
        world.take_line(2, 0);
    }
    world.cut(0, 2);
    world.cut(1, 2);
    for p in partitions() {
        world.elect(p, 1);
    }
    world.join(1, 2);
    // The next leader hears nothing of it before it sends the connection away.
    let again = world.begin_connect(1, "leaves", true);
    for _ in 0..200 {
        world.step(1);
        world.take_line(2, 1);
    }
    world.cut(1, 2);
    world.join(1, 2);
    world.join(0, 2);
    world.settle(20_000);
    assert!(world.is_open(again));
    assert!(world.clients[mourner].got.is_empty(), "{:?}", world.clients[mourner].got);
}
