//! The log as its one writer sees it.

mod recovery;
mod retention;

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::backup::Backup;
use crate::batch::Batch;
use crate::disk::{Disk, DiskFile, Space, is_full};
use crate::group::{FLAG_CARRY, GROUP_HEADER_BYTES, GroupHeader, Salt};
use crate::limits::{GROUP_BYTES, GROUP_BYTES_MAX, SEGMENT_BYTES, SEGMENT_BYTES_MIN};
use crate::manifest::Manifest;
use crate::position::Position;
use crate::reader::{ReadError, Reader};
use crate::record::{self, CARRIED, Kind, Record, RecordRef};
use crate::scan::Scan;
use crate::segment::{Before, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentSet, file_name};

pub use recovery::{Cut, Inspection, OpenError, Recovered};
pub use retention::{ManifestError, RemoveError, Removed, SegmentInfo};

/// What a log is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The store's id, from the node's [`Identity`](crate::Identity).
    pub store: u128,
    /// A segment that has reached this is closed and a new one begun.
    pub segment_bytes: u64,
    /// Whether an empty directory may become a log. Only at the node's first
    /// start: a log that is missing later was lost.
    pub create: bool,
}

impl Options {
    /// The usual sizes, for a log that has to be there.
    pub fn new(store: u128) -> Self {
        Self { store, segment_bytes: SEGMENT_BYTES, create: false }
    }

    /// The same for a node's first start.
    #[must_use]
    pub fn create(self) -> Self {
        Self { create: true, ..self }
    }

    /// The same with smaller or larger segments.
    #[must_use]
    pub fn segment_bytes(self, bytes: u64) -> Self {
        Self { segment_bytes: bytes.max(SEGMENT_BYTES_MIN), ..self }
    }
}

/// The end of the log: the disk may no longer hold what the kernel shows. The
/// process has to end; recovery at the next start reads what is really there.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the log failed at {what} of {file}: {error}")]
pub struct Fatal {
    /// What was tried: `sync`, `write`, …
    pub what: &'static str,
    /// Which file.
    pub file: String,
    /// The device's answer.
    pub error: Arc<io::Error>,
}

/// Why nothing of an append is in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// No room. The log is as before and goes on when there is room again.
    #[error("no room on the device for {bytes} bytes more")]
    Full {
        /// What was to be written.
        bytes: u64,
    },
    /// A batch over [`GROUP_BYTES_MAX`]: the caller's limits are wrong.
    #[error("a batch of {bytes} bytes is over the limit of {GROUP_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: u64,
    },
    /// The end.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}

/// Where an append's batches lie.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Appended {
    /// The base of each batch: a record's position is this and what
    /// [`Batch::push`] returned.
    pub bases: Vec<Position>,
    /// The log's end: when the durable position has reached it, so has every
    /// batch.
    pub end: Position,
}

/// What the log has done since it was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Commit groups, carried ones included.
    pub groups: u64,
    /// Records appended.
    pub records: u64,
    /// Bytes of the records appended.
    pub record_bytes: u64,
    /// All bytes written.
    pub written_bytes: u64,
    /// Syncs of data and of the directory.
    pub syncs: u64,
    /// Segments begun.
    pub segments: u64,
}

/// The write-ahead log of a node. One writer; readers are [`Reader`]s.
#[derive(Debug)]
pub struct Log<D: Disk> {
    disk: D,
    options: Options,
    salt: Salt,
    set: Arc<SegmentSet<D::File>>,
    active: Arc<Segment<D::File>>,
    end: u64,
    synced: u64,
    before: Before,
    /// The newest of each kind that is carried, by partition.
    carried: BTreeMap<(u16, Kind), Record>,
    manifest: Manifest,
    /// Removed, but their files are still there.
    doomed: Vec<Arc<Segment<D::File>>>,
    failed: Option<Fatal>,
    counters: Counters,
}

impl<D: Disk> Log<D> {
    /// Adds batches as one commit group (more than one when they are large),
    /// all or none of them. Readable at once, durable after [`Log::sync`].
    pub fn append(&mut self, batches: &[&Batch]) -> Result<Appended, AppendError> {
        self.check()?;
        let bytes: u64 = batches.iter().map(|batch| batch.len() as u64).sum();
        if let Some(large) = batches.iter().find(|batch| batch.len() as u64 > GROUP_BYTES_MAX) {
            return Err(AppendError::TooLarge { bytes: large.len() as u64 });
        }
        let mut bases = Vec::with_capacity(batches.len());
        if bytes == 0 {
            bases.resize(batches.len(), Position(self.end));
            return Ok(Appended { bases, end: Position(self.end) });
        }
        let room = self.options.segment_bytes.saturating_sub(self.end - self.active.base);
        if bytes > room && self.end > self.active.base + GROUP_HEADER_BYTES as u64 {
            self.roll()?;
        }
        self.write_groups(batches, &mut bases, bytes)?;
        for (batch, base) in batches.iter().zip(&bases) {
            self.counters.records += u64::from(batch.records());
            for &at in batch.carried() {
                let record = RecordRef::decode_unchecked(&batch.bytes()[at as usize..])
                    .expect("the batch encoded it");
                carry(&mut self.carried, &record);
            }
            debug_assert!(base.0 + batch.len() as u64 <= self.end);
        }
        self.counters.record_bytes += bytes;
        Ok(Appended { bases, end: Position(self.end) })
    }

    /// Makes everything appended durable, and says up to where. After an error
    /// the log refuses everything: a second sync would lie.
    pub fn sync(&mut self) -> Result<Position, Fatal> {
        self.check()?;
        if self.synced < self.end {
            if let Err(error) = self.active.file.sync_data() {
                return Err(self.fail("sync", self.active.base, error));
            }
            self.synced_to(self.end);
        }
        Ok(Position(self.synced))
    }

    /// Writes down that all so far is durable, so that damage to it will be
    /// told from a torn tail. For the end of a process, and when it was idle.
    pub fn prove(&mut self) -> Result<Position, AppendError> {
        self.sync()?;
        let start = (self.end, self.before);
        if let Err(error) = self.write_group(0, 0, &[]) {
            return Err(self.undo(start, error, GROUP_HEADER_BYTES as u64));
        }
        Ok(self.sync()?)
    }

    /// A reader of what is appended from now on and of all that is there.
    pub fn reader(&self) -> Reader<D> {
        Reader::new(self.set.clone(), self.salt)
    }

    /// All records from a position on, in order.
    pub fn scan(&self, from: Position) -> Result<Scan<D::File>, ReadError> {
        self.reader().scan(from)
    }

    /// The same, one scan a segment, for as many threads.
    pub fn scans(&self, from: Position) -> Result<Vec<Scan<D::File>>, ReadError> {
        self.reader().scans(from)
    }

    /// Where the log begins.
    pub fn first(&self) -> Position {
        Position(self.set.read(|list| list[0].base))
    }

    /// Where the next group will begin.
    pub fn end(&self) -> Position {
        Position(self.end)
    }

    /// Everything below is durable.
    pub fn durable(&self) -> Position {
        Position(self.synced)
    }

    /// The newest vote of a partition.
    pub fn vote(&self, partition: u16) -> Option<&Record> {
        self.carried.get(&(partition, Kind::Vote))
    }

    /// The newest compaction point of a partition.
    pub fn compacted(&self, partition: u16) -> Option<&Record> {
        self.carried.get(&(partition, Kind::Compacted))
    }

    /// Where recovery begins.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A copy of what is durable now, to be made by another thread. Until it is
    /// dropped no segment of it is removed.
    pub fn backup(&self) -> Backup<D> {
        let first = self.first();
        let pin = self.reader().pin(first).expect("the log has its beginning");
        let manifest = Manifest { first, durable: self.durable(), ..self.manifest.clone() };
        Backup::new(self.set.clone(), pin, self.options.store, manifest)
    }

    /// How full the file system is.
    pub fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }

    /// What it has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn check(&self) -> Result<(), Fatal> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// From here on everything is refused.
    fn fail(&mut self, what: &'static str, base: u64, error: io::Error) -> Fatal {
        self.fail_file(what, file_name(base), error)
    }

    fn fail_file(&mut self, what: &'static str, file: String, error: io::Error) -> Fatal {
        let fatal = Fatal { what, file, error: Arc::new(error) };
        self.failed.get_or_insert(fatal).clone()
    }

    fn synced_to(&mut self, position: u64) {
        self.synced = position;
        self.counters.syncs += 1;
        self.set.durable.store(position, Ordering::Release);
    }

    /// Writes the batches as few groups into the active segment.
    fn write_groups(
        &mut self,
        batches: &[&Batch],
        bases: &mut Vec<Position>,
        bytes: u64,
    ) -> Result<(), AppendError> {
        let start = (self.end, self.before);
        let mut left = batches;
        while !left.is_empty() {
            let mut length = left[0].len() as u64;
            let more = left[1..].iter().take_while(|batch| {
                length += batch.len() as u64;
                length <= GROUP_BYTES
            });
            let (group, rest) = left.split_at(1 + more.count());
            left = rest;
            let parts: Vec<&[u8]> = group.iter().map(|batch| batch.bytes()).collect();
            let records = group.iter().map(|batch| batch.records()).sum();
            match self.write_group(0, records, &parts) {
                Ok(base) => {
                    let mut at = base;
                    for part in parts {
                        bases.push(Position(at));
                        at += part.len() as u64;
                    }
                }
                Err(error) => return Err(self.undo(start, error, bytes)),
            }
        }
        self.active.end.store(self.end, Ordering::Release);
        Ok(())
    }

    /// Takes back what a failed write left behind, if there merely was no room.
    fn undo(&mut self, start: (u64, Before), error: io::Error, bytes: u64) -> AppendError {
        (self.end, self.before) = start;
        if !is_full(&error) {
            return self.fail("write", self.active.base, error).into();
        }
        match self.active.file.truncate(self.active.offset(self.end)) {
            Ok(()) => AppendError::Full { bytes },
            Err(error) => self.fail("truncate", self.active.base, error).into(),
        }
    }

    /// Writes one group at the end; returns the position of its first record.
    fn write_group(&mut self, flags: u32, records: u32, parts: &[&[u8]]) -> io::Result<u64> {
        let (head, next, base) = self.group_head(self.end, flags, records, parts);
        let mut slices = Vec::with_capacity(parts.len() + 1);
        slices.push(IoSlice::new(&head));
        slices.extend(parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)));
        self.active.file.write_at(self.active.offset(self.end), &slices)?;
        self.end = base + parts.iter().map(|part| part.len() as u64).sum::<u64>();
        self.before = next;
        self.counters.groups += 1;
        self.counters.written_bytes += slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
        if parts.is_empty() {
            self.active.end.store(self.end, Ordering::Release);
        }
        Ok(base)
    }

    fn group_head(
        &self,
        at: u64,
        flags: u32,
        records: u32,
        parts: &[&[u8]],
    ) -> ([u8; GROUP_HEADER_BYTES], Before, u64) {
        let length = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let header = GroupHeader {
            length: u32::try_from(length).expect("groups are bounded"),
            records,
            flags,
            number: self.before.number + 1,
            durable: self.synced,
            chain: self.before.chain,
            body_crc: self.salt.body(at, parts.iter().copied()),
        };
        let (head, chain) = header.encode(self.salt, at);
        let next = Before { number: header.number, chain };
        (head, next, at + GROUP_HEADER_BYTES as u64)
    }

    /// Closes the segment and begins the next with what is carried. The old one
    /// is durable first, so that only the newest segment ever has a tail.
    fn roll(&mut self) -> Result<(), AppendError> {
        self.sync()?;
        let base = self.end;
        match self.begin_segment(base) {
            Ok(segment) => {
                self.set.write(|list| list.push(segment.clone()));
                self.active = segment;
                self.synced_to(self.end);
                Ok(())
            }
            Err(Begin::Fatal(fatal)) => Err(fatal.into()),
            Err(Begin::Full) => {
                // Half a segment must not stay: the old one goes on past its base.
                let gone = match self.disk.remove(&file_name(base)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    Ok(()) | Err(_) => self.disk.sync_dir(),
                };
                match gone {
                    Ok(()) => Err(AppendError::Full { bytes: SEGMENT_HEADER_BYTES as u64 }),
                    Err(error) => Err(self.fail("remove", base, error).into()),
                }
            }
        }
    }

    /// Makes the file of a segment, durable with its name.
    fn begin_segment(&mut self, base: u64) -> Result<Arc<Segment<D::File>>, Begin> {
        let before = self.before;
        let mut body = Vec::new();
        for record in self.carried.values() {
            let Record { kind, flags, partition, term, index, .. } = *record;
            record::encode(&mut body, kind, flags | CARRIED, partition, term, index, |out| {
                out.extend_from_slice(&record.body);
            });
        }
        let header = SegmentHeader {
            base,
            store: self.options.store,
            number: before.number,
            chain: before.chain,
        };
        let records = self.carried.len() as u32;
        let (head, next, at) = self.group_head(base, FLAG_CARRY, records, &[&body]);
        let header = header.encode();
        let parts = [&header[..], &head, &body].map(IoSlice::new);
        let file = match self.disk.create(&file_name(base)) {
            Ok(file) => file,
            Err(error) => return Err(self.begin_failed("create", base, error)),
        };
        if let Err(error) = file.write_at(0, &parts) {
            return Err(self.begin_failed("write", base, error));
        }
        if let Err(error) = file.sync_data().and_then(|()| self.disk.sync_dir()) {
            return Err(Begin::Fatal(self.fail("sync", base, error)));
        }
        self.end = at + body.len() as u64;
        self.before = next;
        self.counters.groups += 1;
        self.counters.segments += 1;
        self.counters.syncs += 1;
        self.counters.written_bytes += parts.iter().map(|part| part.len() as u64).sum::<u64>();
        Ok(Arc::new(Segment::new(base, file, before, self.end)))
    }

    fn begin_failed(&mut self, what: &'static str, base: u64, error: io::Error) -> Begin {
        if is_full(&error) { Begin::Full } else { Begin::Fatal(self.fail(what, base, error)) }
    }
}

enum Begin {
    Full,
    Fatal(Fatal),
}

/// Remembers the newest vote or compaction point of a partition.
fn carry(carried: &mut BTreeMap<(u16, Kind), Record>, record: &RecordRef<'_>) {
    let mut record = record.to_record();
    record.flags &= !CARRIED;
    carried.insert((record.partition, record.kind), record);
}
