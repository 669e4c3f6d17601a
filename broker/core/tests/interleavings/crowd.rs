//! The clients, and what they hold against what comes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidegate_codec::{
    ConnectOut, Direction, Packet, PacketType, PropertyWriter, PublishOut, QoS, ReasonCode,
    SubscribeOptions, Version, decode, encode_ack, encode_connect, encode_publish,
    encode_subscribe, encode_unsubscribe, frame,
};
use tidegate_core::counters::Counters;
use tidegate_core::limits::Limits;
use tidegate_core::settings::Settings;

use super::rig::{Client, Rig};

pub const CLIENTS: usize = 5;
pub const FILTERS: [&str; 6] = ["a", "a/b", "a/+", "a/#", "+/b", "$share/g/s"];
pub const TOPICS: [&str; 4] = ["a", "a/b", "b/b", "s"];
/// This one does not wait for its CONNACK before it connects again or goes, so
/// nobody knows in which order its connections have the session.
const WILD: usize = 0;
const V5: Version = Version::V5;

type Id = u32;
type Outcome = Result<(), String>;

#[derive(Clone, Debug)]
pub enum Op {
    Connect { who: usize, shard: usize, ephemeral: bool, clean: bool, window: u8 },
    Abort { who: usize },
    Disconnect { who: usize },
    Subscribe { who: usize, filter: usize, qos: u8 },
    Unsubscribe { who: usize, filter: usize },
    Publish { who: usize, topic: usize, qos: u8 },
    Acknowledge { who: usize, n: usize },
    Block { who: usize, room: usize },
    Unblock { who: usize },
    Turn { shard: usize },
    Mailboxes { batches: usize },
    Rest,
}

/// One connection of a client.
struct Line {
    at: Client,
    number: u64,
    durable: bool,
    window: usize,
    blocked: bool,
    connack: bool,
    /// It gave up the connection itself.
    left: bool,
    /// Its session is over, so what it still brings does not count.
    stale: bool,
    /// PUBLISHes that wait for PUBACK or PUBREC.
    sent: VecDeque<(u16, u8, Id)>,
    /// SUBSCRIBE (its filter) and UNSUBSCRIBE that wait for their answer.
    asked: VecDeque<Option<&'static str>>,
    /// Acknowledgements to be sent.
    acks: VecDeque<(PacketType, u16)>,
}

#[derive(Default)]
struct Person {
    lines: Vec<Line>,
    packet_id: u16,
    /// Filters that are surely subscribed to in a durable session.
    sure: BTreeSet<&'static str>,
    /// Messages that must come if they are acknowledged.
    hoped: BTreeSet<Id>,
    owed: BTreeSet<Id>,
    got: BTreeSet<Id>,
    open: BTreeMap<u16, (Id, u8)>,
    taken: BTreeSet<u16>,
    /// What it finished, by packet id: its last word may have been lost.
    done: BTreeMap<u16, (Id, u8)>,
    /// QoS 2 publishes that are not finished, and whether PUBREC has come.
    out: BTreeMap<u16, (Id, &'static str, bool)>,
    /// The latest by connection of the publisher, topic and QoS.
    latest: BTreeMap<(u64, String, u8), Id>,
}

pub struct Crowd {
    rig: Rig,
    people: Vec<Person>,
    next: Id,
    /// The publishing connection of each message.
    source: BTreeMap<Id, u64>,
    calls: u64,
    /// That came for clients so far.
    packets: u64,
}

fn ensure(holds: bool, fault: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(fault()) }
}

impl Crowd {
    pub fn new(shards: u16) -> Crowd {
        let limits = Limits {
            queue_messages_max: 1_000_000,
            queue_bytes_max: u64::MAX / 2,
            ..Limits::default()
        };
        let mut rig = Rig::new(shards, Settings { limits, ..Settings::default() });
        rig.held = true;
        Crowd {
            rig,
            people: (0..CLIENTS).map(|_| Person::default()).collect(),
            next: 0,
            source: BTreeMap::new(),
            calls: 0,
            packets: 0,
        }
    }

    pub fn apply(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::Connect { who, .. } if self.is_calling(who) => {}
            Op::Connect { who, shard, ephemeral, clean, window } => {
                self.connect(who, shard, ephemeral, clean, window);
            }
            Op::Abort { who } | Op::Disconnect { who } if self.is_calling(who) => {}
            Op::Abort { who } => {
                if let Some(line) = self.line(who) {
                    line.left = true;
                    let at = line.at;
                    self.forget_if_ephemeral(who);
                    self.rig.abort(at);
                }
            }
            Op::Disconnect { who } => {
                if let Some(line) = self.line(who) {
                    line.left = true;
                    let at = line.at;
                    self.forget_if_ephemeral(who);
                    self.rig.give(at, &[0xE0, 0]);
                }
            }
            Op::Subscribe { who, filter, qos } => {
                let filter = FILTERS[filter];
                self.ask(who, Some(filter), |packet, packet_id| {
                    let options = SubscribeOptions::at(QoS::try_from(qos).expect("0 to 2"));
                    encode_subscribe(packet, V5, packet_id, &[(filter, options)], &[]);
                });
            }
            Op::Unsubscribe { who, filter } => {
                let filter = FILTERS[filter];
                self.people[who].sure.remove(filter);
                // What is not acknowledged may not have been looked at yet.
                self.people[who].hoped.clear();
                // Of an earlier SUBSCRIBE whose SUBACK is still to come.
                for line in &mut self.people[who].lines {
                    line.asked.iter_mut().filter(|f| **f == Some(filter)).for_each(|f| *f = None);
                }
                self.ask(who, None, |packet, packet_id| {
                    encode_unsubscribe(packet, V5, packet_id, &[filter], &[]);
                });
            }
            Op::Publish { who, topic, qos } => self.publish(who, TOPICS[topic], qos),
            Op::Acknowledge { who, n } => self.acknowledge(who, n),
            Op::Block { who, room } => self.set_room(who, room),
            Op::Unblock { who } => self.set_room(who, usize::MAX),
            Op::Turn { shard } => {
                let shard = shard % self.rig.shards.len();
                self.rig.turn(shard);
            }
            Op::Mailboxes { batches } => {
                self.rig.mailbox_max = [0, 1, usize::MAX][batches];
            }
            Op::Rest => return self.rest(),
        }
        self.read()
    }

    /// The newest connection of a client that it has not given up.
    fn line(&mut self, who: usize) -> Option<&mut Line> {
        let rig = &mut self.rig;
        self.people[who].lines.iter_mut().rev().find(|line| !line.left && rig.is_open(line.at))
    }

    /// Whether a client waits for its CONNACK.
    fn is_calling(&mut self, who: usize) -> bool {
        who != WILD && self.line(who).is_some_and(|line| !line.connack)
    }

    fn forget_if_ephemeral(&mut self, who: usize) {
        let person = &mut self.people[who];
        if person.lines.iter().any(|line| !line.durable) {
            person.forget();
        }
    }

    fn connect(&mut self, who: usize, shard: usize, ephemeral: bool, clean: bool, window: u8) {
        self.calls += 1;
        let at = self.rig.open(shard % self.rig.shards.len());
        self.rig.speaks(at, V5);
        let window = [1, 3, 128][usize::from(window)];
        let mut properties = PropertyWriter::new();
        properties.session_expiry_interval(if ephemeral { 0 } else { 1_000_000 });
        properties.receive_maximum(window as u16);
        let connect = ConnectOut {
            clean_start: clean,
            client_id: &format!("client-{who}"),
            properties: properties.bytes(),
            ..ConnectOut::default()
        };
        let mut packet = Vec::new();
        encode_connect(&mut packet, V5, &connect);
        let person = &mut self.people[who];
        if clean || person.lines.iter().any(|line| !line.durable) {
            person.forget();
        } else if ephemeral {
            person.resign();
        }
        person.lines.push(Line {
            at,
            number: self.calls,
            durable: !ephemeral,
            window,
            blocked: false,
            connack: false,
            left: false,
            stale: false,
            sent: VecDeque::new(),
            asked: VecDeque::new(),
            acks: VecDeque::new(),
        });
        self.rig.give(at, &packet);
    }

    fn ask(
        &mut self,
        who: usize,
        what: Option<&'static str>,
        encode: impl FnOnce(&mut Vec<u8>, u16),
    ) {
        let packet_id = self.people[who].fresh_id();
        let Some(line) = self.line(who) else { return };
        line.asked.push_back(what);
        let at = line.at;
        let mut packet = Vec::new();
        encode(&mut packet, packet_id);
        self.rig.give(at, &packet);
    }

    fn publish(&mut self, who: usize, topic: &'static str, qos: u8) {
        let qos = if who == WILD { qos.min(1) } else { qos };
        let id = self.next + 1;
        let packet_id = if qos > 0 { self.people[who].fresh_id() } else { 0 };
        let Some(line) = self.line(who) else { return };
        let (at, number) = (line.at, line.number);
        if qos > 0 {
            line.sent.push_back((packet_id, qos, id));
            for person in &mut self.people {
                let matches = |filter: &&str| tidegate_codec::matches(filter, topic);
                if topic != "s" && person.sure.iter().any(|filter| matches(filter)) {
                    person.hoped.insert(id);
                }
            }
        }
        if qos == 2 && who != WILD {
            self.people[who].out.insert(packet_id, (id, topic, false));
        }
        self.next = id;
        self.source.insert(id, number);
        self.rig.give(at, &publish(topic, qos, packet_id, id, false));
    }

    fn acknowledge(&mut self, who: usize, n: usize) {
        for _ in 0..n {
            let Some(line) = self.line(who) else { return };
            let Some((kind, packet_id)) = line.acks.pop_front() else { return };
            let at = line.at;
            if kind != PacketType::Pubrec {
                if let Some(exchange) = self.people[who].open.remove(&packet_id) {
                    self.people[who].done.insert(packet_id, exchange);
                }
                self.people[who].taken.remove(&packet_id);
            }
            self.rig.give(at, &ack(kind, packet_id));
        }
    }

    fn set_room(&mut self, who: usize, room: usize) {
        if let Some(line) = self.line(who) {
            line.blocked = room != usize::MAX;
            let at = line.at;
            self.rig.set_room(at, room);
        }
    }

    /// Reads what came for everybody; a closed connection of a client first,
    /// as its successor spoke only then.
    fn read(&mut self) -> Outcome {
        for who in 0..CLIENTS {
            let count = self.people[who].lines.len();
            for at in 0..count {
                self.read_line(who, at)?;
            }
            let rig = &mut self.rig;
            self.people[who].lines.retain(|line| rig.is_open(line.at));
        }
        Ok(())
    }

    fn read_line(&mut self, who: usize, at: usize) -> Outcome {
        let client = self.people[who].lines[at].at;
        for bytes in self.rig.packets(client) {
            self.packets += 1;
            let frame = frame(&bytes, u32::MAX).ok().flatten().ok_or("not a frame")?;
            let packet = decode(&frame, &bytes, V5, Direction::FromServer)
                .map_err(|error| format!("{bytes:02x?} is no packet: {error}"))?;
            let person = &mut self.people[who];
            match packet {
                Packet::Connack(connack) => {
                    person.lines[at].connack = true;
                    if !connack.session_present {
                        ensure(person.owed.is_empty() && person.sure.is_empty(), || {
                            format!("client-{who}'s session was lost")
                        })?;
                        person.open.clear();
                        person.taken.clear();
                        person.done.clear();
                        person.got.clear();
                        let sent = &person.lines[at].sent;
                        let new = |packet_id| sent.iter().any(|(id, _, _)| *id == packet_id);
                        person.out.retain(|packet_id, _| new(*packet_id));
                        person.latest.clear();
                    }
                    // What is unfinished goes out again, in order.
                    let mut again: Vec<_> = person.out.iter().map(|(p, o)| (*p, *o)).collect();
                    again.sort_by_key(|(_, (id, _, _))| *id);
                    let waiting: BTreeSet<u16> =
                        person.lines[at].sent.iter().map(|(packet_id, _, _)| *packet_id).collect();
                    for (packet_id, (id, topic, received)) in again {
                        if waiting.contains(&packet_id) {
                            continue; // it was sent ahead of the CONNACK
                        }
                        if received {
                            self.rig.give(client, &ack(PacketType::Pubrel, packet_id));
                        } else {
                            self.people[who].lines[at].sent.push_back((packet_id, 2, id));
                            self.rig.give(client, &publish(topic, 2, packet_id, id, true));
                        }
                    }
                }
                Packet::Suback(_) | Packet::Unsuback(_) => {
                    let asked = person.lines[at].asked.pop_front();
                    let asked = asked.ok_or("an answer that nobody asked for")?;
                    let last = at + 1 == person.lines.len();
                    if let Some(filter) = asked
                        && !person.lines[at].stale
                        && last
                        && who != WILD
                        && person.lines[at].durable
                    {
                        person.sure.insert(filter);
                    }
                }
                Packet::Puback(ack_in) | Packet::Pubrec(ack_in) => {
                    let qos = if matches!(packet, Packet::Puback(_)) { 1 } else { 2 };
                    let first = person.lines[at].sent.pop_front();
                    let Some((packet_id, sent_qos, id)) = first else {
                        return Err(format!("client-{who}: {ack_in:?} for nothing"));
                    };
                    ensure((packet_id, sent_qos) == (ack_in.packet_id, qos), || {
                        format!("ACK-2: client-{who} got {ack_in:?} instead of {packet_id}")
                    })?;
                    if qos == 2 {
                        if let Some((_, _, received)) = person.out.get_mut(&packet_id) {
                            *received = true;
                        }
                        self.rig.give(client, &ack(PacketType::Pubrel, packet_id));
                    }
                    for person in &mut self.people {
                        if person.hoped.remove(&id) {
                            person.owed.insert(id);
                        }
                    }
                }
                Packet::Pubcomp(ack) => {
                    person.out.remove(&ack.packet_id);
                }
                Packet::Pubrel(ack) => {
                    let done = person.done.get(&ack.packet_id).is_some_and(|(_, qos)| *qos == 2);
                    let stale = person.lines[at].stale;
                    let taken = person.taken.contains(&ack.packet_id) || done || stale;
                    ensure(who == WILD || taken, || {
                        format!("client-{who}: a PUBREL for {}, not taken", ack.packet_id)
                    })?;
                    let line = &mut person.lines[at];
                    line.acks.retain(|(_, owed)| *owed != ack.packet_id);
                    line.acks.push_back((PacketType::Pubcomp, ack.packet_id));
                }
                Packet::Publish(message) => {
                    let id = message.payload.try_into().map(Id::from_be_bytes);
                    let id = id.map_err(|_| "a payload that nobody sent")?;
                    let qos = message.qos as u8;
                    let topic = message.topic.to_owned();
                    let alias = message.properties.topic_alias;
                    let (packet_id, dup) = (message.packet_id, message.dup);
                    let _ = alias;
                    self.take(who, at, id, qos, topic, packet_id, dup)?;
                }
                Packet::Disconnect(_) => {}
                other => return Err(format!("unexpected {other:?}")),
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        who: usize,
        at: usize,
        id: Id,
        qos: u8,
        topic: String,
        packet_id: u16,
        dup: bool,
    ) -> Outcome {
        let source = *self.source.get(&id).ok_or("a message that nobody sent")?;
        let person = &mut self.people[who];
        let line = &mut person.lines[at];
        if line.stale {
            return Ok(());
        }
        if qos > 0 {
            let kind = if qos == 1 { PacketType::Puback } else { PacketType::Pubrec };
            let known = person.open.get(&packet_id).copied().filter(|_| who != WILD);
            if let Some(known) = known {
                ensure(dup && known == (id, qos), || {
                    format!("client-{who}: id {packet_id} is owed for {known:?}, given to {id}")
                })?;
                line.acks.retain(|(_, owed)| *owed != packet_id);
            }
            line.acks.push_back((kind, packet_id));
            let over = line.acks.len() > line.window;
            ensure(!over || who == WILD, || format!("client-{who}: over the window"))?;
            let done = person.done.get(&packet_id) == Some(&(id, qos)) && dup && qos == 1;
            if known.is_some() || done {
                return Ok(());
            }
            person.open.insert(packet_id, (id, qos));
            if qos == 2 {
                person.taken.insert(packet_id);
            }
        }
        if topic == "s" || who == WILD {
            return Ok(());
        }
        ensure(person.got.insert(id), || format!("client-{who} got {id} twice"))?;
        person.owed.remove(&id);
        person.hoped.remove(&id);
        let latest = person.latest.entry((source, topic, qos)).or_default();
        ensure(*latest < id, || format!("ORD-1: client-{who} got {id} after {latest}"))?;
        *latest = id;
        Ok(())
    }

    /// Lets everything come to rest, with all mailboxes open.
    fn rest(&mut self) -> Outcome {
        self.rig.mailbox_max = usize::MAX;
        for _ in 0..1_000 {
            self.rig.held = false;
            self.rig.run();
            self.rig.held = true;
            let before = self.packets;
            self.read()?;
            if before == self.packets {
                break;
            }
        }
        self.check()
    }

    fn check(&mut self) -> Outcome {
        let (mut online, mut durable) = (0, 0);
        for (who, person) in self.people.iter().enumerate() {
            ensure(person.lines.len() <= 1, || format!("OWN-1: client-{who} has two"))?;
            for line in &person.lines {
                online += 1;
                durable += u64::from(line.durable);
                if line.blocked {
                    continue;
                }
                ensure(line.connack, || format!("client-{who} waits for CONNACK"))?;
                ensure(!self.rig.is_paused(line.at), || format!("client-{who} is not read"))?;
                ensure(line.sent.is_empty() && line.asked.is_empty(), || {
                    format!("client-{who} waits for {:?} {:?}", line.sent, line.asked)
                })?;
            }
        }
        let node = &self.rig.node;
        let sum = |pick: &dyn Fn(&Counters) -> u64| -> u64 {
            node.counters.iter().map(pick).fold(0, u64::wrapping_add)
        };
        use std::sync::atomic::Ordering::Relaxed;
        let sessions = node.totals.sessions.load(Relaxed);
        let incoming: u64 = sum(&|c| c.inflight[0].value());
        let gauges = [
            ("sockets", self.rig.sockets() as u64, online),
            ("connections", sum(&|c| c.connections.value()), online),
            ("half open", sum(&|c| c.half_open.value()), 0),
            ("half open in all", node.totals.half_open.load(Relaxed), 0),
            ("connections in all", node.totals.connections.load(Relaxed), online),
            ("online", sum(&|c| c.sessions_online.value()), online),
            ("outboxes", self.rig.shards.iter().map(|s| s.outbox_depth() as u64).sum(), 0),
            (
                "subscriptions",
                sum(&|c| c.subscriptions.iter().map(|s| s.value()).fold(0, u64::wrapping_add)),
                node.index.len() as u64,
            ),
            ("dropped by a full queue", sum(&|c| c.messages_dropped[0].value()), 0),
        ];
        for (name, is, should) in gauges {
            ensure(is == should, || format!("gauge '{name}' is {is}, should be {should}"))?;
        }
        // A session may be resumed for the last time, with an expiry of 0.
        let offline = sum(&|c| c.sessions_offline.value());
        let connected = sessions.wrapping_sub(offline);
        ensure((durable..=online).contains(&connected), || {
            format!("{offline} offline of {sessions}, with {durable} to {online} connected")
        })?;
        ensure(incoming < 1 << 40, || "unreleased messages wrap".into())
    }

    /// Everybody comes back, reads and acknowledges everything.
    pub fn finish(&mut self) -> Outcome {
        self.rest()?;
        for who in 0..CLIENTS {
            self.connect(who, who, false, false, 2);
            self.rest()?;
        }
        for _ in 0..1_000 {
            for who in 0..CLIENTS {
                self.acknowledge(who, 10);
            }
            self.rest()?;
            if self.people.iter().flat_map(|p| &p.lines).all(|line| line.acks.is_empty()) {
                break;
            }
        }
        for (who, person) in self.people.iter().enumerate() {
            ensure(person.owed.is_empty(), || {
                format!("QOS-1: client-{who} never got {:?}", person.owed)
            })?;
            ensure(person.out.is_empty() && (person.open.is_empty() || who == WILD), || {
                format!("client-{who} never finished {:?} {:?}", person.out, person.open)
            })?;
        }
        let counters = &self.rig.node.counters;
        let sum = |pick: &dyn Fn(&Counters) -> u64| -> u64 {
            counters.iter().map(pick).fold(0, u64::wrapping_add)
        };
        let left = [
            sum(&|c| c.inflight[0].value()),
            sum(&|c| c.inflight[1].value()),
            sum(&|c| c.queued_messages.value()),
            sum(&|c| c.queued_bytes.value()),
        ];
        ensure(left == [0; 4], || format!("all is acknowledged, and gauges are {left:?}"))
    }
}

impl Person {
    fn fresh_id(&mut self) -> u16 {
        self.packet_id = self.packet_id % 60_000 + 1;
        self.packet_id
    }

    /// Its session is over.
    fn forget(&mut self) {
        self.resign();
        let Person { got, open, taken, done, out, latest, .. } = self;
        (got.clear(), open.clear(), taken.clear(), done.clear(), out.clear(), latest.clear());
        self.lines.iter_mut().for_each(|line| line.stale = true);
    }

    /// Its session may end from now on: nothing more is sure.
    fn resign(&mut self) {
        let Person { sure, hoped, owed, .. } = self;
        (sure.clear(), hoped.clear(), owed.clear());
        for line in &mut self.lines {
            line.asked.iter_mut().for_each(|asked| *asked = None);
        }
    }
}

fn publish(topic: &str, qos: u8, packet_id: u16, id: Id, dup: bool) -> Vec<u8> {
    let packet = PublishOut {
        dup,
        qos: QoS::try_from(qos).expect("0 to 2"),
        retain: false,
        topic,
        packet_id,
        topic_alias: None,
        message_expiry: None,
        subscription_ids: &[],
        forward: &[],
        payload_len: 4,
    };
    let mut bytes = Vec::new();
    encode_publish(&mut bytes, V5, &packet, &id.to_be_bytes());
    bytes
}

fn ack(kind: PacketType, packet_id: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    encode_ack(&mut packet, V5, kind, packet_id, ReasonCode::Success, None);
    packet
}
