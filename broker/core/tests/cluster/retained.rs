//! Retained messages, kept by the leaders of their topics' partitions.

use crate::rig::Client;
use crate::world::{Cluster, publish};

const TOPICS: usize = 12;

fn topic(n: usize) -> String {
    format!("r/{n}")
}

/// Has some retained messages published at a node; their topics have homes at
/// all nodes.
fn retain_some(cluster: &mut Cluster, node: usize) {
    let id = cluster.client_of(node, "keeper");
    let keeper = cluster.connect(node, 0, &id, true);
    for n in 0..TOPICS {
        let packet = publish(&topic(n), 1, true, n as u8 + 1, &[n as u8]);
        cluster.send(node, keeper, &packet);
    }
    let acks = cluster.packets(node, keeper).split_off(1);
    assert_eq!(acks.len(), TOPICS, "each is where it has to be");
    for other in 0..cluster.nodes.len() {
        let led = cluster.topic_of(other, "r/");
        assert!((0..TOPICS).any(|n| topic(n) == led), "node {other} keeps one");
    }
}

/// The retained messages that came, by number, sorted.
fn came(cluster: &mut Cluster, node: usize, client: Client) -> Vec<u8> {
    let packets = cluster.packets(node, client).into_iter();
    let retained = packets.filter(|packet| packet[0] & 0xf1 == 0x31);
    let mut numbers: Vec<u8> = retained.map(|packet| packet[packet.len() - 1]).collect();
    numbers.sort_unstable();
    numbers
}

fn all() -> Vec<u8> {
    (0..TOPICS as u8).collect()
}

fn open_replays(cluster: &Cluster) -> usize {
    cluster.nodes.iter().flat_map(|rig| &rig.shards).map(|shard| shard.open_replays()).sum()
}

#[test]
fn a_retained_message_is_found_from_every_node_once() {
    let mut cluster = Cluster::new(3, 2);
    retain_some(&mut cluster, 0);
    for node in 0..3 {
        for leader in 0..3 {
            for clean in [true, false] {
                let id = cluster.client_of(leader, "new");
                let client = cluster.connect(node, 1, &id, clean);
                cluster.subscribe(node, client, "r/#", 0);
                let what = format!("at {node}, led by {leader}, clean {clean}");
                assert_eq!(came(&mut cluster, node, client), all(), "{what}");
                cluster.subscribe(node, client, "r/7", 1);
                assert_eq!(came(&mut cluster, node, client), [7], "{what}");
                cluster.abort(node, client);
            }
        }
    }
    assert_eq!(open_replays(&cluster), 0);
}

#[test]
fn an_empty_one_removes_it_everywhere() {
    let mut cluster = Cluster::new(3, 2);
    retain_some(&mut cluster, 0);
    let id = cluster.client_of(2, "gone");
    let client = cluster.connect(1, 0, &id, true);
    for n in 0..TOPICS {
        let packet = publish(&topic(n), 1, true, n as u8 + 1, b"");
        cluster.send(1, client, &packet);
    }
    assert_eq!(cluster.packets(1, client).len(), 1 + TOPICS);
    cluster.subscribe(1, client, "r/#", 0);
    assert_eq!(came(&mut cluster, 1, client), [0u8; 0]);
    let kept = cluster
        .nodes
        .iter()
        .map(|rig| rig.node.totals.retained_messages.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(kept.sum::<u64>(), 0);
}

#[test]
fn what_was_asked_over_a_link_that_broke_is_asked_again() {
    for clean in [true, false] {
        let mut cluster = Cluster::new(3, 2);
        retain_some(&mut cluster, 0);
        // Led by the third, so that its link is not the one that breaks.
        let id = cluster.client_of(2, "patient");
        let client = cluster.connect(1, 0, &id, clean);
        cluster.delay(0, 1, 20);
        cluster.delay(0, 2, 20);
        cluster.subscribe(1, client, "r/#", 1);
        cluster.advance(30); // the question is there, the answer on its way
        cluster.cut(0, 1);
        if clean {
            assert!(open_replays(&cluster) > 0);
        }
        cluster.advance(5_000);
        cluster.heal(0, 1);
        cluster.advance(10_000);
        let mut found = came(&mut cluster, 1, client);
        found.dedup(); // what was on its way may come again
        // Half of them is in flight as long as nobody acknowledges.
        assert_eq!(found, all(), "clean {clean}");
        assert_eq!(open_replays(&cluster), 0);
    }
}

#[test]
fn a_replay_goes_on_with_the_next_leader_and_lets_go_what_was_kept_back() {
    let mut cluster = Cluster::new(3, 2);
    retain_some(&mut cluster, 1);
    let id = cluster.client_of(1, "waits");
    let client = cluster.connect(1, 0, &id, true);
    let led: Vec<u8> = (0..64).filter(|p| p % 3 == 0).collect();
    cluster.cut(0, 1);
    cluster.subscribe(1, client, "r/#", 0);
    let id = cluster.client_of(1, "alice");
    let alice = cluster.connect(1, 1, &id, true);
    cluster.send(1, alice, &publish("r/live", 0, false, 0, b"live"));
    cluster.advance(5_000);
    let live = |packets: &[Vec<u8>]| packets.iter().any(|packet| packet.ends_with(b"live"));
    let before = cluster.packets(1, client);
    assert!(!live(&before), "it does not overtake");
    for partition in led {
        cluster.lead(tidegate_core::ids::PartitionId(partition), Some(2));
    }
    cluster.advance(5_000);
    assert!(live(&cluster.packets(1, client)));
    assert_eq!(open_replays(&cluster), 0);
}

#[test]
fn what_a_node_says_of_itself_stays_there() {
    let mut cluster = Cluster::new(2, 2);
    for node in 0..2 {
        let rig = &mut cluster.nodes[node];
        let value = [b'0' + node as u8];
        rig.shards[0].publish_system(rig.now, "$SYS/broker/name", &value);
    }
    cluster.run();
    for node in 0..2 {
        for leader in 0..2 {
            let id = cluster.client_of(leader, "curious");
            for clean in [true, false] {
                let client = cluster.connect(node, 1, &id, clean);
                cluster.subscribe(node, client, "$SYS/#", 0);
                assert_eq!(came(&mut cluster, node, client), [b'0' + node as u8]);
                cluster.abort(node, client);
            }
        }
    }
}

/// The value that a new subscription finds at a topic.
fn found(cluster: &mut Cluster, node: usize, topic: &str) -> Vec<u8> {
    let id = cluster.client_of(node, "new");
    let client = cluster.connect(node, 0, &id, true);
    cluster.subscribe(node, client, topic, 0);
    came(cluster, node, client)
}

#[test]
fn what_a_client_that_has_gone_had_retained_does_not_replace_what_is_newer() {
    // On a link that broke, on one that comes later, and for a leader that does.
    for case in ["broke", "later", "leaderless"] {
        let mut cluster = Cluster::new(3, 1);
        let topic = cluster.topic_of(0, "r/");
        let partition = cluster.nodes[0].node.partition_of_topic(&topic);
        let publisher = cluster.connect(1, 0, &cluster.client_of(1, "mover"), true);
        match case {
            "broke" => cluster.delay(0, 1, 50),
            "later" => cluster.cut(0, 1),
            _leaderless => cluster.tell(1, partition, None),
        }
        cluster.send(1, publisher, &publish(&topic, 1, true, 1, &[1]));
        if case == "broke" {
            cluster.cut(0, 1);
        }
        cluster.abort(1, publisher);
        // It comes in elsewhere, and is acknowledged there; then there is news.
        let mover = cluster.connect(2, 0, &cluster.client_of(2, "mover"), true);
        for value in [1, 2] {
            cluster.send(2, mover, &publish(&topic, 1, true, value, &[value]));
        }
        assert_eq!(cluster.packets(2, mover).len(), 3, "{case}");
        cluster.delay(0, 1, 0);
        match case {
            "leaderless" => cluster.tell(1, partition, Some(0)),
            _link => cluster.heal(0, 1),
        }
        cluster.advance(5_000);
        assert_eq!(found(&mut cluster, 2, &topic), [2], "{case}");
        let open =
            cluster.nodes[1].shards.iter().map(|shard| shard.open_crossings()).sum::<usize>();
        assert_eq!(open, 0, "{case}");
    }
}

#[test]
fn what_a_client_that_waits_has_retained_goes_on_when_the_link_does() {
    let mut cluster = Cluster::new(2, 1);
    let topic = cluster.topic_of(0, "r/");
    let publisher = cluster.connect(1, 0, &cluster.client_of(1, "stays"), true);
    cluster.packets(1, publisher);
    cluster.cut(0, 1);
    cluster.send(1, publisher, &publish(&topic, 1, true, 1, &[1]));
    cluster.heal(0, 1);
    cluster.advance(5_000);
    assert_eq!(cluster.packets(1, publisher), [[0x40, 2, 0, 1]]);
    assert_eq!(found(&mut cluster, 1, &topic), [1]);
}
