//! Messages on their way out, and what was acknowledged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_peer::MessageType;
use tidegate_peer_fuzz::decode;

const KINDS: &[MessageType] = &[MessageType::Deliver, MessageType::Ack];

fuzz_target!(|bytes: &[u8]| decode(KINDS, bytes));
