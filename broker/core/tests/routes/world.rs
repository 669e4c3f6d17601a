//! Several nodes, the lines between them, and clients: what the shell does with
//! routes and mail between nodes, on a clock and lines of the test's own.
#![allow(dead_code, reason = "each story uses a part of it")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_cluster::ids as cluster;
use tidegate_cluster::routes::{Exchange, Own, Said, Target};
use tidegate_codec::{Direction, Packet, QoS, Version, decode, frame};
use tidegate_core::Applied;
use tidegate_core::ids::{Member, PARTITIONS, PartitionId};
use tidegate_core::index::{Remote, RemoteWalk, RouteChange};
use tidegate_core::mail::{MailFormat, parcels};
use tidegate_core::settings::Settings;

use super::rig::{Client, Rig};

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

enum Load {
    Word(Vec<u8>),
    /// For the shard with this number.
    Mail(u8, Vec<u8>),
}

/// How far the clock of each node is ahead of that of the one before it.
const AHEAD: u64 = 12_345;

pub struct World {
    pub rigs: Vec<Rig>,
    pub exchanges: Vec<Exchange>,
    walks: Vec<RemoteWalk>,
    alive: Vec<bool>,
    lines: BTreeMap<(usize, usize), VecDeque<(u64, Load)>>,
    random: Random,
    /// Milliseconds that a load is under way at most.
    pub late: u64,
    pub clients: Vec<Side>,
    /// By partition.
    leaders: Vec<usize>,
    /// By partition, if they have replicas.
    logs: Vec<Log>,
    /// Who does not hear of leaders.
    pub deaf: Option<usize>,
    /// Nothing of it is committed, and its next leader has nothing of that.
    pub stuck: Option<PartitionId>,
}

/// The log of a partition: a model of a group that always has a majority.
#[derive(Default)]
struct Log {
    committed: Vec<Vec<u8>>,
    /// Proposed by the leader, and when it is committed.
    proposed: VecDeque<(u64, Vec<u8>)>,
    /// Entries that each node has applied.
    applied: Vec<usize>,
    /// Counts leaders.
    term: u64,
}

/// The client's side of a connection.
pub struct Side {
    pub node: usize,
    pub id: String,
    client: Client,
    version: Version,
    /// Payloads that came, in order.
    pub got: Vec<String>,
    /// Whole packets of that.
    pub raw: Vec<Vec<u8>>,
    /// Packet ids of SUBACKs, PUBACKs and PUBCOMPs that came.
    pub suback: BTreeSet<u16>,
    /// What its CONNACK said, if one came.
    pub present: Option<bool>,
    pub acked: BTreeSet<u16>,
    /// QoS 2 ids that came and are not released.
    held: BTreeSet<u16>,
    next_id: u16,
}

pub fn life(at: usize) -> cluster::Life {
    cluster::Life { node: cluster::NodeId(at as u64 + 1), incarnation: cluster::Incarnation(1) }
}

pub fn member(at: usize) -> Member {
    Member(at as u16 + 1)
}

fn own(change: RouteChange) -> Own {
    let of = |of: Option<PartitionId>| of.map(|p| cluster::PartitionId(p.0.into()));
    match change {
        RouteChange::Appeared { of: p, filter } => Own::Appeared { of: of(p), filter },
        RouteChange::Vanished { of: p, filter } => Own::Vanished { of: of(p), filter },
        RouteChange::Led { partition, index } => {
            Own::Led { partition: cluster::PartitionId(partition.0.into()), index }
        }
        RouteChange::Followed(p) => Own::Followed(cluster::PartitionId(p.0.into())),
    }
}

impl World {
    /// So many nodes of two shards each; all lead their share of the partitions.
    pub fn new(nodes: usize, seed: u64) -> World {
        World::with(nodes, seed, false, |partition| usize::from(partition.0) % nodes)
    }

    pub fn with(
        nodes: usize,
        seed: u64,
        kept: bool,
        leader: impl Fn(PartitionId) -> usize,
    ) -> World {
        World::of(nodes, seed, kept, Settings::default(), leader)
    }

    pub fn of(
        nodes: usize,
        seed: u64,
        kept: bool,
        settings: Settings,
        leader: impl Fn(PartitionId) -> usize,
    ) -> World {
        World::made(nodes, seed, kept, false, settings, leader)
    }

    fn made(
        nodes: usize,
        seed: u64,
        kept: bool,
        replicated: bool,
        settings: Settings,
        leader: impl Fn(PartitionId) -> usize,
    ) -> World {
        let rig = |at: usize| {
            let ahead = AHEAD * at as u64;
            let mut rig = Rig::routed(2, settings.clone(), member(at), ahead);
            if kept {
                rig.keep(ahead);
            }
            rig
        };
        let mut world = World {
            rigs: (0..nodes).map(rig).collect(),
            exchanges: (0..nodes).map(|at| Exchange::new(at as u64, PARTITIONS)).collect(),
            walks: (0..nodes).map(|_| RemoteWalk::default()).collect(),
            alive: vec![true; nodes],
            lines: BTreeMap::new(),
            random: Random(seed),
            late: 20,
            clients: Vec::new(),
            leaders: vec![usize::MAX; usize::from(PARTITIONS)],
            logs: Vec::new(),
            deaf: None,
            stuck: None,
        };
        for at in 0..nodes {
            world.exchanges[at].serving((0..nodes).filter(|other| *other != at).map(life));
            for other in 0..at {
                world.join(at, other);
            }
        }
        if replicated {
            let log = || Log { applied: vec![0; nodes], ..Log::default() };
            world.logs = (0..PARTITIONS).map(|_| log()).collect();
            for shard in world.rigs.iter_mut().flat_map(|rig| &mut rig.shards) {
                shard.replicate();
            }
        }
        for p in 0..PARTITIONS as u8 {
            let leader = leader(PartitionId(p));
            match replicated {
                true => world.elect(PartitionId(p), leader),
                false => world.lead(PartitionId(p), leader, 1),
            }
        }
        world.settle(1_000);
        world
    }

    /// Nodes whose partitions have replicas at all of them.
    pub fn replicated(nodes: usize, seed: u64) -> World {
        World::replicated_as(nodes, seed, Settings::default())
    }

    pub fn replicated_as(nodes: usize, seed: u64, settings: Settings) -> World {
        World::made(nodes, seed, false, true, settings, |p| usize::from(p.0) % nodes)
    }

    /// What each partition's log has committed.
    pub fn committed(&self) -> Vec<(usize, &[u8])> {
        let mut all = Vec::new();
        for (p, log) in self.logs.iter().enumerate() {
            all.extend(log.committed.iter().map(|entry| (p, &entry[..])));
        }
        all
    }

    /// A node leads a partition with replicas; some of what the leader before had
    /// proposed is lost.
    pub fn elect(&mut self, partition: PartitionId, leader: usize) {
        let p = usize::from(partition.0);
        let before = self.leaders[p];
        let most = match self.stuck == Some(partition) {
            true => 0,
            false => self.logs[p].proposed.len() as u64,
        };
        let survive = self.random.below(most + 1) as usize;
        let log = &mut self.logs[p];
        log.term += 1;
        let term = log.term;
        let survive: Vec<_> = log.proposed.drain(..survive).map(|(_, entry)| entry).collect();
        log.proposed.clear();
        log.committed.extend(survive);
        if before != usize::MAX && self.alive[before] {
            self.demote(before, partition);
        }
        self.apply(leader, partition);
        let rig = &mut self.rigs[leader];
        let home = rig.node.place(partition);
        // Publishers may hear of it before or after the leader does.
        let shard = &mut rig.shards[home.index()];
        shard.promote(rig.now, partition);
        self.lead(partition, leader, term);
    }

    fn demote(&mut self, node: usize, partition: PartitionId) {
        let rig = &mut self.rigs[node];
        rig.node.set_home(partition, None);
        for shard in &mut rig.shards {
            shard.home_moved(rig.now, partition);
        }
        let home = rig.node.place(partition);
        rig.shards[home.index()].reset(rig.now, partition);
        self.logs[usize::from(partition.0)].applied[node] = 0;
        self.apply(node, partition);
    }

    fn apply(&mut self, node: usize, partition: PartitionId) {
        let log = &mut self.logs[usize::from(partition.0)];
        let rig = &mut self.rigs[node];
        let home = rig.node.place(partition);
        while let Some(entry) = log.committed.get(log.applied[node]) {
            log.applied[node] += 1;
            let shard = &mut rig.shards[home.index()];
            match shard.committed(rig.now, partition, 0, entry).expect("our own entry") {
                Applied::Own | Applied::Followed(_) | Applied::Void => {}
                Applied::Deposed => panic!("a leader is told before others' entries come"),
            }
        }
    }

    /// Takes what leaders propose, and commits what is due.
    fn replicate(&mut self, now: u64) {
        if self.logs.is_empty() {
            return;
        }
        for at in 0..self.rigs.len() {
            for shard in 0..self.rigs[at].shards.len() {
                let open: Vec<_> = self.rigs[at].shards[shard].entries().collect();
                for (partition, _) in open {
                    while self.alive[at]
                        && let Some((_, entry)) = self.rigs[at].shards[shard].take_entry(partition)
                    {
                        let late = self.random.below(self.late + 1);
                        let log = &mut self.logs[usize::from(partition.0)];
                        let after = log.proposed.back().map_or(0, |(due, _)| *due);
                        log.proposed.push_back((after.max(now + late), entry));
                    }
                }
            }
        }
        let stuck = self.stuck;
        for p in (0..PARTITIONS as u8).filter(|&p| stuck != Some(PartitionId(p))) {
            let log = &mut self.logs[usize::from(p)];
            let due = log.proposed.iter().take_while(|(due, _)| *due <= now).count();
            let due: Vec<_> = log.proposed.drain(..due).map(|(_, entry)| entry).collect();
            log.committed.extend(due);
            for at in 0..self.rigs.len() {
                if self.alive[at] {
                    self.apply(at, PartitionId(p));
                }
            }
        }
    }

    pub fn now(&self) -> u64 {
        self.rigs[0].now
    }

    /// A node leads a partition from now on, and everybody hears of it who is not deaf.
    pub fn lead(&mut self, partition: PartitionId, leader: usize, index: u64) {
        self.leaders[usize::from(partition.0)] = leader;
        let home = self.rigs[leader].node.place(partition);
        self.rigs[leader].node.index.lead(partition, index);
        for at in (0..self.rigs.len()).filter(|&at| self.deaf != Some(at)) {
            let rig = &mut self.rigs[at];
            rig.node.set_home(partition, Some(home));
            for shard in &mut rig.shards {
                shard.home_moved(rig.now, partition);
            }
        }
    }

    pub fn join(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            let shards = self.rigs[to].node.shards();
            self.rigs[from].node.peer_up(member(to), shards);
            self.exchanges[from].up(life(to), member(to).0);
            self.lines.insert((from, to), VecDeque::new());
        }
    }

    pub fn is_joined(&self, a: usize, b: usize) -> bool {
        self.lines.contains_key(&(a, b))
    }

    /// The line is lost, with all that is on it.
    pub fn cut(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            self.exchanges[from].down(life(to));
            self.lines.remove(&(from, to));
            let rig = &mut self.rigs[from];
            for shard in &mut rig.shards {
                shard.member_lost(rig.now, member(to));
            }
        }
    }

    /// A node ends without a word.
    pub fn kill(&mut self, at: usize) {
        self.alive[at] = false;
        for other in 0..self.rigs.len() {
            if other != at && self.is_joined(at, other) {
                self.cut(at, other);
            }
        }
    }

    /// The metadata says that it will not come back.
    pub fn bury(&mut self, dead: usize) {
        for at in 0..self.rigs.len() {
            if at == dead || !self.alive[at] {
                continue;
            }
            self.exchanges[at].gone(life(dead));
            let rig = &mut self.rigs[at];
            rig.node.peer_gone(member(dead));
            for shard in &mut rig.shards {
                shard.peer_gone(rig.now, member(dead));
                if !self.logs.is_empty() {
                    shard.node_gone(rig.now, member(dead));
                }
            }
        }
    }

    /// What is on a line at present is lost; how many loads.
    pub fn take_line(&mut self, from: usize, to: usize) -> usize {
        self.lines.get_mut(&(from, to)).map_or(0, |line| std::mem::take(line).len())
    }

    /// What is on a line at present, and all behind it, comes so much later.
    pub fn hold_line(&mut self, from: usize, to: usize, ms: u64) -> usize {
        let until = self.now() + ms;
        let line = self.lines.get_mut(&(from, to)).expect("it is joined");
        line.iter_mut().for_each(|(due, _)| *due = (*due).max(until));
        line.len()
    }

    /// A node reads back what another had committed, and leads all of it.
    pub fn take_over(&mut self, dead: usize, new: usize) {
        let disk = self.rigs[dead].disk.take().expect("a node whose state is kept");
        let rig = &mut self.rigs[new];
        for record in &disk.durable {
            let Some((entry, body)) = record else { continue };
            let shard = usize::from(entry.partition) % rig.shards.len();
            // Messages stay in memory: another node's positions mean nothing here.
            rig.shards[shard]
                .replay(rig.now, entry.partition, entry.index, 0, body)
                .expect("what was written");
        }
        for shard in &mut rig.shards {
            shard.resume(rig.now);
        }
        for p in 0..PARTITIONS as u8 {
            self.lead(PartitionId(p), new, 2);
        }
    }

    /// Lets time pass in steps of `ms`.
    pub fn settle(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(5) {
            self.step(5);
        }
    }

    pub fn step(&mut self, ms: u64) {
        let now = self.now() + ms;
        for at in 0..self.rigs.len() {
            self.rigs[at].advance(ms);
            if self.alive[at] {
                self.receive(at, now);
            }
        }
        for at in 0..self.rigs.len() {
            if self.alive[at] {
                self.turn(at, now);
            }
        }
        self.replicate(now);
        for side in 0..self.clients.len() {
            self.answer(side);
        }
    }

    fn receive(&mut self, at: usize, due_by: u64) {
        let now = self.rigs[at].now;
        for from in 0..self.rigs.len() {
            while let Some(line) = self.lines.get_mut(&(from, at))
                && let Some((due, _)) = line.front()
                && *due <= due_by
            {
                let Some((_, load)) = line.pop_front() else { break };
                match load {
                    Load::Word(word) => {
                        let (filters, bytes) = self.rigs[at].node.index.remotes();
                        self.exchanges[at].kept(filters, bytes);
                        self.exchanges[at].read(life(from), &word, now).expect("our own words");
                        self.calls(at);
                    }
                    Load::Mail(shard, bytes) => {
                        let shard = usize::from(shard) % self.rigs[at].shards.len();
                        let shard = &mut self.rigs[at].shards[shard];
                        shard.inbound(now, member(from), &bytes).expect("our own mail");
                    }
                }
            }
        }
        self.rigs[at].run();
    }

    fn calls(&mut self, at: usize) {
        let (exchange, index) = (&mut self.exchanges[at], &self.rigs[at].node.index);
        while let Some(call) = exchange.next_call() {
            let remote = match call.target {
                Target::Node(number) => Remote::Node(Member(number)),
                Target::Partition(p) => Remote::Partition(PartitionId(p.0 as u8)),
            };
            match call.said {
                Said::Has(epoch) => _ = index.set_remote(remote, &call.filter, Some(epoch)),
                Said::HasNot => _ = index.set_remote(remote, &call.filter, None),
                Said::Had(epoch) => {
                    let is_void = |epoch| exchange.is_void(call.target, epoch);
                    index.settle_remote(remote, &call.filter, epoch, is_void);
                }
            }
        }
    }

    /// A step of the walk over what others have.
    fn walk(&mut self, at: usize) {
        let (exchange, index) = (&mut self.exchanges[at], &self.rigs[at].node.index);
        let is_void = |exchange: &Exchange, remote, epoch| {
            let target = match remote {
                Remote::Node(member) => Target::Node(member.0),
                Remote::Partition(p) => Target::Partition(cluster::PartitionId(p.0.into())),
            };
            exchange.is_void(target, epoch)
        };
        let walk = &mut self.walks[at];
        if exchange.walk() && !index.sweep_remotes(walk, 2_000, |r, e| is_void(exchange, r, e)) {
            exchange.walked();
        }
    }

    fn turn(&mut self, at: usize, at_once: u64) {
        let now = self.rigs[at].now;
        self.rigs[at].run();
        for (ticket, change) in self.rigs[at].node.index.take_changes(usize::MAX) {
            self.exchanges[at].own(ticket, &own(change), now);
        }
        self.calls(at);
        self.walk(at);
        self.exchanges[at].tick(now);
        for to in 0..self.rigs.len() {
            if !self.is_joined(at, to) {
                continue;
            }
            while let Some(word) = self.exchanges[at].write(life(to), now) {
                self.send(at, to, at_once, Load::Word(word));
            }
            for shard in 0..self.rigs[at].shards.len() {
                let mut bytes = Vec::new();
                while self.rigs[at].shards[shard].outbound_to(
                    member(to),
                    MailFormat::default(),
                    4_096,
                    &mut bytes,
                ) > 0
                {
                    for parcel in parcels(&bytes) {
                        let (shard, parcel) = parcel.expect("our own parcels");
                        self.send(at, to, at_once, Load::Mail(shard, parcel.to_vec()));
                    }
                    bytes.clear();
                }
            }
        }
        let (node, exchange) = (&self.rigs[at].node, &mut self.exchanges[at]);
        node.set_covered(exchange.covered_until(u64::MAX).ok());
        node.index.pass(exchange.passed(now));
        for shard in &mut self.rigs[at].shards {
            shard.routes_moved(now);
        }
        self.rigs[at].run();
    }

    fn send(&mut self, from: usize, to: usize, now: u64, load: Load) {
        let due = now + self.random.below(self.late + 1);
        let line = self.lines.get_mut(&(from, to)).expect("it is joined");
        let after = line.back().map_or(0, |(due, _)| *due);
        line.push_back((due.max(after), load));
    }

    /// A client connects and waits until it is.
    pub fn connect(&mut self, node: usize, id: &str, clean: bool) -> usize {
        let side = self.begin_connect(node, id, clean);
        self.settle(200);
        side
    }

    pub fn begin_connect(&mut self, node: usize, id: &str, clean: bool) -> usize {
        let shard = self.clients.len() % 2;
        let client = super::rig::connect(&mut self.rigs[node], shard, id, clean);
        self.side(node, id, client, Version::V3_1_1)
    }

    /// One whose session ends with the connection, with a will at QoS 1.
    pub fn connect_with_will(&mut self, node: usize, id: &str, topic: &str, will: &str) -> usize {
        let client = self.rigs[node].open(self.clients.len() % 2);
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 0x0e, 0, 0];
        for text in [id, topic, will] {
            body.extend((text.len() as u16).to_be_bytes());
            body.extend(text.as_bytes());
        }
        let mut packet = vec![0x10, body.len() as u8];
        packet.extend(body);
        self.rigs[node].send(client, &packet);
        let side = self.side(node, id, client, Version::V3_1_1);
        self.settle(200);
        side
    }

    /// DISCONNECT.
    pub fn disconnect(&mut self, side: usize) {
        self.say(side, 0xe0, &[]);
    }

    /// The same with MQTT 5.0, whose session ends with the connection.
    pub fn connect_5(&mut self, node: usize, id: &str) -> usize {
        let client = self.rigs[node].open(self.clients.len() % 2);
        self.rigs[node].speaks(client, Version::V5);
        let mut packet =
            vec![0x10, 13 + id.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 0];
        packet.extend([0, id.len() as u8]);
        packet.extend(id.as_bytes());
        self.rigs[node].send(client, &packet);
        let side = self.side(node, id, client, Version::V5);
        self.settle(200);
        side
    }

    fn side(&mut self, node: usize, id: &str, client: Client, version: Version) -> usize {
        self.clients.push(Side {
            node,
            id: id.into(),
            client,
            version,
            got: Vec::new(),
            raw: Vec::new(),
            suback: BTreeSet::new(),
            present: None,
            acked: BTreeSet::new(),
            held: BTreeSet::new(),
            next_id: 0,
        });
        self.clients.len() - 1
    }

    /// A SUBSCRIBE; the packet id of its SUBACK.
    pub fn subscribe(&mut self, side: usize, filter: &str, qos: u8) -> u16 {
        self.subscribe_as(side, filter, qos, &[])
    }

    /// With options and properties, of MQTT 5.0.
    pub fn subscribe_as(&mut self, side: usize, filter: &str, options: u8, props: &[u8]) -> u16 {
        let of = &mut self.clients[side];
        of.next_id += 1;
        let id = of.next_id;
        let mut body = id.to_be_bytes().to_vec();
        if of.version == Version::V5 {
            body.push(props.len() as u8);
            body.extend(props);
        }
        body.extend((filter.len() as u16).to_be_bytes());
        body.extend(filter.as_bytes());
        body.push(options);
        self.say(side, 0x82, &body);
        id
    }

    pub fn unsubscribe(&mut self, side: usize, filter: &str) {
        let of = &mut self.clients[side];
        of.next_id += 1;
        let mut body = of.next_id.to_be_bytes().to_vec();
        body.extend((filter.len() as u16).to_be_bytes());
        body.extend(filter.as_bytes());
        self.say(side, 0xA2, &body);
    }

    /// A PUBLISH; its packet id.
    pub fn publish(&mut self, side: usize, topic: &str, qos: u8, payload: &str) -> u16 {
        self.publish_as(side, topic, qos, false, payload)
    }

    pub fn publish_as(
        &mut self,
        side: usize,
        topic: &str,
        qos: u8,
        retain: bool,
        payload: &str,
    ) -> u16 {
        let of = &mut self.clients[side];
        of.next_id += 1;
        let id = of.next_id;
        let mut body = (topic.len() as u16).to_be_bytes().to_vec();
        body.extend(topic.as_bytes());
        if qos > 0 {
            body.extend(id.to_be_bytes());
        }
        if of.version == Version::V5 {
            body.push(0);
        }
        body.extend(payload.as_bytes());
        self.say(side, 0x30 | qos << 1 | u8::from(retain), &body);
        id
    }

    /// The socket ends without a word.
    pub fn abort(&mut self, side: usize) {
        let Side { node, client, .. } = self.clients[side];
        self.rigs[node].abort(client);
    }

    pub fn is_open(&mut self, side: usize) -> bool {
        let Side { node, client, .. } = self.clients[side];
        self.rigs[node].is_open(client)
    }

    fn say(&mut self, side: usize, first: u8, body: &[u8]) {
        let mut packet = vec![first];
        let mut len = body.len();
        loop {
            let more = if len > 127 { 128 } else { 0 };
            packet.push(len as u8 & 127 | more);
            len >>= 7;
            if len == 0 {
                break;
            }
        }
        packet.extend(body);
        let Side { node, client, .. } = self.clients[side];
        self.rigs[node].send(client, &packet);
    }

    /// The client reads what came and answers as it has to.
    fn answer(&mut self, side: usize) {
        let Side { node, client, version, .. } = self.clients[side];
        for bytes in self.rigs[node].packets(client) {
            let Ok(Some(head)) = frame(&bytes, u32::MAX) else { panic!("no frame: {bytes:?}") };
            let packet = decode(&head, &bytes, version, Direction::FromServer);
            let of = &mut self.clients[side];
            let say = |first: u8, id: u16| (first, id.to_be_bytes());
            let reply = match packet.expect("what the broker sends can be read") {
                Packet::Publish(publish) => {
                    let payload = String::from_utf8_lossy(publish.payload).into_owned();
                    let id = publish.packet_id;
                    match publish.qos {
                        QoS::AtMostOnce => {
                            of.got.push(payload);
                            of.raw.push(bytes);
                            None
                        }
                        QoS::AtLeastOnce => {
                            of.got.push(payload);
                            of.raw.push(bytes);
                            Some(say(0x40, id))
                        }
                        QoS::ExactlyOnce => {
                            if of.held.insert(id) {
                                of.got.push(payload);
                                of.raw.push(bytes);
                            }
                            Some(say(0x50, id))
                        }
                    }
                }
                Packet::Pubrel(ack) => {
                    of.held.remove(&ack.packet_id);
                    Some(say(0x70, ack.packet_id))
                }
                Packet::Pubrec(ack) => Some(say(0x62, ack.packet_id)),
                Packet::Puback(ack) | Packet::Pubcomp(ack) => {
                    of.acked.insert(ack.packet_id);
                    None
                }
                Packet::Suback(ack) => {
                    of.suback.insert(ack.packet_id);
                    None
                }
                Packet::Connack(connack) if connack.code == 0 => {
                    of.present = Some(connack.session_present);
                    None
                }
                _other => None,
            };
            if let Some((first, id)) = reply {
                self.say(side, first, &id);
            }
        }
    }

    /// How often each payload came to a client.
    pub fn counts(&self, side: usize) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for payload in &self.clients[side].got {
            *counts.entry(&**payload).or_default() += 1;
        }
        counts
    }

    /// SUBACKs have come for all these.
    pub fn is_subscribed(&self, side: usize, id: u16) -> bool {
        self.clients[side].suback.contains(&id)
    }

    pub fn is_acked(&self, side: usize, id: u16) -> bool {
        self.clients[side].acked.contains(&id)
    }

    /// What waits for what, for one who looks for a fault.
    pub fn state(&self) -> String {
        let of = |at: usize| {
            let rig = &self.rigs[at];
            let crossings: Vec<_> = rig.shards.iter().map(|s| s.open_crossings()).collect();
            let waiting: Vec<_> = rig.shards.iter().map(|s| s.waiting_for_routes()).collect();
            let covered = self.exchanges[at].covered_until(u64::MAX).map(|until| until > rig.now);
            format!("node {at}: crossings {crossings:?}, waiting {waiting:?}, covered {covered:?}")
        };
        (0..self.rigs.len()).map(of).collect::<Vec<_>>().join("; ")
    }

    pub fn random(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }
}
