//! Publishes events over the API; each publisher has one request at a time. Used by all scenarios with a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use hdrhistogram::Histogram;
use serde_json::json;

use crate::cli::CliError;

use super::payload::data;
use super::percentiles::Latency;
use super::server::Server;
use super::sink::Sink;

#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) events: usize,
    pub(super) batch: usize,
    pub(super) publishers: usize,
}

/// A tenant with webhooks, and publishers with its key.
pub(super) struct Publishers {
    client: reqwest::Client,
    single: String,
    batch: String,
    key: String,
    groups: usize,
    fan_out: usize,
    payload: u32,
    sink: Arc<Sink>,
}

impl Publishers {
    /// Creates a tenant with `groups` event types, each with `fan_out` webhooks.
    pub(super) async fn prepare(
        server: &Server,
        sink: &Arc<Sink>,
        groups: usize,
        fan_out: usize,
        payload: u32,
    ) -> Result<Arc<Self>, CliError> {
        let key = server.new_tenant().await?;
        let webhooks = (0..groups * fan_out).map(|index| webhook(index, &kind(index % groups), &sink.url()));
        server.subscribe(&key, webhooks).await?;
        Ok(Self::to_groups(server, sink, key, groups, fan_out, payload))
    }

    /// For the tenant of `key`, in which `fan_out` webhooks are subscribed to [`kind`] 0.
    pub(super) fn of(server: &Server, sink: &Arc<Sink>, key: String, fan_out: usize, payload: u32) -> Arc<Self> {
        Self::to_groups(server, sink, key, 1, fan_out, payload)
    }

    fn to_groups(
        server: &Server,
        sink: &Arc<Sink>,
        key: String,
        groups: usize,
        fan_out: usize,
        payload: u32,
    ) -> Arc<Self> {
        let (single, batch) = (server.url("/events"), server.url("/events/batch"));
        let (client, sink) = (server.client().clone(), sink.clone());
        Arc::new(Self { client, single, batch, key, groups, fan_out, payload, sink })
    }

    /// Publishes as fast as the answers come; returns how long the requests took.
    pub(super) async fn run(self: &Arc<Self>, load: Load) -> Result<Histogram<u64>, CliError> {
        let left = Arc::new(AtomicUsize::new(load.events));
        let tasks: Vec<_> =
            (0..load.publishers).map(|_| tokio::spawn(self.clone().publish(load, left.clone()))).collect();
        let mut all = Latency::histogram();
        for task in tasks {
            let one = task.await.map_err(CliError::failed)??;
            all.add(one).map_err(CliError::failed)?;
        }
        Ok(all)
    }

    async fn publish(self: Arc<Self>, load: Load, left: Arc<AtomicUsize>) -> Result<Histogram<u64>, CliError> {
        let mut latencies = Latency::histogram();
        loop {
            let take = |left: usize| left.checked_sub(load.batch.min(left)).filter(|_| left > 0);
            let Ok(before) = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) else {
                return Ok(latencies);
            };
            let took = self.send(load.batch.min(before), load.batch > 1).await?;
            latencies.saturating_record(took);
        }
    }

    /// Publishes one event, or several in one request; returns the microseconds until the answer.
    async fn send(&self, events: usize, batch: bool) -> Result<u64, CliError> {
        let (url, body) = if batch {
            let events: Vec<String> = (0..events).map(|_| self.event()).collect();
            (&self.batch, format!(r#"{{"events":[{}]}}"#, events.join(",")))
        } else {
            (&self.single, self.event())
        };
        let request =
            self.client.post(url).bearer_auth(&self.key).header("content-type", "application/json").body(body);
        let began = Instant::now();
        let answer = request.send().await.map_err(CliError::failed)?;
        let status = answer.status();
        let text = answer.text().await.map_err(CliError::failed)?;
        if status != http::StatusCode::ACCEPTED {
            return Err(CliError::failed(format!("a publish was answered {status}: {text}")));
        }
        self.sink.owe((events * self.fan_out) as u64);
        Ok(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn event(&self) -> String {
        let index = self.sink.publishing();
        let group = usize::try_from(index).unwrap_or(0) % self.groups;
        format!(r#"{{"event":"{}","data":{}}}"#, kind(group), data(index, self.payload))
    }

    /// Publishes one event; returns the microseconds until the answer.
    pub(super) async fn publish_one(&self) -> Result<u64, CliError> {
        self.send(1, false).await
    }
}

/// The event type of this group.
pub(super) fn kind(group: usize) -> String {
    format!("bench.group{group}")
}

/// The request body that creates a webhook.
pub(super) fn webhook(index: usize, kind: &str, url: &str) -> serde_json::Value {
    json!({ "name": format!("bench {index}"), "url": url, "events": [kind] })
}
