//! Full mailboxes, long fan-outs, long replays: nobody waits for ever, nothing
//! is lost, order holds (ORD-1).
#![allow(missing_docs)]

mod rig;

use rig::{Rig, connect, subscribe};
use tidegate_core::limits::{Limits, OUTBOX_MAILS_MAX};
use tidegate_core::settings::Settings;

#[test]
fn two_shards_that_flood_each_other_lose_nothing_and_go_on() {
    let limits = Limits {
        queue_messages_max: 1_000_000,
        queue_bytes_max: 1 << 40,
        inflight_out_max: u16::MAX,
        ..Limits::default()
    };
    let mut rig = Rig::new(2, Settings { limits, ..Settings::default() });
    rig.mailbox_max = 2;
    let clients: Vec<_> = (0..2)
        .map(|shard| {
            let publisher = connect(&mut rig, shard, &format!("pub-{shard}"), true);
            let subscriber = connect(&mut rig, shard, &format!("sub-{shard}"), true);
            subscribe(&mut rig, subscriber, &format!("{}", 1 - shard), 1);
            rig.packets(publisher);
            rig.packets(subscriber);
            (publisher, subscriber)
        })
        .collect();
    // Far more than an outbox takes, both ways, before any mail is carried.
    let n = OUTBOX_MAILS_MAX as u32 * 3;
    for (shard, &(publisher, _)) in clients.iter().enumerate() {
        let mut bytes = Vec::new();
        for at in 0..n {
            let id = (at % 65_535 + 1) as u16;
            bytes.extend([0x32, 9, 0, 1, b'0' + shard as u8]);
            bytes.extend(id.to_be_bytes());
            bytes.extend(at.to_be_bytes());
        }
        rig.give(publisher, &bytes);
    }
    assert!(
        (0..2).all(|shard| rig.node.counters[shard].mailbox_pauses.value() > 0),
        "the publishers were paused"
    );
    assert!(rig.shards.iter().all(|shard| shard.outbox_depth() <= OUTBOX_MAILS_MAX + 1));
    rig.run();
    for (publisher, subscriber) in clients {
        assert_eq!(rig.packets(publisher).len() as u32, n, "every publish is acknowledged");
        let got: Vec<u32> = rig
            .packets(subscriber)
            .iter()
            .map(|p| u32::from_be_bytes(p[p.len() - 4..].try_into().expect("four bytes")))
            .collect();
        assert!(got.iter().copied().eq(0..n), "all, in order");
    }
}

#[test]
fn a_long_fan_out_keeps_a_publishers_messages_in_order() {
    let mut rig = Rig::new(2, Settings::default());
    let many: Vec<_> = (0..3_000)
        .map(|n| {
            let client = connect(&mut rig, n % 2, &format!("many-{n}"), true);
            subscribe(&mut rig, client, "all", 0);
            client
        })
        .collect();
    let alice = connect(&mut rig, 0, "alice", true);
    let bob = connect(&mut rig, 0, "bob", true);
    rig.send(
        alice,
        &[0x30, 6, 0, 3, b'a', b'l', b'l', b'1', 0x30, 6, 0, 3, b'a', b'l', b'l', b'2'],
    );
    rig.send(bob, &[0xc0, 0]);
    for client in many {
        let got: Vec<u8> = rig
            .packets(client)
            .iter()
            .filter(|p| p[0] == 0x30)
            .filter_map(|p| p.last().copied())
            .collect();
        assert_eq!(got, b"12");
    }
}

#[test]
fn a_replay_of_many_retained_messages_is_paced_by_window_and_socket() {
    for (shards, clean, qos) in [(1, true, 1), (3, true, 0), (3, false, 1), (1, false, 0)] {
        let limits = Limits { queue_messages_max: 100, ..Limits::default() };
        let mut rig = Rig::new(shards, Settings { limits, ..Settings::default() });
        let alice = connect(&mut rig, 0, "alice", true);
        for n in 0..5_000u32 {
            let topic = format!("r/{n:05}");
            let mut packet = vec![0x33, 11, 0, 7];
            packet.extend(topic.bytes());
            packet.extend([0, 1]);
            rig.send(alice, &packet[..]);
            rig.packets(alice);
        }
        // An empty payload clears, so these were not retained; now with one.
        for n in 0..5_000u32 {
            let topic = format!("r/{n:05}");
            let mut packet = vec![0x33, 12, 0, 7];
            packet.extend(topic.bytes());
            packet.extend([0, 1, b'v']);
            rig.send(alice, &packet);
            rig.packets(alice);
        }
        let bob = connect(&mut rig, usize::from(shards) - 1, "bob", clean);
        rig.set_room(bob, 2_000);
        subscribe(&mut rig, bob, "r/#", qos);
        let mut got = 0;
        for _ in 0..10_000 {
            let packets = rig.packets(bob);
            let mut acks = Vec::new();
            for packet in packets.iter().filter(|p| p[0] & 0xf1 == 0x31) {
                got += 1;
                if packet[0] & 6 != 0 {
                    acks.extend([0x40, 2, packet[11], packet[12]]);
                }
            }
            if got == 5_000 {
                break;
            }
            rig.send(bob, &acks);
            rig.set_room(bob, 2_000);
        }
        assert_eq!(got, 5_000, "{shards} shards, clean {clean}, QoS {qos}");
        let dropped: u64 =
            rig.node.counters.iter().flat_map(|c| &c.messages_dropped).map(|c| c.value()).sum();
        let live = 10_000; // nobody was subscribed while they were published
        assert_eq!(dropped, live, "nothing was dropped on the way");
    }
}

#[test]
fn what_is_published_after_the_suback_comes_behind_the_retained() {
    // The retained value is on one shard, its reader on another, and the mail
    // between them is slow.
    for (clean, qos) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
        for n in 0..20 {
            let mut rig = Rig::new(3, Settings::default());
            let alice = connect(&mut rig, 0, "alice", true);
            let topic = format!("t{n:02}");
            let mut kept = vec![0x31, 6, 0, 3];
            kept.extend(topic.bytes());
            kept.push(b'k');
            rig.send(alice, &kept);
            let bob = connect(&mut rig, 1, "bob", clean);
            rig.packets(bob);
            let mut packet = vec![0x82, 8, 0, 1, 0, 3];
            packet.extend(topic.bytes());
            packet.push(qos);
            rig.give(bob, &packet);
            // Turns of bob's shard and of his partition's, until the SUBACK.
            let mut got = Vec::new();
            for _ in 0..10 {
                rig.turn(1);
                got.extend(rig.packets(bob));
                if !got.is_empty() {
                    break;
                }
                rig.turn(0);
                rig.turn(2);
            }
            assert_eq!(got[0][0], 0x90, "the SUBACK first");
            kept[0] = 0x30;
            *kept.last_mut().expect("a payload") = b'l';
            rig.give(alice, &kept);
            rig.turn(0);
            rig.turn(1);
            rig.run();
            got.extend(rig.packets(bob));
            let payloads: Vec<u8> = got[1..].iter().filter_map(|p| p.last().copied()).collect();
            assert_eq!(payloads, b"kl", "clean {clean}, QoS {qos}, {topic}");
        }
    }
}

#[test]
fn a_retained_publish_after_the_suback_comes_once() {
    for (clean, qos) in [(true, 0), (true, 1), (false, 0), (false, 1)] {
        for n in 0..20 {
            let mut rig = Rig::new(3, Settings::default());
            let topic = format!("t{n:02}");
            let bob = connect(&mut rig, 1, "bob", clean);
            rig.packets(bob);
            let mut packet = vec![0x82, 8, 0, 1, 0, 3];
            packet.extend(topic.bytes());
            packet.push(qos);
            rig.give(bob, &packet);
            let mut got = Vec::new();
            for _ in 0..10 {
                rig.turn(1);
                got.extend(rig.packets(bob));
                if !got.is_empty() {
                    break;
                }
                rig.turn(0);
                rig.turn(2);
            }
            let mut kept = vec![0x33, 8, 0, 3];
            kept.extend(topic.bytes());
            kept.extend([0, 1, b'k']);
            rig.give(bob, &kept);
            rig.run();
            got.extend(rig.packets(bob));
            let publishes: Vec<u8> = got.iter().map(|p| p[0]).filter(|f| f >> 4 == 3).collect();
            assert_eq!(publishes, [0x30 | qos << 1], "live, once: clean {clean}, {topic}");
        }
    }
}

#[test]
fn a_connect_that_was_overtaken_on_its_way_ends_neither_the_newer_nor_its_session() {
    let mut rig = Rig::new(2, Settings::default());
    let home = rig.node.place(rig.node.partition_of_client("alice")).index();
    let first = rig::connect(&mut rig, home, "alice", false);
    rig.packets(first);
    rig.abort(first);

    rig.held = true;
    let older = rig::connect(&mut rig, 1 - home, "alice", true);
    let newer = rig::connect(&mut rig, home, "alice", false);
    rig.held = false;
    rig.run();
    assert_eq!(rig.packets(newer), [[0x20, 2, 1, 0]], "its session is there");
    assert!(rig.is_open(newer));
    assert_eq!(rig.packets(older), [[0x20, 2, 0, 3]]);
    assert!(!rig.is_open(older));
}
