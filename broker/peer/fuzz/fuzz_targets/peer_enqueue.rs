//! Messages on their way in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_peer::MessageType;
use tidegate_peer_fuzz::decode;

const KINDS: &[MessageType] = &[MessageType::Enqueue, MessageType::EnqueueAck];

fuzz_target!(|bytes: &[u8]| decode(KINDS, bytes));
