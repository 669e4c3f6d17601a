//! A session, to who sends over it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_peer::{Hello, MailClass, NodeId};

use crate::call::{CallError, Request};
use crate::session::Session;

/// Which session; numbered by this process, each higher than those before.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Why mail was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SendError {
    /// Too much waits on that class; `Event::Writable` follows. Not taken.
    #[error("too much waits on that class")]
    Full,
    /// The session is over, or its end is about to be told.
    #[error("the connection was lost")]
    Lost,
    /// Longer than a message may be. Our own fault.
    #[error("mail of {got} bytes is over the limit of {max}")]
    TooLarge {
        /// Its bytes.
        got: usize,
        /// What is allowed.
        max: usize,
    },
    /// With a node of no cluster there are no data connections.
    #[error("no such connection with a node of no cluster")]
    NoData,
}

/// A peer in one session. Cheap to clone; holds nothing up once it is over.
#[derive(Clone)]
pub struct Peer(pub(crate) Arc<Session>);

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("node", &self.node())
            .field("incarnation", &self.incarnation())
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

impl Peer {
    /// Which node.
    pub fn node(&self) -> NodeId {
        self.0.hello.node
    }

    /// Which process.
    pub fn incarnation(&self) -> u64 {
        self.0.hello.incarnation
    }

    /// Which session.
    pub fn generation(&self) -> Generation {
        self.0.generation
    }

    /// The version of the protocol that is spoken: the newest that both know.
    pub fn proto(&self) -> u16 {
        self.0.proto
    }

    /// Where it says that it is reached.
    pub fn address(&self) -> &str {
        &self.0.hello.address
    }

    /// The other end of the control connection.
    pub fn remote(&self) -> SocketAddr {
        self.0.remote
    }

    /// What it says of itself.
    pub fn hello(&self) -> &Hello {
        &self.0.hello
    }

    /// Whether it differs from this node in what nodes should have alike.
    pub fn config_differs(&self) -> bool {
        self.0.config_differs
    }

    /// Sends mail, behind all that was sent in this class and session before.
    pub fn send(&self, class: MailClass, body: Bytes) -> Result<(), SendError> {
        self.0.mail(class, body)
    }

    /// Whether a send would take more. If not, `Event::Writable` follows,
    /// unless the session ends.
    pub fn ready(&self, class: MailClass) -> bool {
        self.0.is_ready(class)
    }

    /// Asks the peer in this session alone.
    pub async fn call(&self, request: Request) -> Result<Bytes, CallError> {
        self.0.call(request).await
    }

    /// Ends the session; a listed peer is called again.
    pub fn disconnect(&self, detail: &str) {
        self.0.end(crate::handler::Ended::here(tidegate_peer::Reason::Finished, detail));
    }
}
