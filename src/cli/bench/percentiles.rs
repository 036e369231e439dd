//! Latency percentiles and ratios, as the reports print them.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Percentiles in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Latency {
    pub(super) p50_us: u64,
    pub(super) p95_us: u64,
    pub(super) p99_us: u64,
    pub(super) max_us: u64,
    pub(super) samples: u64,
}

impl Latency {
    /// A histogram for up to ten minutes, with three significant digits.
    pub(super) fn histogram() -> Histogram<u64> {
        Histogram::new_with_bounds(1, 600_000_000, 3).unwrap_or_else(|_| unreachable!("the bounds are constants"))
    }

    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            p50_us: histogram.value_at_quantile(0.50),
            p95_us: histogram.value_at_quantile(0.95),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
            samples: histogram.len(),
        }
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u64| us as f64 / 1000.0;
        write!(f, "p50 {:8.2} ms   p95 {:8.2} ms   p99 {:8.2} ms", ms(self.p50_us), ms(self.p95_us), ms(self.p99_us))
    }
}

/// The ratio of two figures in each of several rounds.
#[derive(Debug, Serialize)]
pub(super) struct Ratio {
    median: f64,
    rounds: Vec<f64>,
}

impl Ratio {
    /// Divides each figure by the `base` of the same round.
    pub(super) fn of(figures: &[u64], base: &[u64]) -> Self {
        let rounds: Vec<f64> =
            figures.iter().zip(base).map(|(figure, base)| *figure as f64 / (*base).max(1) as f64).collect();
        Self { median: median(&rounds), rounds }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds: Vec<String> = self.rounds.iter().map(|ratio| format!("{ratio:.2}")).collect();
        write!(f, "{:9.2}      ({})", self.median, rounds.join(" "))
    }
}

/// The upper median; zero for no values.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
