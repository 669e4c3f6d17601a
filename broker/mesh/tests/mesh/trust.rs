//! Mutual TLS: who is believed.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tidegate_mesh::*;

use crate::rig::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    /// A certificate for one with these names, who believes `authority`.
    fn tls(&self, believes: &Authority, names: &[&str], accepted: &[&str]) -> Trust {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.contains("://") {
                true => SanType::URI((*name).try_into().expect("ASCII")),
                false => SanType::DnsName((*name).try_into().expect("ASCII")),
            })
            .collect();
        let key = KeyPair::generate().expect("a key");
        let own = params.signed_by(&key, &self.0).expect("signed");
        let accepted = accepted.iter().map(|name| (*name).to_owned()).collect();
        let tls = Tls::from_pem(
            believes.0.pem().as_bytes(),
            own.pem().as_bytes(),
            key.serialize_pem().as_bytes(),
            accepted,
        );
        Trust::Tls(Arc::new(tls.expect("usable")))
    }
}

fn with(node: u64, trust: Trust) -> MeshConfig {
    MeshConfig { trust, ..config(node) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_one_authority_believe_each_other() {
    let ours = Authority::new("ours");
    let of = |node: u64| {
        let own = format!("tidegate://plant/{node:016x}");
        ours.tls(&ours, &["node.tidegate.svc", &own], &["*.tidegate.svc"])
    };
    let (a, mut b, to_b, to_a) = pair_of(with(1, of(1)), with(2, of(2))).await;
    for over in [ConnectionKind::Control, ConnectionKind::Data, ConnectionKind::Bulk] {
        let body = bytes::Bytes::from(vec![7; 300_000]);
        assert_eq!(to_b.call(request(over, ECHO, body.clone())).await, Ok(body.clone()));
        assert_eq!(to_a.call(request(over, ECHO, body.clone())).await, Ok(body));
    }
    to_b.send(MailClass::Shard(0), "mail".into()).expect("room");
    assert_eq!(b.mail().await.body, "mail");
    assert!(a.mesh.counts().refused.is_empty() && b.mesh.counts().refused.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_another_certificate_is_refused_and_nobody_else_is_disturbed() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let good = |_| ours.tls(&ours, &["a.tidegate.svc"], &["*.tidegate.svc"]);
    let (a, _b, to_b, _) = pair_of(with(1, good(1)), with(2, good(2))).await;

    // Of another authority, and one that does not believe ours.
    for trust in [
        theirs.tls(&ours, &["a.tidegate.svc"], &[]),
        theirs.tls(&theirs, &["a.tidegate.svc"], &[]),
        ours.tls(&theirs, &["a.tidegate.svc"], &[]),
    ] {
        let other = Rig::with(with(3, trust)).await;
        let said = other.mesh.probe(&a.address(), LONG).await.expect_err("refused");
        assert!(said.is_distrust(), "{said}");
        let said = a.mesh.probe(&other.address(), LONG).await.expect_err("refused");
        assert!(said.is_distrust(), "{said}");
    }
    assert!(a.refused(false, "tls") >= 4, "{:?}", a.mesh.counts());

    // Of ours, but not for such a node.
    let another_node = ["a.tidegate.svc", "tidegate://plant/0000000000000009"];
    for names in [&["other.svc"][..], &another_node] {
        let other = Rig::with(with(3, ours.tls(&ours, names, &[]))).await;
        let said = other.mesh.probe(&a.address(), LONG).await.expect_err("refused");
        assert!(said.is_distrust(), "{said}");
        let AskError::Refused { reason, by_peer, .. } = said else { panic!("{said}") };
        assert_eq!((reason, by_peer), (Some(Reason::WrongIdentity), true));
    }
    assert_eq!(a.refused(false, "wrong_identity"), 2);

    // A secret where certificates are wanted, either way: nobody gets in.
    let secretive = Rig::start(4).await;
    secretive.mesh.probe(&a.address(), LONG).await.expect_err("refused");
    a.mesh.probe(&secretive.address(), LONG).await.expect_err("refused");

    assert_eq!(to_b.call(echo("still")).await, Ok("still".into()));
    assert_eq!(a.order(), [format!("up {}", to_b.generation())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_changed_while_it_runs() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (a, b, to_b, _) =
        pair_of(with(1, old.tls(&old, &[], &[])), with(2, old.tls(&old, &[], &[]))).await;
    a.mesh.set_trust(new.tls(&new, &[], &[]));
    assert!(a.mesh.probe(&b.address(), LONG).await.expect_err("differ").is_distrust());
    b.mesh.set_trust(new.tls(&new, &[], &[]));
    a.mesh.probe(&b.address(), LONG).await.expect("alike again");
    assert_eq!(to_b.call(echo("still")).await, Ok("still".into()), "what is open stays");
}

#[test]
fn what_is_no_certificate_is_refused_with_the_part_it_is() {
    let ours = Authority::new("ours");
    let pem = ours.0.pem();
    let other = KeyPair::generate().expect("a key").serialize_pem();
    let try_with = |ca: &str, chain: &str, key: &str| {
        Tls::from_pem(ca.as_bytes(), chain.as_bytes(), key.as_bytes(), vec![])
    };
    assert!(matches!(try_with("", &pem, &other), Err(TlsError::Empty("authority"))));
    assert!(matches!(try_with(&pem, "", &other), Err(TlsError::Empty("chain"))));
    let said = try_with(&pem, &pem, "");
    assert!(matches!(said, Err(TlsError::Pem { what: "key", .. })), "{said:?}");
    assert!(matches!(try_with(&pem, &pem, &other), Err(TlsError::Unusable(_))), "another key");
}
