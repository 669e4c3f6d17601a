//! The floor: what the kernel alone costs.
//!
//! A relay that moves the same bytes between the same sockets and parses
//! nothing. It reads role and group out of each connection's first bytes (the
//! client id of the load's CONNECT lies at a fixed place), answers them with a
//! ready CONNACK, and a subscriber's second bytes with a ready SUBACK; from
//! then on bytes go from publisher to subscribers and from subscriber to
//! publisher as they come: one read, one write, no `epoll_ctl`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use socket2::{Domain, Protocol, Socket, Type};

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
const SUBACK: [u8; 5] = [0x90, 3, 0, 1, 0];
const READ_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 1024;
const BACKLOG: i32 = 1024;
/// Accepted in a row before the other sockets get their turn.
const ACCEPTS_MAX: usize = 64;
/// A peer that leaves this much unread is a fault of the load.
const PENDING_BYTES_MAX: usize = 64 * 1024 * 1024;
const KEY_LISTENER: u64 = u64::MAX;
const KEY_INBOX: u64 = u64::MAX - 1;

/// Serves `addr` on `threads` threads until it is killed.
pub(crate) fn serve(addr: SocketAddr, threads: usize) -> Result<()> {
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
        thread::spawn(move || {
            let relay = Relay::new(None, Vec::new(), Some((receiver, wake)));
            if let Err(error) = relay.and_then(|mut relay| relay.run()) {
                tell(&format!("floor: {error:#}"));
                std::process::exit(1);
            }
        });
    }
    Relay::new(Some(socket.into()), inboxes, None)?.run()
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
    role: u8,
    greeted: bool,
    subscribed: bool,
    /// What the socket would not take; empty unless it blocks.
    pending: Vec<u8>,
}

impl Relay {
    fn new(
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
                role: 0,
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
        if matches!(role, b's' | b'i') && !link.subscribed {
            link.subscribed = true;
            return self.write(index, &SUBACK);
        }
        let group = link.group as usize;
        match role {
            b'p' => {
                for place in 0..self.groups[group].subscribers.len() {
                    self.write(self.groups[group].subscribers[place], bytes)?;
                }
            }
            b's' => {
                if let Some(publisher) = self.groups[group].publisher {
                    self.write(publisher, bytes)?;
                }
            }
            b'e' => self.write(index, bytes)?,
            _ => {}
        }
        Ok(())
    }

    /// Reads role and group, and answers.
    fn greet(&mut self, index: usize, bytes: &[u8]) -> Result<()> {
        let client_id_at = if bytes.get(8) == Some(&5) { 15 } else { 14 };
        let (role, group) = bytes
            .get(client_id_at..client_id_at + 8)
            .and_then(|id| Some((id[0], std::str::from_utf8(&id[1..]).ok()?.parse::<u32>().ok()?)))
            .context("the first bytes are no CONNECT of the load")?;
        let Some(Some(link)) = self.links.get_mut(index) else { return Ok(()) };
        link.greeted = true;
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
        if matches!(role, b'p' | b's') {
            if self.groups.len() <= group {
                self.groups.resize_with(group + 1, Group::default);
            }
            match role {
                b'p' => self.groups[group].publisher = Some(index),
                _ => self.groups[group].subscribers.push(index),
            }
        }
        self.write(index, &CONNACK)
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

fn watch(epoll: &OwnedFd, source: impl AsFd, key: u64) -> Result<()> {
    Ok(epoll::add(epoll, source, EventData::new_u64(key), EventFlags::IN)?)
}
