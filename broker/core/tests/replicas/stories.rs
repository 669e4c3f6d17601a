//! Stories of leaders that come and go.

use tidegate_core::ids::PartitionId;
use tidegate_core::settings::Settings;

use crate::cluster::{Cluster, publish, publish_large};

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
const CONNACK_PRESENT: [u8; 4] = [0x20, 2, 1, 0];

fn three() -> Cluster {
    let mut cluster = Cluster::new(3, 2, &Settings::default());
    cluster.elect_all(0, || 0);
    cluster
}

#[test]
fn what_was_acknowledged_outlives_its_leader() {
    let mut cluster = three();
    let bob = cluster.connect(1, "bob", false);
    assert_eq!(cluster.packets(1, bob), [CONNACK]);
    cluster.subscribe(1, bob, "t", 2);
    assert_eq!(cluster.packets(1, bob), [[0x90, 3, 0, 1, 2]]);
    cluster.abort(1, bob);
    let alice = cluster.connect(0, "alice", true);
    cluster.packets(0, alice);
    cluster.send(0, alice, &publish("t", 1, false, 1, b"one"));
    cluster.send(0, alice, &publish("t", 2, true, 2, b"two"));
    assert_eq!(cluster.packets(0, alice), [[0x40, 2, 0, 1], [0x50, 2, 0, 2]]);
    cluster.held = true;
    cluster.send(0, alice, &publish("t", 1, false, 3, b"three"));
    assert_eq!(cluster.packets(0, alice), [[0u8; 0]; 0], "not committed");
    cluster.kill(0);
    cluster.held = false;
    cluster.elect_all(2, || 0);
    let bob = cluster.connect(1, "bob", false);
    let came = cluster.packets(1, bob);
    assert_eq!(came[0], CONNACK_PRESENT);
    let payloads: Vec<_> = came[1..].iter().map(|p| (p[0], p[7..].to_vec())).collect();
    assert_eq!(payloads, [(0x32, b"one".to_vec()), (0x34, b"two".to_vec())]);
    let carol = cluster.connect(2, "carol", true);
    cluster.subscribe(2, carol, "#", 1);
    let came = cluster.packets(2, carol);
    assert_eq!((came[2][0], &came[2][7..]), (0x33, &b"two"[..]), "retained");
}

#[test]
fn what_was_proposed_by_a_leader_that_was_cut_off_counts_if_it_was_committed() {
    for survive in [0, 1] {
        let mut cluster = three();
        let bob = cluster.connect(1, "bob", false);
        cluster.subscribe(1, bob, "t", 1);
        cluster.abort(1, bob);
        let alice = cluster.connect(0, "alice", true);
        cluster.packets(0, alice);
        cluster.cut(0, 1);
        cluster.cut(0, 2);
        cluster.send(0, alice, &publish("t", 1, false, 1, b"one"));
        assert_eq!(cluster.packets(0, alice), [[0u8; 0]; 0], "it has no majority");
        assert_eq!(cluster.proposed(), 1);
        cluster.elect_all(1, || survive);
        let bob = cluster.connect(1, "bob", false);
        let came = cluster.packets(1, bob);
        assert_eq!(came.len(), 1 + survive, "session present, and what is in the log");
        cluster.heal(0, 1);
        cluster.heal(0, 2);
        // The old leader follows, and may lead again.
        cluster.elect_all(0, || 0);
        let bob = cluster.connect(2, "bob", false);
        let came = cluster.packets(2, bob);
        // Alice's node has sent it again: it is there once in either case.
        assert_eq!((&came[0], came.len()), (&CONNACK_PRESENT.to_vec(), 2));
    }
}

#[test]
fn a_node_that_comes_late_reads_the_image_and_the_rest() {
    let mut cluster = three();
    cluster.kill(2);
    for n in 0..30 {
        let id = format!("s{n}");
        let client = cluster.connect(n % 2, &id, false);
        cluster.subscribe(n % 2, client, if n % 3 == 0 { "#" } else { "t" }, 2);
        cluster.abort(n % 2, client);
    }
    let alice = cluster.connect(0, "alice", false);
    for n in 0..5 {
        cluster.send(0, alice, &publish("t", 2, n == 3, n + 1, &[b'm', n as u8]));
    }
    for p in 0..64 {
        cluster.compact(p);
    }
    cluster.send(0, alice, &publish("t", 1, false, 9, b"later"));
    cluster.start(2);
    for p in 0..64 {
        cluster.compact(p); // all three have the same images
    }
    cluster.kill(0);
    cluster.elect_all(2, || 0);
    for n in 0..30 {
        let client = cluster.connect(1 + n % 2, &format!("s{n}"), false);
        let came = cluster.packets(1 + n % 2, client);
        assert_eq!((&came[0], came.len()), (&CONNACK_PRESENT.to_vec(), 7), "s{n}");
        assert_eq!(came[6][7..], *b"later");
    }
}

#[test]
fn a_client_id_of_a_node_that_is_gone_is_free_and_its_will_is_due_once() {
    for back in [false, true] {
        let mut cluster = three();
        let watcher = cluster.connect(0, "watcher", true);
        cluster.subscribe(0, watcher, "w", 1);
        cluster.packets(0, watcher);
        let client = cluster.rig(2).open(0);
        let mut packet = vec![0x10, 23, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x04, 0, 0];
        packet.extend([0, 5, b'm', b'o', b'r', b't', b'y', 0, 1, b'w', 0, 3, b'e', b'n', b'd']);
        packet[1] = packet.len() as u8 - 2;
        cluster.send(2, client, &packet);
        assert_eq!(cluster.packets(2, client), [CONNACK]);
        cluster.kill(2);
        cluster.advance(2_000);
        assert_eq!(cluster.packets(0, watcher), [[0u8; 0]; 0], "a moment of grace");
        if back {
            let client = cluster.connect(1, "morty", false);
            assert_eq!(cluster.packets(1, client), [CONNACK_PRESENT]);
        }
        cluster.advance(20_000);
        assert_eq!(cluster.packets(0, watcher).len(), usize::from(!back));
        cluster.start(2);
        cluster.advance(20_000);
        assert_eq!(cluster.packets(0, watcher).len(), 0);
    }
}

#[test]
fn a_partition_that_does_not_commit_holds_up_nobody_else() {
    let mut cluster = three();
    for id in ["bob", "carol"] {
        let client = cluster.connect(1, id, false);
        cluster.subscribe(1, client, id, 1);
        cluster.abort(1, client);
    }
    let (bob, carol) = (cluster.partition_of("bob"), cluster.partition_of("carol"));
    assert_ne!(bob, carol);
    let [alice, eve] = ["alice", "eve"].map(|id| cluster.connect(0, id, true));
    let [_, _] = [alice, eve].map(|client| cluster.packets(0, client));
    cluster.stuck.insert(bob);
    for n in 1..=6 {
        cluster.send(0, alice, &publish_large("bob", n, 1_000_000));
        cluster.send(0, eve, &publish("carol", 1, false, n, b"x"));
        assert_eq!(cluster.packets(0, eve), [[0x40, 2, 0, n as u8]]);
    }
    assert_eq!(cluster.packets(0, alice), [[0u8; 0]; 0]);
    assert!(cluster.rig(0).is_paused(alice), "more than its partition may have on its way");
    assert!(!cluster.rig(0).is_paused(eve));
    cluster.stuck.clear();
    cluster.run();
    assert_eq!(cluster.packets(0, alice).len(), 6);
    assert!(!cluster.rig(0).is_paused(alice));
}

#[test]
fn a_message_of_a_group_goes_to_another_member_under_another_leader_too() {
    let mut cluster = three();
    for id in ["ann", "ben"] {
        let client = cluster.connect(1, id, false);
        cluster.subscribe(1, client, "$share/g/s", 1);
    }
    let alice = cluster.connect(0, "alice", true);
    for n in 1..=2 {
        cluster.send(0, alice, &publish("s", 1, false, n, &[n as u8]));
    }
    // Each has one, and has not acknowledged it. Node 2 knows it by an image.
    cluster.kill(2);
    (0..64).for_each(|p| cluster.compact(p));
    cluster.start(2);
    (0..64).for_each(|p| cluster.compact(p));
    cluster.elect_all(2, || 0);
    let ben = cluster.connect(1, "ben", false);
    let came = cluster.packets(1, ben);
    assert_eq!((came.len(), came[1][0]), (2, 0x3a), "its own, with DUP");
    let ann = cluster.connect(1, "ann", true);
    assert_eq!(cluster.packets(1, ann), [CONNACK], "her old session has ended");
    let came = cluster.packets(1, ben);
    assert_eq!((came.len(), came[0][0]), (1, 0x32), "hers");
}

#[test]
fn a_qos2_publish_of_a_session_is_routed_by_the_next_leader_and_comes_once() {
    for survive in [0, 1, 2, 100] {
        let mut cluster = three();
        let bob = cluster.connect(1, "bob", false);
        cluster.subscribe(1, bob, "t", 2);
        cluster.abort(1, bob);
        let alice = cluster.connect(0, "alice", false);
        cluster.packets(0, alice);
        let stuck = cluster.partition_of("bob");
        cluster.stuck.insert(stuck);
        cluster.send(0, alice, &publish("t", 2, false, 7, b"once"));
        assert_eq!(cluster.packets(0, alice), [[0u8; 0]; 0]);
        cluster.kill(0);
        cluster.stuck.clear();
        cluster.elect_all(1, || survive);
        let alice = cluster.connect(2, "alice", false);
        let mut again = publish("t", 2, false, 7, b"once");
        again[0] |= 8;
        cluster.send(2, alice, &again);
        assert_eq!(cluster.packets(2, alice), [CONNACK_PRESENT.to_vec(), vec![0x50, 2, 0, 7]]);
        let bob = cluster.connect(1, "bob", false);
        assert_eq!(cluster.packets(1, bob).len(), 2, "survive {survive}");
    }
}

#[test]
fn bytes_that_are_no_image_and_no_entry_are_refused_and_never_more() {
    let mut cluster = three();
    let mut images = Vec::new();
    for id in ["ann", "ben", "cat"] {
        let client = cluster.connect(1, id, false);
        cluster.subscribe(1, client, "#", 2);
        cluster.subscribe(1, client, "$share/g/t", 1);
        cluster.abort(1, client);
        images.push(cluster.partition_of(id));
    }
    let alice = cluster.connect(0, "alice", false);
    for n in 1..=5 {
        cluster.send(0, alice, &publish("t", 2, n == 3, n, b"message"));
    }
    let (mut refused, mut random) = (0, 1u64);
    for p in images {
        cluster.compact(p);
        let image = cluster.image(p).to_vec();
        assert!(image.len() > 200);
        let mut fresh = Cluster::new(1, 1, &Settings::default());
        for _ in 0..600 {
            let mut bytes = image.clone();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (random >> 33) as usize % bytes.len();
            match random % 3 {
                0 => bytes[at] ^= 1 << (random >> 61),
                1 => bytes[at] = 0xff,
                _ => drop(bytes.remove(at)),
            }
            let partition = PartitionId(p as u8);
            let rig = fresh.rig(0);
            let shard = &mut rig.shards[0];
            refused += usize::from(shard.install(rig.now, partition, 1, &bytes) != Ok(true));
            shard.reset(rig.now, partition);
            let entry = shard.committed(rig.now, partition, 1, &bytes[4..]);
            assert!(entry.is_err() || entry == Ok(tidegate_core::Applied::Void));
        }
        let counters = &fresh.rig(0).node.totals;
        assert_eq!(counters.sessions.load(std::sync::atomic::Ordering::Relaxed), 0);
    }
    // What is within a record is looked at when its message is wanted.
    assert!(refused > 700, "{refused}");
}
