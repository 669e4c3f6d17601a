//! What a cluster does when nodes come and go: replicas and leaderships move.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use testkit::{Got, Raw};

use crate::rig::*;

/// For 48 replicas to move, two at a time, on a machine that is busy.
const MOVES_PATIENCE: Duration = Duration::from_secs(400);

fn leads(node: &Node) -> Result<usize, String> {
    Ok(node.replicas()?.iter().filter(|replica| replica["role"] == "leader").count())
}

/// Replicas of each node by the metadata, when nothing moves.
fn settled(node: &Node) -> Result<BTreeMap<String, u64>, String> {
    let shown = node.show()?;
    let partitions = &shown["partitions"];
    if partitions["moving"] != 0 || partitions["placed"] != 64 {
        return Err(format!("{partitions}"));
    }
    let nodes = shown["nodes"].as_array().expect("a list");
    let held = nodes.iter().map(|node| (text(&node["node"]), node["partitions"].as_u64()));
    Ok(held.map(|(node, held)| (node, held.expect("a number"))).collect())
}

/// Waits until every partition is led by the first of its replicas.
fn led_as_wanted(nodes: &[Node]) {
    until("each partition is led by its first replica", || {
        let (good, said) = nodes[0].ask(&["partition", "show", "--json"]);
        let shown: Value = serde_json::from_str(&said).map_err(|error| format!("{error}"))?;
        let mut led = BTreeMap::new();
        for node in nodes {
            let id = text(&node.show()?["this"]["node"]);
            for replica in node.replicas()?.iter().filter(|replica| replica["role"] == "leader") {
                led.insert(replica["partition"].as_u64().expect("a number"), id.clone());
            }
        }
        let wanted = shown["partitions"].as_array().expect("a list").iter().map(|partition| {
            let number = partition["partition"].as_u64().expect("a number");
            (number, text(&partition["preferred"]))
        });
        let others = wanted.filter(|(number, node)| led.get(number) != Some(node)).count();
        if good && others == 0 { Ok(()) } else { Err(format!("{others} are led elsewhere")) }
    });
}

/// With a session that outlives the connection by an hour.
fn connect(at: SocketAddr, id: &str) -> Result<Raw, String> {
    connect_for(at, id, [0x0e, 0x10])
}

fn connect_for(at: SocketAddr, id: &str, expiry: [u8; 2]) -> Result<Raw, String> {
    // It may be starting again.
    TcpStream::connect(at).map_err(|error| error.to_string())?;
    let mut raw = Raw::open(at);
    let mut packet = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 0, 0, 60, 5, 0x11, 0, 0];
    packet.extend(expiry);
    packet.extend([0, id.len() as u8]);
    packet.extend(id.as_bytes());
    let mut bytes = vec![0x10, packet.len() as u8];
    bytes.extend(packet);
    raw.send(&bytes);
    match raw.recv() {
        Got::Packet(connack) if connack[0] == 0x20 && connack[3] == 0 => Ok(raw),
        other => Err(format!("{other:?}")),
    }
}

/// Publishes with QoS 1 until it is acknowledged: a leader may be changing.
fn publish(at: SocketAddr, payload: &str) {
    let body = [&[0, 1, b't', 0, 1, 0][..], payload.as_bytes()].concat();
    let packet = [&[0x32, body.len() as u8][..], &body].concat();
    until("it is acknowledged", || {
        let mut raw = connect(at, "publisher")?;
        raw.send(&packet);
        match raw.recv() {
            Got::Packet(puback) if puback[0] == 0x40 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn a_node_that_joins_gets_its_share_and_one_that_leaves_gives_it_back() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes: Vec<Node> = three(&place, "static", &addresses).into();
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(|node| drop(node.sees_serving(3)));
    until("placed", || settled(&nodes[0]));

    // A session with messages, and nobody connected.
    let subscribed = until("it has subscribed", || {
        let mut raw = connect(nodes[0].mqtt(), "session")?;
        raw.send(&[0x82, 7, 0, 1, 0, 0, 1, b't', 1]);
        match raw.recv() {
            Got::Packet(suback) if suback[0] == 0x90 => Ok(raw),
            other => Err(format!("{other:?}")),
        }
    });
    drop(subscribed);
    for number in 0..20 {
        publish(nodes[1].mqtt(), &format!("before {number:02}"));
    }

    let address = format!("127.0.0.4:{}", free_port("127.0.0.4"));
    let list = addresses.each_ref().map(|address| format!("'{address}'")).join(", ");
    let table = format!(
        "name = 'test'\nbind = '{address}'\ndiscovery = [{list}]\n\
         secret = 'a secret of the test'"
    );
    let mut fourth = Node::new(&place, "node-3", "127.0.0.4", &table);
    fourth.start();
    fourth.sees_serving(4);
    assert_eq!(settled(&fourth).expect("nothing moves yet").values().min(), Some(&0));
    let (good, said) = fourth.ask(&["cluster", "rebalance"]);
    assert!(good, "{said}");
    let held = until_within("all four have 48 replicas", MOVES_PATIENCE, || {
        nodes.iter_mut().for_each(Node::supervise);
        let held = settled(&nodes[1])?;
        let balanced = held.values().all(|held| *held == 48);
        if balanced { Ok(held) } else { Err(format!("{held:?}\n{}", fourth.said())) }
    });
    assert_eq!(held.len(), 4);
    nodes.push(fourth);
    until("each has what it should have, and no more", || {
        let open: Result<Vec<_>, _> =
            nodes.iter().map(|node| node.replicas().map(|open| open.len())).collect();
        let open = open?;
        if open == [48; 4] { Ok(()) } else { Err(format!("{open:?}")) }
    });
    nodes[0].says("its records were given back");
    led_as_wanted(&nodes);

    // One of the first nodes is emptied, by way of the newcomer's replicas.
    let first = text(&nodes[0].show().expect("it answers")["this"]["node"]);
    let (good, said) = nodes[3].ask(&["cluster", "leave", "--node", &first]);
    assert!(good, "{said}");
    until_within("it has left", MOVES_PATIENCE, || {
        let shown = nodes[3].show()?;
        if states(&shown, "left").contains(&first) { Ok(()) } else { Err(format!("{shown:#}")) }
    });
    nodes[0].kill();
    for number in 0..20 {
        publish(nodes[2].mqtt(), &format!("after {number:02}"));
    }
    let mut got = Vec::new();
    until("all 40 are there", || {
        let mut raw = connect(nodes[3].mqtt(), "session")?;
        got.clear();
        while got.len() < 40 {
            match raw.recv() {
                // Its flags may say that it was sent before.
                Got::Packet(publish) if publish[0] & 0xf0 == 0x30 => {
                    let payload = String::from_utf8_lossy(&publish[8..]).into_owned();
                    raw.send(&[0x40, 2, publish[5], publish[6]]);
                    got.push(payload);
                }
                other => return Err(format!("{got:?}, then {other:?}")),
            }
        }
        Ok(())
    });
    got.dedup();
    let all = ["before", "after"].iter();
    let all = all.flat_map(|when| (0..20).map(move |number| format!("{when} {number:02}")));
    assert!(all.into_iter().all(|wanted| got.contains(&wanted)), "{got:?}");
}

#[test]
fn a_node_that_is_stopped_hands_its_leaderships_over_first() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes: Vec<Node> = three(&place, "static", &addresses).into();
    for node in &mut nodes {
        // It ends as soon as nothing is left to hand over, however slow that is.
        node.drain_seconds(2 * PATIENCE.as_secs() as u32);
        node.start();
    }
    nodes.iter_mut().for_each(|node| drop(node.sees_serving(3)));
    until("placed", || settled(&nodes[0]));
    led_as_wanted(&nodes);
    assert!(leads(&nodes[0]).expect("it answers") >= 20);

    assert_eq!(nodes[0].terminate(), Some(0), "{}", nodes[0].said());
    assert!(!nodes[0].said().contains("some partitions are still led here"));
    until("the others lead all of them", || {
        let led = leads(&nodes[1])? + leads(&nodes[2])?;
        if led == 64 { Ok(()) } else { Err(format!("{led} are led")) }
    });
    // When it is back it leads again what it should.
    nodes[0].start();
    nodes.iter_mut().for_each(|node| drop(node.sees_serving(3)));
    led_as_wanted(&nodes);

    // One that is drained leads nothing, and has its replicas still: there are
    // no more than three nodes.
    let (good, said) = nodes[2].ask(&["node", "drain"]);
    assert!(good, "{said}");
    until("it leads nothing", || match (leads(&nodes[2])?, nodes[2].replicas()?.len()) {
        (0, 64) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let (good, said) = nodes[2].ask(&["node", "undrain"]);
    assert!(good, "{said}");
    led_as_wanted(&nodes);
}

#[test]
fn a_node_that_is_cut_off_closes_its_clients_until_it_is_back() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes: Vec<Node> = three(&place, "static", &addresses).into();
    nodes.iter_mut().for_each(Node::start);
    nodes.iter_mut().for_each(|node| drop(node.sees_serving(3)));
    until("placed", || settled(&nodes[0]));
    until("three voters", || {
        let voters = nodes[0].show()?["meta"]["voters"].as_array().map_or(0, Vec::len);
        if voters == 3 { Ok(()) } else { Err(format!("{voters}")) }
    });
    // A durable one would lose its partition's leader, and be told so, before.
    let mut client = until("it connects", || connect_for(nodes[0].mqtt(), "client", [0, 0]));
    nodes[1].kill();
    nodes[2].kill();
    until("it is told", || match client.recv() {
        Got::Packet(packet) if packet[0] == 0xe0 && packet[2] == 0x9c => Ok(()),
        Got::Silence => Err("nothing yet".into()),
        other => panic!("{other:?}"),
    });
    // Shorter than a broker waits for a CONNECT.
    let silent = |node: &Node| Raw::open(node.mqtt()).recv_within(Duration::from_secs(3));
    assert_eq!(silent(&nodes[0]), Got::Closed, "nobody new comes in");
    nodes[1].start();
    nodes[2].start();
    until("it is ready again", || {
        nodes[0].supervise();
        match nodes[0].get("/readyz") {
            Some((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(silent(&nodes[0]), Got::Silence, "who is ready lets clients in");
    until("it serves again", || {
        nodes[0].supervise();
        connect_for(nodes[0].mqtt(), "client", [0, 0]).map(drop)
    });
}
