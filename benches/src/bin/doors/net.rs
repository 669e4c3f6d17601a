//! Client connections over any transport, on one epoll and one thread.
//!
//! A connection here is what it is in the field: a socket, TLS from rustls, a
//! WebSocket, and MQTT packets in the order they came. Unlike the net of
//! `peers` it connects without blocking and survives refusals, since refusals
//! are what a storm is about.

use std::io::{ErrorKind, Read, Write};
use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ClientConfig;
use socket2::{Domain, Protocol, Socket, Type};

use benches::wire::{self, Frame};
use tidegate_loadtest::layers::{Broken, Stack};
use tidegate_loadtest::transport::Transport;

const READ_BYTES: usize = 128 * 1024;
const EVENTS_MAX: usize = 512;
/// Clients that share a source address; a port range holds 28,000 of them.
const CLIENTS_A_SOURCE: usize = 64;

/// What happened to a connection.
#[derive(Debug)]
pub(crate) enum News<'a> {
    /// TCP, TLS and WebSocket are agreed; the CONNECT may go.
    Ready,
    /// A packet.
    Frame(Frame<'a>),
    /// It is over, and its number is free again.
    Gone(Gone),
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Gone {
    /// Nobody listened, or the kernel gave up on the handshake.
    Refused,
    /// The broker sent its FIN.
    Closed,
    /// The broker sent a RST.
    Reset,
    /// TLS or WebSocket failed.
    Layer,
}

impl Gone {
    /// In a table.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Layer => "TLS or WebSocket broken",
        }
    }
}

/// The connections of one thread.
pub(crate) struct Net {
    epoll: OwnedFd,
    tls: Arc<ClientConfig>,
    conns: Vec<Option<Conn>>,
    /// Tells the events of a number's earlier connection from those of this one.
    generation: u32,
    read_buffer: Vec<u8>,
    plain: Vec<u8>,
    /// Marks and flags. The kernel's own type may not move between threads.
    events: Vec<(u64, EventFlags)>,
    unflushed: Vec<usize>,
}

struct Conn {
    socket: Socket,
    stack: Stack,
    generation: u32,
    connected: bool,
    ready: bool,
    partial: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    armed: bool,
    unflushed: bool,
}

impl Net {
    /// No connections yet; numbers go from 0 to `count`.
    pub(crate) fn new(tls: Arc<ClientConfig>, count: usize) -> Result<Self> {
        let mut conns = Vec::new();
        conns.resize_with(count, || None);
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            tls,
            conns,
            generation: 0,
            read_buffer: vec![0; READ_BYTES],
            plain: Vec::new(),
            events: Vec::with_capacity(EVENTS_MAX),
            unflushed: Vec::new(),
        })
    }

    /// Begins to connect number `index`, from a source address of its own.
    pub(crate) fn open(
        &mut self,
        index: usize,
        addr: SocketAddr,
        transport: Transport,
    ) -> Result<()> {
        self.open_with(index, addr, transport, None)
    }

    /// The same with a receive buffer of that size.
    pub(crate) fn open_with(
        &mut self,
        index: usize,
        addr: SocketAddr,
        transport: Transport,
        receive_bytes: Option<usize>,
    ) -> Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.bind(&SocketAddr::from((source(index), 0)).into())?;
        match socket.connect(&addr.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.generation = self.generation.wrapping_add(1);
        let conn = Conn {
            socket,
            stack: Stack::new(transport, &self.tls)?,
            generation: self.generation,
            connected: false,
            ready: false,
            partial: Vec::new(),
            out: Vec::new(),
            written: 0,
            armed: true,
            unflushed: false,
        };
        let both = EventFlags::IN | EventFlags::OUT;
        epoll::add(&self.epoll, &conn.socket, mark(index, conn.generation), both)?;
        self.conns[index] = Some(conn);
        Ok(())
    }

    /// Closes a connection, without a word.
    pub(crate) fn close(&mut self, index: usize) {
        self.conns[index] = None;
    }

    /// Whether a connection lives.
    pub(crate) fn is_open(&self, index: usize) -> bool {
        self.conns[index].is_some()
    }

    /// Whether the TLS session was resumed.
    pub(crate) fn resumed(&self, index: usize) -> bool {
        self.conns[index].as_ref().is_some_and(|conn| conn.stack.resumed())
    }

    /// Bytes that wait to be sent.
    pub(crate) fn unsent(&self, index: usize) -> usize {
        self.conns[index].as_ref().map_or(0, |conn| conn.out.len() - conn.written)
    }

    /// Reads nothing more from a connection.
    pub(crate) fn stop_reading(&mut self, index: usize) -> Result<()> {
        if let Some(conn) = &self.conns[index] {
            epoll::modify(
                &self.epoll,
                &conn.socket,
                mark(index, conn.generation),
                EventFlags::empty(),
            )?;
        }
        Ok(())
    }

    /// Queues an MQTT packet; it leaves with the next [`Net::flush`]. Each is a WebSocket frame
    /// and a TLS record of its own.
    pub(crate) fn push(&mut self, index: usize, packet: &[u8]) {
        let Some(conn) = &mut self.conns[index] else { return };
        conn.stack.wrap(packet, &mut conn.out);
        self.touch(index);
    }

    fn touch(&mut self, index: usize) {
        if let Some(conn) = &mut self.conns[index]
            && !conn.unflushed
        {
            conn.unflushed = true;
            self.unflushed.push(index);
        }
    }

    /// Sends what is queued, one write a connection. A broken socket tells by its event.
    pub(crate) fn flush(&mut self) -> Result<()> {
        while let Some(index) = self.unflushed.pop() {
            if let Some(conn) = &mut self.conns[index] {
                conn.unflushed = false;
                conn.write(&self.epoll, index)?;
            }
        }
        Ok(())
    }

    /// Waits for events until `until` at the latest and tells what they bring.
    pub(crate) fn turn<F>(&mut self, until: Instant, tell: &mut F) -> Result<()>
    where
        F: FnMut(&mut Self, usize, News<'_>) -> Result<()>,
    {
        self.wait(until)?;
        let events = mem::take(&mut self.events);
        for &(mark, flags) in &events {
            let (index, generation) = ((mark & 0xffff_ffff) as usize, (mark >> 32) as u32);
            let Some(conn) = &mut self.conns[index] else { continue };
            if conn.generation == generation {
                self.handle(index, generation, flags, tell)?;
            }
        }
        self.events = events;
        self.flush()
    }

    fn wait(&mut self, until: Instant) -> Result<()> {
        // epoll_wait counts in milliseconds; ppoll on the epoll counts in nanoseconds.
        let left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(left))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        let now = timespec(Duration::ZERO);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&now)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.events.clear();
        self.events.extend(events.iter().map(|event| (event.data.u64(), event.flags)));
        Ok(())
    }

    fn handle<F>(
        &mut self,
        index: usize,
        generation: u32,
        flags: EventFlags,
        tell: &mut F,
    ) -> Result<()>
    where
        F: FnMut(&mut Self, usize, News<'_>) -> Result<()>,
    {
        let Some(conn) = &mut self.conns[index] else { return Ok(()) };
        if !conn.connected {
            if conn.socket.take_error()?.is_some() || flags.contains(EventFlags::ERR) {
                self.close(index);
                return tell(self, index, News::Gone(Gone::Refused));
            }
            if !flags.contains(EventFlags::OUT) {
                return Ok(());
            }
            conn.connected = true;
            conn.stack.begin(&mut conn.out);
        }
        if flags.contains(EventFlags::OUT) {
            conn.write(&self.epoll, index)?;
        }
        let mut plain = mem::take(&mut self.plain);
        plain.clear();
        let mut gone = None;
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            gone = conn.receive(&mut self.read_buffer, &mut plain).err();
        }
        let ready = gone.is_none() && !conn.ready && conn.stack.ready();
        conn.ready |= ready;
        // What TLS and WebSocket answer on their own.
        self.touch(index);
        if ready {
            tell(self, index, News::Ready)?;
        }
        if !plain.is_empty() {
            self.frames(index, generation, &plain, tell)?;
        }
        self.plain = plain;
        match (gone, &self.conns[index]) {
            (Some(gone), Some(conn)) if conn.generation == generation => {
                self.close(index);
                tell(self, index, News::Gone(gone))
            }
            _ => Ok(()),
        }
    }

    fn frames<F>(&mut self, index: usize, generation: u32, plain: &[u8], tell: &mut F) -> Result<()>
    where
        F: FnMut(&mut Self, usize, News<'_>) -> Result<()>,
    {
        let Some(conn) = &mut self.conns[index] else { return Ok(()) };
        let mut partial = mem::take(&mut conn.partial);
        let fresh = partial.is_empty();
        if !fresh {
            partial.extend_from_slice(plain);
        }
        let bytes = if fresh { plain } else { &partial };
        let mut used = 0;
        while let Some((frame, length)) = wire::split(&bytes[used..])? {
            tell(self, index, News::Frame(frame))?;
            used += length;
            match &self.conns[index] {
                Some(conn) if conn.generation == generation => {}
                _ => return Ok(()),
            }
        }
        let rest = if fresh {
            plain[used..].to_vec()
        } else {
            partial.drain(..used);
            partial
        };
        if let Some(conn) = &mut self.conns[index] {
            conn.partial = rest;
        }
        Ok(())
    }
}

impl Conn {
    fn receive(&mut self, buffer: &mut [u8], plain: &mut Vec<u8>) -> Result<(), Gone> {
        match self.socket.read(buffer) {
            Ok(0) => Err(Gone::Closed),
            Ok(got) => match self.stack.unwrap(&buffer[..got], plain, &mut self.out) {
                Ok(()) => Ok(()),
                Err(Broken::Closed) => Err(Gone::Closed),
                Err(Broken::Rules) => Err(Gone::Layer),
            },
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(Gone::Reset),
        }
    }

    fn write(&mut self, epoll: &OwnedFd, index: usize) -> Result<()> {
        if !self.connected {
            return Ok(());
        }
        self.stack.drain(&mut self.out);
        let mut blocked = false;
        while self.written < self.out.len() {
            match self.socket.write(&self.out[self.written..]) {
                Ok(sent) => self.written += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    blocked = true;
                    break;
                }
                // Reading it says what happened.
                Err(_) => self.written = self.out.len(),
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written > READ_BYTES {
            self.out.drain(..self.written);
            self.written = 0;
        }
        if blocked != self.armed {
            self.armed = blocked;
            let interest = if blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(epoll, &self.socket, mark(index, self.generation), interest)?;
        }
        Ok(())
    }
}

const EINPROGRESS: i32 = 115;

fn mark(index: usize, generation: u32) -> EventData {
    EventData::new_u64(index as u64 | u64::from(generation) << 32)
}

/// 127.1.0.1 and on: loopback is a /8.
fn source(index: usize) -> Ipv4Addr {
    let [_, high, middle, low] = ((index / CLIENTS_A_SOURCE) as u32 + 1).to_be_bytes();
    Ipv4Addr::new(127, high + 1, middle, low)
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}
