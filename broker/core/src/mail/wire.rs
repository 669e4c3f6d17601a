//! Mail between nodes as bytes, in the formats of [`MailFormat`].
//!
//! A parcel is `shard u8 | len u32 | version u8 | kind u8 | body`: the number
//! of the shard within its node, and `len` bytes of mail. Little endian, lengths
//! in front and checked before anything is kept. Times are those of the wall
//! clock, as in records. What only means something within a node (positions in
//! its log, tickets of its share groups, stamps of its clock) stays behind.

use std::sync::Arc;

use thiserror::Error;
use tidegate_codec::{ReasonCode, RetainHandling};

use super::format::MailFormat;
use super::{
    ClaimRef, ClaimRequest, Confirm, Cross, Granted, Kind, Mail, RecheckRequest, Reclaim,
    ReleaseRequest, Replay, SubscribeRequest, UnsubscribeRequest, Wanted, What,
};
use crate::delivery::Delivery;
use crate::ids::{ConnRef, Member, PARTITIONS, PartitionId, SessionKey, ShardId};
use crate::index::{Options, Remote};
use crate::node::Node;
use crate::partition::{Reader, RecordError, Writer, acked_bits, acked_of};
use crate::retained::Cursor;

/// Shard and length.
const HEAD_BYTES: usize = 5;

/// Why bytes of another node are no mail. It is that node's fault, or the link's.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum MailError {
    /// A parcel's length goes beyond the bytes that came.
    #[error("{0} bytes are left, which is no whole parcel")]
    Cut(usize),
    /// It is of another version.
    #[error("a mail of format {0}; this version knows formats 1 and 2")]
    Version(u8),
    /// It is for another shard than the one that it was given to.
    #[error("a mail for shard {to} was given to shard {here}")]
    Astray {
        /// For whom it is.
        to: u8,
        /// Who got it.
        here: u8,
    },
    /// It names a shard or partition that cannot be.
    #[error("{what} {value} cannot be")]
    Place {
        /// What it should be.
        what: &'static str,
        /// What it is.
        value: u32,
    },
    /// Its body is not one of its kind.
    #[error("a mail of kind {kind}: {error}")]
    Body {
        /// The kind.
        kind: u8,
        /// What is wrong.
        error: RecordError,
    },
}

/// Parcels among bytes that came; see [`parcels`].
#[derive(Clone, Debug)]
pub struct Parcels<'a>(&'a [u8]);

/// The parcels in `bytes`, each whole, with the number of the shard that it is
/// for: to be handed to its [`Shard::inbound`](crate::Shard::inbound).
pub fn parcels(bytes: &[u8]) -> Parcels<'_> {
    Parcels(bytes)
}

impl<'a> Iterator for Parcels<'a> {
    type Item = Result<(u8, &'a [u8]), MailError>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.0;
        if bytes.is_empty() {
            return None;
        }
        self.0 = &[];
        let cut = Some(Err(MailError::Cut(bytes.len())));
        let Some(&[shard, a, b, c, d]) = bytes.first_chunk::<HEAD_BYTES>() else { return cut };
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let Some(total) = len.checked_add(HEAD_BYTES) else { return cut };
        let Some((parcel, rest)) = bytes.split_at_checked(total) else { return cut };
        self.0 = rest;
        Some(Ok((shard, parcel)))
    }
}

/// The kinds of mail that leave a node, by their second byte.
mod tag {
    pub(super) const CLAIM: u8 = 1;
    pub(super) const RECLAIM: u8 = 2;
    pub(super) const RELEASE: u8 = 3;
    pub(super) const SUBSCRIBE: u8 = 4;
    pub(super) const UNSUBSCRIBE: u8 = 5;
    pub(super) const RECHECK: u8 = 6;
    pub(super) const ACKNOWLEDGE: u8 = 7;
    pub(super) const INCOMING: u8 = 8;
    pub(super) const GRANTED: u8 = 9;
    pub(super) const REFUSED: u8 = 10;
    pub(super) const EVICT: u8 = 11;
    pub(super) const RELEASED: u8 = 12;
    pub(super) const SUBSCRIBED: u8 = 13;
    pub(super) const UNSUBSCRIBED: u8 = 14;
    pub(super) const PUSH: u8 = 15;
    pub(super) const OWE: u8 = 16;
    pub(super) const MISMATCH: u8 = 17;
    pub(super) const LOST: u8 = 18;
    pub(super) const CONFIRMED: u8 = 19;
    pub(super) const NOT_RETAINED: u8 = 20;
    pub(super) const PACE: u8 = 21;
    pub(super) const RETAIN: u8 = 22;
    pub(super) const QUERY: u8 = 23;
    pub(super) const RETURNED: u8 = 24;
    pub(super) const ANSWER: u8 = 25;
    pub(super) const CROSS: u8 = 26;
}

impl Mail {
    /// Appends the parcel for a shard of another node; false if this kind of
    /// mail never leaves its node.
    pub(crate) fn encode(
        &self,
        to: ShardId,
        format: MailFormat,
        node: &Node,
        out: &mut Vec<u8>,
    ) -> bool {
        let start = out.len();
        out.push(to.index() as u8);
        out.extend_from_slice(&[0; 4]);
        let mut w = Writer { out, epoch: node.epoch };
        w.u8(format.number());
        if !write(&mut w, &self.kind, format) {
            out.truncate(start);
            return false;
        }
        let len = (out.len() - start - HEAD_BYTES) as u32;
        out[start + 1..start + HEAD_BYTES].copy_from_slice(&len.to_le_bytes());
        true
    }

    /// The reverse, of a parcel for the shard `here`.
    pub(crate) fn decode(parcel: &[u8], here: ShardId, node: &Node) -> Result<Mail, MailError> {
        let Some((head, body)) = parcel.split_at_checked(HEAD_BYTES) else {
            return Err(MailError::Cut(parcel.len()));
        };
        let (to, here) = (head[0], here.index() as u8);
        if to != here {
            return Err(MailError::Astray { to, here });
        }
        let (version, kind) = match *body {
            [version, kind, ..] => (version, kind),
            [..] => return Err(MailError::Cut(parcel.len())),
        };
        let format = MailFormat::of_number(version).ok_or(MailError::Version(version))?;
        let mut r = Reader::new(&body[2..], node.epoch);
        let read = read(&mut r, kind, format, node).and_then(|kind| r.end().map(|()| kind));
        let read = read.map_err(|error| MailError::Body { kind, error })?;
        if let Some((what, value)) = misplaced(&read) {
            return Err(MailError::Place { what, value });
        }
        Ok(Mail { kind: read, read_at: None })
    }
}

/// Appends kind and body; false for what stays within a node.
fn write(w: &mut Writer<'_>, kind: &Kind, format: MailFormat) -> bool {
    match kind {
        Kind::Claim(request) => {
            w.u8(tag::CLAIM);
            w.conn(request.conn);
            w.text(&request.client);
            w.u8(request.clean_start.into());
            w.u32(request.expiry);
            w.u16(request.window);
            w.u8(request.will.is_some().into());
            if let Some(will) = &request.will {
                w.will(will);
            }
        }
        Kind::Reclaim(request) => {
            w.u8(tag::RECLAIM);
            w.conn(request.conn);
            w.text(&request.client);
            w.u64(request.since);
        }
        Kind::Release(request) => {
            w.u8(tag::RELEASE);
            w.u8(request.partition.0);
            w.conn(request.conn);
            w.claim(request.claim);
            w.option_u32(request.expiry);
            w.u8(u8::from(request.will) | u8::from(request.moved) << 1);
        }
        Kind::Subscribe(request) => {
            w.u8(tag::SUBSCRIBE);
            w.key(request.session);
            w.conn(request.conn);
            w.u16(request.packet_id);
            w.u32(request.id);
            w.u8(request.barrier.into());
            w.u32(request.filters.len() as u32);
            for Wanted { text, options, retain_handling, code } in &request.filters {
                w.text(text);
                w.u8(options.bits());
                w.u8(*retain_handling as u8);
                w.u8(*code as u8);
            }
        }
        Kind::Unsubscribe(request) => {
            w.u8(tag::UNSUBSCRIBE);
            w.key(request.session);
            w.conn(request.conn);
            w.u16(request.packet_id);
            w.u32(request.filters.len() as u32);
            request.filters.iter().for_each(|text| w.text(text));
        }
        Kind::Recheck(request) => {
            w.u8(tag::RECHECK);
            w.key(request.session);
            w.text(&request.client);
            w.u8(request.user.is_some().into());
            if let Some(user) = &request.user {
                w.text(user);
            }
        }
        Kind::Acknowledge { session, conn, packet_id, acked } => {
            w.u8(tag::ACKNOWLEDGE);
            w.key(*session);
            w.conn(*conn);
            w.u16(*packet_id);
            w.u8(acked_bits(*acked));
        }
        Kind::Incoming { session, conn, packet_id, held, message, confirm } => {
            w.u8(tag::INCOMING);
            w.key(*session);
            w.conn(*conn);
            w.u16(*packet_id);
            w.u8((*held).into());
            w.u8(message.is_some().into());
            if let Some(message) = message {
                w.message(message);
            }
            w.confirm(*confirm);
        }
        Kind::Granted(granted) => {
            w.u8(tag::GRANTED);
            w.conn(granted.conn);
            w.u8(granted.partition.0);
            w.claim(granted.claim);
            w.u8(granted.session.is_some().into());
            if let Some(session) = granted.session {
                w.key(session);
            }
            let behind = granted.behind && format.tells_errands();
            let flags = [granted.present, granted.again, behind];
            w.u8((0..).zip(flags).map(|(bit, flag)| u8::from(flag) << bit).sum());
            w.u32(granted.incoming.len() as u32);
            granted.incoming.iter().for_each(|&id| w.u16(id));
            w.option_u32(granted.taken_from.map(|shard| shard.0.into()));
        }
        Kind::Refused { conn, reason } => {
            w.u8(tag::REFUSED);
            w.conn(*conn);
            w.u8(*reason as u8);
        }
        Kind::Evict { conn, partition, claim } => {
            w.u8(tag::EVICT);
            w.conn(*conn);
            w.u8(partition.0);
            w.claim(*claim);
        }
        Kind::Released { conn } => {
            w.u8(tag::RELEASED);
            w.conn(*conn);
        }
        Kind::Subscribed { conn, packet_id, codes, ticket: _ } => {
            w.u8(tag::SUBSCRIBED);
            w.codes(*conn, *packet_id, codes);
        }
        Kind::Unsubscribed { conn, packet_id, codes } => {
            w.u8(tag::UNSUBSCRIBED);
            w.codes(*conn, *packet_id, codes);
        }
        Kind::Push { conn, packet_id, dup, delivery } => {
            w.u8(tag::PUSH);
            w.conn(*conn);
            w.u16(*packet_id);
            w.u8((*dup).into());
            w.u8(delivery.qos as u8 | u8::from(delivery.retain) << 2);
            w.ids(delivery.ids.as_slice());
            w.message(&delivery.message);
        }
        Kind::Owe { conn, packet_id, reason } => {
            w.u8(tag::OWE);
            w.conn(*conn);
            w.u16(*packet_id);
            w.u8(*reason as u8);
        }
        Kind::Mismatch { conn } => {
            w.u8(tag::MISMATCH);
            w.conn(*conn);
        }
        Kind::Lost { conn } => {
            w.u8(tag::LOST);
            w.conn(*conn);
        }
        Kind::Confirmed(confirm) => {
            w.u8(tag::CONFIRMED);
            w.confirm(Some(*confirm));
        }
        Kind::NotRetained(confirm) => {
            w.u8(tag::NOT_RETAINED);
            w.confirm(Some(*confirm));
        }
        Kind::Pace { conn, replay } => {
            w.u8(tag::PACE);
            w.conn(*conn);
            w.replay(replay);
        }
        Kind::Cross(cross) => {
            w.u8(tag::CROSS);
            w.remote(cross.to);
            w.what(&cross.what);
            w.message(&cross.message);
            w.conn(cross.publisher);
            w.lane(cross.lane);
            w.confirm(cross.confirm);
            if format.says_behind() {
                w.u64(cross.after);
            }
        }
        Kind::Retain { message, clear, lane, confirm } => {
            w.u8(tag::RETAIN);
            w.message(message);
            w.u8((*clear).into());
            w.lane(*lane);
            w.confirm(*confirm);
        }
        Kind::Query(replay) => {
            w.u8(tag::QUERY);
            w.replay(replay);
        }
        Kind::Returned { conn, replay } => {
            w.u8(tag::RETURNED);
            w.conn(*conn);
            w.replay(replay);
        }
        Kind::Answer { replay, messages, more } => {
            w.u8(tag::ANSWER);
            w.replay(replay);
            w.u8((*more).into());
            w.u32(messages.len() as u32);
            messages.iter().for_each(|message| w.message(message));
        }
        Kind::Undone(_)
        | Kind::Relieved
        | Kind::JobDone { .. }
        | Kind::Deliver { .. }
        | Kind::DeliverShared { .. } => return false,
    }
    true
}

type Result<T, E = RecordError> = std::result::Result<T, E>;

fn read(r: &mut Reader<'_>, kind: u8, format: MailFormat, node: &Node) -> Result<Kind> {
    Ok(match kind {
        tag::CLAIM => {
            let conn = r.conn()?;
            let client: Arc<str> = r.text("client id")?.into();
            let hash = node.client_hash(&client);
            let clean_start = r.flag("clean start")?;
            let (expiry, window) = (r.u32("session expiry")?, r.u16("window")?);
            let will = r.optional("will", Reader::will)?.map(Arc::new);
            let counted = false;
            Kind::Claim(Box::new(ClaimRequest {
                conn,
                client,
                hash,
                clean_start,
                expiry,
                window,
                will,
                counted,
                came: 0,
                order: 0,
            }))
        }
        tag::RECLAIM => {
            let conn = r.conn()?;
            let client: Arc<str> = r.text("client id")?.into();
            let (hash, since) = (node.client_hash(&client), r.u64("time")?);
            Kind::Reclaim(Box::new(Reclaim { conn, client, hash, since }))
        }
        tag::RELEASE => {
            let partition = r.partition()?;
            let (conn, claim) = (r.conn()?, r.claim()?);
            let expiry = r.option_u32("session expiry")?;
            let [will, moved] = r.bits()?;
            let request = ReleaseRequest { partition, conn, claim, expiry, will, moved };
            Kind::Release(Box::new(request))
        }
        tag::SUBSCRIBE => {
            let (session, conn) = (r.key()?, r.conn()?);
            let (packet_id, id) = (r.u16("packet id")?, r.u32("subscription identifier")?);
            let barrier = r.flag("barrier")?;
            let filters = r.list("filters", |r| {
                let text = r.text("filter")?.into();
                let options = Options::of_bits(r.u8("options")?);
                let retain_handling = match r.u8("retain handling")? {
                    0 => RetainHandling::SendAlways,
                    1 => RetainHandling::SendIfNew,
                    2 => RetainHandling::Never,
                    value => return Err(unknown("retain handling", value)),
                };
                Ok(Wanted { text, options, retain_handling, code: r.code()? })
            })?;
            let request = SubscribeRequest { session, conn, packet_id, id, filters, barrier };
            Kind::Subscribe(Box::new(request))
        }
        tag::UNSUBSCRIBE => {
            let (session, conn, packet_id) = (r.key()?, r.conn()?, r.u16("packet id")?);
            let filters = r.list("filters", |r| Ok(r.text("filter")?.into()))?;
            Kind::Unsubscribe(Box::new(UnsubscribeRequest { session, conn, packet_id, filters }))
        }
        tag::RECHECK => {
            let (session, client) = (r.key()?, r.text("client id")?.into());
            let user = r.optional("user", |r| Ok(r.text("user")?.into()))?;
            Kind::Recheck(Box::new(RecheckRequest { session, client, user }))
        }
        tag::ACKNOWLEDGE => {
            let (session, conn, packet_id) = (r.key()?, r.conn()?, r.u16("packet id")?);
            let acked = acked_of(r.u8("acknowledgement")?)?;
            Kind::Acknowledge { session, conn, packet_id, acked }
        }
        tag::INCOMING => {
            let (session, conn, packet_id) = (r.key()?, r.conn()?, r.u16("packet id")?);
            let held = r.flag("held")?;
            let message = r.optional("message", Reader::message)?;
            let confirm = r.confirm()?;
            Kind::Incoming { session, conn, packet_id, held, message, confirm }
        }
        tag::GRANTED => {
            let (conn, partition, claim) = (r.conn()?, r.partition()?, r.claim()?);
            let session = r.optional("session", Reader::key)?;
            let [present, again, behind] = match format.tells_errands() {
                true => r.bits()?,
                false => {
                    let [present, again] = r.bits()?;
                    [present, again, false]
                }
            };
            let incoming = r.list("packet ids", |r| r.u16("packet id"))?;
            let taken_from = match r.option_u32("former shard")? {
                None => None,
                Some(value) => Some(ShardId(u16::try_from(value).map_err(|_| {
                    RecordError::Unknown { what: "former shard", value: value.into() }
                })?)),
            };
            Kind::Granted(Box::new(Granted {
                conn,
                partition,
                claim,
                session,
                present,
                again,
                incoming,
                taken_from,
                behind,
            }))
        }
        tag::REFUSED => Kind::Refused { conn: r.conn()?, reason: r.code()? },
        tag::EVICT => Kind::Evict { conn: r.conn()?, partition: r.partition()?, claim: r.claim()? },
        tag::RELEASED => Kind::Released { conn: r.conn()? },
        tag::SUBSCRIBED => {
            let (conn, packet_id) = (r.conn()?, r.u16("packet id")?);
            let codes = r.list("reason codes", Reader::code)?.into();
            Kind::Subscribed { conn, packet_id, codes, ticket: 0 }
        }
        tag::UNSUBSCRIBED => {
            let (conn, packet_id) = (r.conn()?, r.u16("packet id")?);
            let codes = r.list("reason codes", Reader::code)?.into();
            Kind::Unsubscribed { conn, packet_id, codes }
        }
        tag::PUSH => {
            let (conn, packet_id, dup) = (r.conn()?, r.u16("packet id")?, r.flag("dup")?);
            let ((qos, retain), ids) = (r.flags()?, r.ids()?);
            let message = r.message()?;
            let delivery = Delivery { message, qos, retain, ids, position: None, ticket: None };
            Kind::Push { conn, packet_id, dup, delivery }
        }
        tag::OWE => {
            Kind::Owe { conn: r.conn()?, packet_id: r.u16("packet id")?, reason: r.code()? }
        }
        tag::MISMATCH => Kind::Mismatch { conn: r.conn()? },
        tag::LOST => Kind::Lost { conn: r.conn()? },
        tag::CONFIRMED => Kind::Confirmed(r.some_confirm()?),
        tag::NOT_RETAINED => Kind::NotRetained(r.some_confirm()?),
        tag::PACE => Kind::Pace { conn: r.conn()?, replay: r.replay()? },
        tag::CROSS => {
            let (to, what, message) = (r.remote()?, r.what()?, r.message()?);
            let (publisher, lane, confirm) = (r.conn()?, r.lane()?, r.confirm()?);
            let after = if format.says_behind() { r.u64("number")? } else { 0 };
            if let (Remote::Node(_), What::Errand | What::Settled) = (to, &what) {
                return Err(unknown("what a node is asked", 4));
            }
            Kind::Cross(Box::new(Cross { to, what, message, publisher, lane, confirm, after }))
        }
        tag::RETAIN => {
            let (message, clear) = (r.message()?, r.flag("clear")?);
            let (lane, confirm) = (r.lane()?, r.confirm()?);
            Kind::Retain { message, clear, lane, confirm }
        }
        tag::QUERY => Kind::Query(r.replay()?),
        tag::RETURNED => Kind::Returned { conn: r.conn()?, replay: r.replay()? },
        tag::ANSWER => {
            let (replay, more) = (r.replay()?, r.flag("more")?);
            let messages = r.list("messages", Reader::message)?;
            Kind::Answer { replay, messages, more }
        }
        value => return Err(unknown("kind", value)),
    })
}

fn unknown(what: &'static str, value: u8) -> RecordError {
    RecordError::Unknown { what, value: value.into() }
}

/// A place in it that no node could have named: one of a node that is alone,
/// or a partition that does not exist.
fn misplaced(kind: &Kind) -> Option<(&'static str, u32)> {
    let alone =
        |shard: ShardId| (shard.member() == Member::ALONE).then_some(("shard", u32::from(shard.0)));
    let conn = |conn: &ConnRef| alone(conn.shard);
    let key = |key: &SessionKey| alone(key.shard);
    let durable = |of: &SessionKey| {
        key(of).or_else(|| (!of.durable).then_some(("slot of a durable session", of.slot)))
    };
    let confirm = |confirm: &Option<Confirm>| {
        let confirm = confirm.as_ref()?;
        let partition = confirm.partition().filter(|p| u16::from(p.0) >= PARTITIONS);
        conn(&confirm.conn).or(partition.map(|p| ("partition", u32::from(p.0))))
    };
    match kind {
        Kind::Claim(request) => conn(&request.conn),
        Kind::Reclaim(request) => conn(&request.conn),
        Kind::Release(request) => conn(&request.conn),
        Kind::Subscribe(request) => durable(&request.session).or_else(|| conn(&request.conn)),
        Kind::Unsubscribe(request) => durable(&request.session).or_else(|| conn(&request.conn)),
        Kind::Recheck(request) => durable(&request.session),
        Kind::Acknowledge { session, conn: from, .. } => durable(session).or_else(|| conn(from)),
        Kind::Incoming { session, conn: from, confirm: who, .. } => {
            durable(session).or_else(|| conn(from)).or_else(|| confirm(who))
        }
        Kind::Granted(granted) => {
            conn(&granted.conn).or_else(|| granted.session.as_ref().and_then(durable))
        }
        Kind::Refused { conn: to, .. }
        | Kind::Evict { conn: to, .. }
        | Kind::Released { conn: to }
        | Kind::Subscribed { conn: to, .. }
        | Kind::Unsubscribed { conn: to, .. }
        | Kind::Push { conn: to, .. }
        | Kind::Owe { conn: to, .. }
        | Kind::Mismatch { conn: to }
        | Kind::Lost { conn: to } => conn(to),
        Kind::Confirmed(who) | Kind::NotRetained(who) => confirm(&Some(*who)),
        Kind::Pace { conn: to, replay } => conn(to).or_else(|| durable(&replay.owner)),
        Kind::Returned { conn: from, replay } => conn(from).or_else(|| durable(&replay.owner)),
        Kind::Query(replay) | Kind::Answer { replay, .. } => key(&replay.owner),
        Kind::Retain { confirm: who, .. } => confirm(who),
        Kind::Cross(cross) => conn(&cross.publisher).or_else(|| confirm(&cross.confirm)),
        Kind::Undone(_)
        | Kind::Relieved
        | Kind::JobDone { .. }
        | Kind::Deliver { .. }
        | Kind::DeliverShared { .. } => None,
    }
}

impl Writer<'_> {
    fn remote(&mut self, remote: Remote) {
        match remote {
            Remote::Node(member) => {
                self.u8(0);
                self.u16(member.0);
            }
            Remote::Partition(partition) => {
                self.u8(1);
                self.u16(partition.0.into());
            }
        }
    }

    fn what(&mut self, what: &What) {
        match what {
            What::Everybody => self.u8(0),
            What::Member { name, filter, hops } => {
                self.u8(1);
                self.text(name);
                self.text(filter);
                self.u8(*hops);
            }
            What::Retain { clear } => self.u8(if *clear { 3 } else { 2 }),
            What::Errand => self.u8(4),
            What::Settled => self.u8(5),
        }
    }

    fn conn(&mut self, conn: ConnRef) {
        self.u16(conn.shard.0);
        self.u32(conn.slot);
        self.u32(conn.generation);
    }

    fn key(&mut self, key: SessionKey) {
        self.u16(key.shard.0);
        self.u8(key.durable.into());
        self.u32(key.slot);
        self.u32(key.generation);
    }

    fn claim(&mut self, claim: ClaimRef) {
        self.u32(claim.slot);
        self.u32(claim.generation);
    }

    fn confirm(&mut self, confirm: Option<Confirm>) {
        self.u8(confirm.is_some().into());
        if let Some(Confirm { conn, token }) = confirm {
            self.conn(conn);
            self.u32(token);
        }
    }

    fn codes(&mut self, conn: ConnRef, packet_id: u16, codes: &[ReasonCode]) {
        self.conn(conn);
        self.u16(packet_id);
        self.u32(codes.len() as u32);
        codes.iter().for_each(|&code| self.u8(code as u8));
    }

    fn replay(&mut self, replay: &Replay) {
        self.key(replay.owner);
        self.text(&replay.filter);
        self.u64(replay.left);
        self.u64(replay.asked);
        self.u16(replay.keeper.0);
        self.u8(replay.cursor.is_some().into());
        if let Some(cursor) = &replay.cursor {
            let (kind, at) = cursor.place();
            self.u8(kind);
            self.text(at);
        }
        self.u8(replay.options.bits());
        self.u32(replay.id);
        self.u64(replay.client);
        self.u64(replay.serial);
        self.u32(replay.leg);
    }
}

impl Reader<'_> {
    fn remote(&mut self) -> Result<Remote> {
        let (kind, number) = (self.u8("target")?, self.u16("target")?);
        match kind {
            0 if Member(number) <= Member::MAX => Ok(Remote::Node(Member(number))),
            1 if number < PARTITIONS => Ok(Remote::Partition(PartitionId(number as u8))),
            kind => Err(unknown("target", kind)),
        }
    }

    fn what(&mut self) -> Result<What> {
        Ok(match self.u8("what")? {
            0 => What::Everybody,
            1 => {
                let (name, filter) = (self.text("share name")?, self.text("share filter")?);
                let (name, filter) = (name.into(), filter.into());
                What::Member { name, filter, hops: self.u8("hops")? }
            }
            kind @ (2 | 3) => What::Retain { clear: kind == 3 },
            4 => What::Errand,
            5 => What::Settled,
            kind => return Err(unknown("what", kind)),
        })
    }

    fn conn(&mut self) -> Result<ConnRef> {
        let shard = ShardId(self.u16("shard")?);
        let (slot, generation) = (self.u32("slot")?, self.u32("generation")?);
        Ok(ConnRef { shard, slot, generation })
    }

    fn key(&mut self) -> Result<SessionKey> {
        let (shard, durable) = (ShardId(self.u16("shard")?), self.flag("durable")?);
        let (slot, generation) = (self.u32("slot")?, self.u32("generation")?);
        Ok(SessionKey { shard, durable, slot, generation })
    }

    fn claim(&mut self) -> Result<ClaimRef> {
        Ok(ClaimRef { slot: self.u32("claim")?, generation: self.u32("claim's generation")? })
    }

    fn partition(&mut self) -> Result<PartitionId> {
        match self.u8("partition")? {
            value if u16::from(value) < PARTITIONS => Ok(PartitionId(value)),
            value => Err(unknown("partition", value)),
        }
    }

    fn bits<const N: usize>(&mut self) -> Result<[bool; N]> {
        match self.u8("flags")? {
            flags if flags >> N == 0 => Ok(std::array::from_fn(|bit| flags >> bit & 1 != 0)),
            value => Err(unknown("flags", value)),
        }
    }

    fn some_confirm(&mut self) -> Result<Confirm> {
        self.confirm()?.ok_or(RecordError::Unknown { what: "confirmation", value: 0 })
    }

    fn confirm(&mut self) -> Result<Option<Confirm>> {
        self.optional("confirmation", |r| Ok(Confirm { conn: r.conn()?, token: r.u32("token")? }))
    }

    fn code(&mut self) -> Result<ReasonCode> {
        let code = self.u8("reason code")?;
        ReasonCode::try_from(code).map_err(|_| unknown("reason code", code))
    }

    fn optional<T>(
        &mut self,
        what: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(match self.flag(what)? {
            true => Some(read(self)?),
            false => None,
        })
    }

    /// Nothing is set aside for more items than there are bytes.
    fn list<T>(
        &mut self,
        what: &'static str,
        mut read: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut list = Vec::new();
        for _ in 0..self.u32(what)? {
            list.push(read(self)?);
        }
        Ok(list)
    }

    fn replay(&mut self) -> Result<Box<Replay>> {
        let owner = self.key()?;
        let filter: Arc<str> = self.text("filter")?.into();
        let (left, asked) = (self.u64("partitions")?, self.u64("partitions asked")?);
        let keeper = ShardId(self.u16("keeper")?);
        let cursor = self.optional("cursor", |r| {
            let (kind, at) = (r.u8("cursor")?, r.text("cursor")?);
            Cursor::at(Arc::clone(&filter), kind, at).ok_or(unknown("cursor", kind))
        })?;
        let options = Options::of_bits(self.u8("options")?);
        let (id, client) = (self.u32("subscription identifier")?, self.u64("client")?);
        let (serial, leg) = (self.u64("serial")?, self.u32("leg")?);
        Ok(Box::new(Replay {
            owner,
            filter,
            left,
            asked,
            keeper,
            cursor,
            options,
            id,
            client,
            serial,
            leg,
            late: 0,
        }))
    }
}

#[cfg(test)]
mod tests;
