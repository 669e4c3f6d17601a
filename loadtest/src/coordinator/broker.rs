//! The brokers' processes, seen from outside.

use std::net::SocketAddr;

use crate::procfs::{self, Usage};

/// The processes that are measured; none if they are elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Brokers {
    pids: Vec<u32>,
    /// Where to look for them anew, if they were found by their ports.
    targets: Vec<SocketAddr>,
}

/// User and kernel memory at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryNow {
    /// Anonymous memory of the processes, or what is resident if that is hidden.
    pub(crate) user_bytes: u64,
    /// Slabs and socket buffers of the whole system.
    pub(crate) kernel_bytes: Option<u64>,
}

impl Brokers {
    /// Those named, or those that listen at the targets.
    pub(crate) fn find(named: &[u32], targets: &[SocketAddr]) -> Self {
        if !named.is_empty() {
            return Self { pids: named.to_vec(), targets: Vec::new() };
        }
        Self { pids: listeners(targets), targets: targets.to_vec() }
    }

    /// Looks again for those that were found by their ports; says whether there are others now.
    pub(crate) fn look_again(&mut self) -> bool {
        let found = listeners(&self.targets);
        let others = !found.is_empty() && found != self.pids;
        if others {
            self.pids = found;
        }
        others
    }

    /// Whether there is nobody to look at.
    pub(crate) fn is_empty(&self) -> bool {
        self.pids.is_empty()
    }

    /// CPU and memory of all; none if one is gone or there is none.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let mut sum = Usage::default();
        for pid in &self.pids {
            sum += procfs::usage(*pid)?;
        }
        (!self.is_empty()).then_some(sum)
    }

    /// Memory of all.
    pub(crate) fn memory(&self) -> Option<MemoryNow> {
        let mut user_bytes = 0;
        for pid in &self.pids {
            let anonymous = procfs::anonymous_bytes(*pid);
            user_bytes += anonymous.or_else(|| Some(procfs::usage(*pid)?.rss_bytes))?;
        }
        let kernel_bytes = procfs::kernel_bytes();
        (!self.is_empty()).then_some(MemoryNow { user_bytes, kernel_bytes })
    }

    /// The first of them.
    pub(crate) fn first(&self) -> Option<u32> {
        self.pids.first().copied()
    }

    /// Cores that the first may use.
    pub(crate) fn cores(&self) -> Option<u32> {
        procfs::cores(*self.pids.first()?)
    }
}

fn listeners(targets: &[SocketAddr]) -> Vec<u32> {
    let mut found: Vec<u32> = targets.iter().filter_map(|at| procfs::listener(*at)).collect();
    found.sort_unstable();
    found.dedup();
    found
}
