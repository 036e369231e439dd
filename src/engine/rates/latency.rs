//! How long answers took, in a few hundred bytes: counts by duration, in two windows that take turns. Pure.

use std::time::Duration;

use super::ring::Ring;

/// 1 ms, then each bound a fifth above the one before: 57 steps reach past 30 s, the longest timeout of a policy.
const BUCKETS: usize = 58;

/// A count is read as the middle of its bucket, which is at most an eleventh (9.1 %) away from any latency in the
/// bucket: the harmonic mean of 1 and 1.2 is 12/11.
const UPPER_BOUNDS_US: [u64; BUCKETS] = upper_bounds();

const fn upper_bounds() -> [u64; BUCKETS] {
    let mut bounds = [1_000; BUCKETS];
    let mut bucket = 1;
    while bucket < BUCKETS {
        bounds[bucket] = bounds[bucket - 1] * 6 / 5;
        bucket += 1;
    }
    bounds
}

/// 50, 95 and 99 percent of the answers took at most this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentiles {
    pub p50: Duration,
    pub p95: Duration,
    pub p99: Duration,
}

/// Counts of answers by their latency, over the last two and a half to five minutes.
#[derive(Debug, Clone)]
pub(super) struct Latencies(Ring<Counts, 2, 150>);

/// Sixteen bits are small enough to keep two windows of every endpoint in memory. When one count is full, all are
/// halved: of more than 65,535 like answers in a window the newer weigh more, and a percentile is off by less than a
/// fifth of a percent of the answers.
#[derive(Debug, Clone, Copy)]
struct Counts([u16; BUCKETS]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Latencies {
    pub(super) fn new(now: Duration) -> Self {
        Self(Ring::new(now))
    }

    pub(super) fn count(&mut self, latency: Duration, now: Duration) {
        let bucket = bucket(latency);
        if self.0.slot(now).0[bucket] == u16::MAX {
            self.0.all_mut().flat_map(|window| &mut window.0).for_each(|count| *count /= 2);
        }
        self.0.slot(now).0[bucket] += 1;
    }

    pub(super) fn percentiles(&self, now: Duration) -> Option<Percentiles> {
        let mut counts = [0_u32; BUCKETS];
        for window in self.0.recent(now) {
            for (sum, count) in counts.iter_mut().zip(window.0) {
                *sum += u32::from(count);
            }
        }
        let [p50, p95, p99] = [50, 95, 99].map(|percent| percentile(&counts, percent));
        Some(Percentiles { p50: p50?, p95: p95?, p99: p99? })
    }
}

fn bucket(latency: Duration) -> usize {
    let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
    UPPER_BOUNDS_US.partition_point(|bound| *bound < us).min(BUCKETS - 1)
}

/// The shortest latency that at most `100 - percent` in a hundred answers exceed; `None` when nothing was counted.
fn percentile(counts: &[u32; BUCKETS], percent: u32) -> Option<Duration> {
    let rank = (counts.iter().sum::<u32>() * percent).div_ceil(100);
    let mut seen = 0;
    let bucket = counts.iter().position(|count| {
        seen += count;
        rank > 0 && seen >= rank
    });
    bucket.map(middle)
}

/// The harmonic mean of a bucket's bounds: as far from the lower bound as from the upper, in proportion.
fn middle(bucket: usize) -> Duration {
    let upper = UPPER_BOUNDS_US[bucket];
    let lower = bucket.checked_sub(1).map_or(upper, |below| UPPER_BOUNDS_US[below]);
    Duration::from_micros(2 * lower * upper / (lower + upper))
}
