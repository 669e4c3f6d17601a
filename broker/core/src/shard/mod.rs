//! A shard: the connections of one thread, and the partitions pinned to it.
//!
//! Pure: the shell hands it bytes, mail and the time, and pulls out bytes, mail
//! and events. The order of a turn is the shell's; see `ARCHITECTURE.md`.
//!
//! Upholds ACK-1 and ACK-2 (`acknowledge`), ORD-1 (each pair of shards is one
//! queue, a publisher's long fan-out is finished before its next packet is
//! read), BND-1, BND-2 and LOCK-1.

mod acknowledge;
mod alone;
mod connect;
mod crossing;
mod deliver;
mod dispatch;
mod distribute;
mod end;
mod fresh;
mod isolate;
mod keep;
mod links;
mod moves;
mod outbox;
mod partitions;
mod proof;
mod publish;
mod receive;
mod recheck;
mod replicas;
mod retain;
mod shed;
mod subscribe;

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use tidegate_codec::ReasonCode;

use crate::asked::Asked;
use crate::conn::{Conn, Phase, Throttle, pause};
use crate::counters::{CloseReason, Counters, RejectReason};
use crate::ids::{ConnRef, Millis, PartitionId, ShardId};
use crate::index::RouteCache;
use crate::journal::Journal;
use crate::keepalive::{Wheel, tick_of};
use crate::limits::{Limits, ROUTE_CACHE_MAX};
use crate::mail::{Kind, Mail, Replay};
use crate::message::Message;
use crate::node::{Node, Totals};
use crate::output::{Output, Pool};
use crate::partition::{Fetch, Partition};
use crate::rate::{Bucket, Rate};
use crate::retained::{Retained, Sweep};
use crate::slab::Slab;
use crate::transit::{Passed, Reached, Stamp, Transit};

pub use isolate::Away;

use crossing::Crossings;
use distribute::Job;
use fresh::Waiting;
use moves::Moves;
use outbox::Outbox;
use proof::Proofs;
pub use replicas::Applied;

/// A connection that was opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Opened {
    /// Its place; the shell keeps its socket under the same number.
    pub slot: u32,
    /// Tells this tenant of the slot from the ones before.
    pub generation: u32,
}

/// What is known of a connection when it is accepted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Opening {
    /// Its CONNECT waits for [`Shard::admit`].
    pub guarded: bool,
    /// PUBLISHes a second that are read of it; 0: no limit.
    pub messages_per_second: u32,
    /// Bytes a second that are read of it; 0: no limit.
    pub bytes_per_second: u32,
    /// Its SUBACKs do not wait until the other nodes know of its filters.
    pub local_barrier: bool,
}

/// What becomes of a CONNECT that somebody outside was asked about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It goes on, as this user.
    Admit {
        /// The user name that was vouched for, if any.
        user: Option<Box<str>>,
    },
    /// It is refused.
    Refuse {
        /// What the client is told.
        code: ReasonCode,
        /// How it is counted.
        reason: RejectReason,
    },
}

/// Why a socket is to be closed without a word. Already counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refused {
    /// `limits.connections_max`.
    Connections,
    /// `limits.half_open_max`.
    HalfOpen,
    /// The node is shutting down, or cut off from its cluster.
    Draining,
}

/// What became of received bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received {
    /// So many were used; the rest is offered again, before what comes after it.
    pub consumed: usize,
    /// What to do with the socket.
    pub then: Then,
}

/// What the shell does with a socket after [`Shard::receive`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    /// Go on reading.
    Read,
    /// Do not read until [`Event::Resume`]; then offer the rest again first.
    Pause,
    /// Stop reading; [`Event::Close`] follows.
    Close,
}

/// Why a socket ended from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hangup {
    /// The peer closed.
    Eof,
    /// The socket failed.
    Error,
    /// What lies below MQTT broke its own rules: the PROXY header, TLS or
    /// WebSocket.
    Layer(Layer),
}

/// What may lie between the socket and MQTT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Layer {
    /// The header of a proxy.
    Proxy,
    /// TLS.
    Tls,
    /// WebSocket.
    WebSocket,
    /// A proxy told of a source that is over its rate.
    Source,
    /// None of them in time.
    Timeout,
}

/// What a write did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Written {
    /// All that was offered was taken.
    All,
    /// So many bytes were taken, then it would have blocked.
    Some(usize),
    /// The socket failed.
    Failed,
}

/// What the shell has to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// Read this connection again, its kept bytes first.
    Resume(u32),
    /// A CONNECT is the first of its kept bytes: say with [`Shard::admit`]
    /// whether it may come in. It is not read until then.
    Authenticate(Opened),
    /// Close its socket, then call [`Shard::release`].
    Close(u32),
}

/// Message ids begin with the time of the start, so that one that was read back
/// is not given again: 2^14 a millisecond, and 64 shards.
const MESSAGE_TIME_SHIFT: u32 = 14;

/// In a cluster: bits of a message id below those of its member, shard left out.
/// The last is spare, so that counting never runs into the member.
const MESSAGE_BITS: u32 = 47;

/// What message ids of a shard begin with.
fn first_message(node: &Node, now: Millis) -> u64 {
    let time = node.epoch + now;
    match node.is_alone() {
        true => time << MESSAGE_TIME_SHIFT,
        // An incarnation has its number for itself as long as any is remembered.
        false => {
            let time = (time << 6) & ((1 << (MESSAGE_BITS - 1)) - 1);
            u64::from(node.member().0) << MESSAGE_BITS | time
        }
    }
}

/// Marks a wheel entry that watches for the CONNECT, not the keep alive.
const FOR_CONNECT: u32 = 1 << 31;
/// Marks one that ends a pause.
const FOR_PAUSE: u32 = 1 << 30;
/// What is left for the generation.
const GENERATION: u32 = FOR_PAUSE - 1;

/// One shard of a node.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    node: Arc<Node>,
    conns: Slab<Conn>,
    generation: u32,
    assigned: u64,
    pool: Pool,
    /// Connections with output to flush.
    dirty: Vec<u32>,
    /// An output has grown beyond what one turn may gather.
    pressed: bool,
    events: VecDeque<Event>,
    wheel: Wheel,
    /// Lent to the publish under way, see `distribute`.
    routes: Option<Box<RouteCache>>,
    retained: Retained<Arc<Message>>,
    retained_sweep: Sweep,
    partitions: Vec<Partition>,
    /// What is to be written; none: the state is memory alone.
    journal: Option<Box<Journal>>,
    /// By partition, in a cluster: of those that are led here.
    journals: Vec<Option<Box<Journal>>>,
    /// By partition, in a cluster: what those count that are not led here.
    followed: Vec<Option<Box<Counters>>>,
    /// Partitions led since the last turn, whose errands are to be routed.
    promoted: Vec<PartitionId>,
    /// What is to be read from the disk.
    fetches: Vec<Fetch>,
    /// The topics of retained messages by partition, while they are written.
    retained_of: Vec<HashSet<Arc<str>, FixedState>>,
    /// What was counted while records were read back.
    replayed: Option<Box<Counters>>,
    /// Publishers that wait for a journal, of this shard or another.
    journal_paused: Vec<ConnRef>,
    /// The id of the last message, times the shards there may be.
    message: u64,
    /// No partition has a timer before this.
    partitions_due: Millis,
    /// For the other shards of this node.
    outboxes: Vec<Outbox>,
    /// For shards of other nodes.
    remote: BTreeMap<ShardId, Outbox>,
    /// For partitions that nobody leads, as far as is known.
    homeless: BTreeMap<u8, Outbox>,
    moves: Moves,
    crossings: Crossings,
    waiting: Waiting,
    /// Mail to oneself, handled before the next packet.
    local: VecDeque<Kind>,
    jobs: VecDeque<Job>,
    /// Replays that ask this shard; answered in steps, as jobs are done.
    // Boxed as they travel.
    #[allow(clippy::vec_box)]
    queries: VecDeque<Box<Replay>>,
    proofs: Proofs,
    asked: Asked,
    transit: Transit,
    draining: bool,
    /// The node is cut off from its cluster.
    isolated: bool,
    /// The node drains, and its clients go elsewhere.
    away: Option<Away>,
    drain_next: u32,
    shed_next: u32,
    shed_due: Millis,
    /// Where the look at all clients goes on.
    recheck_next: Option<u32>,
    scratch: Vec<u8>,
    spare_mails: Vec<(ShardId, Mail)>,
    sweep_due: Millis,
}

impl Shard {
    /// The shard `id` of a node, without connections, at time `now`. Only the
    /// number of it within its node is looked at.
    pub fn new(node: Arc<Node>, id: ShardId, now: Millis) -> Shard {
        let seed = node.seed;
        let id = ShardId::of(node.member(), id.index() as u16);
        Shard {
            id,
            partitions: node.partitions_of(id).map(|p| Partition::new(p, id)).collect(),
            journal: None,
            journals: Vec::new(),
            followed: Vec::new(),
            promoted: Vec::new(),
            replayed: None,
            fetches: Vec::new(),
            retained_of: node.partitions_of(id).map(|_| HashSet::default()).collect(),
            journal_paused: Vec::new(),
            message: first_message(&node, now),
            outboxes: (0..node.shards).map(|_| Outbox::default()).collect(),
            remote: BTreeMap::new(),
            homeless: BTreeMap::new(),
            moves: Moves::default(),
            crossings: Crossings::default(),
            waiting: Waiting::default(),
            routes: Some(Box::new(RouteCache::new(ROUTE_CACHE_MAX, seed ^ u64::from(id.0)))),
            node,
            conns: Slab::default(),
            generation: 0,
            assigned: 0,
            pool: Pool::default(),
            dirty: Vec::new(),
            pressed: false,
            events: VecDeque::new(),
            wheel: Wheel::new(now),
            retained: Retained::new(),
            retained_sweep: Sweep::default(),
            partitions_due: Millis::MAX,
            local: VecDeque::new(),
            jobs: VecDeque::new(),
            queries: VecDeque::new(),
            proofs: Proofs::default(),
            asked: Asked::default(),
            transit: Transit::default(),
            draining: false,
            isolated: false,
            away: None,
            drain_next: 0,
            shed_next: 0,
            shed_due: 0,
            recheck_next: None,
            scratch: Vec::new(),
            spare_mails: Vec::new(),
            sweep_due: 0,
        }
    }

    /// A turn begins: the stamp of what is read in it. A shell that never says
    /// so gets nothing timed.
    #[inline]
    pub fn begin_turn(&mut self, at: Stamp) {
        self.transit.begin(at);
    }

    /// Tells what was delivered since the last call, by when it was read. To be
    /// called after the flush.
    #[inline]
    pub fn take_passed(&mut self, each: impl FnMut(Passed)) {
        self.transit.take_passed(each);
    }

    /// Tells which new connections have come how far since the last call.
    #[inline]
    pub fn take_reached(&mut self, each: impl FnMut(Reached)) {
        self.transit.take_reached(each);
    }

    /// [`Shard::open_as`] on a listener that asks nothing.
    ///
    /// # Errors
    /// As there.
    pub fn open(&mut self, now: Millis) -> Result<Opened, Refused> {
        self.open_as(now, Opening::default())
    }

    /// A socket was accepted.
    ///
    /// # Errors
    /// A limit is reached, or the node drains: close the socket at once.
    pub fn open_as(&mut self, now: Millis, opening: Opening) -> Result<Opened, Refused> {
        let limits = &self.node.settings.limits;
        let totals = &self.node.totals;
        let counters = self.counters();
        counters.connections_accepted.add(1);
        let reject = |reason: RejectReason, refused: Refused| {
            counters.connections_rejected[reason as usize].add(1);
            Err(refused)
        };
        if self.draining || self.isolated {
            return reject(RejectReason::Draining, Refused::Draining);
        }
        if !Totals::take(&totals.connections, u64::from(limits.connections_max)) {
            return reject(RejectReason::Limit, Refused::Connections);
        }
        if !Totals::take(&totals.half_open, u64::from(limits.half_open_max)) {
            totals.connections.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
            return reject(RejectReason::HalfOpen, Refused::HalfOpen);
        }
        counters.connections.add(1);
        counters.half_open.add(1);
        let due = tick_of(now + Millis::from(limits.connect_timeout_ms)) + 1;
        self.generation = self.generation.wrapping_add(1) & GENERATION;
        let generation = self.generation;
        let mut conn = Conn::new(generation, tick_of(now), self.transit.turn());
        conn.guarded = opening.guarded;
        conn.local_barrier = opening.local_barrier;
        let rate = |n: u32| (n > 0).then(|| (Rate::per_second(n), Bucket::default()));
        let throttle = Throttle {
            messages: rate(opening.messages_per_second),
            bytes: rate(opening.bytes_per_second),
        };
        if throttle.messages.is_some() || throttle.bytes.is_some() {
            conn.guest.get_or_insert_default().throttle = Some(throttle);
        }
        let slot = self.conns.insert(conn);
        self.wheel.insert((slot, generation | FOR_CONNECT), due);
        Ok(Opened { slot, generation })
    }

    /// The peer closed, or the socket failed; [`Event::Close`] follows.
    pub fn hangup(&mut self, now: Millis, slot: u32, cause: Hangup) {
        let reason = match cause {
            Hangup::Layer(Layer::Source) => {
                return self.reject(now, slot, RejectReason::Source);
            }
            Hangup::Eof => CloseReason::Client,
            Hangup::Error => CloseReason::IoError,
            Hangup::Layer(Layer::Proxy) => CloseReason::ProxyError,
            Hangup::Layer(Layer::Tls) => CloseReason::TlsError,
            Hangup::Layer(Layer::WebSocket) => CloseReason::WebSocketError,
            Hangup::Layer(Layer::Timeout) => CloseReason::ConnectTimeout,
        };
        self.transit.leave();
        self.lose(now, slot, reason);
        self.settle(now);
    }

    /// Mail from another shard, in order. To be called whatever the state of
    /// the outboxes is: that nobody waits with unread mail is what keeps two
    /// shards that flood each other from a deadlock.
    pub fn mail(&mut self, now: Millis, from: ShardId, batch: Vec<Mail>) {
        let _ = from;
        for mail in batch {
            self.transit.enter_mail(mail.read_at);
            self.handle(now, mail.kind);
            self.settle(now);
        }
    }

    /// Mail for another shard, at most one batch; `None` when there is none.
    pub fn outbound(&mut self, to: ShardId) -> Option<Vec<Mail>> {
        let batch = self.outboxes.get_mut(to.index())?.take()?;
        self.counters().cross_messages.add(batch.len() as u64);
        self.relieve(to);
        Some(batch)
    }

    /// Puts a batch back in front: the target's mailbox is full.
    pub fn unsend(&mut self, to: ShardId, batch: Vec<Mail>) {
        let counters = &self.node.counters[self.id.index()];
        counters.cross_messages.sub(batch.len() as u64);
        self.outboxes[to.index()].put_back(batch);
    }

    /// Timers: keep alive, time to CONNECT, wills, expiry.
    pub fn tick(&mut self, now: Millis) {
        self.transit.leave();
        while let Some(due) = self.wheel.due(now) {
            for (slot, generation) in due {
                self.look_after(now, slot, generation);
            }
        }
        if self.partitions_due <= now {
            self.partitions_due = Millis::MAX;
            for at in 0..self.partitions.len() {
                self.with_partition(now, at, |partition, cx| partition.tick(now, cx));
            }
        }
        if self.sweep_due <= now {
            self.sweep_due = now + 1_000;
            self.sweep_retained(now);
        }
        self.walk_again(now);
        self.replay_again(now);
        self.retry_crossings(now);
        self.routes_moved(now);
        self.shed(now);
        self.settle(now);
    }

    /// When to call [`Shard::tick`] next; `None`: nothing is timed. At once
    /// while there is work: whatever began it, a turn has to follow.
    #[inline]
    pub fn next_tick(&self) -> Option<Millis> {
        if self.has_work() {
            return Some(0);
        }
        let mut next = self.wheel.next_due().unwrap_or(Millis::MAX).min(self.partitions_due);
        if !self.retained.is_empty() {
            next = next.min(self.sweep_due);
        }
        let others = [self.moves.due(), self.crossings.due(), self.asked.due(), self.waiting.due()];
        for due in others.into_iter().flatten() {
            next = next.min(due);
        }
        if let Some(due) = self.shed_due() {
            next = next.min(due);
        }
        (next != Millis::MAX).then_some(next)
    }

    /// A bounded step of a long job; true while there is more.
    pub fn work(&mut self, now: Millis) -> bool {
        self.step(now);
        self.answer_some(now);
        self.recheck_some(now);
        self.walk_some(now);
        self.route_promoted(now);
        self.settle(now);
        self.has_work()
    }

    /// Whether [`Shard::work`] has something to do.
    #[inline]
    pub fn has_work(&self) -> bool {
        !self.jobs.is_empty()
            || !self.queries.is_empty()
            || self.recheck_next.is_some()
            || self.moves.is_walking()
            || !self.promoted.is_empty()
    }

    /// Whether an output has grown so much that it should be flushed now.
    #[inline]
    pub fn pressed(&self) -> bool {
        self.pressed
    }

    /// Whether there is output to flush or an event to take.
    pub fn has_output(&self) -> bool {
        !self.dirty.is_empty() || !self.events.is_empty()
    }

    /// Writes what connections have to say, one attempt each (more when a
    /// queue refills an output). A socket that would block is left until
    /// [`Shard::writable`].
    pub fn flush(&mut self, now: Millis, write: &mut dyn FnMut(u32, &[IoSlice<'_>]) -> Written) {
        self.pressed = false;
        self.transit.leave(); // what refills an output has waited for it
        let mut at = 0;
        while let Some(&slot) = self.dirty.get(at) {
            at += 1;
            self.flush_one(now, slot, write);
            self.settle(now);
        }
        self.dirty.drain(..at);
        if let Some(routes) = &self.routes {
            let counts = &self.counters().route_cache;
            counts[0].set(routes.hits());
            counts[1].set(routes.misses());
        }
    }

    /// The socket takes bytes again.
    pub fn writable(&mut self, now: Millis, slot: u32) {
        let _ = now;
        if let Some(conn) = self.conns.at_mut(slot)
            && conn.blocked
        {
            conn.blocked = false;
            if !conn.dirty {
                conn.dirty = true;
                self.dirty.push(slot);
            }
        }
    }

    /// What the shell has to do next.
    #[inline]
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The shell has closed the socket of an [`Event::Close`].
    pub fn release(&mut self, slot: u32) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        if conn.phase == Phase::Claiming {
            conn.released = true; // its claim is still to come, and to be given back
            return;
        }
        self.vacate(slot);
    }

    /// Publishes a retained message of the broker's own.
    pub fn publish_system(&mut self, now: Millis, topic: &str, payload: &[u8]) {
        self.transit.leave();
        self.publish_own(now, topic, payload);
        self.settle(now);
    }

    /// Deadlines of sessions without a connection that are kept: at most two each.
    pub fn session_timers(&self) -> usize {
        self.partitions.iter().map(Partition::timers).sum()
    }

    /// Bytes of the table of connections, free places included, without their sessions
    /// and what they are about to send.
    pub fn connection_bytes(&self) -> usize {
        self.conns.bytes()
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    fn counters(&self) -> &Counters {
        &self.node.counters[self.id.index()]
    }

    /// Sends mail; to oneself it is handled before the next packet.
    #[inline]
    fn send(&mut self, to: ShardId, kind: Kind) {
        if to == self.id {
            self.local.push_back(kind);
        } else {
            let read_at = self.transit.origin().map(|origin| origin.read_at);
            self.outbox(to).push(Mail { kind, read_at });
        }
    }

    /// Sends mail to whoever leads a partition.
    #[inline]
    fn send_home(&mut self, partition: PartitionId, kind: Kind) {
        match self.node.home(partition) {
            Some(home) => self.send(home, kind),
            None => self.wait_for_home(partition, kind),
        }
    }

    /// The partition of a client id with this hash, and the shard in the key of
    /// its session.
    #[inline]
    fn home_of(&self, hash: u64) -> (PartitionId, ShardId) {
        let partition = PartitionId::of(hash);
        (partition, self.node.home(partition).unwrap_or(self.id))
    }

    /// Handles mail to oneself until there is none.
    #[inline]
    fn settle(&mut self, now: Millis) {
        while let Some(kind) = self.local.pop_front() {
            self.handle(now, kind);
        }
    }

    /// The connection, if it is still the one that is meant.
    fn conn(&mut self, conn: ConnRef) -> Option<&mut Conn> {
        self.conns.at_mut(conn.slot).filter(|c| c.generation == conn.generation)
    }

    /// The output of a connection, marked for the next flush.
    fn output(&mut self, slot: u32) -> Option<&mut Output> {
        let conn = self.conns.at_mut(slot)?;
        Some(output_of(conn, slot, &mut self.pool, &mut self.dirty))
    }

    fn flush_one(
        &mut self,
        now: Millis,
        slot: u32,
        write: &mut dyn FnMut(u32, &[IoSlice<'_>]) -> Written,
    ) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        conn.dirty = false;
        while !conn.blocked
            && let Some(output) = conn.output.as_deref_mut()
        {
            let offered;
            let written = match output.plain() {
                Some(bytes) => {
                    offered = bytes.len();
                    write(slot, &[IoSlice::new(bytes)])
                }
                None => {
                    let mut slices = Vec::new();
                    output.slices(&mut slices);
                    offered = slices.iter().map(|slice| slice.len()).sum();
                    write(slot, &slices)
                }
            };
            match written {
                Written::All => {
                    output.advance(offered);
                    if output.len() == 0
                        && let Some(output) = conn.output.take()
                    {
                        self.pool.put(output);
                    }
                }
                Written::Some(n) => {
                    output.advance(n);
                    conn.blocked = true;
                }
                Written::Failed => {
                    conn.output = None;
                    if conn.phase != Phase::Closing {
                        self.lose(now, slot, CloseReason::IoError);
                        return;
                    }
                }
            }
        }
        if conn.phase == Phase::Closing {
            self.tell_close(slot);
            return;
        }
        if conn.pause & pause::OUTPUT != 0 {
            // Who takes bytes is there, though it cannot make itself heard.
            conn.seen = tick_of(now);
            if has_room_for_answers(conn, self.node.limits().write_buffer_bytes_max) {
                self.unpause(slot, pause::OUTPUT);
            }
        }
        let Some(conn) = self.conns.at_mut(slot) else { return };
        if !conn.blocked && conn.active.is_some() {
            self.refill(now, slot);
        }
    }

    /// Queues [`Event::Close`] once.
    fn tell_close(&mut self, slot: u32) {
        if let Some(conn) = self.conns.at_mut(slot)
            && !conn.told
        {
            conn.told = true;
            self.events.push_back(Event::Close(slot));
        }
    }

    /// Clears a reason not to read; resumes when it was the last.
    fn unpause(&mut self, slot: u32, bit: u8) {
        if let Some(conn) = self.conns.at_mut(slot)
            && conn.pause & bit != 0
        {
            conn.pause &= !bit;
            if conn.pause == 0 && matches!(conn.phase, Phase::Live | Phase::HalfOpen) {
                self.events.push_back(Event::Resume(slot));
            }
        }
    }
}

/// See [`Shard::output`]; for callers that hold the connection.
#[inline]
fn output_of<'a>(
    conn: &'a mut Conn,
    slot: u32,
    pool: &mut Pool,
    dirty: &mut Vec<u32>,
) -> &'a mut Output {
    if !conn.dirty {
        conn.dirty = true;
        dirty.push(slot);
    }
    conn.output.get_or_insert_with(|| pool.take())
}

/// Whether a connection that does not take its answers is read on: each packet
/// it sends may be answered, and the answers have to stay somewhere.
#[inline]
fn has_room_for_answers(conn: &Conn, write_buffer_bytes_max: u32) -> bool {
    conn.output.as_ref().is_none_or(|o| o.len() < write_buffer_bytes_max as usize / 2)
}

/// Whether a connection takes another packet in this turn.
#[inline]
fn has_room(conn: &Conn, limits: &Limits) -> bool {
    !conn.blocked
        && conn.output.as_ref().is_none_or(|o| o.len() < limits.write_buffer_bytes_max as usize)
}
