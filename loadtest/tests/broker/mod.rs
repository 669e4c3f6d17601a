//! A broker of threads, small enough to believe, that breaks promises on purpose.
//!
//! It delivers at QoS 1 whatever was asked for, keeps sessions that ask for it, and has as many
//! doors as a test wants: they lead to the same sessions, as the nodes of a cluster do.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use tidegate_codec::{
    ConnackOut, Direction, Packet, PacketType, PublishOut, QoS, ReasonCode, Version, decode,
    decode_connect, encode_ack, encode_connack, encode_disconnect, encode_pingresp, encode_publish,
    encode_suback, encode_unsuback, frame, matches,
};

const PACKET_BYTES_MAX: u32 = 1 << 20;

/// What goes wrong: one of so many. 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Acknowledged and forgotten.
    pub(crate) lose_every: u64,
    /// Delivered twice.
    pub(crate) repeat_every: u64,
    /// Delivered after the next one.
    pub(crate) delay_every: u64,
    /// A byte of the identity is flipped.
    pub(crate) damage_every: u64,
    /// A message to a group goes to two of its members.
    pub(crate) share_twice_every: u64,
    /// A retained message is acknowledged and not kept.
    pub(crate) retain_not_every: u64,
    /// A retained message outlives its end.
    pub(crate) clear_not_every: u64,
    /// A session that comes back has lost the first message that came while it was away.
    pub(crate) lose_at_return: bool,
    /// Nobody's session is kept.
    pub(crate) forget_sessions: bool,
    /// The first connection of a client lives on beside its second.
    pub(crate) keep_old: bool,
    /// No PINGREQ is answered.
    pub(crate) deaf: bool,
    /// Of a client's first connection nobody says 0x8E.
    pub(crate) silent_takeover: bool,
}

/// How often it did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Done {
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) delayed: u64,
    pub(crate) damaged: u64,
    pub(crate) shared_twice: u64,
    pub(crate) not_retained: u64,
    pub(crate) not_cleared: u64,
    pub(crate) lost_at_return: u64,
}

#[derive(Default)]
struct Session {
    version: Option<Version>,
    durable: bool,
    subscriptions: Vec<String>,
    /// The number of its connection, the door it came in by, and its end of the line.
    line: Option<(u64, usize, TcpStream)>,
    next_id: u16,
    /// Packet id, topic, payload, and whether it came while the session was away.
    waiting: VecDeque<(u16, String, Vec<u8>, bool)>,
    deliveries: u64,
    held: Option<(String, Vec<u8>)>,
}

#[derive(Default)]
struct State {
    faults: Faults,
    done: Done,
    sessions: HashMap<String, Session>,
    retained: HashMap<String, Vec<u8>>,
    lines: u64,
    shared: u64,
    published: u64,
    sets: u64,
    clears: u64,
    /// Doors that are shut, and where who knocks is sent.
    shut: Vec<Option<SocketAddr>>,
}

/// It runs until the test ends.
pub(crate) struct Broker {
    pub(crate) addr: SocketAddr,
    pub(crate) doors: Vec<SocketAddr>,
    state: Arc<Mutex<State>>,
}

impl Broker {
    pub(crate) fn start(faults: Faults) -> Self {
        Self::with_doors(faults, 1)
    }

    pub(crate) fn with_doors(faults: Faults, count: usize) -> Self {
        let state = State { faults, shut: vec![None; count], ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let mut doors = Vec::new();
        for door in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            doors.push(listener.local_addr().expect("bound"));
            let state = Arc::clone(&state);
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let state = Arc::clone(&state);
                    thread::spawn(move || serve(&state, door, stream));
                }
            });
        }
        Self { addr: doors[0], doors, state }
    }

    pub(crate) fn done(&self) -> Done {
        self.lock().done
    }

    /// Until so many messages were published.
    pub(crate) fn wait_for(&self, published: u64) {
        while self.lock().published < published {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// All connections end without a word, as if the machine had lost its power.
    pub(crate) fn cut(&self) {
        for session in self.lock().sessions.values_mut() {
            session.hang_up();
        }
    }

    /// A door is shut: who came in by it is told where to go instead, and so is who knocks.
    pub(crate) fn drain(&self, door: usize, to: Option<usize>) {
        let to = to.map(|to| self.doors[to]);
        let mut state = self.lock();
        state.shut[door] = Some(to.unwrap_or(self.doors[door]));
        for session in state.sessions.values_mut() {
            if session.line.as_ref().is_none_or(|line| line.1 != door) {
                continue;
            }
            if session.version == Some(Version::V5) {
                let mut farewell = Vec::new();
                let (reason, text) = match to {
                    Some(to) => (ReasonCode::ServerMoved, Some(to.to_string())),
                    None => (ReasonCode::ServerShuttingDown, None),
                };
                encode_disconnect(&mut farewell, reason, None, None, text.as_deref());
                session.write(&farewell);
            }
            session.hang_up();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }
}

impl Session {
    fn write(&self, bytes: &[u8]) {
        if let Some((_, _, stream)) = &self.line {
            // Who is gone comes back, or does not.
            let _ = (&mut &*stream).write_all(bytes);
        }
    }

    fn hang_up(&mut self) {
        if let Some((_, _, stream)) = self.line.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn deliver(&mut self, faults: &Faults, done: &mut Done, topic: &str, payload: &[u8]) {
        self.deliveries += 1;
        let number = self.deliveries;
        if turn(faults.lose_every, number) {
            done.lost += 1;
            return;
        }
        if turn(faults.delay_every, number) && self.held.is_none() {
            self.held = Some((topic.to_owned(), payload.to_vec()));
            return;
        }
        if turn(faults.damage_every, number) {
            done.damaged += 1;
            let mut changed = payload.to_vec();
            changed[20] ^= 1;
            return self.send(topic, &changed, false);
        }
        self.send(topic, payload, false);
        if turn(faults.repeat_every, number) {
            done.repeated += 1;
            self.send(topic, payload, false);
        }
        if let Some((topic, payload)) = self.held.take() {
            done.delayed += 1;
            self.send(&topic, &payload, false);
        }
    }

    fn send(&mut self, topic: &str, payload: &[u8], retain: bool) {
        self.next_id = self.next_id % 60_000 + 1;
        self.publish(self.next_id, topic, payload, (false, retain));
        let away = self.line.is_none();
        self.waiting.push_back((self.next_id, topic.to_owned(), payload.to_vec(), away));
    }

    fn publish(&self, packet_id: u16, topic: &str, payload: &[u8], (dup, retain): (bool, bool)) {
        let publish = PublishOut {
            dup,
            retain,
            qos: QoS::AtLeastOnce,
            topic,
            packet_id,
            payload_len: payload.len(),
            ..PublishOut::default()
        };
        let mut bytes = Vec::new();
        encode_publish(&mut bytes, self.version.expect("connected once"), &publish, payload);
        self.write(&bytes);
    }
}

fn turn(every: u64, number: u64) -> bool {
    every > 0 && number.is_multiple_of(every)
}

/// Until the client leaves.
fn serve(state: &Mutex<State>, door: usize, mut stream: TcpStream) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let mut who: Option<(String, Version, u64)> = None;
    let end = loop {
        let mut over = false;
        while let Ok(Some(frame)) = frame(&bytes, PACKET_BYTES_MAX) {
            if bytes.len() < frame.total {
                break;
            }
            let one: Vec<u8> = bytes.drain(..frame.total).collect();
            let mut state = state.lock().ok()?;
            match &who {
                Some((id, version, _)) => {
                    let packet = decode(&frame, &one, *version, Direction::FromClient).ok()?;
                    over |= state.handle(id, *version, packet).is_none();
                }
                None => {
                    let connect = decode_connect(&frame, &one).ok()?;
                    let id = connect.client_id.to_owned();
                    let line = stream.try_clone().ok()?;
                    // Before 5.0 every session that is not clean stays.
                    let expiry = connect.properties.session_expiry.unwrap_or(0);
                    let durable = match connect.version {
                        Version::V5 => expiry > 0,
                        Version::V3_1 | Version::V3_1_1 => !connect.clean_start,
                    };
                    let asked = (connect.version, connect.clean_start, durable);
                    let number = state.connect(&id, asked, door, line)?;
                    who = Some((id, connect.version, number));
                }
            }
        }
        match stream.read(&mut buffer) {
            _ if over => break Some(()),
            Ok(0) | Err(_) => break None,
            Ok(got) => bytes.extend_from_slice(&buffer[..got]),
        }
    };
    if let Some((id, _, number)) = who {
        let mut state = state.lock().ok()?;
        if let Some(session) = state.sessions.get_mut(&id)
            && session.line.as_ref().is_some_and(|line| line.0 == number)
        {
            session.hang_up();
            if !session.durable {
                state.sessions.remove(&id);
            }
        }
    }
    end
}

impl State {
    fn connect(
        &mut self,
        id: &str,
        (version, clean, durable): (Version, bool, bool),
        door: usize,
        line: TcpStream,
    ) -> Option<u64> {
        let mut answer = Vec::new();
        if let Some(to) = self.shut[door] {
            if version == Version::V5 {
                let to = to.to_string();
                let reason = ReasonCode::UseAnotherServer;
                let server_reference = Some(to.as_str());
                let refusal = ConnackOut { reason, server_reference, ..ConnackOut::default() };
                encode_connack(&mut answer, version, &refusal);
                let _ = (&mut &line).write_all(&answer);
            }
            let _ = line.shutdown(Shutdown::Both);
            return None;
        }
        self.lines += 1;
        let (number, faults) = (self.lines, self.faults);
        let session_present = !clean && !faults.forget_sessions && self.sessions.contains_key(id);
        if let Some(old) = self.sessions.get_mut(id) {
            if old.line.is_some() && version == Version::V5 && !faults.silent_takeover {
                let mut farewell = Vec::new();
                let reason = ReasonCode::SessionTakenOver;
                encode_disconnect(&mut farewell, reason, None, None, None);
                old.write(&farewell);
            }
            if faults.keep_old {
                // Its thread keeps the socket.
                old.line = None;
            }
            old.hang_up();
        }
        if !session_present {
            self.sessions.remove(id);
        }
        let session = self.sessions.entry(id.to_owned()).or_default();
        session.version = Some(version);
        session.durable = durable;
        session.line = Some((number, door, line));
        let connack = ConnackOut { session_present, ..ConnackOut::default() };
        encode_connack(&mut answer, version, &connack);
        session.write(&answer);
        let first = session.waiting.iter().position(|message| message.3);
        if let Some(first) = first.filter(|_| faults.lose_at_return) {
            session.waiting.remove(first);
            self.done.lost_at_return += 1;
        }
        for (packet_id, topic, payload, away) in &session.waiting {
            session.publish(*packet_id, topic, payload, (!away, false));
        }
        session.waiting.iter_mut().for_each(|message| message.3 = false);
        Some(number)
    }

    fn handle(&mut self, id: &str, version: Version, packet: Packet<'_>) -> Option<()> {
        let mut answer = Vec::new();
        match packet {
            Packet::Subscribe(subscribe) => {
                let mut codes = Vec::new();
                let mut sent = Vec::new();
                for (filter, _) in subscribe.filters {
                    codes.push(ReasonCode::GrantedQoS1);
                    let kept = self.retained.iter().filter(|kept| matches(filter, kept.0));
                    sent.extend(kept.map(|(topic, payload)| (topic.clone(), payload.clone())));
                    let session = self.sessions.get_mut(id)?;
                    session.subscriptions.retain(|there| there != filter);
                    session.subscriptions.push(filter.to_owned());
                }
                encode_suback(&mut answer, version, subscribe.packet_id, &codes, None);
                let session = self.sessions.get_mut(id)?;
                session.write(&answer);
                for (topic, payload) in sent {
                    session.send(&topic, &payload, true);
                }
                return Some(());
            }
            Packet::Unsubscribe(unsubscribe) => {
                let mut codes = Vec::new();
                for filter in unsubscribe.filters {
                    codes.push(ReasonCode::Success);
                    let session = self.sessions.get_mut(id)?;
                    session.subscriptions.retain(|there| there != filter);
                }
                encode_unsuback(&mut answer, version, unsubscribe.packet_id, &codes);
            }
            Packet::Publish(publish) => {
                if publish.retain {
                    self.retain(publish.topic, publish.payload);
                }
                self.publish(publish.topic, publish.payload);
                if publish.qos != QoS::AtMostOnce {
                    let (id, success) = (publish.packet_id, ReasonCode::Success);
                    encode_ack(&mut answer, version, PacketType::Puback, id, success, None);
                }
            }
            Packet::Puback(ack) => {
                let session = self.sessions.get_mut(id)?;
                session.waiting.retain(|(packet_id, ..)| *packet_id != ack.packet_id);
            }
            Packet::Pingreq if self.faults.deaf => {}
            Packet::Pingreq => encode_pingresp(&mut answer),
            Packet::Disconnect(disconnect) => {
                let session = self.sessions.get_mut(id)?;
                session.durable &= disconnect.session_expiry != Some(0);
                session.hang_up();
                return None;
            }
            _ => {}
        }
        self.sessions.get(id)?.write(&answer);
        Some(())
    }

    fn retain(&mut self, topic: &str, payload: &[u8]) {
        let (faults, done) = (self.faults, &mut self.done);
        if payload.is_empty() {
            self.clears += 1;
            match turn(faults.clear_not_every, self.clears) {
                true => done.not_cleared += 1,
                false => drop(self.retained.remove(topic)),
            }
            return;
        }
        self.sets += 1;
        match turn(faults.retain_not_every, self.sets) {
            true => done.not_retained += 1,
            false => drop(self.retained.insert(topic.to_owned(), payload.to_vec())),
        }
    }

    fn publish(&mut self, topic: &str, payload: &[u8]) {
        self.published += 1;
        let (faults, done) = (self.faults, &mut self.done);
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (id, session) in &mut self.sessions {
            let mut plain = false;
            for filter in &session.subscriptions {
                match filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) {
                    Some((_, shared)) if matches(shared, topic) => {
                        groups.entry(filter.clone()).or_default().push(id.clone());
                    }
                    Some(_) => {}
                    None => plain |= matches(filter, topic),
                }
            }
            if plain {
                session.deliver(&faults, done, topic, payload);
            }
        }
        for mut members in groups.into_values() {
            members.sort();
            self.shared += 1;
            let at = self.shared as usize % members.len();
            let mut chosen = vec![members[at].clone()];
            if turn(faults.share_twice_every, self.shared) && members.len() > 1 {
                done.shared_twice += 1;
                chosen.push(members[(at + 1) % members.len()].clone());
            }
            for id in chosen {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.deliver(&faults, done, topic, payload);
                }
            }
        }
    }
}
