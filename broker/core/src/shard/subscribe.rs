//! SUBSCRIBE and UNSUBSCRIBE.

use std::sync::Arc;

use tidegate_codec::{
    Filter, PacketType, ReasonCode, Subscribe, Unsubscribe, Version, defect, encode_suback,
    encode_unsuback,
};

use super::Shard;
use crate::conn::{Conn, NOBODY, Phase, pause};
use crate::ids::{ConnRef, Millis, PartitionId};
use crate::index::Options;
use crate::mail::{Kind, Replay, SubscribeRequest, UnsubscribeRequest, Wanted};
use crate::room::Room;

impl Shard {
    /// SUBSCRIBE: the filters are checked here, and kept by whoever owns the
    /// session. The SUBACK leaves when the change is visible to every publisher.
    pub(super) fn subscribe(
        &mut self,
        now: Millis,
        slot: u32,
        version: Version,
        packet: &Subscribe<'_>,
    ) {
        let node = Arc::clone(&self.node);
        let settings = &node.settings;
        if version == Version::V5
            && packet.subscription_id.is_some()
            && !settings.subscription_identifier_available
        {
            return self.fail(now, slot, ReasonCode::SubscriptionIdentifiersNotSupported);
        }
        let mut filters = Vec::with_capacity(packet.filters.len());
        for (text, options) in packet.filters {
            let Ok(filter) = Filter::parse(text) else { continue };
            let code = match self.check_filter(slot, &filter) {
                Ok(()) => granted(options.qos as u8, settings.qos_max),
                // What the node does not offer at all ends a 5.0 connection.
                Err(code) if version == Version::V5 && is_unsupported(code) => {
                    return self.fail(now, slot, code);
                }
                Err(code) => code,
            };
            filters.push(Wanted {
                text: text.into(),
                options: Options::new(
                    (options.qos as u8).min(settings.qos_max),
                    options.no_local,
                    options.retain_as_published,
                ),
                retain_handling: options.retain_handling,
                code,
            });
        }
        let id = packet.subscription_id.unwrap_or(0);
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let partition = PartitionId::of(conn.hash);
        let home = node.home(partition).unwrap_or(self.id);
        let session = conn.session_key(self.id, home, slot);
        let me = conn.reference(self.id, slot);
        if conn.session_durable {
            conn.pause |= pause::REPLY;
            let packet_id = packet.packet_id;
            let barrier = !conn.local_barrier;
            let request = SubscribeRequest { session, conn: me, packet_id, id, filters, barrier };
            return self.send_home(partition, Kind::Subscribe(Box::new(request)));
        }
        let client = conn.hash;
        let counters = &node.counters[self.id.index()];
        let index = Some(&node.index);
        let (codes, replays) =
            conn.subscriptions.subscribe(session, id, &filters, &node, index, counters);
        let replays = replays.into_iter().map(|replay| Replay { client, ..replay });
        let ticket = match conn.local_barrier {
            true => 0,
            false => filters.iter().map(|f| node.index.ticket(session, &f.text)).max().unwrap_or(0),
        };
        if !node.index.has_passed(ticket) {
            // Retained messages are asked for behind the SUBACK: what replaces one
            // before the other nodes know of the filter is not missed.
            conn.pause |= pause::REPLY;
            self.waiting.replays.insert(me, replays.collect());
            let packet_id = packet.packet_id;
            let kind = Kind::Subscribed { conn: me, packet_id, codes, ticket };
            return self.send_after(ticket, self.id, kind);
        }
        for replay in replays {
            conn.active().catchup.add(replay);
        }
        self.say_suback(slot, packet.packet_id, &codes);
        self.resume_replays(now, slot);
    }

    fn check_filter(&self, slot: u32, filter: &Filter<'_>) -> Result<(), ReasonCode> {
        let settings = &self.node.settings;
        let durable = self.conns.at(slot).is_some_and(|conn| conn.session_durable);
        if self.node.index.is_over() {
            return Err(ReasonCode::QuotaExceeded);
        }
        if durable && self.node.room() == Room::None {
            return Err(ReasonCode::QuotaExceeded);
        }
        if filter.share().is_some() && !settings.shared_subscription_available {
            return Err(ReasonCode::SharedSubscriptionsNotSupported);
        }
        if filter.is_wildcard() && !settings.wildcard_subscription_available {
            return Err(ReasonCode::WildcardSubscriptionsNotSupported);
        }
        if filter.levels() > usize::from(settings.limits.topic_levels_max) {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let who = self.conns.at(slot).map_or(NOBODY, Conn::who);
        self.node.access.subscribe(who, filter.filter())
    }

    /// UNSUBSCRIBE.
    pub(super) fn unsubscribe(&mut self, now: Millis, slot: u32, packet: &Unsubscribe<'_>) {
        let node = Arc::clone(&self.node);
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let partition = PartitionId::of(conn.hash);
        let home = node.home(partition).unwrap_or(self.id);
        let session = conn.session_key(self.id, home, slot);
        let me = conn.reference(self.id, slot);
        if conn.session_durable {
            conn.pause |= pause::REPLY;
            let filters = packet.filters.map(Into::into).collect();
            let packet_id = packet.packet_id;
            let request = UnsubscribeRequest { session, conn: me, packet_id, filters };
            return self.send_home(partition, Kind::Unsubscribe(Box::new(request)));
        }
        let counters = &node.counters[self.id.index()];
        let codes: Vec<ReasonCode> = packet
            .filters
            .map(|text| {
                if let Some(active) = &mut conn.active {
                    active.catchup.forget(text);
                }
                conn.subscriptions.unsubscribe(session, text, Some(&node.index), counters)
            })
            .collect();
        self.say_unsuback(slot, packet.packet_id, &codes);
        self.release_deferred(now, slot);
    }

    /// The durable half has subscribed.
    pub(super) fn subscribed(
        &mut self,
        now: Millis,
        at: ConnRef,
        packet_id: u16,
        codes: &[ReasonCode],
    ) {
        let replays = self.waiting.replays.remove(&at).unwrap_or_default();
        let Some(conn) = self.conn(at) else { return };
        if conn.phase == Phase::Live {
            for replay in replays {
                conn.active().catchup.add(replay);
            }
            self.say_suback(at.slot, packet_id, codes);
            self.unpause(at.slot, pause::REPLY);
            if !self.node.is_alone() {
                self.resume_replays(now, at.slot);
            }
        }
    }

    /// The durable half has unsubscribed.
    pub(super) fn unsubscribed(
        &mut self,
        now: Millis,
        at: ConnRef,
        packet_id: u16,
        codes: &[ReasonCode],
    ) {
        let Some(conn) = self.conn(at) else { return };
        if conn.phase == Phase::Live {
            self.say_unsuback(at.slot, packet_id, codes);
            self.unpause(at.slot, pause::REPLY);
            if !self.node.is_alone() {
                self.resume_replays(now, at.slot);
            }
        }
    }

    fn say_suback(&mut self, slot: u32, packet_id: u16, codes: &[ReasonCode]) {
        let Some(conn) = self.conns.at(slot) else { return };
        let version = conn.version;
        if defect::on("5:3.8.4-1") {
            return;
        }
        if let Some(output) = self.output(slot) {
            encode_suback(output.buffer(), version, packet_id, codes, None);
            self.sent(slot, PacketType::Suback);
        }
    }

    fn say_unsuback(&mut self, slot: u32, packet_id: u16, codes: &[ReasonCode]) {
        let Some(conn) = self.conns.at(slot) else { return };
        let version = conn.version;
        if defect::on("5:3.10.4-4") {
            return;
        }
        if let Some(output) = self.output(slot) {
            encode_unsuback(output.buffer(), version, packet_id, codes);
            self.sent(slot, PacketType::Unsuback);
        }
    }
}

/// What a good filter is granted [MQTT-3.9.3-2].
fn granted(qos: u8, qos_max: u8) -> ReasonCode {
    match qos.min(qos_max) {
        0 => ReasonCode::Success,
        1 => ReasonCode::GrantedQoS1,
        _two => ReasonCode::GrantedQoS2,
    }
}

fn is_unsupported(code: ReasonCode) -> bool {
    matches!(
        code,
        ReasonCode::SharedSubscriptionsNotSupported | ReasonCode::WildcardSubscriptionsNotSupported
    )
}
