//! Publishing between nodes: what a SUBACK at one promises for a PUBLISH at
//! another, whatever the lines between them do.
#![allow(missing_docs, unreachable_pub)]

#[path = "routes/errands.rs"]
mod errands;
#[path = "routes/golden.rs"]
mod golden;
mod rig;
#[path = "routes/world.rs"]
mod world;

use std::collections::BTreeMap;

use tidegate_core::ids::{PartitionId, SessionKey, ShardId};
use tidegate_core::index::{Options, Subscriber};
use tidegate_core::settings::Settings;
use world::{World, member};

#[test]
fn every_qos_reaches_sessions_of_both_kinds_at_every_node_once() {
    for qos in 0..3 {
        let mut world = World::new(3, u64::from(qos));
        let mut sides = Vec::new();
        for node in 0..3 {
            for clean in [true, false] {
                for n in 0..3 {
                    let side = world.connect(node, &format!("s{node}-{clean}-{n}"), clean);
                    // Several filters of one node match: the message goes there once.
                    world.subscribe(side, ["a/b", "a/+", "#"][n], 2);
                    sides.push(side);
                }
            }
        }
        world.settle(500);
        for node in 0..3 {
            for clean in [true, false] {
                let publisher = world.connect(node, &format!("p{node}-{clean}"), clean);
                for n in 0..5 {
                    let id = world.publish(publisher, "a/b", qos, &format!("{node}{clean}{n}"));
                    world.settle(300);
                    assert!(qos == 0 || world.is_acked(publisher, id), "node {node}, QoS {qos}");
                }
            }
        }
        for side in sides {
            let counts = world.counts(side);
            assert_eq!(counts.len(), 30, "{} has {counts:?}", world.clients[side].id);
            assert!(counts.values().all(|&n| n == 1), "QoS {qos}: {counts:?}");
        }
        for rig in &world.rigs {
            assert!(rig.shards.iter().all(|shard| shard.open_crossings() == 0));
        }
    }
}

/// What a client was promised: a SUBACK that came before a PUBLISH was sent.
fn subscribe_then_publish(seed: u64, cuts: bool) -> usize {
    let settings = Settings::default();
    let mut world = World::of(3, seed, false, settings, |p| usize::from(p.0) % 3);
    world.late = 60;
    let mut publishers = Vec::new();
    let mut subscribers = Vec::new();
    for node in 0..3 {
        publishers.push(world.connect(node, &format!("p{node}"), true));
        for n in 0..2 {
            subscribers.push(world.connect(node, &format!("s{node}-{n}"), n == 0 || cuts));
        }
    }
    let mut pending: Vec<(usize, u16, String)> = Vec::new();
    // By topic: who has the SUBACK.
    let mut promised: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut expected: Vec<(usize, String)> = Vec::new();
    let mut sent = Vec::new();
    let mut checked = 0;
    for turn in 0..400 {
        world.step(1 + turn % 7);
        match world.random(20) {
            0..=3 => {
                let side = subscribers[world.random(6) as usize];
                let topic = format!("t/{}", world.random(40));
                let filter = match world.random(2) {
                    0 => topic.clone(),
                    _ => format!("+/{}", &topic[2..]),
                };
                let id = world.subscribe(side, &filter, 2);
                pending.push((side, id, topic));
            }
            4 if cuts => {
                let (a, b) = [(0, 1), (0, 2), (1, 2)][world.random(3) as usize];
                match world.is_joined(a, b) {
                    true => world.cut(a, b),
                    false => world.join(a, b),
                }
            }
            5 if cuts => {
                for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                    if !world.is_joined(a, b) {
                        world.join(a, b);
                    }
                }
            }
            6..=12 => {
                let topics: Vec<String> = promised.keys().cloned().collect();
                if topics.is_empty() {
                    continue;
                }
                let topic = &topics[world.random(topics.len() as u64) as usize];
                let publisher = publishers[world.random(3) as usize];
                let qos = 1 + world.random(2) as u8;
                let payload = format!("m{turn}");
                let id = world.publish(publisher, topic, qos, &payload);
                sent.push((publisher, id, payload.clone()));
                for &side in &promised[topic] {
                    expected.push((side, payload.clone()));
                }
            }
            _ => {}
        }
        pending.retain(|(side, id, topic)| {
            let there = world.is_subscribed(*side, *id);
            if there {
                let sides = promised.entry(topic.clone()).or_default();
                if !sides.contains(side) {
                    sides.push(*side);
                }
            }
            !there
        });
    }
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        if !world.is_joined(a, b) {
            world.join(a, b);
        }
    }
    world.settle(8_000);
    pending.retain(|(side, id, _)| !world.is_subscribed(*side, *id));
    for (publisher, id, payload) in sent {
        assert!(world.is_open(publisher), "seed {seed}: {publisher} was closed");
        assert!(world.is_acked(publisher, id), "seed {seed}: {payload} is not acknowledged");
    }
    for (side, payload) in expected {
        assert!(world.is_open(side), "seed {seed}: {} was closed", world.clients[side].id);
        let counts = world.counts(side);
        let got = counts.get(&*payload).copied().unwrap_or(0);
        assert_eq!(got, 1, "seed {seed}: {} got {payload} {got} times", world.clients[side].id);
        checked += 1;
    }
    assert!(pending.is_empty(), "seed {seed}: {} SUBACKs never came", pending.len());
    checked
}

#[test]
fn a_suback_at_one_node_before_a_publish_at_another_means_it_is_delivered() {
    let checked: usize = (0..12).map(|seed| subscribe_then_publish(seed, false)).sum();
    assert!(checked > 500, "only {checked} were promised");
}

#[test]
fn that_holds_with_lines_that_are_cut_and_joined_again() {
    let checked: usize = (100..112).map(|seed| subscribe_then_publish(seed, true)).sum();
    assert!(checked > 300, "only {checked} were promised");
}

#[test]
fn a_publish_waits_while_its_node_is_cut_off_and_goes_on_when_it_is_back() {
    let mut world = World::new(2, 1);
    let publisher = world.connect(0, "p", true);
    let subscriber = world.connect(1, "s", true);
    world.cut(0, 1);
    world.settle(4_000);
    world.subscribe(subscriber, "t", 1);
    world.settle(10);
    assert_eq!(world.clients[subscriber].suback.len(), 1, "nobody holds a lease any more");
    let id = world.publish(publisher, "t", 1, "late");
    world.publish(publisher, "t", 0, "unheard");
    world.settle(2_000);
    assert!(!world.is_acked(publisher, id), "it knows not all of node 1's routes");
    world.join(0, 1);
    world.settle(2_000);
    assert!(world.is_acked(publisher, id));
    assert_eq!(world.clients[subscriber].got, ["late", "unheard"]);
}

#[test]
fn a_node_that_was_cut_off_for_long_gets_everything_anew() {
    let mut world = World::new(2, 2);
    let publisher = world.connect(0, "p", true);
    let subscriber = world.connect(1, "s", true);
    world.subscribe(subscriber, "old/0", 1);
    world.settle(500);
    world.cut(0, 1);
    world.settle(4_000);
    let before = world.exchanges[1].filters();
    for n in 0..90 {
        world.subscribe(subscriber, &format!("new/{n}"), 1);
    }
    world.unsubscribe(subscriber, "old/0");
    world.settle(1_000);
    assert_eq!(world.exchanges[1].filters(), before + 89);
    // More changes than are kept as increments.
    let shard = ShardId::of(member(1), 0);
    let session = SessionKey { shard, durable: false, slot: 1 << 20, generation: 0 };
    let options = Options::new(0, false, false);
    for n in 0..66_000 {
        let filter = format!("passing/{n}").into();
        let index = &world.rigs[1].node.index;
        index.subscribe(&filter, Subscriber { session, options, subscription_id: 0 });
        index.unsubscribe(&filter, session);
    }
    world.settle(10);
    world.join(0, 1);
    world.settle(2_000);
    assert_eq!(
        world.rigs[0].node.index.remotes().0,
        before + 89,
        "what came and went is not there"
    );
    for n in [0, 45, 89] {
        world.publish(publisher, &format!("new/{n}"), 1, &format!("{n}"));
    }
    world.publish(publisher, "old/0", 1, "nobody");
    world.settle(1_000);
    assert_eq!(world.clients[subscriber].got, ["0", "45", "89"]);
}

#[test]
fn what_was_on_a_line_that_is_cut_is_sent_again_and_taken_once() {
    for seed in 0..6 {
        let mut world = World::new(3, seed);
        world.late = 40;
        let live = world.connect(1, "live", true);
        world.subscribe(live, "t", 2);
        // A session that is away: its partition is led by somebody.
        let ids: Vec<String> = (0..6).map(|n| format!("away-{n}")).collect();
        for id in &ids {
            let away = world.connect(1, id, false);
            world.subscribe(away, "t", 2);
            world.settle(300);
            world.abort(away);
        }
        world.settle(300);
        let publishers = [world.connect(0, "p0", true), world.connect(2, "p2", true)];
        let mut sent = Vec::new();
        for n in 0..60u64 {
            let publisher = publishers[n as usize % 2];
            let payload = format!("{n}");
            sent.push((publisher, world.publish(publisher, "t", 1 + (n % 2) as u8, &payload)));
            world.step(4);
            if n % 10 == 9 {
                let (a, b) = [(0, 1), (1, 2), (0, 2)][(n / 10) as usize % 3];
                world.cut(a, b);
                world.step(5);
                world.join(a, b);
            }
        }
        world.settle(8_000);
        for (publisher, id) in sent {
            assert!(world.is_acked(publisher, id), "seed {seed}: {id} of {publisher}");
        }
        let mut sides = vec![live];
        sides.extend(ids.iter().map(|id| world.connect(2, id, false)));
        world.settle(2_000);
        for side in sides {
            let counts = world.counts(side);
            assert_eq!(counts.len(), 60, "seed {seed}: {}", world.clients[side].id);
            assert!(counts.values().all(|&n| n == 1), "seed {seed}: {counts:?}");
        }
    }
}

#[test]
fn a_message_to_a_node_that_is_gone_is_acknowledged() {
    let mut world = World::with(3, 3, false, |p| usize::from(p.0) % 2);
    let publisher = world.connect(0, "p", true);
    let subscriber = world.connect(2, "s", true);
    world.subscribe(subscriber, "t", 1);
    world.settle(500);
    world.kill(2);
    let id = world.publish(publisher, "t", 1, "for nobody");
    world.settle(500);
    assert!(!world.is_acked(publisher, id), "it may come back");
    world.bury(2);
    world.settle(500);
    assert!(world.is_acked(publisher, id));
    let id = world.publish(publisher, "t", 1, "nobody at all");
    world.settle(500);
    assert!(world.is_acked(publisher, id));
}

#[test]
fn at_qos_0_nothing_comes_behind_what_its_client_has_sent_since_by_another_node() {
    let mut world = World::replicated(3, 7);
    world.late = 0;
    let led_by_1 = |id: &String| world.rigs[0].node.partition_of_client(id).0 % 3 == 1;
    let goes = (0..).map(|n| format!("goes-{n}")).find(led_by_1).expect("one of three");
    let watcher = world.connect(2, "watcher", true);
    world.subscribe(watcher, "t", 0);
    let before = world.connect(0, &goes, false);
    let stays = world.connect(0, "stays", false);
    world.settle(500);
    world.publish(before, "t", 0, "old");
    world.publish(stays, "t", 0, "late");
    world.rigs[0].run();
    world.step(1);
    assert!(world.hold_line(0, 2, 1_500) > 0);
    let since = world.connect(1, &goes, false);
    world.publish(since, "t", 0, "new");
    world.settle(300);
    assert_eq!(world.clients[watcher].got, ["new"]);
    world.settle(3_000);
    world.publish(since, "t", 0, "newer");
    world.settle(300);
    assert_eq!(world.clients[watcher].got, ["new", "late", "newer"]);
}

#[test]
fn at_qos_0_nothing_that_waited_for_a_former_leader_comes_when_it_leads_again() {
    let mut world = World::replicated(3, 8);
    let partition = world.rigs[0].node.partition_of_client("watcher");
    world.elect(partition, 1);
    let watcher = world.connect(2, "watcher", false);
    world.subscribe(watcher, "t", 2);
    let publisher = world.connect(0, "p", true);
    world.settle(500);
    world.publish(publisher, "t", 0, "first");
    world.settle(100);
    assert_eq!(world.clients[watcher].got, ["first"]);
    world.cut(0, 1);
    world.publish(publisher, "t", 0, "waits for the link");
    world.elect(partition, 2);
    let watcher = world.connect(2, "watcher", false);
    world.publish(publisher, "t", 0, "new");
    world.settle(100);
    assert_eq!(world.clients[watcher].got, ["new"]);
    world.elect(partition, 1);
    let watcher = world.connect(2, "watcher", false);
    world.join(0, 1);
    world.settle(500);
    world.publish(publisher, "t", 0, "newest");
    world.settle(100);
    assert_eq!(world.clients[watcher].got, ["newest"]);
}

#[test]
fn at_qos_0_a_new_leader_sends_nothing_to_a_connection_that_has_not_heard_of_it() {
    let mut world = World::replicated(3, 12);
    world.late = 0;
    let partition = world.rigs[0].node.partition_of_client("watcher");
    world.elect(partition, 1);
    let watcher = world.connect(0, "watcher", false);
    world.subscribe(watcher, "t", 0);
    let publisher = world.connect(1, "p", true);
    world.settle(500);
    world.publish(publisher, "t", 0, "by the first");
    world.step(1);
    assert!(world.hold_line(1, 0, 300) > 0);
    world.deaf = Some(0);
    world.elect(partition, 2);
    world.publish(publisher, "t", 0, "by the next");
    world.settle(1_000);
    assert_eq!(world.clients[watcher].got, ["by the first"]);
    world.deaf = None;
    world.elect(partition, 1);
    world.settle(500);
    assert!(!world.is_open(watcher), "it has heard of it");
    let watcher = world.connect(0, "watcher", false);
    world.settle(500);
    assert_eq!(world.clients[watcher].present, Some(true));
    world.publish(publisher, "t", 0, "to the next connection");
    world.settle(500);
    assert_eq!(world.clients[watcher].got, ["to the next connection"]);
}

#[test]
fn a_session_whose_grant_came_late_from_an_earlier_leader_is_served_or_resumed() {
    for steps in 0..12 {
        let mut world = World::replicated(3, 9);
        world.late = 1;
        let partition = world.rigs[0].node.partition_of_client("late");
        world.elect(partition, 1);
        let before = world.connect(0, "late", false);
        world.subscribe(before, "t", 1);
        world.settle(500);
        world.abort(before);
        world.settle(500);
        let mut late = world.begin_connect(0, "late", false);
        (0..steps).for_each(|_| world.step(1));
        world.elect(partition, 2);
        world.settle(3_000);
        if !world.is_open(late) {
            late = world.connect(0, "late", false);
        }
        let publisher = world.connect(1, "p", true);
        world.publish(publisher, "t", 1, "here");
        world.settle(1_000);
        assert_eq!(world.clients[late].got, ["here"], "{steps} steps");
    }
}

#[test]
fn a_connect_that_comes_late_and_is_withdrawn_leaves_no_session() {
    for (with_will, steps) in [false, true].into_iter().flat_map(|w| (0..16).map(move |s| (w, s))) {
        let mut world = World::replicated(3, 10);
        world.late = 4;
        let partition = world.rigs[0].node.partition_of_client("mover");
        world.elect(partition, 2);
        world.settle(200);
        let older = world.begin_connect(0, "mover", false);
        world.step(1);
        assert!(world.hold_line(0, 2, 200) > 0);
        let newer = match with_will {
            true => world.connect_with_will(2, "mover", "w", "gone"),
            false => world.connect(2, "mover", true),
        };
        assert_eq!(world.clients[newer].present, Some(false));
        (0..steps).for_each(|_| world.step(1));
        if world.clients[older].present.is_some() {
            assert!(steps > 4, "it was accepted");
            continue;
        }
        world.abort(older);
        world.settle(1_000);
        world.abort(newer);
        world.settle(100);
        let again = world.connect(1, "mover", false);
        let present = world.clients[again].present;
        assert_eq!(present, Some(false), "will {with_will}, {steps} steps: it has ended");
    }
}

#[test]
fn what_was_sent_behind_something_that_was_lost_goes_again_with_it() {
    let mut world = World::new(3, 12);
    let partition = world.rigs[0].node.partition_of_client("away");
    let led = usize::from(partition.0) % 3;
    let node = (led + 1) % 3;
    let away = world.connect(led, "away", false);
    world.subscribe(away, "t", 1);
    let publisher = world.connect(node, "p", true);
    world.settle(500);
    let mut ids = vec![world.publish(publisher, "t", 1, "0")];
    world.step(1);
    assert!(world.take_line(node, led) > 0);
    for n in 1..4 {
        world.settle(1_400);
        ids.push(world.publish(publisher, "t", 1, &format!("{n}")));
    }
    world.settle(500);
    assert!(!ids.iter().any(|&id| world.is_acked(publisher, id)), "the first was lost");
    // Five seconds behind the first, and not behind each.
    world.settle(1_800);
    assert!(ids.iter().all(|&id| world.is_acked(publisher, id)));
    assert_eq!(world.clients[away].got, ["0", "1", "2", "3"]);
}

#[test]
fn a_retry_of_what_the_dead_leader_had_committed_is_not_enqueued_twice() {
    // Node 0 leads everything and dies; node 2 comes up with its log.
    let mut world = World::with(3, 4, true, |_| 0);
    let away = world.connect(1, "away", false);
    world.subscribe(away, "t", 2);
    world.settle(500);
    world.abort(away);
    let publisher = world.connect(1, "p", true);
    world.settle(500);
    let mut ids = Vec::new();
    for n in 0..8 {
        ids.push(world.publish(publisher, "t", 1 + n % 2, &format!("{n}")));
    }
    // They come to the leader, which commits them; what it says is lost.
    world.late = 0;
    for _ in 0..4 {
        world.step(1);
        let lost = world.take_line(0, 1);
        assert!(ids.iter().all(|id| !world.is_acked(publisher, *id)), "{lost} loads were lost");
    }
    world.kill(0);
    world.take_over(0, 2);
    world.bury(0);
    world.settle(8_000);
    for id in ids {
        assert!(world.is_acked(publisher, id), "the retry is confirmed");
    }
    let away = world.connect(1, "away", false);
    world.settle(2_000);
    let counts = world.counts(away);
    assert_eq!(counts.len(), 8, "{counts:?}");
    assert!(counts.values().all(|&n| n == 1), "{counts:?}");
}

#[test]
fn while_leaders_change_what_is_acknowledged_arrives_once() {
    for seed in 0..8 {
        let mut world = World::replicated(3, seed);
        let mut sides = Vec::new();
        for node in 0..3 {
            let side = world.connect(node, &format!("live-{node}"), true);
            world.subscribe(side, "t/+", 2);
            sides.push(side);
        }
        let away: Vec<String> = (0..5).map(|n| format!("away-{n}")).collect();
        for (n, id) in away.iter().enumerate() {
            let side = world.connect(n % 3, id, false);
            let suback = world.subscribe(side, "+/x", 2);
            world.settle(400);
            assert!(world.is_subscribed(side, suback), "seed {seed}: {id}");
            world.abort(side);
        }
        world.settle(300);
        let publishers: Vec<usize> =
            (0..3).map(|node| world.connect(node, &format!("p{node}"), true)).collect();
        let mut sent = Vec::new();
        for n in 0..90u64 {
            let publisher = publishers[n as usize % 3];
            let id = world.publish(publisher, "t/x", 1 + (n % 2) as u8, &format!("{n}"));
            sent.push((publisher, id));
            let ms = 1 + world.random(12);
            world.step(ms);
            if n % 4 == 0 {
                // The partitions of the sessions among others.
                for p in 0..64 {
                    if world.random(4) == 0 {
                        let leader = world.random(3) as usize;
                        world.elect(PartitionId(p), leader);
                    }
                }
            }
            if n % 15 == 14 {
                let (a, b) = [(0, 1), (1, 2), (0, 2)][world.random(3) as usize];
                world.cut(a, b);
                world.settle(20);
                world.join(a, b);
            }
        }
        world.settle(12_000);
        for (publisher, id) in sent {
            assert!(world.is_open(publisher), "seed {seed}: {publisher} was closed");
            let there = world.is_acked(publisher, id);
            assert!(there, "seed {seed}: {id} of {publisher}: {}", world.state());
        }
        sides.extend(away.iter().map(|id| world.connect(1, id, false)));
        world.settle(3_000);
        for side in sides {
            assert!(world.is_open(side), "seed {seed}: {}", world.clients[side].id);
            let counts = world.counts(side);
            let id = &world.clients[side].id;
            let missing: Vec<_> =
                (0..90).map(|n| n.to_string()).filter(|n| !counts.contains_key(&**n)).collect();
            assert!(missing.is_empty(), "seed {seed}: {id} lacks {missing:?}");
            assert!(counts.values().all(|&n| n == 1), "seed {seed}: {id} {counts:?}");
        }
    }
}

#[test]
fn a_share_group_over_three_nodes_gets_each_message_at_one_member() {
    for (seed, qos) in [(0, 1), (1, 2), (2, 0)] {
        let mut world = World::new(3, seed);
        let mut members = Vec::new();
        for node in 0..3 {
            for clean in [true, false] {
                let side = world.connect(node, &format!("m{node}-{clean}"), clean);
                world.subscribe(side, "$share/g/t/+", 2);
                members.push(side);
            }
        }
        world.settle(500);
        let mut sent = Vec::new();
        for node in 0..3 {
            let publisher = world.connect(node, &format!("p{node}"), true);
            for n in 0..60 {
                let payload = format!("{node}-{n}");
                let id = world.publish(publisher, "t/1", qos, &payload);
                sent.push((publisher, id));
                if n % 20 == 19 {
                    world.settle(100);
                }
            }
        }
        world.settle(3_000);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        for &side in &members {
            *nodes.entry(world.clients[side].node).or_insert(0) += world.clients[side].got.len();
            for payload in &world.clients[side].got {
                *counts.entry(payload).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), 180, "QoS {qos}");
        assert!(counts.values().all(|&n| n == 1), "QoS {qos}: {counts:?}");
        assert!(nodes.values().all(|&n| n > 20), "QoS {qos}: all nodes take part: {nodes:?}");
        if qos > 0 {
            assert!(sent.iter().all(|(publisher, id)| world.is_acked(*publisher, *id)));
        }
    }
}

#[test]
fn a_message_for_a_member_that_has_just_left_goes_to_one_at_another_node() {
    for seed in 0..8 {
        let mut world = World::new(3, seed);
        world.late = 50;
        let stays = world.connect(2, "stays", true);
        let leaves = world.connect(1, "leaves", true);
        for side in [stays, leaves] {
            world.subscribe(side, "$share/g/t", 1);
        }
        world.settle(500);
        let publisher = world.connect(0, "p", true);
        let ids: Vec<u16> =
            (0..40).map(|n| world.publish(publisher, "t", 1, &format!("{n}"))).collect();
        world.unsubscribe(leaves, "$share/g/t");
        world.settle(3_000);
        assert!(ids.iter().all(|id| world.is_acked(publisher, *id)));
        let mut all = world.clients[stays].got.clone();
        all.extend(world.clients[leaves].got.iter().cloned());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 40, "seed {seed}");
    }
}

#[test]
fn no_local_and_subscription_identifiers_hold_across_nodes_and_sys_stays_at_home() {
    let mut world = World::new(2, 5);
    let alice = world.connect_5(0, "alice");
    let bob = world.connect_5(1, "bob");
    let no_local = 0b0000_0101;
    for side in [alice, bob] {
        world.subscribe_as(side, "t", no_local, &[0x0b, 7]);
        world.subscribe_as(side, "+", 1, &[0x0b, 9]);
        world.subscribe_as(side, "$SYS/#", 0, &[]);
    }
    world.subscribe_as(alice, "own", no_local, &[]);
    world.settle(500);
    world.publish(alice, "own", 1, "to herself");
    world.publish(alice, "t", 1, "to all");
    let shard = &mut world.rigs[0].shards[0];
    shard.publish_system(1_000_000_000, "$SYS/broker/uptime", b"1");
    world.settle(1_000);
    assert_eq!(world.clients[bob].got, ["to herself", "to all"]);
    let ids: Vec<u8> =
        world.clients[bob].raw[1].windows(2).filter(|w| w[0] == 0x0b).map(|w| w[1]).collect();
    assert_eq!(ids, [7, 9], "both of its subscriptions match");
    assert!(world.clients[alice].got.contains(&"1".to_owned()));
    assert!(!world.clients[bob].got.contains(&"1".to_owned()));
    assert_eq!(world.exchanges[0].filters(), 3, "its $SYS filter is not announced");
}

#[test]
fn a_retained_message_reaches_its_keeper_though_the_line_is_cut() {
    let mut world = World::with(2, 6, false, |_| 1);
    let publisher = world.connect(0, "p", true);
    let ids: Vec<u16> =
        (0..10).map(|n| world.publish_as(publisher, &format!("r/{n}"), 1, true, "kept")).collect();
    world.step(1);
    world.cut(0, 1);
    world.settle(1_000);
    assert!(ids.iter().any(|id| !world.is_acked(publisher, *id)));
    world.join(0, 1);
    world.settle(3_000);
    assert!(ids.iter().all(|id| world.is_acked(publisher, *id)));
    let late = world.connect(0, "late", true);
    world.subscribe(late, "r/+", 1);
    world.settle(2_000);
    assert_eq!(world.clients[late].got.len(), 10);
}
