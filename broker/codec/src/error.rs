//! What can be wrong with bytes that a peer sent, and what the peer is told.

use crate::{FilterError, PacketType, ReasonCode, defect};

/// Why a packet was refused. All of these are the peer's fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// The packet is over the size limit; known from its first five bytes.
    #[error("packet of {got} bytes is over the limit of {max}")]
    TooLarge {
        /// The whole packet, fixed header included.
        got: u32,
        /// The limit.
        max: u32,
    },
    /// The remaining length has no end within four bytes.
    #[error("the remaining length is longer than four bytes")]
    MalformedLength,
    /// A variable byte integer is written longer than it needs to be (5.0).
    #[error("a variable byte integer is not in its shortest form")]
    NonMinimalLength,
    /// A variable byte integer inside a packet has no end within four bytes.
    #[error("a variable byte integer in {0} is longer than four bytes")]
    MalformedVarint(PacketType),
    /// The low four bits of the first byte are not what this type asks for.
    #[error("{0} carries reserved flags {1:#06b}")]
    ReservedFlags(PacketType, u8),
    /// Type 0, or 15 before 5.0.
    #[error("packet type {0} is reserved")]
    ReservedPacketType(u8),
    /// A packet that only the other side may send.
    #[error("{0} from the wrong side")]
    WrongDirection(PacketType),
    /// A second CONNECT on one connection.
    #[error("a second CONNECT")]
    SecondConnect,
    /// The first packet is something else than CONNECT.
    #[error("the first packet is not a CONNECT but type {0}")]
    NotConnect(u8),
    /// The body ends before its last field does.
    #[error("{0} is cut short")]
    Truncated(PacketType),
    /// Bytes are left behind the last field.
    #[error("{0} has {1} bytes too many")]
    TrailingBytes(PacketType, u32),
    /// A string is not well-formed UTF-8.
    #[error("a string in {0} is not UTF-8")]
    NotUtf8(PacketType),
    /// A string contains U+0000.
    #[error("a string in {0} contains U+0000")]
    NulInString(PacketType),
    /// A PUBLISH or a will with both QoS bits set.
    #[error("QoS 3 in {0}")]
    QoS3(PacketType),
    /// DUP with QoS 0.
    #[error("DUP is set on a QoS 0 PUBLISH")]
    DupAtQoS0,
    /// Packet identifier 0 where one is needed.
    #[error("{0} has packet identifier 0")]
    ZeroPacketId(PacketType),
    /// A topic name with `+` or `#` in it.
    #[error("a topic name in {0} contains a wildcard")]
    TopicWildcard(PacketType),
    /// An empty topic name, and no alias that stands for one.
    #[error("a topic name in {0} is empty")]
    EmptyTopic(PacketType),
    /// Topic alias 0.
    #[error("topic alias 0")]
    TopicAliasZero,
    /// The protocol name is neither `MQTT` nor `MQIsdp`.
    #[error("the protocol name is not one of MQTT's")]
    ProtocolName,
    /// A level that the protocol name does not have.
    #[error("protocol level {0} is not supported")]
    ProtocolLevel(u8),
    /// Bit 0 of the connect flags is set.
    #[error("connect flags {0:#010b} have the reserved bit set")]
    ConnectFlagReserved(u8),
    /// Will QoS or will retain without a will.
    #[error("connect flags {0:#010b} describe a will that is not there")]
    WillFlagsWithoutWill(u8),
    /// A password without a user name (3.1.1).
    #[error("a password without a user name")]
    PasswordWithoutUserName,
    /// No property has this identifier.
    #[error("property {id:#04x} in {packet} does not exist")]
    PropertyUnknown {
        /// The packet that carries it.
        packet: PacketType,
        /// The identifier.
        id: u8,
    },
    /// The property exists, and this packet may not carry it.
    #[error("property {id:#04x} is not allowed in {packet}")]
    PropertyMisplaced {
        /// The packet that carries it.
        packet: PacketType,
        /// The identifier.
        id: u8,
    },
    /// The property may appear once, and is there again.
    #[error("property {id:#04x} is repeated in {packet}")]
    PropertyRepeated {
        /// The packet that carries it.
        packet: PacketType,
        /// The identifier.
        id: u8,
    },
    /// The property has a value that the standard forbids.
    #[error("property {id:#04x} in {packet} has a forbidden value")]
    PropertyValue {
        /// The packet that carries it.
        packet: PacketType,
        /// The identifier.
        id: u8,
    },
    /// The property may be sent by the other side only.
    #[error("property {id:#04x} in {packet} from the wrong side")]
    PropertyFromWrongSide {
        /// The packet that carries it.
        packet: PacketType,
        /// The identifier.
        id: u8,
    },
    /// Authentication Data without an Authentication Method.
    #[error("authentication data without a method in {0}")]
    AuthenticationDataAlone(PacketType),
    /// An AUTH with properties, and no Authentication Method.
    #[error("AUTH without an authentication method")]
    AuthenticationMethodMissing,
    /// Reserved bits of the subscription options are set.
    #[error("subscription options {0:#010b} have reserved bits set")]
    SubscribeOptionsReserved(u8),
    /// QoS 3 is asked for in a SUBSCRIBE.
    #[error("subscription options ask for QoS 3")]
    SubscribeQoS3,
    /// Retain handling 3.
    #[error("subscription options ask for retain handling 3")]
    RetainHandling3,
    /// No Local on a shared subscription.
    #[error("No Local on a shared subscription")]
    NoLocalOnShared,
    /// A SUBSCRIBE or UNSUBSCRIBE without a filter.
    #[error("{0} without a topic filter")]
    NoFilters(PacketType),
    /// A filter that is not well formed.
    #[error("a topic filter in {0}: {1}")]
    MalformedFilter(PacketType, FilterError),
    /// A reason code that this packet may not carry from this side.
    #[error("{0} with reason code {1:#04x}")]
    UnlistedReason(PacketType, u8),
    /// Reserved bits in the acknowledge flags of a CONNACK.
    #[error("CONNACK has acknowledge flags {0:#010b}")]
    AcknowledgeFlags(u8),
}

impl DecodeError {
    /// What a 5.0 peer is told before we hang up.
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::TooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::TopicAliasZero => ReasonCode::TopicAliasInvalid,
            Self::ProtocolLevel(..) => ReasonCode::UnsupportedProtocolVersion,
            Self::MalformedLength
            | Self::NonMinimalLength
            | Self::MalformedVarint(..)
            | Self::ReservedFlags(..)
            | Self::ReservedPacketType(..)
            | Self::Truncated(..)
            | Self::TrailingBytes(..)
            | Self::NotUtf8(..)
            | Self::NulInString(..)
            | Self::QoS3(..)
            | Self::DupAtQoS0
            | Self::TopicWildcard(..)
            | Self::ProtocolName
            | Self::ConnectFlagReserved(..)
            | Self::WillFlagsWithoutWill(..)
            | Self::PasswordWithoutUserName
            | Self::PropertyUnknown { .. }
            | Self::PropertyMisplaced { .. }
            | Self::SubscribeOptionsReserved(..)
            | Self::MalformedFilter(..)
            | Self::AcknowledgeFlags(..) => ReasonCode::MalformedPacket,
            Self::WrongDirection(..)
            | Self::SecondConnect
            | Self::NotConnect(..)
            | Self::ZeroPacketId(..)
            | Self::EmptyTopic(..)
            | Self::PropertyRepeated { .. }
            | Self::PropertyValue { .. }
            | Self::PropertyFromWrongSide { .. }
            | Self::AuthenticationDataAlone(..)
            | Self::AuthenticationMethodMissing
            | Self::SubscribeQoS3
            | Self::RetainHandling3
            | Self::NoLocalOnShared
            | Self::NoFilters(..)
            | Self::UnlistedReason(..) => ReasonCode::ProtocolError,
        }
    }
}

/// The error, unless the defect that drops this rule is planted.
#[cold]
pub(crate) fn refuse(statement: &str, error: DecodeError) -> Result<(), DecodeError> {
    if defect::on(statement) { Ok(()) } else { Err(error) }
}
