//! A node that was alone becomes a cluster of three with what it has kept.

use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use testkit::client::{Client, Connect, Version, Will};
use testkit::{Got, QUIET, Raw};

use crate::rig::*;

/// For 128 replicas to come, on a machine that is busy.
const GROWN_PATIENCE: Duration = Duration::from_secs(400);

fn ready(node: &Node) {
    until("ready", || match node.get("/readyz") {
        Some((200, _)) => Ok(()),
        other => Err(format!("{other:?}\n{}", node.said())),
    });
}

fn lasting(at: SocketAddr, id: &str) -> Client {
    Connect::lasting(Version::V311, id).open(at)
}

/// What a broker alone has, of each kind.
fn fill(at: SocketAddr) {
    for n in 0..12 {
        let mut sleeper = lasting(at, &format!("sleeper{n}"));
        sleeper.subscribe("t", 2);
        sleeper.leave();
    }
    for member in ["m1", "m2"] {
        let mut member = lasting(at, member);
        member.subscribe("$share/g/s", 1);
        member.leave();
    }
    let mut watcher = lasting(at, "watcher");
    watcher.subscribe("w", 1);
    watcher.leave();
    let mut publisher = lasting(at, "publisher");
    for n in 0..20 {
        publisher.publish("t", 1 + n % 2, format!("message {n:02}").as_bytes());
    }
    for n in 0..6 {
        publisher.publish("s", 1, format!("shared {n}").as_bytes());
    }
    for n in 0..10 {
        publisher.retain(&format!("r/{n}"), 1, b"retained");
    }
    // PUBREC has come, PUBREL is owed: 0x7777 is this message until then.
    let mut halfway = lasting(at, "halfway");
    halfway.send(b"\x34\x0c\x00\x01t\x77\x77halfway");
    assert_eq!(halfway.recv_bytes(), [0x50, 2, 0x77, 0x77]);
    halfway.leave();
    // One with a message in flight that it has got and not acknowledged.
    let mut sleeper = lasting(at, "sleeper0");
    assert_eq!(sleeper.message().payload, b"message 00");
    sleeper.lose();
    // Whose connection ends with the process.
    let will = Will::new("w", b"the will").qos(1);
    let willing = Connect::lasting(Version::V311, "willing").will(will).open(at);
    std::mem::forget(willing);
}

/// A connection of a session that is there; as long as leaders change it may be
/// refused, or closed.
fn resumed(at: SocketAddr, id: &str) -> Result<Raw, String> {
    TcpStream::connect(at).map_err(|error| error.to_string())?;
    let mut raw = Raw::open(at);
    raw.send(&Connect::lasting(Version::V311, id).bytes());
    match raw.recv() {
        Got::Packet(connack) if connack[..] == [0x20, 2, 1, 0] => Ok(raw),
        Got::Packet(connack) if connack[..] == [0x20, 2, 0, 0] => {
            panic!("{id}: its session is gone")
        }
        other => Err(format!("{other:?}")),
    }
}

/// Takes what waits for a session, until `count` messages have come; none comes
/// behind. First bytes without DUP, and payloads.
fn drained(at: SocketAddr, id: &str, count: usize) -> Vec<(u8, String)> {
    let mut all: Vec<(u8, u16, String)> = Vec::new();
    until(id, || {
        let mut raw = resumed(at, id)?;
        loop {
            let wait = if all.len() < count { testkit::PATIENCE } else { 2 * QUIET };
            match raw.recv_within(wait) {
                Got::Packet(p) if p[0] & 0xf0 == 0x30 => {
                    let topic = usize::from(p[3]);
                    let (id, text) = (&p[4 + topic..6 + topic], &p[6 + topic..]);
                    let number = u16::from_be_bytes([id[0], id[1]]);
                    let text = String::from_utf8_lossy(text).into_owned();
                    let answer = if p[0] & 0x06 == 0x04 { 0x50 } else { 0x40 };
                    // A connection that broke may bring it again, under its id.
                    let one = (p[0] & !0x08, number, text);
                    if !(p[0] & 0x08 != 0 && all.contains(&one)) {
                        all.push(one);
                    }
                    raw.send(&[answer, 2, id[0], id[1]]);
                }
                Got::Packet(p) if p[0] == 0x62 => raw.send(&[0x70, 2, p[2], p[3]]),
                Got::Packet(_) => {}
                Got::Closed => return Err("it was closed".into()),
                Got::Silence if all.len() >= count => return Ok(()),
                Got::Silence => return Err(format!("{} of {count} came: {all:?}", all.len())),
            }
        }
    });
    all.into_iter().map(|(first, _, text)| (first, text)).collect()
}

/// All of it is there, at this node.
fn has_all(at: SocketAddr, sleepers: impl Iterator<Item = usize>) {
    for n in sleepers {
        let mut wanted: Vec<(u8, String)> = (0..20)
            .map(|n| (if n % 2 == 0 { 0x32 } else { 0x34 }, format!("message {n:02}")))
            .collect();
        wanted.push((0x34, "halfway".into()));
        // By QoS in order; between them there is none.
        let mut came = drained(at, &format!("sleeper{n}"), wanted.len());
        came.sort_by_key(|(first, _)| *first);
        wanted.sort_by_key(|(first, _)| *first);
        assert_eq!(came, wanted, "sleeper{n}");
    }
}

/// What can be asked for once.
fn has_the_rest(at: SocketAddr) {
    // The id is the same message: it is not sent out again.
    until("the PUBREL is answered", || {
        let mut raw = resumed(at, "halfway")?;
        raw.send(b"\x3c\x0c\x00\x01t\x77\x77halfway");
        raw.send(b"\x62\x02\x77\x77");
        for wanted in [[0x50, 2, 0x77, 0x77], [0x70, 2, 0x77, 0x77]] {
            match raw.recv() {
                Got::Packet(got) if got[..] == wanted => {}
                other => return Err(format!("{other:?} for {wanted:?}")),
            }
        }
        Ok(())
    });
    let mut shared = Vec::new();
    until("the group's messages", || {
        for member in ["m1", "m2"] {
            let mut raw = resumed(at, member)?;
            while let Got::Packet(p) = raw.recv_within(4 * QUIET) {
                if p[0] & 0xf0 == 0x30 {
                    let text = String::from_utf8_lossy(&p[7..]).into_owned();
                    if !shared.contains(&text) {
                        shared.push(text);
                    }
                    raw.send(&[0x40, 2, p[5], p[6]]);
                }
            }
        }
        if shared.len() == 6 { Ok(()) } else { Err(format!("{shared:?}")) }
    });
    let wills = drained(at, "watcher", 1);
    assert_eq!(wills, [(0x32, "the will".to_owned())], "once");
    until("retained messages", || {
        let mut raw = Raw::open(at);
        raw.send(&Connect::new(Version::V311, "reader").bytes());
        raw.send(b"\x82\x08\x00\x01\x00\x03r/#\x00");
        let mut topics = Vec::new();
        while let Got::Packet(p) = raw.recv_within(4 * QUIET) {
            if p[0] == 0x31 {
                topics.push(p[6]);
            }
        }
        topics.sort_unstable();
        if topics == *b"0123456789" { Ok(()) } else { Err(format!("{topics:?}")) }
    });
}

fn single(address: &str) -> String {
    format!(
        "name = 'test'\nbind = '{address}'\nbootstrap = 'single'\nsecret = 'a secret of the test'"
    )
}

/// Joins whom the first one has founded.
fn joins(address: &str, first: &str) -> String {
    format!(
        "name = 'test'\nbind = '{address}'\ndiscovery = ['{first}']\n\
         secret = 'a secret of the test'"
    )
}

/// Two fresh nodes join; ends when each partition has three replicas.
fn grows(nodes: &mut [Node; 3]) {
    nodes[1].start();
    nodes[2].start();
    all_serve(nodes);
    let (good, said) = nodes[0].ask(&["cluster", "rebalance"]);
    assert!(good, "{said}");
    until_within("three replicas of each partition", GROWN_PATIENCE, || {
        nodes.iter_mut().for_each(Node::supervise);
        for node in nodes.iter() {
            let voters = node.replicas()?;
            let whole = voters.iter().filter(|r| r["role"] == "leader" || r["role"] == "follower");
            let count = whole.count();
            if count != 64 {
                return Err(format!("{count} of 64"));
            }
        }
        let shown = nodes[0].show()?;
        let partitions = &shown["partitions"];
        let voters = shown["meta"]["voters"].as_array().map_or(0, Vec::len);
        if partitions["moving"] == 0 && voters == 3 { Ok(()) } else { Err(format!("{shown:#}")) }
    });
}

fn nodes(place: &Place, addresses: &[String; 3]) -> [Node; 3] {
    let node = |at: usize, table: &str| {
        let host = addresses[at].split(':').next().expect("a host");
        Node::new(place, &format!("node-{at}"), host, table)
    };
    let joins = |at: usize| joins(&addresses[at], &addresses[0]);
    [node(0, ""), node(1, &joins(1)), node(2, &joins(2))]
}

/// A node alone with data, that has ended.
fn filled(node: &mut Node, kill: bool) {
    node.start();
    ready(node);
    fill(node.mqtt());
    if kill {
        node.kill();
    } else {
        assert_eq!(node.terminate(), Some(0), "{}", node.said());
    }
}

#[test]
fn one_that_was_stopped_grows_to_three_and_may_be_killed_then() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes = nodes(&place, &addresses);
    filled(&mut nodes[0], false);
    nodes[0].configure(&single(&addresses[0]));
    nodes[0].start();
    ready(&nodes[0]);
    grows(&mut nodes);
    // At another node than the one that had it; and when that is dead.
    has_all(nodes[1].mqtt(), 0..4);
    nodes[0].kill();
    has_all(nodes[2].mqtt(), 4..12);
    has_the_rest(nodes[1].mqtt());

    // There is no way back.
    nodes[0].configure("");
    nodes[0].start();
    nodes[0].says("that of a node of a cluster, and there is no cluster.name");
}

#[test]
fn one_that_was_killed_and_is_killed_while_it_becomes_a_cluster_loses_nothing() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes = nodes(&place, &addresses);
    filled(&mut nodes[0], true);
    nodes[0].configure(&single(&addresses[0]));
    // Wherever it is just then.
    for ms in [20, 60, 100, 150, 200, 300, 400, 600, 900, 1_300] {
        nodes[0].start();
        sleep(Duration::from_millis(ms));
        nodes[0].kill();
    }
    nodes[0].start();
    ready(&nodes[0]);
    has_all(nodes[0].mqtt(), 0..3);
    grows(&mut nodes);
    nodes[0].kill();
    has_all(nodes[1].mqtt(), 3..12);
    has_the_rest(nodes[2].mqtt());
}

#[test]
fn of_a_list_the_one_with_data_founds_and_the_others_join_it() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes = nodes(&place, &addresses);
    // Not the smallest address.
    let mut last = Node::new(&place, "node-2", "127.0.0.3", "");
    filled(&mut last, true);
    drop(last);
    for (at, node) in nodes.iter_mut().enumerate() {
        node.configure(&table("static", &addresses, at));
        node.start();
    }
    all_serve(&mut nodes);
    nodes[2].says("this node founds the cluster");
    nodes[2].says("what this node has kept alone is the cluster's");
    nodes.iter().for_each(ready);
    has_all(nodes[0].mqtt(), 0..6);
    has_the_rest(nodes[1].mqtt());
}

#[test]
fn a_second_node_with_data_of_its_own_is_refused_and_keeps_it() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes = nodes(&place, &addresses);
    let mut other = Node::new(&place, "node-1", "127.0.0.2", "");
    filled(&mut other, true);
    drop(other);
    filled(&mut nodes[0], true);
    nodes[0].configure(&single(&addresses[0]));
    nodes[0].start();
    ready(&nodes[0]);
    nodes[1].start();
    nodes[1].says("cannot join cluster");
    nodes[1].says("two sets of data cannot be made one");
    nodes[1].says("set node.data_dir to an empty directory");
    assert_eq!(nodes[1].ends(), Some(1));
    let shown = nodes[0].show().expect("it answers");
    assert_eq!(shown["nodes"].as_array().map(Vec::len), Some(1), "nobody came in");
    // Alone it goes on as before.
    nodes[1].configure("");
    nodes[1].start();
    ready(&nodes[1]);
    has_all(nodes[1].mqtt(), 0..1);

    // Neither of two founds when both have data. (Whom a busy machine keeps silent is waited for.)
    let mut third = Node::new(&place, "node-2", "127.0.0.3", "");
    filled(&mut third, true);
    nodes[1].kill();
    let list = &three_addresses()[1..];
    nodes[1].configure(&table("init", list, 0));
    third.configure(&table("init", list, 1));
    nodes[1].start();
    third.start();
    until("it is asked", || {
        let (good, said) = nodes[1].ask(&["cluster", "init"]);
        if good { Ok(()) } else { Err(said) }
    });
    nodes[1].says("both have kept data of their own");
    assert!(nodes[1].show().expect("it answers")["cluster"].is_null());
}
