//! Queues of clients that are away, in a cluster: on the disk of each replica,
//! through a snapshot, the end of a node and a client that comes back elsewhere.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};

use testkit::client::{Connect, PUBACK, Publish, Version, ack};
use testkit::{Got, Raw};

use crate::rig::*;

/// More entries than a partition applies without a snapshot.
const MESSAGES: usize = 8_600;
/// In the log behind the snapshot.
const LATER: usize = 300;

/// A message with its number in front, of 1 to 4 KiB.
fn payload(n: usize) -> Vec<u8> {
    let mut payload = format!("{n:08}").into_bytes();
    payload.resize(1_024 + n * 7_919 % 3_072, b'.');
    payload
}

fn ready(nodes: &[Node; 3]) {
    for node in nodes {
        until("ready", || match node.get("/readyz") {
            Some((200, _)) => Ok(()),
            other => Err(format!("{other:?}\n{}", node.said())),
        });
    }
}

/// The bytes of the largest snapshot of a partition of a node.
fn snapshot(node: &Node) -> u64 {
    let Ok(files) = fs::read_dir(node.data().join("snapshots")) else { return 0 };
    let whole = files.flatten().filter(|f| f.path().extension().is_some_and(|e| e == "snapshot"));
    whole.filter_map(|file| Some(file.metadata().ok()?.len())).max().unwrap_or(0)
}

/// Bytes of messages that were read back.
const READ: &str = "tidegate_storage_bytes_total{op=\"read\"}";

/// A number of the metrics page.
fn metric(node: &Node, name: &str) -> u64 {
    let (_, page) = node.get("/metrics").expect("it answers");
    let line =
        page.lines().find(|line| line.strip_prefix(name).is_some_and(|l| l.starts_with(' ')));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    value.unwrap_or_else(|| panic!("{name} in\n{page}")) as u64
}

#[expect(clippy::print_stdout, reason = "what it takes is told, and not judged")]
fn report(when: &str, nodes: &[Node; 3]) {
    let of = |name| nodes.each_ref().map(|node| metric(node, name));
    let (rss, reads) = (of("process_resident_memory_bytes"), of(READ));
    println!(
        "{when}: resident {rss:?}, read back {reads:?}, snapshots {:?}",
        nodes.each_ref().map(snapshot)
    );
}

/// A connection; as long as leaders change it may be refused, or closed.
fn connected(at: SocketAddr, connect: &Connect, present: u8) -> Raw {
    until("it is connected", || {
        TcpStream::connect(at).map_err(|error| error.to_string())?;
        let mut raw = Raw::open(at);
        raw.send(&connect.bytes());
        match raw.recv() {
            Got::Packet(connack) if connack[..] == [0x20, 2, present, 0] => Ok(raw),
            Got::Packet(connack) if connack[..2] == [0x20, 2] && connack[3] == 0 => {
                panic!("session present: {}", connack[2])
            }
            other => Err(format!("{other:?}")),
        }
    })
}

/// Publishes until each is acknowledged; those that had to be sent again.
fn publish(at: SocketAddr, numbers: std::ops::Range<usize>) -> BTreeSet<usize> {
    let connect = Connect::new(Version::V311, "publisher");
    let mut raw = connected(at, &connect, 0);
    let mut again = BTreeSet::new();
    for n in numbers {
        let id = 1 + (n % 60_000) as u16;
        let mut message = Publish::new("t", 1, &payload(n)).id(id);
        raw.send(&message.bytes(Version::V311));
        while raw.recv() != Got::Packet(ack(PUBACK, id)) {
            raw = connected(at, &connect, 0);
            again.insert(n);
            message = message.dup();
            raw.send(&message.bytes(Version::V311));
        }
    }
    again
}

/// Takes what waits for a session: all of these in order, none twice but where
/// its acknowledgement or the publisher's was lost.
fn take(at: SocketAddr, numbers: std::ops::Range<usize>, again: &BTreeSet<usize>) {
    let connect = Connect::lasting(Version::V311, "sleeper").resume();
    let mut raw = connected(at, &connect, 1);
    let mut next = numbers.start;
    while next < numbers.end {
        let Got::Packet(packet) = raw.recv() else {
            raw = connected(at, &connect, 1);
            continue;
        };
        assert_eq!(packet[0] & !0x08, 0x32, "QoS 1");
        let length = packet[1..].iter().position(|byte| byte & 0x80 == 0).expect("a length") + 1;
        let body = &packet[1 + length..];
        assert_eq!(&body[..3], b"\x00\x01t");
        raw.send(&[0x40, 2, body[3], body[4]]);
        let n: usize = String::from_utf8_lossy(&body[5..13]).parse().expect("a number");
        assert!(body[5..] == payload(n), "{n} is another");
        if n < next {
            assert!(packet[0] & 0x08 != 0 || again.contains(&n), "{n} once more");
            continue;
        }
        assert_eq!(n, next, "the next");
        next += 1;
    }
}

#[test]
fn a_queue_lies_on_every_replicas_disk_and_comes_whole_and_in_order_elsewhere() {
    let (place, addresses) = (Place::new(), three_addresses());
    let mut nodes = three(&place, "static", &addresses);
    let limits = "[limits]\nqueue_messages_max = 100000\nqueue_bytes_max = 268435456";
    nodes.iter_mut().for_each(|node| node.add(limits));
    nodes.iter_mut().for_each(Node::start);
    all_serve(&mut nodes);
    ready(&nodes);
    let mut sleeper = connected(nodes[0].mqtt(), &Connect::lasting(Version::V311, "sleeper"), 0);
    sleeper.send(b"\x82\x06\x00\x01\x00\x01t\x01");
    assert_eq!(sleeper.recv(), Got::Packet(b"\x90\x03\x00\x01\x01".to_vec()));
    drop(sleeper);
    report("before", &nodes);

    let mut again = publish(nodes[1].mqtt(), 0..MESSAGES);
    let bytes: usize = (0..MESSAGES).map(|n| payload(n).len()).sum();
    // Nearly all of them; the records have more than the payloads.
    until("a snapshot at each node", || {
        let snapshots = nodes.each_ref().map(snapshot);
        match snapshots.iter().all(|&found| found > bytes as u64 * 9 / 10) {
            true => Ok(()),
            false => Err(format!("{snapshots:?} of {bytes}")),
        }
    });
    again.append(&mut publish(nodes[1].mqtt(), MESSAGES..MESSAGES + LATER));
    report("with the queue", &nodes);
    for node in &nodes {
        assert_eq!(metric(node, READ), 0, "nobody has asked for it");
    }

    // Who of them led the queue is not said: each is killed once.
    for killed in [2, 0, 1] {
        nodes[killed].kill();
        nodes[killed].start();
        all_serve(&mut nodes);
        ready(&nodes);
    }
    report("after each was killed", &nodes);

    take(nodes[2].mqtt(), 0..MESSAGES + LATER, &again);
    let read: u64 = nodes.iter().map(|node| metric(node, READ)).sum();
    assert!(read > bytes as u64, "{read}: it came from the disk");
    report("after it came back", &nodes);
    // And what is new comes behind it.
    again.append(&mut publish(nodes[0].mqtt(), MESSAGES + LATER..MESSAGES + LATER + 1));
    take(nodes[2].mqtt(), MESSAGES + LATER..MESSAGES + LATER + 1, &again);
}
