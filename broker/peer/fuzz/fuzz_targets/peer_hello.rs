//! The frames of the handshake, and the Goodbye.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_peer::MessageType;
use tidegate_peer_fuzz::decode;

const KINDS: &[MessageType] =
    &[MessageType::Hello, MessageType::Proof, MessageType::Welcome, MessageType::Goodbye];

fuzz_target!(|bytes: &[u8]| decode(KINDS, bytes));
