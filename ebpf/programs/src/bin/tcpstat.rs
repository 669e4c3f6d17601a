//! What the kernel sees of our connections: RTTs, retransmissions, states,
//! lifetimes, resets.
//!
//! Hooks:
//! - sock_ops `socket_events` on the broker's cgroup (version 2): for each
//!   connection that is accepted after it was attached. It asks for callbacks on
//!   retransmissions, timeouts and changes of state, and on RTT samples unless
//!   the global `RTT` is 0. This is exact: the kernel calls it beside its own
//!   counters.
//! - BTF tracepoints `set_state` and `receive_reset`: every socket of our ports
//!   in any network namespace, whoever owns it. Optional.
//!
//! Limits: 64 ports, 32 listeners; histograms of 32 buckets by log2. Memory:
//! 34 kB a CPU, and some 300 bytes a sampled connection for its lifetime.
//! Cost: a hash look-up and an atomic add or two an event; RTT events come with
//! nearly every acknowledgement of data, the others a few times a connection.
//! The tracepoint on states runs for the sockets of other processes too, which
//! costs them a probe read and a hash look-up a change of state.
//!
//! The layouts are in `tidegate_ebpf_abi::tcpstat`.

#![no_std]
#![no_main]

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{
    bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_sk_storage_get,
    bpf_sock_ops_cb_flags_set,
};
use aya_ebpf::macros::{btf_map, btf_tracepoint, map, sock_ops};
use aya_ebpf::maps::{HashMap, PerCpuArray};
use aya_ebpf::programs::{BtfTracePointContext, SockOpsContext};
use tidegate_ebpf_abi::LISTENERS_MAX;
use tidegate_ebpf_abi::tcpstat::{BUCKETS, PORTS_MAX, Stats};
use tidegate_ebpf_programs::{add, folded, lookup, read};

tidegate_ebpf_programs::object!();

#[map]
static PORTS: HashMap<u16, u32> = HashMap::with_max_entries(PORTS_MAX as u32, 0);

#[map]
static STATS: PerCpuArray<Stats> = PerCpuArray::with_max_entries(LISTENERS_MAX as u32, 0);

#[btf_map]
static STARTS: SkStorage<u64> = SkStorage::new();

/// Set by the loader before the object is loaded; see the ABI.
#[unsafe(no_mangle)]
static OFFSET_SPORT: u32 = u32::MAX;
#[unsafe(no_mangle)]
static RTT: u32 = 1;
#[unsafe(no_mangle)]
static LIFETIMES: u32 = 0;

/// Operations of sock_ops.
const PASSIVE_ESTABLISHED: u32 = 5;
const TIMEOUT: u32 = 8;
const RETRANSMISSION: u32 = 9;
const STATE: u32 = 10;
const RTT_SAMPLE: u32 = 12;

/// What sock_ops is asked to call for.
const CALL_ON_TIMEOUT: i32 = 1 << 0;
const CALL_ON_RETRANSMISSION: i32 = 1 << 1;
const CALL_ON_STATE: i32 = 1 << 2;
const CALL_ON_RTT: i32 = 1 << 3;

const BPF_SK_STORAGE_GET_F_CREATE: u64 = 1;
const CLOSE: u32 = 7;
const NS_PER_MS: u64 = 1_000_000;
/// What a sock_ops program returns when it wants nothing.
const GO_ON: u32 = 1;

/// Counts what happens to a connection.
#[sock_ops]
pub fn socket_events(ctx: SockOpsContext) -> u32 {
    let stats = stats(ctx.local_port() as u16);
    if stats.is_null() {
        return GO_ON;
    }
    // SAFETY: the map gave the pointer, and the counters are words of its value.
    unsafe {
        match ctx.op() {
            PASSIVE_ESTABLISHED => {
                add(&raw mut (*stats).established, 1);
                let mut calls = CALL_ON_TIMEOUT | CALL_ON_RETRANSMISSION | CALL_ON_STATE;
                if read(&raw const RTT) != 0 {
                    calls |= CALL_ON_RTT;
                }
                bpf_sock_ops_cb_flags_set(ctx.ops, calls);
                begin(&ctx);
            }
            TIMEOUT => add(&raw mut (*stats).timeouts, 1),
            RETRANSMISSION => {
                add(&raw mut (*stats).retransmitted_segments, u64::from(argument(&ctx, 1)));
            }
            RTT_SAMPLE => {
                // The kernel keeps eighths.
                let us = u64::from(read(&raw const (*ctx.ops).srtt_us) >> 3);
                add(&raw mut (*stats).rtt_us_sum, us);
                bump(&raw mut (*stats).rtt_us, bucket(us));
            }
            STATE => {
                let (old, new) = (argument(&ctx, 0), argument(&ctx, 1));
                bump(&raw mut (*stats).entered, new);
                if new == CLOSE {
                    bump(&raw mut (*stats).closed_from, old);
                    end(&ctx, stats);
                }
            }
            _ => {}
        }
    }
    GO_ON
}

/// Counts changes of state, also of connections that were there before us.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn set_state(ctx: BtfTracePointContext) -> i32 {
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    let stats = stats(port(ctx.arg(0)));
    if !stats.is_null() {
        // SAFETY: the map gave the pointer, and the counters are words of its value.
        unsafe {
            bump(&raw mut (*stats).traced_entered, new.cast_unsigned());
            if new.cast_unsigned() == CLOSE {
                bump(&raw mut (*stats).traced_closed_from, old.cast_unsigned());
            }
        }
    }
    0
}

/// Counts resets that came in.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn receive_reset(ctx: BtfTracePointContext) -> i32 {
    let stats = stats(port(ctx.arg(0)));
    if !stats.is_null() {
        // SAFETY: the map gave the pointer, and the counter is a word of its value.
        unsafe { add(&raw mut (*stats).resets_received, 1) };
    }
    0
}

/// The counters of this CPU for a port; null if it is none of ours.
#[inline(always)]
fn stats(port: u16) -> *mut Stats {
    // A word of the stack of its own: see `steer`.
    let key = u64::from(port);
    // SAFETY: the key begins with the port, as the target is little-endian, and
    // both maps have the types that are named here.
    unsafe {
        let listener: *mut u32 = lookup(&PORTS, &key);
        if listener.is_null() {
            return core::ptr::null_mut();
        }
        let key = u64::from(read(listener));
        lookup(&STATS, &key)
    }
}

/// The local port of a socket; 0, which is nobody's, if it can't be read.
///
/// From `inet_sport`, as `skc_num` is 0 already when a socket comes to CLOSE.
#[inline(always)]
fn port(socket: *const u8) -> u16 {
    // SAFETY: a global of this object, and a read that the kernel checks.
    unsafe {
        let offset = read(&raw const OFFSET_SPORT);
        if offset == u32::MAX {
            return 0;
        }
        let mut port = 0_u16;
        let field = socket.wrapping_add(offset as usize);
        if bpf_probe_read_kernel((&raw mut port).cast(), 2, field.cast()) != 0 {
            return 0;
        }
        u16::from_be(port)
    }
}

/// Notes when a connection began, of one in `LIFETIMES`.
///
/// # Safety
///
/// The context is that of the program.
#[inline(always)]
unsafe fn begin(ctx: &SockOpsContext) {
    // SAFETY: a global of this object; the socket is passed on only if there is
    // one; the value is one word.
    unsafe {
        let one_in = read(&raw const LIFETIMES);
        if one_in == 0 || bpf_get_prandom_u32() & one_in.wrapping_sub(1) != 0 {
            return;
        }
        let socket = socket(ctx);
        if !socket.is_null() {
            let mut now = bpf_ktime_get_ns();
            bpf_sk_storage_get(
                starts(),
                socket,
                (&raw mut now).cast(),
                BPF_SK_STORAGE_GET_F_CREATE,
            );
        }
    }
}

/// Counts how long a connection lived, if that was noted.
///
/// # Safety
///
/// The context is that of the program, `stats` a value of `STATS`.
#[inline(always)]
unsafe fn end(ctx: &SockOpsContext, stats: *mut Stats) {
    // SAFETY: a global of this object; the socket is passed on only if there is
    // one; the storage's value is one word.
    unsafe {
        if read(&raw const LIFETIMES) == 0 {
            return;
        }
        let socket = socket(ctx);
        if socket.is_null() {
            return;
        }
        let start: *mut u64 = bpf_sk_storage_get(starts(), socket, core::ptr::null_mut(), 0).cast();
        if !start.is_null() {
            let ms = bpf_ktime_get_ns().wrapping_sub(read(start)) / NS_PER_MS;
            add(&raw mut (*stats).lifetime_ms_sum, ms);
            bump(&raw mut (*stats).lifetime_ms, bucket(ms));
        }
    }
}

/// # Safety
///
/// The context is that of the program.
#[inline(always)]
unsafe fn socket(ctx: &SockOpsContext) -> *mut core::ffi::c_void {
    // SAFETY: a field of the context that has but this one meaning.
    unsafe { read(&raw const (*ctx.ops).__bindgen_anon_2.sk) }.cast()
}

#[inline(always)]
fn starts() -> *mut core::ffi::c_void {
    (&raw const STARTS).cast_mut().cast()
}

/// # Safety
///
/// The context is that of the program, `index` under 4.
#[inline(always)]
unsafe fn argument(ctx: &SockOpsContext, index: usize) -> u32 {
    // SAFETY: as the caller promises.
    unsafe {
        let arguments = (&raw const (*ctx.ops).__bindgen_anon_1).cast::<u32>();
        read(arguments.add(index))
    }
}

/// Adds one to an element; past the end to one that it is folded onto.
///
/// # Safety
///
/// The counters are part of a map value.
#[inline(always)]
unsafe fn bump<const N: usize>(counters: *mut [u64; N], index: u32) {
    // SAFETY: the index is within the length.
    unsafe { add(counters.cast::<u64>().add(folded::<N>(u64::from(index))), 1) };
}

/// By log2; 0 is in the first one, what is too large in the last one.
#[inline(always)]
fn bucket(value: u64) -> u32 {
    let log2 = 63 - (value | 1).leading_zeros();
    if log2 < BUCKETS as u32 { log2 } else { BUCKETS as u32 - 1 }
}
