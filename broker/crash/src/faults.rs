//! System calls of the broker that fail when we say so: a small C library that
//! is compiled here and preloaded into the process.
//!
//! It is C because it has to live inside of a foreign process before its
//! `main`, and because the broker must not know of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const SOURCE: &str = include_str!("../shim/faults.c");

/// EIO.
pub(crate) const EIO: i32 = 5;

/// The library, and the file by which it is told what to do.
#[derive(Debug)]
pub(crate) struct Faults {
    library: PathBuf,
    order: PathBuf,
}

impl Faults {
    /// Compiles the library; or why that cannot be.
    pub(crate) fn build(dir: &Path) -> Result<Result<Faults, String>> {
        let (source, library) = (dir.join("faults.c"), dir.join("faults.so"));
        fs::write(&source, SOURCE).context("cannot write the fault library")?;
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-O1", "-pthread", "-o"]).arg(&library).arg(&source);
        Ok(match cc.status() {
            Ok(status) if status.success() => Ok(Faults { library, order: dir.join("faults") }),
            Ok(status) => Err(format!("cc ended with {status}")),
            Err(error) => Err(format!("there is no C compiler: {error}")),
        })
    }

    /// What the environment of the broker needs for it.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        vec![
            ("LD_PRELOAD".to_owned(), self.library.display().to_string()),
            ("CRASH_FAULTS".to_owned(), self.order.display().to_string()),
        ]
    }

    /// Orders that every sync fails, at once or as soon as there is a process.
    pub(crate) fn order_sync(&self) -> Result<()> {
        self.order(&format!("sync {EIO}\n"))
    }

    /// Orders that writing to these descriptors fails.
    pub(crate) fn order_write(&self, fds: &[u32]) -> Result<()> {
        let fds: String = fds.iter().map(|fd| format!(" {fd}")).collect();
        self.order(&format!("write {EIO}{fds}\n"))
    }

    fn order(&self, text: &str) -> Result<()> {
        self.withdraw();
        // Whole at once: the library reads it as soon as it is there.
        let draft = self.order.with_extension("draft");
        fs::write(&draft, text).context("cannot write an order")?;
        fs::rename(&draft, &self.order).context("cannot place an order")
    }

    /// Waits until the order is in force; false if the process is gone first.
    pub(crate) fn in_force(&self, mut alive: impl FnMut() -> bool) -> Result<bool> {
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if self.order.with_extension("done").exists() {
                return Ok(true);
            }
            if self.order.with_extension("failed").exists() {
                bail!("the kernel refuses the filter that lets calls fail");
            }
            if !alive() {
                return Ok(false);
            }
            sleep(Duration::from_micros(300));
        }
        bail!("the fault library did not answer; is the broker linked statically?")
    }

    /// Takes back an order that no process has seen, and what is left of one.
    pub(crate) fn withdraw(&self) {
        for suffix in ["", "done", "failed"] {
            let file = if suffix.is_empty() {
                self.order.clone()
            } else {
                self.order.with_extension(suffix)
            };
            let _ = fs::remove_file(file);
        }
    }
}

/// The descriptors of a process that are files below a directory.
pub(crate) fn files_below(process: u32, dir: &Path) -> Vec<u32> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    let Ok(list) = fs::read_dir(format!("/proc/{process}/fd")) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in list.flatten() {
        let fd = entry.file_name().to_string_lossy().parse();
        let target = fs::read_link(entry.path());
        if let (Ok(fd), Ok(target)) = (fd, target)
            && target.starts_with(&dir)
            && target.is_file()
        {
            found.push(fd);
        }
    }
    found.truncate(32);
    found
}
