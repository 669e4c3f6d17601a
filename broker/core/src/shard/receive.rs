//! Bytes in: frames, packets, and what each kind of packet sets off.

use tidegate_codec::{
    DecodeError, Direction, Frame, Packet, PacketType, QoS, ReasonCode, Version, decode,
    decode_publish, defect, encode_disconnect, encode_pingresp, frame,
};

use super::{FOR_PAUSE, Received, Shard, Then, has_room_for_answers};
use crate::conn::{Phase, pause};
use crate::counters::{CloseReason, RejectReason};
use crate::ids::Millis;
use crate::keepalive::tick_of;
use crate::outgoing::Acked;

impl Shard {
    /// Bytes from a socket: what was kept, and what came. Handles whole packets
    /// until there are none, or the connection has to wait.
    ///
    /// In a cluster `now` has to be of a clock that was read after the socket was,
    /// not at the begin of the turn: a process that has stood still between the
    /// two must not take what it knew of the other nodes to be true still (R1).
    pub fn receive(&mut self, now: Millis, slot: u32, bytes: &[u8]) -> Received {
        let limits = self.node.limits();
        let packet_bytes_max = limits.packet_bytes_max;
        let write_buffer_bytes_max = limits.write_buffer_bytes_max;
        let mut consumed = 0;
        loop {
            let Some(conn) = self.conns.at_mut(slot) else {
                return Received { consumed: bytes.len(), then: Then::Close };
            };
            if conn.phase == Phase::Closing {
                return Received { consumed: bytes.len(), then: Then::Close };
            }
            if conn.blocked && !has_room_for_answers(conn, write_buffer_bytes_max) {
                conn.pause |= pause::OUTPUT;
            }
            if conn.pause != 0 {
                return Received { consumed, then: Then::Pause };
            }
            let rest = &bytes[consumed..];
            match frame(rest, packet_bytes_max) {
                Ok(Some(frame)) => {
                    // Until it is admitted, `seen` is the accept.
                    let (first, order) = (conn.phase == Phase::HalfOpen, conn.order);
                    if self.is_early(now, order, &frame)
                        && !first
                        && !self.is_errand(now, slot, &frame)
                    {
                        return Received { consumed, then: Then::Pause };
                    }
                    let Some(conn) = self.conns.at_mut(slot) else { continue };
                    if !first {
                        conn.seen = tick_of(now);
                    }
                    if conn.guest.is_some() && !first {
                        self.throttle(now, slot, &frame);
                    }
                    consumed += frame.total;
                    self.packet(now, slot, &frame, &rest[..frame.total]);
                    self.settle(now);
                    if first && self.is_at_the_door(slot) {
                        consumed -= frame.total;
                    }
                }
                Ok(None) => return Received { consumed, then: Then::Read },
                Err(DecodeError::TooLarge { .. }) if conn.phase == Phase::HalfOpen => {
                    self.first_too_large(now, slot, rest);
                }
                Err(error) => {
                    self.bad_packet(now, slot, &error);
                    self.settle(now);
                }
            }
        }
    }

    /// Pays for a packet that is read, and pauses a client above its rate.
    fn throttle(&mut self, now: Millis, slot: u32, frame: &Frame) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let generation = conn.generation;
        let Some(throttle) = conn.guest.as_mut().and_then(|guest| guest.throttle.as_mut()) else {
            return;
        };
        let publish = frame.first >> 4 == PacketType::Publish as u8;
        let wait = throttle.pay(now, frame.total, publish);
        if wait > 0 {
            conn.pause |= pause::RATE;
            self.wheel.insert((slot, generation | FOR_PAUSE), tick_of(now + wait) + 1);
            self.counters().rate_pauses.add(1);
        }
    }

    /// Whether its CONNECT waits for a verdict.
    fn is_at_the_door(&self, slot: u32) -> bool {
        self.conns.at(slot).is_some_and(|conn| conn.pause & pause::DOOR != 0)
    }

    #[inline]
    fn packet(&mut self, now: Millis, slot: u32, frame: &Frame, bytes: &[u8]) {
        self.transit.leave();
        let Some(conn) = self.conns.at_mut(slot) else { return };
        if conn.phase == Phase::HalfOpen {
            return self.first_packet(now, slot, frame, bytes);
        }
        let version = conn.version;
        let received = conn.version_index();
        if let Some(kind) = frame.packet_type() {
            self.counters().packets_received[kind as usize][received].add(1);
        }
        if frame.first >> 4 == PacketType::Publish as u8 {
            // The hot path: no detour through the sum of all packets.
            return match decode_publish(frame, bytes, version, Direction::FromClient) {
                Ok(publish) => self.publish(now, slot, version, &publish),
                Err(error) => self.bad_packet(now, slot, &error),
            };
        }
        match decode(frame, bytes, version, Direction::FromClient) {
            Ok(packet) => self.decoded(now, slot, version, packet),
            Err(error) => self.bad_packet(now, slot, &error),
        }
    }

    #[inline]
    fn decoded(&mut self, now: Millis, slot: u32, version: Version, packet: Packet<'_>) {
        match packet {
            Packet::Publish(publish) => self.publish(now, slot, version, &publish),
            Packet::Puback(ack) => {
                self.acknowledged(now, slot, ack.packet_id, Acked::Puback);
            }
            Packet::Pubrec(ack) if ack.reason.is_error() => {
                self.acknowledged(now, slot, ack.packet_id, Acked::PubrecRefused);
            }
            Packet::Pubrec(ack) => self.acknowledged(now, slot, ack.packet_id, Acked::Pubrec),
            Packet::Pubcomp(ack) => self.acknowledged(now, slot, ack.packet_id, Acked::Pubcomp),
            Packet::Pubrel(ack) => self.pubrel(slot, version, ack.packet_id),
            Packet::Subscribe(subscribe) => self.subscribe(now, slot, version, &subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(now, slot, &unsubscribe),
            Packet::Pingreq => {
                if !defect::on("5:3.12.4-1")
                    && let Some(output) = self.output(slot)
                {
                    encode_pingresp(output.buffer()); // [MQTT-3.12.4-1]
                    self.sent(slot, PacketType::Pingresp);
                }
            }
            Packet::Disconnect(disconnect) => {
                self.disconnect(now, slot, version, disconnect.reason, disconnect.session_expiry);
            }
            Packet::Connect(_) // a second one [MQTT-3.1.0-2]
            | Packet::Connack(_)
            | Packet::Suback(_)
            | Packet::Unsuback(_)
            | Packet::Pingresp
            | Packet::Auth(_) => self.fail(now, slot, ReasonCode::ProtocolError),
        }
    }

    fn disconnect(
        &mut self,
        now: Millis,
        slot: u32,
        version: Version,
        reason: ReasonCode,
        expiry: Option<u32>,
    ) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let expiry_max = self.node.settings.limits.session_expiry_max_seconds;
        if let Some(expiry) = expiry {
            if conn.expiry == 0 && expiry != 0 && !defect::on("5:4.13.1-1") {
                // [MQTT-3.14.2-2]; being no valid DISCONNECT, it keeps the will
                return self.fail(now, slot, ReasonCode::ProtocolError);
            }
            conn.expiry = expiry.min(expiry_max);
        }
        // [MQTT-3.14.4-3]: only a normal disconnection drops the will.
        let clean = version != Version::V5 || reason == ReasonCode::Success;
        let keep_will = (!clean || defect::on("5:3.14.4-3")) && !defect::on("5:3.1.2-8");
        self.let_go(now, slot);
        self.end(now, slot, CloseReason::Client, keep_will);
    }

    /// A packet that is not one: told to a 5.0 client, then the end.
    pub(super) fn bad_packet(&mut self, now: Millis, slot: u32, error: &DecodeError) {
        self.fail(now, slot, error.reason());
    }

    /// Ends a connection for what its client did: DISCONNECT with the reason
    /// to a 5.0 client that is connected [MQTT-4.13.1-1], a bare close else.
    pub(super) fn fail(&mut self, now: Millis, slot: u32, reason: ReasonCode) {
        let Some(conn) = self.conns.at_mut(slot) else { return };
        match conn.phase {
            Phase::Live => {
                if conn.version == Version::V5 {
                    self.say_disconnect(slot, reason);
                }
                self.end(now, slot, close_reason(reason), true);
            }
            Phase::HalfOpen => self.reject(now, slot, RejectReason::Protocol),
            Phase::Claiming => self.lose(now, slot, CloseReason::ProtocolError),
            Phase::Closing => {}
        }
    }

    /// DISCONNECT to a 5.0 client.
    ///
    /// The only packet besides CONNACK that may carry a reason string whatever
    /// the client said about problem information [MQTT-3.1.2-29]; no other one
    /// is given any, so what it said is not kept.
    pub(super) fn say_disconnect(&mut self, slot: u32, reason: ReasonCode) {
        let strings = self.node.settings.reason_strings;
        let Some(conn) = self.conns.at_mut(slot) else { return };
        let mut text = strings.then(|| reason_text(reason));
        if conn.packet_bytes_max < 64 {
            text = None; // [MQTT-3.14.2-3]
        }
        let packet_bytes_max = conn.packet_bytes_max as usize;
        let reference = self.reference_for(reason);
        if let Some(output) = self.output(slot) {
            let start = output.buffer().len();
            encode_disconnect(output.buffer(), reason, None, text, reference.as_deref());
            if output.buffer().len() - start > packet_bytes_max && reference.is_some() {
                output.buffer().truncate(start);
                encode_disconnect(output.buffer(), reason, None, None, None);
            }
            if output.buffer().len() - start > packet_bytes_max {
                output.buffer().truncate(start);
                return;
            }
            self.sent(slot, PacketType::Disconnect);
        }
    }

    /// Counts a packet to a client.
    #[inline]
    pub(super) fn sent(&mut self, slot: u32, kind: PacketType) {
        if let Some(conn) = self.conns.at(slot) {
            self.counters().packets_sent[kind as usize][conn.version_index()].add(1);
        }
    }
}

/// How an end is counted that a client brought about.
fn close_reason(reason: ReasonCode) -> CloseReason {
    match reason {
        ReasonCode::KeepAliveTimeout => CloseReason::KeepAlive,
        ReasonCode::NotAuthorized | ReasonCode::BadUserNameOrPassword => CloseReason::Auth,
        ReasonCode::QuotaExceeded | ReasonCode::ServerBusy => CloseReason::Overload,
        _other => CloseReason::ProtocolError,
    }
}

/// A short reason string, for those who read a trace.
pub(super) fn reason_text(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::MalformedPacket => "malformed packet",
        ReasonCode::ProtocolError => "protocol error",
        ReasonCode::PacketTooLarge => "packet too large",
        ReasonCode::ReceiveMaximumExceeded => "receive maximum exceeded",
        ReasonCode::TopicAliasInvalid => "topic alias invalid",
        ReasonCode::KeepAliveTimeout => "keep alive timeout",
        ReasonCode::SessionTakenOver => "session taken over",
        ReasonCode::ServerShuttingDown => "server shutting down",
        ReasonCode::QoSNotSupported => "QoS not supported",
        ReasonCode::RetainNotSupported => "retain not supported",
        _other => "disconnected by the server",
    }
}

/// The lower of two QoS levels, from an option byte.
#[inline]
pub(super) fn qos_of(level: u8) -> QoS {
    QoS::try_from(level).unwrap_or_default()
}
