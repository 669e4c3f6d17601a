//! Recognises a peer that speaks something else on a TLS port.
//!
//! The most common fault in the field is a client set up without TLS. It
//! deserves a better word than `bad record`.

use std::fmt;

/// The first byte of a TLS handshake record (RFC 8446, 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// As many bytes as tell the protocols below apart.
const PREFIX: usize = 4;

/// What a browser or a script sees that speaks HTTP to a TLS port.
const HTTP_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 32\r\nConnection: close\r\n\r\nThis port speaks TLS, not HTTP.\n";

/// A protocol that is not TLS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Foreign {
    /// An MQTT client without TLS.
    MqttConnect,
    /// HTTP without TLS, WebSocket included.
    Http,
    /// A PROXY header, on a listener that expects none.
    ProxyHeader,
    /// Something else, that begins with this byte.
    Unknown(u8),
}

impl Foreign {
    /// The answer that such a peer can read, if there is one.
    pub(super) fn answer(self) -> &'static [u8] {
        match self {
            Self::Http => HTTP_ANSWER,
            // An alert would be noise in their ears.
            Self::MqttConnect | Self::ProxyHeader | Self::Unknown(_) => &[],
        }
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MqttConnect => f.write_str("an MQTT CONNECT"),
            Self::Http => f.write_str("an HTTP request"),
            Self::ProxyHeader => {
                f.write_str("a PROXY header (set the listener's proxy_protocol to expect one)")
            }
            Self::Unknown(byte) => write!(f, "something that begins with the byte {byte:#04x}"),
        }
    }
}

/// What the first bytes of a connection say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Opening {
    /// Nothing yet, or not enough to tell.
    Unclear,
    /// It may be TLS: rustls shall see it.
    Tls,
    /// It is something else.
    Foreign(Foreign),
}

/// Judges the first bytes of a connection.
pub(super) fn recognize(bytes: &[u8]) -> Opening {
    let Some(&first) = bytes.first() else {
        return Opening::Unclear;
    };
    match first {
        HANDSHAKE_RECORD => Opening::Tls,
        0x10 => Opening::Foreign(Foreign::MqttConnect),
        b'A'..=b'Z' | b'\r' if bytes.len() < PREFIX => Opening::Unclear,
        b'P' if bytes.starts_with(b"PROX") => Opening::Foreign(Foreign::ProxyHeader),
        b'\r' if bytes.starts_with(b"\r\n\r\n") => Opening::Foreign(Foreign::ProxyHeader),
        b'A'..=b'Z' if bytes[..PREFIX].iter().all(|b| b.is_ascii_uppercase() || *b == b' ') => {
            Opening::Foreign(Foreign::Http)
        }
        other => Opening::Foreign(Foreign::Unknown(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_protocols_are_called_by_their_names() {
        let of = |bytes: &[u8]| recognize(bytes);
        assert_eq!(of(b""), Opening::Unclear);
        assert_eq!(of(&[0x16]), Opening::Tls);
        assert_eq!(of(&[0x10, 0x0c]), Opening::Foreign(Foreign::MqttConnect));
        assert_eq!(of(b"GE"), Opening::Unclear);
        assert_eq!(of(b"GET /mqtt"), Opening::Foreign(Foreign::Http));
        assert_eq!(of(b"OPTIONS * "), Opening::Foreign(Foreign::Http));
        assert_eq!(of(b"PROXY TCP4"), Opening::Foreign(Foreign::ProxyHeader));
        assert_eq!(of(b"\r\n\r\n\0"), Opening::Foreign(Foreign::ProxyHeader));
        assert_eq!(of(b"SSH-2.0"), Opening::Foreign(Foreign::Unknown(b'S')));
        assert_eq!(of(&[0x80, 0x2e]), Opening::Foreign(Foreign::Unknown(0x80)));
    }

    #[test]
    fn the_http_answer_counts_its_own_body() {
        let text = std::str::from_utf8(HTTP_ANSWER).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
    }
}
