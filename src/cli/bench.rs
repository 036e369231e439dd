//! `posthaste bench`: what the engine does on this machine, as ratios within one run. One scenario a file.
//!
//! The server runs as a process of its own on a temporary database with full durability. Sink and publishers live in
//! this process, so what is reported as the engine's CPU and memory is the engine's alone.

mod backlog;
mod crowd;
mod fan_out_huge;
mod idle;
mod isolation;
mod latency;
mod listener;
mod percentiles;
mod place;
mod placement;
mod publishers;
mod raw;
mod receivers;
mod report;
mod server;
mod sink;
mod throughput;
mod trickle;
mod usage;

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{CliError, say};
use crate::config;

use self::place::Place;

/// No wait in a benchmark is longer than this.
const PATIENCE: Duration = Duration::from_secs(300);

/// No benchmark with the default settings takes half as long.
const LONGEST: Duration = Duration::from_secs(3600);

/// Often enough for what takes seconds, and no load.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Deliveries per second against the raw limit of this machine
    Throughput,
    /// How much later events arrive at healthy webhooks while others hang or fail
    Isolation,
    /// Reading and changing a webhook that is owed very many deliveries
    Backlog,
    /// One event to very many webhooks, and another tenant beside it
    FanOutHuge,
    /// What webhooks cost that nothing happens to, and then all at once
    Idle,
    /// How long a publish takes beside very many connections that do nothing, or next to nothing
    Listener,
    /// How shards fall on many nodes, and what moves when one comes, goes or dies; calculated
    Placement,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[arg(long, value_enum, default_value_t = Scenario::Throughput)]
    scenario: Scenario,
    /// Bytes of `data` in an event
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(32..=65_536))]
    payload: u32,
    /// Rounds of throughput, isolation and listener; what is compared is measured in turns, since no machine is equally fast all
    /// the time
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Where the temporary database goes [default: the system's temporary directory]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// An empty PostgreSQL database of its own to measure on; it is emptied again [default: a temporary SQLite file]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Throughput: webhooks that each event goes to
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    fan_out: u32,
    /// Throughput: events in one publish request; 1 uses POST /events
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: u32,
    /// Throughput: publish requests at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    publishers: u32,
    /// Throughput: deliveries in each round
    #[arg(long, default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    deliveries: u32,
    /// Throughput: seconds of the latency measurement at 20 events/s; 0 skips it
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=600))]
    latency_seconds: u32,
    #[command(flatten)]
    isolation: isolation::IsolationArgs,
    #[command(flatten)]
    backlog: backlog::BacklogArgs,
    #[command(flatten)]
    fan_out_huge: fan_out_huge::HugeArgs,
    #[command(flatten)]
    idle: idle::IdleArgs,
    #[command(flatten)]
    listener: listener::ListenerArgs,
    #[command(flatten)]
    placement: placement::PlacementArgs,
}

/// What every scenario works with.
struct Bench<'a> {
    args: &'a BenchArgs,
    place: &'a Place,
    bar: ProgressBar,
}

pub(super) async fn run(args: BenchArgs) -> Result<(), CliError> {
    config::check_variables()?;
    let directory = match &args.directory {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    };
    let directory = directory.map_err(CliError::failed)?;
    let place = Place::prepare(directory.path(), args.database_url.as_deref()).await?;
    let bench = Bench { args: &args, place: &place, bar: progress() };
    let report = tokio::time::timeout(LONGEST, Box::pin(bench.report())).await;
    bench.bar.finish_and_clear();
    let report = report.unwrap_or_else(|_| Err(CliError::failed(format!("the benchmark took more than {LONGEST:?}"))));
    let cleared = place.clear().await;
    if let (Err(_), Err(error)) = (&report, &cleared) {
        eprintln!("posthaste: the database was not emptied: {error}");
    }
    say(report?);
    cleared
}

impl Bench<'_> {
    async fn report(&self) -> Result<String, CliError> {
        match self.args.scenario {
            Scenario::Throughput => self.written(throughput::measure(self).await?),
            Scenario::Isolation => self.written(isolation::measure(self).await?),
            Scenario::Backlog => self.written(backlog::measure(self).await?),
            Scenario::FanOutHuge => self.written(fan_out_huge::measure(self).await?),
            Scenario::Idle => self.written(idle::measure(self).await?),
            Scenario::Listener => self.written(listener::measure(self).await?),
            Scenario::Placement => self.written(placement::measure(&self.args.placement)),
        }
    }

    fn written(&self, report: impl Serialize + Display) -> Result<String, CliError> {
        if self.args.json {
            serde_json::to_string_pretty(&report).map_err(CliError::failed)
        } else {
            Ok(report.to_string())
        }
    }

    /// Says what is being done, with so many steps.
    fn begin(&self, message: impl Into<String>, steps: u64) {
        self.bar.set_message(message.into());
        self.bar.set_position(0);
        self.bar.set_length(steps);
    }
}

/// Drawn on a terminal only.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg:40} {wide_bar} {pos}/{len} {per_sec}") {
        bar.set_style(style);
    }
    bar
}

/// Looks until it finds what it looks for; answers whether that was within `patience`.
async fn until(patience: Duration, mut look: impl AsyncFnMut() -> Result<bool, CliError>) -> Result<bool, CliError> {
    let end = tokio::time::Instant::now() + patience;
    while !look().await? {
        if tokio::time::Instant::now() > end {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(true)
}
