//! What the programs in the kernel and the broker must agree on.
//!
//! Layouts of map values, sizes of maps, names of maps, programs and read-only
//! globals; a module an object. Every type is `repr(C)` without implicit
//! padding and has its size and offsets asserted at compile time, as the two
//! sides are built by different compilers for different machines. Integers are
//! in the byte order of the host unless a field says otherwise.
//!
//! With feature `aya` every type implements `aya::Pod`.

#![no_std]

pub mod conntrack;
pub mod lookup;
pub mod steer;
pub mod tcpstat;

/// Shards of a node; also the slots of one listener in every map by slot.
pub const SHARDS_MAX: usize = 64;

/// Listeners of a node: one is one bound address and port.
pub const LISTENERS_MAX: usize = 32;

/// Elements of the maps by slot.
pub const SLOTS_MAX: usize = LISTENERS_MAX * SHARDS_MAX;

/// Where the socket of a shard on a listener stands in the maps by slot.
#[must_use]
pub const fn slot(listener: usize, shard: usize) -> usize {
    listener * SHARDS_MAX + shard
}

/// A type as a value of aya's maps.
macro_rules! pod {
    ($($name:ty),* $(,)?) => {$(
        #[cfg(feature = "aya")]
        #[allow(unsafe_code)]
        // SAFETY: `repr(C)`, `Copy`, made of integers only, and the assertions
        // beside the type show that there is no padding: every bit pattern is a
        // value, and every byte of a value is initialised.
        unsafe impl aya::Pod for $name {}
    )*};
}
pub(crate) use pod;

/// The offsets of fields and the size of a type, checked by the compiler.
macro_rules! layout {
    ($name:ty, $size:expr, { $($field:ident: $offset:expr),* $(,)? }) => {
        const _: () = {
            assert!(core::mem::size_of::<$name>() == $size);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)*
        };
    };
}
pub(crate) use layout;
