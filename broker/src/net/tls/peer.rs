//! Who a client says it is, by its certificate.

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::limits::{PEER_NAME_BYTES_MAX, PEER_NAMES_MAX};

/// The names in a client's verified certificate.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PeerCertificate {
    /// The subject's common name; the first, where there are several.
    pub common_name: Option<String>,
    /// Alternative names: DNS, e-mail and URI, in the certificate's order.
    pub sans: Vec<String>,
}

impl PeerCertificate {
    /// Reads the names. A name that is empty, too long or holds a control
    /// character is left out: `admin\0.example` must never pass for `admin`.
    pub(super) fn read(certificate: &CertificateDer<'_>) -> Self {
        let Ok((_, parsed)) = parse_x509_certificate(certificate) else {
            return Self::default();
        };
        let common_name = parsed
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok())
            .and_then(usable);
        let sans = match parsed.subject_alternative_name() {
            Ok(Some(extension)) => extension
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(text)
                    | GeneralName::RFC822Name(text)
                    | GeneralName::URI(text) => usable(text),
                    _ => None,
                })
                .take(PEER_NAMES_MAX)
                .collect(),
            Ok(None) | Err(_) => Vec::new(),
        };
        Self { common_name, sans }
    }
}

fn usable(name: &str) -> Option<String> {
    let fits = !name.is_empty() && name.len() <= PEER_NAME_BYTES_MAX;
    (fits && !name.chars().any(char::is_control)).then(|| name.to_owned())
}
