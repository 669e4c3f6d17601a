//! The durable half of a session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_codec::{Filter, QoS, ReasonCode, RetainHandling};

use super::{Change, Context, Errand, Fetch, Partition, Recipient, Why};
use crate::catchup::Catchup;
use crate::counters::DropReason;
use crate::delivery::Delivery;
use crate::ids::{ConnRef, Millis, SessionKey};
use crate::index::Index;
use crate::limits::{FETCH_BYTES_MAX, FETCH_MAX, QueuePolicy, SUBSCRIBE_FILTERS_MIN};
use crate::mail::{ClaimRequest, Kind, Replay, SubscribeRequest, UnsubscribeRequest, Wanted};
use crate::message::Message;
use crate::outgoing::{Acked, Next, Outcome, Outgoing, Queued};
use crate::subscriptions::Subscriptions;
use crate::will::Will;

/// Subscriptions, queue, packet ids and will of a client that may be away.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) generation: u32,
    /// Seconds it outlives its connection; `u32::MAX`: for ever.
    pub(super) expiry: u32,
    /// When it ends; `Millis::MAX` while connected, and for ever.
    pub(super) ends: Millis,
    pub(super) window: u16,
    /// Messages that came for it; see [`Outgoing::sequence`].
    pub(super) sequence: u64,
    /// The will of the connection that speaks for it.
    pub(super) armed: Option<Arc<Will>>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) outgoing: Option<Box<Outgoing>>,
    /// QoS 2 packet ids that came in and are not released.
    // Boxed: a million sessions have none, and 8 bytes are less than 24.
    #[allow(clippy::box_collection)]
    pub(super) incoming: Option<Box<Vec<u16>>>,
    /// A will that waits for its delay.
    pub(super) will: Option<(Millis, Arc<Will>)>,
    pub(super) catchup: Option<Box<Catchup>>,
}

impl Session {
    pub(super) fn new(generation: u32) -> Session {
        Session {
            generation,
            expiry: 0,
            ends: Millis::MAX,
            window: 0,
            sequence: 0,
            armed: None,
            subscriptions: Subscriptions::None,
            outgoing: None,
            incoming: None,
            will: None,
            catchup: None,
        }
    }

    pub(super) fn incoming(&self) -> &[u16] {
        self.incoming.as_deref().map_or(&[], |ids| ids)
    }

    /// Notes that an id is held, or not any more; whether that is new.
    pub(super) fn hold_incoming(&mut self, packet_id: u16, held: bool) -> bool {
        let ids = self.incoming.get_or_insert_default();
        let new = match (ids.iter().position(|&id| id == packet_id), held) {
            (None, true) => {
                ids.push(packet_id);
                true
            }
            (Some(at), false) => {
                ids.remove(at);
                true
            }
            (None, false) | (Some(_), true) => false,
        };
        if ids.is_empty() {
            self.incoming = None;
        }
        new
    }

    /// A connection speaks for the session from now on.
    pub(super) fn connected(
        &mut self,
        request: &ClaimRequest,
        resumed: bool,
        cx: &mut Context<'_>,
    ) {
        self.expiry = request.expiry;
        self.window = request.window;
        self.ends = Millis::MAX;
        self.armed.clone_from(&request.will);
        if self.will.take().is_some() {
            cx.counters.wills[2].add(1);
        }
        if resumed {
            cx.counters.sessions_offline.sub(1);
        }
        if let Some(outgoing) = &mut self.outgoing {
            outgoing.reconnect();
        }
        self.set_online(true);
    }

    /// Takes its deadlines off the partition's timers: one that connects every
    /// second must not leave one behind each time that is due in a year.
    pub(super) fn stop_timers(&self, slot: u32, timers: &mut BTreeSet<(Millis, u32, u32)>) {
        timers.remove(&(self.ends, slot, self.generation));
        if let Some((due, _)) = &self.will {
            timers.remove(&(*due, slot, self.generation));
        }
    }

    /// Its connection has gone. Yields what may go to other members of share groups.
    pub(super) fn disconnected(&mut self, cx: &mut Context<'_>) -> Vec<Delivery> {
        self.ends = Millis::MAX;
        cx.counters.sessions_offline.add(1);
        self.set_online(false);
        if cx.node.settings.share_redispatch_on_disconnect
            && let Some(outgoing) = &mut self.outgoing
        {
            let before = outgoing.load();
            let orphans = outgoing.take_shared();
            cx.counters.track(before, outgoing.load());
            return orphans;
        }
        Vec::new()
    }

    /// Its members of share groups are away.
    pub(super) fn offline(&self) {
        self.set_online(false);
    }

    fn set_online(&self, online: bool) {
        self.subscriptions.each(|_, subscription| {
            if let Some(member) = &subscription.member {
                member.online.store(online, Relaxed);
            }
        });
    }
}

impl Partition {
    pub(super) fn send_will(
        &mut self,
        will: &Will,
        origin: u64,
        now: Millis,
        cx: &mut Context<'_>,
    ) {
        cx.counters.wills[0].add(1);
        let id = self.message_id(self.outbox.next());
        self.send_out(Errand { message: will.message(origin, now, id), share: None }, None, cx);
    }

    /// Messages of shared subscriptions whose member has left.
    pub(super) fn find_others(&mut self, orphans: Vec<Delivery>, cx: &mut Context<'_>) {
        for Delivery { message, ticket, .. } in orphans {
            if let Some(ticket) = ticket {
                let share = (ticket.group.name().into(), Arc::clone(ticket.group.filter()));
                self.send_out(Errand { message, share: Some(share) }, None, cx);
            }
        }
    }

    /// Of a message of this partition's own: far from what shards count.
    fn message_id(&self, number: u64) -> u64 {
        1 << 63 | u64::from(self.id.0) << 56 | (number & ((1 << 56) - 1))
    }

    /// Ends the session of a claim, if it has one: its will is due at the
    /// latest now [MQTT-3.1.3-9], its subscriptions and queue are gone.
    pub(super) fn end_session(&mut self, at: Millis, slot: u32, cx: &mut Context<'_>) {
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let Some(mut session) = claim.session.take() else { return };
        session.stop_timers(slot, &mut self.timers);
        let (live, hash) = (claim.live.is_some(), claim.hash);
        if let Some(sessions) = &mut self.sessions {
            sessions.remove(&session.generation);
        }
        if let Some((_, will)) = session.will.take() {
            self.send_will(&will, hash, at, cx);
        }
        let key = self.session_key(slot, session.generation);
        cx.node.full.set(self.id, slot, session.generation, false);
        session.subscriptions.clear(key, cx.index, cx.counters);
        if let Some(mut outgoing) = session.outgoing.take() {
            let before = outgoing.load();
            let orphans = match self.is_replicated() {
                true => outgoing.end_unsent(),
                false => outgoing.end(),
            };
            cx.counters.track(before, outgoing.load());
            self.find_others(orphans, cx);
        }
        if !live {
            cx.counters.sessions_offline.sub(1);
        }
        cx.node.totals.sessions.fetch_sub(1, Relaxed);
    }

    /// A will whose time came before its client did, though no timer has told yet.
    pub(super) fn send_overdue(&mut self, at: Millis, slot: u32, cx: &mut Context<'_>) {
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let hash = claim.hash;
        let Some(session) = claim.session.as_deref_mut() else { return };
        if session.will.as_ref().is_some_and(|(due, _)| *due <= at)
            && let Some((due, will)) = session.will.take()
        {
            self.timers.remove(&(due, slot, session.generation));
            self.send_will(&will, hash, at, cx);
        }
    }

    /// A timer: the will's delay has passed, or the session's time is over.
    pub(super) fn due(&mut self, at: Millis, slot: u32, generation: u32, cx: &mut Context<'_>) {
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let hash = claim.hash;
        let live = claim.live.is_some();
        let Some(session) = claim.session.as_deref_mut() else { return };
        if session.generation != generation || live {
            return;
        }
        if session.will.as_ref().is_some_and(|(due, _)| *due <= at)
            && let Some((_, will)) = session.will.take()
        {
            let ended = session.ends <= at;
            self.send_will(&will, hash, at, cx);
            if !ended {
                return;
            }
        } else if session.ends > at {
            return;
        }
        self.end_session(at, slot, cx);
        self.forget_if_empty(slot);
    }

    pub(super) fn subscribe(&mut self, request: SubscribeRequest, cx: &mut Context<'_>) {
        let SubscribeRequest { session: key, conn, packet_id, id, filters, barrier } = request;
        let Some((slot, session)) = self.session_mut(key) else { return };
        let (codes, replays) =
            session.subscriptions.subscribe(key, id, &filters, cx.node, cx.index, cx.counters);
        let ticket = |wanted: &Wanted| cx.node.index.ticket(key, &wanted.text);
        let ticket = if barrier { filters.iter().map(ticket).max().unwrap_or(0) } else { 0 };
        cx.send(conn.shard, Kind::Subscribed { conn, packet_id, codes, ticket });
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let client = claim.hash;
        let Some(session) = claim.session.as_deref_mut() else { return };
        for replay in replays {
            session.catchup.get_or_insert_default().add(Replay { client, ..replay });
        }
        self.resume_replays(slot, cx);
    }

    pub(super) fn unsubscribe(
        &mut self,
        at: Millis,
        request: UnsubscribeRequest,
        cx: &mut Context<'_>,
    ) {
        let UnsubscribeRequest { session: key, conn, packet_id, filters } = request;
        let Some((slot, _)) = self.session_mut(key) else { return };
        let codes = self.forget_filters(key, filters.iter().map(|text| &**text), cx);
        cx.send(conn.shard, Kind::Unsubscribed { conn, packet_id, codes });
        self.end_catchup(at, slot, cx);
    }

    /// Removes subscriptions, and what is on its way for them.
    pub(super) fn forget_filters<'f>(
        &mut self,
        key: SessionKey,
        filters: impl Iterator<Item = &'f str>,
        cx: &Context<'_>,
    ) -> Box<[ReasonCode]> {
        let Some((_, session)) = self.session_mut(key) else { return Box::default() };
        filters
            .map(|text| {
                if let Some(catchup) = &mut session.catchup {
                    catchup.forget(text);
                }
                session.subscriptions.unsubscribe(key, text, cx.index, cx.counters)
            })
            .collect()
    }

    /// A live message for one session of this partition.
    pub(super) fn enqueue(
        &mut self,
        at: Millis,
        to: Recipient,
        message: &Arc<Message>,
        cx: &mut Context<'_>,
    ) {
        let Recipient { slot, generation, options, ids } = to;
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let Some(session) = claim.session.as_deref_mut() else { return };
        if session.generation != generation || (options.no_local() && message.origin == claim.hash)
        {
            return; // [MQTT-3.8.3-3]
        }
        let delivery = Delivery {
            message: Arc::clone(message),
            qos: message.qos.min(QoS::try_from(options.qos()).unwrap_or_default()),
            retain: message.retain && options.retain_as_published(),
            ids,
            position: cx.position,
            ticket: None,
        };
        if cx.index.is_none() && delivery.qos == QoS::AtMostOnce {
            return; // its leader has sent it, or not
        }
        if claim.live.is_some()
            && let Some(catchup) = &mut session.catchup
        {
            if cx.index.is_none() || cx.replaying {
                return catchup.follow(delivery);
            }
            let mut gone = Vec::new();
            let limits = &cx.node.settings.limits;
            let dropped = catchup.defer_telling(delivery, limits, &mut gone);
            cx.counters.dropped(DropReason::QueueFull, dropped);
            return self.note_dropped(generation, true, &gone);
        }
        self.accept(at, slot, delivery, cx);
    }

    pub(super) fn enqueue_one(
        &mut self,
        at: Millis,
        key: SessionKey,
        mut delivery: Delivery,
        cx: &mut Context<'_>,
    ) {
        // One of a shared subscription stays in memory, and is written with the state.
        delivery.position = cx.position.filter(|_| delivery.ticket.is_none());
        match self.session_mut(key) {
            Some((slot, _)) => self.accept(at, slot, delivery, cx),
            // The member left while the message was on its way.
            None => self.find_others(vec![delivery], cx),
        }
    }

    fn accept(&mut self, at: Millis, slot: u32, delivery: Delivery, cx: &mut Context<'_>) {
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let live = claim.live.filter(|_| claim.session.is_some());
        if delivery.qos == QoS::AtMostOnce {
            // One that an earlier leader has granted may get what that one sent behind
            // what this one sends; see `pump_out`.
            match live.filter(|&conn| self.inherited(conn).is_none()) {
                Some(conn) => {
                    let kind = Kind::Push { conn, packet_id: 0, dup: false, delivery };
                    cx.send(conn.shard, kind);
                }
                // QoS 0 is not kept for a client that is away.
                None => cx.counters.dropped(DropReason::SessionOffline, 1),
            }
            return;
        }
        let Some(session) = claim.session.as_deref_mut() else { return };
        let sequence = session.sequence;
        let generation = session.generation;
        let outgoing = session.outgoing.get_or_insert_with(|| Box::new(Outgoing::after(sequence)));
        let before = outgoing.load();
        if cx.index.is_none() {
            outgoing.follow(delivery);
            session.sequence = outgoing.sequence();
            return cx.counters.track(before, outgoing.load());
        }
        if cx.replaying {
            outgoing.follow(delivery);
            session.sequence = outgoing.sequence();
            cx.counters.track(before, outgoing.load());
            return self.pump(at, slot, cx);
        }
        let warm = live.is_some();
        let at_once = warm && outgoing.has_room(session.window);
        let room = cx.node.queue_room(self.shard, at, outgoing, at_once);
        let mut gone = Vec::new();
        if let Queued::Dropped(n) = outgoing.wait_telling(delivery, &room.limits, warm, &mut gone) {
            cx.counters.dropped(room.reason, n);
        }
        session.sequence = outgoing.sequence();
        cx.counters.track(before, outgoing.load());
        self.note_dropped(generation, false, &gone);
        self.pump(at, slot, cx);
    }

    pub(super) fn acknowledge(
        &mut self,
        at: Millis,
        key: SessionKey,
        packet_id: u16,
        acked: Acked,
        cx: &mut Context<'_>,
    ) {
        let Some((slot, session)) = self.session_mut(key) else { return };
        let outcome = match &mut session.outgoing {
            Some(outgoing) => {
                let before = outgoing.load();
                let outcome = match cx.replaying {
                    true => outgoing.acknowledge_unsent(packet_id, acked),
                    false => outgoing.acknowledge(packet_id, acked),
                };
                cx.counters.track(before, outgoing.load());
                outcome
            }
            None => Outcome::Unknown,
        };
        let live = self.claims.at(slot).and_then(|claim| claim.live);
        if let Some(conn) = live {
            let owe = |reason| Kind::Owe { conn, packet_id, reason };
            match (outcome, acked) {
                (Outcome::Release, _) => cx.send(conn.shard, owe(ReasonCode::Success)),
                (Outcome::Unknown, Acked::Pubrec) => {
                    cx.send(conn.shard, owe(ReasonCode::PacketIdentifierNotFound));
                }
                (Outcome::Mismatch, _) => cx.send(conn.shard, Kind::Mismatch { conn }),
                (Outcome::Ended, _)
                | (Outcome::Unknown, Acked::Puback | Acked::PubrecRefused | Acked::Pubcomp) => {}
            }
        }
        self.pump(at, slot, cx);
    }

    pub(super) fn retained(
        &mut self,
        at: Millis,
        key: SessionKey,
        filter: &str,
        serial: u64,
        deliveries: Vec<Delivery>,
        cx: &mut Context<'_>,
    ) {
        // A record with more than one could not say by its position which.
        let position = cx.position.filter(|_| deliveries.len() == 1);
        for mut delivery in deliveries {
            delivery.position = position;
            let Some((slot, session)) = self.session_mut(key) else { return };
            if !session.subscriptions.holds(filter) {
                return; // [MQTT-3.10.4-2]
            }
            if session
                .catchup
                .as_ref()
                .is_some_and(|c| c.defers(&delivery.message, serial, delivery.qos))
            {
                continue;
            }
            self.accept(at, slot, delivery, cx);
        }
    }

    /// A batch of a replay has been delivered; goes on, or ends it.
    pub(crate) fn replay_on(
        &mut self,
        at: Millis,
        replay: Box<Replay>,
        more: bool,
        cx: &mut Context<'_>,
    ) {
        let replicated = self.is_replicated();
        let Some((slot, session)) = self.session_mut(replay.owner) else { return };
        let wanted = session.subscriptions.holds(&replay.filter);
        let Some(catchup) = &mut session.catchup else { return };
        catchup.back(replay, more && wanted, replicated);
        self.resume_replays(slot, cx);
        self.end_catchup(at, slot, cx);
    }

    /// A connection went and had this replay. While its end is not committed
    /// the replay must not be sent to it again.
    pub(crate) fn take_back(
        &mut self,
        at: Millis,
        conn: ConnRef,
        replay: Box<Replay>,
        cx: &mut Context<'_>,
    ) {
        let replicated = self.is_replicated();
        let Some((slot, session)) = self.session_mut(replay.owner) else { return };
        let wanted = session.subscriptions.holds(&replay.filter);
        let Some(catchup) = &mut session.catchup else { return };
        catchup.back(replay, wanted, replicated);
        if self.claims.at(slot).is_some_and(|claim| claim.live != Some(conn)) {
            self.resume_replays(slot, cx);
        }
        self.end_catchup(at, slot, cx);
    }

    /// Proposes the end of a catch-up whose last replay has ended.
    pub(super) fn end_catchup(&mut self, at: Millis, slot: u32, cx: &mut Context<'_>) {
        if cx.replaying {
            return; // its record follows
        }
        let session = self.claims.at_mut(slot).and_then(|claim| claim.session.as_deref_mut());
        let Some(session) = session else { return };
        let Some(begun) = session.catchup.as_mut().and_then(|catchup| catchup.end()) else {
            return;
        };
        let generation = session.generation;
        let session = self.session_key(slot, generation);
        self.propose(at, Change::CaughtUp { session, begun }, cx);
    }

    /// The last of so many replays has ended.
    pub(super) fn caught_up(
        &mut self,
        at: Millis,
        key: SessionKey,
        begun: u64,
        cx: &mut Context<'_>,
    ) {
        let Some((slot, session)) = self.session_mut(key) else { return };
        if session.catchup.as_ref().is_none_or(|catchup| catchup.begun() != begun) {
            return; // more have begun since
        }
        self.release_deferred(at, slot, cx);
        if let Some((_, session)) = self.session_mut(key) {
            session.catchup = None;
        }
    }

    /// Lets go what was kept back for replays.
    pub(super) fn release_deferred(&mut self, at: Millis, slot: u32, cx: &mut Context<'_>) {
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let Some(session) = claim.session.as_deref_mut() else { return };
        let Some(catchup) = &mut session.catchup else { return };
        for delivery in catchup.take_deferred() {
            self.accept(at, slot, delivery, cx);
        }
    }

    /// Sends what the window allows.
    pub(super) fn pump(&mut self, at: Millis, slot: u32, cx: &mut Context<'_>) {
        self.pump_out(at, slot, cx);
        self.note_room(slot, cx);
    }

    /// Says whether the queue of a session takes more, where that is for
    /// publishers to know.
    pub(super) fn note_room(&self, slot: u32, cx: &Context<'_>) {
        let limits = &cx.node.settings.limits;
        if limits.queue_policy != QueuePolicy::Refuse || cx.replaying || cx.index.is_none() {
            return;
        }
        let session = self.claims.at(slot).and_then(|claim| claim.session.as_deref());
        let Some(session) = session else { return };
        let queue = session.outgoing.as_deref();
        let (messages, bytes, _) = queue.map_or_else(Default::default, Outgoing::load);
        let full =
            messages >= limits.queue_messages_max as usize || bytes >= limits.queue_bytes_max;
        cx.node.full.set(self.id, slot, session.generation, full);
    }

    fn pump_out(&mut self, at: Millis, slot: u32, cx: &mut Context<'_>) {
        let (shard, id) = (self.shard, self.id);
        // Granted by an earlier leader: its node ends it when it hears of this one,
        // and may not have heard. What it is sent now would come twice, or out of
        // turn, to whoever takes the session then.
        let live = self.claims.at(slot).and_then(|claim| claim.live);
        if !cx.replaying && live.is_some_and(|conn| self.inherited(conn).is_some()) {
            return;
        }
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let Some(session) = claim.session.as_deref_mut() else { return };
        if cx.replaying {
            if session.outgoing.as_ref().is_some_and(|outgoing| outgoing.is_empty()) {
                session.outgoing = None;
            }
            return;
        }
        let Some(conn) = claim.live else { return };
        let (window, generation) = (session.window, session.generation);
        let mut gone = Vec::new();
        if let Some(outgoing) = &mut session.outgoing {
            let before = outgoing.load();
            while let Some(next) = outgoing.next_telling(window, true, at, &mut gone) {
                let kind = match next {
                    Next::Publish { packet_id, dup, delivery } => {
                        Kind::Push { conn, packet_id, dup, delivery }
                    }
                    Next::Release { packet_id } => {
                        Kind::Owe { conn, packet_id, reason: ReasonCode::Success }
                    }
                };
                cx.send(conn.shard, kind);
            }
            cx.counters.dropped(DropReason::Expired, outgoing.take_expired());
            cx.counters.track(before, outgoing.load());
            session.sequence = outgoing.sequence();
            let positions = outgoing.fetch(window, FETCH_MAX, FETCH_BYTES_MAX);
            if !positions.is_empty() {
                let slot = id.session_slot(slot);
                let session = SessionKey { shard, durable: true, slot, generation };
                let offsets = positions.iter().map(|position| position.offset()).collect();
                cx.fetches.push(Fetch { session, positions: offsets, why: Why::Send });
            }
            if outgoing.is_empty() {
                session.outgoing = None;
            }
        }
        // A start sees by itself what has expired.
        if !gone.is_empty() && self.is_replicated() {
            self.note_dropped(generation, false, &gone);
        }
        self.resume_replays(slot, cx);
    }

    /// Replays go on when nothing waits in front of them; the connection then
    /// asks for the next batch once its socket has room.
    fn resume_replays(&mut self, slot: u32, cx: &mut Context<'_>) {
        if cx.replaying {
            return; // they begin again with the next connection
        }
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let Some(conn): Option<ConnRef> = claim.live else { return };
        let Some(session) = claim.session.as_deref_mut() else { return };
        let waiting = session.outgoing.as_ref().map_or(0, |outgoing| outgoing.waiting());
        let Some(catchup) = &mut session.catchup else { return };
        if waiting <= cx.node.settings.limits.queue_messages_max as usize / 2 {
            while let Some(replay) = catchup.next(&cx.node.settings.limits) {
                cx.send(conn.shard, Kind::Pace { conn, replay });
            }
        }
    }
}

impl Subscriptions {
    /// Subscribes to all filters of a SUBSCRIBE; its codes, and the replays of
    /// retained messages that it asks for [MQTT-3.3.1-9] to [MQTT-3.3.1-11].
    pub(crate) fn subscribe(
        &mut self,
        key: SessionKey,
        id: u32,
        filters: &[Wanted],
        node: &crate::node::Node,
        index: Option<&Index>,
        counters: &crate::counters::Counters,
    ) -> (Box<[ReasonCode]>, Vec<Replay>) {
        let mut codes = Vec::with_capacity(filters.len());
        let mut replays = Vec::new();
        let subscriptions_max = node.settings.limits.subscriptions_max as usize;
        for (at, wanted) in filters.iter().enumerate() {
            let Ok(filter) = Filter::parse(&wanted.text) else {
                codes.push(ReasonCode::TopicFilterInvalid);
                continue;
            };
            let known = self.holds(&wanted.text);
            if wanted.code.is_error() {
                codes.push(wanted.code);
                continue;
            }
            // More filters than a session may have are not even looked at: the
            // same one 100,000 times is work for 100,000.
            if at >= subscriptions_max.max(SUBSCRIBE_FILTERS_MIN)
                || (!known && self.len() >= subscriptions_max)
            {
                codes.push(ReasonCode::QuotaExceeded);
                continue;
            }
            self.add(&filter, wanted.options, id, key, index, counters);
            codes.push(wanted.code);
            let replay = match wanted.retain_handling {
                RetainHandling::SendAlways => true,
                RetainHandling::SendIfNew => !known,
                RetainHandling::Never => false,
            };
            if replay && filter.share().is_none() && node.settings.retain_available {
                replays.push(Replay::new(key, &filter, wanted.options, id, 0, node));
            }
        }
        (codes.into(), replays)
    }

    /// Unsubscribes from one filter; its code.
    pub(crate) fn unsubscribe(
        &mut self,
        key: SessionKey,
        text: &str,
        index: Option<&Index>,
        counters: &crate::counters::Counters,
    ) -> ReasonCode {
        let Ok(filter) = Filter::parse(text) else { return ReasonCode::TopicFilterInvalid };
        if self.remove(&filter, key, index, counters) {
            ReasonCode::Success
        } else {
            ReasonCode::NoSubscriptionExisted
        }
    }
}
