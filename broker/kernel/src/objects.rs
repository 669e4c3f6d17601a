//! The objects, as committed; `cargo xtask ebpf verify` proves that they come
//! from their source.

use aya::include_bytes_aligned;

/// Steering and admission.
pub(crate) static STEER: &[u8] = include_bytes_aligned!("../../../ebpf/objects/steer.o");
