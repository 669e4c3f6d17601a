//! Nodes whose partitions have replicas, over a model of a replicated log: an
//! entry is committed when the leader reaches a majority, a leader that is lost
//! leaves some of what it had proposed, and one that was cut off learns late
//! that it leads no longer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_core::ids::{Member, PARTITIONS, PartitionId};
use tidegate_core::mail::{MailFormat, parcels};
use tidegate_core::settings::Settings;
use tidegate_core::{Applied, Image, RecordError};

use crate::disk::{Disk, Saving, Wanted};
use crate::rig::{Client, Rig};

/// How far the clock of each node is ahead of that of the one before it.
const AHEAD: u64 = 12_345;

pub struct Cluster {
    pub nodes: Vec<Member>,
    rigs: Vec<Option<Rig>>,
    /// By node and partition: entries that were applied, and whether it leads.
    applied: Vec<Vec<usize>>,
    leads: Vec<Vec<bool>>,
    groups: Vec<Group>,
    cut: BTreeSet<(usize, usize)>,
    gone: BTreeSet<Member>,
    settings: Settings,
    shards: u16,
    members: u16,
    now: u64,
    /// While set, nothing is committed.
    pub held: bool,
    /// Partitions whose entries are not committed.
    pub stuck: BTreeSet<usize>,
    /// By node and partition: what the node can read of it.
    disks: Vec<Vec<Disk>>,
    /// Reads that are asked for, by node and shard.
    wanted: VecDeque<Wanted>,
    /// Images that are not durable yet, by node and partition.
    saving: Vec<(usize, usize, Saving)>,
    /// How long reads and images take.
    luck: u32,
    /// Messages that were read.
    pub reads: usize,
}

/// The log of a partition.
#[derive(Default)]
struct Group {
    leader: Option<usize>,
    /// Entries that are committed; those in front of `base` are in the image.
    entries: Vec<Vec<u8>>,
    base: usize,
    image: Vec<u8>,
    /// What the leader has proposed.
    proposed: VecDeque<Vec<u8>>,
}

impl Cluster {
    pub fn new(nodes: usize, shards: u16, settings: &Settings) -> Cluster {
        let mut cluster = Cluster::down(nodes, shards, settings);
        for node in 0..nodes {
            cluster.start(node);
        }
        cluster
    }

    /// One that begins with what a node that was alone has kept.
    pub fn of_alone(alone: &Rig, nodes: usize, shards: u16, settings: &Settings) -> Cluster {
        let mut cluster = Cluster::down(nodes, shards, settings);
        for (group, image) in cluster.groups.iter_mut().zip(alone.images_alone().0) {
            (group.base, group.image) = (1, alone.written(&image));
            group.entries.push(Vec::new());
        }
        for node in 0..nodes {
            cluster.start(node);
        }
        cluster
    }

    fn down(nodes: usize, shards: u16, settings: &Settings) -> Cluster {
        Cluster {
            nodes: vec![Member::ALONE; nodes],
            rigs: (0..nodes).map(|_| None).collect(),
            applied: vec![vec![0; PARTITIONS.into()]; nodes],
            leads: vec![vec![false; PARTITIONS.into()]; nodes],
            groups: (0..PARTITIONS).map(|_| Group::default()).collect(),
            cut: BTreeSet::new(),
            gone: BTreeSet::new(),
            settings: settings.clone(),
            shards,
            members: 0,
            now: 0,
            held: false,
            stuck: BTreeSet::new(),
            disks: (0..nodes).map(|_| (0..PARTITIONS).map(|_| Disk::default()).collect()).collect(),
            wanted: VecDeque::new(),
            saving: Vec::new(),
            luck: 7,
            reads: 0,
        }
    }

    pub fn rig(&mut self, node: usize) -> &mut Rig {
        self.rigs[node].as_mut().expect("a node that is up")
    }

    pub fn is_up(&self, node: usize) -> bool {
        self.rigs[node].is_some()
    }

    fn reaches(&self, a: usize, b: usize) -> bool {
        let cut = self.cut.contains(&(a.min(b), a.max(b)));
        self.is_up(a) && self.is_up(b) && (a == b || !cut)
    }

    fn has_majority(&self, node: usize) -> bool {
        let reached = (0..self.nodes.len()).filter(|&other| self.reaches(node, other)).count();
        reached > self.nodes.len() / 2
    }

    /// A node starts, as a new incarnation, and reads what it has of the logs.
    pub fn start(&mut self, node: usize) {
        self.members += 1;
        self.nodes[node] = Member(self.members);
        let ahead = AHEAD * node as u64;
        let mut rig = Rig::member(self.shards, self.settings.clone(), self.nodes[node], ahead);
        rig.now += self.now;
        rig.shards.iter_mut().for_each(tidegate_core::Shard::replicate);
        self.rigs[node] = Some(rig);
        for p in 0..usize::from(PARTITIONS) {
            self.leads[node][p] = false;
            self.read_back(node, p);
            if let Some(leader) = self.groups[p].leader.filter(|&l| self.reaches(l, node)) {
                self.tell(node, p, Some(leader));
            }
        }
        self.run();
    }

    fn at(&self, node: usize, p: usize) -> usize {
        let _ = node;
        p % usize::from(self.shards)
    }

    fn read_back(&mut self, node: usize, p: usize) {
        let at = self.at(node, p);
        let group = &self.groups[p];
        let (base, image) = (group.base, group.image.clone());
        let disk = &mut self.disks[node][p];
        let generation = disk.next_image();
        disk.forget(base);
        let rig = self.rig(node);
        if base > 0 {
            let mut ended = false;
            let partition = PartitionId(p as u8);
            // Cut anywhere.
            for piece in image.chunks(977) {
                let shard = &mut rig.shards[at];
                let installed = shard.install(rig.now, partition, generation, piece);
                ended = installed.expect("an image");
            }
            self.disks[node][p].keep(generation, image);
            assert!(ended, "the image of {p} is whole");
        }
        self.applied[node][p] = base;
        self.apply(node, p);
    }

    /// Applies what is committed.
    fn apply(&mut self, node: usize, p: usize) -> bool {
        let at = self.at(node, p);
        let mut busy = false;
        while let Some(payload) = self.groups[p].entries.get(self.applied[node][p]).cloned() {
            busy = true;
            self.applied[node][p] += 1;
            let entry = self.applied[node][p] as u64;
            let rig = self.rig(node);
            let partition = PartitionId(p as u8);
            let applied = rig.shards[at].committed(rig.now, partition, entry, &payload);
            match applied.expect("an entry") {
                Applied::Own => assert!(self.leads[node][p], "own, of one that does not lead"),
                Applied::Followed(records) => assert!(records > 0),
                Applied::Void => {}
                Applied::Deposed => self.demote(node, p),
            }
        }
        busy
    }

    /// The node knows that it leads a partition no longer.
    fn demote(&mut self, node: usize, p: usize) {
        self.leads[node][p] = false;
        self.tell(node, p, None);
        let at = self.at(node, p);
        let rig = self.rig(node);
        rig.shards[at].reset(rig.now, PartitionId(p as u8));
        self.read_back(node, p);
    }

    fn tell(&mut self, node: usize, p: usize, leader: Option<usize>) {
        let partition = PartitionId(p as u8);
        let home = leader.map(|leader| self.rig(leader).node.place(partition));
        let rig = self.rig(node);
        rig.node.set_home(partition, home);
        for shard in &mut rig.shards {
            shard.home_moved(rig.now, partition);
        }
    }

    /// A node is elected; `survive` of what the leader before had proposed is in
    /// the log, and the rest is not.
    pub fn elect(&mut self, p: usize, node: usize, survive: usize) {
        assert!(self.has_majority(node));
        let group = &mut self.groups[p];
        let before = group.leader.replace(node);
        let survive = survive.min(group.proposed.len());
        group.entries.extend(group.proposed.drain(..survive));
        group.proposed.clear();
        if let Some(before) = before.filter(|&b| self.is_up(b) && self.reaches(b, node)) {
            self.demote_if_leading(before, p);
        }
        self.demote_if_leading(node, p);
        self.apply(node, p);
        self.leads[node][p] = true;
        let at = self.at(node, p);
        let rig = self.rig(node);
        rig.shards[at].promote(rig.now, PartitionId(p as u8));
        for other in 0..self.nodes.len() {
            if self.reaches(node, other) {
                self.tell(other, p, Some(node));
            }
        }
        self.end_claims(p);
    }

    fn demote_if_leading(&mut self, node: usize, p: usize) {
        if self.leads[node][p] {
            self.demote(node, p);
        }
    }

    /// The leader ends the claims of incarnations that are gone.
    fn end_claims(&mut self, p: usize) {
        let Some(leader) = self.groups[p].leader.filter(|&l| self.is_up(l)) else { return };
        let at = self.at(leader, p);
        let gone = self.gone.clone();
        let rig = self.rig(leader);
        let partition = PartitionId(p as u8);
        for member in rig.shards[at].members_of(partition) {
            if gone.contains(&member) {
                rig.shards[at].node_gone_of(rig.now, partition, member);
            }
        }
    }

    /// A node leads everything.
    pub fn elect_all(&mut self, node: usize, mut survive: impl FnMut() -> usize) {
        for p in 0..usize::from(PARTITIONS) {
            let survive = survive();
            self.elect(p, node, survive);
        }
        self.run();
    }

    /// A node ends without a word.
    pub fn kill(&mut self, node: usize) {
        self.gone.insert(self.nodes[node]);
        self.rigs[node] = None;
        let member = self.nodes[node];
        for other in 0..self.nodes.len() {
            if let Some(rig) = &mut self.rigs[other] {
                for shard in &mut rig.shards {
                    shard.member_lost(rig.now, member);
                }
            }
        }
        for p in 0..usize::from(PARTITIONS) {
            if self.groups[p].leader.is_some_and(|leader| self.has_majority(leader)) {
                self.end_claims(p);
            }
        }
        self.run();
    }

    /// Two nodes do not reach each other; both see it.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
        for (at, other) in [(a, b), (b, a)] {
            let member = self.nodes[other];
            if let Some(rig) = &mut self.rigs[at] {
                for shard in &mut rig.shards {
                    shard.member_lost(rig.now, member);
                }
            }
        }
        self.run();
    }

    /// They do again; who was replaced meanwhile learns it from the log.
    pub fn heal(&mut self, a: usize, b: usize) {
        self.cut.remove(&(a.min(b), a.max(b)));
        for p in 0..usize::from(PARTITIONS) {
            let Some(leader) = self.groups[p].leader else { continue };
            for node in [a, b] {
                if !self.reaches(leader, node) || node == leader {
                    continue;
                }
                self.apply(node, p);
                self.demote_if_leading(node, p);
                self.tell(node, p, Some(leader));
            }
        }
        self.run();
    }

    /// The leader's image takes the place of the entries in front of it. Where
    /// others have applied as many, theirs is the same to the byte.
    pub fn compact(&mut self, p: usize) {
        let Some(leader) = self.groups[p].leader.filter(|&l| self.has_majority(l)) else { return };
        let partition = PartitionId(p as u8);
        for _ in 0..10 {
            self.run();
            let at = self.at(leader, p);
            let generation = self.disks[leader][p].next_image();
            let rig = self.rig(leader);
            let image = rig.shards[at].image_of(rig.now, partition, generation);
            let Some(image) = image else { continue };
            let applied = self.applied[leader][p];
            let bytes = self.write_image(leader, p, generation, &image);
            for node in (0..self.nodes.len()).filter(|&node| node != leader) {
                if !self.is_up(node) || self.leads[node][p] || self.applied[node][p] != applied {
                    continue;
                }
                let at = self.at(node, p);
                let generation = self.disks[node][p].next_image();
                let rig = self.rig(node);
                let other = rig.shards[at].image_of(rig.now, partition, generation);
                let other = other.expect("a follower's");
                assert_eq!(image.index, other.index);
                assert_eq!(image.pieces, other.pieces, "the images of {p} at {leader} and {node}");
                let other = self.write_image(node, p, generation, &other);
                assert!(bytes == other, "the images of {p} at {leader} and {node}");
            }
            let group = &mut self.groups[p];
            group.base = applied;
            group.image = bytes;
            self.run();
            return;
        }
        panic!("no image of {p}");
    }

    /// Writes an image out; some time later it is durable there.
    fn write_image(&mut self, node: usize, p: usize, generation: u32, image: &Image) -> Vec<u8> {
        let disk = &self.disks[node][p];
        let entries = &self.groups[p].entries;
        let mut bytes = Vec::new();
        let read = |position| Ok(disk.read(entries, position).expect("what is needed is there"));
        let put = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok::<_, RecordError>(())
        };
        let places = image.write(read, |_| 0, put).expect("an image");
        let upto = self.applied[node][p];
        let saving = Saving { generation, places, bytes: bytes.clone(), upto };
        self.saving.retain(|(other, of, _)| (*other, *of) != (node, p));
        if self.lucky() {
            self.save(node, p, saving);
        } else {
            self.saving.push((node, p, saving));
        }
        bytes
    }

    fn save(&mut self, node: usize, p: usize, saving: Saving) {
        let Saving { generation, places, bytes, upto } = saving;
        let at = self.at(node, p);
        if !self.is_up(node) {
            return;
        }
        self.take_fetches();
        let partition = PartitionId(p as u8);
        let rig = self.rig(node);
        let kept = rig.shards[at].saved(partition, generation, &places);
        let oldest = rig.shards[at].oldest_entry(partition);
        let disk = &mut self.disks[node][p];
        if kept {
            disk.keep(generation, bytes);
        }
        disk.forget(oldest.map_or(upto, |oldest| upto.min(oldest as usize - 1)));
    }

    fn lucky(&mut self) -> bool {
        self.luck = self.luck.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.luck >> 30 == 0
    }

    fn take_fetches(&mut self) {
        for node in 0..self.rigs.len() {
            let member = self.nodes[node];
            let Some(rig) = &mut self.rigs[node] else { continue };
            for (shard, core) in rig.shards.iter_mut().enumerate() {
                for fetch in core.take_fetches() {
                    let epoch = self.disks[node][usize::from(fetch.partition())].epoch;
                    self.wanted.push_back(Wanted { node, member, shard, fetch, epoch });
                }
            }
        }
    }

    /// Reads what shards ask for, some time later, and lets images become durable.
    fn read(&mut self) -> bool {
        self.take_fetches();
        if self.lucky() && !self.saving.is_empty() {
            let (node, p, saving) = self.saving.remove(0);
            self.save(node, p, saving);
        }
        let busy = !self.wanted.is_empty();
        if self.lucky()
            && let Some(Wanted { node, member, shard, fetch, epoch }) = self.wanted.pop_front()
            && self.nodes[node] == member
        {
            let p = usize::from(fetch.partition());
            let disk = &self.disks[node][p];
            let read = |&position: &u64| disk.read(&self.groups[p].entries, position);
            let bodies: Option<Vec<Vec<u8>>> = fetch.positions.iter().map(read).collect();
            assert!(bodies.is_some() || disk.epoch != epoch, "what is needed is there: {fetch:?}");
            let bodies = bodies.unwrap_or_default();
            self.reads += bodies.len();
            if let Some(rig) = &mut self.rigs[node] {
                rig.shards[shard].fetched(rig.now, &fetch, &bodies).expect("records of messages");
            }
        }
        busy
    }

    /// Turns of all nodes, mail between them and entries of their logs, until
    /// nothing is left to do at this moment.
    pub fn run(&mut self) {
        for _ in 0..20_000 {
            self.rigs.iter_mut().flatten().for_each(Rig::run);
            let carried = self.carry();
            let read = self.read();
            if !self.commit() && !carried && !read {
                return;
            }
        }
        panic!("the nodes do not come to rest");
    }

    fn carry(&mut self) -> bool {
        let mut busy = false;
        let mut under_way: BTreeMap<(usize, usize), Vec<Vec<u8>>> = BTreeMap::new();
        for from in 0..self.nodes.len() {
            let Some(rig) = &mut self.rigs[from] else { continue };
            for shard in &mut rig.shards {
                let to: Vec<Member> = shard.outbound_members().collect();
                for to in to {
                    let mut bytes = Vec::new();
                    shard.outbound_to(to, MailFormat::default(), 16 << 10, &mut bytes);
                    busy = true;
                    // What goes to an earlier incarnation goes nowhere.
                    if let Some(to) = self.nodes.iter().position(|&member| member == to) {
                        under_way.entry((from, to)).or_default().push(bytes);
                    }
                }
            }
        }
        for ((from, to), all) in under_way {
            if !self.reaches(from, to) {
                continue;
            }
            let member = self.nodes[from];
            let rig = self.rig(to);
            for parcel in all.iter().flat_map(|bytes| parcels(bytes)) {
                let (shard, parcel) = parcel.expect("whole parcels");
                let shard = &mut rig.shards[usize::from(shard)];
                shard.inbound(rig.now, member, parcel).expect("mail");
            }
        }
        busy
    }

    /// Takes what leaders propose, and commits what reaches a majority.
    fn commit(&mut self) -> bool {
        let mut busy = false;
        for node in 0..self.nodes.len() {
            let Some(rig) = &mut self.rigs[node] else { continue };
            let mut taken = Vec::new();
            for shard in &mut rig.shards {
                let open: Vec<PartitionId> = shard.entries().map(|(p, _)| p).collect();
                for p in open {
                    taken.extend(shard.take_entry(p).map(|(_, payload)| (p, payload)));
                }
            }
            for (p, payload) in taken {
                busy = true;
                let group = &mut self.groups[usize::from(p.0)];
                if group.leader == Some(node) {
                    group.proposed.push_back(payload);
                }
            }
        }
        if self.held {
            return false;
        }
        for p in 0..usize::from(PARTITIONS) {
            let Some(leader) = self.groups[p].leader.filter(|&l| self.is_up(l)) else { continue };
            if self.has_majority(leader) && !self.stuck.contains(&p) {
                let group = &mut self.groups[p];
                busy |= !group.proposed.is_empty();
                group.entries.extend(group.proposed.drain(..));
            }
            for node in 0..self.nodes.len() {
                if self.reaches(leader, node) {
                    busy |= self.apply(node, p);
                }
            }
        }
        busy
    }

    /// What was proposed and is not committed, of all partitions.
    pub fn proposed(&self) -> usize {
        self.groups.iter().map(|group| group.proposed.len()).sum()
    }

    /// Lets time pass, in steps.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            let step = (end - self.now).min(250);
            self.now += step;
            self.rigs.iter_mut().flatten().for_each(|rig| rig.advance(step));
            self.run();
        }
    }

    /// The partition of a client id.
    pub fn partition_of(&mut self, id: &str) -> usize {
        usize::from(self.rig(0).node.partition_of_client(id).0)
    }

    /// The image of a partition, of the node that leads it.
    pub fn image(&self, p: usize) -> &[u8] {
        &self.groups[p].image
    }

    // What clients do.

    pub fn connect(&mut self, node: usize, id: &str, clean: bool) -> Client {
        let client = crate::rig::connect(self.rig(node), 0, id, clean);
        self.run();
        client
    }

    pub fn subscribe(&mut self, node: usize, client: Client, filter: &str, qos: u8) {
        crate::rig::subscribe(self.rig(node), client, filter, qos);
        self.run();
    }

    pub fn send(&mut self, node: usize, client: Client, bytes: &[u8]) {
        self.rig(node).send(client, bytes);
        self.run();
    }

    pub fn abort(&mut self, node: usize, client: Client) {
        self.rig(node).abort(client);
        self.run();
    }

    pub fn packets(&mut self, node: usize, client: Client) -> Vec<Vec<u8>> {
        self.rig(node).packets(client)
    }
}

/// A PUBLISH at QoS 1 of more than a few bytes.
pub fn publish_large(topic: &str, id: u16, bytes: usize) -> Vec<u8> {
    let rest = 2 + topic.len() + 2 + bytes;
    let mut packet = vec![0x32];
    packet.extend([rest as u8 | 0x80, (rest >> 7) as u8 | 0x80, (rest >> 14) as u8]);
    packet.extend([0, topic.len() as u8]);
    packet.extend(topic.as_bytes());
    packet.extend(id.to_be_bytes());
    packet.resize(packet.len() + bytes, b'x');
    packet
}

/// PUBLISH.
pub fn publish(topic: &str, qos: u8, retain: bool, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x30 | qos << 1 | u8::from(retain), 0, 0, topic.len() as u8];
    packet.extend(topic.as_bytes());
    if qos > 0 {
        packet.extend(id.to_be_bytes());
    }
    packet.extend(payload);
    packet[1] = packet.len() as u8 - 2;
    packet
}
