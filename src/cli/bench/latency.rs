//! Measures publish and delivery latency at a gentle pace, compared with the floor: one durable commit and one raw
//! POST, measured at the same pace in the same run. Part of the throughput scenario.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::cli::CliError;
use crate::domain::moment::UnixMillis;
use crate::store::Store;

use super::percentiles::Latency;
use super::place::Place;
use super::publishers::Publishers;
use super::report::{LatencyReport, QuietPublishes};
use super::server::Server;
use super::settled::settled;
use super::sink::Sink;
use super::{BenchArgs, raw};

/// 20 events a second, with a sample of the floor after each.
const PACE: Duration = Duration::from_millis(25);

const QUIET_TURNS: u32 = 100;

pub(super) async fn measure(
    sink: &Arc<Sink>,
    server: &Server,
    place: &Place,
    args: &BenchArgs,
    bar: &ProgressBar,
) -> Result<LatencyReport, CliError> {
    let publishers = Publishers::prepare(server, sink, 1, 1, args.payload).await?;
    let floor = Floor::prepare(sink, place, args.payload).await?;
    publishers.publish_one().await?;
    floor.once().await?;
    settled(server, sink, bar).await?;
    sink.forget_latencies();

    let mut publish = Latency::histogram();
    let mut floors = Latency::histogram();
    let mut pace = tokio::time::interval(PACE);
    for turn in 0..args.latency_seconds * 20 * 2 {
        pace.tick().await;
        // Alternating, so that both are measured under the same conditions.
        if turn % 2 == 0 {
            publish.saturating_record(publishers.publish_one().await?);
        } else {
            floors.saturating_record(floor.once().await?);
        }
    }
    settled(server, sink, bar).await?;
    floor.close().await;
    Ok(LatencyReport { floor: Latency::of(&floors), publish: Latency::of(&publish), arrival: sink.arrival_latency() })
}

/// Publishes one event at a time, alternately to one webhook and to many, each when nothing else is under way.
pub(super) async fn quiet_publishes(
    sink: &Arc<Sink>,
    server: &Server,
    args: &BenchArgs,
    bar: &ProgressBar,
) -> Result<QuietPublishes, CliError> {
    let one = Publishers::prepare(server, sink, 1, 1, args.payload).await?;
    let many = Publishers::prepare(server, sink, 1, args.fan_out as usize, args.payload).await?;
    let mut latencies = [Latency::histogram(), Latency::histogram()];
    for turn in 0..=QUIET_TURNS {
        for (publishers, latencies) in [&one, &many].into_iter().zip(&mut latencies) {
            let took = publishers.publish_one().await?;
            settled(server, sink, bar).await?;
            // The first event activates the endpoints.
            if turn > 0 {
                latencies.saturating_record(took);
            }
        }
    }
    let [to_one, to_all] = latencies.map(|latencies| Latency::of(&latencies));
    Ok(QuietPublishes { to_one, to_all })
}

/// The least work of a durable delivery: one commit and one POST.
struct Floor {
    store: Store,
    client: reqwest::Client,
    request: reqwest::Request,
}

impl Floor {
    async fn prepare(sink: &Sink, place: &Place, payload: u32) -> Result<Self, CliError> {
        let store = Store::open(place.beside()).await.map_err(CliError::failed)?;
        Ok(Self { store, client: raw::client()?, request: raw::request(&sink.url(), payload) })
    }

    /// Commits one row, then sends one POST; returns the microseconds that both took.
    async fn once(&self) -> Result<u64, CliError> {
        let began = Instant::now();
        self.store.mark_stopped_cleanly(UnixMillis::now()).await.map_err(CliError::failed)?;
        raw::post(&self.client, &self.request).await?;
        Ok(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    async fn close(self) {
        self.store.close().await;
    }
}
