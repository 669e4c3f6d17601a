//! What the kernel says about a broker and about ourselves.
//!
//! A process is found by its id or by a port it listens on: the socket's inode
//! stands in /proc/net/tcp, and the process has it among its descriptors.

use std::fs;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Nanoseconds of CPU and bytes of memory of a process.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Usage {
    /// CPU outside of the kernel, in microseconds.
    pub(crate) user_us: u64,
    /// CPU in the kernel.
    pub(crate) kernel_us: u64,
    /// Resident memory.
    pub(crate) rss_bytes: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.user_us += other.user_us;
        self.kernel_us += other.kernel_us;
        self.rss_bytes += other.rss_bytes;
    }
}

/// The listening state in /proc/net/tcp.
const LISTEN: &str = "0A";

/// CPU and memory of a process; none when it is gone.
///
/// The sum of user and kernel time is the scheduler's, to the nanosecond; its parts are sampled
/// at ticks of 10 ms and scaled to that sum.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (user, kernel, pages) = stat_fields(&stat)?;
    let exact = scheduled_us(pid)?;
    let ticks = user + kernel;
    let user_us =
        if ticks == 0 { exact } else { (exact as u128 * user as u128 / ticks as u128) as u64 };
    let page = rustix::param::page_size() as u64;
    Some(Usage { user_us, kernel_us: exact - user_us, rss_bytes: pages * page })
}

/// utime, stime and resident pages; the command's name may hold anything, so count from its end.
fn stat_fields(stat: &str) -> Option<(u64, u64, u64)> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_whitespace();
    let user = fields.nth(11)?.parse().ok()?;
    let kernel = fields.next()?.parse().ok()?;
    let pages = fields.nth(8)?.parse().ok()?;
    Some((user, kernel, pages))
}

/// Time on a core of all threads. A thread that ended takes its share along; brokers keep theirs.
fn scheduled_us(pid: u32) -> Option<u64> {
    let mut nanoseconds = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
        let first = text.split_whitespace().next().and_then(|field| field.parse::<u64>().ok());
        nanoseconds += first.unwrap_or(0);
    }
    Some(nanoseconds / 1_000)
}

/// Anonymous resident memory: heap and stacks, no files. Slower than [`usage`]; for the phases.
pub(crate) fn anonymous_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    kilobytes(&text, "Anonymous:")
}

/// What the whole system's kernel holds in slabs and in socket buffers.
pub(crate) fn kernel_bytes() -> Option<u64> {
    let memory = fs::read_to_string("/proc/meminfo").ok()?;
    let slab = kilobytes(&memory, "Slab:")?;
    let sockets = fs::read_to_string("/proc/net/sockstat").ok()?;
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:"))?;
    let pages: u64 = tcp.split_whitespace().last()?.parse().ok()?;
    Some(slab + pages * rustix::param::page_size() as u64)
}

/// Memory of the system.
pub(crate) fn memory_bytes() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kilobytes(&memory, "MemTotal:").unwrap_or(0)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    let count: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(count * 1024)
}

/// Cores a process may use.
pub(crate) fn cores(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mut count = 0;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    Some(count)
}

/// The process that listens at an address, if it is one of this machine that we may look into.
pub(crate) fn listener(addr: SocketAddr) -> Option<u32> {
    if !addr.ip().is_loopback() {
        return None;
    }
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|text| listening_inodes(&text, addr.port()))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(link) = fs::read_link(descriptor.path()) else { continue };
            if inodes.iter().any(|inode| link.as_os_str() == inode.as_str()) {
                return Some(pid);
            }
        }
    }
    None
}

fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    let suffix = format!(":{port:04X}");
    let mut inodes = Vec::new();
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.len() > 9 && fields[3] == LISTEN && fields[1].ends_with(&suffix) {
            inodes.extend(fields[9].parse::<u64>());
        }
    }
    inodes
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_listener_of_a_port_is_found() {
        let listener_here = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener_here.local_addr().expect("bound");
        assert_eq!(listener(addr), Some(std::process::id()));
        drop(listener_here);
        assert_eq!(listener(addr), None);
    }

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 11 22 0 0 20 0 1 0 5 9999 333 1";
        assert_eq!(stat_fields(stat), Some((11, 22, 333)));
    }

    #[test]
    fn work_shows_in_our_own_usage() {
        let before = usage(std::process::id()).expect("we live");
        let mut sum = 0u64;
        for number in 0..20_000_000u64 {
            sum = sum.wrapping_add(std::hint::black_box(number));
        }
        std::hint::black_box(sum);
        let after = usage(std::process::id()).expect("we live");
        assert!(after.user_us + after.kernel_us > before.user_us + before.kernel_us);
        assert!(after.rss_bytes > 100_000);
        assert!(anonymous_bytes(std::process::id()) > Some(10_000));
    }
}
