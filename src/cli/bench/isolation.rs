//! `--scenario isolation`: measures how much later events arrive at healthy webhooks while other webhooks hang or fail.
//!
//! Every event goes to all webhooks, at a gentle pace. The same healthy webhooks are measured in every phase; only the
//! receivers of the bad webhooks change their behaviour.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use http::Method;
use serde::Serialize;
use serde_json::json;

use crate::cli::CliError;

use super::percentiles::{Latency, Ratio, median};
use super::publishers::{self, Publishers};
use super::receivers::{Manner, Receivers};
use super::server::Server;
use super::sink::Sink;
use super::trickle::trickle;
use super::usage::MachineTime;
use super::{Bench, PATIENCE, until};

/// By then the bad webhooks have received what they were owed: the last wait of the default retries and some more.
const SETTLING: Duration = Duration::from_secs(30);

/// Warm-up events: the first one activates the endpoints, the others fill the connection pools.
const WARM_UP: u64 = 8;

#[derive(Debug, Args)]
pub(super) struct IsolationArgs {
    /// Isolation: webhooks that every event goes to
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(3..=1000))]
    endpoints: u16,
    /// Isolation: how many of them hang at most; the others are measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(2..=500))]
    hanging: u16,
    /// Isolation: milliseconds between two events
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u64).range(10..=10_000))]
    every_ms: u64,
    /// Isolation: seconds per phase
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    phase_seconds: u64,
    /// Isolation: timeout of every webhook in milliseconds, and so the duration of a hanging request
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(100..=30_000))]
    timeout_ms: u64,
}

/// What the bad webhooks' receivers do.
#[derive(Debug, Clone, Copy)]
enum Phase {
    AllHealthy,
    OneHangsOneFails,
    AllHang,
}

const PHASES: [Phase; 3] = [Phase::AllHealthy, Phase::OneHangsOneFails, Phase::AllHang];

/// Measurements at the healthy webhooks in all rounds of one phase.
struct Seen {
    arrivals: Histogram<u64>,
    p99_us: Vec<u64>,
    busy: Vec<f64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PhaseReport {
    bad: &'static str,
    arrival: Latency,
    p99_us_of_rounds: Vec<u64>,
    /// Share of the whole machine, median of the rounds.
    machine_busy: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    healthy: usize,
    bad: usize,
    every_ms: u64,
    all_healthy: PhaseReport,
    one_hangs_one_fails: PhaseReport,
    all_hang: PhaseReport,
    /// p99 divided by the p99 of the all-healthy phase in the same round.
    one_hangs_one_fails_ratio: Ratio,
    all_hang_ratio: Ratio,
    /// Phases that began before the previous phase's backlog was delivered.
    unsettled: u32,
}

/// Shared by the phases.
struct Scene<'a> {
    server: &'a Server,
    sink: Arc<Sink>,
    publishers: Arc<Publishers>,
    key: String,
    /// Ids of the bad webhooks.
    ids: Vec<String>,
    healthy: usize,
    all: usize,
}

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Report, CliError> {
    let args = &bench.args.isolation;
    let (all, bad) = (usize::from(args.endpoints), usize::from(args.hanging));
    let healthy = all.checked_sub(bad).filter(|healthy| *healthy > 0);
    let healthy = healthy.ok_or_else(|| CliError::failed("--hanging must leave some of the --endpoints healthy"))?;
    let server = Server::start(bench.place).await?;
    let scene = Scene::set(bench, &server, healthy, all).await?;
    bench.begin("warming up", WARM_UP);
    scene.phase(Phase::AllHealthy, Duration::from_millis(args.every_ms * WARM_UP), args).await?;

    let mut seen = PHASES.map(|_| Seen { arrivals: Latency::histogram(), p99_us: Vec::new(), busy: Vec::new() });
    let mut unsettled = 0;
    for round in 1..=bench.args.rounds {
        bench.begin(format!("round {round} of {}", bench.args.rounds), PHASES.len() as u64);
        for (phase, seen) in PHASES.into_iter().zip(&mut seen) {
            let before = MachineTime::now()?;
            let arrivals = scene.phase(phase, Duration::from_secs(args.phase_seconds), args).await?;
            seen.busy.push(MachineTime::now()?.busy_since(before));
            seen.p99_us.push(arrivals.value_at_quantile(0.99));
            seen.arrivals.add(arrivals).map_err(CliError::failed)?;
            unsettled += u32::from(!scene.settled().await?);
            bench.bar.inc(1);
        }
    }
    server.stop().await?;
    Ok(Report::new(healthy, bad, args.every_ms, &seen, unsettled))
}

impl<'a> Scene<'a> {
    async fn set(bench: &Bench<'_>, server: &'a Server, healthy: usize, all: usize) -> Result<Self, CliError> {
        let sink = Sink::start(Receivers::new(all, healthy)).await?;
        let key = server.new_tenant().await?;
        let webhooks = (0..all).map(|place| {
            let mut webhook = publishers::webhook(place, &publishers::kind(0), &sink.url_at(place));
            webhook["timeoutMs"] = json!(bench.args.isolation.timeout_ms);
            webhook
        });
        let mut ids = server.subscribe(&key, webhooks).await?;
        let publishers = Publishers::of(server, &sink, key.clone(), all, bench.args.payload);
        Ok(Self { server, sink, publishers, key, ids: ids.split_off(healthy), healthy, all })
    }

    /// Runs one phase; returns how long events took to the healthy webhooks.
    async fn phase(&self, phase: Phase, length: Duration, args: &IsolationArgs) -> Result<Histogram<u64>, CliError> {
        let receivers = &self.sink.receivers;
        match phase {
            Phase::AllHealthy => {}
            Phase::OneHangsOneFails => {
                receivers.set(self.healthy..self.healthy + 1, Manner::Hangs);
                receivers.set(self.healthy + 1..self.healthy + 2, Manner::Fails);
            }
            Phase::AllHang => receivers.set(self.healthy..self.all, Manner::Hangs),
        }
        receivers.take_arrivals();
        let every = Duration::from_millis(args.every_ms);
        let (published, ()) = trickle(&self.publishers, every, tokio::time::sleep(length)).await?;
        let owed = published.len() * self.healthy as u64;
        if !until(PATIENCE, async || Ok(receivers.seen() >= owed)).await? {
            return Err(CliError::failed(format!("only {} of {owed} deliveries arrived", receivers.seen())));
        }
        Ok(receivers.take_arrivals())
    }

    /// Lets the bad webhooks recover until they have no backlog and closed breakers; returns whether they did so in
    /// time.
    async fn settled(&self) -> Result<bool, CliError> {
        self.sink.receivers.set(self.healthy..self.all, Manner::Answers);
        for id in &self.ids {
            let path = format!("/webhooks/{id}");
            self.server.call(Method::PATCH, &path, &self.key, Some(&json!({ "isActive": false }))).await?;
            self.server.call(Method::POST, &format!("{path}/purge"), &self.key, None).await?;
            self.server.call(Method::PATCH, &path, &self.key, Some(&json!({ "isActive": true }))).await?;
        }
        until(SETTLING, async || {
            for id in &self.ids {
                let path = format!("/webhooks/{id}/logs?status=pending&limit=1");
                let page = self.server.call(Method::GET, &path, &self.key, None).await?;
                if page["data"].as_array().is_none_or(|items| !items.is_empty()) {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await
    }
}

impl Report {
    fn new(healthy: usize, bad: usize, every_ms: u64, seen: &[Seen; 3], unsettled: u32) -> Self {
        let [quiet, some, many] = seen;
        let phase = |bad: &'static str, seen: &Seen| PhaseReport {
            bad,
            arrival: Latency::of(&seen.arrivals),
            p99_us_of_rounds: seen.p99_us.clone(),
            machine_busy: median(&seen.busy),
        };
        Self {
            healthy,
            bad,
            every_ms,
            all_healthy: phase("none", quiet),
            one_hangs_one_fails: phase("1 hangs, 1 fails", some),
            all_hang: phase("all hang", many),
            one_hangs_one_fails_ratio: Ratio::of(&some.p99_us, &quiet.p99_us),
            all_hang_ratio: Ratio::of(&many.p99_us, &quiet.p99_us),
            unsettled,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { healthy, bad, every_ms, .. } = self;
        writeln!(f, "publish→arrival at {healthy} healthy webhooks beside {bad} others, an event every {every_ms} ms")?;
        for phase in [&self.all_healthy, &self.one_hangs_one_fails, &self.all_hang] {
            let PhaseReport { bad, arrival, machine_busy, .. } = phase;
            writeln!(f, "bad: {bad:<17} {arrival}   machine {:.0} % busy", machine_busy * 100.0)?;
        }
        writeln!(f, "p99, 1 hangs, 1 fails {}", self.one_hangs_one_fails_ratio)?;
        write!(f, "p99, all hang         {}", self.all_hang_ratio)?;
        if self.unsettled > 0 {
            write!(f, "\n{} phases began before the one before had settled", self.unsettled)?;
        }
        Ok(())
    }
}
