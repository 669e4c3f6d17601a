//! What an operator is told of files that will not do.

use super::super::{Alpn, ClientAuth, Problem, load, show, show_json};
use super::pki::{Authority, Site};

fn faults(site: &Site) -> Vec<String> {
    match load(&site.files, Alpn::Mqtt) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

/// The only fault, without the directory.
fn fault(site: &Site) -> String {
    let all = faults(site);
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].replace(&format!("{}/", site.folder.path().display()), "")
}

#[test]
fn a_key_of_another_certificate_is_named() {
    let site = Site::new("mismatch");
    site.folder.write("tls.key", &site.ca.server(&["other.example"]).key);
    assert_eq!(
        fault(&site),
        r#"tls_key: "tls.key" does not belong to the certificate in "tls.crt""#
    );
}

#[test]
fn each_file_is_blamed_under_its_key() {
    let site = Site::new("swapped");
    let (certificate, key) = (site.files.certificate.clone(), site.files.key.clone());

    let mut swapped = Site::new("swapped");
    (swapped.files.certificate, swapped.files.key) = (key.clone(), certificate.clone());
    let both = faults(&swapped);
    assert_eq!(both.len(), 2);
    assert!(
        both[0].starts_with("tls_certificate: ") && both[0].ends_with("(it holds a private key)")
    );
    assert!(both[1].starts_with("tls_key: ") && both[1].ends_with("(it holds a certificate)"));

    let mut absent = Site::new("absent");
    absent.files.certificate = "/nowhere/tls.crt".into();
    assert_eq!(
        fault(&absent),
        r#"tls_certificate: cannot read "/nowhere/tls.crt": no such file or directory"#
    );

    let der = Site::new("der");
    der.folder.write("tls.crt", "0\u{3}abc");
    assert!(fault(&der).contains("it looks like DER"));

    let torn = Site::new("torn");
    torn.folder.write("tls.crt", "-----BEGIN CERTIFICATE-----\nMIIB");
    assert!(fault(&torn).starts_with(r#"tls_certificate: "tls.crt" is not valid PEM: "#));

    let nonsense = Site::new("nonsense");
    nonsense
        .folder
        .write("tls.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert!(
        fault(&nonsense).starts_with(r#"tls_certificate: certificate 1 in "tls.crt" cannot be"#)
    );

    let encrypted = Site::new("encrypted");
    encrypted.folder.write(
        "tls.key",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    assert!(fault(&encrypted).contains("is encrypted; decrypt it with `openssl pkey"));
}

#[test]
fn clients_need_a_ca_to_be_judged_by() {
    let mut site = Site::new("judge");
    site.files.client_auth = ClientAuth::Required;
    assert_eq!(
        fault(&site),
        "tls_client_ca: no file is named, but tls_client_auth is \"required\"; name the CAs that \
         sign your clients' certificates"
    );
    site.files.client_ca = Some(site.folder.write("ca.crt", "# to be filled in\n"));
    assert!(fault(&site).starts_with(r#"tls_client_ca: "ca.crt" holds no certificate"#));
}

#[test]
fn a_revocation_list_must_be_one_and_be_current() {
    let mut site = Site::new("list").asking(ClientAuth::Required);
    site.files.crl = Some(site.folder.write("crl.pem", &site.ca.certificate));
    assert!(fault(&site).starts_with(r#"tls_crl: "crl.pem" holds no revocation list"#));

    site.folder.write("crl.pem", &site.ca.revoking(&[], 2021));
    let late = fault(&site);
    assert!(late.starts_with(r#"tls_crl: revocation list 1 in "crl.pem" is past its next update"#));
    assert!(matches!(
        load(&site.files, Alpn::Mqtt).expect_err("expired")[0].problem,
        Problem::ExpiredCrl { place: 0, .. }
    ));

    site.folder.write("crl.pem", &site.ca.revoking(&[], 2099));
    assert_eq!(faults(&site), Vec::<String>::new());
}

#[test]
fn all_faults_are_told_at_once() {
    let mut site = Site::new("all").asking(ClientAuth::Optional);
    site.folder.write("tls.key", "");
    site.folder.write("ca.crt", "");
    site.files.crl = Some(site.folder.write("crl.pem", ""));
    let keys: Vec<String> = faults(&site)
        .iter()
        .map(|fault| fault.split(':').next().expect("a key").to_owned())
        .collect();
    assert_eq!(keys, ["tls_key", "tls_client_ca", "tls_crl"]);
}

#[test]
fn an_expired_certificate_is_a_warning() {
    let site = Site::new("expired");
    let own = site.ca.server_until(&["broker.example"], 2021);
    site.folder.write("tls.crt", &own.certificate);
    site.folder.write("tls.key", &own.key);

    let loaded = site.load();
    assert_eq!(loaded.expires(), 1_609_459_200);
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].to_string().ends_with("days ago; renew it"));
}

#[test]
fn the_report_says_what_is_left() {
    let mut site = Site::new("report").asking(ClientAuth::Optional);
    site.files.crl = Some(site.folder.write("crl.pem", &site.ca.revoking(&[], 2099)));
    let one = site.ca.server(&["a.example"]);
    site.folder.write("sni/a.example/tls.crt", &one.certificate);
    site.folder.write("sni/a.example/tls.key", &one.key);
    site.files.sni_dir = Some(site.folder.path().join("sni"));
    let loaded = site.load();
    let (end, day) = (4_070_908_800, 86_400);

    let text = show(&loaded, end - 10 * day);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("SERVER NAME  NAMES           ISSUER"));
    assert!(lines[1].starts_with("(default)    broker.example  CN=Test CA"));
    assert!(lines[1].contains("2099-01-01  10 days  "));
    assert!(lines[2].starts_with("a.example    a.example "));
    assert_eq!(lines[3], "client CA: CN=Test CA");
    assert_eq!(lines[4], "revocation list: next update 2099-01-01, 10 days");
    assert_eq!(lines.len(), 5);

    let json: serde_json::Value =
        serde_json::from_str(&show_json(&loaded, end + day)).expect("JSON");
    assert_eq!(json["certificates"][0]["days_left"], -1);
    assert_eq!(json["certificates"][0]["names"][0], "broker.example");
    assert_eq!(json["certificates"][1]["server_name"], "a.example");
    assert_eq!(json["client_cas"][0], "CN=Test CA");
    assert_eq!(json["certificates"][0]["fingerprint_sha256"].as_str().map(str::len), Some(64));
}

#[test]
fn a_chain_expires_with_its_first_certificate() {
    let site = Site::new("chain");
    let own = site.ca.server_until(&["broker.example"], 2090);
    let other = Authority::new("Intermediate").server_until(&["x"], 2080);
    site.folder.write("tls.crt", &[own.certificate, other.certificate].concat());
    site.folder.write("tls.key", &own.key);

    let loaded = site.load();
    assert_eq!(loaded.certificates[0].chain_length, 2);
    assert!(loaded.expires() < loaded.certificates[0].not_after);
}
