//! The PROXY protocol, versions 1 and 2: what a load balancer says of the
//! connection that it passes on.
//!
//! After the specification of HAProxy, "The PROXY protocol, versions 1 & 2".
//! Bounds: 107 bytes for version 1, 16 and 4,096 for version 2; a larger header
//! is refused, and so is what cannot become one, at the first byte that shows it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, its CR LF included.
pub const V1_BYTES_MAX: usize = 107;
/// What may follow the 16 bytes that each header of version 2 has.
pub const V2_REST_MAX: usize = 4_096;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = 16;

const TYPE_AUTHORITY: u8 = 0x02;
const TYPE_CRC32C: u8 = 0x03;
const TYPE_SSL: u8 = 0x20;
const SUBTYPE_SSL_VERSION: u8 = 0x21;
const SUBTYPE_SSL_CN: u8 = 0x22;
const CLIENT_SSL: u8 = 0x01;
/// Bytes of a CRC32C, and of the fixed part of the SSL entry.
const CRC_BYTES: usize = 4;
const SSL_FIXED: usize = 5;

/// Which versions are taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Versions {
    /// The text.
    V1,
    /// The binary.
    V2,
    /// Either.
    Any,
}

/// What the bytes so far are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Parsed {
    /// The beginning of a header.
    Incomplete,
    /// A header, and how many bytes it has.
    Header {
        /// Its bytes; the client's own follow.
        consumed: usize,
        /// What it says.
        header: Header,
    },
}

/// What a header says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Header {
    /// The proxy speaks for itself, as in a health check.
    pub local: bool,
    /// Where the client comes from; none if the proxy speaks for itself, does
    /// not know, or got it by a Unix socket.
    pub source: Option<SocketAddr>,
    /// What the client connected to.
    pub destination: Option<SocketAddr>,
    /// The host name that the client asked for (SNI).
    pub authority: Option<String>,
    /// The client's TLS, if the proxy ended it.
    pub tls: Option<ProxyTls>,
}

/// What a proxy says of the TLS between the client and itself.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ProxyTls {
    /// Such as `TLSv1.3`.
    pub version: Option<String>,
    /// Of the client's certificate.
    pub common_name: Option<String>,
    /// The client showed a certificate, and the proxy found it valid.
    pub verified: bool,
}

/// What is wrong with a header; whoever connects is at fault.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ProxyError {
    #[error(
        "{found} instead of a PROXY header: does the load balancer send one? If not, set \
         proxy_protocol = \"off\""
    )]
    NotAHeader { found: Found },
    #[error("a PROXY header of version {version}, which proxy_protocol does not take")]
    OtherVersion { version: u8 },
    #[error("a PROXY header of version 1 without an end within {V1_BYTES_MAX} bytes")]
    NoEnd,
    #[error("a PROXY header of version 1 that says {field} wrongly")]
    BadText { field: &'static str },
    #[error("a PROXY header with version and command {byte:#04x}")]
    BadCommand { byte: u8 },
    #[error("a PROXY header with family and protocol {byte:#04x}")]
    BadFamily { byte: u8 },
    #[error("a PROXY header of {len} bytes after its first 16, above {V2_REST_MAX}")]
    TooLong { len: usize },
    #[error("a PROXY header too short for its {what}")]
    TooShort { what: &'static str },
    #[error("a PROXY header whose {what} is not UTF-8")]
    NotUtf8 { what: &'static str },
    #[error("a PROXY header with a wrong CRC32C: {found:#010x}, not {right:#010x}")]
    WrongSum { found: u32, right: u32 },
}

/// What came instead of a header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)]
pub enum Found {
    Connect,
    Tls,
    Http,
    Bytes { first: u8 },
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Found::Connect => f.write_str("an MQTT CONNECT"),
            Found::Tls => f.write_str("a TLS handshake"),
            Found::Http => f.write_str("an HTTP request"),
            Found::Bytes { first } => write!(f, "a byte {first:#04x}"),
        }
    }
}

/// Reads the header at the start of `bytes`.
///
/// # Errors
/// When the bytes cannot be, or become, a header of a version in `versions`.
pub fn parse(bytes: &[u8], versions: Versions) -> Result<Parsed, ProxyError> {
    let Some(&first) = bytes.first() else { return Ok(Parsed::Incomplete) };
    let (start, version): (&[u8], u8) = match first {
        b'P' => (V1_START, 1),
        b'\r' => (V2_START, 2),
        _other => return Err(ProxyError::NotAHeader { found: found(first) }),
    };
    let common = start.len().min(bytes.len());
    if bytes[..common] != start[..common] {
        return Err(ProxyError::NotAHeader { found: found(first) });
    }
    match (versions, version) {
        (Versions::V1, 2) | (Versions::V2, 1) => Err(ProxyError::OtherVersion { version }),
        (Versions::V1 | Versions::Any, 1) => parse_v1(bytes),
        _two => parse_v2(bytes),
    }
}

fn found(first: u8) -> Found {
    match first {
        0x10 => Found::Connect,
        0x16 => Found::Tls,
        b'A'..=b'Z' => Found::Http,
        first => Found::Bytes { first },
    }
}

fn parse_v1(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if window.len() < V1_BYTES_MAX {
            Ok(Parsed::Incomplete)
        } else {
            Err(ProxyError::NoEnd)
        };
    };
    let line = window[..end].strip_prefix(V1_START).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| ProxyError::NotUtf8 { what: "text" })?;
    let consumed = end + 2;
    let mut words = line.split(' ');
    let four = match words.next() {
        // What follows is to be ignored.
        Some("UNKNOWN") => return Ok(Parsed::Header { consumed, header: Header::default() }),
        Some("TCP4") => true,
        Some("TCP6") => false,
        Some(_) | None => return Err(ProxyError::BadText { field: "the family" }),
    };
    let mut address = |field| {
        let parsed = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        let parsed = parsed.filter(|address| address.is_ipv4() == four);
        parsed.ok_or(ProxyError::BadText { field })
    };
    let (source, destination) = (address("the source")?, address("the destination")?);
    let mut port = |field| {
        let digits = words.next().filter(|word| is_port(word));
        digits.and_then(|word| word.parse::<u16>().ok()).ok_or(ProxyError::BadText { field })
    };
    let (from, to) = (port("the source's port")?, port("the destination's port")?);
    if words.next().is_some() {
        return Err(ProxyError::BadText { field: "its end" });
    }
    let header = Header {
        source: Some(SocketAddr::new(source, from)),
        destination: Some(SocketAddr::new(destination, to)),
        ..Header::default()
    };
    Ok(Parsed::Header { consumed, header })
}

/// Decimal, without a sign or a leading zero.
fn is_port(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'))
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, ProxyError> {
    let Some(&command) = bytes.get(12) else { return Ok(Parsed::Incomplete) };
    let local = match command {
        0x20 => true,
        0x21 => false,
        byte => return Err(ProxyError::BadCommand { byte }),
    };
    let Some(&[family, high, low]) = bytes.get(13..V2_FIXED) else { return Ok(Parsed::Incomplete) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > V2_REST_MAX {
        return Err(ProxyError::TooLong { len });
    }
    let consumed = V2_FIXED + len;
    let Some(rest) = bytes.get(V2_FIXED..consumed) else { return Ok(Parsed::Incomplete) };
    let addresses = match family {
        0x00 => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        // The proxy speaks for itself: whatever it says of addresses is void.
        _other if local => 0,
        byte => return Err(ProxyError::BadFamily { byte }),
    };
    if local {
        return Ok(Parsed::Header { consumed, header: Header { local, ..Header::default() } });
    }
    let Some((addresses, entries)) = rest.split_at_checked(addresses) else {
        return Err(ProxyError::TooShort { what: "addresses" });
    };
    let mut header = Header::default();
    if let Some((source, destination)) = ends(addresses) {
        header.source = Some(source);
        header.destination = Some(destination);
    }
    let at = consumed - entries.len();
    read_entries(entries, &mut header, |crc_at| crc_without(&bytes[..consumed], at + crc_at))?;
    Ok(Parsed::Header { consumed, header })
}

/// Source and destination, of TCP or UDP over IPv4 or IPv6.
fn ends(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let (from, to, ports): (IpAddr, IpAddr, usize) = match bytes.len() {
        12 => {
            let address =
                |at| bytes.get(at..at + 4)?.try_into().ok().map(|b: [u8; 4]| Ipv4Addr::from(b));
            (address(0)?.into(), address(4)?.into(), 8)
        }
        36 => {
            let address =
                |at| bytes.get(at..at + 16)?.try_into().ok().map(|b: [u8; 16]| Ipv6Addr::from(b));
            (address(0)?.into(), address(16)?.into(), 32)
        }
        _none => return None,
    };
    Some((SocketAddr::new(from, port(ports)?), SocketAddr::new(to, port(ports + 2)?)))
}

/// The next entry of a list: its type, its value, and the rest.
fn entry<'a>(list: &'a [u8], what: &'static str) -> Result<(u8, &'a [u8], &'a [u8]), ProxyError> {
    let short = ProxyError::TooShort { what };
    let &[kind, high, low, ref rest @ ..] = list else { return Err(short) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    let (value, rest) = rest.split_at_checked(len).ok_or(short)?;
    Ok((kind, value, rest))
}

/// Reads the entries after the addresses. `sum` gives the right CRC32C when the
/// one in the header begins at an offset into `entries`.
fn read_entries(
    entries: &[u8],
    header: &mut Header,
    sum: impl Fn(usize) -> u32,
) -> Result<(), ProxyError> {
    let mut list = entries;
    while !list.is_empty() {
        let (kind, value, rest) = entry(list, "entries")?;
        match kind {
            TYPE_AUTHORITY => header.authority = Some(text(value, "authority")?),
            TYPE_CRC32C => {
                let value: [u8; CRC_BYTES] =
                    value.try_into().map_err(|_| ProxyError::TooShort { what: "CRC32C" })?;
                let found = u32::from_be_bytes(value);
                let right = sum(entries.len() - rest.len() - CRC_BYTES);
                if found != right {
                    return Err(ProxyError::WrongSum { found, right });
                }
            }
            TYPE_SSL => header.tls = Some(read_tls(value)?),
            // ALPN, UNIQUE_ID, NOOP, NETNS, and what is private or still to come.
            _other => {}
        }
        list = rest;
    }
    Ok(())
}

fn read_tls(value: &[u8]) -> Result<ProxyTls, ProxyError> {
    let Some((&[client, v0, v1, v2, v3], mut list)) = value.split_first_chunk::<SSL_FIXED>() else {
        return Err(ProxyError::TooShort { what: "TLS entry" });
    };
    // CERT_CONN or CERT_SESS: a certificate was shown on this connection or on
    // the one that its session began with; `verify` is 0 for a valid one.
    let shown = client & CLIENT_SSL != 0 && client & 0x06 != 0;
    let mut tls = ProxyTls { verified: shown && [v0, v1, v2, v3] == [0; 4], ..ProxyTls::default() };
    while !list.is_empty() {
        let (kind, value, rest) = entry(list, "TLS entries")?;
        match kind {
            SUBTYPE_SSL_VERSION => tls.version = Some(text(value, "TLS version")?),
            SUBTYPE_SSL_CN => tls.common_name = Some(text(value, "common name")?),
            _other => {}
        }
        list = rest;
    }
    Ok(tls)
}

fn text(value: &[u8], what: &'static str) -> Result<String, ProxyError> {
    String::from_utf8(value.to_vec()).map_err(|_| ProxyError::NotUtf8 { what })
}

/// The CRC32C of `header` with the four bytes at `at` taken as zero.
fn crc_without(header: &[u8], at: usize) -> u32 {
    let byte = |(n, byte): (usize, &u8)| match (at..at + CRC_BYTES).contains(&n) {
        true => 0,
        false => *byte,
    };
    let crc = header.iter().enumerate().map(byte).fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg())
        })
    });
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_castagnoli_s() {
        // The check value of CRC-32C; nothing is taken out of nine bytes at 99.
        assert_eq!(crc_without(b"123456789", 99), 0xE306_9283);
    }
}
