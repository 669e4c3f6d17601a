//! What the counters say of messages that are not a client's.
#![allow(missing_docs)]

mod rig;

use rig::{Rig, connect, publish, subscribe};
use tidegate_core::counters::{Count, DropReason};
use tidegate_core::settings::Settings;

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
