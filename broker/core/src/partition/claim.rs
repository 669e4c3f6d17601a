//! Which connection speaks for a client id.

use std::sync::Arc;

use tidegate_codec::ReasonCode;

use super::{Context, Partition, Session};
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
    /// Waits for the present owner's end.
    pending: Option<Box<ClaimRequest>>,
}

impl Partition {
    /// CONNECT. The present owner, if there is one, is sent away first.
    pub(super) fn claim(&mut self, at: Millis, request: Box<ClaimRequest>, cx: &mut Context<'_>) {
        let known = self.by_client.find(request.hash, |&slot| {
            self.claims.at(slot).is_some_and(|claim| claim.client == request.client)
        });
        let slot = match known {
            Some(&slot) => slot,
            None => {
                let slot = self.claims.insert(Claim {
                    client: Arc::clone(&request.client),
                    hash: request.hash,
                    generation: 0,
                    live: None,
                    session: None,
                    pending: None,
                });
                let claims = &self.claims;
                self.by_client.insert_unique(request.hash, slot, |&slot| {
                    claims.at(slot).map_or(0, |claim| claim.hash)
                });
                slot
            }
        };
        let Some(claim) = self.claims.at_mut(slot) else { return };
        match claim.live {
            None => self.grant(at, slot, *request, None, cx),
            Some(owner) => {
                cx.send(owner.shard, Kind::Evict { conn: owner });
                if let Some(older) = claim.pending.replace(request) {
                    let reason = ReasonCode::ServerBusy;
                    cx.send(older.conn.shard, Kind::Refused { conn: older.conn, reason });
                }
            }
        }
    }

    /// The owner's connection has ended [MQTT-3.1.2-23], [MQTT-3.14.4-3].
    pub(super) fn release(&mut self, at: Millis, request: ReleaseRequest, cx: &mut Context<'_>) {
        let ReleaseRequest { partition: _, claim: owner, expiry, will } = request;
        let slot = owner.slot;
        let Some(claim) = self.claims.at_mut(slot) else { return };
        if claim.generation != owner.generation {
            return;
        }
        let was = claim.live.take();
        self.release_deferred(at, slot, cx);
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let pending = claim.pending.take();
        let hash = claim.hash;
        if let Some(session) = claim.session.as_deref_mut() {
            if let Some(expiry) = expiry {
                session.expiry = expiry;
            }
            session.disconnected(cx);
            let expiry = session.expiry;
            let clean = pending.as_ref().is_some_and(|next| next.clean_start);
            let delay = will.as_ref().map_or(0, |will| will.delay);
            // The session ends here, or nothing holds the will back [MQTT-3.1.3-9].
            let now = expiry == 0 || clean || delay == 0;
            match will {
                Some(will) if now => cx.publish_will(&will, hash, at),
                // The session goes on inside the delay: the will is dropped.
                Some(_) if pending.is_some() => cx.counters.wills[2].add(1),
                Some(will) => {
                    cx.counters.wills[1].add(1);
                    let due = at + u64::from(delay.min(expiry)) * 1000;
                    session.will = Some((due, will));
                    self.timers.insert((due, slot, session.generation));
                }
                None => {}
            }
            if expiry == 0 {
                self.end_session(at, slot, cx);
            } else if expiry != u32::MAX
                && let Some(session) =
                    self.claims.at_mut(slot).and_then(|c| c.session.as_deref_mut())
            {
                session.ends = at + u64::from(expiry) * 1000;
                self.timers.insert((session.ends, slot, session.generation));
            }
        }
        match pending {
            Some(next) => self.grant(at, slot, *next, was, cx),
            None => self.forget_if_empty(slot),
        }
    }

    fn grant(
        &mut self,
        at: Millis,
        slot: u32,
        request: ClaimRequest,
        taken_from: Option<ConnRef>,
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
        let limits = &cx.node.settings.limits;
        let generation = self.generation.wrapping_add(1);
        let Some(claim) = self.claims.at_mut(slot) else { return };
        let present = claim.session.is_some();
        if request.expiry > 0 && !present {
            if !Totals::take(&cx.node.totals.sessions, u64::from(limits.sessions_max)) {
                let reason = ReasonCode::QuotaExceeded;
                cx.send(request.conn.shard, Kind::Refused { conn: request.conn, reason });
                self.forget_if_empty(slot);
                return;
            }
            self.generation = generation;
            claim.session = Some(Box::new(Session::new(generation)));
        }
        if let Some(session) = claim.session.as_deref() {
            session.stop_timers(slot, &mut self.timers);
        }
        claim.generation = claim.generation.wrapping_add(1);
        claim.live = Some(request.conn);
        let client = claim.generation;
        let mut session_generation = None;
        let mut incoming = Vec::new();
        if let Some(session) = claim.session.as_deref_mut() {
            session_generation = Some(session.generation);
            session.connected(&request, present, cx);
            incoming = session.incoming().to_vec();
        }
        let granted = Granted {
            conn: request.conn,
            claim: ClaimRef { slot, generation: client },
            session: session_generation.map(|generation| self.session_key(slot, generation)),
            present,
            incoming,
            taken_from: taken_from.map(|conn| conn.shard),
        };
        cx.send(request.conn.shard, Kind::Granted(Box::new(granted)));
        self.pump(at, slot, cx);
    }

    pub(super) fn forget_if_empty(&mut self, slot: u32) {
        let Some(claim) = self.claims.at(slot) else { return };
        if claim.live.is_some() || claim.session.is_some() || claim.pending.is_some() {
            return;
        }
        if let Ok(entry) = self.by_client.find_entry(claim.hash, |&other| other == slot) {
            entry.remove();
        }
        self.claims.remove(slot);
    }
}
