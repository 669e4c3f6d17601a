//! Reads and writes of a socket. Plain TCP keeps no state at all; where more
//! lies between the socket and MQTT it is a [`Stack`](super::stack::Stack).

use std::io::IoSlice;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use tidegate_core::Layer;

/// The most slices that the kernel takes in one call (`UIO_MAXIOV`).
const SLICES_MAX: usize = 1_024;

/// What a read brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Arrived {
    /// That many bytes; none if they were for a layer below MQTT. `drained`: the socket holds no more, and
    /// the next arrival is a new edge.
    Bytes { count: usize, drained: bool },
    /// Nothing for now.
    Nothing,
    /// The peer sent its FIN, and all before it has been read.
    End,
    /// A layer between the socket and MQTT broke its rules.
    Broken(Layer),
    /// The socket is broken.
    Failed,
}

/// What a write achieved.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sent {
    /// Everything.
    All,
    /// So many bytes; the socket takes no more until it says so.
    Some(usize),
    /// The socket is broken.
    Failed,
}

/// Reads what the socket has into `into`, which must not be empty.
pub(crate) fn receive_plain(socket: BorrowedFd<'_>, into: &mut [u8]) -> Arrived {
    let room = into.len();
    loop {
        return match recv(socket, &mut *into, RecvFlags::empty()) {
            Ok((_, 0)) => Arrived::End,
            // A short read empties the socket: with an edge-triggered epoll the
            // read that would only say EAGAIN is saved.
            Ok((_, count)) => Arrived::Bytes { count, drained: count < room },
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Arrived::Nothing,
            Err(_) => Arrived::Failed,
        };
    }
}

/// Sends as much as the socket takes.
pub(crate) fn send_plain(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> Sent {
    let mut done = 0;
    // More than one round only beyond the kernel's bound for one call.
    for chunk in slices.chunks(SLICES_MAX) {
        let wanted: usize = chunk.iter().map(|slice| slice.len()).sum();
        let sent = loop {
            let sent = match chunk {
                [only] => send(socket, only, SendFlags::NOSIGNAL),
                several => sendmsg(
                    socket,
                    several,
                    &mut SendAncillaryBuffer::default(),
                    SendFlags::NOSIGNAL,
                ),
            };
            match sent {
                Ok(sent) => break sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break 0,
                Err(_) => return Sent::Failed,
            }
        };
        done += sent;
        if sent < wanted {
            return Sent::Some(done);
        }
    }
    Sent::All
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("set O_NONBLOCK");
        (ours, theirs)
    }

    #[test]
    fn more_slices_than_one_call_takes_arrive_in_order() {
        let (ours, mut theirs) = pair();
        let bytes: Vec<u8> = (0..3 * SLICES_MAX).map(|n| n as u8).collect();
        let slices: Vec<IoSlice<'_>> = bytes.chunks(1).map(IoSlice::new).collect();
        assert_eq!(send_plain(ours.as_fd(), &slices), Sent::All);
        let mut got = vec![0; bytes.len()];
        theirs.read_exact(&mut got).expect("the bytes");
        assert_eq!(got, bytes);
    }

    #[test]
    fn a_full_socket_takes_a_part_and_says_how_much() {
        let (ours, mut theirs) = pair();
        let bytes = vec![7; 8 << 20];
        let Sent::Some(sent) = send_plain(ours.as_fd(), &[IoSlice::new(&bytes)]) else {
            panic!("8 MiB cannot fit a socket that nobody reads");
        };
        drop(ours);
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).expect("the bytes");
        assert_eq!(got.len(), sent);
    }

    #[test]
    fn a_peer_that_is_gone_fails_a_send_without_a_signal() {
        let (ours, theirs) = pair();
        drop(theirs);
        assert_eq!(send_plain(ours.as_fd(), &[IoSlice::new(b"x")]), Sent::Failed);
        assert_eq!(receive_plain(ours.as_fd(), &mut [0; 8]), Arrived::End);
    }

    #[test]
    fn a_short_read_says_that_the_socket_is_drained() {
        use std::io::Write;
        let (ours, mut theirs) = pair();
        theirs.write_all(b"abc").expect("write");
        let mut into = [0; 2];
        assert_eq!(
            receive_plain(ours.as_fd(), &mut into),
            Arrived::Bytes { count: 2, drained: false }
        );
        assert_eq!(
            receive_plain(ours.as_fd(), &mut into),
            Arrived::Bytes { count: 1, drained: true }
        );
        assert_eq!(receive_plain(ours.as_fd(), &mut into), Arrived::Nothing);
    }
}
