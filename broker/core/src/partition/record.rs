//! A partition's records as bytes, format 1.
//!
//! A record names sessions by their number, not by their place, and times by
//! the wall clock: it means the same after a restart, and on another node.
//! Little endian, lengths in front. A record that this version does not know
//! is an error, never skipped.

use std::ops::ControlFlow;
use std::sync::Arc;

use tidegate_codec::{QoS, ReasonCode, RetainHandling};

use super::bytes::{Reader, RecordError, Writer, acked_bits, acked_of};
use super::{
    Change, Context, Dropped, Gone, MovedTo, Partition, Recipient, Recipients, Record, Released,
};
use crate::delivery::Delivery;
use crate::ids::{ConnRef, Member as NodeMember, PartitionId, SessionKey, ShardId};
use crate::index::Options;
use crate::mail::{ClaimRequest, SubscribeRequest, UnsubscribeRequest, Wanted};
use crate::message::Message;
use crate::node::Node;

type Result<T> = std::result::Result<T, RecordError>;

/// A connection of before the restart.
pub(super) const NOWHERE: ConnRef = ConnRef { shard: ShardId(0), slot: u32::MAX, generation: 0 };
/// The place of a session that is no more.
const NO_SLOT: u32 = (1 << 26) - 1;

/// The kinds of records, by their first byte.
mod tag {
    pub(super) const CLAIM: u8 = 1;
    pub(super) const RELEASE: u8 = 2;
    pub(super) const SUBSCRIBE: u8 = 3;
    pub(super) const UNSUBSCRIBE: u8 = 4;
    pub(super) const ENQUEUE: u8 = 5;
    pub(super) const ENQUEUE_ONE: u8 = 6;
    pub(super) const ACKNOWLEDGE: u8 = 7;
    pub(super) const INCOMING: u8 = 8;
    pub(super) const RETAINED: u8 = 9;
    pub(super) const CAUGHT_UP: u8 = 10;
    pub(super) const DUE: u8 = 11;
    pub(super) const REVOKE: u8 = 12;
    pub(super) const TRIM: u8 = 13;
    pub(super) const RETAIN: u8 = 14;
    pub(super) const ERRAND_DONE: u8 = 15;
    pub(super) const RESTARTED: u8 = 16;
    pub(super) const MOVED: u8 = 17;
    pub(super) const CLAIM_BY: u8 = 18;
    pub(super) const DROPPED: u8 = 19;
    pub(super) const GONE: u8 = 20;
    pub(super) const ERRAND: u8 = 21;
}
impl Partition {
    /// A record's bytes, appended to `out`.
    pub(super) fn encode(&self, record: &Record, node: &Node, out: &mut Vec<u8>) {
        let mut w = Writer { out, epoch: node.epoch };
        let at = |w: &mut Writer<'_>, tag: u8| {
            w.u8(tag);
            w.time(record.at);
        };
        match &record.change {
            Change::Claim { slot: _, request } => {
                match self.is_replicated() {
                    true => {
                        at(&mut w, tag::CLAIM_BY);
                        w.owner(request.conn);
                    }
                    false => at(&mut w, tag::CLAIM),
                }
                w.text(&request.client);
                w.u8(request.clean_start.into());
                w.u32(request.expiry);
                w.u16(request.window);
                w.u8(request.will.is_some().into());
                if let Some(will) = &request.will {
                    w.will(will);
                }
            }
            Change::Release(Released { session, expiry, will, next, unsure, .. }) => {
                at(&mut w, tag::RELEASE);
                w.u32(session.unwrap_or(0));
                w.option_u32(*expiry);
                w.u8(u8::from(*will) | u8::from(*unsure) << 1);
                w.u8(next.map_or(0, |clean| 1 + u8::from(clean)));
            }
            Change::Subscribe(request) => {
                at(&mut w, tag::SUBSCRIBE);
                w.u32(request.session.generation);
                w.u32(request.id);
                w.u32(request.filters.len() as u32);
                for wanted in &request.filters {
                    w.text(&wanted.text);
                    w.u8(wanted.options.bits());
                    w.u8(wanted.retain_handling as u8);
                    w.u8(wanted.code as u8);
                }
            }
            Change::Unsubscribe(request) => {
                at(&mut w, tag::UNSUBSCRIBE);
                w.u32(request.session.generation);
                w.u32(request.filters.len() as u32);
                request.filters.iter().for_each(|filter| w.text(filter));
            }
            Change::Enqueue { message, to, lane, confirm: _ } => {
                at(&mut w, tag::ENQUEUE);
                w.lane(*lane);
                w.message(message);
                let mut one = |generation: u32, options: Options, ids: &[u32]| {
                    w.u32(generation);
                    w.u8(options.bits());
                    w.ids(ids);
                };
                match to {
                    Recipients::Run { targets, from, to } => {
                        for target in targets.iter_from(*from).take(to - from) {
                            one(target.generation, target.options, targets.ids(target));
                        }
                    }
                    Recipients::Listed(list) => {
                        for to in list {
                            one(to.generation, to.options, to.ids.as_slice());
                        }
                    }
                }
            }
            Change::EnqueueOne { session, delivery, lane, confirm: _ } => {
                at(&mut w, tag::ENQUEUE_ONE);
                w.lane(*lane);
                w.u32(session.generation);
                w.message(&delivery.message);
                w.delivery(delivery);
            }
            Change::Acknowledge { session, packet_id, acked } => {
                at(&mut w, tag::ACKNOWLEDGE);
                w.u32(session.generation);
                w.u16(*packet_id);
                w.u8(acked_bits(*acked));
            }
            Change::Incoming { session, packet_id, held, message, confirm: _ } => {
                at(&mut w, tag::INCOMING);
                w.u32(session.generation);
                w.u16(*packet_id);
                w.u8((*held).into());
                w.u8(message.is_some().into());
                if let Some(message) = message {
                    w.message(message);
                }
            }
            Change::Retained { session, filter, serial, deliveries } => {
                at(&mut w, tag::RETAINED);
                w.u32(session.generation);
                w.text(filter);
                w.u64(*serial);
                w.u32(deliveries.len() as u32);
                for delivery in deliveries {
                    w.message(&delivery.message);
                    w.delivery(delivery);
                }
            }
            Change::CaughtUp { session, begun } => {
                at(&mut w, tag::CAUGHT_UP);
                w.u32(session.generation);
                w.u64(*begun);
            }
            Change::Due { slot: _, generation } => {
                at(&mut w, tag::DUE);
                w.u32(*generation);
            }
            Change::Revoke { session, filters } => {
                at(&mut w, tag::REVOKE);
                w.u32(session.generation);
                w.u32(filters.len() as u32);
                filters.iter().for_each(|filter| w.text(filter));
            }
            Change::Trim { slot: _, generation, bytes } => {
                at(&mut w, tag::TRIM);
                w.u32(*generation);
                w.u64(*bytes);
            }
            Change::Retain { message, clear, lane, confirm: _ } => {
                at(&mut w, tag::RETAIN);
                w.lane(*lane);
                w.u8((*clear).into());
                w.message(message);
            }
            Change::Moved { message, from, to } => {
                at(&mut w, tag::MOVED);
                w.u64(from.offset());
                w.message(message);
                for MovedTo { session, sequence, delivery } in to {
                    w.u32(session.generation);
                    w.u64(*sequence);
                    w.delivery(delivery);
                }
            }
            Change::Errand { message, lane, confirm: _ } => {
                at(&mut w, tag::ERRAND);
                w.lane(*lane);
                w.message(message);
            }
            // It is in no record.
            Change::Settled { .. } => {}
            Change::ErrandDone { number } => {
                at(&mut w, tag::ERRAND_DONE);
                w.u64(*number);
            }
            Change::Restarted => at(&mut w, tag::RESTARTED),
            Change::Dropped(list) => {
                at(&mut w, tag::DROPPED);
                w.u32(list.len() as u32);
                for &Dropped { session, deferred, number } in list {
                    w.u32(session);
                    w.u8(deferred.into());
                    w.u64(number);
                }
            }
            Change::Gone(gone) => {
                at(&mut w, tag::GONE);
                match gone {
                    Gone::Member(member) => {
                        w.u16(member.0);
                        w.u32(0);
                    }
                    Gone::Sessions(sessions) => {
                        w.u16(0);
                        w.u32(sessions.len() as u32);
                        sessions.iter().for_each(|&session| w.u32(session));
                    }
                }
            }
        }
    }

    /// The reverse of `encode`. Sessions are looked up among those that the
    /// records before have made.
    pub(super) fn decode(&mut self, body: &[u8], cx: &Context<'_>) -> Result<Record> {
        let node = cx.node;
        let mut r = Reader::new(body, node.epoch);
        let tag = r.u8("kind")?;
        let at = r.time()?;
        let change = match tag {
            tag::CLAIM | tag::CLAIM_BY => {
                let conn = if tag == tag::CLAIM_BY { r.owner()? } else { NOWHERE };
                let client: Arc<str> = r.text("client id")?.into();
                let hash = node.client_hash(&client);
                let clean_start = r.flag("clean start")?;
                let (expiry, window) = (r.u32("session expiry")?, r.u16("window")?);
                let will = match r.flag("will")? {
                    true => Some(Arc::new(r.will()?)),
                    false => None,
                };
                let slot = self.claim_slot(&client, hash);
                let request = ClaimRequest {
                    conn,
                    client,
                    hash,
                    clean_start,
                    expiry,
                    window,
                    will,
                    counted: false,
                    came: at,
                    order: 0,
                };
                Change::Claim { slot, request: Box::new(request) }
            }
            tag::RELEASE => {
                let session = r.u32("session")?;
                let expiry = r.option_u32("session expiry")?;
                let bits = r.u8("end of a connection")?;
                if bits > 0b11 {
                    let what = "end of a connection";
                    return Err(RecordError::Unknown { what, value: bits.into() });
                }
                let (will, unsure) = (bits & 0b01 != 0, bits & 0b10 != 0);
                let next = match r.u8("next")? {
                    0 => None,
                    1 => Some(false),
                    2 => Some(true),
                    value => {
                        return Err(RecordError::Unknown { what: "next", value: value.into() });
                    }
                };
                let slot = self.slot_of(session);
                let generation = self.claims.at(slot).map_or(0, |claim| claim.generation);
                let session = Some(session);
                let released = Released { slot, generation, session, expiry, will, next, unsure };
                Change::Release(released)
            }
            tag::SUBSCRIBE => {
                let session = self.key_of(r.u32("session")?);
                let id = r.u32("subscription identifier")?;
                let mut filters = Vec::new();
                for _ in 0..r.u32("filters")? {
                    let text = r.text("filter")?.into();
                    let options = Options::of_bits(r.u8("options")?);
                    let retain_handling = match r.u8("retain handling")? {
                        0 => RetainHandling::SendAlways,
                        1 => RetainHandling::SendIfNew,
                        2 => RetainHandling::Never,
                        value => {
                            let what = "retain handling";
                            return Err(RecordError::Unknown { what, value: value.into() });
                        }
                    };
                    let code = ReasonCode::try_from(r.u8("reason code")?).map_err(|code| {
                        RecordError::Unknown { what: "code", value: code.into() }
                    })?;
                    filters.push(Wanted { text, options, retain_handling, code });
                }
                let conn = NOWHERE;
                let (packet_id, barrier) = (0, false);
                let request = SubscribeRequest { session, conn, packet_id, id, filters, barrier };
                Change::Subscribe(Box::new(request))
            }
            tag::UNSUBSCRIBE => {
                let session = self.key_of(r.u32("session")?);
                let mut filters = Vec::new();
                for _ in 0..r.u32("filters")? {
                    filters.push(r.text("filter")?.into());
                }
                let request = UnsubscribeRequest { session, conn: NOWHERE, packet_id: 0, filters };
                Change::Unsubscribe(Box::new(request))
            }
            tag::ENQUEUE => {
                let lane = r.lane()?;
                let message = r.message()?;
                let mut list = Vec::new();
                while r.end().is_err() {
                    let generation = r.u32("session")?;
                    let options = Options::of_bits(r.u8("options")?);
                    let (slot, ids) = (self.slot_of(generation), r.ids()?);
                    list.push(Recipient { slot, generation, options, ids });
                }
                Change::Enqueue { message, to: Recipients::Listed(list), lane, confirm: None }
            }
            tag::ENQUEUE_ONE => {
                let lane = r.lane()?;
                let session = self.key_of(r.u32("session")?);
                let message = r.message()?;
                let delivery = self.read_delivery(&mut r, session, message, cx)?;
                Change::EnqueueOne { session, delivery, lane, confirm: None }
            }
            tag::ACKNOWLEDGE => {
                let session = self.key_of(r.u32("session")?);
                let packet_id = r.u16("packet id")?;
                let acked = acked_of(r.u8("acknowledgement")?)?;
                Change::Acknowledge { session, packet_id, acked }
            }
            tag::INCOMING => {
                let session = self.key_of(r.u32("session")?);
                let packet_id = r.u16("packet id")?;
                let held = r.flag("held")?;
                let message = match r.flag("message")? {
                    true => Some(r.message()?),
                    false => None,
                };
                Change::Incoming { session, packet_id, held, message, confirm: None }
            }
            tag::RETAINED => {
                let session = self.key_of(r.u32("session")?);
                let filter = r.text("filter")?.into();
                let serial = r.u64("serial")?;
                let mut deliveries = Vec::new();
                for _ in 0..r.u32("deliveries")? {
                    let message = r.message()?;
                    deliveries.push(self.read_delivery(&mut r, session, message, cx)?);
                }
                Change::Retained { session, filter, serial, deliveries }
            }
            tag::CAUGHT_UP => {
                let session = self.key_of(r.u32("session")?);
                Change::CaughtUp { session, begun: r.u64("replays")? }
            }
            tag::DUE => {
                let generation = r.u32("session")?;
                Change::Due { slot: self.slot_of(generation), generation }
            }
            tag::REVOKE => {
                let session = self.key_of(r.u32("session")?);
                let mut filters = Vec::new();
                for _ in 0..r.u32("filters")? {
                    filters.push(r.text("filter")?.into());
                }
                Change::Revoke { session, filters }
            }
            tag::TRIM => {
                let generation = r.u32("session")?;
                Change::Trim { slot: self.slot_of(generation), generation, bytes: r.u64("bytes")? }
            }
            tag::RETAIN => {
                let lane = r.lane()?;
                let clear = r.flag("clear")?;
                Change::Retain { message: r.message()?, clear, lane, confirm: None }
            }
            tag::MOVED => {
                let from = r.position()?;
                let message = r.message()?;
                let mut to = Vec::new();
                while r.end().is_err() {
                    let session = self.key_of(r.u32("session")?);
                    let sequence = r.u64("number")?;
                    let delivery = r.delivery(node, session, Arc::clone(&message))?;
                    to.push(MovedTo { session, sequence, delivery });
                }
                Change::Moved { message, from, to }
            }
            tag::ERRAND => {
                let lane = r.lane()?;
                Change::Errand { message: r.message()?, lane, confirm: None }
            }
            tag::ERRAND_DONE => Change::ErrandDone { number: r.u64("errand")? },
            tag::RESTARTED => Change::Restarted,
            tag::DROPPED => {
                let mut list = Vec::new();
                for _ in 0..r.u32("dropped messages")? {
                    let session = r.u32("session")?;
                    let deferred = r.flag("kept back")?;
                    list.push(Dropped { session, deferred, number: r.u64("number")? });
                }
                Change::Dropped(list)
            }
            tag::GONE => {
                let member = NodeMember(r.u16("member")?);
                let mut sessions = Vec::new();
                for _ in 0..r.u32("sessions")? {
                    sessions.push(r.u32("session")?);
                }
                match member {
                    NodeMember::ALONE => Change::Gone(Gone::Sessions(sessions)),
                    member => Change::Gone(Gone::Member(member)),
                }
            }
            value => return Err(RecordError::Unknown { what: "kind", value: value.into() }),
        };
        r.end()?;
        Ok(Record { at, change })
    }

    /// What a record that brought a message says of it to one session, read back
    /// to be sent. None: the record is not of that session.
    pub(super) fn delivery_of(
        &self,
        body: &[u8],
        key: SessionKey,
        node: &Node,
    ) -> Result<Option<Delivery>> {
        let mut found = None;
        let wanted = |generation| (generation == key.generation).then_some(key);
        self.deliveries_of(body, node, wanted, |_, delivery| {
            found = Some(delivery);
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// What a record that brought a message says of it to each session that is
    /// `wanted`, until `take` breaks off.
    pub(super) fn deliveries_of(
        &self,
        body: &[u8],
        node: &Node,
        wanted: impl Fn(u32) -> Option<SessionKey>,
        mut take: impl FnMut(u32, Delivery) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut r = Reader::new(body, node.epoch);
        let tag = r.u8("kind")?;
        r.time()?;
        match tag {
            tag::ENQUEUE => {
                r.lane()?;
                let message = r.message()?;
                while r.end().is_err() {
                    let generation = r.u32("session")?;
                    let options = Options::of_bits(r.u8("options")?);
                    let ids = r.ids()?;
                    if wanted(generation).is_none() {
                        continue;
                    }
                    let to = QoS::try_from(options.qos()).unwrap_or_default();
                    let delivery = Delivery {
                        qos: message.qos.min(to),
                        retain: message.retain && options.retain_as_published(),
                        ids,
                        position: None,
                        ticket: None,
                        message: Arc::clone(&message),
                    };
                    if take(generation, delivery).is_break() {
                        break;
                    }
                }
            }
            tag::ENQUEUE_ONE => {
                r.lane()?;
                let generation = r.u32("session")?;
                let message = r.message()?;
                if let Some(key) = wanted(generation) {
                    let _ = take(generation, r.delivery(node, key, message)?);
                }
            }
            tag::RETAINED => {
                let generation = r.u32("session")?;
                r.text("filter")?;
                r.u64("serial")?;
                let one = r.u32("deliveries")? == 1;
                let message = r.message()?;
                if let Some(key) = wanted(generation).filter(|_| one) {
                    let _ = take(generation, r.delivery(node, key, message)?);
                }
            }
            tag::MOVED => {
                r.position()?;
                let message = r.message()?;
                while r.end().is_err() {
                    let generation = r.u32("session")?;
                    r.u64("number")?;
                    let key = wanted(generation);
                    let of = key.unwrap_or_else(|| self.key_of(generation));
                    let delivery = r.delivery(node, of, Arc::clone(&message))?;
                    if key.is_some() && take(generation, delivery).is_break() {
                        break;
                    }
                }
            }
            value => {
                let what = "kind of a message";
                return Err(RecordError::Unknown { what, value: value.into() });
            }
        }
        Ok(())
    }

    /// A delivery of a record. A replica is in no index: it asks the session.
    pub(super) fn read_delivery(
        &self,
        r: &mut Reader<'_>,
        key: SessionKey,
        message: Arc<Message>,
        cx: &Context<'_>,
    ) -> Result<Delivery> {
        if cx.index.is_some() {
            return r.delivery(cx.node, key, message);
        }
        let (_, slot) = PartitionId::split(key.slot);
        let session = self.claims.at(slot).and_then(|claim| claim.session.as_deref());
        let session = session.filter(|session| session.generation == key.generation);
        r.followed(message, key, |name, filter| session?.subscriptions.member(name, filter))
    }

    fn slot_of(&self, session: u32) -> u32 {
        let known = self.sessions.as_ref().and_then(|sessions| sessions.get(&session));
        known.copied().unwrap_or(NO_SLOT)
    }

    fn key_of(&self, session: u32) -> SessionKey {
        SessionKey {
            shard: self.shard,
            durable: true,
            slot: PartitionId::session_slot(self.id, self.slot_of(session)),
            generation: session,
        }
    }
}
