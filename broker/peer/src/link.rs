//! An open connection: bytes in, messages out, and the other way.
//!
//! Ties the parts together: frames and their assembly, lanes and their credit,
//! what is allowed where. Pings and grants are dealt with in here. Whatever the
//! peer does wrong ends this one connection with a Goodbye that says why.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};

use crate::assemble::{Assembled, Assembler};
use crate::body::Body;
use crate::credit::{NoCredit, ReceiveCredit};
use crate::frame::{self, Flags, FrameError, Parsed};
use crate::handshake::Established;
use crate::lane::Lane;
use crate::layout::BodyError;
use crate::limits::{FRAME_BODY_BYTES_MAX, GRANTS_MAX, HEADER_BYTES};
use crate::link_messages::{Credit, Grant, Ping};
use crate::message::Message;
use crate::message_type::{ConnectionKind, MessageType};
use crate::outgoing::{Outgoing, SendError};
use crate::reason::{Goodbye, Reason};

/// What was received.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// At least so many bytes are missing.
    NeedMore(usize),
    /// A message. Of a lane other than 0: `charge` has to be given back with
    /// `Link::release` once it is dealt with. What it shares is the buffer that
    /// was received into; what is to be kept for long is to be copied.
    Message {
        /// Where it came.
        lane: Lane,
        /// It.
        message: Message,
        /// What it cost of the lane's credit.
        charge: usize,
    },
    /// The peer has ended the connection.
    Goodbye(Goodbye),
}

/// What the peer did wrong. The connection is over: what `pull` yields is the
/// Goodbye that says so, and then it is to be closed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LinkError {
    /// A frame, or a row of them.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A body.
    #[error("{}: {error}", kind.name())]
    Body {
        /// Of this type.
        kind: MessageType,
        /// What is wrong with it.
        error: BodyError,
    },
    /// A type on a connection of another kind.
    #[error("{} on this kind of connection", .0.name())]
    WrongConnection(MessageType),
    /// A type of lane 0 elsewhere, or the other way round.
    #[error("type {code:#06x} on {lane}")]
    WrongLane {
        /// The type.
        code: u16,
        /// Where it came.
        lane: Lane,
    },
    /// A message begun without credit.
    #[error("{lane}: {error}")]
    NoCredit {
        /// Where.
        lane: Lane,
        /// By how much.
        error: NoCredit,
    },
    /// More lanes than were offered.
    #[error("more than {0} lanes")]
    TooManyLanes(u16),
    /// It asks and does not take the answers.
    #[error("the peer does not read")]
    Overloaded,
}

impl LinkError {
    /// What the peer is told.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Frame(error) => error.reason(),
            Self::Body { error, .. } => error.reason(),
            Self::WrongConnection(_) => Reason::WrongConnection,
            Self::WrongLane { .. } => Reason::WrongLane,
            Self::NoCredit { .. } => Reason::NoCredit,
            Self::TooManyLanes(_) => Reason::TooManyLanes,
            Self::Overloaded => Reason::Overloaded,
        }
    }
}

/// One side of an open connection.
#[derive(Debug)]
pub struct Link {
    kind: ConnectionKind,
    /// For Goodbyes.
    proto: u16,
    assembler: Assembler,
    receiving: BTreeMap<Lane, ReceiveCredit>,
    window: u32,
    /// Of all lanes together.
    all: ReceiveCredit,
    lanes_max: u16,
    outgoing: Outgoing,
    /// Lanes whose grant has to be told, each with the newest.
    grants: BTreeMap<Lane, u64>,
    pong: Option<Ping>,
    /// Frames of optional types that nobody here knows, so far.
    skipped: u64,
    unknown: BTreeSet<u16>,
    is_ending: bool,
}

/// Distinct unknown types that are remembered, for the log.
const UNKNOWN_MAX: usize = 16;

impl Link {
    /// After the handshake.
    pub fn new(established: &Established) -> Self {
        let peer = &established.peer;
        Self {
            kind: peer.kind,
            proto: established.proto,
            assembler: Assembler::default(),
            receiving: BTreeMap::new(),
            window: established.lane_credit,
            all: ReceiveCredit::new(established.link_credit),
            lanes_max: established.lanes_max,
            outgoing: Outgoing::new(peer.lane_credit, peer.link_credit, peer.lanes_max),
            grants: BTreeMap::new(),
            pong: None,
            skipped: 0,
            unknown: BTreeSet::new(),
            is_ending: false,
        }
    }

    /// Takes what is at the front of `bytes`, up to the end of the first
    /// message. To be called until it needs more.
    pub fn receive(&mut self, bytes: &mut BytesMut) -> Result<Received, LinkError> {
        self.try_receive(bytes).inspect_err(|error| self.end(error.reason(), &error.to_string()))
    }

    fn try_receive(&mut self, bytes: &mut BytesMut) -> Result<Received, LinkError> {
        loop {
            let header = match frame::parse(bytes, FRAME_BODY_BYTES_MAX)? {
                Parsed::NeedMore(missing) => return Ok(Received::NeedMore(missing)),
                Parsed::Frame(header) => header,
            };
            let lane = header.lane;
            if let Some(kind) = MessageType::from_code(header.kind)
                && !kind.is_allowed_on(self.kind)
            {
                return Err(LinkError::WrongConnection(kind));
            }
            // The lane of all lanes is for grants; no type, known or not, comes on it.
            let kind = MessageType::from_code(header.kind);
            if lane == Lane::ALL || kind.is_some_and(|kind| !kind.is_allowed_in(lane)) {
                return Err(LinkError::WrongLane { code: header.kind, lane });
            }
            let mut frame = bytes.split_to(HEADER_BYTES + header.len as usize);
            let body = frame.split_off(HEADER_BYTES).freeze();
            let (kind, body, total) = match self.assembler.take(&header, body)? {
                Assembled::Begun { total } => {
                    self.charge(lane, total)?;
                    continue;
                }
                Assembled::More => continue,
                Assembled::Whole { kind, body, total, is_single } => {
                    if is_single && lane != Lane::LINK {
                        self.charge(lane, total)?;
                    }
                    (kind, body, total)
                }
            };
            let Some(kind) = kind else {
                self.skip(header.kind);
                self.release(lane, total);
                continue;
            };
            let message =
                Message::decode(kind, &body).map_err(|error| LinkError::Body { kind, error })?;
            match message {
                Message::Goodbye(goodbye) => return Ok(Received::Goodbye(goodbye)),
                Message::Credit(credit) => {
                    for grant in credit.grants {
                        self.outgoing.grant(grant.lane, grant.limit);
                    }
                }
                // The newest alone: whoever asks faster than it reads gets fewer.
                Message::Ping(ping) => self.pong = Some(ping),
                message => return Ok(Received::Message { lane, message, charge: total }),
            }
        }
    }

    fn charge(&mut self, lane: Lane, total: usize) -> Result<(), LinkError> {
        let is_new = !self.receiving.contains_key(&lane);
        if is_new && self.receiving.len() >= usize::from(self.lanes_max) {
            return Err(LinkError::TooManyLanes(self.lanes_max));
        }
        let window = self.window;
        let credit = self.receiving.entry(lane).or_insert_with(|| ReceiveCredit::new(window));
        credit.receive(total).map_err(|error| LinkError::NoCredit { lane, error })?;
        self.all.receive(total).map_err(|error| LinkError::NoCredit { lane: Lane::ALL, error })
    }

    fn skip(&mut self, code: u16) {
        self.skipped += 1;
        if self.unknown.len() < UNKNOWN_MAX {
            self.unknown.insert(code);
        }
    }

    /// A message of that lane was dealt with: its room is free.
    pub fn release(&mut self, lane: Lane, charge: usize) {
        let Some(credit) = self.receiving.get_mut(&lane) else { return };
        if let Some(limit) = credit.release(charge) {
            self.grants.insert(lane, limit);
        }
        if let Some(limit) = self.all.release(charge) {
            self.grants.insert(Lane::ALL, limit);
        }
    }

    /// Queues a message. On lane 0 `Full` means that the peer does not read:
    /// the connection is then best given up with `Reason::Overloaded`.
    pub fn send(&mut self, lane: Lane, message: &Message) -> Result<(), SendError> {
        let kind = message.message_type();
        if !kind.is_allowed_on(self.kind) || !kind.is_allowed_in(lane) {
            return Err(SendError::Misplaced);
        }
        let body = message.encode();
        let (got, max) = (body.len(), kind.bytes_max());
        if got > max {
            return Err(SendError::TooLarge { got, max });
        }
        self.send_raw(lane, kind.code(), Flags::NONE, body)
    }

    /// Queues a message of a type of a newer version's, which a peer that does
    /// not know it skips.
    pub fn send_optional(&mut self, lane: Lane, code: u16, body: Body) -> Result<(), SendError> {
        self.send_raw(lane, code, Flags::OPTIONAL, body)
    }

    fn send_raw(
        &mut self,
        lane: Lane,
        code: u16,
        flags: Flags,
        body: Body,
    ) -> Result<(), SendError> {
        if self.is_ending {
            return Err(SendError::Ending);
        }
        if lane == Lane::ALL {
            return Err(SendError::Misplaced);
        }
        self.outgoing.push(lane, code, flags, body)
    }

    /// Ends the connection: drops what waits, and says why.
    pub fn end(&mut self, reason: Reason, detail: &str) {
        if self.is_ending {
            return;
        }
        self.is_ending = true;
        self.outgoing.clear();
        self.grants.clear();
        self.pong = None;
        let goodbye = Goodbye::new(reason, (self.proto, self.proto), detail);
        let code = MessageType::Goodbye.code();
        let pushed = self.outgoing.push_urgent(code, Flags::NONE, goodbye.encode());
        debug_assert!(pushed.is_ok(), "the queue is empty");
    }

    /// Whether it has been ended; to be closed once nothing is left to pull.
    pub fn is_ending(&self) -> bool {
        self.is_ending
    }

    /// Appends frames of at most `bytes_max` bytes together to `out`, to be
    /// written in that order; returns their bytes. With `FRAME_BYTES_MAX` or
    /// more, something comes unless there is nothing. A bulk connection gives
    /// what is `RateCap::available`, and spends what is returned.
    pub fn pull(&mut self, bytes_max: usize, out: &mut Vec<Bytes>) -> usize {
        self.answer();
        self.outgoing.pull(bytes_max, out)
    }

    /// The same, of lane 0 alone: pings, grants and the Goodbye do not wait for
    /// a rate cap. What is returned is spent from it all the same.
    pub fn pull_urgent(&mut self, bytes_max: usize, out: &mut Vec<Bytes>) -> usize {
        self.answer();
        self.outgoing.pull_urgent(bytes_max, out)
    }

    /// Puts pongs and grants into frames; what finds no room is tried again.
    fn answer(&mut self) {
        if let Some(ping) = self.pong {
            let code = MessageType::Pong.code();
            if self.outgoing.push_urgent(code, Flags::NONE, ping.encode()).is_ok() {
                self.pong = None;
            }
        }
        while !self.grants.is_empty() {
            let some = self.grants.iter().take(GRANTS_MAX);
            let grants: Vec<_> = some.map(|(&lane, &limit)| Grant { lane, limit }).collect();
            let credit = Credit { grants };
            let code = MessageType::Credit.code();
            if self.outgoing.push_urgent(code, Flags::NONE, credit.encode()).is_err() {
                return;
            }
            credit.grants.iter().for_each(|grant| {
                self.grants.remove(&grant.lane);
            });
        }
    }

    /// Whether a pull would yield something.
    pub fn is_ready(&self) -> bool {
        self.outgoing.is_ready() || self.pong.is_some() || !self.grants.is_empty()
    }

    /// Bytes that wait to be sent, each message counted with 64 more.
    pub fn queued_bytes(&self) -> usize {
        self.outgoing.queued_bytes()
    }

    /// The same, on one lane: after `Full`, whether it is worth another try.
    pub fn queued_on(&self, lane: Lane) -> usize {
        self.outgoing.queued_on(lane)
    }

    /// Bytes that were received and not released; at most the credit of all
    /// lanes together, and one message.
    pub fn waiting(&self) -> u64 {
        self.all.waiting()
    }

    /// The same, of one lane.
    pub fn waiting_on(&self, lane: Lane) -> u64 {
        self.receiving.get(&lane).map_or(0, ReceiveCredit::waiting)
    }

    /// Messages of types that nobody here knows and that were skipped, and up
    /// to sixteen of those types.
    pub fn skipped(&self) -> (u64, impl Iterator<Item = u16> + '_) {
        (self.skipped, self.unknown.iter().copied())
    }
}
