//! The live half of a session: what belongs to a socket.
//!
//! A million of these are kept, so what only an active client needs is behind
//! one pointer and freed when it has come to rest.

use std::collections::VecDeque;
use std::sync::Arc;

use tidegate_codec::{PacketType, ReasonCode, Version};

use crate::access::Who;
use crate::alias::{AliasesIn, AliasesOut};
use crate::catchup::Catchup;
use crate::delivery::Delivery;
use crate::ids::{ConnRef, Millis, SessionKey, ShardId};
use crate::mail::{ClaimRef, Replay};
use crate::outgoing::Outgoing;
use crate::output::Output;
use crate::rate::{Bucket, Rate};
use crate::subscriptions::Subscriptions;
use crate::transit::Stamp;
use crate::will::Will;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// No CONNECT yet.
    HalfOpen,
    /// CONNECT came; its claim is on the way.
    Claiming,
    /// CONNACK is out.
    Live,
    /// Over; its last bytes may still have to leave.
    Closing,
}

/// Which way the PUBLISHes of a connection go, at QoS 1 and 2.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    /// From its node to whoever wants them.
    Direct,
    /// Earlier ones are errands of its client's partition, or may be.
    Behind,
    /// The same, and the partition is asked whether they are done.
    Asked,
}

/// Why a connection is not read for a while.
pub(crate) mod pause {
    /// Its claim has not been granted.
    pub(crate) const CLAIM: u8 = 1;
    /// A SUBSCRIBE or UNSUBSCRIBE is with its partition.
    pub(crate) const REPLY: u8 = 2;
    /// A long fan-out of its message goes on.
    pub(crate) const JOB: u8 = 4;
    /// Another shard's mailbox is full.
    pub(crate) const OUTBOX: u8 = 8;
    /// Too many of its publishes wait for their acknowledgement (before 5.0).
    pub(crate) const PARKED: u8 = 16;
    /// It does not take its answers.
    pub(crate) const OUTPUT: u8 = 32;
    /// Its CONNECT waits for a verdict, or for its turn; the packet is offered
    /// again then.
    pub(crate) const DOOR: u8 = 64;
    /// It has sent more than its rate.
    pub(crate) const RATE: u8 = 128;
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) generation: u32,
    pub(crate) phase: Phase,
    pub(crate) version: Version,
    /// Bits of [`pause`].
    pub(crate) pause: u8,
    /// The socket did not take everything; wait until it is writable.
    pub(crate) blocked: bool,
    /// In the shard's list of those with output.
    pub(crate) dirty: bool,
    /// The socket ended while the claim was on its way.
    pub(crate) gone: bool,
    /// The shell has let go of the slot, see `gone`.
    pub(crate) released: bool,
    /// The shell has been told to close.
    pub(crate) told: bool,
    /// Request Response Information.
    pub(crate) response_information: bool,
    /// The client id was assigned by us.
    pub(crate) assigned: bool,
    /// The keep alive was lowered, or the session expiry cut.
    pub(crate) keep_alive_clamped: bool,
    pub(crate) expiry_cut: bool,
    pub(crate) session_durable: bool,
    /// What its CONNECT asked for, until its claim is granted.
    pub(crate) clean_start: bool,
    /// Its CONNECT was counted.
    pub(crate) greeted: bool,
    /// Somebody outside has to admit it.
    pub(crate) guarded: bool,
    /// Its SUBACKs do not wait for other nodes.
    pub(crate) local_barrier: bool,
    /// How its PUBLISHes go that must not overtake earlier ones.
    pub(crate) order: Order,
    /// Seconds, as enforced; 0: none.
    pub(crate) keep_alive: u16,
    /// Unacknowledged PUBLISHes it takes.
    pub(crate) window: u16,
    /// The highest topic alias it takes.
    pub(crate) alias_out_max: u16,
    /// The tick of its last packet.
    pub(crate) seen: u32,
    pub(crate) packet_bytes_max: u32,
    /// Session Expiry Interval.
    pub(crate) expiry: u32,
    /// Its client id, hashed.
    pub(crate) hash: u64,
    pub(crate) client: Option<Arc<str>>,
    pub(crate) claim: ClaimRef,
    /// The durable half's slot and generation. Of an ephemeral session the
    /// first number is the tick of its CONNACK. Before the claim is granted it
    /// is the stamp of the accept.
    pub(crate) session: (u32, u32),
    /// Of an ephemeral session.
    pub(crate) subscriptions: Subscriptions,
    pub(crate) will: Option<Arc<Will>>,
    pub(crate) output: Option<Box<Output>>,
    pub(crate) active: Option<Box<Active>>,
    /// Who it is, where listeners ask.
    pub(crate) guest: Option<Box<Guest>>,
}

/// What is known of a client that did not come in unasked.
#[derive(Debug, Default)]
pub(crate) struct Guest {
    /// The user name that was vouched for.
    pub(crate) user: Option<Box<str>>,
    /// How much it may send.
    pub(crate) throttle: Option<Throttle>,
}

/// The rates of one client.
#[derive(Debug)]
pub(crate) struct Throttle {
    /// PUBLISHes.
    pub(crate) messages: Option<(Rate, Bucket)>,
    /// Bytes.
    pub(crate) bytes: Option<(Rate, Bucket)>,
}

impl Throttle {
    /// Pays for one packet; how many milliseconds until the next may be read.
    pub(crate) fn pay(&mut self, now: Millis, bytes: usize, publish: bool) -> Millis {
        let now = now * 1_000;
        let pay = |bucket: &mut Option<(Rate, Bucket)>, n: u64| match bucket {
            Some((rate, bucket)) if n > 0 => bucket.spend(*rate, now, n),
            Some(_) | None => 0,
        };
        let messages = pay(&mut self.messages, u64::from(publish));
        messages.max(pay(&mut self.bytes, bytes as u64)).div_ceil(1_000)
    }
}

/// For rules that are asked about a connection that is gone.
pub(crate) const NOBODY: Who<'static> = Who { client: "", user: None };

// A million connections: 8 bytes more are 8 MB more.
const _: () = assert!(size_of::<Conn>() <= 160);

impl Conn {
    pub(crate) fn new(generation: u32, seen: u32, accepted_at: Option<Stamp>) -> Conn {
        Conn {
            generation,
            phase: Phase::HalfOpen,
            version: Version::V3_1_1,
            pause: 0,
            blocked: false,
            dirty: false,
            gone: false,
            released: false,
            told: false,
            response_information: false,
            assigned: false,
            keep_alive_clamped: false,
            expiry_cut: false,
            session_durable: false,
            clean_start: false,
            greeted: false,
            guarded: false,
            local_barrier: false,
            order: Order::Direct,
            keep_alive: 0,
            window: u16::MAX,
            alias_out_max: 0,
            seen,
            packet_bytes_max: u32::MAX,
            expiry: 0,
            hash: 0,
            client: None,
            claim: ClaimRef::default(),
            session: (accepted_at.map_or(0, Stamp::bits), 0),
            subscriptions: Subscriptions::None,
            will: None,
            output: None,
            active: None,
            guest: None,
        }
    }

    /// As the access rules know it.
    #[inline]
    pub(crate) fn who(&self) -> Who<'_> {
        let user = self.guest.as_ref().and_then(|guest| guest.user.as_deref());
        Who { client: self.client.as_deref().unwrap_or(""), user }
    }

    /// When it was accepted; to be asked before the claim is granted.
    pub(crate) fn accepted_at(&self) -> Option<Stamp> {
        Stamp::of_bits(self.session.0)
    }

    pub(crate) fn reference(&self, shard: ShardId, slot: u32) -> ConnRef {
        ConnRef { shard, slot, generation: self.generation }
    }

    /// The session it speaks for: the durable half, or itself.
    pub(crate) fn session_key(&self, shard: ShardId, home: ShardId, slot: u32) -> SessionKey {
        if self.session_durable {
            let (slot, generation) = self.session;
            SessionKey { shard: home, durable: true, slot, generation }
        } else {
            SessionKey { shard, durable: false, slot, generation: self.generation }
        }
    }

    pub(crate) fn active(&mut self) -> &mut Active {
        self.active.get_or_insert_default()
    }

    pub(crate) fn version_index(&self) -> usize {
        match self.version {
            Version::V3_1 => 0,
            Version::V3_1_1 => 1,
            Version::V5 => 2,
        }
    }

    /// The label of its version, and so on: frees what an idle client does not need.
    pub(crate) fn rest(&mut self) {
        if self.active.as_ref().is_some_and(|active| active.is_idle()) {
            self.active = None;
        }
    }
}

/// What only a client in the middle of something has.
#[derive(Debug, Default)]
pub(crate) struct Active {
    /// QoS 1 and 2 of an ephemeral session.
    pub(crate) outgoing: Outgoing,
    /// What the socket did not take yet: QoS 0, and what a durable half pushed.
    pub(crate) held: VecDeque<Held>,
    pub(crate) held_bytes: usize,
    /// Acknowledgements that wait, in the order of their packets (ACK-2).
    pub(crate) parked: VecDeque<Parked>,
    /// The token of the first of them.
    pub(crate) parked_first: u32,
    /// QoS 2 packet ids that came in and are not released.
    pub(crate) incoming: Vec<u16>,
    /// So many of them came on earlier connections: the client's send quota
    /// began anew with this one [MQTT-4.9.0-1].
    pub(crate) inherited: u16,
    pub(crate) aliases_in: AliasesIn,
    pub(crate) aliases_out: AliasesOut,
    /// Long fan-outs of this publisher that go on.
    pub(crate) jobs: u16,
    /// Of an ephemeral session.
    pub(crate) catchup: Catchup,
    /// Replays of a durable half that wait until the socket has room.
    // Boxed as they travel.
    #[allow(clippy::vec_box)]
    pub(crate) paced: Vec<Box<Replay>>,
}

impl Active {
    fn is_idle(&self) -> bool {
        self.outgoing.is_empty()
            && self.held.is_empty()
            && self.parked.is_empty()
            && self.incoming.is_empty()
            && self.aliases_in.is_empty()
            && self.aliases_out.is_empty()
            && self.jobs == 0
            && !self.catchup.is_on()
            && self.paced.is_empty()
    }

    /// Unacknowledged QoS 1 and 2 PUBLISHes from the client.
    pub(crate) fn incoming_unacknowledged(&self) -> usize {
        let qos1 = self.parked.iter().filter(|p| p.kind == PacketType::Puback).count();
        self.incoming.len() + qos1
    }
}

/// A PUBLISH that waits for its socket.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) packet_id: u16,
    pub(crate) dup: bool,
    pub(crate) delivery: Delivery,
}

/// An acknowledgement that waits until its message is where it must be (ACK-1).
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) kind: PacketType,
    pub(crate) packet_id: u16,
    pub(crate) reason: ReasonCode,
    /// Confirmations to come.
    pub(crate) left: u16,
}
