//! Retained messages: kept by the shard of their topic, replayed in batches.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_codec::defect;

use super::receive::qos_of;
use super::{Shard, has_room};
use crate::conn::{Conn, Phase};
use crate::delivery::Delivery;
use crate::hole::{self, Hole};
use crate::ids::{ConnRef, Millis, PARTITIONS, PartitionId, SessionKey};
use crate::limits::{REPLAY_BATCH_MAX, REPLAY_BYTES_MAX, REPLAYS_MAX, STEP_ITEMS_MAX};
use crate::mail::{Kind, Replay};
use crate::message::Message;
use crate::outgoing::SubscriptionIds;
use crate::partition::Change;
use crate::retained::{Cursor, Step};

/// What an answer costs in items looked at, even if there is nothing.
const QUERY_COST: usize = 8;

impl Shard {
    /// Replaces, or with an empty payload removes, the message of a topic
    /// [MQTT-3.3.1-5], [MQTT-3.3.1-6]. Whether there is place was asked before.
    pub(super) fn retain(&mut self, now: Millis, message: &Arc<Message>, clear: bool) {
        let topic = message.topic();
        if hole::on(Hole::RetainedLastWriter)
            && self.retained.get(topic).is_some_and(|old| old.id > message.id)
        {
            return;
        }
        let old = if (clear && !defect::on("5:3.3.1-6")) || message.expired(now) {
            // What has expired on its way replaces too [MQTT-3.3.1-5].
            self.note_retained(topic, false);
            self.retained.remove(topic)
        } else {
            self.count_retained(message, true);
            self.note_retained(topic, true);
            self.retained.set(topic.into(), Arc::clone(message))
        };
        if let Some(old) = old {
            self.count_retained(&old, false);
        }
    }

    /// Keeps one of a partition's image, whatever its time.
    pub(super) fn keep_retained(&mut self, message: &Arc<Message>) {
        self.retain(0, message, false);
    }

    /// Notes which partition a topic is written with.
    fn note_retained(&mut self, topic: &str, there: bool) {
        if (self.journal.is_none() && !self.is_replicated()) || topic.starts_with("$SYS/") {
            return;
        }
        let at = self.local_number(self.node.retained_partition(topic));
        if there {
            if !self.retained_of[at].contains(topic) {
                self.retained_of[at].insert(topic.into());
            }
        } else {
            self.retained_of[at].remove(topic);
        }
    }

    /// Whether a message fits the node's limits; one that replaces another
    /// takes its place.
    pub(super) fn has_place(&self, message: &Message) -> bool {
        let (limits, totals) = (self.node.limits(), &self.node.totals);
        let old = self.retained.get(message.topic()).map(|old| old.bytes() as u64);
        let bytes = totals.retained_bytes.load(Relaxed) + message.bytes() as u64;
        (old.is_some() || totals.retained_messages.load(Relaxed) < limits.retained_messages_max)
            && bytes.saturating_sub(old.unwrap_or(0)) <= limits.retained_bytes_max
    }

    pub(super) fn count_retained(&self, message: &Message, more: bool) {
        let (counters, totals) = (self.counters(), &self.node.totals);
        let bytes = message.bytes() as u64;
        if more {
            counters.retained_messages.add(1);
            counters.retained_bytes.add(bytes);
            totals.retained_messages.fetch_add(1, Relaxed);
            totals.retained_bytes.fetch_add(bytes, Relaxed);
        } else {
            counters.retained_messages.sub(1);
            counters.retained_bytes.sub(bytes);
            totals.retained_messages.fetch_sub(1, Relaxed);
            totals.retained_bytes.fetch_sub(bytes, Relaxed);
        }
    }

    /// Answers a bounded part of the replays that ask this shard.
    pub(super) fn answer_some(&mut self, now: Millis) {
        let mut budget = STEP_ITEMS_MAX;
        while budget > 0
            && let Some(replay) = self.queries.pop_front()
        {
            self.answer(now, replay, &mut budget);
            budget = budget.saturating_sub(QUERY_COST);
        }
    }

    /// One batch of the retained messages that a subscription asks for.
    fn answer(&mut self, now: Millis, mut replay: Box<Replay>, budget: &mut usize) {
        // A leader's replicas have its messages too, and do not answer for it.
        let all = self.node.is_alone();
        let mut cursor = match replay.cursor.take() {
            Some(cursor) if all || replay.keeper == self.id => cursor,
            // Not begun, or begun with a leader that is none any more.
            Some(_) | None => {
                (replay.asked, replay.keeper) = (replay.left, self.id);
                Cursor::new(Arc::clone(&replay.filter))
            }
        };
        if !all || replay.asked == replay.left {
            replay.asked &= self.kept(replay.is_system());
        }
        if replay.asked == 0 {
            return; // all of it has moved, and is asked for again
        }
        let mut messages = Vec::new();
        let mut ended = false;
        let mut bytes = 0;
        // All that is on its way to a session has to have room in its queue.
        // Half of it: replays begin while the other half is free.
        let share = self.node.limits().queue_messages_max as usize / REPLAYS_MAX / 2;
        let most = REPLAY_BATCH_MAX.min(share).max(1);
        while messages.len() < most && bytes < REPLAY_BYTES_MAX {
            match cursor.next(&self.retained, budget) {
                Step::Item(_, message) => {
                    let keeper = || self.node.retained_partition(message.topic());
                    if !message.expired(now) && (all || replay.asked & keeper().bit() != 0) {
                        bytes += message.bytes();
                        messages.push(Arc::clone(message));
                    }
                }
                Step::Pause => break,
                Step::End => {
                    ended = true;
                    break;
                }
            }
        }
        if ended {
            replay.left &= !replay.asked;
        } else {
            replay.cursor = Some(cursor);
        }
        let more = replay.left != 0;
        self.send(replay.owner.shard, Kind::Answer { replay, messages, more });
    }

    /// A batch for a session that this shard owns.
    pub(super) fn replayed(
        &mut self,
        now: Millis,
        replay: Box<Replay>,
        messages: Vec<Arc<Message>>,
        more: bool,
    ) {
        let deliveries = messages
            .into_iter()
            .filter(|m| !(replay.options.no_local() && m.origin == replay.client))
            .map(|message| Delivery {
                qos: message.qos.min(qos_of(replay.options.qos())),
                retain: !defect::on("3:3.3.1-8"), // [MQTT-3.3.1-8]
                ids: match replay.id {
                    0 => SubscriptionIds::None,
                    id => SubscriptionIds::One(id),
                },
                position: None,
                ticket: None,
                message,
            });
        let owner = replay.owner;
        if !self.node.is_alone() && !self.asked.is_back(&replay) {
            return; // it came late, and was asked for again
        }
        if owner.durable {
            let (partition, _) = PartitionId::split(owner.slot);
            let deliveries: Vec<Delivery> = deliveries.collect();
            let serial = replay.serial;
            // A record with one message can be found again by its position.
            let most = if self.journal.is_some() { 1 } else { usize::MAX };
            let mut deliveries = deliveries.into_iter().peekable();
            while deliveries.peek().is_some() {
                let deliveries = deliveries.by_ref().take(most).collect();
                let filter = Arc::clone(&replay.filter);
                let change = Change::Retained { session: owner, filter, serial, deliveries };
                self.propose(now, partition, change);
            }
            let at = self.local_number(partition);
            self.with_partition(now, at, |partition, cx| {
                partition.replay_on(now, replay, more, cx)
            });
            return;
        }
        let slot = owner.slot;
        let mut more = more;
        let deliveries: Vec<Delivery> = deliveries.collect();
        for delivery in deliveries {
            let Some(conn) = self.live(owner.slot, owner.generation) else { return };
            if !conn.subscriptions.holds(&replay.filter) {
                more = false; // [MQTT-3.10.4-2]
                break;
            }
            if conn
                .active
                .as_ref()
                .is_some_and(|a| a.catchup.defers(&delivery.message, replay.serial, delivery.qos))
            {
                continue;
            }
            self.deliver_one(now, slot, delivery);
        }
        let Some(conn) = self.live(owner.slot, owner.generation) else { return };
        conn.active().catchup.back(replay, more, false);
        self.resume_replays(now, slot);
        self.release_deferred(now, slot);
        if let Some(conn) = self.conns.at_mut(slot) {
            conn.rest(); // a million subscribers were busy once
        }
    }

    /// Sends what was kept back once the last replay has ended.
    pub(super) fn release_deferred(&mut self, now: Millis, slot: u32) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let Some(active) = &mut conn.active else { return };
        if active.catchup.is_on() {
            return;
        }
        for delivery in active.catchup.take_deferred() {
            self.deliver_one(now, slot, delivery);
        }
    }

    /// The client leaves: what was kept back for it goes in front of its end,
    /// as it would have without the replay.
    pub(super) fn let_go(&mut self, now: Millis, slot: u32) {
        let Some(active) = self.conns.at_mut(slot).and_then(|conn| conn.active.as_mut()) else {
            return;
        };
        for delivery in active.catchup.take_deferred() {
            self.deliver_one(now, slot, delivery);
        }
    }

    fn live(&mut self, slot: u32, generation: u32) -> Option<&mut Conn> {
        let conn = self.conns.at_mut(slot)?;
        (conn.generation == generation && conn.phase == Phase::Live).then_some(conn)
    }

    /// A durable half asks for the next batch when the socket has room.
    pub(super) fn pace(&mut self, now: Millis, at: ConnRef, replay: Box<Replay>) {
        if let Some(conn) = self.conn(at)
            && conn.phase == Phase::Live
        {
            // One that is asked for again takes the place of the lost one.
            let paced = &mut conn.active().paced;
            let same = |old: &Replay| (old.owner, old.serial) == (replay.owner, replay.serial);
            match paced.iter().position(|old| same(old)) {
                Some(at) => paced[at] = replay,
                None => paced.push(replay),
            }
            self.resume_replays(now, at.slot);
        } else {
            self.return_replay(at, replay);
        }
    }

    /// The connection of a durable session has gone: its half keeps the replay
    /// for the next one.
    pub(super) fn return_replay(&mut self, conn: ConnRef, replay: Box<Replay>) {
        self.send(replay.owner.shard, Kind::Returned { conn, replay });
    }

    /// One is back with its durable half.
    pub(super) fn replay_returned(&mut self, now: Millis, conn: ConnRef, replay: Box<Replay>) {
        if !self.node.is_alone() && !self.asked.is_back(&replay) {
            return;
        }
        let (partition, _) = PartitionId::split(replay.owner.slot);
        let at = self.local_number(partition);
        self.with_partition(now, at, |partition, cx| partition.take_back(now, conn, replay, cx));
    }

    /// Asks for the next batches once nothing waits in front of them.
    pub(super) fn resume_replays(&mut self, now: Millis, slot: u32) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let room = has_room(conn, self.node.limits())
            && conn.output.as_ref().is_none_or(|o| o.len() < crate::limits::PRESSED_BYTES);
        let Some(active) = &mut conn.active else { return };
        let half = self.node.limits().queue_messages_max as usize / 2;
        let waiting = !active.held.is_empty() || active.outgoing.load().0 > half;
        // It waits behind a SUBACK that waits for the other nodes.
        let waits = conn.pause & crate::conn::pause::REPLY != 0;
        let early = waits && conn.session_durable && !self.node.is_alone();
        if !room || early || waiting || (!active.catchup.is_on() && active.paced.is_empty()) {
            return;
        }
        for replay in std::mem::take(&mut active.paced) {
            self.ask_keeper(replay);
        }
        loop {
            let Some(conn) = self.conns.at_mut(slot) else { return };
            let Some(active) = &mut conn.active else { return };
            let Some(mut replay) = active.catchup.next(self.node.limits()) else { return };
            if !self.node.is_alone() {
                self.asked.leave(now, &mut replay);
            }
            self.ask_keeper(replay);
        }
    }

    /// Has what did not come back asked for again.
    pub(super) fn replay_again(&mut self, now: Millis) {
        for replay in self.asked.overdue(now) {
            let SessionKey { durable, slot, generation, .. } = replay.owner;
            let replay = Box::new(replay);
            if durable {
                let at = self.local_number(PartitionId::split(slot).0);
                self.with_partition(now, at, |partition, cx| {
                    partition.take_back(now, ConnRef::NOBODY, replay, cx);
                });
            } else if let Some(conn) = self.live(slot, generation) {
                let wanted = conn.subscriptions.holds(&replay.filter);
                conn.active().catchup.back(replay, wanted, false);
                self.resume_replays(now, slot);
                self.release_deferred(now, slot);
            }
        }
    }

    /// Replays of sessions of this shard that are away, at another node perhaps.
    pub fn open_replays(&self) -> usize {
        self.asked.len()
    }

    /// Asks whoever keeps the next of what it is about.
    fn ask_keeper(&mut self, replay: Box<Replay>) {
        let partition = replay.next();
        match replay.is_system() {
            true => self.send(self.node.place(partition), Kind::Query(replay)),
            false => self.send_home(partition, Kind::Query(replay)),
        }
    }

    /// The partitions whose retained messages this shard has to answer for.
    pub(super) fn kept(&self, system: bool) -> u64 {
        let kept = |p: &PartitionId| match system {
            true => self.node.place(*p) == self.id,
            false => self.leads(*p),
        };
        (0..PARTITIONS).map(|p| PartitionId(p as u8)).filter(kept).fold(0, |set, p| set | p.bit())
    }

    /// Drops a bounded number of expired retained messages.
    pub(super) fn sweep_retained(&mut self, now: Millis) {
        let mut gone = Vec::new();
        let Shard { retained, retained_sweep, partitions, node, journals, .. } = self;
        // Replicas have no clock but their records: what they may still write
        // with their state is kept until one of them says that its time is over.
        let told = |message: &Message| {
            let partition = node.retained_partition(message.topic());
            let at = usize::from(partition.0) / usize::from(node.shards);
            journals.is_empty()
                || crate::mail::is_system(message.topic())
                || partitions.get(at).is_some_and(|p| message.expired(p.time(node)))
        };
        retained.sweep(
            retained_sweep,
            STEP_ITEMS_MAX,
            |_, message| message.expired(now) && told(message),
            |_, message| gone.push(message),
        );
        for message in gone {
            self.note_retained(message.topic(), false);
            self.count_retained(&message, false);
        }
    }
}
