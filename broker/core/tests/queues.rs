//! Queues that are full: one, or all of a node; and what a start makes of them.
#![allow(missing_docs)]

mod rig;

use rig::{Client, Rig, connect, connect_v5, publish, subscribe};
use tidegate_codec::Version;
use tidegate_core::counters::DropReason;
use tidegate_core::limits::{Limits, QueuePolicy};
use tidegate_core::settings::Settings;

fn settings(limits: Limits) -> Settings {
    Settings { limits, ..Settings::default() }
}

fn dropped(rig: &Rig, reason: DropReason) -> u64 {
    let of = rig.node.counters.iter().map(|c| c.messages_dropped[reason as usize].value());
    of.sum()
}

/// A durable session that takes one topic and is away.
fn absent(rig: &mut Rig, id: &str, topic: &str) {
    let client = connect(rig, 0, id, false);
    subscribe(rig, client, topic, 2);
    rig.abort(client);
}

fn publisher(rig: &mut Rig, shard: usize) -> Client {
    let client = connect_v5(rig, shard, "publisher", true, 0);
    rig.speaks(client, Version::V5);
    rig.packets(client);
    client
}

/// A short PUBLISH of 5.0, its answer.
fn tell(rig: &mut Rig, client: Client, topic: &str, qos: u8, id: u8, payload: u8) -> Vec<Vec<u8>> {
    let mut packet = vec![0x30 | qos << 1, 0, 0, topic.len() as u8];
    packet.extend(topic.as_bytes());
    packet.extend([0, id, 0, payload]);
    packet[1] = packet.len() as u8 - 2;
    rig.send(client, &packet);
    rig.packets(client)
}

/// The payloads of what a client gets when it comes back, which it acknowledges.
fn fetches(rig: &mut Rig, id: &str) -> Vec<u8> {
    let client = connect(rig, 0, id, false);
    let mut payloads = Vec::new();
    loop {
        let packets = rig.packets(client);
        let publishes: Vec<_> = packets.iter().filter(|p| p[0] >> 4 == 3).collect();
        if publishes.is_empty() {
            rig.abort(client);
            return payloads;
        }
        for packet in publishes {
            payloads.push(*packet.last().expect("a payload"));
            let topic = usize::from(packet[3]);
            let id = [packet[4 + topic], packet[5 + topic]];
            match packet[0] >> 1 & 3 {
                1 => rig.send(client, &[0x40, 2, id[0], id[1]]),
                _ => {
                    rig.send(client, &[0x50, 2, id[0], id[1]]);
                    rig.send(client, &[0x70, 2, id[0], id[1]]);
                }
            }
        }
    }
}

#[test]
fn a_publisher_is_refused_for_a_queue_that_is_full_and_nobody_gets_that_message() {
    for shards in [1, 3] {
        let limits = Limits {
            queue_messages_max: 2,
            queue_policy: QueuePolicy::Refuse,
            ..Limits::default()
        };
        let mut rig = Rig::kept(shards, settings(limits));
        absent(&mut rig, "away", "t");
        let there = connect(&mut rig, 0, "there", false);
        subscribe(&mut rig, there, "t", 1);
        rig.packets(there);
        let newer = publisher(&mut rig, usize::from(shards) - 1);
        for id in [1, 2] {
            assert_eq!(tell(&mut rig, newer, "t", 1, id, id), [[0x40, 2, 0, id]]);
        }
        assert_eq!(rig.packets(there).len(), 2);
        rig.send(there, &[0x40, 2, 0, 1, 0x40, 2, 0, 2]);

        assert_eq!(tell(&mut rig, newer, "t", 1, 3, 3), [[0x40, 3, 0, 3, 0x97]]);
        assert_eq!(tell(&mut rig, newer, "t", 2, 4, 4), [[0x50, 3, 0, 4, 0x97]]);
        let older = connect(&mut rig, 0, "older", false);
        rig.packets(older);
        publish(&mut rig, older, "t", 2, 9, &[5]);
        assert_eq!(rig.packets(older).len(), 0, "before 5.0 nothing could be said");
        assert!(!rig.is_open(older), "the client has the message, and tries again");
        assert_eq!(rig.packets(there).len(), 0, "all or nobody");
        assert_eq!(dropped(&rig, DropReason::QueueRefused), 3);
        assert_eq!(dropped(&rig, DropReason::QueueFull), 0);
        // Other topics, and QoS 0.
        assert_eq!(tell(&mut rig, newer, "u", 1, 5, 5), [[0x40, 3, 0, 5, 0x10]]);
        rig.send(newer, b"\x30\x05\x00\x01t\x00q");
        assert_eq!(rig.packets(there).len(), 1);

        // The same after a start.
        rig.crash(shards, 0);
        let newer = publisher(&mut rig, 0);
        assert_eq!(tell(&mut rig, newer, "t", 1, 6, 6), [[0x40, 3, 0, 6, 0x97]]);
        assert_eq!(fetches(&mut rig, "away"), [1, 2]);
        assert_eq!(tell(&mut rig, newer, "t", 1, 7, 7), [[0x40, 2, 0, 7]]);
        assert_eq!(fetches(&mut rig, "away"), [7]);
    }
}

#[test]
fn what_was_accepted_before_a_queue_was_known_to_be_full_is_kept() {
    let limits =
        Limits { queue_messages_max: 2, queue_policy: QueuePolicy::Refuse, ..Limits::default() };
    let mut rig = Rig::kept(1, settings(limits));
    absent(&mut rig, "away", "t");
    let newer = publisher(&mut rig, 0);
    rig.disk.as_mut().expect("kept").held = true;
    for id in 1..=5 {
        assert!(tell(&mut rig, newer, "t", 1, id, id).is_empty(), "nothing is durable yet");
    }
    rig.disk.as_mut().expect("kept").held = false;
    rig.run();
    assert_eq!(rig.packets(newer).len(), 5, "all were accepted");
    assert_eq!(dropped(&rig, DropReason::QueueFull), 1, "of one the drop is counted");
    assert_eq!(fetches(&mut rig, "away"), [1, 2, 3, 4]);
}

#[test]
fn a_session_that_ends_is_not_in_the_way_any_more() {
    let limits =
        Limits { queue_messages_max: 1, queue_policy: QueuePolicy::Refuse, ..Limits::default() };
    let mut rig = Rig::kept(2, settings(limits));
    absent(&mut rig, "away", "t");
    let newer = publisher(&mut rig, 0);
    tell(&mut rig, newer, "t", 1, 1, 1);
    assert_eq!(tell(&mut rig, newer, "t", 1, 2, 2), [[0x40, 3, 0, 2, 0x97]]);
    let clean = connect(&mut rig, 0, "away", true);
    subscribe(&mut rig, clean, "t", 1);
    assert_eq!(tell(&mut rig, newer, "t", 1, 3, 3), [[0x40, 2, 0, 3]]);
}

#[test]
fn when_the_queues_of_the_node_are_full_none_becomes_longer() {
    for shards in [1, 3] {
        for (policy, first, second) in [
            (QueuePolicy::DropOldest, vec![2, 3, 7], vec![]),
            (QueuePolicy::DropNew, vec![1, 2, 3], vec![]),
        ] {
            let limits =
                Limits { queue_node_messages_max: 3, queue_policy: policy, ..Limits::default() };
            let mut rig = Rig::kept(shards, settings(limits));
            absent(&mut rig, "first", "t");
            absent(&mut rig, "second", "u");
            let there = connect(&mut rig, 0, "there", false);
            subscribe(&mut rig, there, "u", 1);
            rig.packets(there);
            let newer = publisher(&mut rig, 0);
            for id in [1, 2, 3] {
                tell(&mut rig, newer, "t", 1, id, id);
                rig.advance(1);
            }
            assert_eq!(tell(&mut rig, newer, "u", 1, 5, 5), [[0x40, 2, 0, 5]]);
            tell(&mut rig, newer, "t", 1, 7, 7);
            assert_eq!(dropped(&rig, DropReason::QueueNodeFull), 2, "{policy:?}");
            assert_eq!(rig.packets(there).len(), 1, "who takes what it gets is served");
            for _ in 0..2 {
                rig.crash(shards, 0); // a start decides nothing anew
            }
            assert_eq!(fetches(&mut rig, "first"), first, "{policy:?}");
            assert_eq!(fetches(&mut rig, "second"), second, "{policy:?}");
        }
    }
}

#[test]
fn when_the_queues_of_the_node_are_full_publishers_are_refused() {
    let limits =
        Limits { queue_node_bytes_max: 6, queue_policy: QueuePolicy::Refuse, ..Limits::default() };
    let mut rig = Rig::kept(1, settings(limits));
    absent(&mut rig, "first", "t");
    absent(&mut rig, "second", "u");
    let newer = publisher(&mut rig, 0);
    let mut id = 0;
    while tell(&mut rig, newer, "t", 1, id + 1, id)[0].len() == 4 {
        id += 1;
    }
    assert!((1..=6).contains(&id), "{id} messages within six bytes");
    assert_eq!(tell(&mut rig, newer, "u", 2, 90, 90), [[0x50, 3, 0, 90, 0x97]]);
    assert_eq!(dropped(&rig, DropReason::QueueNodeFull), 2);
    assert_eq!(fetches(&mut rig, "first").len(), usize::from(id));
    assert_eq!(tell(&mut rig, newer, "u", 1, 91, 91), [[0x40, 2, 0, 91]]);
}

#[test]
fn what_was_in_flight_beside_a_full_queue_survives_a_crash() {
    let limits = Limits { queue_messages_max: 3, inflight_out_max: 4, ..Limits::default() };
    for state in [false, true] {
        let mut rig = Rig::kept(1, settings(limits.clone()));
        let reader = connect(&mut rig, 0, "reader", false);
        subscribe(&mut rig, reader, "t", 1);
        let newer = publisher(&mut rig, 0);
        for id in 1..=8 {
            tell(&mut rig, newer, "t", 1, id, id);
        }
        // Four are in flight, the fifth gave way, three wait.
        assert_eq!(dropped(&rig, DropReason::QueueFull), 1);
        if state {
            (0..64).for_each(|partition| rig.write_state(partition));
        }
        rig.crash(1, 0);
        assert_eq!(fetches(&mut rig, "reader"), [1, 2, 3, 4, 6, 7, 8]);
    }
}
