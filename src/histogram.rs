//! Counts durations in buckets, for the metrics page. Threads that count at once neither wait for each other nor write
//! to the same cache lines: a thread adds to one of a few shards, and a reader adds the shards up.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// The upper bounds of a histogram's buckets in microseconds, ascending. One more bucket has no bound.
pub type Bounds = [u64; 16];

/// For what takes milliseconds if all is well, and half a minute at most. From 500 µs to 60 s.
pub static QUICK: Bounds = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000, 60_000_000,
];

/// For what takes milliseconds if all is well, and days while a receiver fails. From 5 ms to a day.
pub static PATIENT: Bounds = [
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    3_600_000_000,
    86_400_000_000,
];

/// With more threads than shards, some threads share one.
const SHARDS: usize = 8;

/// Durations that were counted, by bucket.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static Bounds,
    shards: [Shard; SHARDS],
}

/// As large as two cache lines or more, and aligned with them: processors read lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    counts: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

const BUCKETS: usize = size_of::<Bounds>() / size_of::<u64>() + 1;

/// The counts of a histogram at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramSnapshot {
    bounds: &'static Bounds,
    counts: [u64; BUCKETS],
    sum: Duration,
}

impl Histogram {
    #[must_use]
    pub fn new(bounds: &'static Bounds) -> Self {
        Self { bounds, shards: Default::default() }
    }

    /// Counts a duration.
    pub fn count(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = self.bounds.partition_point(|bound| *bound < us);
        let shard = &self.shards[SHARD.with(|shard| *shard)];
        shard.counts[bucket].fetch_add(1, Ordering::Relaxed);
        shard.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// The counts now. A duration that is being counted may be missing from the sum.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut snapshot = HistogramSnapshot { bounds: self.bounds, counts: [0; BUCKETS], sum: Duration::ZERO };
        for shard in &self.shards {
            for (all, count) in snapshot.counts.iter_mut().zip(&shard.counts) {
                *all += count.load(Ordering::Relaxed);
            }
            snapshot.sum += Duration::from_micros(shard.sum_us.load(Ordering::Relaxed));
        }
        snapshot
    }
}

thread_local! {
    static SHARD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS
    };
}

impl HistogramSnapshot {
    /// Each bound in microseconds, with the number of durations up to it.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let up_to = self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        });
        self.bounds.iter().copied().zip(up_to)
    }

    /// How many durations were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Adds the counts of another histogram with the same bounds.
    pub fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(all, count)| *all += count);
        self.sum += other.sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(&QUICK);
        for took in [0, 500, 501, 60_000_000, 60_000_001] {
            histogram.count(Duration::from_micros(took));
        }
        let snapshot = histogram.snapshot();
        let up_to: Vec<(u64, u64)> = snapshot.cumulative().collect();
        assert_eq!(up_to[..3], [(QUICK[0], 2), (QUICK[1], 3), (QUICK[2], 3)]);
        assert_eq!(up_to[14..], [(QUICK[14], 3), (QUICK[15], 4)]);
        assert_eq!((snapshot.count(), snapshot.sum()), (5, Duration::from_micros(120_001_002)));
    }

    #[test]
    fn the_bounds_ascend() {
        for bounds in [&QUICK, &PATIENT] {
            assert!(bounds.is_sorted_by(|one, next| one < next), "{bounds:?}");
        }
    }

    #[test]
    fn threads_that_count_at_once_lose_nothing() {
        let histogram = Histogram::new(&PATIENT);
        std::thread::scope(|threads| {
            for _ in 0..2 * SHARDS {
                threads.spawn(|| (0..1_000).for_each(|_| histogram.count(Duration::from_millis(7))));
            }
        });
        let mut snapshot = histogram.snapshot();
        let all = 2_000 * SHARDS as u64;
        assert_eq!((snapshot.count(), snapshot.sum()), (all, Duration::from_millis(7) * 2_000 * SHARDS as u32));
        snapshot.add(&histogram.snapshot());
        assert_eq!(snapshot.count(), 2 * all);
    }
}
