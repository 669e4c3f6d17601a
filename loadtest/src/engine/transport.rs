//! The four ways into a broker.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What carries MQTT.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Transport {
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
    /// In a report.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// With TLS.
    pub(crate) fn tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// With a WebSocket.
    pub(crate) fn websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}
