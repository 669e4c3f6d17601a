//! The stream of records in any pieces: what comes out does not depend on how
//! it came in.

use proptest::prelude::*;
use rustls::version;

use super::super::{ClientAuth, fuzz_records};
use super::pki::{Client, Link, Site};

/// Messages of sizes around what a record holds.
const SIZES: [usize; 7] = [1, 2, 100, 16_383, 16_384, 16_385, 40_000];

fn story(site: &Site, client: &Client, mut next: impl FnMut() -> usize) {
    let mut link = Link::new(site.session(), client.connect());
    link.run(&mut next).expect("a handshake");
    assert!(link.done);
    assert_eq!(link.session.peer().is_some(), client.identity.is_some());
    for size in SIZES {
        let sent: Vec<u8> = (0..size).map(|i| i.to_le_bytes()[0]).collect();
        link.client_writes(&sent);
        link.run(&mut next).expect("data");
        assert!(std::mem::take(&mut link.heard) == sent, "{size} bytes come in whole");
        assert!(link.tell(&sent) == sent, "{size} bytes go out whole");
    }
    // New keys in the midst of it.
    if client.version.version == rustls::ProtocolVersion::TLSv1_3 {
        link.client.refresh_traffic_keys().expect("TLS 1.3 can");
        link.client_writes(b"under new keys");
        link.run(&mut next).expect("data");
        assert_eq!(std::mem::take(&mut link.heard), b"under new keys");
        assert_eq!(link.tell(b"answer"), b"answer");
    }
    link.client.send_close_notify();
    link.run(&mut next).expect("a goodbye");
    assert!(link.closed && link.carry.is_empty());
}

/// Sites, each with a client of ordinary records and one whose handshake
/// messages span many.
fn sites() -> Vec<(Site, [Client; 2])> {
    let mut all = Vec::new();
    for version in [&version::TLS12, &version::TLS13] {
        for auth in [ClientAuth::Off, ClientAuth::Required] {
            let site = Site::new("splits").asking(auth);
            let mut client = site.client();
            client.version = version;
            if auth == ClientAuth::Required {
                client.identity = Some(site.ca.client("alice", Vec::new()));
            }
            let small = Client { record_max: Some(50), ..client.clone() };
            all.push((site, [client, small]));
        }
    }
    all
}

#[test]
fn byte_by_byte() {
    for (site, clients) in sites() {
        clients.iter().for_each(|client| story(&site, client, || 1));
    }
}

#[test]
fn all_at_once() {
    for (site, clients) in sites() {
        clients.iter().for_each(|client| story(&site, client, || usize::MAX));
    }
}

#[test]
fn random_pieces() {
    let sites = sites();
    let sizes = prop_oneof![1..8_usize, 1..600_usize, 1..20_000_usize];
    let pieces = prop::collection::vec(sizes, 1..40);
    let config = ProptestConfig { cases: 96, ..ProptestConfig::default() };
    proptest!(config, |(pieces in pieces, which in 0..4_usize, small in 0..2_usize)| {
        let (site, clients) = &sites[which];
        let mut sizes = pieces.iter().cycle();
        story(site, &clients[small], || *sizes.next().expect("endless"));
    });
}

#[test]
fn garbage_never_panics() {
    let config = ProptestConfig { cases: 256, ..ProptestConfig::default() };
    let bytes = prop::collection::vec(any::<u8>(), 0..400);
    proptest!(config, |(data in bytes)| fuzz_records(&data));
}
