//! The simulated network as the mesh's.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tidegate_mesh::{Doing, Listening, Net, Reading, Socket, Writing};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// Of the host on which it is asked.
#[derive(Debug)]
pub(crate) struct Simulated;

struct Listener(TcpListener);

struct Stream(TcpStream);

impl Net for Simulated {
    fn listen(&self, at: SocketAddr) -> Doing<'_, Box<dyn Listening>> {
        Box::pin(async move {
            let listener = TcpListener::bind(at).await?;
            Ok(Box::new(Listener(listener)) as Box<dyn Listening>)
        })
    }

    fn call<'a>(&'a self, address: &'a str) -> Doing<'a, (Box<dyn Socket>, SocketAddr)> {
        Box::pin(async move {
            let tcp = TcpStream::connect(address).await?;
            let remote = tcp.peer_addr()?;
            Ok((Box::new(Stream(tcp)) as Box<dyn Socket>, remote))
        })
    }
}

impl Listening for Listener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn accept(&self) -> Doing<'_, (Box<dyn Socket>, SocketAddr)> {
        Box::pin(async move {
            let (tcp, remote) = self.0.accept().await?;
            Ok((Box::new(Stream(tcp)) as Box<dyn Socket>, remote))
        })
    }
}

impl Socket for Stream {
    fn halves(self: Box<Self>) -> (Reading, Writing) {
        let (reading, writing) = self.0.into_split();
        (Box::new(reading), Box::new(writing))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
