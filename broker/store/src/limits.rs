//! Every bound of the store in one place.

/// Records of one commit group; a batch larger than this is a group alone.
pub const GROUP_BYTES: u64 = 64 << 20;

/// The largest group, and so the largest batch. A larger one is refused with
/// [`AppendError::TooLarge`](crate::AppendError::TooLarge).
pub const GROUP_BYTES_MAX: u64 = 1 << 30;

/// The largest body of a record: MQTT's largest packet and what we add.
pub const RECORD_BODY_BYTES_MAX: usize = (256 << 20) + (1 << 20);

/// When a segment is full, unless the options say otherwise.
pub const SEGMENT_BYTES: u64 = 128 << 20;

/// The least the options may ask for. A segment begins with every partition's
/// newest vote, which has to fit many times.
pub const SEGMENT_BYTES_MIN: u64 = 4 << 10;

/// Votes and compaction points are carried from segment to segment; more
/// partitions than this (and the cluster's own group) there are not.
pub const PARTITIONS_MAX: usize = 257;

/// The largest body of a record that is carried into each new segment.
pub const CARRIED_BODY_BYTES_MAX: usize = 4 << 10;

/// The largest manifest; what the owner puts into it is small.
pub const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// What a scan reads at once, unless a group is larger.
pub const SCAN_BYTES: usize = 1 << 20;

/// What a reader reads at once in the hope that more of its positions are there.
pub const READ_AHEAD_BYTES: usize = 16 << 10;

/// What a copy (backup) reads at once.
pub const COPY_BYTES: usize = 1 << 20;

/// Peers that the identity remembers.
pub const PEERS_MAX: usize = 1024;

/// What one read of replicated entries returns before it stops.
pub const READ_ENTRIES_BYTES: usize = 1 << 20;

/// Bodies of entries that a partition keeps in memory until they are durable;
/// beyond it an append waits for its own to be.
pub const TAIL_BYTES_MAX: usize = 16 << 20;
