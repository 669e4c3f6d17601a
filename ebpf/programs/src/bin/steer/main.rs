//! Which shard gets a connection, and whether it gets in at all.
//!
//! Hook: sk_reuseport, attached to the group of listening sockets of a port.
//! The kernel runs it for each packet that finds a listener and no connection:
//! SYNs, but also stray ACKs and SYN cookies coming back; and, in the sections
//! `migrate`, for each connection that waits in the queue of a closed socket.
//!
//! 1. [`subject`]: what the packet is, and which listener it is for.
//! 2. [`admission`]: only for a SYN without ACK: block list, bucket of the
//!    source prefix, bucket of the listener. A refusal is SK_DROP; the client
//!    sees a reset. What migrates is never refused.
//! 3. [`choice`]: the policy's shard, then the next usable ones, then the
//!    kernel's own hash over all sockets, which no failure can take away.
//!
//! Limits: 32 listeners, 64 shards, 4,096 hash buckets a listener, 1,024 CPUs,
//! 16,384 blocked prefixes of each family, 65,536 sources with a bucket of
//! their own (the least recently seen one goes). Memory: 6.5 MB, of which the
//! sources are 6.3; the block lists as they fill, some 64 bytes an entry.
//!
//! Cost, as `run_time_ns` of the kernel tells it on a 6.18 at 2 cores: `least`
//! 130 ns a SYN with up to 8 shards and 420 with more, `affinity` and `hash` 130,
//! `cpu` 100; the bucket of a listener 40 more, that of a prefix 70, block lists
//! a few. A refusal is 110. A connect over loopback is 13,500. No loop: the
//! programs load without CAP_PERFMON, where the verifier takes the longest, with
//! 190,000 instructions on 6.1 and 20,000 on 6.18.
//!
//! The layouts are in `tidegate_ebpf_abi::steer`.

#![no_std]
#![no_main]

mod admission;
mod choice;
mod maps;
mod subject;

use aya_ebpf::macros::sk_reuseport;
use aya_ebpf::programs::SkReuseportContext;
use tidegate_ebpf_abi::SHARDS_MAX;
use tidegate_ebpf_abi::steer::Listener;

use subject::{Arrival, NOBODY, Subject};

tidegate_ebpf_programs::object!();

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

/// Linux 5.14 and newer: knows its socket, and is asked about migrations.
#[sk_reuseport(migrate)]
pub fn steer_migrate(ctx: SkReuseportContext) -> u32 {
    steer(&ctx, &Subject::of_socket(&ctx))
}

/// Older kernels: finds its listener by what the packet says.
#[sk_reuseport]
pub fn steer_plain(ctx: SkReuseportContext) -> u32 {
    steer(&ctx, &Subject::of_packet(&ctx))
}

#[inline(always)]
fn steer(ctx: &SkReuseportContext, subject: &Subject) -> u32 {
    let index = subject.listener;
    let Some(listener) = maps::LISTENERS.get(index) else {
        maps::count(NOBODY, |counts| &raw mut counts.fallback_hash);
        return SK_PASS;
    };
    match subject.arrival {
        Arrival::Syn => {
            if !admission::admits(ctx, index, listener) {
                return SK_DROP;
            }
        }
        Arrival::Migration => maps::count(index, |counts| &raw mut counts.migrated),
        Arrival::Stray => maps::count(index, |counts| &raw mut counts.stray),
    }
    if serves(listener) {
        choice::choose(ctx, subject, index, listener);
    } else {
        maps::count(index, |counts| &raw mut counts.fallback_hash);
    }
    SK_PASS
}

#[inline(always)]
fn serves(listener: &Listener) -> bool {
    // SAFETY: a field of a map value.
    let shards = unsafe { tidegate_ebpf_programs::read(&raw const listener.shards) };
    shards != 0 && shards <= SHARDS_MAX as u32
}
