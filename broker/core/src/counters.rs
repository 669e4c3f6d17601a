//! What a shard counts. One writer (the shard), many readers (a scrape).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number with one writer. Adding is a plain load and store, no locked
/// instruction; a reader on another thread sees a recent value.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the owning shard may call it.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Subtracts `n` (a gauge). Only the owning shard may call it.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    /// Sets a gauge. Only the owning shard may call it.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The present value.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Declares a closed set of label values with one [`Count`] each.
macro_rules! labelled {
    ($(#[$doc:meta])* $name:ident { $($variant:ident => $label:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(usize)]
        #[allow(missing_docs)]
        pub enum $name { $($variant),+ }

        impl $name {
            /// All values, in the order of their index.
            pub const ALL: &[$name] = &[$($name::$variant),+];
            /// The label's text in a metric.
            pub fn label(self) -> &'static str {
                match self { $($name::$variant => $label),+ }
            }
        }
    };
}

labelled! {
    /// Why a connection ended.
    CloseReason {
        Client => "client",
        KeepAlive => "keepalive",
        Takeover => "takeover",
        Drain => "drain",
        ProtocolError => "protocol_error",
        Auth => "auth",
        Overload => "overload",
        IoError => "io_error",
        ConnectTimeout => "connect_timeout",
        Refused => "refused",
        ProxyError => "proxy_error",
        TlsError => "tls_error",
        WebSocketError => "websocket_error",
        Moved => "moved",
    }
}

labelled! {
    /// Why a connection was refused before or at CONNECT.
    RejectReason {
        Limit => "limit",
        HalfOpen => "half_open",
        Protocol => "protocol",
        Identifier => "identifier",
        Auth => "auth",
        Sessions => "sessions",
        Draining => "draining",
        KeepAlive => "keepalive",
        TooLarge => "too_large",
        Unsupported => "unsupported",
        Rate => "rate",
        Source => "source",
        Untrusted => "untrusted",
        Blocked => "blocked",
        Busy => "busy",
        Memory => "memory",
        DiskFull => "disk_full",
        Flapping => "flapping",
    }
}

labelled! {
    /// Why a message was not delivered, or not accepted.
    DropReason {
        QueueFull => "queue_full",
        Expired => "expired",
        NoSubscriber => "no_subscriber",
        TooLarge => "too_large",
        Acl => "acl",
        Overload => "overload",
        PeerBuffer => "peer_buffer",
        SlowReader => "slow_reader",
        RetainedFull => "retained_full",
        SessionEnded => "session_ended",
        SessionOffline => "session_offline",
        DiskFull => "disk_full",
        QueueRefused => "queue_refused",
        QueueNodeFull => "queue_node_full",
    }
}

labelled! {
    /// The kind of a subscription.
    SubscriptionKind { Exact => "exact", Wildcard => "wildcard", Shared => "shared" }
}

labelled! {
    /// What became of a will.
    WillResult { Sent => "sent", Delayed => "delayed", Cancelled => "cancelled", Refused => "refused" }
}

labelled! {
    /// The way of a message: from one connection to another of the same shard,
    /// or by another shard.
    Scope { Local => "local", Remote => "remote" }
}

labelled! {
    /// How far a new connection has come.
    Stage { Connect => "connect", Connack => "connack" }
}

/// All that one shard counts. On cache lines of its own: the next shard's
/// counts lie beside it.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Packets in, by type (index 1..=15) and version (index 0: 3.1, 1: 3.1.1, 2: 5.0).
    pub packets_received: [[Count; 3]; 16],
    /// Packets out, likewise.
    pub packets_sent: [[Count; 3]; 16],
    /// PUBLISHes accepted, by QoS.
    pub messages_received: [Count; 3],
    /// PUBLISHes sent to subscribers, by the QoS of the delivery.
    pub messages_delivered: [Count; 3],
    /// Payload bytes in.
    pub message_bytes_received: Count,
    /// Payload bytes out.
    pub message_bytes_sent: Count,
    /// By [`DropReason`].
    pub messages_dropped: [Count; DropReason::ALL.len()],
    /// Connections accepted.
    pub connections_accepted: Count,
    /// By [`CloseReason`].
    pub connections_closed: [Count; CloseReason::ALL.len()],
    /// By [`RejectReason`].
    pub connections_rejected: [Count; RejectReason::ALL.len()],
    /// Gauge: open connections, half-open ones included.
    pub connections: Count,
    /// Gauge: connections that have not completed CONNECT.
    pub half_open: Count,
    /// Gauge: sessions with a connection.
    pub sessions_online: Count,
    /// Gauge: durable sessions without one.
    pub sessions_offline: Count,
    /// Gauge, by [`SubscriptionKind`].
    pub subscriptions: [Count; 3],
    /// Gauge: retained messages held by this shard.
    pub retained_messages: Count,
    /// Gauge: bytes of them.
    pub retained_bytes: Count,
    /// Gauge: messages waiting in session queues.
    pub queued_messages: Count,
    /// Gauge: bytes of them.
    pub queued_bytes: Count,
    /// Gauge: unacknowledged messages in (0) and out (1).
    pub inflight: [Count; 2],
    /// By [`WillResult`].
    pub wills: [Count; 4],
    /// Sessions taken over from a live connection on this shard (0), another of
    /// the node (1) or another node (2).
    pub takeovers: [Count; 3],
    /// Bytes of the grants to other nodes of sessions that were taken over.
    pub takeover_bytes: Count,
    /// Sessions of partitions that were handed over or given up.
    pub sessions_moved: Count,
    /// Connections told a Server Keep Alive below their own wish.
    pub keepalive_clamped: Count,
    /// Subscriptions that went because the rules no longer allow them.
    pub subscriptions_revoked: Count,
    /// CONNECTs that had to wait because their client id came too often.
    pub connects_delayed: Count,
    /// PUBLISHes that the partitions of their publishers saw delivered, as this node did
    /// not know all routes.
    pub errands: Count,
    /// Times that a client was not read for a while because of its own rate.
    pub rate_pauses: Count,
    /// Publishers paused because another shard's mailbox was full.
    pub mailbox_pauses: Count,
    /// Mails sent to other shards.
    pub cross_messages: Count,
    /// Gauge: mails in the outboxes, waiting for a full mailbox.
    pub outbox_depth: Count,
    /// Microseconds the shard was busy (written by the shell).
    pub busy_micros: Count,
    /// Turns of the shard's loop (written by the shell); `/livez` watches it move.
    pub turns: Count,
    /// Authentications accepted (0) and refused (1).
    pub auth: [Count; 2],
    /// Route cache hits (0) and misses (1).
    pub route_cache: [Count; 2],
}

/// Waiting messages, their bytes, and exchanges in flight, of one queue.
pub(crate) type Load = (usize, u64, usize);

impl Counters {
    pub(crate) fn dropped(&self, reason: DropReason, n: u64) {
        self.messages_dropped[reason as usize].add(n);
    }

    /// Adds the gauges of durable sessions that `other` has.
    pub(crate) fn adopt(&self, other: &Counters) {
        let pairs = [
            (&self.sessions_offline, &other.sessions_offline),
            (&self.queued_messages, &other.queued_messages),
            (&self.queued_bytes, &other.queued_bytes),
            (&self.inflight[1], &other.inflight[1]),
        ];
        let subscriptions = self.subscriptions.iter().zip(&other.subscriptions);
        for (own, more) in pairs.into_iter().chain(subscriptions) {
            own.add(more.value());
        }
    }

    /// Moves the gauges of queues by what one queue changed.
    pub(crate) fn track(&self, before: Load, after: Load) {
        let shift = |gauge: &Count, from: u64, to: u64| gauge.add(to.wrapping_sub(from));
        shift(&self.queued_messages, before.0 as u64, after.0 as u64);
        shift(&self.queued_bytes, before.1, after.1);
        shift(&self.inflight[1], before.2 as u64, after.2 as u64);
    }
}
