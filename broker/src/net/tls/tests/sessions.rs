//! The life of a session: handshake, data both ways, the end.

use std::io::IoSlice;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::cipher::{OutboundChunks, OutboundPlainMessage};
use rustls::{
    AlertDescription, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion,
    SupportedCipherSuite, version,
};

use super::super::{CARRY_BYTES_MAX, ClientAuth, Foreign, TlsError, TlsVersion};
use super::pki::{Link, Site};

#[test]
fn both_versions_shake_hands_and_exchange_data() {
    let site = Site::new("versions");
    for (version, label) in [(&version::TLS12, "1.2"), (&version::TLS13, "1.3")] {
        let mut client = site.client();
        client.version = version;
        let mut link = Link::new(site.session(), client.connect());
        assert!(link.session.is_handshaking());

        link.shake().expect("a handshake");
        assert!(link.done && !link.session.is_handshaking());
        assert_eq!(link.session.version_label(), Some(label));
        assert_eq!(link.session.server_name(), Some("broker.example"));
        assert_eq!(link.session.peer(), None);

        link.client_writes(b"PINGREQ");
        link.shake().expect("data");
        assert_eq!(link.heard, b"PINGREQ");
        assert_eq!(link.tell(b"PINGRESP"), b"PINGRESP");
    }
}

#[test]
fn data_behind_the_last_handshake_message_is_heard_in_the_same_step() {
    let site = Site::new("behind");
    let mut link = Link::new(site.session(), site.client().connect());
    link.client_writes(b"CONNECT");
    let hello = link.outgoing();
    link.offer(&hello).expect("a hello");

    let finished_and_data = link.outgoing();
    let step = link.offer(&finished_and_data).expect("the rest");
    assert!(step.done_handshake);
    assert_eq!(step.plain, 7);
    assert_eq!(link.heard, b"CONNECT");
}

#[test]
fn an_old_version_is_refused_where_1_3_is_the_least() {
    let mut site = Site::new("least");
    site.files.version_min = TlsVersion::V1_3;
    let mut client = site.client();
    client.version = &version::TLS12;
    let mut link = Link::new(site.session(), client.connect());

    let error = link.shake().expect_err("TLS 1.2");
    assert_eq!(error.label(), "incompatible");
    // The alert has reached the client.
    assert_eq!(
        link.client.process_new_packets().expect_err("an alert"),
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
    );
}

#[test]
fn a_goodbye_is_heard_on_both_sides() {
    let site = Site::new("goodbye");
    for version in [&version::TLS12, &version::TLS13] {
        let mut client = site.client();
        client.version = version;
        let mut link = Link::new(site.session(), client.connect());
        link.shake().expect("a handshake");

        link.client_writes(b"DISCONNECT");
        link.client.send_close_notify();
        link.shake().expect("a goodbye");
        assert!(link.closed);
        assert_eq!(link.heard, b"DISCONNECT");
        // We may still speak, until we say goodbye as well.
        assert_eq!(link.tell(b"last"), b"last");

        let mut out = Vec::new();
        link.session.close(&mut out);
        link.deliver(&out);
        let state = link.client.process_new_packets().expect("no alert but close_notify");
        assert!(state.peer_has_closed());

        // Once, and it is over.
        out.clear();
        link.session.close(&mut out);
        assert!(out.is_empty());
        assert!(matches!(link.session.seal(b"x", &mut out), Err(TlsError::Over)));
        let step = link.offer(b"\x17garbage").expect("ignored");
        assert!(step.closed && step.plain == 0 && link.carry.is_empty());
    }
}

#[test]
fn nothing_is_sealed_before_the_handshake_is_done() {
    let site = Site::new("early");
    let mut session = site.session();
    let mut out = Vec::new();
    assert!(matches!(session.seal(b"x", &mut out), Err(TlsError::StillHandshaking)));
    session.close(&mut out);
    assert!(out.is_empty());
}

#[test]
fn small_packets_share_a_record_and_large_ones_fill_several() {
    let site = Site::new("records");
    let mut link = Link::new(site.session(), site.client().connect());
    link.shake().expect("a handshake");
    let (mut scratch, mut out) = (Vec::new(), Vec::new());

    let small = [IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")];
    let taken = link.session.seal_slices(&small, usize::MAX, &mut scratch, &mut out);
    assert_eq!(taken.expect("sealed"), 7);
    assert_eq!(records(&out), 1);
    link.deliver(&out);
    assert_eq!(link.client_reads(), b"one two");

    out.clear();
    let big: Vec<u8> = (0..100_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    let mixed = [IoSlice::new(b"head"), IoSlice::new(&big), IoSlice::new(b"tail")];
    let taken = link.session.seal_slices(&mixed, usize::MAX, &mut scratch, &mut out);
    assert_eq!(taken.expect("sealed"), 100_008);
    assert_eq!(records(&out), 7);
    link.deliver(&out);
    assert!(link.client_reads() == [b"head", &big[..], b"tail"].concat());

    // Exactly as many as allowed, within a slice and at its edge.
    for max in [0, 3, 4, 16_384, 16_388, 50_000] {
        out.clear();
        let taken = link.session.seal_slices(&mixed, max, &mut scratch, &mut out);
        assert_eq!(taken.expect("sealed"), max);
        link.deliver(&out);
        assert!(link.client_reads() == [b"head", &big[..]].concat()[..max]);
    }

    out.clear();
    link.session.seal(b"", &mut out).expect("nothing");
    assert!(out.is_empty());
}

#[test]
fn a_ticket_resumes_in_both_versions() {
    for version in [&version::TLS12, &version::TLS13] {
        let site = Site::new("ticket").asking(ClientAuth::Required);
        let mut client = site.client();
        client.version = version;
        client.identity = Some(site.ca.client("alice", Vec::new()));
        client.resumption = Some(Resumption::in_memory_sessions(8));
        let (loaded, config) = (site.load(), client.config());
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let session = super::super::TlsSession::new(loaded.config.clone()).expect("a session");
            let name = "broker.example".try_into().expect("a name");
            let connection = ClientConnection::new(config.clone(), name).expect("a client");
            let mut link = Link::new(session, connection);
            link.shake().expect("a handshake");
            assert_eq!(link.tell(b"hello"), b"hello");
            // Who it is comes out of the ticket.
            let peer = link.session.peer().expect("a certificate");
            assert_eq!(peer.common_name.as_deref(), Some("alice"));
            kinds.push(link.session.is_resumed());
        }
        assert_eq!(kinds, [false, true]);
    }
}

#[test]
fn protocols_are_matched_where_a_client_names_them() {
    let site = Site::new("alpn");
    let attempt = |alpn: &[&[u8]]| {
        let mut client = site.client();
        client.alpn = alpn.iter().map(|one| one.to_vec()).collect();
        let mut link = Link::new(site.session(), client.connect());
        link.shake().map(|()| link.client.alpn_protocol().map(<[u8]>::to_vec))
    };
    assert_eq!(attempt(&[]).expect("no wish"), None);
    assert_eq!(attempt(&[b"x-other", b"mqtt"]).expect("a match"), Some(b"mqtt".to_vec()));
    let error = attempt(&[b"h2"]).expect_err("no match");
    assert_eq!(error.label(), "no_application_protocol");
}

#[test]
fn a_client_without_tls_is_told_so() {
    let site = Site::new("foreign");
    let attempt = |bytes: &[u8]| {
        let (mut raw, mut plain, mut out) = (bytes.to_vec(), vec![0; bytes.len()], Vec::new());
        let error = site.session().receive(&mut raw, &mut plain, &mut out).expect_err("no TLS");
        assert_eq!(error.label(), "not_tls");
        (error.to_string(), out)
    };
    let (why, out) = attempt(b"\x10\x10\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x03abc");
    assert_eq!(why, "not TLS: got an MQTT CONNECT");
    assert!(out.is_empty());
    let (why, out) = attempt(b"GET /mqtt HTTP/1.1\r\n");
    assert_eq!(why, "not TLS: got an HTTP request");
    assert!(out.starts_with(b"HTTP/1.1 400 "));

    // Byte by byte, it takes a few to be sure.
    let mut link = Link::new(site.session(), site.client().connect());
    for byte in b"GET" {
        assert_eq!(link.offer(&[*byte]).expect("unclear").consumed, 0);
    }
    assert!(matches!(link.offer(b" "), Err(TlsError::NotTls(Foreign::Http))));
    assert!(matches!(link.offer(b"/"), Err(TlsError::Over)));
}

#[test]
fn a_broken_record_ends_the_session_with_an_alert() {
    let site = Site::new("broken");
    let mut link = Link::new(site.session(), site.client().connect());
    link.shake().expect("a handshake");
    link.client_writes(b"PUBLISH");
    let mut record = link.outgoing();
    *record.last_mut().expect("a record") ^= 1;

    let error = link.offer(&record).expect_err("a wrong tag");
    assert_eq!(error.label(), "decrypt");
    assert_eq!(
        link.client.process_new_packets().expect_err("an alert"),
        rustls::Error::AlertReceived(AlertDescription::BadRecordMac)
    );
    assert!(matches!(link.offer(b"more"), Err(TlsError::Over)));
    let mut out = Vec::new();
    link.session.close(&mut out);
    assert!(out.is_empty());
}

#[test]
fn an_endless_handshake_message_is_cut_off() {
    let site = Site::new("endless");
    let mut link = Link::new(site.session(), site.client().connect());
    // A ClientHello of 65,535 bytes, one byte a record: six times as many on
    // the wire as rustls' own limit would let pass.
    let record = |byte: u8| [22, 3, 1, 0, 1, byte];
    for byte in [1, 0, 0xff, 0xff] {
        link.offer(&record(byte)).expect("a header");
    }
    let mut carried = 0;
    let error = loop {
        match link.offer(&record(0).repeat(100)) {
            Ok(_) => carried = link.carry.len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TlsError::HandshakeTooLarge { .. }), "{error}");
    assert!(carried <= CARRY_BYTES_MAX && carried > CARRY_BYTES_MAX - 1_000);
}

/// rustls remembers half a message by its place in the buffer it was offered,
/// and panics if it is offered less; and sealing offers nothing. No honest
/// client sends half a message there, so the session ends.
#[test]
fn half_a_message_after_the_handshake_ends_the_session() {
    let site = Site::new("half");
    for version in [&version::TLS12, &version::TLS13] {
        let mut client = site.client();
        client.version = version;
        let mut config = (*client.config()).clone();
        config.enable_secret_extraction = true;
        let name = "broker.example".try_into().expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut link = Link::new(site.session(), connection);
        link.shake().expect("a handshake");

        let fresh = site.client().connect();
        let shaken = std::mem::replace(&mut link.client, fresh);
        let record = sealed_handshake_record(shaken, &[24, 0]);
        let error = link.offer(&record).expect_err("half a KeyUpdate");
        assert!(matches!(error, TlsError::FragmentAfterHandshake), "{error}");
        let mut out = Vec::new();
        assert!(matches!(link.session.seal(b"PUBLISH", &mut out), Err(TlsError::Over)));
        link.session.close(&mut out);
        assert!(out.is_empty());
    }
}

/// A handshake record as only this client can seal it.
fn sealed_handshake_record(client: ClientConnection, payload: &[u8]) -> Vec<u8> {
    let suite = client.negotiated_cipher_suite().expect("a suite");
    let (sequence, secrets) = client.dangerous_extract_secrets().expect("keys").tx;
    let (key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (key, iv),
        _ => panic!("a new kind of suite"),
    };
    let mut encrypter = match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            suite.aead_alg.encrypter(key, &iv.as_ref()[..4], &[0; 8])
        }
    };
    let message = OutboundPlainMessage {
        typ: ContentType::Handshake,
        version: ProtocolVersion::TLSv1_2,
        payload: OutboundChunks::Single(payload),
    };
    encrypter.encrypt(message, sequence).expect("a record").encode()
}

fn records(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let [_, _, _, high, low, rest @ ..] = bytes {
        bytes = &rest[usize::from(u16::from_be_bytes([*high, *low]))..];
        count += 1;
    }
    count
}
