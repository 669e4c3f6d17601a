//! Acknowledgements and windows: ACK-1, ACK-2, QOS-2.
#![allow(missing_docs)]

mod rig;

use rig::{Rig, connect, publish, subscribe};
use tidegate_core::limits::Limits;
use tidegate_core::settings::Settings;

#[test]
fn a_puback_waits_for_every_durable_target() {
    // ACK-1: with the mail between the shards held back, no PUBACK leaves.
    let mut rig = Rig::new(4, Settings::default());
    let alice = connect(&mut rig, 0, "alice", true);
    let others: Vec<_> = (0..8)
        .map(|n| {
            let client = connect(&mut rig, n % 4, &format!("durable-{n}"), false);
            subscribe(&mut rig, client, "t", 1);
            client
        })
        .collect();
    for other in others {
        rig.abort(other);
    }
    rig.packets(alice);
    rig.give(alice, &[0x32, 6, 0, 1, b't', 0, 9, b'x']);
    rig.turn(0);
    assert!(rig.packets(alice).is_empty(), "the other shards have not seen the message");
    rig.run();
    assert_eq!(rig.packets(alice), [[0x40, 2, 0, 9]]);
}

#[test]
fn acknowledgements_leave_in_the_order_of_arrival() {
    // ACK-2: the second message waits for nobody, but not in front of the first.
    let mut rig = Rig::new(2, Settings::default());
    let alice = connect(&mut rig, 0, "alice", true);
    for n in 0..8 {
        let client = connect(&mut rig, n % 2, &format!("durable-{n}"), false);
        subscribe(&mut rig, client, "slow", 1);
    }
    rig.packets(alice);
    rig.give(alice, &[0x32, 9, 0, 4, b's', b'l', b'o', b'w', 0, 1, b'x']);
    rig.give(alice, &[0x32, 9, 0, 4, b'f', b'a', b's', b't', 0, 2, b'x']);
    rig.give(alice, &[0x34, 9, 0, 4, b'f', b'a', b's', b't', 0, 3, b'x']);
    rig.turn(0);
    assert!(rig.packets(alice).is_empty());
    rig.run();
    assert_eq!(rig.packets(alice), [[0x40, 2, 0, 1], [0x40, 2, 0, 2], [0x50, 2, 0, 3]]);
}

#[test]
fn a_qos2_id_before_its_pubrel_is_the_same_message_across_a_resume() {
    for shards in [1, 3] {
        let mut rig = Rig::new(shards, Settings::default());
        let last = usize::from(shards) - 1;
        let bob = connect(&mut rig, 0, "bob", true);
        subscribe(&mut rig, bob, "t", 2);
        let alice = connect(&mut rig, 0, "alice", false);
        publish(&mut rig, alice, "t", 2, 1, b"x");
        rig.packets(alice);
        rig.abort(alice);
        let alice = connect(&mut rig, last, "alice", false);
        rig.send(alice, &[0x3c, 6, 0, 1, b't', 0, 1, b'x']);
        assert_eq!(rig.packets(alice), [vec![0x20, 2, 1, 0], vec![0x50, 2, 0, 1]]);
        assert_eq!(rig.packets(bob).iter().filter(|p| p[0] >> 4 == 3).count(), 1);
        rig.send(alice, &[0x62, 2, 0, 1]);
        assert_eq!(rig.packets(alice), [[0x70, 2, 0, 1]]);
        publish(&mut rig, alice, "t", 2, 1, b"y");
        assert_eq!(rig.packets(bob).iter().filter(|p| p[0] >> 4 == 3).count(), 1, "now it is new");
    }
}

#[test]
fn a_blocked_socket_costs_a_bounded_queue_and_then_counted_messages() {
    // BND-2
    let limits = Limits { queue_messages_max: 10, inflight_out_max: 5, ..Limits::default() };
    let mut rig = Rig::new(1, Settings { limits, ..Settings::default() });
    let alice = connect(&mut rig, 0, "alice", true);
    let bob = connect(&mut rig, 0, "bob", true);
    subscribe(&mut rig, bob, "t", 1);
    rig.packets(bob);
    rig.set_room(bob, 0);
    publish(&mut rig, alice, "t", 0, 0, b"first"); // finds the socket full
    for n in 1..=100 {
        publish(&mut rig, alice, "t", 0, 0, b"z");
        publish(&mut rig, alice, "t", 1, n, b"o");
    }
    let counters = &rig.node.counters[0];
    let dropped = |at: usize| rig.node.counters[0].messages_dropped[at].value();
    use tidegate_core::counters::DropReason;
    assert_eq!(dropped(DropReason::SlowReader as usize), 90);
    assert_eq!(dropped(DropReason::QueueFull as usize), 90);
    assert_eq!(counters.queued_messages.value(), 10);
    rig.set_room(bob, usize::MAX);
    let got = rig.packets(bob);
    assert_eq!(got.iter().filter(|p| p[0] == 0x30).count(), 11);
    let window: Vec<_> = got.iter().filter(|p| p[0] == 0x32).collect();
    assert_eq!(window.len(), 5, "the window");
    rig.send(bob, &[0x40, 2, window[0][5], window[0][6]]);
    assert_eq!(rig.packets(bob).len(), 1, "a slot came back");
}
