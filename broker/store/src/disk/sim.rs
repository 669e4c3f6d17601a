//! A disk in memory that loses what a disk may lose.
//!
//! The caller seeds it; the same seed and the same calls give the same bytes.
//! A crash keeps of each file what was synced, and of what was not any of its
//! sectors, one of them torn; and of the directory's changes since its last
//! sync a prefix, often none.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, DiskFile, Space};

/// What a disk writes all or nothing of.
const SECTOR: usize = 512;

/// Something that goes wrong once, some operations from now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// A write or the making of a file fails half-way with EIO.
    WriteError,
    /// A sync fails with EIO, and what it should have written is dropped: the
    /// page cache still shows it, and the next sync reports success.
    SyncError,
    /// The power goes: this operation happens half or not, and none after it.
    PowerCut,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// An open file of it. Of no use after a crash.
#[derive(Debug)]
pub struct File {
    state: Arc<Mutex<State>>,
    id: u64,
    /// The boot it was opened in.
    boot: u64,
}

#[derive(Debug)]
struct State {
    random: u64,
    boot: u64,
    off: bool,
    files: BTreeMap<u64, Inode>,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    changes: Vec<Change>,
    next_id: u64,
    capacity: u64,
    faults: Vec<(u64, Fault)>,
    operations: u64,
    ticks: u64,
    write_ticks: u64,
    sync_ticks: u64,
    written: u64,
    dir_syncs_skipped: bool,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What a read shows.
    cache: Vec<u8>,
    /// What the device holds.
    device: Vec<u8>,
    /// Sectors that the next sync writes.
    dirty: BTreeSet<usize>,
    /// Whether the length has to be written too.
    resized: bool,
}

#[derive(Clone, Debug)]
enum Change {
    Link(String, u64),
    Rename(String, String),
    Unlink(String),
}

impl SimDisk {
    /// An empty disk with room for everything.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: seed,
            boot: 0,
            off: false,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            names_durable: BTreeMap::new(),
            changes: Vec::new(),
            next_id: 0,
            capacity: u64::MAX,
            faults: Vec::new(),
            operations: 0,
            ticks: 0,
            write_ticks: 0,
            sync_ticks: 0,
            written: 0,
            dir_syncs_skipped: false,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Lets the `nth` operation from now that changes something (1: the next)
    /// end in `fault`; one that the fault does not concern passes it on.
    pub fn plant(&self, nth: u64, fault: Fault) {
        let mut state = self.lock();
        let at = state.operations + nth;
        state.faults.push((at, fault));
    }

    /// Operations so far that changed something.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// How much fits; less than there is lets every write that grows a file fail.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// How long operations take: for each begun 4 KiB of a write, and a sync.
    pub fn set_ticks(&self, write: u64, sync: u64) {
        let mut state = self.lock();
        (state.write_ticks, state.sync_ticks) = (write, sync);
    }

    /// How long all operations so far took.
    pub fn ticks(&self) -> u64 {
        self.lock().ticks
    }

    /// Bytes of all writes so far.
    pub fn written(&self) -> u64 {
        self.lock().written
    }

    /// A disk that only pretends to sync its directory: for tests of checkers.
    pub fn skip_dir_syncs(&self) {
        self.lock().dir_syncs_skipped = true;
    }

    /// The power is back: what was not synced is lost, in part or whole, and
    /// files that were open are of no use.
    pub fn crash(&self) {
        self.lock().crash();
    }

    /// The process ended, the machine did not: nothing is lost, but files that
    /// were open are of no use.
    pub fn reopen(&self) {
        let mut state = self.lock();
        state.boot += 1;
        state.off = false;
        state.faults.clear();
    }

    /// Changes one byte of a file on the device and in the cache.
    ///
    /// # Panics
    ///
    /// If there is no such byte.
    pub fn damage(&self, name: &str, offset: u64, mask: u8) {
        let mut state = self.lock();
        let id = state.names[name];
        let inode = state.files.get_mut(&id).expect("a name leads to a file");
        inode.cache[offset as usize] ^= mask;
        if let Some(byte) = inode.device.get_mut(offset as usize) {
            *byte ^= mask;
        }
    }

    /// What a read of the whole file would show.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        state.names.get(name).map(|id| state.files[id].cache.clone())
    }

    /// Puts a durable file there.
    pub fn put(&self, name: &str, content: &[u8]) {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        let inode = Inode { cache: content.to_vec(), device: content.to_vec(), ..Inode::default() };
        state.files.insert(id, inode);
        state.names.insert(name.into(), id);
        state.names_durable.insert(name.into(), id);
    }

    /// A disk of its own with the same content and no faults, seeded anew.
    pub fn fork(&self, seed: u64) -> Self {
        let fork = Self::new(seed);
        {
            let from = self.lock();
            let mut to = fork.lock();
            to.files = from.files.clone();
            to.names = from.names.clone();
            to.names_durable = from.names_durable.clone();
            to.changes = from.changes.clone();
            to.next_id = from.next_id;
        }
        fork
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an operation has to do in place of its work.
enum Verdict {
    Go,
    Fail(Fault),
}

impl State {
    fn random(&mut self) -> u64 {
        // splitmix64: short, and good enough to choose sectors.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random() % bound.max(1) as u64) as usize
    }

    /// Counts an operation and says which fault is due; one that does not
    /// concern it waits for the next operation.
    fn begin(&mut self, concerns: impl Fn(Fault) -> bool) -> io::Result<Verdict> {
        if self.off {
            return Err(off());
        }
        self.operations += 1;
        let now = self.operations;
        let due = self.faults.iter().position(|&(at, fault)| at <= now && concerns(fault));
        let Some(due) = due else { return Ok(Verdict::Go) };
        let (_, fault) = self.faults.swap_remove(due);
        self.off |= fault == Fault::PowerCut;
        Ok(Verdict::Fail(fault))
    }

    fn used(&self) -> u64 {
        self.names.values().map(|id| self.files[id].cache.len() as u64).sum()
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    /// An operation on names: it happens or, at a power cut, by chance.
    fn change_names(&mut self, change: Change) -> io::Result<()> {
        match self.begin(|fault| fault != Fault::SyncError)? {
            Verdict::Go => {
                self.change(change);
                Ok(())
            }
            Verdict::Fail(fault) => {
                if fault == Fault::PowerCut && self.below(2) == 0 {
                    self.change(change);
                }
                Err(error_of(fault))
            }
        }
    }

    fn crash(&mut self) {
        let kept = if self.below(2) == 0 { 0 } else { self.below(self.changes.len() + 1) };
        for change in std::mem::take(&mut self.changes).into_iter().take(kept) {
            apply(&mut self.names_durable, &change);
        }
        self.names = self.names_durable.clone();
        let mut files = std::mem::take(&mut self.files);
        for inode in files.values_mut() {
            self.lose(inode);
        }
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        files.retain(|id, _| named.contains(id));
        self.files = files;
        self.boot += 1;
        self.off = false;
        self.faults.clear();
    }

    /// What is left of a file's unsynced sectors.
    fn lose(&mut self, inode: &mut Inode) {
        let mut device = std::mem::take(&mut inode.device);
        // A third each: nothing, everything, any of them.
        let mood = self.below(3);
        let all = inode.cache.len();
        let length = match (inode.resized, mood) {
            (false, _) => device.len(),
            (true, 0) => device.len(),
            (true, 1) => all,
            (true, _) if all >= device.len() => device.len() + self.below(all - device.len() + 1),
            (true, _) => all,
        };
        let torn = self.below(inode.dirty.len() + 1);
        device.resize(length, 0);
        for (i, &sector) in inode.dirty.iter().enumerate() {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(all).min(length);
            if start >= end || mood == 0 || (mood == 2 && self.below(2) == 0) {
                continue;
            }
            let end = if i == torn { start + self.below(end - start) } else { end };
            device[start..end].copy_from_slice(&inode.cache[start..end]);
        }
        inode.cache = device.clone();
        inode.device = device;
        inode.dirty.clear();
        inode.resized = false;
    }
}

fn apply(names: &mut BTreeMap<String, u64>, change: &Change) {
    match change {
        Change::Link(name, id) => {
            names.insert(name.clone(), *id);
        }
        Change::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
        Change::Unlink(name) => {
            names.remove(name);
        }
    }
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}

fn error_of(fault: Fault) -> io::Error {
    match fault {
        Fault::WriteError | Fault::SyncError => io::Error::from_raw_os_error(5),
        Fault::PowerCut => off(),
    }
}

impl Disk for SimDisk {
    type File = File;

    fn create(&self, name: &str) -> io::Result<File> {
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.files.insert(id, Inode::default());
        state.change_names(Change::Link(name.into(), id))?;
        Ok(File { state: self.state.clone(), id, boot: state.boot })
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let state = self.lock();
        if state.off {
            return Err(off());
        }
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(File { state: self.state.clone(), id, boot: state.boot })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.lock();
        if state.off { Err(off()) } else { Ok(state.names.keys().cloned().collect()) }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(Change::Rename(from.into(), to.into()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(Change::Unlink(name.into()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.lock();
        let verdict = state.begin(|fault| fault != Fault::WriteError)?;
        state.ticks += state.sync_ticks;
        match verdict {
            Verdict::Go => {
                if !state.dir_syncs_skipped {
                    state.changes.clear();
                    state.names_durable = state.names.clone();
                }
                Ok(())
            }
            Verdict::Fail(fault) => Err(error_of(fault)),
        }
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.lock();
        let free = state.capacity.saturating_sub(state.used());
        Ok(Space { free, total: state.capacity })
    }
}

impl File {
    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.off || state.boot != self.boot { Err(off()) } else { Ok(state) }
    }
}

impl State {
    fn inode(&mut self, id: u64) -> &mut Inode {
        self.files.get_mut(&id).expect("an open file is kept until the crash")
    }

    fn write(&mut self, id: u64, offset: usize, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        let inode = self.inode(id);
        let end = offset + bytes.len();
        if inode.cache.len() < end {
            inode.cache.resize(end, 0);
            inode.resized = true;
        }
        inode.cache[offset..end].copy_from_slice(bytes);
        inode.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }
}

impl DiskFile for File {
    const BLOCKS: bool = false;

    fn write_at(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let mut state = self.lock()?;
        let verdict = state.begin(|fault| fault != Fault::SyncError)?;
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let offset = offset as usize;
        state.ticks += state.write_ticks * bytes.len().div_ceil(4096) as u64;
        if let Verdict::Fail(fault) = verdict {
            let half = state.below(bytes.len() + 1);
            state.write(self.id, offset, &bytes[..half]);
            return Err(error_of(fault));
        }
        let grows = (offset + bytes.len()).saturating_sub(state.inode(self.id).cache.len()) as u64;
        let free = state.capacity.saturating_sub(state.used());
        if grows > free {
            // As the kernel does: what fits is written.
            let fits = bytes.len() - (grows - free) as usize;
            state.write(self.id, offset, &bytes[..fits]);
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.write(self.id, offset, &bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock()?;
        Ok(copy(&state.inode(self.id).cache, offset, buf))
    }

    fn read_device_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock()?;
        let inode = state.inode(self.id);
        let from = inode.cache.len().min(offset as usize);
        let to = inode.cache.len().min(from + buf.len());
        for (at, byte) in (from..to).zip(buf) {
            // The kernel writes what is still dirty first.
            let source = match inode.dirty.contains(&(at / SECTOR)) {
                true => &inode.cache,
                false => &inode.device,
            };
            *byte = source.get(at).copied().unwrap_or(0);
        }
        Ok(to - from)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.lock()?;
        let verdict = state.begin(|fault| fault != Fault::WriteError)?;
        state.ticks += state.sync_ticks;
        let inode = state.inode(self.id);
        match verdict {
            Verdict::Go => {
                let length = inode.cache.len();
                inode.device.resize(length, 0);
                for sector in std::mem::take(&mut inode.dirty) {
                    let start = sector * SECTOR;
                    let end = (start + SECTOR).min(length);
                    if start < end {
                        inode.device[start..end].copy_from_slice(&inode.cache[start..end]);
                    }
                }
                inode.resized = false;
                Ok(())
            }
            Verdict::Fail(Fault::SyncError) => {
                inode.dirty.clear();
                Err(error_of(Fault::SyncError))
            }
            Verdict::Fail(fault) => Err(error_of(fault)),
        }
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.lock()?.inode(self.id).cache.len() as u64)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut state = self.lock()?;
        match state.begin(|fault| fault != Fault::SyncError)? {
            Verdict::Go => {
                let inode = state.inode(self.id);
                inode.cache.resize(bytes as usize, 0);
                inode.dirty =
                    inode.dirty.iter().copied().filter(|s| s * SECTOR < bytes as usize).collect();
                inode.resized = true;
                Ok(())
            }
            Verdict::Fail(fault) => Err(error_of(fault)),
        }
    }
}

fn copy(from: &[u8], offset: u64, buf: &mut [u8]) -> usize {
    let from = from.get(offset as usize..).unwrap_or_default();
    let len = from.len().min(buf.len());
    buf[..len].copy_from_slice(&from[..len]);
    len
}
