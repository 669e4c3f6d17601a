//! A message of a partition for clients of one node, and what they acknowledged.
//!
//! The body goes once for all receivers on a node. Every receiver carries its
//! session's generation and the message's sequence in its queue, so that the
//! node drops what it had, and a node that is late changes nothing.

use bytes::Bytes;

use crate::body::Body;
use crate::enqueue::Qos;
use crate::layout::{BodyError, Opened, Row, Writer, flag};
use crate::limits::{ACKS_MAX, RECEIVERS_MAX, SUBSCRIPTION_IDS_MAX};

const EXPIRES: u8 = 1 << 0;
const DUP: u8 = 1 << 0;
const RETAIN: u8 = 1 << 1;

/// One session that gets a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Receiver {
    /// The session, as its partition numbers it.
    pub session: u64,
    /// The claim under which the node holds its connection.
    pub generation: u64,
    /// The message's place in the session's queue.
    pub sequence: u64,
    /// 0 for QoS 0 alone.
    pub packet_id: u16,
    /// At which it is delivered.
    pub qos: Qos,
    /// It may have been delivered before.
    pub dup: bool,
    /// Retained, or retained as published.
    pub retain: bool,
    /// Where its subscription identifiers begin in `subscription_ids`.
    pub ids_at: u16,
    /// How many they are.
    pub ids_len: u16,
}

impl Receiver {
    const ROW: usize = 32;

    fn from_row(row: &Row<'_, { Self::ROW }>, ids: usize) -> Result<Self, BodyError> {
        let (ids_at, ids_len) = (row.u16(28), row.u16(30));
        let ids_end = usize::from(ids_at) + usize::from(ids_len);
        if ids_end > ids {
            let what = "the end of a receiver's subscription ids";
            return Err(BodyError::TooMany { what, got: ids_end, max: ids });
        }
        let qos = Qos::from_code(row.u8(26))?;
        let packet_id = row.u16(24);
        if (packet_id == 0) != (qos == Qos::AtMostOnce) {
            return Err(BodyError::Value { what: "a packet id", got: packet_id.into() });
        }
        let flags = row.u8(27);
        Ok(Self {
            session: row.u64(0),
            generation: row.u64(8),
            sequence: row.u64(16),
            packet_id,
            qos,
            dup: flags & DUP != 0,
            retain: flags & RETAIN != 0,
            ids_at,
            ids_len,
        })
    }

    fn write(&self, out: &mut Writer) {
        out.u64(self.session);
        out.u64(self.generation);
        out.u64(self.sequence);
        out.u16(self.packet_id);
        out.u8(self.qos as u8);
        out.u8(flag(self.dup, DUP) | flag(self.retain, RETAIN));
        out.u16(self.ids_at);
        out.u16(self.ids_len);
    }
}

/// A message of a partition for clients of a node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Deliver {
    /// Whose sessions they are.
    pub partition: u32,
    /// When it was published, in milliseconds of Unix time.
    pub stamp_ms: u64,
    /// Seconds from then on for which it is worth delivering.
    pub expiry_s: Option<u32>,
    /// At most `RECEIVERS_MAX`.
    pub receivers: Vec<Receiver>,
    /// Subscription identifiers; equal rows of them are there once.
    pub subscription_ids: Vec<u32>,
    /// The topic, UTF-8. At most 65,535 bytes.
    pub topic: Bytes,
    /// MQTT 5 properties, as they came.
    pub properties: Bytes,
    /// The payload.
    pub payload: Bytes,
}

impl Deliver {
    const HEADER: usize = 40;

    /// The body; topic, properties and payload are shared.
    ///
    /// # Panics
    /// With more receivers or identifiers than their bounds, or a topic longer
    /// than MQTT allows.
    pub fn encode(&self) -> Body {
        assert!(self.receivers.len() <= RECEIVERS_MAX, "the caller bounds its batches");
        assert!(self.subscription_ids.len() <= SUBSCRIPTION_IDS_MAX, "so it does these");
        let mut out = Writer::new(1, flag(self.expiry_s.is_some(), EXPIRES));
        out.u32(self.partition);
        out.count(self.receivers.len());
        out.count(self.subscription_ids.len());
        out.u64(self.stamp_ms);
        out.u32(self.expiry_s.unwrap_or_default());
        out.count(self.properties.len());
        out.u16(u16::try_from(self.topic.len()).expect("MQTT's topics have at most 65,535 bytes"));
        out.zeros(6);
        out.header_ends();
        self.receivers.iter().for_each(|receiver| receiver.write(&mut out));
        self.subscription_ids.iter().for_each(|&id| out.u32(id));
        let mut body = Body::from(out.finish());
        for part in [&self.topic, &self.properties, &self.payload] {
            body.push(part.clone());
        }
        body
    }

    /// Reads a body; topic, properties and payload are shared with it.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let expires = open.fourth & EXPIRES != 0;
        let partition = open.u32()?;
        let receivers = open.count("receivers", RECEIVERS_MAX)?;
        let ids = open.count("subscription ids", SUBSCRIPTION_IDS_MAX)?;
        let stamp_ms = open.u64()?;
        let expiry_s = open.u32()?;
        let properties_len = open.u32()? as usize;
        let topic_len = open.u16()?.into();
        let rows = open.rows::<{ Receiver::ROW }>(receivers, "receivers")?;
        let receivers = rows.iter().map(|row| Receiver::from_row(&Row(row), ids));
        let receivers = receivers.collect::<Result<_, _>>()?;
        let rows = open.rows::<4>(ids, "subscription ids")?;
        let subscription_ids = rows.iter().map(|&id| u32::from_le_bytes(id)).collect();
        let topic = open.utf8(topic_len, "the topic")?;
        let properties = open.part(properties_len, "properties")?;
        Ok(Self {
            partition,
            stamp_ms,
            expiry_s: expires.then_some(expiry_s),
            receivers,
            subscription_ids,
            topic,
            properties,
            payload: open.payload(),
        })
    }
}

/// What a client said of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum AckKind {
    /// QoS 0: the socket took it.
    Sent = 0,
    /// PUBACK.
    Puback = 1,
    /// PUBREC; committed before PUBREL is sent.
    Pubrec = 2,
    /// PUBCOMP.
    Pubcomp = 3,
}

impl AckKind {
    fn from_code(code: u8) -> Result<Self, BodyError> {
        match code {
            0 => Ok(Self::Sent),
            1 => Ok(Self::Puback),
            2 => Ok(Self::Pubrec),
            3 => Ok(Self::Pubcomp),
            got => Err(BodyError::Value { what: "an acknowledgement's kind", got: got.into() }),
        }
    }
}

/// One client's word on one message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Acked {
    /// From the Receiver.
    pub session: u64,
    /// From the Receiver.
    pub generation: u64,
    /// From the Receiver.
    pub sequence: u64,
    /// What it said.
    pub kind: AckKind,
    /// MQTT's reason code; 0 before 5.0.
    pub reason: u8,
    /// From the Receiver.
    pub packet_id: u16,
}

/// What clients of a node acknowledged of one partition's messages.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ack {
    /// Whose messages they were.
    pub partition: u32,
    /// Contiguous for a partition; sent again to a new leader until an
    /// `AckConfirm` says that it has been committed.
    pub batch: u64,
    /// At most `ACKS_MAX`.
    pub acks: Vec<Acked>,
}

impl Ack {
    const HEADER: usize = 24;
    const ROW: usize = 32;

    /// The body.
    ///
    /// # Panics
    /// With more than `ACKS_MAX` acknowledgements.
    pub fn encode(&self) -> Body {
        assert!(self.acks.len() <= ACKS_MAX, "the caller bounds its batches");
        let mut out = Writer::new(1, 0);
        out.u32(self.partition);
        out.u64(self.batch);
        out.count(self.acks.len());
        out.u32(0);
        out.header_ends();
        for ack in &self.acks {
            out.u64(ack.session);
            out.u64(ack.generation);
            out.u64(ack.sequence);
            out.u8(ack.kind as u8);
            out.u8(ack.reason);
            out.u16(ack.packet_id);
            out.u32(0);
        }
        out.finish().into()
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let partition = open.u32()?;
        let batch = open.u64()?;
        let count = open.count("acknowledgements", ACKS_MAX)?;
        let rows = open.rows::<{ Self::ROW }>(count, "acknowledgements")?;
        let acks = rows.iter().map(|row| {
            let row = Row(row);
            Ok(Acked {
                session: row.u64(0),
                generation: row.u64(8),
                sequence: row.u64(16),
                kind: AckKind::from_code(row.u8(24))?,
                reason: row.u8(25),
                packet_id: row.u16(26),
            })
        });
        let acks = acks.collect::<Result<_, _>>()?;
        open.ends()?;
        Ok(Self { partition, batch, acks })
    }
}
