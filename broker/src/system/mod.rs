//! What the kernel tells of itself without eBPF: reading it, and saying it.
//!
//! `/proc` and `inet_diag` are there for everybody, so this works without any
//! privilege and where no eBPF program is loaded. The parsers and the judgement
//! are in `tidegate-system`; here are the files, the netlink socket, the samples
//! that a scrape reads, and what the commands print.

pub mod cgroups;
pub mod diag;
pub mod files;
pub mod report;
pub mod sampler;
