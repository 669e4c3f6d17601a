//! Mail that comes in from other nodes, to the shards that it is for.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_core::ids::Member;
use tidegate_core::mail::{MailError, parcels};
use tidegate_mesh::Room;

use super::Word;
use crate::shard::Shared;

/// Hands on what a member sent. Its credit comes back when the last of it is
/// dealt with.
///
/// # Errors
/// It is not what this version sends; what came before the fault is handed on.
pub(crate) fn deliver(
    shared: &Shared,
    from: Member,
    body: &Bytes,
    room: Room,
) -> Result<(), MailError> {
    let room = Arc::new(room);
    let mut by_shard: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let mut fault = None;
    for parcel in parcels(body) {
        match parcel {
            Ok((shard, parcel)) => {
                by_shard.entry(usize::from(shard)).or_default().extend_from_slice(parcel);
            }
            Err(error) => {
                fault = Some(error);
                break;
            }
        }
    }
    for (shard, parcels) in by_shard {
        // A member that has lived here before may have had more shards.
        if let Some(mailbox) = shared.mailboxes.get(shard) {
            mailbox.say(Word::Mail { from, parcels, room: Arc::clone(&room) });
        }
    }
    fault.map_or(Ok(()), Err)
}
