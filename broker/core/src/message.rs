//! An application message: borrowed while it passes, shared when it stays.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_codec::QoS;

use crate::ids::Millis;

/// A message that outlives the turn it came in: queued, retained, on its way
/// to another shard. One allocation for topic, properties and payload.
#[derive(Debug)]
pub struct Message {
    /// topic | forwarded properties | payload
    body: Bytes,
    topic_bytes: u16,
    forward_bytes: u32,
    /// The QoS of the publish.
    pub(crate) qos: QoS,
    /// The retain flag of the publish.
    pub(crate) retain: bool,
    /// The publisher's client id, hashed: what No Local compares.
    pub(crate) origin: u64,
    /// When its Message Expiry Interval ends; `Millis::MAX`: never.
    pub(crate) expires: Millis,
    /// Tells it from every other message of this node.
    pub(crate) id: u64,
}

impl Message {
    /// From its parts, as they were read back.
    pub(crate) fn from_parts(
        body: Bytes,
        topic_bytes: u16,
        forward_bytes: u32,
        draft: &Draft<'_>,
    ) -> Message {
        let Draft { qos, retain, origin, expires, id, .. } = *draft;
        Message { body, topic_bytes, forward_bytes, qos, retain, origin, expires, id }
    }

    /// topic | forwarded properties | payload, and how long the first two are.
    pub(crate) fn parts(&self) -> (&Bytes, u16, u32) {
        (&self.body, self.topic_bytes, self.forward_bytes)
    }

    /// The topic name.
    pub fn topic(&self) -> &str {
        // The body was put together from a `&str`.
        std::str::from_utf8(&self.body[..usize::from(self.topic_bytes)]).unwrap_or_default()
    }

    /// The properties that go on unchanged, encoded.
    pub fn forward(&self) -> &[u8] {
        let start = usize::from(self.topic_bytes);
        &self.body[start..start + self.forward_bytes as usize]
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.body[usize::from(self.topic_bytes) + self.forward_bytes as usize..]
    }

    /// The payload as a shared buffer.
    pub(crate) fn payload_shared(&self) -> Bytes {
        self.body.slice(usize::from(self.topic_bytes) + self.forward_bytes as usize..)
    }

    /// Whether a replica could not tell them apart.
    pub(crate) fn is_same(&self, other: &Message) -> bool {
        let of = |m: &Message| {
            (m.id, m.origin, m.expires, m.qos, m.retain, m.topic_bytes, m.forward_bytes)
        };
        of(self) == of(other) && self.body == other.body
    }

    /// What it weighs in a queue.
    pub fn bytes(&self) -> usize {
        self.body.len() + size_of::<Message>()
    }

    pub(crate) fn expired(&self, now: Millis) -> bool {
        self.expires <= now && !tidegate_codec::defect::on("5:3.3.2-5")
    }

    /// The message as it passes, already shared.
    pub(crate) fn draft(self: &Arc<Message>) -> Draft<'_> {
        Draft {
            topic: self.topic(),
            forward: self.forward(),
            payload: self.payload(),
            qos: self.qos,
            retain: self.retain,
            origin: self.origin,
            expires: self.expires,
            id: self.id,
            shared: Some(Arc::clone(self)),
        }
    }
}

/// A message as it passes through a turn, borrowed from the read buffer. It is
/// copied once, and only when somebody has to keep it.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) topic: &'a str,
    pub(crate) forward: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) origin: u64,
    pub(crate) expires: Millis,
    pub(crate) id: u64,
    pub(crate) shared: Option<Arc<Message>>,
}

impl Draft<'_> {
    /// The shared form; the first call copies.
    pub(crate) fn share(&mut self) -> &Arc<Message> {
        let Draft { topic, forward, payload, qos, retain, origin, expires, id, shared } = self;
        shared.get_or_insert_with(|| {
            let mut body = Vec::with_capacity(topic.len() + forward.len() + payload.len());
            body.extend_from_slice(topic.as_bytes());
            body.extend_from_slice(forward);
            body.extend_from_slice(payload);
            Arc::new(Message {
                body: body.into(),
                topic_bytes: topic.len() as u16,
                forward_bytes: forward.len() as u32,
                qos: *qos,
                retain: *retain,
                origin: *origin,
                expires: *expires,
                id: *id,
            })
        })
    }
}

/// The Message Expiry Interval to send: what is left, in whole seconds waited
/// [MQTT-3.3.2-6]. `None`: the message has none.
pub(crate) fn expiry_left(expires: Millis, now: Millis) -> Option<u32> {
    (expires != Millis::MAX).then(|| {
        let left = expires.saturating_sub(now).div_ceil(1000);
        u32::try_from(left).unwrap_or(u32::MAX)
    })
}

/// When an interval that starts now ends.
pub(crate) fn expires_at(interval: Option<u32>, now: Millis) -> Millis {
    interval.map_or(Millis::MAX, |seconds| now + u64::from(seconds) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiry_counts_down_by_whole_seconds_waited() {
        let expires = expires_at(Some(10), 5_000);
        assert_eq!(expiry_left(expires, 5_000), Some(10));
        assert_eq!(expiry_left(expires, 5_999), Some(10));
        assert_eq!(expiry_left(expires, 6_000), Some(9));
        assert_eq!(expiry_left(Millis::MAX, 6_000), None);
    }

    #[test]
    fn a_shared_message_reads_as_its_draft_did() {
        let mut draft = Draft {
            topic: "a/b",
            forward: &[1, 1],
            payload: b"xyz",
            qos: QoS::AtLeastOnce,
            retain: true,
            origin: 9,
            expires: 77,
            id: 0,
            shared: None,
        };
        let message = Arc::clone(draft.share());
        assert_eq!(message.topic(), "a/b");
        assert_eq!(message.forward(), [1, 1]);
        assert_eq!(message.payload(), b"xyz");
        assert!(message.expired(77) && !message.expired(76));
    }
}
