//! What the mesh tells the layers above.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_peer::{Goodbye, Hello, Lane, MailClass, NodeId, Reason};

use crate::call::Request;
use crate::connection::Connection;
use crate::peer::{Generation, Peer};

/// Who is told what comes.
///
/// All three are called on the mesh's threads and must not block.
pub trait Handler: Send + Sync + 'static {
    /// Something is asked of this node. Called, and its future polled for the
    /// first time, in the order in which calls came on a connection; from there
    /// on the future runs beside others, and is dropped when its caller's time
    /// or the session is over.
    fn call(
        &self,
        from: Source,
        request: Request,
    ) -> impl Future<Output = Result<Bytes, Refusal>> + Send + 'static;

    /// Mail, in order within its class and generation. Until `room` is dropped
    /// its bytes count against the class's credit. `body` shares the buffer
    /// that it was received into; what is kept for long is best copied.
    fn mail(&self, from: &Peer, class: MailClass, body: Bytes, room: Room);

    /// A session came up or ended, or a class takes mail again.
    fn event(&self, event: Event);
}

/// Why a call is not answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// The layers' above to number.
    pub code: u16,
    /// For people.
    pub detail: String,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it says of itself, as far as the handshake has checked it.
    pub hello: Arc<Hello>,
    /// Where it called from.
    pub remote: SocketAddr,
    /// Of which session; none: it asked without one.
    pub generation: Option<Generation>,
}

/// What happened to a session.
#[derive(Clone, Debug)]
pub enum Event {
    /// All its connections are open; comes before what comes over them.
    Up {
        /// With whom.
        peer: Peer,
    },
    /// It is over, in all its classes: what was sent may not have come. Comes
    /// behind all that came over it, and before the next session's `Up`.
    Down {
        /// With whom.
        node: NodeId,
        /// Which process.
        incarnation: u64,
        /// Which session.
        generation: Generation,
        /// Why.
        why: Ended,
    },
    /// A class that was `Full` takes mail again. May come late: what counts is
    /// the next send.
    Writable {
        /// To whom.
        node: NodeId,
        /// In which session.
        generation: Generation,
        /// Which.
        class: MailClass,
    },
}

/// Why a session, or one of its connections, ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ended {
    /// This node ended it.
    Here {
        /// Why.
        reason: Reason,
        /// More of it.
        detail: String,
    },
    /// The peer did, and said so.
    ByPeer(Goodbye),
    /// It broke.
    Broken(String),
}

impl Ended {
    pub(crate) fn here(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Here { reason, detail: detail.into() }
    }

    /// The reason, if there is one.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Here { reason, .. } => Some(*reason),
            Self::ByPeer(goodbye) => goodbye.reason(),
            Self::Broken(_) => None,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here { reason, detail } => write!(f, "{}: {detail}", reason.name()),
            Self::ByPeer(goodbye) => {
                let name = goodbye.reason().map_or("unknown", Reason::name);
                write!(f, "the peer says {name}: {}", goodbye.detail)
            }
            Self::Broken(what) => f.write_str(what),
        }
    }
}

/// What came, as long as it takes up room; dropped when it was dealt with.
#[derive(Debug)]
#[must_use = "dropped, it lets the sender send more"]
pub struct Room {
    pub(crate) connection: Arc<Connection>,
    pub(crate) lane: Lane,
    pub(crate) charge: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.connection.release(self.lane, self.charge);
    }
}

pub(crate) type Answering = Pin<Box<dyn Future<Output = Result<Bytes, Refusal>> + Send>>;

/// `Handler`, such that tasks need not know its type.
pub(crate) trait Upward: Send + Sync + 'static {
    fn call(&self, from: Source, request: Request) -> Answering;
    fn mail(&self, from: &Peer, class: MailClass, body: Bytes, room: Room);
    fn event(&self, event: Event);
}

/// A handler, boxed.
pub(crate) struct Above<H>(pub(crate) Arc<H>);

impl<H: Handler> Upward for Above<H> {
    fn call(&self, from: Source, request: Request) -> Answering {
        Box::pin(self.0.call(from, request))
    }

    fn mail(&self, from: &Peer, class: MailClass, body: Bytes, room: Room) {
        self.0.mail(from, class, body, room);
    }

    fn event(&self, event: Event) {
        self.0.event(event);
    }
}
