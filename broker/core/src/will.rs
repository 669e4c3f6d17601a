//! A will: the message that a client leaves for its end.

use std::sync::Arc;

use crate::ids::Millis;
use crate::message::{Draft, Message, expires_at};
use tidegate_codec::{QoS, Will as Wire};

/// A will as it waits; its message expiry starts when it is published
/// [MQTT-3.1.3.2.4].
#[derive(Clone, Debug)]
pub(crate) struct Will {
    pub(crate) topic: Box<str>,
    pub(crate) payload: Box<[u8]>,
    pub(crate) forward: Box<[u8]>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) expiry: Option<u32>,
    /// Seconds between the end of the connection and the message.
    pub(crate) delay: u32,
}

impl Will {
    pub(crate) fn from_wire(will: &Wire<'_>) -> Will {
        Will {
            topic: will.topic.into(),
            payload: will.payload.into(),
            forward: will.forward.to_vec().into(),
            qos: will.qos,
            retain: will.retain,
            expiry: will.message_expiry,
            delay: will.delay,
        }
    }

    /// Bytes that it takes in a record, about.
    pub(crate) fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + self.forward.len()
    }

    /// The message, published now by the client with this hash.
    pub(crate) fn message(&self, origin: u64, now: Millis, id: u64) -> Arc<Message> {
        let mut draft = Draft {
            topic: &self.topic,
            forward: &self.forward,
            payload: &self.payload,
            qos: self.qos,
            retain: self.retain,
            origin,
            expires: expires_at(self.expiry, now),
            id,
            shared: None,
        };
        Arc::clone(draft.share())
    }
}
