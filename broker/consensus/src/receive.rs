//! A snapshot on its way in.
//!
//! It lies in a file without a name until it is whole: what is in memory is a
//! chunk, however large it is. One a group at most. A transfer that broke off
//! goes on where it was when the same snapshot is offered again; after a restart
//! it begins again.

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_peer::proto::SnapshotChunk;
use tidegate_store::DiskFile;

use crate::body::{Body, Put, SnapshotSource};
use crate::limits::PIECE_BYTES;
use crate::raft_types::{Meta, Vote};
use crate::snapshot::read_piece;
use crate::wire::Offer;

/// What has come of a snapshot.
pub(crate) struct Receiving<F> {
    from: u64,
    offer: Offer,
    file: Arc<F>,
    through: u64,
    crc: u32,
}

/// What is to be done with a chunk.
pub(crate) enum Fit<F> {
    /// Write it there, and say so.
    Next(Arc<F>, u64),
    /// It does not continue what is there, which ends here.
    Elsewhere(u64),
    /// Other bytes than were announced: begin again.
    Damaged,
}

/// What a chunk led to.
pub(crate) enum Taken<F> {
    /// Goes on from here.
    Through(u64),
    /// That was all of it.
    Whole(Vote, Meta, Spool<F>),
    /// Other bytes than were announced: begin again.
    Damaged,
}

impl<F: DiskFile> Receiving<F> {
    /// Begins in the file that `create` makes, or goes on if it is the snapshot
    /// that was coming already.
    pub(crate) fn begin(
        before: Option<Self>,
        from: u64,
        offer: Offer,
        create: impl FnOnce() -> io::Result<F>,
    ) -> io::Result<Self> {
        match before {
            Some(before) if before.offer.name == offer.name => Ok(Self { from, offer, ..before }),
            Some(_) | None => {
                Ok(Self { from, offer, file: Arc::new(create()?), through: 0, crc: 0 })
            }
        }
    }

    /// How much is there.
    pub(crate) fn through(&self) -> u64 {
        self.through
    }

    /// Whether a chunk is of this transfer.
    pub(crate) fn is_of(&self, from: u64, chunk: &SnapshotChunk) -> bool {
        self.from == from && self.offer.transfer == chunk.transfer
    }

    /// Where a chunk goes.
    pub(crate) fn fit(&self, chunk: &SnapshotChunk) -> Fit<F> {
        if chunk.offset != self.through {
            return Fit::Elsewhere(self.through);
        }
        let through = self.through + chunk.data.len() as u64;
        if through > self.offer.bytes || chunk.last != (through == self.offer.bytes) {
            return Fit::Damaged;
        }
        Fit::Next(Arc::clone(&self.file), self.through)
    }

    /// Takes in that a chunk which fitted was written.
    pub(crate) fn wrote(&mut self, chunk: &SnapshotChunk) -> Taken<F> {
        self.through += chunk.data.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, &chunk.data);
        if !chunk.last {
            return Taken::Through(self.through);
        }
        // The checksum is a part of the name.
        let crc = format!("{:08x}", self.crc);
        if self.offer.name.split('-').nth(2) != Some(crc.as_str()) {
            return Taken::Damaged;
        }
        let Self { through: bytes, crc, .. } = *self;
        let spool = Spool { file: Arc::clone(&self.file), bytes, crc };
        Taken::Whole(self.offer.vote, self.offer.meta.clone(), spool)
    }
}

/// Writes a chunk. Blocks on the disk.
pub(crate) fn write<F: DiskFile>(file: &F, at: u64, data: &Bytes) -> io::Result<()> {
    file.write_at(at, &[IoSlice::new(data)])
}

/// The body of a snapshot that has come in whole, in a file without a name.
#[derive(Debug)]
pub(crate) struct Spool<F> {
    file: Arc<F>,
    bytes: u64,
    crc: u32,
}

impl<F> Clone for Spool<F> {
    fn clone(&self) -> Self {
        Self { file: Arc::clone(&self.file), ..*self }
    }
}

impl<F: DiskFile> Spool<F> {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A piece of it. Blocks on the disk.
    pub(crate) fn read(&self, offset: u64, bytes: usize) -> io::Result<Bytes> {
        let left = self.bytes.saturating_sub(offset);
        read_piece(&*self.file, offset, left.min(bytes as u64))
    }
}

impl<F: DiskFile> SnapshotSource for Spool<F> {
    fn write(&mut self, put: Put<'_>) -> io::Result<()> {
        let (mut crc, mut at) = (0, 0);
        while at < self.bytes {
            let piece = self.read(at, PIECE_BYTES)?;
            crc = crc32c::crc32c_append(crc, &piece);
            put(&piece)?;
            at += piece.len() as u64;
        }
        if crc != self.crc {
            let what = "the disk gives other bytes of a snapshot than it was given";
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        Ok(())
    }

    fn saved(self: Box<Self>, _: Body) {}
}

#[cfg(test)]
mod tests;
