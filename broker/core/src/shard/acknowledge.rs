//! Acknowledgements towards a publisher, in order, never too early.
//!
//! Upholds ACK-1 and ACK-2: an acknowledgement leaves when every durable
//! target has confirmed, and never in front of an earlier one.

use tidegate_codec::{PacketType, ReasonCode, Version, defect};

use super::Shard;
use crate::conn::{Phase, pause};
use crate::ids::{ConnRef, Millis, PartitionId};
use crate::mail::{Confirm, Kind};

impl Shard {
    /// PUBREL from a client: the packet id is free again.
    pub(super) fn pubrel(&mut self, slot: u32, version: Version, packet_id: u16) {
        let id = self.id;
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let hash = conn.hash;
        let incoming = conn.active.as_mut().map(|active| &mut active.incoming);
        let known = incoming.and_then(|incoming| {
            let at = incoming.iter().position(|&held| held == packet_id)?;
            Some(incoming.remove(at))
        });
        if known.is_none() {
            let reason = match version {
                Version::V5 => ReasonCode::PacketIdentifierNotFound,
                Version::V3_1 | Version::V3_1_1 => ReasonCode::Success,
            };
            return self.park_or_send(slot, PacketType::Pubcomp, packet_id, reason, 0);
        }
        let partition = PartitionId::of(hash);
        let home = self.node.home(partition).unwrap_or(id);
        let mut left = 0;
        let durable = conn.session_durable;
        let session = conn.session_key(id, home, slot);
        let token = conn
            .active
            .as_ref()
            .map_or(0, |active| active.parked_first.wrapping_add(active.parked.len() as u32));
        let me = conn.reference(id, slot);
        self.counters().inflight[0].sub(1);
        if durable {
            left = 1;
            let confirm = Some(Confirm { conn: me, token });
            let (held, message) = (false, None);
            let conn = me;
            let kind = Kind::Incoming { session, conn, packet_id, held, message, confirm };
            self.send_home(partition, kind);
            self.press_home(partition, me);
        }
        if !defect::on("5:4.3.3-11") {
            self.park_or_send(slot, PacketType::Pubcomp, packet_id, ReasonCode::Success, left);
        }
    }

    /// A durable target has what was promised.
    pub(super) fn confirmed(&mut self, now: Millis, confirm: Confirm) {
        if let Some(number) = confirm.crossing_number() {
            let before = self.crossing_done(number);
            return self.confirm(before);
        }
        if let Some(partition) = confirm.partition() {
            let at = self.local_number(partition);
            return self.with_partition(now, at, |partition, cx| {
                partition.confirmed(now, confirm.token, cx);
            });
        }
        let slot = confirm.conn.slot;
        let Some(conn) = self.conn(confirm.conn) else { return };
        if conn.phase != Phase::Live {
            return;
        }
        let Some(active) = &mut conn.active else { return };
        let at = confirm.token.wrapping_sub(active.parked_first) as usize;
        if let Some(parked) = active.parked.get_mut(at) {
            parked.left = parked.left.saturating_sub(1);
        }
        self.release_parked(slot);
    }

    /// A retained message found no place: its publisher is told, in 5.0, and a
    /// QoS 2 exchange ends with that [MQTT-4.3.3-9].
    pub(super) fn not_retained(&mut self, now: Millis, confirm: Confirm) {
        if let Some(number) = confirm.crossing_number() {
            // It came from this node: nothing to be retained goes on to a third.
            if let Some(before) = self.crossing_done(number) {
                self.not_retained(now, before);
            }
            return;
        }
        if confirm.partition().is_some() {
            return self.confirmed(now, confirm); // its publisher has its answer
        }
        let (id, slot) = (self.id, confirm.conn.slot);
        let Some(conn) = self.conn(confirm.conn) else { return };
        let v5 = conn.version == Version::V5;
        let (hash, durable) = (conn.hash, conn.session_durable);
        let (partition, home) = self.home_of(hash);
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let session = conn.session_key(id, home, slot);
        let me = conn.reference(id, slot);
        let Some(active) = &mut conn.active else { return };
        let at = confirm.token.wrapping_sub(active.parked_first) as usize;
        if v5 && let Some(parked) = active.parked.get_mut(at) {
            parked.reason = ReasonCode::QuotaExceeded;
            let packet_id = parked.packet_id;
            if parked.kind == PacketType::Pubrec {
                // Gone already if the client released it unasked.
                let known = active.incoming.len();
                active.incoming.retain(|&held| held != packet_id);
                let ended = known - active.incoming.len();
                self.counters().inflight[0].sub(ended as u64);
                if durable && ended > 0 {
                    let held = false;
                    let message = None;
                    let (conn, confirm) = (me, None);
                    let kind = Kind::Incoming { session, conn, packet_id, held, message, confirm };
                    self.send_home(partition, kind);
                }
            }
        }
        self.confirmed(now, confirm);
    }

    /// Sends the acknowledgements in front that wait for nothing.
    fn release_parked(&mut self, slot: u32) {
        loop {
            let Some(conn) = self.conns.at_mut(slot) else { return };
            let Some(active) = &mut conn.active else { return };
            if active.parked.front().is_none_or(|parked| parked.left > 0) {
                break;
            }
            let Some(parked) = active.parked.pop_front() else { break };
            active.parked_first = active.parked_first.wrapping_add(1);
            self.send_ack(slot, parked.kind, parked.packet_id, parked.reason);
        }
        self.unpause(slot, pause::PARKED);
    }

    /// A durable half owes its client a PUBREL.
    pub(super) fn owe(&mut self, at: ConnRef, packet_id: u16, reason: ReasonCode) {
        if let Some(conn) = self.conn(at)
            && conn.phase == Phase::Live
        {
            self.owe_pubrel(at.slot, packet_id, reason == ReasonCode::Success);
        }
    }

    /// PUBREL; for an id that we do not know with the reason in 5.0.
    pub(super) fn owe_pubrel(&mut self, slot: u32, packet_id: u16, known: bool) {
        let reason = match known {
            true => ReasonCode::Success,
            false => ReasonCode::PacketIdentifierNotFound,
        };
        self.send_ack(slot, PacketType::Pubrel, packet_id, reason);
    }
}
