//! The config as meant: complete, checked, typed.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_core::limits::Limits;
use tidegate_core::settings::Settings;
use tracing_subscriber::EnvFilter;

use super::cluster::{self, Cluster};
use super::digest::digest;
use super::door::Door;
use super::ebpf::Ebpf;
use super::file::{File, ListenerTable};
use super::keepalive::{TcpKeepalive, keep_alive_below};
use super::listener::{Bind, Listener, Rate};
use super::problem::{Faults, Problem};
use super::store::{self, Store};
use crate::telemetry::log::Log;

/// Listeners a node; a name is a label in metrics.
pub const LISTENERS_MAX: usize = 16;
const LISTENER_NAME_MAX: usize = 32;
const NODE_NAME_MAX: usize = 64;
const RESPONSE_INFORMATION_MAX: usize = 1_024;
const DEFAULT_LISTENER: &str = "default";
const DEFAULT_BIND: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1883);

/// A node's config. It runs (CFG-1).
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node.
    pub name: String,
    /// Where the node keeps its files.
    pub data_dir: PathBuf,
    /// Shards; none: one a core, within the CPU quota.
    pub shards: Option<usize>,
    /// From SIGTERM to the exit at the latest.
    pub drain: Duration,
    /// Of it, the time before the listeners close.
    pub unready: Duration,
    /// What has to survive.
    pub store: Store,
    /// As one of a cluster; none: it is alone.
    pub cluster: Option<Cluster>,
    /// Who may come in.
    pub auth: Auth,
    /// For each accepted socket.
    pub keepalive: TcpKeepalive,
    /// Where clients come in, at least one; a listener's index is its place here.
    pub listeners: Vec<Listener>,
    /// What clients are offered, and the bounds.
    pub settings: Settings,
    /// Address of the admin port.
    pub admin_bind: SocketAddr,
    /// What is logged, and how.
    pub log: Log,
    /// What the kernel does for us.
    pub ebpf: Ebpf,
    /// CRC32C of all settings but those of one node: the same where nodes are set
    /// alike.
    pub digest: u32,
    /// What runs, but perhaps not as meant; logged at start.
    pub warnings: Vec<Warning>,
}

/// Who may come in, and what they may do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Auth {
    /// Users and hashes.
    pub password_file: Option<PathBuf>,
    /// What they may publish and subscribe to.
    pub acl_file: Option<PathBuf>,
    /// Threads that check passwords.
    pub hash_threads: usize,
    /// CONNECTs that wait for one.
    pub hash_queue_max: usize,
}

impl Default for Config {
    /// What runs without a file, flags or environment.
    fn default() -> Config {
        let mut faults = Faults::default();
        let config = resolve(&File::default(), &mut faults);
        faults.into_result(config, &Default::default()).expect("a test resolves the defaults")
    }
}

/// What runs, but perhaps not as meant.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Warning {
    #[error(
        "mqtt.keep_alive_max_seconds: {keep_alive} does not keep clients below \
         node.lb_idle_timeout_seconds = {timeout}; use 1 to {most}, or remove the key"
    )]
    KeepAliveAboveBalancer { keep_alive: u16, timeout: u32, most: u16 },
    #[error("listener.{name}: anybody who reaches {bind} can publish and subscribe")]
    OpenToAnybody { name: String, bind: Bind },
    #[error(
        "cluster.replication_factor: 2 keeps every acknowledged message on two nodes, and with one \
         of them down its partitions stop, new connections of their client ids included, until it \
         is back; with 3 the service goes on by itself"
    )]
    TwoReplicas,
}

/// Checks what was typed and fills in the rest.
///
/// The result is of use only when `faults` stayed empty.
pub fn resolve(file: &File, faults: &mut Faults) -> Config {
    let node = &file.node;
    let mut warnings = Vec::new();
    let settings = settings(file, &mut warnings, faults);
    let listeners = listeners(file, &mut warnings, faults);
    let admin_bind = file.admin.bind();
    let cluster = cluster::resolve(file, &mut warnings, faults);
    check_addresses(&listeners, admin_bind, cluster.as_ref(), faults);
    if node.unready_seconds() > node.drain_seconds() {
        faults.push(Problem::Unfit {
            key: "node.unready_seconds".into(),
            value: node.unready_seconds().to_string(),
            why: format!("is above node.drain_seconds = {}", node.drain_seconds()),
            fix: "use less, or a longer drain".into(),
        });
    }
    check_name("node.name", &node.name(), NODE_NAME_MAX, "letters, digits, '.', '-', '_'", faults);
    check_filter(&file.log.filter(), faults);
    let mut config = Config {
        name: node.name(),
        data_dir: node.data_dir(),
        shards: node.shards.map(usize::from),
        drain: Duration::from_secs(node.drain_seconds().into()),
        unready: Duration::from_secs(node.unready_seconds().into()),
        store: store::resolve(&file.store, faults),
        cluster,
        auth: Auth {
            password_file: file.auth.password_file.clone(),
            acl_file: file.auth.acl_file.clone(),
            hash_threads: file.auth.hash_threads().into(),
            hash_queue_max: file.auth.hash_queue_max() as usize,
        },
        keepalive: node
            .lb_idle_timeout_seconds
            .map_or_else(TcpKeepalive::default, TcpKeepalive::below),
        listeners,
        settings,
        admin_bind,
        log: Log {
            level: file.log.level(),
            format: file.log.format(),
            filter: file.log.filter(),
            output: file.log.output(),
            lines_per_second: file.log.lines_per_second(),
        },
        ebpf: Ebpf {
            steer: file.ebpf.steer(),
            tcpstat: file.ebpf.tcpstat(),
            conntrack: file.ebpf.conntrack(),
        },
        digest: 0,
        warnings,
    };
    config.digest = digest(file, &config);
    config
}

fn settings(file: &File, warnings: &mut Vec<Warning>, faults: &mut Faults) -> Settings {
    let mqtt = &file.mqtt;
    let timeout = file.node.lb_idle_timeout_seconds;
    let keep_alive_max_seconds = match (mqtt.keep_alive_max_seconds, timeout) {
        (None, Some(timeout)) => keep_alive_below(timeout),
        (None, None) => mqtt.keep_alive_max_seconds(),
        (Some(keep_alive), None) => keep_alive,
        (Some(keep_alive), Some(timeout)) => {
            if keep_alive == 0 || u32::from(keep_alive) >= timeout {
                let most = keep_alive_below(timeout);
                warnings.push(Warning::KeepAliveAboveBalancer { keep_alive, timeout, most });
            }
            keep_alive
        }
    };
    let response_information = mqtt.response_information();
    if response_information.len() > RESPONSE_INFORMATION_MAX {
        faults.push(Problem::TextTooLong {
            key: "mqtt.response_information".into(),
            len: response_information.len(),
            max: RESPONSE_INFORMATION_MAX,
        });
    }
    // A UTF-8 string of MQTT holds no NUL [MQTT-1.5.4-2], and should hold no
    // control character.
    if response_information.chars().any(char::is_control) {
        faults.push(Problem::NotAName {
            key: "mqtt.response_information".into(),
            value: response_information.clone(),
            max: RESPONSE_INFORMATION_MAX,
            allowed: "characters that are not control characters",
        });
    }
    Settings {
        limits: limits(file, faults),
        qos_max: mqtt.qos_max(),
        retain_available: mqtt.retain_available(),
        wildcard_subscription_available: mqtt.wildcard_subscription_available(),
        subscription_identifier_available: mqtt.subscription_identifier_available(),
        shared_subscription_available: mqtt.shared_subscription_available(),
        topic_alias_in_max: mqtt.topic_alias_in_max(),
        topic_alias_out_max: mqtt.topic_alias_out_max(),
        keep_alive_max_seconds,
        keep_alive_strict: mqtt.keep_alive_strict(),
        payload_format_check: mqtt.payload_format_check(),
        share_redispatch_on_disconnect: mqtt.share_redispatch_on_disconnect(),
        refused_publish_closes: mqtt.refused_publish_closes(),
        response_information,
        reason_strings: mqtt.reason_strings(),
        sys_interval_seconds: mqtt.sys_interval_seconds(),
    }
}

fn limits(file: &File, faults: &mut Faults) -> Limits {
    let typed = &file.limits;
    let limits = Limits {
        connections_max: typed.connections_max(),
        half_open_max: typed.half_open_max(),
        connect_timeout_ms: typed.connect_timeout_ms(),
        packet_bytes_max: typed.packet_bytes_max(),
        client_id_bytes_max: typed.client_id_bytes_max(),
        topic_levels_max: typed.topic_levels_max(),
        subscriptions_max: typed.subscriptions_max(),
        queue_messages_max: typed.queue_messages_max(),
        queue_bytes_max: typed.queue_bytes_max(),
        queue_policy: typed.queue_policy(),
        queue_node_messages_max: typed.queue_node_messages_max(),
        queue_node_bytes_max: typed.queue_node_bytes_max(),
        inflight_out_max: typed.inflight_out_max(),
        inflight_in_max: typed.inflight_in_max(),
        write_buffer_bytes_max: typed.write_buffer_bytes_max(),
        retained_messages_max: typed.retained_messages_max(),
        retained_bytes_max: typed.retained_bytes_max(),
        source_prefix_v4: typed.source_prefix_v4(),
        source_prefix_v6: typed.source_prefix_v6(),
        client_connects_per_minute: typed.client_connects_per_minute(),
        memory_bytes_max: typed.memory_bytes_max(),
        sessions_max: typed.sessions_max(),
        session_expiry_max_seconds: typed.session_expiry_max_seconds(),
    };
    if limits.queue_bytes_max < u64::from(limits.packet_bytes_max) {
        faults.push(Problem::BelowOther {
            key: "limits.queue_bytes_max".into(),
            value: limits.queue_bytes_max,
            than: "limits.packet_bytes_max",
            least: limits.packet_bytes_max.into(),
            why: "so a large message could never wait",
        });
    }
    limits
}

fn listeners(file: &File, warnings: &mut Vec<Warning>, faults: &mut Faults) -> Vec<Listener> {
    let default = [(DEFAULT_LISTENER.to_owned(), ListenerTable::default())].into();
    let typed = if file.listeners.is_empty() { &default } else { &file.listeners };
    if typed.len() > LISTENERS_MAX {
        let (key, count) = ("listener".into(), typed.len());
        faults.push(Problem::TooManyListeners { key, count, max: LISTENERS_MAX });
    }
    typed.iter().filter_map(|(name, table)| listener(name, table, file, warnings, faults)).collect()
}

fn listener(
    name: &str,
    table: &ListenerTable,
    file: &File,
    warnings: &mut Vec<Warning>,
    faults: &mut Faults,
) -> Option<Listener> {
    let key = format!("listener.{name}");
    // Lower case and single underscores, so that the environment can name it.
    if name.contains("__") || name.contains(['-', '.']) || name != name.to_ascii_lowercase() {
        let allowed = "lower-case letters, digits and single '_'";
        let (value, max) = (name.into(), LISTENER_NAME_MAX);
        faults.push(Problem::NotAName { key: key.clone(), value, max, allowed });
    } else {
        let allowed = "lower-case letters, digits and single '_'";
        check_name(&key, name, LISTENER_NAME_MAX, allowed, faults);
    }
    let bind_key = format!("{key}.bind");
    let bind = match table.bind.clone() {
        Some(bind) => bind,
        None if faults.about(&bind_key) => return None,
        None if name == DEFAULT_LISTENER => Bind::Tcp(DEFAULT_BIND),
        None => {
            faults.push(Problem::BindMissing { key: bind_key });
            return None;
        }
    };
    let door = Door { key: &key, bind: &bind, table, auth: &file.auth };
    let anonymous = door.anonymous(warnings, faults);
    let tls = door.tls(faults);
    door.check(faults);
    Some(Listener {
        name: name.into(),
        ipv6_only: table.ipv6_only(),
        transport: table.transport(),
        ws_path: table.ws_path(),
        proxy_protocol: table.proxy_protocol(),
        trusted_sources: table.trusted_sources.clone().unwrap_or_default(),
        handshake_timeout: Duration::from_millis(table.handshake_timeout_ms().into()),
        tls,
        anonymous,
        user_from: table.user_from(),
        connections_max: table.connections_max,
        connects: rate(table.connects_per_second, table.connects_burst),
        source_connects: rate(table.source_connects_per_second, table.source_connects_burst),
        client_messages_per_second: table.client_messages_per_second.and_then(NonZeroU32::new),
        client_bytes_per_second: table.client_bytes_per_second.and_then(NonZeroU32::new),
        backlog: table.backlog(),
        blocked_sources: table.blocked_sources.clone().unwrap_or_default(),
        steering: table.steering(),
        shard_weights: table.shard_weights.clone().unwrap_or_default(),
        bind,
    })
}

fn rate(per_second: Option<u32>, burst: Option<u32>) -> Option<Rate> {
    per_second.map(|per_second| Rate { per_second, burst: burst.unwrap_or(per_second) })
}

/// Two sockets of a node on one address: the second could not be opened, or
/// would steal connections of the first.
fn check_addresses(
    listeners: &[Listener],
    admin: SocketAddr,
    cluster: Option<&Cluster>,
    faults: &mut Faults,
) {
    let mut taken: Vec<(String, &Bind, bool)> = Vec::new();
    let admin = Bind::Tcp(admin);
    let binds =
        listeners.iter().map(|l| (format!("listener.{}.bind", l.name), &l.bind, l.ipv6_only));
    let peers = cluster.map(|cluster| Bind::Tcp(cluster.bind));
    let peers = peers.iter().map(|bind| ("cluster.bind".to_owned(), bind, true));
    let admin = [("admin.bind".to_owned(), &admin, true)];
    for (key, bind, ipv6_only) in binds.chain(admin).chain(peers) {
        let same = |(_, other, other_v6_only): &&(String, &Bind, bool)| {
            overlap(other, bind, *other_v6_only && ipv6_only)
        };
        if let Some((other, other_bind, _)) = taken.iter().find(same) {
            let (other, taken) = (other.clone(), (*other_bind).clone());
            let bind = bind.clone();
            faults.push(Problem::AddressTaken { key: key.clone(), bind, other, taken });
        }
        taken.push((key, bind, ipv6_only));
    }
}

fn overlap(a: &Bind, b: &Bind, apart: bool) -> bool {
    match (a, b) {
        (Bind::Unix(a), Bind::Unix(b)) => a == b,
        (Bind::Tcp(a), Bind::Tcp(b)) => {
            let unspecified = a.ip().is_unspecified() || b.ip().is_unspecified();
            let same_family = a.is_ipv4() == b.is_ipv4() || !apart;
            let same_place = a.ip() == b.ip() || (unspecified && same_family);
            a.port() == b.port() && a.port() != 0 && same_place
        }
        (Bind::Unix(_), Bind::Tcp(_)) | (Bind::Tcp(_), Bind::Unix(_)) => false,
    }
}

pub(super) fn check_name(
    key: &str,
    name: &str,
    max: usize,
    allowed: &'static str,
    faults: &mut Faults,
) {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > max || !name.chars().all(fits) {
        faults.push(Problem::NotAName { key: key.into(), value: name.into(), max, allowed });
    }
}

fn check_filter(filter: &str, faults: &mut Faults) {
    if let Err(error) = EnvFilter::builder().parse(filter) {
        faults.push(Problem::NotAFilter {
            key: "log.filter".into(),
            value: filter.into(),
            message: error.to_string(),
            example: "tidegate::net=debug",
        });
    }
}
