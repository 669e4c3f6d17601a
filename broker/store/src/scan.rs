//! All records in order, for replay and for checks.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::disk::DiskFile;
use crate::group::Salt;
use crate::position::Position;
use crate::reader::ReadError;
use crate::record::{RecordRef, Records};
use crate::segment::Segment;
use crate::walk::{Group, Walk, WalkError};

/// Goes through the records from one position to another. Every group's
/// checksum is checked; damage ends the scan, since none of it is a torn tail.
#[derive(Debug)]
pub struct Scan<F> {
    segments: VecDeque<Arc<Segment<F>>>,
    salt: Salt,
    /// Records below are not shown.
    from: u64,
    to: u64,
    walk: Option<Walk<F>>,
    group: Option<(Group, usize)>,
}

impl<F: DiskFile> Scan<F> {
    pub(crate) fn new(
        segments: impl IntoIterator<Item = Arc<Segment<F>>>,
        salt: Salt,
        from: u64,
        to: u64,
    ) -> Self {
        let segments = segments.into_iter().collect();
        Self { segments, salt, from, to, walk: None, group: None }
    }

    /// The next record, valid until the next call; none at the end.
    ///
    /// Not an `Iterator`, so that bodies need not be copied.
    pub fn next_record(&mut self) -> Result<Option<(Position, RecordRef<'_>)>, ReadError> {
        let (at, offset) = loop {
            match self.peek()? {
                None => return Ok(None),
                Some((at, offset, _)) if at >= self.from => break (at, offset),
                Some((_, offset, len)) => self.group_mut().1 = offset + len,
            }
        };
        let (walk, (group, next)) = (
            self.walk.as_ref().expect("a group has a walk"),
            self.group.as_mut().expect("peeked three lines up"),
        );
        let record = RecordRef::decode_unchecked(&walk.body(group)[offset..])
            .map_err(|error| ReadError::Record { at: Position(at), error })?;
        *next = offset + record.len();
        Ok(Some((Position(at), record)))
    }

    /// All groups from the next one on: the position of a group's first record,
    /// and its records. Faster than one by one where there are millions.
    /// Records before the scan's beginning are included in the first group.
    pub fn for_each_group<E: From<ReadError>>(
        &mut self,
        mut f: impl FnMut(Position, Records<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.group = None;
        while let Some(group) = self.next_group()? {
            let walk = self.walk.as_ref().expect("a group has a walk");
            f(Position(group.records_at), Records::new(walk.body(&group)))?;
        }
        Ok(())
    }

    /// Position, offset in the group, and bytes of the next record.
    fn peek(&mut self) -> Result<Option<(u64, usize, usize)>, ReadError> {
        loop {
            if let (Some((group, next)), Some(walk)) = (&self.group, &self.walk) {
                let body = walk.body(group);
                if *next < body.len() {
                    let at = group.records_at + *next as u64;
                    let record = RecordRef::decode_unchecked(&body[*next..])
                        .map_err(|error| ReadError::Record { at: Position(at), error })?;
                    return Ok(Some((at, *next, record.len())));
                }
            }
            match self.next_group()? {
                None => return Ok(None),
                Some(group) => self.group = Some((group, 0)),
            }
        }
    }

    fn group_mut(&mut self) -> &mut (Group, usize) {
        self.group.as_mut().expect("a record was seen in it")
    }

    fn next_group(&mut self) -> Result<Option<Group>, ReadError> {
        loop {
            if let Some(walk) = &mut self.walk {
                match walk.next_group() {
                    Ok(Some(group)) => return Ok(Some(group)),
                    Ok(None) => self.walk = None,
                    Err(error) => return Err(self.fail(error)),
                }
            }
            let Some(segment) = self.segments.pop_front() else {
                self.group = None;
                return Ok(None);
            };
            let limit = segment.end().min(self.to);
            let mut walk = Walk::new(segment, self.salt, limit);
            if let Err(error) = walk.skip_to(self.from) {
                return Err(self.fail(error));
            }
            self.walk = Some(walk);
        }
    }

    /// Ends the scan.
    fn fail(&mut self, error: WalkError) -> ReadError {
        self.segments.clear();
        self.walk = None;
        self.group = None;
        match error {
            WalkError::Damage { at, what } => ReadError::Damage { at: Position(at), what },
            WalkError::Io(error) => ReadError::Io(error),
        }
    }
}
