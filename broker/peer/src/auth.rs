//! How two nodes come to believe each other.
//!
//! By TLS, whose certificates have been verified before the first frame; or by
//! a secret that both have. With a secret each side proves that it knows it by
//! a MAC over both Hellos, with the nonces of both in them: a recording does not
//! fit the other side's new nonce, a proof sent back does not fit because the
//! sides' labels differ, and nobody in between can change a version or a
//! feature. The caller proves first, so that whoever dials learns nothing.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use crate::ids::NodeId;
use crate::layout::BodyError;
use crate::limits::SECRET_BYTES_MIN;

/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;

const CALLER: &[u8] = b"tidegate peer 1 caller";
const CALLED: &[u8] = b"tidegate peer 1 called";

/// How a side wants to be believed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum AuthMethod {
    /// By the certificate of its TLS connection.
    Tls = 0,
    /// By a secret that both have.
    Secret = 1,
}

impl AuthMethod {
    pub(crate) fn from_code(code: u8) -> Result<Self, BodyError> {
        match code {
            0 => Ok(Self::Tls),
            1 => Ok(Self::Secret),
            got => Err(BodyError::Value { what: "a method", got: got.into() }),
        }
    }
}

/// A number used once.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Nonce(pub [u8; 32]);

/// A secret that all nodes of a cluster have.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// A secret that could be guessed. Whoever configured it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a secret of {got} bytes is shorter than {SECRET_BYTES_MIN}")]
pub struct ShortSecret {
    /// Its bytes.
    pub got: usize,
}

impl Secret {
    /// Of at least `SECRET_BYTES_MIN` bytes, from a good source of chance:
    /// whoever is dialled by us can try guesses at it.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, ShortSecret> {
        let bytes = bytes.into();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(ShortSecret { got: bytes.len() });
        }
        Ok(Self(bytes))
    }

    fn mac(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = Hmac::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Both Hellos of a connection, as they were sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Transcript {
    caller: [u8; 32],
    called: [u8; 32],
}

impl Transcript {
    /// Of the bodies of both.
    pub(crate) fn new(caller: &[u8], called: &[u8]) -> Self {
        Self { caller: Sha256::digest(caller).into(), called: Sha256::digest(called).into() }
    }

    fn of_caller(&self, secret: &Secret) -> Hmac<Sha256> {
        secret.mac(&[CALLER, &self.caller, &self.called])
    }

    fn of_called(&self, secret: &Secret, proto: u16, features: u64) -> Hmac<Sha256> {
        let (proto, features) = (proto.to_le_bytes(), features.to_le_bytes());
        secret.mac(&[CALLED, &self.caller, &self.called, &proto, &features])
    }

    /// What the caller sends.
    pub(crate) fn prove_caller(&self, secret: &Secret) -> [u8; PROOF_BYTES] {
        self.of_caller(secret).finalize().into_bytes().into()
    }

    /// Whether that is what it sent; in constant time.
    pub(crate) fn is_caller(&self, secret: &Secret, proof: &[u8; PROOF_BYTES]) -> bool {
        self.of_caller(secret).verify_slice(proof).is_ok()
    }

    /// What the called side sends, with what it takes as agreed.
    pub(crate) fn prove_called(
        &self,
        secret: &Secret,
        proto: u16,
        features: u64,
    ) -> [u8; PROOF_BYTES] {
        self.of_called(secret, proto, features).finalize().into_bytes().into()
    }

    /// Whether that is what it sent; in constant time.
    pub(crate) fn is_called(
        &self,
        secret: &Secret,
        proto: u16,
        features: u64,
        proof: &[u8; PROOF_BYTES],
    ) -> bool {
        self.of_called(secret, proto, features).verify_slice(proof).is_ok()
    }
}

/// What the peer's certificate says, after it was verified against the
/// cluster's authority.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// Its subject alternative names, DNS and URI.
    pub names: Vec<String>,
}

const NODE_SCHEME: &str = "tidegate://";

impl Identity {
    /// Whether it may speak for `node` of the cluster called `cluster`.
    ///
    /// One of its names must be in `accepted` (`*.` there stands for one label;
    /// an empty list takes any certificate of the authority). And if a name is
    /// `tidegate://CLUSTER/NODE`, with the node in 16 hexadecimal digits, then
    /// one of those must be this node.
    pub fn speaks_for(&self, accepted: &[String], cluster: &str, node: NodeId) -> bool {
        let is_accepted = accepted.is_empty()
            || self.names.iter().any(|name| accepted.iter().any(|rule| covers(rule, name)));
        let mut bound = self.names.iter().filter(|name| name.starts_with(NODE_SCHEME)).peekable();
        let own = format!("{NODE_SCHEME}{cluster}/{node}");
        is_accepted && (bound.peek().is_none() || bound.any(|name| *name == own))
    }
}

fn covers(rule: &str, name: &str) -> bool {
    match rule.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(label, rest)| {
            // The first label of a URI would be its scheme and more.
            let is_label = !label.is_empty() && !label.contains([':', '/']);
            is_label && rest.eq_ignore_ascii_case(parent)
        }),
        None => rule.eq_ignore_ascii_case(name),
    }
}

/// How this side believes its peer, and is believed.
#[derive(Clone, Debug)]
pub enum Auth {
    /// The connection is TLS, and the peer's certificate has been verified.
    Tls {
        /// What that certificate says.
        peer: Identity,
        /// See `Identity::speaks_for`.
        accepted: Vec<String>,
    },
    /// By this secret.
    Secret(Secret),
}

impl Auth {
    /// As in a Hello.
    pub fn method(&self) -> AuthMethod {
        match self {
            Self::Tls { .. } => AuthMethod::Tls,
            Self::Secret(_) => AuthMethod::Secret,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(names: &[&str]) -> Identity {
        Identity { names: names.iter().map(|&name| name.into()).collect() }
    }

    #[test]
    fn a_certificate_speaks_for_those_that_it_names() {
        let node = NodeId(0xAB);
        let accepted = ["*.tidegate.svc".to_string()];
        let says = |names: &[&str], accepted: &[String]| {
            identity(names).speaks_for(accepted, "plant", node)
        };
        assert!(says(&["a.tidegate.svc"], &accepted));
        assert!(says(&["other", "A.TIDEGATE.SVC"], &accepted));
        let not = [
            "spiffe://a.tidegate.svc",
            "tidegate.svc",
            "a.b.tidegate.svc",
            ".tidegate.svc",
            "a.tidegate.svc.evil",
        ];
        for name in not {
            assert!(!says(&[name], &accepted), "{name}");
        }
        assert!(says(&[], &[]), "any of the authority");
        let own = "tidegate://plant/00000000000000ab";
        assert!(says(&["tidegate://plant/0000000000000001", own], &[]));
        assert!(!says(&["tidegate://plant/0000000000000001"], &[]), "bound to another node");
        assert!(!says(&["tidegate://other/00000000000000ab"], &[]), "of another cluster");
        assert!(!says(&[own], &accepted), "the list holds all the same");
    }

    #[test]
    fn a_secret_is_long_and_never_shown() {
        assert_eq!(Secret::new("short").expect_err("short"), ShortSecret { got: 5 });
        let secret = Secret::new("0123456789abcdef").expect("long enough");
        assert_eq!(format!("{secret:?}"), "Secret(..)");
    }
}
