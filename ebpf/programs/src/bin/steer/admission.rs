//! Who gets in: block list, a bucket of the source prefix, one of the listener.
//!
//! In this order, so that one source that asks too often does not use up what
//! the listener would give to the others. The buckets are GCRA: one word, the
//! theoretical arrival time, moved on by a compare-exchange. When four CPUs in
//! a row were faster the SYN is let through and counted, so a bucket never
//! holds up more than it may, and the work stays bounded.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::programs::SkReuseportContext;
use tidegate_ebpf_abi::steer::{FAMILY_V4, FAMILY_V6, FLAG_BLOCKS, Listener, Rate};
use tidegate_ebpf_programs::{insert_new, lookup, ones_if_negative, read, replace};

use crate::maps;
use crate::subject::{Source, source_of_packet};

const _: () = assert!(core::mem::offset_of!(Listener, mask_v6) % 8 == 0);

/// Whether a SYN may go on to a shard; a refusal is counted by its reason.
#[inline(always)]
pub(crate) fn admits(ctx: &SkReuseportContext, index: u32, listener: &Listener) -> bool {
    // SAFETY: fields of a map value.
    let (flags, rate, prefix_rate) = unsafe {
        (
            read(&raw const listener.flags),
            rate(&raw const listener.rate),
            rate(&raw const listener.prefix_rate),
        )
    };
    let blocks = flags & FLAG_BLOCKS != 0;
    if blocks || prefix_rate.period_ns != 0 {
        let source = source_of_packet(ctx);
        if blocks && blocked(&source, index) {
            maps::count(index, |counts| &raw mut counts.refused_blocked);
            return false;
        }
        if prefix_rate.period_ns != 0
            && charge_prefix(&prefix(&source, index, listener), prefix_rate, index).is_err()
        {
            maps::count(index, |counts| &raw mut counts.refused_prefix);
            return false;
        }
    }
    if rate.period_ns != 0
        && let Some(bucket) = maps::BUCKETS.get_ptr_mut(index)
        // SAFETY: the pointer is to a map value.
        && unsafe { charge(bucket, rate, now(), index) }.is_err()
    {
        maps::count(index, |counts| &raw mut counts.refused_rate);
        return false;
    }
    true
}

/// Refused by a bucket.
struct Refused;

#[inline(always)]
fn blocked(source: &Source, index: u32) -> bool {
    let [low, high] = source.ip;
    let listeners: *mut u32 = if source.v4 {
        // Four bytes of length and four of address.
        let key = 32 | low << 32;
        // SAFETY: so the key is as long as the map's.
        unsafe { lookup(&maps::BLOCKED_V4, &key) }
    } else {
        // Four bytes of length and 16 of address.
        let key = [128 | low << 32, low >> 32 | high << 32, high >> 32];
        // SAFETY: so the key is longer than the map's.
        unsafe { lookup(&maps::BLOCKED_V6, &key) }
    };
    // SAFETY: a value that the map gave.
    !listeners.is_null() && (unsafe { read(listeners) } >> (index & 31)) & 1 != 0
}

/// The key of `PREFIXES`.
#[inline(always)]
fn prefix(source: &Source, index: u32, listener: &Listener) -> [u64; 3] {
    let [mut low, mut high] = source.ip;
    let family = if source.v4 {
        low &= u64::from(u32::from_ne_bytes(listener.mask_v4));
        FAMILY_V4
    } else {
        // SAFETY: a field of a map value, of 16 bytes and aligned to 8.
        let mask = unsafe { read((&raw const listener.mask_v6).cast::<[u64; 2]>()) };
        low &= mask[0];
        high &= mask[1];
        FAMILY_V6
    };
    [low, high, u64::from(index) | u64::from(family) << 32]
}

#[inline(always)]
fn charge_prefix(prefix: &[u64; 3], rate: Rate, index: u32) -> Result<(), Refused> {
    let now = now();
    // SAFETY: an address, the listener and the family: 24 bytes, as the map's.
    let mut bucket: *mut u64 = unsafe { lookup(&maps::PREFIXES, prefix) };
    if bucket.is_null() {
        let first = now.wrapping_add(rate.period_ns);
        // SAFETY: the same, and the value is one word.
        if unsafe { insert_new(&maps::PREFIXES, prefix, &first) } {
            return Ok(());
        }
        // Another CPU may have put it there just now.
        // SAFETY: as above.
        bucket = unsafe { lookup(&maps::PREFIXES, prefix) };
    }
    if bucket.is_null() {
        maps::count(index, |counts| &raw mut counts.prefixes_full);
        return Ok(());
    }
    // SAFETY: a value that the map gave. If the entry is given to another source
    // just then, that one is charged: once, and too much.
    unsafe { charge(bucket, rate, now, index) }
}

/// Takes one token.
///
/// # Safety
///
/// `bucket` points to a map value.
#[inline(always)]
unsafe fn charge(bucket: *mut u64, rate: Rate, now: u64, index: u32) -> Result<(), Refused> {
    macro_rules! attempt {
        () => {
            // SAFETY: as the caller promises.
            let due = unsafe { read(bucket) };
            let ahead = due.wrapping_sub(now);
            let ahead = ahead & !ones_if_negative(ahead);
            if ahead > rate.tolerance_ns {
                return Err(Refused);
            }
            let next = now.wrapping_add(ahead).wrapping_add(rate.period_ns);
            // SAFETY: as the caller promises.
            if unsafe { replace(bucket, due, next) } {
                return Ok(());
            }
        };
    }
    attempt!();
    attempt!();
    attempt!();
    attempt!();
    maps::count(index, |counts| &raw mut counts.contended);
    Ok(())
}

/// # Safety
///
/// The pointer is to a map value's field.
#[inline(always)]
unsafe fn rate(rate: *const Rate) -> Rate {
    // SAFETY: as the caller promises.
    unsafe {
        Rate {
            period_ns: read(&raw const (*rate).period_ns),
            tolerance_ns: read(&raw const (*rate).tolerance_ns),
        }
    }
}

#[inline(always)]
fn now() -> u64 {
    // SAFETY: takes nothing and returns a number.
    unsafe { bpf_ktime_get_ns() }
}
