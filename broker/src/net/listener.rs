//! Listening sockets: one a shard and listener, in one SO_REUSEPORT group.
//!
//! The kernel spreads new connections over the group, so shards never hand
//! sockets to each other. TCP_NODELAY and SO_KEEPALIVE with its three times are
//! set once on the listening socket: on Linux an accepted socket inherits them,
//! which saves five system calls a connect (the tests below hold the kernel to it).

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Domain, Protocol, Socket, Type};

use crate::config::TcpKeepalive;

/// What is set on a listening socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListenOptions {
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
    pub address: SocketAddr,
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
    pub address: SocketAddr,
    /// What the kernel says.
    pub source: io::Error,
}

/// Opens `shards` listening sockets on `address`. With port 0 the first takes a
/// free port and the others join it.
///
/// # Errors
/// When the kernel refuses, also because another process has the port.
pub fn bind(
    name: &str,
    address: SocketAddr,
    options: ListenOptions,
    shards: usize,
) -> Result<Bound, BindError> {
    bind_group(address, options, shards)
        .map(|(address, sockets)| Bound { name: name.to_owned(), address, sockets })
        .map_err(|source| BindError { name: name.to_owned(), address, source })
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

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use rustix::net::{SocketFlags, accept_with, sockopt};

    use super::*;

    const OPTIONS: ListenOptions = ListenOptions {
        backlog: 16,
        keepalive: Some(TcpKeepalive {
            idle: Duration::from_secs(240),
            interval: Duration::from_secs(30),
            count: 4,
        }),
    };

    fn loopback() -> SocketAddr {
        "127.0.0.1:0".parse().expect("an address")
    }

    /// Idle time, interval and count that an accepted socket has.
    fn keepalive_of_accepted(options: ListenOptions) -> (u64, u64, u32) {
        let bound = bind("t", loopback(), options, 1).expect("bind");
        let _client = TcpStream::connect(bound.address).expect("connect");
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
        let bound = bind("t", loopback(), OPTIONS, 3).expect("bind");
        assert_ne!(bound.address.port(), 0);
        assert_eq!(bound.sockets.len(), 3);
    }

    #[test]
    fn a_port_in_use_by_another_broker_is_refused() {
        let first = bind("first", loopback(), OPTIONS, 2).expect("bind");
        let error = bind("second", first.address, OPTIONS, 2).expect_err("the port is taken");
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with("listener.second: cannot listen on 127.0.0.1:"));
    }
}
