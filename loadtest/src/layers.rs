//! The client's side of TLS and WebSocket.
//!
//! The server's certificate is not verified: that is the client's cost, not
//! the broker's, and the load shares two cores with it.

use std::io::{Read, Write};
use std::sync::Arc;

use anyhow::Result;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme,
};

use crate::transport::Transport;

/// Path of the WebSocket on every broker.
pub const WS_PATH: &str = "/mqtt";
/// A longer answer to the upgrade is none.
const UPGRADE_BYTES_MAX: usize = 8 * 1024;
/// Any key that is not zero costs the broker the same.
const MASK: [u8; 4] = [0x5a, 0x0f, 0xc3, 0x96];

/// Why nothing more can come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Broken {
    /// A close frame.
    Closed,
    /// An alert, an HTTP refusal, a frame that cannot be.
    Rules,
}

/// What lies between a socket and MQTT.
pub struct Stack {
    tls: Option<Box<ClientConnection>>,
    websocket: Option<WebSocket>,
}

/// TLS 1.3 alone. With `resume`, tickets of earlier sessions are used.
pub fn tls_config(resume: bool) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unverified))
        .with_no_client_auth();
    config.resumption = match resume {
        true => Resumption::in_memory_sessions(1_024),
        false => Resumption::disabled(),
    };
    Ok(Arc::new(config))
}

impl Stack {
    /// Of a connection that is about to be made.
    pub fn new(transport: Transport, config: &Arc<ClientConfig>) -> Result<Self> {
        let tls = match transport.tls() {
            true => {
                let name = ServerName::try_from("localhost")?;
                let mut tls = Box::new(ClientConnection::new(Arc::clone(config), name)?);
                // What is pushed between two flushes; the scenarios bound it.
                tls.set_buffer_limit(None);
                Some(tls)
            }
            false => None,
        };
        let websocket = transport.websocket().then(WebSocket::default);
        Ok(Self { tls, websocket })
    }

    /// TCP is up: what is said first.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(websocket) = &mut self.websocket {
            let request = format!(
                "GET {WS_PATH} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
            );
            websocket.asked = true;
            self.seal(request.as_bytes(), out);
        }
        self.drain(out);
    }

    /// Whether MQTT may begin.
    pub fn ready(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking())
            && self.websocket.as_ref().is_none_or(|websocket| websocket.open)
    }

    /// Whether the TLS session was resumed.
    pub fn resumed(&self) -> bool {
        let kind = self.tls.as_ref().and_then(|tls| tls.handshake_kind());
        kind == Some(HandshakeKind::Resumed)
    }

    /// Appends a packet as it goes over the wire.
    pub fn wrap(&mut self, packet: &[u8], out: &mut Vec<u8>) {
        if self.websocket.is_none() {
            self.seal(packet, out);
            return;
        }
        let mut frame = Vec::with_capacity(packet.len() + 8);
        frame.push(0x82);
        masked(packet, &mut frame);
        self.seal(&frame, out);
    }

    fn seal(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        match &mut self.tls {
            // Before the handshake is over rustls keeps it.
            Some(tls) => drop(tls.writer().write_all(bytes)),
            None => out.extend_from_slice(bytes),
        }
    }

    /// Appends what TLS has to send.
    pub fn drain(&mut self, out: &mut Vec<u8>) {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                if tls.write_tls(out).is_err() {
                    return;
                }
            }
        }
    }

    /// Takes in what the socket had; MQTT goes to `plain`, answers of the layers to `out`.
    pub fn unwrap(
        &mut self,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let Some(tls) = &mut self.tls else {
            return self.unframe(bytes, plain, out);
        };
        let mut opened = Vec::new();
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes).map_err(|_| Broken::Rules)?;
            let state = tls.process_new_packets().map_err(|_| Broken::Rules)?;
            let count = state.plaintext_bytes_to_read();
            let closed = state.peer_has_closed();
            let at = opened.len();
            opened.resize(at + count, 0);
            tls.reader().read_exact(&mut opened[at..]).map_err(|_| Broken::Rules)?;
            if closed {
                self.unframe(&opened, plain, out)?;
                return Err(Broken::Closed);
            }
        }
        self.unframe(&opened, plain, out)
    }

    fn unframe(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        let Some(websocket) = &mut self.websocket else {
            plain.extend_from_slice(bytes);
            return Ok(());
        };
        let mut pongs = Vec::new();
        let result = websocket.unframe(bytes, plain, &mut pongs);
        if !pongs.is_empty() {
            self.seal(&pongs, out);
        }
        result
    }
}

/// The frames of a server, and before them its answer to the upgrade.
#[derive(Debug, Default)]
struct WebSocket {
    asked: bool,
    open: bool,
    partial: Vec<u8>,
}

impl WebSocket {
    fn unframe(
        &mut self,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        pongs: &mut Vec<u8>,
    ) -> Result<(), Broken> {
        self.partial.extend_from_slice(bytes);
        let mut used = 0;
        if !self.open {
            let Some(end) = self.partial.windows(4).position(|four| four == b"\r\n\r\n") else {
                let endless = self.partial.len() > UPGRADE_BYTES_MAX || !self.asked;
                return if endless { Err(Broken::Rules) } else { Ok(()) };
            };
            if !self.partial.starts_with(b"HTTP/1.1 101") {
                return Err(Broken::Rules);
            }
            self.open = true;
            used = end + 4;
        }
        while let Some((opcode, start, end)) = header(&self.partial[used..])? {
            let payload = &self.partial[used + start..used + end];
            match opcode {
                0x0..=0x2 => plain.extend_from_slice(payload),
                0x8 => return Err(Broken::Closed),
                0x9 => {
                    pongs.push(0x8a);
                    masked(payload, pongs);
                }
                0xa => {}
                _ => return Err(Broken::Rules),
            }
            used += end;
        }
        self.partial.drain(..used);
        Ok(())
    }
}

/// Opcode of the first whole frame, and where its payload begins and ends.
fn header(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, Broken> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if second & 0x80 != 0 {
        return Err(Broken::Rules);
    }
    let (start, length) = match (second, rest) {
        (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        (127, [a, b, c, d, e, f, g, h, ..]) => {
            (10, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]) as usize)
        }
        (126 | 127, _) => return Ok(None),
        (short, _) => (2, usize::from(*short)),
    };
    let end = start + length;
    Ok((bytes.len() >= end).then_some((first & 0x0f, start, end)))
}

/// The length, the mask, and the bytes under it.
fn masked(bytes: &[u8], out: &mut Vec<u8>) {
    match bytes.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        middle @ 126..=65_535 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(bytes.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_a_server_are_found_at_any_split() {
        let mut bytes = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
        bytes.extend_from_slice(&[0x82, 2, 0x20, 0x02, 0x89, 1, b'?', 0x82, 126, 0, 130]);
        bytes.extend_from_slice(&[7; 130]);
        for split in 0..bytes.len() {
            let mut websocket = WebSocket { asked: true, ..WebSocket::default() };
            let (mut plain, mut pongs) = (Vec::new(), Vec::new());
            for part in [&bytes[..split], &bytes[split..]] {
                assert_eq!(websocket.unframe(part, &mut plain, &mut pongs), Ok(()));
            }
            assert!(websocket.open);
            assert_eq!((plain.len(), &plain[..3]), (132, &[0x20, 0x02, 7][..]));
            assert_eq!(pongs[..2], [0x8a, 0x81]);
        }
    }

    #[test]
    fn an_answer_other_than_101_is_a_refusal() {
        let mut websocket = WebSocket { asked: true, ..WebSocket::default() };
        let answer = b"HTTP/1.1 404 Not Found\r\n\r\n";
        let result = websocket.unframe(answer, &mut Vec::new(), &mut Vec::new());
        assert_eq!(result, Err(Broken::Rules));
    }
}
