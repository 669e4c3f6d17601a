//! How connections end: wills, the durable half, the slot.

use std::sync::atomic::Ordering::Relaxed;

use tidegate_codec::{ReasonCode, Version, defect};

use super::connect::keep_alive_ticks;
use super::{FOR_CONNECT, FOR_PAUSE, GENERATION, Shard};
use crate::conn::{Phase, pause};
use crate::counters::{CloseReason, RejectReason};
use crate::ids::{Millis, SessionKey};
use crate::keepalive::tick_of;
use crate::subscriptions::Subscriptions;

impl Shard {
    /// The socket is gone, or the client broke the protocol while it waited.
    pub(super) fn lose(&mut self, now: Millis, slot: u32, reason: CloseReason) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        match conn.phase {
            Phase::Live => self.end(now, slot, reason, true),
            Phase::HalfOpen => {
                conn.phase = Phase::Closing;
                self.half_open_ends(reason);
                self.tell_close(slot);
            }
            Phase::Claiming => {
                conn.gone = true; // ends when the claim comes, or is known not to
                self.tell_close(slot);
                self.withdraw(slot);
            }
            Phase::Closing => self.tell_close(slot),
        }
    }

    /// Refuses a connection before it is one; what it is told is in its output.
    pub(super) fn reject(&mut self, now: Millis, slot: u32, reason: RejectReason) {
        let _ = now;
        let counters = self.counters();
        counters.connections_rejected[reason as usize].add(1);
        if reason == RejectReason::Auth {
            counters.auth[1].add(1);
        }
        let Some(conn) = self.conns.at_mut(slot) else { return };
        conn.phase = Phase::Closing;
        conn.will = None; // [MQTT-3.1.4-6]: a refused CONNECT leaves nothing
        let silent = conn.output.is_none();
        self.half_open_ends(CloseReason::Refused);
        if silent {
            self.tell_close(slot);
        }
    }

    fn half_open_ends(&self, reason: CloseReason) {
        let counters = self.counters();
        counters.half_open.sub(1);
        counters.connections_closed[reason as usize].add(1);
        self.node.totals.half_open.fetch_sub(1, Relaxed);
    }

    /// Ends a live connection. Its will goes out now if its session ends with
    /// it [MQTT-3.1.2-8], or travels with the claim to the durable half.
    pub(super) fn end(&mut self, now: Millis, slot: u32, reason: CloseReason, keep_will: bool) {
        let id = self.id;
        let Some(conn) = self.conns.at_mut(slot) else { return };
        if conn.phase != Phase::Live {
            return;
        }
        conn.phase = Phase::Closing;
        conn.pause = 0;
        let will = conn.will.take();
        let hash = conn.hash;
        let silent = conn.output.is_none() || conn.blocked;
        let active = conn.active.take();
        let subscriptions = std::mem::take(&mut conn.subscriptions);
        let generation = conn.generation;
        let me = conn.reference(id, slot);
        let durable = conn.session_durable;
        let expiry = conn.expiry;
        let node = std::sync::Arc::clone(&self.node);
        let counters = &node.counters[id.index()];
        counters.sessions_online.sub(1);
        counters.connections_closed[reason as usize].add(1);
        if will.is_some() && !keep_will {
            counters.wills[2].add(1);
        }
        let will = will.filter(|_| keep_will);
        let mut orphans = Vec::new();
        let mut replays = Vec::new();
        if let Some(mut active) = active {
            replays = std::mem::take(&mut active.paced);
            counters.inflight[0].sub(active.incoming.len() as u64);
            let before = active.outgoing.load();
            orphans = active.outgoing.end();
            counters.track(before, active.outgoing.load());
            let held = active.held.drain(..).filter(|held| !durable || held.packet_id == 0);
            orphans.extend(held.map(|held| held.delivery).filter(|d| d.ticket.is_some()));
        }
        if durable {
            self.give_back(slot, Some(expiry), will.is_some(), reason == CloseReason::Moved);
            for replay in replays {
                self.return_replay(me, replay);
            }
        } else {
            let key = SessionKey { shard: id, durable: false, slot, generation };
            if !matches!(subscriptions, Subscriptions::None) {
                let mut subscriptions = subscriptions;
                subscriptions.clear(key, Some(&node.index), counters);
            }
            if let Some(will) = will {
                counters.wills[0].add(1);
                let id = self.next_message();
                self.publish_message(now, will.message(hash, now, id));
            }
            self.give_back(slot, None, false, false);
        }
        self.redispatch(now, orphans);
        if silent {
            self.tell_close(slot);
        }
    }

    /// The slot is free again.
    pub(super) fn vacate(&mut self, slot: u32) {
        let Some(conn) = self.conns.remove(slot) else { return };
        if let Some(output) = conn.output {
            self.pool.put(output);
        }
        self.counters().connections.sub(1);
        self.node.totals.connections.fetch_sub(1, Relaxed);
    }

    /// A connection's slot of the wheel is due.
    pub(super) fn look_after(&mut self, now: Millis, slot: u32, generation: u32) {
        let connect_ticks = tick_of(Millis::from(self.node.settings.limits.connect_timeout_ms)) + 1;
        let Some(conn) = self.conns.at_mut(slot) else { return };
        if conn.generation != generation & GENERATION {
            return;
        }
        if generation & FOR_PAUSE != 0 && conn.phase == Phase::Claiming {
            self.claim_again(slot);
            return self.watch_claim(now, slot);
        }
        if generation & FOR_PAUSE != 0 {
            self.unpause(slot, pause::RATE);
            return self.unpause(slot, pause::DOOR);
        }
        if generation & FOR_CONNECT != 0 && conn.phase != Phase::HalfOpen {
            let me = conn.reference(self.id, slot);
            if conn.phase == Phase::Claiming && !self.node.is_alone() {
                // Nobody leads its partition, or nobody who does can say so.
                self.claim_refused(now, me, ReasonCode::ServerBusy);
            }
            return; // it has an entry of its own for the keep alive
        }
        let due = match conn.phase {
            Phase::HalfOpen => {
                // `seen` is the accept: bytes that are no packet do not count.
                if conn.seen + connect_ticks <= tick_of(now) {
                    return self.lose(now, slot, CloseReason::ConnectTimeout);
                }
                conn.seen + connect_ticks
            }
            Phase::Live if conn.keep_alive > 0 => {
                conn.rest();
                let due = conn.seen + keep_alive_ticks(conn.keep_alive);
                // A client that we do not read is not silent, unless that is
                // because it does not take what we say.
                if due <= tick_of(now)
                    && conn.pause & !pause::OUTPUT == 0
                    && !defect::on("5:3.1.2-22")
                {
                    if conn.version == Version::V5 {
                        self.say_disconnect(slot, ReasonCode::KeepAliveTimeout);
                    }
                    return self.end(now, slot, CloseReason::KeepAlive, true);
                }
                due.max(tick_of(now) + 1)
            }
            Phase::Live => {
                // No keep alive: nothing to watch.
                return conn.rest();
            }
            Phase::Claiming | Phase::Closing => return,
        };
        self.wheel.insert((slot, generation), due);
    }

    /// Ends up to `n` connections, clients of 5.0 being told why; who is not in
    /// yet is closed, or with `only_live` left alone.
    pub(super) fn end_some(
        &mut self,
        now: Millis,
        n: usize,
        why: ReasonCode,
        close: CloseReason,
        only_live: bool,
    ) {
        let mut left = n;
        let slots = self.conns.slots();
        for _ in 0..slots {
            if left == 0 {
                return;
            }
            let slot = self.drain_next % slots;
            self.drain_next = (slot + 1) % slots;
            let Some(conn) = self.conns.at(slot) else { continue };
            match conn.phase {
                Phase::Live => {
                    left -= 1;
                    if conn.version == Version::V5 {
                        self.say_disconnect(slot, why);
                    }
                    self.end(now, slot, close, true);
                }
                Phase::HalfOpen | Phase::Claiming if only_live => {}
                Phase::HalfOpen | Phase::Claiming => {
                    left -= 1;
                    self.lose(now, slot, close);
                }
                Phase::Closing => {}
            }
        }
    }
}
