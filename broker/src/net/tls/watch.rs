//! Sees that files were replaced.
//!
//! Secrets in Kubernetes are symbolic links through `..data`, which is swapped
//! by a rename: the files themselves never change, and a watch on them sees
//! nothing. So the directories are watched, and a notice means no more than
//! *look now*: what was found is compared with what was there (target, inode,
//! size and times of each file), and reported once it has stood still for a
//! moment, so that a certificate and its key that are written one after the
//! other are one change. The same look is taken every few seconds anyway, for
//! file systems without notices and for a node that may have no more watches.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::limits::{LINKS_MAX, WATCHED_DIRECTORIES_MAX};
use super::material::named_directories;

/// How many quiet periods a change that does not come to rest is given.
const UNRESTS_MAX: usize = 10;

/// The notices that may wait; more of them say nothing new.
const NOTICES_MAX: usize = 16;

/// How quickly a change is seen.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// For how long the files have to stand still.
    pub quiet: Duration,
    /// How often to look without a notice.
    pub poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(200), poll: Duration::from_secs(5) }
    }
}

/// A thread that watches files, until it is dropped.
#[derive(Debug)]
pub struct Watch {
    wake: SyncSender<Wake>,
    stopping: Arc<AtomicBool>,
    notified: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug)]
enum Wake {
    Look,
    Stop,
}

impl Watch {
    /// Watches `roots`, which are files or directories of `NAME/tls.crt` and
    /// `NAME/tls.key`, and calls `changed` on its own thread after each change.
    /// They need not exist yet.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        roots: Vec<PathBuf>,
        pace: Pace,
        changed: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let (wake, woken) = sync_channel(NOTICES_MAX);
        let stopping = Arc::new(AtomicBool::new(false));
        let notified = Arc::new(AtomicBool::new(false));
        let mut look = Look {
            roots,
            pace,
            wake: wake.clone(),
            stopping: stopping.clone(),
            notified: notified.clone(),
            watcher: None,
            seen: BTreeSet::new(),
        };
        // Taken here, so that nothing that happens from now on is missed.
        look.seen = print(&look.roots);
        look.arm();
        let thread = thread::Builder::new()
            .name("tls-watch".to_owned())
            .spawn(move || look.run(&woken, &changed))?;
        Ok(Self { wake, stopping, notified, thread: Some(thread) })
    }

    /// Whether the system tells of changes, so that they are seen at once.
    /// Otherwise they are seen at the next look.
    pub fn is_notified(&self) -> bool {
        self.notified.load(Ordering::Relaxed)
    }

    /// Ends the watch; returns when its thread has ended.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        // A full channel wakes the thread as well.
        let _ = self.wake.try_send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What one file looked like.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Seen {
    path: PathBuf,
    /// Device, inode, size, modification and change time; none if absent.
    stamp: Option<(u64, u64, u64, i64, i64, i64, i64)>,
}

struct Look {
    roots: Vec<PathBuf>,
    pace: Pace,
    wake: SyncSender<Wake>,
    stopping: Arc<AtomicBool>,
    notified: Arc<AtomicBool>,
    watcher: Option<RecommendedWatcher>,
    seen: BTreeSet<Seen>,
}

impl Look {
    fn run(&mut self, woken: &Receiver<Wake>, changed: &impl Fn()) {
        loop {
            let wake = woken.recv_timeout(self.pace.poll);
            if self.is_over(wake) {
                return;
            }
            let mut now = print(&self.roots);
            if now == self.seen {
                continue;
            }
            for _ in 0..UNRESTS_MAX {
                thread::sleep(self.pace.quiet);
                if self.stopping.load(Ordering::Acquire) {
                    return;
                }
                let later = print(&self.roots);
                if later == now {
                    break;
                }
                now = later;
            }
            self.seen = now;
            // The directories may be others now. What happened before they were
            // watched is found by another look.
            self.arm();
            let _ = self.wake.try_send(Wake::Look);
            changed();
        }
    }

    fn is_over(&self, wake: Result<Wake, RecvTimeoutError>) -> bool {
        let over = match wake {
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => true,
            Ok(Wake::Look) | Err(RecvTimeoutError::Timeout) => false,
        };
        over || self.stopping.load(Ordering::Acquire)
    }

    /// Asks for notices of all directories that matter. Where that fails, the
    /// regular look has to do.
    fn arm(&mut self) {
        self.watcher = None;
        let wake = self.wake.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| matters(&event.kind)) {
                // Full: the thread is about to look anyway.
                let _ = wake.try_send(Wake::Look);
            }
        });
        let Ok(mut watcher) = watcher else {
            self.notified.store(false, Ordering::Relaxed);
            return;
        };
        let mut all = true;
        for directory in directories(&self.roots).iter().take(WATCHED_DIRECTORIES_MAX) {
            all &= watcher.watch(directory, RecursiveMode::NonRecursive).is_ok();
        }
        self.notified.store(all, Ordering::Relaxed);
        self.watcher = Some(watcher);
    }
}

/// Our own looks open directories and files: those notices would have us look
/// for ever.
fn matters(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// The files that are meant by the roots.
fn files(roots: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = Vec::with_capacity(roots.len());
    for root in roots {
        files.push(root.clone());
        if root.is_dir() {
            for named in named_directories(root).unwrap_or_default() {
                files.extend([named.join("tls.crt"), named.join("tls.key")]);
            }
        }
    }
    files
}

fn print(roots: &[PathBuf]) -> BTreeSet<Seen> {
    files(roots)
        .into_iter()
        .map(|path| {
            let stamp = path.metadata().ok().map(|of| {
                // A directory's own times change with each entry in it.
                let times = (of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec());
                let (m, mn, c, cn) = if of.is_dir() { (0, 0, 0, 0) } else { times };
                let size = if of.is_dir() { 0 } else { of.size() };
                (of.dev(), of.ino(), size, m, mn, c, cn)
            });
            Seen { path, stamp }
        })
        .collect()
}

/// The directories in which something happens when one of the files changes:
/// its own, and those of all links on the way to it.
fn directories(roots: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    for file in files(roots) {
        if file.is_dir() {
            directories.insert(file.clone());
        }
        let mut at = file;
        for _ in 0..LINKS_MAX {
            let parent = parent(&at);
            if parent.is_dir() {
                directories.insert(parent.to_owned());
            }
            match at.read_link() {
                Ok(target) => at = parent.join(target),
                Err(_) => break,
            }
        }
    }
    directories
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}
