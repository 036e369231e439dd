//! The report of the throughput scenario, as text and as JSON. Absolute figures are valid for one machine at one
//! moment; only the ratio is comparable.

use std::fmt;

use serde::Serialize;

use super::BenchArgs;
use super::percentiles::{Latency, median};
use super::usage::Usage;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Setup {
    fan_out: u32,
    batch: u32,
    publishers: u32,
    payload_bytes: u32,
}

impl From<&BenchArgs> for Setup {
    fn from(args: &BenchArgs) -> Self {
        let BenchArgs { fan_out, batch, publishers, payload, .. } = args;
        Self { fan_out: *fan_out, batch: *batch, publishers: *publishers, payload_bytes: *payload }
    }
}

/// Latencies at 20 events a second.
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

/// Measurements while events were published as fast as they were accepted.
pub(super) struct Throughput {
    /// Requests per second without an engine: before, between and after the rounds.
    pub(super) raw_per_second: Vec<f64>,
    /// Deliveries per second of each round, from the first publish to the last recorded attempt.
    pub(super) engine_per_second: Vec<f64>,
    /// From a publish request to its answer.
    pub(super) publish: Latency,
    /// From the publish request to the first arrival of its event.
    pub(super) arrival: Latency,
    /// Usage over all rounds.
    pub(super) usage: Usage,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    scenario: Setup,
    /// Requests per second without an engine: before, between and after the rounds.
    raw_per_second: Vec<f64>,
    /// Deliveries per second of each round.
    deliveries_per_second: Vec<f64>,
    /// For each round: engine ÷ mean of the raw limits before and after the round.
    ratios: Vec<f64>,
    /// The median of `ratios`.
    ratio: f64,
    deliveries: u64,
    publish: Latency,
    arrival: Latency,
    statements_per_delivery: f64,
    rows_per_delivery: f64,
    deliveries_per_commit: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    wal_bytes_per_delivery: Option<f64>,
    cpu_seconds_per_1000: f64,
    peak_memory_mib: f64,
    at_20_per_second: Option<LatencyReport>,
    quiet_publishes: Option<QuietPublishes>,
}

impl Report {
    pub(super) fn new(scenario: Setup, throughput: Throughput) -> Self {
        let Throughput { raw_per_second, engine_per_second, publish, arrival, usage } = throughput;
        let deliveries = usage.attempts;
        let per_delivery = |count: u64| count as f64 / deliveries.max(1) as f64;
        let raws = raw_per_second.windows(2).map(|raw| f64::midpoint(raw[0], raw[1]));
        let ratios: Vec<f64> = engine_per_second.iter().zip(raws).map(|(engine, raw)| engine / raw).collect();
        Self {
            scenario,
            ratio: median(&ratios),
            ratios,
            deliveries,
            raw_per_second,
            deliveries_per_second: engine_per_second,
            publish,
            arrival,
            statements_per_delivery: per_delivery(usage.statements),
            rows_per_delivery: per_delivery(usage.rows),
            deliveries_per_commit: deliveries as f64 / usage.commits.max(1) as f64,
            wal_bytes_per_delivery: usage.wal_bytes.map(per_delivery),
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
        let Setup { fan_out, batch, publishers, payload_bytes } = &self.scenario;
        writeln!(f, "fan-out {fan_out}, batches of {batch}, {publishers} publishers, {payload_bytes} bytes of data")?;
        let rounds = |values: &[f64]| values.iter().map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(" ");
        writeln!(f, "raw limit        {:9.0} /s   ({})", median(&self.raw_per_second), rounds(&self.raw_per_second))?;
        let engine = &self.deliveries_per_second;
        writeln!(f, "engine           {:9.0} /s   ({}), every attempt durable", median(engine), rounds(engine))?;
        let ratios: Vec<String> = self.ratios.iter().map(|ratio| format!("{ratio:.3}")).collect();
        writeln!(f, "ratio            {:9.3}      ({})", self.ratio, ratios.join(" "))?;
        writeln!(f, "publish          {}", self.publish)?;
        writeln!(f, "publish→arrival  {}", self.arrival)?;
        writeln!(
            f,
            "per delivery     {:9.2} rows, {:.3} statements",
            self.rows_per_delivery, self.statements_per_delivery
        )?;
        writeln!(f, "per commit       {:9.1} deliveries", self.deliveries_per_commit)?;
        if let Some(bytes) = self.wal_bytes_per_delivery {
            writeln!(f, "WAL              {bytes:9.0} bytes per delivery")?;
        }
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
