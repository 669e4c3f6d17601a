//! What all objects share: atomics, an optimisation barrier, the licence.
//!
//! The verifier follows every path of a program, so the programs avoid paths:
//! where a loop would do, minima are taken without branches over a straight
//! line, and masks come from [`ones_if_negative`], as the compiler would turn them back
//! into branches. Any path to a panic is refused at load, so there is none:
//! masked indices and `wrapping_*` only.

#![no_std]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features)]

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_map_update_elem};

/// All ones if the value, taken as signed, is negative; otherwise 0.
///
/// In assembly, so that the compiler does not see through it. An empty template
/// around the shift would do as well, but two line records at one instruction
/// are refused by the kernel.
#[inline(always)]
#[must_use]
pub fn ones_if_negative(mut value: u64) -> u64 {
    // SAFETY: an arithmetic shift of the register that is given back.
    unsafe {
        core::arch::asm!("{0} s>>= 63", inout(reg) value, options(pure, nomem, nostack));
    }
    value
}

/// Zero, of which the compiler does not know that it is: else it clears a buffer
/// by a call of `memset`, whose loop needs CAP_PERFMON.
#[inline(always)]
#[must_use]
pub fn zero() -> u64 {
    let zero;
    // SAFETY: sets the register that is given back.
    unsafe {
        core::arch::asm!("{0} = 0", out(reg) zero, options(pure, nomem, nostack));
    }
    zero
}

/// How many zeros stand below the lowest one; 64 for 0.
///
/// The decrement is in assembly: the compiler would see what this is and look
/// it up in a table, which is one more map.
#[inline(always)]
#[must_use]
pub fn lowest_one(value: u64) -> u32 {
    let mut lowest = value & value.wrapping_neg();
    // SAFETY: a decrement of the register that is given back.
    unsafe {
        core::arch::asm!("{0} += -1", inout(reg) lowest, options(pure, nomem, nostack));
    }
    lowest.count_ones()
}

/// The index folded into an array whose length is a power of two.
///
/// In assembly: where the compiler can tell that the index is small enough it
/// would leave the mask out, and the verifier can't tell.
#[inline(always)]
#[must_use]
pub fn folded<const LEN: usize>(index: u64) -> usize {
    const { assert!(LEN.is_power_of_two()) };
    let mut folded = index;
    // SAFETY: masks the register that is given back.
    unsafe {
        core::arch::asm!(
            "{0} &= {1}",
            inout(reg) folded,
            in(reg) LEN as u64 - 1,
            options(pure, nomem, nostack)
        );
    }
    folded as usize
}

/// Adds to a word that other CPUs and user space change too.
///
/// # Safety
///
/// `word` points into a map value and is aligned.
#[inline(always)]
pub unsafe fn add(word: *mut u64, by: u64) {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(word, by) };
}

/// Puts `new` in the place of `old`, unless the word has changed.
///
/// # Safety
///
/// `word` points into a map value and is aligned.
#[inline(always)]
#[must_use]
pub unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: as the caller promises.
    let (found, _) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::Relaxed }, { AtomicOrdering::Relaxed }>(
            word, old, new,
        )
    };
    found == old
}

/// Reads a word that others write; once, and as a whole.
///
/// # Safety
///
/// `word` points into a map value or a kernel object that the verifier knows,
/// and is aligned.
#[inline(always)]
#[must_use]
pub unsafe fn read<T: Copy>(word: *const T) -> T {
    // SAFETY: as the caller promises.
    unsafe { core::ptr::read_volatile(word) }
}

/// The value of a key, or null.
///
/// In the place of the maps' own methods where a program is to load without
/// CAP_PERFMON: an `Option` becomes two branches, of which the verifier lets
/// the CPU guess one wrongly.
///
/// # Safety
///
/// `key` is at least as long as the map's keys, and `V` is the map's value.
#[inline(always)]
pub unsafe fn lookup<M, K, V>(map: &M, key: &K) -> *mut V {
    let (map, key) = (&raw const *map, &raw const *key);
    // SAFETY: as the caller promises.
    unsafe { bpf_map_lookup_elem(map.cast_mut().cast(), key.cast()) }.cast()
}

/// Puts in what is not there yet; false if it is, or can't be.
///
/// # Safety
///
/// `key` is at least as long as the map's keys, `value` as its values.
#[inline(always)]
#[must_use]
pub unsafe fn insert_new<M, K, V>(map: &M, key: &K, value: &V) -> bool {
    const BPF_NOEXIST: u64 = 1;
    let (map, key, value) = (&raw const *map, &raw const *key, &raw const *value);
    // SAFETY: as the caller promises.
    unsafe {
        bpf_map_update_elem(map.cast_mut().cast(), key.cast(), value.cast(), BPF_NOEXIST) == 0
    }
}

/// What every object has to have: the licence, without which the kernel lends
/// no helper, and a panic handler, which no program can reach.
#[macro_export]
macro_rules! object {
    () => {
        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 4] = *b"GPL\0";

        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
            loop {}
        }
    };
}
