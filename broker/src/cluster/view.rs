//! What the rest of the node sees of the cluster.
//!
//! The view is replaced as a whole whenever something in it changes; readers
//! take no lock. The lease is three numbers, as it is looked at before each
//! read from a client.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tidegate_cluster::ids::{ClusterId, Life, Member, Millis, NodeId, StoreId};
use tidegate_cluster::lease::{Hold, Holder};
use tidegate_cluster::limits::ISOLATED_CLOSE_MS;
use tidegate_cluster::meta::{Command, Meta, Node, NodeState};
use tokio::sync::{mpsc, oneshot, watch};

use super::about::{About, Known};
use super::replicas::Replica;
use super::wire::Traffic;

/// For the cluster to take note of an end.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);

/// How far this node is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Phase {
    /// It looks for a cluster; why it has none yet.
    Seeking(String),
    /// It is a member; this life is not registered yet.
    Registering(String),
    /// This life is registered.
    Registered,
}

/// The cluster as this node knows it.
#[derive(Clone, Debug)]
pub struct View {
    /// The cluster's name.
    pub name: String,
    /// How far this node is.
    pub phase: Phase,
    /// The cluster, once this node belongs to it.
    pub cluster: Option<ClusterId>,
    /// This node and process.
    pub me: Life,
    /// Its data directory.
    pub store: StoreId,
    /// Where its peers reach it.
    pub address: String,
    /// The metadata as far as it was applied here.
    pub meta: Arc<Meta>,
    /// The term of the meta group.
    pub term: u64,
    /// Who leads it.
    pub leader: Option<NodeId>,
    /// Who votes in it.
    pub voters: BTreeSet<NodeId>,
    /// Nodes with which connections are up.
    pub up: BTreeSet<NodeId>,
}

impl View {
    /// This node as the metadata has it, if that is this life of it.
    pub fn this_node(&self) -> Option<&Node> {
        self.meta.node(self.me.node).filter(|node| node.spec.incarnation == self.me.incarnation)
    }

    /// The number of this life.
    pub fn member(&self) -> Option<Member> {
        Some(self.this_node().filter(|node| node.state.is_alive())?.member)
    }

    /// The lives that are believed to run, and their numbers. A number that is
    /// not among them is of a life that is over, or not known here yet.
    pub fn members(&self) -> impl Iterator<Item = (Member, Life)> + '_ {
        let alive = self.meta.nodes().filter(|node| node.state.is_alive());
        alive.map(|node| (node.member, node.spec.life()))
    }

    /// Nodes in a state.
    pub fn in_state(&self, state: NodeState) -> usize {
        self.meta.nodes().filter(|node| node.state == state).count()
    }
}

/// What the node is asked to do about its cluster.
pub(crate) enum Order {
    /// Found the cluster here.
    Init { despite_silent: bool, answer: oneshot::Sender<Result<String, String>> },
    /// Look for peers at this address as well.
    Join { address: String, answer: oneshot::Sender<Result<String, String>> },
    /// Balance the loads now.
    Rebalance { answer: oneshot::Sender<Result<u64, NotDone>> },
    /// Give nodes up, also if the metadata has lost its majority with them.
    Recover { lost: Vec<NodeId>, answer: oneshot::Sender<Result<u64, NotDone>> },
    /// Have a command applied.
    Propose { command: Command, answer: oneshot::Sender<Result<u64, NotDone>> },
}

/// Why a command was not carried out.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotDone {
    /// The metadata refuses it.
    #[error("{0}")]
    Refused(String),
    /// Nobody who leads the meta group was reached in time: it may be done yet.
    #[error("no leader of the cluster's metadata answers; is a majority of its voters up?")]
    NoLeader,
    /// This node is of no cluster yet.
    #[error("this node belongs to no cluster yet: {0}")]
    NoCluster(String),
}

/// What the config says of clients.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Policy {
    /// A SUBACK waits for this node alone (`cluster.subscribe_barrier`).
    pub(crate) local_barrier: bool,
    /// Clients of a node that is cut off are closed (`cluster.isolated`).
    pub(crate) closes_isolated: bool,
    /// Clients that nodes which drain send away (`cluster.reconnects_per_second`).
    pub(crate) reconnects_per_second: u32,
}

/// The cluster, for the rest of the node. Lives as long as the process.
#[derive(Debug)]
pub struct Cluster {
    view: watch::Sender<Arc<View>>,
    fast: ArcSwap<View>,
    /// The end of the lease; 0: there was none.
    until: AtomicU64,
    /// What has to be applied for it to count.
    needs: AtomicU64,
    applied: AtomicU64,
    may_serve: AtomicBool,
    /// Every shard lets clients in.
    admits: AtomicBool,
    leaving: AtomicBool,
    /// Connections of clients, about.
    clients: AtomicU32,
    /// The replicas of this node.
    replicas: ArcSwap<Vec<Replica>>,
    /// How this node fares.
    about: ArcSwap<About>,
    stuck: ArcSwap<BTreeMap<u16, (u64, u64)>>,
    /// How the others do.
    known: ArcSwap<BTreeMap<NodeId, Known>>,
    traffic: ArcSwap<Vec<Traffic>>,
    cut_offs: AtomicU64,
    policy: Policy,
    orders: mpsc::Sender<Order>,
}

impl Cluster {
    /// `about`: what this node says of itself before it serves.
    pub(crate) fn new(
        view: View,
        policy: Policy,
        about: About,
        orders: mpsc::Sender<Order>,
    ) -> Cluster {
        let view = Arc::new(view);
        Cluster {
            view: watch::Sender::new(view.clone()),
            fast: ArcSwap::new(view),
            until: AtomicU64::new(0),
            needs: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            may_serve: AtomicBool::new(false),
            admits: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            clients: AtomicU32::new(0),
            replicas: ArcSwap::default(),
            about: ArcSwap::from_pointee(about),
            stuck: ArcSwap::default(),
            known: ArcSwap::default(),
            traffic: ArcSwap::default(),
            cut_offs: AtomicU64::new(0),
            policy,
            orders,
        }
    }

    /// What the config says of clients.
    pub(crate) fn policy(&self) -> Policy {
        self.policy
    }

    /// The replicas that this node had about a second ago.
    pub fn replicas(&self) -> Arc<Vec<Replica>> {
        self.replicas.load_full()
    }

    pub(crate) fn show_replicas(&self, replicas: Vec<Replica>) {
        self.replicas.store(Arc::new(replicas));
    }

    /// How this node fares.
    pub fn about(&self) -> Arc<About> {
        self.about.load_full()
    }

    pub(crate) fn set_about(&self, about: About) {
        self.about.store(Arc::new(about));
    }

    /// Partitions of this node that have lost their majority for good, and the
    /// last entry that it has of each.
    pub(crate) fn stuck(&self) -> Arc<BTreeMap<u16, (u64, u64)>> {
        self.stuck.load_full()
    }

    pub(crate) fn set_stuck(&self, stuck: BTreeMap<u16, (u64, u64)>) {
        self.stuck.store(Arc::new(stuck));
    }

    /// How the other nodes fare, as far as they said so of late.
    pub fn known(&self) -> Arc<BTreeMap<NodeId, Known>> {
        self.known.load_full()
    }

    pub(crate) fn set_known(&self, known: BTreeMap<NodeId, Known>) {
        self.known.store(Arc::new(known));
    }

    /// What went to and from the other nodes, about a second ago.
    pub fn traffic(&self) -> Arc<Vec<Traffic>> {
        self.traffic.load_full()
    }

    pub(crate) fn set_traffic(&self, traffic: Vec<Traffic>) {
        self.traffic.store(Arc::new(traffic));
    }

    /// How often this node was cut off: its lease ran out.
    pub fn cut_offs(&self) -> u64 {
        self.cut_offs.load(Ordering::Relaxed)
    }

    pub(crate) fn count_cut_off(&self) {
        self.cut_offs.fetch_add(1, Ordering::Relaxed);
    }

    /// The view of now.
    pub fn view(&self) -> Arc<View> {
        self.fast.load_full()
    }

    /// The view, for who waits for changes.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Replaces the view, if the change is one.
    pub(crate) fn change(&self, change: impl FnOnce(&mut View) -> bool) {
        self.view.send_if_modified(|view| {
            let mut new = View::clone(view);
            if !change(&mut new) {
                return false;
            }
            self.applied.fetch_max(new.meta.applied(), Ordering::AcqRel);
            *view = Arc::new(new);
            self.fast.store(view.clone());
            true
        });
    }

    pub(crate) fn leased(&self, holder: &Holder, needs: u64) {
        // What it needs first: a later end never counts with an earlier need.
        self.needs.fetch_max(needs, Ordering::AcqRel);
        self.until.fetch_max(holder.until().unwrap_or(0), Ordering::AcqRel);
    }

    /// Until when this node has its lease, by the clock of [`Cluster::hold`]; 0: it
    /// never had one.
    pub(crate) fn lease_until(&self) -> Millis {
        self.until.load(Ordering::Acquire)
    }

    /// What this node may do by its lease. `fresh_now` is CLOCK_BOOTTIME of the
    /// node's clock, read after whatever is decided about. Takes no lock.
    pub fn hold(&self, fresh_now: Millis) -> Hold {
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return Hold::Isolated;
        }
        let needs = self.needs.load(Ordering::Acquire);
        if fresh_now < until && self.applied.load(Ordering::Acquire) >= needs {
            Hold::Serving
        } else if fresh_now < until + ISOLATED_CLOSE_MS {
            Hold::Silent
        } else {
            Hold::Isolated
        }
    }

    /// Whether the node may announce that it serves: routes and replicas are in
    /// sync. Not before somebody says so.
    pub fn set_may_serve(&self, may: bool) {
        self.may_serve.store(may, Ordering::Release);
    }

    /// Whether every shard lets clients in. Not before somebody says so.
    pub(crate) fn set_admits(&self, admits: bool) {
        self.admits.store(admits, Ordering::Release);
    }

    /// Whether the others take note of this node's clients: it serves, or drains.
    pub(crate) fn has_clients(&self) -> bool {
        self.view().this_node().is_some_and(|node| node.state.has_clients())
    }

    /// Says how many clients are connected.
    pub(crate) fn set_clients(&self, clients: u32) {
        self.clients.store(clients, Ordering::Relaxed);
    }

    pub(crate) fn clients(&self) -> u32 {
        self.clients.load(Ordering::Relaxed)
    }

    pub(crate) fn may_serve(&self) -> bool {
        self.may_serve.load(Ordering::Acquire)
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The process is about to end: says so to the cluster, so that nobody waits
    /// for its lease to run out.
    pub async fn goodbye(&self) {
        self.leaving.store(true, Ordering::Release);
        let view = self.view();
        if view.member().is_some() {
            // Who does not hear of it waits for the lease.
            let said = self.propose(Command::Down(view.me));
            let _ = tokio::time::timeout(GOODBYE_PATIENCE, said).await;
        }
    }

    /// Why clients should be kept away; none: they are welcome.
    pub fn unready(&self, fresh_now: Millis) -> Option<String> {
        let view = self.view();
        match &view.phase {
            Phase::Seeking(why) | Phase::Registering(why) => return Some(why.clone()),
            Phase::Registered => {}
        }
        let state = view.this_node().map(|node| node.state);
        if state != Some(NodeState::Serving) {
            let state = state.map_or("not known", NodeState::name);
            return Some(format!("this node is {state} in its cluster"));
        }
        match self.hold(fresh_now) {
            Hold::Serving if self.admits.load(Ordering::Acquire) => None,
            Hold::Serving => Some("this node begins to let clients in".into()),
            Hold::Silent | Hold::Isolated => Some("cut off from the cluster: no lease".into()),
        }
    }

    /// Has a command applied by whoever leads the meta group.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn propose(&self, command: Command) -> Result<u64, NotDone> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Propose { command, answer };
        self.orders.send(order).await.map_err(|_| NotDone::NoLeader)?;
        answered.await.unwrap_or(Err(NotDone::NoLeader))
    }

    /// `tidegate cluster recover`, once what may be lost is accepted.
    ///
    /// # Errors
    /// Why they are not given up.
    pub async fn recover(&self, lost: Vec<NodeId>) -> Result<u64, NotDone> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Recover { lost, answer };
        self.orders.send(order).await.map_err(|_| NotDone::NoLeader)?;
        answered.await.unwrap_or(Err(NotDone::NoLeader))
    }

    /// `tidegate cluster rebalance`.
    ///
    /// # Errors
    /// When nobody leads the meta group.
    pub async fn rebalance(&self) -> Result<u64, NotDone> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Rebalance { answer };
        self.orders.send(order).await.map_err(|_| NotDone::NoLeader)?;
        answered.await.unwrap_or(Err(NotDone::NoLeader))
    }

    /// `tidegate cluster init`.
    ///
    /// # Errors
    /// Why nothing is founded here.
    pub async fn init(&self, despite_silent: bool) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Init { despite_silent, answer };
        self.orders.send(order).await.map_err(|_| "the node is going down".to_owned())?;
        answered.await.unwrap_or_else(|_| Err("the node is going down".into()))
    }

    /// `tidegate cluster join`.
    ///
    /// # Errors
    /// Why it is not looked for there.
    pub async fn join(&self, address: String) -> Result<String, String> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Join { address, answer };
        self.orders.send(order).await.map_err(|_| "the node is going down".to_owned())?;
        answered.await.unwrap_or_else(|_| Err("the node is going down".into()))
    }
}
