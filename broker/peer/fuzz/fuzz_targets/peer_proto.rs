//! Messages in protobuf's encoding.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tidegate_peer::{Form, MessageType};
use tidegate_peer_fuzz::decode;

static KINDS: LazyLock<Vec<MessageType>> = LazyLock::new(|| {
    MessageType::ALL.iter().copied().filter(|kind| kind.form() == Form::Proto).collect()
});

fuzz_target!(|bytes: &[u8]| decode(&KINDS, bytes));
