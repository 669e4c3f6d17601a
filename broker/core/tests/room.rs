//! A disk that fills up: what is refused, and what goes on.
#![allow(missing_docs)]

mod rig;

use rig::{Rig, connect, connect_v5, publish, subscribe};
use tidegate_core::counters::{DropReason, RejectReason};
use tidegate_core::room::Room;
use tidegate_core::settings::Settings;

const DURABLE_V3: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01d";
const DURABLE_V5: &[u8] = b"\x10\x13\x00\x04MQTT\x05\x00\x00\x00\x05\x11\x00\x00\x00\x3c\x00\x01d";
const EPHEMERAL_V5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01e";

#[test]
fn with_little_room_messages_to_keep_are_refused_and_the_rest_goes_on() {
    let mut rig = Rig::new(1, Settings::default());
    let reader = connect(&mut rig, 0, "reader", true);
    subscribe(&mut rig, reader, "t", 1);
    rig.packets(reader);
    let older = connect(&mut rig, 0, "older", true);
    rig.packets(older);
    let newer = rig.open(0);
    rig.send(newer, EPHEMERAL_V5);
    rig.speaks(newer, tidegate_codec::Version::V5);
    rig.packets(newer);
    rig.node.set_room(Room::Low);

    rig.send(newer, b"\x32\x07\x00\x01t\x00\x09\x00x");
    assert_eq!(rig.packets(newer), [&b"\x40\x03\x00\x09\x97"[..]], "PUBACK: quota exceeded");
    rig.send(newer, b"\x34\x07\x00\x01t\x00\x0a\x00x");
    assert_eq!(rig.packets(newer), [&b"\x50\x03\x00\x0a\x97"[..]], "PUBREC: quota exceeded");
    assert_eq!(rig.packets(reader).len(), 0);
    rig.send(newer, b"\x30\x05\x00\x01t\x00y");
    assert_eq!(rig.packets(reader), [&b"\x30\x04\x00\x01ty"[..]], "QoS 0 goes on");
    // Retained: delivered and not kept.
    rig.send(newer, b"\x31\x05\x00\x01t\x00z");
    assert_eq!(rig.packets(reader).len(), 1);
    assert_eq!(rig.node.counters[0].retained_messages.value(), 0);

    publish(&mut rig, older, "t", 1, 7, b"x");
    assert_eq!(rig.packets(older).len(), 0, "before 5.0 nothing could be said");
    assert!(!rig.is_open(older), "the client has the message, and tries again");
    let dropped = &rig.node.counters[0].messages_dropped[DropReason::DiskFull as usize];
    assert_eq!(dropped.value(), 4);

    // Sessions are still taken in.
    let durable = rig.open(0);
    rig.send(durable, DURABLE_V3);
    assert_eq!(rig.packets(durable), [&b"\x20\x02\x00\x00"[..]]);

    rig.node.set_room(Room::Enough);
    rig.send(newer, b"\x32\x07\x00\x01t\x00\x0b\x00x");
    assert_eq!(rig.packets(newer), [&b"\x40\x02\x00\x0b"[..]]);
    assert_eq!(rig.packets(reader).len(), 1);
}

#[test]
fn with_no_room_durable_sessions_and_their_subscriptions_are_refused_too() {
    let mut rig = Rig::new(1, Settings::default());
    let there = connect(&mut rig, 0, "there", false);
    rig.packets(there);
    rig.node.set_room(Room::None);

    let older = rig.open(0);
    rig.send(older, DURABLE_V3);
    assert_eq!(rig.packets(older), [&b"\x20\x02\x00\x03"[..]], "server unavailable");
    let newer = rig.open(0);
    rig.send(newer, DURABLE_V5);
    rig.speaks(newer, tidegate_codec::Version::V5);
    assert_eq!(rig.packets(newer)[0][3], 0x97);
    let rejected = &rig.node.counters[0].connections_rejected[RejectReason::DiskFull as usize];
    assert_eq!(rejected.value(), 2);
    subscribe(&mut rig, there, "t", 1);
    let suback = rig.packets(there).pop().expect("a SUBACK");
    assert_eq!((suback[0], suback.last()), (0x90, Some(&0x80)));

    // Who writes nothing is served.
    let ephemeral = connect(&mut rig, 0, "ephemeral", true);
    subscribe(&mut rig, ephemeral, "t", 1);
    let suback = rig.packets(ephemeral).pop().expect("a SUBACK");
    assert_eq!((suback[0], suback.last()), (0x90, Some(&1)));
    rig.node.set_room(Room::Enough);
    subscribe(&mut rig, there, "t", 1);
    let suback = rig.packets(there).pop().expect("a SUBACK");
    assert_eq!((suback[0], suback.last()), (0x90, Some(&1)));
}

#[test]
fn with_no_room_a_session_that_is_there_is_resumed_to_be_emptied() {
    let mut rig = Rig::kept(1, Settings::default());
    let bob = connect(&mut rig, 0, "bob", false);
    subscribe(&mut rig, bob, "t", 1);
    rig.abort(bob);
    let alice = connect(&mut rig, 0, "alice", true);
    publish(&mut rig, alice, "t", 1, 1, b"waits");
    rig.node.set_room(Room::None);
    rig.node.set_resume_bytes(500);

    let bob = connect(&mut rig, 0, "bob", false);
    let kinds: Vec<u8> = rig.packets(bob).iter().map(|packet| packet[0]).collect();
    assert_eq!(kinds, [0x20, 0x32]);
    rig.send(bob, &[0x40, 2, 0, 1]);
    let again = connect(&mut rig, 0, "bob", false);
    assert_eq!(rig.packets(again), [[0x20, 2, 1, 0]], "and nothing more to fetch");

    let new = connect(&mut rig, 0, "new", false);
    assert_eq!(rig.packets(new), [[0x20, 2, 0, 3]], "a new session is not");
    let anew = connect_v5(&mut rig, 0, "bob", true, 60);
    rig.speaks(anew, tidegate_codec::Version::V5);
    assert_eq!(rig.packets(anew)[0][3], 0x97, "nor is an old one begun anew");
    rig.send(again, &[0xc0, 0]);
    assert_eq!(rig.packets(again), [[0xd0, 0]], "and who is connected stays");
    let late = connect(&mut rig, 0, "bob", false);
    assert_eq!(rig.packets(late), [[0x20, 2, 0, 3]], "what was set aside is used up");
    let rejected = &rig.node.counters[0].connections_rejected[RejectReason::DiskFull as usize];
    assert_eq!(rejected.value(), 3);
}
