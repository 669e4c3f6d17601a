//! The brokers' processes, seen from outside.

use std::net::SocketAddr;

use crate::procfs::{self, Usage};

/// The processes that are measured; none if they are elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Brokers(Vec<u32>);

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
            return Self(named.to_vec());
        }
        let mut found: Vec<u32> = targets.iter().filter_map(|at| procfs::listener(*at)).collect();
        found.sort_unstable();
        found.dedup();
        Self(found)
    }

    /// Whether there is nobody to look at.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// CPU and memory of all; none if one is gone or there is none.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let mut sum = Usage::default();
        for pid in &self.0 {
            sum += procfs::usage(*pid)?;
        }
        (!self.is_empty()).then_some(sum)
    }

    /// Memory of all.
    pub(crate) fn memory(&self) -> Option<MemoryNow> {
        let mut user_bytes = 0;
        for pid in &self.0 {
            let anonymous = procfs::anonymous_bytes(*pid);
            user_bytes += anonymous.or_else(|| Some(procfs::usage(*pid)?.rss_bytes))?;
        }
        let kernel_bytes = procfs::kernel_bytes();
        (!self.is_empty()).then_some(MemoryNow { user_bytes, kernel_bytes })
    }

    /// The first of them.
    pub(crate) fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// Cores that the first may use.
    pub(crate) fn cores(&self) -> Option<u32> {
        procfs::cores(*self.0.first()?)
    }
}
