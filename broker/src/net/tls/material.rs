//! What a listener presents and trusts, read from files.
//!
//! All files are read and judged together, so that an operator sees every
//! fault at once, each with its key, its path and what would do. What is valid
//! but will bite soon (an expired certificate, one that does not carry the name
//! it is filed under) is a warning: an expired certificate must not keep a node
//! from starting, as it still serves clients that pin it, and the ones that do
//! not will say so.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use x509_parser::parse_x509_crl;

use super::certificate::{CertificateInfo, sha256};
use super::fault::{Problem, TlsFault, TlsWarning};
use super::limits::{CA_FILE_BYTES_MAX, CRL_FILE_BYTES_MAX, PEM_FILE_BYTES_MAX, SERVER_NAMES_MAX};
use super::server_name::ByServerName;

/// The files and choices of one listener.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsFiles {
    /// `tls_certificate`: the chain, PEM, the server's own certificate first.
    pub certificate: PathBuf,
    /// `tls_key`: its private key, PEM, not encrypted.
    pub key: PathBuf,
    /// `tls_sni_dir`: for each further server name a directory of that name,
    /// with `tls.crt` and `tls.key`.
    pub sni_dir: Option<PathBuf>,
    /// `tls_client_ca`: whose client certificates are trusted, PEM.
    pub client_ca: Option<PathBuf>,
    /// `tls_client_auth`: whether clients show a certificate.
    pub client_auth: ClientAuth,
    /// `tls_crl`: revocation lists for client certificates, PEM.
    pub crl: Option<PathBuf>,
    /// `tls_version_min`: the oldest version that is spoken.
    pub version_min: TlsVersion,
}

impl TlsFiles {
    /// All files and directories that a change of concerns the listener.
    pub fn paths(&self) -> Vec<PathBuf> {
        let optional = [&self.sni_dir, &self.client_ca, &self.crl];
        let mut paths = vec![self.certificate.clone(), self.key.clone()];
        paths.extend(optional.into_iter().flatten().cloned());
        paths
    }
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum ClientAuth {
    /// Not asked for.
    #[default]
    Off,
    /// Asked for; a client without one may come in, one with a bad one not.
    Optional,
    /// No certificate, no handshake.
    Required,
}

impl ClientAuth {
    /// The value of the key.
    pub fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Optional => "optional",
            Self::Required => "required",
        }
    }
}

/// A version of TLS. Nothing older than 1.2 is spoken at all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    V1_2,
    /// RFC 8446.
    V1_3,
}

impl TlsVersion {
    /// The value of the key.
    pub fn label(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }

    fn spoken(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
        match self {
            Self::V1_2 => &BOTH,
            Self::V1_3 => &BOTH[..1],
        }
    }
}

/// The protocol on top, as a client may name it in the handshake (ALPN).
///
/// A client that names none is welcome. One that names only others is refused
/// with `no_application_protocol`, as RFC 7301 has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Alpn {
    /// MQTT right on TLS: `mqtt`.
    Mqtt,
    /// Secure WebSocket: `http/1.1`.
    WebSocket,
}

impl Alpn {
    fn protocol(self) -> &'static [u8] {
        match self {
            Self::Mqtt => b"mqtt",
            Self::WebSocket => b"http/1.1",
        }
    }
}

/// Everything of one listener, ready for handshakes.
#[derive(Debug)]
pub struct Loaded {
    /// For [`super::TlsSession::new`].
    pub config: Arc<ServerConfig>,
    /// What is presented: the default first, then by server name.
    pub certificates: Vec<CertificateInfo>,
    /// The subjects of the CAs whose client certificates are trusted.
    pub client_cas: Vec<String>,
    /// The earliest next update of the revocation lists, in Unix seconds; from
    /// then on client certificates are refused.
    pub crl_next_update: Option<i64>,
    /// What works today and needs attention.
    pub warnings: Vec<TlsWarning>,
    /// Digest of all that was read, to tell a change.
    pub(super) contents: [u8; 32],
    /// Digest of what decides over clients. When it changes, a session ticket
    /// from before must not bring anybody in.
    pub(super) trust: [u8; 32],
}

impl Loaded {
    /// When the first of the presented certificates, chains included, expires,
    /// in seconds of Unix time.
    pub fn expires(&self) -> i64 {
        self.certificates.iter().map(|one| one.chain_not_after).min().unwrap_or(i64::MAX)
    }
}

/// Reads and judges a listener's files.
///
/// # Errors
/// All faults found, not the first alone.
pub fn load(files: &TlsFiles, alpn: Alpn) -> Result<Loaded, Vec<TlsFault>> {
    load_with(files, alpn, None)
}

/// The ticketer of the sessions so far, and the trust that it was made under.
pub(super) type Tickets = (Arc<dyn ProducesTickets>, [u8; 32]);

/// As [`load`]; `tickets` stay good unless who is trusted has changed.
pub(super) fn load_with(
    files: &TlsFiles,
    alpn: Alpn,
    tickets: Option<&Tickets>,
) -> Result<Loaded, Vec<TlsFault>> {
    let mut reading = Reading::new();
    let default = reading.pair(&Pair {
        certificate: &files.certificate,
        certificate_key: "tls_certificate",
        key: &files.key,
        key_key: "tls_key",
        server_name: None,
    });
    let named = match &files.sni_dir {
        Some(directory) => reading.named(directory),
        None => HashMap::new(),
    };
    let verifier = reading.verifier(files);

    let (Some(default), Some(verifier)) = (default, verifier) else {
        return Err(reading.faults);
    };
    if !reading.faults.is_empty() {
        return Err(reading.faults);
    }
    let setup = |error: rustls::Error| {
        let problem = Problem::Setup { error: error.to_string() };
        vec![TlsFault { key: "tls_certificate", problem }]
    };
    let mut config = ServerConfig::builder_with_provider(reading.provider.clone())
        .with_protocol_versions(files.version_min.spoken())
        .map_err(setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(ByServerName { default, named }));
    let trust = digest(reading.trust.iter());
    config.alpn_protocols = vec![alpn.protocol().to_vec()];
    config.max_early_data_size = 0;
    // A ticket carries its session, so that a resumption costs no memory here.
    // One is enough: a client uses the newest.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 1;
    config.ticketer = match tickets {
        Some((ticketer, made_under)) if *made_under == trust => ticketer.clone(),
        Some(_) | None => ring::Ticketer::new().map_err(setup)?,
    };
    reading.seen.extend([files.version_min.label().as_bytes().into(), alpn.protocol().into()]);
    Ok(Loaded {
        config: Arc::new(config),
        certificates: reading.certificates,
        client_cas: reading.client_cas,
        crl_next_update: reading.crl_next_update,
        warnings: reading.warnings,
        contents: digest(reading.seen.iter().chain(&reading.trust)),
        trust,
    })
}

/// A certificate and its key, with the keys of the configuration to blame.
struct Pair<'a> {
    certificate: &'a Path,
    certificate_key: &'static str,
    key: &'a Path,
    key_key: &'static str,
    server_name: Option<&'a str>,
}

/// What has been found while reading.
struct Reading {
    provider: Arc<CryptoProvider>,
    now: i64,
    faults: Vec<TlsFault>,
    warnings: Vec<TlsWarning>,
    certificates: Vec<CertificateInfo>,
    client_cas: Vec<String>,
    crl_next_update: Option<i64>,
    seen: Vec<Box<[u8]>>,
    trust: Vec<Box<[u8]>>,
}

impl Reading {
    fn new() -> Self {
        Self {
            provider: Arc::new(ring::default_provider()),
            now: i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX),
            faults: Vec::new(),
            warnings: Vec::new(),
            certificates: Vec::new(),
            client_cas: Vec::new(),
            crl_next_update: None,
            seen: Vec::new(),
            trust: Vec::new(),
        }
    }

    fn fault(&mut self, key: &'static str, problem: Problem) {
        self.faults.push(TlsFault { key, problem });
    }

    fn bytes(&mut self, key: &'static str, path: &Path, max: u64) -> Option<Vec<u8>> {
        match read(path, max) {
            Ok(bytes) => Some(bytes),
            Err(problem) => {
                self.fault(key, problem);
                None
            }
        }
    }

    fn chain(&mut self, key: &'static str, path: &Path, max: u64) -> Option<Chain> {
        let bytes = self.bytes(key, path, max)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        match chain {
            Ok(chain) if chain.is_empty() => {
                let path = path.to_owned();
                self.fault(key, Problem::NoCertificate { path, hint: hint(&bytes) });
                None
            }
            Ok(chain) => Some(Chain { bytes, chain }),
            Err(error) => {
                let (path, error) = (path.to_owned(), error.to_string());
                self.fault(key, Problem::Pem { path, error });
                None
            }
        }
    }

    fn pair(&mut self, pair: &Pair<'_>) -> Option<Arc<CertifiedKey>> {
        let chain = self.chain(pair.certificate_key, pair.certificate, PEM_FILE_BYTES_MAX);
        let key_bytes = self.bytes(pair.key_key, pair.key, PEM_FILE_BYTES_MAX);

        // Both are judged before either's fault ends it.
        let chain = chain.and_then(|Chain { bytes, chain }| {
            let info = CertificateInfo::read(pair.certificate, pair.server_name, &chain)
                .map_err(|(place, error)| {
                    let path = pair.certificate.to_owned();
                    let problem = Problem::BadCertificate { path, place, error };
                    self.fault(pair.certificate_key, problem);
                })
                .ok()?;
            self.seen.push(bytes.into());
            Some((chain, info))
        });
        let signer = key_bytes.and_then(|bytes| {
            let signer = private_key(pair.key, &bytes)
                .and_then(|key| {
                    self.provider.key_provider.load_private_key(key).map_err(|error| {
                        Problem::BadKey { path: pair.key.to_owned(), error: error.to_string() }
                    })
                })
                .map_err(|problem| self.fault(pair.key_key, problem))
                .ok()?;
            self.seen.push(bytes.into());
            Some(signer)
        });
        let ((chain, info), signer) = (chain?, signer?);

        let certified = CertifiedKey::new(chain, signer);
        match certified.keys_match() {
            // Some kinds of key cannot tell; the handshake will.
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let (path, certificate) = (pair.key.to_owned(), pair.certificate.to_owned());
                self.fault(pair.key_key, Problem::KeyMismatch { path, certificate });
                return None;
            }
            Err(error) => {
                let (path, error) = (pair.certificate.to_owned(), error.to_string());
                let problem = Problem::BadCertificate { path, place: 0, error };
                self.fault(pair.certificate_key, problem);
                return None;
            }
        }
        self.warn_of(pair, &info);
        self.certificates.push(info);
        Some(Arc::new(certified))
    }

    fn warn_of(&mut self, pair: &Pair<'_>, info: &CertificateInfo) {
        let (key, path) = (pair.certificate_key, pair.certificate);
        let mut warn = |text: String| self.warnings.push(TlsWarning { key, text });
        if info.not_after < self.now {
            let days = (self.now - info.not_after) / 86_400;
            warn(format!("the certificate in {path:?} expired {days} days ago; renew it"));
        } else if info.chain_not_after < self.now {
            warn(format!("an intermediate certificate in {path:?} is expired; renew the chain"));
        }
        if info.not_before > self.now {
            warn(format!("the certificate in {path:?} is not valid yet; is the clock right?"));
        }
        if info.names.is_empty() {
            warn(format!(
                "the certificate in {path:?} has no alternative name, so that clients cannot \
                 verify it"
            ));
        } else if let Some(name) = pair.server_name
            && !info.covers(name)
        {
            warn(format!("the certificate in {path:?} is not for \"{name}\""));
        }
    }

    /// The certificates by server name. What begins with a dot is not a server,
    /// but how Kubernetes swaps a Secret (`..data`).
    fn named(&mut self, directory: &Path) -> HashMap<String, Arc<CertifiedKey>> {
        const KEY: &str = "tls_sni_dir";
        let mut named = HashMap::new();
        let names = match named_directories(directory) {
            Ok(names) => names,
            Err(problem) => {
                self.fault(KEY, problem);
                return named;
            }
        };
        for path in names {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                self.fault(KEY, Problem::BadName { path });
                continue;
            };
            let name = name.to_ascii_lowercase();
            let certified = self.pair(&Pair {
                certificate: &path.join("tls.crt"),
                certificate_key: KEY,
                key: &path.join("tls.key"),
                key_key: KEY,
                server_name: Some(&name),
            });
            self.seen.push(name.as_bytes().into());
            if let Some(certified) = certified {
                named.insert(name, certified);
            }
        }
        named
    }

    fn verifier(&mut self, files: &TlsFiles) -> Option<Arc<dyn ClientCertVerifier>> {
        self.trust.push(files.client_auth.label().as_bytes().into());
        let required = match files.client_auth {
            ClientAuth::Off => return Some(WebPkiClientVerifier::no_client_auth()),
            ClientAuth::Optional => false,
            ClientAuth::Required => true,
        };
        let roots = match &files.client_ca {
            Some(path) => self.roots(path),
            None => {
                let auth = files.client_auth.label();
                self.fault("tls_client_ca", Problem::CaMissing { auth });
                None
            }
        };
        let crls = match &files.crl {
            Some(path) => self.crls(path),
            None => Some(Vec::new()),
        };
        let (roots, crls) = (roots?, crls?);

        // As mosquitto and OpenSSL have it with one list: the client's own
        // certificate must be on a current list of its issuer, or is refused.
        let mut builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
                .with_crls(crls)
                .only_check_end_entity_revocation()
                .enforce_revocation_expiration();
        if !required {
            builder = builder.allow_unauthenticated();
        }
        builder
            .build()
            .map_err(|error| {
                let (key, path) = match (&error, &files.crl, &files.client_ca) {
                    (rustls::server::VerifierBuilderError::InvalidCrl(_), Some(crl), _) => {
                        ("tls_crl", crl.clone())
                    }
                    (_, _, ca) => ("tls_client_ca", ca.clone().unwrap_or_default()),
                };
                self.fault(key, Problem::BadCa { path, error: error.to_string() });
            })
            .ok()
    }

    fn roots(&mut self, path: &Path) -> Option<RootCertStore> {
        const KEY: &str = "tls_client_ca";
        let Chain { bytes, chain } = self.chain(KEY, path, CA_FILE_BYTES_MAX)?;
        let faults = self.faults.len();
        let mut roots = RootCertStore::empty();
        for (place, certificate) in chain.into_iter().enumerate() {
            let subject = CertificateInfo::read(path, None, std::slice::from_ref(&certificate))
                .map(|info| info.subject)
                .map_err(|(_, error)| error);
            let added = roots.add(certificate).map_err(|error| error.to_string());
            match subject.and_then(|subject| added.map(|()| subject)) {
                Ok(subject) => self.client_cas.push(subject),
                Err(error) => {
                    let path = path.to_owned();
                    self.fault(KEY, Problem::BadCertificate { path, place, error });
                }
            }
        }
        self.trust.push(bytes.into());
        (self.faults.len() == faults).then_some(roots)
    }

    fn crls(&mut self, path: &Path) -> Option<Vec<CertificateRevocationListDer<'static>>> {
        const KEY: &str = "tls_crl";
        let bytes = self.bytes(KEY, path, CRL_FILE_BYTES_MAX)?;
        let lists: Result<Vec<_>, _> =
            CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
        let lists = match lists {
            Ok(lists) => lists,
            Err(error) => {
                let (path, error) = (path.to_owned(), error.to_string());
                self.fault(KEY, Problem::Pem { path, error });
                return None;
            }
        };
        if lists.is_empty() {
            self.fault(KEY, Problem::NoCrl { path: path.to_owned() });
            return None;
        }
        let faults = self.faults.len();
        for (place, list) in lists.iter().enumerate() {
            match parse_x509_crl(list) {
                Ok((_, parsed)) => {
                    let Some(next) = parsed.next_update().map(|time| time.timestamp()) else {
                        continue;
                    };
                    if next < self.now {
                        let (path, late) = (path.to_owned(), self.now - next);
                        self.fault(KEY, Problem::ExpiredCrl { path, place, late });
                    }
                    self.crl_next_update =
                        Some(self.crl_next_update.map_or(next, |soonest| soonest.min(next)));
                }
                Err(error) => {
                    let (path, error) = (path.to_owned(), error.to_string());
                    self.fault(KEY, Problem::BadCrl { path, place, error });
                }
            }
        }
        self.trust.push(bytes.into());
        (self.faults.len() == faults).then_some(lists)
    }
}

/// A file's certificates, and its bytes.
struct Chain {
    bytes: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
}

/// The directories for server names within `directory`, in order.
pub(super) fn named_directories(directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let unreadable =
        |error: io::Error| Problem::Unreadable { path: directory.to_owned(), error: plain(&error) };
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if hidden || !entry.path().is_dir() {
            continue;
        }
        if paths.len() == SERVER_NAMES_MAX {
            let path = directory.to_owned();
            return Err(Problem::TooManyNames { path, max: SERVER_NAMES_MAX });
        }
        paths.push(entry.path());
    }
    paths.sort();
    Ok(paths)
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, Problem> {
    let unreadable =
        |error: io::Error| Problem::Unreadable { path: path.to_owned(), error: plain(&error) };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > max {
        return Err(Problem::TooLarge { path: path.to_owned(), max });
    }
    Ok(bytes)
}

fn private_key(path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, Problem> {
    use rustls::pki_types::pem::Error;
    let path = path.to_owned();
    match PrivateKeyDer::from_pem_slice(bytes) {
        Ok(key) => Ok(key),
        Err(Error::NoItemsFound) if holds(bytes, b"BEGIN ENCRYPTED PRIVATE KEY") => {
            Err(Problem::EncryptedKey { path })
        }
        Err(Error::NoItemsFound) => Err(Problem::NoKey { path, hint: hint(bytes) }),
        Err(_) if holds(bytes, b"Proc-Type: 4,ENCRYPTED") => Err(Problem::EncryptedKey { path }),
        Err(error) => Err(Problem::Pem { path, error: error.to_string() }),
    }
}

/// What a file holds that was taken for another.
fn hint(bytes: &[u8]) -> &'static str {
    let first = <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes).find_map(Result::ok);
    match first {
        Some((SectionKind::Certificate, _)) => " (it holds a certificate)",
        Some((
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey,
            _,
        )) => " (it holds a private key)",
        Some((SectionKind::Csr, _)) => " (it holds a certificate request)",
        _ if bytes.first() == Some(&0x30) => {
            " (it looks like DER; `openssl x509 -inform der` converts)"
        }
        _ => "",
    }
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// A digest over the pieces' digests, so that none runs into the next.
fn digest<'a>(pieces: impl Iterator<Item = &'a Box<[u8]>>) -> [u8; 32] {
    let mut all = Vec::new();
    for piece in pieces {
        all.extend_from_slice(sha256(piece).as_ref());
    }
    sha256(&all).as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

/// The system's message without `(os error 2)`.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}
