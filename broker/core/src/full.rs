//! Which queues take no more, and how much waits in all of them.
//!
//! Partitions say which sessions are full; publishers are held against it when
//! the policy is to refuse. How much waits in the whole node is summed up from
//! what the shards count, by each shard for itself.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;
use hashbrown::HashSet;

use crate::counters::{Counters, DropReason};
use crate::ids::{Millis, PARTITIONS, PartitionId, ShardId};
use crate::index::Targets;
use crate::limits::{Limits, QUEUE_SLACK, QUEUED_LOOKS, QueuePolicy};
use crate::node::Node;
use crate::outgoing::Outgoing;

/// Sessions by node-wide slot and generation.
type Sessions = HashSet<(u32, u32), FixedState>;

/// The sessions of this node whose queues are full, while publishers are to be
/// refused for them. At most as many as there are sessions.
#[derive(Debug)]
pub(crate) struct FullQueues {
    /// The partitions that have any, a bit each.
    partitions: AtomicU64,
    /// By partition.
    of: Box<[Mutex<Sessions>]>,
}

impl Default for FullQueues {
    fn default() -> FullQueues {
        let of = (0..PARTITIONS).map(|_| Mutex::default()).collect();
        FullQueues { partitions: AtomicU64::new(0), of }
    }
}

impl FullQueues {
    /// Says whether the queue of a session is full. Only who leads the partition
    /// may call it.
    pub(crate) fn set(&self, partition: PartitionId, slot: u32, generation: u32, full: bool) {
        if !full && self.partitions.load(Relaxed) & partition.bit() == 0 {
            return;
        }
        let mut set = self.of(partition);
        let key = (partition.session_slot(slot), generation);
        match full {
            true => set.insert(key),
            false => set.remove(&key),
        };
        self.note(partition, !set.is_empty());
    }

    /// The partition is led elsewhere.
    pub(crate) fn clear(&self, partition: PartitionId) {
        let mut set = self.of(partition);
        set.clear();
        self.note(partition, false);
    }

    /// Whether one of these takes no more of QoS 1 or 2. `own`: the publisher's
    /// session, which gets nothing of its own where it does not want it.
    pub(crate) fn any_of(&self, targets: &Targets, own: Option<(u32, u32)>) -> bool {
        let partitions = self.partitions.load(Relaxed);
        let mut at = 0;
        while let Some(first) = targets.get(at) {
            let (partition, _) = PartitionId::split(first.slot);
            let end = targets.end_of(partition);
            if partitions & partition.bit() != 0 {
                let set = self.of(partition);
                let run = targets.iter_from(at).take(end - at);
                let mut wanting = run.filter(|target| {
                    let is_own = own == Some((target.slot, target.generation));
                    target.options.qos() > 0 && !(is_own && target.options.no_local())
                });
                if wanting.any(|target| set.contains(&(target.slot, target.generation))) {
                    return true;
                }
            }
            at = end;
        }
        false
    }

    fn of(&self, partition: PartitionId) -> MutexGuard<'_, Sessions> {
        let set = &self.of[usize::from(partition.0) % self.of.len()];
        set.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The set is held meanwhile.
    fn note(&self, partition: PartitionId, any: bool) {
        match any {
            true => self.partitions.fetch_or(partition.bit(), Relaxed),
            false => self.partitions.fetch_and(!partition.bit(), Relaxed),
        };
    }
}

/// What waits at the other shards, as one shard has seen it last.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Elsewhere {
    at: AtomicU64,
    looks: AtomicU32,
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// What a queue may take now.
#[derive(Debug)]
pub(crate) struct QueueRoom<'a> {
    pub(crate) limits: Cow<'a, Limits>,
    /// Why something gives way.
    pub(crate) reason: DropReason,
}

impl Node {
    /// Whether so much waits in all queues that none may become longer: over the
    /// limits and `eighths` of them. Exact for what waits at this shard; of
    /// the others as it was a moment ago.
    pub(crate) fn is_crowded(&self, shard: ShardId, now: Millis, eighths: u64) -> bool {
        let own = shard.index();
        let (Some(seen), Some(counters)) = (self.elsewhere.get(own), self.counters.get(own)) else {
            return false;
        };
        let looks = seen.looks.load(Relaxed);
        if looks == 0 || seen.at.load(Relaxed) != now {
            let others = || self.counters.iter().enumerate().filter(|(shard, _)| *shard != own);
            let sum = |of: fn(&Counters) -> u64| -> u64 {
                others().map(|(_, counters)| of(counters)).fold(0, u64::saturating_add)
            };
            seen.messages.store(sum(|counters| counters.queued_messages.value()), Relaxed);
            seen.bytes.store(sum(|counters| counters.queued_bytes.value()), Relaxed);
            seen.at.store(now, Relaxed);
            seen.looks.store(QUEUED_LOOKS, Relaxed);
        } else {
            seen.looks.store(looks - 1, Relaxed);
        }
        let limits = &self.settings.limits;
        let over = |waits: u64, max: u64| waits >= max.saturating_add(max / 8 * eighths);
        let messages = counters.queued_messages.value().saturating_add(seen.messages.load(Relaxed));
        let bytes = counters.queued_bytes.value().saturating_add(seen.bytes.load(Relaxed));
        over(messages, limits.queue_node_messages_max) || over(bytes, limits.queue_node_bytes_max)
    }

    /// What the queue of a durable session may take. `at_once`: what comes leaves
    /// at once, and waits for nothing.
    pub(crate) fn queue_room(
        &self,
        shard: ShardId,
        now: Millis,
        queue: &Outgoing,
        at_once: bool,
    ) -> QueueRoom<'_> {
        let limits = &self.settings.limits;
        let mut limits = Cow::Borrowed(limits);
        let refuses = limits.queue_policy == QueuePolicy::Refuse;
        if refuses {
            let limits = limits.to_mut();
            limits.queue_messages_max = limits.queue_messages_max.saturating_mul(QUEUE_SLACK);
            limits.queue_bytes_max = limits.queue_bytes_max.saturating_mul(QUEUE_SLACK.into());
        }
        if !at_once && self.is_crowded(shard, now, refuses.into()) {
            let limits = Cow::Owned(queue.squeezed(&limits));
            return QueueRoom { limits, reason: DropReason::QueueNodeFull };
        }
        QueueRoom { limits, reason: DropReason::QueueFull }
    }
}
