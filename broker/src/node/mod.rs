//! A node: the shards, the admin thread, and the way up and down.
//!
//! Everything that can fail for a reason of the operator's (ports, descriptors)
//! happens before the first shard starts, so that a node either runs whole or
//! says why not and exits with 1.

pub mod cores;
pub mod doors;
pub mod panic;
pub mod shutdown;
pub mod sys;

mod admin_thread;
mod credentials;
mod notify;
pub(crate) mod queues;
mod reload;
mod source;
mod waiting;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::time::Instant;

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidegate_core::Node;
use tidegate_core::ids::{Member, ShardId};
use tidegate_kernel::capabilities::{self, Left};
use tokio::sync::mpsc;
use tracing::{info, warn};

use self::admin_thread::Sockets;
use self::cores::Cores;
use self::notify::Notify;
use self::shutdown::Ways;
use self::waiting::Waiting;
use crate::admin::control;
use crate::cluster;
use crate::config::{Config, Reload};
use crate::net::listener::{self, Bound, ListenOptions};
use crate::net::tls::{Pace, Watch};
use crate::observe::Observers;
use crate::overload::memory::Meter;
use crate::overload::monitor;
use crate::replication::start::Parts;
use crate::replication::{self, Outlet};
use crate::shard::clock::advance_to;
use crate::shard::{self, Plan, Shared};
use crate::steering::{self, Steer};
use crate::store::{self, Opened, Store};
use crate::system::sampler::{Listening, Sampler};
use crate::telemetry::health::Health;
use crate::telemetry::log;

pub use self::panic::EXIT_PANIC;

/// The exit status when a shard cannot go on.
pub const EXIT_SHARD_FAILED: i32 = EXIT_PANIC;

/// Runs a node until it is told to stop.
///
/// # Errors
/// When the node cannot start. Whatever breaks later ends the process.
pub fn run(config: Config, mut reload: Reload) -> anyhow::Result<()> {
    panic::exit_on_panic();
    let descriptors = raise_descriptor_limit();
    let cores = Cores::detect();
    let shards = cores.shards(config.shards);

    let doors = doors::open(&config)?;
    let doorman = Arc::new(credentials::open(&config)?);
    let opened = store::open(&config, RandomState::new().build_hasher().finish())?;
    let mut bound = bind_all(&config, shards)?;
    let admin = TcpListener::bind(config.admin_bind)
        .with_context(|| format!("admin.bind: cannot listen on {}", config.admin_bind))?;
    let admin_address = admin.local_addr().context("the admin port's address")?;

    let control = open_control(&config);
    let joined = match (&config.cluster, &opened) {
        (Some(cluster), Some(opened)) => {
            Some(join(cluster, &config, opened, control.as_ref(), &admin)?)
        }
        (Some(_), None) | (None, _) => None,
    };
    let opened = match (&joined, opened) {
        (Some(joined), Some(opened)) => {
            let seed = kept_seed(Some(joined), opened.seed);
            Some(opened.enter(seed)?)
        }
        (_, opened) => opened,
    };

    let membership = joined.as_ref().map(|joined| Arc::clone(&joined.cluster));
    let seed = RandomState::new().build_hasher().finish();
    let (mut settings, access) = (config.settings.clone(), doorman.access());
    queues::derive(&mut settings.limits, &config);
    let node = match &opened {
        Some(opened) => {
            let seed = kept_seed(joined.as_ref(), opened.seed);
            let node = Node::kept(settings, shards as u16, seed, access, opened.epoch);
            Arc::new(match joined.as_ref().and_then(|joined| joined.cluster.view().member()) {
                Some(member) => node.in_cluster(Member(member.0)),
                None => node,
            })
        }
        None => Node::new(settings, shards as u16, seed, access),
    };
    let mut shared =
        Shared::new(node, doors, doorman).context("cannot open the shards' mailboxes")?;
    shared.config_digest = config.digest.into();
    let durability = config.store.durability;
    shared.cluster = membership.clone();
    shared.store = opened.as_ref().map(|_| Arc::new(Store::new(durability, shards)));
    let mut said = None;
    if joined.is_some() {
        let (outlet, heard) = Outlet::new();
        (shared.outlet, said) = (Some(outlet), Some(heard));
    }
    // The last thing that wants privileges, and before anybody may come in.
    shared.system = Some(Sampler::new(&config, shards, Listening::of(&bound)));
    shared.steer = Steer::start(&config, &bound, shards, &cores, (seed >> 32) as u32)?;
    shared.observers = Observers::start(&config, &bound)?;
    doors::tell_in_kernel(&shared);
    drop_capabilities(shared.steer.is_on());
    shared.cores = (0..shards).map(|shard| cores.core(shard, shards)).collect();
    let shared = Arc::new(shared);
    credentials::start(&shared)?;
    let (drained, mut all_drained) = mpsc::channel(shards);
    let (replayed, mut all_replayed) = mpsc::channel(shards);
    let gate = Arc::new(Barrier::new(shards + 1));
    // In a cluster the Raft groups read it.
    let alone = opened.as_ref().filter(|_| joined.is_none());
    let recovery = alone.map(|opened| opened.recovery());
    let began = Instant::now();
    let mut threads = Vec::with_capacity(shards);
    for index in 0..shards {
        let plan = Plan {
            id: ShardId(index as u16),
            core: shared.cores[index],
            listeners: bound.iter_mut().map(|bound| bound.sockets.remove(0)).collect(),
            gauge: shared.steer.gauge(index),
            shared: Arc::clone(&shared),
            recovery: recovery.clone(),
            replayed: replayed.clone(),
            gate: Arc::clone(&gate),
            drained: drained.clone(),
        };
        threads.push(shard::start(plan).context("cannot start a shard's thread")?);
    }
    let replayed = (0..shards)
        .map(|_| all_replayed.blocking_recv().context("a shard did not start")?.map_err(Into::into))
        .collect::<anyhow::Result<Vec<_>>>()?;
    if let (Some(store), Some(opened)) = (&shared.store, opened) {
        let bytes = recovery.map_or(0, |recovery| recovery.bytes());
        advance_to(store.recovered(&replayed, bytes, began.elapsed()));
        match (joined, said) {
            (Some(joined), Some(said)) => {
                let started = opened.start_in_cluster(&shared, store, &config.store);
                let (log, held) = started.context("cannot start the store's threads")?;
                let cluster::Running { cluster, links, mesh, above, .. } = joined;
                let seed = shared.node.seed();
                let (shared, store) = (Arc::clone(&shared), Arc::clone(store));
                let parts = Parts { shared, store, cluster, log, held, mesh, said, links, seed };
                replication::start::start(parts, &config.data_dir, move |answering| {
                    above.set_partitions(answering);
                })?;
            }
            (None, _) | (_, None) => {
                let started = opened.start(&shared, store, &config.store);
                started.context("cannot start the store's threads")?;
            }
        }
    }
    gate.wait();
    // Once more, when what ended with the last process is written down as ended.
    gate.wait();
    doors::warn_of(&shared.doors);
    let (ask_reload, mut reloads) = mpsc::channel(1);
    let watch = {
        let shared = Arc::clone(&shared);
        let mut paths = doors::paths(&shared.doors);
        paths.extend(credentials::paths(&shared.doorman));
        Watch::start(paths, Pace::default(), move || {
            doors::reload(&shared.doors, None);
            credentials::reload(&shared, None);
        })
    };
    if let Err(error) = &watch {
        warn!(%error, "files are not watched: a change is seen at SIGHUP");
    }
    monitor::start(Meter::new(config.settings.limits.memory_bytes_max), Arc::clone(&shared))
        .context("cannot start the thread that watches memory")?;
    steering::keep(Arc::clone(&shared)).context("cannot start the thread of steering")?;
    let health = Arc::new(Health::default());
    let notify = Arc::new(Notify::from_environment());
    let sockets = Sockets { admin, control, ask_reload };
    admin_thread::start(sockets, &config, shared.clone(), health.clone(), notify.clone())
        .context("cannot start the admin thread")?;

    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %config.name,
        shards,
        cores = cores.mask.len(),
        cpu_quota = cores.quota,
        descriptors,
        admin = %admin_address,
        durability = durability.label(),
        "tidegate starts"
    );
    shared.store.iter().for_each(|store| store.announce());
    shared.steer.announce();
    shared.observers.announce();
    shared.system.iter().for_each(Sampler::announce);
    if shards > cores.mask.len() {
        warn!(shards, cores = cores.mask.len(), "more shards than cores: they are not pinned");
    }
    let listening: Vec<_> =
        bound.iter().map(|bound| (bound.name.as_str(), bound.address.to_string())).collect();
    let addresses: Vec<_> = listening.iter().map(|(_, address)| address.as_str()).collect();
    let status = format!("Serving MQTT on {}", addresses.join(", "));
    let doors = shared.doors.clone();
    let credentials = shared.clone();
    let tell = |way| match way {
        Ways::Up => {
            log::announce(&listening, admin_address);
            notify.ready(&status);
            String::new()
        }
        Ways::Again => {
            notify.reloading();
            let said = reload::reload(&mut reload, |config| {
                log::apply(&config.log)?;
                let mut said = doors::reload(&doors, Some(config));
                said.extend(credentials::reload(&credentials, Some(config)));
                said.extend(credentials.steer.reload(config));
                credentials.config_digest.store(config.digest, Ordering::Relaxed);
                Ok(said)
            });
            notify.ready(&status);
            said
        }
        Ways::Down => {
            notify.stopping("Asking the clients to go", config.drain);
            String::new()
        }
    };
    let (drain, unready) = (config.drain, config.unready);
    let down = &mut all_drained;
    let ended = shutdown::wait(shared, down, threads, &health, drain, unready, &mut reloads, tell);
    if let Some(membership) = membership {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        runtime.block_on(membership.goodbye());
    }
    ended
}

/// What places client ids and topics: the same at all nodes of a cluster.
fn kept_seed(joined: Option<&cluster::Running>, own: u64) -> u64 {
    match joined.and_then(|joined| joined.cluster.view().cluster) {
        Some(cluster) => cluster::seed_of(cluster),
        None => own,
    }
}

/// The control socket, if it can be had.
fn open_control(config: &Config) -> Option<UnixListener> {
    match control::open(&config.data_dir) {
        Ok(control) => Some(control),
        Err(error) => {
            let error = format!("{error:#}");
            warn!(error, "no control socket: commands such as `tidegate tls reload` do not work");
            None
        }
    }
}

/// Starts the membership and waits until this life has its number. Meanwhile
/// the node can be asked why it waits, and be told to found a cluster; it is
/// alive, and not ready.
fn join(
    cluster: &crate::config::Cluster,
    config: &Config,
    opened: &Opened,
    control: Option<&UnixListener>,
    admin: &TcpListener,
) -> anyhow::Result<cluster::Running> {
    let keeps = opened.keeps();
    let mut running = cluster::start(cluster, &config.data_dir, opened.identity(), keeps)?;
    let waiting = Waiting::start(control, admin, Arc::clone(&running.cluster))
        .context("cannot start the thread that answers while the node waits")?;
    let registered = running.wait_registered();
    waiting.end();
    let (id, member) = match keeps {
        Some(_) => registered.with_context(|| format!("{}", config.data_dir.display()))?,
        None => registered?,
    };
    let name = cluster.name.as_str();
    info!(cluster = %id, name, member = member.0, "this node is a member of its cluster");
    Ok(running)
}

/// Reads every file that a config names, as a start would.
///
/// # Errors
/// With all that is wrong with them.
pub fn check_files(config: &Config) -> anyhow::Result<()> {
    let peers = config.cluster.as_ref().and_then(|peers| cluster::check_files(peers).err());
    let found = [doors::open(config).err(), credentials::open(config).err(), peers];
    let faults: Vec<_> = found.iter().flatten().map(|fault| format!("{fault:#}")).collect();
    anyhow::ensure!(faults.is_empty(), faults.join("\n"));
    Ok(())
}

/// Opens all listeners on all shards.
fn bind_all(config: &Config, shards: usize) -> anyhow::Result<Vec<Bound>> {
    let bind = |wanted: &crate::config::Listener| {
        let options = ListenOptions {
            ipv6_only: wanted.ipv6_only,
            backlog: wanted.backlog,
            keepalive: Some(config.keepalive),
        };
        listener::bind(&wanted.name, &wanted.bind, options, shards)
    };
    Ok(config.listeners.iter().map(bind).collect::<Result<_, _>>()?)
}

/// From here on the node is an ordinary process, whoever started it.
fn drop_capabilities(maps: bool) {
    match capabilities::drop_all(maps) {
        Ok(Left { bpf: false, dropped: 0 }) => {}
        Ok(Left { bpf, dropped }) => info!(dropped, kept_bpf = bpf, "capabilities given up"),
        Err(error) => warn!(%error, "cannot give up all capabilities"),
    }
}

/// Every connection is a descriptor: takes all that the hard limit gives.
fn raise_descriptor_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(error) => {
            warn!(%error, ?current, ?maximum, "cannot raise the limit of open descriptors");
            current.unwrap_or(u64::MAX)
        }
    }
}
