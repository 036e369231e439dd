//! Publishes events at a fixed pace, however long the answers take.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::cli::CliError;

use super::percentiles::Latency;
use super::publishers::Publishers;

/// Publishes one event every `every` until `end` completes; returns how long each publish took, and the result of
/// `end`.
pub(super) async fn trickle<T>(
    publishers: &Arc<Publishers>,
    every: Duration,
    end: impl Future<Output = T>,
) -> Result<(Histogram<u64>, T), CliError> {
    let mut pace = tokio::time::interval(every);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut end = pin!(end);
    let mut publishing = JoinSet::new();
    let ended = loop {
        tokio::select! {
            ended = &mut end => break ended,
            _ = pace.tick() => {
                let publishers = publishers.clone();
                publishing.spawn(async move { publishers.publish_one().await });
            }
        }
    };
    let mut took = Latency::histogram();
    while let Some(published) = publishing.join_next().await {
        took.saturating_record(published.map_err(CliError::failed)??);
    }
    Ok((took, ended))
}
