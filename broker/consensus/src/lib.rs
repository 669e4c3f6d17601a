//! Raft groups of a node: many of them, over one log, with one timer.
//!
//! A node has a group for the cluster's own state ([`META`]) and one for each
//! partition of which it keeps a replica. All write to the node's one log; each
//! has a [`StateMachine`] to which it hands what is committed, in order, and a
//! snapshot in a file. What nodes say to each other goes out by a [`Transport`]
//! and comes in by [`Groups::handle`], in the encodings of `tidegate-peer`.
//!
//! ```text
//! propose -> group's leader -> log, Append to the others -> commit -> apply, on each replica
//! timer -> heartbeats of all groups -> one message a peer
//! ```
//!
//! The consensus itself is openraft's, of which nothing is to be seen outside
//! (why, and what it costs: `docs/decisions/0020-openraft-behind-a-trait.md`).
//! What this crate adds is what openraft leaves to its user, and what it does
//! in a way that would hurt:
//!
//! - Nothing acknowledges an entry that is not durable, also not when a group is
//!   opened again while the log still writes ([`Groups::reopen`]).
//! - A snapshot is in force only when it is durable, as is what the log cut
//!   before it; one that cannot be written leaves the group as it was.
//! - Voters change only while those who stay are near the end of the log, and
//!   leadership is handed over only to one that has all of it.
//! - Nothing is read under a leader's lease: [`Groups::read_index`] asks a quorum.

mod body;
mod campaign;
mod change;
mod group;
mod groups;
mod heard;
mod heartbeat;
mod inbox;
pub mod limits;
mod log_id;
mod machine;
mod network;
mod propose;
mod raft_types;
mod receive;
mod snapshot;
mod status;
mod timers;
mod transport;
mod wire;

pub use body::{Body, Entries, Put, SnapshotSource};
pub use change::{ChangeError, TransferError};
pub use group::OpenError;
pub use groups::Groups;
pub use log_id::{GroupId, LogId, META};
pub use machine::StateMachine;
pub use propose::{ProposeError, ReadError};
pub use snapshot::{SnapshotError, begin_with, begin_without};
pub use status::{GroupStatus, Role};
pub use timers::Timers;
pub use transport::{CallKind, Transport, TransportError};
