//! What a certificate says of itself, for people and for metrics.

use std::path::{Path, PathBuf};

use rustls::crypto::hash::Output;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// One certificate that a listener presents.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateInfo {
    /// The file it came from.
    pub path: PathBuf,
    /// The server name that selects it; none for the default.
    pub server_name: Option<String>,
    /// The subject's distinguished name.
    pub subject: String,
    /// The names that it is good for: DNS names and addresses.
    pub names: Vec<String>,
    /// The issuer's distinguished name.
    pub issuer: String,
    /// Valid from, in seconds of Unix time.
    pub not_before: i64,
    /// Valid to, in seconds of Unix time.
    pub not_after: i64,
    /// When the first certificate of the chain expires, this one included.
    pub chain_not_after: i64,
    /// How many certificates are sent, this one included.
    pub chain_length: usize,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint_sha256: String,
}

impl CertificateInfo {
    /// Reads a chain, the end entity first.
    ///
    /// # Errors
    /// The place in the chain of the one that cannot be read, and why.
    pub(super) fn read(
        path: &Path,
        server_name: Option<&str>,
        chain: &[CertificateDer<'_>],
    ) -> Result<Self, (usize, String)> {
        let mut parsed = Vec::with_capacity(chain.len());
        for (place, certificate) in chain.iter().enumerate() {
            let (_, one) =
                parse_x509_certificate(certificate).map_err(|error| (place, error.to_string()))?;
            parsed.push(one);
        }
        let (Some(own), Some(der)) = (parsed.first(), chain.first()) else {
            return Err((0, "the chain is empty".to_owned()));
        };
        let not_after = own.validity().not_after.timestamp();
        Ok(Self {
            path: path.to_owned(),
            server_name: server_name.map(str::to_owned),
            subject: own.subject().to_string(),
            names: names(own),
            issuer: own.issuer().to_string(),
            not_before: own.validity().not_before.timestamp(),
            not_after,
            chain_not_after: parsed
                .iter()
                .map(|one| one.validity().not_after.timestamp())
                .fold(not_after, i64::min),
            chain_length: chain.len(),
            fingerprint_sha256: hex(sha256(der).as_ref()),
        })
    }

    /// Whether the certificate is good for this DNS name.
    pub(super) fn covers(&self, name: &str) -> bool {
        let matches = |own: &String| {
            own.eq_ignore_ascii_case(name)
                || match (own.strip_prefix("*."), name.split_once('.')) {
                    (Some(parent), Some((_, rest))) => parent.eq_ignore_ascii_case(rest),
                    _ => false,
                }
        };
        self.names.iter().any(matches)
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) => Some((*text).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|a| std::net::Ipv4Addr::from(a).to_string()),
            16 => {
                <[u8; 16]>::try_from(*bytes).ok().map(|a| std::net::Ipv6Addr::from(a).to_string())
            }
            _ => None,
        },
        _ => None,
    };
    extension.value.general_names.iter().filter_map(text).collect()
}

/// SHA-256, by the hash that the TLS suites bring along.
pub(super) fn sha256(bytes: &[u8]) -> Output {
    let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("the constant is a TLS 1.3 suite");
    suite.common.hash_provider.hash(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
