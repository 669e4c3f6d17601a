//! The floor: what the kernel alone costs.
//!
//! A relay that moves the same bytes between the same sockets and parses
//! nothing. It reads role and group out of each connection's first bytes (the
//! client id of the load's CONNECT lies at a fixed place), answers them with a
//! ready CONNACK, a SUBSCRIBE with a ready SUBACK and a lone PINGREQ with its
//! answer; from then on bytes go from publisher to subscribers and from
//! subscriber to publisher as they come: one read, one write, no `epoll_ctl`.
//!
//! Of several subscribers only the first one's bytes go back, as a broker
//! acknowledges a message once. Several publishers of one subscriber share
//! nothing that tells whose acknowledgement it is, so that needs QoS 0.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use socket2::{Domain, Protocol, Socket, Type};

const SUBSCRIBE: u8 = 0x82;
const PINGREQ: [u8; 2] = [0xC0, 0];
const PINGRESP: [u8; 2] = [0xD0, 0];
const READ_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 1024;
const BACKLOG: i32 = 1024;
/// Accepted in a row before the other sockets get their turn.
const ACCEPTS_MAX: usize = 64;
/// A peer that leaves this much unread is a fault of the load.
const PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;
const KEY_LISTENER: u64 = u64::MAX;
const KEY_INBOX: u64 = u64::MAX - 1;

/// What a connection is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Its bytes go to all subscribers of its group.
    Publisher,
    /// Its bytes go to the publisher of its group, if it is the group's first subscriber.
    Subscriber,
    /// Its bytes come back.
    Echo,
    /// Its bytes go nowhere.
    Idle,
}

/// Role and group of a connection, from its client id; none for a client that is none of the
/// load's.
pub type Seat = dyn Fn(&str) -> Option<(Role, u32)> + Send + Sync;

/// The seats of `tidegate-loadtest`'s own client ids, with so many groups: the topics of the load.
pub fn seat_of_loadtest(client_id: &str, groups: u32) -> Option<(Role, u32)> {
    let (_, client) = client_id.strip_prefix("lt-")?.split_once('-')?;
    let number: u32 = client.get(1..)?.parse().ok()?;
    let role = match client.as_bytes()[0] {
        b'p' => Role::Publisher,
        b's' => Role::Subscriber,
        b'i' => Role::Idle,
        _ => return None,
    };
    Some((role, number % groups.max(1)))
}

/// Serves `addr` on `threads` threads until it is killed.
pub fn serve(addr: SocketAddr, threads: usize, seat: Arc<Seat>) -> Result<()> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let mut inboxes = Vec::new();
    let mut others = Vec::new();
    for _ in 1..threads {
        let (sender, receiver) = channel();
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        inboxes.push(Inbox { sender, wake: wake.try_clone()? });
        others.push((receiver, wake));
    }
    for (receiver, wake) in others {
        let seat = Arc::clone(&seat);
        thread::spawn(move || {
            let relay = Relay::new(seat, None, Vec::new(), Some((receiver, wake)));
            if let Err(error) = relay.and_then(|mut relay| relay.run()) {
                tell(&format!("floor: {error:#}"));
                std::process::exit(1);
            }
        });
    }
    Relay::new(seat, Some(socket.into()), inboxes, None)?.run()
}

#[allow(clippy::print_stderr)]
fn tell(text: &str) {
    eprintln!("{text}");
}

/// Where the accepting thread leaves a connection for another thread.
struct Inbox {
    sender: Sender<Link>,
    wake: OwnedFd,
}

struct Relay {
    seat: Arc<Seat>,
    epoll: OwnedFd,
    listener: Option<TcpListener>,
    inboxes: Vec<Inbox>,
    inbox: Option<(Receiver<Link>, OwnedFd)>,
    links: Vec<Option<Link>>,
    free: Vec<usize>,
    groups: Vec<Group>,
}

#[derive(Default)]
struct Group {
    publisher: Option<usize>,
    subscribers: Vec<usize>,
}

struct Link {
    stream: TcpStream,
    group: u32,
    role: Role,
    version_5: bool,
    greeted: bool,
    subscribed: bool,
    /// What the socket would not take; empty unless it blocks.
    pending: Vec<u8>,
}

impl Relay {
    fn new(
        seat: Arc<Seat>,
        listener: Option<TcpListener>,
        inboxes: Vec<Inbox>,
        inbox: Option<(Receiver<Link>, OwnedFd)>,
    ) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        if let Some(listener) = &listener {
            watch(&epoll, listener, KEY_LISTENER)?;
        }
        if let Some((_, wake)) = &inbox {
            watch(&epoll, wake, KEY_INBOX)?;
        }
        Ok(Self {
            seat,
            epoll,
            listener,
            inboxes,
            inbox,
            links: Vec::new(),
            free: Vec::new(),
            groups: Vec::new(),
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; READ_BYTES];
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            for event in &events {
                match event.data.u64() {
                    KEY_LISTENER => self.accept()?,
                    KEY_INBOX => self.take_over()?,
                    key => {
                        let index = key as usize;
                        let flags = event.flags;
                        if flags.contains(EventFlags::OUT) {
                            self.resume(index)?;
                        }
                        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                            self.read(index, &mut buffer)?;
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        for _ in 0..ACCEPTS_MAX {
            let Some(listener) = &self.listener else { return Ok(()) };
            // accept4 with SOCK_NONBLOCK: one system call, as a broker would.
            let flags = rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC;
            let stream: TcpStream = match rustix::net::accept_with(listener, flags) {
                Ok(fd) => fd.into(),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno).context("accept"),
            };
            stream.set_nodelay(true)?;
            self.insert(Link {
                stream,
                group: 0,
                role: Role::Idle,
                version_5: false,
                greeted: false,
                subscribed: false,
                pending: Vec::new(),
            })?;
        }
        Ok(())
    }

    fn insert(&mut self, link: Link) -> Result<usize> {
        let index = self.free.pop().unwrap_or(self.links.len());
        watch(&self.epoll, &link.stream, index as u64)?;
        if index == self.links.len() {
            self.links.push(Some(link));
        } else {
            self.links[index] = Some(link);
        }
        Ok(index)
    }

    fn read(&mut self, index: usize, buffer: &mut [u8]) -> Result<()> {
        let Some(Some(link)) = self.links.get_mut(index) else { return Ok(()) };
        let got = match link.stream.read(buffer) {
            Ok(got) if got > 0 => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Ok(_) | Err(_) => {
                self.remove(index);
                return Ok(());
            }
        };
        let bytes = &buffer[..got];
        if !link.greeted {
            return self.greet(index, bytes);
        }
        let role = link.role;
        if bytes[0] == SUBSCRIBE && !link.subscribed {
            link.subscribed = true;
            let (suback, length) = suback(bytes, link.version_5);
            return self.write(index, &suback[..length]);
        }
        if bytes == PINGREQ {
            return self.write(index, &PINGRESP);
        }
        let group = link.group as usize;
        match role {
            Role::Publisher => {
                for place in 0..self.groups[group].subscribers.len() {
                    self.write(self.groups[group].subscribers[place], bytes)?;
                }
            }
            Role::Subscriber => {
                let Group { publisher, subscribers } = &self.groups[group];
                if let (Some(publisher), Some(&first)) = (*publisher, subscribers.first())
                    && first == index
                {
                    self.write(publisher, bytes)?;
                }
            }
            Role::Echo => self.write(index, bytes)?,
            Role::Idle => {}
        }
        Ok(())
    }

    /// Reads role and group, and answers.
    fn greet(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let (client_id, version_5) =
            client_id(bytes).context("the first bytes are no whole CONNECT")?;
        let seat = (self.seat)(client_id);
        let (role, group) = seat.context("a client that is none of the load's")?;
        let Some(Some(link)) = self.links.get_mut(index) else { return Ok(()) };
        link.greeted = true;
        link.version_5 = version_5;
        link.role = role;
        link.group = group;
        let owner = group as usize % (self.inboxes.len() + 1);
        if owner > 0 {
            let Some(link) = self.links[index].take() else { return Ok(()) };
            self.free.push(index);
            epoll::delete(&self.epoll, &link.stream)?;
            let inbox = &self.inboxes[owner - 1];
            if inbox.sender.send(link).is_err() {
                bail!("a thread of the floor ended");
            }
            rustix::io::write(&inbox.wake, &1_u64.to_ne_bytes())?;
            return Ok(());
        }
        self.join(index)
    }

    fn take_over(&mut self) -> Result<()> {
        let mut arrived = Vec::new();
        if let Some((receiver, wake)) = &self.inbox {
            rustix::io::read(wake, &mut [0; 8])?;
            arrived.extend(receiver.try_iter());
        }
        for link in arrived {
            let index = self.insert(link)?;
            self.join(index)?;
        }
        Ok(())
    }

    fn join(&mut self, index: usize) -> Result<()> {
        let Some(Some(link)) = self.links.get(index) else { return Ok(()) };
        let (role, group) = (link.role, link.group as usize);
        let version_5 = link.version_5;
        if matches!(role, Role::Publisher | Role::Subscriber) {
            if self.groups.len() <= group {
                self.groups.resize_with(group + 1, Group::default);
            }
            match role {
                Role::Publisher => self.groups[group].publisher = Some(index),
                Role::Subscriber | Role::Echo | Role::Idle => {
                    self.groups[group].subscribers.push(index);
                }
            }
        }
        self.write(index, if version_5 { &[0x20, 3, 0, 0, 0] } else { &[0x20, 2, 0, 0] })
    }

    fn write(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let Some(Some(link)) = self.links.get_mut(index) else { return Ok(()) };
        if !link.pending.is_empty() {
            link.pending.extend_from_slice(bytes);
            if link.pending.len() > PENDING_BYTES_MAX {
                bail!("the load does not read");
            }
            return Ok(());
        }
        let sent = match link.stream.write(bytes) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            // The read side hears of it, too, and removes the link.
            Err(_) => return Ok(()),
        };
        if sent < bytes.len() {
            link.pending = bytes[sent..].to_vec();
            let interest = EventFlags::IN | EventFlags::OUT;
            epoll::modify(&self.epoll, &link.stream, EventData::new_u64(index as u64), interest)?;
        }
        Ok(())
    }

    fn resume(&mut self, index: usize) -> Result<()> {
        let Some(Some(link)) = self.links.get_mut(index) else { return Ok(()) };
        match link.stream.write(&link.pending) {
            Ok(sent) => {
                link.pending.drain(..sent);
            }
            // It would block, or the read side hears of the error and removes the link.
            Err(_) => return Ok(()),
        }
        if !link.pending.is_empty() {
            return Ok(());
        }
        link.pending = Vec::new();
        let data = EventData::new_u64(index as u64);
        Ok(epoll::modify(&self.epoll, &link.stream, data, EventFlags::IN)?)
    }

    fn remove(&mut self, index: usize) {
        let Some(link) = self.links[index].take() else { return };
        self.free.push(index);
        if let Some(group) = self.groups.get_mut(link.group as usize) {
            group.subscribers.retain(|subscriber| *subscriber != index);
            if group.publisher == Some(index) {
                group.publisher = None;
            }
        }
    }
}

/// The client id of a CONNECT of 3.1.1 or of 5.0 without properties, and whether it is the latter.
fn client_id(connect: &[u8]) -> Option<(&str, bool)> {
    let length_bytes = connect.get(1..)?.iter().position(|byte| byte & 0x80 == 0)? + 1;
    // Protocol name, version, flags and keep-alive take 10 bytes.
    let body = connect.get(1 + length_bytes..)?;
    let version_5 = *body.get(6)? == 5;
    let at = if version_5 { 11 } else { 10 };
    let length = usize::from(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
    let id = std::str::from_utf8(body.get(at + 2..at + 2 + length)?).ok()?;
    Some((id, version_5))
}

/// Grants what the last filter of a SUBSCRIBE asks for.
fn suback(subscribe: &[u8], version_5: bool) -> ([u8; 6], usize) {
    let length_bytes = subscribe[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let id = |place: usize| subscribe.get(1 + length_bytes + place).copied().unwrap_or_default();
    let qos = subscribe.last().copied().unwrap_or_default() & 3;
    match version_5 {
        true => ([0x90, 4, id(0), id(1), 0, qos], 6),
        false => ([0x90, 3, id(0), id(1), qos, 0], 5),
    }
}

fn watch(epoll: &OwnedFd, source: impl AsFd, key: u64) -> Result<()> {
    Ok(epoll::add(epoll, source, EventData::new_u64(key), EventFlags::IN)?)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// A relay of its own on a free port.
    fn relay() -> SocketAddr {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
        let addr = free.expect("a free port");
        let seat = |id: &str| seat_of_loadtest(id, 2);
        thread::spawn(move || serve(addr, 1, Arc::new(seat)));
        addr
    }

    struct Client(TcpStream);

    impl Client {
        fn connect(addr: SocketAddr, id: &str) -> Self {
            let mut tries = 0;
            let stream = loop {
                match TcpStream::connect(addr) {
                    Ok(stream) => break stream,
                    Err(_) if tries < 1_000 => tries += 1,
                    Err(error) => panic!("the relay does not listen: {error}"),
                }
                thread::yield_now();
            };
            let mut client = Self(stream);
            let mut connect = b"\x10\x21\x00\x04MQTT\x04\x02\x00\x00\x00\x15".to_vec();
            connect.extend_from_slice(id.as_bytes());
            client.say(&connect);
            assert_eq!(client.hear(4), [0x20, 2, 0, 0]);
            client
        }

        fn say(&mut self, bytes: &[u8]) {
            self.0.write_all(bytes).expect("the relay reads");
        }

        fn hear(&mut self, count: usize) -> Vec<u8> {
            let mut bytes = vec![0; count];
            self.0.read_exact(&mut bytes).expect("the relay writes");
            bytes
        }
    }

    #[test]
    fn bytes_go_to_the_subscribers_of_the_group_and_one_answer_back() {
        let addr = relay();
        let mut first = Client::connect(addr, "lt-00000007-s00000001");
        let mut second = Client::connect(addr, "lt-00000007-s00000003");
        for subscriber in [&mut first, &mut second] {
            subscriber.say(b"\x82\x06\xff\xfe\x00\x01t\x01");
            assert_eq!(subscriber.hear(5), [0x90, 3, 0xff, 0xfe, 1]);
        }
        let mut publisher = Client::connect(addr, "lt-00000007-p00000001");
        publisher.say(b"a message");
        assert_eq!((first.hear(9), second.hear(9)), (b"a message".into(), b"a message".into()));
        second.say(b"no!");
        second.say(&PINGREQ);
        assert_eq!(second.hear(2), PINGRESP);
        first.say(b"yes");
        assert_eq!(publisher.hear(3), b"yes");
    }

    #[test]
    fn a_client_id_is_found_in_both_versions() {
        let connect = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me";
        assert_eq!(client_id(connect), Some(("me", false)));
        let connect = b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02me";
        assert_eq!(client_id(connect), Some(("me", true)));
        assert_eq!(client_id(&connect[..9]), None);
        assert_eq!(seat_of_loadtest("lt-0000abcd-p00000012", 5), Some((Role::Publisher, 2)));
        assert_eq!(seat_of_loadtest("sensor", 5), None);
    }
}
