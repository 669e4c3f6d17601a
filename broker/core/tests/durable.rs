//! What is written before anybody is told, and what is there after a crash.
//! The rig's disk makes durable what the test lets it.
#![allow(missing_docs, unreachable_pub)]

mod rig;

use rig::{Client, Rig, connect, publish, subscribe};
use tidegate_core::limits::Limits;
use tidegate_core::settings::Settings;

fn kept() -> Rig {
    Rig::kept(2, Settings::default())
}

/// While `held`, nothing becomes durable; after that, everything.
fn hold(rig: &mut Rig, held: bool) {
    rig.disk.as_mut().expect("a disk").held = held;
    rig.run();
}

fn records(rig: &Rig) -> usize {
    rig.disk.as_ref().map_or(0, |disk| disk.durable.len())
}

/// The first bytes of the packets that came.
fn kinds(rig: &mut Rig, client: Client) -> Vec<u8> {
    rig.packets(client).iter().map(|packet| packet[0]).collect()
}

#[test]
fn no_answer_about_what_is_kept_leaves_before_it_is_durable() {
    let mut rig = kept();
    hold(&mut rig, true);
    let bob = connect(&mut rig, 0, "bob", false);
    assert_eq!(kinds(&mut rig, bob), [], "CONNACK of a session that is kept");
    hold(&mut rig, false);
    assert_eq!(kinds(&mut rig, bob), [0x20]);

    hold(&mut rig, true);
    subscribe(&mut rig, bob, "t", 2);
    assert_eq!(kinds(&mut rig, bob), [], "SUBACK");
    hold(&mut rig, false);
    assert_eq!(kinds(&mut rig, bob), [0x90]);

    let alice = connect(&mut rig, 1, "alice", true);
    assert_eq!(kinds(&mut rig, alice), [0x20]);
    hold(&mut rig, true);
    publish(&mut rig, alice, "t", 1, 1, b"one");
    publish(&mut rig, alice, "t", 2, 2, b"two");
    assert_eq!(kinds(&mut rig, alice), [], "PUBACK and PUBREC");
    assert_eq!(kinds(&mut rig, bob), [], "nor does the message come that may be lost");
    hold(&mut rig, false);
    assert_eq!(kinds(&mut rig, alice), [0x40, 0x50]);
    assert_eq!(kinds(&mut rig, bob), [0x32, 0x34]);

    hold(&mut rig, true);
    rig.send(bob, &[0x50, 2, 0, 2]);
    assert_eq!(kinds(&mut rig, bob), [], "PUBREL");
    hold(&mut rig, false);
    assert_eq!(kinds(&mut rig, bob), [0x62]);
}

#[test]
fn a_publisher_whose_session_is_kept_waits_for_pubrec_and_pubcomp() {
    let mut rig = kept();
    let alice = connect(&mut rig, 0, "alice", false);
    rig.packets(alice);
    hold(&mut rig, true);
    publish(&mut rig, alice, "nobody", 2, 1, b"x");
    assert_eq!(kinds(&mut rig, alice), []);
    hold(&mut rig, false);
    assert_eq!(kinds(&mut rig, alice), [0x50]);
    hold(&mut rig, true);
    rig.send(alice, &[0x62, 2, 0, 1]);
    assert_eq!(kinds(&mut rig, alice), []);
    hold(&mut rig, false);
    assert_eq!(kinds(&mut rig, alice), [0x70]);
}

#[test]
fn after_pubrec_a_later_subscription_gets_the_new_retained_message() {
    let mut rig = kept();
    let alice = connect(&mut rig, 0, "alice", false);
    rig.packets(alice);
    hold(&mut rig, true);
    rig.send(alice, &[0x35, 6, 0, 1, b't', 0, 1, b'x']);
    // One sync: the packet id. Another: the message at its topic.
    rig.sync();
    assert_eq!(kinds(&mut rig, alice), [], "nobody would get it yet");
    rig.sync();
    assert_eq!(kinds(&mut rig, alice), [0x50]);
    let bob = connect(&mut rig, 1, "bob", true);
    subscribe(&mut rig, bob, "t", 0);
    assert_eq!(kinds(&mut rig, bob), [0x20, 0x90, 0x31]);
}

#[test]
fn a_puback_waits_for_a_partition_that_is_writing_its_state() {
    let mut rig = Rig::kept(1, Settings::default());
    for n in 0..200 {
        let client = connect(&mut rig, 0, &format!("c{n}"), false);
        subscribe(&mut rig, client, "t", 1);
        rig.abort(client);
    }
    let alice = connect(&mut rig, 0, "alice", true);
    rig.packets(alice);
    // A record is on its way in each partition, so that its state has to wait.
    hold(&mut rig, true);
    publish(&mut rig, alice, "t", 1, 1, b"one");
    for partition in 0..32 {
        rig.write_state(partition);
    }
    publish(&mut rig, alice, "t", 1, 2, b"two");
    rig.sync();
    assert_eq!(rig.packets(alice), [[0x40, 2, 0, 1]], "half of the second is not written");
    rig.sync();
    assert_eq!(rig.packets(alice), [[0x40, 2, 0, 2]]);
}

#[test]
fn sessions_that_end_with_their_connection_write_nothing() {
    let mut rig = kept();
    let bob = connect(&mut rig, 0, "bob", true);
    subscribe(&mut rig, bob, "t", 2);
    let alice = connect(&mut rig, 1, "alice", true);
    for (id, qos) in [(0, 0), (1, 1), (2, 2)] {
        publish(&mut rig, alice, "t", qos, id, b"x");
    }
    rig.send(bob, &[0x40, 2, 0, 1]);
    rig.abort(alice);
    rig.abort(bob);
    assert_eq!(records(&rig), 0);
}

#[test]
fn a_message_for_many_absent_sessions_is_one_record_a_partition() {
    let mut rig = kept();
    for n in 0..500 {
        let client = connect(&mut rig, n % 2, &format!("c{n}"), false);
        subscribe(&mut rig, client, "t", 1);
        rig.abort(client);
    }
    let alice = connect(&mut rig, 0, "alice", true);
    let before = records(&rig);
    publish(&mut rig, alice, "t", 1, 1, b"x");
    assert_eq!(records(&rig) - before, 64);
}

#[test]
fn what_was_not_acknowledged_may_be_gone_and_is_taken_again() {
    for qos in [1, 2] {
        let mut rig = kept();
        let bob = connect(&mut rig, 0, "bob", false);
        subscribe(&mut rig, bob, "t", 2);
        let alice = connect(&mut rig, 1, "alice", false);
        rig.packets(alice);
        hold(&mut rig, true);
        publish(&mut rig, alice, "t", qos, 7, b"x");
        rig.crash(2, 0);
        hold(&mut rig, false);
        let alice = connect(&mut rig, 0, "alice", false);
        assert_eq!(rig.packets(alice), [vec![0x20, 2, 1, 0]]);
        rig.send(alice, &[0x38 | qos << 1, 6, 0, 1, b't', 0, 7, b'x']);
        let answer = if qos == 1 { 0x40 } else { 0x50 };
        assert_eq!(kinds(&mut rig, alice), [answer]);
        let bob = connect(&mut rig, 1, "bob", false);
        assert_eq!(kinds(&mut rig, bob), [0x20, 0x30 | qos << 1]);
    }
}

#[test]
fn a_qos2_publish_that_was_committed_is_delivered_once_however_often_it_is_sent() {
    let mut rig = kept();
    let bob = connect(&mut rig, 0, "bob", false);
    subscribe(&mut rig, bob, "t", 2);
    let alice = connect(&mut rig, 1, "alice", false);
    publish(&mut rig, alice, "t", 2, 7, b"x");
    for shards in [1, 3, 2] {
        rig.crash(shards, 1_000);
        let alice = connect(&mut rig, 0, "alice", false);
        rig.send(alice, &[0x3c, 6, 0, 1, b't', 0, 7, b'x']);
        assert_eq!(kinds(&mut rig, alice), [0x20, 0x50]);
    }
    let bob = connect(&mut rig, 0, "bob", false);
    assert_eq!(kinds(&mut rig, bob), [0x20, 0x3c], "once; it may have been sent before");
}

#[test]
fn an_acknowledgement_that_was_lost_is_asked_for_under_the_same_id() {
    let mut rig = kept();
    let bob = connect(&mut rig, 0, "bob", false);
    subscribe(&mut rig, bob, "t", 2);
    let alice = connect(&mut rig, 1, "alice", true);
    publish(&mut rig, alice, "t", 1, 1, b"one");
    publish(&mut rig, alice, "t", 2, 2, b"two");
    publish(&mut rig, alice, "t", 1, 3, b"three");
    rig.send(bob, &[0x50, 2, 0, 2]);
    rig.packets(bob);
    // Acknowledged, and the node ends before that is on the disk.
    hold(&mut rig, true);
    rig.send(bob, &[0x40, 2, 0, 1, 0x70, 2, 0, 2, 0x40, 2, 0, 3]);
    rig.crash(1, 0);
    hold(&mut rig, false);
    let bob = connect(&mut rig, 0, "bob", false);
    let again: Vec<_> = rig.packets(bob).into_iter().skip(1).collect();
    let ids: Vec<_> =
        again.iter().map(|p| (p[0], if p[0] == 0x62 { p[3] } else { p[6] })).collect();
    assert_eq!(ids, [(0x3a, 1), (0x62, 2), (0x3a, 3)], "DUP, the ids and the order of before");
    rig.send(bob, &[0x40, 2, 0, 1, 0x70, 2, 0, 2, 0x40, 2, 0, 3]);
    // A new message has a new id, never one that was owed.
    let alice = connect(&mut rig, 0, "alice", true);
    publish(&mut rig, alice, "t", 2, 1, b"four");
    assert_eq!(rig.packets(bob)[0][5..7], [0, 4]);
}

#[test]
fn retained_messages_and_their_absence_outlive_the_node() {
    let mut rig = kept();
    let alice = connect(&mut rig, 0, "alice", true);
    for topic in ["a", "b", "c"] {
        rig.send(alice, &[0x33, 6, 0, 1, topic.as_bytes()[0], 0, 1, b'1']);
    }
    rig.send(alice, &[0x33, 6, 0, 1, b'a', 0, 2, b'2']);
    rig.send(alice, &[0x33, 5, 0, 1, b'b', 0, 3]);
    for compact in [false, true] {
        if compact {
            rig.compact();
        }
        rig.crash(3, 0);
        let bob = connect(&mut rig, 0, "bob", true);
        subscribe(&mut rig, bob, "#", 0);
        let mut got: Vec<_> = rig.packets(bob).into_iter().filter(|p| p[0] == 0x31).collect();
        got.sort();
        assert_eq!(got, [[0x31, 4, 0, 1, b'a', b'2'], [0x31, 4, 0, 1, b'c', b'1']]);
    }
}

#[test]
fn a_session_and_a_message_expire_while_the_node_is_away() {
    let mut rig = kept();
    let session = |rig: &mut Rig, id: u8, expiry: u8| {
        let client = rig.open(0);
        let connect = [
            0x10, 19, 0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 0, 5, 0x11, 0, 0, 0, expiry, 0, 1, id,
        ];
        rig.send(client, &connect);
        rig.packets(client)[0][2]
    };
    assert_eq!(session(&mut rig, b'x', 10), 0);
    assert_eq!(session(&mut rig, b'y', 200), 0);
    rig.crash(2, 60_000);
    assert_eq!(session(&mut rig, b'y', 200), 1, "its time is not over");
    // The connection of `x` ended with the node: its ten seconds begin there.
    rig.advance(11_000);
    assert_eq!(session(&mut rig, b'x', 10), 0, "its time is over");
}

#[test]
fn the_state_of_what_was_read_back_is_the_state_that_was_written() {
    let limits = Limits { inflight_out_max: 2, ..Limits::default() };
    let mut rig = Rig::kept(2, Settings { limits, ..Settings::default() });
    let alice = connect(&mut rig, 0, "alice", false);
    for n in 0..40u8 {
        let client = connect(&mut rig, usize::from(n % 2), &format!("c{n}"), false);
        subscribe(&mut rig, client, if n % 3 == 0 { "+/#" } else { "t/a" }, n % 3);
        publish(&mut rig, alice, "t/a", n % 3, n + 1, b"message");
        if n % 4 == 0 {
            rig.send(client, &[0x50, 2, 0, 1]);
        }
        rig.abort(client);
    }
    rig.abort(alice);
    let mut states = Vec::new();
    for shards in [2, 1, 3] {
        for partition in 0..64 {
            rig.write_state(partition);
        }
        let disk = rig.disk.as_ref().expect("a disk");
        let pieces = disk.durable.iter().enumerate().filter_map(|(at, record)| {
            let (entry, body) = record.as_ref()?;
            let (begin, _) = disk.states.get(&entry.partition)?;
            (entry.state && at >= *begin).then(|| (entry.partition, body.clone()))
        });
        let mut pieces: Vec<_> = pieces.collect();
        pieces.sort();
        states.push(pieces);
        rig.crash(shards, 0);
    }
    assert!(states[0].iter().map(|(_, body)| body.len()).sum::<usize>() > 2_000);
    assert_eq!(states[0], states[1]);
    assert_eq!(states[1], states[2]);
}

#[test]
fn bytes_that_are_no_record_are_refused_and_never_more() {
    let mut rig = kept();
    let alice = connect(&mut rig, 0, "alice", false);
    let bob = connect(&mut rig, 1, "bob", false);
    subscribe(&mut rig, bob, "$share/g/t", 1);
    subscribe(&mut rig, bob, "+", 2);
    for (id, qos) in [(1, 1), (2, 2), (3, 1)] {
        publish(&mut rig, alice, "t", qos, id, b"message");
    }
    rig.send(bob, &[0x40, 2, 0, 1]);
    rig.send(alice, &[0x33, 6, 0, 1, b't', 0, 9, b'r']);
    rig.abort(bob);
    for partition in 0..64 {
        rig.write_state(partition);
    }
    let records = rig.disk.take().expect("a disk").durable;
    let mut refused = 0;
    let mut random = 1u64;
    for record in records.iter().flatten() {
        for _ in 0..12 {
            let mut fresh = kept();
            let (entry, mut body) = record.clone();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 33) as usize % body.len();
            match random % 3 {
                0 => body.truncate(at),
                1 => body[at] ^= 1 << (random >> 61),
                _ => body[at] = 0xff,
            }
            let shard = &mut fresh.shards[usize::from(entry.partition) % 2];
            let outcome = match entry.state {
                true => shard.restore(0, entry.partition, 9, &body).map(|_| 0),
                false => shard.replay(0, entry.partition, entry.index, 4_096, &body),
            };
            refused += usize::from(outcome.is_err());
        }
    }
    assert!(refused > records.len() * 3, "{refused}");
}

#[test]
fn what_was_sent_behind_lost_acknowledgements_is_marked_when_it_comes_again() {
    let limits = Limits { inflight_out_max: 1, ..Limits::default() };
    let mut rig = Rig::kept(1, Settings { limits, ..Settings::default() });
    let bob = connect(&mut rig, 0, "bob", false);
    subscribe(&mut rig, bob, "t", 1);
    let alice = connect(&mut rig, 0, "alice", true);
    for id in 1..=3 {
        publish(&mut rig, alice, "t", 1, id, b"m");
    }
    rig.packets(bob);
    hold(&mut rig, true);
    for id in 1..=2 {
        rig.send(bob, &[0x40, 2, 0, id]);
    }
    assert_eq!(kinds(&mut rig, bob), [0x32, 0x32], "the window moved on");
    rig.crash(1, 0);
    let bob = connect(&mut rig, 0, "bob", false);
    hold(&mut rig, false);
    for id in 1..=3 {
        rig.send(bob, &[0x40, 2, 0, id]);
    }
    assert_eq!(kinds(&mut rig, bob), [0x20, 0x3a, 0x3a, 0x3a], "DUP [MQTT-3.3.1-1]");
}
