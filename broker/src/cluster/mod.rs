//! The cluster, as this node is part of it: membership, leases, the metadata.
//!
//! One thread, `cluster`, with a runtime of its own, apart from the shards: a
//! burst of messages delays no heartbeat. It holds the mesh, this node's replica
//! of the meta group, and the tasks of a member:
//!
//! ```text
//! enter     discovery, probes, bootstrap: found a cluster, or join one
//! member    register this life, hold the lease, know the metadata and the peers
//! lead      at the leader: grant leases, say who is down, voters, placement
//! ```
//!
//! What is decided is decided in `tidegate-cluster`; here are clocks, sockets and
//! the disk. The rest of the node sees [`Cluster`] and its [`View`].

mod about;
mod config_map;
mod core;
mod discover;
mod enter;
pub mod faces;
mod fares;
mod http;
mod inherit;
mod lead;
mod log;
mod machine;
mod member;
mod mesh;
mod question;
mod recover;
mod replicas;
mod view;
mod wire;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tidegate_cluster::ids::{ClusterId, Incarnation, Life, Member, NodeId, StoreId};
use tidegate_cluster::meta::Meta;
use tidegate_consensus::{Groups, META, Timers};
use tidegate_mesh::{Identity, Mesh, MeshConfig, Role, Secret, Tls};
use tidegate_store::IdentityFile;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info};

pub use self::about::{About, Known};
pub use self::mesh::LinkEvent;
pub use self::replicas::Replica;
pub(crate) use self::replicas::is_under_replicated;
pub use self::view::{Cluster, NotDone, Phase, View};
pub use self::wire::Traffic;

use self::core::{Core, End, lock};
use self::machine::Machine;
use self::mesh::{Above, MeshWire};
use self::question::{Outcome, Presence};
use self::view::{Order, Policy};
use self::wire::{RaftWire, Wire};
use crate::config::{self, Isolated, SubscribeBarrier, Trust};

/// The exit status of a process whose life is over for the cluster: it was
/// silent for too long and others have taken over. Started again, it is a new one.
pub const EXIT_LIFE_OVER: i32 = 75;
/// The exit status when the data directory is void for the cluster (EX_CONFIG).
pub const EXIT_VOID: i32 = 78;

/// Orders that wait.
const ORDERS_MAX: usize = 64;

/// The membership, running.
pub(crate) struct Running {
    /// For the rest of the node.
    pub(crate) cluster: Arc<Cluster>,
    /// Links and mail, for the partitions.
    pub(crate) links: mpsc::UnboundedReceiver<LinkEvent>,
    /// The connections between nodes.
    pub(crate) mesh: Mesh,
    /// Where calls come in.
    pub(crate) above: Arc<Above>,
    failed: oneshot::Receiver<anyhow::Error>,
    /// What this node has kept goes into the cluster.
    keeps: bool,
}

impl Running {
    /// Waits until this life is registered: its cluster and its number. A node
    /// that has kept data also until the partitions are placed: on it, before
    /// anybody else could begin one.
    ///
    /// # Errors
    /// When it never will be.
    pub(crate) fn wait_registered(&mut self) -> anyhow::Result<(ClusterId, Member)> {
        loop {
            let view = self.cluster.view();
            let placed = view.meta.placement().iter().all(|replicas| !replicas.is_empty());
            if let (Some(cluster), Some(member), Phase::Registered) =
                (view.cluster, view.member(), &view.phase)
                && (placed || !self.keeps)
            {
                return Ok((cluster, member));
            }
            match self.failed.try_recv() {
                Ok(error) => return Err(error),
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => {
                    anyhow::bail!("the cluster's thread has ended");
                }
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What places client ids and topics in a cluster of this id.
pub(crate) fn seed_of(cluster: ClusterId) -> u64 {
    (cluster.0 >> 64) as u64 ^ cluster.0 as u64
}

/// An id by chance of a cluster whose client ids and topics this seed places, so
/// that what was kept with it stays in its partitions.
fn id_with(seed: u64, random: u128) -> ClusterId {
    let high = ((random >> 64) as u64).max(1);
    ClusterId(u128::from(high) << 64 | u128::from(high ^ seed))
}

/// Starts the thread. `keeps`: this node has kept data from when it was alone,
/// with that seed.
///
/// # Errors
/// When this node cannot be one of a cluster: its log of votes, its files, its port.
pub(crate) fn start(
    config: &config::Cluster,
    data_dir: &Path,
    identity: Arc<IdentityFile>,
    keeps: Option<u64>,
) -> anyhow::Result<Running> {
    let who = identity.identity()?;
    let trust = trust(config)?;
    let log = log::open(data_dir, who.store, &identity)?;
    let (orders, ordered) = mpsc::channel(ORDERS_MAX);
    let me = Life { node: NodeId(who.node), incarnation: Incarnation(who.generation) };
    let view = View {
        name: config.name.clone(),
        phase: Phase::Seeking("looks for its cluster".into()),
        cluster: who.cluster.map(ClusterId),
        me,
        store: StoreId(who.store),
        address: config.advertise.clone(),
        meta: Arc::new(Meta::new()),
        term: 0,
        leader: None,
        voters: BTreeSet::new(),
        up: BTreeSet::new(),
    };
    let policy = Policy {
        local_barrier: config.subscribe_barrier == SubscribeBarrier::Local,
        closes_isolated: config.isolated == Isolated::Close,
        reconnects_per_second: config.reconnects_per_second,
    };
    let about = About {
        version: env!("CARGO_PKG_VERSION").into(),
        clients_at: config.advertise_clients.clone().unwrap_or_default(),
        ..About::default()
    };
    let cluster = Arc::new(Cluster::new(view, policy, about, orders));
    let (told, links) = mpsc::unbounded_channel();
    let (fail, failed) = oneshot::channel();
    let (started, has_started) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (config, shown) = (config.clone(), Arc::clone(&cluster));
    thread::Builder::new().name("cluster".to_owned()).spawn(move || {
        runtime.block_on(async move {
            let mesh_identity = Identity {
                name: config.name.clone(),
                cluster: tidegate_mesh::ClusterId(who.cluster.unwrap_or(0)),
                generation: who.generation,
                node: tidegate_mesh::NodeId(who.node),
                store: tidegate_mesh::StoreId(who.store),
                incarnation: who.generation,
                role: if who.cluster.is_some() { Role::Member } else { Role::Fresh },
                address: config.advertise.clone(),
                config_hash: [0; 32],
                features: 0,
                proto_max: config.protocol_max,
            };
            let above = Arc::new(Above::new(told));
            let mesh_config = MeshConfig::new(config.bind, mesh_identity.clone(), trust);
            let mesh = match Mesh::start(mesh_config, above.clone()).await {
                Ok(mesh) => mesh,
                Err(error) => {
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok((mesh.clone(), above.clone())));
            let identity_shown = Arc::new(Mutex::new(mesh_identity));
            let wire = MeshWire { mesh, identity: identity_shown };
            let ran = async {
                let core = open(config, shown, identity, keeps, wire, log, Box::new(end)).await?;
                let _ = above.core.set(core.clone());
                // A node without replicas takes none.
                tokio::spawn(mesh::settle(core.clone(), above.clone()));
                run(core, ordered).await
            };
            if let Err(error) = ran.await {
                // It is logged by whoever waits, or here.
                if let Err(error) = fail.send(error) {
                    error!(error = format!("{error:#}"), "the cluster's thread cannot go on");
                    std::process::exit(EXIT_VOID);
                }
            }
        });
    })?;
    let started = has_started.recv().context("the cluster's thread has ended")?;
    let (mesh, above) = started.context("cluster.bind")?;
    Ok(Running { cluster, links, mesh, above, failed, keeps: keeps.is_some() })
}

/// What this process does at its end as a member.
fn end(end: End) {
    match end {
        End::LifeOver(why) => {
            error!(why, "this life is over for the cluster; the process has to begin anew");
            std::process::exit(EXIT_LIFE_OVER);
        }
        End::Void(why) => {
            error!(why, "the cluster does not take this data directory");
            std::process::exit(EXIT_VOID);
        }
    }
}

/// This node's replica of the meta group, open, and all that the tasks share.
async fn open<W: Wire>(
    config: config::Cluster,
    cluster: Arc<Cluster>,
    identity: Arc<IdentityFile>,
    keeps: Option<u64>,
    wire: W,
    log: log::MetaLog,
    ended: Box<dyn Fn(End) + Send + Sync>,
) -> anyhow::Result<Arc<Core<W>>> {
    let view = cluster.view();
    let log::MetaLog { reader, writer, snapshots, index } = log;
    let transport = RaftWire(wire.clone());
    let groups =
        Groups::new(view.me.node.0, Timers::default(), reader, writer, snapshots, transport);
    let (shown, own) = watch::channel(Arc::new(Meta::new()));
    let telling = Arc::new(AtomicBool::new(false));
    groups.open(META, index, Machine::new(shown.clone(), telling.clone())).await?;
    telling.store(true, Ordering::Relaxed);
    let presence = match view.cluster {
        Some(cluster) => Presence::Member(cluster),
        None => {
            let (store, keeps) = (view.store, keeps.is_some());
            Presence::Fresh { store, list: None, asked: false, keeps }
        }
    };
    let core = Core {
        config,
        me: view.me,
        store: view.store,
        keeps,
        identity,
        wire,
        groups,
        cluster,
        own,
        shown,
        telling,
        book: Mutex::default(),
        presence: Mutex::new(presence),
        desk: Mutex::default(),
        granted: AtomicU64::new(0),
        hint: Mutex::default(),
        registered: AtomicBool::new(false),
        asked: AtomicBool::new(false),
        despite_silent: AtomicBool::new(false),
        hurry: AtomicBool::new(false),
        named: Mutex::default(),
        told: Mutex::default(),
        ended,
    };
    if let Presence::Fresh { list, .. } = &mut *lock(&core.presence) {
        *list = core.list_hash();
    }
    Ok(Arc::new(core))
}

/// Runs the membership for ever.
async fn run<W: Wire>(core: Arc<Core<W>>, ordered: mpsc::Receiver<Order>) -> anyhow::Result<()> {
    tokio::spawn(obey(core.clone(), ordered));
    tokio::spawn(member::own(core.clone()));
    tokio::spawn(lead::leases(core.clone()));
    tokio::spawn(lead::duties(core.clone()));
    let cluster = match core.cluster.view().cluster {
        Some(cluster) => {
            info!(%cluster, name = core.config.name, "this node comes back to its cluster");
            core.cluster.change(|view| {
                view.phase = Phase::Registering("looks for its cluster".into());
                true
            });
            member::remembered(&core, cluster);
            cluster
        }
        None => enter::enter(&core).await?,
    };
    tokio::spawn(member::seek(core.clone()));
    tokio::spawn(member::follow(core.clone()));
    tokio::spawn(member::remember(core.clone()));
    tokio::spawn(member::links(core.clone()));
    tokio::spawn(about::ask(core.clone()));
    tokio::spawn(member::lease(core.clone()));
    member::register(core, cluster).await;
    // It has said why.
    std::future::pending().await
}

/// Does what operators and the rest of the node ask.
async fn obey<W: Wire>(core: Arc<Core<W>>, mut ordered: mpsc::Receiver<Order>) {
    while let Some(order) = ordered.recv().await {
        match order {
            Order::Init { despite_silent, answer } => {
                let _ = answer.send(init(&core, despite_silent));
            }
            Order::Join { address, answer } => {
                let _ = answer.send(join(&core, address));
            }
            Order::Rebalance { answer } => {
                let core = core.clone();
                tokio::spawn(async move {
                    let _ = answer.send(done(core.rebalance().await));
                });
            }
            Order::Recover { lost, answer } => {
                let core = core.clone();
                tokio::spawn(async move {
                    let _ = answer.send(recover::recover(&core, lost).await);
                });
            }
            Order::Propose { command, answer } => {
                let core = core.clone();
                tokio::spawn(async move {
                    let view = core.cluster.view();
                    let outcome = match (&view.phase, view.cluster) {
                        (Phase::Seeking(why), _) => Err(NotDone::NoCluster(why.clone())),
                        (_member, _) => done(core.propose(command).await),
                    };
                    let _ = answer.send(outcome);
                });
            }
        }
    }
}

fn done(outcome: Outcome) -> Result<u64, NotDone> {
    match outcome {
        Outcome::Done(index) => Ok(index),
        Outcome::Refused(_, why) => Err(NotDone::Refused(why)),
        Outcome::Elsewhere(_) => Err(NotDone::NoLeader),
    }
}

fn init<W: Wire>(core: &Core<W>, despite_silent: bool) -> Result<String, String> {
    use crate::config::Bootstrap;
    if let Some(cluster) = core.cluster.view().cluster {
        return Err(format!("this node belongs to cluster {cluster} already"));
    }
    match core.config.bootstrap {
        Bootstrap::Init => {}
        Bootstrap::Kubernetes | Bootstrap::Static | Bootstrap::Single => {
            let label = core.config.bootstrap.label();
            return Err(format!(
                "cluster.bootstrap is {label:?}: the cluster founds itself; init is for \"init\""
            ));
        }
    }
    core.despite_silent.store(despite_silent, Ordering::Release);
    core.asked.store(true, Ordering::Release);
    Ok("this node founds the cluster, as soon as its peers answer that they have none\n".into())
}

fn join<W: Wire>(core: &Core<W>, address: String) -> Result<String, String> {
    if let Some(cluster) = core.cluster.view().cluster {
        return Err(format!("this node belongs to cluster {cluster} already"));
    }
    let mut named = lock(&core.named);
    if named.len() >= tidegate_cluster::limits::PEERS_MAX {
        return Err("too many peers were named".into());
    }
    let said = format!("this node looks for its cluster at {address} as well\n");
    named.insert(address);
    Ok(said)
}

fn trust(config: &config::Cluster) -> anyhow::Result<tidegate_mesh::Trust> {
    let read = |key: &str, path: &Path| {
        std::fs::read(path).with_context(|| format!("cluster.{key}: cannot read {path:?}"))
    };
    let secret = |bytes: Vec<u8>| Secret::new(bytes).map(tidegate_mesh::Trust::Secret);
    match &config.trust {
        Trust::Secret(hidden) => secret(hidden.0.clone().into_bytes()).context("cluster.secret"),
        Trust::SecretFile(path) => {
            let text = read("secret_file", path)?;
            secret(text.trim_ascii().to_vec())
                .with_context(|| format!("cluster.secret_file: {path:?}"))
        }
        Trust::Tls { certificate, key, ca } => {
            let (chain, key) = (read("tls_certificate", certificate)?, read("tls_key", key)?);
            let tls = Tls::from_pem(&read("tls_ca", ca)?, &chain, &key, Vec::new());
            Ok(tidegate_mesh::Trust::Tls(Arc::new(tls.context("cluster.tls_certificate")?)))
        }
        // Whoever is on this machine may join; the name keeps clusters apart.
        Trust::Loopback => {
            let text = format!("loopback without a secret: {}", config.name);
            secret(text.into_bytes()).context("cluster.name")
        }
    }
}

/// Reads the files that a config names, as a start would.
///
/// # Errors
/// What is wrong with them.
pub(crate) fn check_files(config: &config::Cluster) -> anyhow::Result<()> {
    trust(config).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_for_a_seed() {
        for (seed, random) in [(0, 0), (7, u128::MAX), (u64::MAX, 1), (0x1234, 0x5678 << 80)] {
            let id = id_with(seed, random);
            assert_eq!(seed_of(id), seed);
            assert_ne!(id.0, 0);
        }
        assert_ne!(id_with(7, 1 << 64), id_with(7, 2 << 64));
    }
}
