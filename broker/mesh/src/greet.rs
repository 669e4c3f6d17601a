//! The handshake over a socket, either side.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tidegate_peer::{
    Auth, Established, Failure, Goodbye, Handshake, HandshakeError, Local, PROTO_MAX, PROTO_MIN,
    Reason, Step,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::call::AskError;
use crate::config::{Place, Trust};
use crate::limits::{FAREWELL_TIME_MAX, LINGER_BYTES_MAX, LINGER_TIME_MAX, READ_BYTES};
use crate::net::{Reading, Socket, Writing};
use crate::shared::Shared;
use crate::tls::identity;

/// A connection whose ends believe each other.
pub(crate) struct Greeted {
    pub(crate) established: Established,
    pub(crate) remote: SocketAddr,
    pub(crate) reading: Reading,
    pub(crate) writing: Writing,
    /// What came behind the handshake.
    pub(crate) rest: BytesMut,
    /// To be sent before anything else: the called side's Welcome.
    pub(crate) first: Bytes,
}

/// Calls whoever is at `address`.
pub(crate) async fn call(
    shared: &Shared,
    address: &str,
    place: Place,
    deadline: Instant,
) -> Result<Greeted, AskError> {
    let (tcp, remote) = match timeout_at(deadline, shared.config.net.call(address)).await {
        Ok(connected) => connected.map_err(AskError::Unreachable)?,
        Err(_) => return Err(AskError::TimedOut),
    };
    let trust = shared.trust();
    match &trust {
        Trust::Secret(secret) => {
            let auth = Auth::Secret(secret.clone());
            converse(shared, tcp.halves(), remote, auth, Some(place), deadline).await
        }
        Trust::Tls(tls) => {
            let connector = TlsConnector::from(tls.client.clone());
            let name = ServerName::IpAddress(remote.ip().into());
            let stream = match timeout_at(deadline, connector.connect(name, tcp)).await {
                Ok(stream) => stream.map_err(|error| broken(shared, remote, error))?,
                Err(_) => return Err(AskError::TimedOut),
            };
            let peer = identity(stream.get_ref().1.peer_certificates());
            let auth = Auth::Tls { peer, accepted: tls.accepted.clone() };
            let (reading, writing) = tokio::io::split(stream);
            let io = (Box::new(reading) as Reading, Box::new(writing) as Writing);
            converse(shared, io, remote, auth, Some(place), deadline).await
        }
    }
}

/// Answers who has called.
pub(crate) async fn answer(
    shared: &Shared,
    tcp: Box<dyn Socket>,
    remote: SocketAddr,
    deadline: Instant,
) -> Result<Greeted, AskError> {
    let trust = shared.trust();
    match &trust {
        Trust::Secret(secret) => {
            let auth = Auth::Secret(secret.clone());
            converse(shared, tcp.halves(), remote, auth, None, deadline).await
        }
        Trust::Tls(tls) => {
            let acceptor = TlsAcceptor::from(tls.server.clone());
            let stream = match timeout_at(deadline, acceptor.accept(tcp)).await {
                Ok(stream) => stream.map_err(|error| broken(shared, remote, error))?,
                Err(_) => return Err(AskError::TimedOut),
            };
            let peer = identity(stream.get_ref().1.peer_certificates());
            let auth = Auth::Tls { peer, accepted: tls.accepted.clone() };
            let (reading, writing) = tokio::io::split(stream);
            let io = (Box::new(reading) as Reading, Box::new(writing) as Writing);
            converse(shared, io, remote, auth, None, deadline).await
        }
    }
}

/// What TLS has to say comes in the guise of I/O.
fn broken(shared: &Shared, remote: SocketAddr, error: io::Error) -> AskError {
    if !error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return AskError::Unreachable(error);
    }
    let error = AskError::Untrusted(error.to_string());
    shared.count_refusal(&error, remote);
    error
}

/// Both sides; the caller has a `place`.
async fn converse(
    shared: &Shared,
    (mut reading, mut writing): (Reading, Writing),
    remote: SocketAddr,
    auth: Auth,
    place: Option<Place>,
    deadline: Instant,
) -> Result<Greeted, AskError> {
    let local = Local { hello: shared.hello(place, auth.method()), auth };
    let now = shared.now();
    let mut handshake = match place {
        Some(_) => {
            let (handshake, hello) = Handshake::call(local, now);
            write_by(&mut writing, &hello, deadline).await?;
            handshake
        }
        None => Handshake::answer(local, now),
    };
    let mut bytes = BytesMut::new();
    loop {
        match shared.greet(&mut handshake, &mut bytes) {
            Ok(Step::NeedMore(missing)) => {
                bytes.reserve(missing.max(512));
                let read = match timeout_at(deadline, reading.read_buf(&mut bytes)).await {
                    Ok(read) => read.map_err(|error| broken(shared, remote, error))?,
                    Err(_) => {
                        let failure = handshake.refuse(Reason::HandshakeTimeout, "too slow");
                        return Err(fail(shared, failure, reading, writing, remote).await);
                    }
                };
                if read == 0 {
                    return Err(AskError::Unreachable(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            Ok(Step::Send(frame)) => write_by(&mut writing, &frame, deadline).await?,
            Ok(Step::Established { send, established }) => {
                let first = send.unwrap_or_default();
                let established = *established;
                return Ok(Greeted { established, remote, reading, writing, rest: bytes, first });
            }
            Err(failure) => return Err(fail(shared, failure, reading, writing, remote).await),
        }
    }
}

/// Counts a handshake that has failed, and says why.
async fn fail(
    shared: &Shared,
    failure: Failure,
    reading: Reading,
    writing: Writing,
    remote: SocketAddr,
) -> AskError {
    let (reason, detail) = (failure.error.reason(), failure.error.to_string());
    let by_peer = match failure.error {
        HandshakeError::ByPeer(_) => true,
        HandshakeError::Frame(_) | HandshakeError::Body { .. } | HandshakeError::Refused { .. } => {
            false
        }
    };
    let error = AskError::Refused { reason, by_peer, detail };
    shared.count_refusal(&error, remote);
    farewell(reading, writing, &failure.send.unwrap_or_default()).await;
    error
}

async fn write_by(writing: &mut Writing, bytes: &[u8], deadline: Instant) -> Result<(), AskError> {
    match timeout_at(deadline, writing.write_all(bytes)).await {
        // Why it broke, if it did, is there to be read.
        Ok(written) => written.or_else(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Ok(()),
            _ => Err(AskError::Unreachable(error)),
        }),
        Err(_) => Err(AskError::TimedOut),
    }
}

impl Greeted {
    /// Ends it before it began.
    pub(crate) async fn refuse(self, reason: Reason, detail: &str) {
        let goodbye = Goodbye::new(reason, (PROTO_MIN, PROTO_MAX), detail).frame();
        farewell(self.reading, self.writing, &[self.first, goodbye].concat()).await;
    }
}

/// Says a last word and closes, such that it is heard: what is still unread
/// would reset the connection and take it back.
pub(crate) async fn farewell(reading: Reading, mut writing: Writing, last: &[u8]) {
    let said = async {
        writing.write_all(last).await?;
        writing.shutdown().await
    };
    if let Ok(Ok(())) = timeout(FAREWELL_TIME_MAX, said).await {
        linger(reading).await;
    }
}

/// Reads and forgets, for a while.
pub(crate) async fn linger(mut reading: Reading) {
    let forget = async {
        let mut bytes = BytesMut::new();
        let mut total = 0;
        while total < LINGER_BYTES_MAX {
            bytes.reserve(READ_BYTES / 4);
            match reading.read_buf(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(read) => total += read,
            }
            bytes.clear();
        }
    };
    let _: Result<(), _> = timeout(LINGER_TIME_MAX, forget).await;
}

/// By when a handshake that begins now is over.
pub(crate) fn deadline(shared: &Shared) -> Instant {
    Instant::now() + shared.config.handshake.min(Duration::from_secs(5))
}

/// Shared with whoever needs both.
pub(crate) type SharedRef = Arc<Shared>;
