//! One place where clients come in.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::ebpf::{Policy, Weights};
use super::key::{Key, Networks, Setting, Shape, choice};
use super::problem::Problem;
pub use crate::net::tls::{ClientAuth, TlsFiles, TlsVersion};

/// The longest path of a Unix socket (`sun_path`, without its NUL).
const SOCKET_PATH_MAX: usize = 107;

/// A listener, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Its name in the config, in logs and in metrics.
    pub name: String,
    /// Address and port (0: the kernel chooses one), or a Unix socket.
    pub bind: Bind,
    /// Whether an IPv6 address takes IPv6 alone.
    pub ipv6_only: bool,
    /// What carries MQTT.
    pub transport: Transport,
    /// The path of the WebSocket.
    pub ws_path: String,
    /// The header that a proxy in front sends first.
    pub proxy_protocol: ProxyProtocol,
    /// Who may speak for other addresses.
    pub trusted_sources: Networks,
    /// From accept until PROXY header, TLS and WebSocket handshakes are done.
    pub handshake_timeout: Duration,
    /// Certificates and what clients have to show; none without TLS.
    pub tls: Option<TlsFiles>,
    /// Whether clients may connect without credentials.
    pub anonymous: bool,
    /// Where the user name comes from.
    pub user_from: UserFrom,
    /// Open connections of this listener.
    pub connections_max: Option<u32>,
    /// New connections a second, and how many at once.
    pub connects: Option<Rate>,
    /// The same for one source prefix.
    pub source_connects: Option<Rate>,
    /// PUBLISHes a second of one client.
    pub client_messages_per_second: Option<NonZeroU32>,
    /// Bytes a second of one client.
    pub client_bytes_per_second: Option<NonZeroU32>,
    /// Length of the accept queue of each shard's socket.
    pub backlog: u32,
    /// Sources whose connections are refused.
    pub blocked_sources: Networks,
    /// How a shard is chosen.
    pub steering: Policy,
    /// Weights of the shards.
    pub shard_weights: Weights,
}

impl Listener {
    /// Whether a CONNECT is taken as it comes, without a look at who it is.
    pub fn is_open(&self) -> bool {
        self.anonymous && self.user_from == UserFrom::Connect
    }
}

/// So many a second, and so many at once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// At once, after a rest.
    pub burst: u32,
}

/// Where a listener is to be found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Bind {
    /// An address and port.
    Tcp(SocketAddr),
    /// A socket in the file system, by its absolute path.
    Unix(PathBuf),
}

impl Bind {
    /// Whether only this machine gets here.
    pub fn is_local(&self) -> bool {
        match self {
            Bind::Tcp(address) => address.ip().is_loopback(),
            Bind::Unix(_) => true,
        }
    }

    /// The port, if there is one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Bind::Tcp(address) => Some(address.port()),
            Bind::Unix(_) => None,
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Tcp(address) => address.fmt(f),
            Bind::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Bind {
    fn from(address: SocketAddr) -> Bind {
        Bind::Tcp(address)
    }
}

impl Setting for Bind {
    const SHAPE: Shape = Shape::Address;
    fn read(key: &Key, path: &str, value: &Value) -> Result<Bind, Problem> {
        match value.as_str().and_then(|text| text.strip_prefix("unix:")) {
            Some(file) if file.starts_with('/') && file.len() <= SOCKET_PATH_MAX => {
                Ok(Bind::Unix(file.into()))
            }
            Some(file) => {
                Err(Problem::NotASocketPath { key: path.into(), value: format!("unix:{file}") })
            }
            None => SocketAddr::read(key, path, value).map(Bind::Tcp),
        }
    }
    fn show(&self) -> String {
        self.to_string().show()
    }
}

/// What carries MQTT between a client and us.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Transport {
    /// TCP, not encrypted.
    #[default]
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket, not encrypted.
    Ws,
    /// WebSocket in TLS.
    Wss,
}

impl Transport {
    /// The label's text in a metric.
    pub fn label(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Ws => "ws",
            Transport::Wss => "wss",
        }
    }

    /// Whether TLS is below.
    pub fn has_tls(self) -> bool {
        matches!(self, Transport::Tls | Transport::Wss)
    }

    /// Whether MQTT travels in frames of WebSocket.
    pub fn has_websocket(self) -> bool {
        matches!(self, Transport::Ws | Transport::Wss)
    }
}

choice!(Transport {
    Transport::Tcp => "tcp",
    Transport::Tls => "tls",
    Transport::Ws => "ws",
    Transport::Wss => "wss",
});

/// Which header of the PROXY protocol comes first.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ProxyProtocol {
    /// None.
    #[default]
    Off,
    /// The text of version 1.
    V1,
    /// The binary of version 2.
    V2,
    /// One of the two.
    Any,
}

choice!(ProxyProtocol {
    ProxyProtocol::Off => "off",
    ProxyProtocol::V1 => "v1",
    ProxyProtocol::V2 => "v2",
    ProxyProtocol::Any => "any",
});

/// Where a client's user name comes from.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum UserFrom {
    /// User name and password of the CONNECT.
    #[default]
    Connect,
    /// The common name of the client certificate.
    CertificateCn,
    /// The first alternative name of the client certificate (DNS name, e-mail or URI).
    CertificateSan,
    /// The common name of the client certificate that a proxy checked and tells of.
    ProxyCn,
}

choice!(UserFrom {
    UserFrom::Connect => "connect",
    UserFrom::CertificateCn => "certificate_cn",
    UserFrom::CertificateSan => "certificate_san",
    UserFrom::ProxyCn => "proxy_cn",
});

choice!(ClientAuth {
    ClientAuth::Off => "off",
    ClientAuth::Optional => "optional",
    ClientAuth::Required => "required",
});

choice!(TlsVersion { TlsVersion::V1_2 => "1.2", TlsVersion::V1_3 => "1.3" });
