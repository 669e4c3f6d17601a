//! The first stories: connect, subscribe, publish, on one shard and across.
#![allow(missing_docs)]

mod rig;

use rig::{Rig, connect, publish, subscribe};
use tidegate_core::settings::Settings;

#[test]
fn a_message_reaches_its_subscriber_on_any_shard() {
    for (shards, at) in [(1, 0), (2, 1), (4, 3)] {
        let mut rig = Rig::new(shards, Settings::default());
        let alice = connect(&mut rig, 0, "alice", true);
        let bob = connect(&mut rig, at, "bob", true);
        assert_eq!(rig.packets(alice), [[0x20, 2, 0, 0]]);
        subscribe(&mut rig, bob, "a/+", 1);
        assert_eq!(rig.packets(bob), [vec![0x20, 2, 0, 0], vec![0x90, 3, 0, 1, 1]]);
        publish(&mut rig, alice, "a/b", 1, 7, b"x");
        assert_eq!(rig.packets(alice), [[0x40, 2, 0, 7]]);
        assert_eq!(rig.packets(bob), [[0x32, 8, 0, 3, b'a', b'/', b'b', 0, 1, b'x']]);
    }
}

#[test]
fn a_durable_session_gets_what_was_queued_wherever_it_comes_back() {
    for (shards, at) in [(1, 0), (2, 1), (4, 3)] {
        let mut rig = Rig::new(shards, Settings::default());
        let alice = connect(&mut rig, 0, "alice", true);
        let bob = connect(&mut rig, 0, "bob", false);
        subscribe(&mut rig, bob, "t", 2);
        rig.abort(bob);
        publish(&mut rig, alice, "t", 2, 1, b"1");
        publish(&mut rig, alice, "t", 1, 2, b"2");
        assert_eq!(
            rig.packets(alice),
            [[0x20, 2, 0, 0], [0x50, 2, 0, 1], [0x40, 2, 0, 2]],
            "{shards} shards"
        );
        let bob = connect(&mut rig, at, "bob", false);
        assert_eq!(
            rig.packets(bob),
            [
                vec![0x20, 2, 1, 0],
                vec![0x34, 6, 0, 1, b't', 0, 1, b'1'],
                vec![0x32, 6, 0, 1, b't', 0, 2, b'2']
            ]
        );
        rig.send(bob, &[0x50, 2, 0, 1]);
        assert_eq!(rig.packets(bob), [[0x62, 2, 0, 1]]);
        rig.abort(bob);
        let bob = connect(&mut rig, at, "bob", false);
        assert_eq!(
            rig.packets(bob),
            [vec![0x20, 2, 1, 0], vec![0x62, 2, 0, 1], vec![0x3a, 6, 0, 1, b't', 0, 2, b'2']]
        );
    }
}

#[test]
fn a_second_connect_with_the_same_id_takes_the_session_over() {
    let mut rig = Rig::new(3, Settings::default());
    let first = connect(&mut rig, 0, "bob", false);
    let second = connect(&mut rig, 2, "bob", false);
    assert!(!rig.is_open(first));
    assert_eq!(rig.packets(second), [[0x20, 2, 1, 0]]);
}

#[test]
fn a_retained_message_comes_after_the_suback() {
    for shards in [1, 4] {
        let mut rig = Rig::new(shards, Settings::default());
        let alice = connect(&mut rig, 0, "alice", true);
        rig.send(alice, &[0x31, 6, 0, 3, b'r', b'/', b'1', b'v']);
        rig.send(alice, &[0x31, 6, 0, 3, b'r', b'/', b'2', b'w']);
        for clean in [true, false] {
            let bob = connect(&mut rig, (shards - 1) as usize, "bob", clean);
            subscribe(&mut rig, bob, "r/#", 0);
            let mut got = rig.packets(bob).split_off(1);
            got[1..].sort();
            assert_eq!(
                got,
                [
                    vec![0x90, 3, 0, 1, 0],
                    vec![0x31, 6, 0, 3, b'r', b'/', b'1', b'v'],
                    vec![0x31, 6, 0, 3, b'r', b'/', b'2', b'w']
                ],
                "{shards} shards, clean {clean}"
            );
        }
    }
}

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    let mut rig = Rig::new(1, Settings::default());
    let client = rig.open(0);
    rig.send(client, &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 10, 0, 1, b'k']);
    rig.advance(14_900);
    assert!(rig.is_open(client));
    rig.advance(1_000);
    assert!(!rig.is_open(client));
    let silent = rig.open(0);
    rig.advance(9_900);
    assert!(rig.is_open(silent));
    rig.advance(1_000);
    assert!(!rig.is_open(silent), "a connection without CONNECT has its time too");
}
