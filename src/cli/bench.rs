//! `posthaste bench`: the engine against the raw limit of this machine, in one run.
//!
//! The server runs as a process of its own on a temporary database with full durability. Sink and publishers live in
//! this process, so what is reported as the engine's CPU and memory is the engine's alone.

mod latency;
mod publishers;
mod raw;
mod report;
mod server;
mod sink;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use self::publishers::{Load, Publishers};
use self::report::{Latency, Report, Scenario};
use self::server::{Server, Usage};
use self::sink::Sink;
use super::CliError;

/// Webhooks with a fan-out of one: enough that no single endpoint's in-flight cap is what is measured.
const ENDPOINTS: usize = 64;

/// No wait in a benchmark is longer than this.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Webhooks that each event goes to
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    fan_out: u32,
    /// Events in one publish request; 1 uses POST /events
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch: u32,
    /// Publish requests at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    publishers: u32,
    /// Deliveries in each round
    #[arg(long, default_value_t = 40_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    deliveries: u32,
    /// Rounds; raw limit and engine are measured in turns, since no machine is equally fast all the time
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Bytes of `data` in an event
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(32..=65_536))]
    payload: u32,
    /// Seconds of the latency measurement at 20 events/s; 0 skips it
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=600))]
    latency_seconds: u32,
    /// Where the temporary database goes [default: the system's temporary directory]
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: BenchArgs) -> Result<(), CliError> {
    let directory = match &args.directory {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    };
    let directory = directory.map_err(CliError::failed)?;
    let bar = progress(&args);
    let sink = Sink::start().await?;
    let server = Server::start(directory.path()).await?;
    let throughput = throughput(&args, &sink, &server, &bar).await?;
    let latency = match args.latency_seconds {
        0 => None,
        _ => {
            bar.set_message("latency at 20 events/s");
            Some(latency::measure(&sink, &server, directory.path(), &args, &bar).await?)
        }
    };
    let quiet = match args.fan_out {
        1 => None,
        _ => Some(latency::quiet_publishes(&sink, &server, &args, &bar).await?),
    };
    bar.finish_and_clear();
    server.stop().await?;
    let report = Report::new(Scenario::from(&args), throughput).with_latencies(latency, quiet);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(CliError::failed)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

/// Drawn on a terminal only.
fn progress(args: &BenchArgs) -> ProgressBar {
    let bar = ProgressBar::new(u64::from(args.deliveries));
    if let Ok(style) = ProgressStyle::with_template("{msg:28} {wide_bar} {pos}/{len} {per_sec}") {
        bar.set_style(style);
    }
    bar
}

/// What was measured while events were published as fast as they were taken.
struct Throughput {
    /// Requests per second without an engine: before, between and after the rounds.
    raw_per_second: Vec<f64>,
    /// Deliveries per second of each round, from the first publish to the last recorded attempt.
    engine_per_second: Vec<f64>,
    /// A publish request, until its answer.
    publish: Latency,
    /// From the publish request to the first arrival of its event.
    arrival: Latency,
    /// Of all rounds together.
    usage: Usage,
}

async fn throughput(
    args: &BenchArgs,
    sink: &Arc<Sink>,
    server: &Server,
    bar: &ProgressBar,
) -> Result<Throughput, CliError> {
    let fan_out = args.fan_out as usize;
    let groups = if fan_out == 1 { ENDPOINTS } else { 1 };
    let publishers = Publishers::prepare(server, sink, groups, fan_out, args.payload).await?;
    let events = (args.deliveries as usize).div_ceil(fan_out);
    let load = |events| Load { events, batch: args.batch as usize, publishers: args.publishers as usize };
    bar.set_message("warming up");
    publishers.run(load(events.div_ceil(10).max(1))).await?;
    settled(server, sink, bar).await?;

    let before = server.usage().await?;
    sink.forget_latencies();
    let mut publish = Latency::histogram();
    let mut raw_per_second = vec![raw::measure(sink, args, bar).await?];
    let mut engine_per_second = Vec::new();
    for round in 1..=args.rounds {
        bar.set_message(format!("engine, round {round} of {}", args.rounds));
        let began = Instant::now();
        publish.add(publishers.run(load(events)).await?).map_err(CliError::failed)?;
        settled(server, sink, bar).await?;
        engine_per_second.push((events * fan_out) as f64 / began.elapsed().as_secs_f64());
        raw_per_second.push(raw::measure(sink, args, bar).await?);
    }
    let usage = server.usage().await?.since(&before);
    let (publish, arrival) = (Latency::of(&publish), sink.arrival_latency());
    Ok(Throughput { raw_per_second, engine_per_second, publish, arrival, usage })
}

/// Waits until everything that was published has arrived and every attempt is recorded.
async fn settled(server: &Server, sink: &Sink, bar: &ProgressBar) -> Result<(), CliError> {
    let until = Instant::now() + PATIENCE;
    loop {
        let (owed, arrived) = (sink.owed(), sink.arrived());
        bar.set_length(owed);
        bar.set_position(arrived);
        if arrived >= owed && server.usage().await?.attempts >= owed {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(CliError::failed(format!("only {arrived} of {owed} deliveries arrived within {PATIENCE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
