//! What shards say to each other.
//!
//! Every pair of shards is a first-in first-out channel; a mail to oneself is
//! handled before the next packet. Nothing here blocks: see `outbox`. Between
//! nodes mail travels as bytes (see `wire`), and may be lost with a link: see
//! `shard/moves.rs`.

mod format;
mod wire;

use std::sync::Arc;

use tidegate_codec::{Filter, ReasonCode};

pub use format::MailFormat;
pub use wire::{MailError, Parcels, parcels};

use crate::delivery::Delivery;
use crate::ids::{ConnRef, Millis, PartitionId, SessionKey, ShardId};
use crate::index::{Options, Remote, Targets};
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
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
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

    /// The slot that no connection has: a message for another node waits.
    const CROSSING: u32 = u32::MAX - 2;

    /// Of a message that a shard has sent to another node.
    pub(crate) fn crossing(shard: ShardId, number: u64) -> Confirm {
        let (generation, token) = ((number >> 32) as u32, number as u32);
        Confirm { conn: ConnRef { shard, slot: Confirm::CROSSING, generation }, token }
    }

    /// The number of the message, if it is of one that was sent to another node.
    pub(crate) fn crossing_number(&self) -> Option<u64> {
        let number = u64::from(self.conn.generation) << 32 | u64::from(self.token);
        (self.conn.slot == Confirm::CROSSING).then_some(number)
    }

    /// The partition whose errand it is, if it is one.
    pub(crate) fn partition(&self) -> Option<PartitionId> {
        (self.conn.slot == Confirm::ERRAND).then_some(PartitionId(self.conn.generation as u8))
    }
}

/// Who numbers messages: a partition its errands, a shard of one life of a node
/// what it sends to other nodes.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum LaneSource {
    Partition(u8),
    Shard(ShardId),
}

/// Which message of whom it is, so that it is taken once.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Lane {
    pub(crate) source: LaneSource,
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

    /// None of them: the lowest number that may come, in a state.
    pub(crate) const LOW: u32 = u32::MAX;

    /// The message, for a member of this share group.
    pub(crate) fn share(hash: u64) -> u32 {
        (hash as u32).clamp(2, LOW - 1)
    }
}

/// A claim in its partition. `generation` grows with each owner.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct ClaimRef {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

impl ClaimRef {
    /// Of a connection that has none.
    pub(crate) const NONE: ClaimRef = ClaimRef { slot: u32::MAX, generation: 0 };
}

#[derive(Debug)]
pub(crate) enum Kind {
    // To a partition.
    Claim(Box<ClaimRequest>),
    /// A connection of a session that ends with it tells the new leader of its
    /// partition that it is there.
    Reclaim(Box<Reclaim>),
    Release(Box<ReleaseRequest>),
    Subscribe(Box<SubscribeRequest>),
    Unsubscribe(Box<UnsubscribeRequest>),
    Recheck(Box<RecheckRequest>),
    Acknowledge {
        session: SessionKey,
        conn: ConnRef,
        packet_id: u16,
        acked: Acked,
    },
    /// A QoS 2 packet id came in (true) or was released (false).
    Incoming {
        session: SessionKey,
        conn: ConnRef,
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
    /// Its claim is wanted by another, or is another's already.
    Evict {
        conn: ConnRef,
        partition: PartitionId,
        claim: ClaimRef,
    },
    /// The end of a connection of another node is noted.
    Released {
        conn: ConnRef,
    },
    Subscribed {
        conn: ConnRef,
        packet_id: u16,
        codes: Box<[ReasonCode]>,
        /// It leaves its node when the others know of its filters; 0: at once.
        ticket: u64,
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
    /// The partition knows nothing of a session of this connection's: the
    /// leader has changed, and what was asked for is not done.
    Lost {
        conn: ConnRef,
    },
    Confirmed(Confirm),
    /// A partition that is led elsewhere now, or will be, has not taken a message,
    /// or nobody knows.
    Undone(Confirm),
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
    /// From one node to another.
    Cross(Box<Cross>),
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
            Kind::Cross(cross) => cross.message.bytes(),
            Kind::Answer { messages, .. } => messages.iter().map(|m| m.bytes()).sum(),
            Kind::Incoming { message: Some(message), .. } => message.bytes(),
            Kind::Claim(_)
            | Kind::Reclaim(_)
            | Kind::Release(_)
            | Kind::Subscribe(_)
            | Kind::Unsubscribe(_)
            | Kind::Recheck(_)
            | Kind::Acknowledge { .. }
            | Kind::Incoming { message: None, .. }
            | Kind::Granted(_)
            | Kind::Refused { .. }
            | Kind::Evict { .. }
            | Kind::Released { .. }
            | Kind::Subscribed { .. }
            | Kind::Unsubscribed { .. }
            | Kind::Owe { .. }
            | Kind::Mismatch { .. }
            | Kind::Lost { .. }
            | Kind::Confirmed(_)
            | Kind::Undone(_)
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

/// A message for another node, or the leader of a partition at one.
#[derive(Debug)]
pub(crate) struct Cross {
    pub(crate) to: Remote,
    pub(crate) what: What,
    pub(crate) message: Arc<Message>,
    pub(crate) publisher: ConnRef,
    pub(crate) lane: Option<Lane>,
    pub(crate) confirm: Option<Confirm>,
    /// The one in front of it that its shard has sent to the same partition, and
    /// that is not confirmed, by the number of its own [`Confirm`]; 0: there is
    /// none. At QoS 0, which of its publisher's connections it is of, by the
    /// generation of the claim; 0: it does not say.
    pub(crate) after: u64,
}

/// What becomes of it there.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// All sessions get it that want it.
    Everybody,
    /// One member of this share group does.
    Member {
        name: Arc<str>,
        filter: Arc<str>,
        /// Nodes that had none.
        hops: u8,
    },
    /// It is retained.
    Retain { clear: bool },
    /// The partition sees to its delivery: its publisher's node does not know all
    /// routes.
    Errand,
    /// Nothing; it is confirmed when no errand of its publisher is open.
    Settled,
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
    /// When it came to its partition: one that waits for another's end, or for
    /// a start to be durable, has come no sooner for that.
    pub(crate) came: Millis,
    /// Counts the CONNECTs of a node that is alone; 0: not known.
    pub(crate) order: u64,
}

/// See [`Kind::Reclaim`].
#[derive(Debug)]
pub(crate) struct Reclaim {
    pub(crate) conn: ConnRef,
    pub(crate) client: Arc<str>,
    pub(crate) hash: u64,
    /// When it was granted its claim first, by the wall clock: of two the
    /// younger stays.
    pub(crate) since: Millis,
}

#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) conn: ConnRef,
    pub(crate) partition: PartitionId,
    pub(crate) claim: ClaimRef,
    /// Set for a durable session.
    pub(crate) session: Option<SessionKey>,
    pub(crate) present: bool,
    /// Whether it was granted before: what followed then may be lost.
    pub(crate) again: bool,
    /// QoS 2 packet ids that came in and are not released.
    pub(crate) incoming: Vec<u16>,
    /// Where the client was connected until now.
    pub(crate) taken_from: Option<ShardId>,
    /// Whether errands of the client are open, which what it publishes now must
    /// not overtake.
    pub(crate) behind: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct ReleaseRequest {
    pub(crate) partition: PartitionId,
    pub(crate) conn: ConnRef,
    pub(crate) claim: ClaimRef,
    /// A Session Expiry Interval from DISCONNECT.
    pub(crate) expiry: Option<u32>,
    /// Whether the end was not a clean one: the will of a durable session is due.
    pub(crate) will: bool,
    /// Its node has ended it, because of a leader or a link: its client has a
    /// moment to come back before that shows.
    pub(crate) moved: bool,
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
    /// Whether the SUBACK waits until the other nodes know of the filters.
    pub(crate) barrier: bool,
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
#[derive(Clone, Debug)]
pub(crate) struct Replay {
    pub(crate) owner: SessionKey,
    pub(crate) filter: Arc<str>,
    /// Partitions whose messages are still to be looked at, a bit each.
    pub(crate) left: u64,
    /// Those of them that the shard has which is asked at present.
    pub(crate) asked: u64,
    /// That shard.
    pub(crate) keeper: ShardId,
    pub(crate) cursor: Option<Cursor>,
    pub(crate) options: Options,
    pub(crate) id: u32,
    /// The subscriber's client id, hashed.
    pub(crate) client: u64,
    /// Of two replays of one filter the later one counts.
    pub(crate) serial: u64,
    /// Counts its batches: the answer to an earlier one, which came late and
    /// was asked for again, is not taken.
    pub(crate) leg: u32,
    /// How often in a row the present batch was overdue. Stays with the owner.
    pub(crate) late: u8,
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
        let text = filter.filter();
        let left = match filter.is_wildcard() {
            true => u64::MAX,
            false => node.retained_partition(text).bit(),
        };
        Replay {
            owner,
            filter: text.into(),
            left,
            asked: 0,
            keeper: ShardId::default(),
            cursor: None,
            options,
            id,
            client,
            serial: 0,
            leg: 0,
            late: 0,
        }
    }

    /// The partition that is asked next.
    pub(crate) fn next(&self) -> PartitionId {
        let set = if self.cursor.is_some() { self.asked } else { self.left };
        PartitionId(set.trailing_zeros().min(63) as u8)
    }

    /// Whether it is about what each node says of itself.
    pub(crate) fn is_system(&self) -> bool {
        is_system(&self.filter)
    }
}

/// Whether a topic, or what a filter can match, is a node's own: such retained
/// messages stay at the node that says them.
pub(crate) fn is_system(text: &str) -> bool {
    text == "$SYS" || text.starts_with("$SYS/")
}

/// The subscriptions of a durable session are to be held against the rules.
#[derive(Debug)]
pub(crate) struct RecheckRequest {
    pub(crate) session: SessionKey,
    pub(crate) client: Arc<str>,
    pub(crate) user: Option<Box<str>>,
}
