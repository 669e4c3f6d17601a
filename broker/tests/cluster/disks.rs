//! Disks of a cluster's nodes that are lost, one after the other.

use std::net::TcpStream;

use serde_json::Value;
use testkit::{Got, Raw};

use crate::rig::*;

/// Votes of the metadata, and replicas of each node.
fn shares(shown: &Value) -> (usize, Vec<u64>) {
    let voters = shown["meta"]["voters"].as_array().map_or(0, Vec::len);
    let nodes = shown["nodes"].as_array().expect("a list");
    (voters, nodes.iter().filter_map(|node| node["partitions"].as_u64()).collect())
}

/// Sends a packet on a connection of its own, until the answer begins so.
fn ask(node: &Node, what: &str, packet: &[u8], answer: u8) -> Vec<u8> {
    until(what, || {
        // It may be starting again.
        TcpStream::connect(node.mqtt()).map_err(|error| error.to_string())?;
        let mut raw = Raw::open(node.mqtt());
        raw.send(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c");
        match raw.recv() {
            Got::Packet(connack) if connack[..] == [0x20, 2, 0, 0] => {}
            other => return Err(format!("{other:?}")),
        }
        raw.send(packet);
        loop {
            match raw.recv() {
                Got::Packet(got) if got[0] == answer => return Ok(got),
                Got::Packet(_) => {}
                other => return Err(format!("{other:?}")),
            }
        }
    })
}

#[test]
fn a_second_disk_may_be_wiped_as_soon_as_the_first_node_serves_again() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes = three(&place, "static", &addresses);
    nodes.iter_mut().for_each(Node::start);
    let before = all_serve(&mut nodes);
    let first: Vec<String> = before.iter().map(|shown| text(&shown["this"]["node"])).collect();
    until("three votes", || match shares(&nodes[0].show()?) {
        (3, shares) if shares == [64; 3] => Ok(()),
        other => Err(format!("{other:?}")),
    });
    // A retained message, acknowledged.
    ask(&nodes[2], "it is acknowledged", b"\x33\x06\x00\x01t\x00\x01x", 0x40);

    for wiped in [1, 0, 2] {
        nodes[wiped].kill();
        std::fs::remove_dir_all(nodes[wiped].data()).expect("it was there");
        nodes[wiped].start();
        let shown = all_serve(&mut nodes);
        let serving = states(&shown[wiped], "serving");
        assert!(!serving.contains(&first[wiped]), "{:#}", shown[wiped]);
        assert_eq!(shares(&shown[wiped]), (3, vec![64; 3]), "{:#}", shown[wiped]);
    }
    // None of the first disks is there any more.
    let got = ask(&nodes[0], "it is kept", b"\x82\x06\x00\x01\x00\x01t\x00", 0x31);
    assert!(got.ends_with(b"x"), "{got:?}");
}
