//! Properties of MQTT 5.0: one validating walk, then cheap reading.
//!
//! The walk checks bounds, where a property may stand, that it is not repeated,
//! and its range. A bitmask holds what has been seen; all identifiers are below
//! 64. A [`Properties`] value has passed the walk.

use crate::error::refuse;
use crate::reader::Reader;
use crate::{DecodeError, Direction, PacketType, Version};

/// A validated property list, borrowed and in the sender's order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Properties<'a> {
    raw: &'a [u8],
}

impl<'a> Properties<'a> {
    pub(crate) fn validated(raw: &'a [u8]) -> Properties<'a> {
        Properties { raw }
    }

    /// The list as it was sent, without its length.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Whether there are none; always so before 5.0.
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The properties in the sender's order.
    pub fn iter(&self) -> PropertyIter<'a> {
        PropertyIter::over(self.raw)
    }

    /// The user properties in the sender's order, repeated names included.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.iter().filter_map(|property| property.as_user())
    }

    /// The Reason String.
    pub fn reason_string(&self) -> Option<&'a str> {
        self.iter().find_map(|property| match property {
            Property::ReasonString(text) => Some(text),
            _ => None,
        })
    }
}

/// The properties of a validated list, one by one.
#[derive(Clone, Copy, Debug)]
pub struct PropertyIter<'a> {
    rest: Reader<'a>,
}

impl<'a> PropertyIter<'a> {
    pub(crate) fn over(raw: &'a [u8]) -> PropertyIter<'a> {
        // The packet type only matters for errors, and there are none any more.
        PropertyIter { rest: Reader::new(raw, PacketType::Publish, Version::V5) }
    }
}

impl<'a> Iterator for PropertyIter<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        let id = self.rest.u8().ok()?;
        Property::read(id, &mut self.rest).ok()
    }
}

macro_rules! properties {
    ($($(#[doc = $doc:literal])* $name:ident = $id:literal : $value:ty, $kind:ident, in [$($place:ident)*];)*) => {
        /// One property. The variants are the standard's, with its names.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[allow(missing_docs, reason = "the names are the standard's")]
        pub enum Property<'a> { $($name($value),)* }

        impl<'a> Property<'a> {
            /// The identifier on the wire.
            pub const fn id(&self) -> u8 {
                match self { $(Self::$name(..) => $id,)* }
            }

            /// Reads the value that follows the identifier.
            #[inline]
            fn read(id: u8, from: &mut Reader<'a>) -> Result<Property<'a>, DecodeError> {
                match id {
                    $($id => Ok(Self::$name(read::$kind(from)?)),)*
                    _ => Err(DecodeError::PropertyUnknown { packet: from.packet(), id }),
                }
            }
        }

        /// How the value of a property is laid out; `None`: no such property.
        const fn layout(id: u8) -> Option<Layout> {
            match id {
                $($id => Some(Layout::$kind),)*
                _ => None,
            }
        }

        /// Where a property may stand, a bit for each [`Place`].
        const fn places(id: u8) -> u32 {
            match id {
                $($id => 0 $(| 1 << Place::$place as u32)*,)*
                _ => 0,
            }
        }
    };
}

properties! {
    PayloadFormatIndicator = 0x01: u8, byte, in [Publish Will];
    MessageExpiryInterval = 0x02: u32, four, in [Publish Will];
    ContentType = 0x03: &'a str, string, in [Publish Will];
    ResponseTopic = 0x08: &'a str, string, in [Publish Will];
    CorrelationData = 0x09: &'a [u8], binary, in [Publish Will];
    SubscriptionIdentifier = 0x0B: u32, varint, in [Publish Subscribe];
    SessionExpiryInterval = 0x11: u32, four, in [Connect Connack Disconnect];
    AssignedClientIdentifier = 0x12: &'a str, string, in [Connack];
    ServerKeepAlive = 0x13: u16, two, in [Connack];
    AuthenticationMethod = 0x15: &'a str, string, in [Connect Connack Auth];
    AuthenticationData = 0x16: &'a [u8], binary, in [Connect Connack Auth];
    RequestProblemInformation = 0x17: u8, byte, in [Connect];
    WillDelayInterval = 0x18: u32, four, in [Will];
    RequestResponseInformation = 0x19: u8, byte, in [Connect];
    ResponseInformation = 0x1A: &'a str, string, in [Connack];
    ServerReference = 0x1C: &'a str, string, in [Connack Disconnect];
    ReasonString = 0x1F: &'a str, string,
        in [Connack Puback Pubrec Pubrel Pubcomp Suback Unsuback Disconnect Auth];
    ReceiveMaximum = 0x21: u16, two, in [Connect Connack];
    TopicAliasMaximum = 0x22: u16, two, in [Connect Connack];
    TopicAlias = 0x23: u16, two, in [Publish];
    MaximumQoS = 0x24: u8, byte, in [Connack];
    RetainAvailable = 0x25: u8, byte, in [Connack];
    UserProperty = 0x26: (&'a str, &'a str), pair,
        in [Will Connect Connack Publish Puback Pubrec Pubrel Pubcomp Subscribe Suback
            Unsubscribe Unsuback Disconnect Auth];
    MaximumPacketSize = 0x27: u32, four, in [Connect Connack];
    WildcardSubscriptionAvailable = 0x28: u8, byte, in [Connack];
    SubscriptionIdentifierAvailable = 0x29: u8, byte, in [Connack];
    SharedSubscriptionAvailable = 0x2A: u8, byte, in [Connack];
}

impl<'a> Property<'a> {
    /// The name and value, if this is a User Property.
    pub fn as_user(&self) -> Option<(&'a str, &'a str)> {
        match self {
            Self::UserProperty(pair) => Some(*pair),
            _ => None,
        }
    }

    /// Whether the value is one that the standard forbids.
    #[inline]
    fn is_forbidden(&self) -> bool {
        match *self {
            Self::PayloadFormatIndicator(byte)
            | Self::RequestProblemInformation(byte)
            | Self::RequestResponseInformation(byte)
            | Self::MaximumQoS(byte)
            | Self::RetainAvailable(byte)
            | Self::WildcardSubscriptionAvailable(byte)
            | Self::SubscriptionIdentifierAvailable(byte)
            | Self::SharedSubscriptionAvailable(byte) => byte > 1,
            Self::ReceiveMaximum(value) => value == 0,
            Self::MaximumPacketSize(value) | Self::SubscriptionIdentifier(value) => value == 0,
            // [MQTT-3.3.2-14] and, as for any topic name, [MQTT-4.7.3-1]
            Self::ResponseTopic(topic) => topic.is_empty() || topic.contains(['+', '#']),
            // 0 has a reason code of its own.
            Self::TopicAlias(_) => false,
            Self::MessageExpiryInterval(_)
            | Self::ContentType(_)
            | Self::CorrelationData(_)
            | Self::SessionExpiryInterval(_)
            | Self::AssignedClientIdentifier(_)
            | Self::ServerKeepAlive(_)
            | Self::AuthenticationMethod(_)
            | Self::AuthenticationData(_)
            | Self::WillDelayInterval(_)
            | Self::ResponseInformation(_)
            | Self::ServerReference(_)
            | Self::ReasonString(_)
            | Self::TopicAliasMaximum(_)
            | Self::UserProperty(_) => false,
        }
    }
}

/// Where a property list stands: a packet, or the will inside a CONNECT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    Will = 0,
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
    Disconnect = 14,
    Auth = 15,
}

#[derive(Clone, Copy)]
#[allow(non_camel_case_types, reason = "named as the functions that read them")]
enum Layout {
    byte,
    two,
    four,
    varint,
    string,
    binary,
    pair,
}

/// The validating walk over one list.
pub(crate) struct Walk<'a> {
    rest: Reader<'a>,
    place: Place,
    from: Direction,
    seen: u64,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(list: Reader<'a>, place: Place, from: Direction) -> Walk<'a> {
        Walk { rest: list, place, from, seen: 0 }
    }

    /// The next property, checked; `None` at the end of the list.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Property<'a>>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let id = self.rest.u8()?;
        self.check_place(id)?;
        let property = Property::read(id, &mut self.rest)?;
        self.check_repeat(id)?;
        if property.is_forbidden() {
            self.forbidden(id)?;
        }
        if property == Property::TopicAlias(0) {
            // [MQTT-3.3.2-8]
            refuse("5:3.3.2-8", DecodeError::TopicAliasZero)?;
        }
        Ok(Some(property))
    }

    #[inline]
    fn check_place(&self, id: u8) -> Result<(), DecodeError> {
        let packet = self.rest.packet();
        let places = places(id);
        if places & 1 << self.place as u32 == 0 {
            return Err(match places {
                0 => DecodeError::PropertyUnknown { packet, id },
                _ => DecodeError::PropertyMisplaced { packet, id },
            });
        }
        let error = DecodeError::PropertyFromWrongSide { packet, id };
        match (self.place, id, self.from) {
            // [MQTT-3.3.4-6]
            (Place::Publish, 0x0B, Direction::FromClient) => refuse("5:3.3.4-6", error),
            (Place::Disconnect, 0x1C, Direction::FromClient) => Err(error),
            // [MQTT-3.14.2-2]
            (Place::Disconnect, 0x11, Direction::FromServer) => Err(error),
            (_, _, Direction::FromClient | Direction::FromServer) => Ok(()),
        }
    }

    #[inline]
    fn check_repeat(&mut self, id: u8) -> Result<(), DecodeError> {
        let bit = 1u64 << id;
        let repeated = self.seen & bit != 0;
        self.seen |= bit;
        if !repeated || id == 0x26 || (id == 0x0B && self.place == Place::Publish) {
            return Ok(());
        }
        Err(DecodeError::PropertyRepeated { packet: self.rest.packet(), id })
    }

    #[cold]
    fn forbidden(&self, id: u8) -> Result<(), DecodeError> {
        let error = DecodeError::PropertyValue { packet: self.rest.packet(), id };
        match id {
            // [MQTT-3.3.2-14]
            0x08 => refuse("5:3.3.2-14", error),
            _ => Err(error),
        }
    }

    /// Bytes of the list that are still ahead.
    pub(crate) fn left(&self) -> usize {
        self.rest.rest().len()
    }

    /// Walks to the end, for lists whose values nobody needs one by one.
    pub(crate) fn finish(mut self) -> Result<(), DecodeError> {
        while self.next()?.is_some() {}
        Ok(())
    }
}

/// The first property of a list and its length in bytes, without a look at the
/// value. `None` at the end.
pub(crate) fn span(list: &[u8]) -> Option<(u8, usize)> {
    let (&id, value) = list.split_first()?;
    let field = |at: usize| {
        let length = value.get(at..at + 2)?;
        Some(at + 2 + usize::from(u16::from_be_bytes([length[0], length[1]])))
    };
    let length = match layout(id)? {
        Layout::byte => 1,
        Layout::two => 2,
        Layout::four => 4,
        Layout::varint => 1 + value.iter().take(3).take_while(|byte| **byte >= 0x80).count(),
        Layout::string | Layout::binary => field(0)?,
        Layout::pair => field(field(0)?)?,
    };
    (length <= value.len()).then_some((id, 1 + length))
}

mod read {
    use super::{DecodeError, Reader};
    use crate::error::refuse;

    #[inline]
    pub(super) fn byte(from: &mut Reader<'_>) -> Result<u8, DecodeError> {
        from.u8()
    }

    #[inline]
    pub(super) fn two(from: &mut Reader<'_>) -> Result<u16, DecodeError> {
        from.u16()
    }

    #[inline]
    pub(super) fn four(from: &mut Reader<'_>) -> Result<u32, DecodeError> {
        from.u32()
    }

    #[inline]
    pub(super) fn varint(from: &mut Reader<'_>) -> Result<u32, DecodeError> {
        from.varint()
    }

    #[inline]
    pub(super) fn string<'a>(from: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
        from.string()
    }

    #[inline]
    pub(super) fn binary<'a>(from: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
        from.binary()
    }

    /// [MQTT-1.5.7-1]: both strings are proper UTF-8 strings.
    #[inline]
    pub(super) fn pair<'a>(from: &mut Reader<'a>) -> Result<(&'a str, &'a str), DecodeError> {
        let before = *from;
        match from.string().and_then(|name| Ok((name, from.string()?))) {
            Ok(pair) => Ok(pair),
            Err(error) => bad_pair(error, from, before),
        }
    }

    #[cold]
    fn bad_pair<'a>(
        error: DecodeError,
        from: &mut Reader<'a>,
        before: Reader<'a>,
    ) -> Result<(&'a str, &'a str), DecodeError> {
        match error {
            DecodeError::NotUtf8(_) | DecodeError::NulInString(_) => refuse("5:1.5.7-1", error)?,
            error => return Err(error),
        }
        *from = before;
        from.binary()?;
        from.binary()?;
        Ok(("", ""))
    }
}
