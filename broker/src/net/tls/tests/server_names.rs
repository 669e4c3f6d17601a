//! Which certificate a client is shown.

use super::super::{Alpn, CertificateInfo, load};
use super::pki::{Link, Site};

#[test]
fn the_name_chooses_the_certificate_and_the_default_serves_the_rest() {
    let mut site = Site::new("sni");
    // The default is for all of them, so that a client accepts it under any.
    let default = site.ca.server(&["broker.example", "c.example", "deep.x.wild.example"]);
    site.folder.write("tls.crt", &default.certificate);
    site.folder.write("tls.key", &default.key);
    for (directory, name) in [("A.example", "a.example"), ("*.wild.example", "*.wild.example")] {
        let one = site.ca.server(&[name]);
        site.folder.write(&format!("sni/{directory}/tls.crt"), &one.certificate);
        site.folder.write(&format!("sni/{directory}/tls.key"), &one.key);
    }
    site.folder.write("sni/..data/tls.crt", "how Kubernetes keeps it");
    site.folder.write("sni/README", "not a directory");
    site.files.sni_dir = Some(site.folder.path().join("sni"));
    let loaded = site.load();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.certificates.len(), 3);
    let print = |name: &str| {
        let found = loaded.certificates.iter().find(|c| c.server_name.as_deref() == Some(name));
        found.map(|one| one.fingerprint_sha256.clone()).expect("it is loaded")
    };
    let default = &loaded.certificates[0].fingerprint_sha256;

    let shown = |name: &str| {
        let mut client = site.client();
        client.name = name.to_owned();
        let mut link = Link::new(site.session(), client.connect());
        link.shake().expect("a handshake");
        assert_eq!(link.session.server_name(), Some(name));
        let certificate = &link.client.peer_certificates().expect("it was verified")[0];
        CertificateInfo::read("x".as_ref(), None, std::slice::from_ref(certificate))
            .expect("a certificate")
            .fingerprint_sha256
    };
    assert_eq!(shown("a.example"), print("a.example"));
    assert_eq!(shown("b.wild.example"), print("*.wild.example"));
    assert_eq!(&shown("broker.example"), default);
    assert_eq!(&shown("c.example"), default);
    // A wildcard is for one label.
    assert_eq!(&shown("deep.x.wild.example"), default);
}

#[test]
fn an_address_is_no_name() {
    let site = Site::new("address");
    let own = site.ca.server(&["127.0.0.1"]);
    site.folder.write("tls.crt", &own.certificate);
    site.folder.write("tls.key", &own.key);
    let mut client = site.client();
    client.name = "127.0.0.1".to_owned();
    let mut link = Link::new(site.session(), client.connect());
    link.shake().expect("a handshake");
    assert_eq!(link.session.server_name(), None);
}

#[test]
fn a_certificate_under_a_wrong_name_is_warned_of() {
    let mut site = Site::new("misfiled");
    let one = site.ca.server(&["a.example"]);
    site.folder.write("sni/b.example/tls.crt", &one.certificate);
    site.folder.write("sni/b.example/tls.key", &one.key);
    site.files.sni_dir = Some(site.folder.path().join("sni"));

    let warnings = site.load().warnings;
    assert_eq!(warnings.len(), 1);
    let text = warnings[0].to_string();
    assert!(text.starts_with("tls_sni_dir: ") && text.ends_with("is not for \"b.example\""));
}

#[test]
fn a_name_without_its_key_is_a_fault() {
    let mut site = Site::new("keyless");
    let one = site.ca.server(&["a.example"]);
    site.folder.write("sni/a.example/tls.crt", &one.certificate);
    site.files.sni_dir = Some(site.folder.path().join("sni"));
    let faults = load(&site.files, Alpn::Mqtt).expect_err("no key");
    assert_eq!(faults.len(), 1);
    let text = faults[0].to_string();
    assert!(text.starts_with("tls_sni_dir: cannot read ") && text.contains("a.example/tls.key"));
}
