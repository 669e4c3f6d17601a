//! Mutual TLS between nodes.
//!
//! A peer's certificate has to be of the cluster's authority; what its names
//! have to say is the handshake's business (`tidegate_peer::Identity`), since
//! nodes are called by addresses that change with every pod. Sessions are not
//! resumed: each connection shows a certificate that is valid then.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, version,
};
use tidegate_peer::Identity;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::limits::CERTIFICATE_NAMES_MAX;

/// Certificates that cannot be used. Whoever configured them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM.
    #[error("{what}: {error}")]
    Pem {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        error: rustls::pki_types::pem::Error,
    },
    /// Nothing is in it.
    #[error("no certificate in the {0}")]
    Empty(&'static str),
    /// What does not fit together, or is not usable.
    #[error("{0}")]
    Unusable(String),
}

/// What a node shows, and whom it believes.
pub struct Tls {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
    /// Names of which a peer's certificate must have one; empty: any will do.
    pub(crate) accepted: Vec<String>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("accepted", &self.accepted).finish_non_exhaustive()
    }
}

impl Tls {
    /// Of PEM: the certificates of the authority, the node's own chain and its
    /// key. `accepted` are names of which a peer must have one, where `*.`
    /// stands for one label; empty: any certificate of the authority.
    pub fn from_pem(
        authority: &[u8],
        chain: &[u8],
        key: &[u8],
        accepted: Vec<String>,
    ) -> Result<Self, TlsError> {
        let provider = provider();
        let mut roots = RootCertStore::empty();
        for certificate in certificates(authority, "authority")? {
            roots.add(certificate).map_err(unusable)?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(chain, "chain")?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError::Pem { what: "key", error })?;
        let versions = &[&version::TLS13, &version::TLS12];
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(unusable)?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable)?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let authority = Arc::new(Authority { roots, provider: provider.clone() });
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(authority)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Self { client: Arc::new(client), server: Arc::new(server), accepted })
    }
}

/// The one that is used, for random numbers too.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Pem { what, error })?;
    if found.is_empty() {
        return Err(TlsError::Empty(what));
    }
    Ok(found)
}

fn unusable(error: impl fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

/// What a verified certificate says.
pub(crate) fn identity(chain: Option<&[CertificateDer<'_>]>) -> Identity {
    let Some(own) = chain.and_then(<[_]>::first) else { return Identity::default() };
    let Ok((_, parsed)) = parse_x509_certificate(own) else { return Identity::default() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Identity::default() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) => Some((*text).to_owned()),
        _ => None,
    };
    let names = names.value.general_names.iter().filter_map(text);
    Identity { names: names.take(CERTIFICATE_NAMES_MAX).collect() }
}

/// Takes the certificate of any node of the authority, whatever it is called.
#[derive(Debug)]
struct Authority {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Authority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _called: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let (roots, chain) = (&self.roots, intermediates);
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, chain, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
