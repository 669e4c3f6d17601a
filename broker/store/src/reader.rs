//! Single records by their positions, from any thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::{Disk, DiskFile};
use crate::group::Salt;
use crate::limits::READ_AHEAD_BYTES;
use crate::position::Position;
use crate::record::{RECORD_HEADER_BYTES, Record, RecordError, RecordRef, record_bytes};
use crate::scan::Scan;
use crate::segment::{Segment, SegmentSet};
pub use crate::walk::Damage;

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Removed, or never written: the owner's index is wrong.
    #[error("position {at} is not in the log")]
    Absent {
        /// What was asked for.
        at: Position,
    },
    /// The device's, or the owner's index is wrong.
    #[error("position {at}: {error}")]
    Record {
        /// Where.
        at: Position,
        /// What is wrong.
        error: RecordError,
    },
    /// The device returns other bytes than were written.
    #[error("the log is damaged at {at}: {what}")]
    Damage {
        /// The group.
        at: Position,
        /// What is wrong with it.
        what: Damage,
    },
    /// The device's.
    #[error("cannot read the log: {0}")]
    Io(#[from] io::Error),
}

/// Reads what was appended, synced or not. Clones share the log's segments.
#[derive(Debug)]
pub struct Reader<D: Disk> {
    set: Arc<SegmentSet<D::File>>,
    salt: Salt,
    buf: Vec<u8>,
    /// What the buffer holds: its segment, and the position of the first byte.
    held: Option<(Arc<Segment<D::File>>, u64)>,
}

impl<D: Disk> Clone for Reader<D> {
    fn clone(&self) -> Self {
        Self::new(self.set.clone(), self.salt)
    }
}

impl<D: Disk> Reader<D> {
    pub(crate) fn new(set: Arc<SegmentSet<D::File>>, salt: Salt) -> Self {
        Self { set, salt, buf: Vec::new(), held: None }
    }

    /// The record at a position, with a body of its own.
    pub fn read(&mut self, at: Position) -> Result<Record, ReadError> {
        self.with(at, |record| record.to_record())
    }

    /// Many records; fastest when the positions are sorted, since neighbours
    /// come with one read. Stops at the first that cannot be read.
    pub fn read_each(
        &mut self,
        positions: impl IntoIterator<Item = Position>,
        mut f: impl FnMut(Position, RecordRef<'_>),
    ) -> Result<(), ReadError> {
        for at in positions {
            self.with(at, |record| f(at, record))?;
        }
        Ok(())
    }

    /// All records from a position on, up to what is written now. Pins nothing:
    /// pin first if segments may go meanwhile.
    pub fn scan(&self, from: Position) -> Result<Scan<D::File>, ReadError> {
        let segments = self.set.from(from.0).ok_or(ReadError::Absent { at: from })?;
        let to = segments.last().map_or(from.0, |last| last.end());
        Ok(Scan::new(segments, self.salt, from.0, to))
    }

    /// The same, a scan a segment, for as many threads.
    pub fn scans(&self, from: Position) -> Result<Vec<Scan<D::File>>, ReadError> {
        let segments = self.set.from(from.0).ok_or(ReadError::Absent { at: from })?;
        let scan = |segment: Arc<Segment<D::File>>| {
            let to = segment.end();
            Scan::new([segment], self.salt, from.0, to)
        };
        Ok(segments.into_iter().map(scan).collect())
    }

    /// Keeps the segment of a position and all after it until the pin is
    /// dropped. None if the position is gone already.
    pub fn pin(&self, at: Position) -> Option<Pin<D>> {
        self.set.pin(at).map(|segment| Pin { segment })
    }

    /// Everything below is durable.
    pub fn durable(&self) -> Position {
        Position(self.set.durable.load(Ordering::Acquire))
    }

    fn with<T>(
        &mut self,
        at: Position,
        f: impl FnOnce(RecordRef<'_>) -> T,
    ) -> Result<T, ReadError> {
        let have = self.hold(at, RECORD_HEADER_BYTES)?;
        let wrong = |error| ReadError::Record { at, error };
        let need = record_bytes(&self.buf[have..]).map_err(wrong)?;
        let have = self.hold(at, need)?;
        let result = RecordRef::decode(&self.buf[have..]).map(f).map_err(wrong);
        if self.buf.capacity() > 16 * READ_AHEAD_BYTES {
            // One large message does not decide what a reader costs from now on.
            self.buf = Vec::new();
            self.held = None;
        }
        result
    }

    /// Has `need` bytes from a position on in the buffer, if the log has them,
    /// and says where they start.
    fn hold(&mut self, at: Position, need: usize) -> Result<usize, ReadError> {
        if let Some((_, from)) = &self.held
            && at.0 >= *from
            && at.0 + need as u64 <= from + self.buf.len() as u64
        {
            return Ok((at.0 - from) as usize);
        }
        let segment = self.set.of(at.0).ok_or(ReadError::Absent { at })?;
        let room = segment.end() - at.0;
        if room < RECORD_HEADER_BYTES as u64 {
            return Err(ReadError::Absent { at });
        }
        self.held = None;
        self.buf.resize(room.min(need.max(READ_AHEAD_BYTES) as u64) as usize, 0);
        let read = segment.file.read_at(segment.offset(at.0), &mut self.buf)?;
        self.buf.truncate(read);
        if read < RECORD_HEADER_BYTES {
            return Err(ReadError::Absent { at });
        }
        self.held = Some((segment, at.0));
        Ok(0)
    }
}

/// Keeps segments from being removed.
#[derive(Debug)]
pub struct Pin<D: Disk> {
    segment: Arc<Segment<D::File>>,
}

impl<D: Disk> Drop for Pin<D> {
    fn drop(&mut self) {
        self.segment.pins.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<D: Disk> Pin<D> {
    /// Where the kept part of the log begins.
    pub fn base(&self) -> Position {
        Position(self.segment.base)
    }
}
