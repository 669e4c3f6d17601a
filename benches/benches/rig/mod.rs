//! A shard without sockets: what clients send goes straight in, what they are
//! sent lies in a buffer each. Turns are those of the shell, timing included.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "each bench uses a part of it")]

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Bencher;
use tidegate_core::access::Open;
use tidegate_core::ids::ShardId;
use tidegate_core::settings::Settings;
use tidegate_core::transit::Stamp;
use tidegate_core::{Event, Hangup, Node, Shard, Written};

pub const TOPIC: &str = "plant/7/temp";
const PAYLOAD: [u8; 64] = [b'x'; 64];

pub struct Rig {
    pub shard: Shard,
    now: u64,
    sent: Vec<Vec<u8>>,
    /// Deliveries that the shard told the shell of.
    timed: u64,
}

impl Rig {
    pub fn new() -> Rig {
        let node = Node::new(Settings::default(), 1, 0x7ead_5eed, Box::new(Open));
        let now = 1_000_000;
        let shard = Shard::new(Arc::clone(&node), ShardId(0), now);
        Rig { shard, now, sent: Vec::new(), timed: 0 }
    }

    pub fn open(&mut self) -> u32 {
        let slot = self.shard.open(self.now).expect("within the limits").slot;
        if self.sent.len() <= slot as usize {
            self.sent.resize_with(slot as usize + 1, Vec::new);
        }
        self.sent[slot as usize].clear();
        slot
    }

    /// A connected 3.1.1 client.
    pub fn connect(&mut self, id: &str, clean: bool) -> u32 {
        let slot = self.open();
        self.give(slot, &connect(id, clean));
        self.turn();
        let connack = self.take(slot);
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{id} is connected");
        // What follows, if it resumes a session.
        self.sent[slot as usize].extend_from_slice(&connack[4..]);
        slot
    }

    pub fn subscriber(&mut self, id: &str, clean: bool, qos: u8) -> u32 {
        let slot = self.connect(id, clean);
        let mut packet = vec![0x82, 5 + TOPIC.len() as u8, 0, 1, 0, TOPIC.len() as u8];
        packet.extend(TOPIC.as_bytes());
        packet.push(qos);
        self.give(slot, &packet);
        self.turn();
        assert_eq!(self.take(slot), [0x90, 3, 0, 1, qos]);
        slot
    }

    /// The socket is read.
    #[inline]
    pub fn give(&mut self, slot: u32, bytes: &[u8]) {
        let received = self.shard.receive(self.now, slot, bytes);
        debug_assert_eq!(received.consumed, bytes.len());
    }

    /// The rest of a turn: long jobs, the flush, what is to close.
    #[inline]
    pub fn turn(&mut self) {
        let Rig { shard, now, sent, timed } = self;
        while shard.work(*now) {}
        shard.flush(*now, &mut |slot, slices: &[IoSlice<'_>]| {
            for slice in slices {
                sent[slot as usize].extend_from_slice(slice);
            }
            Written::All
        });
        while let Some(event) = shard.next_event() {
            match event {
                Event::Close(slot) => shard.release(slot),
                Event::Resume(_) => {} // `give` leaves no rest
                Event::Authenticate(_) => unreachable!("no door is guarded"),
            }
        }
        shard.take_passed(|passed| *timed += u64::from(passed.counts.iter().sum::<u32>()));
        shard.take_reached(|_| {});
        *now += 1;
        shard.begin_turn(Stamp::of_nanos(*now * 1_000_000));
    }

    /// What a client was sent and has not taken.
    #[inline]
    pub fn sent(&mut self, slot: u32) -> &mut Vec<u8> {
        &mut self.sent[slot as usize]
    }

    pub fn take(&mut self, slot: u32) -> Vec<u8> {
        std::mem::take(self.sent(slot))
    }

    pub fn abort(&mut self, slot: u32) {
        self.shard.hangup(self.now, slot, Hangup::Eof);
        self.turn();
    }

    /// Writes the answer of a client to each of the PUBLISHes that it was sent:
    /// a packet of `kind` with the id. Each is as long as [`publish`] makes it.
    pub fn answers(&mut self, slot: u32, kind: u8, into: &mut Vec<u8>) -> usize {
        into.clear();
        let sent = &mut self.sent[slot as usize];
        let id_at = 2 + 2 + TOPIC.len();
        for packet in sent.chunks_exact(id_at + 2 + PAYLOAD.len()) {
            debug_assert_eq!(packet[0] >> 4, 3);
            into.extend_from_slice(&[kind, 2, packet[id_at], packet[id_at + 1]]);
        }
        sent.clear();
        into.len() / 4
    }
}

pub fn connect(id: &str, clean: bool) -> Vec<u8> {
    let mut packet = vec![0x10, 12 + id.len() as u8, 0, 4, b'M', b'Q', b'T', b'T', 4];
    packet.extend([if clean { 2 } else { 0 }, 0, 0, 0, id.len() as u8]);
    packet.extend(id.as_bytes());
    packet
}

/// PUBLISHes with 64 bytes of payload; ids from 1 on.
pub fn publish(qos: u8, n: u16) -> Vec<u8> {
    let mut packets = Vec::new();
    for id in 1..=n {
        let id = if qos > 0 { &id.to_be_bytes()[..] } else { &[] };
        let length = 2 + TOPIC.len() + id.len() + PAYLOAD.len();
        packets.extend([0x30 | qos << 1, length as u8, 0, TOPIC.len() as u8]);
        packets.extend(TOPIC.as_bytes());
        packets.extend(id);
        packets.extend(PAYLOAD);
    }
    packets
}

/// Acknowledgements of the ids from 1 on.
pub fn acks(kind: u8, n: u16) -> Vec<u8> {
    (1..=n).flat_map(|id| [kind, 2, id.to_be_bytes()[0], id.to_be_bytes()[1]]).collect()
}

/// Measures `step`, which does `n` events, so that criterion tells the time of one.
pub fn each(bencher: &mut Bencher<'_>, n: u32, mut step: impl FnMut()) {
    bencher.iter_custom(|rounds| {
        let began = Instant::now();
        for _ in 0..rounds {
            step();
        }
        began.elapsed() / n
    });
}

/// As [`each`], but `step` says itself how long it took.
pub fn each_timed(bencher: &mut Bencher<'_>, n: u32, mut step: impl FnMut() -> Duration) {
    bencher.iter_custom(|rounds| (0..rounds).map(|_| step()).sum::<Duration>() / n);
}
