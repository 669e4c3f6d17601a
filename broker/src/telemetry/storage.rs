//! What is told of the store, where there is one.

use std::fmt;

use super::exposition::Families;
use super::histogram::{Distribution, StoreTimings};
use super::metric;

/// What the store counts.
#[derive(Debug)]
pub struct StorageCounts<'a> {
    /// Bytes of the volume that are used, and all that it has.
    pub volume: [u64; 2],
    /// What is refused for want of room: 0 to 2.
    pub stage: u64,
    /// Commit groups appended, syncs, and fetches read.
    pub operations: [u64; 3],
    /// Bytes written.
    pub written_bytes: u64,
    /// Bytes of messages read back.
    pub read_bytes: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// Appends that found no room.
    pub append_errors: u64,
    /// Records appended.
    pub records: u64,
    /// Their bytes.
    pub record_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Those of them that are still needed, where that is known.
    pub live_bytes: Option<u64>,
    /// Records that were read back at the start, and for how many microseconds.
    pub recovery: [u64; 2],
    /// By shard: bytes of records that are not durable.
    pub waiting_bytes: Vec<u64>,
    /// How long things take.
    pub timings: &'a StoreTimings,
}

/// The one volume that a node has.
const VOLUME: &str = "data";

pub(super) fn write(
    counts: &StorageCounts<'_>,
    shards: &[String],
    families: &mut Families<'_>,
) -> fmt::Result {
    let [used, capacity] = counts.volume;
    let [appends, syncs, reads] = counts.operations;
    families.family(&metric::STORAGE_USED, |series| series.add(&[VOLUME], used))?;
    families.family(&metric::STORAGE_CAPACITY, |series| series.add(&[VOLUME], capacity))?;
    families.single(&metric::STORAGE_STAGE, counts.stage)?;
    families.family(&metric::STORAGE_OPERATIONS, |series| {
        series.add(&["append"], appends)?;
        series.add(&["fsync"], syncs)?;
        series.add(&["read"], reads)
    })?;
    families.family(&metric::STORAGE_BYTES, |series| {
        series.add(&["append"], counts.written_bytes)?;
        series.add(&["read"], counts.read_bytes)
    })?;
    families
        .family(&metric::STORAGE_ERRORS, |series| series.add(&["append"], counts.append_errors))?;
    families.family(&metric::STORAGE_OPERATION_SECONDS, |series| {
        let StoreTimings { append, fsync, read, .. } = counts.timings;
        series.distribute(&["append"], &Distribution::of([append]))?;
        series.distribute(&["fsync"], &Distribution::of([fsync]))?;
        series.distribute(&["read"], &Distribution::of([read]))
    })?;
    families.family(&metric::STORE_GROUP_RECORDS, |series| {
        series.distribute(&[], &Distribution::of_numbers(&counts.timings.group_records))
    })?;
    families.single(&metric::STORE_RECORDS, counts.records)?;
    families.single(&metric::STORE_RECORD_BYTES, counts.record_bytes)?;
    families.single(&metric::STORE_SEGMENTS, counts.segments)?;
    families.single(&metric::STORE_CHECKPOINTS, counts.checkpoints)?;
    families.single(&metric::STORE_LOG_BYTES, counts.log_bytes)?;
    let live = counts.live_bytes.filter(|_| counts.log_bytes > 0);
    let ratio = live.map(|live| live as f64 / counts.log_bytes as f64);
    families.optional(&metric::STORE_LIVE, ratio)?;
    families.family(&metric::STORE_WAITING, |series| {
        let mut each = shards.iter().zip(&counts.waiting_bytes);
        each.try_for_each(|(shard, bytes)| series.add(&[shard], *bytes))
    })?;
    let [records, micros] = counts.recovery;
    families.single(&metric::STORE_RECOVERY_RECORDS, records)?;
    families.single(&metric::STORE_RECOVERY, micros as f64 / 1e6)
}
