//! The metrics of what the kernel tells without eBPF.
//!
//! What could not be read is absent; `tidegate_collector_up` says so.

use std::fmt;

use tidegate_system::inet_diag::State;

use super::exposition::Families;
use super::metric;
use crate::system::sampler::{Conntrack, Queue, Snapshot, Sockets, Tcp};

/// Writes a sample; `listeners` and `shards` are the labels.
pub(super) fn write(
    snapshot: &Snapshot,
    listeners: &[(String, &'static str)],
    shards: &[String],
    families: &mut Families<'_>,
) -> fmt::Result {
    if let Ok(told) = &snapshot.sockets {
        sockets(told, listeners, shards, families)?;
    }
    if let Ok(told) = &snapshot.tcp {
        tcp(told, families)?;
    }
    if let Ok(told) = &snapshot.conntrack {
        conntrack(told, families)?;
    }
    families.family(&metric::PREFLIGHT_CHECK, |series| {
        let mut each = snapshot.checks.iter();
        each.try_for_each(|check| series.add(&[check.id, check.outcome.label()], 1u64))
    })
}

fn sockets(
    told: &Sockets,
    listeners: &[(String, &'static str)],
    shards: &[String],
    families: &mut Families<'_>,
) -> fmt::Result {
    let queues: [(_, fn(&Queue) -> u32); 2] = [
        (&metric::SHARD_ACCEPT_QUEUE, |queue| queue.length),
        (&metric::SHARD_ACCEPT_QUEUE_LIMIT, |queue| queue.limit),
    ];
    for (metric, value) in queues {
        families.family(metric, |series| {
            told.queues.iter().try_for_each(|queue| {
                let (name, _) = &listeners[queue.listener];
                series.add(&[name, &shards[queue.shard]], u64::from(value(queue)))
            })
        })?;
    }
    families.family(&metric::TCP_SOCKETS, |series| {
        let known = State::ALL.iter().zip(told.states).filter_map(|(s, n)| Some((s, n?)));
        known.map(|(state, n)| series.add(&[state.label()], n)).collect()
    })
}

fn tcp(told: &Tcp, families: &mut Families<'_>) -> fmt::Result {
    families.optional(&metric::TCP_LISTEN_OVERFLOWS, told.listen_overflows)?;
    families.optional(&metric::TCP_LISTEN_DROPS, told.listen_drops)?;
    families.optional(&metric::TCP_NODE_RETRANSMITS, told.retransmits)?;
    families.optional(&metric::TCP_NODE_RESETS_SENT, told.resets_sent)?;
    families.optional(&metric::TCP_MEMORY_PAGES, told.memory_pages)?;
    families.optional(&metric::TCP_MEMORY_LIMIT_PAGES, told.memory_limit_pages)
}

fn conntrack(told: &Conntrack, families: &mut Families<'_>) -> fmt::Result {
    families.single(&metric::CONNTRACK_ENTRIES, told.entries)?;
    families.single(&metric::CONNTRACK_ENTRIES_LIMIT, told.limit)?;
    families.optional(&metric::CONNTRACK_FILL, told.fill())?;
    families.optional(&metric::CONNTRACK_PREDICTED_FILL, told.predicted_fill())?;
    let Some(operations) = told.operations else { return Ok(()) };
    families.family(&metric::CONNTRACK_OPERATIONS, |series| {
        operations.counted().map(|(name, n)| series.add(&[name], n)).collect()
    })
}
