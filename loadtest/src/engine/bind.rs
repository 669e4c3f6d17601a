//! A source address without a port.
//!
//! A bind picks a port that nobody else may have, of some 28,000 for all
//! targets together. With IP_BIND_ADDRESS_NO_PORT the connect picks it, which
//! knows the target: each target has as many, and `EADDRINUSE` comes later.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::Socket;

/// Binds a socket that is to connect.
pub(super) fn bind(socket: &Socket, source: IpAddr) -> io::Result<()> {
    // A kernel before 4.2 does not know it; then the bind picks the port.
    let _ = leave_port(socket);
    socket.bind(&SocketAddr::from((source, 0)).into())
}

#[allow(unsafe_code, reason = "no crate here has a safe call for this option")]
fn leave_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is borrowed from a live socket, and the value points to an
    // initialised c_int whose exact size is passed.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use socket2::{Domain, Type};

    use super::*;

    #[test]
    fn the_port_is_chosen_by_the_connect_and_not_by_the_bind() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let source = Ipv4Addr::new(127, 1, 0, 7);
        bind(&socket, source.into()).expect("loopback");
        let own = || socket.local_addr().ok().and_then(|own| own.as_socket());
        assert_eq!(own().map(|own| (own.ip(), own.port())), Some((source.into(), 0)));
        let target = listener.local_addr().expect("bound");
        socket.connect(&target.into()).expect("it listens");
        assert_eq!(own().map(|own| own.ip()), Some(source.into()));
        assert!(own().is_some_and(|own| own.port() > 0));
    }
}
