//! What nodes say to each other: the framed protocol of `docs/protocol.md`.
//!
//! Pure: bytes in, bytes out, `now` and nonces are arguments. A connection
//! begins with a `Handshake` and goes on as a `Link`; what is sent over it is a
//! `Message` on a `Lane`. Nothing is allocated for a length that has not been
//! held against its bound, and all bounds are in `limits`.
//!
//! ```text
//! bytes -> frame::parse -> Assembler -> Message::decode -> Link::receive -> caller
//! caller -> Link::send -> Message::encode -> Outgoing (lanes, credit, turns) -> Link::pull -> bytes
//! ```

mod acquaintances;
mod append;
mod assemble;
mod auth;
mod body;
mod call;
mod credit;
mod deliver;
mod enqueue;
pub mod frame;
mod handshake;
mod heartbeat;
mod hello;
mod ids;
mod lane;
mod layout;
pub mod limits;
mod link;
mod link_messages;
mod mail;
mod message;
mod message_type;
mod outgoing;
pub mod proto;
mod rate;
mod reason;

/// The newest version of the protocol, N. N-1 is spoken as well.
pub const PROTO_MAX: u16 = 2;
/// The oldest version that is spoken.
pub const PROTO_MIN: u16 = 1;

pub use acquaintances::{Acquaintances, Known};
pub use append::{Append, AppendAck, AppendOutcome, Entry, EntryKind, Lead};
pub use assemble::{Assembled, Assembler};
pub use auth::{Auth, AuthMethod, Identity, Nonce, PROOF_BYTES, Secret, ShortSecret};
pub use body::Body;
pub use call::{Answer, AnswerOutcome, Call};
pub use credit::{NoCredit, ReceiveCredit, SendCredit};
pub use deliver::{Ack, AckKind, Acked, Deliver, Receiver};
pub use enqueue::{Enqueue, EnqueueAck, EnqueueOutcome, Origin, Qos, Target};
pub use handshake::{Established, Failure, Handshake, HandshakeError, Local, Step, stays};
pub use heartbeat::{Coalescer, HeartbeatAcks, Heartbeats};
pub use hello::{Hello, Proof, Role, Welcome};
pub use ids::{ClusterId, Group, LogId, NodeId, StoreId, Vote};
pub use lane::{Lane, LaneClass};
pub use layout::BodyError;
pub use link::{Link, LinkError, Received};
pub use link_messages::{Credit, Grant, Ping};
pub use mail::{Mail, MailClass};
pub use message::Message;
pub use message_type::{ConnectionKind, Form, MessageType};
pub use outgoing::{FRAME_BYTES_MAX, Outgoing, SendError};
pub use rate::RateCap;
pub use reason::{Goodbye, Reason};
