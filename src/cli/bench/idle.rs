//! `--scenario idle`: measures what idle webhooks cost, and what they cost once many of them are busy.
//!
//! The same server is measured on an empty database and on a full one; the difference is the cost of the webhooks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::cli::CliError;

use super::Bench;
use super::crowd::{self, Alike};
use super::publishers::{self, Publishers};
use super::receivers::{Manner, Receivers};
use super::server::Server;
use super::settled::settled;
use super::sink::Sink;

#[derive(Debug, Args)]
pub(super) struct IdleArgs {
    /// Idle: registered webhooks
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    idle: u32,
    /// Idle: how many of them receive an event at the end
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    live: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    idle: u32,
    live: u32,
    ready_after_ms_empty: f64,
    ready_after_ms: f64,
    memory_empty_mib: f64,
    memory_idle_mib: f64,
    bytes_per_idle: f64,
    /// From the publish until every endpoint was live.
    seconds_until_live: f64,
    memory_live_mib: f64,
    bytes_per_live: f64,
    /// While each endpoint has an attempt under way or waiting for its turn.
    memory_busy_mib: f64,
    bytes_per_busy: f64,
}

/// Live webhooks per tenant. With many more, endpoints would leave memory as soon as they have delivered
/// (`engine/tenant_quota`).
const A_TENANT: u32 = 2_000;

/// The number of live webhooks of each tenant.
fn parts(live: u32) -> impl Iterator<Item = u32> {
    (0..live).step_by(A_TENANT as usize).map(move |from| (live - from).min(A_TENANT))
}

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Report, CliError> {
    let IdleArgs { idle, live } = bench.args.idle;
    let sleeping = idle.checked_sub(live).ok_or_else(|| CliError::failed("--live must not be more than --idle"))?;
    let (ready_empty, memory_empty) = empty(bench).await?;
    let sink = Sink::start(Receivers::new(1, 0)).await?;
    let alike = |kind, url, count: u32| vec![Alike { kind, url, count: count as usize }];
    let mut crowds: Vec<Vec<Alike>> =
        parts(live).map(|count| alike(publishers::kind(0), sink.url_at(0), count)).collect();
    crowds.push(alike(publishers::kind(1), sink.url(), sleeping));
    let tenants = crowd::settle(bench.place, &crowds, &bench.bar).await?;
    bench.begin("starting", 1);
    let server = Server::start(bench.place).await?;
    let memory_idle = server.steady_memory().await?;

    let mut publishers = Vec::new();
    for (tenant, count) in tenants.iter().zip(parts(live)) {
        let key = server.key_of(&tenant.to_string()).await?;
        publishers.push(Publishers::of(&server, &sink, key, count as usize, bench.args.payload));
    }
    let seconds_until_live = wake(bench, &server, &sink, &publishers, live).await?;
    let memory_live = server.steady_memory().await?;
    sink.receivers.set(0..1, Manner::Hangs);
    publish(&publishers).await?;
    let memory_busy = server.steady_memory().await?;
    sink.receivers.set(0..1, Manner::Answers);
    let ready = server.ready_after();
    server.stop().await?;
    let mib = |bytes: f64| bytes / (1024.0 * 1024.0);
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    Ok(Report {
        idle,
        live,
        ready_after_ms_empty: ms(ready_empty),
        ready_after_ms: ms(ready),
        memory_empty_mib: mib(memory_empty),
        memory_idle_mib: mib(memory_idle),
        bytes_per_idle: (memory_idle - memory_empty) / f64::from(idle),
        seconds_until_live,
        memory_live_mib: mib(memory_live),
        bytes_per_live: (memory_live - memory_idle) / f64::from(live),
        memory_busy_mib: mib(memory_busy),
        bytes_per_busy: (memory_busy - memory_idle) / f64::from(live),
    })
}

/// Measures a server without webhooks: time until ready, and memory.
async fn empty(bench: &Bench<'_>) -> Result<(Duration, f64), CliError> {
    bench.begin("starting without webhooks", 1);
    // The first start creates the schema, which is not measured.
    Server::start(bench.place).await?.stop().await?;
    let server = Server::start(bench.place).await?;
    let found = (server.ready_after(), server.steady_memory().await?);
    server.stop().await?;
    Ok(found)
}

/// Publishes one event to every webhook that is to be live and waits until each has delivered it; returns the seconds.
async fn wake(
    bench: &Bench<'_>,
    server: &Server,
    sink: &Sink,
    publishers: &[Arc<Publishers>],
    live: u32,
) -> Result<f64, CliError> {
    bench.begin("waking", u64::from(live));
    let began = std::time::Instant::now();
    publish(publishers).await?;
    settled(server, sink, &bench.bar).await?;
    let seconds = began.elapsed().as_secs_f64();
    let alive = server.usage().await?.live_endpoints;
    if alive < u64::from(live) {
        return Err(CliError::failed(format!("only {alive} endpoints are live")));
    }
    Ok(seconds)
}

async fn publish(publishers: &[Arc<Publishers>]) -> Result<(), CliError> {
    for publisher in publishers {
        publisher.publish_one().await?;
    }
    Ok(())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { idle, live, ready_after_ms, ready_after_ms_empty, .. } = self;
        writeln!(
            f,
            "{idle} webhooks; {live} of them become active and deliver, then each has an attempt under way or waiting"
        )?;
        writeln!(
            f,
            "ready            {ready_after_ms:9.0} ms  after its start, without webhooks {ready_after_ms_empty:.0} ms"
        )?;
        writeln!(
            f,
            "idle             {:9.1} MiB, without webhooks {:.1} MiB",
            self.memory_idle_mib, self.memory_empty_mib
        )?;
        writeln!(f, "a webhook        {:9.0} bytes", self.bytes_per_idle)?;
        writeln!(f, "live             {:9.1} MiB, after {:.1} s", self.memory_live_mib, self.seconds_until_live)?;
        writeln!(f, "a live endpoint  {:9.0} bytes", self.bytes_per_live)?;
        writeln!(f, "busy             {:9.1} MiB", self.memory_busy_mib)?;
        write!(f, "a busy endpoint  {:9.0} bytes", self.bytes_per_busy)
    }
}
