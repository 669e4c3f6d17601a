//! Listening sockets: one a shard and listener, in one SO_REUSEPORT group.
//!
//! The kernel spreads new connections over the group, so shards never hand
//! sockets to each other. TCP_NODELAY and SO_KEEPALIVE with its three times are
//! set once on the listening socket: on Linux an accepted socket inherits them,
//! which saves five system calls a connect (the tests below hold the kernel to it).

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::config::{Bind, TcpKeepalive};

/// Bytes that the kernel keeps for a connection and has not sent; accepted
/// sockets inherit it.
const UNSENT_BYTES_MAX: u32 = 128 << 10;

/// What is set on a listening socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListenOptions {
    /// Whether an IPv6 address takes IPv6 alone.
    pub ipv6_only: bool,
    /// Connections that wait to be accepted, a shard (the kernel caps it at `somaxconn`).
    pub backlog: u32,
    /// Probing of silent peers; `None` leaves it off.
    pub keepalive: Option<TcpKeepalive>,
}

/// One configured listener, bound: a socket for every shard.
#[derive(Debug)]
pub struct Bound {
    /// The listener's name in the config.
    pub name: String,
    /// The address in use; the port is known even if the config said 0.
    pub address: Bind,
    /// One listening, non-blocking socket a shard, in the order of the shards.
    pub sockets: Vec<OwnedFd>,
}

/// A listener that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("listener.{name}: cannot listen on {address}: {source}")]
pub struct BindError {
    /// The listener's name in the config.
    pub name: String,
    /// The address that was asked for.
    pub address: Bind,
    /// What the kernel says.
    pub source: io::Error,
}

/// Opens a listening socket for each of `shards` on `wanted`. With port 0 the
/// first takes a free port and the others join it. Of a Unix socket, which
/// knows no SO_REUSEPORT, all shards have the same.
///
/// # Errors
/// When the kernel refuses, also because another process has the port.
pub fn bind(
    name: &str,
    wanted: &Bind,
    options: ListenOptions,
    shards: usize,
) -> Result<Bound, BindError> {
    let bound = match wanted {
        Bind::Tcp(address) => bind_group(*address, options, shards)
            .map(|(address, sockets)| (Bind::Tcp(address), sockets)),
        Bind::Unix(path) => {
            bind_unix(path, options, shards).map(|sockets| (wanted.clone(), sockets))
        }
    };
    bound
        .map(|(address, sockets)| Bound { name: name.to_owned(), address, sockets })
        .map_err(|source| BindError { name: name.to_owned(), address: wanted.clone(), source })
}

fn bind_group(
    wanted: SocketAddr,
    options: ListenOptions,
    shards: usize,
) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    if wanted.port() != 0 {
        // SO_REUSEPORT lets a second broker of the same user join our group in
        // silence and take half of the connections. A plain bind does not.
        let probe = Socket::new(Domain::for_address(wanted), Type::STREAM, Some(Protocol::TCP))?;
        probe.set_reuse_address(true)?;
        if wanted.is_ipv6() {
            probe.set_only_v6(options.ipv6_only)?;
        }
        probe.bind(&wanted.into())?;
    }
    let mut address = wanted;
    let mut sockets = Vec::with_capacity(shards);
    for _ in 0..shards {
        let socket = open(address, options)?;
        if address.port() == 0 {
            address = socket
                .local_addr()?
                .as_socket()
                .ok_or_else(|| io::Error::other("a TCP socket without an IP address"))?;
        }
        sockets.push(OwnedFd::from(socket));
    }
    Ok((address, sockets))
}

fn open(address: SocketAddr, options: ListenOptions) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    // What a client does not take waits with us, where it is counted and can be
    // let go, and not in the kernel.
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    if address.is_ipv6() {
        socket.set_only_v6(options.ipv6_only)?;
    }
    if let Some(keepalive) = options.keepalive {
        socket.set_tcp_keepalive(
            &socket2::TcpKeepalive::new()
                .with_time(keepalive.idle)
                .with_interval(keepalive.interval)
                .with_retries(keepalive.count),
        )?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

fn bind_unix(path: &Path, options: ListenOptions, shards: usize) -> io::Result<Vec<OwnedFd>> {
    let address = SockAddr::unix(path)?;
    let kind = Type::STREAM.nonblocking().cloexec();
    if path.symlink_metadata().is_ok_and(|found| found.file_type().is_socket()) {
        // What a broker that was killed left behind; of a live one it is not taken.
        let probe = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        match probe.connect(&address) {
            Ok(()) => return Err(io::ErrorKind::AddrInUse.into()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            Err(_) => {}
        }
    }
    let socket = Socket::new(Domain::UNIX, kind, None)?;
    socket.bind(&address)?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    let mut sockets = vec![OwnedFd::from(socket)];
    for _ in 1..shards {
        sockets.push(sockets[0].try_clone()?);
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use rustix::net::{SocketFlags, accept_with, sockopt};

    use super::*;

    const OPTIONS: ListenOptions = ListenOptions {
        ipv6_only: true,
        backlog: 16,
        keepalive: Some(TcpKeepalive {
            idle: Duration::from_secs(240),
            interval: Duration::from_secs(30),
            count: 4,
        }),
    };

    fn loopback() -> Bind {
        Bind::Tcp("127.0.0.1:0".parse().expect("an address"))
    }

    fn tcp(bound: &Bound) -> SocketAddr {
        match &bound.address {
            Bind::Tcp(address) => *address,
            Bind::Unix(path) => panic!("{path:?}"),
        }
    }

    /// Idle time, interval and count that an accepted socket has.
    fn keepalive_of_accepted(options: ListenOptions) -> (u64, u64, u32) {
        let bound = bind("t", &loopback(), options, 1).expect("bind");
        let _client = TcpStream::connect(tcp(&bound)).expect("connect");
        rustix::event::poll(
            &mut [rustix::event::PollFd::new(&bound.sockets[0], rustix::event::PollFlags::IN)],
            None,
        )
        .expect("wait for the client");
        let accepted = accept_with(&bound.sockets[0], SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)
            .expect("accept");
        assert!(sockopt::tcp_nodelay(&accepted).expect("getsockopt"));
        assert!(sockopt::socket_keepalive(&accepted).expect("getsockopt"));
        (
            sockopt::tcp_keepidle(&accepted).expect("getsockopt").as_secs(),
            sockopt::tcp_keepintvl(&accepted).expect("getsockopt").as_secs(),
            sockopt::tcp_keepcnt(&accepted).expect("getsockopt"),
        )
    }

    #[test]
    fn accepted_sockets_inherit_nodelay_and_keepalive() {
        assert_eq!(keepalive_of_accepted(OPTIONS), (240, 30, 4));
    }

    #[test]
    fn the_default_keepalive_is_300_s_300_s_and_2_probes() {
        let options = ListenOptions { keepalive: Some(TcpKeepalive::default()), ..OPTIONS };
        assert_eq!(keepalive_of_accepted(options), (300, 300, 2));
    }

    #[test]
    fn port_zero_puts_every_shard_on_one_port() {
        let bound = bind("t", &loopback(), OPTIONS, 3).expect("bind");
        assert_ne!(tcp(&bound).port(), 0);
        assert_eq!(bound.sockets.len(), 3);
    }

    #[test]
    fn a_port_in_use_by_another_broker_is_refused() {
        let first = bind("first", &loopback(), OPTIONS, 2).expect("bind");
        let error = bind("second", &first.address, OPTIONS, 2).expect_err("the port is taken");
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with("listener.second: cannot listen on 127.0.0.1:"));
    }

    #[test]
    fn dual_stack_takes_both_families_and_ipv6_alone_leaves_the_other_port_free() {
        let any: Bind = Bind::Tcp("[::]:0".parse().expect("an address"));
        let dual = ListenOptions { ipv6_only: false, ..OPTIONS };
        let bound = bind("t", &any, dual, 2).expect("bind");
        let port = tcp(&bound).port();
        TcpStream::connect(("127.0.0.1", port)).expect("IPv4 comes in");
        TcpStream::connect(("::1", port)).expect("IPv6 comes in");
        let bound = bind("t", &any, OPTIONS, 1).expect("bind");
        let error = TcpStream::connect(("127.0.0.1", tcp(&bound).port())).expect_err("IPv6 alone");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_unix_socket_is_shared_by_the_shards_and_a_stale_one_is_replaced() {
        use std::os::unix::net::UnixStream;
        let path =
            std::env::temp_dir().join(format!("tidegate-listener-{}.sock", std::process::id()));
        let wanted = Bind::Unix(path.clone());
        let bound = bind("t", &wanted, OPTIONS, 2).expect("bind");
        assert_eq!(bound.sockets.len(), 2);
        let _client = UnixStream::connect(&path).expect("connect");
        let taken = bind("u", &wanted, OPTIONS, 1).expect_err("a live broker has it");
        assert_eq!(taken.source.kind(), io::ErrorKind::AddrInUse);
        drop(bound);
        bind("t", &wanted, OPTIONS, 1).expect("what is left of the first one gives way");
        std::fs::remove_file(&path).expect("clean up");
    }
}
