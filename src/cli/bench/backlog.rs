//! `--scenario backlog`: measures reading and changing a webhook with a very long backlog, compared with one that is
//! owed nothing.
//!
//! The webhook's receiver hangs, so that everything published becomes a waiting row. The receiver keeps hanging while
//! reads and actions are measured.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::CliError;

use super::percentiles::Latency;
use super::publishers::{self, Load, Publishers};
use super::receivers::{Manner, Receivers};
use super::server::Server;
use super::settled::settled;
use super::sink::Sink;
use super::trickle::trickle;
use super::{Bench, PATIENCE, until};

/// How the backlog is published; this part is not measured.
const BATCH: usize = 100;
const PUBLISHERS: usize = 8;

/// Warm-up deliveries: the backlog divided by this.
const WARM_UP: u32 = 4;

/// The longest timeout and the most retries that a webhook may have, so that nothing settles during the measurement.
const TIMEOUT_MS: u32 = 30_000;
const MAX_RETRIES: u32 = 20;

/// Pace of another tenant's publishes while an action is measured.
const BESIDE_EVERY: Duration = Duration::from_millis(10);

/// Once no row was written for this long, everything owed has its row. The metrics page may be a second old.
const QUIET: Duration = Duration::from_secs(2);

/// The reads that are measured repeatedly for webhook `id`; each is a line of the report.
fn reads(id: &str) -> Vec<String> {
    vec![
        format!("/webhooks/{id}/backlog"),
        "/backlogs?sort=depth&limit=20".to_owned(),
        format!("/webhooks/{id}/logs?status=pending&limit=20"),
        format!("/webhooks/{id}/logs?limit=20"),
        format!("/deliveries?webhookId={id}&status=pending&limit=20"),
        format!("/webhooks/{id}"),
    ]
}

/// The actions on webhook `id`, measured once in this order; each is a line of the report.
fn actions(id: &str) -> Vec<(Method, String, Option<Value>)> {
    vec![
        (Method::POST, format!("/webhooks/{id}/pause"), None),
        (Method::POST, format!("/webhooks/{id}/resume"), None),
        (Method::PATCH, format!("/webhooks/{id}"), Some(json!({ "isActive": false }))),
        (Method::PATCH, format!("/webhooks/{id}"), Some(json!({ "isActive": true }))),
        (Method::POST, format!("/webhooks/{id}/purge"), None),
        (Method::DELETE, format!("/webhooks/{id}"), None),
    ]
}

#[derive(Debug, Args)]
pub(super) struct BacklogArgs {
    /// Backlog: deliveries that the webhook is owed
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    backlog: u32,
    /// Backlog: measurements of each read
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    reads: u32,
}

#[derive(Debug, Serialize)]
struct ReadReport {
    read: String,
    /// The same read for a webhook that is owed nothing.
    empty: Latency,
    backlog: Latency,
    /// Ratio of the p50s.
    ratio: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ActionReport {
    action: String,
    milliseconds: f64,
    /// The longest publish of another tenant that began during the action.
    publish_beside_ms: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pending: u32,
    reads: Vec<ReadReport>,
    actions: Vec<ActionReport>,
    memory_before_mib: f64,
    memory_mib: f64,
    bytes_per_pending: f64,
}

pub(super) async fn measure(bench: &Bench<'_>) -> Result<Report, CliError> {
    let BacklogArgs { backlog, reads: times } = bench.args.backlog;
    let sink = Sink::start(Receivers::new(1, 0)).await?;
    let server = Server::start(bench.place).await?;
    // Deliveries of another tenant fill caches and pools first, so that the memory difference is the backlog's alone.
    let beside = Publishers::prepare(&server, &sink, 1, 1, bench.args.payload).await?;
    beside.run(load(backlog / WARM_UP)).await?;
    settled(&server, &sink, &bench.bar).await?;
    let key = server.new_tenant().await?;
    let before = server.steady_memory().await?;
    let (empty, full) = webhooks(&server, &sink, &key).await?;
    sink.receivers.set(0..1, Manner::Hangs);
    let publishers = Publishers::of(&server, &sink, key.clone(), 1, bench.args.payload);
    bench.begin("publishing the backlog", 1);
    publishers.run(load(backlog)).await?;
    rows_written(&server).await?;
    let memory = server.steady_memory().await?;

    bench.begin("reading", u64::from(times));
    let read = [read(bench, &server, &key, &reads(&empty)).await?, read(bench, &server, &key, &reads(&full)).await?];
    let actions = act(&server, &key, &full, &beside).await?;
    // The webhook is deleted by now, but a stop would wait for its hanging requests.
    sink.receivers.set(0..1, Manner::Answers);
    server.stop().await?;
    let [of_empty, of_full] = read;
    let mib = |bytes: f64| bytes / (1024.0 * 1024.0);
    Ok(Report {
        pending: backlog,
        reads: reads("{id}").into_iter().zip(of_empty.into_iter().zip(of_full)).map(ReadReport::of).collect(),
        actions,
        memory_before_mib: mib(before),
        memory_mib: mib(memory),
        bytes_per_pending: (memory - before) / f64::from(backlog),
    })
}

fn load(events: u32) -> Load {
    Load { events: events as usize, batch: BATCH, publishers: PUBLISHERS }
}

/// Creates a webhook that no event matches and one whose receiver hangs.
async fn webhooks(server: &Server, sink: &Sink, key: &str) -> Result<(String, String), CliError> {
    let empty = publishers::webhook(0, &publishers::kind(1), &sink.url());
    let mut full = publishers::webhook(1, &publishers::kind(0), &sink.url_at(0));
    full["timeoutMs"] = json!(TIMEOUT_MS);
    full["retryPolicy"] = json!({ "maxRetries": MAX_RETRIES });
    let mut ids = server.subscribe(key, [empty, full]).await?.into_iter();
    ids.next().zip(ids.next()).ok_or_else(|| CliError::failed("the webhooks have no ids"))
}

/// Waits until the journal has nothing left to write.
async fn rows_written(server: &Server) -> Result<(), CliError> {
    let (mut rows, mut since) = (0, Instant::now());
    let quiet = until(PATIENCE, async || {
        let written = server.usage().await?.rows;
        if written != rows {
            (rows, since) = (written, Instant::now());
        }
        Ok(since.elapsed() >= QUIET)
    });
    if quiet.await? { Ok(()) } else { Err(CliError::failed("the backlog was not written in time")) }
}

async fn read(bench: &Bench<'_>, server: &Server, key: &str, paths: &[String]) -> Result<Vec<Latency>, CliError> {
    let mut latencies: Vec<_> = paths.iter().map(|_| Latency::histogram()).collect();
    bench.bar.set_position(0);
    for _ in 0..bench.args.backlog.reads {
        for (path, latencies) in paths.iter().zip(&mut latencies) {
            let began = Instant::now();
            server.call(Method::GET, path, key, None).await?;
            latencies.saturating_record(micros(began));
        }
        bench.bar.inc(1);
    }
    Ok(latencies.iter().map(Latency::of).collect())
}

/// Performs each action once while another tenant publishes one event after the other.
async fn act(server: &Server, key: &str, id: &str, beside: &Arc<Publishers>) -> Result<Vec<ActionReport>, CliError> {
    let mut reports = Vec::new();
    for ((method, path, body), (_, shown, _)) in actions(id).into_iter().zip(actions("{id}")) {
        let body_shown = body.as_ref().map(|body| format!(" {body}")).unwrap_or_default();
        let action = format!("{method} {shown}{body_shown}");
        let began = Instant::now();
        let acting = async {
            server.call(method, &path, key, body.as_ref()).await?;
            Ok::<_, CliError>(micros(began))
        };
        let (publishes, took) = trickle(beside, BESIDE_EVERY, acting).await?;
        let ms = |micros: u64| micros as f64 / 1000.0;
        reports.push(ActionReport { action, milliseconds: ms(took?), publish_beside_ms: ms(publishes.max()) });
    }
    Ok(reports)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl ReadReport {
    fn of((path, (empty, backlog)): (String, (Latency, Latency))) -> Self {
        let ratio = backlog.p50_us as f64 / empty.p50_us.max(1) as f64;
        Self { read: format!("GET {path}"), empty, backlog, ratio }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "a webhook that is owed {} deliveries", self.pending)?;
        for ReadReport { read, empty, backlog, ratio } in &self.reads {
            writeln!(f, "{read}")?;
            writeln!(f, "  owed nothing  {empty}")?;
            writeln!(f, "  backlog       {backlog}   {ratio:.2} times the p50")?;
        }
        for ActionReport { action, milliseconds, publish_beside_ms } in &self.actions {
            writeln!(f, "{action}")?;
            writeln!(f, "  took {milliseconds:.1} ms, a publish beside it up to {publish_beside_ms:.1} ms")?;
        }
        write!(
            f,
            "engine memory    {:.1} MiB, before {:.1} MiB: {:.0} bytes a pending delivery",
            self.memory_mib, self.memory_before_mib, self.bytes_per_pending
        )
    }
}
