//! WebSocket: the examples of RFC 6455, any cut, and what is refused.
#![allow(missing_docs)]

use proptest::prelude::*;
use tidegate_framing::trusted::Trusted;
use tidegate_framing::websocket::{
    Close, Handshake, Options, Unwrapped, WebSocket, handshake, header,
};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A request for `/mqtt` with these headers in place of, or besides, the usual.
fn request(line: &str, changes: &[(&str, &str)]) -> Vec<u8> {
    let mut headers = vec![
        ("Host", "broker"),
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "chat, mqtt"),
    ];
    headers.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    headers.extend(changes.iter().filter(|(_, value)| !value.is_empty()));
    let headers: String = headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    format!("{line}\r\n{headers}\r\n").into_bytes()
}

const GET: &str = "GET /mqtt?token=1 HTTP/1.1";

fn open(bytes: &[u8], trusted: Option<&Trusted>) -> Handshake {
    handshake(bytes, &Options { path: "/mqtt", trusted })
}

fn refused(bytes: &[u8]) -> String {
    match open(bytes, None) {
        Handshake::Refuse { response, .. } => String::from_utf8(response).expect("text"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_is_answered_as_the_rfc_shows() {
    let request = request(GET, &[]);
    let behind = [&request[..], &[0x82, 0x80]].concat();
    let Handshake::Accept { consumed, response, forwarded_for } = open(&behind, None) else {
        panic!("refused")
    };
    assert_eq!((consumed, forwarded_for), (request.len(), None));
    let response = String::from_utf8(response).expect("text");
    assert!(response.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{response}");
    assert!(response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    assert!(response.contains("Sec-WebSocket-Protocol: mqtt\r\n"));
    assert!(response.ends_with("\r\n\r\n"));
    for cut in 0..request.len() {
        assert_eq!(open(&request[..cut], None), Handshake::Incomplete, "{cut}");
    }
}

#[test]
fn the_old_name_of_the_subprotocol_is_echoed_too() {
    let request = request(GET, &[("Sec-WebSocket-Protocol", "mqttv3.1")]);
    let Handshake::Accept { response, .. } = open(&request, None) else { panic!("refused") };
    assert!(String::from_utf8_lossy(&response).contains("Sec-WebSocket-Protocol: mqttv3.1\r\n"));
}

#[test]
fn a_refusal_is_an_http_answer_that_a_person_understands() {
    let browser = b"GET /mqtt HTTP/1.1\r\nHost: broker\r\nAccept: text/html\r\n\r\n";
    let cases: [(Vec<u8>, &str, &str); 11] = [
        (browser.to_vec(), "426", "not a web page"),
        (request("GET / HTTP/1.1", &[]), "404", "another path"),
        (request("GET /mqtt/ HTTP/1.1", &[]), "404", "another path"),
        (request("POST /mqtt HTTP/1.1", &[]), "405", "Allow: GET"),
        (request("GET /mqtt HTTP/1.0", &[]), "400", "HTTP/1.1"),
        (request(GET, &[("Host", "")]), "400", "Host"),
        (request(GET, &[("Sec-WebSocket-Version", "8")]), "426", "Sec-WebSocket-Version: 13\r\n"),
        (request(GET, &[("Sec-WebSocket-Key", "c2hvcnQ=")]), "400", "16 bytes"),
        (request(GET, &[("Sec-WebSocket-Protocol", "chat")]), "400", "mqtt"),
        (request(GET, &[("X", &"x".repeat(9000))]), "431", "too large"),
        (b"\x10\x0d\0\x04MQTT".to_vec(), "400", "not an HTTP request"),
    ];
    for (bytes, status, says) in cases {
        let answer = refused(&bytes);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains(says), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("Content-Length: {}", body.len())), "{answer}");
    }
}

#[test]
fn the_last_address_that_is_no_proxy_is_where_the_client_comes_from() {
    let trusted = Trusted::new(vec!["10.0.0.0/8".parse().expect("a network")]);
    let source =
        |list: &str, trusted| match open(&request(GET, &[("X-Forwarded-For", list)]), trusted) {
            Handshake::Accept { forwarded_for, .. } => forwarded_for.map(|ip| ip.to_string()),
            other => panic!("{other:?}"),
        };
    assert_eq!(
        source("6.6.6.6, 192.0.2.7, 10.1.1.1", Some(&trusted)).as_deref(),
        Some("192.0.2.7")
    );
    assert_eq!(source("[2001:db8::7]:443", Some(&trusted)).as_deref(), Some("2001:db8::7"));
    assert_eq!(source("nonsense, 10.1.1.1", Some(&trusted)), None);
    assert_eq!(source("192.0.2.7", None), None, "nobody is trusted to say so");
}

/// A frame from a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..=125 => out.push(0x80 | len as u8),
        len @ 126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ MASK[n % 4]));
    out
}

/// Payload, answers, and how it ended, after reads that end at `cuts`.
fn play(bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<u8>, Option<Close>) {
    let (mut web, mut payload, mut replies) = (WebSocket::default(), Vec::new(), Vec::new());
    let mut from = 0;
    for to in cuts.iter().copied().chain([bytes.len()]) {
        let mut read = bytes[from..to.max(from)].to_vec();
        from = to.max(from);
        let Unwrapped { payload: count, ended } = web.unwrap(&mut read, &mut replies);
        payload.extend_from_slice(&read[..count]);
        if ended.is_some() {
            return (payload, replies, ended);
        }
    }
    (payload, replies, None)
}

#[test]
fn messages_come_whole_in_fragments_and_several_at_once() {
    let large = vec![7; 70_000];
    let stream = [
        frame(0x82, b"Hello"),
        frame(0x02, b"Hel"),
        frame(0x89, b"are you there"),
        frame(0x00, b""),
        frame(0x80, b"lo"),
        frame(0x82, &large[..200]),
        frame(0x82, &large),
        frame(0x8A, b"unasked pong"),
    ]
    .concat();
    let (payload, replies, ended) = play(&stream, &[]);
    assert_eq!(payload, [b"HelloHello".as_slice(), &large[..200], &large].concat());
    assert_eq!(replies, [b"\x8a\x0d".as_slice(), b"are you there"].concat());
    assert_eq!(ended, None);
}

#[test]
fn a_close_is_answered_with_its_own_status() {
    let (_, replies, ended) = play(&frame(0x88, b"\x03\xe9bye"), &[]);
    assert_eq!(ended, Some(Close::Peer { code: Some(1001) }));
    assert_eq!(replies, [0x88, 2, 0x03, 0xe9]);
    let (_, replies, ended) = play(&frame(0x88, b""), &[]);
    assert_eq!(ended, Some(Close::Peer { code: None }));
    assert_eq!(replies, [0x88, 2, 0x03, 0xe8]);
}

#[test]
fn a_broken_rule_closes_with_the_status_that_the_rfc_names() {
    let mut unmasked = frame(0x82, b"x");
    unmasked[1] &= 0x7F;
    let padded = [&[0x82, 0xFE, 0, 5][..], &MASK, b"xxxxx"].concat();
    let negative = [&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &MASK].concat();
    let cases = [
        (unmasked, 1002),
        (padded, 1002),
        (negative, 1002),
        (frame(0xC2, b"x"), 1002),
        (frame(0x83, b"x"), 1002),
        (frame(0x80, b"x"), 1002),
        ([frame(0x02, b"x"), frame(0x82, b"y")].concat(), 1002),
        (frame(0x09, b"x"), 1002),
        (frame(0x89, &[0; 126]), 1002),
        (frame(0x81, b"text"), 1003),
        (frame(0x88, b"\x03"), 1002),
        (frame(0x88, b"\x03\xed"), 1002),
        (frame(0x88, b"\x03\xe8\xff"), 1007),
    ];
    for (bytes, status) in cases {
        let (_, replies, ended) = play(&bytes, &[]);
        assert!(matches!(ended, Some(Close::Fault { code, .. }) if code == status), "{ended:?}");
        assert_eq!(replies[replies.len() - 4..][..2], [0x88, 2]);
        assert_eq!(replies[replies.len() - 2..], u16::to_be_bytes(status));
    }
}

#[test]
fn pings_beyond_a_bound_are_not_answered() {
    let flood: Vec<u8> = (0..1_000).flat_map(|_| frame(0x89, &[1; 100])).collect();
    let (_, replies, ended) = play(&flood, &[]);
    assert!(replies.len() <= 4 << 10 && ended.is_none());
}

#[test]
fn headers_are_as_short_as_they_can_be() {
    assert_eq!(header(125).as_bytes(), [0x82, 125]);
    assert_eq!(header(126).as_bytes(), [0x82, 126, 0, 126]);
    assert_eq!(header(0xFFFF).as_bytes(), [0x82, 126, 0xFF, 0xFF]);
    assert_eq!(header(0x1_0000).as_bytes(), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
}

proptest! {
    #[test]
    fn any_cut_gives_the_same(
        frames in proptest::collection::vec(
            (prop_oneof![Just(0x82u8), Just(0x02), Just(0x80), Just(0x00), Just(0x89), Just(0x8A), Just(0x88)],
             proptest::collection::vec(any::<u8>(), 0..160)),
            1..8,
        ),
        mut cuts in proptest::collection::vec(0usize..1_400, 0..20),
    ) {
        let stream: Vec<u8> = frames.iter().flat_map(|(first, p)| frame(*first, p)).collect();
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(stream.len()));
        cuts.sort_unstable();
        prop_assert_eq!(play(&stream, &cuts), play(&stream, &[]));
        let single: Vec<usize> = (0..stream.len()).collect();
        prop_assert_eq!(play(&stream, &single), play(&stream, &[]));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = play(&bytes, &[]);
        let _ = open(&bytes, None);
    }
}
