//! From group to group through one segment.
//!
//! Recovery, scans and checks share it, so that what one of them accepts the
//! others do. It says what is wrong and where; what follows from that (cut the
//! tail, refuse the log) its callers know.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::group::{GROUP_HEADER_BYTES, GroupHeader, Salt};
use crate::limits::SCAN_BYTES;
use crate::segment::{Before, Segment};

/// Where and why a walk ended before its limit.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    #[error("no valid group at {at:#x}: {what}")]
    Damage { at: u64, what: Damage },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What is wrong with bytes of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Damage {
    /// The group's header is none, or not of this place.
    #[error("the group header is damaged")]
    Header,
    /// The records are not what was written.
    #[error("the checksum of the records does not match")]
    Body,
    /// It does not follow the group before it.
    #[error("the group does not follow the one before")]
    Order,
    /// The file ends within it.
    #[error("the file ends within the group")]
    Short,
}

/// A group, its records being `body` of the walk's buffer.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) header: GroupHeader,
    /// The position of the first record.
    pub(crate) records_at: u64,
    body: Range<usize>,
}

#[derive(Debug)]
pub(crate) struct Walk<F> {
    segment: Arc<Segment<F>>,
    salt: Salt,
    /// Where the next group begins.
    at: u64,
    limit: u64,
    before: Before,
    /// From here on the device is read, past the page cache.
    device_from: u64,
    buf: Vec<u8>,
    /// The position of the buffer's first byte.
    buf_at: u64,
}

impl<F: DiskFile> Walk<F> {
    /// From the segment's first group up to `limit`.
    pub(crate) fn new(segment: Arc<Segment<F>>, salt: Salt, limit: u64) -> Self {
        let (at, before) = (segment.base, segment.before);
        let buf = Vec::new();
        Self { segment, salt, at, limit, before, device_from: u64::MAX, buf, buf_at: at }
    }

    /// The same with what lies behind `position` read past the page cache.
    pub(crate) fn device_from(mut self, position: u64) -> Self {
        self.device_from = position;
        self
    }

    /// Where the next group begins.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The last group that was valid.
    pub(crate) fn before(&self) -> Before {
        self.before
    }

    /// The next group with its records checked; none at the limit.
    pub(crate) fn next_group(&mut self) -> Result<Option<Group>, WalkError> {
        let Some((header, crc)) = self.header()? else { return Ok(None) };
        self.fill(header.bytes() as usize)?;
        let start = (self.at - self.buf_at) as usize + GROUP_HEADER_BYTES;
        let body = start..start + header.length as usize;
        if !header.body_matches(self.salt, self.at, &self.buf[body.clone()]) {
            return Err(self.damage(Damage::Body));
        }
        let records_at = self.at + GROUP_HEADER_BYTES as u64;
        self.step(&header, crc);
        Ok(Some(Group { header, records_at, body }))
    }

    /// Passes over groups that end at or before `position`, by their headers.
    pub(crate) fn skip_to(&mut self, position: u64) -> Result<(), WalkError> {
        while let Some((header, crc)) = self.header()? {
            if self.at + header.bytes() > position {
                break;
            }
            self.step(&header, crc);
        }
        Ok(())
    }

    /// The records of the group that was returned last.
    pub(crate) fn body(&self, group: &Group) -> &[u8] {
        &self.buf[group.body.clone()]
    }

    /// The next header, without a step.
    fn header(&mut self) -> Result<Option<(GroupHeader, u32)>, WalkError> {
        if self.at >= self.limit {
            return Ok(None);
        }
        if self.limit - self.at < GROUP_HEADER_BYTES as u64 {
            return Err(self.damage(Damage::Short));
        }
        self.fill(GROUP_HEADER_BYTES)?;
        let start = (self.at - self.buf_at) as usize;
        let bytes = &self.buf[start..start + GROUP_HEADER_BYTES];
        let Some((header, crc)) = GroupHeader::decode(bytes, self.salt, self.at) else {
            return Err(self.damage(Damage::Header));
        };
        if header.number != self.before.number + 1 || header.chain != self.before.chain {
            return Err(self.damage(Damage::Order));
        }
        if header.bytes() > self.limit - self.at {
            return Err(self.damage(Damage::Short));
        }
        Ok(Some((header, crc)))
    }

    fn step(&mut self, header: &GroupHeader, crc: u32) {
        self.at += header.bytes();
        self.before = Before { number: header.number, chain: crc };
    }

    fn damage(&self, what: Damage) -> WalkError {
        WalkError::Damage { at: self.at, what }
    }

    /// Has `need` bytes from `at` on in the buffer; they are below the limit.
    fn fill(&mut self, need: usize) -> Result<(), WalkError> {
        let have_to = self.buf_at + self.buf.len() as u64;
        if self.at >= self.buf_at && self.at + need as u64 <= have_to {
            return Ok(());
        }
        if self.at >= have_to {
            self.buf.clear();
        } else {
            self.buf.drain(..(self.at - self.buf_at) as usize);
        }
        self.buf_at = self.at;
        let room = (self.limit - self.at).min(need.max(SCAN_BYTES) as u64) as usize;
        let kept = self.buf.len();
        self.buf.resize(room.max(kept), 0);
        let from = self.at + kept as u64;
        let read = self.read(from, kept)?;
        self.buf.truncate(kept + read);
        if self.buf.len() < need {
            return Err(self.damage(Damage::Short));
        }
        Ok(())
    }

    /// Reads into the buffer behind its first `kept` bytes.
    fn read(&mut self, from: u64, kept: usize) -> io::Result<usize> {
        let cached = self.device_from.saturating_sub(from).min((self.buf.len() - kept) as u64);
        let (cached, device) = self.buf[kept..].split_at_mut(cached as usize);
        let mut read = self.segment.file.read_at(self.segment.offset(from), cached)?;
        if read == cached.len() && !device.is_empty() {
            let at = self.segment.offset(from + read as u64);
            read += self.segment.file.read_device_at(at, device)?;
        }
        Ok(read)
    }
}
