//! Which shard: the policy's choice, then the next usable ones, then the kernel.

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_get_smp_processor_id};
use aya_ebpf::programs::SkReuseportContext;
use tidegate_ebpf_abi::steer::{
    CPUS_MAX, FLAG_PENDING, Listener, Loads, POLICY_AFFINITY, POLICY_CPU, POLICY_HASH,
    TABLE_BUCKETS, Weights, bucket_flow, bucket_v4, bucket_v6,
};
use tidegate_ebpf_abi::{LISTENERS_MAX, SHARDS_MAX, slot};
use tidegate_ebpf_programs::{add, lowest_one, ones_if_negative, read};

use crate::maps;
use crate::subject::{Arrival, Source, Subject};

/// The index within a key that is minimised.
const INDEX_BITS: u32 = 6;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
/// The key of a shard that may not be chosen; larger than all others.
const NEVER: u64 = u64::MAX >> 1;
/// The slot is empty.
const ENOENT: i64 = 2;

const _: () = assert!(SHARDS_MAX == 1 << INDEX_BITS);

/// Selects a socket; where none can be had, the kernel's hash decides.
#[inline(always)]
pub(crate) fn choose(ctx: &SkReuseportContext, subject: &Subject, index: u32, listener: &Listener) {
    let random = random();
    // SAFETY: a field of a map value.
    let usable = unsafe { read(&raw const listener.usable) };
    let chosen = match policy(ctx, subject, index, listener, usable, random) {
        Some(shard) => {
            if (usable >> shard) & 1 != 0 && select(ctx, subject, index, shard) {
                maps::count(index, |counts| &raw mut counts.selected);
                return;
            }
            shard
        }
        // One of the listener's shards at random, by multiplication instead of
        // division; the one before it, as the search begins behind.
        None => (((random & 0xffff) * listener.shards) >> 16).wrapping_sub(1),
    };
    // Two more: by then every slot in the ring's way was closed a moment ago.
    if let Some(second) = next_usable(usable, chosen.wrapping_add(1)) {
        if select(ctx, subject, index, second) {
            maps::count(index, |counts| &raw mut counts.fallback_ring);
            return;
        }
        if let Some(third) = next_usable(usable, second.wrapping_add(1))
            && select(ctx, subject, index, third)
        {
            maps::count(index, |counts| &raw mut counts.fallback_ring);
            return;
        }
    }
    maps::count(index, |counts| &raw mut counts.fallback_hash);
}

/// What the listener's policy says, usable or not.
#[inline(always)]
fn policy(
    ctx: &SkReuseportContext,
    subject: &Subject,
    index: u32,
    listener: &Listener,
    usable: u64,
    random: u32,
) -> Option<u32> {
    match listener.policy {
        POLICY_AFFINITY => by_bucket(
            index,
            match subject.source(ctx) {
                Source { v4: true, ip } => bucket_v4((ip[0] as u32).to_ne_bytes(), listener.seed),
                Source { v4: false, ip } => bucket_v6(ip[0].to_ne_bytes(), listener.seed),
            },
        ),
        POLICY_HASH => by_bucket(index, bucket_flow(ctx.hash(), listener.seed)),
        POLICY_CPU => {
            // SAFETY: takes nothing and returns a number.
            let cpu = unsafe { bpf_get_smp_processor_id() } as usize;
            let cpus = maps::CPUS.get(0)?;
            // SAFETY: the index is within the length, which is a power of two.
            shard(unsafe { read(cpus.shard.as_ptr().add(cpu & (CPUS_MAX - 1))) })
        }
        _ => {
            let loads = maps::LOADS.get(0)?;
            let weights = maps::WEIGHTS.get(index)?;
            // All ones if what was picked and not accepted is part of a load.
            let pending =
                ones_if_negative(0_u64.wrapping_sub(u64::from(listener.flags & FLAG_PENDING)));
            if listener.shards <= 8 {
                least_of_8(loads, weights, usable, pending, random)
            } else {
                least_of_64(loads, weights, usable, pending, random)
            }
        }
    }
}

#[inline(always)]
fn by_bucket(index: u32, bucket: usize) -> Option<u32> {
    let table = maps::TABLES.get(index)?;
    // SAFETY: the index is within the length, which is a power of two.
    shard(unsafe { read(table.shard.as_ptr().add(bucket & (TABLE_BUCKETS - 1))) })
}

#[inline(always)]
fn shard(byte: u8) -> Option<u32> {
    (u32::from(byte) < SHARDS_MAX as u32).then_some(u32::from(byte))
}

/// `$step` over the shards, in a straight line.
macro_rules! unrolled {
    ($step:ident: $($shard:literal)*) => {$( $step($shard); )*};
}
macro_rules! unrolled_64 {
    ($step:ident) => {
        unrolled!($step:
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
            32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60
            61 62 63)
    };
}

#[inline(always)]
fn least_of_8(
    loads: &Loads,
    weights: &Weights,
    usable: u64,
    pending: u64,
    random: u32,
) -> Option<u32> {
    let mut best = NEVER;
    let mut step = |shard| {
        best = min(
            best,
            NEVER & (key(loads, weights, shard, pending, random) | unusable(usable, shard)),
        )
    };
    unrolled!(step: 0 1 2 3 4 5 6 7);
    indexed(best, random)
}

#[inline(always)]
fn least_of_64(
    loads: &Loads,
    weights: &Weights,
    usable: u64,
    pending: u64,
    random: u32,
) -> Option<u32> {
    let mut best = NEVER;
    let mut step = |shard| {
        best = min(
            best,
            NEVER & (key(loads, weights, shard, pending, random) | unusable(usable, shard)),
        )
    };
    unrolled_64!(step);
    indexed(best, random)
}

/// (load + 1) for its weight, and the index below it, so that the least key is
/// the least loaded shard. The random number breaks ties.
#[inline(always)]
fn key(loads: &Loads, weights: &Weights, shard: usize, pending: u64, random: u32) -> u64 {
    let load = &raw const loads.shards[shard];
    // SAFETY: fields of a map value.
    let (live, waiting, inverse) = unsafe {
        let taken =
            read(&raw const (*load).accepted).wrapping_add(read(&raw const (*load).settled));
        let waiting = read(&raw const (*load).picked).wrapping_sub(taken);
        (read(&raw const (*load).live), waiting, read(&raw const weights.inverse[shard]))
    };
    let waiting = waiting & !ones_if_negative(waiting) & pending;
    let cost = live.wrapping_add(waiting).wrapping_add(1).wrapping_mul(inverse);
    let index = u64::from(shard as u32 ^ (random & INDEX_MASK));
    (cost << INDEX_BITS) | index
}

/// All ones for a shard that may not be chosen.
#[inline(always)]
fn unusable(usable: u64, shard: usize) -> u64 {
    !ones_if_negative(usable << (SHARDS_MAX - 1 - shard))
}

/// The first usable shard from `start` on, around the ring.
#[inline(always)]
fn next_usable(usable: u64, start: u32) -> Option<u32> {
    let start = start & INDEX_MASK;
    let distance = lowest_one(usable.rotate_right(start));
    (usable != 0).then_some((start + distance) & INDEX_MASK)
}

/// The smaller of two numbers under 2^63, without a branch.
#[inline(always)]
fn min(one: u64, other: u64) -> u64 {
    let difference = other.wrapping_sub(one);
    one.wrapping_add(difference & ones_if_negative(difference))
}

#[inline(always)]
fn indexed(best: u64, random: u32) -> Option<u32> {
    (best != NEVER).then_some((best as u32 ^ random) & INDEX_MASK)
}

/// Gives it to a shard's socket.
#[inline(always)]
fn select(ctx: &SkReuseportContext, subject: &Subject, index: u32, shard: u32) -> bool {
    let (index, shard) = (index & (LISTENERS_MAX as u32 - 1), shard & INDEX_MASK);
    if let Err(error) =
        maps::SOCKETS.select_reuseport(ctx, slot(index as usize, shard as usize) as u32)
    {
        if error != -ENOENT {
            maps::count(index, |counts| &raw mut counts.errors);
        }
        return false;
    }
    match subject.arrival {
        // It will be in the queue of that shard.
        Arrival::Syn | Arrival::Migration => picked(index, shard as usize),
        Arrival::Stray => {}
    }
    true
}

#[inline(always)]
fn picked(index: u32, shard: usize) {
    if let Some(loads) = maps::LOADS.get_ptr_mut(0) {
        // SAFETY: the index is within the length; the caller has masked it.
        unsafe {
            let load = (&raw mut (*loads).shards).cast::<tidegate_ebpf_abi::steer::Load>();
            add(&raw mut (*load.add(shard)).picked, 1);
        }
    }
    if let Some(picked) = maps::PICKED.get_ptr_mut(index) {
        // SAFETY: the same.
        unsafe { add((&raw mut (*picked).picked).cast::<u64>().add(shard), 1) };
    }
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: takes nothing and returns a number.
    unsafe { bpf_get_prandom_u32() }
}
