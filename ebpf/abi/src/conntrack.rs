//! Object `conntrack`: rates of connection tracking, by network namespace.
//!
//! | map | type | written by | what |
//! |---|---|---|---|
//! | `NAMESPACES` | per-CPU hash of `u32` -> [`Counts`] | kernel | by inode of the namespace |
//! | `CONFIRMING` | LRU hash of `u64` thread -> `u32` | kernel | namespaces of calls under way |
//!
//! kprobes, as `nf_conntrack` is a module on distribution kernels. The object
//! is one an architecture: where arguments of a function are is part of it.
//! Needs CAP_BPF and CAP_PERFMON, a kernel with kprobes, and on Debian the
//! sysctl `kernel.perf_event_paranoid` at 2 or less (its default is 3).

use crate::{layout, pod};

/// The file of the object on this architecture; empty where there is none.
pub const OBJECT: &str = if cfg!(target_arch = "x86_64") { "conntrack-x86_64.o" } else { "" };

/// A program, whether it runs at the function's return, and its function.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Probe {
    /// Name of the program.
    pub program: &'static str,
    /// A kretprobe; otherwise a kprobe.
    pub at_return: bool,
    /// The kernel's functions, tried in this order.
    pub functions: &'static [&'static str],
}

/// All probes. Each counts fields of its own; `confirm` and `confirm_return`
/// belong together.
pub const PROBES: [Probe; 5] = [
    Probe { program: "allocate", at_return: false, functions: &["__nf_conntrack_alloc"] },
    Probe { program: "confirm", at_return: false, functions: &["__nf_conntrack_confirm"] },
    Probe { program: "confirm_return", at_return: true, functions: &["__nf_conntrack_confirm"] },
    Probe { program: "destroy", at_return: false, functions: &["nf_conntrack_free"] },
    Probe { program: "early_drop", at_return: false, functions: &["early_drop"] },
];

/// Name of the map of [`Counts`].
pub const MAP_NAMESPACES: &str = "NAMESPACES";
/// Entries of `NAMESPACES`; further namespaces are not counted.
pub const NAMESPACES_MAX: usize = 256;

/// Read-only global, `u32`: the offset of `ct_net` in `nf_conn`, out of the BTF
/// of `nf_conntrack`. As all three it must be set; the default is `u32::MAX`
/// and makes the programs count nothing.
pub const GLOBAL_OFFSET_CT_NET: &str = "OFFSET_CT_NET";
/// Read-only global, `u32`: the offset of `ns.inum` in `net`.
pub const GLOBAL_OFFSET_NET_INODE: &str = "OFFSET_NET_INODE";
/// Read-only global, `u32`: the offset of `_nfct` in `sk_buff`.
pub const GLOBAL_OFFSET_SKB_NFCT: &str = "OFFSET_SKB_NFCT";

/// What was counted in a namespace: `NAMESPACES` by inode and CPU, written by
/// the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Entries asked for: new connections, also those that found no room.
    pub new: u64,
    /// Entries put into the table: their first packet was let through.
    pub confirmed: u64,
    /// First packets dropped while their entry was confirmed.
    pub confirm_dropped: u64,
    /// Entries freed, also those never confirmed.
    pub destroyed: u64,
    /// Searches for an entry to drop early, as the table was full.
    pub early_drops: u64,
    /// Always 0.
    pub reserved: [u64; 3],
}

pod!(Counts);

layout!(Counts, 64, {
    new: 0, confirmed: 8, confirm_dropped: 16, destroyed: 24, early_drops: 32, reserved: 40,
});
