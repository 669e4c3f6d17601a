//! A message of any type, and its body.

use bytes::Bytes;

use crate::append::{Append, AppendAck};
use crate::body::Body;
use crate::call::{Answer, Call};
use crate::deliver::{Ack, Deliver};
use crate::enqueue::{Enqueue, EnqueueAck};
use crate::heartbeat::{HeartbeatAcks, Heartbeats};
use crate::hello::{Hello, Proof, Welcome};
use crate::layout::BodyError;
use crate::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use crate::link_messages::{Credit, Ping};
use crate::mail::Mail;
use crate::message_type::MessageType;
use crate::proto;
use crate::reason::Goodbye;

macro_rules! messages {
    (by_hand { $($hand:ident($hand_body:ty),)+ } by_protobuf { $($proto:ident,)+ }) => {
        /// A message of any type; see `MessageType` for what each is.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "said at MessageType")]
        pub enum Message {
            $($hand($hand_body),)+
            $($proto(proto::$proto),)+
        }

        impl Message {
            /// Its type.
            pub fn message_type(&self) -> MessageType {
                match self {
                    $(Self::$hand(_) => MessageType::$hand,)+
                    $(Self::$proto(_) => MessageType::$proto,)+
                }
            }

            /// Its body. Of a hot message all but the header is shared.
            pub fn encode(&self) -> Body {
                match self {
                    $(Self::$hand(message) => message.encode().into(),)+
                    $(Self::$proto(message) => proto::encode(message).into(),)+
                }
            }

            /// Reads a body of that type.
            pub fn decode(kind: MessageType, body: &Bytes) -> Result<Self, BodyError> {
                let message = match kind {
                    $(MessageType::$hand => Self::$hand(<$hand_body>::decode(body)?),)+
                    $(MessageType::$proto => Self::$proto(proto::decode(body)?),)+
                };
                message.check()?;
                Ok(message)
            }
        }

        $(impl From<proto::$proto> for Message {
            fn from(message: proto::$proto) -> Self {
                Self::$proto(message)
            }
        })+
    };
}

messages! {
    by_hand {
        Hello(Hello),
        Proof(Proof),
        Welcome(Welcome),
        Goodbye(Goodbye),
        Ping(Ping),
        Pong(Ping),
        Credit(Credit),
        Heartbeats(Heartbeats),
        HeartbeatAcks(HeartbeatAcks),
        Append(Append),
        AppendAck(AppendAck),
        Enqueue(Enqueue),
        EnqueueAck(EnqueueAck),
        Deliver(Deliver),
        Ack(Ack),
        Call(Call),
        Answer(Answer),
        Mail(Mail),
    }
    by_protobuf {
        VoteRequest,
        VoteReply,
        TransferLeader,
        LeaseRequest,
        LeaseGrant,
        RouteSnapshot,
        RouteIncrement,
        RouteAck,
        RoutePing,
        RouteResume,
        Claim,
        ClaimReply,
        Evict,
        Evicted,
        Command,
        CommandReply,
        AckConfirm,
        LaneQuery,
        LanePosition,
        RetainedQuery,
        RetainedAnswer,
        Drain,
        DrainProgress,
        SnapshotOffer,
        SnapshotChunk,
        SnapshotAck,
        Register,
        RegisterReply,
        MetaWatch,
        MetaDelta,
    }
}

impl Message {
    /// Bounds of single fields that protobuf does not know of.
    fn check(&self) -> Result<(), BodyError> {
        if let Self::SnapshotChunk(chunk) = self
            && chunk.data.len() > SNAPSHOT_CHUNK_BYTES_MAX
        {
            let (got, max) = (chunk.data.len(), SNAPSHOT_CHUNK_BYTES_MAX);
            return Err(BodyError::TooMany { what: "a chunk", got, max });
        }
        Ok(())
    }
}
