//! The objects, as committed; `cargo xtask ebpf verify` proves that they come
//! from their source.

use aya::include_bytes_aligned;

/// Steering and admission.
pub(crate) static STEER: &[u8] = include_bytes_aligned!("../../../ebpf/objects/steer.o");

/// RTTs, retransmits and states.
pub(crate) static TCPSTAT: &[u8] = include_bytes_aligned!("../../../ebpf/objects/tcpstat.o");

/// Connection tracking; where arguments of a function are differs by
/// architecture.
#[cfg(target_arch = "x86_64")]
pub(crate) static CONNTRACK: &[u8] =
    include_bytes_aligned!("../../../ebpf/objects/conntrack-x86_64.o");
/// There is none for this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) static CONNTRACK: &[u8] = &[];
