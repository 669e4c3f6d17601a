//! CONNECT, the claim on the client id, CONNACK.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tidegate_codec::{
    ConnackOut, Connect, ConnectAnswer, Frame, PacketType, ReasonCode, Version, decode_connect,
    defect, encode_connack,
};

use super::{Event, FOR_PAUSE, Opened, Shard, Verdict};
use crate::access::Who;
use crate::conn::{Conn, Order, Phase, pause};
use crate::counters::{CloseReason, RejectReason};
use crate::ids::{ConnRef, Millis, PartitionId, SessionKey};
use crate::keepalive::{TICK_MS, tick_of};
use crate::mail::{ClaimRef, Granted, ReleaseRequest};
use crate::pressure::Stage;
use crate::rate::Rate;
use crate::room::Room;
use crate::transit;
use crate::will::Will;

/// Bytes of a 5.0 CONNACK that refuses.
const REFUSAL_BYTES: u32 = 5;

/// A CONNECT that is refused: what the client is told.
struct Refusal {
    code: ReasonCode,
    reason: RejectReason,
}

impl Shard {
    /// The first packet: a CONNECT, or a bare close [MQTT-3.1.0-1].
    pub(super) fn first_packet(&mut self, now: Millis, slot: u32, frame: &Frame, bytes: &[u8]) {
        if frame.packet_type() != Some(PacketType::Connect) {
            return self.reject(now, slot, RejectReason::Protocol);
        }
        let connect = match decode_connect(frame, bytes) {
            Ok(connect) => connect,
            Err(refused) => {
                if refused.answer != ConnectAnswer::Close
                    && let Some(output) = self.output(slot)
                {
                    refused.answer.encode(output.buffer());
                }
                return self.reject(now, slot, RejectReason::Protocol);
            }
        };
        let Some(conn) = self.conns.at_mut(slot) else { return };
        conn.version = connect.version;
        conn.packet_bytes_max = connect.properties.maximum_packet_size.unwrap_or(u32::MAX);
        let (version, guarded) = (conn.version_index(), conn.guarded);
        if !std::mem::replace(&mut conn.greeted, true) {
            let accepted_at = conn.accepted_at();
            self.transit.reach(slot, accepted_at, transit::Stage::Connect, false);
            self.counters().packets_received[PacketType::Connect as usize][version].add(1);
        }
        match self.check_connect(slot, &connect) {
            Ok(()) if guarded => self.ask(slot),
            Ok(()) => match self.wait_of(now, slot, &connect) {
                Ok(None) => self.claim(now, slot, &connect),
                Ok(Some(due)) => self.delay(slot, due),
                Err(Refusal { code, reason }) => {
                    self.say_refused(slot, code);
                    self.reject(now, slot, reason);
                }
            },
            Err(Refusal { code, reason }) => {
                self.say_refused(slot, code);
                self.reject(now, slot, reason);
            }
        }
    }

    /// A CONNECT above the packet limit, or any first packet that is: a 5.0
    /// client, which has not been told the limit yet, is answered.
    pub(super) fn first_too_large(&mut self, now: Millis, slot: u32, bytes: &[u8]) {
        let name = bytes.iter().skip(1).position(|byte| byte & 0x80 == 0).map(|at| at + 2);
        let v5 = bytes.first() == Some(&0x10)
            && name.and_then(|at| bytes.get(at..at + 7)) == Some(b"\0\x04MQTT\x05");
        if v5 && let Some(output) = self.output(slot) {
            ConnectAnswer::V5(ReasonCode::PacketTooLarge).encode(output.buffer());
        }
        self.reject(now, slot, RejectReason::TooLarge);
    }

    /// When a client id that comes too often has its turn; none: now. One whose
    /// turn would come after the time to connect is refused.
    fn wait_of(
        &self,
        now: Millis,
        slot: u32,
        connect: &Connect<'_>,
    ) -> Result<Option<Millis>, Refusal> {
        let limits = &self.node.settings.limits;
        let per_minute = limits.client_connects_per_minute;
        if per_minute == 0 || connect.client_id.is_empty() {
            return Ok(None);
        }
        // A minute of the clock is a second of the rate.
        let rate = Rate { per_second: per_minute, burst: (per_minute / 6).max(3) };
        let hash = self.node.client_hash(connect.client_id);
        let Err(wait) = self.node.connects.take(hash, rate, now * 1_000 / 60) else {
            return Ok(None);
        };
        let due = now + wait * 60 / 1_000 + 1;
        let accepted = self.conns.at(slot).map_or(0, |conn| Millis::from(conn.seen) * TICK_MS);
        if due > accepted + Millis::from(limits.connect_timeout_ms) {
            let code = ReasonCode::ConnectionRateExceeded;
            return Err(Refusal { code, reason: RejectReason::Flapping });
        }
        Ok(Some(due))
    }

    /// Leaves a CONNECT where it is until its turn comes.
    fn delay(&mut self, slot: u32, due: Millis) {
        self.counters().connects_delayed.add(1);
        let Some(conn) = self.conns.at_mut(slot) else { return };
        conn.pause |= pause::DOOR;
        let watched = (slot, conn.generation | FOR_PAUSE);
        self.wheel.insert(watched, tick_of(due) + 1);
    }

    /// Leaves a CONNECT where it is until [`Shard::admit`].
    fn ask(&mut self, slot: u32) {
        if let Some(conn) = self.conns.at_mut(slot) {
            conn.pause |= pause::DOOR;
            let generation = conn.generation;
            self.events.push_back(Event::Authenticate(Opened { slot, generation }));
        }
    }

    /// The verdict on the CONNECT of an [`Event::Authenticate`]. One that comes
    /// too late, when the connection is gone, changes nothing.
    pub fn admit(&mut self, now: Millis, opened: Opened, verdict: Verdict) {
        let Opened { slot, generation } = opened;
        let waits = |conn: &&mut Conn| {
            conn.generation == generation
                && conn.phase == Phase::HalfOpen
                && conn.guarded
                && conn.pause & pause::DOOR != 0
        };
        let Some(conn) = self.conns.at_mut(slot).filter(waits) else { return };
        match verdict {
            Verdict::Admit { user } => {
                conn.guarded = false;
                conn.guest.get_or_insert_default().user = user;
                self.unpause(slot, pause::DOOR);
            }
            Verdict::Refuse { code, reason } => {
                self.say_refused(slot, code);
                self.reject(now, slot, reason);
            }
        }
    }

    fn check_connect(&self, slot: u32, connect: &Connect<'_>) -> Result<(), Refusal> {
        let settings = &self.node.settings;
        let refuse = |code, reason| Err(Refusal { code, reason });
        if self.node.pressure() >= Stage::Refuse {
            return refuse(ReasonCode::QuotaExceeded, RejectReason::Memory);
        }
        // Whether a session is there to be resumed is known to its partition.
        let resumes = !connect.clean_start && self.node.may_resume();
        if self.node.room() == Room::None && expiry_of(connect) > 0 && !resumes {
            return refuse(ReasonCode::QuotaExceeded, RejectReason::DiskFull);
        }
        if let Some(away) = &self.away {
            return refuse(away.reason(), RejectReason::Draining);
        }
        if self.draining || self.isolated {
            return refuse(ReasonCode::ServerUnavailable, RejectReason::Draining);
        }
        if connect.properties.authentication_method.is_some() {
            return refuse(ReasonCode::BadAuthenticationMethod, RejectReason::Auth);
        }
        let id = connect.client_id;
        let must_have_id = match connect.version {
            Version::V3_1 => true,
            Version::V3_1_1 => !connect.clean_start, // [MQTT-3.1.3-8] of 3.1.1
            Version::V5 => false,
        };
        if (id.is_empty() && must_have_id && !defect::on("3:3.1.3-8"))
            || id.len() > usize::from(settings.limits.client_id_bytes_max)
        {
            return refuse(ReasonCode::ClientIdentifierNotValid, RejectReason::Identifier);
        }
        let longest = settings.keep_alive_max_seconds;
        let above = longest > 0 && (connect.keep_alive == 0 || connect.keep_alive > longest);
        if above && settings.keep_alive_strict && connect.version != Version::V5 {
            return refuse(ReasonCode::ClientIdentifierNotValid, RejectReason::KeepAlive);
        }
        if let Some(will) = &connect.will {
            if will.qos as u8 > settings.qos_max && !defect::on("5:3.2.2-12") {
                return refuse(ReasonCode::QoSNotSupported, RejectReason::Unsupported);
            }
            if will.retain && !settings.retain_available && !defect::on("5:3.2.2-13") {
                return refuse(ReasonCode::RetainNotSupported, RejectReason::Unsupported);
            }
            let conn = self.conns.at(slot).filter(|conn| !conn.guarded);
            let who = conn.map(|conn| Who { client: id, ..conn.who() });
            if let Some(who) = who
                && let Err(code) = self.node.access.publish(who, will.topic)
            {
                return refuse(code, RejectReason::Auth);
            }
            if is_too_deep(will.topic, settings.limits.topic_levels_max) {
                return refuse(ReasonCode::TopicNameInvalid, RejectReason::TooLarge);
            }
            if settings.payload_format_check
                && will.payload_is_utf8
                && std::str::from_utf8(will.payload).is_err()
            {
                return refuse(ReasonCode::PayloadFormatInvalid, RejectReason::Protocol);
            }
        }
        Ok(())
    }

    fn claim(&mut self, now: Millis, slot: u32, connect: &Connect<'_>) {
        let assigned = connect.client_id.is_empty();
        let client: Arc<str> =
            if assigned { self.assign_id().into() } else { connect.client_id.into() };
        let hash = self.node.client_hash(&client);
        let settings = &self.node.settings;
        let limits = &settings.limits;
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let asked = expiry_of(connect);
        conn.expiry = asked.min(limits.session_expiry_max_seconds);
        conn.expiry_cut = conn.expiry != asked;
        let longest = settings.keep_alive_max_seconds;
        conn.keep_alive = connect.keep_alive;
        if longest > 0 && (connect.keep_alive == 0 || connect.keep_alive > longest) {
            self.node.counters[self.id.index()].keepalive_clamped.add(1);
            if connect.version == Version::V5 {
                conn.keep_alive = longest; // told in CONNACK [MQTT-3.2.2-21]
                conn.keep_alive_clamped = true;
            }
        }
        conn.window =
            connect.properties.receive_maximum.unwrap_or(u16::MAX).min(limits.inflight_out_max);
        if defect::on("5:3.1.2-24") {
            conn.packet_bytes_max = u32::MAX;
        }
        conn.alias_out_max =
            connect.properties.topic_alias_maximum.min(settings.topic_alias_out_max);
        conn.response_information = connect.properties.request_response_information;
        conn.assigned = assigned;
        conn.will = connect.will.as_ref().map(|will| Arc::new(Will::from_wire(will)));
        conn.hash = hash;
        conn.client = Some(client);
        conn.phase = Phase::Claiming;
        conn.pause |= pause::CLAIM;
        conn.clean_start = connect.clean_start;
        let me = conn.reference(self.id, slot);
        self.claim_again(slot);
        self.watch_claim(now, slot);
        self.press_home(PartitionId::of(hash), me);
    }

    /// The claim is ours: the session begins or goes on.
    pub(super) fn granted(&mut self, now: Millis, granted: Granted) {
        let Granted { conn: at, partition, claim, session, present, again, .. } = granted;
        let Granted { incoming, taken_from, behind, .. } = granted;
        let id = self.id;
        let slot = at.slot;
        let Some(conn) = self.conn(at) else { return self.decline(at, partition, claim) };
        match conn.phase {
            Phase::Claiming => {}
            // Asked for twice, or claimed of a new leader.
            Phase::Live if conn.claim == claim => return,
            // What an earlier leader has granted is known to that one alone.
            Phase::Live if session.is_none() && !conn.session_durable => {
                conn.claim = claim;
                return;
            }
            Phase::Live | Phase::HalfOpen | Phase::Closing => {
                return self.decline(at, partition, claim);
            }
        }
        let accepted_at = conn.accepted_at();
        // The leader has changed meanwhile, and this may be the earlier one's.
        let doubtful = conn.claim == ClaimRef::NONE && session.is_none() && !conn.gone;
        conn.claim = claim;
        conn.phase = Phase::Live;
        conn.session_durable = session.is_some();
        if behind {
            conn.order = Order::Behind;
        }
        if let Some(session) = session {
            conn.session = (session.slot, session.generation);
        } else {
            conn.session = (tick_of(now), 0);
        }
        if !incoming.is_empty() {
            conn.active().inherited = incoming.len() as u16;
            conn.active().incoming = incoming;
        }
        let (gone, released, client) = (conn.gone, conn.released, conn.hash);
        if gone && !present && !again {
            conn.expiry = 0; // a session that nobody was told of
        }
        if session.is_some() {
            self.node.newest.note(now, client, claim.generation);
        }
        let counters = self.counters();
        counters.sessions_online.add(1);
        counters.auth[0].add(1);
        counters.half_open.sub(1);
        if let Some(from) = taken_from {
            let scope = match from {
                from if from == id => 0,
                from if from.member() == id.member() => 1,
                _ => 2,
            };
            counters.takeovers[scope].add(1);
        }
        self.node.totals.half_open.fetch_sub(1, Relaxed);
        let unread =
            self.conns.at(slot).map_or(0, |c| c.active.as_ref().map_or(0, |a| a.incoming.len()));
        self.counters().inflight[0].add(unread as u64);
        if gone {
            self.end(now, slot, CloseReason::Client, true);
            if released {
                self.vacate(slot);
            }
            return;
        }
        // What the session had for it went to where the first grant did; or an earlier
        // leader has granted it, and the present one sends it nothing. It is not in yet,
        // and told nothing [MQTT-3.14.0-1].
        let earlier = |session: SessionKey| self.node.home(partition) != Some(session.shard);
        if session.is_some_and(|session| again || (!self.node.is_alone() && earlier(session))) {
            return self.end(now, slot, CloseReason::Moved, true);
        }
        if !self.say_connack(slot, present) {
            return self.end(now, slot, CloseReason::ProtocolError, true);
        }
        self.transit.reach(slot, accepted_at, transit::Stage::Connack, taken_from.is_some());
        if let Some(conn) = self.conns.at_mut(slot)
            && conn.keep_alive > 0
        {
            conn.seen = tick_of(now);
            let due = conn.seen + keep_alive_ticks(conn.keep_alive);
            let watched = (slot, conn.generation);
            self.wheel.insert(watched, due);
        }
        self.unpause(slot, pause::CLAIM);
        if doubtful {
            self.reclaim_late(now, slot, partition);
        }
        if present && self.node.access.has_rules() {
            self.recheck_one(now, slot);
        }
    }

    /// The claim was refused.
    pub(super) fn claim_refused(&mut self, now: Millis, at: ConnRef, code: ReasonCode) {
        // Asked for twice, it may be refused twice.
        let claiming = |conn: &&mut Conn| conn.phase == Phase::Claiming;
        let Some(conn) = self.conn(at).filter(claiming) else { return };
        let (gone, released) = (conn.gone, conn.released);
        conn.phase = Phase::HalfOpen;
        conn.will = None;
        if !gone {
            self.say_refused(at.slot, code);
        }
        let reason = match self.node.room() {
            Room::None => RejectReason::DiskFull,
            Room::Enough | Room::Low => RejectReason::Sessions,
        };
        self.reject(now, at.slot, reason);
        if released {
            self.vacate(at.slot);
        }
    }

    fn say_refused(&mut self, slot: u32, code: ReasonCode) {
        let Some(conn) = self.conns.at(slot) else { return };
        let version = conn.version;
        if conn.packet_bytes_max < REFUSAL_BYTES {
            return; // [MQTT-3.1.2-24]
        }
        let packet_bytes_max = conn.packet_bytes_max as usize;
        let reference = self.reference_for(code);
        if let Some(output) = self.output(slot) {
            let mut connack = ConnackOut { reason: code, ..ConnackOut::default() };
            connack.server_reference = reference.as_deref();
            let start = output.buffer().len();
            encode_connack(output.buffer(), version, &connack);
            if reference.is_some() && output.buffer().len() - start > packet_bytes_max {
                output.buffer().truncate(start);
                connack.server_reference = None;
                encode_connack(output.buffer(), version, &connack);
            }
            self.sent(slot, PacketType::Connack);
        }
    }

    /// CONNACK; false when the client's Maximum Packet Size does not let it
    /// through even without what may be left out.
    fn say_connack(&mut self, slot: u32, present: bool) -> bool {
        let node = Arc::clone(&self.node);
        let settings = &node.settings;
        let limits = &settings.limits;
        let Some(conn) = self.conns.at(slot) else { return false };
        let version = conn.version;
        let client = conn.client.clone().unwrap_or_else(|| "".into());
        let packet_bytes_max = conn.packet_bytes_max as usize;
        let flag = |available: bool| (!available).then_some(false);
        let present = if defect::on("5:3.2.2-3") { false } else { present };
        let mut connack = ConnackOut {
            session_present: present,
            reason: ReasonCode::Success,
            session_expiry: conn.expiry_cut.then_some(conn.expiry),
            receive_maximum: (limits.inflight_in_max != u16::MAX).then_some(limits.inflight_in_max),
            maximum_qos: (settings.qos_max < 2).then_some(settings.qos_max),
            retain_available: flag(settings.retain_available),
            maximum_packet_size: Some(limits.packet_bytes_max),
            assigned_client_id: (conn.assigned && !defect::on("5:3.2.2-16")).then_some(&*client),
            topic_alias_maximum: (settings.topic_alias_in_max > 0)
                .then_some(settings.topic_alias_in_max),
            wildcard_available: flag(settings.wildcard_subscription_available),
            subscription_ids_available: flag(settings.subscription_identifier_available),
            shared_available: flag(settings.shared_subscription_available),
            server_keep_alive: (conn.keep_alive_clamped && !defect::on("5:3.2.2-21"))
                .then_some(conn.keep_alive),
            response_information: (conn.response_information
                && !settings.response_information.is_empty())
            .then_some(settings.response_information.as_str()),
            ..ConnackOut::default()
        };
        let Some(output) = self.output(slot) else { return false };
        let buffer = output.buffer();
        let start = buffer.len();
        encode_connack(buffer, version, &connack);
        if buffer.len() - start > packet_bytes_max {
            buffer.truncate(start);
            connack.response_information = None;
            encode_connack(buffer, version, &connack);
        }
        if buffer.len() - start > packet_bytes_max {
            buffer.truncate(start); // [MQTT-3.1.2-24]
            return false;
        }
        self.sent(slot, PacketType::Connack);
        true
    }

    /// Sends the present owner of a client id away [MQTT-3.1.4-3].
    pub(super) fn evict(
        &mut self,
        now: Millis,
        at: ConnRef,
        partition: PartitionId,
        claim: ClaimRef,
    ) {
        let Some(conn) = self.conn(at).filter(|conn| conn.phase == Phase::Live) else {
            // Its release is on the way, or was lost with a link. One whose grant was
            // lost is not to be granted what it gives back here.
            self.decline(at, partition, claim);
            return self.claim_refused(now, at, ReasonCode::ServerBusy);
        };
        let blocked = conn.blocked;
        if conn.version == Version::V5 && !blocked && !defect::on("5:3.1.4-3") {
            self.say_disconnect(at.slot, ReasonCode::SessionTakenOver);
        }
        self.end(now, at.slot, CloseReason::Takeover, true);
    }

    /// A unique client id for a client that has none [MQTT-3.1.3-6].
    fn assign_id(&mut self) -> String {
        self.assigned += 1;
        // With a part that clients cannot foresee: another one may otherwise
        // have taken the id, and with it the session, before.
        let place = format!("{:x}-{:x}", self.id.0, self.assigned);
        format!("tg-{place}-{:016x}", self.node.client_hash(&place))
    }

    /// Gives a claim back that nobody uses any more.
    pub(super) fn give_back(&mut self, slot: u32, expiry: Option<u32>, will: bool, moved: bool) {
        let Some(conn) = self.conns.at(slot) else { return };
        let partition = PartitionId::of(conn.hash);
        let (claim, conn) = (conn.claim, conn.reference(self.id, slot));
        self.give_up(ReleaseRequest { partition, conn, claim, expiry, will, moved });
    }
}

/// One and a half times the keep alive, in ticks, rounded up [MQTT-3.1.2-22].
pub(super) fn keep_alive_ticks(seconds: u16) -> u32 {
    (u32::from(seconds) * 1_500).div_ceil(crate::keepalive::TICK_MS as u32) + 1
}

/// Whether a topic has more levels than `max`. A short one cannot, and is not
/// walked.
#[inline]
pub(super) fn is_too_deep(topic: &str, max: u16) -> bool {
    topic.len() >= usize::from(max)
        && topic.bytes().filter(|&b| b == b'/').count() >= usize::from(max)
}

/// How long a CONNECT wants its session to outlive it, in seconds.
fn expiry_of(connect: &Connect<'_>) -> u32 {
    match connect.version {
        Version::V5 => connect.properties.session_expiry.unwrap_or(0),
        Version::V3_1 | Version::V3_1_1 if connect.clean_start => 0,
        Version::V3_1 | Version::V3_1_1 => u32::MAX,
    }
}
