//! What the tasks of a mesh share.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use bytes::BytesMut;
use tidegate_peer::{
    Acquaintances, AuthMethod, ConnectionKind, Failure, Handshake, Hello, Message, MessageType,
    NodeId, RateCap, Reason, Step,
};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::warn;

use crate::call::AskError;
use crate::chance::Chance;
use crate::config::{Identity, MeshConfig, Place, Trust};
use crate::counts::Counters;
use crate::greet::Greeted;
use crate::handler::{Ended, Upward};
use crate::limits::GUESTS_MAX;
use crate::peer::Generation;
use crate::session::Session;

/// What the tasks of a mesh share.
pub(crate) struct Shared {
    pub(crate) config: MeshConfig,
    pub(crate) above: Box<dyn Upward>,
    pub(crate) counters: Counters,
    pub(crate) chance: Chance,
    pub(crate) local: SocketAddr,
    pub(crate) guests: Arc<Semaphore>,
    pub(crate) stopping: watch::Sender<bool>,
    start: Instant,
    identity: RwLock<Identity>,
    trust: RwLock<Trust>,
    met: Mutex<Acquaintances>,
    cap: Mutex<RateCap>,
    pub(crate) nodes: Mutex<BTreeMap<NodeId, Node>>,
    /// Sessions that are up.
    live: RwLock<HashMap<NodeId, Arc<Session>>>,
    generations: AtomicU64,
    /// Handshakes that are not over, by where they come from.
    pub(crate) greeting: Mutex<HashMap<IpAddr, usize>>,
}

/// What is known of a node.
#[derive(Default)]
pub(crate) struct Node {
    /// Where it is called; none: it is not.
    pub(crate) address: Option<String>,
    pub(crate) caller: Option<JoinHandle<()>>,
    /// Something has changed for whoever calls it.
    pub(crate) kick: Arc<Notify>,
    /// From the control connection's handshake on.
    pub(crate) session: Option<Current>,
    /// Of the session before, if it has not been taken down yet.
    pub(crate) before: Option<watch::Receiver<bool>>,
    /// Calls in a row that led to no session.
    pub(crate) failures: u32,
    pub(crate) last_error: Option<String>,
    /// Of all sessions with it.
    pub(crate) traffic: Arc<Traffic>,
}

/// Bytes between this node and another, as they were on the wire, or in TLS.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received_frames: Frames,
    pub(crate) sent_frames: Frames,
}

/// Kinds of messages that are counted by themselves.
pub const FRAME_KINDS: [&str; 4] = ["call", "answer", "mail", "other"];

/// Messages by their kind.
#[derive(Debug, Default)]
pub(crate) struct Frames([AtomicU64; FRAME_KINDS.len()]);

impl Frames {
    pub(crate) fn count(&self, message: &Message) {
        let kind = match message.message_type() {
            MessageType::Call => 0,
            MessageType::Answer => 1,
            MessageType::Mail => 2,
            _other => 3,
        };
        self.0[kind].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn look(&self) -> [u64; FRAME_KINDS.len()] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}

/// The session with a node.
pub(crate) struct Current {
    pub(crate) session: Arc<Session>,
    /// Where its other connections are handed over, on the called side.
    pub(crate) others: Option<mpsc::Sender<Greeted>>,
    pub(crate) done: watch::Receiver<bool>,
}

impl Node {
    /// Nothing has to be remembered of it.
    pub(crate) fn is_idle(&self) -> bool {
        self.address.is_none() && self.session.is_none() && self.before.is_none()
    }
}

impl Shared {
    pub(crate) fn new(
        config: MeshConfig,
        above: Box<dyn Upward>,
        chance: Chance,
        local: SocketAddr,
    ) -> Self {
        let mut identity = config.identity.clone();
        if identity.address.is_empty() {
            identity.address = local.to_string();
        }
        // A burst of at least some frames, or none would ever leave.
        let burst = (config.bulk_bytes_per_second / 10).max(256 << 10);
        Self {
            above,
            counters: Counters::default(),
            chance,
            local,
            guests: Arc::new(Semaphore::new(GUESTS_MAX)),
            stopping: watch::Sender::new(false),
            start: Instant::now(),
            identity: RwLock::new(identity),
            trust: RwLock::new(config.trust.clone()),
            met: Mutex::default(),
            cap: Mutex::new(RateCap::new(config.bulk_bytes_per_second, burst, Duration::ZERO)),
            nodes: Mutex::default(),
            live: RwLock::default(),
            generations: AtomicU64::new(0),
            greeting: Mutex::default(),
            config,
        }
    }

    /// Since the mesh was started.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn trust(&self) -> Trust {
        self.trust.read().expect("no panic while it is held").clone()
    }

    pub(crate) fn set_trust(&self, trust: Trust) {
        *self.trust.write().expect("no panic while it is held") = trust;
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity.read().expect("no panic while it is held").clone()
    }

    pub(crate) fn set_identity(&self, mut identity: Identity) {
        if identity.address.is_empty() {
            identity.address = self.local.to_string();
        }
        *self.identity.write().expect("no panic while it is held") = identity;
    }

    pub(crate) fn met(&self) -> MutexGuard<'_, Acquaintances> {
        self.met.lock().expect("no panic while it is held")
    }

    pub(crate) fn cap(&self) -> MutexGuard<'_, RateCap> {
        self.cap.lock().expect("no panic while it is held")
    }

    pub(crate) fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Node>> {
        self.nodes.lock().expect("no panic while it is held")
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(self.generations.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// This node's Hello; without a place: of the called side.
    pub(crate) fn hello(&self, place: Option<Place>, auth: AuthMethod) -> Hello {
        // The called side repeats the caller's.
        let nowhere = Place { kind: ConnectionKind::Control, stripe: 0, stripes: 0, session: 0 };
        let credit = (self.config.lane_credit, self.config.link_credit);
        let identity = self.identity.read().expect("no panic while it is held");
        identity.hello(place.unwrap_or(nowhere), self.chance.nonce(), auth, credit)
    }

    /// A step of a handshake; who has proven himself is remembered.
    pub(crate) fn greet(
        &self,
        handshake: &mut Handshake,
        bytes: &mut BytesMut,
    ) -> Result<Step, Failure> {
        let mut met = self.met();
        let step = handshake.receive(bytes, &met)?;
        if let Step::Established { established, .. } = &step {
            met.met(established);
        }
        Ok(step)
    }

    /// The session with a node, if it is up.
    pub(crate) fn live(&self, node: NodeId) -> Option<Arc<Session>> {
        self.live.read().expect("no panic while it is held").get(&node).cloned()
    }

    /// All of them.
    pub(crate) fn all_live(&self) -> Vec<Arc<Session>> {
        self.live.read().expect("no panic while it is held").values().cloned().collect()
    }

    /// A session has all its connections; false: it was ended before.
    pub(crate) fn comes_up(&self, session: &Arc<Session>) -> bool {
        let mut nodes = self.nodes();
        if session.is_over() {
            return false;
        }
        if let Some(node) = nodes.get_mut(&session.node()) {
            node.failures = 0;
            node.last_error = None;
        }
        let mut live = self.live.write().expect("no panic while it is held");
        live.insert(session.node(), session.clone());
        true
    }

    /// A session is over: nobody finds it any more.
    pub(crate) fn goes_down(&self, session: &Arc<Session>, why: &Ended, was_up: bool) {
        let mut nodes = self.nodes();
        let mut live = self.live.write().expect("no panic while it is held");
        if live.get(&session.node()).is_some_and(|it| Arc::ptr_eq(it, session)) {
            live.remove(&session.node());
        }
        drop(live);
        if let Some(node) = nodes.get_mut(&session.node()) {
            // Of one that another took the place of there is nothing to say.
            if let Some(current) =
                node.session.take_if(|current| Arc::ptr_eq(&current.session, session))
            {
                node.before = Some(current.done);
                node.last_error = Some(why.to_string());
                if !was_up {
                    node.failures = node.failures.saturating_add(1);
                }
            }
            node.kick.notify_one();
        }
        drop(nodes);
        self.count_end(why, session.remote);
    }

    /// A session has been taken down: what need not be remembered is not.
    pub(crate) fn tidy(&self, node: NodeId) {
        let mut nodes = self.nodes();
        let Some(of_node) = nodes.get_mut(&node) else { return };
        of_node.before.take_if(|before| *before.borrow());
        if of_node.is_idle() {
            nodes.remove(&node);
        }
    }

    /// Counts, and logs, an end that is somebody's fault.
    pub(crate) fn count_end(&self, why: &Ended, remote: SocketAddr) {
        let is_fault = |reason: Option<Reason>| match reason {
            None => true,
            Some(reason) => !matches!(
                reason,
                Reason::Leaving | Reason::Duplicate | Reason::Drained | Reason::Finished
            ),
        };
        let (by_peer, is_fault) = match why {
            Ended::Here { reason, .. } => (false, is_fault(Some(*reason))),
            Ended::ByPeer(goodbye) => (true, is_fault(goodbye.reason())),
            Ended::Broken(_) => return,
        };
        if !is_fault {
            return;
        }
        let reason = why.reason().map_or("unknown", Reason::name);
        if self.counters.refuse(by_peer, reason) {
            warn!(%remote, by_peer, reason, detail = %why, "connection between nodes ended");
        }
    }

    /// The same of a handshake.
    pub(crate) fn count_refusal(&self, error: &AskError, remote: SocketAddr) {
        let Some((by_peer, reason)) = error.refused() else { return };
        if self.counters.refuse(by_peer, reason) {
            warn!(%remote, by_peer, reason, detail = %error, "connection between nodes refused");
        }
    }
}
