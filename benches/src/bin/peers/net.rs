//! Many client connections on one epoll, read and written in batches.
//!
//! A turn reads what is there, hands each whole packet to the caller, and
//! remembers what the caller wants sent; [`Net::flush`] then sends it with one
//! write a connection. Reading for writability is armed only when a socket
//! would block.

use std::io::{ErrorKind, Read, Write};
use std::mem;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use benches::wire::{self, Frame};

const READ_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 1024;
/// A peer that leaves this much unread has stopped, and the run fails.
const OUT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a turn may wait for its first event.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wait {
    /// At most this long, to the millisecond.
    AtMost(Duration),
    /// Until this instant, as exactly as the timer allows.
    Until(Instant),
}

/// The connections of a load.
pub(crate) struct Net {
    epoll: OwnedFd,
    conns: Vec<Conn>,
    read_buffer: Vec<u8>,
    events: Vec<Event>,
    unflushed: Vec<usize>,
}

#[derive(Debug)]
struct Conn {
    stream: TcpStream,
    partial: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    armed: bool,
    unflushed: bool,
}

impl Net {
    /// No connections yet.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            conns: Vec::new(),
            read_buffer: vec![0; READ_BYTES],
            events: Vec::with_capacity(EVENTS_MAX),
            unflushed: Vec::new(),
        })
    }

    /// How many connections were opened.
    pub(crate) fn len(&self) -> usize {
        self.conns.len()
    }

    /// Opens a connection and returns its index.
    ///
    /// Blocking: on loopback the handshake is over when the call returns,
    /// unless the broker's backlog is full.
    pub(crate) fn connect(&mut self, addr: SocketAddr) -> Result<usize> {
        let stream = TcpStream::connect_timeout(&addr, Duration::from_secs(10))
            .with_context(|| format!("connection {} to {addr}", self.conns.len()))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let index = self.conns.len();
        epoll::add(&self.epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
        self.conns.push(Conn {
            stream,
            partial: Vec::new(),
            out: Vec::new(),
            written: 0,
            armed: false,
            unflushed: false,
        });
        Ok(index)
    }

    /// Queues bytes; they leave with the next [`Net::flush`].
    pub(crate) fn push(&mut self, index: usize, bytes: &[u8]) {
        let conn = &mut self.conns[index];
        conn.out.extend_from_slice(bytes);
        if !conn.unflushed {
            conn.unflushed = true;
            self.unflushed.push(index);
        }
    }

    /// Sends what is queued, one write a connection.
    pub(crate) fn flush(&mut self) -> Result<()> {
        while let Some(index) = self.unflushed.pop() {
            self.conns[index].unflushed = false;
            self.write(index)?;
        }
        Ok(())
    }

    /// Waits for events once and hands each whole packet to `on_frame`.
    pub(crate) fn turn<F>(&mut self, wait: Wait, on_frame: &mut F) -> Result<()>
    where
        F: FnMut(&mut Self, usize, Frame<'_>) -> Result<()>,
    {
        self.wait(wait)?;
        let events = mem::take(&mut self.events);
        let mut buffer = mem::take(&mut self.read_buffer);
        let mut result = Ok(());
        for event in &events {
            let index = event.data.u64() as usize;
            let flags = event.flags;
            if flags.contains(EventFlags::OUT) {
                result = self.write(index);
            }
            if result.is_ok()
                && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR)
            {
                result = self.read(index, &mut buffer, on_frame);
            }
            if result.is_err() {
                break;
            }
        }
        self.read_buffer = buffer;
        self.events = events;
        result
    }

    fn wait(&mut self, wait: Wait) -> Result<()> {
        let milliseconds = match wait {
            Wait::AtMost(time) => time.as_millis() as i64,
            Wait::Until(instant) => {
                // epoll_wait counts in milliseconds; ppoll on the epoll counts in nanoseconds.
                let left = instant.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    let mut fds = [PollFd::new(&self.epoll, PollFlags::IN)];
                    poll(&mut fds, Some(&timespec(left)))?;
                }
                0
            }
        };
        let timeout = timespec(Duration::from_millis(milliseconds as u64));
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn read<F>(&mut self, index: usize, buffer: &mut [u8], on_frame: &mut F) -> Result<()>
    where
        F: FnMut(&mut Self, usize, Frame<'_>) -> Result<()>,
    {
        let got = match self.conns[index].stream.read(buffer) {
            Ok(0) => bail!("the broker closed connection {index}"),
            Ok(got) => got,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context(format!("connection {index}")),
        };
        let mut partial = mem::take(&mut self.conns[index].partial);
        if partial.is_empty() {
            let used = self.frames(index, &buffer[..got], on_frame)?;
            partial.extend_from_slice(&buffer[used..got]);
        } else {
            partial.extend_from_slice(&buffer[..got]);
            let used = self.frames(index, &partial, on_frame)?;
            partial.drain(..used);
        }
        self.conns[index].partial = partial;
        Ok(())
    }

    fn frames<F>(&mut self, index: usize, bytes: &[u8], on_frame: &mut F) -> Result<usize>
    where
        F: FnMut(&mut Self, usize, Frame<'_>) -> Result<()>,
    {
        let mut used = 0;
        while let Some((frame, length)) = wire::split(&bytes[used..])? {
            on_frame(self, index, frame)?;
            used += length;
        }
        Ok(used)
    }

    fn write(&mut self, index: usize) -> Result<()> {
        let conn = &mut self.conns[index];
        let mut blocked = false;
        while conn.written < conn.out.len() {
            match conn.stream.write(&conn.out[conn.written..]) {
                Ok(sent) => conn.written += sent,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    blocked = true;
                    break;
                }
                Err(error) => return Err(error).context(format!("connection {index}")),
            }
        }
        if conn.written == conn.out.len() {
            conn.out.clear();
            conn.written = 0;
        } else if conn.out.len() > OUT_BYTES_MAX {
            bail!("the broker does not read connection {index}");
        }
        if blocked != conn.armed {
            conn.armed = blocked;
            let interest = if blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            let data = EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &conn.stream, data, interest)?;
        }
        Ok(())
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}
