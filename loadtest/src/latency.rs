//! Latencies that can be read late and merged without loss.
//!
//! A latency counts from when a message was due, not from when it was sent:
//! while the broker stalls, an open loop keeps owing messages, and their
//! waiting is part of what a client would have felt (no coordinated omission).
//! Buckets are those of HdrHistogram with three significant digits, so four
//! workers' figures add up to exactly what one worker would have found.

use hdrhistogram::Histogram;

use crate::outcome::{Latency, Quantiles};

/// The greatest latency that is told apart: an hour.
pub const LATENCY_NS_MAX: u64 = 3_600_000_000_000;

/// Relative error below 1 in 1,000.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Latencies recorded and not yet read. About 270 KiB, whatever it holds.
#[derive(Clone, Debug)]
pub struct Recorder {
    histogram: Histogram<u64>,
    clipped: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// An empty one.
    pub fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
            .expect("constant bounds that the crate accepts");
        Self { histogram, clipped: 0 }
    }

    /// Records what was due at `due_ns` and came at `now_ns`.
    ///
    /// A clock that runs backwards between two cores counts as no time.
    pub fn record(&mut self, due_ns: u64, now_ns: u64) {
        self.record_ns(now_ns.saturating_sub(due_ns));
    }

    /// Records a latency.
    pub fn record_ns(&mut self, latency_ns: u64) {
        if latency_ns > LATENCY_NS_MAX {
            self.clipped += 1;
        }
        // Saturating means that no value is refused.
        self.histogram.saturating_record(latency_ns);
    }

    /// Adds all of another's latencies.
    pub fn merge(&mut self, other: &Self) {
        self.histogram.add(&other.histogram).expect("both have the same bounds");
        self.clipped += other.clipped;
    }

    /// Adds what another worker sent, or a file held.
    pub fn merge_saved(&mut self, saved: &Latency) {
        for &(value, count) in &saved.buckets {
            self.histogram.saturating_record_n(value, count);
        }
        self.clipped += saved.clipped;
    }

    /// Forgets everything, and keeps the memory for the next sample.
    pub fn clear(&mut self) {
        self.histogram.reset();
        self.clipped = 0;
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// The value that `share` of all (0 to 1) do not exceed.
    pub fn at(&self, share: f64) -> u64 {
        self.histogram.value_at_quantile(share)
    }

    /// The usual quantiles.
    pub fn quantiles(&self) -> Quantiles {
        if self.histogram.is_empty() {
            return Quantiles::default();
        }
        Quantiles {
            count: self.histogram.len(),
            min_ns: self.histogram.min(),
            mean_ns: self.histogram.mean() as u64,
            p50_ns: self.at(0.5),
            p90_ns: self.at(0.9),
            p99_ns: self.at(0.99),
            p999_ns: self.at(0.999),
            p9999_ns: self.at(0.9999),
            max_ns: self.histogram.max(),
        }
    }

    /// The whole distribution, to save or to send.
    pub fn save(&self) -> Latency {
        let buckets = self
            .histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
            .collect();
        Latency { quantiles: self.quantiles(), buckets, clipped: self.clipped }
    }
}

/// Points of a percentile curve: the share of latencies above, from 1 in 2 to
/// 1 in 1,000,000, and the latency at it. Ends where the data does.
pub fn curve(latency: &Latency) -> Vec<(f64, u64)> {
    let total: u64 = latency.buckets.iter().map(|bucket| bucket.1).sum();
    let mut points = Vec::new();
    let mut below = 0;
    for &(value, count) in &latency.buckets {
        below += count;
        let above = (total - below.min(total)) as f64 / total as f64;
        // The last bucket has nothing above it: it stands for its own share.
        let above = if below >= total { 1.0 / total as f64 } else { above };
        points.push((above.min(1.0), value));
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within the histogram's 1 in 1,000 of `want`.
    fn near(got: u64, want: u64) -> bool {
        got.abs_diff(want) * 1_000 <= want
    }

    #[test]
    fn percentiles_of_a_known_distribution_are_right() {
        let mut recorder = Recorder::new();
        // 1 us to 1,000,000 us, one each, in an order that is not theirs.
        for n in 0..1_000_000_u64 {
            recorder.record_ns((n * 7_919 % 1_000_000 + 1) * 1_000);
        }
        let got = recorder.quantiles();
        assert_eq!(got.count, 1_000_000);
        for (value, want) in [
            (got.min_ns, 1_000),
            (got.mean_ns, 500_000_500),
            (got.p50_ns, 500_000_000),
            (got.p90_ns, 900_000_000),
            (got.p99_ns, 990_000_000),
            (got.p999_ns, 999_000_000),
            (got.p9999_ns, 999_900_000),
            (got.max_ns, 1_000_000_000),
        ] {
            assert!(near(value, want), "{value} for {want}");
        }
    }

    #[test]
    fn a_stall_is_charged_to_every_message_that_was_due_in_it() {
        // Due each millisecond; the broker stalls from 100 to 200 ms.
        let mut recorder = Recorder::new();
        for due_ms in 0..1_000_u64 {
            let come_ms = if (100..200).contains(&due_ms) { 200 } else { due_ms };
            recorder.record(due_ms * 1_000_000, come_ms * 1_000_000 + 50_000);
        }
        let got = recorder.quantiles();
        assert!(near(got.p50_ns, 50_000), "{got:?}");
        // 1 in 10 waited: 95 in 100 is 50 ms into the stall.
        assert!(near(recorder.at(0.95), 50_050_000), "{}", recorder.at(0.95));
        assert!(near(got.max_ns, 100_050_000), "{got:?}");
    }

    fn spread(recorder: &mut Recorder, from: u64, step: usize) {
        for n in (from..100_000).step_by(step) {
            recorder.record_ns(n * n);
        }
    }

    #[test]
    fn four_parts_merge_to_exactly_what_one_would_hold() {
        let mut one = Recorder::new();
        spread(&mut one, 0, 1);
        one.record_ns(LATENCY_NS_MAX * 2);

        let mut merged = Recorder::new();
        for worker in 0..4 {
            let mut part = Recorder::new();
            spread(&mut part, worker, 4);
            if worker == 3 {
                part.record_ns(LATENCY_NS_MAX * 2);
            }
            let text = serde_json::to_string(&part.save()).expect("plain data");
            merged.merge_saved(&serde_json::from_str(&text).expect("our own"));
        }
        assert_eq!(merged.save(), one.save());
        assert_eq!(one.save().clipped, 1);

        let mut in_memory = Recorder::new();
        in_memory.merge(&merged);
        in_memory.merge(&Recorder::new());
        assert_eq!(in_memory.save(), one.save());
    }

    #[test]
    fn nothing_recorded_is_nothing_claimed() {
        let mut recorder = Recorder::new();
        assert_eq!(recorder.quantiles(), Quantiles::default());
        recorder.record_ns(5);
        recorder.clear();
        assert_eq!(recorder.save(), Latency::default());
        assert_eq!(curve(&Latency::default()), []);
    }

    #[test]
    fn the_curve_falls_to_one_in_all() {
        let mut recorder = Recorder::new();
        for n in 1..=1_000 {
            recorder.record_ns(n);
        }
        let points = curve(&recorder.save());
        assert_eq!(points.first(), Some(&(0.999, 1)));
        assert_eq!(points.last(), Some(&(0.001, 1_000)));
        assert!(points.windows(2).all(|two| two[0].0 >= two[1].0 && two[0].1 < two[1].1));
    }
}
