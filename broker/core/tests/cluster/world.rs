//! Several nodes in one thread: each is a [`Rig`], and what they say to each
//! other goes as bytes over links that can be cut and made slow.

use std::collections::{BTreeMap, VecDeque};

use tidegate_core::ids::{Member, PARTITIONS, PartitionId};
use tidegate_core::mail::{MailFormat, parcels};
use tidegate_core::settings::Settings;

use crate::rig::{Client, Rig};

/// How much a link takes at once.
const PARCEL_BYTES: usize = 16 << 10;
/// How far the clock of each node is ahead of that of the one before it.
const AHEAD: u64 = 12_345;

pub struct Cluster {
    pub nodes: Vec<Rig>,
    /// By sender and receiver.
    links: BTreeMap<(usize, usize), Link>,
    /// Bytes that went over links.
    pub carried: usize,
    now: u64,
}

#[derive(Default)]
struct Link {
    /// Bytes and when they arrive.
    under_way: VecDeque<(u64, Vec<u8>)>,
    cut: bool,
    delay: u64,
}

impl Cluster {
    /// Nodes of so many shards each, which lead the partitions in turn.
    pub fn new(nodes: usize, shards: u16) -> Cluster {
        Cluster::with(nodes, shards, &Settings::default())
    }

    pub fn with(nodes: usize, shards: u16, settings: &Settings) -> Cluster {
        let rig =
            |n: usize| Rig::member(shards, settings.clone(), Cluster::member(n), AHEAD * n as u64);
        let mut cluster = Cluster {
            nodes: (0..nodes).map(rig).collect(),
            links: BTreeMap::new(),
            carried: 0,
            now: 0,
        };
        for partition in 0..PARTITIONS {
            cluster.lead(PartitionId(partition as u8), Some(usize::from(partition) % nodes));
        }
        cluster
    }

    pub fn member(node: usize) -> Member {
        Member(node as u16 + 1)
    }

    /// Everybody is told who leads a partition.
    pub fn lead(&mut self, partition: PartitionId, leader: Option<usize>) {
        for node in 0..self.nodes.len() {
            self.tell(node, partition, leader);
        }
        self.run();
    }

    /// One node is told.
    pub fn tell(&mut self, node: usize, partition: PartitionId, leader: Option<usize>) {
        let home = leader.map(|leader| self.nodes[leader].node.place(partition));
        let rig = &mut self.nodes[node];
        rig.node.set_home(partition, home);
        for shard in &mut rig.shards {
            shard.home_moved(rig.now, partition);
        }
    }

    /// A client id, beginning with `name`, whose partition this node leads.
    pub fn client_of(&self, leader: usize, name: &str) -> String {
        let node = &self.nodes[leader].node;
        let led = |id: &String| {
            let home = node.home(node.partition_of_client(id));
            home.is_some_and(|home| home.member() == Cluster::member(leader))
        };
        (0..).map(|n| format!("{name}{n}")).find(led).expect("some id")
    }

    /// A topic, beginning with `name`, whose retained message this node keeps.
    pub fn topic_of(&self, leader: usize, name: &str) -> String {
        let node = &self.nodes[leader].node;
        let led = |topic: &String| {
            let home = node.home(node.partition_of_topic(topic));
            home.is_some_and(|home| home.member() == Cluster::member(leader))
        };
        (0..).map(|n| format!("{name}{n}")).find(led).expect("some topic")
    }

    /// Turns of all nodes, and mail between them, until nothing is left to do
    /// at this moment.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            self.nodes.iter_mut().for_each(Rig::run);
            if !self.carry() {
                return;
            }
        }
        panic!("the nodes do not come to rest");
    }

    /// Takes mail from all nodes, and hands over what has arrived.
    fn carry(&mut self) -> bool {
        let mut busy = false;
        for from in 0..self.nodes.len() {
            for shard in 0..self.nodes[from].shards.len() {
                let to: Vec<Member> = self.nodes[from].shards[shard].outbound_members().collect();
                for to in to {
                    let link = self.links.entry((from, usize::from(to.0) - 1)).or_default();
                    if link.cut {
                        continue; // it waits until there is a link again
                    }
                    let mut bytes = Vec::new();
                    let shard = &mut self.nodes[from].shards[shard];
                    busy = true;
                    // What asks for nothing any more is not sent.
                    if shard.outbound_to(to, MailFormat::default(), PARCEL_BYTES, &mut bytes) == 0 {
                        continue;
                    }
                    self.carried += bytes.len();
                    link.under_way.push_back((self.now + link.delay, bytes));
                }
            }
        }
        for (&(from, to), link) in &mut self.links {
            while let Some((due, bytes)) = link.under_way.pop_front() {
                if due > self.now {
                    link.under_way.push_front((due, bytes));
                    break;
                }
                busy = true;
                let rig = &mut self.nodes[to];
                for parcel in parcels(&bytes) {
                    let (shard, parcel) = parcel.expect("whole parcels");
                    let shard = &mut rig.shards[usize::from(shard)];
                    shard.inbound(rig.now, Cluster::member(from), parcel).expect("mail");
                }
            }
        }
        busy
    }

    /// The link between two nodes is gone, with all that is under way; both see it.
    pub fn cut(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            let link = self.links.entry((from, to)).or_default();
            link.cut = true;
            link.under_way.clear();
        }
        for (at, other) in [(a, b), (b, a)] {
            let rig = &mut self.nodes[at];
            for shard in &mut rig.shards {
                shard.member_lost(rig.now, Cluster::member(other));
            }
        }
        self.run();
    }

    /// There is a link again.
    pub fn heal(&mut self, a: usize, b: usize) {
        for key in [(a, b), (b, a)] {
            self.links.entry(key).or_default().cut = false;
        }
        self.run();
    }

    /// Mail between two nodes takes so long from now on.
    pub fn delay(&mut self, a: usize, b: usize, ms: u64) {
        for key in [(a, b), (b, a)] {
            self.links.entry(key).or_default().delay = ms;
        }
    }

    /// Lets time pass, in steps.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            let step = (end - self.now).min(10);
            self.now += step;
            for rig in &mut self.nodes {
                rig.advance(step);
            }
            self.run();
        }
    }

    /// A node is gone without a word: nothing comes from it, and nothing arrives.
    pub fn kill(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            if other != node {
                self.cut(node, other);
            }
        }
    }

    // What clients do, at a shard of a node.

    /// CONNECT of a 3.1.1 client.
    pub fn connect(&mut self, node: usize, shard: usize, id: &str, clean: bool) -> Client {
        let client = crate::rig::connect(&mut self.nodes[node], shard, id, clean);
        self.run();
        client
    }

    pub fn subscribe(&mut self, node: usize, client: Client, filter: &str, qos: u8) {
        crate::rig::subscribe(&mut self.nodes[node], client, filter, qos);
        self.run();
    }

    pub fn send(&mut self, node: usize, client: Client, bytes: &[u8]) {
        self.nodes[node].send(client, bytes);
        self.run();
    }

    pub fn abort(&mut self, node: usize, client: Client) {
        self.nodes[node].abort(client);
        self.run();
    }

    pub fn packets(&mut self, node: usize, client: Client) -> Vec<Vec<u8>> {
        self.nodes[node].packets(client)
    }

    pub fn is_open(&mut self, node: usize, client: Client) -> bool {
        self.nodes[node].is_open(client)
    }
}

/// PUBLISH.
pub fn publish(topic: &str, qos: u8, retain: bool, id: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x30 | qos << 1 | u8::from(retain), 0, 0, topic.len() as u8];
    packet.extend(topic.as_bytes());
    if qos > 0 {
        packet.extend([0, id]);
    }
    packet.extend(payload);
    packet[1] = packet.len() as u8 - 2;
    packet
}
