//! Every metric once: its name, type, unit, labels and help. The exposition
//! and `docs/metrics.md` are made from this list.
//!
//! Names are `tidegate_<thing>_<unit>`; a counter's text ends in `_total`.
//! Labels come from closed sets, never from clients. At 64 shards and one
//! listener a node stays below 2,000 series.

use std::fmt::Write;

/// A metric family.
#[derive(Debug)]
pub struct Metric {
    /// Without the `_total` or `_info` that the text appends.
    pub name: &'static str,
    /// Counter, gauge, histogram or info.
    pub kind: Kind,
    /// The base unit that the name ends in, if any.
    pub unit: Option<&'static str>,
    /// Names of its labels, in order.
    pub labels: &'static [&'static str],
    /// What it tells. Without a full stop at the end.
    pub help: &'static str,
}

/// The type of a metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by buckets of a value, with their sum.
    Histogram,
    /// Always 1; the labels tell.
    Info,
}

impl Kind {
    /// The type's name in the text.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        }
    }

    /// What the text appends to the name. (To a histogram's, `_bucket`, `_sum`
    /// and `_count`, but only to its samples.)
    pub fn suffix(self) -> &'static str {
        match self {
            Kind::Counter => "_total",
            Kind::Gauge | Kind::Histogram => "",
            Kind::Info => "_info",
        }
    }
}

const fn kind(word: &str) -> Kind {
    match word.as_bytes() {
        b"counter" => Kind::Counter,
        b"gauge" => Kind::Gauge,
        b"histogram" => Kind::Histogram,
        b"info" => Kind::Info,
        _ => panic!("a metric is a counter, a gauge, a histogram or an info"),
    }
}

macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal $($unit:literal)? [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $id: Metric = Metric {
                name: $name,
                kind: kind(stringify!($kind)),
                unit: unit!($($unit)?),
                labels: &[$($label),*],
                help: $help,
            };
        )+
        /// All metrics, in the order of the text.
        pub const ALL: &[Metric] = &[$($id),+];
    };
}

macro_rules! unit {
    () => {
        None
    };
    ($unit:literal) => {
        Some($unit)
    };
}

metrics! {
    CONNECTIONS gauge "tidegate_connections" ["listener", "transport", "shard"]
        "Open connections";
    CONNECTIONS_LIMIT gauge "tidegate_connections_limit" ["listener"]
        "Open connections that the node takes at most";
    CONNECTIONS_HALF_OPEN gauge "tidegate_connections_half_open" []
        "Open connections that have not completed CONNECT";
    CONNECTIONS_ACCEPTED counter "tidegate_connections_accepted" ["listener", "shard"]
        "Connections accepted";
    CONNECTIONS_CLOSED counter "tidegate_connections_closed" ["listener", "reason"]
        "Connections that ended, by reason";
    CONNECTIONS_REJECTED counter "tidegate_connections_rejected" ["listener", "reason"]
        "Connections refused before or at CONNECT, by reason";
    ACCEPT_HALTS counter "tidegate_accept_halts" []
        "Times that accepting was halted for want of descriptors or memory";
    CONNECT_DURATION histogram "tidegate_connect_duration_seconds" "seconds" ["listener", "stage"]
        "Time from the accept to a good CONNECT (connect) and to its CONNACK (connack)";
    TLS_HANDSHAKES counter "tidegate_tls_handshakes" ["listener", "result", "version"]
        "TLS handshakes, by result; the version of a failed one is unknown";
    TLS_CERTIFICATE_EXPIRY gauge "tidegate_tls_certificate_expiry_timestamp_seconds" "seconds" ["listener"]
        "When the first of the certificates that the listener shows expires, in seconds since 1970";
    TLS_RELOADS counter "tidegate_tls_reloads" ["listener", "result"]
        "Changed TLS files that were taken over (ok), or refused as faulty (failed)";
    PROXY_HEADERS counter "tidegate_proxy_protocol_headers" ["listener", "result"]
        "PROXY headers taken (ok) and refused (failed)";
    WEBSOCKET_HANDSHAKES counter "tidegate_websocket_handshakes" ["listener", "result"]
        "WebSockets opened (ok) and HTTP requests refused (failed)";
    KEEPALIVE_CLAMPED counter "tidegate_keepalive_clamped" []
        "Connections told a Server Keep Alive below their own wish";
    AUTH counter "tidegate_auth" ["stage", "result"]
        "Authentications, by result";
    PASSWORD_CHECKS counter "tidegate_password_checks" ["result"]
        "Passwords that were looked at, by result: right, wrong, refused because too many wait, or expired because the client did not wait";
    PASSWORD_CHECKS_WAITING gauge "tidegate_password_checks_waiting" []
        "Passwords that wait to be looked at";
    PASSWORD_CHECK_SECONDS counter "tidegate_password_check_seconds" "seconds" []
        "Time spent on hashing passwords";
    SOCKET_RECEIVED counter "tidegate_socket_received_bytes" "bytes" []
        "Bytes read from client sockets";
    SOCKET_SENT counter "tidegate_socket_sent_bytes" "bytes" []
        "Bytes written to client sockets";
    SOCKET_READS counter "tidegate_socket_reads" []
        "Reads from client sockets that brought bytes";
    SOCKET_WRITES counter "tidegate_socket_writes" []
        "Attempts to write to client sockets";

    SHARD_IMBALANCE gauge "tidegate_shard_imbalance_ratio" "ratio" ["listener"]
        "Connections of the fullest shard divided by the mean of all shards";
    SHARD_STEERING_WEIGHT gauge "tidegate_shard_steering_weight" ["listener", "shard"]
        "Weight of the shard for new connections, 0 to 100; absent where nothing steers";
    SHARD_SELECTED counter "tidegate_shard_selected" ["listener", "shard"]
        "Times that the steering program chose the shard";
    SHARD_PENDING gauge "tidegate_shard_pending_connections" ["shard"]
        "Connections that the steering program gave to the shard and that it has not accepted yet";
    SHARD_STEERING_FALLBACK counter "tidegate_shard_steering_fallback" ["listener", "reason"]
        "Connections for which the policy's own choice could not be had: another shard was taken (drained), or the kernel's hash decided (hash)";
    SHARD_MIGRATED counter "tidegate_shard_migrated_connections" ["listener"]
        "Connections that waited at a closing socket and were given to another shard";
    KERNEL_REFUSED counter "tidegate_kernel_refused_connections" ["listener", "reason"]
        "SYNs refused by the steering program, by reason: rate, source or blocked; they cost the broker nothing";
    BPF_PROGRAM_LOADED gauge "tidegate_bpf_program_loaded" ["program"]
        "Whether the eBPF object is in effect";
    BPF_RUNS counter "tidegate_bpf_runs" ["program"]
        "Runs of the program, while the kernel counts them (kernel.bpf_stats_enabled)";
    BPF_RUN_SECONDS counter "tidegate_bpf_run_seconds" "seconds" ["program"]
        "Time of these runs";
    TCP_ESTABLISHED counter "tidegate_tcp_established" ["listener"]
        "TCP handshakes completed; by eBPF, as all metrics with tcp and a listener";
    TCP_RETRANSMITS counter "tidegate_tcp_retransmits" ["listener"]
        "Segments sent again";
    TCP_TIMEOUTS counter "tidegate_tcp_timeouts" ["listener"]
        "Retransmission timeouts";
    TCP_RESETS counter "tidegate_tcp_resets_received" ["listener"]
        "Resets received from clients";
    TCP_RTT histogram "tidegate_tcp_rtt_seconds" "seconds" ["listener"]
        "Smoothed round-trip times, one for each acknowledgement that gave one";
    TCP_LIFETIME histogram "tidegate_tcp_connection_lifetime_seconds" "seconds" ["listener"]
        "How long connections lived; one in sixteen is looked at";
    TCP_TRANSITIONS counter "tidegate_tcp_state_transitions" ["listener", "state"]
        "Times that a connection came into a state";
    CONNTRACK_EVENTS counter "tidegate_conntrack_events" ["event"]
        "Entries of connection tracking in the node's network namespace: new, confirmed, destroyed, dropped early or while being confirmed; by eBPF";
    SHARD_BUSY counter "tidegate_shard_busy_seconds" "seconds" ["shard"]
        "Time that the shard spent in turns";
    SHARD_LOOP_LAG histogram "tidegate_shard_loop_lag_seconds" "seconds" ["shard"]
        "Time of a turn that had something to do: how long what comes meanwhile waits at most";
    SHARD_TURNS counter "tidegate_shard_turns" ["shard"]
        "Turns of the shard's loop";
    SHARD_SLEEPS counter "tidegate_shard_sleeps" ["shard"]
        "Times that the shard slept";
    SHARD_WAKES counter "tidegate_shard_wakes" ["shard"]
        "Wake-ups that the shard sent to others";
    SHARD_CROSS_MESSAGES counter "tidegate_shard_cross_messages" ["from"]
        "Mails that the shard sent to others";
    SHARD_MAILBOX_DEPTH gauge "tidegate_shard_mailbox_depth" ["shard"]
        "Batches of mail that wait for the shard";
    SHARD_OUTBOX_DEPTH gauge "tidegate_shard_outbox_depth" ["shard"]
        "Mails of the shard that wait for a full mailbox of another";
    SHARD_MAILBOX_FULL counter "tidegate_shard_mailbox_full" []
        "Times that a shard found another's mailbox full";
    SHARD_MAILBOX_PAUSES counter "tidegate_shard_mailbox_pauses" ["shard"]
        "Publishers paused because another shard's mailbox was full";

    PACKETS_RECEIVED counter "tidegate_packets_received" ["type", "version"]
        "MQTT packets in";
    PACKETS_SENT counter "tidegate_packets_sent" ["type", "version"]
        "MQTT packets out";
    MESSAGES_RECEIVED counter "tidegate_messages_received" ["qos"]
        "PUBLISH packets accepted";
    MESSAGES_DELIVERED counter "tidegate_messages_delivered" ["qos"]
        "PUBLISH packets sent to subscribers, by the QoS of the delivery";
    MESSAGES_DROPPED counter "tidegate_messages_dropped" ["reason"]
        "Messages not delivered or not accepted, by reason";
    MESSAGE_BYTES_RECEIVED counter "tidegate_message_bytes_received" []
        "Payload bytes of accepted messages";
    MESSAGE_BYTES_SENT counter "tidegate_message_bytes_sent" []
        "Payload bytes of messages sent to subscribers";
    PUBLISH_LATENCY histogram "tidegate_publish_latency_seconds" "seconds" ["qos", "scope"]
        "Time from the turn that read a PUBLISH to the end of the turn that wrote it to a subscriber, on the same shard (local) or by way of another (remote), by the QoS of the delivery; without deliveries that had to wait for their subscriber";
    SESSIONS gauge "tidegate_sessions" ["state"]
        "Sessions with a connection (online) and durable sessions without (offline)";
    SUBSCRIPTIONS gauge "tidegate_subscriptions" ["kind"]
        "Subscriptions, by kind";
    RETAINED_MESSAGES gauge "tidegate_retained_messages" []
        "Retained messages";
    RETAINED_BYTES gauge "tidegate_retained_bytes" "bytes" []
        "Bytes of retained messages";
    QUEUED_MESSAGES gauge "tidegate_queued_messages" []
        "Messages that wait in session queues";
    QUEUED_BYTES gauge "tidegate_queued_bytes" "bytes" []
        "Bytes of messages that wait in session queues";
    INFLIGHT_MESSAGES gauge "tidegate_inflight_messages" ["direction"]
        "QoS 1 and 2 messages in flight";
    WILL_MESSAGES counter "tidegate_will_messages" ["result"]
        "Wills, by what became of them";
    SUBSCRIPTIONS_REVOKED counter "tidegate_subscriptions_revoked" []
        "Subscriptions that went because changed access rules no longer allow them";
    CONNECTS_DELAYED counter "tidegate_connects_delayed" []
        "CONNECTs that had to wait because their client id came too often";
    PUBLISH_ERRANDS counter "tidegate_publish_errands" []
        "PUBLISHes at QoS 1 and 2 that the partition of their publisher was asked to see delivered, because its node did not know all routes of the others";
    CLIENT_RATE_PAUSES counter "tidegate_client_rate_pauses" []
        "Times that a client was not read for a while because it sent above its rate";
    OVERLOAD_STAGE gauge "tidegate_overload_stage" []
        "How short memory is; 0: enough; 1: new clients are refused; 2: queues shrink; 3: slow readers are ended";
    MEMORY_USED gauge "tidegate_memory_used_bytes" "bytes" []
        "Memory in use, as it is held against the limit";
    MEMORY_LIMIT gauge "tidegate_memory_limit_bytes" "bytes" []
        "Memory that there may be; absent without a limit";
    ROUTE_CACHE_LOOKUPS counter "tidegate_route_cache_lookups" ["result"]
        "Lookups of a topic in the shards' route caches";
    SESSION_TAKEOVERS counter "tidegate_session_takeovers" ["scope"]
        "Sessions taken over from a live connection of the same shard (shard), another of the node (node) or another node (cluster)";
    SESSION_TAKEOVER_SECONDS histogram "tidegate_session_takeover_seconds" "seconds" []
        "Time from the accept to the CONNACK of connections that took a session over from a live one";
    SESSION_TAKEOVER_BYTES counter "tidegate_session_takeover_bytes" "bytes" []
        "Bytes of the mail to other nodes by which sessions that were taken over came to their new connections; what waits for them follows as deliveries do";

    STORAGE_USED gauge "tidegate_storage_used_bytes" "bytes" ["volume"]
        "Bytes of the volume with the data directory that are used";
    STORAGE_CAPACITY gauge "tidegate_storage_capacity_bytes" "bytes" ["volume"]
        "Bytes that the volume has";
    STORAGE_STAGE gauge "tidegate_storage_stage" []
        "What is refused for want of room on the disk; 0: nothing; 1: messages that would have to be kept; 2: new durable sessions and subscriptions of durable sessions as well";
    STORAGE_OPERATIONS counter "tidegate_storage_operations" ["op"]
        "What was done to the disk: commit groups written (append) and made durable (fsync), and messages read back (read; several at once)";
    STORAGE_BYTES counter "tidegate_storage_bytes" "bytes" ["op"]
        "Bytes written to the log (append), and of messages read back (read)";
    STORAGE_ERRORS counter "tidegate_storage_errors" ["op"]
        "Writes that found no room and are tried again; any other error ends the process";
    STORAGE_OPERATION_SECONDS histogram "tidegate_storage_operation_seconds" "seconds" ["op"]
        "How long that took";
    STORE_GROUP_RECORDS histogram "tidegate_store_group_records" []
        "Records of a commit group, which one fsync makes durable";
    STORE_RECORDS counter "tidegate_store_records" []
        "Records written";
    STORE_RECORD_BYTES counter "tidegate_store_record_bytes" "bytes" []
        "Bytes of these; what was written besides is the log's own";
    STORE_SEGMENTS gauge "tidegate_store_segments" []
        "Files of the log";
    STORE_CHECKPOINTS counter "tidegate_store_checkpoints" []
        "Times that the state of all partitions was written, so that a start reads from there";
    STORE_LOG_BYTES gauge "tidegate_store_log_bytes" "bytes" []
        "Bytes of the log";
    STORE_LIVE gauge "tidegate_store_live_ratio" "ratio" []
        "Share of them that is still needed; absent where it is not known";
    STORE_WAITING gauge "tidegate_store_waiting_bytes" "bytes" []
        "Bytes of records that are not durable";
    STORE_RECOVERY_RECORDS gauge "tidegate_store_recovery_records" []
        "Records that were read back at the start";
    STORE_RECOVERY gauge "tidegate_store_recovery_seconds" "seconds" []
        "How long that took";

    CLUSTER_MEMBERS gauge "tidegate_cluster_members" ["state"]
        "Nodes of the cluster by their state, as far as this one knows; absent without a cluster, as are the others of it";
    PEER_UP gauge "tidegate_peer_up" ["peer"]
        "Whether connections with another node, named by its id, are up";
    PEER_BYTES counter "tidegate_peer_bytes" "bytes" ["peer", "direction"]
        "Bytes from another node (received) and to it (sent), under TLS if there is any";
    PEER_FRAMES counter "tidegate_peer_frames" ["peer", "direction", "kind"]
        "Messages from and to another node, by kind: questions and Raft's calls (call), their answers (answer), what shards say (mail), and the rest (other); of a large one, which goes as several frames, the first is counted";
    PEER_PROTOCOL gauge "tidegate_peer_protocol_version" ["peer"]
        "The version of the protocol that is spoken with another node; absent while no connections are up";
    PEER_SEND_BUFFER gauge "tidegate_peer_send_buffer_bytes" "bytes" ["peer"]
        "Bytes that wait to be sent to it";
    PEER_RTT gauge "tidegate_peer_rtt_seconds" "seconds" ["peer"]
        "How long its last answer to a small question took; absent while it gives none";
    CLUSTER_CUT_OFF counter "tidegate_cluster_partition_detected" []
        "Times that this node's lease has run out: it was cut off from the majority, or too slow";
    CLUSTER_LEASE gauge "tidegate_cluster_lease" []
        "0: this node holds its lease and serves; 1: it has run out, nothing is read from clients or delivered; 2: for so long that clients are closed";
    CLUSTER_META_TERM gauge "tidegate_cluster_meta_term" []
        "The term of the group that holds the cluster's metadata";
    CLUSTER_META_LEADER gauge "tidegate_cluster_meta_leader" []
        "1 on the node that leads that group";
    CLUSTER_META_VOTERS gauge "tidegate_cluster_meta_voters" []
        "Voters of that group";
    CLUSTER_META_APPLIED gauge "tidegate_cluster_meta_applied" []
        "The last entry of the metadata that this node knows";
    CLUSTER_PARTITIONS_PLACED gauge "tidegate_cluster_partitions_placed" []
        "Partitions that have their replicas assigned";
    REPLICATION_LEADERS gauge "tidegate_replication_partitions_led" []
        "Partitions that this node leads";
    REPLICATION_REPLICAS gauge "tidegate_replication_replicas" []
        "Partitions of which this node has a replica";
    REPLICATION_LAG gauge "tidegate_replication_lag_entries" ["peer"]
        "Entries that a peer's replicas lack of the partitions that this node leads, in all; it grows while the peer is away";
    REPLICATION_ACK histogram "tidegate_replication_ack_seconds" "seconds" []
        "How long batches of records took from their proposal by this node, as the leader of a partition, to their commit by a quorum";
    REPLICATION_UNDER gauge "tidegate_replication_under_replicated" []
        "Partitions that this node leads and that have fewer live replicas near their end than are wanted";
    REBALANCE_MOVING gauge "tidegate_rebalance_partitions_moving" []
        "Partitions of the cluster of which a replica moves";
    REBALANCE_SESSIONS counter "tidegate_rebalance_moved_sessions" []
        "Sessions of partitions whose leadership this node handed over, or whose replica went from it to another node";
    DRAIN_STATE gauge "tidegate_drain_state" []
        "0: serving; 1: draining; 2: drained";
    DRAIN_SESSIONS_REMAINING gauge "tidegate_drain_sessions_remaining" []
        "Sessions with a connection that a drain still waits for";
    LOG_LINES_SUPPRESSED counter "tidegate_log_lines_suppressed" ["reason"]
        "Log lines that were not written, because one place in the code said too many (rate_limit) or who reads them is slow or gone (unread)";
    BUILD info "tidegate_build" ["version", "commit", "features"]
        "What runs";
    CONFIG_HASH info "tidegate_config_hash" ["hash"]
        "CRC32C of the settings in effect but for node.name and cluster.advertise, secrets not counted: nodes that are set alike have the same";
    SHARD_ACCEPT_QUEUE gauge "tidegate_shard_accept_queue_length" ["listener", "shard"]
        "Connections that wait to be accepted from the shard's listening socket";
    SHARD_ACCEPT_QUEUE_LIMIT gauge "tidegate_shard_accept_queue_limit" ["listener", "shard"]
        "Connections that may wait there: listener.backlog, cut to net.core.somaxconn";
    TCP_SOCKETS gauge "tidegate_tcp_sockets" ["state"]
        "TCP sockets with a port of ours, by state; established is absent with more than 50,000 connections, which tidegate_connections counts";
    CONNECTION_MEMORY gauge "tidegate_connection_memory_bytes" "bytes" ["component"]
        "Memory of connections: the shards' tables of them (tables), and the kernel's buffers of TCP sockets with a port of ours, receiving (kernel_rmem) and sending (kernel_wmem), which are absent with more than 50,000 connections";
    TCP_LISTEN_OVERFLOWS counter "tidegate_tcp_listen_overflows" []
        "Connections dropped because an accept queue was full, of the whole network namespace";
    TCP_LISTEN_DROPS counter "tidegate_tcp_listen_drops" []
        "Connections dropped on their way into an accept queue for any reason, of the whole network namespace";
    TCP_NODE_RETRANSMITS counter "tidegate_tcp_node_retransmits" []
        "TCP segments sent again, of the whole network namespace";
    TCP_NODE_RESETS_SENT counter "tidegate_tcp_node_resets_sent" []
        "TCP resets sent, of the whole network namespace";
    TCP_MEMORY_PAGES gauge "tidegate_tcp_memory_pages" []
        "Pages in the buffers of all TCP sockets of the machine";
    TCP_MEMORY_LIMIT_PAGES gauge "tidegate_tcp_memory_limit_pages" []
        "Pages that they may have at most (the last of net.ipv4.tcp_mem)";
    CONNTRACK_ENTRIES gauge "tidegate_conntrack_entries" []
        "Connections tracked in the network namespace";
    CONNTRACK_ENTRIES_LIMIT gauge "tidegate_conntrack_entries_limit" []
        "Connections that are tracked at most";
    CONNTRACK_FILL gauge "tidegate_conntrack_fill_ratio" "ratio" []
        "Share of the conntrack table that is taken";
    CONNTRACK_PREDICTED_FILL gauge "tidegate_conntrack_predicted_fill_ratio" "ratio" []
        "Share of the conntrack table that would be taken at limits.connections_max, each connection being tracked; above 1 it does not fit";
    CONNTRACK_OPERATIONS counter "tidegate_conntrack_operations" ["op"]
        "What connection tracking did, on all CPUs; the kernel's counters wrap at 2^32";
    PREFLIGHT_CHECK gauge "tidegate_preflight_check" ["check", "result"]
        "1 for what came of a check of `tidegate preflight` (ok, warn, fail, unknown); looked at once a minute";
    COLLECTOR_UP gauge "tidegate_collector_up" ["collector"]
        "Whether the source of some metrics could be read; if not, they are absent";

    PROCESS_CPU counter "process_cpu_seconds" "seconds" []
        "User and system CPU time";
    PROCESS_OPEN_FDS gauge "process_open_fds" []
        "Open file descriptors; absent where the kernel does not count them";
    PROCESS_MAX_FDS gauge "process_max_fds" []
        "Limit of open file descriptors";
    PROCESS_VIRTUAL_MEMORY gauge "process_virtual_memory_bytes" "bytes" []
        "Virtual memory";
    PROCESS_RESIDENT_MEMORY gauge "process_resident_memory_bytes" "bytes" []
        "Resident memory";
    PROCESS_THREADS gauge "process_threads" []
        "Threads";
    PROCESS_START_TIME gauge "process_start_time_seconds" "seconds" []
        "When the process started, in seconds since 1970";
}

const HEAD: &str = "\
# Metrics

<!-- Generated by `cargo xtask docs` from broker/src/telemetry/metric.rs. Do not edit. -->

`GET /metrics` on the admin port answers in OpenMetrics to a scraper that asks
for it, and else in the older Prometheus text. Names, labels and values are the
same in both.

Labels come from closed sets. A node with one listener puts its name on every
metric that has a `listener` label. With several, that label stands only on what
is counted per listener (connections open and accepted), and is absent from what
is counted per node. A metric whose source cannot be read is absent, not zero.

| Metric | Type | Labels | Meaning |
|---|---|---|---|
";

/// The text of `docs/metrics.md`.
pub fn markdown() -> String {
    let mut out = HEAD.to_owned();
    for metric in ALL {
        let Metric { name, kind, labels, help, .. } = metric;
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        let (suffix, kind, labels) = (kind.suffix(), kind.label(), labels.join(", "));
        let _ = writeln!(out, "| `{name}{suffix}` | {kind} | {labels} | {help} |");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_rules() {
        for (i, metric) in ALL.iter().enumerate() {
            let Metric { name, kind, unit, labels, help } = metric;
            assert!(name.starts_with("tidegate_") || name.starts_with("process_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert!(!name.ends_with("_total") && !name.ends_with("_info"), "{name}: appended");
            assert!(unit.is_none_or(|unit| name.ends_with(&format!("_{unit}"))), "{name}");
            for base in ["bytes", "seconds", "ratio"] {
                assert_eq!(name.ends_with(base), *unit == Some(base), "{name}: unit");
            }
            for other in ["_ms", "_micros", "_kb", "_minutes", "_percent", "_count"] {
                assert!(!name.ends_with(other), "{name}: not a base unit");
            }
            assert_eq!(
                *kind == Kind::Info,
                ["tidegate_build", "tidegate_config_hash"].contains(name)
            );
            for label in *labels {
                assert!(!["client", "client_id", "topic", "ip", "le", "quantile"].contains(label));
            }
            assert!(
                !help.is_empty() && !help.ends_with('.'),
                "{name}: the text adds the full stop"
            );
            assert!(ALL[..i].iter().all(|other| other.name != *name), "{name} twice");
        }
    }
}
