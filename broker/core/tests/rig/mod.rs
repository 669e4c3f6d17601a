//! A node in one thread: several shards, mailboxes between them, and clients
//! whose bytes go straight in and out. The clock is the test's.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each test uses a part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidegate_codec::{Version, frame};
use tidegate_core::access::{Access, Open};
use tidegate_core::ids::{Member, PartitionId, ShardId};
use tidegate_core::journal::{Batch, Entry};
use tidegate_core::mail::Mail;
use tidegate_core::settings::Settings;
use tidegate_core::{
    Event, Hangup, Image, Keeps, Node, Opened, Opening, RecordError, Shard, Then, Verdict, Written,
};

/// What the hashes of every rig begin with.
const SEED: u64 = 0x7ead_5eed;
/// The clock of a rig at its start, and the wall clock when that stood at 0.
const NOW: u64 = 1_000_000_000;
const EPOCH: u64 = 1_700_000_000_000;

pub struct Rig {
    pub node: Arc<Node>,
    pub shards: Vec<Shard>,
    pub now: u64,
    sockets: BTreeMap<(usize, u32), Socket>,
    mailboxes: Vec<VecDeque<(ShardId, Vec<Mail>)>>,
    /// Batches a mailbox takes.
    pub mailbox_max: usize,
    /// While set, shards have only the turns that the test gives them.
    pub held: bool,
    next_client: u64,
    /// What closed sockets had been sent and nobody has read.
    closed: Vec<(u64, Version, Vec<u8>)>,
    /// CONNECTs that wait for a verdict, and their shards.
    pub asked: Vec<(usize, Opened)>,
    /// What is written, if the node's state is kept.
    pub disk: Option<Disk>,
}

/// What a node has written.
#[derive(Default)]
pub struct Disk {
    /// Records that a crash leaves, in order; none: given up.
    pub durable: Vec<Option<(Entry, Vec<u8>)>>,
    /// The last state of each partition: where it begins, and its last record.
    pub states: BTreeMap<u8, (usize, u64)>,
    /// Batches that it does not, with their shards.
    pub written: VecDeque<(usize, Batch)>,
    /// What the wall clock showed when the rig's stood at 0.
    pub epoch: u64,
    /// While set, nothing becomes durable.
    pub held: bool,
}

struct Socket {
    client: u64,
    version: Version,
    stash: Vec<u8>,
    paused: bool,
    sent: Vec<u8>,
    /// How many more bytes it takes before it would block.
    room: usize,
}

impl Disk {
    /// Keeps a batch; where its records lie.
    fn take(&mut self, batch: &Batch) -> Vec<u64> {
        let first = self.durable.len() as u64;
        let records = batch.records().map(|(entry, body)| Some((entry, body.to_vec())));
        self.durable.extend(records);
        for written in &batch.written {
            let begin = first as usize + written.first as usize;
            self.states.insert(written.partition, (begin, written.index));
        }
        (first + 1..=self.durable.len() as u64).collect()
    }
}

/// Has the shards of a node that starts apply what is written.
fn read_back(disk: &Disk, now: u64, shards: &mut [Shard]) {
    for (at, record) in disk.durable.iter().enumerate() {
        let Some((Entry { partition, index, state, .. }, body)) = record else { continue };
        let shard = usize::from(*partition) % shards.len();
        let shard = &mut shards[shard];
        let (begin, last) = disk.states.get(partition).copied().unwrap_or((0, 0));
        if at < begin || (*state && *index != last) {
            continue;
        }
        if *state {
            shard.restore(now, *partition, *index, body).expect("what was written");
        } else {
            let position = at as u64 + 1;
            shard.replay(now, *partition, *index, position, body).expect("what was written");
        }
    }
}

/// A client's connection: which shard, which socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub struct Client {
    pub shard: usize,
    pub slot: u32,
    id: u64,
}

impl Rig {
    pub fn new(shards: u16, settings: Settings) -> Rig {
        Rig::with_access(shards, settings, Box::new(Open))
    }

    /// A node whose clients may do what `access` says.
    pub fn with_access(shards: u16, settings: Settings, access: Box<dyn Access>) -> Rig {
        Rig::of(Node::new(settings, shards, SEED, access), NOW)
    }

    /// A node whose state outlives it.
    pub fn kept(shards: u16, settings: Settings) -> Rig {
        let node = Node::kept(settings, shards, SEED, Box::new(Open), EPOCH);
        let mut rig = Rig::of(Arc::new(node), NOW);
        rig.shards.iter_mut().for_each(Shard::keep);
        rig.disk = Some(Disk { epoch: EPOCH, ..Disk::default() });
        rig
    }

    /// A member of a cluster, whose clock is `ahead` of that of the first. What
    /// it sends to others is for the caller to carry. Nothing is said of routes:
    /// nobody waits for that.
    pub fn member(shards: u16, settings: Settings, member: Member, ahead: u64) -> Rig {
        let rig = Rig::routed(shards, settings, member, ahead);
        rig.node.set_covered(Some(u64::MAX));
        rig.node.index.pass(u64::MAX);
        rig
    }

    /// The same, whose routes the caller carries too.
    pub fn routed(shards: u16, settings: Settings, member: Member, ahead: u64) -> Rig {
        let node = Node::kept(settings, shards, SEED, Box::new(Open), EPOCH - ahead);
        Rig::of(Arc::new(node.in_cluster(member)), NOW + ahead)
    }

    /// From now on its state is written.
    pub fn keep(&mut self, ahead: u64) {
        self.shards.iter_mut().for_each(Shard::keep);
        self.disk = Some(Disk { epoch: EPOCH - ahead, ..Disk::default() });
    }

    /// The node ends without a word and starts again, with as many shards as
    /// it is told, `ms` later. Whoever was connected is not any more.
    pub fn crash(&mut self, shards: u16, ms: u64) {
        let mut disk = self.disk.take().expect("a node whose state is kept");
        disk.written.clear();
        // Another start of the machine: its clock begins anew.
        disk.epoch += self.now + ms - NOW;
        let epoch = disk.epoch;
        let settings = self.node.settings.clone();
        let node = Arc::new(Node::kept(settings, shards, SEED, Box::new(Open), epoch));
        let next_client = self.next_client;
        *self = Rig::of(node, NOW);
        self.next_client = next_client;
        for shard in &mut self.shards {
            shard.keep();
        }
        read_back(&disk, NOW, &mut self.shards);
        self.disk = Some(disk);
        for shard in &mut self.shards {
            shard.resume(NOW);
        }
        self.run();
    }

    /// The node has ended without a word: its partitions as their first replicas
    /// are to have them, and how much they keep.
    pub fn images_alone(&self) -> (Vec<Image>, Keeps) {
        let disk = self.disk.as_ref().expect("a node whose state is kept");
        let settings = self.node.settings.clone();
        let node = Node::kept(settings, 1, SEED, Box::new(Open), disk.epoch);
        let mut shard = Shard::new(Arc::new(node), ShardId(0), self.now);
        shard.keep();
        read_back(disk, self.now, std::slice::from_mut(&mut shard));
        shard.end_alone(self.now).expect("our own record");
        let image = |p| shard.image_alone(self.now, PartitionId(p));
        ((0..64).map(image).collect(), shard.keeps_alone())
    }

    /// The bytes of such an image.
    pub fn written(&self, image: &Image) -> Vec<u8> {
        let disk = self.disk.as_ref().expect("a node whose state is kept");
        let read = |at: u64| {
            let record = disk.durable[at as usize - 1].as_ref();
            Ok::<_, RecordError>(record.expect("what is needed is still there").1.clone())
        };
        let mut bytes = Vec::new();
        let put = |piece: &[u8]| {
            bytes.extend_from_slice(piece);
            Ok(())
        };
        image.write(read, |_| 0, put).expect("of messages");
        bytes
    }

    fn of(node: Arc<Node>, now: u64) -> Rig {
        let shards = node.shards();
        Rig {
            shards: (0..shards).map(|n| Shard::new(Arc::clone(&node), ShardId(n), now)).collect(),
            mailboxes: (0..shards).map(|_| VecDeque::new()).collect(),
            node,
            now,
            sockets: BTreeMap::new(),
            mailbox_max: usize::MAX,
            held: false,
            next_client: 0,
            closed: Vec::new(),
            asked: Vec::new(),
            disk: None,
        }
    }

    /// A socket, nothing sent yet.
    pub fn open(&mut self, shard: usize) -> Client {
        self.open_as(shard, Opening::default())
    }

    /// The same, of a listener that asks who comes.
    pub fn open_as(&mut self, shard: usize, opening: Opening) -> Client {
        let opened = self.shards[shard].open_as(self.now, opening).expect("within the limits");
        self.next_client += 1;
        let socket = Socket {
            client: self.next_client,
            version: Version::V3_1_1,
            stash: Vec::new(),
            paused: false,
            sent: Vec::new(),
            room: usize::MAX,
        };
        self.sockets.insert((shard, opened.slot), socket);
        Client { shard, slot: opened.slot, id: self.next_client }
    }

    /// Tells the shard what becomes of the CONNECT that it asked about first.
    pub fn answer(&mut self, verdict: Verdict) {
        let (shard, opened) = self.asked.remove(0);
        self.shards[shard].admit(self.now, opened, verdict);
        self.run();
    }

    /// Sockets that the broker has.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    fn socket(&mut self, client: Client) -> Option<&mut Socket> {
        self.sockets.get_mut(&(client.shard, client.slot)).filter(|s| s.client == client.id)
    }

    /// Whether the broker still has the connection.
    pub fn is_open(&mut self, client: Client) -> bool {
        self.socket(client).is_some()
    }

    /// Whether the broker does not read it for now.
    pub fn is_paused(&mut self, client: Client) -> bool {
        self.socket(client).is_some_and(|socket| socket.paused)
    }

    /// Bytes from the client that were not used yet.
    pub fn unread(&mut self, client: Client) -> usize {
        self.socket(client).map_or(0, |socket| socket.stash.len())
    }

    /// The version that answers are read in.
    pub fn speaks(&mut self, client: Client, version: Version) {
        if let Some(socket) = self.socket(client) {
            socket.version = version;
        }
    }

    /// How many more bytes the socket takes before it would block.
    pub fn set_room(&mut self, client: Client, room: usize) {
        let now = self.now;
        if let Some(socket) = self.socket(client) {
            socket.room = room;
            if room > 0 {
                self.shards[client.shard].writable(now, client.slot);
            }
        }
        self.run();
    }

    /// Bytes from the client, and all that follows from them.
    pub fn send(&mut self, client: Client, bytes: &[u8]) {
        self.give(client, bytes);
        self.run();
    }

    /// As [`Rig::send`], but nothing is carried between shards yet.
    pub fn give(&mut self, client: Client, bytes: &[u8]) {
        if let Some(socket) = self.socket(client) {
            socket.stash.extend_from_slice(bytes);
            self.feed(client.shard, client.slot);
        }
    }

    fn feed(&mut self, shard: usize, slot: u32) {
        let Some(socket) = self.sockets.get_mut(&(shard, slot)) else { return };
        if socket.paused {
            return;
        }
        let stash = std::mem::take(&mut socket.stash);
        let received = self.shards[shard].receive(self.now, slot, &stash);
        assert!(received.consumed <= stash.len(), "no more is used than was given");
        let Some(socket) = self.sockets.get_mut(&(shard, slot)) else { return };
        match received.then {
            Then::Read => socket.stash = stash[received.consumed..].to_vec(),
            Then::Pause => {
                socket.stash = stash[received.consumed..].to_vec();
                socket.paused = true;
            }
            Then::Close => {}
        }
    }

    /// The packets that came for the client since the last call, raw.
    pub fn packets(&mut self, client: Client) -> Vec<Vec<u8>> {
        let mut bytes = match self.socket(client) {
            Some(socket) => std::mem::take(&mut socket.sent),
            None => self
                .closed
                .iter_mut()
                .find(|(id, _, _)| *id == client.id)
                .map(|(_, _, sent)| std::mem::take(sent))
                .unwrap_or_default(),
        };
        let mut packets = Vec::new();
        while let Ok(Some(frame)) = frame(&bytes, u32::MAX) {
            let rest = bytes.split_off(frame.total);
            packets.push(std::mem::replace(&mut bytes, rest));
        }
        if !bytes.is_empty()
            && let Some(socket) = self.socket(client)
        {
            socket.sent = bytes; // the beginning of one
        }
        packets
    }

    /// The socket ends without a word.
    pub fn abort(&mut self, client: Client) {
        let now = self.now;
        if self.socket(client).is_some() {
            self.shards[client.shard].hangup(now, client.slot, Hangup::Eof);
        }
        self.run();
    }

    /// Lets time pass, timers included.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            let next = self.shards.iter().filter_map(Shard::next_tick).min();
            match next {
                Some(next) if next <= end => {
                    self.now = self.now.max(next);
                    for shard in &mut self.shards {
                        shard.tick(self.now);
                    }
                    self.run();
                }
                Some(_) | None => break,
            }
        }
        self.now = end;
    }

    /// Turns of all shards until nothing is left to do.
    pub fn run(&mut self) {
        if self.held {
            return;
        }
        for _ in 0..100_000 {
            let mut busy = false;
            for at in 0..self.shards.len() {
                busy |= self.turn(at);
            }
            if !busy {
                return;
            }
        }
        panic!("the shards do not come to rest");
    }

    /// What is written by now becomes durable, and nothing of what follows.
    pub fn sync(&mut self) {
        let disk = self.disk.as_mut().expect("a node whose state is kept");
        let written = std::mem::take(&mut disk.written);
        for (shard, batch) in written {
            let disk = self.disk.as_mut().expect("the same");
            let positions = disk.take(&batch);
            self.shards[shard].durable(self.now, batch.number, &positions);
        }
        self.run();
    }

    /// Has the state of a partition written.
    pub fn write_state(&mut self, partition: u8) {
        let shard = usize::from(partition) % self.shards.len();
        self.shards[shard].write_state(self.now, partition);
        self.run();
    }

    /// Gives up all records that nothing needs, when what queues need of them
    /// has been written again.
    pub fn compact(&mut self) {
        let limit = self.disk.as_ref().map_or(0, |disk| disk.durable.len());
        for partition in 0..64u8 {
            let shard = usize::from(partition) % self.shards.len();
            self.shards[shard].relocate(self.now, partition, limit as u64 + 1);
            self.run();
            self.write_state(partition);
        }
        if let Some(disk) = &mut self.disk {
            assert_eq!(disk.states.len(), 64);
            let begin = disk.states.values().map(|(begin, _)| *begin).min().unwrap_or(0);
            disk.durable[..begin.min(limit)].fill(None);
        }
    }

    /// Takes what a shard wants written, and makes durable what was taken before.
    fn write(&mut self, at: usize) -> bool {
        let Some(disk) = &mut self.disk else { return false };
        let mut busy = false;
        while !disk.held
            && let Some(mine) = disk.written.iter().position(|(shard, _)| *shard == at)
        {
            busy = true;
            // The log is one: what was taken before it is durable with it.
            for (shard, batch) in disk.written.drain(..=mine).collect::<Vec<_>>() {
                let positions = disk.take(&batch);
                self.shards[shard].durable(self.now, batch.number, &positions);
            }
        }
        for fetch in self.shards[at].take_fetches() {
            busy = true;
            let read = |&at: &u64| {
                let record = disk.durable[at as usize - 1].as_ref();
                record.expect("what is needed is still there").1.clone()
            };
            let bodies: Vec<Vec<u8>> = fetch.positions.iter().map(read).collect();
            self.shards[at].fetched(self.now, &fetch, &bodies).expect("records of messages");
        }
        if let Some(batch) = self.shards[at].take_batch() {
            busy = true;
            disk.written.push_back((at, batch));
        }
        busy && !disk.held
    }

    /// One turn of one shard; whether it did anything.
    pub fn turn(&mut self, at: usize) -> bool {
        let mut busy = false;
        while let Some((from, batch)) = self.mailboxes[at].pop_front() {
            busy = true;
            self.shards[at].mail(self.now, from, batch);
        }
        busy |= self.shards[at].work(self.now);
        loop {
            let sockets = &mut self.sockets;
            self.shards[at].flush(self.now, &mut |slot, slices| {
                let Some(socket) = sockets.get_mut(&(at, slot)) else { return Written::Failed };
                let offered: usize = slices.iter().map(|s| s.len()).sum();
                let taken = offered.min(socket.room);
                let all: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
                socket.sent.extend_from_slice(&all[..taken]);
                if socket.room != usize::MAX {
                    socket.room -= taken;
                }
                if taken == offered { Written::All } else { Written::Some(taken) }
            });
            let Some(event) = self.shards[at].next_event() else { break };
            busy = true;
            match event {
                Event::Resume(slot) => {
                    if let Some(socket) = self.sockets.get_mut(&(at, slot)) {
                        socket.paused = false;
                    }
                    self.feed(at, slot);
                }
                Event::Authenticate(opened) => self.asked.push((at, opened)),
                Event::Close(slot) => {
                    if let Some(mut socket) = self.sockets.remove(&(at, slot)) {
                        socket.stash.clear();
                        self.closed.push((socket.client, socket.version, socket.sent));
                    }
                    self.shards[at].release(slot);
                }
            }
        }
        busy |= self.shards[at].has_work();
        busy |= self.write(at);
        for to in 0..self.shards.len() {
            while self.mailboxes[to].len() < self.mailbox_max
                && let Some(batch) = self.shards[at].outbound(ShardId(to as u16))
            {
                busy = true;
                self.mailboxes[to].push_back((ShardId(at as u16), batch));
            }
        }
        busy
    }
}

/// A connected 3.1.1 client.
pub fn connect(rig: &mut Rig, shard: usize, id: &str, clean: bool) -> Client {
    let client = rig.open(shard);
    let mut packet = vec![0x10, 12 + id.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 4];
    packet.extend([if clean { 2 } else { 0 }, 0, 0, 0, id.len() as u8]);
    packet.extend(id.as_bytes());
    rig.send(client, &packet);
    client
}

/// A CONNECT of 5.0 with a session that outlives it by so many seconds.
pub fn connect_v5(rig: &mut Rig, shard: usize, id: &str, clean: bool, expiry: u32) -> Client {
    let client = rig.open(shard);
    let mut packet = vec![0x10, 18 + id.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 5];
    packet.extend([if clean { 2 } else { 0 }, 0, 0, 5, 0x11]);
    packet.extend(expiry.to_be_bytes());
    packet.extend([0, id.len() as u8]);
    packet.extend(id.as_bytes());
    rig.send(client, &packet);
    client
}

/// A SUBSCRIBE to one filter.
pub fn subscribe(rig: &mut Rig, client: Client, filter: &str, qos: u8) {
    let mut packet = vec![0x82, 5 + filter.len() as u8, 0, 1, 0, filter.len() as u8];
    packet.extend(filter.as_bytes());
    packet.push(qos);
    rig.send(client, &packet);
}

/// A short PUBLISH.
pub fn publish(rig: &mut Rig, client: Client, topic: &str, qos: u8, id: u8, payload: &[u8]) {
    let mut packet = vec![0x30 | qos << 1, 0, 0, topic.len() as u8];
    packet.extend(topic.as_bytes());
    if qos > 0 {
        packet.extend([0, id]);
    }
    packet.extend(payload);
    packet[1] = packet.len() as u8 - 2;
    rig.send(client, &packet);
}
