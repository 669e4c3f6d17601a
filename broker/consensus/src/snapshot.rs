//! A group's snapshot in its file.
//!
//! ```text
//! magic 8 | crc u32 | version u16 | group u16 | flags u32 | last term u64 | last index u64 |
//! membership term u64 | membership index u64 | membership bytes u32 | body crc u32 | body bytes u64 |
//! membership | body
//! ```
//!
//! Little endian. `crc` (CRC32C) is of everything between itself and the body;
//! flag 1: the membership has a place. The file is written under another name,
//! synced, renamed and the directory synced: there is the old one or the new
//! one, whole.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use openraft::StoredMembership;
use tidegate_store::{Disk, DiskFile};

use crate::body::{Put, SnapshotSource};
use crate::limits::{PIECE_BYTES, SNAPSHOT_BYTES_MAX};
use crate::log_id::{GroupId, LogId};
use crate::raft_types::{Members, Meta, StoredMembers, log_id, raft_id};
use crate::wire::{members_bytes, members_from};

const MAGIC: [u8; 8] = *b"TGSNAP\r\n";
const VERSION: u16 = 1;
const FIXED_BYTES: usize = 68;
const MEMBERSHIP_BYTES_MAX: usize = 4 << 10;
const HAS_PLACE: u32 = 1;

/// Why a snapshot's file cannot be used. What it held was committed and may be
/// gone from the log: this replica is lost, and has to come back as a new node.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The device's.
    #[error("cannot read {name}: {error}")]
    Io {
        /// The file.
        name: String,
        /// What the device said.
        error: io::Error,
    },
    /// Other bytes than were written, or not ours.
    #[error("{name} is damaged: {what}")]
    Damaged {
        /// The file.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A format that only a newer version knows.
    #[error("{name} has format {found}, and {VERSION} is the newest known")]
    Version {
        /// The file.
        name: String,
        /// Its format.
        found: u16,
    },
}

/// What is before the body.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    pub(crate) meta: Meta,
    pub(crate) body_crc: u32,
    pub(crate) body_bytes: u64,
    /// Where the body begins.
    pub(crate) body_at: u64,
}

impl Header {
    pub(crate) fn last(&self) -> LogId {
        self.meta.last_log_id.as_ref().map(log_id).unwrap_or_default()
    }

    /// The name under which a transfer is resumed: what has it has these bytes.
    pub(crate) fn name(&self) -> String {
        let LogId { term, index } = self.last();
        format!("{term:x}-{index:x}-{:08x}-{:x}", self.body_crc, self.body_bytes)
    }
}

fn encode(group: GroupId, meta: &Meta, body_crc: u32, body_bytes: u64) -> Vec<u8> {
    let membership = members_bytes(meta.last_membership.membership());
    let last = meta.last_log_id.as_ref().map(log_id).unwrap_or_default();
    let place = meta.last_membership.log_id().as_ref().map(log_id);
    let mut out = Vec::with_capacity(FIXED_BYTES + membership.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&group.to_le_bytes());
    out.extend_from_slice(&if place.is_some() { HAS_PLACE } else { 0 }.to_le_bytes());
    for id in [last, place.unwrap_or_default()] {
        out.extend_from_slice(&id.term.to_le_bytes());
        out.extend_from_slice(&id.index.to_le_bytes());
    }
    out.extend_from_slice(&(membership.len() as u32).to_le_bytes());
    out.extend_from_slice(&body_crc.to_le_bytes());
    out.extend_from_slice(&body_bytes.to_le_bytes());
    out.extend_from_slice(&membership);
    let crc = crc32c::crc32c(&out[12..]);
    out[8..12].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum HeaderError {
    Damaged(&'static str),
    Version(u16),
}

/// Reads the header at the start of `bytes`, which has all of it.
fn decode(group: GroupId, bytes: &[u8]) -> Result<Header, HeaderError> {
    let damaged = HeaderError::Damaged;
    let fixed = bytes.first_chunk::<FIXED_BYTES>().ok_or(damaged("its head is cut off"))?;
    let u32_at = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().expect("four"));
    let u64_at = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().expect("eight"));
    if fixed[..8] != MAGIC {
        return Err(damaged("it is not a snapshot"));
    }
    let version = u16::from_le_bytes([fixed[12], fixed[13]]);
    if version > VERSION {
        return Err(HeaderError::Version(version));
    }
    let len = u32_at(52) as usize;
    if len > MEMBERSHIP_BYTES_MAX {
        return Err(damaged("its membership is too long"));
    }
    let end = FIXED_BYTES + len;
    let membership = bytes.get(FIXED_BYTES..end).ok_or(damaged("its head is cut off"))?;
    if crc32c::crc32c(&bytes[12..end]) != u32_at(8) {
        return Err(damaged("its head does not match its checksum"));
    }
    if u16::from_le_bytes([fixed[14], fixed[15]]) != group || version == 0 {
        return Err(damaged("it is of another group"));
    }
    let members = members_from(membership).map_err(|_| damaged("its membership is not one"))?;
    let id = |at: usize| raft_id(LogId { term: u64_at(at), index: u64_at(at + 8) });
    let place = (u32_at(16) & HAS_PLACE != 0).then(|| id(36));
    let body_bytes = u64_at(60);
    if body_bytes > SNAPSHOT_BYTES_MAX {
        return Err(damaged("its body is too long"));
    }
    Ok(Header {
        meta: Meta {
            last_log_id: Some(id(20)),
            last_membership: StoredMembership::new(place, members),
        },
        body_crc: u32_at(56),
        body_bytes,
        body_at: end as u64,
    })
}

/// A snapshot in its file, open: it stays readable when a newer one takes its
/// place.
#[derive(Debug)]
pub(crate) struct Stored<F> {
    pub(crate) header: Header,
    file: Arc<F>,
}

impl<F> Clone for Stored<F> {
    fn clone(&self) -> Self {
        Self { header: self.header.clone(), file: self.file.clone() }
    }
}

impl<F: DiskFile> Stored<F> {
    /// A piece of the body. Blocks on the disk.
    pub(crate) fn read(&self, offset: u64, bytes: usize) -> io::Result<Bytes> {
        let left = self.header.body_bytes.saturating_sub(offset);
        read_piece(&*self.file, self.header.body_at + offset, left.min(bytes as u64))
    }

    /// Reads all of the body and holds it against its checksum. Blocks on the
    /// disk.
    pub(crate) fn check(&self) -> io::Result<()> {
        let (mut crc, mut at) = (0, 0);
        while at < self.header.body_bytes {
            let piece = self.read(at, PIECE_BYTES)?;
            crc = crc32c::crc32c_append(crc, &piece);
            at += piece.len() as u64;
        }
        if crc != self.header.body_crc {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the snapshot's body does not match its checksum",
            ));
        }
        Ok(())
    }
}

/// Bytes that a file has to have. Blocks on the disk.
pub(crate) fn read_piece<F: DiskFile>(file: &F, at: u64, bytes: u64) -> io::Result<Bytes> {
    let mut buf = vec![0; bytes as usize];
    let read = file.read_at(at, &mut buf)?;
    if read < buf.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(buf.into())
}

/// Writes the first snapshot of a group that begins with a state and has one
/// voter, in place of one that may be there; durable when it returns. The log is
/// to begin behind it, with a vote of the node in that term
/// ([`push_sole_voter_behind`](tidegate_store::push_sole_voter_behind)). `state`
/// hands it out, piece by piece; what comes back is its bytes. Blocks on the disk.
///
/// # Errors
/// The disk's, or that of `state`; or it is larger than a snapshot may be.
pub fn begin_with<D: Disk>(
    disk: &D,
    group: GroupId,
    node: u64,
    last: LogId,
    state: impl FnOnce(Put<'_>) -> io::Result<()>,
) -> io::Result<u64> {
    let members = Members::new_with_defaults(vec![BTreeSet::from([node])], Vec::<u64>::new());
    let id = Some(raft_id(last));
    let meta = Meta { last_log_id: id, last_membership: StoredMembers::new(id, members) };
    let (stored, _) = SnapshotFile::blind(disk, group).write_with(&meta, state)?;
    Ok(stored.header.body_bytes)
}

/// Removes what [`begin_with`] wrote, for a group that does not begin after all.
/// Blocks on the disk.
///
/// # Errors
/// The disk's.
pub fn begin_without<D: Disk>(disk: &D, group: GroupId) -> io::Result<()> {
    SnapshotFile::blind(disk, group).remove()
}

/// The snapshot of one group.
#[derive(Debug)]
pub(crate) struct SnapshotFile<D: Disk> {
    disk: D,
    group: GroupId,
    current: Mutex<Option<Stored<D::File>>>,
    /// Held while a file is written, so that an older one never comes last.
    writing: Mutex<()>,
}

impl<D: Disk> SnapshotFile<D> {
    /// Whatever is there.
    fn blind(disk: &D, group: GroupId) -> Self {
        Self { disk: disk.clone(), group, current: Mutex::default(), writing: Mutex::default() }
    }

    /// Looks for the group's file, and removes what was not finished.
    pub(crate) fn open(disk: D, group: GroupId) -> Result<Self, SnapshotError> {
        let name = name(group);
        let io = |error| SnapshotError::Io { name: name.clone(), error };
        for left in [unfinished(group), incoming(group)] {
            match disk.remove(&left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
                Ok(()) | Err(_) => {}
            }
        }
        let current = match disk.open(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(error)),
            Ok(file) => {
                let bytes = file.bytes().map_err(io)?;
                let head = (FIXED_BYTES + MEMBERSHIP_BYTES_MAX) as u64;
                let mut head = vec![0; bytes.min(head) as usize];
                let read = file.read_at(0, &mut head).map_err(io)?;
                head.truncate(read);
                let header = decode(group, &head).map_err(|error| match error {
                    HeaderError::Damaged(what) => {
                        SnapshotError::Damaged { name: name.clone(), what }
                    }
                    HeaderError::Version(found) => {
                        SnapshotError::Version { name: name.clone(), found }
                    }
                })?;
                if bytes != header.body_at + header.body_bytes {
                    let what = "it has not the length that it says";
                    return Err(SnapshotError::Damaged { name, what });
                }
                Some(Stored { header, file: Arc::new(file) })
            }
        };
        Ok(Self { disk, group, current: Mutex::new(current), writing: Mutex::default() })
    }

    /// Removes it, for a group that is given up here. Blocks on the disk.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let _writing = lock(&self.writing);
        *lock(&self.current) = None;
        match self.disk.remove(&name(self.group)) {
            Ok(()) => self.disk.sync_dir(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The newest.
    pub(crate) fn current(&self) -> Option<Stored<D::File>> {
        lock(&self.current).clone()
    }

    /// A file for what comes in, without a name: it is gone when nobody has it
    /// open. Blocks on the disk.
    pub(crate) fn spool(&self) -> io::Result<D::File> {
        let name = incoming(self.group);
        let file = self.disk.create(&name)?;
        self.disk.remove(&name)?;
        Ok(file)
    }

    /// Makes this the newest, durable before it returns, and returns what is
    /// the newest then, with whether it was written: one that is older than what
    /// there is is not. Blocks on the disk.
    pub(crate) fn write_from(
        &self,
        meta: &Meta,
        body: &mut dyn SnapshotSource,
    ) -> io::Result<(Stored<D::File>, bool)> {
        self.write_with(meta, |put| body.write(put))
    }

    fn write_with(
        &self,
        meta: &Meta,
        body: impl FnOnce(Put<'_>) -> io::Result<()>,
    ) -> io::Result<(Stored<D::File>, bool)> {
        let writing = lock(&self.writing);
        if let Some(current) = self.current()
            && current.header.meta.last_log_id >= meta.last_log_id
        {
            return Ok((current, false));
        }
        let (unfinished, name) = (unfinished(self.group), name(self.group));
        let file = self.disk.create(&unfinished)?;
        // Its length does not depend on what is not known yet.
        let body_at = encode(self.group, meta, 0, 0).len() as u64;
        let mut pieces = Pieces { file: &file, at: body_at, held: Vec::new(), crc: 0, bytes: 0 };
        body(&mut |piece| pieces.put(piece))?;
        pieces.flush()?;
        let Pieces { crc: body_crc, bytes: body_bytes, .. } = pieces;
        let head = encode(self.group, meta, body_crc, body_bytes);
        file.write_at(0, &[IoSlice::new(&head)])?;
        file.sync_data()?;
        self.disk.rename(&unfinished, &name)?;
        self.disk.sync_dir()?;
        let header = Header { meta: meta.clone(), body_crc, body_bytes, body_at };
        let stored = Stored { header, file: Arc::new(file) };
        *lock(&self.current) = Some(stored.clone());
        drop(writing);
        Ok((stored, true))
    }
}

/// A body on its way to its file.
struct Pieces<'a, F> {
    file: &'a F,
    at: u64,
    held: Vec<u8>,
    crc: u32,
    bytes: u64,
}

impl<F: DiskFile> Pieces<'_, F> {
    fn put(&mut self, piece: &[u8]) -> io::Result<()> {
        self.bytes += piece.len() as u64;
        if self.bytes > SNAPSHOT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.crc = crc32c::crc32c_append(self.crc, piece);
        self.held.extend_from_slice(piece);
        if self.held.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        for piece in self.held.chunks(PIECE_BYTES) {
            self.file.write_at(self.at, &[IoSlice::new(piece)])?;
            self.at += piece.len() as u64;
        }
        self.held.clear();
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn name(group: GroupId) -> String {
    format!("group-{group:04x}.snapshot")
}

fn incoming(group: GroupId) -> String {
    format!("group-{group:04x}.incoming")
}

fn unfinished(group: GroupId) -> String {
    format!("group-{group:04x}.unfinished")
}

#[cfg(test)]
mod tests;
