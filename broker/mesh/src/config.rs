//! What a mesh is started with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_peer::limits::{LANE_CREDIT_BYTES, LANES_MAX, LINK_CREDIT_BYTES};
use tidegate_peer::{
    AuthMethod, ClusterId, ConnectionKind, Hello, NodeId, Nonce, PROTO_MIN, Role, Secret, StoreId,
};

use crate::limits::CLASS_QUEUE_BYTES;
use crate::net::{Net, System};
use crate::tls::Tls;

/// Who this node is, to others.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The cluster's name; at most 64 bytes.
    pub name: String,
    /// The cluster; 0: of none yet, and `role` is `Fresh`.
    pub cluster: ClusterId,
    /// How often the data directory was begun anew under this cluster.
    pub generation: u64,
    /// Which node; not 0.
    pub node: NodeId,
    /// Which log.
    pub store: StoreId,
    /// Which process; grows with every start.
    pub incarnation: u64,
    /// What it is to the cluster.
    pub role: Role,
    /// Where others reach it, host and port, at most 255 bytes; empty: where
    /// it listens.
    pub address: String,
    /// Of the part of the config in which nodes should agree.
    pub config_hash: [u8; 32],
    /// What it can do besides, a bit each.
    pub features: u64,
    /// The newest version of the protocol that it speaks: [`PROTO_MAX`](tidegate_peer::PROTO_MAX), or an
    /// older one that is still spoken.
    pub proto_max: u16,
}

/// How nodes come to believe each other.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By a secret that all have.
    Secret(Secret),
    /// By certificates of one authority.
    Tls(Arc<Tls>),
}

/// A peer that is to be called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerAddress {
    /// Which node.
    pub node: NodeId,
    /// Host and port; resolved at each call.
    pub address: String,
}

/// What a mesh is started with; `new` has the defaults.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Where its sockets come from: the system's.
    pub net: Arc<dyn Net>,
    /// Where it listens.
    pub bind: SocketAddr,
    /// Who it is.
    pub identity: Identity,
    /// Whom it believes.
    pub trust: Trust,
    /// Data connections that it makes to a peer, 1 to 16.
    pub stripes: u8,
    /// A connection on which nothing was heard for so long is over, and its
    /// session with it. A quarter of it after the last byte a ping is sent.
    pub silent: Duration,
    /// The shortest and the longest wait before a peer is called again.
    pub backoff: (Duration, Duration),
    /// How long a handshake may take, TLS and name lookup included; 5 s at most.
    pub handshake: Duration,
    /// Bytes a second of all bulk connections together.
    pub bulk_bytes_per_second: u64,
    /// Bytes that wait on one class of mail before a send is `Full`.
    pub class_queue_bytes: usize,
    /// Bytes of one lane that may wait here to be dealt with, and a message more.
    pub lane_credit: u32,
    /// The same of all lanes of a connection.
    pub link_credit: u32,
}

impl MeshConfig {
    /// With the defaults.
    pub fn new(bind: SocketAddr, identity: Identity, trust: Trust) -> Self {
        Self {
            net: Arc::new(System),
            bind,
            identity,
            trust,
            stripes: 2,
            silent: Duration::from_secs(2),
            backoff: (Duration::from_millis(50), Duration::from_secs(2)),
            handshake: Duration::from_secs(5),
            bulk_bytes_per_second: 64 << 20,
            class_queue_bytes: CLASS_QUEUE_BYTES,
            lane_credit: LANE_CREDIT_BYTES,
            link_credit: LINK_CREDIT_BYTES,
        }
    }
}

/// Which connection a Hello is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) kind: ConnectionKind,
    pub(crate) stripe: u8,
    pub(crate) stripes: u8,
    /// 0: of none.
    pub(crate) session: u64,
}

impl Identity {
    /// The Hello of a connection; the called side's `place` is void.
    pub(crate) fn hello(
        &self,
        place: Place,
        nonce: Nonce,
        auth: AuthMethod,
        credit: (u32, u32),
    ) -> Hello {
        Hello {
            role: self.role,
            proto_min: PROTO_MIN,
            proto_max: self.proto_max,
            features: self.features,
            cluster: self.cluster,
            generation: self.generation,
            node: self.node,
            store: self.store,
            incarnation: self.incarnation,
            config_hash: self.config_hash,
            nonce,
            kind: place.kind,
            stripe: place.stripe,
            stripes: place.stripes,
            session: place.session,
            auth,
            lane_credit: credit.0,
            link_credit: credit.1,
            lanes_max: LANES_MAX,
            name: self.name.clone(),
            address: self.address.clone(),
        }
    }
}
