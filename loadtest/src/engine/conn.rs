//! One connection: a descriptor and a few bytes, and buffers only while bytes wait.

use std::os::fd::OwnedFd;

use anyhow::Result;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use tidegate_codec::Version;

use tidegate_loadtest::layers::{Broken, Stack};

/// A buffer larger than this is not kept for another connection.
const SPARE_BYTES_MAX: usize = 64 * 1024;
const SPARES_MAX: usize = 256;

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
    /// What came is not MQTT.
    Malformed,
}

impl Gone {
    /// In a table.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Refused => "connection refused",
            Self::Closed => "closed by the broker",
            Self::Reset => "reset by the broker",
            Self::Layer => "TLS or WebSocket broken",
            Self::Malformed => "malformed packet from the broker",
        }
    }
}

/// A socket and what waits on either side of it.
pub(super) struct Conn {
    pub(super) socket: OwnedFd,
    /// Tells the events of a slot's earlier connection from those of this one.
    pub(super) generation: u32,
    /// TLS and WebSocket, if any.
    pub(super) stack: Option<Box<Stack>>,
    /// The beginning of a packet.
    pub(super) partial: Vec<u8>,
    /// What is not sent yet, from `written` on.
    pub(super) out: Vec<u8>,
    pub(super) written: u32,
    pub(super) stage: Stage,
    pub(super) version: Version,
    pub(super) armed: bool,
    pub(super) unflushed: bool,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// TCP.
    Connecting,
    /// TLS and WebSocket.
    Layers,
    /// MQTT.
    Ready,
}

/// Empty buffers, so that an idle connection needs none.
#[derive(Debug, Default)]
pub(super) struct Spares(Vec<Vec<u8>>);

impl Spares {
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    pub(super) fn give(&mut self, mut buffer: Vec<u8>) {
        let worth = (1..=SPARE_BYTES_MAX).contains(&buffer.capacity());
        if worth && self.0.len() < SPARES_MAX {
            buffer.clear();
            self.0.push(buffer);
        }
    }
}

impl Conn {
    /// What the socket has, as MQTT: a part of `buffer`, or in `plain` behind the layers.
    pub(super) fn receive<'a>(
        &mut self,
        buffer: &'a mut [u8],
        plain: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Gone> {
        match rustix::io::read(&self.socket, &mut *buffer) {
            Ok(0) => Err(Gone::Closed),
            Ok(got) => match &mut self.stack {
                None => Ok(&buffer[..got]),
                Some(stack) => match stack.unwrap(&buffer[..got], plain, &mut self.out) {
                    Ok(()) => Ok(plain),
                    // What came before the farewell is lost; the connection is, too.
                    Err(Broken::Closed) => Err(Gone::Closed),
                    Err(Broken::Rules) => Err(Gone::Layer),
                },
            },
            Err(Errno::AGAIN | Errno::INTR) => Ok(&[]),
            Err(_) => Err(Gone::Reset),
        }
    }

    /// Sends what waits. A broken socket tells by its event.
    pub(super) fn write(&mut self, epoll: &OwnedFd, index: u32, spares: &mut Spares) -> Result<()> {
        if self.stage == Stage::Connecting {
            return Ok(());
        }
        if let Some(stack) = &mut self.stack {
            stack.drain(&mut self.out);
        }
        let mut blocked = false;
        while (self.written as usize) < self.out.len() {
            match rustix::io::write(&self.socket, &self.out[self.written as usize..]) {
                Ok(sent) => self.written += sent as u32,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    blocked = true;
                    break;
                }
                // Reading it says what happened.
                Err(_) => self.written = self.out.len() as u32,
            }
        }
        if !blocked {
            self.written = 0;
            self.out.clear();
            spares.give(std::mem::take(&mut self.out));
        } else if self.written as usize > SPARE_BYTES_MAX {
            self.out.drain(..self.written as usize);
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

/// What the kernel hands back with an event.
pub(super) fn mark(index: u32, generation: u32) -> EventData {
    EventData::new_u64(u64::from(index) | u64::from(generation) << 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_of_the_slab_is_small() {
        assert!(size_of::<Option<Conn>>() <= 72, "{}", size_of::<Option<Conn>>());
    }
}
