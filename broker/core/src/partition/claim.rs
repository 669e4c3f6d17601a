//! Which connection speaks for a client id.
//!
//! Who waits for whom is this node's affair and not part of the state: a claim
//! is proposed when it is free, so that a record grants and never queues.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_codec::ReasonCode;

use super::{Change, Context, Partition, Released, Session};
use crate::ids::{ConnRef, Millis};
use crate::mail::{ClaimRef, ClaimRequest, Granted, Kind, ReleaseRequest};
use crate::node::Totals;

/// A client id that is connected, or has a session, or both.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) client: Arc<str>,
    pub(crate) hash: u64,
    /// Grows with every owner.
    pub(crate) generation: u32,
    /// The connection that speaks for it.
    pub(crate) live: Option<ConnRef>,
    pub(crate) session: Option<Box<Session>>,
    /// A grant is proposed, and not committed.
    granting: bool,
    /// Where the client was connected before the one that is being granted.
    taken_from: Option<ConnRef>,
    /// Waits for the present owner's end.
    pending: Option<Box<ClaimRequest>>,
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
            granting: false,
            taken_from: None,
            pending: None,
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
        request: Box<ClaimRequest>,
        cx: &mut Context<'_>,
    ) {
        let slot = self.claim_slot(&request.client, request.hash);
        let Some(claim) = self.claims.at_mut(slot) else { return };
        if claim.live.is_none() && !claim.granting {
            return self.propose_claim(at, slot, request, cx);
        }
        if let Some(owner) = claim.live {
            cx.send(owner.shard, Kind::Evict { conn: owner });
        }
        if let Some(older) = claim.pending.replace(request) {
            let reason = ReasonCode::ServerBusy;
            cx.send(older.conn.shard, Kind::Refused { conn: older.conn, reason });
        }
    }

    fn propose_claim(
        &mut self,
        at: Millis,
        slot: u32,
        mut request: Box<ClaimRequest>,
        cx: &mut Context<'_>,
    ) {
        let Some(claim) = self.claims.at_mut(slot) else { return };
        if request.expiry > 0 && claim.session.is_none() {
            let most = u64::from(cx.node.settings.limits.sessions_max);
            if !Totals::take(&cx.node.totals.sessions, most) {
                let reason = ReasonCode::QuotaExceeded;
                cx.send(request.conn.shard, Kind::Refused { conn: request.conn, reason });
                return self.forget_if_empty(slot);
            }
            request.counted = true;
        }
        claim.granting = true;
        self.propose(at, Change::Claim { slot, request }, cx);
    }

    /// The owner's connection has ended.
    pub(crate) fn request_release(
        &mut self,
        at: Millis,
        request: &ReleaseRequest,
        cx: &mut Context<'_>,
    ) {
        let ReleaseRequest { partition: _, claim: ClaimRef { slot, generation }, expiry, will } =
            *request;
        let Some(claim) = self.claims.at(slot).filter(|claim| claim.generation == generation)
        else {
            return;
        };
        let session = claim.session.as_deref();
        let released = Released {
            slot,
            generation,
            session: session.map(|session| session.generation),
            expiry,
            will: will && session.is_some_and(|session| session.armed.is_some()),
            next: claim.pending.as_ref().map(|next| next.clean_start),
        };
        self.propose(at, Change::Release(released), cx);
    }

    /// The owner's connection has ended [MQTT-3.1.2-23], [MQTT-3.14.4-3].
    pub(super) fn release(&mut self, at: Millis, released: Released, cx: &mut Context<'_>) {
        let Released { slot, generation, session: _, expiry, will, next } = released;
        let Some(claim) = self.claims.at_mut(slot) else { return };
        if claim.generation != generation {
            return;
        }
        let was = claim.live.take();
        claim.taken_from = was.filter(|_| claim.pending.is_some());
        self.leave_session(at, slot, expiry, will, next, false, cx);
        let Some(claim) = self.claims.at_mut(slot) else { return };
        match claim.pending.take() {
            Some(next) => self.propose_claim(at, slot, next, cx),
            None => self.forget_if_empty(slot),
        }
    }

    /// What the end of the connection does to the session.
    fn leave_session(
        &mut self,
        at: Millis,
        slot: u32,
        expiry: Option<u32>,
        will: bool,
        next: Option<bool>,
        crashed: bool,
        cx: &mut Context<'_>,
    ) {
        self.release_deferred(at, slot, cx);
        self.end_catchup(at, slot, cx);
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let hash = claim.hash;
        let Some(session) = claim.session.as_deref_mut() else { return };
        if let Some(expiry) = expiry {
            session.expiry = expiry;
        }
        let will = session.armed.take().filter(|_| will);
        let orphans = session.disconnected(cx);
        if let Some(outgoing) = &mut session.outgoing {
            let before = outgoing.load();
            // Of a connection of before the start it is not known what was sent.
            outgoing.park((cx.replaying || crashed).then_some(session.window));
            cx.counters.track(before, outgoing.load());
        }
        let expiry = session.expiry;
        let delay = will.as_ref().map_or(0, |will| will.delay);
        // The session ends here, or nothing holds the will back [MQTT-3.1.3-9].
        let now = expiry == 0 || next == Some(true) || delay == 0;
        let mut due = None;
        match will {
            Some(will) if now => due = Some(will),
            // The session goes on inside the delay: the will is dropped.
            Some(_) if next.is_some() => cx.counters.wills[2].add(1),
            Some(will) => {
                cx.counters.wills[1].add(1);
                let due = at + u64::from(delay.min(expiry)) * 1000;
                session.will = Some((due, will));
                self.timers.insert((due, slot, session.generation));
            }
            None => {}
        }
        if expiry != u32::MAX && expiry > 0 {
            session.ends = at + u64::from(expiry) * 1000;
            self.timers.insert((session.ends, slot, session.generation));
        }
        self.find_others(orphans, cx);
        if let Some(will) = due {
            self.send_will(&will, hash, at, cx);
        }
        if expiry == 0 {
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
        let expired = self
            .claims
            .at(slot)
            .and_then(|claim| claim.session.as_deref())
            .is_some_and(|session| session.ends <= at);
        if (request.clean_start && !tidegate_codec::defect::on("5:3.1.2-4")) || expired {
            self.end_session(at, slot, cx); // [MQTT-3.1.2-4]
        }
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let present = claim.session.is_some();
        if request.expiry > 0 && !present {
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
        claim.granting = false;
        claim.generation = claim.generation.wrapping_add(1);
        claim.live = Some(request.conn);
        let client = claim.generation;
        let taken_from = claim.taken_from.take();
        let mut session_generation = None;
        let mut incoming = Vec::new();
        if let Some(session) = claim.session.as_deref_mut() {
            session_generation = Some(session.generation);
            session.connected(&request, present, cx);
            incoming = session.incoming().to_vec();
        }
        let conn = request.conn;
        let granted = Granted {
            conn,
            claim: ClaimRef { slot, generation: client },
            session: session_generation.map(|generation| self.session_key(slot, generation)),
            present,
            incoming,
            taken_from: taken_from.map(|conn| conn.shard),
        };
        cx.send(conn.shard, Kind::Granted(Box::new(granted)));
        if self.claims.at(slot).is_some_and(|claim| claim.pending.is_some()) {
            cx.send(conn.shard, Kind::Evict { conn });
        }
        self.pump(at, slot, cx);
    }

    pub(super) fn forget_if_empty(&mut self, slot: u32) {
        let Some(claim) = self.claims.at(slot) else { return };
        if claim.live.is_some()
            || claim.granting
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
        for slot in 0..self.claims.slots() {
            let Some(claim) = self.claims.at_mut(slot) else { continue };
            if claim.live.take().is_some() {
                self.leave_session(at, slot, None, true, None, true, cx);
            }
            self.forget_if_empty(slot);
        }
    }
}
