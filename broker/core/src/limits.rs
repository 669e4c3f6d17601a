//! Every bound of a node in one place (invariant BND-1).
//!
//! A limit has a name, a unit, a default, and an outcome when it is reached;
//! the outcome is counted. The `[limits]` table of the config overrides the
//! defaults; what is not a key there is a constant here.

/// The bounds that the config can set. All are per node unless they say otherwise.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Open connections; one more is closed at once.
    pub connections_max: u32,
    /// Connections that have not completed CONNECT; one more is closed at once.
    pub half_open_max: u32,
    /// Milliseconds from accept to a complete CONNECT; then closed.
    pub connect_timeout_ms: u32,
    /// Bytes of one packet, header included; larger: 0x95 and closed.
    pub packet_bytes_max: u32,
    /// Bytes of a client id; longer: 0x85 (3.x: 0x02).
    pub client_id_bytes_max: u16,
    /// Levels of a topic or filter; deeper: 0x90 for a topic, 0x8F for a filter
    /// (3.x: as a publish that is not allowed, and 0x80). The index goes one call deep a
    /// level, so the config takes at most 1,000.
    pub topic_levels_max: u16,
    /// Subscriptions a session; one more is refused with 0x97 (3.x: 0x80), and
    /// so are the filters of one SUBSCRIBE beyond this number and beyond 1,000, whatever they are.
    pub subscriptions_max: u32,
    /// QoS 1 and 2 messages waiting for one session; the policy decides beyond.
    /// QoS 0 messages waiting for its socket have a budget of the same size of
    /// their own, and so has what is kept back while its replays run.
    pub queue_messages_max: u32,
    /// Bytes waiting for one session, with the same three budgets; the policy
    /// decides beyond.
    pub queue_bytes_max: u64,
    /// What gives way when a session's queue is full, or those of the node are.
    pub queue_policy: QueuePolicy,
    /// QoS 1 and 2 messages waiting for all sessions of the node whose queues it
    /// keeps; the policy decides beyond. What may leave at once is not held
    /// against it.
    pub queue_node_messages_max: u64,
    /// Bytes of them; as above.
    pub queue_node_bytes_max: u64,
    /// Unacknowledged QoS 1 and 2 PUBLISHes out, a session (and never above the
    /// client's Receive Maximum); further ones wait in the queue.
    pub inflight_out_max: u16,
    /// Unreleased QoS 1 and 2 PUBLISHes in, a connection: Receive Maximum to
    /// 5.0 clients (beyond: 0x93); before 5.0 the socket is not read.
    pub inflight_in_max: u16,
    /// Bytes encoded for one socket and not yet taken by it; further messages
    /// wait in the session's queue. From half of it on the socket is not read:
    /// what it sends would have to be answered.
    pub write_buffer_bytes_max: u32,
    /// Retained messages; a further one reaches its subscribers and is not kept
    /// (counted; at QoS 1 and 2 a 5.0 publisher is told 0x97). One that is there
    /// can always be replaced, within the bytes.
    pub retained_messages_max: u64,
    /// Bytes of retained messages; as above, and a larger replacement counts by
    /// what it adds (refused, it leaves the old one).
    pub retained_bytes_max: u64,
    /// Bits of an IPv4 source address that count together for connect rates.
    pub source_prefix_v4: u8,
    /// The same for IPv6.
    pub source_prefix_v6: u8,
    /// CONNECTs a minute with one client id; further ones wait for their turn,
    /// up to the connect timeout. 0: no limit.
    pub client_connects_per_minute: u32,
    /// Bytes of memory that the node should stay below, which the shell watches;
    /// 0: the limit of its cgroup.
    pub memory_bytes_max: u64,
    /// Durable sessions; a CONNECT for one more is refused with 0x97 (3.x: 0x03).
    pub sessions_max: u32,
    /// Seconds that a session may outlive its connection; longer wishes are cut
    /// to it and 5.0 clients are told. `u32::MAX`: for ever.
    pub session_expiry_max_seconds: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_max: 1_000_000,
            half_open_max: 10_000,
            connect_timeout_ms: 10_000,
            packet_bytes_max: 1 << 20,
            client_id_bytes_max: 1024,
            topic_levels_max: 128,
            subscriptions_max: 1_000,
            queue_messages_max: 1_000,
            queue_bytes_max: 16 << 20,
            queue_policy: QueuePolicy::DropOldest,
            queue_node_messages_max: 10_000_000,
            queue_node_bytes_max: 64 << 30,
            inflight_out_max: 128,
            inflight_in_max: 1_024,
            write_buffer_bytes_max: 1 << 20,
            retained_messages_max: 1_000_000,
            retained_bytes_max: 1 << 30,
            source_prefix_v4: 32,
            source_prefix_v6: 64,
            client_connects_per_minute: 0,
            memory_bytes_max: 0,
            sessions_max: 1_000_000,
            session_expiry_max_seconds: u32::MAX,
        }
    }
}

/// What gives way when a session's queue is full. QoS 0 messages that wait for
/// a socket never take the place of QoS 1 and 2: they have a budget of their
/// own, where the new one gives way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum QueuePolicy {
    /// The oldest message that is not in flight makes room.
    #[default]
    DropOldest,
    /// The new message is dropped.
    DropNew,
    /// The publisher is refused: 0x97, before 5.0 its connection is closed.
    /// See [`QUEUE_SLACK`] for what nobody can be refused any more.
    Refuse,
}

/// With [`QueuePolicy::Refuse`]: how many times its limits a queue of a durable
/// session takes of what was accepted before it was known to be full, of wills
/// and of what other nodes send; beyond, the new one is dropped.
pub const QUEUE_SLACK: u32 = 2;
/// Messages after which a shard looks again how much waits at the others, if
/// its clock has not moved.
pub const QUEUED_LOOKS: u32 = 32;

/// Mails a shard keeps for one other shard whose mailbox is full before it
/// stops reading the publishers concerned.
pub const OUTBOX_MAILS_MAX: usize = 8_192;
/// Bytes of messages in such an outbox before the same happens.
pub const OUTBOX_BYTES_MAX: usize = 16 << 20;
/// Mails a shard keeps for a partition that nobody leads, as far as is known,
/// before it refuses CONNECTs of it (0x89) and stops reading its clients.
pub const HOMELESS_MAILS_MAX: usize = 1_024;
/// Bytes of messages in them before the same happens.
pub const HOMELESS_BYTES_MAX: usize = 4 << 20;
/// Milliseconds after which a CONNECT, or a replay of retained messages, that
/// another node has not answered is asked for again.
pub const ASK_AGAIN_MS: u64 = 2_000;
/// Rounds in which a read may wait for a quorum to confirm its leader; then it is
/// left to be asked again.
pub const PROOF_ROUNDS_MAX: u8 = 8;
/// Milliseconds in which a client whose node, or the leader of whose partition,
/// was lost may come back before its will is due.
pub const GRACE_MS: u64 = 5_000;
/// Bytes of a partition's records that may be on their way to its replicas; from
/// then on publishers whose messages would add to them are not read.
pub const PARTITION_JOURNAL_BYTES_MAX: usize = 4 << 20;
/// Bytes of a piece of a partition's state on its way to a replica.
pub const IMAGE_PIECE_BYTES: usize = 256 << 10;
/// Batches in a shard's mailbox.
pub const MAILBOX_BATCHES_MAX: usize = 256;
/// Mails in one batch.
pub const BATCH_MAILS_MAX: usize = 512;
/// Bytes of a shard's records that may be on their way to the store; from then
/// on publishers whose messages would add to them are not read.
pub const JOURNAL_BYTES_MAX: usize = 16 << 20;
/// Messages of one queue that are fetched from the disk at once.
pub const FETCH_MAX: usize = 64;
/// Bytes of them.
pub const FETCH_BYTES_MAX: u64 = 256 << 10;
/// Topics in a shard's route cache.
pub const ROUTE_CACHE_MAX: usize = 65_536;
/// Bytes read from one socket in one turn before the next socket has its turn.
pub const TURN_READ_BYTES_MAX: usize = 256 << 10;
/// Deliveries, or retained messages looked at, in one step of a long job.
pub const STEP_ITEMS_MAX: usize = 1_024;
/// Shards a node.
pub const SHARDS_MAX: usize = 64;
/// A payload of at least this many bytes leaves by `writev` from the shared
/// buffer; a smaller one is copied.
pub const SPLICE_BYTES_MIN: usize = 1_024;
/// Replays of retained messages that are on their way to one session at once;
/// those of further subscriptions wait for them.
pub const REPLAYS_MAX: usize = 8;
/// Bytes of messages after which an answer to a new subscription ends.
pub const REPLAY_BYTES_MAX: usize = 256 << 10;
/// Filters of one SUBSCRIBE that are taken even if `subscriptions_max` is lower:
/// the same filter again needs no room.
pub const SUBSCRIBE_FILTERS_MIN: usize = 1_000;
/// Retained messages in one answer to a new subscription.
pub const REPLAY_BATCH_MAX: usize = 64;
/// Bytes in one output at which the shell should flush within the turn.
pub const PRESSED_BYTES: usize = 256 << 10;
/// Changes of a node's filters that the other nodes do not know of yet; beyond
/// it a SUBSCRIBE is refused with 0x97 (3.x: 0x80).
pub const ROUTE_CHANGES_MAX: u64 = 65_536;
/// Messages of a shard that wait for another node; from then on publishers whose
/// messages would add to them are not read, until half of it is gone.
pub const CROSSINGS_MAX: usize = 65_536;
/// Milliseconds after which a message for a partition that has not confirmed it
/// is sent again, though nobody said that a link was lost.
pub const CROSSING_RETRY_MS: u64 = 5_000;
/// Milliseconds from one look for such messages to the next.
pub const CROSSING_LOOK_MS: u64 = 1_000;
/// Such messages that are sent again at once.
pub const CROSSING_RETRIES_MAX: usize = 256;
/// Milliseconds after which the publisher of a message is acknowledged that is
/// committed, and that the leader of its partition still may not route.
pub const ERRAND_PATIENCE_MS: u64 = 2_000;
/// Messages that a partition has to see delivered; from then on publishers wait for
/// their acknowledgement until that is done, however long that takes.
pub const OUTBOX_ERRANDS_MAX: usize = 4_096;
/// Bytes of them before the same happens.
pub const OUTBOX_ERRANDS_BYTES_MAX: usize = 4 << 20;
/// Nodes that a message for a share group may go through to find a member;
/// then it is dropped, counted.
pub const SHARE_HOPS_MAX: u8 = 2;
