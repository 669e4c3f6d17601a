//! An idle TLS session costs at most 6 KiB of user memory.
//!
//! Alone in its process, as it reads the process's own memory.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedProtocolVersion, version,
};
use tidegate::net::tls::{Alpn, ClientAuth, TlsFiles, TlsSession, TlsVersion, load};

const SESSIONS: usize = 2_000;
const BYTES_MAX: usize = 6 * 1024;

#[test]
fn an_idle_session_costs_at_most_6_kib() {
    let place = std::env::temp_dir().join(format!("tidegate-tls-idle-{}", std::process::id()));
    fs::create_dir_all(&place).expect("a scratch directory");
    let (server, client) = material(&place, &version::TLS13);
    let (old_server, old_client) = material(&place, &version::TLS12);
    fs::remove_dir_all(&place).expect("the scratch directory");

    // Kept to the end, so that no round lives in what another gave back.
    let mut kept = Vec::new();
    for (label, server, client) in
        [("1.3", server, client), ("1.2, client certificate", old_server, old_client)]
    {
        // Whatever is allocated once is allocated by the first few.
        drop((0..50).map(|_| shaken(&server, &client)).collect::<Vec<_>>());
        let before = anonymous_bytes();
        let sessions: Vec<_> = (0..SESSIONS).map(|_| shaken(&server, &client)).collect();
        let each = anonymous_bytes().saturating_sub(before) / SESSIONS;
        #[allow(clippy::print_stdout, reason = "the figure, for --nocapture")]
        {
            println!("TLS {label}: {each} bytes an idle session");
        }
        assert!(each <= BYTES_MAX, "TLS {label}: {each} bytes a session");
        assert!(each > 1_000, "{each} bytes: this measures something else");
        kept.push(sessions);
    }
}

/// A session after its handshake and an exchange of data.
fn shaken(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>) -> TlsSession {
    let mut session = TlsSession::new(server.clone()).expect("a session");
    let name = "broker.example".try_into().expect("a name");
    let mut client = ClientConnection::new(client.clone(), name).expect("a client");
    std::io::Write::write_all(&mut client.writer(), b"CONNECT").expect("a buffer");
    let mut carry = Vec::new();
    while client.wants_write() {
        while client.wants_write() {
            client.write_tls(&mut carry).expect("a Vec takes all");
        }
        let (mut plain, mut out) = (vec![0; carry.len()], Vec::new());
        let step = session.receive(&mut carry, &mut plain, &mut out).expect("honest records");
        carry.drain(..step.consumed);
        if !session.is_handshaking() {
            session.seal(b"CONNACK", &mut out).expect("an open session");
        }
        let mut answer = &out[..];
        while !answer.is_empty() {
            client.read_tls(&mut answer).expect("room");
            client.process_new_packets().expect("honest records");
        }
    }
    assert!(!session.is_handshaking() && carry.is_empty());
    session
}

fn material(
    place: &Path,
    version: &'static SupportedProtocolVersion,
) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().expect("random numbers");
    let ca = CertifiedIssuer::self_signed(ca, ca_key).expect("a CA");
    let key = KeyPair::generate().expect("random numbers");
    let own = CertificateParams::new(vec!["broker.example".to_owned()])
        .expect("a name")
        .signed_by(&key, &ca)
        .expect("a certificate");
    let write = |name: &str, text: String| {
        fs::write(place.join(name), text).expect("a file");
        place.join(name)
    };
    // With TLS 1.2 clients show a certificate, so that both are measured.
    let asks = *version == version::TLS12;
    let files = TlsFiles {
        certificate: write("tls.crt", own.pem()),
        key: write("tls.key", key.serialize_pem()),
        sni_dir: None,
        client_ca: asks.then(|| write("ca.crt", ca.pem())),
        client_auth: if asks { ClientAuth::Required } else { ClientAuth::Off },
        crl: None,
        version_min: TlsVersion::V1_2,
    };
    let loaded = load(&files, Alpn::Mqtt).expect("good files");

    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).expect("a CA");
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version of the provider")
        .with_root_certificates(roots);
    let chain: Vec<CertificateDer<'static>> = vec![own.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let client = if asks {
        builder.with_client_auth_cert(chain, key).expect("an identity")
    } else {
        builder.with_no_client_auth()
    };
    (loaded.config, Arc::new(client))
}

/// The process's own memory, without what files back.
fn anonymous_bytes() -> usize {
    let text = fs::read_to_string("/proc/self/smaps_rollup").expect("Linux");
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).expect("its line");
    let kib: usize =
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    kib * 1_024
}
