//! The files of a log, as a trait: real ones, or a simulated disk with faults.
//!
//! One directory, no subdirectories. The trait says what is durable when, and
//! no more: what was written to a file is after its `sync_data`, and a file's
//! name (new, renamed, removed) is after `sync_dir`.

mod file;
mod sim;

use std::io::{self, IoSlice};

pub use file::FileDisk;
pub(crate) use file::sync_parent;
pub use sim::{Fault, SimDisk};

/// A directory with the log's files.
pub trait Disk: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// An open file.
    type File: DiskFile;

    /// Makes an empty file, also where there is one of this name.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file that is there, to read and write.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// The names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Puts one file in the place of another, at once.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes the name; who has the file open may go on reading it.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes names durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// How full the file system is.
    fn space(&self) -> io::Result<Space>;
}

/// An open file.
pub trait DiskFile: std::fmt::Debug + Send + Sync + 'static {
    /// Whether its calls may take as long as a device does. Of one that never
    /// blocks they are made in place, which keeps a simulation in its order.
    const BLOCKS: bool = true;

    /// Writes all parts one after the other from `offset` on, or fails with an
    /// unknown part of them written.
    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()>;

    /// Fills `buf` from `offset` on; less than all of it only at the file's end.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// The same, but what the device holds and not what the kernel remembers:
    /// after a failed sync the two may differ.
    fn read_device_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Makes the content and the length durable. Never retried by the caller.
    fn sync_data(&self) -> io::Result<()>;

    /// Bytes of the file.
    fn bytes(&self) -> io::Result<u64>;

    /// Cuts the file.
    fn truncate(&self, bytes: u64) -> io::Result<()>;
}

/// How full a file system is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Space {
    /// What we may still write.
    pub free: u64,
    /// All that we could ever write.
    pub total: u64,
}

/// Reads a whole small file; none if there is no such file.
pub(crate) fn read_whole<D: Disk>(
    disk: &D,
    name: &str,
    bytes_max: u64,
) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let bytes = file.bytes()?;
    if bytes > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{name}: {bytes} bytes")));
    }
    let mut buf = vec![0; bytes as usize];
    let read = file.read_at(0, &mut buf)?;
    buf.truncate(read);
    Ok(Some(buf))
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
