//! What partitions write, byte by byte: if a test here fails, queues and
//! sessions of a node that ran before can no longer be read, or an older
//! version can no longer read ours. That takes another kind of record, or a new
//! format of the log, and not a new golden file.
#![allow(missing_docs)]

mod rig;

use std::fmt::Write;

use rig::{Client, Rig, connect, connect_v5, subscribe};
use tidegate_codec::Version;
use tidegate_core::journal::Entry;
use tidegate_core::settings::Settings;

const GOLDEN: &str = include_str!("../golden/records-1.txt");

/// Something of everything: both versions, all QoS, a filter with options, a
/// share group, wills, retained messages, packet ids both ways, a state.
fn written() -> String {
    let mut rig = Rig::kept(1, Settings::default());
    let bob = connect(&mut rig, 0, "bob", false);
    subscribe(&mut rig, bob, "t", 2);
    subscribe(&mut rig, bob, "$share/g/s", 1);
    subscribe(&mut rig, bob, "gone", 0);
    rig.send(bob, &[0xa2, 8, 0, 2, 0, 4, b'g', b'o', b'n', b'e']);
    let alice = connect_v5(&mut rig, 0, "alice", false, 100);
    rig.speaks(alice, Version::V5);
    // A will with a delay of an hour.
    let carol = rig.open(0);
    let will = b"\x10\x20\0\x04MQTT\x05\x0c\0\0\x05\x11\0\0\x0e\x11\0\x01c\x05\x18\0\0\x0e\x10\0\x01w\0\x02by";
    rig.send(carol, will);
    rig.abort(carol);
    let put = |rig: &mut Rig, first: u8, topic: u8, id: u8, payload: &[u8]| {
        let mut packet = vec![first, 6 + payload.len() as u8, 0, 1, topic, 0, id, 0];
        packet.extend(payload);
        rig.send(alice, &packet);
    };
    put(&mut rig, 0x32, b't', 1, b"one");
    put(&mut rig, 0x34, b't', 2, b"two");
    put(&mut rig, 0x33, b'r', 3, b"retained");
    put(&mut rig, 0x32, b's', 4, b"shared");
    rig.send(bob, &[0x40, 2, 0, 1, 0x50, 2, 0, 2]);
    rig.abort(bob);
    put(&mut rig, 0x34, b't', 5, b"three");
    put(&mut rig, 0x32, b't', 6, b"four");
    for partition in 0..64 {
        rig.write_state(partition);
    }
    put(&mut rig, 0x32, b't', 7, b"five");
    let disk = rig.disk.as_ref().expect("kept");
    let mut lines = String::new();
    for (entry, body) in disk.durable.iter().flatten() {
        let kind = if entry.state { "state" } else { "entry" };
        let _ = write!(lines, "{kind} {} {} ", entry.partition, entry.index);
        for byte in body {
            let _ = write!(lines, "{byte:02x}");
        }
        lines.push('\n');
    }
    lines
}

/// A node whose disk has what the golden file says, and starts.
fn started() -> Rig {
    let mut rig = Rig::kept(1, Settings::default());
    let disk = rig.disk.as_mut().expect("kept");
    for line in GOLDEN.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, partition, index, hex] = words[..] else { panic!("four words: {line}") };
        let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
        let body: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        let partition = partition.parse().expect("a partition");
        let index = index.parse().expect("an index");
        let (state, end) = (kind == "state", body.len() as u32);
        if state {
            disk.states.insert(partition, (disk.durable.len(), index));
        }
        disk.durable.push(Some((Entry { partition, index, end, state }, body)));
    }
    rig.crash(1, 1_000);
    rig
}

fn kinds(rig: &mut Rig, client: Client) -> Vec<u8> {
    rig.packets(client).iter().map(|packet| packet[0]).collect()
}

#[test]
fn what_partitions_write_is_the_golden_records() {
    let written = written();
    for (nth, (now, golden)) in written.lines().zip(GOLDEN.lines()).enumerate() {
        assert_eq!(now, golden, "record {nth}");
    }
    assert_eq!(written.lines().count(), GOLDEN.lines().count());
}

#[test]
fn the_golden_records_are_read_as_what_they_were() {
    let mut rig = started();
    let bob = connect(&mut rig, 0, "bob", false);
    let packets = rig.packets(bob);
    assert_eq!(packets[0], [0x20, 2, 1, 0]);
    // Of before: a QoS 1 message of the group and a PUBREL; then what came since.
    let payload = |packet: &[u8]| String::from_utf8_lossy(&packet[7..]).into_owned();
    let messages = packets[1..].iter().filter(|packet| packet[0] >> 4 == 3);
    let messages: Vec<String> = messages.map(|packet| payload(packet)).collect();
    assert_eq!(messages, ["shared", "three", "four", "five"]);
    assert!(packets.iter().any(|packet| packet[..] == [0x62, 2, 0, 2]), "{packets:x?}");
    let new = connect(&mut rig, 0, "new", true);
    subscribe(&mut rig, new, "#", 1);
    let retained = rig.packets(new).into_iter().find(|packet| packet[0] & 0xf1 == 0x31);
    assert_eq!(payload(&retained.expect("it is retained")), "retained");
    rig.advance(3_601_000);
    let will = kinds(&mut rig, new);
    assert_eq!(will.len(), 1, "the will came when its hour was over");
}
