//! The sockets between the nodes of a cluster.
//!
//! `tidegate-peer` says what is said; here it is said. Between two processes
//! there is one session at a time: a control connection, some for data and one
//! for bulk, all or none. Over it go calls, which are answered, and mail, which
//! is in order within its class until the session ends. A session is a
//! [`Generation`]; what was sent in one that is over may or may not have come,
//! and finding that out is the business of the layers above.
//!
//! ```text
//! Mesh ── accept, dial ── greet (handshake, TLS) ── settle ── session
//!                                                             ├── connection: reader, writer, Link
//!                                                             └── calls, mail -> Handler
//! ```
//!
//! Everything that a peer, or who claims to be one, can make this node keep is
//! bounded; the bounds are in [`limits`].

mod accept;
mod backoff;
mod call;
mod chance;
mod config;
mod connection;
mod counts;
mod dial;
mod discovery;
mod greet;
mod handler;
pub mod limits;
mod mesh;
mod net;
mod peer;
mod session;
mod settle;
mod shared;
mod tls;

pub use call::{AskError, CallError, Request};
pub use config::{Identity, MeshConfig, PeerAddress, Trust};
pub use counts::{Counts, Refused};
pub use discovery::{DiscoverError, Discovery, Resolver};
pub use handler::{Ended, Event, Handler, Refusal, Room, Source};
pub use mesh::{Mesh, PeerStatus, Probed, StartError};
pub use net::{Doing, Listening, Net, Reading, Socket, System, Writing};
pub use peer::{Generation, Peer, SendError};
pub use shared::FRAME_KINDS;
pub use tidegate_peer::{
    ClusterId, ConnectionKind, Hello, MailClass, NodeId, PROTO_MAX, PROTO_MIN, Reason, Role,
    Secret, ShortSecret, StoreId,
};
pub use tls::{Tls, TlsError};
