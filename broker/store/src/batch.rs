//! What a shard adds to the log in one turn.

use crate::limits::CARRIED_BODY_BYTES_MAX;
use crate::record::{self, CARRIED, Kind};

/// Encoded records, in order. A shard fills one in a turn; its buffer is kept
/// when it is cleared.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    records: u32,
    /// Where records lie that the log carries from segment to segment.
    carried: Vec<u32>,
}

impl Batch {
    /// An empty one, without a buffer yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a record whose body `body` appends, and says at which offset of the
    /// batch it lies: its position is the batch's base and this. What `body` is
    /// given holds the records before, which it must leave alone.
    ///
    /// # Panics
    ///
    /// If the body is over [`RECORD_BODY_BYTES_MAX`](crate::limits::RECORD_BODY_BYTES_MAX)
    /// (over [`CARRIED_BODY_BYTES_MAX`] for votes and compaction points), the
    /// batch over 4 GiB, or `flags` has the log's own bit: the caller's limits
    /// are smaller.
    pub fn push(
        &mut self,
        kind: Kind,
        flags: u8,
        partition: u16,
        term: u64,
        index: u64,
        body: impl FnOnce(&mut Vec<u8>),
    ) -> u32 {
        assert_eq!(flags & CARRIED, 0, "the highest flag belongs to the log");
        let at = u32::try_from(self.bytes.len()).expect("a batch stays under 4 GiB");
        record::encode(&mut self.bytes, kind, flags, partition, term, index, body);
        if kind.is_carried() {
            let len = self.bytes.len() - at as usize - record::RECORD_HEADER_BYTES;
            assert!(len <= CARRIED_BODY_BYTES_MAX, "a carried record of {len} bytes");
            self.carried.push(at);
        }
        self.records += 1;
        at
    }

    /// What will be in the log.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of records.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// Bytes of all records.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets the records and keeps the buffer.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.carried.clear();
        self.records = 0;
    }

    /// Gives back a buffer that one large turn left behind.
    pub fn shrink_to(&mut self, bytes_max: usize) {
        if self.bytes.capacity() > bytes_max {
            self.bytes.shrink_to(bytes_max);
        }
    }

    pub(crate) fn carried(&self) -> &[u32] {
        &self.carried
    }
}
