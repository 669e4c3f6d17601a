//! Client ids, and the sessions behind them, across nodes.

use crate::world::{Cluster, publish};

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
const CONNACK_PRESENT: [u8; 4] = [0x20, 2, 1, 0];

#[test]
fn a_client_comes_in_at_any_node_whoever_leads_its_partition() {
    let mut cluster = Cluster::new(3, 2);
    for leader in 0..3 {
        for node in 0..3 {
            for clean in [true, false] {
                let id = cluster.client_of(leader, "c");
                let client = cluster.connect(node, 1, &id, clean);
                let came = cluster.packets(node, client);
                assert_eq!(came.len(), 1, "node {node}, led by {leader}, clean {clean}");
                assert_eq!(came[0][3], 0);
            }
        }
    }
}

#[test]
fn of_two_connects_at_two_nodes_one_remains() {
    for (first, second) in [(0, 1), (1, 0), (1, 2)] {
        for clean in [true, false] {
            let mut cluster = Cluster::new(3, 2);
            let id = cluster.client_of(0, "twin");
            let old = cluster.connect(first, 0, &id, clean);
            let new = cluster.connect(second, 1, &id, clean);
            assert!(!cluster.is_open(first, old), "the older one leaves");
            let expected = if clean { CONNACK } else { CONNACK_PRESENT };
            assert_eq!(cluster.packets(second, new), [expected]);
        }
    }
}

#[test]
fn of_two_connects_at_the_same_moment_one_remains() {
    let mut cluster = Cluster::new(3, 2);
    let id = cluster.client_of(2, "twin");
    cluster.delay(0, 2, 30);
    cluster.delay(1, 2, 30);
    let a = cluster.connect(0, 0, &id, false);
    let b = cluster.connect(1, 0, &id, false);
    cluster.advance(1_000);
    let open = [cluster.is_open(0, a), cluster.is_open(1, b)];
    assert_eq!(open.iter().filter(|open| **open).count(), 1, "{open:?}");
}

#[test]
fn a_client_that_moves_to_another_node_keeps_its_session_its_queue_and_what_is_in_flight() {
    let mut cluster = Cluster::new(3, 2);
    let id = cluster.client_of(0, "mover");
    let here = cluster.connect(1, 0, &id, false);
    cluster.subscribe(1, here, "t", 2);
    assert_eq!(cluster.packets(1, here), [CONNACK.to_vec(), vec![0x90, 3, 0, 1, 2]]);
    // The publisher is at the node that leads the session's partition.
    let alice = cluster.connect(0, 1, "alice", true);
    cluster.send(0, alice, &publish("t", 2, false, 1, b"1"));
    assert_eq!(cluster.packets(0, alice), [CONNACK.to_vec(), vec![0x50, 2, 0, 1]]);
    assert_eq!(cluster.packets(1, here), [vec![0x34, 6, 0, 1, b't', 0, 1, b'1']]);
    cluster.send(1, here, &[0x50, 2, 0, 1]);
    assert_eq!(cluster.packets(1, here), [[0x62, 2, 0, 1]]);
    cluster.abort(1, here);
    cluster.send(0, alice, &publish("t", 1, false, 2, b"2"));
    let there = cluster.connect(2, 1, &id, false);
    assert_eq!(
        cluster.packets(2, there),
        [CONNACK_PRESENT.to_vec(), vec![0x62, 2, 0, 1], vec![0x32, 6, 0, 1, b't', 0, 2, b'2']]
    );
    cluster.send(2, there, &[0x70, 2, 0, 1]);
    cluster.send(2, there, &[0x40, 2, 0, 2]);
    let home = cluster.connect(0, 0, &id, false);
    assert!(!cluster.is_open(2, there), "taken over from another node");
    assert_eq!(cluster.packets(0, home), [CONNACK_PRESENT], "and nothing comes again");
}

#[test]
fn a_connect_that_nobody_waits_for_any_more_ends_neither_the_newer_nor_its_session() {
    // On a link that comes later, and for a leader that does.
    for leaderless in [false, true] {
        let mut cluster = Cluster::new(2, 2);
        let id = cluster.client_of(0, "mover");
        let partition = cluster.nodes[0].node.partition_of_client(&id);
        let first = cluster.connect(0, 0, &id, false);
        cluster.abort(0, first);
        match leaderless {
            true => cluster.tell(1, partition, None),
            false => cluster.cut(0, 1),
        }
        let older = cluster.connect(1, 0, &id, true);
        cluster.abort(1, older);
        let newer = cluster.connect(0, 1, &id, false);
        assert_eq!(cluster.packets(0, newer), [CONNACK_PRESENT]);
        match leaderless {
            true => cluster.tell(1, partition, Some(0)),
            false => cluster.heal(0, 1),
        }
        cluster.advance(3_000);
        assert!(cluster.is_open(0, newer), "nobody has taken it over");
        assert_eq!(open_releases(&cluster), 0);
        cluster.abort(0, newer);
        let again = cluster.connect(1, 0, &id, false);
        assert_eq!(cluster.packets(1, again), [CONNACK_PRESENT]);
    }
}

#[test]
fn a_connect_that_is_withdrawn_while_the_owner_leaves_ends_no_session() {
    let mut cluster = Cluster::new(3, 2);
    let id = cluster.client_of(0, "mover");
    let newer = cluster.connect(2, 0, &id, false);
    assert_eq!(cluster.packets(2, newer), [CONNACK]);
    cluster.delay(0, 2, 50);
    cluster.delay(0, 1, 20);
    let older = cluster.connect(1, 0, &id, true);
    cluster.advance(30); // the owner is being sent away
    cluster.abort(1, older);
    cluster.advance(200);
    assert!(!cluster.is_open(2, newer));
    assert_eq!(open_releases(&cluster), 0);
    let again = cluster.connect(2, 1, &id, false);
    cluster.advance(200);
    assert_eq!(cluster.packets(2, again), [CONNACK_PRESENT]);
}

#[test]
fn a_client_that_resubscribes_and_leaves_from_afar_is_answered() {
    let mut cluster = Cluster::new(2, 2);
    let id = cluster.client_of(0, "far");
    let far = cluster.connect(1, 1, &id, false);
    cluster.subscribe(1, far, "t", 1);
    cluster.subscribe(1, far, "u/#", 2);
    cluster.send(1, far, &[0xa2, 5, 0, 9, 0, 1, b't']);
    assert_eq!(
        cluster.packets(1, far),
        [CONNACK.to_vec(), vec![0x90, 3, 0, 1, 1], vec![0x90, 3, 0, 1, 2], vec![0xb0, 2, 0, 9]]
    );
    // Its own QoS 2 packet id is kept with its session.
    cluster.send(1, far, &publish("none", 2, false, 5, b"x"));
    assert_eq!(cluster.packets(1, far), [[0x50, 2, 0, 5]]);
    cluster.abort(1, far);
    let near = cluster.connect(0, 0, &id, false);
    cluster.send(0, near, &[0x62, 2, 0, 5]);
    assert_eq!(cluster.packets(0, near), [CONNACK_PRESENT, [0x70, 2, 0, 5]]);
    let alice = cluster.connect(0, 1, "alice", true);
    cluster.send(0, alice, &publish("t", 1, false, 1, b"1"));
    cluster.send(0, alice, &publish("u/1", 1, false, 2, b"2"));
    assert_eq!(cluster.packets(0, near), [[0x32, 8, 0, 3, b'u', b'/', b'1', 0, 1, b'2']]);
    assert_eq!(open_releases(&cluster), 0);
}

fn open_releases(cluster: &Cluster) -> usize {
    cluster.nodes.iter().flat_map(|rig| &rig.shards).map(|shard| shard.open_releases()).sum()
}

#[test]
fn a_connect_waits_for_a_leader_and_is_refused_when_none_comes() {
    let mut cluster = Cluster::new(2, 2);
    let id = cluster.client_of(1, "early");
    let partition = cluster.nodes[0].node.partition_of_client(&id);
    cluster.lead(partition, None);
    let early = cluster.connect(0, 0, &id, true);
    let twin = cluster.connect(0, 1, &id, true);
    cluster.advance(3_000);
    assert_eq!(cluster.packets(0, early), Vec::<Vec<u8>>::new());
    cluster.lead(partition, Some(0));
    let answers = [cluster.packets(0, early), cluster.packets(0, twin)];
    let granted = answers.iter().flatten().filter(|packet| **packet == CONNACK).count();
    assert!(granted >= 1, "{answers:?}");
    let open = [cluster.is_open(0, early), cluster.is_open(0, twin)];
    assert_eq!(open.iter().filter(|open| **open).count(), 1, "and one remains");
    cluster.lead(partition, None);
    let late = cluster.connect(0, 0, &id, true);
    cluster.advance(10_500);
    assert_eq!(cluster.packets(0, late), [[0x20, 2, 0, 3]], "server unavailable");
    assert!(!cluster.is_open(0, late));
    // The leader that comes after all knows nothing of it.
    cluster.lead(partition, Some(1));
    let again = cluster.connect(1, 0, &id, true);
    assert_eq!(cluster.packets(1, again), [CONNACK]);
}

#[test]
fn connections_of_sessions_that_end_with_them_outlive_their_leader() {
    let mut cluster = Cluster::new(3, 2);
    let id = cluster.client_of(0, "stays");
    let partition = cluster.nodes[0].node.partition_of_client(&id);
    let client = cluster.connect(1, 0, &id, true);
    assert_eq!(cluster.packets(1, client), [CONNACK]);
    cluster.kill(0);
    cluster.lead(partition, Some(2));
    cluster.advance(100);
    assert!(cluster.is_open(1, client));
    // The new leader knows it: a second one takes the id over.
    let second = cluster.connect(2, 1, &id, true);
    assert_eq!(cluster.packets(2, second), [CONNACK]);
    assert!(!cluster.is_open(1, client));
    // And when it leaves, the id is free without anybody being sent away.
    cluster.abort(2, second);
    let third = cluster.connect(1, 1, &id, true);
    assert_eq!(cluster.packets(1, third), [CONNACK]);
}

#[test]
fn a_new_leader_hears_of_a_connection_as_soon_as_the_link_is_back() {
    let mut cluster = Cluster::new(3, 1);
    let id = cluster.client_of(0, "stays");
    let partition = cluster.nodes[0].node.partition_of_client(&id);
    let client = cluster.connect(1, 0, &id, true);
    assert_eq!(cluster.packets(1, client), [CONNACK]);
    cluster.delay(1, 2, 50);
    cluster.kill(0);
    cluster.lead(partition, Some(2)); // it is told, and that is lost
    cluster.cut(1, 2);
    cluster.delay(1, 2, 0);
    cluster.heal(1, 2);
    let second = cluster.connect(2, 0, &id, true);
    assert_eq!(cluster.packets(2, second), [CONNACK]);
    assert!(!cluster.is_open(1, client), "it was known and is sent away");
}

#[test]
fn of_two_that_claim_one_id_of_a_new_leader_the_younger_stays() {
    for old_first in [true, false] {
        let mut cluster = Cluster::new(4, 1);
        let id = cluster.client_of(0, "twin");
        let partition = cluster.nodes[0].node.partition_of_client(&id);
        let old = cluster.connect(1, 0, &id, true);
        cluster.advance(5_000);
        // The leader is lost with what it had to say to the old one's node.
        cluster.kill(0);
        cluster.tell(2, partition, Some(3));
        cluster.tell(3, partition, Some(3));
        cluster.cut(1, 3);
        let young = cluster.connect(2, 0, &id, true);
        assert_eq!(cluster.packets(2, young), [CONNACK]);
        // Node 2 leads it next, and hears of both.
        cluster.heal(1, 3);
        let order = if old_first { [1, 2] } else { [2, 1] };
        cluster.tell(3, partition, None);
        cluster.tell(2, partition, None);
        for node in 0..4 {
            cluster.nodes[node].node.set_home(partition, None);
        }
        let last = cluster.nodes[3].node.place(partition);
        for node in [3, order[0], order[1]] {
            let rig = &mut cluster.nodes[node];
            rig.node.set_home(partition, Some(last));
            rig.shards[0].home_moved(rig.now, partition);
            cluster.run();
        }
        cluster.advance(5_000);
        assert!(cluster.is_open(2, young), "old first: {old_first}");
        assert!(!cluster.is_open(1, old), "old first: {old_first}");
    }
}

#[test]
fn a_grant_of_an_earlier_leader_that_comes_late_leaves_no_connection_unknown_to_the_next() {
    // What was asked of the next leader comes to it, or is lost with the link.
    for lost in [false, true] {
        let mut cluster = Cluster::new(3, 2);
        let id = cluster.client_of(0, "stays");
        let node = &cluster.nodes[0].node;
        let partition = node.partition_of_client(&id);
        let is_beside = |other: &String| node.partition_of_client(other) == partition;
        let beside = (0..).map(|n| format!("beside{n}")).find(is_beside).expect("one of many");
        // The claims of the two leaders have different names.
        cluster.lead(partition, Some(2));
        let other = cluster.connect(2, 0, &beside, true);
        cluster.lead(partition, Some(0));
        cluster.abort(2, other);
        cluster.delay(0, 1, 50);
        cluster.delay(1, 2, 100);
        let client = cluster.connect(1, 0, &id, true);
        cluster.advance(60); // it is granted, and that is on its way
        cluster.lead(partition, Some(2));
        cluster.advance(60);
        assert_eq!(cluster.packets(1, client), [CONNACK], "the earlier leader's");
        if lost {
            cluster.cut(1, 2);
            cluster.heal(1, 2);
        }
        cluster.advance(3_000);
        assert!(cluster.is_open(1, client));
        let second = cluster.connect(2, 1, &id, true);
        cluster.advance(300);
        assert_eq!(cluster.packets(2, second), [CONNACK], "lost: {lost}");
        assert!(!cluster.is_open(1, client), "lost: {lost}: it was known and is sent away");
    }
}

#[test]
fn a_connection_with_a_durable_session_is_closed_when_its_leader_changes() {
    let mut cluster = Cluster::new(3, 2);
    let id = cluster.client_of(0, "durable");
    let partition = cluster.nodes[0].node.partition_of_client(&id);
    let client = cluster.connect(1, 0, &id, false);
    assert!(cluster.is_open(1, client));
    cluster.lead(partition, Some(2));
    assert!(!cluster.is_open(1, client));
    let again = cluster.connect(1, 0, &id, false);
    assert_eq!(cluster.packets(1, again)[0][3], 0);
}

#[test]
fn a_lost_link_closes_those_whose_sessions_are_behind_it_and_they_come_back() {
    let mut cluster = Cluster::new(2, 2);
    let (far, near) = (cluster.client_of(0, "far"), cluster.client_of(1, "near"));
    let ephemeral = cluster.client_of(0, "ephemeral");
    let far_conn = cluster.connect(1, 0, &far, false);
    cluster.subscribe(1, far_conn, "t", 1);
    let near_conn = cluster.connect(1, 0, &near, false);
    let ephemeral = cluster.connect(1, 1, &ephemeral, true);
    cluster.cut(0, 1);
    assert!(!cluster.is_open(1, far_conn), "what its session had for it may be lost");
    assert!(cluster.is_open(1, near_conn));
    assert!(cluster.is_open(1, ephemeral));
    // What is published meanwhile is there when the link is, and the client.
    let alice = cluster.connect(0, 0, &cluster.client_of(0, "alice"), true);
    cluster.send(0, alice, &publish("t", 1, false, 1, b"1"));
    let waiting = cluster.connect(1, 0, &far, false);
    cluster.advance(1_000);
    assert_eq!(cluster.packets(1, waiting), Vec::<Vec<u8>>::new());
    cluster.heal(0, 1);
    cluster.advance(3_000);
    let came = cluster.packets(1, waiting);
    assert_eq!(came[0], CONNACK_PRESENT, "{came:?}");
    assert_eq!(came[1][came[1].len() - 1], b'1', "{came:?}");
    assert_eq!(open_releases(&cluster), 0);
}

#[test]
fn a_lost_grant_is_asked_for_again_and_counts_once() {
    for clean in [true, false] {
        let mut cluster = Cluster::new(2, 2);
        let id = cluster.client_of(0, "lost");
        cluster.delay(0, 1, 50);
        let client = cluster.connect(1, 0, &id, clean);
        cluster.advance(60); // the claim is there, the grant on its way back
        cluster.cut(0, 1);
        cluster.delay(0, 1, 0);
        cluster.heal(0, 1);
        cluster.advance(3_000);
        let came = cluster.packets(1, client);
        if clean {
            assert_eq!(came, [CONNACK]);
            continue;
        }
        // What its session may have sent it is lost: it has to come again.
        assert!(!cluster.is_open(1, client));
        assert_eq!(came, Vec::<Vec<u8>>::new());
        let again = cluster.connect(1, 0, &id, false);
        assert_eq!(cluster.packets(1, again), [CONNACK_PRESENT]);
    }
}

/// CONNECT of a session that is kept, with a will to `w`.
fn connect_with_will(cluster: &mut Cluster, node: usize, id: &str) -> crate::rig::Client {
    let client = cluster.nodes[node].open(0);
    let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x04, 0, 0];
    for text in [id, "w", "gone"] {
        packet.extend([0, text.len() as u8]);
        packet.extend(text.as_bytes());
    }
    packet[1] = packet.len() as u8 - 2;
    cluster.send(node, client, &packet);
    client
}

#[test]
fn a_will_waits_a_moment_when_a_link_and_not_the_client_was_at_fault() {
    for back in [true, false] {
        let mut cluster = Cluster::new(2, 2);
        let id = cluster.client_of(0, "late");
        let heir = cluster.client_of(0, "heir");
        let heir = cluster.connect(0, 1, &heir, true);
        cluster.subscribe(0, heir, "w", 0);
        let client = connect_with_will(&mut cluster, 1, &id);
        assert!(cluster.is_open(1, client));
        cluster.packets(0, heir);
        cluster.cut(0, 1);
        assert!(!cluster.is_open(1, client));
        cluster.heal(0, 1);
        cluster.advance(2_000);
        assert_eq!(cluster.packets(0, heir), Vec::<Vec<u8>>::new(), "not yet");
        if back {
            connect_with_will(&mut cluster, 1, &id);
        }
        cluster.advance(20_000);
        let wills = cluster.packets(0, heir).len();
        assert_eq!(wills, usize::from(!back), "back: {back}");
    }
}

#[test]
fn a_client_that_left_while_its_link_was_cut_leaves_its_will_once() {
    for clean in [true, false] {
        let mut cluster = Cluster::new(2, 2);
        let (id, heir) = (cluster.client_of(0, "late"), cluster.client_of(0, "heir"));
        let heir = cluster.connect(0, 1, &heir, true);
        cluster.subscribe(0, heir, "w", 0);
        let client = connect_with_will(&mut cluster, 1, &id);
        cluster.packets(0, heir);
        cluster.delay(0, 1, 50);
        // Its end is on its way when the link breaks.
        match clean {
            true => cluster.send(1, client, &[0xe0, 0]),
            false => cluster.abort(1, client),
        }
        cluster.cut(0, 1);
        assert_eq!(open_releases(&cluster), 1);
        cluster.delay(0, 1, 0);
        cluster.heal(0, 1);
        cluster.advance(1_000);
        assert_eq!(open_releases(&cluster), 0);
        cluster.advance(20_000);
        assert_eq!(cluster.packets(0, heir).len(), usize::from(!clean), "clean: {clean}");
    }
}

#[test]
fn a_takeover_between_nodes_is_counted_with_its_bytes_at_the_partitions_leader() {
    let mut cluster = Cluster::new(3, 1);
    let id = cluster.client_of(0, "hops");
    let bytes = |cluster: &Cluster| cluster.nodes[0].node.counters[0].takeover_bytes.value();
    cluster.connect(1, 0, &id, false);
    assert_eq!(bytes(&cluster), 0, "of nobody");
    let second = cluster.connect(2, 0, &id, false);
    assert!(cluster.is_open(2, second));
    assert_eq!(cluster.nodes[2].node.counters[0].takeovers[2].value(), 1);
    let first = bytes(&cluster);
    assert!((16..256).contains(&first), "one grant: {first} bytes");
    cluster.connect(1, 0, &id, false);
    assert_eq!(bytes(&cluster), 2 * first);
    // Within the leader's node no mail leaves it.
    cluster.connect(0, 0, &id, false);
    assert_eq!(bytes(&cluster), 2 * first);
}
