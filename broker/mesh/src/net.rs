//! Where sockets come from: the system, or a simulated network.
//!
//! What is behind a connection is boxed, as its halves are anyway: a virtual
//! call for each read and write, beside a system call.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// The half of a connection that is read from.
pub type Reading = Box<dyn AsyncRead + Send + Unpin>;
/// The half that is written to.
pub type Writing = Box<dyn AsyncWrite + Send + Unpin>;
/// What a [`Net`] does.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A network. [`System`] is the one that is there.
pub trait Net: Debug + Send + Sync + 'static {
    /// Listens at an address.
    fn listen(&self, at: SocketAddr) -> Doing<'_, Box<dyn Listening>>;

    /// Calls `address`, host and port: the first of its addresses that answers,
    /// and which one that was.
    fn call<'a>(&'a self, address: &'a str) -> Doing<'a, (Box<dyn Socket>, SocketAddr)>;
}

/// A socket that listens; it ends when dropped.
pub trait Listening: Send + Sync {
    /// Where it does.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The next who calls, and from where. Dropping the future loses nobody.
    fn accept(&self) -> Doing<'_, (Box<dyn Socket>, SocketAddr)>;
}

/// A connection.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {
    /// Its halves. Dropping the second ends what is written.
    fn halves(self: Box<Self>) -> (Reading, Writing);
}

/// The system's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Net for System {
    fn listen(&self, at: SocketAddr) -> Doing<'_, Box<dyn Listening>> {
        Box::pin(async move {
            let listener = TcpListener::bind(at).await?;
            Ok(Box::new(listener) as Box<dyn Listening>)
        })
    }

    fn call<'a>(&'a self, address: &'a str) -> Doing<'a, (Box<dyn Socket>, SocketAddr)> {
        Box::pin(async move {
            let none = "the name has no address";
            let mut last = io::Error::new(io::ErrorKind::NotFound, none);
            for remote in tokio::net::lookup_host(address).await? {
                match TcpStream::connect(remote).await {
                    Ok(tcp) => {
                        prepare(&tcp)?;
                        return Ok((Box::new(tcp) as Box<dyn Socket>, remote));
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        })
    }
}

impl Listening for TcpListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }

    fn accept(&self) -> Doing<'_, (Box<dyn Socket>, SocketAddr)> {
        Box::pin(async move {
            let (tcp, remote) = TcpListener::accept(self).await?;
            // One that is gone again says so when it is read.
            let _: io::Result<()> = prepare(&tcp);
            Ok((Box::new(tcp) as Box<dyn Socket>, remote))
        })
    }
}

impl Socket for TcpStream {
    fn halves(self: Box<Self>) -> (Reading, Writing) {
        let (reading, writing) = self.into_split();
        (Box::new(reading), Box::new(writing))
    }
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    // Frames are put together here; what is written is to leave.
    socket2::SockRef::from(tcp).set_tcp_nodelay(true)
}
