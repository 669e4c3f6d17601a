//! Random clients at nodes that come and go, and checks of what they were
//! promised: nothing acknowledged is lost, QoS 2 comes once, a session that was
//! there is there, of a will one message and none after a clean DISCONNECT, and
//! of retained messages the last acknowledged one or a later one.
//!
//! `REPLICAS_SEEDS` sets how many seeds are run (default 40), `REPLICAS_FIRST`
//! the first of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_core::ids::PARTITIONS;
use tidegate_core::limits::Limits;
use tidegate_core::settings::Settings;

use crate::cluster::{Cluster, publish};
use crate::rig::Client;

const NODES: usize = 3;
const SUBSCRIBERS: usize = 4;
const PUBLISHERS: usize = 3;
const MORTALS: usize = 2;
const TOPICS: [&str; 3] = ["t/0", "t/1", "r"];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A connection of a client.
#[derive(Clone, Copy)]
struct Line {
    node: usize,
    client: Client,
    connack: bool,
}

#[derive(Default)]
struct Subscriber {
    line: Option<Line>,
    established: bool,
    subscribed: bool,
    /// How often each message came.
    got: BTreeMap<u32, u32>,
    retained: Vec<u32>,
    /// QoS 2 packet ids that are taken and not released.
    held: BTreeMap<u16, u32>,
    acks: VecDeque<(u8, u16)>,
}

#[derive(Default)]
struct Publisher {
    line: Option<Line>,
    durable: bool,
    established: bool,
    /// In order: packet id, message, QoS, topic, whether it was received.
    open: VecDeque<(u16, u32, u8, usize, bool)>,
    packet_id: u16,
}

#[derive(Default)]
struct Mortal {
    line: Option<Line>,
    established: bool,
    will: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Due {
    Never,
    Maybe,
    Once,
}

struct World {
    cluster: Cluster,
    random: Random,
    leader: usize,
    away: Option<(usize, bool)>,
    /// Leads no longer, and does not know it.
    deposed: Option<usize>,
    subscribers: Vec<Subscriber>,
    publishers: Vec<Publisher>,
    mortals: Vec<Mortal>,
    next: u32,
    /// Messages by number: QoS and topic.
    sent: BTreeMap<u32, (u8, usize)>,
    acknowledged: BTreeSet<u32>,
    wills: BTreeMap<u32, Due>,
    /// Clean ends that are not known to be committed: the node that took each, and
    /// the will.
    farewells: Vec<(usize, u32)>,
    /// Of retained messages: order holds for each QoS alone.
    retained_qos: u8,
    story: Vec<String>,
}

impl World {
    fn new(seed: u64) -> World {
        let limits = Limits { inflight_out_max: 3, ..Limits::default() };
        let settings = Settings { limits, ..Settings::default() };
        let mut world = World {
            cluster: Cluster::new(NODES, 2, &settings),
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            leader: 0,
            away: None,
            deposed: None,
            subscribers: (0..SUBSCRIBERS).map(|_| Subscriber::default()).collect(),
            publishers: (0..PUBLISHERS).map(|_| Publisher::default()).collect(),
            mortals: (0..MORTALS).map(|_| Mortal::default()).collect(),
            next: 0,
            sent: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            wills: BTreeMap::new(),
            farewells: Vec::new(),
            retained_qos: 1 + (seed % 2) as u8,
            story: Vec::new(),
        };
        world.cluster.elect_all(0, || 0);
        for who in 0..SUBSCRIBERS {
            world.connect_subscriber(who);
            let line = world.subscribers[who].line.expect("connected");
            world.cluster.subscribe(line.node, line.client, "#", 2);
            world.read();
            assert!(world.subscribers[who].subscribed, "SUBACK");
        }
        for who in 0..PUBLISHERS {
            world.publishers[who].durable = who == 0;
            world.connect_publisher(who);
        }
        world
    }

    fn note(&mut self, what: impl Into<String>) {
        self.story.push(what.into());
    }

    /// A node that reaches the leader.
    fn some_node(&mut self) -> usize {
        loop {
            let node = self.random.below(NODES);
            if self.away.is_none_or(|(away, _)| away != node) {
                return node;
            }
        }
    }

    fn is_away(&self, line: Option<Line>) -> bool {
        line.zip(self.away).is_some_and(|(line, (away, _))| line.node == away)
    }

    fn connect_subscriber(&mut self, who: usize) {
        if self.is_away(self.subscribers[who].line) {
            return; // it does not know that nobody hears it
        }
        let node = self.some_node();
        self.note(format!("s{who} at {node}"));
        self.hang_up_subscriber(who);
        let client = self.cluster.connect(node, &format!("s{who}"), false);
        let line = Line { node, client, connack: false };
        self.subscribers[who].line = Some(line);
        self.subscribers[who].acks.clear();
        self.read();
    }

    fn hang_up_subscriber(&mut self, who: usize) {
        self.read();
        if let Some(line) = self.subscribers[who].line.take()
            && self.cluster.is_up(line.node)
        {
            self.cluster.abort(line.node, line.client);
        }
        self.subscribers[who].acks.clear();
    }

    /// Publishers are at the leader.
    fn connect_publisher(&mut self, who: usize) {
        if self.is_away(self.publishers[who].line) {
            return;
        }
        let node = self.leader;
        self.note(format!("p{who} at {node}"));
        if let Some(line) = self.publishers[who].line.take()
            && self.cluster.is_up(line.node)
        {
            self.cluster.abort(line.node, line.client);
        }
        let durable = self.publishers[who].durable;
        if !durable {
            self.publishers[who].open.clear(); // nobody knows
        }
        let client = self.cluster.connect(node, &format!("p{who}"), !durable);
        self.publishers[who].line = Some(Line { node, client, connack: false });
        self.read();
    }

    /// What a publisher has not finished goes again.
    fn send_again(&mut self, who: usize, line: Line) {
        for (packet_id, message, qos, topic, received) in self.publishers[who].open.clone() {
            let [high, low] = packet_id.to_be_bytes();
            let bytes = match received {
                true => vec![0x62, 2, high, low],
                false => {
                    let retain = TOPICS[topic] == "r";
                    let text = TOPICS[topic];
                    let mut bytes = publish(text, qos, retain, packet_id, &message.to_be_bytes());
                    bytes[0] |= 8;
                    bytes
                }
            };
            self.cluster.send(line.node, line.client, &bytes);
        }
    }

    fn publish(&mut self, who: usize) {
        let Some(line) = self.publishers[who].line.filter(|line| line.connack) else { return };
        // This test has no routes between nodes.
        if !self.cluster.is_up(line.node)
            || (line.node != self.leader && self.deposed != Some(line.node))
        {
            return;
        }
        self.next += 1;
        let (message, mut qos) = (self.next, 1 + self.random.below(2) as u8);
        // One writer a retained topic, so that there is a last one.
        let topic = if who == 0 { self.random.below(3) } else { self.random.below(2) };
        if TOPICS[topic] == "r" {
            qos = self.retained_qos;
        }
        let publisher = &mut self.publishers[who];
        publisher.packet_id = publisher.packet_id % 60_000 + 1;
        let packet_id = publisher.packet_id;
        publisher.open.push_back((packet_id, message, qos, topic, false));
        self.sent.insert(message, (qos, topic));
        let retain = TOPICS[topic] == "r";
        let bytes = publish(TOPICS[topic], qos, retain, packet_id, &message.to_be_bytes());
        self.story.push(format!("p{who} publishes {message} to {topic} at {qos}"));
        self.cluster.send(line.node, line.client, &bytes);
        self.read();
    }

    fn connect_mortal(&mut self, who: usize) {
        if self.is_away(self.mortals[who].line) {
            return;
        }
        self.next += 1;
        let will = self.next;
        let node = self.some_node();
        self.note(format!("m{who} at {node}, will {will}"));
        self.end_mortal(who, false);
        if let Some(Due::Once) = self.wills.get(&self.mortals[who].will) {
            // It may be back in time.
            self.wills.insert(self.mortals[who].will, Due::Maybe);
        }
        let client = self.cluster.rig(node).open(0);
        let mut packet = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x14, 0, 0];
        packet.extend([0, 2, b'm', b'0' + who as u8, 0, 1, b'w', 0, 4]);
        packet.extend(will.to_be_bytes());
        packet[1] = packet.len() as u8 - 2;
        self.wills.insert(will, Due::Maybe);
        self.cluster.send(node, client, &packet);
        self.mortals[who].will = will;
        self.mortals[who].line = Some(Line { node, client, connack: false });
        self.read();
    }

    fn end_mortal(&mut self, who: usize, clean: bool) {
        self.read();
        let Some(line) = self.mortals[who].line.take() else { return };
        if !self.cluster.is_up(line.node) {
            return;
        }
        let will = self.mortals[who].will;
        if clean {
            self.cluster.send(line.node, line.client, &[0xe0, 0]);
            if line.connack {
                // Known to a node that is up, and told until it is committed.
                self.wills.insert(will, Due::Never);
                self.farewells.push((line.node, will));
                self.read();
            }
        } else {
            self.cluster.abort(line.node, line.client);
            if line.connack {
                self.wills.insert(will, Due::Once);
            }
        }
    }

    /// A node is about to die. A DISCONNECT has no acknowledgement: what it alone knows
    /// of is lost with it.
    fn lose_farewells(&mut self, node: usize) {
        for (_, will) in self.farewells.extract_if(.., |(at, _)| *at == node) {
            self.wills.insert(will, Due::Maybe);
        }
    }

    /// Connections that the broker has ended, or that ended with their node.
    fn lost(&mut self, line: Line) -> bool {
        !self.cluster.is_up(line.node) || !self.cluster.rig(line.node).is_open(line.client)
    }

    fn read(&mut self) {
        let World { cluster, farewells, .. } = self;
        farewells.retain(|(node, _)| {
            cluster.rig(*node).shards.iter().any(|shard| shard.open_releases() > 0)
        });
        for who in 0..SUBSCRIBERS {
            let Some(line) = self.subscribers[who].line else { continue };
            if self.cluster.is_up(line.node) {
                for packet in self.cluster.packets(line.node, line.client) {
                    self.subscriber_reads(who, &packet);
                }
            }
            if self.lost(line) {
                self.subscribers[who].line = None;
                self.subscribers[who].acks.clear();
            }
        }
        for who in 0..PUBLISHERS {
            let Some(line) = self.publishers[who].line else { continue };
            if self.cluster.is_up(line.node) {
                for packet in self.cluster.packets(line.node, line.client) {
                    self.publisher_reads(who, &packet);
                }
            }
            if self.lost(line) {
                self.publishers[who].line = None;
            }
        }
        for who in 0..MORTALS {
            let Some(line) = self.mortals[who].line else { continue };
            if self.cluster.is_up(line.node) {
                for packet in self.cluster.packets(line.node, line.client) {
                    assert_eq!(packet[..2], [0x20, 2]);
                    if packet[3] != 0 {
                        continue;
                    }
                    assert!(packet[2] == 1 || !self.mortals[who].established, "m{who}: lost");
                    self.mortals[who].established = true;
                    if let Some(line) = &mut self.mortals[who].line {
                        line.connack = true;
                    }
                }
            }
            if self.lost(line) {
                let connack = self.mortals[who].line.is_some_and(|line| line.connack);
                self.mortals[who].line = None;
                if connack {
                    self.wills.insert(self.mortals[who].will, Due::Once);
                }
            }
        }
    }

    fn subscriber_reads(&mut self, who: usize, packet: &[u8]) {
        let subscriber = &mut self.subscribers[who];
        match packet[0] >> 4 {
            2 if packet[3] != 0 => {} // it did not come in
            2 => {
                assert!(packet[2] == 1 || !subscriber.established, "s{who}: its session is lost");
                subscriber.established = true;
                if let Some(line) = &mut subscriber.line {
                    line.connack = true;
                }
            }
            9 => subscriber.subscribed = true,
            3 => {
                let qos = packet[0] >> 1 & 3;
                let topic = usize::from(packet[3]);
                let id = u16::from_be_bytes([packet[4 + topic], packet[5 + topic]]);
                let payload = packet[packet.len() - 4..].try_into().expect("four bytes");
                let message = u32::from_be_bytes(payload);
                assert!(qos > 0);
                if packet[0] & 1 == 1 {
                    subscriber.retained.push(message);
                } else if qos == 1 {
                    *subscriber.got.entry(message).or_default() += 1;
                } else {
                    match subscriber.held.get(&id) {
                        Some(&held) => {
                            assert_eq!(
                                held, message,
                                "s{who}: packet id {id} is another message's"
                            );
                        }
                        None => {
                            subscriber.held.insert(id, message);
                            *subscriber.got.entry(message).or_default() += 1;
                        }
                    }
                }
                subscriber.acks.push_back((if qos == 1 { 0x40 } else { 0x50 }, id));
            }
            6 => {
                let id = u16::from_be_bytes([packet[2], packet[3]]);
                subscriber.acks.push_back((0x70, id));
            }
            other => panic!("s{who}: a packet of type {other}"),
        }
    }

    fn publisher_reads(&mut self, who: usize, packet: &[u8]) {
        let id = u16::from_be_bytes([packet[2], packet[3]]);
        let publisher = &mut self.publishers[who];
        match packet[0] >> 4 {
            2 if packet[3] != 0 => {}
            2 => {
                let present = packet[2] == 1;
                assert!(present || !publisher.established, "p{who}: its session is lost");
                publisher.established = publisher.durable;
                let Some(line) = &mut publisher.line else { return };
                line.connack = true;
                let line = *line;
                if self.publishers[who].durable {
                    self.send_again(who, line);
                }
            }
            4 => {
                let at = publisher.open.iter().position(|open| open.0 == id);
                let (_, message, ..) = publisher.open.remove(at.expect("known")).expect("there");
                self.acknowledged.insert(message);
            }
            5 => {
                let open = publisher.open.iter_mut().find(|open| open.0 == id);
                if let Some(open) = open {
                    open.4 = true;
                    self.acknowledged.insert(open.1);
                }
                let Some(line) = publisher.line else { return };
                let [high, low] = id.to_be_bytes();
                self.cluster.send(line.node, line.client, &[0x62, 2, high, low]);
            }
            7 => publisher.open.retain(|open| open.0 != id),
            other => panic!("p{who}: a packet of type {other}"),
        }
    }

    fn acknowledge(&mut self, who: usize, n: usize) {
        for _ in 0..n {
            let Some(line) = self.subscribers[who].line.filter(|line| line.connack) else { return };
            if self.lost(line) {
                return;
            }
            let Some((kind, id)) = self.subscribers[who].acks.pop_front() else { return };
            if kind == 0x70 {
                self.subscribers[who].held.remove(&id);
            }
            let [high, low] = id.to_be_bytes();
            self.cluster.send(line.node, line.client, &[kind, 2, high, low]);
            self.read();
        }
    }

    /// Another node, or the same, leads from now on.
    fn elect(&mut self) {
        let node = self.some_node();
        let World { cluster, random, .. } = self;
        let mode = random.below(3);
        cluster.held = false;
        cluster.elect_all(node, || match mode {
            0 => 0,
            1 => random.below(4),
            _ => usize::MAX,
        });
        self.leader = node;
        self.note(format!("{node} leads"));
        self.read();
        for who in 0..PUBLISHERS {
            self.connect_publisher(who);
        }
    }

    fn step(&mut self) {
        match self.random.below(40) {
            0..12 => {
                let who = self.random.below(PUBLISHERS);
                self.publish(who);
            }
            12..22 => {
                let (who, n) = (self.random.below(SUBSCRIBERS), 1 + self.random.below(5));
                self.acknowledge(who, n);
            }
            22..25 => {
                let who = self.random.below(SUBSCRIBERS);
                match self.random.one_in(3) {
                    true if !self.is_away(self.subscribers[who].line) => {
                        self.note(format!("s{who} leaves"));
                        self.hang_up_subscriber(who);
                    }
                    _ => self.connect_subscriber(who),
                }
            }
            25..27 => {
                let who = self.random.below(MORTALS);
                match self.random.below(3) {
                    0 => self.connect_mortal(who),
                    n if !self.is_away(self.mortals[who].line) => {
                        self.note(format!("m{who} ends, clean: {}", n == 1));
                        self.end_mortal(who, n == 1);
                    }
                    _ => {}
                }
            }
            27..29 => {
                let who = self.random.below(PUBLISHERS);
                self.connect_publisher(who);
            }
            29..31 => {
                let ms = 100 + self.random.below(4_000) as u64;
                self.note(format!("{ms} ms"));
                self.cluster.advance(ms);
            }
            31..34 => {
                self.cluster.held = !self.cluster.held;
                let held = self.cluster.held;
                self.note(format!("held: {held}"));
                self.cluster.run();
            }
            34 => {
                self.cluster.held = false;
                self.cluster.run();
                let p = self.random.below(PARTITIONS.into());
                self.cluster.compact(p);
            }
            35 => self.elect(),
            36..38 if self.away.is_none() => {
                let node = match self.random.one_in(2) {
                    true => self.leader,
                    false => self.random.below(NODES),
                };
                let dies = self.random.one_in(2);
                self.note(format!("{node} {}", if dies { "dies" } else { "is cut off" }));
                self.away = Some((node, dies));
                if dies {
                    self.lose_farewells(node);
                    self.cluster.kill(node);
                } else {
                    for other in (0..NODES).filter(|&other| other != node) {
                        self.cluster.cut(node, other);
                    }
                }
                self.read();
                if node == self.leader {
                    self.deposed = Some(node);
                    for _ in 0..self.random.below(3) {
                        let who = self.random.below(PUBLISHERS);
                        self.publish(who);
                    }
                    self.elect();
                }
            }
            _ => self.come_back(),
        }
        self.read();
    }

    fn come_back(&mut self) {
        let Some((node, died)) = self.away.take() else { return };
        self.deposed = None;
        self.note(format!("{node} is back"));
        if died {
            self.cluster.start(node);
        } else {
            for other in (0..NODES).filter(|&other| other != node) {
                self.cluster.heal(node, other);
            }
        }
        self.read();
    }

    /// Everybody is there, and takes what there is.
    fn finish(&mut self) {
        self.cluster.held = false;
        self.cluster.run();
        self.come_back();
        for p in 0..PARTITIONS.into() {
            self.cluster.compact(p);
        }
        self.elect();
        for who in 0..MORTALS {
            self.end_mortal(who, false);
        }
        self.cluster.advance(20_000);
        for who in 0..PUBLISHERS {
            self.connect_publisher(who);
        }
        for who in 0..SUBSCRIBERS {
            self.connect_subscriber(who);
        }
        for _ in 0..10_000 {
            self.read();
            if self.subscribers.iter().all(|subscriber| subscriber.acks.is_empty()) {
                break;
            }
            for who in 0..SUBSCRIBERS {
                self.acknowledge(who, 100);
            }
        }
        assert!(
            self.publishers[0].open.is_empty(),
            "never answered: {:?}",
            self.publishers[0].open
        );
        let watcher = self.cluster.connect(self.leader, "late", true);
        self.cluster.subscribe(self.leader, watcher, "r", 2);
        let came = self.cluster.packets(self.leader, watcher);
        let retained = came.iter().find(|packet| packet[0] & 0xf1 == 0x31);
        let retained = retained.map(|packet| {
            u32::from_be_bytes(packet[packet.len() - 4..].try_into().expect("four bytes"))
        });
        let on_r = self.sent.iter().filter(|(_, (_, topic))| TOPICS[*topic] == "r");
        let last = on_r.map(|(message, _)| *message).rfind(|m| self.acknowledged.contains(m));
        assert!(retained >= last, "retained is {retained:?}, acknowledged was {last:?}");
        for (who, subscriber) in self.subscribers.iter().enumerate() {
            for (message, (qos, _)) in &self.sent {
                let got = subscriber.got.get(message).copied().unwrap_or(0);
                if self.acknowledged.contains(message) {
                    assert!(got > 0, "s{who} never got {message}, which was acknowledged");
                }
                assert!(*qos == 1 || got <= 1, "s{who} got {message} {got} times at QoS 2");
            }
            for (will, due) in &self.wills {
                let got = subscriber.got.get(will).copied().unwrap_or(0);
                let most = u32::from(*due != Due::Never);
                let least = u32::from(*due == Due::Once);
                // QoS 2: MQTT 3.1.1 flags 0x14.
                assert!(
                    (least..=most).contains(&got),
                    "s{who} got will {will} {got} times: {due:?}"
                );
            }
        }
    }
}

#[test]
fn random_leaders_keep_what_was_promised() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("REPLICAS_FIRST").unwrap_or(1);
    let mut reads = 0;
    for seed in first..first + number("REPLICAS_SEEDS").unwrap_or(40) {
        let mut world = World::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..150 {
                world.step();
            }
            world.finish();
        }));
        reads += world.cluster.reads;
        if outcome.is_err() {
            panic!("seed {seed}:\n{}", world.story.join("\n"));
        }
    }
    assert!(reads > 0, "messages that waited were on the disk");
}
