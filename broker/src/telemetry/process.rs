//! What the kernel knows of this process.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Ticks a second in `/proc`; fixed by Linux's interface on all machines.
const USER_HZ: f64 = 100.0;

/// A reading. What cannot be read is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[allow(missing_docs)]
pub struct Process {
    pub cpu_seconds: f64,
    pub open_fds: Option<u64>,
    pub max_fds: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub resident_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub start_seconds: Option<f64>,
}

impl Process {
    /// Reads; none without `/proc`. Its cost does not grow with connections.
    pub fn read() -> Option<Process> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        Some(Process {
            cpu_seconds: seconds(ClockId::ProcessCPUTime),
            open_fds: open_fds(),
            max_fds: getrlimit(Resource::Nofile).current,
            virtual_bytes: field(&status, "VmSize:").map(|kib| kib * 1_024),
            resident_bytes: field(&status, "VmRSS:").map(|kib| kib * 1_024),
            threads: field(&status, "Threads:"),
            start_seconds: start_seconds(),
        })
    }
}

/// Since 6.2 the kernel tells the number as the size of the directory. Listing
/// a million descriptors instead would take the time of many scrapes.
fn open_fds() -> Option<u64> {
    let count = fs::metadata("/proc/self/fd").ok()?.len();
    (count > 0).then_some(count)
}

fn field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

fn start_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; the fields count from behind
    // it, where `starttime` is the 20th.
    let ticks: f64 = stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()?;
    let age = seconds(ClockId::Boottime) - ticks / USER_HZ;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Some(now - age)
}

fn seconds(clock: ClockId) -> f64 {
    let time = clock_gettime(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_plausible_numbers() {
        let process = Process::read().expect("tests run where /proc is");
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(process.virtual_bytes >= process.resident_bytes);
        assert!(process.threads.is_some_and(|threads| threads >= 1));
        assert!(process.open_fds <= process.max_fds);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        let age = now - process.start_seconds.expect("stat has it");
        assert!((-1.0..86_400.0).contains(&age), "{age}");
    }
}
