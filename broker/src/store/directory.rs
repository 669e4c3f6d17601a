//! The data directory: one process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The file that is locked; it holds the process id of who has it.
const LOCK: &str = "lock";
/// The log's directory.
const LOG: &str = "log";
/// Room that is set aside, see `reserve`.
const RESERVE: &str = "reserve";
/// Who this node is.
const IDENTITY: &str = "identity.redb";

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// The kernel gives the lock back when the process ends, however it ends.
    _lock: File,
}

/// Why a directory is not ours.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be made.
    #[error("cannot make {path:?}: {error}; make it, or name another in node.data_dir")]
    Make {
        /// Its path.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// The lock file cannot be opened.
    #[error("cannot open {path:?}: {error}; the node's user needs to read and write it")]
    Open {
        /// The lock file.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// Another process has it.
    #[error("{path:?} is in use by {holder}; stop that, or use another directory")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Who, as far as the lock file tells.
        holder: String,
    },
}

impl Directory {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// When it cannot be made, or another process has it.
    pub fn open(path: &Path) -> Result<Directory, DirectoryError> {
        let made = DirBuilder::new().recursive(true).mode(0o750).create(path);
        made.map_err(|error| DirectoryError::Make { path: path.into(), error })?;
        Directory::lock(path)
    }

    /// Locks a directory that is there.
    ///
    /// # Errors
    /// When it is not, or another process has it.
    pub fn lock(path: &Path) -> Result<Directory, DirectoryError> {
        let lock_path = path.join(LOCK);
        let open = |error| DirectoryError::Open { path: lock_path.clone(), error };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o640);
        let mut lock = options.open(&lock_path).map_err(open)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = lock.take(32).read_to_string(&mut text);
                let holder = match text.trim().parse::<u32>() {
                    Ok(pid) => format!("process {pid}"),
                    Err(_) => "another process".to_owned(),
                };
                return Err(DirectoryError::InUse { path: path.into(), holder });
            }
            Err(error) => return Err(open(error.into())),
        }
        // For people to read: on a full disk it may not be there.
        let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        match written {
            Err(error) if error.kind() != io::ErrorKind::StorageFull => return Err(open(error)),
            Ok(()) | Err(_) => {}
        }
        Ok(Directory { path: path.into(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the log is.
    pub fn log(&self) -> PathBuf {
        log_in(&self.path)
    }

    /// Where room is set aside.
    pub fn reserve(&self) -> PathBuf {
        self.path.join(RESERVE)
    }

    /// Where the identity is.
    pub fn identity(&self) -> PathBuf {
        identity_in(&self.path)
    }
}

/// Where the log of a data directory is.
pub fn log_in(data_dir: &Path) -> PathBuf {
    data_dir.join(LOG)
}

/// Where the identity of a data directory is.
pub fn identity_in(data_dir: &Path) -> PathBuf {
    data_dir.join(IDENTITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_with_the_first_one_s_process_id() {
        let path = std::env::temp_dir().join(format!("tidegate-lock-{}", std::process::id()));
        let first = Directory::open(&path).expect("nobody has it");
        let second = Directory::open(&path).expect_err("the first one has it").to_string();
        assert!(second.contains(&format!("process {}", std::process::id())), "{second}");
        drop(first);
        Directory::open(&path).expect("it is free again");
        std::fs::remove_dir_all(&path).expect("our own");
    }
}
