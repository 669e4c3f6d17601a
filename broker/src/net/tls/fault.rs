//! What can be wrong with a listener's files, and what would do.
//!
//! A fault is told to whoever wrote the configuration, mostly at a bad time of
//! the day: it names the key, the file and the way out.

use std::path::PathBuf;

/// What is wrong with a file that a key names. Displayed it begins with the
/// key: put `listener.NAME.` before it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct TlsFault {
    /// The key within the listener, such as `tls_key`.
    pub key: &'static str,
    /// What is wrong, and what would do.
    pub problem: Problem,
}

/// A fault's cause.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Problem {
    /// The file system says no.
    #[error("cannot read {path:?}: {error}")]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        error: String,
    },
    /// A file far beyond its purpose.
    #[error("{path:?} is larger than {max} bytes; is it the right file?")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        max: u64,
    },
    /// PEM syntax.
    #[error("{path:?} is not valid PEM: {error}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Where it went wrong.
        error: String,
    },
    /// No certificate within.
    #[error("{path:?} holds no certificate; it needs a PEM block `BEGIN CERTIFICATE`{hint}")]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        hint: &'static str,
    },
    /// A certificate that does not parse.
    #[error("certificate {} in {path:?} cannot be parsed: {error}", .place + 1)]
    BadCertificate {
        /// The file.
        path: PathBuf,
        /// Its place in the file, from 0.
        place: usize,
        /// The parser's words.
        error: String,
    },
    /// No private key within.
    #[error("{path:?} holds no private key; it needs a PEM block `BEGIN PRIVATE KEY`{hint}")]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What it holds instead.
        hint: &'static str,
    },
    /// The key is under a pass phrase, and nobody is there to type it.
    #[error(
        "the key in {path:?} is encrypted; decrypt it with `openssl pkey -in FILE -out NEWFILE`"
    )]
    EncryptedKey {
        /// The file.
        path: PathBuf,
    },
    /// A kind of key that cannot be used.
    #[error("the key in {path:?} cannot be used (RSA, ECDSA P-256 or P-384, Ed25519 can): {error}")]
    BadKey {
        /// The file.
        path: PathBuf,
        /// rustls' words.
        error: String,
    },
    /// The classic of a half renewal.
    #[error("{path:?} does not belong to the certificate in {certificate:?}")]
    KeyMismatch {
        /// The key's file.
        path: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// Client certificates without anyone to trust.
    #[error(
        "no file is named, but tls_client_auth is \"{auth}\"; name the CAs that sign your clients' \
         certificates"
    )]
    CaMissing {
        /// The value of `tls_client_auth`.
        auth: &'static str,
    },
    /// CAs that cannot serve as such.
    #[error("{path:?} cannot be used to verify clients: {error}")]
    BadCa {
        /// The file.
        path: PathBuf,
        /// rustls' words.
        error: String,
    },
    /// No list within.
    #[error("{path:?} holds no revocation list; it needs a PEM block `BEGIN X509 CRL`")]
    NoCrl {
        /// The file.
        path: PathBuf,
    },
    /// A list that cannot be used.
    #[error("revocation list {} in {path:?} cannot be used: {error}", .place + 1)]
    BadCrl {
        /// The file.
        path: PathBuf,
        /// Its place in the file, from 0.
        place: usize,
        /// The parser's words.
        error: String,
    },
    /// A list that is out of date would refuse every client.
    #[error(
        "revocation list {} in {path:?} is past its next update by {late} s; fetch the current one",
        .place + 1
    )]
    ExpiredCrl {
        /// The file.
        path: PathBuf,
        /// Its place in the file, from 0.
        place: usize,
        /// For how long, in seconds.
        late: i64,
    },
    /// More names than the limit.
    #[error("{path:?} holds more than {max} server names")]
    TooManyNames {
        /// The directory.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// A directory whose name is not text.
    #[error("{path:?} is not named like a server")]
    BadName {
        /// The directory.
        path: PathBuf,
    },
    /// rustls or the system's random numbers fail.
    #[error("TLS cannot be set up: {error}")]
    Setup {
        /// rustls' words.
        error: String,
    },
}

/// What works and needs attention. Displayed it begins with the key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsWarning {
    /// The key within the listener.
    pub key: &'static str,
    /// The sentence.
    pub text: String,
}

impl std::fmt::Display for TlsWarning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}
