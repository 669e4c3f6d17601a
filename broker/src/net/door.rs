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

use super::admission::Admission;
use super::tls::{TlsError, TlsStore};
use crate::config::{Listener, ProxyProtocol};
use crate::telemetry::source::{LayerCounts, TlsCounts};

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
    /// How many it takes.
    pub admission: Admission,
    /// TLS handshakes that were completed, by version (1.2, 1.3), and that failed.
    handshakes: [AtomicU64; 3],
    /// PROXY headers taken and refused.
    headers: [AtomicU64; 2],
    /// WebSockets opened and requests refused.
    sockets: [AtomicU64; 2],
}

impl Door {
    /// The door of a listener, with the certificates that its config names.
    pub fn new(listener: Listener, tls: Option<Arc<TlsStore>>, admission: Admission) -> Door {
        let proxy = match listener.proxy_protocol {
            ProxyProtocol::Off => None,
            ProxyProtocol::V1 => Some(Versions::V1),
            ProxyProtocol::V2 => Some(Versions::V2),
            ProxyProtocol::Any => Some(Versions::Any),
        };
        let trusted = Trusted::new(listener.trusted_sources.0.clone());
        Door {
            listener,
            tls,
            proxy,
            trusted,
            admission,
            handshakes: Default::default(),
            headers: Default::default(),
            sockets: Default::default(),
        }
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

    /// Whether `from` is a proxy that tells where a connection comes from.
    pub(crate) fn is_told_by(&self, from: IpAddr) -> bool {
        let forwards = self.listener.transport.has_websocket() && self.trusted.contains(from);
        self.proxy.is_some() || forwards
    }

    /// What a WebSocket's request is held against.
    pub(crate) fn websocket(&self, from: Option<IpAddr>) -> websocket::Options<'_> {
        let forwarder = from.is_some_and(|from| self.trusted.contains(from));
        websocket::Options {
            path: &self.listener.ws_path,
            trusted: forwarder.then_some(&self.trusted),
        }
    }

    /// What happened below MQTT so far.
    pub(crate) fn counts(&self) -> LayerCounts {
        let two = |counts: &[AtomicU64; 2]| [counts[0].load(Relaxed), counts[1].load(Relaxed)];
        LayerCounts {
            tls: self.tls.as_ref().map(|store| TlsCounts {
                handshakes: [0, 1, 2].map(|n: usize| self.handshakes[n].load(Relaxed)),
                expires: store.expires(),
                reloads: [store.changes(), store.failures()],
            }),
            proxy: self.proxy.map(|_| two(&self.headers)),
            websocket: self.listener.transport.has_websocket().then(|| two(&self.sockets)),
        }
    }

    /// A PROXY header came.
    pub(crate) fn header_done(&self) {
        self.headers[0].fetch_add(1, Relaxed);
    }

    /// A WebSocket is open.
    pub(crate) fn websocket_done(&self) {
        self.sockets[0].fetch_add(1, Relaxed);
    }

    /// What came instead of a PROXY header is none.
    pub(crate) fn header_failed(&self, why: &dyn Display) {
        self.headers[1].fetch_add(1, Relaxed);
        self.complain("PROXY", why);
    }

    /// An HTTP request was refused.
    pub(crate) fn websocket_failed(&self, why: &dyn Display) {
        self.sockets[1].fetch_add(1, Relaxed);
        self.complain("WebSocket", why);
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
