//! The four ways in.

use std::fmt;

use clap::ValueEnum;

/// What carries MQTT.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Transport {
    /// Nothing but TCP
    Tcp,
    /// TLS 1.3
    Tls,
    /// WebSocket
    Ws,
    /// WebSocket in TLS 1.3
    Wss,
}

impl Transport {
    /// All of them, in the order of the tables.
    pub(crate) const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    /// With TLS.
    pub(crate) fn tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// With a WebSocket.
    pub(crate) fn websocket(self) -> bool {
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
