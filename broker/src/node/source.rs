//! What telemetry sees of the shards.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_cluster::lease::Hold;
use tidegate_core::counters::{Count, Counters};

use crate::auth::HashCounters;
use crate::cluster::{Replica, View};
use crate::shard::Shared;
use crate::shard::clock::Reading;
use crate::shard::mailbox::Order;
use crate::steering::Status;
use crate::system::sampler::Snapshot;
use crate::telemetry::histogram::{ConnectTimings, Timings};
use crate::telemetry::source::{
    ClusterCounts, LayerCounts, ListenerCounts, Observed, OverloadCounts, PasswordCounts,
    ShellCounts, Source,
};
use crate::telemetry::storage::StorageCounts;

impl Source for Shared {
    fn counters(&self) -> &[Counters] {
        &self.node.counters
    }

    fn config_digest(&self) -> u32 {
        self.config_digest.load(Relaxed)
    }

    fn shell(&self, shard: usize) -> ShellCounts {
        let meters = &self.meters[shard];
        ShellCounts {
            bytes_received: meters.bytes_received.value(),
            bytes_sent: meters.bytes_sent.value(),
            receives: meters.receives.value(),
            sends: meters.sends.value(),
            accept_halts: meters.accept_halts.value(),
            mailbox_full: meters.mailbox_full.value(),
            mailbox_depth: Some(self.mailboxes[shard].depth() as u64),
            table_bytes: meters.table_bytes.value(),
            wakes: meters.wakes.value(),
            sleeps: meters.sleeps.value(),
        }
    }

    fn listener(&self, shard: usize, listener: usize) -> Option<ListenerCounts> {
        let meters = self.meters[shard].listeners.get(listener)?;
        Some(ListenerCounts {
            connections: meters.connections.value(),
            accepted: meters.accepted.value(),
        })
    }

    fn timings(&self, shard: usize) -> &Timings {
        &self.meters[shard].timings
    }

    fn connect_timings(&self, shard: usize, listener: usize) -> Option<&ConnectTimings> {
        Some(&self.meters[shard].listeners.get(listener)?.connect)
    }

    fn layers(&self) -> Vec<LayerCounts> {
        self.doors.iter().map(|door| door.counts()).collect()
    }

    fn passwords(&self) -> Option<PasswordCounts> {
        let counters = self.doorman.counters();
        let HashCounters { waiting, refused, expired, right, wrong, hashing_nanos } = counters;
        self.doorman.has_passwords().then(|| PasswordCounts {
            results: [right, wrong, refused, expired].map(|count| count.load(Relaxed)),
            waiting: waiting.load(Relaxed),
            nanos: hashing_nanos.load(Relaxed),
        })
    }

    fn overload(&self) -> Option<OverloadCounts> {
        let memory = self.memory.value();
        Some(OverloadCounts {
            stage: self.node.pressure() as u64,
            memory_used: memory.used,
            memory_limit: memory.limit,
        })
    }

    fn membership(&self) -> Option<(Arc<View>, Hold)> {
        let cluster = self.cluster.as_ref()?;
        Some((cluster.view(), cluster.hold(Reading::take().millis())))
    }

    fn replicas(&self) -> Arc<Vec<Replica>> {
        self.cluster.as_ref().map(|cluster| cluster.replicas()).unwrap_or_default()
    }

    fn peers(&self) -> Option<ClusterCounts<'_>> {
        let (cluster, outlet) = (self.cluster.as_ref()?, self.outlet.as_ref()?);
        Some(ClusterCounts {
            cut_offs: cluster.cut_offs(),
            acks: &outlet.timings.ack,
            traffic: cluster.traffic(),
            known: cluster.known(),
        })
    }

    fn storage(&self) -> Option<StorageCounts<'_>> {
        let store = self.store.as_ref()?;
        let meters = &store.meters;
        let [records, _bytes, micros] = &meters.recovery;
        Some(StorageCounts {
            volume: meters.volume.each_ref().map(Count::value),
            stage: self.node.room() as u64,
            operations: [&meters.appends, &meters.syncs, &meters.reads].map(Count::value),
            read_bytes: meters.read_bytes.value(),
            checkpoints: meters.checkpoints.value(),
            written_bytes: meters.written_bytes.value(),
            append_errors: meters.append_errors.value(),
            records: meters.records.value(),
            record_bytes: meters.record_bytes.value(),
            segments: meters.segments.value(),
            log_bytes: meters.bytes.value(),
            live_bytes: Some(meters.live_bytes.value()).filter(|_| meters.checkpoints.value() > 0),
            recovery: [records.value(), micros.value()],
            waiting_bytes: self.meters.iter().map(|shard| shard.journal_bytes.value()).sum(),
            timings: &meters.timings,
        })
    }

    fn steering(&self) -> Option<Status> {
        Some(self.steer.status())
    }

    fn observed(&self) -> Option<Observed> {
        Some(Observed {
            connections: self.observers.connections(self.doors.len()).unwrap_or_default(),
            resets: self.observers.has_resets(),
            tracking: self.observers.tracking(),
            objects: self.observers.programs().into(),
        })
    }

    fn system(&self) -> Option<Arc<Snapshot>> {
        let connections = self.node.counters.iter().map(|counters| counters.connections.value());
        Some(self.system.as_ref()?.sample(connections.sum()))
    }

    fn ping(&self) {
        for mailbox in &self.mailboxes {
            // A shard whose queue of orders is full has cause enough to move,
            // or it is stuck.
            let _ = mailbox.order(Order::Ping);
        }
    }
}
