//! A partition's whole state as records, and back.
//!
//! Written between two of its records: while the state waits for those that
//! are on their way, what is proposed is held back, for about as long as one
//! commit takes. Pieces of at most [`PIECE_BYTES`], each a list of items; the
//! last item says that it was the last. Messages of queues stay where they lie
//! in the log and are named by position; those that wait for nothing but a
//! moment (errands, what is kept back for a replay) are written out.
//!
//! The same state gives the same bytes: claims in the order of their session's
//! number, everything else in its own order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_codec::Filter;

use super::bytes::{Reader, RecordError, Writer};
use super::outbox::Errand;
use super::record::NOWHERE;
use super::{Context, Partition, Session};
use crate::catchup::Catchup;
use crate::delivery::Delivery;
use crate::ids::{Millis, Position, SessionKey, ShardId};
use crate::index::Options;
use crate::journal::{Journal, LIVE_BUCKET_BYTES, Written};
use crate::log::ReplicatedLog;
use crate::mail::{LaneSource, Replay};
use crate::message::Message;
use crate::node::Node;
use crate::outgoing::{Kept, Outgoing};

/// Bytes after which a piece ends.
const PIECE_BYTES: usize = 256 << 10;

mod item {
    pub(super) const HEAD: u8 = 1;
    pub(super) const SESSION: u8 = 2;
    pub(super) const RETAINED: u8 = 3;
    pub(super) const END: u8 = 4;
    /// Numbers of messages that came from other nodes.
    pub(super) const CROSSED: u8 = 5;
}

/// What came of a piece that was read back.
#[derive(Debug)]
pub(crate) struct Restored {
    /// Whether it was the last.
    pub(crate) ended: bool,
    pub(crate) retained: Vec<Arc<Message>>,
}

impl Partition {
    /// Holds back what is proposed until the state is written.
    pub(crate) fn freeze(&mut self) {
        self.frozen.get_or_insert_default();
    }

    /// Whether the state waits to be written, and can be.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.is_some() && !self.applying && !self.log.is_waiting()
    }

    /// Proposes what was held back.
    pub(crate) fn thaw(&mut self, cx: &mut Context<'_>) {
        for record in self.frozen.take().unwrap_or_default() {
            self.propose(record.at, record.change, cx);
        }
    }

    /// Writes the state; `retained` are the retained messages of its topics.
    pub(crate) fn write_state<'m>(
        &self,
        journal: &mut Journal,
        node: &Node,
        retained: impl Iterator<Item = &'m Arc<Message>>,
    ) {
        let index = self.log.next_index() - 1;
        let mut written = Written {
            partition: self.id.0,
            index,
            first: journal.next_in_batch(),
            ..Written::default()
        };
        let mut piece = Vec::new();
        let mut flush = |piece: &mut Vec<u8>, bytes: &mut u64, most: usize| {
            if piece.len() >= most {
                *bytes += piece.len() as u64;
                journal.append_state(self.id.0, index, piece);
                piece.clear();
            }
        };
        self.write_head(node, &mut piece);
        let mut sessions: Vec<(u32, u32)> = (0..self.claims.slots())
            .filter_map(|slot| {
                let session = self.claims.at(slot)?.session.as_deref()?;
                Some((session.generation, slot))
            })
            .collect();
        sessions.sort_unstable();
        for (_, slot) in sessions {
            self.write_session(slot, node, &mut piece, &mut written.live);
            flush(&mut piece, &mut written.bytes, PIECE_BYTES);
        }
        for message in retained {
            let mut w = Writer { out: &mut piece, epoch: node.epoch };
            w.u8(item::RETAINED);
            w.message(message);
            flush(&mut piece, &mut written.bytes, PIECE_BYTES);
        }
        piece.push(item::END);
        flush(&mut piece, &mut written.bytes, 0);
        journal.state_written(written);
    }

    fn write_head(&self, node: &Node, out: &mut Vec<u8>) {
        let mut w = Writer { out, epoch: node.epoch };
        w.u8(item::HEAD);
        w.u32(self.generation);
        w.u32(self.outbox.iter().count() as u32);
        for (number, errand) in self.outbox.iter() {
            w.u64(number);
            w.message(&errand.message);
            w.u8(errand.share.is_some().into());
            if let Some((name, filter)) = &errand.share {
                w.text(name);
                w.text(filter);
            }
        }
        let of = |(source, number, part)| match source {
            LaneSource::Partition(partition) => Some((partition, number, part)),
            LaneSource::Shard(_) => None,
        };
        w.u32(self.seen.numbers().filter_map(of).count() as u32);
        for (partition, number, part) in self.seen.numbers().filter_map(of) {
            w.u8(partition);
            w.u64(number);
            w.u32(part);
        }
        // Only nodes of a cluster have any, which are of this release at least.
        let of = |(source, number, part)| match source {
            LaneSource::Shard(shard) => Some((shard, number, part)),
            LaneSource::Partition(_) => None,
        };
        let shards = self.seen.numbers().filter_map(of).count();
        if shards > 0 {
            w.u8(item::CROSSED);
            w.u32(shards as u32);
            for (shard, number, part) in self.seen.numbers().filter_map(of) {
                w.u16(shard.0);
                w.u64(number);
                w.u32(part);
            }
        }
    }

    fn write_session(
        &self,
        slot: u32,
        node: &Node,
        out: &mut Vec<u8>,
        live: &mut BTreeMap<u64, u64>,
    ) {
        let Some(claim) = self.claims.at(slot) else { return };
        let Some(session) = claim.session.as_deref() else { return };
        let mut w = Writer { out, epoch: node.epoch };
        w.u8(item::SESSION);
        w.text(&claim.client);
        w.u32(session.generation);
        w.u8(claim.live.is_some().into());
        w.u32(session.expiry);
        w.time(session.ends);
        w.u16(session.window);
        w.u64(session.sequence);
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
        w.u32(session.subscriptions.len() as u32);
        session.subscriptions.each(|text, subscription| {
            w.text(text);
            w.u8(subscription.options.bits());
            w.u32(subscription.id);
        });
        let (mut kept, mut released, mut sent) = (Vec::new(), Vec::new(), 0);
        let mut shared = Vec::new();
        if let Some(outgoing) = &session.outgoing {
            kept = outgoing.all_kept();
            shared = outgoing.all_shared().collect();
            released = outgoing.all_released().collect();
            sent = outgoing.maybe_sent();
        }
        w.u64(sent);
        w.u32(kept.len() as u32);
        for Kept { sequence, position, qos, bytes } in kept {
            w.u64(sequence);
            w.u64(position.offset());
            w.u8(qos as u8);
            w.u64(bytes);
            *live.entry(position.offset() / LIVE_BUCKET_BYTES).or_default() += bytes;
        }
        // Another member may have to get them when the session ends.
        w.u32(shared.len() as u32);
        for (sequence, delivery) in shared {
            w.u64(sequence);
            write_held(&mut w, delivery, live);
        }
        w.u16(released.len() as u16);
        released.iter().for_each(|&sequence| w.u64(sequence));
        w.u8(session.catchup.is_some().into());
        if let Some(catchup) = &session.catchup {
            let (filters, deferred) = catchup.parts();
            w.u64(catchup.begun());
            w.u32(filters.len() as u32);
            for (filter, options, id) in filters {
                w.text(&filter);
                w.u8(options.bits());
                w.u32(id);
            }
            w.u32(deferred.len() as u32);
            for delivery in deferred {
                w.u64(catchup.begun_by(&delivery.message));
                write_held(&mut w, delivery, live);
            }
        }
    }

    /// Reads a piece back, in order, before any record.
    ///
    /// # Errors
    /// It is no piece that this version knows.
    pub(crate) fn restore(
        &mut self,
        index: u64,
        body: &[u8],
        cx: &mut Context<'_>,
    ) -> Result<Restored, RecordError> {
        self.sessions.get_or_insert_default();
        let mut r = Reader::new(body, cx.node.epoch);
        let mut restored = Restored { ended: false, retained: Vec::new() };
        while r.end().is_err() {
            match r.u8("item")? {
                item::HEAD => self.read_head(&mut r)?,
                item::CROSSED => {
                    let mut seen = Vec::new();
                    for _ in 0..r.u32("numbers")? {
                        let source = LaneSource::Shard(ShardId(r.u16("lane")?));
                        seen.push((source, r.u64("number")?, r.u32("part")?));
                    }
                    self.seen.restore(seen.into_iter());
                }
                item::SESSION => self.read_session(&mut r, cx)?,
                item::RETAINED => restored.retained.push(r.message()?),
                item::END => {
                    restored.ended = true;
                    self.log.resume_after(index);
                }
                value => {
                    return Err(RecordError::Unknown { what: "item", value: value.into() });
                }
            }
        }
        Ok(restored)
    }

    fn read_head(&mut self, r: &mut Reader<'_>) -> Result<(), RecordError> {
        self.generation = r.u32("generation")?;
        let mut errands = Vec::new();
        for _ in 0..r.u32("open errands")? {
            let number = r.u64("errand")?;
            let message = r.message()?;
            let share = match r.flag("share group")? {
                true => Some((r.text("share name")?.into(), r.text("share filter")?.into())),
                false => None,
            };
            errands.push((number, Errand { message, share }));
        }
        self.outbox.restore(errands.into_iter());
        let mut seen = Vec::new();
        for _ in 0..r.u32("numbers")? {
            let source = LaneSource::Partition(r.u8("lane")?);
            seen.push((source, r.u64("number")?, r.u32("part")?));
        }
        self.seen.restore(seen.into_iter());
        Ok(())
    }

    fn read_session(
        &mut self,
        r: &mut Reader<'_>,
        cx: &mut Context<'_>,
    ) -> Result<(), RecordError> {
        let client: Arc<str> = r.text("client id")?.into();
        let hash = cx.node.client_hash(&client);
        let slot = self.claim_slot(&client, hash);
        let mut session = Box::new(Session::new(r.u32("session")?));
        let generation = session.generation;
        let key = self.session_key(slot, generation);
        let live = r.flag("connected")?;
        session.expiry = r.u32("session expiry")?;
        session.ends = r.time()?;
        session.window = r.u16("window")?;
        session.sequence = r.u64("messages")?;
        if r.flag("will")? {
            session.armed = Some(Arc::new(r.will()?));
        }
        if r.flag("delayed will")? {
            session.will = Some((r.time()?, Arc::new(r.will()?)));
        }
        for _ in 0..r.u16("packet ids")? {
            session.hold_incoming(r.u16("packet id")?, true);
        }
        for _ in 0..r.u32("subscriptions")? {
            let text = r.text("filter")?;
            let options = Options::of_bits(r.u8("options")?);
            let id = r.u32("subscription identifier")?;
            let filter = Filter::parse(text).map_err(|_| RecordError::Text("filter"))?;
            session.subscriptions.add(&filter, options, id, key, cx.index, cx.counters);
        }
        let sent = r.u64("sent")?;
        let mut kept = Vec::new();
        for _ in 0..r.u32("queue")? {
            let sequence = r.u64("number")?;
            let position = r.position()?;
            let (qos, _) = r.flags()?;
            kept.push(Kept { sequence, position, qos, bytes: r.u64("bytes")? });
        }
        let mut shared = Vec::new();
        for _ in 0..r.u32("shared messages")? {
            let sequence = r.u64("number")?;
            shared.push((sequence, read_held(r, key, cx.node)?));
        }
        let mut released = Vec::new();
        for _ in 0..r.u16("released")? {
            released.push(r.u64("number")?);
        }
        if !kept.is_empty() || !shared.is_empty() || !released.is_empty() {
            let outgoing = Outgoing::restored(session.sequence, sent, kept, shared, released);
            cx.counters.track(Default::default(), outgoing.load());
            session.outgoing = Some(Box::new(outgoing));
        }
        if r.flag("replays")? {
            session.catchup = Some(Box::new(read_catchup(r, key, hash, cx.node)?));
        }
        for due in [Some(session.ends), session.will.as_ref().map(|(due, _)| *due)] {
            if let Some(due) = due.filter(|&due| due != Millis::MAX && !live) {
                self.timers.insert((due, slot, generation));
            }
        }
        if !live {
            cx.counters.sessions_offline.add(1);
            session.offline();
        }
        cx.node.totals.sessions.fetch_add(1, Relaxed);
        if let Some(sessions) = &mut self.sessions {
            sessions.insert(generation, slot);
        }
        if let Some(claim) = self.claims.at_mut(slot) {
            claim.live = live.then_some(NOWHERE);
            claim.session = Some(session);
        }
        Ok(())
    }
}

/// A delivery that is kept in memory, with its message.
fn write_held(w: &mut Writer<'_>, delivery: &Delivery, live: &mut BTreeMap<u64, u64>) {
    let position = delivery.position.map_or(0, |position| position.offset());
    w.u64(position);
    if position > 0 {
        let bytes = delivery.message.bytes() as u64;
        *live.entry(position / LIVE_BUCKET_BYTES).or_default() += bytes;
    }
    w.message(&delivery.message);
    w.delivery(delivery);
}

fn read_held(r: &mut Reader<'_>, owner: SessionKey, node: &Node) -> Result<Delivery, RecordError> {
    let position = Position::of(r.u64("position")?);
    let message = r.message()?;
    Ok(Delivery { position, ..r.delivery(node, owner, message)? })
}

fn read_catchup(
    r: &mut Reader<'_>,
    owner: SessionKey,
    client: u64,
    node: &Node,
) -> Result<Catchup, RecordError> {
    let begun = r.u64("replays")?;
    let mut replays = Vec::new();
    for _ in 0..r.u32("replays that wait")? {
        let text = r.text("filter")?;
        let options = Options::of_bits(r.u8("options")?);
        let id = r.u32("subscription identifier")?;
        let filter = Filter::parse(text).map_err(|_| RecordError::Text("filter"))?;
        replays.push(Replay::new(owner, &filter, options, id, client, node));
    }
    let mut deferred = Vec::new();
    for _ in 0..r.u32("messages kept back")? {
        let begun = r.u64("replays by then")?;
        deferred.push((begun, read_held(r, owner, node)?));
    }
    Ok(Catchup::restored(begun, replays, deferred))
}
