//! The metrics of what the kernel tells without eBPF.
//!
//! What could not be read is absent; `tidegate_collector_up` says so.

use std::fmt;

use tidegate_system::inet_diag::State;

use super::exposition::Families;
use super::metric;
use crate::system::sampler::{Conntrack, Queue, Snapshot, Sockets, Tcp};

/// Writes a sample; `listeners` and `shards` are the labels, `tables` the bytes of the
/// shards' tables of connections.
pub(super) fn write(
    snapshot: &Snapshot,
    listeners: &[(String, &'static str)],
    shards: &[String],
    tables: u64,
    families: &mut Families<'_>,
) -> fmt::Result {
    families.family(&metric::CONNECTION_MEMORY, |series| {
        series.add(&["tables"], tables)?;
        let Some(buffers) = snapshot.sockets.as_ref().ok().and_then(|told| told.memory) else {
            return Ok(());
        };
        series.add(&["kernel_rmem"], buffers.receive)?;
        series.add(&["kernel_wmem"], buffers.send)
    })?;
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
    let labels = |queue: &Queue| [listeners[queue.listener].0.as_str(), &shards[queue.shard]];
    families.family(&metric::SHARD_ACCEPT_QUEUE, |series| {
        let mut each = told.queues.iter();
        each.try_for_each(|queue| series.add(&labels(queue), u64::from(queue.length)))
    })?;
    families.family(&metric::SHARD_ACCEPT_QUEUE_LIMIT, |series| {
        let mut each = told.queues.iter();
        each.try_for_each(|queue| series.add(&labels(queue), u64::from(queue.limit)))
    })?;
    families.family(&metric::TCP_SOCKETS, |series| {
        let mut known = State::ALL.iter().zip(told.states).filter_map(|(s, n)| Some((s, n?)));
        known.try_for_each(|(state, n)| series.add(&[state.label()], n))
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
        operations.counted().try_for_each(|(name, n)| series.add(&[name], n))
    })
}
