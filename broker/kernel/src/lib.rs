//! What lies between the broker and its programs in the kernel.
//!
//! The objects are built from `ebpf/programs` and embedded here, so that nobody
//! who builds the broker needs more than stable Rust. Each is loaded by itself:
//! one that a kernel will not take takes no other down, and none of them is
//! needed for the broker to be right (KRN-1).
//!
//! Does system calls; decides nothing that has to do with MQTT.

pub mod affinity;
pub mod blocks;
pub mod btf;
pub mod capabilities;
pub mod conntrack;
pub mod mapped;
pub mod model;
pub mod program;
pub mod steering;
pub mod tcpstat;

mod objects;

pub use tidegate_ebpf_abi::{LISTENERS_MAX, SHARDS_MAX};
