//! A cgroup of our own with a memory limit, below the one we are in.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A cgroup; it is removed when dropped, which has to be after its processes.
#[derive(Debug)]
pub(crate) struct Cgroup {
    folder: PathBuf,
    version: Version,
}

#[derive(Clone, Copy, Debug)]
enum Version {
    V1,
    V2,
}

impl Cgroup {
    /// Makes one with a limit of `bytes`. `parent`: a cgroup's folder, if not our own one.
    ///
    /// # Errors
    /// When this process may not, which is the case without root.
    pub(crate) fn new(parent: Option<&Path>, bytes: u64) -> Result<Self> {
        let (parent, version) = match parent {
            Some(parent) if parent.join("memory.limit_in_bytes").exists() => {
                (parent.to_owned(), Version::V1)
            }
            Some(parent) => (parent.to_owned(), Version::V2),
            None => own().context("no cgroup with a memory controller")?,
        };
        let folder = parent.join(format!("tidegate-doors-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
        let cgroup = Self { folder, version };
        let limit = match version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        };
        let limit = cgroup.folder.join(limit);
        fs::write(&limit, bytes.to_string())
            .with_context(|| format!("write {}", limit.display()))?;
        Ok(cgroup)
    }

    /// The file that a process writes its id into to enter.
    pub(crate) fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The most bytes ever in use.
    pub(crate) fn peak(&self) -> Option<u64> {
        let file = match self.version {
            Version::V1 => "memory.max_usage_in_bytes",
            Version::V2 => "memory.peak",
        };
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }

    /// Processes that the kernel killed for want of memory.
    pub(crate) fn killed(&self) -> Option<u64> {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(self.folder.join(file)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
        line.trim().parse().ok()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The cgroup of this process that knows memory.
fn own() -> Option<(PathBuf, Version)> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = |mark: &dyn Fn(&str) -> bool| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            mark(controllers).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let first = path(&|names| names.split(',').any(|name| name == "memory"));
    if let Some(path) = first {
        return Some((Path::new("/sys/fs/cgroup/memory").join(path), Version::V1));
    }
    let second = path(&str::is_empty)?;
    Some((Path::new("/sys/fs/cgroup").join(second), Version::V2))
}
