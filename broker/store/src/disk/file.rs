//! Real files, by descriptors.
//!
//! Past the page cache means `O_DIRECT`, on a descriptor of its own. It is the
//! only read of which the kernel promises that it asks the device. File systems
//! without it (tmpfs of older kernels) get `POSIX_FADV_DONTNEED` and an
//! ordinary read, which is the best that is left.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, Advice, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::{Disk, DiskFile, Space};

/// What `O_DIRECT` wants offsets, lengths and addresses to be multiples of.
const DIRECT_ALIGN: usize = 4096;

/// The most parts of one `pwritev`.
const PARTS_MAX: usize = 512;

/// A directory of the file system.
#[derive(Clone, Debug)]
pub struct FileDisk {
    dir: Arc<OwnedFd>,
    path: Arc<PathBuf>,
}

/// A file in it.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
    dir: Arc<OwnedFd>,
    name: String,
}

impl FileDisk {
    /// Opens the directory, and makes it (not its parents) if it is not there.
    pub fn open(path: &Path) -> io::Result<Self> {
        match fs::mkdir(path, Mode::from_raw_mode(0o700)) {
            Ok(()) => sync_parent(path)?,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = fs::open(path, flags, Mode::empty())?;
        Ok(Self { dir: Arc::new(dir), path: Arc::new(path.to_path_buf()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_with(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let mode = Mode::from_raw_mode(0o600);
        let fd = fs::openat(&*self.dir, name, flags | OFlags::RDWR | OFlags::CLOEXEC, mode)?;
        Ok(File { fd, dir: self.dir.clone(), name: name.into() })
    }
}

/// A new file or directory is durable when its parent is.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) | None => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(fs::fsync(fs::open(parent, flags, Mode::empty())?)?)
}

impl Disk for FileDisk {
    type File = File;

    fn create(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OFlags::CREATE | OFlags::TRUNC)
    }

    fn open(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OFlags::empty())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&*self.dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(fs::renameat(&*self.dir, from, &*self.dir, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(fs::unlinkat(&*self.dir, name, AtFlags::empty())?)
    }

    fn sync_dir(&self) -> io::Result<()> {
        Ok(fs::fsync(&*self.dir)?)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = fs::fstatvfs(&*self.dir)?;
        // What root alone may use counts neither as free nor as ours.
        let reserved = stat.f_bfree.saturating_sub(stat.f_bavail);
        Ok(Space {
            free: stat.f_bavail * stat.f_frsize,
            total: stat.f_blocks.saturating_sub(reserved) * stat.f_frsize,
        })
    }
}

impl DiskFile for File {
    fn write_at(&self, mut offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        for mut parts in parts.chunks(PARTS_MAX) {
            // How much of the first part left is written.
            let mut done = 0;
            while let Some(first) = parts.first() {
                let wrote = if done > 0 || parts.len() == 1 {
                    again(|| rustix::io::pwrite(&self.fd, &first[done..], offset))?
                } else {
                    again(|| rustix::io::pwritev(&self.fd, parts, offset))?
                };
                offset += wrote as u64;
                done += wrote;
                let before = parts.len();
                while let Some(part) = parts.first()
                    && done >= part.len()
                {
                    done -= part.len();
                    parts = &parts[1..];
                }
                if wrote == 0 && parts.len() == before {
                    return Err(io::ErrorKind::WriteZero.into());
                }
            }
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        read_full(&self.fd, offset, buf)
    }

    fn read_device_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECT;
        let direct = fs::openat(&*self.dir, self.name.as_str(), flags, Mode::empty());
        let read = direct.map_err(Into::into).and_then(|fd| read_direct(&fd, offset, buf));
        match read {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                fs::fadvise(&self.fd, 0, None, Advice::DontNeed)?;
                read_full(&self.fd, offset, buf)
            }
            read => read,
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(again(|| fs::fdatasync(&self.fd))?)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(fs::fstat(&self.fd)?.st_size as u64)
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        Ok(again(|| fs::ftruncate(&self.fd, bytes))?)
    }
}

fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

fn read_full(fd: &OwnedFd, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        let at = offset + done as u64;
        match again(|| rustix::io::pread(fd, &mut buf[done..], at))? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}

/// Reads whole aligned blocks around what is asked for, a piece at a time.
fn read_direct(fd: &OwnedFd, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    const BLOCK_BYTES: usize = 1 << 20;
    let mut room = vec![0u8; BLOCK_BYTES + DIRECT_ALIGN];
    let start = room.as_ptr().align_offset(DIRECT_ALIGN);
    let block = &mut room[start..start + BLOCK_BYTES];
    let mut done = 0;
    while done < buf.len() {
        let at = offset + done as u64;
        let skip = (at % DIRECT_ALIGN as u64) as usize;
        let want = (skip + buf.len() - done).next_multiple_of(DIRECT_ALIGN).min(BLOCK_BYTES);
        let read = again(|| rustix::io::pread(fd, &mut block[..want], at - skip as u64))?;
        let have = read.saturating_sub(skip).min(buf.len() - done);
        buf[done..done + have].copy_from_slice(&block[skip..skip + have]);
        done += have;
        if read < want {
            break;
        }
    }
    Ok(done)
}
