//! Why a session failed, and whose fault it was.

use rustls::{AlertDescription, CertificateError, Error};

use super::foreign::Foreign;

/// Why a TLS session cannot go on. The session is of no use afterwards; what
/// the peer should still be told is in the output buffer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TlsError {
    /// The peer speaks something else.
    #[error("not TLS: got {0}")]
    NotTls(Foreign),
    /// The handshake failed, or a record is broken.
    #[error("{}", describe(.0))]
    Protocol(Error),
    /// A handshake message needs more memory than a session may ask for.
    #[error("a handshake message of over {max} bytes")]
    HandshakeTooLarge {
        /// The limit.
        max: usize,
    },
    /// A message of the handshake layer in pieces after the handshake, which no
    /// honest client sends: all that may come there is one of 5 bytes.
    #[error("a handshake message in pieces after the handshake")]
    FragmentAfterHandshake,
    /// The suite's keys have sealed as much as is safe, and TLS 1.2 has no new
    /// ones: the client has to connect again.
    #[error("the keys of this TLS 1.2 connection are used up")]
    KeysExhausted,
    /// Data to seal, but the handshake is not done. A fault of the caller.
    #[error("the handshake is not done")]
    StillHandshaking,
    /// Used after it failed or was closed. A fault of the caller.
    #[error("the session is over")]
    Over,
}

impl TlsError {
    /// The cause, from a closed set: for a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotTls(_) => "not_tls",
            Self::HandshakeTooLarge { .. } | Self::FragmentAfterHandshake => "protocol",
            Self::KeysExhausted => "keys_exhausted",
            Self::StillHandshaking | Self::Over => "internal",
            Self::Protocol(error) => protocol_label(error),
        }
    }
}

impl From<Error> for TlsError {
    fn from(error: Error) -> Self {
        Self::Protocol(error)
    }
}

/// The labels of what rustls says. Its enums grow, so the rest is `protocol`.
fn protocol_label(error: &Error) -> &'static str {
    match error {
        Error::NoCertificatesPresented => "no_certificate",
        Error::InvalidCertificate(cause) => match cause {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "certificate_expired"
            }
            CertificateError::Revoked => "certificate_revoked",
            CertificateError::UnknownIssuer => "unknown_ca",
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => "revocation_unknown",
            _ => "bad_certificate",
        },
        Error::AlertReceived(_) => "client_alert",
        Error::PeerIncompatible(_) => "incompatible",
        Error::NoApplicationProtocol => "no_application_protocol",
        Error::DecryptError => "decrypt",
        _ => "protocol",
    }
}

/// The sentence for an operator, with the likely cause where there is one.
fn describe(error: &Error) -> String {
    match error {
        Error::NoCertificatesPresented => {
            "the client has no certificate, and one is required".to_owned()
        }
        Error::InvalidCertificate(cause) => match cause {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the client's certificate is expired".to_owned()
            }
            CertificateError::Revoked => "the client's certificate is revoked".to_owned(),
            CertificateError::UnknownIssuer => {
                "the client's certificate is from a CA that is not in tls_client_ca".to_owned()
            }
            CertificateError::UnknownRevocationStatus => {
                "tls_crl holds no list of the CA that issued the client's certificate".to_owned()
            }
            CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => {
                "the list in tls_crl is past its next update".to_owned()
            }
            other => format!("the client's certificate is not valid: {other}"),
        },
        Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA => {
                "the client does not trust our certificate's CA (alert unknown_ca)".to_owned()
            }
            AlertDescription::CertificateExpired => {
                "the client finds our certificate expired (alert certificate_expired)".to_owned()
            }
            AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
                "the client refuses our certificate, for its name or its CA (alert \
                 bad_certificate)"
                    .to_owned()
            }
            other => format!("the client ended the session with the alert {other:?}"),
        },
        Error::NoApplicationProtocol => {
            "the client offers protocols (ALPN), and ours is not among them".to_owned()
        }
        other => other.to_string(),
    }
}
