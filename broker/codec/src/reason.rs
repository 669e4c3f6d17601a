//! Reason codes of MQTT 5.0, and which packet may carry which.

use crate::types::{Direction, PacketType};

macro_rules! reason_codes {
    ($($name:ident = $value:literal,)*) => {
        /// A reason code of MQTT 5.0. `Success` is also Normal disconnection and
        /// Granted QoS 0.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[allow(missing_docs, reason = "the names are the standard's")]
        pub enum ReasonCode { $($name = $value,)* }

        impl ReasonCode {
            /// Every reason code, in the order of their numbers.
            pub const ALL: &'static [ReasonCode] = &[$(Self::$name,)*];
        }

        impl TryFrom<u8> for ReasonCode {
            type Error = u8;

            /// The code with this number; hands the number back when there is none.
            fn try_from(byte: u8) -> Result<ReasonCode, u8> {
                match byte {
                    $($value => Ok(Self::$name),)*
                    other => Err(other),
                }
            }
        }
    };
}

reason_codes! {
    Success = 0x00,
    GrantedQoS1 = 0x01,
    GrantedQoS2 = 0x02,
    DisconnectWithWill = 0x04,
    NoMatchingSubscribers = 0x10,
    NoSubscriptionExisted = 0x11,
    ContinueAuthentication = 0x18,
    ReAuthenticate = 0x19,
    UnspecifiedError = 0x80,
    MalformedPacket = 0x81,
    ProtocolError = 0x82,
    ImplementationSpecificError = 0x83,
    UnsupportedProtocolVersion = 0x84,
    ClientIdentifierNotValid = 0x85,
    BadUserNameOrPassword = 0x86,
    NotAuthorized = 0x87,
    ServerUnavailable = 0x88,
    ServerBusy = 0x89,
    Banned = 0x8A,
    ServerShuttingDown = 0x8B,
    BadAuthenticationMethod = 0x8C,
    KeepAliveTimeout = 0x8D,
    SessionTakenOver = 0x8E,
    TopicFilterInvalid = 0x8F,
    TopicNameInvalid = 0x90,
    PacketIdentifierInUse = 0x91,
    PacketIdentifierNotFound = 0x92,
    ReceiveMaximumExceeded = 0x93,
    TopicAliasInvalid = 0x94,
    PacketTooLarge = 0x95,
    MessageRateTooHigh = 0x96,
    QuotaExceeded = 0x97,
    AdministrativeAction = 0x98,
    PayloadFormatInvalid = 0x99,
    RetainNotSupported = 0x9A,
    QoSNotSupported = 0x9B,
    UseAnotherServer = 0x9C,
    ServerMoved = 0x9D,
    SharedSubscriptionsNotSupported = 0x9E,
    ConnectionRateExceeded = 0x9F,
    MaximumConnectTime = 0xA0,
    SubscriptionIdentifiersNotSupported = 0xA1,
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// Whether the code refuses: 0x80 and above.
    #[inline]
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }

    /// The code that grants a subscription this QoS.
    pub const fn granted(qos: crate::QoS) -> ReasonCode {
        match qos {
            crate::QoS::AtMostOnce => Self::Success,
            crate::QoS::AtLeastOnce => Self::GrantedQoS1,
            crate::QoS::ExactlyOnce => Self::GrantedQoS2,
        }
    }

    /// Whether the standard lists the code for `packet`, sent from that side.
    pub(crate) fn allowed(self, packet: PacketType, from: Direction) -> bool {
        let code = self as u8;
        match packet {
            PacketType::Connack => matches!(
                code,
                0 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
            ),
            PacketType::Puback | PacketType::Pubrec => {
                matches!(code, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            PacketType::Pubrel | PacketType::Pubcomp => matches!(code, 0 | 0x92),
            PacketType::Suback => {
                matches!(code, 0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
            }
            PacketType::Unsuback => {
                matches!(code, 0 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
            }
            PacketType::Disconnect => match from {
                Direction::FromClient => {
                    matches!(code, 0 | 4 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
                }
                Direction::FromServer => matches!(
                    code,
                    0 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B..=0x90 | 0x93..=0xA2
                ),
            },
            PacketType::Auth => match from {
                Direction::FromClient => matches!(code, 0x18 | 0x19),
                Direction::FromServer => matches!(code, 0 | 0x18),
            },
            PacketType::Connect
            | PacketType::Publish
            | PacketType::Subscribe
            | PacketType::Unsubscribe
            | PacketType::Pingreq
            | PacketType::Pingresp => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_its_byte_and_no_other_byte_is_one() {
        let known =
            (0..=255u8).filter(|b| ReasonCode::try_from(*b).is_ok_and(|c| c as u8 == *b)).count();
        assert_eq!(known, ReasonCode::ALL.len());
        assert_eq!(ReasonCode::ALL.len(), 43);
        assert!(ReasonCode::ALL.iter().all(|c| c.is_error() == (*c as u8 >= 0x80)));
    }
}
