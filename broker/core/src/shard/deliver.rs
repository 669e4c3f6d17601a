//! A message to one connection: at once, or when its window and socket allow.

use std::sync::Arc;

use tidegate_codec::{PacketType, PublishOut, QoS, ReasonCode, Version, defect};

use super::receive::qos_of;
use super::{Shard, has_room, output_of};
use crate::alias::Outgoing as Alias;
use crate::conn::{Conn, Held, Phase};
use crate::counters::{CloseReason, DropReason};
use crate::delivery::Delivery;
use crate::ids::{ConnRef, Millis};
use crate::index::Target;
use crate::limits::SPLICE_BYTES_MIN;
use crate::mail::Kind;
use crate::message::{Draft, expiry_left};
use crate::outgoing::{Acked, Next, Outcome, Queued, SubscriptionIds};

/// How one PUBLISH is to be sent.
#[derive(Clone, Copy)]
struct Flags {
    dup: bool,
    qos: QoS,
    retain: bool,
    packet_id: u16,
}

/// What became of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sent {
    Yes,
    /// Above the client's Maximum Packet Size [MQTT-3.1.2-25].
    TooLarge,
    Expired,
}

impl Shard {
    /// A live message to a session that lives on this shard.
    #[inline]
    pub(super) fn deliver_live(
        &mut self,
        now: Millis,
        target: &Target,
        ids: &[u32],
        draft: &mut Draft<'_>,
    ) {
        let slot = target.slot;
        let Some(conn) = self.conns.at_mut(slot) else { return };
        if conn.generation != target.generation || conn.phase != Phase::Live {
            return;
        }
        if target.options.no_local() && draft.origin == conn.hash && !defect::on("5:3.8.3-3") {
            return; // [MQTT-3.8.3-3]
        }
        let mut qos = draft.qos.min(qos_of(target.options.qos()));
        if defect::on("5:3.8.4-8") {
            qos = draft.qos;
        }
        let retain =
            draft.retain && (target.options.retain_as_published() || defect::on("5:3.3.1-12"));
        if let Some(active) = &mut conn.active
            && active.catchup.is_on()
        {
            let message = Arc::clone(draft.share());
            let ids = SubscriptionIds::from_slice(ids);
            let delivery = Delivery { message, qos, retain, ids, position: None, ticket: None };
            let dropped = active.catchup.defer(delivery, self.node.limits());
            return self.counters().dropped(DropReason::QueueFull, dropped);
        }
        let limits = self.node.limits();
        let most = limits.inflight_out_max;
        let room = has_room(conn, limits);
        let at_once = match qos {
            QoS::AtMostOnce => {
                room && conn.active.as_ref().is_none_or(|active| active.held.is_empty())
            }
            QoS::AtLeastOnce | QoS::ExactlyOnce => {
                room && match &conn.active {
                    Some(active) => active.outgoing.has_room(conn.window.min(most)),
                    None => conn.window > 0,
                }
            }
        };
        if !at_once {
            let message = Arc::clone(draft.share());
            let ids = SubscriptionIds::from_slice(ids);
            let delivery = Delivery { message, qos, retain, ids, position: None, ticket: None };
            return self.hold(now, slot, delivery);
        }
        let mut flags = Flags { dup: false, qos, retain, packet_id: 0 };
        if qos != QoS::AtMostOnce {
            flags.packet_id = conn.active().outgoing.begin(qos, None);
        }
        let sent = self.send_publish(now, slot, flags, ids, draft);
        let counters = &self.node.counters[self.id.index()];
        if sent == Sent::Yes {
            if qos != QoS::AtMostOnce {
                counters.inflight[1].add(1);
            }
            return;
        }
        if qos != QoS::AtMostOnce
            && let Some(conn) = self.conns.at_mut(slot)
        {
            conn.active().outgoing.undo();
        }
        self.count_unsent(sent);
    }

    /// A delivery of its own (shared, retained) to a session of this shard.
    pub(super) fn deliver_one(&mut self, now: Millis, slot: u32, delivery: Delivery) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        if delivery.qos == QoS::AtMostOnce {
            let at_once = has_room(conn, self.node.limits())
                && conn.active.as_ref().is_none_or(|active| active.held.is_empty());
            if at_once {
                let flags =
                    Flags { dup: false, qos: delivery.qos, retain: delivery.retain, packet_id: 0 };
                let ids = delivery.ids.clone();
                let mut draft = delivery.message.draft();
                let sent = self.send_publish(now, slot, flags, ids.as_slice(), &mut draft);
                return self.count_unsent(sent);
            }
            return self.hold(now, slot, delivery);
        }
        self.hold(now, slot, delivery);
        self.refill(now, slot);
    }

    /// Keeps a message that cannot leave now, within the limits.
    fn hold(&mut self, now: Millis, slot: u32, delivery: Delivery) {
        let limits = self.node.limits();
        let counters = &self.node.counters[self.id.index()];
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let window = conn.window;
        let active = conn.active();
        if delivery.qos == QoS::AtMostOnce {
            let bytes = delivery.message.bytes();
            if active.held.len() >= limits.queue_messages_max as usize
                || (active.held_bytes + bytes) as u64 > limits.queue_bytes_max
            {
                return counters.dropped(DropReason::SlowReader, 1);
            }
            active.held_bytes += bytes;
            active.held.push_back(Held { packet_id: 0, dup: false, delivery });
            return;
        }
        let before = active.outgoing.load();
        let at_once = active.outgoing.has_room(window.min(limits.inflight_out_max));
        let crowded = !at_once && self.node.is_crowded(self.id, now, 0);
        let squeezed = crowded.then(|| active.outgoing.squeezed(limits));
        let limits = squeezed.as_ref().unwrap_or(limits);
        if let Queued::Dropped(n) = active.outgoing.wait(delivery, limits, true) {
            let reason = match crowded {
                true => DropReason::QueueNodeFull,
                false => DropReason::QueueFull,
            };
            counters.dropped(reason, n);
        }
        counters.track(before, active.outgoing.load());
    }

    /// A durable half's message for its connection.
    pub(super) fn push(
        &mut self,
        now: Millis,
        at: ConnRef,
        packet_id: u16,
        dup: bool,
        delivery: Delivery,
    ) {
        let limits = self.node.limits();
        let counters = &self.node.counters[self.id.index()];
        let Some(conn) = self.conns.at_mut(at.slot) else { return };
        if conn.generation != at.generation || conn.phase != Phase::Live {
            return;
        }
        let waits = conn.active.as_ref().is_some_and(|active| !active.held.is_empty());
        if waits || !has_room(conn, self.node.limits()) {
            let active = conn.active();
            let bytes = delivery.message.bytes();
            // QoS 1 and 2 are bounded by the window.
            if packet_id == 0
                && (active.held.len() >= limits.queue_messages_max as usize
                    || (active.held_bytes + bytes) as u64 > limits.queue_bytes_max)
            {
                return counters.dropped(DropReason::SlowReader, 1);
            }
            active.held_bytes += bytes;
            active.held.push_back(Held { packet_id, dup, delivery });
            return;
        }
        self.push_now(now, at.slot, Held { packet_id, dup, delivery });
    }

    fn push_now(&mut self, now: Millis, slot: u32, held: Held) {
        let Held { packet_id, dup, delivery } = held;
        let flags = Flags { dup, qos: delivery.qos, retain: delivery.retain, packet_id };
        let ids = delivery.ids.clone();
        let sent =
            self.send_publish(now, slot, flags, ids.as_slice(), &mut delivery.message.draft());
        if sent == Sent::Yes {
            return;
        }
        self.count_unsent(sent);
        if packet_id != 0 {
            // The exchange counts as done [MQTT-3.1.2-25].
            let acked = match delivery.qos {
                QoS::AtMostOnce | QoS::AtLeastOnce => Acked::Puback,
                QoS::ExactlyOnce => Acked::PubrecRefused,
            };
            self.tell_durable(slot, packet_id, acked);
        }
    }

    /// An acknowledgement for the durable half.
    fn tell_durable(&mut self, slot: u32, packet_id: u16, acked: Acked) {
        let Some(conn) = self.conns.at(slot) else { return };
        let (partition, home) = self.home_of(conn.hash);
        let session = conn.session_key(self.id, home, slot);
        let conn = conn.reference(self.id, slot);
        self.send_home(partition, Kind::Acknowledge { session, conn, packet_id, acked });
        self.press_home(partition, conn);
    }

    /// Sends what waits for the socket or the window, as far as both allow.
    pub(super) fn refill(&mut self, now: Millis, slot: u32) {
        loop {
            let Some(conn) = self.conns.at_mut(slot) else { return };
            if conn.phase != Phase::Live || !has_room(conn, self.node.limits()) {
                return;
            }
            let window = conn.window.min(self.node.limits().inflight_out_max);
            let Some(active) = &mut conn.active else { return };
            if let Some(held) = active.held.pop_front() {
                active.held_bytes -= held.delivery.message.bytes();
                self.push_now(now, slot, held);
                continue;
            }
            let before = active.outgoing.load();
            let next = active.outgoing.next(window, false, now);
            let expired = active.outgoing.take_expired();
            let counters = &self.node.counters[self.id.index()];
            counters.track(before, active.outgoing.load());
            counters.dropped(DropReason::Expired, expired);
            let Some(next) = next else { break };
            match next {
                Next::Publish { packet_id, dup, delivery } => {
                    let flags =
                        Flags { dup, qos: delivery.qos, retain: delivery.retain, packet_id };
                    let ids = delivery.ids.clone();
                    let mut draft = delivery.message.draft();
                    let sent = self.send_publish(now, slot, flags, ids.as_slice(), &mut draft);
                    if sent != Sent::Yes {
                        self.count_unsent(sent);
                        self.forget_last(slot);
                    }
                }
                Next::Release { packet_id } => {
                    self.send_ack(slot, PacketType::Pubrel, packet_id, ReasonCode::Success);
                }
            }
        }
        self.resume_replays(now, slot);
    }

    fn forget_last(&mut self, slot: u32) {
        let counters = &self.node.counters[self.id.index()];
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let Some(active) = &mut conn.active else { return };
        let before = active.outgoing.load();
        active.outgoing.undo();
        counters.track(before, active.outgoing.load());
    }

    /// PUBACK, PUBREC or PUBCOMP from a client.
    pub(super) fn acknowledged(&mut self, now: Millis, slot: u32, packet_id: u16, acked: Acked) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        if conn.session_durable {
            return self.tell_durable(slot, packet_id, acked);
        }
        let outcome = match &mut conn.active {
            Some(active) => {
                let before = active.outgoing.load();
                let outcome = active.outgoing.acknowledge(packet_id, acked);
                let counters = &self.node.counters[self.id.index()];
                counters.track(before, active.outgoing.load());
                outcome
            }
            None => Outcome::Unknown,
        };
        match (outcome, acked) {
            (Outcome::Release, _) => self.owe_pubrel(slot, packet_id, true),
            (Outcome::Unknown, Acked::Pubrec) => self.owe_pubrel(slot, packet_id, false),
            (Outcome::Mismatch, _) => {
                return self.fail(now, slot, ReasonCode::ProtocolError);
            }
            (Outcome::Ended, _)
            | (Outcome::Unknown, Acked::Puback | Acked::PubrecRefused | Acked::Pubcomp) => {}
        }
        self.refill(now, slot);
    }

    /// Encodes one PUBLISH for one client.
    #[inline]
    fn send_publish(
        &mut self,
        now: Millis,
        slot: u32,
        flags: Flags,
        ids: &[u32],
        draft: &mut Draft<'_>,
    ) -> Sent {
        let counters = &self.node.counters[self.id.index()];
        let Some(conn) = self.conns.at_mut(slot) else { return Sent::Yes };
        let version = conn.version;
        let v5 = version == Version::V5;
        let mut packet = PublishOut {
            dup: flags.dup,
            qos: flags.qos,
            retain: flags.retain,
            topic: draft.topic,
            packet_id: flags.packet_id,
            topic_alias: None,
            message_expiry: None,
            subscription_ids: &[],
            forward: &[],
            payload_len: draft.payload.len(),
        };
        if draft.expires <= now && !flags.dup && !defect::on("5:3.3.2-5") {
            return Sent::Expired;
        }
        let mut new_alias = false;
        if v5 {
            packet.message_expiry = expiry_left(draft.expires, now).map(|left| left.max(1));
            if defect::on("5:3.3.2-6") {
                packet.message_expiry = packet.message_expiry.map(|left| left.saturating_add(1));
            }
            packet.subscription_ids = ids;
            packet.forward = draft.forward;
            if conn.alias_out_max > 0 {
                let max = conn.alias_out_max;
                match conn.active().aliases_out.look(draft.topic, max) {
                    Alias::Name => {}
                    Alias::Known(alias) => {
                        packet.topic = "";
                        packet.topic_alias = Some(alias);
                    }
                    Alias::New(alias) => {
                        new_alias = true;
                        packet.topic_alias = Some(alias);
                    }
                }
            }
            if conn.packet_bytes_max != u32::MAX
                && packet.len(version) > conn.packet_bytes_max as usize
            {
                if !new_alias {
                    return Sent::TooLarge;
                }
                // The alias itself may be what does not fit.
                new_alias = false;
                packet.topic_alias = None;
                if packet.len(version) > conn.packet_bytes_max as usize {
                    return Sent::TooLarge;
                }
            }
        }
        let splice = draft.payload.len() >= SPLICE_BYTES_MIN;
        let output = output_of(conn, slot, &mut self.pool, &mut self.dirty);
        packet.encode_head(version, output.buffer());
        match (&draft.shared, splice) {
            (Some(message), true) => output.splice(message.payload_shared()),
            (_, _) => output.buffer().extend_from_slice(draft.payload),
        }
        if output.len() > crate::limits::PRESSED_BYTES {
            self.pressed = true;
        }
        if new_alias {
            conn.active().aliases_out.set(draft.topic);
        }
        self.transit.count(flags.qos);
        counters.messages_delivered[flags.qos as usize].add(1);
        counters.message_bytes_sent.add(draft.payload.len() as u64);
        counters.packets_sent[PacketType::Publish as usize][conn.version_index()].add(1);
        Sent::Yes
    }

    fn count_unsent(&self, sent: Sent) {
        match sent {
            Sent::Yes => {}
            Sent::TooLarge => self.counters().dropped(DropReason::TooLarge, 1),
            Sent::Expired => self.counters().dropped(DropReason::Expired, 1),
        }
    }

    /// The client broke an exchange with its durable half.
    pub(super) fn mismatch(&mut self, now: Millis, at: ConnRef) {
        if self.conn(at).is_some() {
            if self.conns.at(at.slot).is_some_and(|c: &Conn| c.version == Version::V5) {
                self.say_disconnect(at.slot, ReasonCode::ProtocolError);
            }
            self.end(now, at.slot, CloseReason::ProtocolError, true);
        }
    }
}
