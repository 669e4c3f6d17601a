//! Every bound of the protocol, in one place.
//!
//! They are part of it: both sides hold to them, and `docs/protocol.md` lists
//! them. What happens at each bound is named beside it.

use std::time::Duration;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 16;
/// Body bytes of one frame; longer messages are split. Beyond: `TooLarge`.
pub const FRAME_BODY_BYTES_MAX: usize = 64 << 10;
/// Body bytes of one message, however many frames it takes. Beyond: `TooLarge`.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Body bytes of a frame before the handshake has ended. Beyond: `TooLarge`.
pub const HANDSHAKE_BODY_BYTES_MAX: usize = 4 << 10;
/// From the first byte to the end of the handshake. Beyond: `HandshakeTimeout`.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);

/// Messages of a connection and direction that are partly through. A sender
/// begins no further one; at a receiver: `TooManyPartials`.
pub const PARTIALS_MAX: usize = 16;
/// Bytes which those messages have together when complete. As above.
pub const PARTIAL_BYTES_MAX: usize = 64 << 20;

/// Lanes that a side keeps account of, by default. Beyond: `TooManyLanes`.
pub const LANES_MAX: u16 = 2_048;
/// Least of the lanes that a Hello may offer.
pub const LANES_MIN: u16 = 16;
/// Credit of a lane before the first grant, by default.
pub const LANE_CREDIT_BYTES: u32 = 1 << 20;
/// Least credit of a lane that a Hello may offer.
pub const LANE_CREDIT_BYTES_MIN: u32 = 64 << 10;
/// Credit of all lanes of a connection together, by default: with one message
/// more, what can wait at a receiver, however many lanes there are.
pub const LINK_CREDIT_BYTES: u32 = 32 << 20;
/// Least of it that a Hello may offer.
pub const LINK_CREDIT_BYTES_MIN: u32 = 1 << 20;
/// Grants in one Credit frame; more take further frames.
pub const GRANTS_MAX: usize = 1_024;

/// Bytes that wait to be sent on one lane, unless a single message has more.
/// Beyond: the caller is told `Full` and stops its source.
pub const LANE_QUEUE_BYTES_MAX: usize = 4 << 20;
/// Bytes that wait on all lanes of a connection. Beyond: `Full`.
pub const LINK_QUEUE_BYTES_MAX: usize = 64 << 20;
/// Bytes that wait on lane 0, which has no credit. Beyond: the peer does not
/// read, and the connection is ended as `Overloaded`.
pub const URGENT_QUEUE_BYTES_MAX: usize = 1 << 20;

/// Data connections of a pair of nodes.
pub const STRIPES_MAX: u8 = 16;
/// Bytes of a cluster's name.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes of an advertised address.
pub const ADDRESS_BYTES_MAX: usize = 255;
/// Bytes of the text of a Goodbye; longer ones are cut.
pub const DETAIL_BYTES_MAX: usize = 256;
/// Least bytes of a shared secret. Shorter: refused when it is made.
pub const SECRET_BYTES_MIN: usize = 16;
/// Nonces of past handshakes that are remembered; the oldest go first.
pub const NONCES_MAX: usize = 4_096;
/// Nodes whose incarnation is remembered; further ones are not held against it.
pub const ACQUAINTANCES_MAX: usize = 4_096;

/// Entries of one Append.
pub const ENTRIES_MAX: usize = 1_024;
/// Groups in one Heartbeats.
pub const GROUPS_MAX: usize = 512;
/// Receivers of one Deliver.
pub const RECEIVERS_MAX: usize = 1_024;
/// Subscription identifiers in the table of one Deliver.
pub const SUBSCRIPTION_IDS_MAX: usize = 4_096;
/// Acknowledgements in one Ack.
pub const ACKS_MAX: usize = 2_048;

/// Bytes of a message in protobuf's encoding.
pub const PROTO_BYTES_MAX: usize = 2 << 20;
/// Fields of such a message, each element of a repeated one counted: two bytes
/// on the wire may be a hundred in memory. Counted before it is decoded.
pub const PROTO_FIELDS_MAX: usize = 16_384;
/// Bytes of a snapshot in one chunk; a quarter would do, more gains nothing.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 1 << 20;
