//! `--scenario throughput`: measures deliveries per second and, alternating with it, the raw limit of this machine.

use std::sync::Arc;
use std::time::Instant;

use indicatif::ProgressBar;

use crate::cli::CliError;

use super::percentiles::Latency;
use super::publishers::{Load, Publishers};
use super::receivers::Receivers;
use super::report::{Report, Setup, Throughput};
use super::server::Server;
use super::settled::settled;
use super::sink::Sink;
use super::{Bench, BenchArgs, latency, raw};

/// Webhooks with a fan-out of one: enough that no endpoint's in-flight limit dominates the result.
const ENDPOINTS: usize = 64;

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Report, CliError> {
    let Bench { args, place, bar } = bench;
    let sink = Sink::start(Receivers::new(0, 0)).await?;
    let server = Server::start(place).await?;
    let throughput = in_rounds(args, &sink, &server, bar).await?;
    let latency = match args.latency_seconds {
        0 => None,
        _ => {
            bar.set_message("latency at 20 events/s");
            Some(latency::measure(&sink, &server, place, args, bar).await?)
        }
    };
    let quiet = match args.fan_out {
        1 => None,
        _ => Some(latency::quiet_publishes(&sink, &server, args, bar).await?),
    };
    server.stop().await?;
    Ok(Report::new(Setup::from(*args), throughput).with_latencies(latency, quiet))
}

async fn in_rounds(
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
