//! A client: MQTT as it should be spoken, with a session that outlives the
//! client's connections, and what it does next left to chance.

use std::collections::{BTreeMap, VecDeque};

use tidegate_codec::{
    ConnectOut, Direction, Packet, PacketType, PropertyWriter, PublishOut, QoS, ReasonCode,
    SubscribeOptions, Version, WillOut, decode, encode_ack, encode_connect, encode_publish,
    encode_subscribe, encode_unsubscribe, frame,
};

use crate::dice::Dice;
use crate::history::{Event, History, Message, MessageId, Will};

/// What kind of session a client has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    /// It outlives connections; now and then it is begun anew.
    Durable,
    /// It outlives them for some seconds.
    Expiring,
    /// It ends with each.
    Ephemeral,
    /// Durable, and a member of the share group for good.
    Member,
    /// Durable, and sees all wills and messages, for good.
    Watcher,
}

/// The filter of the share group.
pub(crate) const SHARED: &str = "$share/g/s/#";
const FILTERS: [&str; 8] = ["a/#", "a/0", "b/+", "+/1", "b/#", "r/#", "r/x/+", "r/x/0"];
const TOPICS: [&str; 4] = ["a/0", "a/1", "b/0", "b/1"];
const RETAINED: [&str; 3] = ["r/x/0", "r/x/1", "r/y/0"];
const SHARED_TOPICS: [&str; 2] = ["s/x/0", "s/x/1"];
/// PUBLISHes that a client leaves unacknowledged at most.
const OUT_MAX: usize = 12;
/// Bytes in front of a payload's filler.
const ID_BYTES: usize = 4;

/// A client and its side of the session.
#[derive(Debug)]
pub(crate) struct Client {
    /// Its number.
    pub(crate) id: usize,
    /// Its kind.
    pub(crate) role: Role,
    version: Version,
    packet_id: u16,
    /// What it has published and the broker has not wholly acknowledged.
    out: VecDeque<Out>,
    /// QoS 2 packet ids that it has taken, and the broker has not released.
    taken: BTreeMap<u16, MessageId>,
    /// The connection it uses.
    pub(crate) line: Option<Line>,
    /// Whether it has subscribed to what its role wants for good.
    settled: bool,
}

/// A connection as its client sees it.
#[derive(Debug)]
pub(crate) struct Line {
    /// Its number.
    pub(crate) conn: u32,
    /// Whether CONNACK came.
    pub(crate) connacked: bool,
    /// What the client still has to acknowledge.
    acks: VecDeque<(PacketType, u16)>,
    asked: BTreeMap<u16, Asked>,
}

#[derive(Debug)]
struct Out {
    packet_id: u16,
    message: MessageId,
    qos: u8,
    /// PUBREC came.
    received: bool,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Subscribe(&'static str),
    Unsubscribe(&'static str),
}

/// What a client wants of the network.
#[derive(Debug)]
pub(crate) enum Wish {
    /// To send this on its connection.
    Send(Vec<u8>),
    /// To open a connection and send this.
    Connect(Vec<u8>, Version),
    /// To say this last and forget the connection.
    Leave(Vec<u8>),
    /// To let go of its connection.
    Abort,
    /// Nothing.
    Rest,
}

/// What a client writes history with.
pub(crate) struct Pen<'a> {
    /// All that happened.
    pub(crate) history: &'a mut History,
    /// The true time.
    pub(crate) ms: u64,
    /// Connections so far.
    pub(crate) conns: &'a mut u32,
}

impl Client {
    /// A client that has never been anywhere.
    pub(crate) fn new(id: usize, role: Role, v5: bool) -> Client {
        let v5 = v5 || role == Role::Expiring;
        Client {
            id,
            role,
            version: if v5 { Version::V5 } else { Version::V3_1_1 },
            packet_id: 0,
            out: VecDeque::new(),
            taken: BTreeMap::new(),
            line: None,
            settled: false,
        }
    }

    /// Whether it should have nothing left to do when all is over.
    pub(crate) fn is_content(&self) -> bool {
        match &self.line {
            Some(line) => {
                let quiet = line.acks.is_empty() && line.asked.is_empty() && self.out.is_empty();
                let wants = matches!(self.role, Role::Member | Role::Watcher) && !self.settled;
                line.connacked && quiet && !wants
            }
            None => self.role == Role::Ephemeral,
        }
    }

    /// What it waits for, to be read by people.
    pub(crate) fn wants(&self) -> String {
        format!("client {}: {:?}, unacknowledged {:?}", self.id, self.line, self.out)
    }

    /// The next thing it does.
    pub(crate) fn act(&mut self, dice: &mut Dice, pen: &mut Pen<'_>) -> Wish {
        let Some(line) = &self.line else {
            return if dice.chance(40) { self.connect(dice, pen) } else { Wish::Rest };
        };
        if !line.connacked {
            return match dice.below(200) {
                0 => self.abort(pen),
                1 => self.connect(dice, pen),
                _ => Wish::Rest,
            };
        }
        if let Some(wish) = self.settle_in(pen) {
            return wish;
        }
        match dice.below(200) {
            0..100 => self.acknowledge(),
            100..180 => self.publish(dice, pen),
            180..189 => self.subscribe(dice, pen),
            189..192 => self.unsubscribe(dice, pen),
            192 => self.disconnect(pen),
            193 => self.abort(pen),
            194 => self.connect(dice, pen),
            _ => Wish::Rest,
        }
    }

    /// The next thing it does when it only wants to finish.
    pub(crate) fn finish(&mut self, dice: &mut Dice, pen: &mut Pen<'_>) -> Wish {
        let Some(line) = &self.line else {
            return match self.role {
                Role::Ephemeral => Wish::Rest,
                Role::Durable | Role::Expiring | Role::Member | Role::Watcher => {
                    self.connect_as(dice, pen, false, false)
                }
            };
        };
        if !line.connacked {
            return Wish::Rest;
        }
        self.settle_in(pen).unwrap_or_else(|| self.acknowledge())
    }

    /// Subscribes to what its role wants.
    fn settle_in(&mut self, pen: &mut Pen<'_>) -> Option<Wish> {
        if self.settled || self.line.as_ref().is_none_or(|line| !line.asked.is_empty()) {
            return None;
        }
        match self.role {
            Role::Durable | Role::Expiring | Role::Ephemeral => None,
            Role::Member => Some(self.subscribe_to(SHARED, 2 - (self.id % 2) as u8, pen)),
            Role::Watcher => Some(self.subscribe_to(
                if self.id.is_multiple_of(2) { "+/+/will" } else { "+/#" },
                2,
                pen,
            )),
        }
    }

    fn connect(&mut self, dice: &mut Dice, pen: &mut Pen<'_>) -> Wish {
        let clean = match self.role {
            Role::Ephemeral => true,
            Role::Durable | Role::Expiring => dice.chance(6),
            Role::Member | Role::Watcher => false,
        };
        let will = dice.chance(60);
        self.connect_as(dice, pen, clean, will)
    }

    fn connect_as(&mut self, dice: &mut Dice, pen: &mut Pen<'_>, clean: bool, will: bool) -> Wish {
        *pen.conns += 1;
        let conn = *pen.conns;
        let v5 = self.version.is_v5();
        let expiry = match self.role {
            Role::Ephemeral => 0,
            Role::Expiring => 2 + dice.below(10) as u32,
            Role::Durable | Role::Member | Role::Watcher if clean && !v5 => 0,
            Role::Durable | Role::Member | Role::Watcher => u32::MAX,
        };
        let will = will.then(|| {
            let delay = if v5 { dice.below(4) as u32 } else { 0 };
            pen.history.message(Message {
                publisher: self.id,
                topic: format!("w/{}/will", self.id),
                qos: 1 + dice.below(2) as u8,
                retain: false,
                clear: false,
                expiry: None,
                will: Some(Will { conn, delay }),
            })
        });
        pen.history.add(pen.ms, self.id, conn, Event::Connect { clean, expiry, will });
        let mut properties = PropertyWriter::new();
        properties.session_expiry_interval(expiry);
        if dice.chance(30) {
            properties.receive_maximum(1 + dice.below(5) as u16);
        }
        let message = will.map(|id| pen.history.messages[id as usize].clone());
        let payload = will.map(payload).unwrap_or_default();
        let mut of_will = PropertyWriter::new();
        if let Some(Will { delay, .. }) = message.as_ref().and_then(|message| message.will) {
            of_will.will_delay_interval(delay);
        }
        let connect = ConnectOut {
            clean_start: clean,
            client_id: &format!("client-{}", self.id),
            will: message.as_ref().map(|message| WillOut {
                topic: &message.topic,
                payload: &payload,
                qos: qos_of(message.qos),
                retain: false,
                properties: of_will.bytes(),
            }),
            properties: properties.bytes(),
            ..ConnectOut::default()
        };
        let mut bytes = Vec::new();
        encode_connect(&mut bytes, self.version, &connect);
        self.line =
            Some(Line { conn, connacked: false, acks: VecDeque::new(), asked: BTreeMap::new() });
        Wish::Connect(bytes, self.version)
    }

    /// Lets go of its connection.
    pub(crate) fn abort(&mut self, pen: &mut Pen<'_>) -> Wish {
        if let Some(line) = &self.line {
            pen.history.add(pen.ms, self.id, line.conn, Event::Abort);
        }
        Wish::Abort
    }

    fn disconnect(&mut self, pen: &mut Pen<'_>) -> Wish {
        if let Some(line) = &self.line {
            pen.history.add(pen.ms, self.id, line.conn, Event::Disconnect);
        }
        Wish::Leave(vec![0xE0, 0])
    }

    fn publish(&mut self, dice: &mut Dice, pen: &mut Pen<'_>) -> Wish {
        let topic = match dice.below(10) {
            0..6 => *dice.pick(&TOPICS),
            6..8 => *dice.pick(&RETAINED),
            _ => *dice.pick(&SHARED_TOPICS),
        };
        let qos = dice.below(3) as u8;
        if qos > 0 && self.out.len() >= OUT_MAX {
            return Wish::Rest;
        }
        let retain = topic.starts_with('r') && dice.chance(90);
        let expires = self.version.is_v5() && dice.chance(8);
        let message = Message {
            publisher: self.id,
            topic: topic.into(),
            qos,
            retain,
            clear: retain && dice.chance(20),
            expiry: expires.then(|| 1 + dice.below(8) as u32),
            will: None,
        };
        self.publish_one(message, pen)
    }

    /// A PUBLISH of this message.
    fn publish_one(&mut self, message: Message, pen: &mut Pen<'_>) -> Wish {
        let qos = message.qos;
        let id = pen.history.message(message);
        let mut packet_id = 0;
        if qos > 0 {
            packet_id = self.next_packet_id();
            self.out.push_back(Out { packet_id, message: id, qos, received: false });
        }
        let mut bytes = Vec::new();
        self.encode(id, packet_id, false, pen, &mut bytes);
        Wish::Send(bytes)
    }

    /// A message at QoS 1, to see whether anything is acknowledged.
    pub(crate) fn probe(&mut self, pen: &mut Pen<'_>) -> Wish {
        self.say(TOPICS[self.id % TOPICS.len()], pen)
    }

    /// Whether a SUBSCRIBE or UNSUBSCRIBE of its has no answer yet.
    pub(crate) fn is_asking(&self) -> bool {
        self.line.as_ref().is_some_and(|line| !line.asked.is_empty())
    }

    /// A message at QoS 1.
    pub(crate) fn say(&mut self, topic: &str, pen: &mut Pen<'_>) -> Wish {
        let message = Message {
            publisher: self.id,
            topic: topic.into(),
            qos: 1,
            retain: false,
            clear: false,
            expiry: None,
            will: None,
        };
        self.publish_one(message, pen)
    }

    fn next_packet_id(&mut self) -> u16 {
        loop {
            self.packet_id = self.packet_id % 60_000 + 1;
            let asked = self.line.as_ref().is_some_and(|l| l.asked.contains_key(&self.packet_id));
            if !asked && self.out.iter().all(|out| out.packet_id != self.packet_id) {
                return self.packet_id;
            }
        }
    }

    /// Appends a PUBLISH, and says so.
    fn encode(
        &self,
        id: MessageId,
        packet_id: u16,
        dup: bool,
        pen: &mut Pen<'_>,
        to: &mut Vec<u8>,
    ) {
        let conn = self.line.as_ref().map_or(0, |line| line.conn);
        let message = &pen.history.messages[id as usize];
        let payload = if message.clear { Vec::new() } else { payload(id) };
        let packet = PublishOut {
            dup,
            qos: qos_of(message.qos),
            retain: message.retain,
            topic: &message.topic,
            packet_id,
            message_expiry: message.expiry.filter(|_| self.version.is_v5()),
            payload_len: payload.len(),
            ..PublishOut::default()
        };
        encode_publish(to, self.version, &packet, &payload);
        pen.history.add(pen.ms, self.id, conn, Event::Publish { message: id, dup });
    }

    fn subscribe(&mut self, dice: &mut Dice, pen: &mut Pen<'_>) -> Wish {
        if matches!(self.role, Role::Member | Role::Watcher) {
            return Wish::Rest;
        }
        let filter = dice.below(FILTERS.len());
        // Always the same, so that it is known what was granted when.
        let qos = [2, 1, 2, 1, 2, 0][(filter * 7 + self.id) % 6];
        self.subscribe_to(FILTERS[filter], qos, pen)
    }

    /// A SUBSCRIBE.
    pub(crate) fn subscribe_to(
        &mut self,
        filter: &'static str,
        qos: u8,
        pen: &mut Pen<'_>,
    ) -> Wish {
        let packet_id = self.next_packet_id();
        let Some(line) = &mut self.line else { return Wish::Rest };
        line.asked.insert(packet_id, Asked::Subscribe(filter));
        pen.history.add(pen.ms, self.id, line.conn, Event::Subscribe { filter, qos });
        let mut bytes = Vec::new();
        let options = SubscribeOptions::at(qos_of(qos));
        encode_subscribe(&mut bytes, self.version, packet_id, &[(filter, options)], &[]);
        Wish::Send(bytes)
    }

    fn unsubscribe(&mut self, dice: &mut Dice, pen: &mut Pen<'_>) -> Wish {
        if matches!(self.role, Role::Member | Role::Watcher) {
            return Wish::Rest;
        }
        let filter = *dice.pick(&FILTERS);
        let packet_id = self.next_packet_id();
        let Some(line) = &mut self.line else { return Wish::Rest };
        line.asked.insert(packet_id, Asked::Unsubscribe(filter));
        pen.history.add(pen.ms, self.id, line.conn, Event::Unsubscribe { filter });
        let mut bytes = Vec::new();
        encode_unsubscribe(&mut bytes, self.version, packet_id, &[filter], &[]);
        Wish::Send(bytes)
    }

    /// Sends the acknowledgement that it owes longest.
    fn acknowledge(&mut self) -> Wish {
        let Some((kind, packet_id)) = self.line.as_mut().and_then(|line| line.acks.pop_front())
        else {
            return Wish::Rest;
        };
        let mut bytes = Vec::new();
        encode_ack(&mut bytes, self.version, kind, packet_id, ReasonCode::Success, None);
        Wish::Send(bytes)
    }

    /// A message on an old connection, to see whether it still speaks for the
    /// client: nobody may acknowledge it.
    pub(crate) fn ghost(&self, version: Version) -> Vec<u8> {
        let mut bytes = Vec::new();
        let packet = PublishOut {
            qos: QoS::AtLeastOnce,
            topic: "ghost/of/nobody",
            packet_id: GHOST,
            ..PublishOut::default()
        };
        encode_publish(&mut bytes, version, &packet, &[]);
        bytes
    }

    /// A connection is over; `unread`: not all that was sent on it was read.
    pub(crate) fn closed(&mut self, conn: u32, unread: bool, pen: &mut Pen<'_>) {
        if unread {
            pen.history.add(pen.ms, self.id, conn, Event::Unread);
        }
        pen.history.add(pen.ms, self.id, conn, Event::Closed);
        if self.line.as_ref().is_some_and(|line| line.conn == conn) {
            self.line = None;
        }
    }

    /// A packet came; what the client says at once.
    pub(crate) fn hear(
        &mut self,
        conn: u32,
        version: Version,
        bytes: &[u8],
        pen: &mut Pen<'_>,
    ) -> Option<Vec<u8>> {
        let packet = match frame(bytes, u32::MAX) {
            Ok(Some(frame)) => decode(&frame, bytes, version, Direction::FromServer),
            Ok(None) | Err(_) => return self.garbage(conn, format!("{bytes:02x?}"), pen),
        };
        let packet = match packet {
            Ok(packet) => packet,
            Err(error) => return self.garbage(conn, format!("{bytes:02x?}: {error}"), pen),
        };
        if self.line.as_ref().is_none_or(|line| line.conn != conn) {
            // It has let go of this connection and does not listen any more.
            if let Packet::Puback(ack) = packet
                && ack.packet_id == GHOST
                && self.line.as_ref().is_some_and(|line| line.connacked)
            {
                pen.history.add(pen.ms, self.id, conn, Event::StillServed);
            }
            return None;
        }
        match packet {
            Packet::Connack(connack) if connack.code == 0 => {
                self.connected(connack.session_present, pen)
            }
            Packet::Connack(_) => {
                pen.history.add(pen.ms, self.id, conn, Event::Refused);
                None
            }
            Packet::Puback(ack) => self.acked(1, ack.packet_id, ack.reason, pen),
            Packet::Pubrec(ack) => self.acked(2, ack.packet_id, ack.reason, pen),
            Packet::Pubcomp(ack) => {
                let known = |out: &Out| out.packet_id == ack.packet_id && out.received;
                match self.out.iter().position(known).and_then(|at| self.out.remove(at)) {
                    Some(Out { message, .. }) => {
                        pen.history.add(pen.ms, self.id, conn, Event::Completed { message });
                    }
                    None => self.unasked(format!("PUBCOMP {}", ack.packet_id), pen),
                }
                None
            }
            Packet::Pubrel(ack) => {
                self.taken.remove(&ack.packet_id);
                self.owe(PacketType::Pubcomp, ack.packet_id)
            }
            Packet::Suback(suback) => {
                match self.answered(suback.packet_id) {
                    Some(Asked::Subscribe(filter)) if suback.codes.iter().all(|&c| c < 3) => {
                        self.settled |= matches!(self.role, Role::Member | Role::Watcher);
                        pen.history.add(pen.ms, self.id, conn, Event::Suback { filter });
                    }
                    Some(Asked::Subscribe(_) | Asked::Unsubscribe(_)) | None => {
                        self.unasked(format!("{suback:?}"), pen);
                    }
                }
                None
            }
            Packet::Unsuback(unsuback) => {
                match self.answered(unsuback.packet_id) {
                    Some(Asked::Unsubscribe(filter)) => {
                        pen.history.add(pen.ms, self.id, conn, Event::Unsuback { filter });
                    }
                    Some(Asked::Subscribe(_)) | None => self.unasked(format!("{unsuback:?}"), pen),
                }
                None
            }
            Packet::Publish(publish) => {
                let (qos, id) = (publish.qos as u8, publish.packet_id);
                if publish.payload.is_empty() {
                    // A cleared topic: nothing to tell one from another by.
                    if qos == 2 {
                        self.taken.insert(id, MessageId::MAX);
                    }
                    return self.owe_for(qos, id);
                }
                let Some(message) = message_of(publish.payload) else {
                    return self.garbage(conn, format!("payload {:02x?}", publish.payload), pen);
                };
                let new = qos < 2 || self.taken.insert(id, message).is_none();
                let received = Event::Received {
                    message,
                    topic: publish.topic.into(),
                    qos,
                    retain: publish.retain,
                    dup: publish.dup,
                    new,
                };
                pen.history.add(pen.ms, self.id, conn, received);
                self.owe_for(qos, id)
            }
            // It says why it closes; that it closes is what counts.
            Packet::Disconnect(_) => None,
            other @ (Packet::Connect(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::Pingreq
            | Packet::Pingresp
            | Packet::Auth(_)) => self.garbage(conn, format!("{other:?}"), pen),
        }
    }

    /// CONNACK: a session that goes on has its unfinished messages sent again.
    fn connected(&mut self, present: bool, pen: &mut Pen<'_>) -> Option<Vec<u8>> {
        let line = self.line.as_mut()?;
        line.connacked = true;
        pen.history.add(pen.ms, self.id, line.conn, Event::Connack { present });
        if !present {
            self.out.clear();
            self.taken.clear();
            self.settled = false;
            return None;
        }
        let mut bytes = Vec::new();
        for out in &self.out {
            if out.received {
                let (kind, reason) = (PacketType::Pubrel, ReasonCode::Success);
                encode_ack(&mut bytes, self.version, kind, out.packet_id, reason, None);
            } else {
                self.encode(out.message, out.packet_id, true, pen, &mut bytes);
            }
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    fn acked(
        &mut self,
        qos: u8,
        packet_id: u16,
        reason: ReasonCode,
        pen: &mut Pen<'_>,
    ) -> Option<Vec<u8>> {
        let conn = self.line.as_ref()?.conn;
        let at = self.out.iter().position(|o| o.packet_id == packet_id && o.qos == qos);
        let Some(out) = at.and_then(|at| self.out.get_mut(at)) else {
            self.unasked(format!("an acknowledgement for {packet_id} at QoS {qos}"), pen);
            return None;
        };
        let message = out.message;
        if reason as u8 >= 0x80 {
            pen.history.add(pen.ms, self.id, conn, Event::Nacked { message });
            self.out.retain(|o| o.packet_id != packet_id);
            return None;
        }
        pen.history.add(pen.ms, self.id, conn, Event::Acked { message });
        if qos == 1 {
            self.out.retain(|o| o.packet_id != packet_id);
            return None;
        }
        out.received = true;
        self.owe(PacketType::Pubrel, packet_id)
    }

    fn answered(&mut self, packet_id: u16) -> Option<Asked> {
        self.line.as_mut()?.asked.remove(&packet_id)
    }

    fn owe_for(&mut self, qos: u8, packet_id: u16) -> Option<Vec<u8>> {
        match qos {
            0 => None,
            1 => self.owe(PacketType::Puback, packet_id),
            _ => self.owe(PacketType::Pubrec, packet_id),
        }
    }

    fn owe(&mut self, kind: PacketType, packet_id: u16) -> Option<Vec<u8>> {
        if let Some(line) = &mut self.line {
            line.acks.push_back((kind, packet_id));
        }
        None
    }

    fn unasked(&self, what: String, pen: &mut Pen<'_>) {
        let conn = self.line.as_ref().map_or(0, |line| line.conn);
        pen.history.add(pen.ms, self.id, conn, Event::Unasked { what });
    }

    fn garbage(&self, conn: u32, what: String, pen: &mut Pen<'_>) -> Option<Vec<u8>> {
        pen.history.add(pen.ms, self.id, conn, Event::Garbage { what });
        None
    }
}

/// The packet id of a message that nobody may acknowledge.
const GHOST: u16 = 65_000;

fn qos_of(qos: u8) -> QoS {
    QoS::try_from(qos).expect("0 to 2")
}

/// A payload says which message it is of; some are long.
fn payload(id: MessageId) -> Vec<u8> {
    let filler = match id % 16 {
        0 => 1_500,
        1..4 => 300,
        _ => (id % 7) as usize,
    };
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.resize(ID_BYTES + filler, id as u8);
    bytes
}

fn message_of(bytes: &[u8]) -> Option<MessageId> {
    let id = MessageId::from_be_bytes(bytes.get(..ID_BYTES)?.try_into().ok()?);
    (payload(id) == bytes).then_some(id)
}
