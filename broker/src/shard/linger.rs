//! Sockets that are closed for us but not yet for the peer.
//!
//! Closing a socket with unread bytes in it, or into which the peer still
//! writes, sends an RST, and that can overtake our last DISCONNECT or CONNACK.
//! So after last words the sending side is shut down, what came is thrown away,
//! and the descriptor stays for a moment. Bounded: beyond the bound the oldest
//! goes at once.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tidegate_core::ids::Millis;

/// Sockets that linger at the same time, a shard.
const LINGERING_MAX: usize = 512;
/// How long one lingers.
const LINGER_MS: Millis = 500;
/// Bytes thrown away from one socket, a visit.
const DISCARD_BYTES_MAX: usize = 256 << 10;

/// The sockets that linger, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    sockets: VecDeque<(Millis, OwnedFd)>,
}

impl Linger {
    /// Closes `socket` such that the peer can still read what was sent.
    /// `scratch` is overwritten.
    pub(crate) fn close(&mut self, now: Millis, socket: OwnedFd, scratch: &mut [u8]) {
        if shutdown(&socket, Shutdown::Write).is_err() {
            return;
        }
        if discard(&socket, scratch) == Left::Ended {
            return;
        }
        if self.sockets.len() >= LINGERING_MAX {
            self.sockets.pop_front();
        }
        self.sockets.push_back((now + LINGER_MS, socket));
    }

    /// Closes those whose time is up.
    pub(crate) fn tick(&mut self, now: Millis, scratch: &mut [u8]) {
        while self.sockets.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, socket)) = self.sockets.pop_front() {
                discard(&socket, scratch);
            }
        }
    }

    /// Closes those whose peer is done, without waiting for their time.
    pub(crate) fn sweep(&mut self, scratch: &mut [u8]) {
        self.sockets.retain(|(_, socket)| discard(socket, scratch) == Left::More);
    }

    /// When [`Linger::tick`] is due.
    pub(crate) fn next_tick(&self) -> Option<Millis> {
        self.sockets.front().map(|(until, _)| *until)
    }

    /// Whether nothing lingers.
    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

/// Closes a socket to which nothing is owed, throwing away what the peer sent
/// so that the close is a FIN.
pub(crate) fn close_read_out(socket: OwnedFd, scratch: &mut [u8]) {
    discard(&socket, scratch);
}

#[derive(Debug, Eq, PartialEq)]
enum Left {
    /// The peer is done or gone.
    Ended,
    /// More may come.
    More,
}

fn discard(socket: impl AsFd, scratch: &mut [u8]) -> Left {
    let mut thrown = 0;
    while thrown < DISCARD_BYTES_MAX {
        match recv(&socket, &mut *scratch, RecvFlags::empty()) {
            Ok((_, 0)) => return Left::Ended,
            Ok((_, count)) => thrown += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Left::More,
            Err(_) => return Left::Ended,
        }
    }
    Left::More
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let theirs = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (ours, _) = listener.accept().expect("accept");
        ours.set_nonblocking(true).expect("set O_NONBLOCK");
        (OwnedFd::from(ours), theirs)
    }

    #[test]
    fn a_peer_that_still_writes_reads_the_last_words_and_an_orderly_end() {
        let (ours, mut theirs) = pair();
        rustix::net::send(&ours, b"bye", rustix::net::SendFlags::NOSIGNAL).expect("send");
        theirs.write_all(&[0; 1000]).expect("write");
        let mut linger = Linger::default();
        linger.close(0, ours, &mut [0; 256]);
        theirs.write_all(&[0; 1000]).expect("the peer did not notice yet");
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).expect("an orderly end, not a reset");
        assert_eq!(got, b"bye");
        assert!(!linger.is_empty());
        linger.tick(LINGER_MS, &mut [0; 256]);
        assert!(linger.is_empty());
    }

    #[test]
    fn a_peer_that_is_done_does_not_linger() {
        let (ours, theirs) = pair();
        drop(theirs);
        rustix::event::poll(
            &mut [rustix::event::PollFd::new(&ours, rustix::event::PollFlags::RDHUP)],
            None,
        )
        .expect("the FIN");
        let mut linger = Linger::default();
        linger.close(0, ours, &mut [0; 256]);
        assert!(linger.is_empty());
    }

    #[test]
    fn lingering_is_bounded() {
        let mut linger = Linger::default();
        let mut peers = Vec::new();
        for _ in 0..LINGERING_MAX + 3 {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
            ours.set_nonblocking(true).expect("set O_NONBLOCK");
            linger.close(0, OwnedFd::from(ours), &mut [0; 8]);
            peers.push(theirs);
        }
        assert_eq!(linger.sockets.len(), LINGERING_MAX);
    }
}
