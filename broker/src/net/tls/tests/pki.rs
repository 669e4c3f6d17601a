//! A small certificate authority for tests, and a client that talks to a
//! session through memory.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion, version};

use super::super::{
    Alpn, ClientAuth, Loaded, Step, TlsError, TlsFiles, TlsSession, TlsVersion, load,
};

/// A directory that goes when the test ends.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir()
            .join(format!("tidegate-tls-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a scratch directory");
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("within the folder")).expect("a directory");
        fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) certificate: String,
    pub(super) key: String,
    serial: u64,
}

/// An authority that signs servers, clients and revocation lists.
pub(super) struct Authority {
    pub(super) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("random numbers");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, mut params: CertificateParams, common_name: &str) -> Identity {
        static SERIAL: AtomicU32 = AtomicU32::new(1);
        let serial = u64::from(SERIAL.fetch_add(1, Ordering::Relaxed));
        params.serial_number = Some(SerialNumber::from(serial));
        params.distinguished_name.push(DnType::CommonName, common_name);
        let key = KeyPair::generate().expect("random numbers");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Identity { certificate, key: key.serialize_pem(), serial }
    }

    pub(super) fn server(&self, names: &[&str]) -> Identity {
        self.server_until(names, 2099)
    }

    pub(super) fn server_until(&self, names: &[&str], year: i32) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params, "broker")
    }

    pub(super) fn client(&self, common_name: &str, sans: Vec<SanType>) -> Identity {
        self.client_until(common_name, sans, 2099)
    }

    pub(super) fn client_until(
        &self,
        common_name: &str,
        sans: Vec<SanType>,
        year: i32,
    ) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names = sans;
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, common_name)
    }

    pub(super) fn revoking(&self, revoked: &[&Identity], next_update: i32) -> String {
        CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(next_update, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|one| RevokedCertParams {
                    serial_number: SerialNumber::from(one.serial),
                    revocation_time: date_time_ymd(2021, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuer)
        .expect("a list")
        .pem()
        .expect("a list")
    }
}

/// A server's directory, and clients for it.
pub(super) struct Site {
    pub(super) folder: Folder,
    pub(super) ca: Authority,
    pub(super) files: TlsFiles,
}

impl Site {
    /// A site whose default certificate is for `broker.example`.
    pub(super) fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let ca = Authority::new("Test CA");
        let own = ca.server(&["broker.example"]);
        let files = TlsFiles {
            certificate: folder.write("tls.crt", &own.certificate),
            key: folder.write("tls.key", &own.key),
            sni_dir: None,
            client_ca: None,
            client_auth: ClientAuth::Off,
            crl: None,
            version_min: TlsVersion::V1_2,
        };
        Self { folder, ca, files }
    }

    /// Asks clients for certificates of the site's own CA.
    pub(super) fn asking(mut self, auth: ClientAuth) -> Self {
        self.files.client_auth = auth;
        self.files.client_ca = Some(self.folder.write("ca.crt", &self.ca.certificate));
        self
    }

    pub(super) fn load(&self) -> Loaded {
        load(&self.files, Alpn::Mqtt).unwrap_or_else(|faults| panic!("does not load: {faults:?}"))
    }

    pub(super) fn session(&self) -> TlsSession {
        TlsSession::new(self.load().config).expect("a session")
    }

    pub(super) fn client(&self) -> Client {
        Client {
            ca: self.ca.certificate.clone(),
            identity: None,
            name: "broker.example".to_owned(),
            version: &version::TLS13,
            alpn: Vec::new(),
            record_max: None,
            resumption: None,
        }
    }
}

/// What a client is like.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) ca: String,
    pub(super) identity: Option<Identity>,
    pub(super) name: String,
    pub(super) version: &'static SupportedProtocolVersion,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) record_max: Option<usize>,
    pub(super) resumption: Option<Resumption>,
}

impl Client {
    pub(super) fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca.as_bytes()).expect("a CA");
        roots.add(ca).expect("a CA");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[self.version])
            .expect("a version of the provider")
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            Some(own) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(own.certificate.as_bytes()).expect("PEM")],
                    PrivateKeyDer::from_pem_slice(own.key.as_bytes()).expect("PEM"),
                )
                .expect("an identity"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.alpn);
        config.max_fragment_size = self.record_max;
        config.resumption = self.resumption.clone().unwrap_or_else(Resumption::disabled);
        Arc::new(config)
    }

    pub(super) fn connect(&self) -> ClientConnection {
        let name = self.name.clone().try_into().expect("a name");
        ClientConnection::new(self.config(), name).expect("a client")
    }
}

/// A client and a session with a wire between them.
pub(super) struct Link {
    pub(super) client: ClientConnection,
    pub(super) session: TlsSession,
    /// Ciphertext that the session was offered and did not consume.
    pub(super) carry: Vec<u8>,
    /// What the session decrypted.
    pub(super) heard: Vec<u8>,
    client_heard: Vec<u8>,
    /// Whether a step said that the handshake was done.
    pub(super) done: bool,
    /// Whether a step said that the peer closed.
    pub(super) closed: bool,
}

impl Link {
    pub(super) fn new(session: TlsSession, mut client: ClientConnection) -> Self {
        client.set_buffer_limit(None);
        Self {
            client,
            session,
            carry: Vec::new(),
            heard: Vec::new(),
            client_heard: Vec::new(),
            done: false,
            closed: false,
        }
    }

    /// Offers `bytes` to the session, and its answer to the client.
    pub(super) fn offer(&mut self, bytes: &[u8]) -> Result<Step, TlsError> {
        self.carry.extend_from_slice(bytes);
        let mut plain = vec![0; self.carry.len()];
        let mut out = Vec::new();
        let step = self.session.receive(&mut self.carry, &mut plain, &mut out);
        self.deliver(&out);
        let step = step?;
        self.carry.drain(..step.consumed);
        self.heard.extend_from_slice(&plain[..step.plain]);
        self.done |= step.done_handshake;
        self.closed |= step.closed;
        Ok(step)
    }

    /// Gives the client what the session wrote.
    pub(super) fn deliver(&mut self, mut out: &[u8]) {
        while !out.is_empty() {
            if self.client.read_tls(&mut out).is_err() {
                return;
            }
            // The client's own verdict is asked for where it matters.
            let _ = self.client.process_new_packets();
            let mut piece = [0; 4_096];
            while let Ok(count @ 1..) = self.client.reader().read(&mut piece) {
                self.client_heard.extend_from_slice(&piece[..count]);
            }
        }
    }

    /// What the client has to send.
    pub(super) fn outgoing(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut bytes).expect("a Vec takes all");
        }
        bytes
    }

    /// Carries bytes to and fro until neither has anything to say, in pieces
    /// of sizes that `next` gives.
    pub(super) fn run(&mut self, mut next: impl FnMut() -> usize) -> Result<(), TlsError> {
        loop {
            let bytes = self.outgoing();
            if bytes.is_empty() {
                return Ok(());
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(next().clamp(1, rest.len()));
                self.offer(piece)?;
                rest = behind;
            }
        }
    }

    /// A whole handshake.
    pub(super) fn shake(&mut self) -> Result<(), TlsError> {
        self.run(|| usize::MAX)
    }

    /// Has the session seal `bytes`, and returns what the client reads.
    pub(super) fn tell(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.session.seal(bytes, &mut out).expect("an open session");
        self.deliver(&out);
        self.client_reads()
    }

    /// What the client has decrypted.
    pub(super) fn client_reads(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.client_heard)
    }

    /// Has the client write `bytes`.
    pub(super) fn client_writes(&mut self, bytes: &[u8]) {
        self.client.writer().write_all(bytes).expect("the client's buffer is unlimited");
    }
}
