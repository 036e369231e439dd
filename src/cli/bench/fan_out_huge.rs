//! `--scenario fan-out-huge`: measures one event to very many webhooks of one tenant, compared with one event to one
//! webhook, and the effect on another tenant (the neighbour).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::CliError;

use super::crowd::{self, Alike};
use super::percentiles::Latency;
use super::publishers::{self, Publishers};
use super::receivers::Receivers;
use super::server::Server;
use super::settled::settled;
use super::sink::Sink;
use super::trickle::trickle;
use super::{Bench, PATIENCE, until};

/// Pace of the neighbour's publishes.
const NEIGHBOUR_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(super) struct HugeArgs {
    /// Fan-out-huge: webhooks that one event goes to
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    webhooks: u32,
    /// Fan-out-huge: events published to one webhook, to all, and to all while another tenant publishes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    publishes: u32,
    /// Fan-out-huge: seconds for which the other tenant publishes alone
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    quiet_seconds: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    webhooks: u32,
    publish_to_one: Latency,
    publish_to_all: Latency,
    /// Ratio of the p50s.
    publish_ratio: f64,
    /// From the publish to the last recorded attempt; the first event activates the endpoints.
    seconds_until_delivered: Vec<f64>,
    memory_before_mib: f64,
    peak_memory_mib: f64,
    /// The neighbour's time from publish to arrival.
    neighbour_quiet: Latency,
    neighbour_beside: Latency,
    /// Ratio of the p99s.
    neighbour_ratio: f64,
    neighbour_publish_quiet: Latency,
    neighbour_publish_beside: Latency,
}

/// The neighbour's events: times until arrival, and until the publish was answered.
struct Noticed {
    arrivals: Histogram<u64>,
    publishes: Histogram<u64>,
}

/// The server under test and its publishers.
struct Scene<'a> {
    bench: &'a Bench<'a>,
    server: Server,
    sink: Arc<Sink>,
    one: Arc<Publishers>,
    all: Arc<Publishers>,
    neighbour: Arc<Publishers>,
}

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Report, CliError> {
    let HugeArgs { webhooks, publishes, quiet_seconds } = bench.args.fan_out_huge;
    let scene = Scene::set(bench).await?;
    let memory_before = scene.server.steady_memory().await?;
    bench.begin("another tenant alone", 1);
    let alone = async {
        tokio::time::sleep(Duration::from_secs(quiet_seconds)).await;
        Ok(())
    };
    let quiet = scene.notice(alone).await?;

    let mut latencies = [Latency::histogram(), Latency::histogram()];
    let mut seconds = Vec::new();
    for turn in 1..=publishes {
        bench.begin(format!("event {turn} of {publishes}"), 1);
        latencies[0].saturating_record(scene.deliver(&scene.one).await?);
        let began = Instant::now();
        latencies[1].saturating_record(scene.deliver(&scene.all).await?);
        seconds.push(began.elapsed().as_secs_f64());
    }
    let mut beside = Noticed { arrivals: Latency::histogram(), publishes: Latency::histogram() };
    for turn in 1..=publishes {
        bench.begin(format!("event {turn} of {publishes} beside another tenant"), 1);
        let noticed = scene.notice(scene.all_arrive()).await?;
        beside.arrivals.add(noticed.arrivals).map_err(CliError::failed)?;
        beside.publishes.add(noticed.publishes).map_err(CliError::failed)?;
    }
    let peak_memory_mib = scene.server.usage().await?.peak_memory_mib;
    scene.server.stop().await?;
    let [to_one, to_all] = latencies.map(|latencies| Latency::of(&latencies));
    let (arrivals, arrivals_beside) = (Latency::of(&quiet.arrivals), Latency::of(&beside.arrivals));
    Ok(Report {
        webhooks,
        publish_to_one: to_one,
        publish_to_all: to_all,
        publish_ratio: to_all.p50_us as f64 / to_one.p50_us.max(1) as f64,
        seconds_until_delivered: seconds,
        memory_before_mib: memory_before / (1024.0 * 1024.0),
        peak_memory_mib,
        neighbour_quiet: arrivals,
        neighbour_beside: arrivals_beside,
        neighbour_ratio: arrivals_beside.p99_us as f64 / arrivals.p99_us.max(1) as f64,
        neighbour_publish_quiet: Latency::of(&quiet.publishes),
        neighbour_publish_beside: Latency::of(&beside.publishes),
    })
}

impl<'a> Scene<'a> {
    async fn set(bench: &'a Bench<'a>) -> Result<Self, CliError> {
        let webhooks = bench.args.fan_out_huge.webhooks as usize;
        let sink = Sink::start(Receivers::new(1, 1)).await?;
        let crowd = vec![Alike { kind: publishers::kind(0), url: sink.url(), count: webhooks }];
        let tenant = crowd::settle(bench.place, &[crowd], &bench.bar).await?[0];
        let server = Server::start(bench.place).await?;
        let payload = bench.args.payload;
        let all = Publishers::of(&server, &sink, server.key_of(&tenant.to_string()).await?, webhooks, payload);
        let one = Publishers::prepare(&server, &sink, 1, 1, payload).await?;
        let key = server.new_tenant().await?;
        server.subscribe(&key, [publishers::webhook(0, &publishers::kind(0), &sink.url_at(0))]).await?;
        let neighbour = Publishers::of(&server, &sink, key, 1, payload);
        // Activates the neighbour's endpoint; the endpoints of the crowd stay asleep.
        neighbour.publish_one().await?;
        one.publish_one().await?;
        settled(&server, &sink, &bench.bar).await?;
        Ok(Self { bench, server, sink, one, all, neighbour })
    }

    /// Publishes one event and waits until every attempt is recorded; returns the microseconds until the publish was
    /// answered.
    async fn deliver(&self, publishers: &Publishers) -> Result<u64, CliError> {
        let took = publishers.publish_one().await?;
        settled(&self.server, &self.sink, &self.bench.bar).await?;
        Ok(took)
    }

    /// Publishes one event to all and waits for as many arrivals. The neighbour's few arrivals are counted with them.
    async fn all_arrive(&self) -> Result<(), CliError> {
        let all = self.sink.arrived() + u64::from(self.bench.args.fan_out_huge.webhooks);
        self.all.publish_one().await?;
        if until(PATIENCE, async || Ok(self.sink.arrived() >= all)).await? {
            Ok(())
        } else {
            Err(CliError::failed("the event did not arrive everywhere in time"))
        }
    }

    /// Measures the neighbour's events while `something` runs.
    async fn notice(&self, something: impl Future<Output = Result<(), CliError>>) -> Result<Noticed, CliError> {
        self.sink.receivers.take_arrivals();
        let (publishes, happened) = trickle(&self.neighbour, NEIGHBOUR_EVERY, something).await?;
        happened?;
        settled(&self.server, &self.sink, &self.bench.bar).await?;
        Ok(Noticed { arrivals: self.sink.receivers.take_arrivals(), publishes })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "one event to {} webhooks", self.webhooks)?;
        writeln!(f, "publish to 1     {}", self.publish_to_one)?;
        writeln!(f, "publish to all   {}", self.publish_to_all)?;
        writeln!(f, "ratio            {:9.2}      of the p50", self.publish_ratio)?;
        let seconds: Vec<String> = self.seconds_until_delivered.iter().map(|seconds| format!("{seconds:.2}")).collect();
        writeln!(f, "all delivered    after {} s; the first one starts the endpoints", seconds.join(", "))?;
        writeln!(
            f,
            "engine memory    {:9.1} MiB at its peak, {:.1} MiB before",
            self.peak_memory_mib, self.memory_before_mib
        )?;
        writeln!(f, "another tenant's publish→arrival")?;
        writeln!(f, "  alone          {}", self.neighbour_quiet)?;
        writeln!(f, "  beside         {}", self.neighbour_beside)?;
        writeln!(f, "  ratio          {:9.2}      of the p99", self.neighbour_ratio)?;
        writeln!(f, "  publish alone  {}", self.neighbour_publish_quiet)?;
        write!(f, "  publish beside {}", self.neighbour_publish_beside)
    }
}
