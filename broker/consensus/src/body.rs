//! The bodies of snapshots and of entries, where they lie: a state machine may
//! leave there what it needs seldom.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tidegate_store::raft::{RaftLog, Writer};
use tidegate_store::{Disk, DiskFile};

use crate::receive::Spool;
use crate::snapshot::Stored;

/// What takes the next bytes of a state that is handed out.
pub type Put<'p> = &'p mut dyn FnMut(&[u8]) -> io::Result<()>;

/// A state that is handed out piece by piece, on a thread that may block.
pub trait SnapshotSource: Send + 'static {
    /// Hands out all of it, in order, to be written.
    ///
    /// # Errors
    /// What is missing cannot be read, or what `put` says. The snapshot is not
    /// made then.
    fn write(&mut self, put: Put<'_>) -> io::Result<()>;

    /// All of it is durable, and stays readable in `body` for as long as that is
    /// kept. Not called if a newer snapshot was there already.
    fn saved(self: Box<Self>, body: Body);
}

impl SnapshotSource for Bytes {
    fn write(&mut self, put: Put<'_>) -> io::Result<()> {
        put(self)
    }

    fn saved(self: Box<Self>, _: Body) {}
}

trait Readable: Send + Sync {
    fn bytes(&self) -> u64;
    fn read(&self, offset: u64, bytes: usize) -> io::Result<Bytes>;
}

impl<F: DiskFile> Readable for Stored<F> {
    fn bytes(&self) -> u64 {
        self.header.body_bytes
    }

    fn read(&self, offset: u64, bytes: usize) -> io::Result<Bytes> {
        Stored::read(self, offset, bytes)
    }
}

impl Readable for Bytes {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, bytes: usize) -> io::Result<Bytes> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(self.len());
        Ok(self.slice(from..from + bytes.min(self.len() - from)))
    }
}

impl<F: DiskFile> Readable for Spool<F> {
    fn bytes(&self) -> u64 {
        Spool::bytes(self)
    }

    fn read(&self, offset: u64, bytes: usize) -> io::Result<Bytes> {
        Spool::read(self, offset, bytes)
    }
}

/// A snapshot's body, to be read from anywhere. Its file stays readable while
/// this is kept, also when a newer one has taken its place.
#[derive(Clone)]
pub struct Body(Arc<dyn Readable>);

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.bytes())
    }
}

/// One in memory, as tests have it.
impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Arc::new(bytes))
    }
}

impl Body {
    pub(crate) fn of<F: DiskFile>(stored: Stored<F>) -> Self {
        Self(Arc::new(stored))
    }

    pub(crate) fn of_spool<F: DiskFile>(spool: Spool<F>) -> Self {
        Self(Arc::new(spool))
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// A piece of it, shorter only at its end. Blocks on the disk. What comes is
    /// what the device says: it was held against its checksum as a whole when it
    /// was written or opened, and not again.
    ///
    /// # Errors
    /// The device's.
    pub fn read(&self, offset: u64, bytes: usize) -> io::Result<Bytes> {
        self.0.read(offset, bytes)
    }

    /// All of it.
    ///
    /// # Errors
    /// The device's.
    pub fn read_all(&self) -> io::Result<Bytes> {
        self.read(0, usize::MAX)
    }
}

/// Reads payloads of a group's log by their index, each held against its
/// checksum. Keeps the last one that was read.
pub struct Entries {
    read: Box<dyn FnMut(u64) -> io::Result<Option<Bytes>> + Send>,
    last: Option<(u64, Bytes)>,
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries")
            .field("last", &self.last.as_ref().map(|(index, _)| index))
            .finish()
    }
}

impl Entries {
    pub(crate) fn of<D: Disk, W: Writer>(log: &RaftLog<D, W>) -> Self {
        let mut log = log.clone();
        Self { read: Box::new(move |index| log.entry(index)), last: None }
    }

    /// The payload of an entry; none: the log does not have it any more. Blocks
    /// on the disk.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written.
    pub fn get(&mut self, index: u64) -> io::Result<Option<Bytes>> {
        if let Some((_, payload)) = self.last.as_ref().filter(|(last, _)| *last == index) {
            return Ok(Some(payload.clone()));
        }
        self.last = None;
        let payload = (self.read)(index)?;
        self.last = payload.clone().map(|payload| (index, payload));
        Ok(payload)
    }
}
