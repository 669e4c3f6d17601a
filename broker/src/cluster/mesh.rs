//! The mesh as the [`Wire`] of the membership, and what comes over it sorted:
//! questions and Raft's calls to the membership, mail and links to the partitions.
//!
//! A link is told of once the metadata says which member its process is; what
//! comes before waits, and its sender's credit with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tidegate_cluster::ids::{ClusterId, Incarnation, Member, NodeId, StoreId};
use tidegate_consensus::{CallKind, GroupId, META};
use tidegate_mesh::{
    self as mesh, AskError, CallError, ConnectionKind, Event, Handler, Identity, MailClass, Mesh,
    Peer, PeerAddress, Reason, Refusal, Request, Role, Room, Source,
};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::core::{Core, lock};
use super::view::View;
use super::wire::{CallFailed, Seen, Traffic, Unanswered, Wire};
use crate::replication::transport::{Answering, BoxFuture, is_ours};

/// What the partitions are told of other members.
#[derive(Debug)]
pub enum LinkEvent {
    /// Mail goes to that member, and comes from it.
    Up(Member, Peer),
    /// It does not any more; what was sent may not have come.
    Down(Member),
    /// A class that was full takes mail again.
    Writable(Member, MailClass),
    /// Mail, in order; its sender has less credit until the room is dropped.
    Mail(Member, MailClass, Bytes, Room),
}

/// The mesh, and who this node says that it is.
#[derive(Clone, Debug)]
pub(crate) struct MeshWire {
    pub(super) mesh: Mesh,
    pub(super) identity: Arc<Mutex<Identity>>,
}

fn request(group: u16, what: u16, body: Bytes, timeout: Duration) -> Request {
    // What is large goes where it holds up nobody, and the metadata, its leases
    // and all heartbeats where nothing else is.
    let kind = u8::try_from(what).ok().and_then(CallKind::from_code);
    let over =
        match kind {
            Some(CallKind::SnapshotChunk) => ConnectionKind::Bulk,
            Some(
                CallKind::Append | CallKind::Vote | CallKind::Transfer | CallKind::SnapshotOffer,
            ) if group != META => ConnectionKind::Data,
            Some(
                CallKind::Append
                | CallKind::Heartbeats
                | CallKind::Vote
                | CallKind::Transfer
                | CallKind::SnapshotOffer,
            )
            | None => ConnectionKind::Control,
        };
    Request { over, group, what, body, timeout }
}

impl Wire for MeshWire {
    async fn ask(
        &self,
        address: &str,
        what: u16,
        body: Bytes,
        patience: Duration,
    ) -> Result<(Seen, Bytes), Unanswered> {
        let asked = self.mesh.ask(address, request(META, what, body, patience)).await;
        let (probed, answer) = asked.map_err(|error| match error {
            AskError::Unreachable(_) | AskError::TimedOut => Unanswered::Silent(error.to_string()),
            AskError::Untrusted(why) => Unanswered::NotTrusted(why),
            AskError::Refused { reason: Some(Reason::Myself), .. } => Unanswered::Myself,
            AskError::Refused { reason: Some(Reason::WrongName), detail, .. } => {
                Unanswered::OtherName(detail)
            }
            AskError::Refused {
                reason: Some(Reason::BadProof | Reason::WrongAuth | Reason::WrongIdentity),
                ..
            } => Unanswered::NotTrusted(error.to_string()),
            AskError::Refused { .. } | AskError::Call(_) => Unanswered::Refused(error.to_string()),
        })?;
        let hello = probed.hello;
        let seen = Seen {
            node: NodeId(hello.node.0),
            incarnation: Incarnation(hello.incarnation),
            address: hello.address,
        };
        Ok((seen, answer))
    }

    async fn call(
        &self,
        node: NodeId,
        group: GroupId,
        what: u16,
        body: Bytes,
        patience: Duration,
    ) -> Result<Bytes, CallFailed> {
        let request = request(group, what, body, patience);
        let called = self.mesh.call(mesh::NodeId(node.0), request).await;
        called.map_err(|error| match error {
            CallError::NotConnected => CallFailed::NotConnected,
            CallError::Lost | CallError::TimedOut | CallError::TooLarge { .. } => CallFailed::Lost,
            CallError::Full | CallError::Busy => CallFailed::Busy,
            CallError::Refused { code, detail } => CallFailed::Refused { code, detail },
        })
    }

    fn joined(&self, cluster: ClusterId) {
        let mut identity = lock(&self.identity);
        identity.cluster = mesh::ClusterId(cluster.0);
        identity.role = Role::Member;
        if let Err(error) = self.mesh.set_identity(identity.clone()) {
            warn!(%error, "the identity of a member is refused");
        }
    }

    fn keep(&self, peers: Vec<(NodeId, String)>) {
        let peer =
            |(node, address): (NodeId, String)| PeerAddress { node: mesh::NodeId(node.0), address };
        self.mesh.set_peers(peers.into_iter().map(peer).collect());
    }

    fn learn(&self, node: NodeId, store: StoreId, incarnation: Incarnation) {
        self.mesh.learn(mesh::NodeId(node.0), mesh::StoreId(store.0), incarnation.0);
    }

    fn forget(&self, node: NodeId) {
        self.mesh.forget(mesh::NodeId(node.0));
    }

    fn up(&self) -> Vec<NodeId> {
        let status = self.mesh.status().into_iter();
        status.filter(|peer| peer.generation.is_some()).map(|peer| NodeId(peer.node.0)).collect()
    }

    fn traffic(&self) -> Vec<Traffic> {
        let of = |peer: mesh::PeerStatus| Traffic {
            node: NodeId(peer.node.0),
            received: peer.received_bytes,
            sent: peer.sent_bytes,
            queued: peer.queued_bytes as u64,
            frames_received: peer.received_frames,
            frames_sent: peer.sent_frames,
            protocol: peer.proto,
        };
        self.mesh.status().into_iter().map(of).collect()
    }
}

/// Who is told what comes over the mesh.
pub(crate) struct Above {
    pub(super) core: OnceLock<Arc<Core<MeshWire>>>,
    /// Answers what is asked of partitions.
    partitions: OnceLock<Answering>,
    links: Mutex<Links>,
}

struct Links {
    /// By node: the session that is up.
    up: HashMap<u64, Link>,
    told: mpsc::UnboundedSender<LinkEvent>,
}

struct Link {
    peer: Peer,
    /// Once it was told.
    member: Option<Member>,
    /// What came before.
    waiting: Vec<(MailClass, Bytes, Room)>,
}

impl Above {
    pub(super) fn new(told: mpsc::UnboundedSender<LinkEvent>) -> Above {
        let links = Mutex::new(Links { up: HashMap::new(), told });
        Above { core: OnceLock::new(), partitions: OnceLock::new(), links }
    }

    /// From now on this answers what is asked of partitions.
    pub(crate) fn set_partitions(&self, answering: Answering) {
        // Once a process.
        let _ = self.partitions.set(answering);
    }

    /// Tells of links whose member is known by now, and of those that are over.
    pub(super) fn settle(&self, view: &View) {
        let mut links = lock(&self.links);
        let Links { up, told } = &mut *links;
        for link in up.values_mut().filter(|link| link.member.is_none()) {
            let node = view.meta.node(NodeId(link.peer.node().0));
            let this_life = node.filter(|node| {
                node.spec.incarnation.0 == link.peer.incarnation() && node.state.is_alive()
            });
            let Some(member) = this_life.map(|node| node.member) else { continue };
            link.member = Some(member);
            // Nobody listens if the node has no partitions.
            let _ = told.send(LinkEvent::Up(member, link.peer.clone()));
            for (class, body, room) in link.waiting.drain(..) {
                let _ = told.send(LinkEvent::Mail(member, class, body, room));
            }
        }
    }
}

impl Handler for Above {
    fn call(
        &self,
        from: Source,
        request: Request,
    ) -> impl Future<Output = Result<Bytes, Refusal>> + Send + 'static {
        let node = NodeId(from.hello.node.0);
        let Request { group, what, body, .. } = request;
        let answer: Option<BoxFuture<Result<Bytes, (u16, String)>>> = match is_ours(what) {
            true => self.partitions.get().map(|answer| answer(node.0, group, what, body)),
            false => {
                let answer = self.core.get().map(|core| core.answer(node, group, what, body));
                answer.map(|answer| Box::pin(answer) as BoxFuture<_>)
            }
        };
        async move {
            let starting = || Refusal { code: 0, detail: "the node is starting".into() };
            let answer = answer.ok_or_else(starting)?;
            answer.await.map_err(|(code, detail)| Refusal { code, detail })
        }
    }

    fn mail(&self, from: &Peer, class: MailClass, body: Bytes, room: Room) {
        let mut links = lock(&self.links);
        let Links { up, told } = &mut *links;
        let Some(link) = up.get_mut(&from.node().0) else { return };
        match link.member {
            Some(member) => {
                let _ = told.send(LinkEvent::Mail(member, class, body, room));
            }
            None => link.waiting.push((class, body, room)),
        }
    }

    fn event(&self, event: Event) {
        match event {
            Event::Up { peer } => {
                let (node, incarnation) = (NodeId(peer.node().0), peer.incarnation());
                debug!(%node, incarnation, address = peer.address(), "connected with a node");
                let link = Link { peer, member: None, waiting: Vec::new() };
                lock(&self.links).up.insert(node.0, link);
                if let Some(core) = self.core.get() {
                    self.settle(&core.cluster.view());
                }
            }
            Event::Down { node, incarnation, why, .. } => {
                debug!(node = %NodeId(node.0), incarnation, %why, "disconnected from a node");
                if let Some(core) = self.core.get() {
                    core.groups.lost(node.0);
                }
                let mut links = lock(&self.links);
                if let Some(member) = links.up.remove(&node.0).and_then(|link| link.member) {
                    let _ = links.told.send(LinkEvent::Down(member));
                }
            }
            Event::Writable { node, class, .. } => {
                let links = lock(&self.links);
                if let Some(member) = links.up.get(&node.0).and_then(|link| link.member) {
                    let _ = links.told.send(LinkEvent::Writable(member, class));
                }
            }
        }
    }
}

/// Tells of links as the metadata comes to know their members. Runs for ever.
pub(super) async fn settle(core: Arc<Core<MeshWire>>, above: Arc<Above>) {
    let mut views = core.cluster.watch();
    loop {
        let view = views.borrow_and_update().clone();
        above.settle(&view);
        if views.changed().await.is_err() {
            return;
        }
    }
}
