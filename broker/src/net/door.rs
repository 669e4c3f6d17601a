//! A listener as its connections see it: what they must bring, and what is
//! known to whoever looks them over.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tidegate_framing::proxy::Versions;
use tidegate_framing::trusted::Trusted;
use tidegate_framing::websocket;
use tracing::debug;

use super::tls::{TlsError, TlsStore};
use crate::config::{Listener, ProxyProtocol};

/// One listener.
#[derive(Debug)]
pub struct Door {
    /// As configured.
    pub listener: Listener,
    /// Its certificates; none without TLS.
    pub tls: Option<Arc<TlsStore>>,
    /// Which PROXY header comes first, if any.
    pub(crate) proxy: Option<Versions>,
    trusted: Trusted,
    /// TLS handshakes that were completed, by version (1.2, 1.3), and that failed.
    pub handshakes: [AtomicU64; 3],
}

impl Door {
    /// The door of a listener, with the certificates that its config names.
    pub fn new(listener: Listener, tls: Option<Arc<TlsStore>>) -> Door {
        let proxy = match listener.proxy_protocol {
            ProxyProtocol::Off => None,
            ProxyProtocol::V1 => Some(Versions::V1),
            ProxyProtocol::V2 => Some(Versions::V2),
            ProxyProtocol::Any => Some(Versions::Any),
        };
        let trusted = Trusted::new(listener.trusted_sources.0.clone());
        Door { listener, tls, proxy, trusted, handshakes: Default::default() }
    }

    /// Whether anything lies between TCP and MQTT.
    pub(crate) fn has_layers(&self) -> bool {
        self.proxy.is_some() || self.tls.is_some() || self.listener.transport.has_websocket()
    }

    /// Whether a connection from `from` may come; with a PROXY header only who
    /// is trusted. What comes by a Unix socket is of this machine.
    pub(crate) fn takes(&self, from: Option<IpAddr>) -> bool {
        self.proxy.is_none() || from.is_none_or(|from| self.trusted.contains(from))
    }

    /// What a WebSocket's request is held against.
    pub(crate) fn websocket(&self, from: Option<IpAddr>) -> websocket::Options<'_> {
        let forwarder = from.is_some_and(|from| self.trusted.contains(from));
        websocket::Options {
            path: &self.listener.ws_path,
            trusted: forwarder.then_some(&self.trusted),
        }
    }

    /// A connection broke the rules of a layer below MQTT.
    pub(crate) fn complain(&self, layer: &'static str, why: &dyn Display) {
        debug!(listener = %self.listener.name, layer, %why, "closed");
    }

    pub(crate) fn tls_failed(&self, error: &TlsError, alerted: bool) {
        self.handshakes[2].fetch_add(1, Relaxed);
        debug!(listener = %self.listener.name, layer = "TLS", why = %error, alerted, "closed");
    }

    pub(crate) fn tls_done(&self, version: Option<&str>) {
        self.handshakes[usize::from(version == Some("1.3"))].fetch_add(1, Relaxed);
    }
}
