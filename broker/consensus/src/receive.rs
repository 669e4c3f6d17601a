//! A snapshot on its way in.
//!
//! It is held in memory until it is whole, since the state machine takes it in
//! one piece; one a group at most. A transfer that broke off goes on where it
//! was when the same snapshot is offered again.

use bytes::Bytes;
use tidegate_peer::proto::SnapshotChunk;

use crate::raft_types::{Meta, Vote};
use crate::wire::Offer;

/// What has come of a snapshot.
pub(crate) struct Receiving {
    from: u64,
    offer: Offer,
    body: Vec<u8>,
}

/// What a chunk led to.
pub(crate) enum Taken {
    /// Goes on from here.
    Through(u64),
    /// That was all of it.
    Whole(Vote, Meta, Bytes),
    /// Other bytes than were announced: begin again.
    Damaged,
}

impl Receiving {
    /// Begins, or goes on if it is the snapshot that was coming already.
    pub(crate) fn begin(before: Option<Self>, from: u64, offer: Offer) -> Self {
        let body = match before {
            Some(before) if before.offer.name == offer.name => before.body,
            Some(_) | None => Vec::new(),
        };
        Self { from, offer, body }
    }

    /// How much is there.
    pub(crate) fn through(&self) -> u64 {
        self.body.len() as u64
    }

    /// Whether a chunk is of this transfer.
    pub(crate) fn is_of(&self, from: u64, chunk: &SnapshotChunk) -> bool {
        self.from == from && self.offer.transfer == chunk.transfer
    }

    /// Takes a chunk in. One that does not continue what is there is left out:
    /// the answer says where to go on.
    pub(crate) fn take(&mut self, chunk: &SnapshotChunk) -> Taken {
        if chunk.offset != self.through() {
            return Taken::Through(self.through());
        }
        let through = self.through() + chunk.data.len() as u64;
        if through > self.offer.bytes || chunk.last != (through == self.offer.bytes) {
            return Taken::Damaged;
        }
        self.body.extend_from_slice(&chunk.data);
        if !chunk.last {
            return Taken::Through(through);
        }
        let body = std::mem::take(&mut self.body);
        // The checksum is a part of the name.
        let crc = format!("{:08x}", crc32c::crc32c(&body));
        if self.offer.name.split('-').nth(2) != Some(crc.as_str()) {
            return Taken::Damaged;
        }
        Taken::Whole(self.offer.vote, self.offer.meta.clone(), body.into())
    }
}
