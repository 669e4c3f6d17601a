//! A client's connection to whichever process is the broker now; of a cluster,
//! to one of its nodes, and to the next one when that does not answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use testkit::client::{DISCONNECT, PINGREQ, Version, read};

use crate::cast::{FilterId, Kind, Lasting, Message, MessageId};
use crate::dice::Dice;
use crate::history::{End, What};
use crate::role::{Role, Standing};
use crate::session::{Heard, Session, World};

/// How long a socket may take to open.
const OPENS: Duration = Duration::from_secs(1);

/// How clients deal with brokers that do not answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// How long a broker may take to answer CONNECT, or to close after DISCONNECT.
    pub(crate) answer: Duration,
    /// How long a connection may be silent though it is asked to say something,
    /// until its client leaves it: of clients that are impatient, and of others.
    pub(crate) silence: Option<(Duration, Duration)>,
    /// How long a client waits at least after a failure.
    pub(crate) backoff: Duration,
}

impl Manner {
    /// Of a broker that is alone: there is nowhere else to go.
    pub(crate) const ALONE: Manner = Manner {
        answer: Duration::from_secs(20),
        silence: None,
        backoff: Duration::from_millis(3),
    };
}

/// How many doors further a client may go of its own accord.
const DOORS_TRIED: u64 = 4;

/// The largest packet that a run sends, with room to spare.
const PACKET_BYTES_MAX: usize = 1 << 20;

/// Where a client stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// No connection before this moment.
    Away(Instant),
    /// The socket is about to open.
    Opening(Instant),
    /// CONNECT is out.
    Asking(Instant),
    /// CONNACK is in; it leaves at this moment.
    Online(Option<Instant>),
    /// DISCONNECT is out.
    Leaving(Instant),
}

/// A client with its connection, if it has one.
#[derive(Debug)]
pub(crate) struct Line {
    /// What outlives the connection.
    pub(crate) session: Session,
    /// What it does.
    pub(crate) role: Role,
    version: Version,
    socket: Option<TcpStream>,
    inbox: Vec<u8>,
    phase: Phase,
    dice: Dice,
    patience: Option<Instant>,
    /// Which of the doors it goes to.
    door: usize,
    /// When the broker last said something, and was last asked to.
    heard: Instant,
    asked: Instant,
    /// Connections that the broker ended.
    pub(crate) closes: u64,
}

impl Line {
    /// A client that was never there.
    pub(crate) fn new(world: &World, session: Session, role: Role, seed: u64) -> Line {
        let client = world.cast.of(session.me);
        let session_number = session.me.0;
        Line {
            version: client.version,
            dice: Dice::new(seed, &client.name),
            session,
            role,
            socket: None,
            inbox: Vec::new(),
            phase: Phase::Away(Instant::now()),
            patience: None,
            door: usize::from(session_number),
            heard: Instant::now(),
            asked: Instant::now(),
            closes: 0,
        }
    }

    /// The socket, to be waited for.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        self.socket.as_ref()
    }

    /// Whether bytes wait to be written.
    pub(crate) fn wants_to_write(&self) -> bool {
        !self.session.out.is_empty() || matches!(self.phase, Phase::Opening(_))
    }

    /// Whether CONNACK is in.
    pub(crate) fn online(&self) -> bool {
        matches!(self.phase, Phase::Online(_))
    }

    /// Stays away from now on, or until told otherwise.
    pub(crate) fn stay_away(&mut self, world: &mut World, until: Instant) {
        if matches!(self.phase, Phase::Opening(_)) {
            self.socket = None;
        }
        if self.socket.is_some() {
            self.close(world, End::Dropped);
        }
        self.phase = Phase::Away(until);
    }

    /// Comes as soon as it can.
    pub(crate) fn come(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Away(_)) {
            self.phase = Phase::Away(now);
        }
        if let Phase::Online(leaves) = &mut self.phase {
            *leaves = None;
        }
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, world: &mut World, doors: &[SocketAddr], now: Instant) {
        match self.phase {
            Phase::Away(until) if now >= until => match doors.get(self.door % doors.len().max(1)) {
                Some(&address) => self.open(world, address, now),
                None => self.phase = Phase::Away(now + Duration::from_millis(2)),
            },
            Phase::Away(_) => {}
            Phase::Opening(since) => self.opened(world, since, now),
            Phase::Asking(since) | Phase::Leaving(since) if now > since + world.manner.answer => {
                self.door += 1;
                self.close(world, End::Dropped);
            }
            Phase::Asking(_) | Phase::Leaving(_) => {}
            Phase::Online(leaves) => {
                if self.silent(world, now) {
                    self.door += 1;
                    self.close(world, End::Dropped);
                } else if leaves.is_some_and(|leaves| now >= leaves) {
                    self.leave(world, now);
                } else {
                    self.act(world, now);
                }
            }
        }
        self.write(world);
    }

    fn open(&mut self, world: &World, address: SocketAddr, now: Instant) {
        match connecting(address) {
            Ok(socket) => {
                self.socket = Some(socket);
                self.inbox.clear();
                self.phase = Phase::Opening(now);
            }
            Err(_) => self.shut(world, now),
        }
    }

    /// Nobody is at this door.
    fn shut(&mut self, world: &World, now: Instant) {
        self.socket = None;
        self.door += 1;
        self.phase = Phase::Away(now + world.manner.backoff);
    }

    /// Sends CONNECT as soon as the socket is open.
    fn opened(&mut self, world: &mut World, since: Instant, now: Instant) {
        let Some(socket) = &self.socket else { return self.shut(world, now) };
        let refused = !matches!(socket.take_error(), Ok(None));
        if refused || now > since + OPENS {
            return self.shut(world, now);
        }
        // It has a peer as soon as it is open.
        if socket.peer_addr().is_err() {
            return;
        }
        if socket.set_nodelay(true).is_err() {
            return self.shut(world, now);
        }
        let will = self.role.will.map(|(topic, delay_seconds)| {
            let (publisher, kind) = (self.session.me, Kind::Will { delay_seconds });
            world.cast.message(Message { publisher, topic, qos: 2, kind })
        });
        self.session.connect(world, will);
        (self.heard, self.asked) = (now, now);
        self.phase = Phase::Asking(now);
    }

    /// Whether the broker says nothing though it is asked to.
    fn silent(&mut self, world: &World, now: Instant) -> bool {
        let Some((impatient, patient)) = world.manner.silence else { return false };
        // What an ephemeral session is owed hangs on its connection.
        let lasting = world.cast.of(self.session.me).lasting != Lasting::Not;
        let waits =
            lasting && self.role.publishing.is_none() && self.session.me.0.is_multiple_of(2);
        let silence = if waits { patient } else { impatient };
        if now > self.asked + impatient / 3 {
            self.asked = now;
            self.session.out.extend(PINGREQ);
        }
        now > self.heard + silence
    }

    fn leave(&mut self, world: &mut World, now: Instant) {
        if self.dice.chance(self.role.presence.goodbyes) {
            self.session.out.extend(DISCONNECT);
            self.phase = Phase::Leaving(now);
        } else {
            self.close(world, End::Dropped);
        }
    }

    fn close(&mut self, world: &mut World, how: End) {
        self.socket = None;
        self.session.disconnected();
        self.closes += u64::from(how == End::Broker);
        world.history.enter(What::Closed { client: self.session.me, how });
        let presence = self.role.presence;
        let (percent, other) = presence.otherwise;
        let span = if self.dice.chance(percent) { other } else { presence.away };
        let mut away = span.throw(&mut self.dice);
        match how {
            // Of its own accord; next time it may be another node's client.
            End::Goodbye | End::Dropped => self.door += self.dice.within(0, DOORS_TRIED) as usize,
            End::Broker => {
                self.door += 1;
                away = away.max(world.manner.backoff);
            }
        }
        self.phase = Phase::Away(Instant::now() + away);
    }

    /// Publishes and subscribes.
    fn act(&mut self, world: &mut World, now: Instant) {
        if self.role.slow && self.patience.is_none_or(|until| now >= until) {
            self.session.slow = !self.session.slow && self.dice.chance(60);
            self.patience = Some(now + Duration::from_millis(self.dice.within(5, 150)));
            if !self.session.slow {
                self.session.catch_up(world);
            }
        }
        for at in 0..self.role.standing.len() {
            let Standing { filter, qos, wanted, actual, turns, retry } = self.role.standing[at];
            if self.session.asks_for(filter) || retry.is_some_and(|at| now < at) {
                continue;
            }
            if wanted != actual {
                self.session.request(world, filter, wanted, qos);
            } else if turns && self.dice.within(0, 400) == 0 {
                self.role.standing[at].wanted = !wanted;
            }
        }
        let Some(publishing) = &mut self.role.publishing else { return };
        let pause = Duration::from_micros(1_000_000 / publishing.rate.max(1));
        // What a pause has left undone is not made good in one burst.
        publishing.next = publishing.next.max(now.checked_sub(pause * 20).unwrap_or(now));
        while now >= publishing.next && self.session.in_flight() < publishing.window {
            publishing.next += pause;
            let message = Message {
                publisher: self.session.me,
                topic: *self.dice.pick(&publishing.topics),
                qos: *self.dice.pick(&publishing.qos),
                kind: *self.dice.pick(&publishing.kinds),
            };
            let bytes = self.dice.within(publishing.bytes.0, publishing.bytes.1) as usize;
            let id = world.cast.message(message);
            self.session.publish(world, id, bytes);
        }
    }

    /// Publishes one message now.
    pub(crate) fn publish(&mut self, world: &mut World, message: Message) -> MessageId {
        let id = world.cast.message(message);
        self.session.publish(world, id, 40);
        id
    }

    fn write(&mut self, world: &mut World) {
        let Some(socket) = &mut self.socket else { return };
        while !self.session.out.is_empty() {
            match socket.write(&self.session.out) {
                Ok(written) => drop(self.session.out.drain(..written)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    // What the broker said before it went is still to be read.
                    self.session.out.clear();
                    self.read(world);
                    return;
                }
            }
        }
    }

    /// Takes what has come.
    pub(crate) fn read(&mut self, world: &mut World) {
        if matches!(self.phase, Phase::Opening(_)) {
            return;
        }
        let mut chunk = [0; 65_536];
        loop {
            let Some(socket) = &mut self.socket else { return };
            match socket.read(&mut chunk) {
                Ok(0) => {
                    let leaving = matches!(self.phase, Phase::Leaving(_));
                    self.close(world, if leaving { End::Goodbye } else { End::Broker });
                    return;
                }
                Ok(n) => {
                    self.heard = Instant::now();
                    self.inbox.extend_from_slice(&chunk[..n]);
                    self.take(world);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.close(world, End::Broker);
                    return;
                }
            }
        }
    }

    fn take(&mut self, world: &mut World) {
        let mut from = 0;
        while let Some(length) = packet_length(&self.inbox[from..]) {
            let bytes = &self.inbox[from..from + length];
            from += length;
            if matches!(self.phase, Phase::Leaving(_)) {
                continue;
            }
            // The kit panics at what a broker may not send.
            let version = self.version;
            let Ok(packet) = catch_unwind(AssertUnwindSafe(|| read(version, bytes))) else {
                world.history.enter(What::Damaged { client: self.session.me });
                self.close(world, End::Dropped);
                return;
            };
            match self.session.hear(world, packet) {
                Heard::Nothing => {}
                Heard::Welcome { kept } => self.welcome(kept),
                Heard::Goodbye => {
                    self.close(world, End::Broker);
                    return;
                }
                Heard::Answer { filter, adds, done } => self.answered(filter, adds, done),
            }
        }
        self.inbox.drain(..from);
    }

    fn welcome(&mut self, kept: bool) {
        if !kept {
            self.role.standing.iter_mut().for_each(|standing| standing.actual = false);
        }
        let stays = self.role.presence.stays.map(|span| span.throw(&mut self.dice));
        self.phase = Phase::Online(stays.map(|stays| Instant::now() + stays));
    }

    fn answered(&mut self, filter: FilterId, adds: bool, done: bool) {
        let known = self.role.standing.iter_mut().find(|standing| standing.filter == filter);
        let Some(standing) = known else { return };
        if done {
            standing.actual = adds;
        } else {
            standing.retry = Some(Instant::now() + Duration::from_millis(200));
        }
    }
}

/// A socket on its way to an address: whoever plays all clients on one thread
/// waits for none of them.
fn connecting(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// The length of the packet in front, once all of it is there.
fn packet_length(bytes: &[u8]) -> Option<usize> {
    let (mut length, mut at) = (0usize, 1);
    loop {
        let byte = *bytes.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 || at > 4 {
            break;
        }
    }
    assert!(length <= PACKET_BYTES_MAX, "the broker sends a packet of {length} bytes");
    (bytes.len() >= at + length).then_some(at + length)
}
