//! What this release sends is what the release that froze a version sent, and
//! what that one sent is understood.
//!
//! `golden/v1` holds a frame of every message of version 1. It is never
//! changed: a later version gets a directory of its own beside it. To freeze
//! one: `cargo test -p tidegate-peer --test golden -- --ignored`.

mod samples;

use std::path::PathBuf;

use bytes::Bytes;
use tidegate_peer::frame::{Parsed, parse};
use tidegate_peer::limits::{FRAME_BODY_BYTES_MAX, HEADER_BYTES};
use tidegate_peer::{Message, MessageType};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1").join(format!("{name}.bin"))
}

#[allow(clippy::disallowed_methods, reason = "a test's own files")]
fn read(name: &str) -> Bytes {
    let path = golden(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path:?}: {error}")).into()
}

#[test]
fn frames_of_version_1_are_understood() {
    for (name, lane, message) in samples::all() {
        let frame = read(name);
        let parsed = parse(&frame, FRAME_BODY_BYTES_MAX);
        let Ok(Parsed::Frame(header)) = parsed else { panic!("{name}: {parsed:?}") };
        assert_eq!(header.lane, lane, "{name}");
        assert_eq!(frame.len(), HEADER_BYTES + header.len as usize, "{name}");
        let kind = MessageType::from_code(header.kind).unwrap_or_else(|| panic!("{name}: type"));
        let taken = Message::decode(kind, &frame.slice(HEADER_BYTES..));
        assert_eq!(taken, Ok(message), "{name}");
    }
}

#[test]
fn version_1_is_still_sent_as_it_was() {
    for (name, lane, message) in samples::all() {
        assert_eq!(samples::frame_of(lane, &message), read(name), "{name}");
    }
}

#[test]
fn every_type_has_its_golden_bytes() {
    let all = samples::all();
    for kind in MessageType::ALL {
        assert!(all.iter().any(|(_, _, message)| message.message_type() == *kind), "{kind:?}");
    }
}

#[test]
fn a_golden_message_that_is_cut_anywhere_is_refused_without_a_panic() {
    for (name, _, message) in samples::all() {
        let body = message.encode().to_bytes();
        for cut in 0..body.len() {
            let taken = Message::decode(message.message_type(), &body.slice(..cut));
            // The last parts of some have no length of their own, and protobuf
            // leaves out what it does not find; never is it the same message.
            assert_ne!(taken, Ok(message.clone()), "{name} cut at {cut}");
        }
    }
}

#[test]
#[ignore = "writes the golden bytes of a version, once"]
#[allow(clippy::disallowed_methods, reason = "a test's own files")]
fn freeze() {
    for (name, lane, message) in samples::all() {
        let path = golden(name);
        assert!(!path.exists(), "{path:?} is frozen");
        std::fs::write(&path, samples::frame_of(lane, &message)).expect("written");
    }
}
