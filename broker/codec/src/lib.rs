//! MQTT 3.1, 3.1.1 and 5.0: bytes to packets and back.
//!
//! Ring 0: no I/O, no clock, no state between packets. [`frame`] finds where a
//! packet ends and is apart from [`decode`], so that "more bytes are needed" can
//! never come out of a bad body. Decoding borrows from the read buffer and
//! allocates nothing; what must outlive the buffer, the caller copies. Encoding
//! appends to a `Vec<u8>` and cannot fail.
//!
//! What a lone packet can get wrong is refused here, with the reason that the
//! peer is told ([`DecodeError::reason`]). What depends on the session (a topic
//! alias out of range, a QoS above the maximum, an unknown packet id) is not.

pub mod defect;

mod answer;
mod connect;
mod decode;
mod encode;
mod error;
mod forward;
mod frame;
mod packet;
mod property;
mod publish;
mod reader;
mod reason;
mod request;
mod topic;
mod types;
mod writer;

pub use answer::{
    ConnackOut, encode_ack, encode_connack, encode_disconnect, encode_pingresp, encode_suback,
    encode_unsuback, v3_return_code,
};
pub use connect::{Connect, ConnectAnswer, ConnectError, ConnectProperties, Will, decode_connect};
pub use decode::decode;
pub use encode::{PublishOut, encode_publish, varint_len};
pub use error::DecodeError;
pub use forward::{Forward, SubscriptionIds};
pub use frame::{Frame, frame};
pub use packet::{
    Ack, Auth, Connack, Disconnect, Packet, Suback, Subscribe, SubscribeFilters, Unsuback,
    Unsubscribe, UnsubscribeFilters,
};
pub use property::{Properties, Property, PropertyIter};
pub use publish::{Publish, PublishProperties, decode_publish};
pub use reason::ReasonCode;
pub use request::{
    ConnectOut, WillOut, encode_auth, encode_connect, encode_disconnect_v3, encode_pingreq,
    encode_subscribe, encode_unsubscribe,
};
pub use topic::{Filter, FilterError, matches, topic_name};
pub use types::{Direction, PacketType, QoS, RetainHandling, SubscribeOptions, Version};
pub use writer::PropertyWriter;

/// The longest string or binary field that the protocol can carry, in bytes.
pub const FIELD_BYTES_MAX: usize = u16::MAX as usize;
/// The largest variable byte integer, and so the largest remaining length.
pub const VARINT_MAX: u32 = 268_435_455;
