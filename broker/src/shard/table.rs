//! The shell's side of the connections: 16 bytes each, by the core's slot.
//!
//! An idle plain connection owns its descriptor here and nothing else. A box
//! appears with the first partial packet (or a transport with state) and goes
//! when the packet is complete.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use super::meters::Meters;
use crate::net::stack::{Peer, Scratch, Stack};
use crate::net::transport::{self, Arrived, Sent};

/// The flags of a connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Flags(u8);

impl Flags {
    /// The socket may hold bytes that were not read yet.
    pub(crate) const READABLE: Flags = Flags(1);
    /// In the ready list.
    pub(crate) const LISTED: Flags = Flags(1 << 1);
    /// The core asked not to read until it says Resume.
    pub(crate) const PAUSED: Flags = Flags(1 << 2);
    /// A send did not go through; the edge of EPOLLOUT is awaited.
    pub(crate) const BLOCKED: Flags = Flags(1 << 3);
    /// The peer sent its FIN: short reads do not mean drained, the end follows.
    pub(crate) const ENDING: Flags = Flags(1 << 4);
    /// The core closes this connection; what comes in is of no interest.
    pub(crate) const CLOSING: Flags = Flags(1 << 5);
    /// The socket is at its end or broken: nothing can be told the peer.
    pub(crate) const GONE: Flags = Flags(1 << 6);
    /// Bytes left after CLOSING was set: the peer should get to read them.
    pub(crate) const LAST_WORDS: Flags = Flags(1 << 7);

    pub(crate) fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    pub(crate) fn set(&mut self, flag: Flags) {
        self.0 |= flag.0;
    }

    pub(crate) fn clear(&mut self, flag: Flags) {
        self.0 &= !flag.0;
    }
}

/// What a connection has only while it needs it.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// The beginning of a packet whose rest has not come yet.
    pub(crate) stash: Vec<u8>,
    /// What lies between the socket and MQTT, if it is not plain TCP.
    pub(crate) stack: Option<Box<Stack>>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Entry {
    extra: Option<Box<Extra>>,
    socket: Option<OwnedFd>,
    /// The low half of the core's generation. It only has to tell a slot's
    /// tenants apart within one batch of events.
    generation: u16,
    /// The listener that it came through, for the counts; and [`FRESH`].
    listener: u8,
    pub(crate) flags: Flags,
}

/// Nothing was read of the connection yet. In the byte of the listener, of
/// which a config has at most 16.
const FRESH: u8 = 1 << 7;

const _: () = assert!(size_of::<Entry>() == 16, "every idle connection pays for this struct");

impl Entry {
    /// Whether it yields to clients that are in and stay: it has not sent its
    /// CONNECT, still agrees on a layer below, or comes to its end.
    pub(crate) fn yields(&self) -> bool {
        self.listener & FRESH != 0 || self.flags.has(Flags::ENDING) || self.is_handshaking()
    }

    /// Reads into `into`.
    pub(crate) fn receive(&mut self, into: &mut [u8], scratch: &mut Scratch) -> Arrived {
        let Some(socket) = &self.socket else { return Arrived::Failed };
        self.listener &= !FRESH;
        match self.extra.as_mut().and_then(|extra| extra.stack.as_mut()) {
            None => transport::receive_plain(socket.as_fd(), into),
            Some(stack) => {
                let arrived = stack.receive(socket.as_fd(), into, scratch);
                if stack.is_pending() {
                    self.flags.set(Flags::BLOCKED);
                }
                if matches!(arrived, Arrived::Broken(_)) {
                    self.flags.set(Flags::LAST_WORDS);
                }
                arrived
            }
        }
    }

    fn through(&self) -> u16 {
        (self.listener & !FRESH).into()
    }

    fn stack(&self) -> Option<&Stack> {
        self.extra.as_ref().and_then(|extra| extra.stack.as_deref())
    }

    /// Whether something below MQTT has to be agreed first.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.stack().is_some_and(Stack::is_handshaking)
    }

    /// Who is on the other side, as far as the layers below MQTT know.
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.stack().and_then(Stack::peer)
    }

    /// Forgets that again, once the client has come in.
    pub(crate) fn forget_peer(&mut self) {
        if let Some(stack) = self.extra.as_mut().and_then(|extra| extra.stack.as_mut()) {
            stack.forget_peer();
        }
    }

    /// The socket takes bytes again: first what a layer below MQTT has to say.
    /// Whether MQTT may follow.
    pub(crate) fn flush_layers(&mut self) -> bool {
        let Some(socket) = &self.socket else { return true };
        let Some(stack) = self.extra.as_mut().and_then(|extra| extra.stack.as_mut()) else {
            return true;
        };
        match stack.flush(socket.as_fd()) {
            Sent::All => true,
            Sent::Some(_) => {
                self.flags.set(Flags::BLOCKED);
                false
            }
            Sent::Failed => {
                self.flags.set(Flags::GONE);
                true
            }
        }
    }

    /// One attempt to send.
    pub(crate) fn send(&mut self, slices: &[IoSlice<'_>], scratch: &mut Scratch) -> Sent {
        let Some(socket) = &self.socket else { return Sent::Failed };
        if self.flags.has(Flags::GONE) {
            return Sent::Failed;
        }
        let sent = match self.extra.as_mut().and_then(|extra| extra.stack.as_mut()) {
            None => transport::send_plain(socket.as_fd(), slices),
            Some(stack) => stack.send(socket.as_fd(), slices, scratch),
        };
        match sent {
            Sent::All => {}
            Sent::Some(_) => self.flags.set(Flags::BLOCKED),
            Sent::Failed => self.flags.set(Flags::GONE),
        }
        if self.flags.has(Flags::CLOSING) {
            self.flags.set(Flags::LAST_WORDS);
        }
        sent
    }

    /// The partial packet, empty if there is none.
    pub(crate) fn stash(&self) -> &[u8] {
        self.extra.as_ref().map_or(&[], |extra| &extra.stash)
    }

    /// Takes the partial packet out, and its memory with it.
    pub(crate) fn take_stash(&mut self) -> Vec<u8> {
        self.extra.as_mut().map(|extra| std::mem::take(&mut extra.stash)).unwrap_or_default()
    }

    /// Keeps `rest` as the partial packet, in place of the one before.
    pub(crate) fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.drop_stash();
        } else {
            let stash = &mut self.extra.get_or_insert_default().stash;
            stash.clear();
            stash.extend_from_slice(rest);
        }
    }

    /// Keeps a partial packet together with its memory.
    pub(crate) fn keep_buffer(&mut self, stash: Vec<u8>) {
        if stash.is_empty() {
            self.drop_stash();
        } else {
            self.extra.get_or_insert_default().stash = stash;
        }
    }

    /// Forgets the partial packet, and the box if nothing else is in it.
    pub(crate) fn drop_stash(&mut self) {
        if let Some(extra) = &mut self.extra {
            if extra.stack.is_none() {
                self.extra = None;
            } else {
                extra.stash = Vec::new();
            }
        }
    }
}

/// All connections of a shard.
#[derive(Debug, Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
}

impl Table {
    /// Takes a socket in at the core's slot.
    pub(crate) fn insert(
        &mut self,
        slot: u32,
        generation: u32,
        listener: u16,
        socket: OwnedFd,
        stack: Option<Box<Stack>>,
    ) {
        let index = slot as usize;
        if index >= self.entries.len() {
            self.entries.resize_with(index + 1, || Entry {
                extra: None,
                socket: None,
                generation: 0,
                listener: 0,
                flags: Flags::default(),
            });
        }
        assert!(self.entries[index].socket.is_none(), "the core gave slot {slot} out twice");
        self.entries[index] = Entry {
            extra: stack.map(|stack| Box::new(Extra { stash: Vec::new(), stack: Some(stack) })),
            socket: Some(socket),
            generation: generation as u16,
            listener: listener as u8 | FRESH,
            flags: Flags::default(),
        };
    }

    /// Bytes of the table, free places included, without partial packets and the state of
    /// layers below MQTT.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
    }

    /// The open connection at `slot`.
    pub(crate) fn open(&mut self, slot: u32) -> Option<&mut Entry> {
        self.entries.get_mut(slot as usize).filter(|entry| entry.socket.is_some())
    }

    /// The open connection that an event is for; none if it was closed since.
    pub(crate) fn tenant(&mut self, slot: u32, generation: u32) -> Option<&mut Entry> {
        self.open(slot).filter(|entry| entry.generation == generation as u16)
    }

    /// Takes the connection out, with its flags and the listener that it came
    /// through; the slot is free afterwards.
    pub(crate) fn remove(
        &mut self,
        slot: u32,
        scratch: &mut Scratch,
    ) -> Option<(OwnedFd, Flags, u16)> {
        let entry = self.entries.get_mut(slot as usize)?;
        let socket = entry.socket.take()?;
        if !entry.flags.has(Flags::GONE)
            && let Some(stack) = entry.extra.as_mut().and_then(|extra| extra.stack.as_mut())
        {
            stack.close(socket.as_fd(), scratch);
            entry.flags.set(Flags::LAST_WORDS);
        }
        entry.extra = None;
        let flags = std::mem::take(&mut entry.flags);
        Some((socket, flags, entry.through()))
    }

    /// The listener that the present or last tenant of a slot came through.
    pub(crate) fn listener(&self, slot: u32) -> Option<u16> {
        self.entries.get(slot as usize).map(Entry::through)
    }

    /// One attempt to send to `slot`.
    pub(crate) fn send(
        &mut self,
        slot: u32,
        slices: &[IoSlice<'_>],
        meters: &Meters,
        scratch: &mut Scratch,
    ) -> Sent {
        let Some(entry) = self.open(slot) else { return Sent::Failed };
        let sent = entry.send(slices, scratch);
        let bytes = match sent {
            Sent::All => slices.iter().map(|slice| slice.len()).sum(),
            Sent::Some(bytes) => bytes,
            Sent::Failed => 0,
        };
        meters.bytes_sent.add(bytes as u64);
        meters.sends.add(1);
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn table_with_one() -> (Table, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("set O_NONBLOCK");
        let mut table = Table::default();
        table.insert(3, 9, 1, OwnedFd::from(ours), None);
        (table, theirs)
    }

    #[test]
    fn an_event_for_an_earlier_tenant_finds_nobody() {
        let (mut table, _peer) = table_with_one();
        assert!(table.tenant(3, 8).is_none());
        assert!(table.tenant(3, 9).is_some());
        assert!(table.tenant(2, 9).is_none());
    }

    #[test]
    fn the_box_goes_with_the_completed_packet() {
        let (mut table, _peer) = table_with_one();
        let entry = table.open(3).expect("open");
        entry.keep(b"par");
        assert_eq!(entry.stash(), b"par");
        entry.keep(b"");
        assert!(entry.extra.is_none());
    }

    #[test]
    fn words_after_the_decision_to_close_are_last_words() {
        let (mut table, _peer) = table_with_one();
        let (meters, mut scratch) = (Meters::default(), Scratch::new(64));
        table.send(3, &[IoSlice::new(b"ab")], &meters, &mut scratch);
        table.open(3).expect("open").flags.set(Flags::CLOSING);
        assert!(!table.open(3).expect("open").flags.has(Flags::LAST_WORDS));
        table.send(3, &[IoSlice::new(b"c")], &meters, &mut scratch);
        let (_socket, flags, listener) = table.remove(3, &mut scratch).expect("open");
        assert_eq!(listener, 1);
        assert!(flags.has(Flags::LAST_WORDS));
        assert_eq!(meters.bytes_sent.value(), 3);
        assert!(table.open(3).is_none());
    }
}
