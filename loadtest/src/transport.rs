//! The four ways into a broker.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What carries MQTT.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Nothing but TCP
    #[default]
    Tcp,
    /// TLS 1.3, the server's certificate unverified
    Tls,
    /// WebSocket
    Ws,
    /// WebSocket in TLS 1.3
    Wss,
}

impl Transport {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    /// With TLS.
    pub fn tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// With a WebSocket.
    pub fn websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        })
    }
}
