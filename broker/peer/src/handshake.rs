//! The handshake: two Hellos, a Proof, a Welcome, or a Goodbye that says why not.
//!
//! ```text
//! caller                                called
//!   | -- Hello (nonce a) ----------------> |  version, cluster, node, recording?
//!   | <---------------- Hello (nonce b) -- |  the same, the other way
//!   | -- Proof (over both Hellos) -------> |  secret, or certificate
//!   | <------- Welcome (over both, too) -- |
//! ```
//!
//! Until its end a frame has at most 4 KiB, nothing but these frames is taken,
//! and nothing that the peer says has any effect.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::acquaintances::Acquaintances;
use crate::auth::{Auth, PROOF_BYTES, Transcript};
use crate::frame::{self, Flags, FrameError, Parsed};
use crate::hello::{Hello, Proof, Welcome};
use crate::ids::NodeId;
use crate::lane::Lane;
use crate::layout::BodyError;
use crate::limits::{HANDSHAKE_BODY_BYTES_MAX, HANDSHAKE_TIME_MAX, HEADER_BYTES};
use crate::message_type::{ConnectionKind, MessageType};
use crate::reason::{Goodbye, Reason};

/// What this side says of itself.
#[derive(Clone, Debug)]
pub struct Local {
    /// Its Hello. `auth` follows from the next field, and with the called side
    /// kind, stripe, stripes and session are the caller's; what is in here does
    /// not matter.
    pub hello: Hello,
    /// How the two come to believe each other.
    pub auth: Auth,
}

/// A connection whose ends believe each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Established {
    /// The peer's Hello.
    pub peer: Hello,
    /// The version from now on: the newest that both speak.
    pub proto: u16,
    /// The features in common.
    pub features: u64,
    /// Whether this side called.
    pub is_caller: bool,
    /// Whether the parts of both configs in which nodes should agree differ. Not a reason to
    /// refuse: configs are changed one node at a time.
    pub config_differs: bool,
    /// What this side offered of credit and lanes.
    pub lane_credit: u32,
    /// As above.
    pub link_credit: u32,
    /// As above.
    pub lanes_max: u16,
}

/// What is to be done next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// At least so many bytes are missing.
    NeedMore(usize),
    /// Send this, and call again.
    Send(Bytes),
    /// It is done, once `send` is sent. What is left in the buffer, and comes
    /// after it, is for a `Link`.
    Established {
        /// The called side's Welcome.
        send: Option<Bytes>,
        /// What was established.
        established: Box<Established>,
    },
}

/// Why there is no connection.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HandshakeError {
    /// Not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Not what its type says.
    #[error("{}: {error}", kind.name())]
    Body {
        /// The type.
        kind: MessageType,
        /// What is wrong with it.
        error: BodyError,
    },
    /// We refuse the peer.
    #[error("{}: {detail}", reason.name())]
    Refused {
        /// Why.
        reason: Reason,
        /// For the log, and for people at the other end.
        detail: String,
    },
    /// The peer refuses us.
    #[error("the peer says: {} {}", .0.reason().map_or("unknown", Reason::name), .0.detail)]
    ByPeer(Goodbye),
}

impl HandshakeError {
    /// Why; none if the peer gave a reason that this version does not know.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Frame(error) => Some(error.reason()),
            Self::Body { error, .. } => Some(error.reason()),
            Self::Refused { reason, .. } => Some(*reason),
            Self::ByPeer(goodbye) => goodbye.reason(),
        }
    }
}

/// A handshake that has failed; the connection is to be closed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Why.
    pub error: HandshakeError,
    /// What the peer is to be told before; none if it was its decision.
    pub send: Option<Bytes>,
}

#[derive(Debug)]
enum State {
    /// Of the called side, at first.
    WaitsForCall,
    /// Of the caller: its Hello has left.
    WaitsForHello { own: Bytes },
    /// Of the called side: its Hello has left.
    WaitsForProof { peer: Box<Agreed> },
    /// Of the caller: its Proof has left.
    WaitsForWelcome { peer: Box<Agreed> },
    /// Established, or failed.
    Over,
}

#[derive(Debug)]
struct Agreed {
    hello: Hello,
    proto: u16,
    features: u64,
    transcript: Transcript,
}

/// One side of a handshake.
#[derive(Debug)]
pub struct Handshake {
    local: Local,
    since: Duration,
    state: State,
}

impl Handshake {
    /// The caller's side, and what it sends first.
    pub fn call(mut local: Local, now: Duration) -> (Self, Bytes) {
        local.hello.auth = local.auth.method();
        let own = local.hello.encode();
        let send = handshake_frame(MessageType::Hello, &own);
        (Self { local, since: now, state: State::WaitsForHello { own } }, send)
    }

    /// The called side.
    pub fn answer(mut local: Local, now: Duration) -> Self {
        local.hello.auth = local.auth.method();
        Self { local, since: now, state: State::WaitsForCall }
    }

    /// When `expire` has to be called.
    pub fn deadline(&self) -> Duration {
        self.since.saturating_add(HANDSHAKE_TIME_MAX)
    }

    /// Ends a handshake that takes too long; none: it has time.
    pub fn expire(&mut self, now: Duration) -> Option<Failure> {
        if matches!(self.state, State::Over) || now < self.deadline() {
            return None;
        }
        let detail = format!("not done within {} s", HANDSHAKE_TIME_MAX.as_secs());
        Some(self.fail(refused(Reason::HandshakeTimeout, detail)))
    }

    /// Ends it for a reason of the caller's own.
    pub fn refuse(&mut self, reason: Reason, detail: &str) -> Failure {
        self.fail(refused(reason, detail))
    }

    /// Takes the frame at the front of `bytes`, if it is whole. To be called
    /// again after `Send`: more may be there.
    pub fn receive(
        &mut self,
        bytes: &mut BytesMut,
        acquaintances: &Acquaintances,
    ) -> Result<Step, Failure> {
        match self.try_receive(bytes, acquaintances) {
            Ok(step) => Ok(step),
            Err(error) => Err(self.fail(error)),
        }
    }

    fn fail(&mut self, error: HandshakeError) -> Failure {
        self.state = State::Over;
        let hello = &self.local.hello;
        let send = match &error {
            HandshakeError::ByPeer(_) => None,
            HandshakeError::Frame(_)
            | HandshakeError::Body { .. }
            | HandshakeError::Refused { .. } => error.reason(),
        };
        let send = send.map(|reason| {
            let versions = (hello.proto_min, hello.proto_max);
            let detail = match &error {
                HandshakeError::Refused { detail, .. } => detail.clone(),
                other => other.to_string(),
            };
            Goodbye::new(reason, versions, detail).frame()
        });
        Failure { error, send }
    }

    fn try_receive(
        &mut self,
        bytes: &mut BytesMut,
        acquaintances: &Acquaintances,
    ) -> Result<Step, HandshakeError> {
        let header = match frame::parse(bytes, HANDSHAKE_BODY_BYTES_MAX)? {
            Parsed::NeedMore(missing) => return Ok(Step::NeedMore(missing)),
            Parsed::Frame(header) => header,
        };
        let mut body = bytes.split_to(HEADER_BYTES + header.len as usize);
        let body = body.split_off(HEADER_BYTES).freeze();
        let kind = MessageType::from_code(header.kind);
        if header.lane != Lane::LINK || header.flags != Flags::NONE {
            return Err(refused(Reason::OutOfTurn, "a frame of another lane, or flags"));
        }
        if kind == Some(MessageType::Goodbye) {
            return Err(HandshakeError::ByPeer(read(
                MessageType::Goodbye,
                &body,
                Goodbye::decode,
            )?));
        }
        // Whatever goes wrong from here on, it is over.
        match (std::mem::replace(&mut self.state, State::Over), kind) {
            (State::WaitsForCall, Some(MessageType::Hello)) => self.called(body, acquaintances),
            (State::WaitsForHello { own }, Some(MessageType::Hello)) => {
                self.hello(&own, body, acquaintances)
            }
            (State::WaitsForProof { peer }, Some(MessageType::Proof)) => self.proof(*peer, &body),
            (State::WaitsForWelcome { peer }, Some(MessageType::Welcome)) => {
                self.welcome(*peer, &body)
            }
            (
                State::WaitsForCall
                | State::WaitsForHello { .. }
                | State::WaitsForProof { .. }
                | State::WaitsForWelcome { .. }
                | State::Over,
                _,
            ) => {
                let what = kind.map_or("an unknown type", MessageType::name);
                Err(refused(Reason::OutOfTurn, format!("{what} at this point")))
            }
        }
    }

    /// The caller's Hello, at the called side.
    fn called(&mut self, body: Bytes, met: &Acquaintances) -> Result<Step, HandshakeError> {
        let peer = read(MessageType::Hello, &body, Hello::decode)?;
        self.local.hello.kind = peer.kind;
        self.local.hello.stripe = peer.stripe;
        self.local.hello.stripes = peer.stripes;
        self.local.hello.session = peer.session;
        let (proto, features) = self.judge(&peer, met)?;
        let own = self.local.hello.encode();
        let transcript = Transcript::new(&body, &own);
        let peer = Box::new(Agreed { hello: peer, proto, features, transcript });
        self.state = State::WaitsForProof { peer };
        Ok(Step::Send(handshake_frame(MessageType::Hello, &own)))
    }

    /// The called side's Hello, at the caller.
    fn hello(
        &mut self,
        own: &Bytes,
        body: Bytes,
        met: &Acquaintances,
    ) -> Result<Step, HandshakeError> {
        let peer = read(MessageType::Hello, &body, Hello::decode)?;
        let (proto, features) = self.judge(&peer, met)?;
        let transcript = Transcript::new(own, &body);
        let proof = match &self.local.auth {
            Auth::Tls { .. } => [0; PROOF_BYTES],
            Auth::Secret(secret) => transcript.prove_caller(secret),
        };
        let proof = Proof { auth: self.local.auth.method(), proof }.encode();
        let peer = Box::new(Agreed { hello: peer, proto, features, transcript });
        self.state = State::WaitsForWelcome { peer };
        Ok(Step::Send(handshake_frame(MessageType::Proof, &proof)))
    }

    /// The caller's Proof, at the called side.
    fn proof(&mut self, peer: Agreed, body: &Bytes) -> Result<Step, HandshakeError> {
        let said = read(MessageType::Proof, body, Proof::decode)?;
        let method = self.local.auth.method();
        if said.auth != method {
            return Err(refused(Reason::WrongAuth, "the proof is of another method"));
        }
        let Agreed { proto, features, transcript, .. } = peer;
        let proof = match &self.local.auth {
            Auth::Tls { .. } => [0; PROOF_BYTES],
            Auth::Secret(secret) if transcript.is_caller(secret, &said.proof) => {
                transcript.prove_called(secret, proto, features)
            }
            Auth::Secret(_) => return Err(bad_proof()),
        };
        let welcome = Welcome { auth: method, proto, features, proof }.encode();
        Ok(Step::Established {
            send: Some(handshake_frame(MessageType::Welcome, &welcome)),
            established: Box::new(self.established(peer, false)),
        })
    }

    /// The called side's Welcome, at the caller.
    fn welcome(&mut self, peer: Agreed, body: &Bytes) -> Result<Step, HandshakeError> {
        let said = read(MessageType::Welcome, body, Welcome::decode)?;
        if said.auth != self.local.auth.method() {
            return Err(refused(Reason::WrongAuth, "the welcome is of another method"));
        }
        let Agreed { proto, features, transcript, .. } = peer;
        if let Auth::Secret(secret) = &self.local.auth
            && !transcript.is_called(secret, said.proto, said.features, &said.proof)
        {
            return Err(bad_proof());
        }
        if (said.proto, said.features) != (proto, features) {
            return Err(refused(Reason::BadHello, "the welcome is not what both said"));
        }
        let established = Box::new(self.established(peer, true));
        Ok(Step::Established { send: None, established })
    }

    fn established(&self, peer: Agreed, is_caller: bool) -> Established {
        let own = &self.local.hello;
        Established {
            config_differs: peer.hello.config_hash != own.config_hash,
            peer: peer.hello,
            proto: peer.proto,
            features: peer.features,
            is_caller,
            lane_credit: own.lane_credit,
            link_credit: own.link_credit,
            lanes_max: own.lanes_max,
        }
    }

    /// Whether this is a node to speak with, and what version and features.
    fn judge(&self, peer: &Hello, met: &Acquaintances) -> Result<(u16, u64), HandshakeError> {
        let own = &self.local.hello;
        let proto = own.proto_max.min(peer.proto_max);
        if proto < own.proto_min.max(peer.proto_min) {
            let detail = format!(
                "this node speaks {} to {}, you {} to {}",
                own.proto_min, own.proto_max, peer.proto_min, peer.proto_max
            );
            return Err(refused(Reason::WrongVersion, detail));
        }
        if peer.name != own.name {
            return Err(refused(Reason::WrongName, "this is not that cluster"));
        }
        let is_fresh = own.cluster.0 == 0 || peer.cluster.0 == 0;
        if peer.cluster != own.cluster && !is_fresh {
            return Err(refused(Reason::WrongCluster, "a cluster of that name, with another id"));
        }
        let place = |hello: &Hello| (hello.kind, hello.stripe, hello.stripes, hello.session);
        if place(peer) != place(own) {
            return Err(refused(Reason::BadHello, "the answer is for another connection"));
        }
        if own.cluster.0 == 0 && own.kind != ConnectionKind::Control {
            return Err(refused(Reason::BadHello, "this node is of no cluster yet"));
        }
        if peer.nonce == own.nonce || met.has_seen(&peer.nonce) {
            return Err(refused(Reason::Replayed, "this Hello was used before"));
        }
        if peer.node == own.node {
            let is_me = (peer.store, peer.incarnation) == (own.store, own.incarnation);
            let detail = if is_me { "a call to oneself" } else { "another process has this id" };
            return Err(refused(Reason::Myself, detail));
        }
        if let Some(known) = met.known(peer.node) {
            if known.is_forgotten {
                return Err(refused(Reason::Forgotten, "begin anew with an empty directory"));
            }
            if known.store != peer.store {
                return Err(refused(Reason::OtherStore, "this id belongs to another log"));
            }
            if known.incarnation > peer.incarnation {
                return Err(refused(Reason::StaleIncarnation, "a newer process is known"));
            }
        }
        self.judge_auth(peer)?;
        Ok((proto, own.features & peer.features))
    }

    fn judge_auth(&self, peer: &Hello) -> Result<(), HandshakeError> {
        if peer.auth != self.local.auth.method() {
            let detail = "one side has a shared secret, the other TLS";
            return Err(refused(Reason::WrongAuth, detail));
        }
        match &self.local.auth {
            Auth::Tls { peer: identity, accepted }
                if !identity.speaks_for(accepted, &self.local.hello.name, peer.node) =>
            {
                Err(refused(Reason::WrongIdentity, "the certificate is not for that node"))
            }
            Auth::Tls { .. } | Auth::Secret(_) => Ok(()),
        }
    }
}

/// Of two connections of one kind and stripe between the same processes, which
/// stays: that which the node with the lower id has called. Both ends come to
/// the same answer; the other is ended as `Duplicate`.
pub fn stays(own: NodeId, established: &Established) -> bool {
    established.is_caller == (own < established.peer.node)
}

fn refused(reason: Reason, detail: impl Into<String>) -> HandshakeError {
    HandshakeError::Refused { reason, detail: detail.into() }
}

fn bad_proof() -> HandshakeError {
    refused(Reason::BadProof, "another secret, or a recording")
}

fn handshake_frame(kind: MessageType, body: &Bytes) -> Bytes {
    frame::whole(kind.code(), Flags::NONE, Lane::LINK, body)
}

fn read<T>(
    kind: MessageType,
    body: &Bytes,
    decode: impl FnOnce(&Bytes) -> Result<T, BodyError>,
) -> Result<T, HandshakeError> {
    decode(body).map_err(|error| HandshakeError::Body { kind, error })
}
