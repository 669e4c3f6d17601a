//! Retained messages on their way to a session, and what must not overtake them.
//!
//! A replay travels between the session's owner and the shards that hold the
//! messages, one batch at a time. A session has a few of them on their way;
//! the others wait here, each filter once, so that neither a SUBSCRIBE to a
//! thousand filters nor the same SUBSCRIBE a thousand times makes more arrive
//! at once than the session's queue takes, or more wait than it has
//! subscriptions.
//!
//! Until all have ended, what is published meanwhile is kept back: a message
//! published after the SUBACK never arrives before the retained ones, and an
//! old value never after a new one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidegate_codec::QoS;

use crate::delivery::Delivery;
use crate::ids::Position;
use crate::index::Options;
use crate::limits::{Limits, QueuePolicy, REPLAYS_MAX};
use crate::mail::Replay;
use crate::message::Message;

/// A replay that was asked for: filter, options, subscription identifier.
pub(crate) type Asked = (Arc<str>, Options, u32);

/// The replays of one session.
#[derive(Debug, Default)]
pub(crate) struct Catchup {
    /// On their way.
    running: usize,
    waiting: BTreeMap<Arc<str>, Box<Replay>>,
    /// Those and the ones on their way, as they were asked for.
    asked: BTreeMap<Arc<str>, (Options, u32)>,
    /// Live messages that must not overtake the retained ones.
    deferred: VecDeque<Delivery>,
    deferred_bytes: u64,
    /// Where the retained ones among them are, with the replays begun by then: a
    /// replay that finds such a message leaves it to its live copy.
    deferred_retained: BTreeMap<u64, (u64, bool)>,
    /// Counts the replays.
    begun: u64,
    /// How many had begun when its end was proposed.
    ending: u64,
}

impl Catchup {
    /// Whether retained messages may still come.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty()
    }

    /// As it was written. With each message that is kept back: how many
    /// replays had begun by then.
    pub(crate) fn restored(
        begun: u64,
        replays: Vec<Replay>,
        deferred: Vec<(u64, Delivery)>,
    ) -> Catchup {
        let mut catchup = Catchup::default();
        for replay in replays {
            catchup.add(replay);
        }
        for (by_then, delivery) in deferred {
            catchup.begun = by_then;
            catchup.push(delivery);
        }
        catchup.begun = begun;
        catchup
    }

    /// What of it is written: the replays that have not ended, and what is kept back.
    pub(crate) fn parts(&self) -> (Vec<Asked>, &VecDeque<Delivery>) {
        let asked = self.asked.iter();
        let asked = asked.map(|(filter, &(options, id))| (Arc::clone(filter), options, id));
        (asked.collect(), &self.deferred)
    }

    /// How many replays had begun when this message was kept back.
    pub(crate) fn begun_by(&self, message: &Message) -> u64 {
        self.deferred_retained.get(&message.id).map_or(self.begun, |&(begun, _)| begun)
    }

    /// What of it the disk has: position and bytes.
    pub(crate) fn kept(&self) -> Vec<(u64, u64)> {
        let kept = |d: &Delivery| Some((d.position?.offset(), d.message.bytes() as u64));
        self.deferred.iter().filter_map(kept).collect()
    }

    /// Where those lie that are at QoS 1 and 2, if the disk has them.
    pub(crate) fn promised(&self) -> Vec<Position> {
        let promised = self.deferred.iter().filter(|d| d.qos > QoS::AtMostOnce);
        promised.filter_map(|d| d.position).collect()
    }

    /// A message lies elsewhere now; whether it is kept back here.
    pub(crate) fn moved(&mut self, from: Position, to: Position) -> bool {
        let found = self.deferred.iter_mut().find(|d| d.position == Some(from));
        found.map(|delivery| delivery.position = Some(to)).is_some()
    }

    /// Where each message that is kept back lies, if the disk has it.
    pub(crate) fn each_position(&mut self, f: &mut dyn FnMut(&mut Position)) {
        self.deferred.iter_mut().filter_map(|d| d.position.as_mut()).for_each(f);
    }

    /// How many have begun.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// Whether its end is to be proposed: the last replay has ended, and
    /// nobody has said so. How many had begun.
    pub(crate) fn end(&mut self) -> Option<u64> {
        if self.is_on() || self.ending == self.begun {
            return None;
        }
        self.ending = self.begun;
        Some(self.begun)
    }

    /// A subscription asks for what is retained.
    pub(crate) fn add(&mut self, mut replay: Replay) {
        self.begun += 1;
        replay.serial = self.begun;
        self.asked.insert(Arc::clone(&replay.filter), (replay.options, replay.id));
        self.waiting.insert(Arc::clone(&replay.filter), Box::new(replay));
    }

    /// The subscription is gone: nothing more for it [MQTT-3.10.4-2].
    pub(crate) fn forget(&mut self, filter: &str) {
        self.waiting.remove(filter);
        self.asked.remove(filter);
    }

    /// The next replay to be sent on its way.
    pub(crate) fn next(&mut self, limits: &Limits) -> Option<Box<Replay>> {
        if self.running >= REPLAYS_MAX.min(limits.queue_messages_max.max(1) as usize) {
            return None;
        }
        let (_, replay) = self.waiting.pop_first()?;
        self.running += 1;
        Some(replay)
    }

    /// A replay is back; `more`: there is more to come. One that the client
    /// has asked for again begins anew instead. `noted`: what has asked stays
    /// written until all have ended, as the replicas have it.
    pub(crate) fn back(&mut self, replay: Box<Replay>, more: bool, noted: bool) {
        self.running = self.running.saturating_sub(1);
        let newer = self.waiting.get(&replay.filter).is_some_and(|w| w.serial > replay.serial);
        if newer {
            return;
        }
        if more {
            self.waiting.insert(Arc::clone(&replay.filter), replay);
        } else if !noted {
            self.asked.remove(&replay.filter);
        }
    }

    /// Keeps a live message until the replays have ended, within the limits of
    /// a session's queue; how many gave way.
    pub(crate) fn defer(&mut self, delivery: Delivery, limits: &Limits) -> u64 {
        self.defer_telling(delivery, limits, &mut Vec::new())
    }

    /// The same; tells the ids of those at QoS 1 and 2.
    pub(crate) fn defer_telling(
        &mut self,
        delivery: Delivery,
        limits: &Limits,
        gone: &mut Vec<u64>,
    ) -> u64 {
        let bytes = delivery.message.bytes() as u64;
        let mut dropped = 0;
        while self.deferred.len() >= limits.queue_messages_max as usize
            || self.deferred_bytes + bytes > limits.queue_bytes_max
        {
            dropped += 1;
            let oldest = match limits.queue_policy {
                QueuePolicy::DropNew | QueuePolicy::Refuse => None,
                QueuePolicy::DropOldest => self.deferred.pop_front(),
            };
            let given_way = oldest.as_ref().unwrap_or(&delivery);
            if given_way.qos > QoS::AtMostOnce {
                gone.push(given_way.message.id);
            }
            let Some(oldest) = oldest else { return dropped };
            self.deferred_retained.remove(&oldest.message.id);
            self.deferred_bytes -= oldest.message.bytes() as u64;
        }
        self.push(delivery);
        dropped
    }

    /// Keeps a message, whatever the limits say.
    pub(crate) fn follow(&mut self, delivery: Delivery) {
        self.push(delivery);
    }

    /// The leader has dropped the message with this id.
    pub(crate) fn drop_one(&mut self, id: u64) {
        let found = self.deferred.iter().position(|d| d.message.id == id);
        if let Some(gone) = found.and_then(|at| self.deferred.remove(at)) {
            self.deferred_retained.remove(&id);
            self.deferred_bytes -= gone.message.bytes() as u64;
        }
    }

    fn push(&mut self, delivery: Delivery) {
        self.deferred_bytes += delivery.message.bytes() as u64;
        if delivery.message.retain {
            let acknowledged = delivery.qos > QoS::AtMostOnce;
            self.deferred_retained.insert(delivery.message.id, (self.begun, acknowledged));
        }
        self.deferred.push_back(delivery);
    }

    /// Bytes of what is kept back.
    pub(crate) fn deferred_bytes(&self) -> u64 {
        self.deferred_bytes
    }

    /// Whether this very message waits to be delivered live, and came after the
    /// subscription of the replay: then it is no retained message to it.
    ///
    /// Both copies are acknowledged, or neither: of a queue that is written, one
    /// at QoS 0 leaves no trace, and must not decide over one that does.
    pub(crate) fn defers(&self, message: &Arc<Message>, serial: u64, qos: QoS) -> bool {
        self.deferred_retained.get(&message.id).is_some_and(|&(begun, acknowledged)| {
            begun >= serial && acknowledged == (qos > QoS::AtMostOnce)
        })
    }

    /// What was kept back, to go on its way now.
    pub(crate) fn take_deferred(&mut self) -> VecDeque<Delivery> {
        self.deferred_bytes = 0;
        self.deferred_retained.clear();
        std::mem::take(&mut self.deferred)
    }
}
