//! The mesh: what the layers above hold.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tidegate_peer::limits::{
    ADDRESS_BYTES_MAX, LANE_CREDIT_BYTES_MIN, LINK_CREDIT_BYTES_MIN, NAME_BYTES_MAX, STRIPES_MAX,
};
use tidegate_peer::{ConnectionKind, Hello, MailClass, NodeId, Reason, Role, StoreId};
use tokio::time::{Instant, timeout, timeout_at};

use crate::accept::accept;
use crate::call::{AskError, CallError, Request};
use crate::chance::Chance;
use crate::config::{Identity, MeshConfig, PeerAddress, Place, Trust};
use crate::counts::Counts;
use crate::dial::keep;
use crate::greet::{self, Greeted};
use crate::handler::{Above, Ended, Handler};
use crate::limits::{FAREWELL_TIME_MAX, GUEST_TIME_MAX, PEERS_MAX};
use crate::peer::{Generation, Peer, SendError};
use crate::session::{Session, open_guest, run_guest};
use crate::settle::outdate;
use crate::shared::{FRAME_KINDS, Shared};
use crate::tls;

/// Why a mesh could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot listen there.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A part of the config that cannot be. Our own fault.
    #[error("{0}")]
    Config(&'static str),
}

/// Who is at an address.
#[derive(Clone, Debug)]
pub struct Probed {
    /// What it says of itself, as far as the handshake has checked it.
    pub hello: Hello,
    /// The address that answered.
    pub remote: SocketAddr,
    /// Whether it differs from this node in what nodes should have alike.
    pub config_differs: bool,
}

/// How it stands with a peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Which node.
    pub node: NodeId,
    /// Where it is called; none: it is not.
    pub address: Option<String>,
    /// The session, if it is up.
    pub generation: Option<Generation>,
    /// Its process, if a session is there.
    pub incarnation: Option<u64>,
    /// The other end, if a session is there.
    pub remote: Option<SocketAddr>,
    /// Bytes that wait to be sent to it.
    pub queued_bytes: usize,
    /// Bytes that came from it, over all sessions.
    pub received_bytes: u64,
    /// Bytes that went to it.
    pub sent_bytes: u64,
    /// Messages from it, by [`FRAME_KINDS`](crate::FRAME_KINDS).
    pub received_frames: [u64; FRAME_KINDS.len()],
    /// To it.
    pub sent_frames: [u64; FRAME_KINDS.len()],
    /// The protocol's version, if the session is up.
    pub proto: Option<u16>,
    /// Calls in a row that led to no session.
    pub failures: u32,
    /// Why there is none, or the last one ended.
    pub last_error: Option<String>,
}

/// The sockets between this node and the others. Cheap to clone; runs until
/// `stop`, whether or not somebody holds it.
#[derive(Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("local", &self.shared.local).finish_non_exhaustive()
    }
}

impl Mesh {
    /// Listens. To be called within a runtime, on which its tasks then run.
    pub async fn start<H: Handler>(
        config: MeshConfig,
        handler: Arc<H>,
    ) -> Result<Self, StartError> {
        check(&config)?;
        check_identity(&config.identity)?;
        let address = config.bind;
        let bound = config.net.listen(address).await;
        let failed = |error| StartError::Bind { address, error };
        let listener = bound.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let chance = Chance::new(tls::provider());
        let shared = Shared::new(config, Box::new(Above(handler)), chance, local);
        let shared = Arc::new(shared);
        tokio::spawn(accept(shared.clone(), listener));
        Ok(Self { shared })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local
    }

    /// Whom to keep a session with, and where. Peers that are on the list no
    /// more are not called again; their sessions stay while they last.
    pub fn set_peers(&self, peers: Vec<PeerAddress>) {
        let own = self.shared.identity().node;
        let wanted: BTreeMap<_, _> = peers
            .into_iter()
            .filter(|peer| peer.node != own)
            .take(PEERS_MAX)
            .map(|peer| (peer.node, peer.address))
            .collect();
        let mut nodes = self.shared.nodes();
        if *self.shared.stopping.borrow() {
            return;
        }
        nodes.retain(|id, node| {
            if !wanted.contains_key(id) {
                node.address = None;
                if let Some(caller) = node.caller.take() {
                    caller.abort();
                }
            }
            !node.is_idle()
        });
        for (id, address) in wanted {
            let node = nodes.entry(id).or_default();
            if node.address.as_ref() != Some(&address) {
                node.address = Some(address);
                node.failures = 0;
                node.kick.notify_one();
            }
            if node.caller.is_none() {
                node.caller = Some(tokio::spawn(keep(self.shared.clone(), id)));
            }
        }
    }

    /// This node is another from now on: it has joined a cluster, say. Ends all
    /// sessions; listed peers are called again.
    pub fn set_identity(&self, identity: Identity) -> Result<(), StartError> {
        check_identity(&identity)?;
        self.shared.set_identity(identity);
        self.end_all(Reason::Finished, "this node is another now");
        Ok(())
    }

    /// For connections that are made from now on. The method (secret or TLS)
    /// may change, if it changes everywhere.
    pub fn set_trust(&self, trust: Trust) {
        self.shared.set_trust(trust);
    }

    /// What the metadata says of a node: older processes are refused from now
    /// on, and a session with one is ended.
    pub fn learn(&self, node: NodeId, store: StoreId, incarnation: u64) {
        self.shared.met().learn(node, store, incarnation);
        outdate(&self.shared, node);
    }

    /// The cluster has forgotten a node: it is refused from now on.
    pub fn forget(&self, node: NodeId) {
        self.shared.met().forget(node);
        outdate(&self.shared, node);
    }

    /// Who is at an address, host and port. Leaves no session behind, and
    /// disturbs none.
    pub async fn probe(&self, address: &str, time: Duration) -> Result<Probed, AskError> {
        let greeted = self.greet(address, Instant::now() + time).await?;
        let probed = probed(&greeted);
        // The answer does not wait for it.
        tokio::spawn(async move { greeted.refuse(Reason::Finished, "that was all").await });
        Ok(probed)
    }

    /// Asks who is at an address one thing, on a connection of its own that is
    /// closed then: of a node whose id is not known, or that is of no cluster.
    pub async fn ask(&self, address: &str, request: Request) -> Result<(Probed, Bytes), AskError> {
        let deadline = Instant::now() + request.timeout;
        let greeted = self.greet(address, deadline).await?;
        let probed = probed(&greeted);
        let session = Session::new(&greeted, Generation(0), 0, 0, Arc::default());
        // However this ends, or is given up.
        let _ends = Ends(session.clone());
        let tasks = open_guest(&self.shared, &session, greeted);
        tokio::spawn(run_guest(self.shared.clone(), session.clone(), tasks, GUEST_TIME_MAX));
        let left = deadline.saturating_duration_since(Instant::now());
        let request = Request { over: ConnectionKind::Control, timeout: left, ..request };
        match session.call(request).await {
            Ok(answer) => Ok((probed, answer)),
            // It would take no connection at all.
            Err(CallError::Lost) => match session.ended() {
                Some(Ended::ByPeer(goodbye)) => Err(AskError::Refused {
                    reason: goodbye.reason(),
                    by_peer: true,
                    detail: goodbye.detail,
                }),
                Some(Ended::Here { .. } | Ended::Broken(_)) | None => Err(CallError::Lost.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    async fn greet(&self, address: &str, deadline: Instant) -> Result<Greeted, AskError> {
        let place = Place { kind: ConnectionKind::Control, stripe: 0, stripes: 0, session: 0 };
        let shared = &self.shared;
        let greeted = timeout_at(
            deadline,
            greet::call(shared, address, place, greet::deadline(shared).min(deadline)),
        )
        .await
        .unwrap_or(Err(AskError::TimedOut))?;
        outdate(shared, greeted.established.peer.node);
        Ok(greeted)
    }

    /// Asks a node with which a session is up.
    pub async fn call(&self, node: NodeId, request: Request) -> Result<Bytes, CallError> {
        let session = self.shared.live(node).ok_or(CallError::NotConnected)?;
        session.call(request).await
    }

    /// The session with a node, if it is up.
    pub fn peer(&self, node: NodeId) -> Option<Peer> {
        self.shared.live(node).map(Peer)
    }

    /// All sessions that are up.
    pub fn peers(&self) -> Vec<Peer> {
        self.shared.all_live().into_iter().map(Peer).collect()
    }

    /// Sends mail in one session: `Lost` if that is not the one that is up.
    pub fn send(
        &self,
        node: NodeId,
        generation: Generation,
        class: MailClass,
        body: Bytes,
    ) -> Result<(), SendError> {
        let session = self.shared.live(node).filter(|it| it.generation == generation);
        session.ok_or(SendError::Lost)?.mail(class, body)
    }

    /// Whether such mail would be taken.
    pub fn ready(&self, node: NodeId, generation: Generation, class: MailClass) -> bool {
        let session = self.shared.live(node).filter(|it| it.generation == generation);
        session.is_some_and(|session| session.is_ready(class))
    }

    /// How it stands with each peer, in order of their ids.
    pub fn status(&self) -> Vec<PeerStatus> {
        let nodes = self.shared.nodes();
        let status = nodes.iter().map(|(id, node)| {
            let session = node.session.as_ref().map(|current| &current.session);
            let live = self.shared.live(*id);
            PeerStatus {
                node: *id,
                address: node.address.clone(),
                generation: live.as_ref().map(|session| session.generation),
                proto: live.map(|session| session.proto),
                incarnation: session.map(|session| session.hello.incarnation),
                remote: session.map(|session| session.remote),
                queued_bytes: session.map_or(0, |session| session.queued_bytes()),
                received_bytes: node.traffic.received.load(Ordering::Relaxed),
                sent_bytes: node.traffic.sent.load(Ordering::Relaxed),
                received_frames: node.traffic.received_frames.look(),
                sent_frames: node.traffic.sent_frames.look(),
                failures: node.failures,
                last_error: node.last_error.clone(),
            }
        });
        status.collect()
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.shared.counters.look()
    }

    fn end_all(&self, reason: Reason, detail: &str) {
        let nodes = self.shared.nodes();
        for current in nodes.values().filter_map(|node| node.session.as_ref()) {
            current.session.end(Ended::here(reason, detail));
        }
    }

    /// Says goodbye to all and listens no more. Comes back when every session's
    /// `Down` was told.
    pub async fn stop(&self) {
        self.shared.stopping.send_replace(true);
        let mut ending = Vec::new();
        {
            let mut nodes = self.shared.nodes();
            for node in nodes.values_mut() {
                node.address = None;
                if let Some(caller) = node.caller.take() {
                    caller.abort();
                }
                if let Some(current) = &node.session {
                    current.session.end(Ended::here(Reason::Leaving, "this node stops"));
                    ending.push(current.done.clone());
                }
                ending.extend(node.before.clone());
            }
        }
        let all = async {
            for mut done in ending {
                let _: Result<_, _> = done.wait_for(|is_done| *is_done).await.map(drop);
            }
        };
        // A handler that blocks does not keep us for ever.
        let _: Result<(), _> = timeout(4 * FAREWELL_TIME_MAX, all).await;
    }
}

/// Ends a guest's connection when dropped.
struct Ends(Arc<Session>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end(Ended::here(Reason::Finished, "that was all"));
    }
}

fn probed(greeted: &Greeted) -> Probed {
    let established = &greeted.established;
    Probed {
        hello: established.peer.clone(),
        remote: greeted.remote,
        config_differs: established.config_differs,
    }
}

fn check(config: &MeshConfig) -> Result<(), StartError> {
    let wrong = |what| Err(StartError::Config(what));
    if config.stripes == 0 || config.stripes > STRIPES_MAX {
        return wrong("there are 1 to 16 data connections");
    }
    if config.silent < Duration::from_millis(40) {
        return wrong("40 ms of silence at least");
    }
    if config.lane_credit < LANE_CREDIT_BYTES_MIN || config.link_credit < LINK_CREDIT_BYTES_MIN {
        return wrong("64 KiB of credit a lane and 1 MiB a connection at least");
    }
    Ok(())
}

fn check_identity(identity: &Identity) -> Result<(), StartError> {
    let wrong = |what| Err(StartError::Config(what));
    if identity.node.0 == 0 {
        return wrong("a node's id is not 0");
    }
    if (identity.role == Role::Fresh) != (identity.cluster.0 == 0) {
        return wrong("a node is fresh exactly if it is of no cluster");
    }
    if identity.name.len() > NAME_BYTES_MAX || identity.address.len() > ADDRESS_BYTES_MAX {
        return wrong("a cluster's name has 64 bytes at most, an address 255");
    }
    Ok(())
}
