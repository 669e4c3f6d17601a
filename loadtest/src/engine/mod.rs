//! Client connections on one epoll and one thread, in a slab.
//!
//! No task and no buffer a connection: reading goes through one buffer that all
//! share, and a buffer for writing is borrowed while something waits. So an idle
//! connection is a slot of 72 bytes, and one process holds as many as it may
//! have descriptors.

mod bind;
pub(crate) mod clock;
mod conn;
pub(crate) mod source;
mod speech;

use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustls::ClientConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tidegate_codec::{Version, frame};

use bind::bind;
pub(crate) use conn::Gone;
use conn::{Conn, Spares, Stage, mark};
pub(crate) use speech::{Codec, Heard, Malformed, Said, worst};
use tidegate_loadtest::layers::{Stack, tls_config};
pub(crate) use tidegate_loadtest::transport::Transport;

const READ_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 1_024;
const PACKET_BYTES_MAX: u32 = 64 * 1024 * 1024;
const EINPROGRESS: i32 = 115;

/// What happened to a connection.
#[derive(Debug)]
pub(crate) enum News<'a> {
    /// TCP, TLS and WebSocket are agreed; the CONNECT may go.
    Ready,
    /// A packet.
    Packet(Heard<'a>),
    /// It is over, and its slot is free again.
    Gone(Gone),
}

/// The connections of one process.
pub(crate) struct Net {
    epoll: OwnedFd,
    codec: Codec,
    tls: Arc<ClientConfig>,
    conns: Vec<Option<Conn>>,
    generation: u32,
    read_buffer: Vec<u8>,
    plain: Vec<u8>,
    events: Vec<Event>,
    unflushed: Vec<u32>,
    spares: Spares,
    bytes_in: u64,
    bytes_out: u64,
    heard_at: u64,
}

impl Net {
    /// What a connection takes here.
    pub(crate) const SLOT_BYTES: usize = size_of::<Option<Conn>>();

    /// No connections yet; slots go from 0 to `count`.
    pub(crate) fn new(count: u32, codec: Codec) -> Result<Self> {
        let mut conns = Vec::new();
        conns.resize_with(count as usize, || None);
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            codec,
            // Each from the beginning: resumption would hide what new clients cost.
            tls: tls_config(false)?,
            conns,
            generation: 0,
            read_buffer: vec![0; READ_BYTES],
            plain: Vec::new(),
            events: Vec::with_capacity(EVENTS_MAX),
            unflushed: Vec::new(),
            spares: Spares::default(),
            bytes_in: 0,
            bytes_out: 0,
            heard_at: 0,
        })
    }

    /// Begins to connect slot `index`.
    pub(crate) fn open(
        &mut self,
        index: u32,
        target: SocketAddr,
        source: Option<IpAddr>,
        (transport, version): (Transport, Version),
    ) -> Result<()> {
        let domain = Domain::for_address(target);
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if let Some(source) = source {
            bind(&socket, source)?;
        }
        match socket.connect(&target.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        self.generation = self.generation.wrapping_add(1);
        let stack = match transport {
            Transport::Tcp => None,
            Transport::Tls | Transport::Ws | Transport::Wss => {
                Some(Box::new(Stack::new(transport, &self.tls)?))
            }
        };
        let conn = Conn {
            socket: socket.into(),
            generation: self.generation,
            stack,
            partial: Vec::new(),
            out: Vec::new(),
            written: 0,
            stage: Stage::Connecting,
            version,
            armed: true,
            unflushed: false,
        };
        let both = EventFlags::IN | EventFlags::OUT;
        epoll::add(&self.epoll, &conn.socket, mark(index, conn.generation), both)?;
        self.conns[index as usize] = Some(conn);
        Ok(())
    }

    /// Moves a connection to another slot, which must be free.
    pub(crate) fn shift(&mut self, from: u32, to: u32) -> Result<()> {
        self.close(to);
        if let Some(mut conn) = self.conns[from as usize].take() {
            let out = if conn.armed { EventFlags::OUT } else { EventFlags::empty() };
            let mark = mark(to, conn.generation);
            epoll::modify(&self.epoll, &conn.socket, mark, EventFlags::IN | out)?;
            conn.unflushed = false;
            self.conns[to as usize] = Some(conn);
            self.touch(to);
        }
        Ok(())
    }

    /// Closes a connection, without a word.
    pub(crate) fn close(&mut self, index: u32) {
        if let Some(conn) = self.conns[index as usize].take() {
            self.spares.give(conn.out);
            self.spares.give(conn.partial);
        }
    }

    /// Bytes that wait to be sent.
    pub(crate) fn unsent(&self, index: u32) -> usize {
        let conn = self.conns[index as usize].as_ref();
        conn.map_or(0, |conn| conn.out.len() - conn.written as usize)
    }

    /// Bytes of MQTT that came so far.
    pub(crate) fn bytes_in(&self) -> u64 {
        self.bytes_in
    }

    /// Bytes of MQTT that were queued so far.
    pub(crate) fn bytes_out(&self) -> u64 {
        self.bytes_out
    }

    /// When the packet that is being told was read. All packets of a read came at the same time,
    /// and reading the clock for each would cost a good part of what the packet costs.
    pub(crate) fn heard_at(&self) -> u64 {
        self.heard_at
    }

    /// Queues a packet; it leaves with the next [`Net::flush`].
    pub(crate) fn say(&mut self, index: u32, said: &Said<'_>) {
        let Some(conn) = &mut self.conns[index as usize] else { return };
        if conn.out.capacity() == 0 {
            conn.out = self.spares.take();
        }
        match &mut conn.stack {
            None => {
                let before = conn.out.len();
                self.codec.say(conn.version, said, &mut conn.out);
                self.bytes_out += (conn.out.len() - before) as u64;
            }
            Some(stack) => {
                let mut packet = self.spares.take();
                self.codec.say(conn.version, said, &mut packet);
                self.bytes_out += packet.len() as u64;
                stack.wrap(&packet, &mut conn.out);
                self.spares.give(packet);
            }
        }
        self.touch(index);
    }

    fn touch(&mut self, index: u32) {
        if let Some(conn) = &mut self.conns[index as usize]
            && !conn.unflushed
        {
            conn.unflushed = true;
            self.unflushed.push(index);
        }
    }

    /// Sends what is queued, one write a connection.
    pub(crate) fn flush(&mut self) -> Result<()> {
        while let Some(index) = self.unflushed.pop() {
            // A slot taken anew since may be here twice; the second time nothing waits.
            if let Some(conn) = &mut self.conns[index as usize] {
                conn.unflushed = false;
                conn.write(&self.epoll, index, &mut self.spares)?;
            }
        }
        Ok(())
    }

    /// Waits for events until `until` at the latest and tells what they bring.
    pub(crate) fn turn<F>(&mut self, until: u64, tell: &mut F) -> Result<()>
    where
        F: FnMut(&mut Self, u32, News<'_>) -> Result<()>,
    {
        self.wait(until)?;
        let events = mem::take(&mut self.events);
        for event in &events {
            let (mark, flags) = (event.data.u64(), event.flags);
            let (index, generation) = (mark as u32, (mark >> 32) as u32);
            if self.lives(index, generation) {
                self.handle(index, generation, flags, tell)?;
            }
        }
        self.events = events;
        self.flush()
    }

    fn lives(&self, index: u32, generation: u32) -> bool {
        let conn = self.conns[index as usize].as_ref();
        conn.is_some_and(|conn| conn.generation == generation)
    }

    fn wait(&mut self, until: u64) -> Result<()> {
        // epoll_wait counts in milliseconds; ppoll on the epoll counts in nanoseconds.
        let left = until.saturating_sub(clock::now());
        if left > 0 {
            let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
            match poll(&mut fds, Some(&timespec(Duration::from_nanos(left)))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.events.clear();
        let now = timespec(Duration::ZERO);
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&now)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn handle<F>(
        &mut self,
        index: u32,
        generation: u32,
        flags: EventFlags,
        tell: &mut F,
    ) -> Result<()>
    where
        F: FnMut(&mut Self, u32, News<'_>) -> Result<()>,
    {
        let Some(conn) = &mut self.conns[index as usize] else { return Ok(()) };
        if conn.stage == Stage::Connecting {
            if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
                self.close(index);
                return tell(self, index, News::Gone(Gone::Refused));
            }
            if !flags.contains(EventFlags::OUT) {
                return Ok(());
            }
            conn.stage = Stage::Layers;
            if let Some(stack) = &mut conn.stack {
                stack.begin(&mut conn.out);
            }
            if conn.stack.is_none() {
                conn.stage = Stage::Ready;
                tell(self, index, News::Ready)?;
            }
        }
        self.readable(index, generation, flags, tell)
    }

    fn readable<F>(
        &mut self,
        index: u32,
        generation: u32,
        flags: EventFlags,
        tell: &mut F,
    ) -> Result<()>
    where
        F: FnMut(&mut Self, u32, News<'_>) -> Result<()>,
    {
        self.touch(index);
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        let Some(conn) = &mut self.conns[index as usize] else { return Ok(()) };
        let mut buffer = mem::take(&mut self.read_buffer);
        let mut plain = mem::take(&mut self.plain);
        plain.clear();
        let received = conn.receive(&mut buffer, &mut plain);
        self.heard_at = clock::now();
        let ready =
            conn.stage != Stage::Ready && conn.stack.as_ref().is_none_or(|stack| stack.ready());
        let mut result = Ok(());
        let mut gone = None;
        match received {
            Ok(bytes) => {
                if ready {
                    conn.stage = Stage::Ready;
                    result = tell(self, index, News::Ready);
                }
                if result.is_ok() && !bytes.is_empty() {
                    self.bytes_in += bytes.len() as u64;
                    match self.packets(index, generation, bytes, tell) {
                        Ok(Ok(())) => {}
                        Ok(Err(malformed)) => gone = Some(malformed),
                        Err(error) => result = Err(error),
                    }
                }
            }
            Err(why) => gone = Some(why),
        }
        self.read_buffer = buffer;
        self.plain = plain;
        result?;
        match gone {
            Some(gone) if self.lives(index, generation) => {
                self.close(index);
                tell(self, index, News::Gone(gone))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn packets<F>(
        &mut self,
        index: u32,
        generation: u32,
        bytes: &[u8],
        tell: &mut F,
    ) -> Result<Result<(), Gone>>
    where
        F: FnMut(&mut Self, u32, News<'_>) -> Result<()>,
    {
        let Some(conn) = &mut self.conns[index as usize] else { return Ok(Ok(())) };
        let version = conn.version;
        let mut partial = mem::take(&mut conn.partial);
        if !partial.is_empty() {
            partial.extend_from_slice(bytes);
        }
        let all = if partial.is_empty() { bytes } else { &partial[..] };
        let mut used = 0;
        loop {
            let frame = match frame(&all[used..], PACKET_BYTES_MAX) {
                Ok(Some(frame)) if all.len() - used >= frame.total => frame,
                Ok(_) => break,
                Err(_) => return Ok(Err(Gone::Malformed)),
            };
            let one = &all[used..used + frame.total];
            let Ok(packet) = self.codec.hear(version, &frame, one) else {
                return Ok(Err(Gone::Malformed));
            };
            tell(self, index, News::Packet(packet))?;
            used += frame.total;
            if !self.lives(index, generation) {
                return Ok(Ok(()));
            }
        }
        let rest = if used == all.len() {
            self.spares.give(partial);
            Vec::new()
        } else if partial.is_empty() {
            let mut rest = self.spares.take();
            rest.extend_from_slice(&bytes[used..]);
            rest
        } else {
            partial.drain(..used);
            partial
        };
        if let Some(conn) = &mut self.conns[index as usize] {
            conn.partial = rest;
        }
        Ok(Ok(()))
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}
