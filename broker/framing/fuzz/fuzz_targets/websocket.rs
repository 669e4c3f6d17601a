//! Any bytes as a request, and any frames in any pieces: no panic, bounded
//! answers, and the same outcome as in one piece.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_framing::trusted::Trusted;
use tidegate_framing::websocket::{
    Close, HEAD_BYTES_MAX, Handshake, Options, WebSocket, handshake,
};

fn play(bytes: &[u8], step: usize) -> (Vec<u8>, Vec<u8>, Option<Close>) {
    let (mut web, mut payload, mut replies) = (WebSocket::default(), Vec::new(), Vec::new());
    for read in bytes.chunks(step) {
        let mut read = read.to_vec();
        let unwrapped = web.unwrap(&mut read, &mut replies);
        payload.extend_from_slice(&read[..unwrapped.payload]);
        if unwrapped.ended.is_some() {
            return (payload, replies, unwrapped.ended);
        }
    }
    (payload, replies, None)
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, bytes)) = data.split_first() else { return };
    let whole = play(bytes, bytes.len().max(1));
    assert!(whole.0.len() <= bytes.len() && whole.1.len() <= (4 << 10) + 4);
    assert_eq!(play(bytes, usize::from(step).max(1)), whole);
    assert_eq!(play(bytes, 1), whole);

    let trusted = Trusted::new(vec!["10.0.0.0/8".parse().expect("a network")]);
    match handshake(bytes, &Options { path: "/mqtt", trusted: Some(&trusted) }) {
        Handshake::Accept { consumed, .. } => assert!(consumed <= bytes.len()),
        Handshake::Incomplete => assert!(bytes.len() < HEAD_BYTES_MAX),
        Handshake::Refuse { response, why } => {
            assert!(response.starts_with(b"HTTP/1.1 4") && !why.is_empty());
        }
    }
});
