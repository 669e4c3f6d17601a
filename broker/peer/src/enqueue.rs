//! A published message on its way to a partition or a node, and the answer.
//!
//! Numbers are a lane's: `Origin` and target name it. They are checked where
//! the message is applied, not here: a repeat is acknowledged again, a gap is
//! refused, an unknown outcome is sent again under the same number.

use bytes::Bytes;

use crate::body::Body;
use crate::ids::NodeId;
use crate::layout::{BodyError, Opened, Writer, flag};

const RETAIN: u8 = 1 << 0;
const EXPIRES: u8 = 1 << 1;
const WILL: u8 = 1 << 2;
const KNOWN: u8 = RETAIN | EXPIRES | WILL;

/// MQTT's quality of service.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Qos {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl Qos {
    pub(crate) fn from_code(code: u8) -> Result<Self, BodyError> {
        match code {
            0 => Ok(Self::AtMostOnce),
            1 => Ok(Self::AtLeastOnce),
            2 => Ok(Self::ExactlyOnce),
            got => Err(BodyError::Value { what: "a QoS", got: got.into() }),
        }
    }
}

/// Where a lane of Enqueues begins.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Origin {
    /// At the publisher's node, for as long as its process lives. Numbers are
    /// contiguous.
    Node {
        /// The node.
        node: NodeId,
        /// Its process.
        incarnation: u64,
    },
    /// In the outbox of a partition, whoever leads it. The number is the outbox
    /// record's log index.
    Outbox {
        /// The partition.
        partition: u32,
    },
    /// The same, towards one process of a node.
    OutboxToNode {
        /// The partition.
        partition: u32,
        /// The target node.
        node: NodeId,
        /// Its process.
        incarnation: u64,
    },
}

/// Not a partition.
const NONE: u32 = u32::MAX;

impl Origin {
    fn code(self) -> u8 {
        match self {
            Self::Node { .. } => 0,
            Self::Outbox { .. } => 1,
            Self::OutboxToNode { .. } => 2,
        }
    }

    /// Source partition, node, incarnation.
    fn fields(self) -> (u32, u64, u64) {
        match self {
            Self::Node { node, incarnation } => (NONE, node.0, incarnation),
            Self::Outbox { partition } => (partition, 0, 0),
            Self::OutboxToNode { partition, node, incarnation } => (partition, node.0, incarnation),
        }
    }

    fn from_fields(code: u8, partition: u32, node: u64, inc: u64) -> Result<Self, BodyError> {
        let node = NodeId(node);
        match code {
            0 => Ok(Self::Node { node, incarnation: inc }),
            1 => Ok(Self::Outbox { partition }),
            2 => Ok(Self::OutboxToNode { partition, node, incarnation: inc }),
            got => Err(BodyError::Value { what: "a lane's kind", got: got.into() }),
        }
    }
}

/// Where an Enqueue goes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Target {
    /// The log of that partition.
    Partition(u32),
    /// The receiver's own ephemeral subscribers.
    Node,
}

impl Target {
    fn code(self) -> u32 {
        match self {
            Self::Partition(partition) => partition,
            Self::Node => NONE,
        }
    }

    fn from_code(code: u32) -> Self {
        if code == NONE { Self::Node } else { Self::Partition(code) }
    }
}

/// A message for a partition, or for a node's own subscribers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Enqueue {
    /// Where.
    pub target: Target,
    /// The lane, with the target.
    pub origin: Origin,
    /// Its place on the lane; 0: on none, and not to be answered (QoS 0).
    pub number: u64,
    /// The number before it on the lane; 0: none.
    pub predecessor: u64,
    /// When the publisher's node took it, in milliseconds of Unix time.
    pub stamp_ms: u64,
    /// Seconds from then on for which it is worth delivering.
    pub expiry_s: Option<u32>,
    /// The publisher's.
    pub qos: Qos,
    /// Whether it is retained.
    pub retain: bool,
    /// Whether it is a will.
    pub will: bool,
    /// The publisher's client id, UTF-8; for No Local. At most 65,535 bytes.
    pub publisher: Bytes,
    /// The topic, UTF-8. At most 65,535 bytes.
    pub topic: Bytes,
    /// MQTT 5 properties that are forwarded, as they came.
    pub properties: Bytes,
    /// The payload.
    pub payload: Bytes,
}

impl Enqueue {
    const HEADER: usize = 72;

    /// The body; all but its header is shared.
    ///
    /// # Panics
    /// With a topic or client id longer than MQTT allows.
    pub fn encode(&self) -> Body {
        let flags = flag(self.retain, RETAIN)
            | flag(self.expiry_s.is_some(), EXPIRES)
            | flag(self.will, WILL);
        let (partition, node, incarnation) = self.origin.fields();
        let mut out = Writer::new(1, flags);
        out.u8(self.origin.code());
        out.u8(self.qos as u8);
        out.u16(text_len(&self.publisher));
        out.u32(self.target.code());
        out.u32(partition);
        out.u64(node);
        out.u64(incarnation);
        out.u64(self.number);
        out.u64(self.predecessor);
        out.u64(self.stamp_ms);
        out.u32(self.expiry_s.unwrap_or_default());
        out.count(self.properties.len());
        out.u16(text_len(&self.topic));
        out.zeros(6);
        out.header_ends();
        let mut body = Body::from(out.finish());
        for part in [&self.publisher, &self.topic, &self.properties, &self.payload] {
            body.push(part.clone());
        }
        body
    }

    /// Reads a body; all but its header is shared with it.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let flags = open.fourth;
        if flags & !KNOWN != 0 {
            return Err(BodyError::Value { what: "an Enqueue's flags", got: flags.into() });
        }
        let lane_kind = open.u8()?;
        let qos = Qos::from_code(open.u8()?)?;
        let publisher_len = open.u16()?.into();
        let target = Target::from_code(open.u32()?);
        let partition = open.u32()?;
        let origin = Origin::from_fields(lane_kind, partition, open.u64()?, open.u64()?)?;
        let number = open.u64()?;
        let predecessor = open.u64()?;
        if predecessor != 0 && predecessor >= number {
            return Err(BodyError::Value { what: "a predecessor", got: predecessor });
        }
        let stamp_ms = open.u64()?;
        let expiry_s = open.u32()?;
        let properties_len = open.u32()? as usize;
        let topic_len = open.u16()?.into();
        let publisher = open.utf8(publisher_len, "the publisher")?;
        let topic = open.utf8(topic_len, "the topic")?;
        let properties = open.part(properties_len, "properties")?;
        Ok(Self {
            target,
            origin,
            number,
            predecessor,
            stamp_ms,
            expiry_s: (flags & EXPIRES != 0).then_some(expiry_s),
            qos,
            retain: flags & RETAIN != 0,
            will: flags & WILL != 0,
            publisher,
            topic,
            properties,
            payload: open.payload(),
        })
    }
}

fn text_len(text: &Bytes) -> u16 {
    u16::try_from(text.len()).expect("MQTT's strings have at most 65,535 bytes")
}

/// What became of an Enqueue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum EnqueueOutcome {
    /// Committed, or taken by the node.
    Taken = 0,
    /// It was before.
    Repeat = 1,
    /// Its predecessor is missing; `through` says what is there.
    Gap = 2,
    /// The receiver does not lead the partition; `leader` may.
    NotLeader = 3,
    /// The receiver cannot take it now; it belongs in the outbox.
    Busy = 4,
    /// It was refused for good: the target's limits.
    Refused = 5,
}

impl EnqueueOutcome {
    fn from_code(code: u8) -> Result<Self, BodyError> {
        match code {
            0 => Ok(Self::Taken),
            1 => Ok(Self::Repeat),
            2 => Ok(Self::Gap),
            3 => Ok(Self::NotLeader),
            4 => Ok(Self::Busy),
            5 => Ok(Self::Refused),
            got => Err(BodyError::Value { what: "an Enqueue's outcome", got: got.into() }),
        }
    }
}

/// The answer to an Enqueue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct EnqueueAck {
    /// From the Enqueue.
    pub target: Target,
    /// From the Enqueue.
    pub origin: Origin,
    /// The number that is answered.
    pub number: u64,
    /// The highest number of the lane that is taken; all below are as well.
    pub through: u64,
    /// What became of it.
    pub outcome: EnqueueOutcome,
    /// Who leads the partition, if it is known and not the receiver.
    pub leader: Option<NodeId>,
}

impl EnqueueAck {
    const HEADER: usize = 56;

    /// The body.
    pub fn encode(&self) -> Body {
        let (partition, node, incarnation) = self.origin.fields();
        let mut out = Writer::new(1, self.outcome as u8);
        out.u8(self.origin.code());
        out.zeros(3);
        out.u32(self.target.code());
        out.u32(partition);
        out.u64(node);
        out.u64(incarnation);
        out.u64(self.number);
        out.u64(self.through);
        out.u64(self.leader.unwrap_or_default().0);
        out.header_ends();
        out.finish().into()
    }

    /// Reads a body.
    pub fn decode(body: &Bytes) -> Result<Self, BodyError> {
        let mut open = Opened::new(body, 1, Self::HEADER)?;
        let outcome = EnqueueOutcome::from_code(open.fourth)?;
        let lane_kind = open.u8()?;
        open.block::<3>()?;
        let target = Target::from_code(open.u32()?);
        let partition = open.u32()?;
        let origin = Origin::from_fields(lane_kind, partition, open.u64()?, open.u64()?)?;
        let (number, through) = (open.u64()?, open.u64()?);
        let leader = Some(NodeId(open.u64()?)).filter(|leader| leader.0 != 0);
        open.ends()?;
        Ok(Self { target, origin, number, through, outcome, leader })
    }
}
