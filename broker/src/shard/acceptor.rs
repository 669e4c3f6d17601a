//! The shard's listening sockets, and what happens when descriptors run out.
//!
//! Out of descriptors, a level-triggered listener would report itself for ever.
//! So accepting is halted for a while, counted, and said once in a while.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use tidegate_core::ids::Millis;
use tracing::warn;

use super::driver::Greeter;
use super::meters::Meters;
use super::poller::Poller;
use crate::net::door::Door;

/// Connections accepted in one turn; the rest has the next.
pub(crate) const ACCEPTS_MAX: usize = 128;
/// How long a shard does not accept after it ran out of descriptors.
const HALT_MS: Millis = 250;
/// The shortest time between two log lines about it.
const COMPLAINT_MS: Millis = 10_000;

/// The listening sockets of a shard, in the order of the config.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listeners: Vec<OwnedFd>,
    /// Bit by bit, which listeners reported a connection.
    waiting: Vec<bool>,
    halted_until: Option<Millis>,
    /// The listeners with layers do not accept for now.
    held: bool,
    complained_at: Option<Millis>,
}

impl Acceptor {
    /// Takes the listeners over and watches them.
    pub(crate) fn new(listeners: Vec<OwnedFd>, poller: &Poller) -> Result<Acceptor, Errno> {
        for (index, listener) in listeners.iter().enumerate() {
            poller.listen(listener, index as u16)?;
        }
        let waiting = vec![false; listeners.len()];
        Ok(Acceptor { listeners, waiting, halted_until: None, held: false, complained_at: None })
    }

    /// A listener reported connections.
    pub(crate) fn ready(&mut self, index: u16) {
        if let Some(waiting) = self.waiting.get_mut(usize::from(index)) {
            *waiting = true;
        }
    }

    /// While many handshakes go on, the listeners with layers below MQTT do not
    /// accept: those who come wait in the kernel's queue.
    pub(crate) fn hold_layered(&mut self, greeter: &Greeter, doors: &[Arc<Door>], poller: &Poller) {
        let held = match self.held {
            true => !greeter.has_room(),
            false => greeter.is_full(),
        };
        if held == self.held || self.halted_until.is_some() {
            return;
        }
        self.held = held;
        for (index, listener) in self.listeners.iter().enumerate() {
            if doors[index].has_layers() {
                self.waiting[index] = false;
                // It cannot fail for a registered descriptor.
                let _ = poller.mute(listener, index as u16, held);
            }
        }
    }

    /// The next connection of the listeners that reported some, the index of
    /// its listener, and where it comes from.
    pub(crate) fn accept(
        &mut self,
        now: Millis,
        poller: &Poller,
        meters: &Meters,
    ) -> Option<(u16, OwnedFd, Option<IpAddr>)> {
        while let Some(index) = self.waiting.iter().position(|waiting| *waiting) {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match acceptfrom_with(&self.listeners[index], flags) {
                Ok((socket, from)) => {
                    return Some((index as u16, socket, from.as_ref().and_then(ip_of)));
                }
                Err(Errno::AGAIN) => self.waiting[index] = false,
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    self.halt(now, error, poller, meters);
                    return None;
                }
                // The connection died in the queue (ECONNABORTED, EPROTO, or
                // what its network had to say, see accept(2)): the next one.
                Err(_) => {}
            }
        }
        None
    }

    /// Accepts again when the halt is over.
    pub(crate) fn tick(&mut self, now: Millis, poller: &Poller) -> Result<(), Errno> {
        if self.halted_until.is_some_and(|until| until <= now) {
            self.halted_until = None;
            self.held = false;
            for (index, listener) in self.listeners.iter().enumerate() {
                poller.mute(listener, index as u16, false)?;
            }
        }
        Ok(())
    }

    /// When [`Acceptor::tick`] is due.
    pub(crate) fn next_tick(&self) -> Option<Millis> {
        self.halted_until
    }

    /// Closes the listeners: no new connections from here on.
    pub(crate) fn close(&mut self) {
        self.listeners.clear();
        self.waiting.clear();
        self.halted_until = None;
    }

    fn halt(&mut self, now: Millis, error: Errno, poller: &Poller, meters: &Meters) {
        meters.accept_halts.add(1);
        self.waiting.fill(false);
        self.halted_until = Some(now + HALT_MS);
        for (index, listener) in self.listeners.iter().enumerate() {
            // It cannot fail for a registered descriptor.
            let _ = poller.mute(listener, index as u16, true);
        }
        if self.complained_at.is_none_or(|at| now >= at + COMPLAINT_MS) {
            self.complained_at = Some(now);
            warn!(%error, halt_ms = HALT_MS, "cannot accept connections, halted");
        }
    }
}

/// The address; none of a Unix socket.
fn ip_of(from: &SocketAddrAny) -> Option<IpAddr> {
    SocketAddr::try_from(from.clone()).ok().map(|address| address.ip().to_canonical())
}
