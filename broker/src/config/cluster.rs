//! `[cluster]`: how this node is one of many.
//!
//! The table counts once it has a name. What the keys mean together is checked
//! here, so that a node never comes up that its peers can't reach, that anybody
//! may join, or that could found a second cluster beside the first.

use std::net::SocketAddr;
use std::path::PathBuf;

use tidegate_cluster::limits::{ADDRESS_BYTES_MAX, PEERS_MAX, ZONE_BYTES_MAX};
use tidegate_core::ids::PARTITIONS;
use toml::Value;

use super::file::{ClusterTable, File, NodeTable};
use super::key::{Key, Setting, Shape, choice, shown};
use super::problem::{Faults, Problem};
use super::resolve::{Warning, check_name};
use super::store::Durability;

const NAME_MAX: usize = 63;
/// Bytes of a shared secret, at least: it is to be drawn, not thought up.
pub const SECRET_BYTES_MIN: usize = 16;
const CONFIG_MAP_MAX: usize = 253;
/// The largest packet whose message still fits in one entry of a partition's log,
/// and in one piece of mail, whatever else waits there.
const PACKET_BYTES_MAX: u32 = 8 << 20;

/// Where a node finds its peers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Discovery {
    /// All addresses of a name, such as that of a headless service, at a port.
    Dns {
        /// The name.
        name: String,
        /// The port of each address.
        port: u16,
    },
    /// These.
    Static(Vec<String>),
    /// A line an address; read again when it is looked for peers again.
    File(PathBuf),
}

/// How the first node of a cluster comes about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Bootstrap {
    /// The node that creates a ConfigMap.
    Kubernetes,
    /// `tidegate cluster init`, once, at any node.
    #[default]
    Init,
    /// The smallest address of a list that all have alike, once all are there.
    Static,
    /// This node, alone.
    Single,
}

choice!(Bootstrap {
    Bootstrap::Kubernetes => "kubernetes",
    Bootstrap::Init => "init",
    Bootstrap::Static => "static",
    Bootstrap::Single => "single",
});

impl Bootstrap {
    /// As it is typed.
    pub fn label(self) -> &'static str {
        match self {
            Bootstrap::Kubernetes => "kubernetes",
            Bootstrap::Init => "init",
            Bootstrap::Static => "static",
            Bootstrap::Single => "single",
        }
    }
}

/// Who has to know of a subscription before it is acknowledged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum SubscribeBarrier {
    /// Every node that serves clients.
    #[default]
    Cluster,
    /// This node.
    Local,
}

choice!(SubscribeBarrier {
    SubscribeBarrier::Cluster => "cluster",
    SubscribeBarrier::Local => "local",
});

/// What becomes of the clients of a node that is cut off from the others.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Isolated {
    /// They are closed, 10 s after its lease has run out.
    #[default]
    Close,
    /// They stay connected, and are not served until the node is back.
    Hold,
}

choice!(Isolated { Isolated::Close => "close", Isolated::Hold => "hold" });

/// A text that is not shown.
#[derive(Clone, Eq, PartialEq)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden")
    }
}

impl Setting for Hidden {
    const SHAPE: Shape = Shape::Text;
    fn read(key: &Key, path: &str, value: &Value) -> Result<Hidden, Problem> {
        match value {
            Value::String(text) => Ok(Hidden(text.clone())),
            Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Array(_)
            | Value::Table(_) => Err(match key.mistyped(path, value) {
                Problem::Mistyped { key, found, wanted, .. } => {
                    Problem::Mistyped { key, value: "what is typed".into(), found, wanted }
                }
                other => other,
            }),
        }
    }
    fn show(&self) -> String {
        "\"(hidden)\"".into()
    }
}

/// Whether a text is `HOST:PORT`, with a port that is not 0.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match literal {
        Some(literal) => literal.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_host(host),
    };
    good && port.parse::<u16>().is_ok_and(|port| port != 0) && text.len() <= ADDRESS_BYTES_MAX
}

fn is_host(host: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !host.is_empty() && host.chars().all(fits)
}

impl Setting for Discovery {
    const SHAPE: Shape = Shape::Discovery;
    fn read(key: &Key, path: &str, value: &Value) -> Result<Discovery, Problem> {
        let unfit = |value: &str, why: &str, fix: &str| Problem::Unfit {
            key: path.into(),
            value: value.into(),
            why: why.into(),
            fix: fix.into(),
        };
        let list = |addresses: Vec<&str>| {
            if addresses.len() > PEERS_MAX {
                let (count, max) = (addresses.len(), PEERS_MAX);
                return Err(Problem::ListTooLong { key: path.into(), count, max });
            }
            match addresses.iter().find(|address| !is_host_and_port(address)) {
                Some(bad) => {
                    Err(unfit(bad, "is no host and port", "use one such as 10.0.0.1:7883"))
                }
                None => Ok(Discovery::Static(addresses.into_iter().map(str::to_owned).collect())),
            }
        };
        match value {
            Value::String(text) => match text.split_once(':') {
                Some(("dns", rest)) => {
                    let named = rest.rsplit_once(':').filter(|_| is_host_and_port(rest));
                    let parsed = named.and_then(|(name, port)| Some((name, port.parse().ok()?)));
                    let (name, port) = parsed.ok_or_else(|| {
                        unfit(
                            text,
                            "does not name a service and port",
                            "use one such as dns:tidegate-peers.messaging.svc:7883",
                        )
                    })?;
                    Ok(Discovery::Dns { name: name.into(), port })
                }
                Some(("file", rest)) if !rest.is_empty() => Ok(Discovery::File(rest.into())),
                // As the environment has a list.
                Some(_) | None => {
                    list(text.split(',').map(str::trim).filter(|text| !text.is_empty()).collect())
                }
            },
            Value::Array(items) => {
                let texts =
                    items.iter().map(|item| item.as_str().ok_or_else(|| key.mistyped(path, item)));
                list(texts.collect::<Result<_, _>>()?)
            }
            Value::Integer(_)
            | Value::Float(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Table(_) => Err(key.mistyped(path, value)),
        }
    }
    fn show(&self) -> String {
        match self {
            Discovery::Dns { name, port } => format!("\"dns:{name}:{port}\""),
            Discovery::File(path) => shown(&Value::String(format!("file:{}", path.display()))),
            Discovery::Static(list) => {
                let quoted: Vec<_> = list.iter().map(|address| format!("\"{address}\"")).collect();
                format!("[{}]", quoted.join(", "))
            }
        }
    }
}

/// How nodes come to believe each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trust {
    /// By certificates that one authority has signed.
    Tls {
        /// Chain in PEM.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
        /// Who signs the peers' certificates.
        ca: PathBuf,
    },
    /// By a secret that all have.
    Secret(Hidden),
    /// By a secret in a file.
    SecretFile(PathBuf),
    /// Not at all, on loopback.
    Loopback,
}

/// The node as one of a cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cluster {
    /// Nodes of another name are refused.
    pub name: String,
    /// What the node is called, if that is its own.
    pub node: String,
    /// Where peers come in.
    pub bind: SocketAddr,
    /// Where peers are told to come in.
    pub advertise: String,
    /// Where it finds its peers; none: it has to be found.
    pub discovery: Option<Discovery>,
    /// How the first one comes about.
    pub bootstrap: Bootstrap,
    /// The object of `bootstrap = "kubernetes"`.
    pub config_map: String,
    /// Replicas of a partition; 0: 3 where there are 3 nodes, else what there is.
    pub replication_factor: u8,
    /// How peers believe it, and it them.
    pub trust: Trust,
    /// Where it stands.
    pub zone: String,
    /// Who has to know of a subscription before it is acknowledged.
    pub subscribe_barrier: SubscribeBarrier,
    /// What becomes of its clients when it is cut off.
    pub isolated: Isolated,
    /// The newest version of the protocol between nodes that it speaks.
    pub protocol_max: u16,
    /// Where clients reach it, for those that others send away.
    pub advertise_clients: Option<String>,
    /// Clients a second that nodes which drain send away, in all.
    pub reconnects_per_second: u32,
}

/// Checks what was typed; none: the node is alone.
pub(super) fn resolve(
    file: &File,
    warnings: &mut Vec<Warning>,
    faults: &mut Faults,
) -> Option<Cluster> {
    let typed = &file.cluster;
    let Some(name) = typed.name.clone() else {
        if !faults.about("cluster.name") {
            without_a_name(typed, faults);
        }
        return None;
    };
    let allowed = "lower-case letters, digits, '.', '-', '_'";
    if name != name.to_ascii_lowercase() {
        let (value, max) = (name.clone(), NAME_MAX);
        faults.push(Problem::NotAName { key: "cluster.name".into(), value, max, allowed });
    } else {
        check_name("cluster.name", &name, NAME_MAX, allowed, faults);
    }
    if file.store.durability() == Durability::Memory {
        faults.push(Problem::Unfit {
            key: "store.durability".into(),
            value: Durability::Memory.label().into(),
            why: "forgets what this node has voted for and promised to its cluster".into(),
            fix: "use \"fsync\" or \"os\", or remove cluster.name".into(),
        });
    }
    let packet_bytes = file.limits.packet_bytes_max();
    if packet_bytes > PACKET_BYTES_MAX {
        faults.push(Problem::Unfit {
            key: "limits.packet_bytes_max".into(),
            value: packet_bytes.to_string(),
            why: "is more than goes from node to node in one piece".into(),
            fix: format!("use at most {PACKET_BYTES_MAX}, or remove cluster.name"),
        });
    }
    numbers(typed, warnings, faults);
    let zone = typed.zone();
    if zone.len() > ZONE_BYTES_MAX {
        let (key, len, max) = ("cluster.zone".into(), zone.len(), ZONE_BYTES_MAX);
        faults.push(Problem::TextTooLong { key, len, max });
    }
    let bind = typed.bind();
    let advertise = advertise(typed, bind, faults);
    let trust = trust(typed, bind, faults);
    bootstrap(typed, &advertise, faults);
    let config_map = typed.config_map.clone().unwrap_or_else(|| format!("tidegate-{name}"));
    config_map_name(typed, &config_map, faults);
    Some(Cluster {
        // The default is everybody's.
        node: own_name(file),
        bind,
        advertise,
        discovery: typed.discovery.clone(),
        bootstrap: typed.bootstrap(),
        config_map,
        replication_factor: typed.replication_factor.unwrap_or(0),
        trust,
        zone,
        subscribe_barrier: typed.subscribe_barrier(),
        isolated: typed.isolated(),
        protocol_max: typed.protocol_max(),
        advertise_clients: advertise_clients(typed, faults),
        reconnects_per_second: typed.reconnects_per_second(),
        name,
    })
}

/// What a node is called, but for what all are called whom nobody has named.
fn own_name(file: &File) -> String {
    let name = file.node.name();
    if name == NodeTable::default().name() { String::new() } else { name }
}

/// Keys of a cluster that has no name: they were not meant for nothing.
fn without_a_name(typed: &ClusterTable, faults: &mut Faults) {
    for name in typed.set() {
        faults.push(Problem::NoEffect {
            key: format!("cluster.{name}"),
            when: "without cluster.name".into(),
            fix: "set cluster.name, or remove the key".into(),
        });
    }
}

fn numbers(typed: &ClusterTable, warnings: &mut Vec<Warning>, faults: &mut Faults) {
    let mut unfit = |key: &str, value: u16, why: &str, fix: &str| {
        faults.push(Problem::Unfit {
            key: key.into(),
            value: value.to_string(),
            why: why.into(),
            fix: fix.into(),
        });
    };
    match typed.replication_factor {
        Some(4) => unfit(
            "cluster.replication_factor",
            4,
            "survives no more than 3 does, and costs one copy more",
            "use 1, 2, 3 or 5",
        ),
        Some(2) => warnings.push(Warning::TwoReplicas),
        Some(_) | None => {}
    }
    if typed.partitions() != PARTITIONS {
        unfit(
            "cluster.partitions",
            typed.partitions(),
            "is not offered by this version, in which every cluster has 64",
            "use 64, or remove the key",
        );
    }
}

/// Where peers are told to come in.
fn advertise(typed: &ClusterTable, bind: SocketAddr, faults: &mut Faults) -> String {
    if bind.port() == 0 {
        faults.push(Problem::Unfit {
            key: "cluster.bind".into(),
            value: bind.to_string(),
            why: "leaves the port to the kernel, and peers have to know it".into(),
            fix: "use a fixed port such as 7883".into(),
        });
    }
    let Some(advertise) = typed.advertise.clone() else {
        if bind.ip().is_unspecified() {
            faults.push(Problem::Missing {
                key: "cluster.advertise".into(),
                why: format!("peers can't call {bind}"),
                fix: "name the address and port where they reach this node, such as 10.0.0.1:7883"
                    .into(),
            });
        }
        return bind.to_string();
    };
    if !is_host_and_port(&advertise) {
        faults.push(Problem::Unfit {
            key: "cluster.advertise".into(),
            value: advertise.clone(),
            why: "is no host and port".into(),
            fix: "use one such as 10.0.0.1:7883".into(),
        });
    }
    advertise
}

/// Where clients are told to come in.
fn advertise_clients(typed: &ClusterTable, faults: &mut Faults) -> Option<String> {
    let advertise = typed.advertise_clients.clone()?;
    if !is_host_and_port(&advertise) {
        faults.push(Problem::Unfit {
            key: "cluster.advertise_clients".into(),
            value: advertise.clone(),
            why: "is no host and port".into(),
            fix: "use one such as mqtt-1.example.org:1883".into(),
        });
    }
    Some(advertise)
}

fn trust(typed: &ClusterTable, bind: SocketAddr, faults: &mut Faults) -> Trust {
    let tls = [
        ("tls_certificate", &typed.tls_certificate),
        ("tls_key", &typed.tls_key),
        ("tls_ca", &typed.tls_ca),
    ];
    let both = |faults: &mut Faults, key: &str, other: &str| {
        faults.push(Problem::NoEffect {
            key: format!("cluster.{key}"),
            when: format!("with cluster.{other}"),
            fix: "keep one of them".into(),
        });
    };
    if tls.iter().any(|(_, path)| path.is_some()) {
        for (name, _) in tls.iter().filter(|(_, path)| path.is_none()) {
            faults.push(Problem::Missing {
                key: format!("cluster.{name}"),
                why: "TLS between nodes needs certificate, key and authority".into(),
                fix: "name its file".into(),
            });
        }
        if typed.secret.is_some() {
            both(faults, "secret", "tls_certificate");
        }
        if typed.secret_file.is_some() {
            both(faults, "secret_file", "tls_certificate");
        }
        let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
        return Trust::Tls {
            certificate: path(&typed.tls_certificate),
            key: path(&typed.tls_key),
            ca: path(&typed.tls_ca),
        };
    }
    match (&typed.secret, &typed.secret_file) {
        (Some(_), Some(_)) => {
            both(faults, "secret", "secret_file");
            Trust::Loopback
        }
        (Some(secret), None) => {
            if secret.0.len() < SECRET_BYTES_MIN {
                faults.push(Problem::Unfit {
                    key: "cluster.secret".into(),
                    value: "(hidden)".into(),
                    why: format!("has {} bytes, and could be guessed", secret.0.len()),
                    fix: format!("draw one of at least {SECRET_BYTES_MIN} bytes, such as by `openssl rand -hex 32`"),
                });
            }
            Trust::Secret(secret.clone())
        }
        (None, Some(path)) => Trust::SecretFile(path.clone()),
        (None, None) => {
            if !bind.ip().is_loopback() {
                faults.push(Problem::Unfit {
                    key: "cluster.bind".into(),
                    value: bind.to_string(),
                    why: "is off loopback, and nothing says who may join".into(),
                    fix: "set cluster.secret_file, or cluster.tls_certificate with tls_key and \
                          tls_ca, or bind to 127.0.0.1"
                        .into(),
                });
            }
            Trust::Loopback
        }
    }
}

fn bootstrap(typed: &ClusterTable, advertise: &str, faults: &mut Faults) {
    let bootstrap = typed.bootstrap();
    let mut unfit = |why: &str, fix: &str| {
        faults.push(Problem::Unfit {
            key: "cluster.bootstrap".into(),
            value: bootstrap.label().into(),
            why: why.into(),
            fix: fix.into(),
        });
    };
    match (bootstrap, &typed.discovery) {
        (Bootstrap::Single, None) | (Bootstrap::Kubernetes | Bootstrap::Init, Some(_)) => {}
        (Bootstrap::Single, Some(_)) => unfit(
            "founds a cluster without looking for peers, and cluster.discovery names some",
            "use \"init\", or remove cluster.discovery",
        ),
        (Bootstrap::Static, Some(Discovery::Static(list))) => {
            if !list.iter().any(|address| address == advertise) {
                unfit(
                    &format!("needs this node, {advertise}, in the list of cluster.discovery"),
                    "add it there, or set cluster.advertise as the list has it",
                );
            }
        }
        (Bootstrap::Static, Some(Discovery::Dns { .. } | Discovery::File(_))) => unfit(
            "needs the same list at every node, and cluster.discovery is none",
            "list all addresses in cluster.discovery, or use \"init\" or \"kubernetes\"",
        ),
        (Bootstrap::Static | Bootstrap::Kubernetes | Bootstrap::Init, None) => {
            faults.push(Problem::Missing {
                key: "cluster.discovery".into(),
                why: format!("cluster.bootstrap = {:?} looks for peers", bootstrap.label()),
                fix: "name them, or use cluster.bootstrap = \"single\"".into(),
            });
        }
    }
}

fn config_map_name(typed: &ClusterTable, name: &str, faults: &mut Faults) {
    if typed.config_map.is_some() && typed.bootstrap() != Bootstrap::Kubernetes {
        faults.push(Problem::NoEffect {
            key: "cluster.config_map".into(),
            when: format!("with cluster.bootstrap = {:?}", typed.bootstrap().label()),
            fix: "use cluster.bootstrap = \"kubernetes\", or remove the key".into(),
        });
    }
    // What Kubernetes takes as the name of an object.
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let good = name.len() <= CONFIG_MAP_MAX
        && name.chars().all(fits)
        && ends(name.chars().next())
        && ends(name.chars().next_back());
    if typed.bootstrap() == Bootstrap::Kubernetes && !good {
        faults.push(Problem::NotAName {
            key: "cluster.config_map".into(),
            value: name.into(),
            max: CONFIG_MAP_MAX,
            allowed: "lower-case letters, digits, '.' and '-', with a letter or digit at both ends",
        });
    }
}
