//! Retained messages on their way to a session, and what must not overtake them.
//!
//! A replay travels between the session's owner and the shards that hold the
//! messages, one batch at a time. A session has a few of them on their way;
//! the others wait here, each filter once, so that neither a SUBSCRIBE to a
//! thousand filters nor the same SUBSCRIBE a thousand times makes more arrive
//! at once than the session's queue takes, or more wait than it has
//! subscriptions.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use crate::limits::{Limits, REPLAYS_MAX};
use crate::mail::Replay;
use crate::message::Message;

/// The replays of one session.
#[derive(Debug, Default)]
pub(crate) struct Catchup {
    /// On their way.
    running: usize,
    waiting: BTreeMap<Arc<str>, Box<Replay>>,
    /// Retained publishes that were delivered live meanwhile, by the hash of
    /// their topic. An older value that is still on its way is dropped.
    fresh: BTreeMap<u64, (u64, Weak<Message>)>,
    /// Counts them, and the replays that begin.
    seen: u64,
    /// The topics of `fresh`, the first seen in front.
    order: VecDeque<u64>,
}

/// Topics remembered in [`Catchup::fresh`]; the oldest is forgotten.
const FRESH_MAX: usize = 4_096;

impl Catchup {
    /// Whether retained messages may still come.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty()
    }

    /// A subscription asks for what is retained.
    pub(crate) fn add(&mut self, mut replay: Replay) {
        self.seen += 1;
        replay.since = self.seen;
        self.waiting.insert(Arc::clone(&replay.filter), Box::new(replay));
    }

    /// The subscription is gone: nothing more for it [MQTT-3.10.4-2].
    pub(crate) fn forget(&mut self, filter: &str) {
        self.waiting.remove(filter);
        self.calm();
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
    /// has asked for again begins anew instead.
    pub(crate) fn back(&mut self, replay: Box<Replay>, more: bool) {
        self.running = self.running.saturating_sub(1);
        if more {
            let newer = self.waiting.get(&replay.filter).is_some_and(|w| w.since > replay.since);
            if !newer {
                self.waiting.insert(Arc::clone(&replay.filter), replay);
            }
        }
        self.calm();
    }

    /// A retained publish on this topic was delivered live.
    pub(crate) fn saw(&mut self, topic: u64, message: &Arc<Message>) {
        self.seen += 1;
        if self.fresh.insert(topic, (self.seen, Arc::downgrade(message))).is_some() {
            return;
        }
        self.order.push_back(topic);
        if self.order.len() > FRESH_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.fresh.remove(&oldest);
        }
    }

    /// Whether a retained message of a replay is older than what was delivered
    /// live since the replay began.
    pub(crate) fn is_stale(&self, topic: u64, message: &Arc<Message>, since: u64) -> bool {
        self.fresh
            .get(&topic)
            .is_some_and(|(seen, newest)| *seen > since && newest.as_ptr() != Arc::as_ptr(message))
    }

    fn calm(&mut self) {
        if !self.is_on() {
            self.fresh = BTreeMap::new();
            self.order = VecDeque::new();
        }
    }
}
