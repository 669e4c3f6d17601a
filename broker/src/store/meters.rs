//! What is counted of the store. Written by the writer's thread, unless it says
//! otherwise; read by a scrape.

use tidegate_core::counters::Count;

use crate::telemetry::histogram::StoreTimings;

/// The counts of a node's store.
#[derive(Debug, Default)]
pub struct StoreMeters {
    /// Commit groups appended.
    pub appends: Count,
    /// Records in them.
    pub records: Count,
    /// Bytes of these.
    pub record_bytes: Count,
    /// All bytes written.
    pub written_bytes: Count,
    /// Fetches read, and their bytes; written by the reader.
    pub reads: Count,
    /// Bytes of these.
    pub read_bytes: Count,
    /// Gauge: bytes that are still needed; none known: 0.
    pub live_bytes: Count,
    /// Checkpoints that were completed.
    pub checkpoints: Count,
    /// Syncs.
    pub syncs: Count,
    /// Appends that found no room.
    pub append_errors: Count,
    /// Gauge: segments.
    pub segments: Count,
    /// Segments begun.
    pub segments_begun: Count,
    /// Gauge: bytes of the log.
    pub bytes: Count,
    /// Gauge: bytes of the volume that are used, and all that it has; written
    /// by the thread that watches it.
    pub volume: [Count; 2],
    /// Gauge: records read back at the start, their bytes, and the time it
    /// took in microseconds; written once, by the node.
    pub recovery: [Count; 3],
    /// How long things take.
    pub timings: StoreTimings,
}
