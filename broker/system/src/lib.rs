//! What the kernel says of itself without eBPF, and whether it is enough.
//!
//! Pure: text and bytes in, numbers out. Who reads the files and asks the
//! kernel is in the shell. What was not to be had is `None`, never 0: a limit
//! of 0 and an unknown one call for different things.

pub mod cgroup;
pub mod conntrack;
pub mod counters;
pub mod inet_diag;
pub mod preflight;
pub mod process;
pub mod sockstat;
pub mod values;
