//! The config as typed: every key once, with its doc, unit, range and default.
//!
//! A table is a struct of options; [`Key`]s beside it feed the check, the
//! environment overlay, the effective summary and `docs/config.md`. Unknown
//! keys are refused, with the nearest name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use tidegate_core::limits::{Limits, QueuePolicy, SHARDS_MAX};
use tidegate_core::settings::Settings;
use toml::{Table, Value};

use super::cluster::{Bootstrap, Discovery, Hidden, Isolated, SubscribeBarrier};
use super::ebpf::{Mode, Policy, Weights};
use super::key::{Fallback, Key, Networks, Setting};
use super::listener::{Bind, ClientAuth, ProxyProtocol, TlsVersion, Transport, UserFrom};
use super::nearest::nearest;
use super::problem::{Faults, Problem};
use super::store::Durability;
use crate::telemetry::log::{Log, LogFormat, LogLevel, LogOutput};

macro_rules! fallback {
    ($ty:ty, = $default:expr) => {{
        let value: $ty = $default;
        Fallback::Value(value.show())
    }};
    ($ty:ty, => $text:literal) => {
        Fallback::Text($text)
    };
}

macro_rules! maybe {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

macro_rules! is_live {
    () => {
        false
    };
    (live) => {
        true
    };
}

/// `key: type [min, max], "unit" = default;` or `key: type => "what if not set";`, and
/// `, live;` where a reload takes over the key while the node runs.
macro_rules! tables {
    ($(
        $(#[doc = $table_doc:literal])+
        $table:ident {
            $(
                $(#[doc = $doc:literal])+
                $key:ident: $ty:ty $([$min:expr, $max:expr])? $(, $unit:literal)?
                    $(= $default:expr)? $(=> $unset:literal)? $(, $live:ident)?;
            )+
        }
    )+) => {$(
        $(#[doc = $table_doc])+
        #[derive(Clone, Debug, Default)]
        pub struct $table {
            $($(#[doc = $doc])+ pub $key: Option<$ty>,)+
        }

        impl $table {
            /// What the table is about.
            pub const DOC: &'static str = concat!($($table_doc),+);
            /// Its keys, in the order of the reference.
            pub const KEYS: &'static [Key] = &[$(Key {
                name: stringify!($key),
                doc: concat!($($doc),+),
                shape: <$ty as Setting>::SHAPE,
                range: maybe!($(($min as u64, $max as u64))?),
                unit: maybe!($($unit)?),
                default: || fallback!($ty, $(= $default)? $(=> $unset)?),
                live: is_live!($($live)?),
            }),+];

            /// From TOML. What is wrong goes to `faults` and counts as not set.
            fn read(path: &str, table: &Table, faults: &mut Faults) -> $table {
                let mut typed = $table::default();
                for (name, value) in table {
                    let path = format!("{path}.{name}");
                    match name.as_str() {
                        $(stringify!($key) => {
                            let key = key_in(Self::KEYS, stringify!($key));
                            match key.read(&path, value) {
                                Ok(value) => typed.$key = Some(value),
                                Err(problem) => faults.push(problem),
                            }
                        })+
                        _ => {
                            let hint = hint_for_key(&path, name, Self::KEYS);
                            faults.push(Problem::Unknown { key: path, hint });
                        }
                    }
                }
                typed
            }

            /// Takes over what is typed for the live keys.
            fn take_live(&mut self, new: &$table) {
                $(
                    if is_live!($($live)?) {
                        self.$key.clone_from(&new.$key);
                    }
                )+
            }

            /// The keys that are typed.
            pub fn set(&self) -> Vec<&'static str> {
                let all = [$((stringify!($key), self.$key.is_some())),+];
                all.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
            }

            /// Each key's value in effect before anything is derived.
            pub fn effective(&self) -> Vec<(&'static str, Fallback)> {
                vec![$((
                    stringify!($key),
                    match &self.$key {
                        Some(value) => Fallback::Value(value.show()),
                        None => (key_in(Self::KEYS, stringify!($key)).default)(),
                    },
                )),+]
            }

            $($(
                /// The value of the key, or its default.
                pub fn $key(&self) -> $ty {
                    self.$key.clone().unwrap_or_else(|| $default)
                }
            )?)+
        }
    )+};
}

fn key_in(keys: &'static [Key], name: &str) -> &'static Key {
    keys.iter().find(|key| key.name == name).expect("the macro makes both from one list")
}

tables! {
    /// The node as a whole.
    NodeTable {
        /// Name of the node in logs and `$SYS`. In a cluster another disk under the same name,
        /// unless that is the default, is in the stead of the one before.
        name: String = "tidegate".into();
        /// Where the node keeps its files.
        data_dir: PathBuf = "./tidegate-data".into();
        /// Shards, each a thread with its own sockets and connections.
        shards: u16 [1, SHARDS_MAX] => "one a core, within the CPU quota";
        /// Time from SIGTERM to the exit at the latest; connections are asked to leave within it.
        drain_seconds: u32 [0, 3_600], "seconds" = 25;
        /// Time between `/readyz` turning false and the listeners closing, so that a load
        /// balancer looks elsewhere first. Part of `drain_seconds`.
        unready_seconds: u32 [0, 600], "seconds" = 0;
        /// Idle timeout of the load balancer in front, if there is one. TCP keepalive and
        /// `mqtt.keep_alive_max_seconds` are derived from it, so that a connection never
        /// stays silent for so long.
        lb_idle_timeout_seconds: u32 [5, 86_400], "seconds"
            => "no load balancer; TCP keepalive is 300 s idle, 300 s interval, 2 probes";
    }

    /// What clients are offered.
    MqttTable {
        /// The highest QoS a client may publish with.
        qos_max: u8 [0, 2] = Settings::default().qos_max;
        /// Whether retained messages are kept.
        retain_available: bool = Settings::default().retain_available;
        /// Whether filters may hold wildcards.
        wildcard_subscription_available: bool = Settings::default().wildcard_subscription_available;
        /// Whether subscription identifiers are taken.
        subscription_identifier_available: bool
            = Settings::default().subscription_identifier_available;
        /// Whether shared subscriptions (`$share`) are offered.
        shared_subscription_available: bool = Settings::default().shared_subscription_available;
        /// The highest topic alias a client may set; 0: none.
        topic_alias_in_max: u16 [0, 65_535] = Settings::default().topic_alias_in_max;
        /// The highest topic alias used towards a client, never above its own maximum; 0: none.
        topic_alias_out_max: u16 [0, 65_535] = Settings::default().topic_alias_out_max;
        /// The longest keep alive; 0: no limit. A 5.0 client above it, or with none, is told
        /// Server Keep Alive. If not set, `node.lb_idle_timeout_seconds` gives it.
        keep_alive_max_seconds: u16 [0, 65_535], "seconds"
            = Settings::default().keep_alive_max_seconds;
        /// Whether a 3.x client above that limit is refused instead of honoured.
        keep_alive_strict: bool = Settings::default().keep_alive_strict;
        /// Whether a payload that claims to be UTF-8 is checked.
        payload_format_check: bool = Settings::default().payload_format_check;
        /// Whether a QoS 1 message of a shared subscription goes to another member when its
        /// member disconnects (true) or when its session ends (false).
        share_redispatch_on_disconnect: bool = Settings::default().share_redispatch_on_disconnect;
        /// Whether a publish that is not allowed closes a 3.x connection (true) or is
        /// acknowledged and dropped (false).
        refused_publish_closes: bool = Settings::default().refused_publish_closes;
        /// Response Information for clients that ask; empty: never sent.
        response_information: String = Settings::default().response_information;
        /// Whether a DISCONNECT to a 5.0 client says its reason in words as well. Without them
        /// it has three bytes, a form that some client libraries cannot read.
        reason_strings: bool = Settings::default().reason_strings;
        /// Time between two publications of the `$SYS` topics; 0: none.
        sys_interval_seconds: u32 [0, 86_400], "seconds" = Settings::default().sys_interval_seconds;
    }

    /// The bounds. Reaching one has the outcome stated here, and is counted.
    LimitsTable {
        /// Open connections; one more is closed at once.
        connections_max: u32 [1, 100_000_000] = Limits::default().connections_max;
        /// Connections that have not completed CONNECT; one more is closed at once.
        half_open_max: u32 [1, 100_000_000] = Limits::default().half_open_max;
        /// Time from accept to a complete CONNECT; then closed.
        connect_timeout_ms: u32 [100, 600_000], "milliseconds"
            = Limits::default().connect_timeout_ms;
        /// Size of one packet, header included; a larger one is 0x95 and closes.
        packet_bytes_max: u32 [1_024, 268_435_455], "bytes" = Limits::default().packet_bytes_max;
        /// Length of a client id; a longer one is refused with 0x85 (3.x: 0x02).
        client_id_bytes_max: u16 [23, 65_535], "bytes" = Limits::default().client_id_bytes_max;
        /// Levels of a topic or filter; deeper is 0x90 for a topic, 0x8F for a filter (3.x: the
        /// publish ends as `refused_publish_closes` says, the filter is 0x80). Matching goes
        /// one call deep a level, hence the highest value.
        topic_levels_max: u16 [1, 1_000] = Limits::default().topic_levels_max;
        /// Subscriptions of one session; one more is refused with 0x97 (3.x: 0x80). So are the
        /// filters of one SUBSCRIBE beyond this number and beyond 1,000, whatever they are.
        subscriptions_max: u32 [1, 10_000_000] = Limits::default().subscriptions_max;
        /// QoS 1 and 2 messages that wait for one session; beyond, `queue_policy` decides. QoS 0
        /// messages that wait for its socket have a budget of the same size of their own, and
        /// so has what is kept back while retained messages are on their way to it.
        queue_messages_max: u32 [1, 100_000_000] = Limits::default().queue_messages_max;
        /// Bytes of the messages that wait for one session, with the same three budgets;
        /// beyond, `queue_policy` decides. Not below `packet_bytes_max`.
        queue_bytes_max: u64 [1_024, 1_u64 << 40], "bytes" = Limits::default().queue_bytes_max;
        /// What gives way when a session's queue is full, or those of the node are: its oldest
        /// message, the new one, or the publisher, who is refused with 0x97 (before 5.0 its
        /// connection is closed, and it tries again) and whose message nobody gets. Of QoS 0
        /// messages that wait for a socket it is always the new one.
        queue_policy: QueuePolicy = Limits::default().queue_policy;
        /// QoS 1 and 2 messages that wait for all sessions of the node; beyond, no queue
        /// becomes longer, and `queue_policy` decides. Each takes up to 48 bytes of memory;
        /// 0: as many as a quarter of the memory's limit has room for, or 10,000,000 where
        /// there is no limit.
        queue_node_messages_max: u64 [0, 10_000_000_000] = 0;
        /// Bytes of the messages that wait for all sessions of the node; as above. 0: half of
        /// the volume of `node.data_dir`, or half of the memory's limit where queues are in
        /// memory alone (`store.durability` is `memory`) and in a cluster, or 64 GiB where
        /// neither is known.
        queue_node_bytes_max: u64 [0, 1_u64 << 50], "bytes" = 0;
        /// Unacknowledged QoS 1 and 2 messages out to one session; further ones wait.
        inflight_out_max: u16 [1, 65_535] = Limits::default().inflight_out_max;
        /// Unreleased QoS 1 and 2 messages in from one connection (Receive Maximum); beyond is
        /// 0x93, and before 5.0 the socket is not read.
        inflight_in_max: u16 [1, 65_535] = Limits::default().inflight_in_max;
        /// Bytes encoded for one socket that does not take them; further messages wait in the
        /// session's queue. From half of it on the client is not read, as what it sends would
        /// have to be answered.
        write_buffer_bytes_max: u32 [4_096, 268_435_455], "bytes"
            = Limits::default().write_buffer_bytes_max;
        /// Retained messages; a further one reaches its subscribers and is not kept: counted,
        /// and a 5.0 publisher at QoS 1 and 2 is told 0x97. One that is there can always be
        /// replaced, within the bytes below.
        retained_messages_max: u64 [0, 1_000_000_000] = Limits::default().retained_messages_max;
        /// Bytes of retained messages; a message beyond them has the same outcome, and so has
        /// a replacement that is larger than what it replaces by more than is left: the old
        /// one stays.
        retained_bytes_max: u64 [0, 1_u64 << 44], "bytes" = Limits::default().retained_bytes_max;
        /// Length of the prefix of an IPv4 source whose connections count together.
        source_prefix_v4: u8 [8, 32], "bits" = Limits::default().source_prefix_v4;
        /// The same for IPv6.
        source_prefix_v6: u8 [16, 128], "bits" = Limits::default().source_prefix_v6;
        /// CONNECTs a minute with one client id; further ones wait for their turn, up to
        /// `connect_timeout_ms`. 0: no limit.
        client_connects_per_minute: u32 [0, 100_000] = Limits::default().client_connects_per_minute;
        /// Memory that the node should stay below. From 85 % on new clients are refused (0x97,
        /// 3.x: 0x03), from 92 % windows and queues shrink, from 96 % the clients that take the
        /// least of what waits for them are ended. 0: the limit of the cgroup, if it has one.
        memory_bytes_max: u64 [0, 1_u64 << 50], "bytes" = Limits::default().memory_bytes_max;
        /// Durable sessions; a CONNECT for one more is refused with 0x97 (3.x: 0x03).
        sessions_max: u32 [1, 100_000_000] = Limits::default().sessions_max;
        /// Time that a session may outlive its connection; a longer wish is cut to it and the
        /// client is told. 4294967295: for ever.
        session_expiry_max_seconds: u32 [0, u32::MAX], "seconds"
            = Limits::default().session_expiry_max_seconds;
    }

    /// What survives a restart: durable sessions with their subscriptions, queues and wills, and
    /// retained messages. It is below `node.data_dir` (docs/store.md).
    StoreTable {
        /// What an acknowledgement of it means: it is on the device and survives the loss of
        /// power (`fsync`), the kernel has it and it survives the end of the process (`os`), or
        /// nothing is written (`memory`).
        durability: Durability = Durability::Fsync;
        /// Size of a file of the log. Space is given back by whole files.
        segment_bytes: u64 [1_u64 << 20, 1_u64 << 32], "bytes" = 128 << 20;
        /// How long records may wait for others, to be made durable with them, under load and
        /// never longer than half of what that took last time. 0: not at all.
        group_window_micros: u32 [0, 2_000], "microseconds" = 500;
        /// Use of the disk from which messages with QoS 1 and 2 are refused (0x97; before 5.0
        /// the connection is closed), and retained ones are not kept. It ends 5 points below.
        disk_refuse_percent: u8 [10, 100], "percent" = 85;
        /// Use of the disk from which new durable sessions and subscriptions of durable sessions
        /// are refused as well (0x97; before 5.0: 0x03, 0x80). Not below `disk_refuse_percent`.
        disk_stop_percent: u8 [10, 100], "percent" = 95;
    }

    /// This node as one of a cluster (docs/operating.md). The table counts once it has a name;
    /// without one the node is alone.
    ClusterTable {
        /// Name of the cluster. Nodes of another name are refused.
        name: String => "none; the node is alone";
        /// Address and port where peers come in. Off loopback, TLS or a secret must be set.
        bind: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7883));
        /// Host and port where peers are told to come in. Must be set if `bind` is `0.0.0.0` or
        /// `[::]`.
        advertise: String => "`bind`";
        /// Where peers are found: `dns:NAME:PORT` (all addresses of a headless service),
        /// `file:PATH` (a line a peer), or a list of hosts and ports.
        discovery: Discovery => "nowhere; `bootstrap = \"single\"` alone does without";
        /// How the first node comes about: the one that creates a ConfigMap (`kubernetes`), the
        /// one at which `tidegate cluster init` is called (`init`), the first of a list that all
        /// nodes have alike, once all of it are there (`static`), or this one, alone (`single`).
        /// That no peer was found is never a reason to found a cluster.
        bootstrap: Bootstrap = Bootstrap::Init;
        /// Name of that ConfigMap, in the namespace of the pod.
        config_map: String => "`tidegate-` and `name`";
        /// Replicas of a partition: 1, 2, 3 or 5. With 2 every acknowledged message is on both
        /// nodes, and with one of them down its partitions stop until it is back.
        replication_factor: u8 [1, 5] => "3 where there are 3 nodes, else as many as there are";
        /// Partitions of the cluster; this version has 64 and no other number.
        partitions: u16 [1, 256] = tidegate_core::ids::PARTITIONS;
        /// Certificate chain in PEM, which peers are shown at both ends of a connection.
        tls_certificate: PathBuf => "no TLS between nodes";
        /// Private key in PEM; must be set with TLS.
        tls_key: PathBuf => "none";
        /// Certificate authority of the peers, in PEM; must be set with TLS.
        tls_ca: PathBuf => "none";
        /// A secret that all nodes have, of 16 bytes at least, in place of TLS. It is not shown
        /// anywhere; rather use `secret_file`.
        secret: Hidden => "none";
        /// A file with that secret, whose white space at both ends does not count.
        secret_file: PathBuf => "none";
        /// Where the node stands; replicas of a partition are spread over zones.
        zone: String = String::new();
        /// Who has to know of a subscription before its SUBACK: every node that serves clients
        /// (`cluster`), or this one (`local`).
        subscribe_barrier: SubscribeBarrier = SubscribeBarrier::Cluster;
        /// What becomes of the clients of a node that is cut off from the others: closed 10 s
        /// after its lease has run out (`close`), or left connected without service (`hold`).
        isolated: Isolated = Isolated::Close;
        /// The newest version of the protocol between nodes that this node speaks: 2, or 1 while
        /// nodes of an older program are among them and are to be gone back to. Two nodes use the
        /// newest that both speak, so that nothing has to be set for an upgrade. When all nodes
        /// speak 2 they write what an older program cannot read (feature level 2), and there is
        /// no way back.
        protocol_max: u16 [1, 2] = tidegate_mesh::PROTO_MAX;
        /// Host and port where clients reach this node: those of MQTT 5.0 are sent there by nodes
        /// that drain (Server Reference).
        advertise_clients: String => "none; nobody is sent here by name";
        /// Clients that all nodes which drain send away in a second, in all; fewer while the
        /// others are slow to take them.
        reconnects_per_second: u32 [1, 1_000_000] = 1_000;
    }

    /// Metrics and health over HTTP.
    AdminTable {
        /// Address and port of the admin port.
        bind: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8888));
    }

    /// What the node says.
    LogTable {
        /// The least severe level that is written.
        level: LogLevel = LogLevel::Info, live;
        /// Lines for people, or a JSON object a line for machines.
        format: LogFormat = LogFormat::Plain;
        /// Levels of single modules, such as `tidegate::net=debug`, separated by commas.
        filter: String = String::new(), live;
        /// Where the lines go. A reader that is slow or gone costs lines, which are counted, and
        /// holds up nothing.
        output: LogOutput = LogOutput::Stdout;
        /// Lines a second of one place in the code; further ones are counted, and told in one
        /// line every ten seconds. 0: no limit.
        lines_per_second: u32 [0, 1_000_000] = Log::LINES_PER_SECOND, live;
    }

    /// Who may come in, and what they may do. The files are read again on SIGHUP, and when
    /// they change.
    AuthTable {
        /// Users and the hashes of their passwords, made by `tidegate passwd`. With it, a CONNECT
        /// with a user name is checked on every listener whose `user_from` is `connect`.
        password_file: PathBuf => "no passwords; a user name in CONNECT is not looked at", live;
        /// What clients may publish and subscribe to (docs/acl.md); what no rule allows is denied.
        acl_file: PathBuf => "everything is allowed but publishing to `$SYS`", live;
        /// Threads that check passwords; a check takes some 20 ms and 19 MiB.
        hash_threads: u8 [1, 64] = 1;
        /// CONNECTs that wait for one; a further one is refused with 0x97 (3.x: 0x03).
        hash_queue_max: u32 [1, 1_000_000] = 1_000;
    }

    /// What the kernel does for us, by eBPF: `off`, `auto` (where kernel and privileges allow
    /// it), or `require` (no start without). Nothing depends on it (docs/kernel.md).
    EbpfTable {
        /// Gives connections to shards, and refuses those above `connects_per_second`,
        /// `source_connects_per_second` and of `blocked_sources` before they cost anything.
        steer: Mode = Mode::Auto;
        /// Counts round trips, retransmits and states of our connections.
        tcpstat: Mode = Mode::Auto;
        /// Counts new, confirmed and destroyed entries of connection tracking.
        conntrack: Mode = Mode::Auto;
    }

    /// A place where clients come in; NAME stands in logs and metrics. Without any such
    /// table there is one listener, named `default`.
    ListenerTable {
        /// Address and port (port 0: the kernel chooses), or `unix:/PATH`.
        bind: Bind => "must be set; the listener named `default` has 127.0.0.1:1883";
        /// Whether an IPv6 address such as `[::]` takes IPv6 alone, or IPv4 as well.
        ipv6_only: bool = true;
        /// What carries MQTT: TCP, TLS, WebSocket, or WebSocket in TLS.
        transport: Transport = Transport::Tcp;
        /// Path of the WebSocket; another one is answered 404.
        ws_path: String = "/mqtt".into();
        /// The PROXY header that each connection begins with. It is taken from
        /// `trusted_sources` only; from anywhere else the connection is closed.
        proxy_protocol: ProxyProtocol = ProxyProtocol::Off;
        /// Proxies: they may send a PROXY header or X-Forwarded-For. Must be set with
        /// `proxy_protocol`.
        trusted_sources: Networks => "nobody";
        /// Time from accept until PROXY header, TLS and WebSocket are agreed; then closed. The
        /// CONNECT has `limits.connect_timeout_ms` in all.
        handshake_timeout_ms: u32 [100, 600_000], "milliseconds" = 5_000;
        /// Certificate chain in PEM; must be set with TLS. Files of TLS are read again when they
        /// change, for new handshakes.
        tls_certificate: PathBuf => "none", live;
        /// Private key in PEM; must be set with TLS.
        tls_key: PathBuf => "none", live;
        /// Directory with further certificates: NAME/tls.crt and NAME/tls.key are for clients
        /// that ask for the host NAME (SNI).
        tls_sni_dir: PathBuf => "every client gets `tls_certificate`", live;
        /// Certificate authorities of the clients, in PEM; must be set with `tls_client_auth`.
        tls_client_ca: PathBuf => "none", live;
        /// Whether clients show a certificate.
        tls_client_auth: ClientAuth = ClientAuth::Off;
        /// Revoked client certificates (CRL), in PEM.
        tls_crl: PathBuf => "none are revoked", live;
        /// The lowest version of TLS.
        tls_version_min: TlsVersion = TlsVersion::V1_2;
        /// Whether clients may connect without credentials.
        anonymous: bool
            => "true on a loopback address or Unix socket without `auth.password_file` and `user_from`; \
                else false";
        /// Where the user name comes from: the CONNECT with its password, the client's
        /// certificate (needs `tls_client_auth`), or what a proxy says of it (needs
        /// `proxy_protocol` v2).
        user_from: UserFrom = UserFrom::Connect;
        /// Open connections of this listener; one more is closed at once.
        connections_max: u32 [1, 100_000_000] => "`limits.connections_max` alone";
        /// New connections a second; one above is closed at once.
        connects_per_second: u32 [1, 10_000_000] => "no limit", live;
        /// New connections at once after a rest.
        connects_burst: u32 [1, 10_000_000] => "`connects_per_second`", live;
        /// New connections a second from one source prefix (`limits.source_prefix_v4`).
        source_connects_per_second: u32 [1, 10_000_000] => "no limit", live;
        /// New connections from one source prefix at once after a rest.
        source_connects_burst: u32 [1, 10_000_000] => "`source_connects_per_second`", live;
        /// PUBLISH packets a second of one client; above, its socket is not read for a while.
        client_messages_per_second: u32 [1, 10_000_000] => "no limit", live;
        /// Bytes a second of one client; above, its socket is not read for a while.
        client_bytes_per_second: u32 [1_024, 4_294_967_295], "bytes" => "no limit", live;
        /// Length of the accept queue of each shard's socket; the kernel cuts it to
        /// `net.core.somaxconn`.
        backlog: u32 [16, 65_535] = 1_024;
        /// Sources whose connections are refused; with `ebpf.steer` in the kernel, at no cost.
        blocked_sources: Networks => "nobody", live;
        /// How new connections are given to shards, with `ebpf.steer`: to the one with the
        /// fewest for its weight, by the client's address, to the one of the CPU that got the
        /// packet, or by a hash of addresses and ports. Without it the kernel's hash decides.
        steering: Policy = Policy::Least, live;
        /// Weights of shards 0, 1 and so on, with `ebpf.steer`; 0: no new connections. Those not
        /// named have 100. `tidegate shard weight set` changes one until the next reload.
        shard_weights: Weights [0, 100] => "100 each", live;
    }
}

/// The whole file, as typed.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// `[node]`
    pub node: NodeTable,
    /// `[mqtt]`
    pub mqtt: MqttTable,
    /// `[limits]`
    pub limits: LimitsTable,
    /// `[store]`
    pub store: StoreTable,
    /// `[cluster]`
    pub cluster: ClusterTable,
    /// `[auth]`
    pub auth: AuthTable,
    /// `[admin]`
    pub admin: AdminTable,
    /// `[log]`
    pub log: LogTable,
    /// `[ebpf]`
    pub ebpf: EbpfTable,
    /// `[listener.NAME]`, by name.
    pub listeners: BTreeMap<String, ListenerTable>,
}

/// Each table's title in the reference, its doc and its keys.
pub const TABLES: &[(&str, &str, &[Key])] = &[
    ("node", NodeTable::DOC, NodeTable::KEYS),
    ("listener.NAME", ListenerTable::DOC, ListenerTable::KEYS),
    ("mqtt", MqttTable::DOC, MqttTable::KEYS),
    ("limits", LimitsTable::DOC, LimitsTable::KEYS),
    ("store", StoreTable::DOC, StoreTable::KEYS),
    ("cluster", ClusterTable::DOC, ClusterTable::KEYS),
    ("auth", AuthTable::DOC, AuthTable::KEYS),
    ("admin", AdminTable::DOC, AdminTable::KEYS),
    ("log", LogTable::DOC, LogTable::KEYS),
    ("ebpf", EbpfTable::DOC, EbpfTable::KEYS),
];

const TABLE_NAMES: [&str; 10] =
    ["node", "mqtt", "limits", "store", "cluster", "auth", "admin", "log", "ebpf", "listener"];

impl File {
    /// From TOML. What is wrong goes to `faults` and counts as not set.
    pub fn read(table: &Table, faults: &mut Faults) -> File {
        let mut file = File::default();
        for (name, value) in table {
            if !TABLE_NAMES.contains(&name.as_str()) {
                let hint = hint_for_table(name);
                faults.push(Problem::Unknown { key: name.clone(), hint });
                continue;
            }
            let Some(table) = as_table(name, value, faults) else { continue };
            match name.as_str() {
                "node" => file.node = NodeTable::read(name, table, faults),
                "mqtt" => file.mqtt = MqttTable::read(name, table, faults),
                "limits" => file.limits = LimitsTable::read(name, table, faults),
                "store" => file.store = StoreTable::read(name, table, faults),
                "cluster" => file.cluster = ClusterTable::read(name, table, faults),
                "auth" => file.auth = AuthTable::read(name, table, faults),
                "admin" => file.admin = AdminTable::read(name, table, faults),
                "log" => file.log = LogTable::read(name, table, faults),
                "ebpf" => file.ebpf = EbpfTable::read(name, table, faults),
                _ => file.listeners = listeners(table, faults),
            }
        }
        file
    }

    /// Takes over the live keys of `new`, and of the listeners that both have.
    pub(super) fn take_live(&mut self, new: &File) {
        let File { node, mqtt, limits, store, cluster, auth, admin, log, ebpf, listeners } = self;
        node.take_live(&new.node);
        mqtt.take_live(&new.mqtt);
        limits.take_live(&new.limits);
        store.take_live(&new.store);
        cluster.take_live(&new.cluster);
        auth.take_live(&new.auth);
        admin.take_live(&new.admin);
        log.take_live(&new.log);
        ebpf.take_live(&new.ebpf);
        for (name, listener) in listeners {
            if let Some(new) = new.listeners.get(name) {
                listener.take_live(new);
            }
        }
    }
}

fn listeners(tables: &Table, faults: &mut Faults) -> BTreeMap<String, ListenerTable> {
    let mut listeners = BTreeMap::new();
    for (name, value) in tables {
        let path = format!("listener.{name}");
        // `[listener] bind = …` forgets the name; say so rather than 'not a table'.
        if !value.is_table() && ListenerTable::KEYS.iter().any(|key| key.name == name) {
            let hint = format!("a listener has a name; use listener.default.{name}");
            faults.push(Problem::Unknown { key: path, hint });
        } else if let Some(table) = as_table(&path, value, faults) {
            listeners.insert(name.clone(), ListenerTable::read(&path, table, faults));
        }
    }
    listeners
}

fn as_table<'a>(path: &str, value: &'a Value, faults: &mut Faults) -> Option<&'a Table> {
    let table = value.as_table();
    if table.is_none() {
        faults.push(Problem::NotATable { key: path.into() });
    }
    table
}

/// The key at a path such as `["limits", "packet_bytes_max"]`.
pub fn key_at(path: &[String]) -> Option<&'static Key> {
    let (title, name) = match path {
        [table, _, name] if table == "listener" => ("listener.NAME", name),
        [table, name] => (table.as_str(), name),
        _ => return None,
    };
    let (_, _, keys) = TABLES.iter().find(|(known, _, _)| *known == title)?;
    keys.iter().find(|key| key.name == name)
}

/// Whether a path of one segment names a table.
pub fn is_table(name: &str) -> bool {
    TABLE_NAMES.contains(&name)
}

fn names(keys: &'static [Key]) -> impl Iterator<Item = &'static str> {
    keys.iter().map(|key| key.name)
}

fn hint_for_key(path: &str, typed: &str, keys: &'static [Key]) -> String {
    let table = path.strip_suffix(typed).unwrap_or(path);
    if let Some(hint) = hint_elsewhere(typed, |name| name == typed) {
        return hint;
    }
    if let Some(name) = nearest(typed, names(keys)) {
        return format!("did you mean {table}{name}?");
    }
    let all = TABLES.iter().flat_map(|(_, _, keys)| names(keys));
    if let Some(near) = nearest(typed, all)
        && let Some(hint) = hint_elsewhere(typed, |name| name == near)
    {
        return hint;
    }
    let known: Vec<_> = names(keys).collect();
    format!("[{}] takes {}", table.trim_end_matches('.'), known.join(", "))
}

fn hint_elsewhere(typed: &str, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let (title, name) = TABLES.iter().find_map(|(title, _, keys)| {
        names(keys).find(|name| wanted(name)).map(|name| (title, name))
    })?;
    Some(match name == typed {
        true => format!("{name} belongs to [{title}]"),
        false => format!("did you mean {title}.{name}?"),
    })
}

fn hint_for_table(typed: &str) -> String {
    if let Some(hint) = hint_elsewhere(typed, |name| name == typed) {
        return hint;
    }
    match nearest(typed, TABLE_NAMES) {
        Some(name) => format!("did you mean [{name}]?"),
        None => "the tables are [node], [mqtt], [limits], [store], [cluster], [auth], [admin], \
             [log], [ebpf] and [listener.NAME]"
            .into(),
    }
}
