//! Random numbers: nonces, sessions, jitter.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use tidegate_peer::Nonce;

/// A source of them that cannot be guessed.
#[derive(Clone, Debug)]
pub(crate) struct Chance(Arc<CryptoProvider>);

impl Chance {
    pub(crate) fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }

    fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.secure_random.fill(&mut bytes).expect("the kernel has random numbers");
        bytes
    }

    pub(crate) fn nonce(&self) -> Nonce {
        Nonce(self.bytes())
    }

    pub(crate) fn u64(&self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// The number of a session; 0 is none.
    pub(crate) fn session(&self) -> u64 {
        self.u64().max(1)
    }
}
