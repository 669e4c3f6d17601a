//! What a connection says on lane 0.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_peer::MessageType;
use tidegate_peer_fuzz::decode;

const KINDS: &[MessageType] = &[
    MessageType::Heartbeats,
    MessageType::HeartbeatAcks,
    MessageType::Ping,
    MessageType::Pong,
    MessageType::Credit,
];

fuzz_target!(|bytes: &[u8]| decode(KINDS, bytes));
