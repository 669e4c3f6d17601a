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

mod alone;
mod bytes;
mod claim;
mod class;
mod image;
mod install;
mod kept;
mod outbox;
mod record;
mod recover;
mod replica;
mod session;
mod snapshot;
mod spill;

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};

use crate::access::Who;
use crate::counters::{Counters, DropReason};
use crate::delivery::Delivery;
use crate::hole::{self, Hole};
use crate::ids::{ConnRef, Millis, PartitionId, Position, SessionKey, ShardId};
use crate::index::{Index, Options, Targets};
use crate::journal::Journal;
use crate::log::{Committed, Hold, LocalLog, ReplicatedLog, Role};
use crate::mail::{ClaimRequest, Confirm, Kind, Lane, Mail, SubscribeRequest, UnsubscribeRequest};
use crate::message::Message;
use crate::node::Node;
use crate::outgoing::{Acked, SubscriptionIds};
use crate::slab::Slab;

pub use alone::Keeps;
pub use bytes::RecordError;
pub(crate) use bytes::{Reader, Writer, acked_bits, acked_of};
pub(crate) use claim::Claim;
use claim::Ended;
use class::Class;
pub use image::Image;
pub(crate) use outbox::Errand;
use outbox::Outbox;
pub(crate) use outbox::Seen;
pub use replica::Header;
use replica::{Closing, Dropped, Gone, Replica};
pub(crate) use session::Session;
pub use spill::{Fetch, Why};

/// A change of a partition's state.
#[derive(Debug)]
pub(crate) struct Record {
    /// When it was proposed; the only time that `apply` knows.
    pub(crate) at: Millis,
    pub(crate) change: Change,
}

#[derive(Debug)]
pub(crate) enum Change {
    /// The claim in this slot is free, and is this connection's from now on.
    Claim {
        slot: u32,
        request: Box<ClaimRequest>,
    },
    /// A claim's connection has ended.
    Release(Released),
    Subscribe(Box<SubscribeRequest>),
    Unsubscribe(Box<UnsubscribeRequest>),
    /// One message for sessions of this partition.
    Enqueue {
        message: Arc<Message>,
        to: Recipients,
        lane: Option<Lane>,
        /// The last record that has it confirms.
        confirm: Option<Arc<Confirm>>,
    },
    EnqueueOne {
        session: SessionKey,
        delivery: Delivery,
        lane: Option<Lane>,
        confirm: Option<Confirm>,
    },
    Acknowledge {
        session: SessionKey,
        packet_id: u16,
        acked: Acked,
    },
    /// A QoS 2 packet id came in, or is free again.
    Incoming {
        session: SessionKey,
        packet_id: u16,
        held: bool,
        /// What came in, if this partition has to see to its delivery.
        message: Option<Arc<Message>>,
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
    /// What was kept back for a session's replays may go.
    CaughtUp {
        session: SessionKey,
        /// The replays that had begun.
        begun: u64,
    },
    /// A timer of the session went off.
    Due {
        slot: u32,
        generation: u32,
    },
    /// The rules no longer allow these subscriptions.
    Revoke {
        session: SessionKey,
        filters: Vec<Arc<str>>,
    },
    /// Memory is short: only the newest bytes of what waits are kept.
    Trim {
        slot: u32,
        generation: u32,
        bytes: u64,
    },
    /// A retained message of a topic of this partition.
    Retain {
        message: Arc<Message>,
        clear: bool,
        lane: Option<Lane>,
        confirm: Option<Confirm>,
    },
    /// A message that this partition has to see delivered: its publisher's node
    /// could not route it.
    Errand {
        message: Arc<Message>,
        lane: Option<Lane>,
        confirm: Option<Confirm>,
    },
    /// Somebody waits until no errand of this client is open.
    Settled {
        client: u64,
        confirm: Confirm,
    },
    /// A message of queues was written again, further on.
    Moved {
        message: Arc<Message>,
        from: Position,
        to: Vec<MovedTo>,
    },
    /// An errand is done: all who had to have its message have it.
    ErrandDone {
        number: u64,
    },
    /// The node has started again: no connection of before is left.
    Restarted,
    /// The leader has dropped these messages.
    Dropped(Vec<Dropped>),
    /// Connections have ended without a word, with their nodes or leaders.
    Gone(Gone),
}

/// How a claim's connection ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Released {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    /// The session that it spoke for; none: an ephemeral one.
    pub(crate) session: Option<u32>,
    /// A Session Expiry Interval from DISCONNECT.
    pub(crate) expiry: Option<u32>,
    /// Whether the will is due.
    pub(crate) will: bool,
    /// Whether another connection waits for the claim, and wants a new session.
    pub(crate) next: Option<bool>,
    /// Whether its claim is of an earlier leader, which alone knew what its
    /// client was sent.
    pub(crate) unsure: bool,
}

/// The sessions of one partition that a message goes to.
#[derive(Debug)]
pub(crate) enum Recipients {
    /// `from..to` of the targets.
    Run { targets: Arc<Targets>, from: usize, to: usize },
    /// As read back from a record.
    Listed(Vec<Recipient>),
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Recipient {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) options: Options,
    pub(crate) ids: SubscriptionIds,
}

/// A queue's entry for a message that was written again.
#[derive(Debug)]
pub(crate) struct MovedTo {
    pub(crate) session: SessionKey,
    pub(crate) sequence: u64,
    pub(crate) delivery: Delivery,
}

/// What a shard does with a retained message that was committed.
#[derive(Debug)]
pub(crate) struct Retain {
    /// When it was proposed.
    pub(crate) at: Millis,
    pub(crate) message: Arc<Message>,
    pub(crate) clear: bool,
    pub(crate) confirm: Option<Confirm>,
}

/// Where the consequences of a record go.
pub(crate) struct Context<'a> {
    pub(crate) node: &'a Node,
    pub(crate) counters: &'a Counters,
    /// Where records are written; none: the state is memory alone.
    pub(crate) journal: Option<&'a mut Journal>,
    /// Where subscriptions are found by publishers; none: they are not.
    pub(crate) index: Option<&'a Index>,
    pub(crate) mails: &'a mut Vec<(ShardId, Mail)>,
    /// Messages to be routed: of errands, with their partition and token.
    pub(crate) errands: &'a mut Vec<(PartitionId, u32, Errand)>,
    pub(crate) retains: &'a mut Vec<Retain>,
    /// What has to be read from the disk.
    pub(crate) fetches: &'a mut Vec<Fetch>,
    /// Where the record lies that is being applied.
    pub(crate) position: Option<Position>,
    /// The records come from a log that is read back: nobody is connected, and
    /// nothing is said.
    pub(crate) replaying: bool,
}

impl Context<'_> {
    fn send(&mut self, to: ShardId, kind: Kind) {
        if !self.replaying {
            self.mails.push((to, Mail { kind, read_at: None }));
        }
    }

    /// What was proposed is not done, as far as is known here.
    fn undo(&mut self, change: Change) {
        let confirm = match change {
            Change::Enqueue { confirm: Some(shared), .. } => {
                let confirm = *shared;
                // The others that have it must not find themselves the last.
                std::mem::forget(shared);
                Some(confirm)
            }
            Change::EnqueueOne { confirm, .. }
            | Change::Retain { confirm, .. }
            | Change::Incoming { confirm, .. } => confirm,
            _other => None,
        };
        // Another node asks by itself.
        if let Some(confirm) = confirm.filter(|c| c.conn.shard.member() == self.node.member()) {
            self.send(confirm.conn.shard, Kind::Undone(confirm));
        }
    }

    /// The end of a connection is noted for good.
    fn release_noted(&mut self, conn: ConnRef) {
        if !self.node.is_alone() {
            self.send(conn.shard, Kind::Released { conn });
        }
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
    log: LocalLog<Record>,
    claims: Slab<Claim>,
    by_client: HashTable<u32>,
    /// Deadlines of sessions without a connection: will delay, expiry.
    timers: std::collections::BTreeSet<(Millis, u32, u32)>,
    generation: u32,
    outbox: Outbox,
    /// Which errands of which partitions came, as long as they may come again.
    seen: Seen,
    /// Where the next trim goes on.
    trim_next: u32,
    /// What was proposed while the state waits to be written.
    frozen: Option<Vec<Record>>,
    /// Queue entries whose messages are being fetched to be written again, by
    /// position: slot and number.
    moving: BTreeMap<u64, Vec<(u32, u64)>>,
    /// Records are being applied: what is proposed meanwhile is next.
    applying: bool,
    /// Slots by session, while records are read back.
    sessions: Option<HashMap<u32, u32, FixedState>>,
    /// When those were granted their claims first that another leader granted,
    /// by slot.
    reclaimed: HashMap<u32, Millis, FixedState>,
    /// Whose CONNECTs wait for the end of an owner, and which claim for.
    waiting: BTreeMap<ConnRef, u32>,
    /// What queues have dropped and no record tells yet.
    dropped: Vec<Dropped>,
    /// Set if it has replicas.
    replica: Option<Box<Replica>>,
}

impl Partition {
    /// Sessions whose client id is claimed here, with a connection or without.
    pub(crate) fn sessions_held(&self) -> usize {
        self.by_client.len()
    }

    pub(crate) fn new(id: PartitionId, shard: ShardId) -> Partition {
        Partition {
            id,
            shard,
            log: LocalLog::default(),
            claims: Slab::default(),
            by_client: HashTable::new(),
            timers: std::collections::BTreeSet::new(),
            generation: 0,
            outbox: Outbox::default(),
            seen: Seen::default(),
            trim_next: 0,
            frozen: None,
            moving: BTreeMap::new(),
            applying: false,
            sessions: None,
            reclaimed: HashMap::default(),
            waiting: BTreeMap::new(),
            dropped: Vec::new(),
            replica: None,
        }
    }

    /// Proposes a change and applies whatever the log has committed by now.
    pub(crate) fn propose(&mut self, at: Millis, change: Change, cx: &mut Context<'_>) {
        if let Some(frozen) = &mut self.frozen {
            frozen.push(Record { at, change });
            return;
        }
        self.propose_now(at, change, cx);
    }

    fn propose_now(&mut self, at: Millis, change: Change, cx: &mut Context<'_>) {
        if self.log.role() == Role::Follower {
            return cx.undo(change); // whoever asked asks the leader
        }
        let class = match cx.journal {
            Some(_) => self.class(&change),
            None => Class::Volatile,
        };
        let record = Record { at, change };
        let mut hold = Hold::Volatile;
        if let Some(journal) = cx.journal.as_deref_mut() {
            let index = self.log.next_index();
            let mut write = |urgent| {
                journal.append(self.id.0, index, urgent, |out| self.encode(&record, cx.node, out))
            };
            match class {
                Class::Volatile => {}
                Class::Lazy => {
                    let place = write(false);
                    hold = Hold::Written;
                    if let Change::ErrandDone { number } = record.change {
                        match &mut self.replica {
                            Some(replica) => {
                                let client = self.outbox.ends(number);
                                replica.closing.push_back(Closing { place, number, client });
                            }
                            None => self.outbox.finishes(number, place, journal),
                        }
                    }
                }
                Class::Wait => hold = Hold::Durable(write(true)),
                Class::Barrier => {
                    if let Some(place) = journal.barrier() {
                        hold = Hold::Behind(place);
                    }
                }
            }
        }
        self.log.propose(record, hold);
        self.go_on(cx);
    }

    /// Applies what the log has committed.
    pub(crate) fn go_on(&mut self, cx: &mut Context<'_>) {
        if self.applying {
            return;
        }
        self.applying = true;
        while let Some(committed) = self.log.committed(cx.journal.as_deref()) {
            let Committed { index, record, position } = committed;
            cx.position = position;
            let at = record.at;
            if index.is_some() {
                self.note_time(at, cx.node);
            }
            self.outbox.begin(index);
            self.apply(record, index.is_some(), cx);
            self.tell_dropped(at, cx);
        }
        cx.position = None;
        self.applying = false;
    }

    /// Whether records wait for their commit.
    pub(crate) fn is_waiting(&self) -> bool {
        self.log.is_waiting()
    }

    /// `written`: the record is one of those that replicas get.
    fn apply(&mut self, record: Record, written: bool, cx: &mut Context<'_>) {
        let Record { at, change } = record;
        let noted = written || self.replica.is_none();
        match change {
            Change::Claim { slot, request } => self.grant(at, slot, *request, cx),
            Change::Release(released) => self.release(at, released, cx),
            Change::Subscribe(request) => self.subscribe(*request, cx),
            Change::Unsubscribe(request) => self.unsubscribe(at, *request, cx),
            Change::Enqueue { message, to, lane, confirm } => {
                let new = match self.replica {
                    Some(_) => self.seen.is_next(lane, noted),
                    None => self.seen.is_new(lane, noted),
                };
                if new {
                    self.enqueue_all(at, &message, to, cx);
                }
                cx.confirm(confirm.and_then(Arc::into_inner));
            }
            Change::EnqueueOne { session, delivery, lane, confirm } => {
                if self.seen.is_new(lane, noted) {
                    self.enqueue_one(at, session, delivery, cx);
                }
                cx.confirm(confirm);
            }
            Change::Acknowledge { session, packet_id, acked } => {
                self.acknowledge(at, session, packet_id, acked, cx);
            }
            Change::Incoming { session, packet_id, held, message, confirm } => {
                let known = self.session_mut(session);
                let new = known.is_some_and(|(_, s)| s.hold_incoming(packet_id, held));
                let new = new || (held && hole::on(Hole::LocalQos2));
                match message.filter(|_| new) {
                    // PUBREC says that all who are to have the message have it.
                    Some(message) => self.send_out(Errand { message, share: None }, confirm, cx),
                    None => cx.confirm(confirm),
                }
            }
            Change::Errand { message, lane, confirm } => match self.seen.is_new(lane, noted) {
                true => self.send_out(Errand { message, share: None }, confirm, cx),
                false => cx.confirm(confirm),
            },
            Change::Settled { client, confirm } => self.await_settled(client, confirm, cx),
            Change::Retained { session, filter, serial, deliveries } => {
                self.retained(at, session, &filter, serial, deliveries, cx);
            }
            Change::CaughtUp { session, begun } => self.caught_up(at, session, begun, cx),
            Change::Due { slot, generation } => self.due(at, slot, generation, cx),
            Change::Revoke { session, filters } => self.revoke(at, session, &filters, cx),
            Change::Trim { slot, generation, bytes } => {
                self.trim_one(slot, generation, bytes, cx);
                self.note_room(slot, cx);
            }
            Change::Retain { message, clear, lane, confirm } => {
                if self.seen.is_new(lane, noted) {
                    cx.retains.push(Retain { at, message, clear, confirm });
                } else {
                    cx.confirm(confirm);
                }
            }
            Change::Moved { message: _, from, to } => self.moved(from, to, cx),
            Change::ErrandDone { number } => self.errand_done(number, cx),
            Change::Restarted => self.restarted(at, cx),
            Change::Dropped(list) => self.drop_all(&list, cx),
            Change::Gone(gone) => self.gone(at, &gone, cx),
        }
    }

    fn enqueue_all(
        &mut self,
        at: Millis,
        message: &Arc<Message>,
        to: Recipients,
        cx: &mut Context<'_>,
    ) {
        match to {
            Recipients::Run { targets, from, to } => {
                for target in targets.iter_from(from).take(to - from) {
                    let (_, slot) = PartitionId::split(target.slot);
                    let to = Recipient {
                        slot,
                        generation: target.generation,
                        options: target.options,
                        ids: SubscriptionIds::from_slice(targets.ids(target)),
                    };
                    self.enqueue(at, to, message, cx);
                }
            }
            Recipients::Listed(list) => {
                for to in list {
                    self.enqueue(at, to, message, cx);
                }
            }
        }
    }

    /// Proposes what has become due.
    pub(crate) fn tick(&mut self, now: Millis, cx: &mut Context<'_>) {
        if !self.leads() {
            return;
        }
        while let Some(&(due, slot, generation)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            self.propose(now, Change::Due { slot, generation }, cx);
        }
    }

    /// Holds the subscriptions of a session against the rules.
    pub(crate) fn recheck(
        &mut self,
        now: Millis,
        key: SessionKey,
        who: Who<'_>,
        cx: &mut Context<'_>,
    ) {
        let Some((_, session)) = self.session_mut(key) else { return };
        let mut filters = Vec::new();
        session.subscriptions.each(|text, _| {
            if cx.node.denies(who, text) {
                filters.push(Arc::clone(text));
            }
        });
        if !filters.is_empty() {
            self.propose(now, Change::Revoke { session: key, filters }, cx);
        }
    }

    fn revoke(&mut self, at: Millis, key: SessionKey, filters: &[Arc<str>], cx: &mut Context<'_>) {
        let Some((slot, _)) = self.session_mut(key) else { return };
        cx.counters.subscriptions_revoked.add(filters.len() as u64);
        self.forget_filters(key, filters.iter().map(|text| &**text), cx);
        self.end_catchup(at, slot, cx);
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
        if !self.leads() {
            return; // what gives way is told
        }
        let session = self.claims.at_mut(slot).and_then(|claim| claim.session.as_deref_mut());
        let Some(session) = session.filter(|session| session.generation == generation) else {
            return;
        };
        if let Some(outgoing) = &mut session.outgoing {
            let before = outgoing.load();
            let dropped = outgoing.trim(bytes);
            cx.counters.dropped(DropReason::Overload, dropped.len() as u64);
            cx.counters.track(before, outgoing.load());
            self.note_dropped(generation, false, &dropped);
        }
    }

    /// Deadlines that are kept.
    pub(crate) fn timers(&self) -> usize {
        self.timers.len()
    }

    /// When the next timer is due.
    pub(crate) fn next_tick(&self) -> Option<Millis> {
        self.timers.first().filter(|_| self.leads()).map(|&(due, _, _)| due)
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

    /// The claims that have a connection, in an order that all replicas have.
    fn live_slots(&self) -> Vec<u32> {
        let claims =
            (0..self.claims.slots()).filter_map(|slot| Some((slot, self.claims.at(slot)?)));
        let live = claims.filter(|(_, claim)| claim.live.is_some());
        let session = |claim: &Claim| claim.session.as_deref().map(|session| session.generation);
        let mut live: Vec<_> = live.map(|(slot, claim)| (session(claim), slot)).collect();
        live.sort_unstable();
        live.into_iter().map(|(_, slot)| slot).collect()
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
