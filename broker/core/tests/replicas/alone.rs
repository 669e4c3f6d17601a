//! A node that was alone becomes the first of a cluster, with what it has kept.

use tidegate_core::settings::Settings;

use crate::cluster::{Cluster, publish, publish_large};
use crate::rig::{self, Rig, connect, subscribe};

const CONNACK_PRESENT: [u8; 4] = [0x20, 2, 1, 0];

fn alone() -> Rig {
    Rig::kept(2, Settings::default())
}

/// All that it keeps is at the three nodes; the first leads, and then it is
/// killed and the last one does.
fn grown(rig: &Rig) -> Cluster {
    let mut cluster = Cluster::of_alone(rig, 3, 2, &Settings::default());
    cluster.elect_all(0, || 0);
    for p in 0..64 {
        cluster.compact(p); // the images of all three are the same
    }
    cluster.kill(0);
    cluster.elect_all(2, || 0);
    cluster
}

/// First byte, packet id and payload of PUBLISHes to a topic of one letter.
fn messages(packets: &[Vec<u8>]) -> Vec<(u8, u8, String)> {
    let message = |p: &Vec<u8>| (p[0], p[6], String::from_utf8_lossy(&p[7..]).into_owned());
    packets.iter().filter(|p| p[0] & 0xf0 == 0x30).map(message).collect()
}

#[test]
fn sessions_queues_and_exchanges_of_a_node_that_was_alone_are_at_every_node() {
    for states in [false, true] {
        let mut alone = alone();
        let bob = connect(&mut alone, 0, "bob", false);
        subscribe(&mut alone, bob, "t", 2);
        let alice = connect(&mut alone, 1, "alice", false);
        // In flight to bob: one with PUBREC, one without; in flight from alice.
        alone.send(alice, &publish("t", 2, false, 1, b"one"));
        alone.send(alice, &[0x62, 2, 0, 1]);
        alone.send(bob, &[0x50, 2, 0, 1]);
        alone.send(alice, &publish("t", 2, false, 2, b"two"));
        let got = alone.packets(bob);
        assert_eq!(got.iter().filter(|p| p[0] == 0x34).count(), 2, "{got:x?}");
        alone.abort(bob);
        alone.send(alice, &publish("t", 1, false, 3, b"three"));
        alone.send(alice, &publish("t", 2, false, 4, b"four"));
        assert_eq!(alone.packets(alice).last(), Some(&vec![0x50, 2, 0, 4]));
        if states {
            alone.compact();
            alone.send(alice, &publish("t", 1, false, 5, b"five"));
        }

        let mut cluster = grown(&alone);
        let bob = cluster.connect(1, "bob", false);
        let came = cluster.packets(1, bob);
        assert_eq!(came[0], CONNACK_PRESENT);
        let mut wanted = vec![
            (0x3c, 2, "two".to_owned()),
            (0x3a, 3, "three".to_owned()),
            (0x3c, 4, "four".to_owned()),
        ];
        if states {
            wanted.push((0x3a, 5, "five".to_owned()));
        }
        let plain = |m: Vec<(u8, u8, String)>| {
            m.into_iter().map(|(first, id, text)| (first & !8, id, text)).collect::<Vec<_>>()
        };
        assert_eq!(plain(messages(&came)), plain(wanted), "{came:x?}");
        assert_eq!(came.iter().find(|p| p[0] == 0x62), Some(&vec![0x62, 2, 0, 1]));
        assert_eq!(messages(&came)[0].0, 0x3c, "what was sent before has DUP");

        // The ids that alice has open are known, and what she sends again is the same.
        let alice = cluster.connect(2, "alice", false);
        assert_eq!(cluster.packets(2, alice), [CONNACK_PRESENT]);
        let mut again = publish("t", 2, false, 4, b"four");
        again[0] |= 8;
        cluster.send(2, alice, &again);
        for id in [2, 4] {
            cluster.send(2, alice, &[0x62, 2, 0, id]);
        }
        assert_eq!(
            cluster.packets(2, alice),
            [[0x50, 2, 0, 4], [0x70, 2, 0, 2], [0x70, 2, 0, 4]],
            "no second message"
        );
        assert_eq!(messages(&cluster.packets(1, bob)), []);
        // And what is new has the next id.
        cluster.send(2, alice, &publish("t", 1, false, 9, b"new"));
        for id in [2, 4] {
            cluster.send(1, bob, &[0x50, 2, 0, id]);
        }
        let next = if states { 6 } else { 5 };
        assert_eq!(messages(&cluster.packets(1, bob)), [(0x32, next, "new".to_owned())]);
    }
}

#[test]
fn retained_messages_share_groups_and_wills_that_are_due_come_along() {
    let mut alone = alone();
    let alice = connect(&mut alone, 0, "alice", true);
    alone.send(alice, &publish("r", 1, true, 1, b"kept"));
    alone.send(alice, &publish("gone", 1, true, 2, b"x"));
    alone.send(alice, &publish("gone", 1, true, 3, b""));
    for member in ["m1", "m2"] {
        let client = connect(&mut alone, 1, member, false);
        subscribe(&mut alone, client, "$share/g/s", 1);
        alone.abort(client);
    }
    for id in 4..10 {
        alone.send(alice, &publish("s", 1, false, id, &[b'0' + id as u8]));
    }
    let watcher = connect(&mut alone, 0, "watcher", false);
    subscribe(&mut alone, watcher, "w", 1);
    alone.abort(watcher);
    // Its connection ends with the process: the will is due.
    let willing = alone.open(1);
    alone.send(willing, b"\x10\x14\x00\x04MQTT\x04\x0c\x00\x3c\x00\x02wi\x00\x01w\x00\x01!");
    assert_eq!(alone.packets(willing), [[0x20, 2, 0, 0]]);

    let mut cluster = grown(&alone);
    cluster.advance(10_000);
    let reader = cluster.connect(1, "reader", true);
    cluster.subscribe(1, reader, "r", 1);
    cluster.subscribe(1, reader, "gone", 1);
    let got: Vec<_> = messages(&cluster.packets(1, reader)).into_iter().map(|m| m.2).collect();
    assert_eq!(got, ["kept"]);

    let mut shared = Vec::new();
    for member in ["m1", "m2"] {
        let client = cluster.connect(2, member, false);
        let came = cluster.packets(2, client);
        assert_eq!(came[0][2], 1, "session present: {came:x?}");
        shared.extend(came.iter().filter(|p| p[0] & 0xf0 == 0x30).map(|p| p[p.len() - 1]));
    }
    shared.sort_unstable();
    assert_eq!(shared, b"456789", "each to one of them");

    let watcher = cluster.connect(1, "watcher", false);
    let wills = messages(&cluster.packets(1, watcher));
    assert_eq!(wills.iter().filter(|m| m.2 == "!").count(), 1, "once: {wills:?}");
}

#[test]
fn what_a_node_alone_keeps_is_counted_and_a_message_of_many_is_one() {
    let mut alone = alone();
    assert!(alone.images_alone().1.is_nothing());
    for n in 0..300 {
        let client = connect(&mut alone, 0, &format!("c{n}"), false);
        subscribe(&mut alone, client, "t", 1);
        alone.abort(client);
    }
    let alice = connect(&mut alone, 1, "alice", true);
    alone.send(alice, &publish_large("t", 1, 100_000));
    alone.send(alice, &publish("r", 1, true, 2, b"x"));
    let (images, keeps) = alone.images_alone();
    assert_eq!((keeps.sessions, keeps.messages, keeps.retained), (300, 300, 1));
    assert!(keeps.bytes >= 300 * 100_000 && !keeps.is_nothing(), "{keeps:?}");
    let sizes: Vec<_> = images.iter().map(|image| alone.written(image).len()).collect();
    let bytes: usize = sizes.iter().sum();
    assert!(bytes < 64 * 110_000, "{bytes}: once a partition");
    let records: Vec<_> = images.iter().map(|image| image.records.len()).collect();
    assert!(records.iter().all(|&n| n <= 1), "{records:?}: not one a session");
    alone.crash(1, 0);
    let again = alone.images_alone().0;
    assert_eq!(again.len(), sizes.len());
    let client = rig::connect(&mut alone, 0, "c7", false);
    assert!(alone.packets(client).len() > 1, "and nothing has changed for it");
}
