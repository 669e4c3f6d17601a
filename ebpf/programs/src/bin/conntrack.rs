//! How fast the kernel's connection tracking makes, confirms and frees entries,
//! by network namespace.
//!
//! Hooks: kprobes on functions of nf_conntrack, which is a module on
//! distribution kernels. `confirm` notes the namespace of a call and
//! `confirm_return` counts how it ended. The offsets of the fields come from the
//! kernel's BTF, in read-only globals, as they differ between kernels.
//!
//! Limits: 256 namespaces; 4,096 calls under way, the oldest forgotten. If a
//! call is interrupted by another one on the same CPU and thread, its outcome is
//! counted for the namespace of the other. Memory: 16 kB a CPU and 0.4 MB. Cost:
//! a trap, two or three probe reads and a hash look-up a call: some 200 ns for a
//! new entry and for its end, none for the packets between.
//!
//! Rights: CAP_BPF and CAP_PERFMON; on Debian also the sysctl
//! `kernel.perf_event_paranoid` at 2 or less, as its default of 3 keeps
//! perf_event_open(2) for CAP_SYS_ADMIN.
//!
//! The layouts are in `tidegate_ebpf_abi::conntrack`.

#![no_std]
#![no_main]

use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_map_update_elem, bpf_probe_read_kernel,
};
use aya_ebpf::macros::{kprobe, kretprobe, map};
use aya_ebpf::maps::{LruHashMap, PerCpuHashMap};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use tidegate_ebpf_abi::conntrack::{Counts, NAMESPACES_MAX};
use tidegate_ebpf_programs::{add, insert_new, lookup, read};

tidegate_ebpf_programs::object!();

#[map]
static NAMESPACES: PerCpuHashMap<u32, Counts> =
    PerCpuHashMap::with_max_entries(NAMESPACES_MAX as u32, 0);

#[map]
static CONFIRMING: LruHashMap<u64, u32> = LruHashMap::with_max_entries(4096, 0);

/// Set by the loader before the object is loaded; see the ABI.
#[unsafe(no_mangle)]
static OFFSET_CT_NET: u32 = u32::MAX;
#[unsafe(no_mangle)]
static OFFSET_NET_INODE: u32 = u32::MAX;
#[unsafe(no_mangle)]
static OFFSET_SKB_NFCT: u32 = u32::MAX;

/// The low bits of `sk_buff._nfct` are no part of the pointer.
const NFCT_POINTER: u64 = !7;
const NF_ACCEPT: u32 = 1;
const BPF_ANY: u64 = 0;

/// `__nf_conntrack_alloc(net, …)`
#[kprobe]
pub fn allocate(ctx: ProbeContext) -> u32 {
    count(namespace(argument(&ctx)), |counts| &raw mut counts.new);
    0
}

/// `__nf_conntrack_confirm(skb)`
#[kprobe]
pub fn confirm(ctx: ProbeContext) -> u32 {
    let entry = pointer(argument(&ctx), &raw const OFFSET_SKB_NFCT) & NFCT_POINTER;
    let inode = namespace_of(entry);
    let (key, value) = (call(), u64::from(inode));
    // SAFETY: the map's key is a word, its value the first half of one.
    unsafe {
        bpf_map_update_elem(
            (&raw const CONFIRMING).cast_mut().cast(),
            (&raw const key).cast(),
            (&raw const value).cast(),
            BPF_ANY,
        );
    }
    0
}

/// The same function's return: NF_ACCEPT, or the packet is dropped.
#[kretprobe]
pub fn confirm_return(ctx: RetProbeContext) -> u32 {
    let key = call();
    // SAFETY: the map's key is a word, and the value is one it gave.
    let inode = unsafe {
        let inode: *mut u32 = lookup(&CONFIRMING, &key);
        if inode.is_null() {
            return 0;
        }
        read(inode)
    };
    if ctx.ret::<u64>() as u32 == NF_ACCEPT {
        count(inode, |counts| &raw mut counts.confirmed);
    } else {
        count(inode, |counts| &raw mut counts.confirm_dropped);
    }
    0
}

/// `nf_conntrack_free(ct)`
#[kprobe]
pub fn destroy(ctx: ProbeContext) -> u32 {
    count(namespace_of(argument(&ctx)), |counts| &raw mut counts.destroyed);
    0
}

/// `early_drop(net, hash)`
#[kprobe]
pub fn early_drop(ctx: ProbeContext) -> u32 {
    count(namespace(argument(&ctx)), |counts| &raw mut counts.early_drops);
    0
}

#[inline(always)]
fn argument(ctx: &ProbeContext) -> u64 {
    ctx.arg::<u64>(0).unwrap_or(0)
}

/// Who is in a call: a thread, or this CPU where it has none to run.
#[inline(always)]
fn call() -> u64 {
    // SAFETY: both take nothing and return a number.
    unsafe {
        let thread = bpf_get_current_pid_tgid();
        if thread == 0 { 1 << 63 | u64::from(bpf_get_smp_processor_id()) } else { thread }
    }
}

/// The inode of the namespace of an entry; 0 if it can't be told.
#[inline(always)]
fn namespace_of(entry: u64) -> u32 {
    namespace(pointer(entry, &raw const OFFSET_CT_NET))
}

/// The inode of a namespace; 0 if it can't be told.
#[inline(always)]
fn namespace(net: u64) -> u32 {
    field(net, &raw const OFFSET_NET_INODE) as u32
}

/// A pointer in a kernel structure.
#[inline(always)]
fn pointer(structure: u64, offset: *const u32) -> u64 {
    field(structure, offset)
}

/// Eight bytes of a kernel structure; 0 if they can't be read or nobody has told
/// where they are.
#[inline(always)]
fn field(structure: u64, offset: *const u32) -> u64 {
    let mut value = 0_u64;
    // SAFETY: a global of this object, and a read that the kernel checks.
    unsafe {
        let offset = read(offset);
        if structure == 0 || offset == u32::MAX {
            return 0;
        }
        let from = structure.wrapping_add(u64::from(offset)) as *const core::ffi::c_void;
        if bpf_probe_read_kernel((&raw mut value).cast(), 8, from) != 0 {
            return 0;
        }
    }
    value
}

/// Adds one to a counter of a namespace on this CPU.
#[inline(always)]
fn count(inode: u32, counter: impl FnOnce(&mut Counts) -> *mut u64) {
    if inode == 0 {
        return;
    }
    let key = u64::from(inode);
    // SAFETY: the key begins with the inode, as the target is little-endian, and
    // the value is one that the map gave.
    unsafe {
        let mut counts: *mut Counts = lookup(&NAMESPACES, &key);
        if counts.is_null() {
            let zero = Counts::default();
            // Where it is full, the namespace is not counted.
            let _ = insert_new(&NAMESPACES, &key, &zero);
            counts = lookup(&NAMESPACES, &key);
        }
        if !counts.is_null() {
            add(counter(&mut *counts), 1);
        }
    }
}
