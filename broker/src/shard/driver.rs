//! One shard's turn: gather what is ready, hand it to the core, flush.
//!
//! The order within a turn is fixed, and so is the work: reads are bounded a
//! connection, accepts and mail a turn, and everything together by about a
//! millisecond. What is left stays on the ready list and comes first in the
//! next turn, so no connection can starve another.
//!
//! Nothing here allocates, locks or logs a message.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use rustix::io::Errno;
use tidegate_core::ids::{Member, Millis, PARTITIONS, PartitionId, ShardId};
use tidegate_core::limits::{MAILBOX_BATCHES_MAX, TURN_READ_BYTES_MAX};
use tidegate_core::mail::Mail;
use tidegate_core::transit::{Passed, Reached, Stage};
use tidegate_core::{Event, Hangup, Node, Received, Shard, Then, Written};
use tidegate_kernel::mapped::Gauge;
use tokio::sync::mpsc;

use super::Shared;
use super::acceptor::Acceptor;
use super::clock::Reading;
use super::drain::Drain;
use super::linger::{Linger, close_read_out};
use super::mailbox::{Mailbox, Order};
use super::meters::Meters;
use super::poller::{Poller, Token};
use super::table::{Entry, Flags, Table};
use crate::net::stack::Scratch;
use crate::net::transport::{Arrived, Sent};
use crate::store::{FINISH_PATIENCE, Submitter};

mod admit;
mod greet;
mod joint;
mod keep;

pub(crate) use self::greet::Greeter;
use self::joint::Joint;

/// The shard's one read buffer.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// A partial packet up to this size is copied before the next read, so that
/// the packet and what follows it are parsed in place; a larger one grows in
/// its own buffer, or a big packet would be copied once a read.
const PREPEND_BYTES_MAX: usize = 8 << 10;
/// When a turn stops taking on work.
const TURN_NANOS_MAX: u64 = 1_000_000;
/// How long a turn closes connections and wakes paused ones, so that clients who
/// stay do not wait for a storm of others.
const SETTLE_NANOS_MAX: u64 = TURN_NANOS_MAX / 10;
/// Accepts, or closes, between two looks at the clock.
const SOCKETS_A_LOOK: usize = 4;
/// Connections that one step of an isolation ends.
const SENT_AWAY_MAX: usize = 1_024;
/// Connections read between two looks at the clock.
const CLOCK_EVERY: usize = 16;
/// How soon a full mailbox is tried again.
const RETRY_MS: Millis = 1;
/// Rounds of flush and events in one turn.
const ROUNDS_MAX: usize = 4;

/// What to do after a turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    /// There may be more: another turn.
    Again,
    /// The epoll instance is drained, nothing is pending, and the timer is set.
    Sleep,
    /// The shard was told to end.
    Stop,
}

/// A shard's core with the sockets it speaks through.
pub(crate) struct Driver {
    id: ShardId,
    core: Shard,
    table: Table,
    poller: Poller,
    acceptor: Acceptor,
    linger: Linger,
    /// Clients to read, each at most once (`Flags::LISTED`).
    ready: VecDeque<u32>,
    buffer: Box<[u8]>,
    scratch: Scratch,
    greeter: Greeter,
    /// Where the steering program reads how many connections this shard has.
    gauge: Gauge,
    shared: Arc<Shared>,
    submitter: Option<Submitter>,
    /// Of a node in a cluster.
    joint: Option<Joint>,
    drain: Option<Drain>,
    drained: mpsc::Sender<ShardId>,
    retry_at: Option<Millis>,
    busy_nanos: u64,
    /// The time of this turn.
    now_micros: u64,
    pending: bool,
    stopped: bool,
}

impl Driver {
    /// A shard without connections that watches its listeners and its mailbox.
    pub(crate) fn new(
        id: ShardId,
        shared: Arc<Shared>,
        listeners: Vec<OwnedFd>,
        gauge: Gauge,
        drained: mpsc::Sender<ShardId>,
    ) -> Result<Driver, Errno> {
        let poller = Poller::new()?;
        poller.watch_wake(shared.mailboxes[id.index()].descriptor())?;
        let acceptor = Acceptor::new(listeners, &poller)?;
        let mut core = Shard::new(Arc::clone(&shared.node), id, Reading::take().millis());
        // In a cluster the Raft groups write the log.
        let store = shared.store.as_ref().filter(|_| shared.outlet.is_none());
        let submitter = store.map(|store| Submitter::new(Arc::clone(store), id));
        if shared.outlet.is_some() {
            core.replicate();
            core.want_proofs();
        } else if submitter.is_some() {
            core.keep();
        }
        let partitions = || (0..PARTITIONS).map(|p| PartitionId(p as u8));
        let own =
            |p: &PartitionId| p.shard(Member::ALONE, shared.node.shards()).index() == id.index();
        let joint = shared.outlet.as_ref().map(|_| Joint::new(partitions().filter(own)));
        Ok(Driver {
            id,
            core,
            submitter,
            joint,
            table: Table::default(),
            poller,
            acceptor,
            linger: Linger::default(),
            ready: VecDeque::new(),
            buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            scratch: Scratch::new(READ_BUFFER_BYTES),
            greeter: Greeter::new(shared.doors.len()),
            gauge,
            shared,
            drain: None,
            drained,
            retry_at: None,
            busy_nanos: 0,
            now_micros: 0,
            pending: false,
            stopped: false,
        })
    }

    pub(crate) fn poller(&self) -> &Poller {
        &self.poller
    }

    pub(crate) fn mailbox(&self) -> &Mailbox<Mail> {
        &self.shared.mailboxes[self.id.index()]
    }

    pub(crate) fn meters(&self) -> &Meters {
        &self.shared.meters[self.id.index()]
    }

    fn node(&self) -> &Node {
        &self.shared.node
    }

    /// One turn.
    ///
    /// # Errors
    /// When the kernel refuses what cannot be refused; the shard cannot go on.
    pub(crate) fn turn(&mut self) -> Result<Next, Errno> {
        let began = Reading::take();
        let now = began.millis();
        self.core.begin_turn(began.stamp());
        self.now_micros = began.micros();
        self.scratch.begin_turn(self.now_micros);
        let events = self.gather(now)?;
        self.node().counters[self.id.index()].turns.add(1);
        let idle = events == 0
            && !self.pending
            && self.mailbox().is_empty()
            && self.next_tick().is_none_or(|at| at > now);
        if idle {
            let next_tick = self.next_tick();
            self.poller.arm(next_tick)?;
            return Ok(Next::Sleep);
        }

        self.complete(now);
        self.take_fetched(now);
        self.read_ready(now, began);
        // Clients get what they are owed before others are let in.
        self.flush(now);
        self.greet(now, began);
        self.accept(now);
        let more_words = self.take_words(now);
        self.take_mail(now, began);
        self.take_orders(now);
        self.tick(now)?;
        let mut more = self.work(now, began);
        // The disk works while the sockets are written.
        self.submit(now);
        more |= self.flush_and_settle(now);
        self.submit(now);
        more |= self.post(now) | more_words;
        self.speak(now);
        self.fetch();
        self.report_drained();

        // Mail that went out may have let publishers go on: they are told then.
        let more = more || self.core.has_output();
        self.pending = more || !self.ready.is_empty() || !self.greeter.ready.is_empty();
        let ended = Reading::take();
        self.time(began, ended);
        self.busy_nanos += ended.nanos_since(began);
        self.node().counters[self.id.index()].busy_micros.set(self.busy_nanos / 1_000);
        if self.stopped {
            self.settle(Some(FINISH_PATIENCE));
            return Ok(Next::Stop);
        }
        Ok(Next::Again)
    }

    /// Tells the histograms what this turn brought about. What was flushed in
    /// the middle of it counts as if it had left at its end.
    fn time(&mut self, began: Reading, ended: Reading) {
        let meters = &self.shared.meters[self.id.index()];
        meters.timings.turns.observe(ended.nanos_since(began) / 1_000, 1);
        self.core.take_passed(|Passed { read_at, scope, counts }| {
            let micros = ended.stamp().micros_since(read_at).into();
            let by_qos = &meters.timings.publishes[scope as usize];
            for (histogram, n) in by_qos.iter().zip(counts).filter(|(_, n)| *n > 0) {
                histogram.observe(micros, n.into());
            }
        });
        let table = &self.table;
        self.core.take_reached(|Reached { slot, accepted_at, stage, took_over }| {
            let at = match stage {
                Stage::Connect => began,
                Stage::Connack => ended,
            };
            let listener = table.listener(slot).map_or(0, usize::from);
            let micros = at.stamp().micros_since(accepted_at);
            if took_over {
                meters.timings.takeovers.observe(micros.into(), 1);
            }
            if let Some(counts) = meters.listeners.get(listener) {
                counts.connect.0[stage as usize].observe(micros.into(), 1);
            }
        });
    }

    /// When something is due though nothing comes in.
    fn next_tick(&self) -> Option<Millis> {
        let drain = self.drain.as_ref().and_then(|drain| drain.next_tick(!self.is_drained()));
        [
            self.core.next_tick(),
            self.retry_at,
            self.acceptor.next_tick(),
            self.greeter.next_tick(),
            self.linger.next_tick(),
            self.submitter.as_ref().and_then(Submitter::next_tick),
            self.joint.as_ref().and_then(Joint::next_tick),
            drain,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes the events of the kernel and turns them into flags and the ready list.
    fn gather(&mut self, now: Millis) -> Result<usize, Errno> {
        let count = self.poller.take()?;
        for index in 0..count {
            let event = self.poller.event(index);
            let (slot, generation) = match event.token {
                Token::Connection { slot, generation } => (slot, generation),
                Token::Listener(listener) => {
                    self.acceptor.ready(listener);
                    continue;
                }
                Token::Wake | Token::Timer => continue,
            };
            let Some(entry) = self.table.tenant(slot, generation) else { continue };
            if event.read {
                entry.flags.set(Flags::READABLE);
            }
            if event.end {
                entry.flags.set(Flags::ENDING);
            }
            // A paused connection would not notice its end by reading.
            let lost = event.error && entry.flags.has(Flags::PAUSED);
            let writable = event.write && entry.flags.has(Flags::BLOCKED);
            if writable {
                entry.flags.clear(Flags::BLOCKED);
            }
            let may_write = writable && entry.flush_layers();
            if event.read && !lost {
                Self::list(&mut self.ready, &mut self.greeter, slot, entry);
            }
            if may_write {
                self.core.writable(now, slot);
            }
            if lost {
                self.hang_up(now, slot, Hangup::Error);
            }
        }
        Ok(count)
    }

    /// Puts a connection on the ready list if reading it makes sense.
    fn list(ready: &mut VecDeque<u32>, greeter: &mut Greeter, slot: u32, entry: &mut Entry) {
        let yields = entry.yields();
        let flags = &mut entry.flags;
        let skip = flags.has(Flags::LISTED)
            || flags.has(Flags::PAUSED)
            || flags.has(Flags::CLOSING)
            || !flags.has(Flags::READABLE);
        if !skip {
            flags.set(Flags::LISTED);
            let ready = if yields { &mut greeter.ready } else { ready };
            ready.push_back(slot);
        }
    }

    fn read_ready(&mut self, now: Millis, began: Reading) {
        for turn in 1..=self.ready.len() {
            let Some(slot) = self.ready.pop_front() else { return };
            self.read_listed(now, slot, began);
            if turn % CLOCK_EVERY == 0 && Reading::take().nanos_since(began) >= TURN_NANOS_MAX {
                return;
            }
        }
    }

    /// Reads what was on a list.
    fn read_listed(&mut self, now: Millis, slot: u32, began: Reading) {
        // Unlisted: it was closed since, and perhaps another has the slot.
        let listed = |entry: &&mut Entry| entry.flags.has(Flags::LISTED);
        let Some(entry) = self.table.open(slot).filter(listed) else { return };
        entry.flags.clear(Flags::LISTED);
        if !entry.flags.has(Flags::PAUSED) && !entry.flags.has(Flags::CLOSING) {
            self.read(now, slot, began);
        }
    }

    /// Reads one connection: until it is drained, or has had its share.
    fn read(&mut self, now: Millis, slot: u32, began: Reading) {
        let mut share = TURN_READ_BYTES_MAX;
        loop {
            let Some(entry) = self.table.open(slot) else { return };
            let stashed = entry.stash().len();
            let prepend = stashed <= PREPEND_BYTES_MAX;
            let from = if prepend { stashed } else { 0 };
            if prepend && stashed > 0 {
                self.buffer[..stashed].copy_from_slice(entry.stash());
            }
            let handshaking = entry.is_handshaking();
            let arrived = entry.receive(&mut self.buffer[from..], &mut self.scratch);
            if handshaking && !entry.is_handshaking() {
                self.greeter.end();
            }
            let (count, drained) = match arrived {
                Arrived::Bytes { count, drained } => (count, drained),
                Arrived::Nothing => {
                    entry.flags.clear(Flags::READABLE);
                    return;
                }
                Arrived::End => return self.hang_up(now, slot, Hangup::Eof),
                Arrived::Broken(layer) => return self.hang_up(now, slot, Hangup::Layer(layer)),
                Arrived::Failed => return self.hang_up(now, slot, Hangup::Error),
            };
            // After the peer's FIN a short read is not the last: the end follows.
            let drained = drained && !entry.flags.has(Flags::ENDING);
            if drained {
                entry.flags.clear(Flags::READABLE);
            }
            let meters = &self.shared.meters[self.id.index()];
            meters.bytes_received.add(count as u64);
            meters.receives.add(1);

            if count == 0 {
                // It was for a layer below MQTT.
            } else if prepend {
                let bytes = &self.buffer[..from + count];
                let Received { consumed, then } = self.core.receive(now, slot, bytes);
                entry.keep(&bytes[consumed..]);
                Self::follow(entry, then);
            } else {
                let mut stash = entry.take_stash();
                stash.extend_from_slice(&self.buffer[..count]);
                Self::receive_stash(&mut self.core, entry, now, slot, stash);
            }

            if self.core.pressed() {
                self.flush(now);
            }
            let Some(entry) = self.table.open(slot) else { return };
            let flags = &entry.flags;
            if drained || flags.has(Flags::PAUSED) || flags.has(Flags::CLOSING) {
                return;
            }
            share = share.saturating_sub(count);
            if share == 0 || Reading::take().nanos_since(began) >= TURN_NANOS_MAX {
                return Self::list(&mut self.ready, &mut self.greeter, slot, entry);
            }
        }
    }

    /// Gives the core a partial packet that lies in a buffer of its own.
    fn receive_stash(
        core: &mut Shard,
        entry: &mut super::table::Entry,
        now: Millis,
        slot: u32,
        mut stash: Vec<u8>,
    ) {
        let Received { consumed, then } = core.receive(now, slot, &stash);
        if consumed > 0 {
            // A new vector, so that the memory of a large packet goes with it.
            stash = stash[consumed..].to_vec();
        }
        entry.keep_buffer(stash);
        Self::follow(entry, then);
    }

    /// Does what the core asks after a `receive`.
    fn follow(entry: &mut super::table::Entry, then: Then) {
        match then {
            Then::Read => {}
            Then::Pause => entry.flags.set(Flags::PAUSED),
            Then::Close => {
                entry.flags.set(Flags::CLOSING);
                entry.drop_stash();
            }
        }
    }

    fn hang_up(&mut self, now: Millis, slot: u32, cause: Hangup) {
        if let Some(entry) = self.table.open(slot) {
            // A peer that has only finished sending still gets its answers.
            if cause == Hangup::Error {
                entry.flags.set(Flags::GONE);
            }
            entry.flags.clear(Flags::READABLE);
            if !entry.flags.has(Flags::CLOSING) {
                entry.flags.set(Flags::CLOSING);
                entry.drop_stash();
                self.core.hangup(now, slot, cause);
            }
        }
    }

    fn take_mail(&mut self, now: Millis, began: Reading) {
        for _ in 0..MAILBOX_BATCHES_MAX {
            let Some((from, batch)) = self.mailbox().next_batch() else { return };
            self.core.mail(now, from, batch);
            if self.core.pressed() {
                self.flush(now);
            }
            if Reading::take().nanos_since(began) >= TURN_NANOS_MAX {
                return;
            }
        }
    }

    fn take_orders(&mut self, now: Millis) {
        while let Some(order) = self.mailbox().next_order() {
            match order {
                Order::Ping => {}
                Order::PublishSystem(topics) => {
                    for (topic, payload) in &topics {
                        self.core.publish_system(now, topic, payload.as_bytes());
                    }
                }
                Order::Drain { until } => {
                    self.acceptor.close();
                    self.core.drain();
                    self.drain = Some(Drain::new(now, until));
                }
                Order::Isolated(isolated) => {
                    self.core.isolate(isolated);
                    self.meters().admits.store(!isolated, Release);
                    if isolated {
                        self.core.send_away(now, SENT_AWAY_MAX);
                    }
                }
                Order::Away(away, count) => {
                    self.core.turn_away(away);
                    self.core.hand_over(now, count);
                }
                Order::Recheck => self.core.recheck(),
                Order::WriteState(partition) => self.core.write_state(now, partition),
                Order::Relocate { partition, limit } => {
                    self.core.relocate(now, partition, limit);
                }
                Order::Verdict(opened, verdict) => self.admit(now, opened, verdict),
                Order::Stop => self.stopped = true,
            }
        }
    }

    fn tick(&mut self, now: Millis) -> Result<(), Errno> {
        if self.core.next_tick().is_some_and(|at| at <= now) {
            self.core.tick(now);
        }
        self.end_late_handshakes(now);
        self.linger.tick(now, &mut self.buffer);
        self.acceptor.tick(now, &self.poller)?;
        if let Some(drain) = &mut self.drain
            && let Some(count) = drain.step(now, self.core.connections())
        {
            self.core.disconnect_some(now, count);
            self.linger.sweep(&mut self.buffer);
        }
        Ok(())
    }

    /// Long jobs, step by step; whether something is left.
    fn work(&mut self, now: Millis, began: Reading) -> bool {
        while self.core.work(now) {
            if self.core.pressed() {
                self.flush(now);
            }
            if Reading::take().nanos_since(began) >= TURN_NANOS_MAX {
                return true;
            }
        }
        false
    }

    /// Writes, and does what the core wants done; whether something is left.
    fn flush_and_settle(&mut self, now: Millis) -> bool {
        let start = Reading::take();
        let mut resumed_any = false;
        for _ in 0..ROUNDS_MAX {
            self.flush(now);
            let mut resumed = false;
            let mut handled = 0;
            while let Some(event) = self.core.next_event() {
                match event {
                    Event::Resume(slot) => {
                        resumed = true;
                        self.resume(now, slot);
                    }
                    Event::Authenticate(opened) => self.authenticate(now, opened),
                    Event::Close(slot) => self.close(now, slot),
                }
                handled += 1;
                if handled % SOCKETS_A_LOOK == 0
                    && Reading::take().nanos_since(start) >= SETTLE_NANOS_MAX
                {
                    return true;
                }
            }
            if !resumed {
                return resumed_any;
            }
            resumed_any = true;
        }
        true
    }

    fn flush(&mut self, now: Millis) {
        let meters = &self.shared.meters[self.id.index()];
        let (table, scratch) = (&mut self.table, &mut self.scratch);
        self.core.flush(now, &mut |slot, slices| match table.send(slot, slices, meters, scratch) {
            Sent::All => Written::All,
            Sent::Some(bytes) => Written::Some(bytes),
            Sent::Failed => Written::Failed,
        });
    }

    fn resume(&mut self, now: Millis, slot: u32) {
        let Some(entry) = self.table.open(slot) else { return };
        if !entry.flags.has(Flags::PAUSED) || entry.flags.has(Flags::CLOSING) {
            return;
        }
        entry.flags.clear(Flags::PAUSED);
        let stash = entry.take_stash();
        Self::receive_stash(&mut self.core, entry, now, slot, stash);
        Self::list(&mut self.ready, &mut self.greeter, slot, entry);
    }

    fn close(&mut self, now: Millis, slot: u32) {
        if self.table.open(slot).is_some_and(|entry| entry.is_handshaking()) {
            self.greeter.end();
        }
        if let Some((socket, flags, listener)) = self.table.remove(slot, &mut self.scratch) {
            if let Some(counts) = self.meters().listeners.get(usize::from(listener)) {
                counts.connections.sub(1);
            }
            if let Some(door) = self.shared.doors.get(usize::from(listener)) {
                door.admission.leave();
                if door.listener.bind.port().is_some() {
                    self.gauge.closed();
                }
            }
            // Not CLOSING means that the core decided alone (takeover, keep
            // alive, drain): its DISCONNECT is on the way.
            let last_words = flags.has(Flags::LAST_WORDS) || !flags.has(Flags::CLOSING);
            if flags.has(Flags::GONE) {
                drop(socket);
            } else if last_words {
                self.linger.close(now, socket, &mut self.buffer);
            } else if flags.has(Flags::READABLE) {
                close_read_out(socket, &mut self.buffer);
            }
        }
        self.core.release(slot);
    }

    /// Hands mail to the other shards; whether some went out that was stuck.
    fn post(&mut self, now: Millis) -> bool {
        let was_stuck = self.retry_at.take().is_some();
        let mut posted_any = false;
        for index in 0..self.shared.mailboxes.len() {
            if index == self.id.index() {
                continue;
            }
            let (to, mailbox) = (ShardId(index as u16), &self.shared.mailboxes[index]);
            let mut posted = false;
            while let Some(batch) = self.core.outbound(to) {
                if let Err(batch) = mailbox.post(self.id, batch) {
                    self.core.unsend(to, batch);
                    self.retry_at = Some(now + RETRY_MS);
                    self.shared.meters[self.id.index()].mailbox_full.add(1);
                    break;
                }
                posted = true;
            }
            if posted && mailbox.wake() {
                self.meters().wakes.add(1);
            }
            posted_any |= posted;
        }
        // What is not stuck has been posted: the outboxes are empty but for that.
        if was_stuck || self.retry_at.is_some() {
            let depth = self.core.outbox_depth() as u64;
            self.node().counters[self.id.index()].outbox_depth.set(depth);
        }
        was_stuck && posted_any
    }

    fn is_drained(&self) -> bool {
        self.core.connections() == 0 && self.linger.is_empty()
    }

    fn report_drained(&mut self) {
        let finished = self.is_drained();
        if self.drain.as_mut().is_some_and(|drain| drain.report(finished)) {
            // One message a shard, and there is room for one of each.
            let _ = self.drained.try_send(self.id);
        }
    }
}

#[cfg(test)]
mod tests;
