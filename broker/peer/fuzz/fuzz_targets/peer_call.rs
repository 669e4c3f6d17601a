//! Calls, their answers, and mail.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_peer::MessageType;
use tidegate_peer_fuzz::decode;

const KINDS: &[MessageType] = &[MessageType::Call, MessageType::Answer, MessageType::Mail];

fuzz_target!(|bytes: &[u8]| decode(KINDS, bytes));
