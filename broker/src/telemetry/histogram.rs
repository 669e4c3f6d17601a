//! How long things take, counted into fixed buckets.
//!
//! One writer, the shard, as with `Count`: plain loads and stores. Kept in
//! microseconds, told in seconds. A bucket holds only its own observations; the
//! sums that Prometheus wants are made by the scrape, so what it is told always
//! adds up, even while the shard goes on counting.

use tidegate_core::counters::{Count, Scope, Stage};

/// Upper bounds, in microseconds, of turns. Few: each is a series a shard.
const TURN: &[u32] = &[100, 1_000, 10_000, 100_000, 1_000_000];
/// Of deliveries.
const PUBLISH: &[u32] =
    &[50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];
/// Of connecting; the last is the default of `limits.connect_timeout_ms`.
const CONNECT: &[u32] = &[
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];

/// Counts by duration, of one shard.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u32],
    /// One a bound, and one for what is above the last.
    counts: Box<[Count]>,
    sum_micros: Count,
}

impl Histogram {
    fn new(bounds: &'static [u32]) -> Histogram {
        let counts = (0..=bounds.len()).map(|_| Count::default()).collect();
        Histogram { bounds, counts, sum_micros: Count::default() }
    }

    /// Counts `n` events that took so long each. Only the owning shard may call it.
    #[inline]
    pub fn observe(&self, micros: u64, n: u64) {
        let above = self.bounds.iter().take_while(|bound| u64::from(**bound) < micros).count();
        self.counts[above].add(n);
        self.sum_micros.add(micros * n);
    }

    /// The sum of what was observed.
    pub fn sum_micros(&self) -> u64 {
        self.sum_micros.value()
    }

    /// How many events were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(Count::value).sum()
    }
}

/// Upper bounds, in microseconds, of what a disk does.
const DISK: &[u32] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 5_000_000,
];
/// Upper bounds of the records of a commit group.
const RECORDS: &[u32] = &[1, 4, 16, 64, 256, 1_024, 4_096, 16_384];

/// What the store's writer times.
#[derive(Debug)]
pub struct StoreTimings {
    /// Appends.
    pub append: Histogram,
    /// Syncs.
    pub fsync: Histogram,
    /// Fetches of messages; written by the reader.
    pub read: Histogram,
    /// Commit groups, by their records.
    pub group_records: Histogram,
}

impl Default for StoreTimings {
    fn default() -> StoreTimings {
        StoreTimings {
            append: Histogram::new(DISK),
            fsync: Histogram::new(DISK),
            read: Histogram::new(DISK),
            group_records: Histogram::new(RECORDS),
        }
    }
}

/// What the task of partitions times.
#[derive(Debug)]
pub struct ReplicationTimings {
    /// From the proposal of a batch to its commit.
    pub ack: Histogram,
}

impl Default for ReplicationTimings {
    fn default() -> ReplicationTimings {
        ReplicationTimings { ack: Histogram::new(DISK) }
    }
}

/// What the shell of one shard times.
#[derive(Debug)]
pub struct Timings {
    /// Turns.
    pub turns: Histogram,
    /// Deliveries, by [`Scope`] and QoS.
    pub publishes: [[Histogram; 3]; Scope::ALL.len()],
    /// Connections that took a session over, from the accept to the CONNACK.
    pub takeovers: Histogram,
}

impl Default for Timings {
    fn default() -> Timings {
        let publishes = || [0, 1, 2].map(|_| Histogram::new(PUBLISH));
        Timings {
            turns: Histogram::new(TURN),
            publishes: [publishes(), publishes()],
            takeovers: Histogram::new(CONNECT),
        }
    }
}

/// What is timed for one listener on one shard, by [`Stage`].
#[derive(Debug)]
pub struct ConnectTimings(pub [Histogram; Stage::ALL.len()]);

impl Default for ConnectTimings {
    fn default() -> ConnectTimings {
        ConnectTimings([Histogram::new(CONNECT), Histogram::new(CONNECT)])
    }
}

/// What a scrape read of histograms with the same buckets.
#[derive(Clone, Debug, Default)]
pub(super) struct Distribution {
    /// Upper bound in seconds, and what lies in the bucket alone.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) count: u64,
    pub(super) sum_seconds: f64,
}

impl Distribution {
    /// Of buckets by powers of two, as the kernel counts: bucket n has what is
    /// from 2^n to below 2^(n+1) of a unit of so many seconds. Eight bounds are
    /// told: 2 to the power of `first` + 1, and each four times the one before.
    pub(super) fn of_log2(buckets: &[u64], unit: f64, first: usize, sum: f64) -> Distribution {
        let last = first + 14;
        let mut all = Distribution { sum_seconds: sum, ..Distribution::default() };
        let mut waiting = 0;
        for (n, count) in buckets.iter().enumerate() {
            waiting += count;
            all.count += count;
            if n >= first && n <= last && (n - first).is_multiple_of(2) {
                let bound = (1_u64 << (n + 1)) as f64 * unit;
                all.buckets.push((bound, std::mem::take(&mut waiting)));
            }
        }
        all.buckets.push((f64::INFINITY, waiting));
        all
    }

    /// Of a histogram of numbers instead of times.
    pub(super) fn of_numbers(histogram: &Histogram) -> Distribution {
        let Distribution { buckets, count, sum_seconds } = Distribution::of([histogram]);
        let buckets = buckets.into_iter().map(|(bound, n)| (bound * 1e6, n)).collect();
        Distribution { buckets, count, sum_seconds: sum_seconds * 1e6 }
    }

    /// The sum of some shards' histograms.
    pub(super) fn of<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Distribution {
        let mut all = Distribution::default();
        for Histogram { bounds, counts, sum_micros } in histograms {
            let seconds = bounds.iter().map(|micros| f64::from(*micros) / 1e6);
            let bounds = seconds.chain([f64::INFINITY]);
            for (at, (bound, count)) in bounds.zip(counts).enumerate() {
                let count = count.value();
                match all.buckets.get_mut(at) {
                    Some(bucket) => bucket.1 += count,
                    None => all.buckets.push((bound, count)),
                }
                all.count += count;
            }
            all.sum_seconds += sum_micros.value() as f64 / 1e6;
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_lies_in_the_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::new(&[10, 100]);
        for (micros, n) in [(0, 1), (10, 1), (11, 3), (100, 2), (101, 1), (1 << 40, 1)] {
            histogram.observe(micros, n);
        }
        let told = Distribution::of([&histogram, &histogram]);
        assert_eq!(told.buckets, [(1e-5, 4), (1e-4, 10), (f64::INFINITY, 4)]);
        assert_eq!(told.count, 18);
        let sum = 2.0 * (10.0 + 3.0 * 11.0 + 200.0 + 101.0 + (1u64 << 40) as f64) / 1e6;
        assert!((told.sum_seconds - sum).abs() < 1e-6);
    }

    #[test]
    fn the_kernel_s_powers_of_two_become_a_few_bounds() {
        let mut counts = [0; 32];
        (counts[0], counts[6], counts[7], counts[8], counts[31]) = (1, 2, 4, 8, 16);
        let told = Distribution::of_log2(&counts, 1e-6, 6, 3.5);
        assert_eq!(told.buckets.len(), 9);
        assert!((told.buckets[0].0 - 128e-6).abs() < 1e-12 && told.buckets[0].1 == 3);
        assert!((told.buckets[1].0 - 512e-6).abs() < 1e-12 && told.buckets[1].1 == 12);
        assert!((told.buckets[7].0 - 2.097_152).abs() < 1e-9);
        assert_eq!((told.buckets[8].1, told.count), (16, 31));
    }

    #[test]
    fn bounds_rise() {
        for bounds in [TURN, PUBLISH, CONNECT, DISK, RECORDS] {
            assert!(bounds.is_sorted_by(|a, b| a < b));
        }
    }
}
