//! The certificate for the name that a client asks for (SNI).

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

thread_local! {
    /// The name in the ClientHello that rustls is working on in this thread.
    ///
    /// Its unbuffered connection keeps the name to itself; the resolver below
    /// is the one place that sees it, and is called from inside of
    /// `process_tls_records`. So it puts the name here, and the session, which
    /// made that call on this very thread, takes it away at once.
    static ASKED_FOR: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Takes the name that the resolver saw since the last take.
pub(super) fn take() -> Option<Box<str>> {
    ASKED_FOR.take()
}

/// A listener's certificates by server name.
#[derive(Debug)]
pub(super) struct ByServerName {
    /// For a client that names nothing that we know.
    pub(super) default: Arc<CertifiedKey>,
    /// By lower-case name; `*.example.com` covers one label.
    pub(super) named: HashMap<String, Arc<CertifiedKey>>,
}

impl ByServerName {
    fn find(&self, name: &str) -> &Arc<CertifiedKey> {
        if self.named.is_empty() {
            return &self.default;
        }
        let name = name.to_ascii_lowercase();
        self.named
            .get(&name)
            .or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.named.get(&format!("*.{parent}"))
            })
            .unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Some(name) = hello.server_name() else {
            return Some(self.default.clone());
        };
        ASKED_FOR.set(Some(name.into()));
        Some(self.find(name).clone())
    }
}
