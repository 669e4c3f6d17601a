//! A small HTTP client, for the API server of Kubernetes and nothing else: one
//! request a connection, with a bound and a deadline on everything.
//!
//! It speaks HTTP/1.0, so that answers come whole and unchunked.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// For connecting, and for each read and write.
const PATIENCE: Duration = Duration::from_secs(3);

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: Arc<ClientConfig>,
}

/// An answer: its status and its body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// TLS that trusts the authorities of a file in PEM.
///
/// # Errors
/// When the file cannot be read or holds none.
pub(crate) fn trusting(ca: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    use anyhow::Context;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(ca).with_context(|| format!("{ca:?}"))?;
    for certificate in certificates {
        roots.add(certificate.with_context(|| format!("{ca:?}"))?)?;
    }
    anyhow::ensure!(!roots.is_empty(), "{ca:?} holds no certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(Arc::new(config?.with_root_certificates(roots).with_no_client_auth()))
}

impl Server {
    /// Sends one request, and waits for the answer. Blocks.
    ///
    /// # Errors
    /// When the server is not reached, is not trusted, or does not answer.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: &str,
    ) -> io::Result<Answer> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let addresses = (bare, self.port).to_socket_addrs()?;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut socket = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(open) => {
                    socket = Some(open);
                    break;
                }
                Err(error) => last = error,
            }
        }
        let socket = socket.ok_or(last)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let session = ClientConnection::new(self.tls.clone(), name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, socket);
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}:{}\r\nAuthorization: Bearer {token}\r\n\
             Accept: application/json\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.host,
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        stream.flush()?;
        let mut bytes = Vec::new();
        match stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes) {
            Ok(_) => {}
            // Who closes without TLS's goodbye may have said all: the length tells.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !bytes.is_empty() => {}
            Err(error) => return Err(error),
        }
        parse(&bytes)
    }
}

fn parse(bytes: &[u8]) -> io::Result<Answer> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let text = std::str::from_utf8(bytes).map_err(|_| bad("the answer is not UTF-8"))?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| bad("the answer is cut"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| bad("not an answer of HTTP"))?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if length.is_some_and(|length| length != body.len()) {
        return Err(bad("the answer is cut"));
    }
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_refused() {
        let good = b"HTTP/1.1 409 Conflict\r\ncontent-length: 2\r\nX: y\r\n\r\n{}";
        assert_eq!(parse(good).expect("good"), Answer { status: 409, body: "{}".into() });
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).is_err(), "{cut}");
        }
    }
}
