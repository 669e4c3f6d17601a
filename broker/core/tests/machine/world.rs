//! The clients of the state machine, and the checks after each step.

use std::collections::{BTreeMap, VecDeque};

use tidegate_codec::{
    ConnectOut, Direction, Packet, PacketType, PropertyWriter, PublishOut, QoS, ReasonCode,
    SubscribeOptions, Version, WillOut, decode, encode_ack, encode_connect, encode_publish,
    encode_subscribe, encode_unsubscribe, frame,
};
use tidegate_core::limits::Limits;
use tidegate_core::settings::Settings;

use super::model::{GROUP, Id, Model, Person, Session, Subscription, Will};
use super::rig::{Client, Rig};

pub const CLIENTS: usize = 6;
pub const FILTERS: [&str; 7] = ["a", "a/b", "a/+", "a/#", "+/b", "b", GROUP];
pub const TOPICS: [&str; 6] = ["a", "a/b", "b", "b/b", "s/1", "s/2"];

type Outcome = Result<(), String>;

#[derive(Clone, Debug)]
pub enum Op {
    Connect {
        who: usize,
        shard: usize,
        v5: bool,
        clean: bool,
        expiry: u32,
        will: Option<u8>,
        window: u8,
    },
    Abort {
        who: usize,
    },
    Disconnect {
        who: usize,
    },
    Subscribe {
        who: usize,
        filter: usize,
        qos: u8,
        no_local: bool,
    },
    Unsubscribe {
        who: usize,
        filter: usize,
    },
    Publish {
        who: usize,
        topic: usize,
        qos: u8,
        retain: u8,
    },
    Acknowledge {
        who: usize,
        n: usize,
    },
    Block {
        who: usize,
        room: usize,
    },
    Unblock {
        who: usize,
    },
    Advance {
        ms: u64,
    },
    /// The state of a partition is written.
    Write {
        partition: u8,
    },
    /// All states are, and what nobody needs any more is given up.
    Compact,
    /// The node ends, and starts again with so many shards.
    Crash {
        shards: u16,
    },
}

/// What a client has of its connection.
struct Line {
    at: Client,
    version: Version,
    window: usize,
    blocked: bool,
    /// Acknowledgements the client has still to send.
    acks: VecDeque<(PacketType, u16)>,
    /// Publishes of the client that wait for PUBACK or PUBREC, in order.
    sent: VecDeque<(u16, u8)>,
    packet_id: u16,
    connack: Option<bool>,
    subacks: usize,
}

pub struct World {
    rig: Rig,
    model: Model,
    lines: Vec<Option<Line>>,
    next: Id,
    shared_got: BTreeMap<Id, u32>,
    /// Connections made so far.
    calls: u32,
    /// What the clocks of earlier starts showed at their end.
    clock: u64,
}

fn ensure(holds: bool, fault: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(fault()) }
}

impl World {
    /// Of a node whose state is memory alone.
    pub fn new(shards: u16) -> World {
        World::of(|settings| Rig::new(shards, settings))
    }

    /// Of a node whose state is written.
    pub fn kept(shards: u16) -> World {
        World::of(|settings| Rig::kept(shards, settings))
    }

    fn of(rig: impl FnOnce(Settings) -> Rig) -> World {
        let limits = Limits {
            queue_messages_max: 1_000_000,
            queue_bytes_max: u64::MAX / 2,
            ..Limits::default()
        };
        let settings = Settings { limits, ..Settings::default() };
        World {
            rig: rig(settings),
            model: Model {
                people: (0..CLIENTS).map(|_| Person::default()).collect(),
                ..Model::default()
            },
            lines: (0..CLIENTS).map(|_| None).collect(),
            next: 0,
            shared_got: BTreeMap::new(),
            calls: 0,
            clock: 0,
        }
    }

    /// The time, over all starts.
    fn now(&self) -> u64 {
        self.clock + self.rig.now
    }

    fn fresh(&mut self) -> Id {
        self.next += 1;
        self.next
    }

    pub fn apply(&mut self, op: &Op) -> Outcome {
        for (person, line) in self.model.people.iter_mut().zip(&self.lines) {
            if let Some(session) = &mut person.session {
                session.held_up = line
                    .as_ref()
                    .is_none_or(|line| line.blocked || session.open.len() >= line.window);
            }
        }
        match *op {
            Op::Connect { who, shard, v5, clean, expiry, will, window } => {
                self.connect(who, shard, v5, clean, expiry, will, window)?;
            }
            Op::Abort { who } => {
                if let Some(line) = self.lines[who].take() {
                    let now = self.now();
                    self.model.disconnect(who, now, false, None);
                    self.rig.abort(line.at);
                }
            }
            Op::Disconnect { who } => {
                if let Some(line) = self.lines[who].take() {
                    let now = self.now();
                    self.model.disconnect(who, now, true, None);
                    self.rig.send(line.at, &[0xE0, 0]);
                }
            }
            Op::Subscribe { who, filter, qos, no_local } => {
                self.subscribe(who, FILTERS[filter], qos, no_local);
            }
            Op::Unsubscribe { who, filter } => self.unsubscribe(who, FILTERS[filter]),
            Op::Publish { who, topic, qos, retain } => {
                self.publish(who, TOPICS[topic], qos, retain == 0);
            }
            Op::Acknowledge { who, n } => self.acknowledge(who, n),
            Op::Block { who, room } => {
                if let Some(line) = &mut self.lines[who] {
                    line.blocked = true;
                    self.rig.set_room(line.at, room);
                }
            }
            Op::Unblock { who } => {
                if let Some(line) = &mut self.lines[who] {
                    line.blocked = false;
                    self.rig.set_room(line.at, usize::MAX);
                }
            }
            Op::Advance { ms } => {
                self.model.advance(self.now() + ms);
                self.rig.advance(ms);
            }
            Op::Write { partition } => self.rig.write_state(partition),
            Op::Compact => self.rig.compact(),
            Op::Crash { shards } => {
                let before = self.rig.now;
                self.lines.iter_mut().for_each(|line| *line = None);
                self.model.crash(self.now());
                self.rig.crash(shards, 0);
                self.clock += before - self.rig.now;
            }
        }
        self.check()
    }

    fn connect(
        &mut self,
        who: usize,
        shard: usize,
        v5: bool,
        clean: bool,
        expiry: u32,
        will: Option<u8>,
        window: u8,
    ) -> Outcome {
        let old = self.lines[who].take();
        self.calls += 1;
        let version = if v5 { Version::V5 } else { Version::V3_1_1 };
        let will = will.map(|bits| Will {
            id: self.fresh(),
            qos: bits % 3,
            delay: if v5 { u32::from(bits / 3 % 4) } else { 0 },
        });
        let expiry = match (v5, clean) {
            (true, _) => expiry,
            (false, true) => 0,
            (false, false) => u32::MAX,
        };
        let window = match window {
            0 if v5 => 1,
            1 if v5 => 3,
            _ => 128,
        };
        let now = self.now();
        let present = self.model.connect(who, now, clean, expiry);
        self.model.people[who].will = will;
        let at = self.rig.open(shard % self.rig.shards.len());
        self.rig.speaks(at, version);
        let mut packet = Vec::new();
        let mut properties = PropertyWriter::new();
        properties.session_expiry_interval(expiry);
        if window != 128 {
            properties.receive_maximum(window as u16);
        }
        let payload = will.map(|w| w.id.to_be_bytes()).unwrap_or_default();
        let mut will_properties = PropertyWriter::new();
        if let Some(will) = will {
            will_properties.will_delay_interval(will.delay);
        }
        let connect = ConnectOut {
            clean_start: clean,
            client_id: &format!("client-{who}"),
            will: will.map(|will| WillOut {
                topic: "a/b",
                payload: &payload,
                qos: QoS::try_from(will.qos).expect("0 to 2"),
                retain: false,
                properties: will_properties.bytes(),
            }),
            properties: properties.bytes(),
            ..ConnectOut::default()
        };
        encode_connect(&mut packet, version, &connect);
        self.lines[who] = Some(Line {
            at,
            version,
            window,
            blocked: false,
            acks: VecDeque::new(),
            sent: VecDeque::new(),
            // Unfinished exchanges of earlier connections keep their ids.
            packet_id: (self.calls * 500 % 60_000) as u16,
            connack: None,
            subacks: 0,
        });
        self.rig.send(at, &packet);
        if let Some(old) = old {
            ensure(!self.rig.is_open(old.at), || "OWN-1: the old connection lives on".into())?;
        }
        self.read(who)?;
        let line = self.lines[who].as_ref().ok_or("the connection was lost")?;
        ensure(line.connack == Some(present), || {
            format!("Session Present is {:?}, should be {present}", line.connack)
        })
    }

    fn subscribe(&mut self, who: usize, filter: &'static str, qos: u8, no_local: bool) {
        let Some(line) = &mut self.lines[who] else { return };
        let no_local = no_local && line.version == Version::V5 && filter != GROUP;
        let options = SubscribeOptions {
            no_local,
            ..SubscribeOptions::at(QoS::try_from(qos).expect("0 to 2"))
        };
        let mut packet = Vec::new();
        line.packet_id = line.packet_id % 60_000 + 1;
        line.subacks += 1;
        encode_subscribe(&mut packet, line.version, line.packet_id, &[(filter, options)], &[]);
        let at = line.at;
        let Some(session) = &mut self.model.people[who].session else { return };
        session.subscriptions.insert(filter, Subscription { qos, no_local });
        if filter != GROUP {
            if session.held_up {
                // One replay for two SUBSCRIBEs if the first has not begun.
                session.maybe_retained.append(&mut session.retained);
            }
            for (topic, (id, stored, from)) in &self.model.retained {
                if tidegate_codec::matches(filter, topic) && !(no_local && *from == who) {
                    session.retained.push((*id, qos.min(*stored)));
                }
            }
        }
        self.rig.send(at, &packet);
    }

    fn unsubscribe(&mut self, who: usize, filter: &'static str) {
        let Some(line) = &mut self.lines[who] else { return };
        let mut packet = Vec::new();
        line.packet_id = line.packet_id % 60_000 + 1;
        line.subacks += 1;
        encode_unsubscribe(&mut packet, line.version, line.packet_id, &[filter], &[]);
        let at = line.at;
        if let Some(session) = &mut self.model.people[who].session {
            let had = session.subscriptions.remove(filter).is_some();
            if session.held_up {
                // A replay that has found nothing yet finds nothing any more.
                session.maybe_retained.append(&mut session.retained);
                session.loose = true;
            }
            if had && filter == GROUP {
                self.model.member_left();
            }
        }
        self.rig.send(at, &packet);
    }

    fn publish(&mut self, who: usize, topic: &'static str, qos: u8, retain: bool) {
        let id = self.next + 1;
        let Some(line) = &mut self.lines[who] else { return };
        self.next = id;
        let mut packet_id = 0;
        if qos > 0 {
            line.packet_id = line.packet_id % 60_000 + 1;
            packet_id = line.packet_id;
            line.sent.push_back((packet_id, qos));
        }
        let packet = PublishOut {
            dup: false,
            qos: QoS::try_from(qos).expect("0 to 2"),
            retain,
            topic,
            packet_id,
            topic_alias: None,
            message_expiry: None,
            subscription_ids: &[],
            forward: &[],
            payload_len: 4,
        };
        let mut bytes = Vec::new();
        encode_publish(&mut bytes, line.version, &packet, &id.to_be_bytes());
        let at = line.at;
        self.model.publish(who, topic, id, qos, retain);
        self.rig.send(at, &bytes);
    }

    /// The client sends some of the acknowledgements that it owes.
    fn acknowledge(&mut self, who: usize, n: usize) {
        for _ in 0..n {
            let Some(line) = &mut self.lines[who] else { return };
            let Some((kind, packet_id)) = line.acks.pop_front() else { return };
            let mut packet = Vec::new();
            encode_ack(&mut packet, line.version, kind, packet_id, ReasonCode::Success, None);
            let at = line.at;
            if kind != PacketType::Pubrec
                && let Some(session) = &mut self.model.people[who].session
            {
                session.open.remove(&packet_id);
                session.taken.remove(&packet_id);
            }
            self.rig.send(at, &packet);
        }
    }

    /// Reads all that came for a client, and holds it against the model.
    fn read(&mut self, who: usize) -> Outcome {
        let Some(line) = &mut self.lines[who] else { return Ok(()) };
        let version = line.version;
        for bytes in self.rig.packets(line.at) {
            let frame = frame(&bytes, u32::MAX).ok().flatten().ok_or("not a frame")?;
            let packet = decode(&frame, &bytes, version, Direction::FromServer)
                .map_err(|error| format!("{bytes:02x?} is no packet: {error}"))?;
            let line = self.lines[who].as_mut().ok_or("no connection")?;
            let Model { people, will_ids, .. } = &mut self.model;
            let session = people[who].session.as_mut();
            match packet {
                Packet::Connack(connack) => line.connack = Some(connack.session_present),
                Packet::Suback(_) | Packet::Unsuback(_) => line.subacks -= 1,
                Packet::Puback(ack) | Packet::Pubrec(ack) => {
                    let qos = if matches!(packet, Packet::Puback(_)) { 1 } else { 2 };
                    let first = line.sent.pop_front();
                    ensure(first == Some((ack.packet_id, qos)), || {
                        format!("ACK-2: {} at QoS {qos} instead of {first:?}", ack.packet_id)
                    })?;
                    if qos == 2 {
                        // Our own publish: released at once, in order.
                        line.acks.push_front((PacketType::Pubrel, ack.packet_id));
                    }
                }
                Packet::Pubcomp(_) => {}
                Packet::Pubrel(ack) => {
                    let session = session.ok_or("a PUBREL without a session")?;
                    ensure(session.taken.contains(&ack.packet_id), || {
                        format!("a PUBREL for {}, which was not taken", ack.packet_id)
                    })?;
                    line.acks.push_back((PacketType::Pubcomp, ack.packet_id));
                }
                Packet::Publish(publish) => {
                    let session = session.ok_or("a PUBLISH without a session")?;
                    let id = publish.payload.try_into().map(Id::from_be_bytes);
                    let id = id.map_err(|_| "a payload that nobody sent")?;
                    let qos = publish.qos as u8;
                    if qos == 0 {
                        if publish.topic.starts_with("s/") {
                            *self.shared_got.entry(id).or_default() += 1;
                        } else if publish.retain {
                            take(session, (id, 0))?;
                        } else if will_ids.contains(&id) {
                            once(&mut session.wills, (id, 0))?;
                        } else {
                            session.got0.push(id);
                        }
                        continue;
                    }
                    let packet_id = publish.packet_id;
                    let ack = if qos == 1 { PacketType::Puback } else { PacketType::Pubrec };
                    if let Some(&known) = session.open.get(&packet_id) {
                        ensure(publish.dup && known == (id, qos), || {
                            format!("packet id {packet_id} is owed for {known:?} and given to {id}")
                        })?;
                        line.acks.retain(|(_, owed)| *owed != packet_id);
                        line.acks.push_back((ack, packet_id));
                        continue;
                    }
                    session.open.insert(packet_id, (id, qos));
                    if qos == 2 {
                        session.taken.insert(packet_id);
                    }
                    line.acks.push_back((ack, packet_id));
                    if publish.topic.starts_with("s/") {
                        *self.shared_got.entry(id).or_default() += 1;
                    } else if publish.retain {
                        take(session, (id, qos))?;
                    } else if will_ids.contains(&id) {
                        once(&mut session.wills, (id, qos))?;
                    } else {
                        session.got.push((id, qos));
                    }
                    ensure(session.open.len() <= line.window, || "the window is exceeded".into())?;
                }
                other => return Err(format!("unexpected {other:?}")),
            }
        }
        // PUBREL of our own exchanges at once: they hold nothing up.
        while let Some(line) = &mut self.lines[who]
            && let Some(&(PacketType::Pubrel, packet_id)) = line.acks.front()
        {
            line.acks.pop_front();
            let mut packet = Vec::new();
            let (version, at) = (line.version, line.at);
            encode_ack(
                &mut packet,
                version,
                PacketType::Pubrel,
                packet_id,
                ReasonCode::Success,
                None,
            );
            self.rig.send(at, &packet);
        }
        Ok(())
    }

    fn check(&mut self) -> Outcome {
        for who in 0..CLIENTS {
            self.read(who)?;
        }
        for (who, person) in self.model.people.iter().enumerate() {
            let Some(session) = &person.session else { continue };
            let line = self.lines[who].as_ref();
            ensure(session.owed.starts_with(&session.got), || {
                format!("client-{who} got {:?} of {:?}", session.got, session.owed)
            })?;
            ensure(session.owed0.starts_with(&session.got0), || {
                format!("client-{who} got {:?} of QoS 0 {:?}", session.got0, session.owed0)
            })?;
            let Some(line) = line else { continue };
            ensure(self.rig.is_open(line.at), || format!("client-{who} was closed"))?;
            if line.blocked {
                continue;
            }
            ensure(line.sent.is_empty(), || format!("unacknowledged: {:?}", line.sent))?;
            ensure(line.subacks == 0, || "a SUBACK is missing".into())?;
            ensure(session.owed0 == session.got0, || {
                format!("client-{who} got {:?} of QoS 0 {:?}", session.got0, session.owed0)
            })?;
            if session.open.len() < line.window {
                ensure(session.owed == session.got, || {
                    format!(
                        "client-{who} has room, and got {:?} of {:?}",
                        session.got, session.owed
                    )
                })?;
                ensure(session.wills.is_empty(), || {
                    format!("client-{who} has room, and lacks wills {:?}", session.wills)
                })?;
                ensure(session.retained.is_empty(), || {
                    format!("client-{who} has room, and lacks retained {:?}", session.retained)
                })?;
            }
        }
        self.check_shared()?;
        self.check_gauges()
    }

    fn check_shared(&self) -> Outcome {
        for (id, most) in &self.model.shared {
            let got = self.shared_got.get(id).copied().unwrap_or(0);
            ensure(got <= *most, || format!("shared {id} was delivered {got} times of {most}"))?;
        }
        Ok(())
    }

    fn check_gauges(&self) -> Outcome {
        let node = &self.rig.node;
        let sum = |pick: &dyn Fn(&tidegate_core::counters::Counters) -> u64| -> u64 {
            node.counters.iter().map(pick).fold(0, u64::wrapping_add)
        };
        let online = self.model.people.iter().filter(|p| p.online).count() as u64;
        let offline =
            self.model.people.iter().filter(|p| !p.online && p.session.is_some()).count() as u64;
        let subscriptions: usize = self
            .model
            .people
            .iter()
            .filter_map(|p| p.session.as_ref())
            .map(|s| s.subscriptions.len())
            .sum();
        let gauges = [
            ("connections", sum(&|c| c.connections.value()), online),
            ("half open", sum(&|c| c.half_open.value()), 0),
            ("online", sum(&|c| c.sessions_online.value()), online),
            ("offline", sum(&|c| c.sessions_offline.value()), offline),
            (
                "subscriptions",
                sum(&|c| c.subscriptions.iter().map(|s| s.value()).sum()),
                subscriptions as u64,
            ),
            ("wills sent", sum(&|c| c.wills[0].value()), self.model.wills_fired),
            ("retained", sum(&|c| c.retained_messages.value()), self.model.retained.len() as u64),
            ("dropped by a full queue", sum(&|c| c.messages_dropped[0].value()), 0),
        ];
        for (name, is, should) in gauges {
            ensure(is == should, || format!("gauge '{name}' is {is}, should be {should}"))?;
        }
        Ok(())
    }

    /// Everybody comes back, reads and acknowledges everything: then all that
    /// was owed has come.
    pub fn finish(&mut self) -> Outcome {
        for who in 0..CLIENTS {
            let durable =
                self.model.people[who].session.as_ref().is_some_and(|session| session.expiry > 0);
            if durable {
                self.connect(who, 0, true, false, 100, None, 2)?;
            } else if let Some(line) = &mut self.lines[who] {
                line.blocked = false;
                self.rig.set_room(line.at, usize::MAX);
            }
        }
        for _ in 0..10_000 {
            self.check()?;
            let before: usize = self.lines.iter().flatten().map(|line| line.acks.len()).sum();
            if before == 0 {
                break;
            }
            for who in 0..CLIENTS {
                self.acknowledge(who, 100);
            }
        }
        for (who, person) in self.model.people.iter().enumerate() {
            let Some(session) = &person.session else { continue };
            ensure(session.owed == session.got, || {
                format!("at the end client-{who} got {:?} of {:?}", session.got, session.owed)
            })?;
            ensure(session.open.is_empty(), || format!("never finished: {:?}", session.open))?;
        }
        let inflight: u64 =
            self.rig.node.counters.iter().map(|c| c.inflight[1].value()).fold(0, u64::wrapping_add);
        let queued: u64 = self
            .rig
            .node
            .counters
            .iter()
            .map(|c| c.queued_messages.value())
            .fold(0, u64::wrapping_add);
        ensure(inflight == 0 && queued == 0, || {
            format!("all is acknowledged, and {inflight} are in flight, {queued} queued")
        })?;
        self.check_shared()
    }
}

fn once(pending: &mut Vec<(Id, u8)>, one: (Id, u8)) -> Outcome {
    let at = pending.iter().position(|other| *other == one);
    let at = at.ok_or_else(|| format!("will {one:?} came, which is not owed"))?;
    pending.remove(at);
    Ok(())
}

fn take(session: &mut Session, one: (Id, u8)) -> Outcome {
    if let Some(at) = session.retained.iter().position(|other| *other == one) {
        session.retained.remove(at);
        return Ok(());
    }
    // Several replays may wait at once, so these may come more than once.
    if session.loose || session.maybe_retained.contains(&one) {
        return Ok(());
    }
    Err(format!("retained {one:?} came, which nobody asked for"))
}
