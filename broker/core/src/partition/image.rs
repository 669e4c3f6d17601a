//! The whole state of a partition as one stream of bytes, for a replica: its
//! image. Format 1.
//!
//! Unlike the state that a node writes for itself (see `snapshot`) it has the
//! messages of queues in it, each once however many sessions wait for it. A
//! stream of items, each with its length in front, cut into pieces wherever one
//! is full. Replicas that have taken the same records give the same bytes:
//! sessions come in the order of their numbers, everything else in its own, and
//! what only a leader knows (what was sent, who waits) is left out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use hashbrown::HashMap;
use tidegate_codec::Filter;

use super::alone::Bodies;
use super::bytes::{Reader, RecordError, Writer};
use super::outbox::Errand;
use super::replica::{Header, Taken};
use super::{Context, Partition, Session};
use crate::catchup::Catchup;
use crate::delivery::Delivery;
use crate::ids::{Member, Millis, SessionKey};
use crate::index::Options;
use crate::limits::IMAGE_PIECE_BYTES;
use crate::mail::{LaneSource, Replay};
use crate::message::Message;
use crate::node::Node;
use crate::outgoing::Outgoing;

const VERSION: u8 = 1;
/// Entries of one item, so that none grows with a session.
const ENTRIES_MAX: usize = 256;
/// The most that an item may say it has: more than a message can be.
const ITEM_BYTES_MAX: usize = 1 << 29;

mod item {
    pub(super) const HEAD: u8 = 1;
    pub(super) const ERRAND: u8 = 2;
    pub(super) const SEEN: u8 = 3;
    pub(super) const MESSAGE: u8 = 4;
    pub(super) const SESSION: u8 = 5;
    pub(super) const SUBSCRIPTIONS: u8 = 6;
    pub(super) const QUEUE: u8 = 7;
    pub(super) const RELEASED: u8 = 8;
    pub(super) const ASKED: u8 = 9;
    pub(super) const DEFERRED: u8 = 10;
    pub(super) const RETAINED: u8 = 11;
    pub(super) const END: u8 = 12;
}

/// The state of a partition as of a record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Image {
    /// The last record that is in it.
    pub index: u64,
    /// The bytes, to be joined; none is longer than [`IMAGE_PIECE_BYTES`].
    pub pieces: Vec<Vec<u8>>,
}

/// An image in the making.
struct Painter {
    pieces: Vec<Vec<u8>>,
    item: Vec<u8>,
    items: u64,
    epoch: Millis,
    /// The messages in it, by id.
    messages: HashMap<u64, Vec<(u32, Arc<Message>)>, foldhash::fast::FixedState>,
    count: u32,
}

impl Painter {
    fn item(&mut self, kind: u8, write: impl FnOnce(&mut Writer<'_>)) {
        let mut item = std::mem::take(&mut self.item);
        item.clear();
        item.push(kind);
        write(&mut Writer { out: &mut item, epoch: self.epoch });
        self.put(&(item.len() as u32).to_le_bytes());
        self.put(&item);
        self.items += 1;
        self.item = item;
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.pieces.last().is_none_or(|piece| piece.len() >= IMAGE_PIECE_BYTES) {
                self.pieces.push(Vec::new());
            }
            let Some(piece) = self.pieces.last_mut() else { return };
            let (now, later) = bytes.split_at(bytes.len().min(IMAGE_PIECE_BYTES - piece.len()));
            piece.extend_from_slice(now);
            bytes = later;
        }
    }

    /// The number of a message, which is written if it was not yet.
    fn message(&mut self, message: &Arc<Message>) -> u32 {
        let known = self.messages.get(&message.id).into_iter().flatten();
        let known = known.map(|(number, other)| (*number, other));
        if let Some((number, _)) = { known }.find(|(_, other)| message.is_same(other)) {
            return number;
        }
        self.item(item::MESSAGE, |w| w.message(message));
        let number = self.count;
        self.count += 1;
        self.messages.entry(message.id).or_default().push((number, Arc::clone(message)));
        number
    }

    fn deliveries(&mut self, kind: u8, all: &[(u64, &Delivery)]) {
        for some in all.chunks(ENTRIES_MAX) {
            let numbers: Vec<u32> = some.iter().map(|(_, d)| self.message(&d.message)).collect();
            self.item(kind, |w| {
                w.u32(some.len() as u32);
                for ((number, delivery), message) in some.iter().zip(numbers) {
                    w.u64(*number);
                    w.u32(message);
                    w.delivery(delivery);
                }
            });
        }
    }
}

impl Partition {
    /// The state as of the last record that was committed, and the retained
    /// messages of its topics, in their order. None: records are on their way;
    /// what is proposed is held back until they are committed, and then this is
    /// to be asked again.
    pub(crate) fn image<'m>(
        &mut self,
        settled: bool,
        node: &Node,
        retained: impl Iterator<Item = &'m Arc<Message>>,
    ) -> Option<Image> {
        let taken = self.replica.as_ref()?.taken;
        if self.leads() {
            self.freeze();
            if !settled || !self.is_frozen() {
                return None;
            }
        }
        Some(self.paint(taken, node, retained, None))
    }

    /// The state as of `taken`; `bodies` has the messages of queues that are on
    /// the disk alone.
    pub(super) fn paint<'m>(
        &self,
        taken: Taken,
        node: &Node,
        retained: impl Iterator<Item = &'m Arc<Message>>,
        bodies: Option<&Bodies<'_>>,
    ) -> Image {
        let mut painter = Painter {
            pieces: Vec::new(),
            item: Vec::new(),
            items: 0,
            epoch: node.epoch,
            messages: HashMap::default(),
            count: 0,
        };
        painter.item(item::HEAD, |w| {
            w.u8(VERSION);
            w.u32(self.generation);
            w.u16(taken.last.member.0);
            w.u64(taken.last.epoch);
            w.u64(taken.last.number);
            w.u64(taken.next);
            w.u64(taken.time);
        });
        for (number, errand) in self.outbox.iter() {
            let message = painter.message(&errand.message);
            painter.item(item::ERRAND, |w| {
                w.u64(number);
                w.u32(message);
                w.u8(errand.share.is_some().into());
                if let Some((name, filter)) = &errand.share {
                    w.text(name);
                    w.text(filter);
                }
            });
        }
        let known = |&(source, number, part): &_| {
            bodies.is_none_or(|bodies| bodies.may_come_again(source, number, part))
        };
        let seen: Vec<_> = self.seen.iter().filter(known).collect();
        for some in seen.chunks(ENTRIES_MAX) {
            painter.item(item::SEEN, |w| {
                w.u32(some.len() as u32);
                for &(source, number, part) in some {
                    w.lane_source(source);
                    w.u64(number);
                    w.u32(part);
                }
            });
        }
        let sessions = (0..self.claims.slots())
            .filter_map(|slot| Some((self.claims.at(slot)?.session.as_deref()?.generation, slot)));
        let mut sessions: Vec<(u32, u32)> = sessions.collect();
        sessions.sort_unstable();
        for (_, slot) in sessions {
            self.paint_session(slot, &mut painter, bodies);
        }
        // An expired one is gone by the clock that replicas share.
        let time = taken.time.saturating_sub(node.epoch);
        let retained: Vec<_> = retained.filter(|m| !m.expired(time)).collect();
        for some in retained.chunks(ENTRIES_MAX) {
            let numbers: Vec<u32> = some.iter().map(|message| painter.message(message)).collect();
            painter.item(item::RETAINED, |w| {
                w.u32(numbers.len() as u32);
                numbers.iter().for_each(|&number| w.u32(number));
            });
        }
        let items = painter.items;
        painter.item(item::END, |w| w.u64(items));
        Image { index: taken.next - 1, pieces: painter.pieces }
    }

    fn paint_session(&self, slot: u32, painter: &mut Painter, bodies: Option<&Bodies<'_>>) {
        let Some(claim) = self.claims.at(slot) else { return };
        let Some(session) = claim.session.as_deref() else { return };
        let outgoing = session.outgoing.as_deref();
        let mut owed = outgoing.map(Outgoing::all_owed).unwrap_or_default();
        if let (Some(bodies), Some(outgoing)) = (bodies, outgoing) {
            owed.extend(bodies.of(session.generation, outgoing));
            owed.sort_unstable_by_key(|&(number, _)| number);
        }
        let released: Vec<u64> = outgoing.map(|o| o.all_released().collect()).unwrap_or_default();
        let first = owed.first().map_or(u64::MAX, |&(number, _)| number);
        let maybe_sent = outgoing.map_or(0, Outgoing::maybe_sent_before);
        painter.item(item::SESSION, |w| {
            w.text(&claim.client);
            w.u32(session.generation);
            w.u8(claim.live.is_some().into());
            if let Some(conn) = claim.live {
                w.owner(conn);
            }
            w.u32(session.expiry);
            w.time(session.ends);
            w.u16(session.window);
            w.u64(session.sequence);
            w.u64(if maybe_sent > first { maybe_sent } else { 0 });
            w.u8(session.armed.is_some().into());
            if let Some(will) = &session.armed {
                w.will(will);
            }
            w.u8(session.will.is_some().into());
            if let Some((due, will)) = &session.will {
                w.time(*due);
                w.will(will);
            }
            w.u16(session.incoming().len() as u16);
            session.incoming().iter().for_each(|&id| w.u16(id));
            w.u8(session.catchup.is_some().into());
            w.u64(session.catchup.as_ref().map_or(0, |catchup| catchup.begun()));
        });
        let mut subscriptions = Vec::new();
        session.subscriptions.each(|text, s| subscriptions.push((Arc::clone(text), s.clone())));
        for some in subscriptions.chunks(ENTRIES_MAX) {
            painter.item(item::SUBSCRIPTIONS, |w| {
                w.u32(some.len() as u32);
                for (text, subscription) in some {
                    w.text(text);
                    w.u8(subscription.options.bits());
                    w.u32(subscription.id);
                }
            });
        }
        painter.deliveries(item::QUEUE, &owed);
        for some in released.chunks(ENTRIES_MAX) {
            painter.item(item::RELEASED, |w| {
                w.u32(some.len() as u32);
                some.iter().for_each(|&number| w.u64(number));
            });
        }
        if let Some(catchup) = &session.catchup {
            let (asked, deferred) = catchup.parts();
            for some in asked.chunks(ENTRIES_MAX) {
                painter.item(item::ASKED, |w| {
                    w.u32(some.len() as u32);
                    for (filter, options, id) in some {
                        w.text(filter);
                        w.u8(options.bits());
                        w.u32(*id);
                    }
                });
            }
            let deferred = deferred.iter().filter(|d| d.qos as u8 > 0);
            let deferred: Vec<_> = deferred.map(|d| (catchup.begun_by(&d.message), d)).collect();
            painter.deliveries(item::DEFERRED, &deferred);
        }
    }
}

/// Replays that run for a session: how many have begun, what is asked for, and
/// the live messages that are kept back.
type Chased = (u64, Vec<Replay>, Vec<(u64, Delivery)>);

/// An image that comes in.
#[derive(Debug, Default)]
pub(super) struct Installing {
    /// The beginning of an item.
    rest: VecDeque<u8>,
    items: u64,
    messages: Vec<Arc<Message>>,
    /// The session that is being read: key, hash of the client id, slot.
    session: Option<(SessionKey, u64, u32)>,
    queue: Option<Box<Outgoing>>,
    maybe_sent: u64,
    catchup: Option<Chased>,
    head: Option<(Header, u64, Millis)>,
    errands: Vec<(u64, Errand)>,
    seen: Vec<(LaneSource, u64, u32)>,
}

/// What came of bytes of an image.
#[derive(Debug, Default)]
pub(crate) struct Installed {
    /// Whether it is whole.
    pub(crate) ended: bool,
    pub(crate) retained: Vec<Arc<Message>>,
}

impl Partition {
    /// Takes the next bytes of an image, cut anywhere, into a partition that
    /// has nothing.
    ///
    /// # Errors
    /// It is no image that this version knows. The partition is to be reset.
    pub(crate) fn install(
        &mut self,
        mut bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<Installed, RecordError> {
        let mut done = Installed::default();
        let Some(replica) = &mut self.replica else { return Ok(done) };
        let mut state = replica.installing.take().unwrap_or_default();
        while !bytes.is_empty() {
            if done.ended {
                return Err(RecordError::Long(bytes.len()));
            }
            // A whole item, in place if it is.
            let wanted = match state.rest.len() {
                n @ 0..4 => 4 - n,
                n => {
                    let head = state.rest.make_contiguous();
                    4 + length(head)? - n
                }
            };
            if state.rest.is_empty()
                && bytes.len() >= 4
                && let Some(item) = bytes.get(4..4 + length(bytes)?)
            {
                bytes = &bytes[4 + item.len()..];
                done.ended = self.install_item(item, &mut state, &mut done.retained, cx)?;
                continue;
            }
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            state.rest.extend(now);
            bytes = later;
            if state.rest.len() >= 4 {
                let rest = state.rest.make_contiguous();
                if rest.len() == 4 + length(rest)? {
                    let item = Vec::from(std::mem::take(&mut state.rest));
                    done.ended =
                        self.install_item(&item[4..], &mut state, &mut done.retained, cx)?;
                }
            }
        }
        if !done.ended
            && let Some(replica) = &mut self.replica
        {
            replica.installing = Some(state);
        }
        Ok(done)
    }

    fn install_item(
        &mut self,
        item: &[u8],
        state: &mut Installing,
        retained: &mut Vec<Arc<Message>>,
        cx: &mut Context<'_>,
    ) -> Result<bool, RecordError> {
        let mut r = Reader::new(item, cx.node.epoch);
        let kind = r.u8("item")?;
        let r = &mut r;
        if matches!(kind, item::SESSION | item::RETAINED | item::END) {
            self.close_session(state, cx);
        }
        match kind {
            item::HEAD => {
                let version = r.u8("version")?;
                if version != VERSION {
                    let value = version.into();
                    return Err(RecordError::Unknown { what: "the image's format", value });
                }
                self.generation = r.u32("generation")?;
                let member = Member(r.u16("member")?);
                let (epoch, number) = (r.u64("epoch")?, r.u64("entry")?);
                let next = r.u64("record")?;
                state.head = Some((Header { member, epoch, number }, next, r.u64("time")?));
            }
            item::ERRAND => {
                let number = r.u64("errand")?;
                let message = state.message(r)?;
                let share = match r.flag("share group")? {
                    true => Some((r.text("share name")?.into(), r.text("share filter")?.into())),
                    false => None,
                };
                state.errands.push((number, Errand { message, share }));
            }
            item::SEEN => {
                for _ in 0..r.u32("numbers")? {
                    let source = r.lane_source()?;
                    let source = source.ok_or(RecordError::Unknown { what: "lane", value: 0 })?;
                    state.seen.push((source, r.u64("number")?, r.u32("part")?));
                }
            }
            item::MESSAGE => state.messages.push(r.message()?),
            item::SESSION => self.install_session(r, state, cx)?,
            item::SUBSCRIPTIONS => {
                let (key, _, slot) = state.session()?;
                let session = self.claims.at_mut(slot).and_then(|c| c.session.as_deref_mut());
                let session = session.ok_or(RecordError::Short("session"))?;
                for _ in 0..r.u32("subscriptions")? {
                    let text = r.text("filter")?;
                    let options = Options::of_bits(r.u8("options")?);
                    let id = r.u32("subscription identifier")?;
                    let filter = Filter::parse(text).map_err(|_| RecordError::Text("filter"))?;
                    let counters = cx.counters;
                    session.subscriptions.add(&filter, options, id, key, cx.index, counters);
                }
            }
            item::QUEUE => {
                for _ in 0..r.u32("queue")? {
                    let number = r.u64("number")?;
                    let delivery = self.install_delivery(r, state, cx)?;
                    state.queue(self)?.followed_message(number, delivery);
                }
            }
            item::RELEASED => {
                for _ in 0..r.u32("released")? {
                    let number = r.u64("number")?;
                    state.queue(self)?.followed_release(number);
                }
            }
            item::ASKED => {
                let (key, hash, _) = state.session()?;
                for _ in 0..r.u32("replays that wait")? {
                    let text = r.text("filter")?;
                    let options = Options::of_bits(r.u8("options")?);
                    let id = r.u32("subscription identifier")?;
                    let filter = Filter::parse(text).map_err(|_| RecordError::Text("filter"))?;
                    let replay = Replay::new(key, &filter, options, id, hash, cx.node);
                    let catchup = state.catchup.as_mut().ok_or(RecordError::Short("replays"))?;
                    catchup.1.push(replay);
                }
            }
            item::DEFERRED => {
                for _ in 0..r.u32("messages kept back")? {
                    let by_then = r.u64("replays by then")?;
                    let delivery = self.install_delivery(r, state, cx)?;
                    let catchup = state.catchup.as_mut().ok_or(RecordError::Short("replays"))?;
                    catchup.2.push((by_then, delivery));
                }
            }
            item::RETAINED => {
                for _ in 0..r.u32("retained messages")? {
                    retained.push(state.message(r)?);
                }
            }
            item::END => {
                let items = r.u64("items")?;
                let (header, next, time) = state.head.ok_or(RecordError::Short("head"))?;
                if items != state.items {
                    return Err(RecordError::Unknown { what: "the image's length", value: items });
                }
                self.outbox.restore(std::mem::take(&mut state.errands).into_iter());
                self.seen.restore(std::mem::take(&mut state.seen).into_iter());
                self.log.resume_after(next - 1);
                self.take(header, next);
                self.set_time(time);
            }
            value => {
                return Err(RecordError::Unknown { what: "item", value: value.into() });
            }
        }
        r.end()?;
        state.items += 1;
        Ok(kind == item::END)
    }

    fn install_session(
        &mut self,
        r: &mut Reader<'_>,
        state: &mut Installing,
        cx: &mut Context<'_>,
    ) -> Result<(), RecordError> {
        let client: Arc<str> = r.text("client id")?.into();
        let hash = cx.node.client_hash(&client);
        let mut session = Box::new(Session::new(r.u32("session")?));
        let generation = session.generation;
        let live = match r.flag("connected")? {
            true => Some(r.owner()?),
            false => None,
        };
        session.expiry = r.u32("session expiry")?;
        session.ends = r.time()?;
        session.window = r.u16("window")?;
        session.sequence = r.u64("messages")?;
        state.maybe_sent = r.u64("sent")?;
        if r.flag("will")? {
            session.armed = Some(Arc::new(r.will()?));
        }
        if r.flag("delayed will")? {
            session.will = Some((r.time()?, Arc::new(r.will()?)));
        }
        for _ in 0..r.u16("packet ids")? {
            session.hold_incoming(r.u16("packet id")?, true);
        }
        let catching = r.flag("replays")?;
        let begun = r.u64("replays")?;
        state.catchup = catching.then(|| (begun, Vec::new(), Vec::new()));
        let slot = self.claim_slot(&client, hash);
        let key = self.session_key(slot, generation);
        for due in [Some(session.ends), session.will.as_ref().map(|(due, _)| *due)] {
            if let Some(due) = due.filter(|&due| due != Millis::MAX && live.is_none()) {
                self.timers.insert((due, slot, generation));
            }
        }
        if live.is_none() {
            cx.counters.sessions_offline.add(1);
        }
        cx.node.totals.sessions.fetch_add(1, Relaxed);
        if let Some(sessions) = &mut self.sessions {
            sessions.insert(generation, slot);
        }
        if let Some(claim) = self.claims.at_mut(slot) {
            claim.live = live;
            claim.session = Some(session);
        }
        state.session = Some((key, hash, slot));
        Ok(())
    }

    /// All of a session was read.
    fn close_session(&mut self, state: &mut Installing, cx: &mut Context<'_>) {
        let Some((_, _, slot)) = state.session.take() else { return };
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let Some(session) = claim.session.as_deref_mut() else { return };
        if let Some(queue) = state.queue.take() {
            cx.counters.track(Default::default(), queue.load());
            session.outgoing = Some(queue);
        }
        if let Some((begun, asked, deferred)) = state.catchup.take() {
            session.catchup = Some(Box::new(Catchup::restored(begun, asked, deferred)));
        }
    }

    fn install_delivery(
        &self,
        r: &mut Reader<'_>,
        state: &Installing,
        cx: &Context<'_>,
    ) -> Result<Delivery, RecordError> {
        let (key, ..) = state.session()?;
        let message = state.message(r)?;
        self.read_delivery(r, key, message, cx)
    }
}

impl Installing {
    fn session(&self) -> Result<(SessionKey, u64, u32), RecordError> {
        self.session.ok_or(RecordError::Short("session"))
    }

    fn message(&self, r: &mut Reader<'_>) -> Result<Arc<Message>, RecordError> {
        let number = r.u32("message")?;
        let message = self.messages.get(number as usize).cloned();
        message.ok_or(RecordError::Unknown { what: "message", value: number.into() })
    }

    /// The queue of the session that is being read.
    fn queue(&mut self, partition: &Partition) -> Result<&mut Outgoing, RecordError> {
        let (_, _, slot) = self.session()?;
        let session = partition.claims.at(slot).and_then(|claim| claim.session.as_deref());
        let sequence = session.ok_or(RecordError::Short("session"))?.sequence;
        let maybe_sent = self.maybe_sent;
        let new = || Box::new(Outgoing::followed(sequence, maybe_sent));
        Ok(self.queue.get_or_insert_with(new))
    }
}

/// The length that an item begins with.
fn length(head: &[u8]) -> Result<usize, RecordError> {
    let head = head.first_chunk::<4>().ok_or(RecordError::Short("item"))?;
    let length = u32::from_le_bytes(*head) as usize;
    match length {
        0 | ITEM_BYTES_MAX.. => {
            Err(RecordError::Unknown { what: "the length of an item", value: length as u64 })
        }
        length => Ok(length),
    }
}
