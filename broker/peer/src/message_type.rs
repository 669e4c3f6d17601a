//! The types of messages: their numbers, where they belong, how long they may be.

use crate::lane::Lane;
use crate::limits::{FRAME_BODY_BYTES_MAX, MESSAGE_BYTES_MAX, PROTO_BYTES_MAX};

/// What a connection between two nodes is for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum ConnectionKind {
    /// Heartbeats, votes, leases, the meta group, routes: little and urgent.
    Control = 1,
    /// Replication and messages; several a pair of nodes, by partition.
    Data = 2,
    /// Snapshots and moves, under a rate cap.
    Bulk = 3,
}

impl ConnectionKind {
    /// As in a Hello; none if it is not one.
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Control),
            2 => Some(Self::Data),
            3 => Some(Self::Bulk),
            _ => None,
        }
    }
}

/// Where a type belongs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// In the handshake, and nowhere else.
    Handshake,
    /// On lane 0 of every connection.
    Link,
    /// On lane 0, but not of a bulk connection.
    Beat,
    /// On a lane of a control connection.
    Control,
    /// On a lane of a data connection.
    Data,
    /// On a lane of either.
    Both,
    /// On a lane of a bulk connection.
    Bulk,
    /// On a lane of any.
    Any,
}

/// How the body is laid out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// By hand; `MESSAGE_BYTES_MAX`.
    Hand,
    /// In protobuf's encoding; `PROTO_BYTES_MAX`.
    Proto,
}

macro_rules! types {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $form:ident, $place:ident;)+) => {
        /// The type of a message. The numbers are the protocol's and are never
        /// used again for something else.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u16)]
        pub enum MessageType {
            $($(#[doc = $doc])+ $name = $code,)+
        }

        impl MessageType {
            /// All, in order of their codes.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The type with this number, if this version knows it.
            pub fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// Its name in logs, metrics and `docs/protocol.md`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// How the body is laid out.
            pub fn form(self) -> Form {
                match self {
                    $(Self::$name => Form::$form,)+
                }
            }

            fn place(self) -> Place {
                match self {
                    $(Self::$name => Place::$place,)+
                }
            }
        }
    };
}

types! {
    /// Who speaks; both ways, the first frame of each.
    Hello = 0x0001, Hand, Handshake;
    /// That the caller knows the secret.
    Proof = 0x0002, Hand, Handshake;
    /// That the called side does too, and what was agreed on.
    Welcome = 0x0003, Hand, Handshake;
    /// Why this is the end; the last frame, in the handshake or after it.
    Goodbye = 0x0004, Hand, Link;
    /// Are you there?
    Ping = 0x0005, Hand, Link;
    /// Yes.
    Pong = 0x0006, Hand, Link;
    /// How far each lane may go.
    Credit = 0x0007, Hand, Link;
    /// Raft's heartbeats of all groups that the sender leads.
    Heartbeats = 0x0010, Hand, Beat;
    /// Their answers.
    HeartbeatAcks = 0x0011, Hand, Beat;

    /// Entries for one group's log.
    Append = 0x0100, Hand, Both;
    /// The answer.
    AppendAck = 0x0101, Hand, Both;
    /// A message for a partition, or for a node's own subscribers.
    Enqueue = 0x0110, Hand, Data;
    /// The answer.
    EnqueueAck = 0x0111, Hand, Data;
    /// A message of a partition for clients of a node.
    Deliver = 0x0112, Hand, Data;
    /// What those clients acknowledged.
    Ack = 0x0113, Hand, Data;

    /// Something is asked of a group, or of the node.
    Call = 0x0120, Hand, Any;
    /// The answer.
    Answer = 0x0121, Hand, Any;
    /// Something is said and not answered; in order within its class.
    Mail = 0x0122, Hand, Both;

    /// A candidate asks for a vote.
    VoteRequest = 0x0200, Proto, Control;
    /// The answer.
    VoteReply = 0x0201, Proto, Control;
    /// A leader asks to be succeeded.
    TransferLeader = 0x0202, Proto, Control;
    /// A node asks to be taken as alive.
    LeaseRequest = 0x0210, Proto, Control;
    /// It is, until then.
    LeaseGrant = 0x0211, Proto, Control;
    /// All routes of a node, in parts.
    RouteSnapshot = 0x0220, Proto, Control;
    /// What changed since.
    RouteIncrement = 0x0221, Proto, Control;
    /// Up to where they are in force at the receiver.
    RouteAck = 0x0222, Proto, Control;
    /// The newest change's number, which renews the lease.
    RoutePing = 0x0223, Proto, Control;
    /// From which number on they are wanted.
    RouteResume = 0x0224, Proto, Control;
    /// A client id for a connection.
    Claim = 0x0230, Proto, Data;
    /// Whether it got it.
    ClaimReply = 0x0231, Proto, Data;
    /// Another has it now.
    Evict = 0x0232, Proto, Data;
    /// That one is gone.
    Evicted = 0x0233, Proto, Data;
    /// A record for a partition's log, in the records' own encoding.
    Command = 0x0238, Proto, Data;
    /// What became of it.
    CommandReply = 0x0239, Proto, Data;
    /// Up to which batch Acks have been committed.
    AckConfirm = 0x023A, Proto, Data;
    /// Where a lane of Enqueues stands.
    LaneQuery = 0x023B, Proto, Data;
    /// There.
    LanePosition = 0x023C, Proto, Data;
    /// Which retained messages match.
    RetainedQuery = 0x0240, Proto, Data;
    /// These.
    RetainedAnswer = 0x0241, Proto, Data;
    /// A node is to be emptied, or no longer.
    Drain = 0x0250, Proto, Control;
    /// How much is left.
    DrainProgress = 0x0251, Proto, Control;
    /// A snapshot is there, of this length.
    SnapshotOffer = 0x0260, Proto, Bulk;
    /// A piece of it.
    SnapshotChunk = 0x0261, Proto, Bulk;
    /// Up to where it is held, and whether it is installed.
    SnapshotAck = 0x0262, Proto, Bulk;
    /// A node asks to be of the cluster.
    Register = 0x0270, Proto, Control;
    /// Whether it is.
    RegisterReply = 0x0271, Proto, Control;
    /// From which index on the meta group's deltas are wanted.
    MetaWatch = 0x0272, Proto, Control;
    /// What the meta group has committed.
    MetaDelta = 0x0273, Proto, Control;
}

impl MessageType {
    /// As in a header.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// Bytes that the body may have.
    pub fn bytes_max(self) -> usize {
        if self.is_of_link() {
            return FRAME_BODY_BYTES_MAX;
        }
        match self.form() {
            Form::Hand => MESSAGE_BYTES_MAX,
            Form::Proto => PROTO_BYTES_MAX,
        }
    }

    /// Whether it belongs on lane 0: without credit and in one frame.
    pub fn is_of_link(self) -> bool {
        matches!(self.place(), Place::Handshake | Place::Link | Place::Beat)
    }

    /// Whether it belongs on an open connection of that kind.
    pub fn is_allowed_on(self, kind: ConnectionKind) -> bool {
        match self.place() {
            Place::Handshake => false,
            Place::Link => true,
            Place::Beat | Place::Both => kind != ConnectionKind::Bulk,
            Place::Control => kind == ConnectionKind::Control,
            Place::Data => kind == ConnectionKind::Data,
            Place::Bulk => kind == ConnectionKind::Bulk,
            Place::Any => true,
        }
    }

    /// Whether it belongs on that lane.
    pub fn is_allowed_in(self, lane: Lane) -> bool {
        lane != Lane::ALL && self.is_of_link() == (lane == Lane::LINK)
    }
}
