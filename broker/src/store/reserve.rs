//! Room that is set aside for when there is none.
//!
//! A file of zeroes in the data directory. The first append that finds no room
//! removes it, and what has to be written even then finds place: that the
//! connections of before a start have ended, that a client has come back to
//! fetch what waits for it, what clients acknowledge. While it is given away
//! the node takes nothing new; it is set aside again as soon as there is room
//! for it twice.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use tidegate_core::Node;
use tidegate_core::room::Room;
use tidegate_store::Space;
use tracing::{info, warn};

/// This part of the volume,
const PART: u64 = 128;
/// but not less and not more.
const BYTES_MIN: u64 = 256 << 10;
const BYTES_MAX: u64 = 16 << 20;

/// The file, and whether it is there.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: AtomicBool,
}

impl Reserve {
    /// The reserve of a data directory, as the last process left it.
    pub(super) fn new(path: PathBuf, space: Space) -> Reserve {
        let bytes = (space.total / PART).clamp(BYTES_MIN, BYTES_MAX);
        let held = AtomicBool::new(path.exists());
        let reserve = Reserve { path, bytes, held };
        reserve.look(space);
        reserve
    }

    /// Whether it is there to be given.
    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Gives the room away; false: that was done before.
    pub(super) fn give(&self) -> bool {
        if !self.held.swap(false, Ordering::AcqRel) {
            return false;
        }
        match fs::remove_file(&self.path) {
            Ok(()) => {
                warn!(bytes = self.bytes, "no room on the disk: what was set aside is used");
                true
            }
            Err(_) => false,
        }
    }

    /// Sets it aside again if there is room for it twice.
    pub(super) fn look(&self, space: Space) {
        if self.is_held() || space.free < 2 * self.bytes {
            return;
        }
        match self.take() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => {
                let _ = fs::remove_file(&self.path);
                return;
            }
            // A node without a reserve is one that needs an operator when the
            // disk is full, and no worse.
            Err(error) => info!(%error, path = %self.path.display(), "nothing can be set aside"),
        }
        self.held.store(true, Ordering::Release);
    }

    fn take(&self) -> io::Result<()> {
        let mut file = File::create(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, self.bytes) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                file.write_all(&vec![0; self.bytes as usize])?;
                file.sync_all()
            }
            Err(error) => Err(error.into()),
        }
    }

    /// From now on there is no room. Half of the reserve is for clients who come
    /// back to their sessions.
    pub(super) fn no_room(&self, node: &Node) {
        if node.room() != Room::None {
            node.set_resume_bytes(self.bytes / 2);
            node.set_room(Room::None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_once_and_set_aside_again_when_there_is_room_for_it_twice() {
        let dir = std::env::temp_dir().join(format!("tidegate-reserve-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        let total = 64 << 20;
        let reserve = Reserve::new(dir.join("reserve"), Space { free: total, total });
        assert!(reserve.is_held());
        assert_eq!(fs::metadata(dir.join("reserve")).expect("it is there").len(), 512 << 10);
        assert!(reserve.give());
        assert!(!reserve.give(), "there is no more");
        assert!(!dir.join("reserve").exists());
        reserve.look(Space { free: 600 << 10, total });
        assert!(!reserve.is_held());
        reserve.look(Space { free: 1 << 20, total });
        assert!(reserve.is_held());
        fs::remove_dir_all(&dir).expect("our own");
    }
}
