//! A PUBLISH from a client: checks, alias, QoS, then on to its subscribers.

use std::sync::Arc;

use tidegate_codec::{PacketType, Publish, QoS, ReasonCode, Version, defect, encode_ack};

use super::Shard;
use super::connect::is_too_deep;
use super::distribute::Source;
use crate::conn::{Conn, NOBODY, Order, Parked, pause};
use crate::counters::{CloseReason, DropReason};
use crate::ids::{ConnRef, Millis, PartitionId};
use crate::index::{RouteGroup, Target};
use crate::limits::QueuePolicy;
use crate::mail::{Confirm, Kind};
use crate::message::{Draft, Message, expires_at};
use crate::room::Room;

/// What stands against a PUBLISH.
enum Against {
    /// The connection ends with this reason.
    Fatal(ReasonCode),
    /// This message is refused, the connection goes on.
    Refused(ReasonCode),
}

impl Shard {
    /// PUBLISH.
    #[inline]
    pub(super) fn publish(
        &mut self,
        now: Millis,
        slot: u32,
        version: Version,
        packet: &Publish<'_>,
    ) {
        let aliased;
        let mut topic = packet.topic;
        if version == Version::V5
            && let Some(alias) = packet.properties.topic_alias
        {
            match self.resolve_alias(slot, alias, topic) {
                Ok(None) => {}
                Ok(Some(known)) => {
                    aliased = known;
                    topic = &aliased;
                }
                Err(reason) => return self.fail(now, slot, reason),
            }
        }
        let qos = packet.qos;
        let against = self.check_publish(slot, version, packet, topic).err();
        if let Some(Against::Fatal(reason)) = against {
            return self.fail(now, slot, reason);
        }
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let me = conn.reference(self.id, slot);
        let origin = conn.hash;
        let durable = conn.session_durable;
        let direct = packet.qos == QoS::AtMostOnce || conn.order == Order::Direct;

        // [MQTT-4.3.3-10]: a QoS 2 id that is not released is the same message.
        if qos == QoS::ExactlyOnce
            && conn.active.as_ref().is_some_and(|a| a.incoming.contains(&packet.packet_id))
            && !defect::on("5:4.3.3-10")
        {
            return self.answer_publish(slot, qos, packet.packet_id, ReasonCode::Success, 0);
        }
        if qos != QoS::AtMostOnce && !self.within_receive_maximum(slot, version) {
            return self.fail(now, slot, ReasonCode::ReceiveMaximumExceeded); // [MQTT-3.3.4-9]
        }
        if let Some(Against::Refused(reason)) = against {
            return self.refuse_publish(now, slot, version, packet, reason);
        }
        if qos != QoS::AtMostOnce {
            let reason = match self.node.room() {
                Room::Enough => self.overflows(now, slot, topic),
                Room::Low | Room::None => Some(DropReason::DiskFull),
            };
            if let Some(reason) = reason {
                return self.refuse_for_room(now, slot, version, packet, reason);
            }
        }
        let counters = self.counters();
        counters.messages_received[qos as usize].add(1);
        counters.message_bytes_received.add(packet.payload.len() as u64);

        let mut scratch = std::mem::take(&mut self.scratch);
        let forward = match packet.properties.forward.whole() {
            Some(whole) => whole,
            None => {
                scratch.clear();
                packet.properties.forward.copy_to(&mut scratch);
                &scratch[..]
            }
        };
        let mut draft = Draft {
            topic,
            forward,
            payload: packet.payload,
            qos,
            retain: packet.retain,
            origin,
            expires: expires_at(packet.properties.message_expiry, now),
            id: self.next_message(),
            shared: None,
        };
        // A QoS 2 PUBLISH of a session that is kept is committed with its packet
        // id, and routed then: else a crash in between would lose or repeat it.
        if durable && qos == QoS::ExactlyOnce && self.keeps() {
            let message = Arc::clone(draft.share());
            self.scratch = scratch;
            return self.take_in(now, slot, me, packet.packet_id, message);
        }
        self.transit.enter_local();
        let mut source = Source::client(me);
        if qos != QoS::AtMostOnce {
            source.confirm = Some(Confirm { conn: me, token: self.next_token(slot) });
        }
        match direct {
            true => self.distribute(now, &mut draft, &mut source),
            false => self.give_errand(now, &mut draft, &mut source),
        }
        self.scratch = scratch;

        if qos == QoS::ExactlyOnce
            && let Some(conn) = self.conns.at_mut(slot)
        {
            let partition = PartitionId::of(conn.hash);
            let home = self.node.home(partition).unwrap_or(self.id);
            let session = conn.session_key(self.id, home, slot);
            conn.active().incoming.push(packet.packet_id);
            self.counters().inflight[0].add(1);
            if durable && let Some(confirm) = source.confirm {
                source.confirms += 1;
                let packet_id = packet.packet_id;
                let (held, message, confirm) = (true, None, Some(confirm));
                let conn = me;
                let kind = Kind::Incoming { session, conn, packet_id, held, message, confirm };
                self.send_home(partition, kind);
                self.press_home(partition, me);
            }
        }
        if qos != QoS::AtMostOnce {
            let reason = match source.matched || !direct || version != Version::V5 {
                true => ReasonCode::Success,
                false => ReasonCode::NoMatchingSubscribers,
            };
            self.answer_publish(slot, qos, packet.packet_id, reason, source.confirms);
        }
    }

    /// A QoS 2 PUBLISH whose partition sees to its delivery.
    fn take_in(
        &mut self,
        now: Millis,
        slot: u32,
        me: ConnRef,
        packet_id: u16,
        message: Arc<Message>,
    ) {
        let token = self.next_token(slot);
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let v5 = conn.version == Version::V5;
        let partition = PartitionId::of(conn.hash);
        let home = self.node.home(partition).unwrap_or(self.id);
        let session = conn.session_key(self.id, home, slot);
        conn.active().incoming.push(packet_id);
        self.counters().inflight[0].add(1);
        let known = v5 && self.node.is_covered(now);
        let reason = match known && self.node.index.route(message.topic()).is_empty() {
            true => ReasonCode::NoMatchingSubscribers,
            false => ReasonCode::Success,
        };
        let (held, message, confirm) = (true, Some(message), Some(Confirm { conn: me, token }));
        let conn = me;
        let kind = Kind::Incoming { session, conn, packet_id, held, message, confirm };
        self.send_home(partition, kind);
        self.press_journal(home, me);
        self.press_partition(partition, me);
        self.press_home(partition, me);
        self.answer_publish(slot, QoS::ExactlyOnce, packet_id, reason, 1);
    }

    /// The topic behind an alias, `None` when the packet names it itself.
    fn resolve_alias(
        &mut self,
        slot: u32,
        alias: u16,
        topic: &str,
    ) -> Result<Option<Arc<str>>, ReasonCode> {
        if alias > self.node.settings.topic_alias_in_max && !defect::on("5:3.3.2-9") {
            return Err(ReasonCode::TopicAliasInvalid); // [MQTT-3.3.2-9]
        }
        let Some(conn) = self.conns.at_mut(slot) else { return Ok(None) };
        let aliases = &mut conn.active().aliases_in;
        if topic.is_empty() {
            return aliases.topic(alias).map(Some).ok_or(ReasonCode::ProtocolError);
        }
        aliases.set(alias, topic);
        Ok(None)
    }

    fn check_publish(
        &self,
        slot: u32,
        version: Version,
        packet: &Publish<'_>,
        topic: &str,
    ) -> Result<(), Against> {
        let settings = &self.node.settings;
        let v5 = version == Version::V5;
        if packet.qos as u8 > settings.qos_max && !defect::on("5:3.2.2-11") {
            return Err(Against::Fatal(ReasonCode::QoSNotSupported)); // [MQTT-3.2.2-11]
        }
        if packet.retain && !settings.retain_available {
            // Before 5.0 the flag is as good as not set.
            if v5 && !defect::on("5:3.2.2-14") {
                return Err(Against::Fatal(ReasonCode::RetainNotSupported)); // [MQTT-3.2.2-14]
            }
        }
        if is_too_deep(topic, settings.limits.topic_levels_max) {
            return Err(Against::Refused(ReasonCode::TopicNameInvalid));
        }
        let who = self.conns.at(slot).map_or(NOBODY, Conn::who);
        self.node.access.publish(who, topic).map_err(Against::Refused)?;
        if settings.payload_format_check
            && packet.properties.payload_is_utf8
            && std::str::from_utf8(packet.payload).is_err()
        {
            return Err(Against::Refused(ReasonCode::PayloadFormatInvalid));
        }
        Ok(())
    }

    /// Whether one more unacknowledged PUBLISH is within what we announced.
    fn within_receive_maximum(&mut self, slot: u32, version: Version) -> bool {
        let max = usize::from(self.node.settings.limits.inflight_in_max);
        let Some(conn) = self.conns.at_mut(slot) else { return false };
        let Some(active) = &conn.active else { return true };
        let max = max + usize::from(active.inherited);
        if active.incoming.len() + active.parked.len() < max {
            return true;
        }
        if version == Version::V5 {
            return active.incoming_unacknowledged() < max || defect::on("5:3.3.4-7");
        }
        // Before 5.0 nobody told the client: it is read again when there is room.
        if active.parked.len() >= max {
            conn.pause |= pause::PARKED;
        }
        active.incoming.len() < usize::from(u16::MAX)
    }

    /// A PUBLISH that is not accepted: acknowledged with the reason, or before
    /// 5.0 as if it were, or closed [MQTT-3.3.5-2].
    fn refuse_publish(
        &mut self,
        now: Millis,
        slot: u32,
        version: Version,
        packet: &Publish<'_>,
        reason: ReasonCode,
    ) {
        let dropped = match reason {
            ReasonCode::NotAuthorized => DropReason::Acl,
            _other => DropReason::Overload,
        };
        self.counters().dropped(dropped, 1);
        if version != Version::V5 && self.node.settings.refused_publish_closes {
            return self.end(now, slot, CloseReason::Auth, true);
        }
        if version != Version::V5
            && packet.qos == QoS::ExactlyOnce
            && let Some(conn) = self.conns.at_mut(slot)
        {
            // Acknowledged as if it were taken, so its PUBREL will come.
            conn.active().incoming.push(packet.packet_id);
            self.counters().inflight[0].add(1);
        }
        if packet.qos != QoS::AtMostOnce {
            self.answer_publish(slot, packet.qos, packet.packet_id, reason, 0);
        }
    }

    /// Whether a message of QoS 1 or 2 is refused because a durable session would
    /// have to keep it whose queue is full, or because those of the node are.
    #[inline]
    fn overflows(&mut self, now: Millis, slot: u32, topic: &str) -> Option<DropReason> {
        if self.node.settings.limits.queue_policy != QueuePolicy::Refuse {
            return None;
        }
        self.finds_full(now, slot, topic)
    }

    fn finds_full(&mut self, now: Millis, slot: u32, topic: &str) -> Option<DropReason> {
        let conn = self.conns.at(slot)?;
        let own = conn.session_durable.then_some(conn.session);
        let mut routes = self.routes.take()?;
        let route = routes.route(&self.node.index, topic);
        let member = self.id.member();
        let kept = |group: &&RouteGroup| group.durable && group.shard.member() == member;
        let mut groups = route.groups.iter().filter(kept);
        let full = groups.clone().any(|group| self.node.full.any_of(&group.targets, own));
        let wanted = |target: &Target| target.options.qos() > 0;
        let reason = if full {
            Some(DropReason::QueueRefused)
        } else if self.node.is_crowded(self.id, now, 0)
            && groups.any(|group| group.targets.iter().any(wanted))
        {
            Some(DropReason::QueueNodeFull)
        } else {
            None
        };
        self.routes = Some(routes);
        reason
    }

    /// A PUBLISH for which there is no room, on the disk or in a queue. Before
    /// 5.0 there is no way to say so: the connection is closed, and the client
    /// still has the message.
    fn refuse_for_room(
        &mut self,
        now: Millis,
        slot: u32,
        version: Version,
        packet: &Publish<'_>,
        reason: DropReason,
    ) {
        self.counters().dropped(reason, 1);
        match version {
            Version::V5 => {
                let reason = ReasonCode::QuotaExceeded;
                self.answer_publish(slot, packet.qos, packet.packet_id, reason, 0);
            }
            Version::V3_1 | Version::V3_1_1 => self.end(now, slot, CloseReason::Overload, true),
        }
    }

    /// PUBACK or PUBREC, at once or when all confirmations are there; always in
    /// the order of the PUBLISHes [MQTT-4.6.0-2], [MQTT-4.6.0-3].
    #[inline]
    fn answer_publish(
        &mut self,
        slot: u32,
        qos: QoS,
        packet_id: u16,
        reason: ReasonCode,
        left: u16,
    ) {
        let kind = match qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => PacketType::Puback,
            QoS::ExactlyOnce => PacketType::Pubrec,
        };
        self.park_or_send(slot, kind, packet_id, reason, left);
    }

    /// Appends an acknowledgement, behind those that wait.
    #[inline]
    pub(super) fn park_or_send(
        &mut self,
        slot: u32,
        kind: PacketType,
        packet_id: u16,
        reason: ReasonCode,
        left: u16,
    ) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let waits = conn.active.as_ref().is_some_and(|active| !active.parked.is_empty());
        if left > 0 || waits {
            conn.active().parked.push_back(Parked { kind, packet_id, reason, left });
            // More than the PUBLISHes and PUBRELs of a full window: a client that
            // releases what it does not yet know to be received, or nothing.
            let window = usize::from(self.node.settings.limits.inflight_in_max);
            if conn.active().parked.len() > 2 * window {
                conn.pause |= pause::PARKED;
            }
            return;
        }
        self.send_ack(slot, kind, packet_id, reason);
    }

    #[inline]
    pub(super) fn send_ack(
        &mut self,
        slot: u32,
        kind: PacketType,
        packet_id: u16,
        reason: ReasonCode,
    ) {
        let Some(conn) = self.conns.at(slot) else { return };
        let version = conn.version;
        if let Some(output) = self.output(slot) {
            encode_ack(output.buffer(), version, kind, packet_id, reason, None);
            self.sent(slot, kind);
        }
    }

    /// The token that the next parked acknowledgement will have.
    fn next_token(&self, slot: u32) -> u32 {
        self.conns
            .at(slot)
            .and_then(|conn| conn.active.as_ref())
            .map_or(0, |active| active.parked_first.wrapping_add(active.parked.len() as u32))
    }

    /// A will that is due, to its subscribers.
    pub(super) fn publish_message(&mut self, now: Millis, message: Arc<Message>) {
        let mut source = Source::will(self.id);
        self.distribute(now, &mut message.draft(), &mut source);
    }

    /// A message of the broker's own, retained.
    pub(super) fn publish_own(&mut self, now: Millis, topic: &str, payload: &[u8]) {
        let mut draft = Draft {
            topic,
            forward: &[],
            payload,
            qos: QoS::AtMostOnce,
            retain: true,
            origin: 0,
            expires: Millis::MAX,
            id: self.next_message(),
            shared: None,
        };
        self.distribute(now, &mut draft, &mut Source::own(self.id));
    }
}
