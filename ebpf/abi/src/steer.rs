//! Object `steer`: which shard gets a connection, and whether it gets in at all.
//!
//! | map | type | written by | what |
//! |---|---|---|---|
//! | `SOCKETS` | reuseport sockarray of 2048 by slot | user | the listening sockets |
//! | `INDEX` | hash of [`Address`] -> `u32` | user | which listener a socket belongs to |
//! | `LISTENERS` | array of 32 [`Listener`], mmapable | user | policy and admission |
//! | `WEIGHTS` | array of 32 [`Weights`], mmapable | user | inverse weights by slot |
//! | `LOADS` | array of 1 [`Loads`], mmapable | both | connections a shard |
//! | `TABLES` | array of 32 [`Table`], mmapable | user | hash bucket -> shard |
//! | `CPUS` | array of 1 [`Cpus`], mmapable | user | CPU -> shard |
//! | `PICKED` | array of 32 [`Picked`], mmapable | kernel | choices by slot |
//! | `BUCKETS` | array of 32 `u64`, mmapable | kernel | token bucket of a listener |
//! | `PREFIXES` | LRU hash of [`Prefix`] -> `u64` | kernel | token buckets of sources |
//! | `BLOCKED_V4` | LPM trie of 32 + 32 bits -> `u32` | user | listeners closed to a source |
//! | `BLOCKED_V6` | LPM trie of 32 + 128 bits -> `u32` | user | the same for IPv6 |
//! | `COUNTS` | per-CPU array of 33 [`Counts`] | kernel | what happened |
//!
//! A mapped array of arrays lies in memory as one flat array by slot: in
//! `WEIGHTS` the word of (listener, shard) is at index [`crate::slot`].
//!
//! The LPM tries give the longest match only, so the value of a prefix must
//! have the bits of all shorter prefixes that cover it. Bit `n` is listener
//! `n`; [`BLOCKED_EVERYWHERE`] closes all.
//!
//! Unless a field says otherwise, it is read and written as a whole word with
//! plain atomics; there is no order between words. Fill `WEIGHTS`, `TABLES`
//! and the slots first, `LISTENERS` next, `INDEX` then, and attach last.

use crate::{LISTENERS_MAX, SHARDS_MAX, layout, pod};

/// The file of the object.
pub const OBJECT: &str = "steer.o";

/// Programs in the order in which a loader tries them; after the last one comes
/// the kernel's own hash. Each is an sk_reuseport program with the same maps,
/// without a loop, and loads with CAP_BPF alone (shown on 6.1 and 6.18).
pub const PROGRAMS: [&str; 2] = [PROGRAM_MIGRATE, PROGRAM_PLAIN];
/// Linux 5.14 and newer: chooses, and takes over the queue of a closed listener.
pub const PROGRAM_MIGRATE: &str = "steer_migrate";
/// Linux 5.12 and newer: no migration; finds its listener by the packet's
/// destination.
pub const PROGRAM_PLAIN: &str = "steer_plain";

/// Name of the map of listening sockets.
pub const MAP_SOCKETS: &str = "SOCKETS";
/// Name of the map of [`Address`].
pub const MAP_INDEX: &str = "INDEX";
/// Name of the map of [`Listener`].
pub const MAP_LISTENERS: &str = "LISTENERS";
/// Name of the map of [`Weights`].
pub const MAP_WEIGHTS: &str = "WEIGHTS";
/// Name of the map of [`Loads`].
pub const MAP_LOADS: &str = "LOADS";
/// Name of the map of [`Table`].
pub const MAP_TABLES: &str = "TABLES";
/// Name of the map of [`Cpus`].
pub const MAP_CPUS: &str = "CPUS";
/// Name of the map of [`Picked`].
pub const MAP_PICKED: &str = "PICKED";
/// Name of the map of the listeners' token buckets.
pub const MAP_BUCKETS: &str = "BUCKETS";
/// Name of the map of [`Prefix`].
pub const MAP_PREFIXES: &str = "PREFIXES";
/// Name of the map of blocked IPv4 sources.
pub const MAP_BLOCKED_V4: &str = "BLOCKED_V4";
/// Name of the map of blocked IPv6 sources.
pub const MAP_BLOCKED_V6: &str = "BLOCKED_V6";
/// Name of the map of [`Counts`].
pub const MAP_COUNTS: &str = "COUNTS";

/// Entries of `INDEX`.
pub const INDEX_MAX: usize = 4 * LISTENERS_MAX;
/// Entries of `PREFIXES`; a loader may choose fewer or more. About 90 bytes of
/// kernel memory each, taken at once.
pub const PREFIXES_MAX: usize = 65_536;
/// Entries of each of the two block lists; a loader may choose another number.
pub const BLOCKED_MAX: usize = 16_384;
/// Buckets of a [`Table`].
pub const TABLE_BUCKETS: usize = 4096;
/// CPUs that policy [`POLICY_CPU`] knows; it takes a further one for the CPU
/// that has its number modulo this.
pub const CPUS_MAX: usize = 1024;
/// Where packets that belong to no listener of ours are counted in `COUNTS`.
pub const COUNTS_UNKNOWN: usize = LISTENERS_MAX;
/// The value of a blocked prefix that is closed to all listeners.
pub const BLOCKED_EVERYWHERE: u32 = u32::MAX;
/// In [`Table`] and [`Cpus`]: no shard. The program then takes a usable one at
/// random.
pub const NO_SHARD: u8 = 0xff;

/// The shard with the least load for its weight.
pub const POLICY_LEAST: u32 = 0;
/// By the client's address (IPv6: its /64): a bucket of the [`Table`].
pub const POLICY_AFFINITY: u32 = 1;
/// By the CPU that got the packet: [`Cpus`].
pub const POLICY_CPU: u32 = 2;
/// By the hash over addresses and ports: a bucket of the [`Table`].
pub const POLICY_HASH: u32 = 3;

/// [`Listener::flags`]: a shard's load includes what was picked for it and not
/// yet accepted. Without it, `least` herds while user space is behind.
pub const FLAG_PENDING: u32 = 1 << 0;
/// [`Listener::flags`]: look up the block lists.
pub const FLAG_BLOCKS: u32 = 1 << 1;

/// [`Address::family`] of IPv4: `AF_INET`.
pub const FAMILY_V4: u16 = 2;
/// [`Address::family`] of IPv6: `AF_INET6`. A dual-stack socket is one of these.
pub const FAMILY_V6: u16 = 10;

/// Weight 1 of 100; see [`inverse_weight`].
pub const INVERSE_WEIGHT_ONE: u64 = 65_536;

/// What `WEIGHTS` holds for a weight of 0 to 100: a number that falls as the
/// weight rises; 0 for a drained shard, which is not [`Listener::usable`].
#[must_use]
pub const fn inverse_weight(weight: u32) -> u64 {
    if weight == 0 { 0 } else { INVERSE_WEIGHT_ONE / weight as u64 }
}

/// Where a listening socket is bound: the key of `INDEX`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Address {
    /// The bound address in network byte order; IPv4: the first four bytes, the
    /// rest 0. All 0 if bound to any address.
    pub ip: [u8; 16],
    /// The bound port.
    pub port: u16,
    /// [`FAMILY_V4`] or [`FAMILY_V6`], that of the socket.
    pub family: u16,
    /// Always 0.
    pub reserved: u32,
}

/// A token bucket's parameters (GCRA), written by user space.
///
/// Let through while the bucket's theoretical arrival time is no more than
/// `tolerance_ns` ahead; each one let through moves it on by `period_ns`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Rate {
    /// Nanoseconds a connection; 0: unlimited.
    pub period_ns: u64,
    /// (burst - 1) periods, in nanoseconds.
    pub tolerance_ns: u64,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { period_ns: 0, tolerance_ns: 0 };

    /// So many a second, and up to `burst` at once after a pause; a burst of 0
    /// is one of 1. A rate of 0 is unlimited. The period is rounded to whole
    /// nanoseconds: an error under 0.1 % up to 500,000 a second.
    #[must_use]
    pub const fn per_second(rate: u32, burst: u32) -> Self {
        if rate == 0 {
            return Self::UNLIMITED;
        }
        let rate = rate as u64;
        let period_ns = (1_000_000_000 + rate / 2) / rate;
        let period_ns = if period_ns == 0 { 1 } else { period_ns };
        let burst = if burst == 0 { 1 } else { burst as u64 };
        Self { period_ns, tolerance_ns: (burst - 1) * period_ns }
    }
}

/// How a listener steers and whom it lets in: `LISTENERS` by listener, written
/// by user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Listener {
    /// One of `POLICY_*`; another number is [`POLICY_LEAST`].
    pub policy: u32,
    /// Shards it has, from 0 on; 0 (or over 64): not steered, the kernel's hash.
    pub shards: u32,
    /// `FLAG_*`.
    pub flags: u32,
    /// Mixed into the hash of [`POLICY_AFFINITY`] and [`POLICY_HASH`].
    pub seed: u32,
    /// Bit n: shard n may be chosen, as it has a socket and a weight over 0.
    pub usable: u64,
    /// New connections of this listener.
    pub rate: Rate,
    /// New connections of this listener from one source prefix.
    pub prefix_rate: Rate,
    /// What of an IPv6 source is its prefix: a mask in network byte order, see
    /// [`mask_v6`].
    pub mask_v6: [u8; 16],
    /// The same for IPv4, see [`mask_v4`].
    pub mask_v4: [u8; 4],
    /// Always 0.
    pub reserved: u32,
}

/// The mask of a prefix length, in network byte order; over 32 is 32.
#[must_use]
pub const fn mask_v4(bits: u32) -> [u8; 4] {
    (if bits == 0 { 0 } else { u32::MAX << (32 - if bits > 32 { 32 } else { bits }) }).to_be_bytes()
}

/// The mask of a prefix length, in network byte order; over 128 is 128.
#[must_use]
pub const fn mask_v6(bits: u32) -> [u8; 16] {
    (if bits == 0 { 0 } else { u128::MAX << (128 - if bits > 128 { 128 } else { bits }) })
        .to_be_bytes()
}

/// The finalizer of MurmurHash3: every bit of the input moves every bit of the
/// output.
#[inline]
#[must_use]
pub const fn mix(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

/// The bucket of a [`Table`] for an IPv4 client, with [`POLICY_AFFINITY`].
#[inline]
#[must_use]
pub const fn bucket_v4(ip: [u8; 4], seed: u32) -> usize {
    bucket(mix(u32::from_be_bytes(ip) ^ seed))
}

/// The bucket of a [`Table`] for an IPv6 client's /64, with [`POLICY_AFFINITY`].
/// The caller takes an IPv4-mapped address to [`bucket_v4`], as the kernel does.
#[inline]
#[must_use]
pub const fn bucket_v6(network: [u8; 8], seed: u32) -> usize {
    let bits = u64::from_be_bytes(network);
    bucket(mix((bits >> 32) as u32 ^ mix(bits as u32 ^ seed)))
}

/// The bucket of a [`Table`] for the kernel's hash over addresses and ports,
/// with [`POLICY_HASH`].
#[inline]
#[must_use]
pub const fn bucket_flow(hash: u32, seed: u32) -> usize {
    bucket(mix(hash ^ seed))
}

const fn bucket(hash: u32) -> usize {
    hash as usize % TABLE_BUCKETS
}

/// How loaded a shard is, all listeners together.
///
/// Its load is `live + max(0, picked - accepted - settled)`, the difference
/// taken wrapping and signed. `picked` is not exactly what will be accepted (a
/// client gives up, a SYN cookie comes back to another shard): when nothing
/// waits in its accept queues, user space sets `settled = picked - accepted`.
///
/// A cache line each, so that shards do not disturb one another.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Load {
    /// Connections it has. Written by user space.
    pub live: u64,
    /// Connections it accepted, ever. Written by user space.
    pub accepted: u64,
    /// What was picked and will never be accepted. Written by user space.
    pub settled: u64,
    /// Connections the program chose it for, ever. Written by the kernel.
    pub picked: u64,
    /// Always 0.
    pub reserved: [u64; 4],
}

/// The one element of `LOADS`, by shard.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Loads {
    /// By shard.
    pub shards: [Load; SHARDS_MAX],
}

/// An element of `WEIGHTS`: [`inverse_weight`] by shard, written by user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Weights {
    /// By shard, at most [`INVERSE_WEIGHT_ONE`]. Read for usable shards only.
    pub inverse: [u64; SHARDS_MAX],
}

/// An element of `PICKED`: how often each shard was chosen, written by the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Picked {
    /// By shard.
    pub picked: [u64; SHARDS_MAX],
}

/// An element of `TABLES`: the shard of each hash bucket, written by user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Table {
    /// By bucket: a shard, or [`NO_SHARD`].
    pub shard: [u8; TABLE_BUCKETS],
}

/// The one element of `CPUS`: the shard of each CPU, written by user space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cpus {
    /// By CPU: a shard, or [`NO_SHARD`].
    pub shard: [u8; CPUS_MAX],
}

/// A source prefix of a listener: the key of `PREFIXES`. Its value is the
/// bucket's theoretical arrival time, in nanoseconds of `CLOCK_MONOTONIC`, as
/// are those of `BUCKETS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Prefix {
    /// The source under the listener's mask, in network byte order; IPv4: the
    /// first four bytes, the rest 0.
    pub ip: [u8; 16],
    /// Which listener.
    pub listener: u32,
    /// [`FAMILY_V4`] or [`FAMILY_V6`], that of the packet.
    pub family: u32,
}

/// What happened at a listener: `COUNTS` by listener and CPU, written by the
/// kernel. The last element ([`COUNTS_UNKNOWN`]) is for packets that belong to
/// no listener of ours, and only its `fallback_hash` counts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// The policy's own choice was taken.
    pub selected: u64,
    /// That shard was drained or has no socket: the next usable one was taken.
    pub fallback_ring: u64,
    /// Neither: the kernel's hash over all sockets decided.
    pub fallback_hash: u64,
    /// Waiting connections of a closed socket given to another one; also
    /// counted in one of the three above.
    pub migrated: u64,
    /// SYNs refused as the listener's rate was reached.
    pub refused_rate: u64,
    /// SYNs refused as the source prefix's rate was reached.
    pub refused_prefix: u64,
    /// SYNs refused as the source is blocked.
    pub refused_blocked: u64,
    /// SYNs let through uncounted, as other CPUs kept changing the bucket.
    pub contended: u64,
    /// SYNs let through uncounted, as `PREFIXES` took no new entry.
    pub prefixes_full: u64,
    /// Packets that are no SYN and belong to no connection (a SYN cookie coming
    /// back, a late ACK): never charged, never part of `picked`; also counted
    /// in one of the first three.
    pub stray: u64,
    /// The kernel refused a socket of ours for another reason than an empty
    /// slot; the packet went the way of a fallback.
    pub errors: u64,
    /// Always 0.
    pub reserved: u64,
}

pod!(Address, Rate, Listener, Load, Loads, Weights, Picked, Table, Cpus, Prefix, Counts);

layout!(Address, 24, { ip: 0, port: 16, family: 18, reserved: 20 });
layout!(Rate, 16, { period_ns: 0, tolerance_ns: 8 });
layout!(Listener, 80, {
    policy: 0, shards: 4, flags: 8, seed: 12, usable: 16, rate: 24, prefix_rate: 40, mask_v6: 56,
    mask_v4: 72, reserved: 76,
});
layout!(Load, 64, { live: 0, accepted: 8, settled: 16, picked: 24, reserved: 32 });
layout!(Loads, 4096, { shards: 0 });
layout!(Weights, 512, { inverse: 0 });
layout!(Picked, 512, { picked: 0 });
layout!(Table, 4096, { shard: 0 });
layout!(Cpus, 1024, { shard: 0 });
layout!(Prefix, 24, { ip: 0, listener: 16, family: 20 });
layout!(Counts, 96, {
    selected: 0, fallback_ring: 8, fallback_hash: 16, migrated: 24, refused_rate: 32,
    refused_prefix: 40, refused_blocked: 48, contended: 56, prefixes_full: 64, stray: 72,
    errors: 80, reserved: 88,
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_as_many_bits_as_asked_for() {
        assert_eq!(mask_v4(0), [0; 4]);
        assert_eq!(mask_v4(24), [255, 255, 255, 0]);
        assert_eq!(mask_v4(25), [255, 255, 255, 128]);
        assert_eq!(mask_v4(33), [255; 4]);
        for bits in 0..=128 {
            assert_eq!(u128::from_be_bytes(mask_v6(bits)).leading_ones(), bits);
            assert_eq!(u128::from_be_bytes(mask_v6(bits)).count_ones(), bits);
        }
    }

    #[test]
    fn a_rate_is_a_period_and_its_burst_a_tolerance() {
        assert_eq!(Rate::per_second(0, 5), Rate::UNLIMITED);
        let rate = Rate::per_second(1000, 50);
        assert_eq!(rate, Rate { period_ns: 1_000_000, tolerance_ns: 49_000_000 });
        assert_eq!(Rate::per_second(3, 0), Rate { period_ns: 333_333_333, tolerance_ns: 0 });
        assert_eq!(Rate::per_second(u32::MAX, 1).period_ns, 1, "never unlimited by rounding");
        let largest = Rate::per_second(1, u32::MAX);
        assert_eq!(largest.tolerance_ns, (u64::from(u32::MAX) - 1) * 1_000_000_000);
    }

    #[test]
    fn buckets_spread_and_depend_on_the_seed() {
        let mut hits = [0_u32; TABLE_BUCKETS];
        for client in 0..40_960_u32 {
            hits[bucket_v4((0x0a00_0000 + client).to_be_bytes(), 7)] += 1;
        }
        assert!(hits.iter().all(|hits| *hits < 40), "10 each on average");
        assert!(hits.iter().filter(|hits| **hits == 0).count() < 8);
        assert_ne!(bucket_v4([10, 0, 0, 1], 1), bucket_v4([10, 0, 0, 1], 2));
        assert_ne!(
            bucket_v6([0x20, 1, 0, 0, 0, 0, 0, 1], 1),
            bucket_v6([0x20, 1, 0, 0, 0, 0, 0, 2], 1)
        );
        assert!(bucket_flow(u32::MAX, 3) < TABLE_BUCKETS);
    }

    #[test]
    fn every_weight_but_0_takes_connections_and_a_larger_one_more() {
        assert_eq!(inverse_weight(0), 0);
        for weight in 1..=100 {
            assert!(inverse_weight(weight) > 0);
            assert!(inverse_weight(weight) > inverse_weight(weight + 1), "{weight}");
        }
    }
}
