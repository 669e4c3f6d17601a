//! A shard: one thread, one core, one epoll instance, one slab of connections.
//!
//! The thread runs a tokio current_thread runtime with a single task. That task
//! watches the shard's epoll instance through tokio's, takes turns as long as
//! there is something to do (see `driver.rs`), and sleeps otherwise: an idle
//! shard wakes for nothing but its core's next tick.
//!
//! Other threads reach a shard through its [`mailbox::Mailbox`] alone.

pub mod mailbox;
pub mod meters;

pub(crate) mod clock;

mod acceptor;
mod drain;
mod driver;
mod linger;
mod poller;
mod table;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::thread::{CpuSet, sched_setaffinity};
use tidegate_core::Node;
use tidegate_core::ids::ShardId;
use tidegate_core::mail::Mail;
use tidegate_kernel::mapped::Gauge;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::mpsc;
use tracing::{error, warn};

use self::driver::{Driver, Next};
use self::mailbox::Mailbox;
use self::meters::Meters;
use crate::auth::Doorman;
use crate::cluster::Cluster;
use crate::net::door::Door;
use crate::observe::Observers;
use crate::overload::monitor::Measured;
use crate::replication::Outlet;
use crate::steering::Steer;
use crate::steering::report::ShardRow;
use crate::store::{Recovery, ReplayError, Replayed, Store};
use crate::system::sampler::Sampler;

/// Turns without a pause before tokio has a look at its own affairs.
const TURNS_BEFORE_YIELD: u32 = 16;

/// What the shards of a node share with each other and with the node's threads.
pub struct Shared {
    /// The shared part of the core.
    pub node: Arc<Node>,
    /// A mailbox a shard.
    pub mailboxes: Box<[Mailbox<Mail>]>,
    /// The shell's counts, a shard.
    pub meters: Box<[Meters]>,
    /// The listeners, in the order of the config.
    pub doors: Box<[Arc<Door>]>,
    /// Who may come in.
    pub doorman: Arc<Doorman>,
    /// What keeps what has to survive; none: nothing does.
    pub store: Option<Arc<Store>>,
    /// Where it speaks with its cluster; none: it is alone.
    pub(crate) outlet: Option<Outlet>,
    /// As one of a cluster; none: it is alone.
    pub cluster: Option<Arc<Cluster>>,
    /// How much memory is used.
    pub memory: Measured,
    /// Which shard gets a connection, as far as the kernel may be asked.
    pub steer: Steer,
    /// What the kernel counts for us.
    pub observers: Observers,
    /// What the kernel tells besides; none before it is asked.
    pub system: Option<Sampler>,
    /// The core that each shard stays on.
    pub cores: Vec<Option<usize>>,
    /// When the node was made.
    pub started: Instant,
    /// What the settings in effect hash to.
    pub config_digest: AtomicU32,
}

impl Shared {
    /// Mailboxes and meters for the shards of `node`, which has these listeners.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(
        node: Arc<Node>,
        doors: Vec<Arc<Door>>,
        doorman: Arc<Doorman>,
    ) -> io::Result<Shared> {
        let shards = node.counters.len();
        let mailboxes = (0..shards).map(|_| Mailbox::new()).collect::<Result<_, _>>()?;
        let meters = (0..shards).map(|_| Meters::new(doors.len())).collect();
        let doors = doors.into_boxed_slice();
        let steer = Steer::off(shards, "it was not asked for");
        Ok(Shared {
            node,
            mailboxes,
            meters,
            doors,
            doorman,
            store: None,
            outlet: None,
            cluster: None,
            memory: Measured::default(),
            steer,
            observers: Observers::off(),
            system: None,
            cores: vec![None; shards],
            started: Instant::now(),
            config_digest: AtomicU32::default(),
        })
    }

    /// A shard for who wants to see them all.
    pub fn shard_row(&self, shard: usize) -> ShardRow {
        let counters = &self.node.counters[shard];
        let uptime = self.started.elapsed().as_secs_f64().max(1e-3);
        ShardRow {
            shard,
            core: self.cores.get(shard).copied().flatten(),
            connections: counters.connections.value(),
            accepted: counters.connections_accepted.value(),
            busy: (counters.busy_micros.value() as f64 / 1e6 / uptime).min(1.0),
        }
    }

    /// Whether a CONNECT through `door` has to be looked into.
    pub(crate) fn is_guarded(&self, door: &Door) -> bool {
        !door.listener.is_open() || self.doorman.has_passwords()
    }
}

/// What one shard is started with.
pub(crate) struct Plan {
    pub(crate) id: ShardId,
    /// The core to stay on, if any.
    pub(crate) core: Option<usize>,
    /// Its listening sockets, in the order of the config.
    pub(crate) listeners: Vec<OwnedFd>,
    /// Where it tells how many connections it has.
    pub(crate) gauge: Gauge,
    pub(crate) shared: Arc<Shared>,
    /// What is to be read back first.
    pub(crate) recovery: Option<Recovery>,
    /// Told once, when the shard has read back what there was.
    pub(crate) replayed: mpsc::Sender<Result<Replayed, ReplayError>>,
    /// Where the shards wait for the last of them, and for the node.
    pub(crate) gate: Arc<Barrier>,
    /// Told once, when the shard's last connection went in a drain.
    pub(crate) drained: mpsc::Sender<ShardId>,
}

/// Starts the shard's thread. A shard that cannot go on ends the process: the
/// sessions of a dead shard would look alive to the rest.
///
/// # Errors
/// When there can be no thread.
pub(crate) fn start(plan: Plan) -> io::Result<JoinHandle<()>> {
    let name = format!("shard-{}", plan.id.0);
    std::thread::Builder::new().name(name).spawn(move || {
        let shard = plan.id.0;
        if let Err(error) = run(plan) {
            error!(shard, %error, "a shard failed");
            crate::telemetry::log::flush();
            std::process::exit(crate::node::EXIT_SHARD_FAILED);
        }
    })
}

fn run(plan: Plan) -> io::Result<()> {
    if let Some(core) = plan.core {
        let mut set = CpuSet::new();
        set.set(core);
        if let Err(error) = sched_setaffinity(None, &set) {
            warn!(shard = plan.id.0, core, %error, "cannot pin the shard to its core");
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut driver = Driver::new(plan.id, plan.shared, plan.listeners, plan.gauge, plan.drained)?;
    let replayed = driver.replay(plan.recovery);
    let failed = replayed.is_err();
    // There is room for one message of each shard.
    let _ = plan.replayed.try_send(replayed);
    if failed {
        // The node says why, and ends.
        return Ok(());
    }
    plan.gate.wait();
    driver.begin();
    plan.gate.wait();
    runtime.block_on(drive(driver))
}

async fn drive(mut driver: Driver) -> io::Result<()> {
    // Deprecated for the sake of types whose `as_raw_fd` may change its mind;
    // that of an `Arc<OwnedFd>` cannot, and the successor asks for `unsafe`.
    #[allow(deprecated)]
    let outer = AsyncFd::with_interest(driver.poller().descriptor(), Interest::READABLE)?;
    let mut readiness: Option<AsyncFdReadyGuard<'_, Arc<OwnedFd>>> = None;
    let mut turns = 0;
    loop {
        match driver.turn()? {
            Next::Again => {
                turns += 1;
                if turns == TURNS_BEFORE_YIELD {
                    turns = 0;
                    tokio::task::yield_now().await;
                }
            }
            Next::Sleep => {
                turns = 0;
                if !driver.mailbox().fall_asleep() {
                    continue;
                }
                driver.meters().sleeps.add(1);
                // Only here, after the inner epoll said that it is empty: an
                // edge of the outer one comes only with the next inner event.
                // (Clearing first and saving that last question was measured,
                // and was no faster: it often finds the next message.)
                if let Some(mut readiness) = readiness.take() {
                    readiness.clear_ready();
                }
                readiness = Some(outer.readable().await?);
                driver.mailbox().wake_up();
            }
            Next::Stop => return Ok(()),
        }
    }
}
