//! Writes figures in the OpenMetrics text format, for the metrics pages.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::ConnectionFigures;
use crate::domain::moment::UnixMillis;
use crate::engine::{Backlog, EngineFigures};

/// Writes the figures of the engine and of the API's connections.
pub(super) fn engine(figures: &EngineFigures, connections: &ConnectionFigures) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("posthaste");
    register_engine(&mut registry, figures);
    register_connections(&mut registry, connections);
    let mut text = String::with_capacity(4096);
    encode(&mut text, &registry)?;
    Ok(text)
}

/// The format adds `_total` to a counter's name.
fn register_engine(registry: &mut Registry, figures: &EngineFigures) {
    let EngineFigures {
        events,
        attempts,
        commits,
        failed_commits,
        statements,
        rows,
        fenced,
        divergences,
        orphans,
        journal_depth,
        journal_capacity,
        live_endpoints,
        quarantined_endpoints,
        endpoint_crashes,
        permits,
        payload_bytes,
        pending,
        backlogged,
        outcomes,
        unreadable_rows,
    } = figures;
    let mut counter = |name: &str, help: &str, value: u64| registry.register(name, help, ConstCounter::new(value));
    counter("events_published", "Events accepted", *events);
    counter("journal_attempts", "Requests made whose outcome is committed", *attempts);
    counter("journal_commits", "Batches committed", *commits);
    counter("journal_failed_commits", "Batches that the database refused", *failed_commits);
    counter("journal_statements", "Statements run in batches", *statements);
    counter("journal_rows", "Rows written in batches", *rows);
    counter("journal_fenced", "Records that were dropped because another node owns their shard", *fenced);
    counter("database_divergences", "Times that the database had lost transactions", *divergences);
    counter("orphans_ended", "Deliveries and fan-outs that were ended because their event is gone", *orphans);
    counter("endpoint_crashes", "Endpoint actors restarted after a panic", *endpoint_crashes);
    let mut gauge = |name: &str, help: &str, value: usize| {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        registry.register(name, help, ConstGauge::new(value));
    };
    gauge("journal_depth", "Places taken in the queue of records", *journal_depth);
    gauge("journal_capacity", "Places in the queue of records", *journal_capacity);
    gauge("endpoints_live", "Endpoint actors in memory", *live_endpoints);
    gauge(
        "endpoints_quarantined",
        "Endpoints whose actor crashed too often, or with a row that cannot be read",
        *quarantined_endpoints,
    );
    gauge("deliveries_pending", "Deliveries that this node owes", usize::try_from(*pending).unwrap_or(usize::MAX));
    gauge("webhooks_backlogged", "Webhooks that this node owes something", *backlogged);
    gauge("payload_bytes", "Event payloads in memory, in bytes", payload_bytes.0);
    gauge("payload_budget_bytes", "Bytes of payloads above which deliveries wait as rows", payload_bytes.1);
    gauge("attempts_in_flight", "Requests being made", permits.in_use());
    gauge("permits_healthy", "Permits for healthy endpoints", permits.healthy.places);
    gauge("permits_healthy_in_use", "Permits for healthy endpoints in use", permits.healthy.in_use);
    gauge("permits_healthy_waiting", "Requests to healthy endpoints that wait", permits.healthy.waiting);
    gauge("permits_ailing", "Permits for failing or slow endpoints", permits.ailing.places);
    gauge("permits_ailing_in_use", "Permits for failing or slow endpoints in use", permits.ailing.in_use);
    gauge("permits_ailing_waiting", "Requests to failing or slow endpoints that wait", permits.ailing.waiting);
    labelled(registry, ("attempts", "outcome"), "Requests made, by outcome", outcomes);
    let unreadable = "Different rows that could not be read since the start";
    labelled(registry, ("unreadable_rows", "table"), unreadable, unreadable_rows);
}

fn register_connections(registry: &mut Registry, ConnectionFigures { open, refused }: &ConnectionFigures) {
    let open = i64::try_from(*open).unwrap_or(i64::MAX);
    registry.register("http_connections", "Connections to the API", ConstGauge::new(open));
    let help = "Connections and requests to the API that were refused, by what was short";
    labelled(registry, ("http_refused", "reason"), help, refused);
}

/// A counter with one series for each value of its label.
fn labelled(registry: &mut Registry, (name, label): (&str, &'static str), help: &str, counts: &[(&'static str, u64)]) {
    let family = Family::<[(&'static str, &'static str); 1], Counter>::default();
    for (value, count) in counts {
        family.get_or_create(&[(label, *value)]).inc_by(*count);
    }
    registry.register(name, help, family);
}

/// Writes the figures of some endpoints, each under its webhook's id.
pub(super) fn endpoints(backlogs: &[Backlog]) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("posthaste_endpoint");
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&Backlog) -> Option<f64>| {
        let family = Family::<[(&'static str, String); 1], Gauge<f64, AtomicU64>>::default();
        for backlog in backlogs {
            if let Some(value) = value(backlog) {
                family.get_or_create(&[("webhook", backlog.webhook.to_string())]).set(value);
            }
        }
        registry.register(name, help, family);
    };
    gauge("pending", "Pending deliveries", &|backlog| Some(whole(backlog.pending)));
    gauge("in_flight", "Requests being made", &|backlog| Some(whole(backlog.in_flight)));
    gauge("oldest_pending_seconds", "Age of the oldest pending delivery", &|backlog| {
        backlog.oldest_at.map(|at| UnixMillis::now().since(at).as_secs_f64())
    });
    gauge("success_ratio", "Share of successful requests in the last 5 minutes", &|backlog| backlog.success_5m);
    gauge("latency_p99_seconds", "99th percentile of its answers' latency", &|backlog| {
        backlog.latency.map(|latency| latency.p99.as_secs_f64())
    });
    let mut text = String::with_capacity(4096);
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Counts above 2^53 lose precision, which nobody notices.
#[allow(clippy::cast_precision_loss, reason = "the format knows only floating-point numbers")]
fn whole(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{BulkheadView, PartView};

    fn part(places: usize, in_use: usize) -> PartView {
        PartView { places, in_use, waiting: 0 }
    }

    #[test]
    fn figures_are_written_in_the_openmetrics_format() {
        let outcomes = vec![("success", 3), ("timed_out", 0)];
        let figures = EngineFigures {
            events: 7,
            attempts: 3,
            commits: 0,
            failed_commits: 0,
            statements: 0,
            rows: 0,
            fenced: 0,
            divergences: 0,
            orphans: 0,
            journal_depth: 0,
            journal_capacity: 1,
            live_endpoints: 2,
            quarantined_endpoints: 0,
            endpoint_crashes: 0,
            permits: BulkheadView { healthy: part(14, 3), ailing: part(2, 1) },
            payload_bytes: (5, 6),
            pending: 40,
            backlogged: 4,
            outcomes,
            unreadable_rows: vec![("fanout", 2)],
        };
        let connections =
            ConnectionFigures { open: 9, refused: [("connections", 8), ("requests", 0), ("descriptors", 0)] };
        let text = engine(&figures, &connections).unwrap();
        for line in [
            "posthaste_events_published_total 7",
            "posthaste_attempts_total{outcome=\"success\"} 3",
            "posthaste_attempts_total{outcome=\"timed_out\"} 0",
            "posthaste_endpoints_live 2",
            "posthaste_attempts_in_flight 4",
            "posthaste_deliveries_pending 40",
            "posthaste_journal_commits_total 0",
            "posthaste_unreadable_rows_total{table=\"fanout\"} 2",
            "posthaste_http_connections 9",
            "posthaste_http_refused_total{reason=\"connections\"} 8",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
