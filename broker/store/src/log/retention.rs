//! What may go: the manifest, and the removal of old segments.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Fatal, Log};
use crate::disk::{Disk, DiskFile, is_full};
use crate::limits::PARTITIONS_MAX;
use crate::manifest::{MANIFEST_NAME, MANIFEST_NAME_NEW, Manifest, PartitionPoint};
use crate::position::Position;
use crate::segment::{Segment, SegmentSet, file_name};

/// A segment as an operator or the owner's garbage collection sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SegmentInfo {
    /// Where it begins.
    pub base: Position,
    /// Where it ends.
    pub end: Position,
    /// What the owner last said is still needed of it.
    pub live_bytes: u64,
    /// Holders who forbid its removal.
    pub pins: u64,
    /// Whether it is written no more.
    pub sealed: bool,
}

impl SegmentInfo {
    /// Bytes of its groups.
    pub fn bytes(&self) -> u64 {
        self.end.0 - self.base.0
    }
}

/// What was removed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Removed {
    /// Segments.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Why the manifest is still the old one.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It names what a crash could still take back: the owner's fault.
    #[error("the snapshot of partition {partition} begins at {snapshot}, durable is {durable}")]
    NotDurable {
        /// Whose.
        partition: u16,
        /// Where its snapshot begins.
        snapshot: Position,
        /// Up to where the log is durable.
        durable: Position,
    },
    /// It names what is gone: the owner's fault.
    #[error("the snapshot of partition {partition} begins at {snapshot}, the log at {first}")]
    Gone {
        /// Whose.
        partition: u16,
        /// Where its snapshot begins.
        snapshot: Position,
        /// Where the log begins.
        first: Position,
    },
    /// More than [`PARTITIONS_MAX`]: the owner's fault.
    #[error("{0} partitions are over the limit of {PARTITIONS_MAX}")]
    TooMany(usize),
    /// No room.
    #[error("no room on the device for the manifest")]
    Full,
    /// The end.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Why nothing, or not all, was removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No room for the manifest that has to say so first.
    #[error("no room on the device for the manifest")]
    Full,
    /// The end.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

impl<D: Disk> Log<D> {
    /// The segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        infos(&self.set)
    }

    /// Notes how much of the segment with this base is still needed. False if
    /// there is no such segment.
    pub fn set_live(&mut self, base: Position, bytes: u64) -> bool {
        self.set.read(|list| {
            let found = list.iter().find(|segment| segment.base == base.0);
            found.inspect(|segment| segment.live.store(bytes, Ordering::Relaxed)).is_some()
        })
    }

    /// Replaces the manifest, durably. What it names has to be durable.
    pub fn set_manifest(
        &mut self,
        mut partitions: Vec<PartitionPoint>,
        owner: Vec<u8>,
    ) -> Result<(), ManifestError> {
        self.check()?;
        if partitions.len() > PARTITIONS_MAX {
            return Err(ManifestError::TooMany(partitions.len()));
        }
        let (first, durable) = (self.first(), self.durable());
        for &PartitionPoint { partition, snapshot, .. } in &partitions {
            if snapshot > durable {
                return Err(ManifestError::NotDurable { partition, snapshot, durable });
            }
            if snapshot < first {
                return Err(ManifestError::Gone { partition, snapshot, first });
            }
        }
        partitions.sort_by_key(|point| point.partition);
        self.write_manifest(Manifest { first, durable, partitions, owner })
    }

    /// Removes whole segments that lie before a position: not the newest, none
    /// that the manifest's snapshots need, none from the first pinned one on.
    /// Votes and compaction points in them have been carried on already. All that
    /// was appended is durable first: a record may be in it that says why what
    /// lies before is not needed, and what is removed is gone at once.
    pub fn remove_before(&mut self, position: Position) -> Result<Removed, RemoveError> {
        self.check()?;
        let mut limit = position.0.min(self.synced);
        if !self.manifest.partitions.is_empty() {
            limit = limit.min(self.manifest.replay_from().0);
        }
        // Under the lock, so that nobody pins what was just found unpinned.
        let doomed = self.set.write(|list| {
            let goes = |segment: &&Arc<Segment<D::File>>| {
                segment.end() <= limit && segment.pins.load(Ordering::Acquire) == 0
            };
            let count = list.iter().take(list.len() - 1).take_while(goes).count();
            list.drain(..count).collect::<Vec<_>>()
        });
        self.doomed.extend(doomed);
        if self.doomed.is_empty() {
            return Ok(Removed::default());
        }
        self.sync()?;
        // First the word that they are leftovers: the order in which removed
        // names become durable is not ours, and a gap would be corruption.
        let manifest =
            Manifest { first: self.first(), durable: self.durable(), ..self.manifest.clone() };
        self.write_manifest(manifest).map_err(|error| match error {
            ManifestError::Fatal(fatal) => RemoveError::Fatal(fatal),
            ManifestError::Full
            | ManifestError::NotDurable { .. }
            | ManifestError::Gone { .. }
            | ManifestError::TooMany(_) => RemoveError::Full,
        })?;
        let mut removed = Removed::default();
        while let Some(segment) = self.doomed.first() {
            let (base, bytes) = (segment.base, segment.end() - segment.base);
            if let Err(error) = self.disk.remove(&file_name(base)) {
                return Err(self.fail("remove", base, error).into());
            }
            self.doomed.remove(0);
            removed.segments += 1;
            removed.bytes += bytes;
        }
        Ok(removed)
    }

    fn write_manifest(&mut self, manifest: Manifest) -> Result<(), ManifestError> {
        let bytes = manifest.encode(self.options.store);
        let file = match self.disk.create(MANIFEST_NAME_NEW) {
            Ok(file) => file,
            Err(error) if is_full(&error) => return Err(ManifestError::Full),
            Err(error) => {
                return Err(self.fail_file("create", MANIFEST_NAME_NEW.into(), error).into());
            }
        };
        if let Err(error) = file.write_at(0, &[IoSlice::new(&bytes)]) {
            if is_full(&error) {
                // It takes room from what matters; the old one still counts.
                let _ = self.disk.remove(MANIFEST_NAME_NEW);
                return Err(ManifestError::Full);
            }
            return Err(self.fail_file("write", MANIFEST_NAME_NEW.into(), error).into());
        }
        let replaced = file
            .sync_data()
            .and_then(|()| self.disk.rename(MANIFEST_NAME_NEW, MANIFEST_NAME))
            .and_then(|()| self.disk.sync_dir());
        if let Err(error) = replaced {
            return Err(self.fail_file("sync", MANIFEST_NAME.into(), error).into());
        }
        self.counters.syncs += 2;
        self.counters.written_bytes += bytes.len() as u64;
        self.manifest = manifest;
        Ok(())
    }
}

pub(super) fn infos<F>(set: &SegmentSet<F>) -> Vec<SegmentInfo> {
    set.read(|list| {
        let info = |(i, segment): (usize, &Arc<Segment<F>>)| SegmentInfo {
            base: Position(segment.base),
            end: Position(segment.end()),
            live_bytes: segment.live.load(Ordering::Relaxed),
            pins: segment.pins.load(Ordering::Acquire),
            sealed: i + 1 < list.len(),
        };
        list.iter().enumerate().map(info).collect()
    })
}
