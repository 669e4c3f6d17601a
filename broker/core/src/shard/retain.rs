//! Retained messages: kept by the shard of their topic, replayed in batches.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_codec::defect;

use super::receive::qos_of;
use super::{Shard, has_room};
use crate::conn::Phase;
use crate::delivery::Delivery;
use crate::ids::{ConnRef, Millis, PartitionId, ShardId};
use crate::limits::{REPLAY_BATCH_MAX, STEP_ITEMS_MAX};
use crate::mail::{Kind, Replay};
use crate::message::Message;
use crate::outgoing::SubscriptionIds;
use crate::partition::Change;
use crate::retained::{Cursor, Step};

impl Shard {
    /// Replaces, or with an empty payload removes, the message of a topic
    /// [MQTT-3.3.1-5], [MQTT-3.3.1-6].
    pub(super) fn retain(&mut self, now: Millis, message: &Arc<Message>, clear: bool) {
        let topic = message.topic();
        let old = if clear && !defect::on("5:3.3.1-6") {
            self.retained.remove(topic)
        } else if message.expired(now) {
            None
        } else {
            self.count_retained(message, true);
            self.retained.set(topic.into(), Arc::clone(message))
        };
        if let Some(old) = old {
            self.count_retained(&old, false);
        }
    }

    fn count_retained(&self, message: &Message, more: bool) {
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

    /// One batch of the retained messages that a subscription asks for.
    pub(super) fn answer(&mut self, now: Millis, mut replay: Box<Replay>) {
        let mut cursor = match replay.cursor.take() {
            Some(cursor) => cursor,
            None => Cursor::new(Arc::clone(&replay.filter)),
        };
        let mut messages = Vec::new();
        let mut budget = STEP_ITEMS_MAX;
        let mut ended = false;
        while messages.len() < REPLAY_BATCH_MAX {
            match cursor.next(&self.retained, &mut budget) {
                Step::Item(_, message) => {
                    if !message.expired(now) {
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
        let mut more = true;
        if !ended {
            replay.cursor = Some(cursor);
        } else if replay.exact || replay.shard.0 + 1 >= self.node.shards {
            more = false;
        } else {
            replay.shard = ShardId(replay.shard.0 + 1);
        }
        self.send(replay.owner.shard, Kind::Answer { replay, messages, more });
    }

    /// A batch for a session that this shard owns.
    pub(super) fn replayed(
        &mut self,
        now: Millis,
        replay: Box<Replay>,
        mut messages: Vec<Arc<Message>>,
        mut more: bool,
    ) {
        if !self.wants(&replay) {
            // Unsubscribed meanwhile: nothing is added any more [MQTT-3.10.4-2].
            messages.clear();
            more = false;
        }
        let deliveries = messages
            .into_iter()
            .filter(|m| !(replay.options.no_local() && m.origin == replay.client))
            .map(|message| Delivery {
                qos: message.qos.min(qos_of(replay.options.qos())),
                retain: !defect::on("5:3.3.1-8"), // [MQTT-3.3.1-8]
                ids: match replay.id {
                    0 => SubscriptionIds::None,
                    id => SubscriptionIds::One(id),
                },
                ticket: None,
                message,
            });
        let owner = replay.owner;
        if owner.durable {
            let (partition, _) = PartitionId::split(owner.slot);
            let deliveries: Vec<Delivery> = deliveries.collect();
            self.propose(now, partition, Change::Retained { session: owner, deliveries });
            let at = usize::from(partition.0) / usize::from(self.node.shards);
            self.with_partition(now, at, |partition, cx| partition.replay_on(replay, more, cx));
            return;
        }
        let slot = owner.slot;
        let live = |shard: &Shard| {
            let conn = shard.conns.at(slot);
            conn.is_some_and(|c| c.generation == owner.generation && c.phase == Phase::Live)
        };
        let deliveries: Vec<Delivery> = deliveries.collect();
        for delivery in deliveries {
            if !live(self) {
                return;
            }
            let topic = self.node.topic_hash(delivery.message.topic());
            let Some(conn) = self.conns.at_mut(slot) else { return };
            if !conn.active().catchup.is_stale(topic, &delivery.message) {
                self.deliver_one(now, slot, delivery);
            }
        }
        if !live(self) {
            return;
        }
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let catchup = &mut conn.active().catchup;
        if more {
            catchup.parked.push(replay);
            self.resume_replays(slot);
        } else {
            catchup.end_one();
        }
    }

    /// Whether the session still has the subscription that a replay is for.
    fn wants(&self, replay: &Replay) -> bool {
        let owner = replay.owner;
        if owner.durable {
            let (partition, _) = PartitionId::split(owner.slot);
            let at = usize::from(partition.0) / usize::from(self.node.shards);
            return self.partitions.get(at).is_some_and(|p| p.holds(owner, &replay.filter));
        }
        self.conns.at(owner.slot).is_some_and(|conn| {
            conn.generation == owner.generation && conn.subscriptions.holds(&replay.filter)
        })
    }

    /// A durable half asks for the next batch when the socket has room.
    pub(super) fn pace(&mut self, at: ConnRef, replay: Box<Replay>) {
        if let Some(conn) = self.conn(at)
            && conn.phase == Phase::Live
        {
            conn.active().catchup.parked.push(replay);
            self.resume_replays(at.slot);
        } else {
            self.return_replay(replay);
        }
    }

    /// The connection of a durable session has gone: its half keeps the replay
    /// for the next one.
    pub(super) fn return_replay(&mut self, replay: Box<Replay>) {
        let to = replay.owner.shard;
        self.send(to, Kind::Answer { replay, messages: Vec::new(), more: true });
    }

    /// Asks for the next batches once nothing waits in front of them.
    pub(super) fn resume_replays(&mut self, slot: u32) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let room = has_room(conn, &self.node.settings.limits)
            && conn.output.as_ref().is_none_or(|o| o.len() < crate::limits::PRESSED_BYTES);
        let Some(active) = &mut conn.active else { return };
        if !room || active.catchup.parked.is_empty() {
            return;
        }
        if !active.held.is_empty() || active.outgoing.load().0 > 0 {
            return;
        }
        for replay in std::mem::take(&mut active.catchup.parked) {
            self.send(replay.shard, Kind::Query(replay));
        }
    }

    /// Drops a bounded number of expired retained messages.
    pub(super) fn sweep_retained(&mut self, now: Millis) {
        let mut gone = Vec::new();
        self.retained.sweep(
            &mut self.retained_sweep,
            STEP_ITEMS_MAX,
            |_, message| message.expired(now),
            |_, message| gone.push(message),
        );
        for message in gone {
            self.count_retained(&message, false);
        }
    }
}
