//! The whole state of a partition as one stream of bytes, for a replica: its
//! image. Format 2; of format 1 it is read.
//!
//! Unlike the state that a node writes for itself (see `snapshot`) it has the
//! messages of queues in it: the records that brought them, as they lie on the
//! disk, each once however many sessions wait for it, and read only while the
//! image is written out. What is in memory alone (errands, retained messages,
//! messages of share groups) is written as messages. A stream of items, each
//! with its length in front, cut into pieces wherever one is full. Replicas that have taken the same records give the same bytes:
//! sessions come in the order of their numbers, everything else in its own, and
//! what only a leader knows (what was sent, who waits) is left out.

use std::sync::Arc;

use hashbrown::HashMap;

use super::Partition;
use super::alone::Open;
use super::bytes::{RecordError, Writer};
use super::replica::Taken;
use crate::delivery::Delivery;
use crate::ids::{Millis, Position};
use crate::limits::IMAGE_PIECE_BYTES;
use crate::message::Message;
use crate::node::Node;
use crate::outgoing::{Kept, Outgoing};
use crate::stored::{self, RECORD_HEAD_BYTES};

pub(super) const VERSION: u8 = 2;
/// Stands for no record.
pub(super) const NO_RECORD: u32 = u32::MAX;
/// Entries of one item, so that none grows with a session.
const ENTRIES_MAX: usize = 256;
/// The most that an item may say it has: more than a message can be.
pub(super) const ITEM_BYTES_MAX: usize = 1 << 29;

pub(super) mod item {
    pub(in crate::partition) const HEAD: u8 = 1;
    pub(in crate::partition) const ERRAND: u8 = 2;
    pub(in crate::partition) const SEEN: u8 = 3;
    pub(in crate::partition) const MESSAGE: u8 = 4;
    pub(in crate::partition) const SESSION: u8 = 5;
    pub(in crate::partition) const SUBSCRIPTIONS: u8 = 6;
    pub(in crate::partition) const QUEUE: u8 = 7;
    pub(in crate::partition) const RELEASED: u8 = 8;
    pub(in crate::partition) const ASKED: u8 = 9;
    pub(in crate::partition) const DEFERRED: u8 = 10;
    pub(in crate::partition) const RETAINED: u8 = 11;
    pub(in crate::partition) const END: u8 = 12;
    /// A record that brought messages of queues, as it lies in the log.
    pub(in crate::partition) const RECORD: u8 = crate::stored::RECORD_ITEM;
    /// Messages of a queue that such records brought.
    pub(in crate::partition) const KEPT: u8 = 14;
}

/// The state of a partition as of a record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Image {
    /// The last record that is in it.
    pub index: u64,
    /// The bytes but for the records, to be joined; none is longer than
    /// [`IMAGE_PIECE_BYTES`].
    pub pieces: Vec<Vec<u8>>,
    /// Where in the first piece the records go.
    records_at: usize,
    /// Where the records lie that go there, in their order.
    pub records: Vec<u64>,
}

impl Image {
    /// Writes all of it out. `read` gives the body of the record at a place,
    /// `check` its checksum, `put` takes the next bytes. What comes back is where
    /// each record lies in the image, for [`Shard::saved`](crate::Shard::saved).
    ///
    /// # Errors
    /// That of `read` or `put`; or a record is longer than an item can be.
    pub fn write<B: AsRef<[u8]>, E: From<RecordError>>(
        &self,
        mut read: impl FnMut(u64) -> Result<B, E>,
        check: impl Fn(&[u8]) -> u32,
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Vec<u64>, E> {
        let (first, rest) = self.pieces.split_first().ok_or(RecordError::Short("image"))?;
        let split = first.split_at_checked(self.records_at);
        let (head, behind) = split.ok_or(RecordError::Short("head"))?;
        put(head)?;
        let mut at = head.len() as u64;
        let mut places = Vec::with_capacity(self.records.len());
        for &position in &self.records {
            let body = read(position)?;
            let body = body.as_ref();
            if body.len() >= ITEM_BYTES_MAX - RECORD_HEAD_BYTES {
                return Err(RecordError::Long(body.len()).into());
            }
            put(&stored::head(body, check(body))?)?;
            put(body)?;
            places.push(at);
            at += (RECORD_HEAD_BYTES + body.len()) as u64;
        }
        put(behind)?;
        rest.iter().try_for_each(|piece| put(piece))?;
        Ok(places)
    }
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
    /// Where the records lie that are in it, in their order.
    records: Vec<u64>,
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

    /// The number of a record.
    fn record(&self, position: Option<Position>) -> u32 {
        let position = position.map_or(0, Position::offset);
        let found = self.records.binary_search(&position);
        found.map_or(NO_RECORD, |number| number as u32)
    }

    fn kept(&mut self, all: &[Kept]) {
        for some in all.chunks(ENTRIES_MAX) {
            let numbers: Vec<u32> = some.iter().map(|k| self.record(Some(k.position))).collect();
            self.item(item::KEPT, |w| {
                w.u32(some.len() as u32);
                for (kept, record) in some.iter().zip(numbers) {
                    w.u64(kept.sequence);
                    w.u32(record);
                    w.u8(kept.qos as u8);
                    w.u64(kept.bytes);
                }
            });
        }
    }

    fn queue(&mut self, all: &[(u64, &Delivery)]) {
        for some in all.chunks(ENTRIES_MAX) {
            let numbers: Vec<u32> = some.iter().map(|(_, d)| self.message(&d.message)).collect();
            self.item(item::QUEUE, |w| {
                w.u32(some.len() as u32);
                for ((number, delivery), message) in some.iter().zip(numbers) {
                    w.u64(*number);
                    w.u32(message);
                    w.delivery(delivery);
                }
            });
        }
    }

    fn deferred(&mut self, all: &[(u64, &Delivery)]) {
        for some in all.chunks(ENTRIES_MAX) {
            let number =
                |d: &Delivery, own: &mut Painter| (own.message(&d.message), own.record(d.position));
            let numbers: Vec<_> = some.iter().map(|(_, d)| number(d, self)).collect();
            self.item(item::DEFERRED, |w| {
                w.u32(some.len() as u32);
                for ((by_then, delivery), (message, record)) in some.iter().zip(numbers) {
                    w.u64(*by_then);
                    w.u32(record);
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
    /// to be asked again. `generation` is the number of the image, if it is kept.
    pub(crate) fn image<'m>(
        &mut self,
        generation: u32,
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
        let image = self.paint(taken, node, retained, None);
        if let Some(replica) = &mut self.replica {
            replica.painted = Some((generation, image.records.clone()));
        }
        Some(image)
    }

    /// The state as of `taken`. `open`: of a node that is alone, the errands of
    /// all partitions that are not done.
    pub(super) fn paint<'m>(
        &self,
        taken: Taken,
        node: &Node,
        retained: impl Iterator<Item = &'m Arc<Message>>,
        open: Option<&Open<'_>>,
    ) -> Image {
        let mut painter = Painter {
            records: self.places(),
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
        let records_at = painter.pieces.first().map_or(0, Vec::len);
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
            open.is_none_or(|open| open.may_come_again(source, number, part))
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
            self.paint_session(slot, &mut painter);
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
        let items = painter.items + painter.records.len() as u64;
        painter.item(item::END, |w| w.u64(items));
        let Painter { pieces, records, .. } = painter;
        Image { index: taken.next - 1, pieces, records_at, records }
    }

    fn paint_session(&self, slot: u32, painter: &mut Painter) {
        let Some(claim) = self.claims.at(slot) else { return };
        let Some(session) = claim.session.as_deref() else { return };
        let outgoing = session.outgoing.as_deref();
        let kept = outgoing.map(Outgoing::all_kept).unwrap_or_default();
        let here = outgoing.map(Outgoing::owed_here).unwrap_or_default();
        let released: Vec<u64> = outgoing.map(|o| o.all_released().collect()).unwrap_or_default();
        let first = here.first().map_or(u64::MAX, |&(number, _)| number);
        let first = kept.first().map_or(first, |kept| kept.sequence.min(first));
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
        painter.kept(&kept);
        painter.queue(&here);
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
            painter.deferred(&deferred);
        }
    }
}
