//! Every bound of the cluster's decisions in one place (invariant BND-1).
//!
//! Reaching one has a named outcome, which the doc comment says.

use crate::ids::Millis;

/// Nodes of a cluster, those that are down or have left included; one more is
/// refused ([`crate::meta::Refused::TooManyNodes`]).
pub const NODES_MAX: usize = 128;
/// Ids of forgotten nodes that are remembered so that they stay refused; beyond
/// it the smallest is dropped (its store id is random, so it is never drawn again).
pub const FORGOTTEN_MAX: usize = 1_024;
/// Member numbers: 10 bits of a shard's id, without 0, which is a node alone.
/// When none is free a registration is refused
/// ([`crate::meta::Refused::NoMemberNumber`]).
pub const MEMBERS_MAX: u16 = 1_023;
/// Time that a member number rests after its life, by the entries' own clock;
/// besides, all others come first.
pub const MEMBER_REST_MS: u64 = 600_000;
/// Partitions of a cluster; founding with more is refused.
pub const PARTITIONS_MAX: u16 = 256;
/// Replicas of a partition; more is refused.
pub const REPLICAS_MAX: u8 = 5;
/// Replicas a partition may have while it moves.
pub const REPLICAS_MOVING_MAX: usize = 2 * REPLICAS_MAX as usize;
/// Moves at a time in the whole cluster; one more waits.
pub const MOVES_MAX: usize = 8;
/// Bytes of a zone's name; a longer one is refused.
pub const ZONE_BYTES_MAX: usize = 63;
/// Bytes of a node's name; a longer one is refused.
pub const NODE_NAME_BYTES_MAX: usize = 64;
/// Bytes of a node's address; a longer one is refused.
pub const ADDRESS_BYTES_MAX: usize = 261;
/// Weight of a node; a larger one is refused.
pub const WEIGHT_MAX: u16 = 1_000;

/// How long a node's lease lasts, from its own sending of the request.
pub const NODE_LEASE_MS: Millis = 2_000;
/// How often a node asks for its lease again.
pub const NODE_LEASE_RENEW_MS: Millis = 400;
/// From the last grant, by the granter's clock, until the node is Down; also
/// what a new leader of the meta group waits before it says so of anybody whom
/// it reaches, or as long as it does not know what was granted before it.
pub const NODE_DOWN_MS: Millis = 2_500;
/// Time that a new leader of the meta group gives nodes to come and ask it, also
/// where no lease of an earlier leader can last any more.
pub const NODE_ASKS_MS: Millis = 1_000;
/// Until Down of the same life is proposed again.
pub const NODE_DOWN_AGAIN_MS: Millis = 1_000;
/// From the end of its lease until an isolated node closes its clients.
pub const ISOLATED_CLOSE_MS: Millis = 10_000;

/// How long a peer may trust what it knows of another's routes, as the granter
/// counts it from its reply.
pub const ROUTE_LEASE_MS: Millis = 3_000;
/// What the holder takes off, for clocks that do not run alike (3 %).
pub const ROUTE_LEASE_MARGIN_MS: Millis = 100;
/// How often a peer asks for its route lease again.
pub const ROUTE_LEASE_RENEW_MS: Millis = 500;
/// A peer that has not acknowledged an increment for so long gets no renewal.
pub const INCREMENT_ACK_MS: Millis = 1_000;
/// Increments kept for peers that have not acknowledged them; a peer further
/// behind starts anew with a snapshot.
pub const INCREMENTS_MAX: usize = 65_536;
/// Changes of routes in one batch of a stream.
pub const ROUTE_BATCH_MAX: usize = 512;
/// Changes that a batch may be decoded to: a snapshot goes over the end of one
/// partition into the next, and says where each begins and ends.
pub const ROUTE_BATCH_DECODED_MAX: usize = 2 * ROUTE_BATCH_MAX + 2;
/// Bytes of filters at which a batch ends.
pub const ROUTE_BATCH_BYTES_MAX: usize = 1 << 20;
/// Changes at a node that wait until all peers with a lease have acknowledged
/// them; a SUBSCRIBE beyond it is refused (0x97) by the shell.
pub const ROUTE_TICKETS_MAX: usize = 1 << 20;
/// Filters that one step of a walk over all that others have looks at.
pub const ROUTE_SWEEP_MAX: usize = 4_096;
/// SUBACKs that wait for the barrier; one more is refused (0x97).
pub const BARRIER_WAITING_MAX: usize = 65_536;
/// Filters of others, each counted for each authority that has it; one more is
/// refused, and the stream that brought it is not in sync until it fits.
pub const ROUTES_MAX: usize = 16_000_000;
/// Bytes of a filter (MQTT's own limit).
pub const FILTER_BYTES_MAX: usize = 65_535;

/// Time in which joins calm down before a rebalance.
pub const REBALANCE_AFTER_JOIN_MS: Millis = 60_000;
/// Time that a lost node has to come back before its replicas are rebuilt.
pub const REBUILD_AFTER_LOSS_MS: Millis = 600_000;
/// Time that a preferred leader has to be in sync before leadership returns.
pub const PREFERRED_LEADER_AFTER_MS: Millis = 10_000;
/// Time after which a node that is gone is forgotten, if nothing depends on it.
pub const FORGET_AFTER_MS: u64 = 24 * 3_600_000;
/// Time that a target of a leader transfer has to catch up; then given up.
pub const TRANSFER_CATCH_UP_MS: Millis = 50;
/// Leaderships that a node hands over at a time when it should lead them no
/// more; one more waits.
pub const TRANSFERS_PRESSING_MAX: usize = 4;
/// Between two transfers of a node that are not pressing.
pub const TRANSFER_GAP_MS: Millis = 250;
/// After a transfer that came to nothing, until the same is tried again.
pub const TRANSFER_AGAIN_MS: Millis = 200;
/// Entries that a replica may lack and count as caught up.
pub const NEAR_ENTRIES: u64 = 128;
/// From the closing of a replica that is not wanted any more until its records
/// are given back: longer than a lease, so that this node would know by then if
/// it was to get the replica again.
pub const GIVE_BACK_AFTER_MS: Millis = 5_000;
/// Time that two nodes are cut off from each other alone before one has to go.
pub const CUT_OFF_MS: Millis = 5_000;
/// Time that the links of a node that begins may take.
pub const LINKS_COME_MS: Millis = 2_000;
/// After a link was missing for longer: time that all have to last before it serves.
pub const WHOLE_AGAIN_MS: Millis = 3_000;

/// Peers that discovery may name; the rest is left out, and said so.
pub const PEERS_MAX: usize = 256;
/// A founder that proposed itself and is not seen for so long may be replaced.
pub const FOUNDER_SILENT_MS: Millis = 60_000;

/// Lanes that lead into one partition; one more is refused until a lane ends.
pub const LANES_MAX: usize = 65_536;
/// Messages of a lane under way; further ones wait at the publisher.
pub const LANE_WINDOW_MAX: usize = 1_024;
/// Messages of a partition's outbox that wait for one target; one more is
/// refused, and its publisher is not acknowledged.
pub const OUTBOX_LANE_MAX: usize = 1 << 20;
