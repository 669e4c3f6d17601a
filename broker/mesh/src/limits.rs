//! The bounds of the mesh, beside those of the protocol (`tidegate_peer::limits`).

use std::time::Duration;

/// Peers that are called, and sessions at a time. Beyond: left out, and
/// refused as `overloaded`.
pub const PEERS_MAX: usize = 256;
/// Handshakes at a time of callers. Beyond: hung up on.
pub const HANDSHAKES_MAX: usize = 256;
/// The same, of one address.
pub const HANDSHAKES_PER_SOURCE_MAX: usize = 32;
/// Connections of session 0 at a time. Beyond: refused as `overloaded`.
pub const GUESTS_MAX: usize = 32;
/// The longest that one of those may last. Beyond: ended as `finished`.
pub const GUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// From the control connection to the last of a session. Beyond: it is given up.
pub const GATHER_TIME_MAX: Duration = Duration::from_secs(5);
/// Calls to one peer that wait for their answers. Beyond: `CallError::Full`.
pub const CALLS_MAX: usize = 4_096;
/// Calls of one connection that are dealt with at a time. Beyond: answered `busy`.
pub const CALLS_HANDLED_MAX: usize = 1_024;
/// The longest that a call is dealt with, whatever its caller says.
pub const CALL_TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes that wait on one class of mail before `SendError::Full`.
pub const CLASS_QUEUE_BYTES: usize = 1 << 20;
/// Bytes that are taken from the lanes at a time: what a heartbeat may have to
/// wait for, besides what is in the socket.
pub const WRITE_BYTES: usize = 256 << 10;
/// Room that is made for one read.
pub const READ_BYTES: usize = 64 << 10;
/// Parts of one write.
pub const WRITE_PARTS_MAX: usize = 64;
/// How long the last frames of a session may take.
pub const FAREWELL_TIME_MAX: Duration = Duration::from_millis(500);
/// How long, and how many bytes, a connection that has been refused is read
/// so that its Goodbye is not lost to a reset.
pub const LINGER_TIME_MAX: Duration = Duration::from_millis(250);
/// See there.
pub const LINGER_BYTES_MAX: usize = 1 << 20;
/// Refusals that are logged in a second; the others are counted.
pub const REFUSALS_LOGGED_PER_SECOND: u32 = 5;
/// Addresses that discovery yields. Beyond: left out.
pub const ADDRESSES_MAX: usize = 256;
/// Bytes of a file of addresses. Beyond: an error.
pub const ADDRESS_FILE_BYTES_MAX: u64 = 64 << 10;
/// Names in a peer's certificate that are looked at.
pub const CERTIFICATE_NAMES_MAX: usize = 64;
