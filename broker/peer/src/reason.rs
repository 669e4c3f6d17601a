//! Why a connection ends or never begins, and the frame that says so.

use bytes::Bytes;

use crate::frame::{self, Flags};
use crate::lane::Lane;
use crate::layout::{BodyError, Opened, Writer};
use crate::limits::DETAIL_BYTES_MAX;
use crate::message_type::MessageType;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $text:literal;)+) => {
        /// Why. The numbers are the protocol's, and never change their meaning.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u16)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name = $code,)+
        }

        impl Reason {
            /// All, in order of their codes.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The reason with this code; none if it is from a newer version.
            pub fn from_code(code: u16) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// Its name in logs, metrics and `docs/protocol.md`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// The node stops.
    Leaving = 1, "leaving";
    /// The node has another connection of this kind with us.
    Duplicate = 2, "duplicate";
    /// Nothing was heard for too long.
    Silent = 3, "silent";
    /// The node drains and has handed over what went this way.
    Drained = 4, "drained";
    /// What this connection is for is over.
    Finished = 5, "finished";

    /// A length over its bound: garbage, or another protocol.
    TooLarge = 16, "too_large";
    /// The bytes are not those that were sent.
    BadChecksum = 17, "bad_checksum";
    /// Flags that no version has defined.
    ReservedFlags = 18, "reserved_flags";
    /// A type that is not known and not optional.
    UnknownType = 19, "unknown_type";
    /// Frames that do not make up a message.
    BadFragment = 20, "bad_fragment";
    /// More messages partly through than allowed.
    TooManyPartials = 21, "too_many_partials";
    /// A body that is not what its type says.
    BadBody = 22, "bad_body";
    /// A body laid out as only a newer version does.
    UnknownLayout = 23, "unknown_layout";
    /// A type that does not belong on this kind of connection.
    WrongConnection = 24, "wrong_connection";
    /// A type that does not belong on this lane.
    WrongLane = 25, "wrong_lane";
    /// A message begun without credit.
    NoCredit = 26, "no_credit";
    /// More lanes than were offered.
    TooManyLanes = 27, "too_many_lanes";
    /// The peer does not read what cannot wait.
    Overloaded = 28, "overloaded";

    /// No version that both speak.
    WrongVersion = 64, "wrong_version";
    /// Another cluster's id.
    WrongCluster = 65, "wrong_cluster";
    /// Another cluster's name.
    WrongName = 66, "wrong_name";
    /// The proof does not come from our secret and both nonces: another
    /// secret, or a recording.
    BadProof = 67, "bad_proof";
    /// One side has a shared secret, the other TLS.
    WrongAuth = 68, "wrong_auth";
    /// The certificate is not one for such a node.
    WrongIdentity = 69, "wrong_identity";
    /// The node has called itself.
    Myself = 70, "myself";
    /// A newer process of that node is known.
    StaleIncarnation = 71, "stale_incarnation";
    /// The node's id is known with another log.
    OtherStore = 72, "other_store";
    /// A Hello whose nonce has been seen: a recording.
    Replayed = 73, "replayed";
    /// A frame that does not belong at this point of the handshake.
    OutOfTurn = 74, "out_of_turn";
    /// The handshake took too long.
    HandshakeTimeout = 75, "handshake_timeout";
    /// A Hello that contradicts itself or what was asked.
    BadHello = 76, "bad_hello";
    /// The node is no longer of the cluster.
    Forgotten = 77, "forgotten";
    /// A data or bulk connection without its control connection.
    NoSession = 78, "no_session";
    /// Another node than the one that was called.
    WrongNode = 79, "wrong_node";
}

impl Reason {
    /// As in a Goodbye.
    pub fn code(self) -> u16 {
        self as u16
    }
}

/// The last frame of a connection, in the handshake or after it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Goodbye {
    /// The code; `Reason::from_code` knows ours.
    pub code: u16,
    /// The versions which the sender speaks, for whoever was refused for his.
    pub proto_min: u16,
    /// The newest of them.
    pub proto_max: u16,
    /// For people; at most `DETAIL_BYTES_MAX`. Never a secret, nor more of the
    /// cluster than whoever is refused knew.
    pub detail: String,
}

impl Goodbye {
    const HEADER: usize = 12;

    /// One of ours. A detail that is too long is cut.
    pub fn new(reason: Reason, versions: (u16, u16), detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        let mut end = detail.len().min(DETAIL_BYTES_MAX);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        detail.truncate(end);
        let (proto_min, proto_max) = versions;
        Self { code: reason.code(), proto_min, proto_max, detail }
    }

    /// The reason, if it is one that this version knows.
    pub fn reason(&self) -> Option<Reason> {
        Reason::from_code(self.code)
    }

    /// The body.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::new(1, 0);
        out.u16(self.code);
        out.u16(self.proto_min);
        out.u16(self.proto_max);
        out.u16(u16::try_from(self.detail.len()).expect("cut to its bound"));
        out.header_ends();
        out.bytes(self.detail.as_bytes());
        out.finish()
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let code = open.u16()?;
        let (proto_min, proto_max) = (open.u16()?, open.u16()?);
        let len = usize::from(open.u16()?);
        if len > DETAIL_BYTES_MAX {
            return Err(BodyError::TooMany { what: "detail", got: len, max: DETAIL_BYTES_MAX });
        }
        let detail = open.text(len, "detail")?;
        open.ends()?;
        Ok(Self { code, proto_min, proto_max, detail })
    }

    /// As a whole frame.
    pub fn frame(&self) -> Bytes {
        frame::whole(MessageType::Goodbye.code(), Flags::NONE, Lane::LINK, &self.encode())
    }
}
