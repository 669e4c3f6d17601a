//! What a node that drains does with its clients: they go to the others, at a
//! pace, are told where to, and lose nothing.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use testkit::client::{
    Connect, DISCONNECT, PUBACK, Packet, Props, Publish, Value, Version, Will, ack, four, prop,
    read, subscribe,
};
use testkit::{Got, Raw};

use crate::rig::*;

/// Messages that are published while clients are on their way.
const MESSAGES: usize = 60;

/// How a client of the node that drains was ended, and what it was told.
#[derive(Clone, Debug, Eq, PartialEq)]
enum End {
    /// DISCONNECT with a reason, and where to.
    Told(u8, Option<String>),
    /// CONNACK with a code, and where to.
    Refused(u8, Option<String>),
    /// Without a word.
    Closed,
}

fn reference(props: &Props) -> Option<String> {
    match props.get(prop::SERVER_REFERENCE)? {
        Value::Text(text) => Some(text.clone()),
        other => panic!("a reference that is {other:?}"),
    }
}

/// A client that follows its server.
struct Client {
    connect: Connect,
    version: Version,
    /// Where it goes if it is told nothing.
    home: SocketAddr,
    else_at: SocketAddr,
    raw: Option<Raw>,
    got: BTreeSet<String>,
    ends: Vec<End>,
}

impl Client {
    fn new(version: Version, connect: Connect, home: SocketAddr, else_at: SocketAddr) -> Client {
        let (got, ends) = (BTreeSet::new(), Vec::new());
        Client { connect, version, home, else_at, raw: None, got, ends }
    }

    /// Connects where it is to, or where it is sent.
    fn enter(&mut self, mut at: SocketAddr) {
        let deadline = Instant::now() + PATIENCE;
        while self.raw.is_none() {
            assert!(Instant::now() < deadline, "it comes in nowhere: {:?}", self.ends);
            if TcpStream::connect(at).is_err() {
                at = self.else_at;
                continue;
            }
            let mut raw = Raw::open(at);
            raw.send(&self.connect.bytes());
            let Got::Packet(packet) = raw.recv() else { continue };
            let Packet::Connack(connack) = read(self.version, &packet) else {
                panic!("{packet:x?} in place of CONNACK");
            };
            if connack.code == 0 {
                self.raw = Some(raw);
                continue;
            }
            // A session whose partition is changing hands comes again.
            let busy = connack.code == 0x89 || connack.code == 3 && at != self.home;
            if !busy {
                let to = reference(&connack.props);
                at = to.as_ref().map_or(self.else_at, |to| to.parse().expect("an address"));
                self.ends.push(End::Refused(connack.code, to));
            }
        }
    }

    fn subscribe(&mut self, filter: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "it does not subscribe");
            let bytes = subscribe(self.version, 1, &Props::default(), &[(filter, 1)]);
            self.raw.as_mut().expect("it is in").send(&bytes);
            match self.raw.as_mut().expect("it is in").recv() {
                Got::Packet(packet) if packet[0] == 0x90 => return,
                _moved => {
                    self.raw = None;
                    self.enter(self.home);
                }
            }
        }
    }

    /// Takes what comes, going where it is sent, until `done`.
    fn follow(&mut self, mut done: impl FnMut(&Client) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{:?} {:?}", self.got.len(), self.ends);
            let raw = self.raw.as_mut().expect("it is in");
            let packet = match raw.recv_within(Duration::from_millis(200)) {
                Got::Silence => continue,
                Got::Closed => {
                    self.ends.push(End::Closed);
                    self.raw = None;
                    self.enter(self.home);
                    continue;
                }
                Got::Packet(packet) => packet,
            };
            match read(self.version, &packet) {
                Packet::Publish(publish) => {
                    if publish.qos > 0 {
                        raw.send(&ack(PUBACK, publish.id));
                    }
                    self.got.insert(publish.said());
                }
                Packet::Disconnect { reason, props, .. } => {
                    let to = reference(&props);
                    let at = to.as_ref().map_or(self.home, |to| to.parse().expect("an address"));
                    self.ends.push(End::Told(reason, to));
                    self.raw = None;
                    self.enter(at);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Publishes messages with QoS 1 until each is acknowledged.
fn publish_all(at: SocketAddr) -> JoinHandle<()> {
    spawn(move || {
        let connect = Connect::new(Version::V5, "publisher");
        let mut publisher = Client::new(Version::V5, connect, at, at);
        publisher.enter(at);
        for number in 0..MESSAGES {
            let publish = Publish::new("t", 1, format!("{number}").as_bytes()).id(7);
            until("it is acknowledged", || {
                let raw = publisher.raw.as_mut().expect("it is in");
                raw.send(&publish.bytes(Version::V5));
                match raw.recv() {
                    Got::Packet(packet) if packet[0] == 0x40 => Ok(()),
                    other => {
                        publisher.raw = None;
                        publisher.enter(at);
                        Err(format!("{other:?}"))
                    }
                }
            });
        }
    })
}

/// Three nodes that serve, the first with a cluster's pace of so many clients.
fn cluster(place: &Place, per_second: u32) -> Vec<Node> {
    let addresses = three_addresses();
    let mut nodes: Vec<Node> = three(place, "static", &addresses).into();
    for node in &mut nodes {
        let at = node.mqtt();
        node.add(&format!("advertise_clients = '{at}'\nreconnects_per_second = {per_second}"));
        node.drain_seconds(60);
        node.start();
    }
    nodes.iter_mut().for_each(|node| drop(node.sees_serving(3)));
    until("placed", || {
        let placed = nodes[0].show()?["partitions"]["placed"].clone();
        if placed == 64 { Ok(()) } else { Err(format!("{placed}")) }
    });
    nodes
}

/// A dozen clients of the first node: sessions that last, of both versions, and
/// clients of 5.0 without one, in this order.
fn crowd(nodes: &[Node]) -> Vec<Client> {
    let (home, else_at) = (nodes[0].mqtt(), nodes[1].mqtt());
    let client = |number: usize| {
        let id = format!("client-{number}");
        let (version, connect) = match number / 4 {
            0 => (Version::V5, Connect::lasting(Version::V5, &id)),
            1 => (Version::V311, Connect::lasting(Version::V311, &id)),
            _ => (Version::V5, Connect::new(Version::V5, &id)),
        };
        let mut client = Client::new(version, connect, home, else_at);
        client.enter(home);
        client.subscribe(if number < 8 { "t" } else { "nothing" });
        client
    };
    (0..12).map(client).collect()
}

fn clients_of(nodes: &[Node], of: usize) -> Result<u64, String> {
    let shown = nodes[of].show()?;
    let id = text(&shown["this"]["node"]);
    node_of(&shown, &id)["clients"].as_u64().ok_or_else(|| "not known".into())
}

#[test]
fn clients_of_a_node_that_drains_go_where_they_are_told_and_lose_nothing() {
    let place = Place::new();
    let nodes = cluster(&place, 40);
    let others: BTreeSet<String> = nodes[1..].iter().map(|node| node.mqtt().to_string()).collect();
    let crowd = crowd(&nodes);
    // Whoever is handed over has a will only if it stays away.
    let watches = Connect::new(Version::V5, "watches");
    let mut watches = Client::new(Version::V5, watches, nodes[1].mqtt(), nodes[2].mqtt());
    watches.enter(nodes[1].mqtt());
    watches.subscribe("will/#");
    let testator = |id: &str, expiry| {
        let connect = Connect::new(Version::V5, id).resume();
        let connect = connect.prop(four(prop::SESSION_EXPIRY, expiry));
        let connect = connect.will(Will::new(&format!("will/{id}"), id.as_bytes()).qos(1));
        let mut client = Client::new(Version::V5, connect, nodes[0].mqtt(), nodes[1].mqtt());
        client.enter(nodes[0].mqtt());
        client
    };
    let mut returns = testator("returns", 600);
    let stays_away = testator("stays-away", 0);
    until("14 clients are shown", || match clients_of(&nodes, 0)? {
        14 => Ok(()),
        other => Err(format!("{other}")),
    });

    let publishing = publish_all(nodes[1].mqtt());
    let following: Vec<JoinHandle<Client>> = crowd
        .into_iter()
        .enumerate()
        .map(|(number, mut client)| {
            let all = if number < 8 { MESSAGES } else { 0 };
            spawn(move || {
                let sent = |end: &End| !matches!(end, End::Told(0x89, _) | End::Refused(0x89, _));
                client.follow(|client| client.got.len() >= all && client.ends.iter().any(sent));
                client
            })
        })
        .collect();
    let returning = spawn(move || {
        returns.follow(|client| {
            client.ends.iter().any(|end| matches!(end, End::Told(0x9c, _) | End::Refused(0x9c, _)))
        });
        returns
    });
    let (good, said) = nodes[0].ask(&["node", "drain", "--wait"]);
    assert!(good, "{said}\n{}", nodes[0].said());
    assert!(said.contains("draining: 0 clients, 0 leaderships and 0 replicas to go"), "{said}");
    assert!(said.contains("64 replicas stay"), "{said}");
    publishing.join().expect("all are acknowledged");
    for (number, client) in following.into_iter().enumerate() {
        let client = client.join().expect("it has come through");
        let told = |end: &End| match end {
            End::Told(0x9c, Some(to)) | End::Refused(0x9c, Some(to)) => others.contains(to),
            _other => false,
        };
        match number / 4 {
            // A session whose partition was led here is closed before, and told
            // when it is back.
            0 => assert!(client.ends.iter().any(told), "{number}: {:?}", client.ends),
            1 => assert!(
                client
                    .ends
                    .iter()
                    .all(|end| { matches!(end, End::Closed | End::Refused(3, None)) }),
                "{number}: {:?}",
                client.ends
            ),
            _ => assert!(told(&client.ends[0]), "{number}: {:?}", client.ends),
        }
    }
    let returns = returning.join().expect("it has come through");
    drop(stays_away);
    watches.follow(|watches| watches.got.contains("stays-away"));
    assert_eq!(watches.got.len(), 1, "who is back has no will: {:?}", watches.got);
    drop(returns);

    let (good, shown) = nodes[1].ask(&["node", "show"]);
    assert!(
        good && shown.lines().next().is_some_and(|line| line.ends_with("CLIENTS  LAG")),
        "{shown}"
    );
    assert_eq!(shown.matches(env!("CARGO_PKG_VERSION")).count(), 3, "{shown}");
    let (status, told) = nodes[1].get("/metrics").expect("it answers");
    let series = |name: &str| told.lines().filter(|line| line.starts_with(name)).count();
    assert_eq!(status, 200);
    assert_eq!(series("tidegate_peer_bytes_total{"), 4, "two peers, two directions: {told}");
    assert_eq!(series("tidegate_peer_rtt_seconds{"), 2, "{told}");
    assert_eq!(series("tidegate_peer_send_buffer_bytes{"), 2, "{told}");
    assert_eq!(series("tidegate_cluster_partition_detected_total "), 1, "{told}");
    // Who leads the partitions of these sessions is by chance.
    let committed = |node: &Node| {
        let (_, told) = node.get("/metrics").expect("it answers");
        let line = told.lines().find(|of| of.starts_with("tidegate_replication_ack_seconds_count"));
        line.is_some_and(|line| !line.ends_with(" 0"))
    };
    assert!(nodes[1..].iter().any(committed), "{told}");

    // Nobody new comes in until it may serve again.
    let mut late = Raw::open(nodes[0].mqtt());
    late.send(&Connect::new(Version::V311, "late").bytes());
    assert_eq!(late.recv(), Got::Packet(vec![0x20, 2, 0, 3]));
    let (good, said) = nodes[0].ask(&["node", "undrain"]);
    assert!(good, "{said}");
    until("clients are welcome", || {
        let mut raw = Raw::open(nodes[0].mqtt());
        raw.send(&Connect::new(Version::V311, "late").bytes());
        match raw.recv() {
            Got::Packet(packet) if packet == [0x20, 2, 0, 0] => {
                raw.send(&DISCONNECT);
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn clients_of_a_node_that_is_stopped_are_told_where_to_go() {
    let place = Place::new();
    let mut nodes = cluster(&place, 1_000);
    let mut crowd = crowd(&nodes);
    let others: BTreeSet<String> = nodes[1..].iter().map(|node| node.mqtt().to_string()).collect();
    until("a dozen clients are shown", || match clients_of(&nodes, 0)? {
        12 => Ok(()),
        other => Err(format!("{other}")),
    });
    let ends = crowd.split_off(8).into_iter().map(|mut client| {
        spawn(move || {
            client.follow(|client| !client.ends.is_empty());
            client
        })
    });
    let ends: Vec<_> = ends.collect();
    assert_eq!(nodes[0].terminate(), Some(0), "{}", nodes[0].said());
    for client in ends {
        let client = client.join().expect("it has come through");
        let told = matches!(&client.ends[0], End::Told(0x9c, Some(to)) if others.contains(to));
        assert!(told, "{:?}", client.ends);
    }
    // Sessions that last are where their clients go.
    for mut client in crowd {
        let end = loop {
            match client.raw.as_mut().expect("it is in").recv() {
                Got::Packet(packet) if packet[0] == 0xe0 => break packet[2],
                Got::Closed => break 0,
                Got::Packet(_) => {}
                Got::Silence => panic!("it is told nothing"),
            }
        };
        assert!(client.version.is_5() == (end != 0), "{end:#x}");
        client.raw = None;
        client.home = client.else_at;
        client.enter(client.else_at);
    }
}
