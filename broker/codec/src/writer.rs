//! Builds property lists.

use crate::encode::{put_field, put_varint};
use crate::{Property, VARINT_MAX};

/// A property list under construction: one method a property, in the order in
/// which they are called. What may stand where is the caller's to know.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PropertyWriter {
    list: Vec<u8>,
}

macro_rules! properties {
    ($($name:ident($value:ty) = $variant:ident;)*) => {
        impl PropertyWriter {
            $(
                #[doc = concat!("Appends the property `", stringify!($variant), "`.")]
                pub fn $name(&mut self, value: $value) -> &mut Self {
                    self.push(Property::$variant(value))
                }
            )*
        }
    };
}

properties! {
    payload_format_indicator(u8) = PayloadFormatIndicator;
    message_expiry_interval(u32) = MessageExpiryInterval;
    content_type(&str) = ContentType;
    response_topic(&str) = ResponseTopic;
    correlation_data(&[u8]) = CorrelationData;
    subscription_identifier(u32) = SubscriptionIdentifier;
    session_expiry_interval(u32) = SessionExpiryInterval;
    assigned_client_identifier(&str) = AssignedClientIdentifier;
    server_keep_alive(u16) = ServerKeepAlive;
    authentication_method(&str) = AuthenticationMethod;
    authentication_data(&[u8]) = AuthenticationData;
    request_problem_information(u8) = RequestProblemInformation;
    will_delay_interval(u32) = WillDelayInterval;
    request_response_information(u8) = RequestResponseInformation;
    response_information(&str) = ResponseInformation;
    server_reference(&str) = ServerReference;
    reason_string(&str) = ReasonString;
    receive_maximum(u16) = ReceiveMaximum;
    topic_alias_maximum(u16) = TopicAliasMaximum;
    topic_alias(u16) = TopicAlias;
    maximum_qos(u8) = MaximumQoS;
    retain_available(u8) = RetainAvailable;
    maximum_packet_size(u32) = MaximumPacketSize;
    wildcard_subscription_available(u8) = WildcardSubscriptionAvailable;
    subscription_identifier_available(u8) = SubscriptionIdentifierAvailable;
    shared_subscription_available(u8) = SharedSubscriptionAvailable;
}

impl PropertyWriter {
    /// An empty list.
    pub fn new() -> PropertyWriter {
        PropertyWriter::default()
    }

    /// Goes on behind what is already in `out`; [`into_vec`](Self::into_vec)
    /// gives it back. So a list is written into a packet without a copy.
    pub fn append_to(out: Vec<u8>) -> PropertyWriter {
        PropertyWriter { list: out }
    }

    /// Appends a User Property.
    pub fn user_property(&mut self, name: &str, value: &str) -> &mut Self {
        self.push(Property::UserProperty((name, value)))
    }

    /// Appends any property.
    pub fn push(&mut self, property: Property<'_>) -> &mut Self {
        let out = &mut self.list;
        out.push(property.id());
        match property {
            Property::PayloadFormatIndicator(byte)
            | Property::RequestProblemInformation(byte)
            | Property::RequestResponseInformation(byte)
            | Property::MaximumQoS(byte)
            | Property::RetainAvailable(byte)
            | Property::WildcardSubscriptionAvailable(byte)
            | Property::SubscriptionIdentifierAvailable(byte)
            | Property::SharedSubscriptionAvailable(byte) => out.push(byte),
            Property::ServerKeepAlive(value)
            | Property::ReceiveMaximum(value)
            | Property::TopicAliasMaximum(value)
            | Property::TopicAlias(value) => out.extend_from_slice(&value.to_be_bytes()),
            Property::MessageExpiryInterval(value)
            | Property::SessionExpiryInterval(value)
            | Property::WillDelayInterval(value)
            | Property::MaximumPacketSize(value) => out.extend_from_slice(&value.to_be_bytes()),
            Property::SubscriptionIdentifier(value) => {
                assert!(value <= VARINT_MAX, "{value} is no subscription identifier");
                put_varint(out, value as usize);
            }
            Property::ContentType(text)
            | Property::ResponseTopic(text)
            | Property::AssignedClientIdentifier(text)
            | Property::AuthenticationMethod(text)
            | Property::ResponseInformation(text)
            | Property::ServerReference(text)
            | Property::ReasonString(text) => put_field(out, text.as_bytes()),
            Property::CorrelationData(bytes) | Property::AuthenticationData(bytes) => {
                put_field(out, bytes);
            }
            Property::UserProperty((name, value)) => {
                put_field(out, name.as_bytes());
                put_field(out, value.as_bytes());
            }
        }
        self
    }

    /// The list, without its length.
    pub fn bytes(&self) -> &[u8] {
        &self.list
    }

    /// The list, without its length.
    pub fn into_vec(self) -> Vec<u8> {
        self.list
    }
}

/// Appends a list and its length; `write` fills it.
pub(crate) fn put_list(out: &mut Vec<u8>, write: impl FnOnce(&mut PropertyWriter)) {
    crate::encode::put_measured(out, |out| {
        let mut writer = PropertyWriter::append_to(std::mem::take(out));
        write(&mut writer);
        *out = writer.into_vec();
    });
}
