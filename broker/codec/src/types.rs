//! The small words of the protocol: version, QoS, packet type, subscribe options.

/// A protocol version, by the level byte of its CONNECT.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`).
    V3_1 = 3,
    /// MQTT 3.1.1.
    V3_1_1 = 4,
    /// MQTT 5.0.
    V5 = 5,
}

impl Version {
    /// Whether packets carry properties and reason codes.
    #[inline]
    pub const fn is_v5(self) -> bool {
        matches!(self, Self::V5)
    }

    /// Picks the statement id of a rule that both standards have.
    pub(crate) const fn pick(self, five: &'static str, three: &'static str) -> &'static str {
        if self.is_v5() { five } else { three }
    }
}

/// How often a message may arrive.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum QoS {
    /// QoS 0.
    #[default]
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl TryFrom<u8> for QoS {
    type Error = u8;

    /// The QoS of two bits; hands the number back when there is none.
    #[inline]
    fn try_from(bits: u8) -> Result<QoS, u8> {
        match bits {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            other => Err(other),
        }
    }
}

/// The control packets, by the number in the first four bits.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs, reason = "the names are the standard's")]
pub enum PacketType {
    Connect = 1,
    Connack = 2,
    Publish = 3,
    Puback = 4,
    Pubrec = 5,
    Pubrel = 6,
    Pubcomp = 7,
    Subscribe = 8,
    Suback = 9,
    Unsubscribe = 10,
    Unsuback = 11,
    Pingreq = 12,
    Pingresp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// Every type, in the order of their numbers.
    pub const ALL: [PacketType; 15] = [
        Self::Connect,
        Self::Connack,
        Self::Publish,
        Self::Puback,
        Self::Pubrec,
        Self::Pubrel,
        Self::Pubcomp,
        Self::Subscribe,
        Self::Suback,
        Self::Unsubscribe,
        Self::Unsuback,
        Self::Pingreq,
        Self::Pingresp,
        Self::Disconnect,
        Self::Auth,
    ];

    /// The name as the standard writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Connack => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::Puback => "PUBACK",
            Self::Pubrec => "PUBREC",
            Self::Pubrel => "PUBREL",
            Self::Pubcomp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::Suback => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Unsuback => "UNSUBACK",
            Self::Pingreq => "PINGREQ",
            Self::Pingresp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }
}

impl TryFrom<u8> for PacketType {
    type Error = u8;

    /// The type with this number; hands the number back when there is none.
    fn try_from(number: u8) -> Result<PacketType, u8> {
        match number {
            1..=15 => Ok(Self::ALL[usize::from(number) - 1]),
            other => Err(other),
        }
    }
}

impl std::fmt::Display for PacketType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Which side sent the bytes: some packets and properties are for one side only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// A client sent it, we are the server.
    FromClient,
    /// A server sent it, we are a client (tests, the load harness).
    FromServer,
}

/// What a SUBSCRIBE asks about retained messages.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum RetainHandling {
    /// Send them at every SUBSCRIBE.
    #[default]
    SendAlways = 0,
    /// Send them if the subscription is new.
    SendIfNew = 1,
    /// Do not send them.
    Never = 2,
}

/// The options byte of one filter in a SUBSCRIBE. Before 5.0 only the QoS.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct SubscribeOptions {
    /// The highest QoS at which the subscriber wants messages.
    pub qos: QoS,
    /// The client's own messages are not sent back to it.
    pub no_local: bool,
    /// The retain flag of the publisher is kept.
    pub retain_as_published: bool,
    /// What to do about retained messages.
    pub retain_handling: RetainHandling,
}

impl SubscribeOptions {
    /// The QoS alone, everything else as it is by default.
    pub const fn at(qos: QoS) -> SubscribeOptions {
        SubscribeOptions {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::SendAlways,
        }
    }

    /// The byte on the wire.
    pub const fn bits(self) -> u8 {
        self.qos as u8
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }
}
