//! Who may come in by a certificate.

use rcgen::SanType;
use rustls::version;

use super::super::{ClientAuth, TlsError};
use super::pki::{Authority, Client, Link, Site};

/// What became of an attempt: the common name, or the error's label.
fn attempt(site: &Site, client: &Client) -> Result<Option<String>, &'static str> {
    let mut link = Link::new(site.session(), client.connect());
    link.shake().map_err(|error: TlsError| error.label())?;
    assert_eq!(link.tell(b"CONNACK"), b"CONNACK");
    Ok(link.session.peer().and_then(|peer| peer.common_name.clone()))
}

#[test]
fn each_choice_admits_whom_it_should() {
    for version in [&version::TLS12, &version::TLS13] {
        for auth in [ClientAuth::Off, ClientAuth::Optional, ClientAuth::Required] {
            let site = Site::new("choices").asking(auth);
            let asks = auth != ClientAuth::Off;
            let stranger = Authority::new("Another CA");
            let mut client = site.client();
            client.version = version;

            let without = attempt(&site, &client);
            let required = auth == ClientAuth::Required;
            assert_eq!(without, if required { Err("no_certificate") } else { Ok(None) });

            client.identity = Some(site.ca.client("alice", Vec::new()));
            let alice = asks.then(|| "alice".to_owned());
            assert_eq!(attempt(&site, &client), Ok(alice));

            client.identity = Some(stranger.client("alice", Vec::new()));
            let strange = attempt(&site, &client);
            assert_eq!(strange, if asks { Err("unknown_ca") } else { Ok(None) });

            client.identity = Some(site.ca.client_until("alice", Vec::new(), 2021));
            let expired = attempt(&site, &client);
            assert_eq!(expired, if asks { Err("certificate_expired") } else { Ok(None) });

            // A server's certificate is not a client's.
            client.identity = Some(site.ca.server(&["alice"]));
            let purpose = attempt(&site, &client);
            assert_eq!(purpose, if asks { Err("bad_certificate") } else { Ok(None) });
        }
    }
}

#[test]
fn a_revoked_client_is_refused_and_the_others_are_not() {
    let mut site = Site::new("revoked").asking(ClientAuth::Required);
    let (alice, mallory) =
        (site.ca.client("alice", Vec::new()), site.ca.client("mallory", Vec::new()));
    let list = site.ca.revoking(&[&mallory], 2099);
    site.files.crl = Some(site.folder.write("crl.pem", &list));
    let mut client = site.client();

    client.identity = Some(alice);
    assert_eq!(attempt(&site, &client), Ok(Some("alice".to_owned())));
    client.identity = Some(mallory);
    assert_eq!(attempt(&site, &client), Err("certificate_revoked"));
}

#[test]
fn a_ca_without_a_list_is_not_waved_through() {
    let mut site = Site::new("unlisted").asking(ClientAuth::Required);
    let other = Authority::new("Another CA");
    let both = [&*site.ca.certificate, &*other.certificate].concat();
    site.files.client_ca = Some(site.folder.write("ca.crt", &both));
    let list = site.ca.revoking(&[], 2099);
    site.files.crl = Some(site.folder.write("crl.pem", &list));
    let mut client = site.client();

    client.identity = Some(other.client("bob", Vec::new()));
    assert_eq!(attempt(&site, &client), Err("revocation_unknown"));
}

#[test]
fn the_names_in_a_certificate_are_read_once_it_is_verified() {
    let site = Site::new("names").asking(ClientAuth::Required);
    let text = |text: &str| text.try_into().expect("ASCII");
    let sans = vec![
        SanType::DnsName(text("device-7.example")),
        SanType::Rfc822Name(text("ops@example.com")),
        SanType::URI(text("spiffe://example/device/7")),
        SanType::IpAddress([127, 0, 0, 1].into()),
    ];
    let mut client = site.client();
    client.identity = Some(site.ca.client("device-7", sans));
    let mut link = Link::new(site.session(), client.connect());
    link.shake().expect("a handshake");

    let peer = link.session.peer().expect("a certificate");
    assert_eq!(peer.common_name.as_deref(), Some("device-7"));
    assert_eq!(peer.sans, ["device-7.example", "ops@example.com", "spiffe://example/device/7"]);
}

#[test]
fn a_name_that_could_be_mistaken_is_no_name() {
    let site = Site::new("mistaken").asking(ClientAuth::Required);
    let mut client = site.client();
    for name in ["admin\0.example", "admin\n", &"a".repeat(2_000)] {
        client.identity = Some(site.ca.client(name, Vec::new()));
        assert_eq!(attempt(&site, &client), Ok(None), "{name:?}");
    }
}
