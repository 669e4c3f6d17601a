//! What shards say to each other.
//!
//! Every pair of shards is a first-in first-out channel; a mail to oneself is
//! handled before the next packet. Nothing here blocks: see `outbox`.

use std::sync::Arc;

use tidegate_codec::{Filter, ReasonCode};

use crate::delivery::Delivery;
use crate::ids::{ConnRef, PartitionId, SessionKey, ShardId};
use crate::index::{Options, Targets};
use crate::message::Message;
use crate::node::Node;
use crate::outgoing::Acked;
use crate::retained::Cursor;
use crate::transit::Stamp;
use crate::will::Will;

/// One message between shards.
#[derive(Debug)]
pub struct Mail {
    pub(crate) kind: Kind,
    /// When the PUBLISH was read that it comes of, if it is timed.
    pub(crate) read_at: Option<Stamp>,
}

/// A publisher's wish to be told that a message is where it must be: the
/// publish's acknowledgement waits for it (ACK-1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirm {
    pub(crate) conn: ConnRef,
    pub(crate) token: u32,
}

impl Confirm {
    /// The slot that no connection has: an errand of a partition waits.
    const ERRAND: u32 = u32::MAX - 1;

    /// Of an errand of a partition of this shard.
    pub(crate) fn errand(shard: ShardId, partition: PartitionId, token: u32) -> Confirm {
        let generation = u32::from(partition.0);
        let conn = ConnRef { shard, slot: Confirm::ERRAND, generation };
        Confirm { conn, token }
    }

    /// The partition whose errand it is, if it is one.
    pub(crate) fn partition(&self) -> Option<PartitionId> {
        (self.conn.slot == Confirm::ERRAND).then_some(PartitionId(self.conn.generation as u8))
    }
}

/// Which errand of which partition a message is, so that it is taken once.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Lane {
    pub(crate) partition: u8,
    pub(crate) number: u64,
    /// Numbers below it do not come again.
    pub(crate) low: u64,
    /// Tells apart what one partition gets of one errand: see [`part`].
    pub(crate) part: u32,
}

/// What a partition may get of one errand.
pub(crate) mod part {
    /// The message, for its sessions.
    pub(crate) const SESSIONS: u32 = 0;
    /// The message, to be retained.
    pub(crate) const RETAIN: u32 = 1;

    /// The message, for a member of this share group.
    pub(crate) fn share(hash: u64) -> u32 {
        (hash as u32).max(2)
    }
}

/// A claim in its partition. `generation` grows with each owner.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ClaimRef {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

#[derive(Debug)]
pub(crate) enum Kind {
    // To a partition.
    Claim(Box<ClaimRequest>),
    Release(Box<ReleaseRequest>),
    Subscribe(Box<SubscribeRequest>),
    Unsubscribe(Box<UnsubscribeRequest>),
    Recheck(Box<RecheckRequest>),
    Acknowledge {
        session: SessionKey,
        packet_id: u16,
        acked: Acked,
    },
    /// A QoS 2 packet id came in (true) or was released (false).
    Incoming {
        session: SessionKey,
        packet_id: u16,
        held: bool,
        /// What came in, if the partition is to see to its delivery.
        message: Option<Arc<Message>>,
        confirm: Option<Confirm>,
    },
    // To a connection.
    Granted(Box<Granted>),
    Refused {
        conn: ConnRef,
        reason: ReasonCode,
    },
    Evict {
        conn: ConnRef,
    },
    Subscribed {
        conn: ConnRef,
        packet_id: u16,
        codes: Box<[ReasonCode]>,
    },
    Unsubscribed {
        conn: ConnRef,
        packet_id: u16,
        codes: Box<[ReasonCode]>,
    },
    Push {
        conn: ConnRef,
        packet_id: u16,
        dup: bool,
        delivery: Delivery,
    },
    Owe {
        conn: ConnRef,
        packet_id: u16,
        reason: ReasonCode,
    },
    Mismatch {
        conn: ConnRef,
    },
    Confirmed(Confirm),
    /// A journal that was behind has caught up.
    Relieved,
    /// The retained message of this publish found no place.
    NotRetained(Confirm),
    JobDone {
        conn: ConnRef,
    },
    Pace {
        conn: ConnRef,
        replay: Box<Replay>,
    },
    // To whoever owns the targets.
    Deliver {
        message: Arc<Message>,
        targets: Arc<Targets>,
        durable: bool,
        publisher: ConnRef,
        lane: Option<Lane>,
        /// The acknowledgement waits for the durable targets.
        confirm: Option<Confirm>,
        /// The publisher waits for the end of a long fan-out.
        report: bool,
    },
    DeliverShared {
        session: SessionKey,
        delivery: Delivery,
        lane: Option<Lane>,
        confirm: Option<Confirm>,
    },
    // Retained messages.
    Retain {
        message: Arc<Message>,
        clear: bool,
        lane: Option<Lane>,
        confirm: Option<Confirm>,
    },
    Query(Box<Replay>),
    /// A replay that a connection had when it went.
    Returned {
        conn: ConnRef,
        replay: Box<Replay>,
    },
    Answer {
        replay: Box<Replay>,
        messages: Vec<Arc<Message>>,
        more: bool,
    },
}

impl Mail {
    /// Bytes that it holds while it waits in an outbox.
    pub(crate) fn bytes(&self) -> usize {
        let content = match &self.kind {
            Kind::Deliver { message, .. } | Kind::Retain { message, .. } => message.bytes(),
            Kind::DeliverShared { delivery, .. } | Kind::Push { delivery, .. } => {
                delivery.message.bytes()
            }
            Kind::Answer { messages, .. } => messages.iter().map(|m| m.bytes()).sum(),
            Kind::Incoming { message: Some(message), .. } => message.bytes(),
            Kind::Claim(_)
            | Kind::Release(_)
            | Kind::Subscribe(_)
            | Kind::Unsubscribe(_)
            | Kind::Recheck(_)
            | Kind::Acknowledge { .. }
            | Kind::Incoming { message: None, .. }
            | Kind::Granted(_)
            | Kind::Refused { .. }
            | Kind::Evict { .. }
            | Kind::Subscribed { .. }
            | Kind::Unsubscribed { .. }
            | Kind::Owe { .. }
            | Kind::Mismatch { .. }
            | Kind::Confirmed(_)
            | Kind::Relieved
            | Kind::NotRetained(_)
            | Kind::JobDone { .. }
            | Kind::Pace { .. }
            | Kind::Query(_)
            | Kind::Returned { .. } => 0,
        };
        size_of::<Mail>() + content
    }
}

#[derive(Debug)]
pub(crate) struct ClaimRequest {
    pub(crate) conn: ConnRef,
    pub(crate) client: Arc<str>,
    pub(crate) hash: u64,
    pub(crate) clean_start: bool,
    /// Seconds; 0: the session ends with the connection.
    pub(crate) expiry: u32,
    /// PUBLISHes that may be unacknowledged towards this client.
    pub(crate) window: u16,
    /// Of a session that outlives its connection.
    pub(crate) will: Option<Arc<Will>>,
    /// Whether a new session has been counted for it.
    pub(crate) counted: bool,
}

#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) conn: ConnRef,
    pub(crate) claim: ClaimRef,
    /// Set for a durable session.
    pub(crate) session: Option<SessionKey>,
    pub(crate) present: bool,
    /// QoS 2 packet ids that came in and are not released.
    pub(crate) incoming: Vec<u16>,
    /// Where the client was connected until now.
    pub(crate) taken_from: Option<ShardId>,
}

#[derive(Debug)]
pub(crate) struct ReleaseRequest {
    pub(crate) partition: PartitionId,
    pub(crate) claim: ClaimRef,
    /// A Session Expiry Interval from DISCONNECT.
    pub(crate) expiry: Option<u32>,
    /// Whether the end was not a clean one: the will of a durable session is due.
    pub(crate) will: bool,
}

/// A filter of a SUBSCRIBE that passed the checks of its connection.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) text: Box<str>,
    pub(crate) options: Options,
    pub(crate) retain_handling: tidegate_codec::RetainHandling,
    /// What the SUBACK says; an error is only passed on.
    pub(crate) code: ReasonCode,
}

#[derive(Debug)]
pub(crate) struct SubscribeRequest {
    pub(crate) session: SessionKey,
    pub(crate) conn: ConnRef,
    pub(crate) packet_id: u16,
    pub(crate) id: u32,
    pub(crate) filters: Vec<Wanted>,
}

#[derive(Debug)]
pub(crate) struct UnsubscribeRequest {
    pub(crate) session: SessionKey,
    pub(crate) conn: ConnRef,
    pub(crate) packet_id: u16,
    pub(crate) filters: Vec<Box<str>>,
}

/// A walk over the retained messages that a new subscription matches. It
/// travels between the session's owner and the shards that hold the messages,
/// one batch at a time, so that neither keeps state for the other.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) owner: SessionKey,
    pub(crate) filter: Arc<str>,
    /// Whether one shard has all that can match.
    pub(crate) exact: bool,
    pub(crate) shard: ShardId,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) options: Options,
    pub(crate) id: u32,
    /// The subscriber's client id, hashed.
    pub(crate) client: u64,
    /// Of two replays of one filter the later one counts.
    pub(crate) serial: u64,
}

impl Replay {
    /// Of a subscription of `owner`, not begun.
    pub(crate) fn new(
        owner: SessionKey,
        filter: &Filter<'_>,
        options: Options,
        id: u32,
        client: u64,
        node: &Node,
    ) -> Replay {
        let exact = !filter.is_wildcard();
        let text = filter.filter();
        let shard = if exact { node.retained_shard(text) } else { ShardId::default() };
        let filter = text.into();
        Replay { owner, filter, exact, shard, cursor: None, options, id, client, serial: 0 }
    }
}

/// The subscriptions of a durable session are to be held against the rules.
#[derive(Debug)]
pub(crate) struct RecheckRequest {
    pub(crate) session: SessionKey,
    pub(crate) client: Arc<str>,
    pub(crate) user: Option<Box<str>>,
}
