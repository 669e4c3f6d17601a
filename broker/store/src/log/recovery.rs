//! Opening a log: what a crash may have left is told from damage.
//!
//! Segments are closed only when they are durable, so only the newest one can
//! have a tail. It is walked twice: through the page cache to learn up to where
//! the disk was once proven to hold it, then, from there on, past the cache,
//! since after a failed sync the kernel shows what the disk never got.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Counters, Log, Options, SegmentInfo, carry};
use crate::disk::{Disk, DiskFile, read_whole};
use crate::group::{GROUP_HEADER_BYTES, GROUP_MAGIC, GroupHeader, Salt};
use crate::limits::{MANIFEST_BYTES_MAX, SCAN_BYTES};
use crate::manifest::{MANIFEST_NAME, MANIFEST_NAME_NEW, Manifest};
use crate::position::Position;
use crate::reader::Reader;
use crate::record::{Kind, Record, RecordError, Records};
use crate::segment::{
    Before, HeaderError, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentSet, base_of,
    file_name,
};
use crate::walk::{Damage, Walk, WalkError};

/// What opening found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recovered {
    /// Where the log begins.
    pub first: Position,
    /// Where it ends; everything before is durable.
    pub end: Position,
    /// What had been written and was never proven durable.
    pub cut: Option<Cut>,
    /// Whether the log is new.
    pub created: bool,
}

/// A tail that was cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cut {
    /// Where the log now ends.
    pub at: Position,
    /// Bytes that were there.
    pub bytes: u64,
    /// What was wrong with them.
    pub what: Damage,
}

const ASIDE: &str = "move the data directory aside and restore a backup, or let the node join \
                     its cluster as a new one";

/// Why there is no log to work with. Each names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing there, and it was not to be made.
    #[error("there is no log here; if the node had one, it was lost: {ASIDE}")]
    Absent,
    /// Bytes that were durable are others now. Nothing was changed.
    #[error(
        "{file}, offset {offset}: {what}, below position {proven}, which had been durable: \
         the device or somebody changed the log; {ASIDE}"
    )]
    Corrupt {
        /// The segment.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: Damage,
        /// Up to where the log was once durable.
        proven: Position,
    },
    /// A header is damaged that had been durable. Nothing was changed.
    #[error("{file}: {error}; it had been durable: {ASIDE}")]
    Header {
        /// The file.
        file: String,
        /// What is wrong.
        error: HeaderError,
    },
    /// A record inside a valid group is not one of format 1.
    #[error("{file}, position {at}: {error}; was it written by a newer version? Start that one")]
    Record {
        /// The segment.
        file: String,
        /// The group's first record.
        at: Position,
        /// What is wrong.
        error: RecordError,
    },
    /// Written by a newer program.
    #[error("{file}: {error}; start the version that wrote it, or a newer one")]
    Newer {
        /// The file.
        file: String,
        /// The version found and the newest known.
        error: HeaderError,
    },
    /// A segment is missing or has another length than when it was closed.
    #[error("{file} ends at position {end}, the log goes on at {next}: bytes are missing; {ASIDE}")]
    Gap {
        /// The segment before the gap.
        file: String,
        /// Where it ends.
        end: Position,
        /// Where the next segment begins.
        next: Position,
    },
    /// The log does not begin or end where the manifest says.
    #[error("the log goes from {first} to {end}, the manifest needs {need}: {ASIDE}")]
    Lost {
        /// Where the log begins.
        first: Position,
        /// Where it ends.
        end: Position,
        /// What has to be inside.
        need: Position,
    },
    /// Another node's or store's file.
    #[error(
        "{file} belongs to store {found:032x}, not to {store:032x}: put the right directory back"
    )]
    OtherStore {
        /// The file.
        file: String,
        /// Whose it is.
        found: u128,
        /// Who we are.
        store: u128,
    },
    /// The device's answer.
    #[error("{file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        error: io::Error,
    },
}

fn io_of(file: &str) -> impl Fn(io::Error) -> OpenError + '_ {
    move |error| OpenError::Io { file: file.into(), error }
}

/// The newest segment as it was found.
struct Tail<F> {
    segment: Arc<Segment<F>>,
    end: u64,
    before: Before,
    carried: BTreeMap<(u16, Kind), Record>,
    cut: Option<Cut>,
}

impl<D: Disk> Log<D> {
    /// Opens the log of a directory, or makes it. Reads the newest segment;
    /// older ones are checked by whoever scans them.
    ///
    /// A torn tail is cut. Damage to what was durable is refused, and then
    /// nothing has been changed.
    pub fn open(disk: D, options: Options) -> Result<(Self, Recovered), OpenError> {
        let recovery = Recovery { disk, salt: Salt::new(options.store), options };
        recovery.run()
    }

    /// Looks at the log of a directory that nobody has open, and changes nothing.
    pub fn inspect(disk: D, store: u128) -> Result<Inspection<D>, OpenError> {
        let options = Options::new(store);
        Recovery { disk, salt: Salt::new(store), options }.inspect()
    }
}

/// A log that is looked at and left as it is.
#[derive(Debug)]
pub struct Inspection<D: Disk> {
    /// What opening would find, a tail that it would cut included.
    pub recovered: Recovered,
    /// Where recovery would begin.
    pub manifest: Manifest,
    /// The segments, oldest first.
    pub segments: Vec<SegmentInfo>,
    /// Reads it; scan from [`Recovered::first`] to check every group.
    pub reader: Reader<D>,
}

struct Recovery<D> {
    disk: D,
    options: Options,
    salt: Salt,
}

impl<D: Disk> Recovery<D> {
    fn run(self) -> Result<(Log<D>, Recovered), OpenError> {
        let seen = match self.look()? {
            Look::Nothing => return self.create(false),
            Look::Unborn => return self.create(true),
            Look::Log(seen) => seen,
        };
        let Seen { first, tail, mut list, manifest, leftovers } = seen;
        self.settle(&tail, &leftovers)?;
        list.push(tail.segment.clone());
        let recovered = Recovered {
            first: Position(first),
            end: Position(tail.end),
            cut: tail.cut,
            created: false,
        };
        let log = Log {
            disk: self.disk,
            salt: self.salt,
            options: self.options,
            set: Arc::new(SegmentSet::new(list, tail.end)),
            active: tail.segment,
            end: tail.end,
            synced: tail.end,
            before: tail.before,
            carried: tail.carried,
            manifest,
            doomed: Vec::new(),
            failed: None,
            counters: Counters::default(),
        };
        Ok((log, recovered))
    }

    fn inspect(self) -> Result<Inspection<D>, OpenError> {
        let seen = match self.look()? {
            Look::Nothing => return Err(OpenError::Absent),
            Look::Unborn => return Err(self.header_lost(0)),
            Look::Log(seen) => seen,
        };
        let Seen { first, tail, mut list, manifest, leftovers: _ } = seen;
        tail.segment.end.store(tail.end, Ordering::Release);
        list.push(tail.segment);
        let set = Arc::new(SegmentSet::new(list, tail.end));
        Ok(Inspection {
            recovered: Recovered {
                first: Position(first),
                end: Position(tail.end),
                cut: tail.cut,
                created: false,
            },
            manifest,
            segments: super::retention::infos(&set),
            reader: Reader::new(set, self.salt),
        })
    }

    /// Finds out what there is, and changes nothing.
    fn look(&self) -> Result<Look<D::File>, OpenError> {
        let manifest = self.manifest()?;
        let first = manifest.as_ref().map_or(0, |manifest| manifest.first.0);
        let names = self.disk.list().map_err(io_of("the directory"))?;
        let mut bases: Vec<u64> = names.iter().filter_map(|name| base_of(name)).collect();
        bases.sort_unstable();
        let mut leftovers: Vec<u64> = bases.iter().copied().filter(|&base| base < first).collect();
        bases.retain(|&base| base >= first);
        if bases.is_empty() && manifest.is_none() && leftovers.is_empty() {
            return Ok(Look::Nothing);
        }
        if bases.first() != Some(&first) {
            let at = Position(bases.first().copied().unwrap_or(0));
            return Err(OpenError::Lost { first: at, end: at, need: Position(first) });
        }
        let tail = match self.tail(&bases, first)? {
            Found::Tail(tail) => tail,
            Found::Unborn if bases.len() > 1 => {
                // The power went while it was being made. Its name alone proves
                // that the one before was durable up to here.
                let unborn = bases.pop().expect("two or more");
                leftovers.push(unborn);
                match self.tail(&bases, unborn)? {
                    Found::Tail(tail) => tail,
                    Found::Unborn => return Err(self.header_lost(first)),
                }
            }
            Found::Unborn if first == 0 && manifest.is_none() => return Ok(Look::Unborn),
            Found::Unborn => return Err(self.header_lost(first)),
        };
        let manifest = manifest.unwrap_or_default();
        let snapshots = manifest.partitions.iter().map(|point| point.snapshot);
        let need = snapshots.chain([manifest.durable]).max().unwrap_or_default();
        if need.0 > tail.end {
            let [first, end] = [first, tail.end].map(Position);
            return Err(OpenError::Lost { first, end, need });
        }
        let list = self.sealed(&bases, tail.segment.base)?;
        Ok(Look::Log(Seen { first, tail, list, manifest, leftovers }))
    }

    fn manifest(&self) -> Result<Option<Manifest>, OpenError> {
        let file = MANIFEST_NAME;
        let read = read_whole(&self.disk, file, MANIFEST_BYTES_MAX).map_err(io_of(file))?;
        let Some(bytes) = read else { return Ok(None) };
        let (manifest, found) = Manifest::decode(&bytes).map_err(|error| header(file, error))?;
        self.same_store(file, found)?;
        Ok(Some(manifest))
    }

    fn same_store(&self, file: &str, found: u128) -> Result<(), OpenError> {
        let store = self.options.store;
        if found == store {
            return Ok(());
        }
        Err(OpenError::OtherStore { file: file.into(), found, store })
    }

    /// A log without a record; `remains`: of an attempt that was cut short.
    fn create(self, remains: bool) -> Result<(Log<D>, Recovered), OpenError> {
        if !self.options.create {
            return Err(if remains { self.header_lost(0) } else { OpenError::Absent });
        }
        let file = file_name(0);
        let io_error = io_of(&file);
        let handle = self.disk.create(&file).map_err(&io_error)?;
        let before = Before { number: 0, chain: 0 };
        // `begin_segment` replaces it; this one only fills the place.
        let unborn = Arc::new(Segment::new(0, handle, before, 0));
        let mut log = Log {
            disk: self.disk,
            salt: self.salt,
            options: self.options,
            set: Arc::new(SegmentSet::new(Vec::new(), 0)),
            active: unborn,
            end: 0,
            synced: 0,
            before,
            carried: BTreeMap::new(),
            manifest: Manifest::default(),
            doomed: Vec::new(),
            failed: None,
            counters: Counters::default(),
        };
        let segment = log.begin_segment(0).map_err(|begin| io_error(begin.into_io()))?;
        log.set.write(|list| list.push(segment.clone()));
        log.active = segment;
        log.synced_to(log.end);
        let recovered =
            Recovered { first: Position(0), end: Position(log.end), cut: None, created: true };
        Ok((log, recovered))
    }

    fn header_lost(&self, base: u64) -> OpenError {
        OpenError::Header { file: file_name(base), error: HeaderError::Damaged }
    }

    /// Opens a segment by its header. None: the header is damaged.
    fn open(&self, base: u64) -> Result<(D::File, u64, Option<SegmentHeader>), OpenError> {
        let name = file_name(base);
        let io_error = io_of(&name);
        let file = self.disk.open(&name).map_err(&io_error)?;
        let bytes = file.bytes().map_err(&io_error)?;
        let mut head = [0; SEGMENT_HEADER_BYTES];
        let read = file.read_at(0, &mut head).map_err(&io_error)?;
        match SegmentHeader::decode(&head[..read]) {
            Ok(header) if header.base == base => {
                self.same_store(&name, header.store)?;
                Ok((file, bytes, Some(header)))
            }
            Ok(_) | Err(HeaderError::Damaged) => Ok((file, bytes, None)),
            Err(newer @ HeaderError::Newer { .. }) => Err(header(&name, newer)),
        }
    }

    /// Every segment but the newest: whole, by their lengths.
    fn sealed(&self, bases: &[u64], newest: u64) -> Result<Vec<Arc<Segment<D::File>>>, OpenError> {
        let mut list = Vec::with_capacity(bases.len());
        for (i, &base) in bases.iter().enumerate().filter(|(_, base)| **base < newest) {
            let (file, bytes, head) = self.open(base)?;
            let Some(head) = head else { return Err(self.header_lost(base)) };
            let end = base + bytes.saturating_sub(SEGMENT_HEADER_BYTES as u64);
            let next = bases[i + 1];
            if end != next {
                let [end, next] = [end, next].map(Position);
                return Err(OpenError::Gap { file: file_name(base), end, next });
            }
            let before = Before { number: head.number, chain: head.chain };
            list.push(Arc::new(Segment::new(base, file, before, end)));
        }
        Ok(list)
    }

    /// Reads the newest segment, of which all below `durable` was. Changes nothing.
    fn tail(&self, bases: &[u64], durable: u64) -> Result<Found<D::File>, OpenError> {
        let base = *bases.last().expect("there is one");
        let (file, bytes, head) = self.open(base)?;
        let limit = base + bytes.saturating_sub(SEGMENT_HEADER_BYTES as u64);
        let name = file_name(base);
        let Some(head) = head else {
            // A header is durable before anything is written after it.
            let before = Before { number: 0, chain: 0 };
            let segment = Segment::new(base, file, before, limit);
            let group = self.search(&segment, base, limit).map_err(io_of(&name))?;
            let proven = group.any || base < durable;
            return if proven { Err(self.header_lost(base)) } else { Ok(Found::Unborn) };
        };
        let before = Before { number: head.number, chain: head.chain };
        let segment = Arc::new(Segment::new(base, file, before, limit));
        let mut proven = base.max(durable.min(limit));
        let mut walk = Walk::new(segment.clone(), self.salt, limit);
        let damage = loop {
            match walk.next_group() {
                Ok(Some(group)) => proven = proven.max(group.header.durable),
                Ok(None) => break None,
                Err(WalkError::Io(error)) => return Err(io_of(&name)(error)),
                Err(WalkError::Damage { at, what }) => break Some((at, what)),
            }
        };
        if let Some((at, what)) = damage {
            // The rest is cut only if nothing valid in it says that this was durable.
            let later = self.search(&segment, at, limit).map_err(io_of(&name))?.durable;
            let later = later.max(durable);
            if later > at {
                return Err(corrupt(&segment, at, what, later));
            }
        } else if limit < durable {
            let [end, next] = [limit, durable].map(Position);
            return Err(OpenError::Gap { file: name, end, next });
        }
        self.walk_tail(&segment, proven, limit)
    }

    /// The second walk: what lies beyond `proven` counts as the device has it.
    fn walk_tail(
        &self,
        segment: &Arc<Segment<D::File>>,
        proven: u64,
        limit: u64,
    ) -> Result<Found<D::File>, OpenError> {
        let name = file_name(segment.base);
        let mut carried = BTreeMap::new();
        let mut walk = Walk::new(segment.clone(), self.salt, limit).device_from(proven);
        let cut = loop {
            match walk.next_group() {
                Ok(Some(group)) => {
                    for record in Records::new(walk.body(&group)) {
                        let (_, record) = record.map_err(|error| OpenError::Record {
                            file: name.clone(),
                            at: Position(group.records_at),
                            error,
                        })?;
                        if record.kind.is_carried() {
                            carry(&mut carried, &record);
                        }
                    }
                }
                Ok(None) => break None,
                Err(WalkError::Io(error)) => return Err(io_of(&name)(error)),
                Err(WalkError::Damage { at, what }) if at < proven => {
                    return Err(corrupt(segment, at, what, proven));
                }
                Err(WalkError::Damage { at, what }) => {
                    break Some(Cut { at: Position(at), bytes: limit - at, what });
                }
            }
        };
        if walk.at() == segment.base {
            // Not even what is carried into it: it was still being made.
            return Ok(Found::Unborn);
        }
        let (end, before) = (walk.at(), walk.before());
        Ok(Found::Tail(Tail { segment: segment.clone(), end, before, carried, cut }))
    }

    /// Looks for valid group headers anywhere in a range.
    fn search(&self, segment: &Segment<D::File>, from: u64, to: u64) -> io::Result<Proof> {
        let mut proof = Proof { any: false, durable: 0 };
        let magic = GROUP_MAGIC.to_le_bytes();
        let mut buf = vec![0; SCAN_BYTES + GROUP_HEADER_BYTES];
        let mut at = from;
        while at < to {
            let want = buf.len().min((to - at) as usize);
            let read = segment.file.read_at(segment.offset(at), &mut buf[..want])?;
            let bytes = &buf[..read];
            let mut i = 0;
            while let Some(found) = bytes[i..].iter().position(|&byte| byte == magic[0]) {
                i += found;
                let place = at + i as u64;
                if let Some((header, _)) = GroupHeader::decode(&bytes[i..], self.salt, place) {
                    proof.any = true;
                    proof.durable = proof.durable.max(header.durable);
                }
                i += 1;
            }
            at += SCAN_BYTES as u64;
        }
        Ok(proof)
    }

    /// The first changes: the tail is cut, leftovers go, and what was read past
    /// the cache is made to stay.
    fn settle(&self, tail: &Tail<D::File>, leftovers: &[u64]) -> Result<(), OpenError> {
        let segment = &tail.segment;
        let name = file_name(segment.base);
        if tail.cut.is_some() {
            segment.file.truncate(segment.offset(tail.end)).map_err(io_of(&name))?;
        }
        // Also without a cut: what was read may be in the device's memory only.
        segment.file.sync_data().map_err(io_of(&name))?;
        segment.end.store(tail.end, Ordering::Release);
        for &base in leftovers {
            self.disk.remove(&file_name(base)).map_err(io_of(&file_name(base)))?;
        }
        match self.disk.remove(MANIFEST_NAME_NEW) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_of(MANIFEST_NAME_NEW)(error));
            }
            Ok(()) | Err(_) => {}
        }
        // Also where nothing changed now: a name may be in memory only.
        self.disk.sync_dir().map_err(io_of("the directory"))
    }
}

enum Look<F> {
    Nothing,
    /// The first segment was begun, and never finished.
    Unborn,
    Log(Seen<F>),
}

struct Seen<F> {
    first: u64,
    tail: Tail<F>,
    /// The segments before the tail's.
    list: Vec<Arc<Segment<F>>>,
    manifest: Manifest,
    /// Segments that do not count.
    leftovers: Vec<u64>,
}

enum Found<F> {
    Tail(Tail<F>),
    /// Begun, and never finished: nothing was ever written after its head.
    Unborn,
}

struct Proof {
    any: bool,
    durable: u64,
}

impl super::Begin {
    fn into_io(self) -> io::Error {
        match self {
            Self::Full => io::ErrorKind::StorageFull.into(),
            Self::Fatal(fatal) => io::Error::other(fatal),
        }
    }
}

fn header(file: &str, error: HeaderError) -> OpenError {
    let file = file.into();
    match error {
        HeaderError::Damaged => OpenError::Header { file, error },
        HeaderError::Newer { .. } => OpenError::Newer { file, error },
    }
}

fn corrupt<F>(segment: &Segment<F>, at: u64, what: Damage, proven: u64) -> OpenError {
    OpenError::Corrupt {
        file: file_name(segment.base),
        offset: segment.offset(at),
        what,
        proven: Position(proven),
    }
}
