//! The shards of a node, the mail between them, and its sockets.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidegate_codec::{Version, frame};
use tidegate_core::access::Open;
use tidegate_core::ids::ShardId;
use tidegate_core::limits::Limits;
use tidegate_core::mail::Mail;
use tidegate_core::settings::Settings;
use tidegate_core::{Event, Hangup, Shard, Then, Written};

use crate::dice::Dice;
use crate::plant::Plant;

/// What the hashes of every simulated node begin with: part of its identity.
const SEED: u64 = 0x7ead_5eed;

/// The clock of a node at each start.
pub(crate) const START: u64 = 1_000_000_000;

/// A socket: both ends of it, and what is on the way.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Whose.
    pub(crate) client: usize,
    /// Counts connections of the whole run.
    pub(crate) conn: u32,
    /// What the client has sent and the node has not received.
    pub(crate) up: Vec<u8>,
    /// The broker reads no further for now.
    pub(crate) paused: bool,
    /// How many more bytes the client's host takes.
    pub(crate) room: usize,
    /// The beginning of a packet for the client.
    partial: Vec<u8>,
    version: Version,
    /// Received by the node, not used yet.
    stash: Vec<u8>,
    /// Nothing more is read from it.
    dead: bool,
    /// Something came after that.
    unread: bool,
    /// Its client saw the CONNACK before it went elsewhere.
    pub(crate) greeted: bool,
}

/// Something that reached a client's host.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// A whole packet.
    Packet {
        /// For whom.
        client: usize,
        /// On which connection.
        conn: u32,
        /// In which version.
        version: Version,
        /// The packet.
        bytes: Vec<u8>,
    },
    /// The broker has closed the connection.
    Closed {
        /// Whose.
        client: usize,
        /// Which.
        conn: u32,
        /// Something that was sent on it was not read.
        unread: bool,
    },
}

/// A running node.
pub(crate) struct Node {
    /// Its shards.
    pub(crate) shards: Vec<Shard>,
    /// Its clock.
    pub(crate) now: u64,
    /// By shard and slot.
    pub(crate) wires: BTreeMap<(usize, u32), Wire>,
    /// What reached clients and was not looked at.
    pub(crate) arrivals: VecDeque<Arrival>,
    /// By target and sender.
    mailboxes: Vec<Vec<VecDeque<Vec<Mail>>>>,
    plant: Option<Plant>,
}

impl Node {
    /// A node whose state is kept, with nothing in it.
    pub(crate) fn new(shards: u16, epoch: u64, plant: Option<Plant>) -> Node {
        let limits = Limits {
            queue_messages_max: 1_000_000,
            queue_bytes_max: u64::MAX / 2,
            ..Limits::default()
        };
        let settings = Settings { limits, ..Settings::default() };
        let node = tidegate_core::Node::kept(settings, shards, SEED, Box::new(Open), epoch);
        let mut node = Node::of(&Arc::new(node), plant);
        node.shards.iter_mut().for_each(Shard::keep);
        node
    }

    /// The shards of a node that begins, with nothing in them.
    pub(crate) fn of(node: &Arc<tidegate_core::Node>, plant: Option<Plant>) -> Node {
        let shards: Vec<Shard> =
            (0..node.shards()).map(|n| Shard::new(Arc::clone(node), ShardId(n), START)).collect();
        let mailboxes =
            shards.iter().map(|_| shards.iter().map(|_| VecDeque::new()).collect()).collect();
        Node {
            shards,
            now: START,
            wires: BTreeMap::new(),
            arrivals: VecDeque::new(),
            mailboxes,
            plant,
        }
    }

    /// A client connects to a shard.
    pub(crate) fn open(
        &mut self,
        shard: usize,
        client: usize,
        conn: u32,
        version: Version,
    ) -> bool {
        let Ok(opened) = self.shards[shard].open(self.now) else { return false };
        let wire = Wire {
            client,
            conn,
            up: Vec::new(),
            paused: false,
            room: usize::MAX,
            partial: Vec::new(),
            version,
            stash: Vec::new(),
            dead: false,
            unread: false,
            greeted: false,
        };
        self.wires.insert((shard, opened.slot), wire);
        true
    }

    /// The wire of a connection.
    pub(crate) fn wire(&mut self, conn: u32) -> Option<&mut Wire> {
        self.wires.values_mut().find(|wire| wire.conn == conn)
    }

    /// The client's end of a connection is gone; `heard` of what it had sent
    /// last still comes.
    pub(crate) fn abort(&mut self, conn: u32, heard: usize) {
        let Some(key) = self.wires.iter().find(|(_, wire)| wire.conn == conn).map(|(k, _)| *k)
        else {
            return;
        };
        self.receive(key, heard);
        if let Some(wire) = self.wires.get_mut(&key).filter(|wire| !wire.dead) {
            wire.dead = true;
            wire.up.clear();
            self.shards[key.0].hangup(self.now, key.1, Hangup::Eof);
        }
    }

    /// Up to `bytes` of what a client has sent reach the node.
    pub(crate) fn receive(&mut self, key: (usize, u32), bytes: usize) {
        let Some(wire) = self.wires.get_mut(&key) else { return };
        if wire.dead {
            wire.unread |= !wire.up.is_empty();
            wire.up.clear();
        }
        let bytes = bytes.min(wire.up.len());
        wire.stash.extend(wire.up.drain(..bytes));
        self.feed(key);
    }

    fn feed(&mut self, key: (usize, u32)) {
        let Some(wire) = self.wires.get_mut(&key) else { return };
        if wire.paused || wire.dead {
            return;
        }
        let stash = std::mem::take(&mut wire.stash);
        let received = self.shards[key.0].receive(self.now, key.1, &stash);
        match received.then {
            Then::Read => wire.stash = stash[received.consumed..].to_vec(),
            Then::Pause => {
                wire.stash = stash[received.consumed..].to_vec();
                wire.paused = true;
            }
            Then::Close => {
                wire.dead = true;
                wire.up.clear();
            }
        }
    }

    /// How much a client's host takes from now on.
    pub(crate) fn set_room(&mut self, key: (usize, u32), room: usize) {
        let Some(wire) = self.wires.get_mut(&key) else { return };
        wire.room = room;
        if room > 0 {
            self.shards[key.0].writable(self.now, key.1);
        }
    }

    /// One batch of mail for a shard, if there is any.
    pub(crate) fn mail(&mut self, to: usize, dice: &mut Dice) -> bool {
        let full: Vec<usize> =
            (0..self.shards.len()).filter(|&from| !self.mailboxes[to][from].is_empty()).collect();
        if full.is_empty() {
            return false;
        }
        let from = *dice.pick(&full);
        let queue = &mut self.mailboxes[to][from];
        let last = queue.len() - 1;
        let mail = match self.plant {
            Some(Plant::ReorderMail) => queue.remove(dice.below(last + 1)),
            Some(
                Plant::AckBeforeSync
                | Plant::SkipDirSync
                | Plant::LoseRecords
                | Plant::SkipResume
                | Plant::IgnoreSyncError
                | Plant::LoseMail
                | Plant::StateWithoutTail
                | Plant::RemoveTooMuch,
            )
            | None => queue.pop_front(),
        };
        let Some(mail) = mail else { return false };
        if self.plant == Some(Plant::LoseMail) && dice.chance(2) {
            return true;
        }
        self.shards[to].mail(self.now, ShardId(from as u16), mail);
        true
    }

    /// Whether no mail is on its way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.mailboxes.iter().flatten().all(VecDeque::is_empty)
            && self.wires.values().all(|wire| wire.up.is_empty())
            && !self.shards.iter().any(|shard| shard.has_work() || shard.has_output())
            && self.arrivals.is_empty()
    }

    /// One turn of one shard; whether it did anything.
    pub(crate) fn turn(&mut self, at: usize) -> bool {
        let mut busy = false;
        let now = self.now;
        if self.shards[at].next_tick().is_some_and(|due| due <= now) {
            self.shards[at].tick(now);
        }
        busy |= self.shards[at].work(now);
        busy |= self.shards[at].has_output();
        loop {
            let (wires, arrivals) = (&mut self.wires, &mut self.arrivals);
            self.shards[at].flush(now, &mut |slot, slices| {
                let Some(wire) = wires.get_mut(&(at, slot)) else { return Written::Failed };
                let offered: usize = slices.iter().map(|slice| slice.len()).sum();
                let taken = offered.min(wire.room);
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                wire.partial.extend_from_slice(&all[..taken]);
                if wire.room != usize::MAX {
                    wire.room -= taken;
                }
                wire.split(arrivals);
                if taken == offered { Written::All } else { Written::Some(taken) }
            });
            let Some(event) = self.shards[at].next_event() else { break };
            busy = true;
            match event {
                Event::Resume(slot) => {
                    if let Some(wire) = self.wires.get_mut(&(at, slot)) {
                        wire.paused = false;
                    }
                    self.feed((at, slot));
                }
                // No listener of ours asks who comes.
                Event::Authenticate(_) => {}
                Event::Close(slot) => {
                    if let Some(wire) = self.wires.remove(&(at, slot)) {
                        let Wire { client, conn, up, stash, unread, .. } = wire;
                        let unread = unread || !up.is_empty() || !stash.is_empty();
                        self.arrivals.push_back(Arrival::Closed { client, conn, unread });
                    }
                    self.shards[at].release(slot);
                }
            }
        }
        for to in 0..self.shards.len() {
            while let Some(batch) = self.shards[at].outbound(ShardId(to as u16)) {
                busy = true;
                self.mailboxes[to][at].push_back(batch);
            }
        }
        busy
    }
}

impl Wire {
    /// Whole packets go on to the client.
    fn split(&mut self, arrivals: &mut VecDeque<Arrival>) {
        while let Ok(Some(frame)) = frame(&self.partial, u32::MAX) {
            let rest = self.partial.split_off(frame.total);
            arrivals.push_back(Arrival::Packet {
                client: self.client,
                conn: self.conn,
                version: self.version,
                bytes: std::mem::replace(&mut self.partial, rest),
            });
        }
    }
}
