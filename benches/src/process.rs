//! What the kernel says about a broker's process.

use std::fs;

use anyhow::{Context, Result};

/// CPU time of one thread, user and system together, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct ThreadTime {
    /// The kernel's thread id.
    pub thread: u32,
    /// Nanoseconds on a core since the thread began.
    pub nanoseconds: u64,
}

/// CPU time of each thread of `pid`, from the scheduler's own nanosecond counts.
///
/// The count of a thread that is on a core right now is as old as its last
/// tick: some milliseconds, against phases of seconds.
pub fn thread_times(pid: u32) -> Result<Vec<ThreadTime>> {
    let mut times = Vec::new();
    let folder = format!("/proc/{pid}/task");
    for entry in fs::read_dir(&folder).with_context(|| format!("{folder}: is the broker alive?"))? {
        let entry = entry?;
        // A thread may end between the listing and the look.
        let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
        let nanoseconds = text.split_whitespace().next().unwrap_or_default().parse()?;
        let thread = entry.file_name().to_string_lossy().parse()?;
        times.push(ThreadTime { thread, nanoseconds });
    }
    Ok(times)
}

/// CPU time of all threads of `pid` in nanoseconds.
pub fn cpu_nanoseconds(pid: u32) -> Result<u64> {
    Ok(thread_times(pid)?.iter().map(|time| time.nanoseconds).sum())
}

/// Anonymous resident memory of `pid` in bytes: heap and stacks, no files.
pub fn anonymous_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).context(path)?;
    let line = text.lines().find(|line| line.starts_with("Anonymous:"));
    let line = line.context("smaps_rollup has no line Anonymous")?;
    let kilobytes: u64 = line.split_whitespace().nth(1).context("no value")?.parse()?;
    Ok(kilobytes * 1024)
}
