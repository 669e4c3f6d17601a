//! One listening socket for a range of ports and addresses, for load tests.
//!
//! Hook: sk_lookup on a network namespace. The kernel runs it for each packet
//! that belongs to no connection, before it looks for a listener itself; what is
//! outside of the range goes the usual way.
//!
//! Limits: one range, one socket. Cost: two array look-ups a SYN of the namespace,
//! a sockmap look-up more within the range. No loop; CAP_BPF and CAP_NET_ADMIN.
//!
//! The layouts are in `tidegate_ebpf_abi::lookup`.

#![no_std]
#![no_main]

use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::helpers::generated::{bpf_sk_assign, bpf_sk_release};
use aya_ebpf::macros::{map, sk_lookup};
use aya_ebpf::maps::{Array, PerCpuArray, SockMap};
use aya_ebpf::programs::SkLookupContext;
use tidegate_ebpf_abi::lookup::{FLAG_NO_REUSEPORT, Range};
use tidegate_ebpf_programs::{add, lookup, read};

tidegate_ebpf_programs::object!();

#[map]
static ANCHOR: SockMap = SockMap::with_max_entries(1, 0);

#[map]
static RANGE: Array<Range> = Array::with_max_entries(1, 0);

#[map]
static REDIRECTED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

const SK_PASS: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;
/// Of every map here.
const ONLY: u64 = 0;

/// Gives what is in the range to the anchor; where that fails it goes the usual way.
#[sk_lookup]
pub fn redirect(ctx: SkLookupContext) -> u32 {
    // SAFETY: the maps have the types that are named here, and the context is
    // that of the program.
    unsafe {
        let range: *mut Range = lookup(&RANGE, &ONLY);
        if range.is_null() || !within(ctx.lookup, range) {
            return SK_PASS;
        }
        let flags = u64::from(read(&raw const (*range).flags) & FLAG_NO_REUSEPORT);
        let anchor: *mut core::ffi::c_void = lookup(&ANCHOR, &ONLY);
        if anchor.is_null() {
            return SK_PASS;
        }
        let refused = bpf_sk_assign(ctx.lookup.cast(), anchor, flags);
        bpf_sk_release(anchor);
        if refused == 0 {
            let redirected: *mut u64 = lookup(&REDIRECTED, &ONLY);
            if !redirected.is_null() {
                add(redirected, 1);
            }
        }
    }
    SK_PASS
}

/// # Safety
///
/// The packet is the program's context, the range a value of its map.
#[inline(always)]
unsafe fn within(packet: *const bpf_sk_lookup, range: *const Range) -> bool {
    // SAFETY: fields of both, by the words that the verifier allows.
    unsafe {
        let port = read(&raw const (*packet).local_port);
        if read(&raw const (*packet).protocol) != IPPROTO_TCP
            || read(&raw const (*range).port_min) == 0
            || port < read(&raw const (*range).port_min)
            || port > read(&raw const (*range).port_max)
        {
            return false;
        }
        if read(&raw const (*packet).family) == AF_INET {
            let mask = word((&raw const (*range).mask_v4).cast());
            let wanted = word((&raw const (*range).ip_v4).cast());
            return (read(&raw const (*packet).local_ip4) ^ wanted) & mask == 0;
        }
        let ip: *const u32 = (&raw const (*packet).local_ip6).cast();
        let (wanted, mask) = (
            (&raw const (*range).ip_v6).cast::<u32>(),
            (&raw const (*range).mask_v6).cast::<u32>(),
        );
        let mut differ = 0;
        differ |= (read(ip) ^ word(wanted)) & word(mask);
        differ |= (read(ip.add(1)) ^ word(wanted.add(1))) & word(mask.add(1));
        differ |= (read(ip.add(2)) ^ word(wanted.add(2))) & word(mask.add(2));
        differ |= (read(ip.add(3)) ^ word(wanted.add(3))) & word(mask.add(3));
        differ == 0
    }
}

/// Four bytes of a range, which lie at a multiple of four.
///
/// # Safety
///
/// They are part of a value of the map.
#[inline(always)]
unsafe fn word(bytes: *const u32) -> u32 {
    // SAFETY: as the caller promises.
    unsafe { read(bytes) }
}

const _: () = {
    assert!(core::mem::offset_of!(Range, ip_v4) % 4 == 0);
    assert!(core::mem::offset_of!(Range, mask_v4) % 4 == 0);
    assert!(core::mem::offset_of!(Range, ip_v6) % 4 == 0);
    assert!(core::mem::offset_of!(Range, mask_v6) % 4 == 0);
};
