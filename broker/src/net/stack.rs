//! What lies between a socket and MQTT where it is more than TCP: the header
//! of a proxy, TLS, WebSocket, in this order.
//!
//! One box a connection, no task and no idle buffer. Bytes pass through the
//! shard's [`Scratch`]; a connection keeps only the part of a record, header or
//! frame that has not come whole, and what the socket did not take. Both are
//! bounded.

use std::io::IoSlice;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use tidegate_core::Layer;
use tidegate_framing::proxy::{self, Parsed};
use tidegate_framing::websocket::{self, Handshake, Unwrapped, WebSocket};

use super::door::Door;
use super::tls::{Step, TlsSession};
use super::transport::{Arrived, Sent, receive_plain, send_plain};

/// Bytes of MQTT that go into one frame or one run of records.
const CHUNK_BYTES: usize = 64 << 10;
/// Bytes that may wait for a peer that does not take the answers of a layer
/// below MQTT; then it is cut off.
const PENDING_BYTES_MAX: usize = 128 << 10;
/// The head of a WebSocket's HTTP request.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// A shard's buffers, shared by all of its connections.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// What came from a socket, as it came.
    raw: Box<[u8]>,
    /// What is about to leave.
    out: Vec<u8>,
    /// MQTT on its way into records.
    gather: Vec<u8>,
    /// The time of this turn.
    now_micros: u64,
}

impl Scratch {
    /// A turn begins.
    pub(crate) fn begin_turn(&mut self, now_micros: u64) {
        self.now_micros = now_micros;
    }

    /// For reads of at most `bytes`.
    pub(crate) fn new(bytes: usize) -> Scratch {
        Scratch {
            raw: vec![0; bytes].into_boxed_slice(),
            out: Vec::new(),
            gather: Vec::new(),
            now_micros: 0,
        }
    }
}

/// Who is on the other side, as far as the layers below MQTT know.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Peer {
    /// The client's address, if a trusted proxy told it.
    pub(crate) source: Option<IpAddr>,
    /// The common name of the client's certificate.
    pub(crate) common_name: Option<String>,
    /// Its first alternative name.
    pub(crate) alternative_name: Option<String>,
    /// The common name that a trusted proxy vouches for.
    pub(crate) proxy_name: Option<String>,
}

/// The layers of one connection.
#[derive(Debug)]
pub(crate) struct Stack {
    /// What is not a whole header or record yet.
    carry: Vec<u8>,
    /// What the socket did not take.
    pending: Option<Box<Pending>>,
    tls: Option<Box<TlsSession>>,
    web: Web,
    proxy: bool,
    /// What follows the bytes that were read last.
    ended: Option<Ended>,
    door: Arc<Door>,
    peer: Option<Box<Peer>>,
}

const _: () = assert!(size_of::<Stack>() <= 112, "every idle WebSocket pays for this struct");

/// Bytes that wait until the socket is writable.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    /// So many of them have gone.
    sent: usize,
}

/// How a layer is over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Ended {
    /// By its rules.
    Orderly,
    /// Against them.
    Broken(Layer),
}

impl Ended {
    fn arrived(self) -> Arrived {
        match self {
            Ended::Orderly => Arrived::End,
            Ended::Broken(layer) => Arrived::Broken(layer),
        }
    }
}

/// How far a WebSocket has come.
#[derive(Debug)]
enum Web {
    None,
    /// The HTTP request, as far as it came.
    Head(Box<Head>),
    Open(WebSocket),
}

/// The beginning of a WebSocket.
#[derive(Debug)]
struct Head {
    bytes: Vec<u8>,
    /// The address of the other end of the socket.
    from: Option<IpAddr>,
}

/// What one read came to.
enum Fed {
    /// So many bytes of MQTT.
    Bytes(usize),
    /// The layer's rules are broken; what there was to say is pending.
    Broken(Layer),
}

impl Stack {
    /// The layers of a connection that `door` let in, `from` being the address
    /// on the other end of the socket; none for plain TCP.
    ///
    /// # Errors
    /// When TLS cannot start.
    pub(crate) fn new(door: &Arc<Door>, from: Option<IpAddr>) -> Result<Option<Box<Stack>>, Layer> {
        if !door.has_layers() {
            return Ok(None);
        }
        let tls = match &door.tls {
            Some(store) => {
                let session = TlsSession::new(store.current()).map_err(|_failed| Layer::Tls)?;
                Some(Box::new(session))
            }
            None => None,
        };
        let web = match door.listener.transport.has_websocket() {
            true => Web::Head(Box::new(Head { bytes: Vec::new(), from })),
            false => Web::None,
        };
        Ok(Some(Box::new(Stack {
            carry: Vec::new(),
            pending: None,
            tls,
            web,
            proxy: door.proxy.is_some(),
            ended: None,
            door: Arc::clone(door),
            peer: None,
        })))
    }

    /// Whether something has to be agreed before MQTT can begin.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.proxy
            || self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
            || matches!(self.web, Web::Head(_))
    }

    /// Who is on the other side.
    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.peer.as_deref()
    }

    /// Forgets who is on the other side: it has come in.
    pub(crate) fn forget_peer(&mut self) {
        self.peer = None;
    }

    /// Reads, and unwraps MQTT into `into`.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        into: &mut [u8],
        scratch: &mut Scratch,
    ) -> Arrived {
        if let Some(ended) = self.ended {
            return ended.arrived();
        }
        let kept = self.carry.len();
        let room = scratch.raw.len().min(into.len());
        if kept >= room {
            return Arrived::Broken(self.layer()); // no record or header is as large
        }
        let (count, drained) = match receive_plain(socket, &mut scratch.raw[kept..room]) {
            Arrived::Bytes { count, drained } => (count, drained),
            other => return other,
        };
        let Scratch { raw, out, now_micros, .. } = scratch;
        raw[..kept].copy_from_slice(&self.carry);
        out.clear();
        let fed = self.feed(&mut raw[..kept + count], into, out, *now_micros);
        if !self.answer(socket, out) {
            return Arrived::Failed;
        }
        match fed {
            Fed::Bytes(0) => {
                let nothing = Arrived::Bytes { count: 0, drained };
                self.ended.map_or(nothing, Ended::arrived)
            }
            // Not drained if an end follows: it is the next thing to be read.
            Fed::Bytes(count) => Arrived::Bytes { count, drained: drained && self.ended.is_none() },
            Fed::Broken(layer) => Arrived::Broken(layer),
        }
    }

    /// The lowest layer that is not done.
    fn layer(&self) -> Layer {
        if self.proxy {
            Layer::Proxy
        } else if self.tls.is_some() {
            Layer::Tls
        } else {
            Layer::WebSocket
        }
    }

    /// Takes what came, all of it, the carry in front. What a layer has to say
    /// goes to `out`.
    fn feed(&mut self, raw: &mut [u8], into: &mut [u8], out: &mut Vec<u8>, now_micros: u64) -> Fed {
        let mut at = 0;
        if let (true, Some(versions)) = (self.proxy, self.door.proxy) {
            match proxy::parse(raw, versions) {
                Ok(Parsed::Incomplete) => {
                    keep(&mut self.carry, raw);
                    return Fed::Bytes(0);
                }
                Ok(Parsed::Header { consumed, header }) => {
                    self.proxy = false;
                    self.door.header_done();
                    at = consumed;
                    self.take_header(&header);
                    if !self.may_come(now_micros) {
                        return Fed::Broken(Layer::Source);
                    }
                }
                Err(error) => {
                    self.door.header_failed(&error);
                    return Fed::Broken(Layer::Proxy);
                }
            }
        }
        let mut count = raw.len() - at;
        let mut closed = false;
        if let Some(tls) = &mut self.tls {
            match tls.receive(&mut raw[at..], into, out) {
                Ok(Step { consumed, plain, done_handshake, closed: ended }) => {
                    keep(&mut self.carry, &raw[at + consumed..]);
                    count = plain;
                    closed = ended;
                    if done_handshake {
                        self.take_certificate();
                    }
                }
                Err(error) => {
                    self.door.tls_failed(&error, !out.is_empty());
                    return Fed::Broken(Layer::Tls);
                }
            }
        } else {
            into[..count].copy_from_slice(&raw[at..]);
            keep(&mut self.carry, &[]);
        }
        let fed = match count {
            0 => Fed::Bytes(0),
            count => self.unwrap(into, count, out, now_micros),
        };
        if closed && self.ended.is_none() {
            self.ended = Some(Ended::Orderly);
        }
        fed
    }

    /// MQTT out of the frames of a WebSocket, if there is one.
    fn unwrap(&mut self, into: &mut [u8], count: usize, out: &mut Vec<u8>, now_micros: u64) -> Fed {
        let mut count = count;
        if let Web::Head(head) = &mut self.web {
            let Head { bytes: head, from } = &mut **head;
            head.extend_from_slice(&into[..count]);
            match websocket::handshake(head, &self.door.websocket(*from)) {
                Handshake::Incomplete if head.len() <= HEAD_BYTES_MAX => return Fed::Bytes(0),
                Handshake::Incomplete => return Fed::Broken(Layer::WebSocket),
                Handshake::Accept { consumed, response, forwarded_for } => {
                    count = head.len() - consumed;
                    if count > into.len() {
                        return Fed::Broken(Layer::WebSocket);
                    }
                    into[..count].copy_from_slice(&head[consumed..]);
                    self.web = Web::Open(WebSocket::default());
                    self.door.websocket_done();
                    if let Some(source) = forwarded_for {
                        self.peer.get_or_insert_default().source = Some(source);
                        if !self.may_come(now_micros) {
                            return Fed::Broken(Layer::Source);
                        }
                    }
                    if !self.say(&response, out) {
                        return Fed::Broken(Layer::Tls);
                    }
                }
                Handshake::Refuse { response, why } => {
                    self.door.websocket_failed(&why);
                    self.say(&response, out);
                    return Fed::Broken(Layer::WebSocket);
                }
            }
        }
        let Web::Open(web) = &mut self.web else { return Fed::Bytes(count) };
        let mut replies = Vec::new();
        let Unwrapped { payload, ended } = web.unwrap(&mut into[..count], &mut replies);
        if !replies.is_empty() && !self.say(&replies, out) {
            return Fed::Broken(Layer::Tls);
        }
        self.ended = match ended {
            None => None,
            Some(close) if close.is_orderly() => Some(Ended::Orderly),
            Some(close) => {
                self.door.complain("WebSocket", &close);
                Some(Ended::Broken(Layer::WebSocket))
            }
        };
        Fed::Bytes(payload)
    }

    /// Whether the place that a proxy told of is within its rate.
    fn may_come(&self, now_micros: u64) -> bool {
        let source = self.peer().and_then(|peer| peer.source);
        source.is_none_or(|source| self.door.admission.source(source, now_micros).is_ok())
    }

    fn take_header(&mut self, header: &proxy::Header) {
        let peer = self.peer.get_or_insert_default();
        peer.source = header.source.map(|source| source.ip());
        if let Some(tls) = &header.tls
            && tls.verified
        {
            peer.proxy_name.clone_from(&tls.common_name);
        }
    }

    fn take_certificate(&mut self) {
        let Some(tls) = &self.tls else { return };
        self.door.tls_done(tls.version_label());
        if let Some(shown) = tls.peer() {
            let peer = self.peer.get_or_insert_default();
            peer.common_name.clone_from(&shown.common_name);
            peer.alternative_name = shown.sans.first().cloned();
        }
    }

    /// Bytes of the WebSocket layer, on their way through TLS; false when that
    /// fails.
    fn say(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        match &mut self.tls {
            Some(tls) => tls.seal(bytes, out).is_ok(),
            None => {
                out.extend_from_slice(bytes);
                true
            }
        }
    }

    /// Sends what a layer has to say, or keeps it until the socket takes it;
    /// false when the socket failed or the peer takes nothing.
    fn answer(&mut self, socket: BorrowedFd<'_>, out: &[u8]) -> bool {
        if out.is_empty() {
            return self.flush(socket) != Sent::Failed;
        }
        if self.pending.is_some() {
            self.keep_back(out);
        } else {
            match send_plain(socket, &[IoSlice::new(out)]) {
                Sent::All => {}
                Sent::Some(count) => self.keep_back(&out[count..]),
                Sent::Failed => return false,
            }
        }
        let waits = |pending: &Pending| pending.bytes.len() - pending.sent;
        self.flush(socket) != Sent::Failed
            && self.pending.as_deref().is_none_or(|p| waits(p) <= PENDING_BYTES_MAX)
    }

    fn keep_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.pending.get_or_insert_default().bytes.extend_from_slice(bytes);
        }
    }

    /// Wraps MQTT and sends it, as much as goes.
    pub(crate) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        slices: &[IoSlice<'_>],
        scratch: &mut Scratch,
    ) -> Sent {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        match self.flush(socket) {
            Sent::All => {}
            Sent::Some(_) => return Sent::Some(0),
            Sent::Failed => return Sent::Failed,
        }
        let mut taken = 0;
        let mut rest = Rest { slices, at: 0 };
        while taken < total {
            let mut gather = std::mem::take(&mut scratch.gather);
            let mut out = std::mem::take(&mut scratch.out);
            gather.clear();
            out.clear();
            let chunk = (total - taken).min(CHUNK_BYTES);
            if matches!(self.web, Web::Open(_)) {
                gather.extend_from_slice(websocket::header(chunk).as_bytes());
            }
            rest.take(chunk, &mut gather);
            let sealed = match &mut self.tls {
                Some(tls) => tls.seal(&gather, &mut out).is_ok(),
                None => {
                    std::mem::swap(&mut gather, &mut out);
                    true
                }
            };
            taken += chunk;
            let sent = match sealed {
                true => send_plain(socket, &[IoSlice::new(&out)]),
                false => Sent::Failed,
            };
            if let Sent::Some(count) = sent {
                self.keep_back(&out[count..]);
            }
            scratch.gather = gather;
            scratch.out = out;
            match sent {
                Sent::All => {}
                Sent::Some(_) => return Sent::Some(taken),
                Sent::Failed => return Sent::Failed,
            }
        }
        Sent::All
    }

    /// Tries to send what is pending.
    pub(crate) fn flush(&mut self, socket: BorrowedFd<'_>) -> Sent {
        let Some(pending) = &mut self.pending else { return Sent::All };
        match send_plain(socket, &[IoSlice::new(&pending.bytes[pending.sent..])]) {
            Sent::All => {
                self.pending = None;
                Sent::All
            }
            Sent::Some(count) => {
                pending.sent += count;
                Sent::Some(count)
            }
            Sent::Failed => Sent::Failed,
        }
    }

    /// Whether bytes wait that the socket did not take.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Says goodbye on every layer, after the last words of MQTT.
    pub(crate) fn close(&mut self, socket: BorrowedFd<'_>, scratch: &mut Scratch) {
        if self.is_handshaking() || self.is_pending() {
            return;
        }
        let out = &mut scratch.out;
        out.clear();
        // One that has ended had its close frame.
        if matches!(self.web, Web::Open(_)) && self.ended.is_none() {
            self.say(&websocket::close_frame(websocket::NORMAL), out);
        }
        if let Some(tls) = &mut self.tls {
            tls.close(out);
        }
        self.answer(socket, out);
    }
}

/// What is left of some slices.
struct Rest<'a, 'b> {
    slices: &'a [IoSlice<'b>],
    /// Bytes of the first that are taken.
    at: usize,
}

impl Rest<'_, '_> {
    fn take(&mut self, count: usize, into: &mut Vec<u8>) {
        let mut left = count;
        while left > 0
            && let Some(first) = self.slices.first()
        {
            let part = &first[self.at..];
            if part.len() > left {
                into.extend_from_slice(&part[..left]);
                self.at += left;
                return;
            }
            into.extend_from_slice(part);
            left -= part.len();
            self.slices = &self.slices[1..];
            self.at = 0;
        }
    }
}

/// Keeps `rest` in place of what was there; no memory for nothing.
fn keep(kept: &mut Vec<u8>, rest: &[u8]) {
    if rest.is_empty() {
        *kept = Vec::new();
    } else {
        kept.clear();
        kept.extend_from_slice(rest);
    }
}
