//! Copies of a log: made while it is written, checked, and put back.
//!
//! A copy is a directory with the segments up to what was durable, the
//! manifest, and a list of checksums, written last: without it a copy is
//! unfinished. The list is text, so that other tools can read it:
//!
//! ```text
//! tidegate-log-copy 1
//! store 0123456789abcdef0123456789abcdef
//! durable 4711
//! <crc32c, 8 hex digits> <bytes> <name>
//! ...
//! end <crc32c of the lines above>
//! ```
//!
//! A copy keeps the store's id. Put back on a node that is alone it continues
//! that node; in a cluster a restored node has to join as a new one, since it
//! has forgotten votes that others counted.

use std::io::{self, IoSlice};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, read_whole};
use crate::limits::COPY_BYTES;
use crate::manifest::{MANIFEST_NAME, Manifest};
use crate::reader::Pin;
use crate::segment::{Segment, SegmentSet, base_of, file_name};

/// The name of the list.
pub const LIST_NAME: &str = "checksums";

const LIST_BYTES_MAX: u64 = 16 << 20;

/// A file of a copy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CopiedFile {
    /// Its name in the directory.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// CRC32C of its content.
    pub crc: u32,
}

/// What a copy consists of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listing {
    /// The store it is of.
    pub store: u128,
    /// The position up to which it goes.
    pub durable: u64,
    /// Segments and manifest.
    pub files: Vec<CopiedFile>,
}

/// Why there is no copy, or not a good one.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It has no list, or one that is not whole: the copy was not finished.
    #[error("the copy is unfinished: its list of checksums {0}")]
    Unfinished(&'static str),
    /// A file is not what was copied.
    #[error("{name} is damaged: {bytes} bytes with checksum {crc:08x}, the list says {want:?}")]
    Damaged {
        /// Which.
        name: String,
        /// Its size.
        bytes: u64,
        /// Its checksum.
        crc: u32,
        /// What it was.
        want: CopiedFile,
    },
    /// There is a log in the place already.
    #[error("there is already a log ({0}): choose an empty directory")]
    NotEmpty(String),
    /// The system's answer.
    #[error("{file}: {error}")]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        error: io::Error,
    },
}

fn io_of(file: &str) -> impl Fn(io::Error) -> BackupError + '_ {
    move |error| BackupError::Io { file: file.into(), error }
}

/// A copy to be made, of what was durable when it was asked for.
#[derive(Debug)]
pub struct Backup<D: Disk> {
    segments: Vec<Arc<Segment<D::File>>>,
    manifest: Manifest,
    store: u128,
    _pin: Pin<D>,
}

impl<D: Disk> Backup<D> {
    pub(crate) fn new(
        set: Arc<SegmentSet<D::File>>,
        pin: Pin<D>,
        store: u128,
        manifest: Manifest,
    ) -> Self {
        let durable = manifest.durable.0;
        let segments = set
            .read(|list| list.iter().filter(|segment| segment.base < durable).cloned().collect());
        Self { segments, manifest, store, _pin: pin }
    }

    /// Bytes that it will have.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| self.bytes_of(segment)).sum()
    }

    /// Writes it into an empty directory, durably. `progress` is told of the
    /// bytes of each piece.
    pub fn copy_to(
        self,
        to: &impl Disk,
        mut progress: impl FnMut(u64),
    ) -> Result<Listing, BackupError> {
        must_be_empty(to)?;
        let mut files = Vec::new();
        for segment in &self.segments {
            let name = file_name(segment.base);
            files.push(copy(&segment.file, self.bytes_of(segment), to, &name, &mut progress)?);
        }
        let manifest = self.manifest.encode(self.store);
        files.push(write(to, MANIFEST_NAME, &manifest)?);
        let listing = Listing { store: self.store, durable: self.manifest.durable.0, files };
        // The list makes it a copy, so all the rest is durable before it.
        to.sync_dir().map_err(io_of("the directory"))?;
        write(to, LIST_NAME, listing.to_text().as_bytes())?;
        to.sync_dir().map_err(io_of("the directory"))?;
        Ok(listing)
    }

    fn bytes_of(&self, segment: &Segment<D::File>) -> u64 {
        segment.offset(segment.end().min(self.manifest.durable.0))
    }
}

/// Checks every file of a copy against its list. That the log in it can be
/// opened, [`Log::inspect`](crate::Log::inspect) and a scan say.
pub fn verify(copy: &impl Disk) -> Result<Listing, BackupError> {
    let listing = Listing::read(copy)?;
    for want in &listing.files {
        let file = copy.open(&want.name).map_err(io_of(&want.name))?;
        let bytes = file.bytes().map_err(io_of(&want.name))?;
        let mut crc = 0;
        each_piece(&file, bytes, &want.name, |piece| {
            crc = crc32c::crc32c_append(crc, piece);
            Ok(())
        })?;
        same(want, bytes, crc)?;
    }
    Ok(listing)
}

/// Puts a copy back into an empty directory, durably; every byte is checked on
/// its way, and nothing there counts as a log before all is.
pub fn restore(copy_of: &impl Disk, to: &impl Disk) -> Result<Listing, BackupError> {
    must_be_empty(to)?;
    let listing = verify(copy_of)?;
    // The manifest first: it says how far the log goes, so that what is put back
    // in part is refused and not taken for a log with a torn tail.
    let (manifest, segments): (Vec<_>, Vec<_>) =
        listing.files.iter().partition(|file| file.name == MANIFEST_NAME);
    for want in manifest.into_iter().chain(segments) {
        let file = copy_of.open(&want.name).map_err(io_of(&want.name))?;
        let put = copy(&file, want.bytes, to, &want.name, &mut |_| {})?;
        same(want, put.bytes, put.crc)?;
        to.sync_dir().map_err(io_of("the directory"))?;
    }
    Ok(listing)
}

impl Listing {
    fn to_text(&self) -> String {
        let Self { store, durable, files } = self;
        let mut text = format!("tidegate-log-copy 1\nstore {store:032x}\ndurable {durable}\n");
        for CopiedFile { name, bytes, crc } in files {
            text += &format!("{crc:08x} {bytes} {name}\n");
        }
        let crc = crc32c::crc32c(text.as_bytes());
        text + &format!("end {crc:08x}\n")
    }

    /// The list of a copy.
    pub fn read(copy: &impl Disk) -> Result<Self, BackupError> {
        let bytes = read_whole(copy, LIST_NAME, LIST_BYTES_MAX).map_err(io_of(LIST_NAME))?;
        let bytes = bytes.ok_or(BackupError::Unfinished("is missing"))?;
        Self::parse(&bytes).ok_or(BackupError::Unfinished("is damaged"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (lines, end) = text.strip_suffix('\n')?.rsplit_once("\nend ")?;
        if end.len() != 8 {
            return None;
        }
        let mut lines = lines.lines();
        if lines.next()? != "tidegate-log-copy 1" {
            return None;
        }
        let store = lines.next()?.strip_prefix("store ")?;
        let durable = lines.next()?.strip_prefix("durable ")?.parse().ok()?;
        let file = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let crc = u32::from_str_radix(words.next()?, 16).ok()?;
            let bytes = words.next()?.parse().ok()?;
            let name = words.next()?.to_owned();
            // No name leads out of the directory.
            let ours = base_of(&name).is_some() || name == MANIFEST_NAME;
            ours.then_some(CopiedFile { name, bytes, crc })
        };
        let files = lines.map(file).collect::<Option<_>>()?;
        let listing = Self { store: u128::from_str_radix(store, 16).ok()?, durable, files };
        // One way to write it: a digit in another case is damage too.
        (listing.to_text().as_bytes() == bytes).then_some(listing)
    }
}

fn must_be_empty(to: &impl Disk) -> Result<(), BackupError> {
    let names = to.list().map_err(io_of("the directory"))?;
    let ours = |name: &String| base_of(name).is_some() || name == MANIFEST_NAME;
    match names.into_iter().find(ours) {
        Some(name) => Err(BackupError::NotEmpty(name)),
        None => Ok(()),
    }
}

fn same(want: &CopiedFile, bytes: u64, crc: u32) -> Result<(), BackupError> {
    if (bytes, crc) == (want.bytes, want.crc) {
        return Ok(());
    }
    Err(BackupError::Damaged { name: want.name.clone(), bytes, crc, want: want.clone() })
}

fn write(to: &impl Disk, name: &str, content: &[u8]) -> Result<CopiedFile, BackupError> {
    let file = to.create(name).map_err(io_of(name))?;
    file.write_at(0, &[IoSlice::new(content)]).map_err(io_of(name))?;
    file.sync_data().map_err(io_of(name))?;
    let (bytes, crc) = (content.len() as u64, crc32c::crc32c(content));
    Ok(CopiedFile { name: name.into(), bytes, crc })
}

fn copy(
    from: &impl DiskFile,
    bytes: u64,
    to: &impl Disk,
    name: &str,
    progress: &mut impl FnMut(u64),
) -> Result<CopiedFile, BackupError> {
    let file = to.create(name).map_err(io_of(name))?;
    let (mut crc, mut at) = (0, 0);
    each_piece(from, bytes, name, |piece| {
        crc = crc32c::crc32c_append(crc, piece);
        file.write_at(at, &[IoSlice::new(piece)]).map_err(io_of(name))?;
        at += piece.len() as u64;
        progress(piece.len() as u64);
        Ok(())
    })?;
    file.sync_data().map_err(io_of(name))?;
    Ok(CopiedFile { name: name.into(), bytes, crc })
}

/// Reads the first bytes of a file, all of which have to be there.
fn each_piece(
    file: &impl DiskFile,
    bytes: u64,
    name: &str,
    mut f: impl FnMut(&[u8]) -> Result<(), BackupError>,
) -> Result<(), BackupError> {
    let mut buf = vec![0; COPY_BYTES];
    let mut at = 0;
    while at < bytes {
        let want = buf.len().min((bytes - at) as usize);
        let read = file.read_at(at, &mut buf[..want]).map_err(io_of(name))?;
        if read < want {
            return Err(io_of(name)(io::ErrorKind::UnexpectedEof.into()));
        }
        f(&buf[..read])?;
        at += read as u64;
    }
    Ok(())
}
