//! Which shard gets which hash bucket: weighted rendezvous hashing.
//!
//! Each bucket goes to the shard with the highest score for it. A shard that is
//! drained loses its buckets to the others and nobody else moves; one that gets
//! more weight only takes buckets away, in proportion.

use tidegate_ebpf_abi::SHARDS_MAX;
use tidegate_ebpf_abi::steer::{NO_SHARD, TABLE_BUCKETS};

/// The shard of each bucket, or [`NO_SHARD`] where all weights are 0. Weights
/// are those of shards 0 on; further ones than [`SHARDS_MAX`] are not looked at.
///
/// Costs about 4,096 times the number of shards in logarithms: 8 ms for 64.
#[must_use]
pub fn table(weights: &[u8]) -> [u8; TABLE_BUCKETS] {
    let mut table = [NO_SHARD; TABLE_BUCKETS];
    for (bucket, owner) in table.iter_mut().enumerate() {
        let mut best = f64::NEG_INFINITY;
        for (shard, weight) in weights.iter().take(SHARDS_MAX).enumerate() {
            if *weight == 0 {
                continue;
            }
            // In (0, 1), from the 53 bits that a float can tell apart.
            let hash = scatter((bucket * SHARDS_MAX + shard) as u64) >> 11;
            let unit = (hash as f64 + 0.5) / (1_u64 << 53) as f64;
            let score = -f64::from(*weight) / unit.ln();
            if score > best {
                best = score;
                *owner = shard as u8;
            }
        }
    }
    table
}

/// SplitMix64.
fn scatter(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(table: &[u8], shards: usize) -> Vec<usize> {
        (0..shards)
            .map(|shard| table.iter().filter(|o| usize::from(**o) == shard).count())
            .collect()
    }

    #[test]
    fn equal_weights_give_equal_shares() {
        for share in shares(&table(&[100; 8]), 8) {
            assert!((440..=590).contains(&share), "{share} of 4,096 for one of 8");
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let found = shares(&table(&[100, 50, 25, 25]), 4);
        for (share, wanted) in found.iter().zip([2_048, 1_024, 512, 512]) {
            assert!(share.abs_diff(wanted) < wanted / 8, "{found:?}");
        }
    }

    #[test]
    fn a_drain_moves_the_drained_shard_s_buckets_alone() {
        let before = table(&[100; 8]);
        let mut weights = [100; 8];
        weights[5] = 0;
        let after = table(&weights);
        for (was, is) in before.iter().zip(after) {
            assert!(is != 5 && (*was == 5 || *was == is));
        }
    }

    #[test]
    fn more_weight_only_takes() {
        let mut weights = [50; 8];
        let before = table(&weights);
        weights[2] = 100;
        for (was, is) in before.iter().zip(table(&weights)) {
            assert!(is == 2 || *was == is);
        }
    }

    #[test]
    fn nobody_has_a_bucket_when_all_are_drained() {
        assert!(table(&[0; 4]).iter().all(|owner| *owner == NO_SHARD));
        assert!(table(&[]).iter().all(|owner| *owner == NO_SHARD));
    }
}
