//! Asking the kernel for sockets, over netlink.

use std::io::{self, Read};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket as Netlink, Type};
use tidegate_system::inet_diag::{
    self, DiagError, Family, Progress, Socket, State, Wanted, decode, request,
};

/// The kernel fills a datagram of at most this.
const DATAGRAM_BYTES: usize = 64 << 10;
/// Datagrams of one answer: some hundred sockets each, so some 100 million.
const DATAGRAMS_MAX: u32 = 1 << 20;
/// A dump is answered while we ask; this is for a kernel that does not.
const PATIENCE: Duration = Duration::from_secs(2);

/// Calls `take` for each socket with one of these local ports in one of these
/// states, of both families. Its cost grows with all TCP sockets of the network
/// namespace; how much, [`super::sampler`] sees to.
///
/// # Errors
/// When the kernel does not answer, or not for IPv4.
pub fn sockets(
    ports: &[u16],
    states: &[State],
    info: bool,
    mut take: impl FnMut(Socket),
) -> io::Result<()> {
    let netlink = Netlink::new(
        Domain::from(libc::AF_NETLINK),
        Type::DGRAM.cloexec(),
        Some(Protocol::from(libc::NETLINK_SOCK_DIAG)),
    )?;
    netlink.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    for (sequence, family) in (1..).zip([Family::V4, Family::V6]) {
        let wanted = Wanted { family, states, ports, info };
        netlink.send(&request(wanted, sequence))?;
        match answers(&netlink, sequence, &mut buffer, &mut take) {
            Ok(()) => {}
            // A kernel without IPv6 has no sockets of it.
            Err(error) if family == Family::V6 && is_unknown(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn answers(
    mut netlink: &Netlink,
    sequence: u32,
    buffer: &mut [u8],
    take: &mut impl FnMut(Socket),
) -> io::Result<()> {
    for _ in 0..DATAGRAMS_MAX {
        let length = match netlink.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let progress = decode(&buffer[..length], sequence, &mut *take);
        match progress.map_err(told)? {
            inet_diag::Progress::More => {}
            Progress::Done => return Ok(()),
        }
    }
    Err(io::Error::other("the kernel's answer has no end"))
}

fn told(error: DiagError) -> io::Error {
    match error {
        DiagError::Refused(number) => io::Error::from_raw_os_error(number),
        DiagError::Malformed => io::Error::other(error),
    }
}

fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAFNOSUPPORT | libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn all(ports: &[u16]) -> Vec<Socket> {
        let mut found = Vec::new();
        sockets(ports, &State::ALL, true, |socket| found.push(socket)).expect("an answer");
        found
    }

    #[test]
    fn a_queue_that_nobody_accepts_from_is_told_with_its_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        rustix::net::listen(&listener, 9).expect("another backlog");
        let clients: Vec<_> =
            (0..5).map(|_| TcpStream::connect(address).expect("connect")).collect();
        // Others on this machine may have the port at another address.
        let mut found = all(&[address.port()]);
        found.retain(|socket| socket.local == address);
        let listening: Vec<_> = found.iter().filter(|s| s.state == State::Listen).collect();
        let [listening] = listening.as_slice() else { panic!("{found:?}") };
        assert_eq!((listening.receive_queue, listening.send_queue), (5, 9));
        assert_eq!(listening.local, address);
        let inode = rustix::fs::fstat(&listener).expect("a descriptor").st_ino;
        assert_eq!(u64::from(listening.inode), inode);
        let open: Vec<_> = found.iter().filter(|s| s.state == State::Established).collect();
        assert_eq!(open.len(), clients.len());
        assert!(open.iter().all(|socket| socket.info.is_some() && socket.local == address));
    }

    #[test]
    fn ports_are_told_apart_and_both_families_are_there() {
        let v4 = TcpListener::bind("127.0.0.1:0").expect("bind");
        let v6 = TcpListener::bind("[::1]:0").expect("bind");
        let other = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = |l: &TcpListener| l.local_addr().expect("bound").port();
        let ours = [&v4, &v6, &other].map(|l| l.local_addr().expect("bound"));
        let mut found: Vec<_> = all(&[port(&v4), port(&v6)]).iter().map(|s| s.local).collect();
        found.retain(|local| ours.contains(local));
        found.sort();
        let mut bound = [&v4, &v6].map(|l| l.local_addr().expect("bound"));
        bound.sort();
        assert_eq!(found, bound);
        drop(other);
        assert_eq!(all(&[]), []);
    }
}
