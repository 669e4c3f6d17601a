//! Which connection speaks for a client id.
//!
//! Who waits for whom is this node's affair and not part of the state: a claim
//! is proposed when it is free, so that a record grants and never queues.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_codec::ReasonCode;

use super::{Change, Context, Gone, Partition, Released, Session};
use crate::hole::{self, Hole};
use crate::ids::{ConnRef, Member, Millis, PartitionId, SessionKey};
use crate::limits::GRACE_MS;
use crate::mail::{ClaimRef, ClaimRequest, Granted, Kind, Reclaim, ReleaseRequest};
use crate::node::Totals;
use crate::room::Room;

/// What a resume writes at most, besides the client id and a will: its claim
/// and its end, framed.
const RESUME_BYTES: usize = 192;

/// A client id that is connected, or has a session, or both.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) client: Arc<str>,
    pub(crate) hash: u64,
    /// Another with every owner. In a cluster, of a session that is kept, it is the
    /// record that made it the owner, by its number in the log (31 bits of it), so
    /// that it grows whoever leads; else it has the bit [`UNLOGGED`].
    pub(crate) generation: u32,
    /// The connection that speaks for it.
    pub(crate) live: Option<ConnRef>,
    pub(crate) session: Option<Box<Session>>,
    /// A grant to this connection is proposed, and not committed.
    granting: Option<ConnRef>,
    /// So is the end of the present owner, and whether somebody waits is part of it.
    leaving: bool,
    /// Where the client was connected before the one that is being granted.
    taken_from: Option<ConnRef>,
    /// The newest CONNECT that asked for it, of this start; see `ClaimRequest::order`.
    newest: u64,
    /// Waits for the present owner's end.
    pending: Option<Box<ClaimRequest>>,
    /// The connection that it is granted next, or is about to be, is gone.
    withdrawn: Option<ConnRef>,
}

/// Marks a generation of a claim that is in no log.
const UNLOGGED: u32 = 1 << 31;

/// How an owner's connection has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// Its shard says so.
    Told,
    /// Its shard says so to another leader than the one that granted its claim.
    Unsure,
    /// With the node that was alone.
    Crashed,
    /// With its node or its partition's leader. The client has a moment to come
    /// back before that shows.
    Gone,
}

impl Partition {
    /// The slot of a client id, which is new if need be.
    pub(super) fn claim_slot(&mut self, client: &Arc<str>, hash: u64) -> u32 {
        let known = self
            .by_client
            .find(hash, |&slot| self.claims.at(slot).is_some_and(|claim| claim.client == *client));
        if let Some(&slot) = known {
            return slot;
        }
        let slot = self.claims.insert(Claim {
            client: Arc::clone(client),
            hash,
            generation: 0,
            live: None,
            session: None,
            granting: None,
            leaving: false,
            taken_from: None,
            newest: 0,
            pending: None,
            withdrawn: None,
        });
        let claims = &self.claims;
        self.by_client
            .insert_unique(hash, slot, |&slot| claims.at(slot).map_or(0, |claim| claim.hash));
        slot
    }

    /// CONNECT. The present owner, if there is one, is sent away first.
    pub(crate) fn request_claim(
        &mut self,
        at: Millis,
        mut request: Box<ClaimRequest>,
        cx: &mut Context<'_>,
    ) {
        if !self.leads() {
            return; // it is asked again
        }
        request.came = at;
        let slot = self.claim_slot(&request.client, request.hash);
        if !self.is_newest(slot, &request, cx) {
            let reason = ReasonCode::ServerBusy;
            cx.send(request.conn.shard, Kind::Refused { conn: request.conn, reason });
            return;
        }
        if !self.has_room_for(at, slot, &request, cx) {
            let reason = ReasonCode::QuotaExceeded;
            cx.send(request.conn.shard, Kind::Refused { conn: request.conn, reason });
            return self.forget_if_empty(slot);
        }
        let partition = self.id;
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let conn = request.conn;
        if claim.live.is_none() && claim.granting.is_none() {
            return self.propose_claim(at, slot, request, cx);
        }
        if claim.live == Some(conn) {
            return self.grant_again(slot, cx);
        }
        if let Some(conn) = claim.live {
            let claim = ClaimRef { slot, generation: claim.generation };
            cx.send(conn.shard, Kind::Evict { conn, partition, claim });
        }
        self.waiting.insert(conn, slot);
        if let Some(older) = claim.pending.replace(request)
            && older.conn != conn
        {
            self.waiting.remove(&older.conn);
            let reason = ReasonCode::ServerBusy;
            cx.send(older.conn.shard, Kind::Refused { conn: older.conn, reason });
        }
    }

    /// Whether no newer CONNECT has asked for the claim. One that came by another
    /// shard may be overtaken: a newer one must not give way to it, nor lose its
    /// session to it. Between nodes there is no such order.
    fn is_newest(&mut self, slot: u32, request: &ClaimRequest, cx: &Context<'_>) -> bool {
        let Some(claim) = self.claims.at_mut(slot) else { return true };
        if !cx.node.is_alone() || request.order >= claim.newest {
            claim.newest = request.order;
            return true;
        }
        false
    }

    /// Whether a claim may be written. With no room on the disk only who
    /// resumes a session may come, to fetch what waits for it.
    fn has_room_for(
        &self,
        at: Millis,
        slot: u32,
        request: &ClaimRequest,
        cx: &Context<'_>,
    ) -> bool {
        if cx.journal.is_none() || request.expiry == 0 || cx.node.room() != Room::None {
            return true;
        }
        let session = self.claims.at(slot).and_then(|claim| claim.session.as_deref());
        let resumes = !request.clean_start && session.is_some_and(|session| session.ends > at);
        let will = request.will.as_ref().map_or(0, |will| will.bytes());
        let bytes = RESUME_BYTES + request.client.len() + will;
        resumes && cx.node.take_resume_bytes(bytes as u64)
    }

    /// Whether a connection has a durable half: its session outlives it, or its
    /// will has to outlive its node.
    pub(super) fn is_kept(&self, request: &ClaimRequest) -> bool {
        request.expiry > 0 || (self.is_replicated() && request.will.is_some())
    }

    fn propose_claim(
        &mut self,
        at: Millis,
        slot: u32,
        mut request: Box<ClaimRequest>,
        cx: &mut Context<'_>,
    ) {
        let kept = self.is_kept(&request);
        let Some(claim) = self.claims.at_mut(slot) else { return };
        if kept && claim.session.is_none() {
            let most = u64::from(cx.node.settings.limits.sessions_max);
            if !Totals::take(&cx.node.totals.sessions, most) {
                let reason = ReasonCode::QuotaExceeded;
                cx.send(request.conn.shard, Kind::Refused { conn: request.conn, reason });
                return self.forget_if_empty(slot);
            }
            request.counted = true;
        }
        claim.granting = Some(request.conn);
        self.waiting.insert(request.conn, slot);
        // Of a record that took long to be durable `at` is an earlier time.
        let at = at.max(request.came);
        self.propose(at, Change::Claim { slot, request }, cx);
    }

    /// The owner's connection has ended.
    pub(crate) fn request_release(
        &mut self,
        at: Millis,
        request: &ReleaseRequest,
        cx: &mut Context<'_>,
    ) {
        let ReleaseRequest { partition: _, conn, claim, expiry, will, moved } = *request;
        let ClaimRef { slot, generation } = claim;
        // The number alone says it within the time of one leader.
        let is_owner = |claim: &&Claim| claim.generation == generation && claim.live == Some(conn);
        let slot = match self.claims.at(slot).filter(is_owner) {
            Some(_) => slot,
            // Another leader had it elsewhere.
            None => self.inherited(conn).unwrap_or(u32::MAX),
        };
        let is_owner = |claim: &&Claim| claim.live == Some(conn);
        let Some(claim) = self.claims.at_mut(slot).filter(|claim| is_owner(&&**claim)) else {
            self.withdraw(conn);
            return cx.release_noted(conn);
        };
        claim.leaving = true;
        let generation = claim.generation;
        let session = claim.session.as_deref();
        let mut released = Released {
            slot,
            generation,
            session: session.map(|session| session.generation),
            expiry,
            will: will && session.is_some_and(|session| session.armed.is_some()),
            next: claim.pending.as_ref().map(|next| next.clean_start),
            unsure: self.inherited(conn).is_some(),
        };
        if (moved || self.inherited(conn).is_some()) && released.will {
            // The connection was closed because of a leader or a link.
            match (released.next, released.session) {
                (None, Some(session)) => {
                    return self.propose(at, Change::Gone(Gone::Sessions(vec![session])), cx);
                }
                (Some(false), _) => released.will = false, // it is back
                (Some(true), _) | (None, None) => {}
            }
        }
        self.propose(at, Change::Release(released), cx);
    }

    /// Nobody is there any more who waited for the present owner's end: its session
    /// goes on, also if it was to end with that claim. A record that is on its way and
    /// tells of who waits is followed by none that grants, or by one that takes the
    /// grant back.
    fn withdraw(&mut self, conn: ConnRef) {
        let Some(slot) = self.waiting.get(&conn).copied() else { return };
        let Some(claim) = self.claims.at_mut(slot) else { return };
        if claim.leaving || claim.granting == Some(conn) {
            claim.withdrawn = Some(conn);
            return;
        }
        claim.pending.take_if(|pending| pending.conn == conn);
        self.waiting.remove(&conn);
        self.forget_if_empty(slot);
    }

    /// The claim is free: it is granted to who waits for it, if anybody does.
    fn grant_next(&mut self, at: Millis, slot: u32, cx: &mut Context<'_>) {
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let (next, withdrawn) = (claim.pending.take(), claim.withdrawn.take());
        if let Some(next) = &next {
            self.waiting.remove(&next.conn);
        }
        match next.filter(|next| withdrawn != Some(next.conn)) {
            Some(next) => self.propose_claim(at, slot, next, cx),
            None => self.forget_if_empty(slot),
        }
    }

    /// The claim was granted to a connection that was withdrawn meanwhile. A session
    /// that began with it is known to nobody, and ends.
    fn take_grant_back(&mut self, at: Millis, slot: u32, present: bool, cx: &mut Context<'_>) {
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let live = claim.live;
        claim.pending.take_if(|pending| Some(pending.conn) == live);
        claim.leaving = true;
        let released = Released {
            slot,
            generation: claim.generation,
            session: claim.session.as_deref().map(|session| session.generation),
            expiry: (!present).then_some(0),
            will: false,
            next: claim.pending.as_ref().map(|next| next.clean_start),
            unsure: false,
        };
        self.propose(at, Change::Release(released), cx);
    }

    /// The owner's connection has ended [MQTT-3.1.2-23], [MQTT-3.14.4-3].
    pub(super) fn release(&mut self, at: Millis, released: Released, cx: &mut Context<'_>) {
        let Released { slot, generation, session: _, expiry, will, next, unsure } = released;
        let Some(claim) = self.claims.at_mut(slot) else { return };
        if claim.generation != generation || claim.live.is_none() {
            return;
        }
        let was = claim.live.take();
        claim.leaving = false;
        if !self.reclaimed.is_empty() {
            self.reclaimed.remove(&slot);
        }
        claim.taken_from = was.filter(|_| claim.pending.is_some());
        if let Some(conn) = was {
            self.disinherit(conn);
            cx.release_noted(conn);
        }
        let ended = if unsure { Ended::Unsure } else { Ended::Told };
        self.leave_session(at, slot, expiry, will, next, ended, cx);
        self.grant_next(at, slot, cx);
    }

    /// What the end of the connection does to the session.
    fn leave_session(
        &mut self,
        at: Millis,
        slot: u32,
        expiry: Option<u32>,
        will: bool,
        next: Option<bool>,
        ended: Ended,
        cx: &mut Context<'_>,
    ) {
        let grace = if ended == Ended::Gone { GRACE_MS } else { 0 };
        let replicated = self.is_replicated();
        self.release_deferred(at, slot, cx);
        self.end_catchup(at, slot, cx);
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let hash = claim.hash;
        let Some(session) = claim.session.as_deref_mut() else { return };
        if let Some(expiry) = expiry {
            session.expiry = expiry;
        }
        let will = session.armed.take().filter(|_| will);
        if let Some(outgoing) = session.outgoing.as_mut().filter(|_| replicated) {
            let before = outgoing.load();
            match ended {
                Ended::Told => outgoing.unsend(Some(session.window)),
                Ended::Unsure | Ended::Crashed | Ended::Gone => outgoing.unsend(None),
            }
            cx.counters.track(before, outgoing.load());
        }
        let orphans = session.disconnected(cx);
        if let Some(outgoing) = session.outgoing.as_mut().filter(|_| !replicated) {
            let before = outgoing.load();
            // Of a connection of before the start it is not known what was sent.
            outgoing.park(cx.replaying || ended != Ended::Told);
            cx.counters.track(before, outgoing.load());
        }
        let expiry = session.expiry;
        let delay = will.as_ref().map_or(0, |will| will.delay);
        // The session ends here, or nothing holds the will back [MQTT-3.1.3-9].
        let now = grace == 0 && (expiry == 0 || next == Some(true) || delay == 0);
        let mut due = None;
        match will {
            Some(will) if now => due = Some(will),
            // The session goes on inside the delay: the will is dropped.
            Some(_) if next.is_some() => cx.counters.wills[2].add(1),
            Some(will) => {
                cx.counters.wills[1].add(1);
                let due = at + u64::from(delay.min(expiry)) * 1000 + grace;
                session.will = Some((due, will));
                self.timers.insert((due, slot, session.generation));
            }
            None => {}
        }
        if expiry != u32::MAX && (expiry > 0 || grace > 0) {
            session.ends = at + u64::from(expiry) * 1000 + grace;
            self.timers.insert((session.ends, slot, session.generation));
        }
        self.find_others(orphans, cx);
        if let Some(will) = due {
            self.send_will(&will, hash, at, cx);
        }
        if expiry == 0 && grace == 0 {
            self.end_session(at, slot, cx);
        }
    }

    /// The claim is this connection's.
    pub(super) fn grant(
        &mut self,
        at: Millis,
        slot: u32,
        request: ClaimRequest,
        cx: &mut Context<'_>,
    ) {
        let kept = self.is_kept(&request);
        let (replicated, record) = (self.is_replicated(), self.outbox.record());
        let session = self.claims.at_mut(slot).and_then(|claim| claim.session.as_deref_mut());
        let mut expired = session.as_ref().is_some_and(|session| session.ends <= at);
        if let Some(session) = session.filter(|session| session.expiry == 0 && session.ends > at) {
            // It has ended with its connection, by the fault of a node; the client
            // is back in time, and its will is not due.
            expired = true;
            if let Some((due, _)) = session.will.take() {
                self.timers.remove(&(due, slot, session.generation));
                cx.counters.wills[2].add(1);
            }
        }
        if (request.clean_start && !tidegate_codec::defect::on("5:3.1.2-4")) || expired {
            self.end_session(at, slot, cx); // [MQTT-3.1.2-4]
        }
        self.send_overdue(at, slot, cx);
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let present = claim.session.is_some();
        if kept && !present {
            if !request.counted {
                cx.node.totals.sessions.fetch_add(1, Relaxed);
            }
            self.generation = self.generation.wrapping_add(1);
            claim.session = Some(Box::new(Session::new(self.generation)));
            if let Some(sessions) = &mut self.sessions {
                sessions.insert(self.generation, slot);
            }
        } else if request.counted {
            cx.node.totals.sessions.fetch_sub(1, Relaxed);
        }
        if let Some(session) = claim.session.as_deref() {
            session.stop_timers(slot, &mut self.timers);
        }
        claim.granting = None;
        claim.generation = match (replicated, record) {
            (true, Some(record)) => record as u32 & !UNLOGGED,
            (true, None) => claim.generation.wrapping_add(1) | UNLOGGED,
            (false, _) => claim.generation.wrapping_add(1),
        };
        claim.live = Some(request.conn);
        let client = claim.generation;
        let taken_from = claim.taken_from.take();
        let mut session_generation = None;
        let mut incoming = Vec::new();
        if let Some(session) = claim.session.as_deref_mut() {
            session_generation = Some(session.generation);
            session.connected(&request, present, cx);
            incoming = session.incoming().to_vec();
            if hole::on(Hole::LocalQos2) {
                incoming.clear();
            }
        }
        let conn = request.conn;
        let withdrawn = claim.withdrawn.take_if(|withdrawn| *withdrawn == conn).is_some();
        self.waiting.remove(&conn);
        if withdrawn && self.leads() {
            return self.take_grant_back(at, slot, present, cx);
        }
        let partition = self.id;
        let claimed = ClaimRef { slot, generation: client };
        let granted = Granted {
            conn,
            partition,
            claim: claimed,
            session: session_generation.map(|generation| self.session_key(slot, generation)),
            present,
            again: false,
            incoming,
            taken_from: taken_from.map(|conn| conn.shard),
            behind: session_generation.is_some() && self.is_behind(request.hash),
        };
        cx.send(conn.shard, Kind::Granted(Box::new(granted)));
        if session_generation.is_none() && !self.leads() {
            // Of a session that ends with it: its end is in no record.
            if let Some(claim) = self.claims.at_mut(slot) {
                claim.live = None;
            }
            return self.forget_if_empty(slot);
        }
        if let Some(claim) = self.claims.at_mut(slot) {
            // The same one may have asked again meanwhile.
            if claim.pending.take_if(|pending| pending.conn == conn).is_some() {
                self.waiting.remove(&conn);
            } else if claim.pending.is_some() {
                cx.send(conn.shard, Kind::Evict { conn, partition, claim: claimed });
            }
        }
        self.pump(at, slot, cx);
        // That the last replay had ended may have been lost with a leader.
        self.end_catchup(at, slot, cx);
    }

    /// The owner asks again: the answer was lost with a link, or is on its way. If an
    /// earlier leader has granted it, the session is better resumed.
    fn grant_again(&mut self, slot: u32, cx: &mut Context<'_>) {
        let Some(claim) = self.claims.at(slot) else { return };
        let Some(conn) = claim.live else { return };
        let session = claim.session.as_deref();
        let granted = Granted {
            conn,
            partition: self.id,
            claim: ClaimRef { slot, generation: claim.generation },
            session: session.map(|session| self.session_key(slot, session.generation)),
            present: false,
            again: true,
            incoming: session.map_or(Vec::new(), |session| session.incoming().to_vec()),
            taken_from: None,
            behind: session.is_some() && self.is_behind(claim.hash),
        };
        let lost = session.is_some() && self.inherited(conn).is_some();
        cx.send(conn.shard, Kind::Granted(Box::new(granted)));
        if lost {
            cx.send(conn.shard, Kind::Lost { conn });
        }
    }

    /// A connection whose claim another leader has granted, of a session that
    /// ends with it: such claims are not in the log. Of two the younger stays,
    /// and any CONNECT that came to this leader is younger than both.
    pub(crate) fn request_reclaim(&mut self, at: Millis, request: Reclaim, cx: &mut Context<'_>) {
        let _ = at;
        if !self.leads() {
            return;
        }
        let Reclaim { conn, client, hash, since } = request;
        let slot = self.claim_slot(&client, hash);
        let partition = self.id;
        let younger = self.reclaimed.get(&slot).is_none_or(|&other| other < since);
        let reclaimed = self.reclaimed.contains_key(&slot);
        let Some(claim) = self.claims.at_mut(slot) else { return };
        if claim.live == Some(conn) {
            return self.grant_again(slot, cx);
        }
        let granting = claim.granting.is_some();
        let free = claim.live.is_none() && !granting && claim.session.is_none();
        let wins = free || (reclaimed && younger && !granting);
        if !wins || claim.pending.is_some() {
            return cx.send(conn.shard, Kind::Evict { conn, partition, claim: ClaimRef::NONE });
        }
        let before = ClaimRef { slot, generation: claim.generation };
        let other = claim.live.replace(conn);
        claim.generation = claim.generation.wrapping_add(1) | UNLOGGED;
        self.reclaimed.insert(slot, since);
        if let Some(conn) = other {
            cx.send(conn.shard, Kind::Evict { conn, partition, claim: before });
        }
        self.grant_again(slot, cx);
    }

    /// Whether this connection speaks for this session with this leader. One that
    /// an earlier leader has granted does not: what it acknowledges was sent by
    /// that one, and a PUBREC of what is not sent here would be answered as one of
    /// nothing, upon which its client takes the message for new when it comes again.
    pub(crate) fn speaks(&self, key: SessionKey, conn: ConnRef) -> bool {
        let (_, slot) = PartitionId::split(key.slot);
        self.inherited(conn).is_none()
            && self.claims.at(slot).is_some_and(|claim| {
                claim.live == Some(conn)
                    && claim.session.as_ref().is_some_and(|s| s.generation == key.generation)
            })
    }

    pub(super) fn forget_if_empty(&mut self, slot: u32) {
        let Some(claim) = self.claims.at(slot) else { return };
        if claim.live.is_some()
            || claim.granting.is_some()
            || claim.session.is_some()
            || claim.pending.is_some()
        {
            return;
        }
        if let Ok(entry) = self.by_client.find_entry(claim.hash, |&other| other == slot) {
            entry.remove();
        }
        self.claims.remove(slot);
    }

    /// No connection of before is left: what was live ended without a word.
    pub(super) fn restarted(&mut self, at: Millis, cx: &mut Context<'_>) {
        for slot in self.live_slots() {
            self.end_claim(at, slot, Ended::Crashed, cx);
        }
    }

    /// Nobody waits any more for a claim at an incarnation that is gone: it would
    /// be granted to a connection that is no more, for ever.
    pub(super) fn forget_waiting(&mut self, member: Member) {
        for slot in 0..self.claims.slots() {
            let Some(claim) = self.claims.at_mut(slot) else { continue };
            claim.pending.take_if(|pending| pending.conn.shard.member() == member);
        }
        self.waiting.retain(|conn, _| conn.shard.member() != member);
    }

    /// The owner's connection is no more, and nobody has said how it ended.
    pub(super) fn end_claim(&mut self, at: Millis, slot: u32, ended: Ended, cx: &mut Context<'_>) {
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let Some(conn) = claim.live.take() else { return };
        claim.leaving = false;
        self.reclaimed.remove(&slot);
        self.disinherit(conn);
        cx.release_noted(conn);
        self.leave_session(at, slot, None, true, None, ended, cx);
        // Who waited for an owner that is gone has it now.
        self.grant_next(at, slot, cx);
    }
}
