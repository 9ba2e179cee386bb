//! How long things take: counts of durations by size, with one writer each like every counter here.

use crate::metrics::Counter;

/// Upper bounds of the buckets, in microseconds; one more bucket takes what is longer.
pub const BOUNDS_US: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000, 30_000_000,
];

/// Durations by size, and their sum.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// Counts one duration, in microseconds.
    #[inline]
    pub fn observe(&self, us: u64) {
        self.sum_us.add(us);
        // Most durations are short: the search ends after a few steps.
        let bucket = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[bucket].add(1);
    }

    /// All durations together, in microseconds.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }

    /// Adds what it holds to `sums`.
    pub fn add_to(&self, sums: &mut Distribution) {
        sums.sum_us = sums.sum_us.wrapping_add(self.sum_us.get());
        for (sum, bucket) in sums.buckets.iter_mut().zip(&self.buckets) {
            *sum = sum.wrapping_add(bucket.get());
        }
    }
}

/// Several histograms summed up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Durations in each bucket, and not in those below it.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    /// All durations together, in microseconds.
    pub sum_us: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for us in [0, 50, 51, 2_500, 30_000_000, 30_000_001] {
            histogram.observe(us);
        }
        let mut sums = Distribution::default();
        histogram.add_to(&mut sums);
        let filled: Vec<(usize, u64)> =
            sums.buckets.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0, 2), (1, 1), (5, 1), (17, 1), (18, 1)]);
        assert_eq!(sums.sum_us, 60_002_602);
        histogram.observe(u64::MAX);
    }

    #[test]
    fn bounds_rise() {
        assert!(BOUNDS_US.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
