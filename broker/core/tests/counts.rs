//! What the counters say of messages that are not a client's.
#![allow(missing_docs)]

mod rig;

use rig::{Rig, connect, publish, subscribe};
use tidegate_core::counters::{Count, Counters, DropReason, SubscriptionKind};
use tidegate_core::ids::{PARTITIONS, PartitionId};
use tidegate_core::limits::OUTBOX_MAILS_MAX;
use tidegate_core::settings::Settings;
use tidegate_core::transit::{Scope, Stage, Stamp};

#[test]
fn a_system_value_that_nobody_reads_is_neither_received_nor_dropped() {
    let mut rig = Rig::new(1, Settings::default());
    let now = rig.now;
    rig.shards[0].publish_system(now, "$SYS/broker/uptime", b"1 seconds");
    let counters = &rig.node.counters[0];
    let sum = |counts: &[Count]| counts.iter().map(Count::value).sum::<u64>();
    assert_eq!(sum(&counters.messages_received), 0);
    assert_eq!(sum(&counters.messages_dropped), 0);
    assert_eq!(counters.retained_messages.value(), 1);

    let alice = connect(&mut rig, 0, "alice", true);
    subscribe(&mut rig, alice, "$SYS/#", 0);
    assert_eq!(rig.node.counters[0].messages_delivered[0].value(), 1);
}

#[test]
fn a_clients_message_that_nobody_wants_is_dropped_and_so_is_its_will() {
    let mut rig = Rig::new(1, Settings::default());
    let alice = connect(&mut rig, 0, "alice", true);
    publish(&mut rig, alice, "t", 0, 0, b"x");
    let no_subscriber = DropReason::NoSubscriber as usize;
    assert_eq!(rig.node.counters[0].messages_dropped[no_subscriber].value(), 1);

    let bob = rig.open(0);
    // A will "w" on topic "w".
    rig.send(bob, b"\x10\x15\x00\x04MQTT\x04\x06\x00\x00\x00\x03bob\x00\x01w\x00\x01w");
    rig.abort(bob);
    assert_eq!(rig.node.counters[0].messages_dropped[no_subscriber].value(), 2);
}

#[test]
fn a_topic_seen_before_is_a_hit_of_the_route_cache() {
    let mut rig = Rig::new(1, Settings::default());
    let alice = connect(&mut rig, 0, "alice", true);
    for _ in 0..5 {
        publish(&mut rig, alice, "t", 0, 0, b"x");
    }
    let [hits, misses] = &rig.node.counters[0].route_cache;
    assert_eq!((hits.value(), misses.value()), (4, 1));
}

/// What a shard tells of its deliveries, told apart by age.
fn passed(rig: &mut Rig, shard: usize, now: Stamp) -> Vec<(u32, Scope, [u32; 3])> {
    let mut all = Vec::new();
    rig.shards[shard].take_passed(|passed| {
        all.push((now.micros_since(passed.read_at), passed.scope, passed.counts));
    });
    all
}

fn at(micros: u64) -> Stamp {
    Stamp::of_nanos(micros * 1_000)
}

#[test]
fn deliveries_are_timed_from_the_read_whatever_shards_lie_between() {
    let mut rig = Rig::new(4, Settings::default());
    let alice = connect(&mut rig, 0, "alice", true);
    let near = connect(&mut rig, 0, "near", true);
    let far = connect(&mut rig, 1, "far", true);
    // A durable session's messages go by the shard of its partition.
    let durable = connect(&mut rig, 2, "durable", false);
    for client in [near, far, durable] {
        subscribe(&mut rig, client, "t", 1);
    }
    for shard in 0..4 {
        rig.shards[shard].begin_turn(at(1_000 + shard as u64));
    }
    publish(&mut rig, alice, "t", 1, 7, b"x");
    publish(&mut rig, alice, "t", 0, 0, b"x");
    let now = at(1_500);
    assert_eq!(passed(&mut rig, 0, now), [(500, Scope::Local, [1, 1, 0])]);
    assert_eq!(passed(&mut rig, 1, now), [(500, Scope::Remote, [1, 1, 0])]);
    assert_eq!(passed(&mut rig, 2, now), [(500, Scope::Remote, [1, 1, 0])]);
    assert_eq!(passed(&mut rig, 3, now), []);
}

#[test]
fn a_message_that_waited_for_its_receiver_is_not_timed() {
    let mut rig = Rig::new(1, Settings::default());
    let alice = connect(&mut rig, 0, "alice", true);
    let bob = connect(&mut rig, 0, "bob", false);
    subscribe(&mut rig, bob, "t", 1);
    rig.shards[0].begin_turn(at(10));
    rig.abort(bob);
    publish(&mut rig, alice, "t", 1, 1, b"x");
    let bob = connect(&mut rig, 0, "bob", false);
    assert_eq!(rig.packets(bob).len(), 2, "CONNACK and the message");
    assert_eq!(passed(&mut rig, 0, at(20)), []);
}

#[test]
fn a_connection_is_timed_from_its_accept_to_connect_and_connack() {
    for clean in [true, false] {
        let mut rig = Rig::new(2, Settings::default());
        rig.shards[0].begin_turn(at(100));
        let alice = rig.open(0);
        rig.shards[0].begin_turn(at(300));
        let flags = if clean { 2 } else { 0 };
        rig.send(alice, &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 0, 0, 1, b'a']);
        let mut stages = Vec::new();
        rig.shards[0].take_reached(|reached| {
            assert_eq!(reached.slot, alice.slot);
            assert_eq!(at(300).micros_since(reached.accepted_at), 200);
            assert!(!reached.took_over);
            stages.push(reached.stage);
        });
        assert_eq!(stages, [Stage::Connect, Stage::Connack]);
    }
}

#[test]
fn a_takeover_is_told_with_its_connack_and_a_moved_partition_by_its_sessions() {
    let mut rig = Rig::new(1, Settings::default());
    rig.shards[0].begin_turn(at(100));
    let connect = [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 0, 0, 1, b'a'];
    let first = rig.open(0);
    rig.send(first, &connect);
    rig.shards[0].take_reached(|reached| assert!(!reached.took_over, "of nobody"));
    let second = rig.open(0);
    rig.send(second, &connect);
    let mut told = Vec::new();
    rig.shards[0]
        .take_reached(|reached| told.push((reached.slot, reached.stage, reached.took_over)));
    assert_eq!(told, [(second.slot, Stage::Connect, false), (second.slot, Stage::Connack, true)]);
    (0..PARTITIONS).for_each(|number| rig.shards[0].count_moved(PartitionId(number as u8)));
    let counters = &rig.node.counters[0];
    assert_eq!(counters.takeovers.each_ref().map(Count::value), [1, 0, 0]);
    assert_eq!(counters.sessions_moved.value(), 1);
}

/// A shard's gauges: those that a scrape adds up, and those that it labels.
fn gauges(counters: &Counters) -> Vec<u64> {
    let single = [
        &counters.connections,
        &counters.half_open,
        &counters.sessions_online,
        &counters.sessions_offline,
        &counters.retained_messages,
        &counters.retained_bytes,
        &counters.queued_messages,
        &counters.queued_bytes,
        &counters.outbox_depth,
    ];
    let several = counters.subscriptions.iter().chain(&counters.inflight);
    single.into_iter().chain(several).map(Count::value).collect()
}

#[test]
fn a_shard_takes_from_a_gauge_only_what_it_has_added() {
    let mut rig = Rig::new(4, Settings::default());
    let check = |rig: &Rig, after: &str| {
        for (shard, counters) in rig.node.counters.iter().enumerate() {
            let all = gauges(counters);
            assert!(all.iter().all(|gauge| *gauge < 1 << 40), "shard {shard} {after}: {all:?}");
            let open = rig.shards[shard].connections() as u64;
            assert_eq!(counters.connections.value(), open, "shard {shard} {after}");
        }
    };
    let publisher = connect(&mut rig, 3, "publisher", true);
    for round in 0..12 {
        // The same clients come back on another shard each time, now with a
        // durable session and now without, some over their living connections.
        for (n, id) in ["a", "b", "c", "d", "e", "f"].iter().enumerate() {
            let client = connect(&mut rig, (round + n) % 4, id, (round + n) % 3 == 0);
            check(&rig, "after a takeover");
            subscribe(&mut rig, client, "t/#", 2);
            check(&rig, "after a subscribe");
            if n % 2 == 0 {
                rig.abort(client);
                check(&rig, "after an abort");
            }
        }
        for qos in 0..3 {
            publish(&mut rig, publisher, "t/1", qos, 1 + qos, b"x");
            check(&rig, "after a publish");
        }
    }
    for id in ["a", "b", "c", "d", "e", "f"] {
        let client = connect(&mut rig, 0, id, true);
        rig.abort(client);
    }
    rig.abort(publisher);
    rig.advance(1_000);
    check(&rig, "at the end");
    for counters in &rig.node.counters {
        assert_eq!(gauges(counters), [0; 14]);
    }
}

/// Messages that all shards have dropped for this reason.
fn dropped(rig: &Rig, reason: DropReason) -> u64 {
    rig.node.counters.iter().map(|shard| shard.messages_dropped[reason as usize].value()).sum()
}

#[test]
fn qos_0_for_a_session_whose_client_is_away_counts_as_session_offline() {
    for shards in [1, 3] {
        let mut rig = Rig::new(shards, Settings::default());
        let alice = connect(&mut rig, 0, "alice", true);
        let away = usize::from(shards) - 1;
        let bob = connect(&mut rig, away, "bob", false);
        subscribe(&mut rig, bob, "t", 1);
        publish(&mut rig, alice, "t", 0, 0, b"x");
        assert_eq!(dropped(&rig, DropReason::SessionOffline), 0);
        rig.abort(bob);
        for id in 1..=2 {
            publish(&mut rig, alice, "t", 0, 0, b"x");
            publish(&mut rig, alice, "t", 1, id, b"kept");
        }
        assert_eq!(dropped(&rig, DropReason::SessionOffline), 2);
        let all: u64 = DropReason::ALL.iter().map(|reason| dropped(&rig, *reason)).sum();
        assert_eq!(all, 2, "each is counted once, and QoS 1 is kept");
        let bob = connect(&mut rig, away, "bob", false);
        assert_eq!(rig.packets(bob).iter().filter(|p| p[0] == 0x32).count(), 2);
    }
}

#[test]
fn qos_0_for_a_shard_that_does_not_keep_up_counts_as_peer_buffer() {
    let mut rig = Rig::new(2, Settings::default());
    let alice = connect(&mut rig, 0, "alice", true);
    // A durable session on shard 1 that has its partition on shard 0.
    let (topic, bob) = (0..100)
        .find_map(|n| {
            let bob = connect(&mut rig, 1, &format!("bob-{n}"), false);
            let topic = format!("t-{n:02}");
            subscribe(&mut rig, bob, &topic, 0);
            let here = &rig.node.counters[0].subscriptions[SubscriptionKind::Exact as usize];
            (here.value() == 1).then_some((topic, bob))
        })
        .expect("half of all ids have it there");
    rig.packets(bob);
    rig.mailbox_max = 0;
    let mut packet = vec![0x30, 7, 0, 4];
    packet.extend(topic.as_bytes());
    packet.push(b'x');
    for _ in 0..OUTBOX_MAILS_MAX + 10 {
        rig.give(alice, &packet);
        rig.turn(0);
    }
    assert_eq!(rig.shards[0].outbox_depth(), OUTBOX_MAILS_MAX);
    assert_eq!(dropped(&rig, DropReason::PeerBuffer), 10);
    rig.mailbox_max = usize::MAX;
    rig.run();
    assert_eq!(rig.packets(bob).len(), OUTBOX_MAILS_MAX, "the others arrive");
    let all: u64 = DropReason::ALL.iter().map(|reason| dropped(&rig, *reason)).sum();
    assert_eq!(all, 10);
}
