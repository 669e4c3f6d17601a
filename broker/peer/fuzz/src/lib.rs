//! What the targets share: the first byte chooses the type, the rest is its body.

use bytes::Bytes;
use tidegate_peer::{Message, MessageType};

/// Arbitrary bytes never panic, and what is understood is the same after it
/// was sent on.
pub fn decode(kinds: &[MessageType], bytes: &[u8]) {
    let Some((&choice, body)) = bytes.split_first() else { return };
    let kind = kinds[usize::from(choice) % kinds.len()];
    let body = Bytes::copy_from_slice(body);
    let Ok(message) = Message::decode(kind, &body) else { return };
    assert_eq!(message.message_type(), kind);
    let again = message.encode().to_bytes();
    assert_eq!(Message::decode(kind, &again).as_ref(), Ok(&message));
}
