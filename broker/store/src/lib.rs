//! The write-ahead log of a node: bytes on disk, and nothing of MQTT.
//!
//! One log serves all partitions of a node. Shards fill [`Batch`]es of records;
//! the store thread hands what arrived to [`Log::append`], which writes one
//! commit group, and to [`Log::sync`], which makes it durable. A [`Position`]
//! is the offset of a byte since the log began, so one number says what is
//! durable, what is committed and where a message body lies.
//!
//! What a crash may leave behind is settled by two rules. Each commit group
//! carries the position that was durable before it: damage below a position so
//! proven, or in any segment but the last, is corruption and refused, never
//! repaired. Only what nothing proves is cut. And an error of sync is the end:
//! the log refuses everything after it, since the kernel may have thrown away
//! what it could not write and would report success the next time.
//!
//! The bytes are in `format` of each type ([`segment`], [`group`], [`record`],
//! [`manifest`]); `golden/` holds a file of each, read by the tests. Why it is
//! like this: `docs/decisions/0018-one-log-a-node.md`.

pub mod backup;
mod batch;
pub mod disk;
pub mod group;
pub mod identity;
pub mod limits;
mod log;
pub mod manifest;
mod membership;
mod position;
#[cfg(any(test, feature = "raft"))]
pub mod raft;
mod reader;
pub mod record;
mod scan;
pub mod segment;
mod walk;

pub use batch::Batch;
pub use disk::{Disk, DiskFile, FileDisk, SimDisk, Space};
pub use identity::{Identity, IdentityError, IdentityFile, Peer};
pub use log::{
    AppendError, Appended, Counters, Cut, Fatal, Inspection, Log, ManifestError, OpenError,
    Options, Recovered, RemoveError, Removed, SegmentInfo,
};
pub use manifest::{Manifest, PartitionPoint};
pub use membership::{Membership, VOTE_COMMITTED, push_sole_voter, push_sole_voter_behind};
pub use position::Position;
pub use reader::{Damage, Pin, ReadError, Reader};
pub use record::{Kind, Record, RecordRef};
pub use scan::Scan;
