//! An image that comes in: the state of a partition as another replica has
//! written it, or this one before. See `image` for the format.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_codec::{Filter, QoS};

use super::bytes::{Reader, RecordError};
use super::image::{ITEM_BYTES_MAX, NO_RECORD, VERSION, item};
use super::outbox::Errand;
use super::replica::Header;
use super::{Context, Partition, Session};
use crate::catchup::Catchup;
use crate::delivery::Delivery;
use crate::ids::{Member, Millis, Position, SessionKey};
use crate::index::Options;
use crate::mail::{LaneSource, Replay};
use crate::message::Message;
use crate::outgoing::{Kept, Outgoing};
use crate::stored::Stored;

/// Replays that run for a session: how many have begun, what is asked for, and
/// the live messages that are kept back.
type Chased = (u64, Vec<Replay>, Vec<(u64, Delivery)>);

/// An image that comes in.
#[derive(Debug, Default)]
pub(super) struct Installing {
    /// The beginning of an item.
    rest: VecDeque<u8>,
    items: u64,
    version: u8,
    /// The number of the image, and where the item begins that is next.
    generation: u32,
    at: u64,
    /// Where its records lie.
    records: Vec<Position>,
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
    /// has nothing. The image is kept under the number `generation`: messages of
    /// queues stay where they lie in it.
    ///
    /// # Errors
    /// It is no image that this version knows. The partition is to be reset.
    pub(crate) fn install(
        &mut self,
        generation: u32,
        mut bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<Installed, RecordError> {
        let mut done = Installed::default();
        let Some(replica) = &mut self.replica else { return Ok(done) };
        let mut state = replica.installing.take().unwrap_or_default();
        state.generation = generation;
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
                if !(1..=VERSION).contains(&version) {
                    let value = version.into();
                    return Err(RecordError::Unknown { what: "the image's format", value });
                }
                state.version = version;
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
            item::RECORD => {
                let Installing { generation, at, .. } = *state;
                let position = Stored::Image { generation, at }.position();
                let what = "place of a record";
                state.records.push(position.ok_or(RecordError::Unknown { what, value: at })?);
                r.rest(); // it is read when somebody wants its message
            }
            item::KEPT => {
                for _ in 0..r.u32("queue")? {
                    let sequence = r.u64("number")?;
                    let position = state.record(r)?;
                    let position = position.ok_or(RecordError::Short("record"))?;
                    let qos = r.u8("QoS")?;
                    let unknown = |_| RecordError::Unknown { what: "QoS", value: qos.into() };
                    let qos = QoS::try_from(qos).map_err(unknown)?;
                    let kept = Kept { sequence, position, qos, bytes: r.u64("bytes")? };
                    state.queue(self)?.followed_kept(kept);
                }
            }
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
                    let position = match state.version {
                        1 => None,
                        _ => state.record(r)?,
                    };
                    let delivery = self.install_delivery(r, state, cx)?;
                    let delivery = Delivery { position, ..delivery };
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
        state.at += 4 + item.len() as u64;
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

    fn record(&self, r: &mut Reader<'_>) -> Result<Option<Position>, RecordError> {
        let number = r.u32("record")?;
        match (number, self.records.get(number as usize)) {
            (NO_RECORD, _) => Ok(None),
            (_, Some(position)) => Ok(Some(*position)),
            (_, None) => Err(RecordError::Unknown { what: "record", value: number.into() }),
        }
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
