//! The request that opens a WebSocket, and what it is answered.

use std::fmt::Write;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::{Request, Status};
use sha1::{Digest, Sha1};

use crate::trusted::Trusted;

/// Bytes of a request.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
/// Its headers.
pub const HEADERS_MAX: usize = 64;

/// What every server adds to the key (RFC 6455, section 1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// What MQTT calls itself; `mqttv3.1` is of clients before 3.1.1.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a request is held against.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The path of the WebSocket, without a query.
    pub path: &'a str,
    /// Who may say where a client comes from; none if whoever sent this request
    /// may not.
    pub trusted: Option<&'a Trusted>,
}

/// What became of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Handshake {
    /// The beginning of one.
    Incomplete,
    /// The WebSocket is open once `response` is sent.
    Accept {
        /// Bytes of the request; frames follow.
        consumed: usize,
        /// What the client is answered.
        response: Vec<u8>,
        /// Where it comes from, as a trusted proxy says.
        forwarded_for: Option<IpAddr>,
    },
    /// No WebSocket; to be closed once `response` is sent.
    Refuse {
        /// What the client is answered.
        response: Vec<u8>,
        /// The same in short.
        why: &'static str,
    },
}

/// Reads the request at the start of `bytes`.
pub fn handshake(bytes: &[u8], options: &Options<'_>) -> Handshake {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    let window = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let consumed = match request.parse(window) {
        Ok(Status::Complete(consumed)) => consumed,
        Ok(Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Handshake::Incomplete,
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return refuse("431 Request Header Fields Too Large", "the request is too large", "");
        }
        Err(_) => return refuse("400 Bad Request", "this is not an HTTP request", ""),
    };
    match check(&request, options) {
        Ok(accepted) => Handshake::Accept {
            consumed,
            response: accepted.into_bytes(),
            forwarded_for: options.trusted.and_then(|trusted| forwarded_for(&request, trusted)),
        },
        Err(Refusal { status, why, header }) => refuse(status, why, header),
    }
}

struct Refusal {
    status: &'static str,
    why: &'static str,
    header: &'static str,
}

fn check(request: &Request<'_, '_>, options: &Options<'_>) -> Result<String, Refusal> {
    let bad = |why| Err(Refusal { status: "400 Bad Request", why, header: "" });
    if request.method != Some("GET") {
        let (status, why) = ("405 Method Not Allowed", "a WebSocket is opened with GET");
        return Err(Refusal { status, why, header: "Allow: GET\r\n" });
    }
    let target = request.path.unwrap_or_default();
    if target.split('?').next() != Some(options.path) {
        let (status, why) = ("404 Not Found", "MQTT over WebSocket is at another path");
        return Err(Refusal { status, why, header: "" });
    }
    if !has_token(request, "upgrade", "websocket") || !has_token(request, "connection", "upgrade") {
        let (status, why) = ("426 Upgrade Required", "this is MQTT over WebSocket, not a web page");
        let header = "Upgrade: websocket\r\nConnection: Upgrade\r\n";
        return Err(Refusal { status, why, header });
    }
    if request.version != Some(1) {
        return bad("a WebSocket needs HTTP/1.1");
    }
    if value(request, "host").is_none() {
        return bad("the Host header is missing");
    }
    if value(request, "sec-websocket-version") != Some("13") {
        let (status, why) = ("426 Upgrade Required", "the WebSocket version is not 13");
        return Err(Refusal { status, why, header: "Sec-WebSocket-Version: 13\r\n" });
    }
    let key = value(request, "sec-websocket-key").unwrap_or_default();
    if !STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
        return bad("Sec-WebSocket-Key is not 16 bytes in Base64");
    }
    // [MQTT-6.0.0-3], [MQTT-6.0.0-4]
    let asked = tokens(request, "sec-websocket-protocol");
    let Some(protocol) = asked.into_iter().find(|asked| SUBPROTOCOLS.contains(asked)) else {
        return bad("the WebSocket subprotocol has to be \"mqtt\"");
    };
    let digest = Sha1::new().chain_update(key).chain_update(KEY_SUFFIX).finalize();
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n",
        STANDARD.encode(digest)
    ))
}

fn refuse(status: &'static str, why: &'static str, header: &str) -> Handshake {
    let mut response = format!("HTTP/1.1 {status}\r\n{header}");
    if !header.contains("Connection") {
        response.push_str("Connection: close\r\n");
    }
    let body = format!("{why}\n");
    let _ = write!(
        response,
        "Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    Handshake::Refuse { response: response.into_bytes(), why }
}

fn values<'r>(request: &'r Request<'_, '_>, name: &str) -> impl Iterator<Item = &'r str> {
    let named = request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.filter_map(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
}

/// The value of a header that comes once.
fn value<'r>(request: &'r Request<'_, '_>, name: &str) -> Option<&'r str> {
    let mut values = values(request, name);
    values.next().filter(|_| values.next().is_none())
}

/// The members of a header that is a list.
fn tokens<'r>(request: &'r Request<'_, '_>, name: &str) -> Vec<&'r str> {
    let lists = values(request, name).flat_map(|value| value.split(','));
    lists.map(str::trim).filter(|token| !token.is_empty()).collect()
}

fn has_token(request: &Request<'_, '_>, name: &str, wanted: &str) -> bool {
    tokens(request, name).iter().any(|token| token.eq_ignore_ascii_case(wanted))
}

/// The last address of X-Forwarded-For that is none of the proxies: what stands
/// before it may be the client's own invention.
fn forwarded_for(request: &Request<'_, '_>, trusted: &Trusted) -> Option<IpAddr> {
    for token in tokens(request, "x-forwarded-for").into_iter().rev() {
        let address = address(token)?;
        if !trusted.contains(address) {
            return Some(address);
        }
    }
    None
}

/// An address, perhaps with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_matches(['[', ']']);
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}
