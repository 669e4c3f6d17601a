//! A partition: the durable halves of the sessions whose client ids hash to it,
//! and the claims that say which connection speaks for a client id.
//!
//! A state machine. Its state changes only in [`Partition::apply`], by records
//! that its log has committed; a record carries its own time, so the same
//! records give the same state anywhere. What follows from a record (mails,
//! wills to publish, messages for another member of a group) goes into the
//! [`Context`] of the caller.
//!
//! Upholds OWN-1 (one owner a claim generation) and QOS-2 (packet ids of both
//! directions live here, not with the socket).

mod claim;
mod session;

use std::sync::Arc;

use hashbrown::HashTable;

use crate::counters::{Counters, DropReason};
use crate::delivery::Delivery;
use crate::ids::{Millis, PartitionId, SessionKey, ShardId};
use crate::index::Targets;
use crate::log::{MemoryLog, ReplicatedLog};
use crate::mail::{
    ClaimRequest, Confirm, Kind, Mail, ReleaseRequest, SubscribeRequest, UnsubscribeRequest,
};
use crate::message::Message;
use crate::node::Node;
use crate::outgoing::Acked;
use crate::slab::Slab;

pub(crate) use claim::Claim;
pub(crate) use session::Session;

/// A change of a partition's state.
#[derive(Debug)]
pub(crate) struct Record {
    /// When it was proposed; the only time that `apply` knows.
    pub(crate) at: Millis,
    pub(crate) change: Change,
}

#[derive(Debug)]
pub(crate) enum Change {
    Claim(Box<ClaimRequest>),
    Release(Box<ReleaseRequest>),
    Subscribe(Box<SubscribeRequest>),
    Unsubscribe(Box<UnsubscribeRequest>),
    /// One message for the sessions `from..to` of the targets.
    Enqueue {
        message: Arc<Message>,
        targets: Arc<Targets>,
        from: usize,
        to: usize,
        confirm: Option<Confirm>,
    },
    EnqueueOne {
        session: SessionKey,
        delivery: Delivery,
        confirm: Option<Confirm>,
    },
    Acknowledge {
        session: SessionKey,
        packet_id: u16,
        acked: Acked,
    },
    Incoming {
        session: SessionKey,
        packet_id: u16,
        held: bool,
        confirm: Option<Confirm>,
    },
    /// Retained messages for a subscription of this session.
    Retained {
        session: SessionKey,
        filter: Arc<str>,
        /// See `Replay::serial`.
        serial: u64,
        deliveries: Vec<Delivery>,
    },
    /// A timer of the session went off.
    Due {
        slot: u32,
        generation: u32,
    },
    /// Memory is short: only the newest bytes of what waits are kept.
    Trim {
        slot: u32,
        generation: u32,
        bytes: u64,
    },
}

/// Where the consequences of a record go.
pub(crate) struct Context<'a> {
    pub(crate) node: &'a Node,
    pub(crate) counters: &'a Counters,
    pub(crate) mails: &'a mut Vec<(ShardId, Mail)>,
    /// Wills that are due.
    pub(crate) publishes: &'a mut Vec<Arc<Message>>,
    /// Messages of shared subscriptions that need another member.
    pub(crate) orphans: &'a mut Vec<Delivery>,
}

impl Context<'_> {
    fn send(&mut self, to: ShardId, kind: Kind) {
        self.mails.push((to, Mail { kind, read_at: None }));
    }

    fn confirm(&mut self, confirm: Option<Confirm>) {
        if let Some(confirm) = confirm {
            self.send(confirm.conn.shard, Kind::Confirmed(confirm));
        }
    }
}

/// One partition of this node's durable state.
#[derive(Debug)]
pub(crate) struct Partition {
    id: PartitionId,
    shard: ShardId,
    log: MemoryLog<Record>,
    claims: Slab<Claim>,
    by_client: HashTable<u32>,
    /// Deadlines of sessions without a connection: will delay, expiry.
    timers: std::collections::BTreeSet<(Millis, u32, u32)>,
    generation: u32,
    /// Where the next trim goes on.
    trim_next: u32,
}

impl Partition {
    pub(crate) fn new(id: PartitionId, shard: ShardId) -> Partition {
        Partition {
            id,
            shard,
            log: MemoryLog::default(),
            claims: Slab::default(),
            by_client: HashTable::new(),
            timers: std::collections::BTreeSet::new(),
            generation: 0,
            trim_next: 0,
        }
    }

    /// Proposes a change and applies whatever the log has committed by now.
    pub(crate) fn propose(&mut self, at: Millis, change: Change, cx: &mut Context<'_>) {
        self.log.propose(Record { at, change });
        while let Some((_, record)) = self.log.committed() {
            self.apply(record, cx);
        }
    }

    fn apply(&mut self, record: Record, cx: &mut Context<'_>) {
        let Record { at, change } = record;
        match change {
            Change::Claim(request) => self.claim(at, request, cx),
            Change::Release(request) => self.release(at, *request, cx),
            Change::Subscribe(request) => self.subscribe(*request, cx),
            Change::Unsubscribe(request) => self.unsubscribe(at, *request, cx),
            Change::Enqueue { message, targets, from, to, confirm } => {
                for target in targets.iter_from(from).take(to - from) {
                    let (_, slot) = PartitionId::split(target.slot);
                    let ids = targets.ids(target);
                    self.enqueue(at, slot, target, ids, &message, cx);
                }
                cx.confirm(confirm);
            }
            Change::EnqueueOne { session, delivery, confirm } => {
                self.enqueue_one(at, session, delivery, cx);
                cx.confirm(confirm);
            }
            Change::Acknowledge { session, packet_id, acked } => {
                self.acknowledge(at, session, packet_id, acked, cx);
            }
            Change::Incoming { session, packet_id, held, confirm } => {
                if let Some((_, session)) = self.session_mut(session) {
                    session.hold_incoming(packet_id, held);
                }
                cx.confirm(confirm);
            }
            Change::Retained { session, filter, serial, deliveries } => {
                self.retained(at, session, &filter, serial, deliveries, cx);
            }
            Change::Due { slot, generation } => self.due(at, slot, generation, cx),
            Change::Trim { slot, generation, bytes } => {
                self.trim_one(slot, generation, bytes, cx);
            }
        }
    }

    /// Proposes what has become due.
    pub(crate) fn tick(&mut self, now: Millis, cx: &mut Context<'_>) {
        while let Some(&(due, slot, generation)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            self.propose(now, Change::Due { slot, generation }, cx);
        }
    }

    /// Has the next few sessions keep only the newest `bytes` of what waits.
    pub(crate) fn trim(&mut self, now: Millis, looks: usize, bytes: u64, cx: &mut Context<'_>) {
        let slots = self.claims.slots();
        for _ in 0..looks.min(slots as usize) {
            let slot = self.trim_next % slots;
            self.trim_next = (slot + 1) % slots;
            let session = self.claims.at(slot).and_then(|claim| claim.session.as_deref());
            let waits = |session: &Session| session.outgoing.as_ref().map_or(0, |o| o.load().1);
            if let Some(session) = session.filter(|session| waits(session) > bytes) {
                let generation = session.generation;
                self.propose(now, Change::Trim { slot, generation, bytes }, cx);
            }
        }
    }

    fn trim_one(&mut self, slot: u32, generation: u32, bytes: u64, cx: &mut Context<'_>) {
        let session = self.claims.at_mut(slot).and_then(|claim| claim.session.as_deref_mut());
        let Some(session) = session.filter(|session| session.generation == generation) else {
            return;
        };
        if let Some(outgoing) = &mut session.outgoing {
            let before = outgoing.load();
            let dropped = outgoing.trim(bytes);
            cx.counters.dropped(DropReason::Overload, dropped);
            cx.counters.track(before, outgoing.load());
        }
    }

    /// Deadlines that are kept.
    pub(crate) fn timers(&self) -> usize {
        self.timers.len()
    }

    /// When the next timer is due.
    pub(crate) fn next_tick(&self) -> Option<Millis> {
        self.timers.first().map(|&(due, _, _)| due)
    }

    /// The end of the run of `targets`, from `from` on, that is this partition's.
    pub(crate) fn run_end(targets: &Targets, from: usize) -> (PartitionId, usize) {
        let Some(first) = targets.get(from) else { return (PartitionId(0), from) };
        let (id, _) = PartitionId::split(first.slot);
        let run = targets
            .iter_from(from)
            .take_while(|target| PartitionId::split(target.slot).0 == id)
            .count();
        (id, from + run)
    }

    /// The session under `key`, if it still lives; with its claim's slot.
    fn session_mut(&mut self, key: SessionKey) -> Option<(u32, &mut Session)> {
        let (_, slot) = PartitionId::split(key.slot);
        let session = self.claims.at_mut(slot)?.session.as_deref_mut()?;
        (session.generation == key.generation).then_some((slot, session))
    }

    fn session_key(&self, slot: u32, generation: u32) -> SessionKey {
        SessionKey {
            shard: self.shard,
            durable: true,
            slot: self.id.session_slot(slot),
            generation,
        }
    }
}
