//! Rates for very many keys in a table of fixed size: source prefixes, client
//! ids.
//!
//! Two rows of buckets, each found by its own hash. A key is over its rate only
//! if it is in both rows, so that another key that shares one bucket with it
//! does it no harm; one that shares both (of 32,768 times 32,768 pairs) shares
//! its rate. The hash is seeded, so nobody can aim at a victim's buckets. No
//! lock, no allocation after the start, 512 KiB.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use foldhash::quality::FixedState;

use crate::rate::{Rate, SharedBucket};

/// Buckets in a row.
const ROW: usize = 1 << 15;

/// Buckets by key.
#[derive(Debug)]
pub struct Buckets {
    rows: [Box<[SharedBucket]>; 2],
    seeds: [FixedState; 2],
}

impl Buckets {
    /// All full. `seed` has to be unpredictable.
    pub fn new(seed: u64) -> Buckets {
        let row = || (0..ROW).map(|_| SharedBucket::default()).collect();
        let seeds = [FixedState::with_seed(seed), FixedState::with_seed(seed.rotate_left(32) ^ !0)];
        Buckets { rows: [row(), row()], seeds }
    }

    fn places(&self, key: u64) -> [&SharedBucket; 2] {
        [0, 1].map(|row: usize| {
            let hash = self.seeds[row].hash_one(key);
            &self.rows[row][hash as usize % ROW]
        })
    }

    /// Takes one for `key`, or says for how many microseconds it is over its
    /// rate.
    ///
    /// # Errors
    /// It is over its rate; nothing was taken.
    pub fn take(&self, key: u64, rate: Rate, now_micros: u64) -> Result<(), u64> {
        let [first, second] = self.places(key);
        let (first, second) =
            (first.take_or_wait(rate, now_micros), second.take_or_wait(rate, now_micros));
        match (first, second) {
            (Err(first), Err(second)) => Err(first.min(second)),
            (Ok(()), _) | (_, Ok(())) => Ok(()),
        }
    }
}

/// The prefix that an address counts for, as a key: so many bits of it. An
/// IPv4-mapped address counts as IPv4.
pub fn prefix(source: IpAddr, bits_v4: u8, bits_v6: u8) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(address) => u64::from(prefix_v4(address, bits_v4)),
        IpAddr::V6(address) => prefix_v6(address, bits_v6),
    }
}

fn prefix_v4(address: Ipv4Addr, bits: u8) -> u32 {
    let dropped = 32 - u32::from(bits.min(32));
    u32::from(address).checked_shr(dropped).unwrap_or(0).checked_shl(dropped).unwrap_or(0)
}

fn prefix_v6(address: Ipv6Addr, bits: u8) -> u64 {
    let dropped = 128 - u32::from(bits.min(128));
    let kept = u128::from(address).checked_shr(dropped).unwrap_or(0);
    let kept = kept.checked_shl(dropped).unwrap_or(0);
    // Both halves, and never the same key as an IPv4 prefix.
    ((kept >> 64) as u64 ^ (kept as u64).rotate_left(29)) | 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10, burst: 5 };
    const NOW: u64 = 9_000_000;

    fn key(address: &str) -> u64 {
        prefix(address.parse().expect("an address"), 24, 64)
    }

    #[test]
    fn addresses_of_one_prefix_share_a_rate_and_others_have_their_own() {
        let buckets = Buckets::new(1);
        let let_in = |address: &str| {
            (0..9).filter(|_| buckets.take(key(address), RATE, NOW).is_ok()).count()
        };
        assert_eq!(let_in("192.0.2.1"), 5);
        assert_eq!(let_in("192.0.2.254"), 0);
        assert_eq!(let_in("::ffff:192.0.2.9"), 0);
        assert_eq!(let_in("192.0.3.1"), 5);
        assert_eq!(let_in("2001:db8::1"), 5);
        assert_eq!(let_in("2001:db8::2"), 0);
        assert_eq!(let_in("2001:db8:0:1::1"), 5);
    }

    #[test]
    fn ten_thousand_others_over_their_rate_do_a_source_no_harm() {
        let buckets = Buckets::new(2);
        for other in 0..10_000u64 {
            for _ in 0..6 {
                let _ = buckets.take(other << 8, RATE, NOW);
            }
        }
        let harmed = (0..1_000u64).filter(|n| buckets.take(n << 40 | 7, RATE, NOW).is_err());
        // Each shares both of its buckets with probability (1 - e^-0.31)^2 = 0.07
        // for the first take.
        assert!(harmed.count() < 120, "count-min does not isolate");
    }

    #[test]
    fn the_wait_ends_when_it_says() {
        let buckets = Buckets::new(3);
        let key = key("192.0.2.1");
        while buckets.take(key, RATE, NOW).is_ok() {}
        let Err(wait) = buckets.take(key, RATE, NOW) else { panic!("it is over its rate") };
        assert!(buckets.take(key, RATE, NOW + wait).is_ok());
    }

    #[test]
    fn all_bits_and_few_bits_are_prefixes() {
        let four: IpAddr = "255.255.255.255".parse().expect("an address");
        assert_eq!(prefix(four, 32, 64), 0xFFFF_FFFF);
        assert_eq!(prefix(four, 8, 64), 0xFF00_0000);
        let six: IpAddr = "2001:db8::1".parse().expect("an address");
        assert_ne!(prefix(six, 32, 128), prefix("2001:db8::2".parse().expect("one"), 32, 128));
        assert_eq!(prefix(six, 32, 64), prefix("2001:db8::2".parse().expect("one"), 32, 64));
    }
}
