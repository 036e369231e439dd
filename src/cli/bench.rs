//! `posthaste bench`: measures the engine on this machine and reports ratios within one run. One scenario per file.
//! There are no pass/fail thresholds.
//!
//! The server runs as a child process on a temporary database with full durability. Sink and publishers run in this
//! process, so the reported CPU and memory of the engine contain nothing else.

mod backlog;
mod crowd;
mod fan_out_huge;
mod idle;
mod isolation;
mod latency;
mod listener;
mod payload;
mod percentiles;
mod place;
mod placement;
mod publishers;
mod raw;
mod receivers;
mod report;
mod server;
mod settled;
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

/// Longest time that a benchmark waits for any one event.
const PATIENCE: Duration = Duration::from_secs(300);

/// Time limit of a whole benchmark; with default settings none takes half of it.
const LONGEST: Duration = Duration::from_secs(3600);

/// Poll interval: short against the seconds that are waited for, and no load.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Deliveries per second, compared with the raw HTTP limit of this machine
    Throughput,
    /// How much later events arrive at healthy webhooks while other webhooks hang or fail
    Isolation,
    /// Reading and changing a webhook with a very long backlog
    Backlog,
    /// One event to very many webhooks, and its effect on another tenant
    FanOutHuge,
    /// The cost of idle webhooks, and of many that become busy at once
    Idle,
    /// How long a publish takes while very many connections do nothing or next to nothing
    Listener,
    /// How shards spread over many nodes, and which move when a node joins, leaves or dies; calculated
    Placement,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure
    #[arg(long, value_enum, default_value_t = Scenario::Throughput)]
    scenario: Scenario,
    /// Size of an event's `data` in bytes
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(32..=65_536))]
    payload: u32,
    /// Rounds of throughput, isolation and listener; each round measures both sides of a comparison, because a
    /// machine's speed varies over time
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Directory for the temporary database [default: the system's temporary directory]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// An empty PostgreSQL database to measure on; it is emptied afterwards [default: a temporary SQLite file]
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Throughput: webhooks that each event goes to
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    fan_out: u32,
    /// Throughput: events per publish request; 1 uses POST /events
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: u32,
    /// Throughput: concurrent publish requests
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    publishers: u32,
    /// Throughput: deliveries per round
    #[arg(long, default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    deliveries: u32,
    /// Throughput: duration of the latency measurement at 20 events/s, in seconds; 0 skips it
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

/// Shared by all scenarios.
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
        eprintln!("posthaste: the benchmark's database could not be emptied: {error}");
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

    /// Shows `message` in the progress bar, with `steps` steps to go.
    fn begin(&self, message: impl Into<String>, steps: u64) {
        self.bar.set_message(message.into());
        self.bar.set_position(0);
        self.bar.set_length(steps);
    }
}

/// A progress bar, drawn on a terminal only.
fn progress() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{msg:40} {wide_bar} {pos}/{len} {per_sec}") {
        bar.set_style(style);
    }
    bar
}

/// Polls `look` until it returns true; returns whether that was within `patience`.
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
