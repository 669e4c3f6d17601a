//! Numbers, texts, messages and what else records are made of, as bytes.
//!
//! Also what mail between nodes is made of. Little endian, lengths in front.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;
use tidegate_codec::QoS;

use crate::delivery::{Delivery, Ticket};
use crate::ids::{ConnRef, Millis, Position, SessionKey, ShardId};
use crate::index::{Member, Options, ShareGroup};
use crate::mail::{Lane, LaneSource};
use crate::message::{Draft, Message};
use crate::node::Node;
use crate::outgoing::{Acked, SubscriptionIds};
use crate::will::Will;

/// Why bytes are no record.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum RecordError {
    /// They end too early.
    #[error("the record ends within its {0}")]
    Short(&'static str),
    /// They go on behind the end.
    #[error("{0} bytes follow the record's end")]
    Long(usize),
    /// A number stands for nothing.
    #[error("{what} is {value}, which this version does not know")]
    Unknown {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: u64,
    },
    /// A text is not UTF-8.
    #[error("the {0} is not UTF-8")]
    Text(&'static str),
}

/// Appends to a record.
pub(crate) struct Writer<'a> {
    pub(crate) out: &'a mut Vec<u8>,
    /// Milliseconds of the wall clock when this process's clock stood at 0.
    pub(crate) epoch: Millis,
}

impl Writer<'_> {
    pub(crate) fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.out.extend_from_slice(bytes);
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// A time; `Millis::MAX` stays what it is.
    pub(crate) fn time(&mut self, at: Millis) {
        self.u64(at.saturating_add(self.epoch));
    }

    pub(crate) fn option_u32(&mut self, value: Option<u32>) {
        self.u8(value.is_some().into());
        self.u32(value.unwrap_or(0));
    }

    pub(crate) fn ids(&mut self, ids: &[u32]) {
        self.u16(ids.len() as u16);
        for &id in ids {
            self.u32(id);
        }
    }

    pub(crate) fn message(&mut self, message: &Message) {
        let (body, topic_bytes, forward_bytes) = message.parts();
        self.u64(message.id);
        self.u8(message.qos as u8 | u8::from(message.retain) << 2);
        self.u64(message.origin);
        self.time(message.expires);
        self.u16(topic_bytes);
        self.u32(forward_bytes);
        self.bytes(body);
    }

    pub(crate) fn will(&mut self, will: &Will) {
        self.text(&will.topic);
        self.bytes(&will.payload);
        self.bytes(&will.forward);
        self.u8(will.qos as u8 | u8::from(will.retain) << 2);
        self.option_u32(will.expiry);
        self.u32(will.delay);
    }

    pub(crate) fn lane(&mut self, lane: Option<Lane>) {
        let Some(Lane { source, number, low, part }) = lane else { return self.u8(0) };
        self.lane_source(source);
        self.u64(number);
        self.u64(low);
        self.u32(part);
    }

    /// 1: a partition, as the first release wrote it; 2: a shard.
    pub(super) fn lane_source(&mut self, source: LaneSource) {
        match source {
            LaneSource::Partition(partition) => {
                self.u8(1);
                self.u8(partition);
            }
            LaneSource::Shard(shard) => {
                self.u8(2);
                self.u16(shard.0);
            }
        }
    }

    pub(super) fn owner(&mut self, conn: ConnRef) {
        self.u16(conn.shard.0);
        self.u32(conn.slot);
        self.u32(conn.generation);
    }

    /// All of a delivery but its message.
    pub(crate) fn delivery(&mut self, delivery: &Delivery) {
        self.u8(delivery.qos as u8 | u8::from(delivery.retain) << 2);
        self.ids(delivery.ids.as_slice());
        self.u8(delivery.ticket.is_some().into());
        if let Some(ticket) = &delivery.ticket {
            self.text(ticket.group.name());
            self.text(ticket.group.filter());
        }
    }
}

/// Reads a record.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    epoch: Millis,
}

type Result<T> = std::result::Result<T, RecordError>;

impl<'a> Reader<'a> {
    pub(crate) fn new(body: &'a [u8], epoch: Millis) -> Reader<'a> {
        Reader { rest: body, epoch }
    }

    fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(RecordError::Short(what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// All that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn flag(&mut self, what: &'static str) -> Result<bool> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(RecordError::Unknown { what, value: value.into() }),
        }
    }

    pub(crate) fn bytes(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let len = self.u32(what)? as usize;
        self.take(len, what)
    }

    pub(crate) fn text(&mut self, what: &'static str) -> Result<&'a str> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| RecordError::Text(what))
    }

    pub(crate) fn time(&mut self) -> Result<Millis> {
        let wall = self.u64("time")?;
        Ok(if wall == Millis::MAX { wall } else { wall.saturating_sub(self.epoch) })
    }

    pub(crate) fn position(&mut self) -> Result<Position> {
        let offset = self.u64("position")?;
        Position::of(offset).ok_or(RecordError::Unknown { what: "position", value: offset })
    }

    pub(crate) fn option_u32(&mut self, what: &'static str) -> Result<Option<u32>> {
        let some = self.flag(what)?;
        let value = self.u32(what)?;
        Ok(some.then_some(value))
    }

    pub(crate) fn ids(&mut self) -> Result<SubscriptionIds> {
        let n = self.u16("subscription identifiers")?;
        let ids: Vec<u32> =
            (0..n).map(|_| self.u32("subscription identifier")).collect::<Result<_>>()?;
        Ok(SubscriptionIds::from_slice(&ids))
    }

    /// QoS and retain flag.
    pub(crate) fn flags(&mut self) -> Result<(QoS, bool)> {
        let bits = self.u8("flags")?;
        let unknown = |_| RecordError::Unknown { what: "QoS", value: bits.into() };
        Ok((QoS::try_from(bits & 0b11).map_err(unknown)?, bits & 0b100 != 0))
    }

    pub(crate) fn message(&mut self) -> Result<Arc<Message>> {
        let id = self.u64("message id")?;
        let (qos, retain) = self.flags()?;
        let origin = self.u64("origin")?;
        let expires = self.time()?;
        let topic_bytes = self.u16("topic length")?;
        let forward_bytes = self.u32("properties length")?;
        let body = self.bytes("message")?;
        let front = usize::from(topic_bytes) + forward_bytes as usize;
        let topic = body.get(..usize::from(topic_bytes)).ok_or(RecordError::Short("topic"))?;
        if front > body.len() {
            return Err(RecordError::Short("properties"));
        }
        std::str::from_utf8(topic).map_err(|_| RecordError::Text("topic"))?;
        let draft = Draft {
            topic: "",
            forward: &[],
            payload: &[],
            qos,
            retain,
            origin,
            expires,
            id,
            shared: None,
        };
        let body = Bytes::copy_from_slice(body);
        Ok(Arc::new(Message::from_parts(body, topic_bytes, forward_bytes, &draft)))
    }

    pub(crate) fn will(&mut self) -> Result<Will> {
        let topic = self.text("will topic")?.into();
        let payload = self.bytes("will payload")?.into();
        let forward = self.bytes("will properties")?.into();
        let (qos, retain) = self.flags()?;
        let expiry = self.option_u32("will expiry")?;
        let delay = self.u32("will delay")?;
        Ok(Will { topic, payload, forward, qos, retain, expiry, delay })
    }

    pub(crate) fn lane(&mut self) -> Result<Option<Lane>> {
        let Some(source) = self.lane_source()? else { return Ok(None) };
        let number = self.u64("lane number")?;
        let low = self.u64("lane's lowest")?;
        Ok(Some(Lane { source, number, low, part: self.u32("lane part")? }))
    }

    pub(super) fn lane_source(&mut self) -> Result<Option<LaneSource>> {
        Ok(match self.u8("lane")? {
            0 => None,
            1 => Some(LaneSource::Partition(self.u8("lane")?)),
            2 => Some(LaneSource::Shard(ShardId(self.u16("lane")?))),
            value => {
                return Err(RecordError::Unknown { what: "lane", value: value.into() });
            }
        })
    }

    pub(super) fn owner(&mut self) -> Result<ConnRef> {
        let shard = ShardId(self.u16("shard")?);
        Ok(ConnRef { shard, slot: self.u32("connection")?, generation: self.u32("connection")? })
    }

    /// A delivery of this message to a session; `member` yields its membership
    /// of a share group of this name and filter.
    pub(super) fn followed(
        &mut self,
        message: Arc<Message>,
        session: SessionKey,
        member: impl FnOnce(&str, &str) -> Option<Arc<Member>>,
    ) -> Result<Delivery> {
        let (qos, retain) = self.flags()?;
        let ids = self.ids()?;
        let mut ticket = None;
        if self.flag("share group")? {
            let (name, filter) = (self.text("share name")?, self.text("share filter")?);
            let group = Arc::new(ShareGroup::new(name, &filter.into()));
            // Who was given it may have left the group since.
            let member = member(name, filter)
                .unwrap_or_else(|| Arc::new(Member::new(session, Options::default(), 0)));
            ticket = Some(Ticket::new(group, member));
        }
        Ok(Delivery { message, qos, retain, ids, position: None, ticket })
    }

    /// A delivery of this message to this session.
    pub(crate) fn delivery(
        &mut self,
        node: &Node,
        session: SessionKey,
        message: Arc<Message>,
    ) -> Result<Delivery> {
        let (qos, retain) = self.flags()?;
        let ids = self.ids()?;
        let mut ticket = None;
        if self.flag("share group")? {
            let (name, filter) = (self.text("share name")?, self.text("share filter")?);
            let route = node.index.route(message.topic());
            let group = route.shares.iter().find(|g| g.name() == name && &**g.filter() == filter);
            ticket = group.and_then(|group| {
                let member = group.member(session)?;
                Some(Ticket::new(Arc::clone(group), Arc::clone(member)))
            });
        }
        Ok(Delivery { message, qos, retain, ids, position: None, ticket })
    }

    pub(crate) fn end(&self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(RecordError::Long(n)),
        }
    }
}

pub(crate) fn acked_bits(acked: Acked) -> u8 {
    match acked {
        Acked::Puback => 0,
        Acked::Pubrec => 1,
        Acked::PubrecRefused => 2,
        Acked::Pubcomp => 3,
    }
}

/// The reverse of `acked_bits`.
pub(crate) fn acked_of(bits: u8) -> Result<Acked> {
    match bits {
        0 => Ok(Acked::Puback),
        1 => Ok(Acked::Pubrec),
        2 => Ok(Acked::PubrecRefused),
        3 => Ok(Acked::Pubcomp),
        value => Err(RecordError::Unknown { what: "acknowledgement", value: value.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_of_the_first_release_is_read_and_written_as_it_was() {
        let (number, low, part) = (70, 60, 1);
        let of = |source| Some(Lane { source, number, low, part });
        let rest = [&70u64.to_le_bytes()[..], &60u64.to_le_bytes(), &1u32.to_le_bytes()].concat();
        let forms = [
            (None, vec![0]),
            (of(LaneSource::Partition(9)), [&[1, 9][..], &rest].concat()),
            (of(LaneSource::Shard(ShardId(0x0241))), [&[2, 0x41, 2][..], &rest].concat()),
        ];
        for (lane, bytes) in forms {
            let mut out = Vec::new();
            Writer { out: &mut out, epoch: 0 }.lane(lane);
            assert_eq!(out, bytes);
            let mut r = Reader::new(&bytes, 0);
            assert_eq!(r.lane(), Ok(lane));
            assert_eq!(r.end(), Ok(()));
        }
        assert!(Reader::new(&[3, 0, 0], 0).lane().is_err());
    }
}
