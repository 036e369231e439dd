//! Writes figures as metrics: which families there are, and what each says.

use super::ConnectionFigures;
use super::exposition::{Exposition, Format, Kind};
use super::process;
use crate::api::request_figures::RouteFigures;
use crate::domain::moment::UnixMillis;
use crate::engine::{Backlog, BulkheadView, DurationFigures, EngineFigures};
use crate::store::TimingFigures;
use crate::store::gauges::DatabaseGauges;

/// What the page about the engine shows.
pub(super) struct Figures {
    pub(super) engine: EngineFigures,
    pub(super) connections: ConnectionFigures,
    pub(super) requests: Vec<RouteFigures>,
    /// The kind of database.
    pub(super) database: &'static str,
    pub(super) timings: TimingFigures,
    /// `None` while the database does not answer.
    pub(super) gauges: Option<DatabaseGauges>,
    pub(super) started_at: UnixMillis,
}

/// Writes the page about the engine.
pub(super) fn engine(format: Format, figures: &Figures) -> String {
    let Figures { engine, connections, requests, database, timings, gauges, started_at } = figures;
    let mut page = Exposition::new(format);
    let build = [("version", env!("CARGO_PKG_VERSION")), ("database", *database)];
    page.family("posthaste_build", Kind::Info, "This program").sample(&build, 1);
    process::write(&mut page, *started_at);
    write_engine(&mut page, engine);
    write_connections(&mut page, connections);
    write_requests(&mut page, requests);
    write_database(&mut page, timings);
    if let Some(gauges) = gauges {
        write_gauges(&mut page, gauges);
    }
    page.finish()
}

fn write_engine(page: &mut Exposition, figures: &EngineFigures) {
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
        ended,
        durations,
        unreadable_rows,
        swept,
    } = figures;
    let mut counter =
        |name: &str, help: &str, value: u64| _ = page.family(name, Kind::Counter, help).sample(&[], value);
    counter("posthaste_events_published", "Events accepted", *events);
    counter("posthaste_journal_attempts", "Requests made whose outcome is committed", *attempts);
    counter("posthaste_journal_commits", "Batches committed", *commits);
    counter("posthaste_journal_failed_commits", "Batches that the database refused", *failed_commits);
    counter("posthaste_journal_statements", "Statements run in batches", *statements);
    counter("posthaste_journal_rows", "Rows written in batches", *rows);
    counter("posthaste_journal_fenced", "Records that were dropped because another node owns their shard", *fenced);
    counter("posthaste_database_divergences", "Times that the database had lost transactions", *divergences);
    counter("posthaste_orphans_ended", "Deliveries and fan-outs that were ended because their event is gone", *orphans);
    counter("posthaste_endpoint_crashes", "Endpoint actors restarted after a panic", *endpoint_crashes);
    let mut gauge = |name: &str, help: &str, value: usize| _ = page.family(name, Kind::Gauge, help).sample(&[], value);
    gauge("posthaste_journal_depth", "Places taken in the queue of records", *journal_depth);
    gauge("posthaste_journal_capacity", "Places in the queue of records", *journal_capacity);
    gauge("posthaste_endpoints_live", "Endpoint actors in memory", *live_endpoints);
    gauge(
        "posthaste_endpoints_quarantined",
        "Endpoints whose actor crashed too often, or with a row that cannot be read",
        *quarantined_endpoints,
    );
    gauge("posthaste_webhooks_backlogged", "Webhooks that this node owes something", *backlogged);
    gauge("posthaste_payload_bytes", "Event payloads in memory, in bytes", payload_bytes.0);
    gauge("posthaste_payload_budget_bytes", "Bytes of payloads above which deliveries wait as rows", payload_bytes.1);
    page.family("posthaste_deliveries_pending", Kind::Gauge, "Deliveries that this node owes").sample(&[], pending);
    write_permits(page, permits);
    counters(page, ("posthaste_attempts", "outcome"), "Requests made, by outcome", outcomes);
    counters(page, ("posthaste_deliveries_final", "status"), "Deliveries that have ended, by status", ended);
    write_durations(page, durations);
    let unreadable = "Different rows that could not be read since the start";
    counters(page, ("posthaste_unreadable_rows", "table"), unreadable, unreadable_rows);
    counters(page, ("posthaste_retention_deleted", "table"), "Rows deleted because of their age, by table", swept);
}

fn write_permits(page: &mut Exposition, permits: &BulkheadView) {
    let BulkheadView { healthy, ailing } = permits;
    let mut gauge = |name: &str, help: &str, value: usize| _ = page.family(name, Kind::Gauge, help).sample(&[], value);
    gauge("posthaste_attempts_in_flight", "Requests being made", permits.in_use());
    gauge("posthaste_permits_healthy", "Permits for healthy endpoints", healthy.places);
    gauge("posthaste_permits_healthy_in_use", "Permits for healthy endpoints in use", healthy.in_use);
    gauge("posthaste_permits_healthy_waiting", "Requests to healthy endpoints that wait", healthy.waiting);
    gauge("posthaste_permits_ailing", "Permits for failing or slow endpoints", ailing.places);
    gauge("posthaste_permits_ailing_in_use", "Permits for failing or slow endpoints in use", ailing.in_use);
    gauge("posthaste_permits_ailing_waiting", "Requests to failing or slow endpoints that wait", ailing.waiting);
}

fn write_durations(page: &mut Exposition, DurationFigures { publishes, attempts, deliveries }: &DurationFigures) {
    let help = "How long accepted publishes took, from the call to the commit";
    page.family("posthaste_publish_duration_seconds", Kind::Histogram, help).histogram(&[], publishes);
    let help = "How long attempts took, by the class of their outcome";
    let mut family = page.family("posthaste_attempt_duration_seconds", Kind::Histogram, help);
    for (class, snapshot) in attempts {
        family.histogram(&[("outcome_class", class)], snapshot);
    }
    let help = "Time from the acceptance of an event to the first 2xx answer to its delivery";
    page.family("posthaste_delivery_latency_seconds", Kind::Histogram, help).histogram(&[], deliveries);
}

fn write_connections(page: &mut Exposition, ConnectionFigures { open, refused }: &ConnectionFigures) {
    page.family("posthaste_http_connections", Kind::Gauge, "Connections to the API").sample(&[], open);
    let help = "Connections and requests to the API that were refused, by what was short";
    counters(page, ("posthaste_http_refused", "reason"), help, refused);
}

fn write_requests(page: &mut Exposition, requests: &[RouteFigures]) {
    let mut family =
        page.family("posthaste_http_requests", Kind::Counter, "Requests to the API that were answered, by route");
    for RouteFigures { method, route, by_status, .. } in requests {
        for (status, count) in by_status {
            family.sample(&[("method", method), ("route", route), ("code", &status.to_string())], count);
        }
    }
    let help = "Time until the head of an answer, by route";
    let mut family = page.family("posthaste_http_request_duration_seconds", Kind::Histogram, help);
    for RouteFigures { method, route, durations, .. } in requests {
        family.histogram(&[("method", method), ("route", route)], durations);
    }
}

fn write_database(page: &mut Exposition, timings: &TimingFigures) {
    let help = "How long the database took to answer, by operation";
    let mut family = page.family("posthaste_database_seconds", Kind::Histogram, help);
    for (operation, durations) in timings {
        family.histogram(&[("op", operation)], durations);
    }
}

fn write_gauges(page: &mut Exposition, gauges: &DatabaseGauges) {
    let DatabaseGauges { webhooks, breakers_open, oldest_due, operations } = gauges;
    let mut family = page.family("posthaste_webhooks", Kind::Gauge, "Webhooks in the database, by state");
    for (state, count) in webhooks {
        family.sample(&[("state", state)], count);
    }
    let help = "Webhooks in the database whose circuit breaker is not closed";
    page.family("posthaste_breakers_open", Kind::Gauge, help).sample(&[], breakers_open);
    let help = "For how long the oldest delivery that is due has been due, by what it waits for; 0 if there is none";
    let mut family = page.family("posthaste_oldest_due_seconds", Kind::Gauge, help);
    for (reason, age) in oldest_due {
        family.sample(&[("reason", reason)], age.as_secs_f64());
    }
    let mut family = page.family("posthaste_operations", Kind::Gauge, "Operations that have not ended, by state");
    for (state, count) in operations {
        family.sample(&[("state", state)], count);
    }
}

/// A counter with one series for each value of its label.
fn counters(page: &mut Exposition, (name, label): (&str, &str), help: &str, counts: &[(&str, u64)]) {
    let mut family = page.family(name, Kind::Counter, help);
    for (value, count) in counts {
        family.sample(&[(label, value)], count);
    }
}

/// Writes the figures of some endpoints, each under its webhook's id.
pub(super) fn endpoints(format: Format, backlogs: &[Backlog]) -> String {
    let mut page = Exposition::new(format);
    let ids: Vec<String> = backlogs.iter().map(|backlog| backlog.webhook.to_string()).collect();
    let mut gauge = |name: &str, help: &str, value: &dyn Fn(&Backlog) -> Option<f64>| {
        let mut family = page.family(name, Kind::Gauge, help);
        for (backlog, id) in backlogs.iter().zip(&ids) {
            if let Some(value) = value(backlog) {
                family.sample(&[("webhook", id)], value);
            }
        }
    };
    gauge("posthaste_endpoint_pending", "Pending deliveries", &|backlog| Some(whole(backlog.pending)));
    gauge("posthaste_endpoint_in_flight", "Requests being made", &|backlog| Some(whole(backlog.in_flight)));
    gauge("posthaste_endpoint_oldest_pending_seconds", "Age of the oldest pending delivery", &|backlog| {
        backlog.oldest_at.map(|at| UnixMillis::now().since(at).as_secs_f64())
    });
    let success = "Share of successful requests in the last 5 minutes";
    gauge("posthaste_endpoint_success_ratio", success, &|backlog| backlog.success_5m);
    let latency = "99th percentile of its answers' latency";
    gauge("posthaste_endpoint_latency_p99_seconds", latency, &|backlog| {
        backlog.latency.map(|latency| latency.p99.as_secs_f64())
    });
    page.finish()
}

/// Counts above 2^53 lose precision, which nobody notices.
#[allow(clippy::cast_precision_loss, reason = "the format knows only floating-point numbers")]
fn whole(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::PartView;
    use crate::histogram::{Histogram, PATIENT, QUICK};

    fn part(places: usize, in_use: usize) -> PartView {
        PartView { places, in_use, waiting: 0 }
    }

    fn figures() -> Figures {
        let outcomes = vec![("success", 3), ("timed_out", 0)];
        let attempts = Histogram::new(&QUICK);
        attempts.count(Duration::from_millis(3));
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
            ended: vec![("success", 2), ("cancelled", 0)],
            durations: DurationFigures {
                publishes: Histogram::new(&QUICK).snapshot(),
                attempts: vec![("success", attempts.snapshot())],
                deliveries: Histogram::new(&PATIENT).snapshot(),
            },
            unreadable_rows: vec![("fanout", 2)],
            swept: vec![("event", 8)],
        };
        let connections =
            ConnectionFigures { open: 9, refused: [("connections", 8), ("requests", 0), ("descriptors", 0)] };
        Figures {
            engine: figures,
            connections,
            requests: Vec::new(),
            database: "sqlite",
            timings: Vec::new(),
            gauges: None,
            started_at: UnixMillis(1_500),
        }
    }

    #[test]
    fn figures_are_written_in_both_formats() {
        let figures = figures();
        let pages = Format::BOTH.map(|format| engine(format, &figures));
        for line in [
            "posthaste_events_published_total 7",
            "posthaste_attempts_total{outcome=\"success\"} 3",
            "posthaste_attempts_total{outcome=\"timed_out\"} 0",
            "posthaste_deliveries_final_total{status=\"success\"} 2",
            "posthaste_attempt_duration_seconds_bucket{outcome_class=\"success\",le=\"0.005\"} 1",
            "posthaste_delivery_latency_seconds_count 0",
            "process_start_time_seconds 1.5",
            "posthaste_endpoints_live 2",
            "posthaste_attempts_in_flight 4",
            "posthaste_deliveries_pending 40",
            "posthaste_journal_commits_total 0",
            "posthaste_unreadable_rows_total{table=\"fanout\"} 2",
            "posthaste_retention_deleted_total{table=\"event\"} 8",
            "posthaste_http_connections 9",
            "posthaste_http_refused_total{reason=\"connections\"} 8",
        ] {
            for text in &pages {
                assert!(text.lines().any(|found| found == line), "{line} in {text}");
            }
        }
    }
}
