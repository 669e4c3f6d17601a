//! The door for the fuzzer: a server session under any bytes, in any pieces.
//!
//! The session must neither panic nor ask for more memory than its limit, and
//! must not consume what it was not offered. An honest client's stream, cut in
//! any way, must come out whole.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, version};

use super::limits::CARRY_BYTES_MAX;
use super::session::TlsSession;

/// What the bits of the first byte choose.
const HONEST_CLIENT: u8 = 1;
const TLS_1_2: u8 = 2;
const DAMAGED: u8 = 4;
const GARBAGE_BEHIND: u8 = 8;
const SMALL_RECORDS: u8 = 16;

/// Messages that the honest client sends, and pieces of its stream: bounds, so
/// that a run stays short.
const MESSAGE_BYTES: usize = 20_000;
const STEPS_MAX: usize = 50_000;

/// Plays `data` against a session. The first byte chooses the play, the others
/// are the bytes offered, the sizes of the pieces, and where damage is done.
pub fn fuzz_records(data: &[u8]) {
    let Some((&play, script)) = data.split_first() else {
        return;
    };
    let mut stage = Stage::new(script);
    if play & HONEST_CLIENT == 0 {
        stage.offer_all(script);
        return;
    }
    let mut client = client(play & TLS_1_2 != 0, play & SMALL_RECORDS != 0);
    let message: Vec<u8> = (0..MESSAGE_BYTES).map(|i| i.to_le_bytes()[0]).collect();
    client.writer().write_all(&message).expect("the client's buffer is unlimited");
    let mut damage = play & DAMAGED != 0;
    for _ in 0..STEPS_MAX {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).expect("a Vec takes all");
        }
        if bytes.is_empty() {
            break;
        }
        if damage && let [place, bit, ..] = script {
            let place = usize::from(*place) * 7 % bytes.len();
            bytes[place] ^= 1 << (bit % 8);
            // Every other run keeps on until a later flight.
            damage = bit & 0x80 != 0;
        }
        stage.offer_all(&bytes);
        let mut answer = &*std::mem::take(&mut stage.out);
        while !answer.is_empty() && client.read_tls(&mut answer).is_ok_and(|count| count > 0) {
            if client.process_new_packets().is_err() {
                return;
            }
        }
    }
    if play & DAMAGED == 0 {
        assert!(stage.heard == message, "an honest stream comes out whole");
        stage.session.seal(&message, &mut stage.out).expect("the session is open");
        let mut sealed = &*std::mem::take(&mut stage.out);
        let mut read = Vec::new();
        while !sealed.is_empty() {
            client.read_tls(&mut sealed).expect("room for a record");
            client.process_new_packets().expect("honest records");
            let mut piece = [0; 4_096];
            while let Ok(count @ 1..) = client.reader().read(&mut piece) {
                read.extend_from_slice(&piece[..count]);
            }
        }
        assert!(read == message, "what is sealed can be opened");
    }
    if play & GARBAGE_BEHIND != 0 {
        stage.offer_all(script);
        // Whatever it was, writing and closing stay safe.
        let _ = stage.session.seal(b"behind", &mut stage.out);
        stage.session.close(&mut stage.out);
    }
}

/// A session, and the caller's part.
struct Stage<'a> {
    session: TlsSession,
    carry: Vec<u8>,
    heard: Vec<u8>,
    out: Vec<u8>,
    sizes: std::iter::Cycle<std::slice::Iter<'a, u8>>,
    over: bool,
}

impl<'a> Stage<'a> {
    fn new(sizes: &'a [u8]) -> Self {
        Self {
            session: TlsSession::new(server()).expect("a session"),
            carry: Vec::new(),
            heard: Vec::new(),
            out: Vec::new(),
            sizes: sizes.iter().cycle(),
            over: false,
        }
    }

    fn offer_all(&mut self, mut rest: &[u8]) {
        while !rest.is_empty() && !self.over {
            let size = self.sizes.next().map_or(rest.len(), |byte| match byte {
                0xff => rest.len(),
                0xc0.. => usize::from(*byte) * 64,
                _ => usize::from(*byte) + 1,
            });
            let (piece, behind) = rest.split_at(size.min(rest.len()));
            self.carry.extend_from_slice(piece);
            self.receive();
            rest = behind;
        }
    }

    fn receive(&mut self) {
        let mut plain = vec![0; self.carry.len()];
        match self.session.receive(&mut self.carry, &mut plain, &mut self.out) {
            Ok(step) => {
                assert!(step.consumed <= self.carry.len() && step.plain <= plain.len());
                self.carry.drain(..step.consumed);
                assert!(self.carry.len() <= CARRY_BYTES_MAX, "the bound holds");
                self.heard.extend_from_slice(&plain[..step.plain]);
            }
            Err(_) => self.over = true,
        }
    }
}

fn server() -> Arc<ServerConfig> {
    static CONFIG: OnceLock<Arc<ServerConfig>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(&KEY[..]));
            let mut config =
                ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                    .with_safe_default_protocol_versions()
                    .expect("ring has suites for both")
                    .with_no_client_auth()
                    .with_single_cert(vec![CertificateDer::from(&CERTIFICATE[..])], key)
                    .expect("they belong together");
            config.ticketer = ring::Ticketer::new().expect("random numbers");
            config.send_tls13_tickets = 1;
            Arc::new(config)
        })
        .clone()
}

fn client(tls_1_2: bool, small_records: bool) -> ClientConnection {
    static CONFIGS: OnceLock<[Arc<ClientConfig>; 4]> = OnceLock::new();
    let make = |version, fragment| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(&CERTIFICATE[..])).expect("a certificate");
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .expect("ring has suites for both")
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Handshake messages come in pieces, then.
        config.max_fragment_size = fragment;
        Arc::new(config)
    };
    let configs = CONFIGS.get_or_init(|| {
        let (old, new) = (&version::TLS12, &version::TLS13);
        [make(new, None), make(old, None), make(new, Some(64)), make(old, Some(64))]
    });
    let config = &configs[usize::from(tls_1_2) + 2 * usize::from(small_records)];
    let name = "fuzz".try_into().expect("a name");
    ClientConnection::new(config.clone(), name).expect("a client")
}

/// A certificate for `fuzz` that nobody trusts, and its key.
#[rustfmt::skip]
const CERTIFICATE: &[u8; 247] = &[
    0x30, 0x81, 0xf4, 0x30, 0x81, 0xa7, 0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x14, 0x07, 0x75, 0x45,
    0x06, 0x04, 0xc3, 0x1d, 0x94, 0x5f, 0xfe, 0xac, 0x51, 0xda, 0xfc, 0x24, 0xd4, 0xb1, 0x56, 0x51,
    0x36, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x30, 0x0f, 0x31, 0x0d, 0x30, 0x0b, 0x06, 0x03,
    0x55, 0x04, 0x03, 0x0c, 0x04, 0x66, 0x75, 0x7a, 0x7a, 0x30, 0x20, 0x17, 0x0d, 0x37, 0x35, 0x30,
    0x31, 0x30, 0x31, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x5a, 0x18, 0x0f, 0x34, 0x30, 0x39, 0x36,
    0x30, 0x31, 0x30, 0x31, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x5a, 0x30, 0x0f, 0x31, 0x0d, 0x30,
    0x0b, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x04, 0x66, 0x75, 0x7a, 0x7a, 0x30, 0x2a, 0x30, 0x05,
    0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00, 0xe0, 0x6d, 0xbc, 0x98, 0x58, 0xd2, 0xbe, 0xf0,
    0xb9, 0x62, 0xf2, 0x6d, 0xad, 0xe0, 0xa0, 0x3f, 0x32, 0x74, 0x68, 0x1c, 0x8a, 0x9f, 0x49, 0x1a,
    0x79, 0x16, 0xdd, 0x6d, 0xeb, 0x6d, 0x99, 0xeb, 0xa3, 0x13, 0x30, 0x11, 0x30, 0x0f, 0x06, 0x03,
    0x55, 0x1d, 0x11, 0x04, 0x08, 0x30, 0x06, 0x82, 0x04, 0x66, 0x75, 0x7a, 0x7a, 0x30, 0x05, 0x06,
    0x03, 0x2b, 0x65, 0x70, 0x03, 0x41, 0x00, 0x63, 0x8e, 0xd6, 0xcb, 0xd9, 0x71, 0x1f, 0xe9, 0x01,
    0xc7, 0xce, 0x9b, 0x1e, 0x02, 0x1d, 0x1a, 0xb8, 0xd1, 0x68, 0x87, 0x3e, 0x52, 0xf4, 0xd1, 0x16,
    0xe2, 0x67, 0xfd, 0x1e, 0xf8, 0xec, 0x83, 0x73, 0xa7, 0x16, 0xc8, 0xf5, 0x68, 0x7c, 0xef, 0xd2,
    0x95, 0x81, 0x49, 0xe6, 0x30, 0xc9, 0x37, 0x52, 0x2e, 0xd5, 0x0a, 0xaa, 0xdc, 0xb1, 0x1d, 0x4c,
    0xbb, 0x3c, 0x52, 0x10, 0xa3, 0x69, 0x06,
];

#[rustfmt::skip]
const KEY: &[u8; 83] = &[
    0x30, 0x51, 0x02, 0x01, 0x01, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    0x24, 0xb3, 0x46, 0x06, 0x95, 0x50, 0xb6, 0x5e, 0x42, 0xde, 0x85, 0xcb, 0x4d, 0x26, 0xcf, 0x81,
    0x7b, 0x7e, 0x89, 0x10, 0x69, 0xec, 0xd2, 0x1e, 0xc3, 0x9d, 0x92, 0x03, 0x5b, 0xfb, 0x0f, 0x12,
    0x81, 0x21, 0x00, 0xe0, 0x6d, 0xbc, 0x98, 0x58, 0xd2, 0xbe, 0xf0, 0xb9, 0x62, 0xf2, 0x6d, 0xad,
    0xe0, 0xa0, 0x3f, 0x32, 0x74, 0x68, 0x1c, 0x8a, 0x9f, 0x49, 0x1a, 0x79, 0x16, 0xdd, 0x6d, 0xeb,
    0x6d, 0x99, 0xeb,
];
