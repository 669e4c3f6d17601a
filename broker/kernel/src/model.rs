//! What the steering program must choose, written for reading: the reference
//! that its choices are compared with.

use std::net::IpAddr;

use tidegate_ebpf_abi::steer::{NO_SHARD, TABLE_BUCKETS, bucket_v4, bucket_v6, inverse_weight};

/// A shard as policy `least` sees it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Shard {
    /// Connections it has.
    pub live: u64,
    /// Chosen for it and not accepted yet.
    pub pending: u64,
    /// 0 to 100; 0: drained.
    pub weight: u8,
}

impl Shard {
    fn cost(self) -> u64 {
        (self.live + self.pending + 1) * inverse_weight(self.weight.into())
    }
}

/// Every shard that policy `least` may choose: those with the least load for
/// their weight, among which chance decides.
#[must_use]
pub fn least(shards: &[Shard]) -> Vec<usize> {
    let usable = || shards.iter().enumerate().filter(|(_, shard)| shard.weight > 0);
    let Some(least) = usable().map(|(_, shard)| shard.cost()).min() else { return Vec::new() };
    usable().filter(|(_, shard)| shard.cost() == least).map(|(index, _)| index).collect()
}

/// The shard that policy `affinity` chooses for a client.
#[must_use]
pub fn affinity(table: &[u8; TABLE_BUCKETS], seed: u32, client: IpAddr) -> Option<usize> {
    let bucket = match client.to_canonical() {
        IpAddr::V4(client) => bucket_v4(client.octets(), seed),
        IpAddr::V6(client) => {
            let [a, b, c, d, e, f, g, h, ..] = client.octets();
            bucket_v6([a, b, c, d, e, f, g, h], seed)
        }
    };
    Some(table[bucket]).filter(|shard| *shard != NO_SHARD).map(usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards(of: &[(u64, u64, u8)]) -> Vec<Shard> {
        of.iter().map(|&(live, pending, weight)| Shard { live, pending, weight }).collect()
    }

    #[test]
    fn the_least_loaded_is_chosen_and_pending_ones_count() {
        assert_eq!(least(&shards(&[(5, 0, 100), (3, 0, 100), (3, 1, 100)])), [1]);
        assert_eq!(least(&shards(&[(3, 0, 100), (3, 0, 100)])), [0, 1]);
    }

    #[test]
    fn a_heavier_shard_has_more_for_the_same_cost() {
        assert_eq!(least(&shards(&[(19, 0, 100), (10, 0, 50)])), [0]);
        assert_eq!(least(&shards(&[(20, 0, 100), (9, 0, 50)])), [1]);
    }

    #[test]
    fn a_drained_shard_is_never_chosen() {
        assert_eq!(least(&shards(&[(0, 0, 0), (900, 0, 1)])), [1]);
        assert!(least(&shards(&[(0, 0, 0)])).is_empty());
    }

    #[test]
    fn a_client_s_address_decides_and_its_form_does_not() {
        let table = crate::affinity::table(&[100; 8]);
        let one = affinity(&table, 9, "10.1.2.3".parse().expect("an address"));
        assert_eq!(one, affinity(&table, 9, "::ffff:10.1.2.3".parse().expect("an address")));
        let host = |text: &str| affinity(&table, 9, text.parse().expect("an address"));
        assert_eq!(host("2001:db8::1"), host("2001:db8::2"), "one /64 is one client");
        let mut seen: Vec<_> = (0..64).map(|n| host(&format!("2001:db8:{n:x}::1"))).collect();
        seen.sort();
        seen.dedup();
        assert!(seen.len() > 4);
    }
}
