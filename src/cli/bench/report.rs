//! What a benchmark says, as text and as JSON. Absolute figures belong to one machine at one moment; the ratio is what
//! can be compared.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::server::Usage;
use super::{BenchArgs, Throughput};

/// Microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Latency {
    p50_us: u64,
    p95_us: u64,
    p99_us: u64,
    max_us: u64,
    samples: u64,
}

impl Latency {
    /// Up to a minute, to three digits.
    pub(super) fn histogram() -> Histogram<u64> {
        Histogram::new_with_bounds(1, 60_000_000, 3).unwrap_or_else(|_| unreachable!("the bounds are constants"))
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

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Scenario {
    fan_out: u32,
    batch: u32,
    publishers: u32,
    payload_bytes: u32,
}

impl From<&BenchArgs> for Scenario {
    fn from(args: &BenchArgs) -> Self {
        let BenchArgs { fan_out, batch, publishers, payload, .. } = args;
        Self { fan_out: *fan_out, batch: *batch, publishers: *publishers, payload_bytes: *payload }
    }
}

/// At 20 events a second.
#[derive(Debug, Serialize)]
pub(super) struct LatencyReport {
    pub(super) floor: Latency,
    pub(super) publish: Latency,
    pub(super) arrival: Latency,
}

/// How long a publish takes when nothing else is under way.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QuietPublishes {
    pub(super) to_one: Latency,
    pub(super) to_all: Latency,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    scenario: Scenario,
    /// Requests per second without an engine, before and after the engine's turn.
    raw_per_second: [f64; 2],
    deliveries: u64,
    seconds: f64,
    deliveries_per_second: f64,
    /// Engine ÷ mean raw limit.
    ratio: f64,
    publish: Latency,
    arrival: Latency,
    statements_per_delivery: f64,
    rows_per_delivery: f64,
    deliveries_per_commit: f64,
    cpu_seconds_per_1000: f64,
    peak_memory_mib: f64,
    at_20_per_second: Option<LatencyReport>,
    quiet_publishes: Option<QuietPublishes>,
}

impl Report {
    pub(super) fn new(scenario: Scenario, raw_per_second: [f64; 2], throughput: Throughput, usage: Usage) -> Self {
        let Throughput { deliveries, seconds, publish, arrival } = throughput;
        let per_delivery = |count: u64| count as f64 / deliveries.max(1) as f64;
        let deliveries_per_second = deliveries as f64 / seconds;
        Self {
            scenario,
            raw_per_second,
            deliveries,
            seconds,
            deliveries_per_second,
            ratio: deliveries_per_second * 2.0 / (raw_per_second[0] + raw_per_second[1]),
            publish,
            arrival,
            statements_per_delivery: per_delivery(usage.statements),
            rows_per_delivery: per_delivery(usage.rows),
            deliveries_per_commit: deliveries as f64 / usage.commits.max(1) as f64,
            cpu_seconds_per_1000: usage.cpu_seconds * 1000.0 / deliveries.max(1) as f64,
            peak_memory_mib: usage.peak_memory_mib,
            at_20_per_second: None,
            quiet_publishes: None,
        }
    }

    pub(super) fn with_latencies(self, paced: Option<LatencyReport>, quiet: Option<QuietPublishes>) -> Self {
        Self { at_20_per_second: paced, quiet_publishes: quiet, ..self }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario { fan_out, batch, publishers, payload_bytes } = &self.scenario;
        writeln!(f, "fan-out {fan_out}, batches of {batch}, {publishers} publishers, {payload_bytes} bytes of data")?;
        let [before, after] = self.raw_per_second;
        writeln!(f, "raw limit        {before:9.0} /s before, {after:.0} /s after")?;
        writeln!(f, "engine           {:9.0} deliveries/s, every attempt durable", self.deliveries_per_second)?;
        writeln!(f, "ratio            {:9.3} engine ÷ raw limit", self.ratio)?;
        writeln!(f, "publish          {}", self.publish)?;
        writeln!(f, "publish→arrival  {}", self.arrival)?;
        writeln!(
            f,
            "per delivery     {:9.2} rows, {:.3} statements",
            self.rows_per_delivery, self.statements_per_delivery
        )?;
        writeln!(f, "per commit       {:9.1} deliveries", self.deliveries_per_commit)?;
        writeln!(f, "engine CPU       {:9.3} s per 1,000 deliveries", self.cpu_seconds_per_1000)?;
        write!(f, "engine memory    {:9.1} MiB at its peak", self.peak_memory_mib)?;
        if let Some(QuietPublishes { to_one, to_all }) = &self.quiet_publishes {
            writeln!(f, "\none publish at a time")?;
            writeln!(f, "  to 1 webhook   {to_one}")?;
            write!(f, "  to {fan_out:<11} {to_all}")?;
        }
        let Some(LatencyReport { floor, publish, arrival }) = &self.at_20_per_second else { return Ok(()) };
        writeln!(f, "\nat 20 events/s")?;
        writeln!(f, "  floor          {floor}   (one durable commit + one raw POST)")?;
        writeln!(f, "  publish        {publish}")?;
        write!(f, "  →arrival       {arrival}")
    }
}
