//! Every bound of the crate, in one place, with what happens there.

use std::time::Duration;

/// The largest payload: an Append with it and its head has to fit a message.
/// Beyond: `ProposeError::TooLarge`.
pub const PAYLOAD_BYTES_MAX: usize = (16 << 20) - (64 << 10);
/// Proposals of a group that are not answered yet. Beyond: `ProposeError::Busy`.
pub const PROPOSALS_MAX: usize = 4_096;
/// Their bytes. Beyond: `ProposeError::Busy`.
pub const PROPOSAL_BYTES_MAX: usize = 64 << 20;
/// Appends of a group that have come in and are not answered. Beyond: refused
/// as busy, and sent again by the leader.
pub const APPENDS_MAX: usize = 256;
/// Appends to one follower of one group that wait for their answer; the next
/// one is not read from the log before.
pub const PIPELINE: usize = 8;
/// How long an Append may take before it is given up and sent again.
pub const APPEND_TIME_MAX: Duration = Duration::from_secs(2);
/// How long heartbeats wait for those of other groups to the same node.
pub const COALESCE: Duration = Duration::from_millis(2);
/// How long the groups of a node may take for their answers to heartbeats;
/// who has none by then is left out.
pub const BEAT_TIME_MAX: Duration = Duration::from_millis(100);
/// Bytes of a snapshot. Beyond: not taken from a peer, not written.
pub const SNAPSHOT_BYTES_MAX: u64 = 8 << 30;
/// Bytes of a snapshot in one message.
pub const CHUNK_BYTES: usize = 256 << 10;
/// Bytes of a body that are read or written at once.
pub const PIECE_BYTES: usize = 4 * CHUNK_BYTES;
/// Bytes of the name under which a transfer is resumed. Beyond: refused.
pub const SNAPSHOT_NAME_BYTES_MAX: usize = 64;
/// Members of a group, learners and both sets of a joint membership counted.
/// Beyond: a snapshot with more is refused, and so is the change.
pub const MEMBERS_MAX: usize = 64;
/// How long a chunk may take. Beyond: the transfer is begun again, from where
/// the receiver is.
pub const CHUNK_TIME_MAX: Duration = Duration::from_secs(10);
/// How long an install may take, from the last chunk on.
pub const INSTALL_TIME_MAX: Duration = Duration::from_secs(120);
/// How long the successor may take to get the last entry before a handover is
/// given up, with nothing lost: openraft would otherwise stop until an election.
pub const TRANSFER_WAIT_MAX: Duration = Duration::from_millis(50);
/// How long a handover may take, once it was triggered.
pub const TRANSFER_TIME_MAX: Duration = Duration::from_secs(3);
/// Entries by which a voter may lag behind when voters change.
pub const LAG_MAX: u64 = 1_024;
/// How long a snapshot may take until it is known to be there.
pub const SNAPSHOT_TIME_MAX: Duration = Duration::from_secs(120);
/// Between the turns of voters that ask for an election since the connection
/// with their leader was closed.
pub const CAMPAIGN_TURN: Duration = Duration::from_millis(50);
