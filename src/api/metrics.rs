//! The engine's figures in the OpenMetrics text format.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::engine::EngineFigures;

pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes the figures out. A counter's name gets its `_total` from the format.
pub(super) fn text(figures: &EngineFigures) -> Result<String, fmt::Error> {
    let EngineFigures {
        events,
        attempts,
        commits,
        failed_commits,
        statements,
        rows,
        journal_depth,
        journal_capacity,
        live_endpoints,
        endpoint_crashes,
        in_flight,
        outcomes,
    } = figures;
    let mut registry = Registry::with_prefix("posthaste");
    let mut counter = |name: &str, help: &str, value: u64| registry.register(name, help, ConstCounter::new(value));
    counter("events_published", "Events accepted", *events);
    counter("journal_attempts", "Requests made whose outcome is committed", *attempts);
    counter("journal_commits", "Batches committed", *commits);
    counter("journal_failed_commits", "Batches that the database refused", *failed_commits);
    counter("journal_statements", "Statements run in batches", *statements);
    counter("journal_rows", "Rows written in batches", *rows);
    counter("endpoint_crashes", "Endpoint actors restarted after a panic", *endpoint_crashes);
    let mut gauge = |name: &str, help: &str, value: usize| {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        registry.register(name, help, ConstGauge::new(value));
    };
    gauge("journal_depth", "Places taken in the queue of records", *journal_depth);
    gauge("journal_capacity", "Places in the queue of records", *journal_capacity);
    gauge("endpoints_live", "Endpoint actors in memory", *live_endpoints);
    gauge("attempts_in_flight", "Requests being made", *in_flight);
    let by_outcome = Family::<[(&'static str, &'static str); 1], Counter>::default();
    for (outcome, count) in outcomes {
        by_outcome.get_or_create(&[("outcome", outcome)]).inc_by(*count);
    }
    registry.register("attempts", "Requests made, by outcome", by_outcome);
    let mut text = String::with_capacity(4096);
    encode(&mut text, &registry)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            journal_depth: 0,
            journal_capacity: 1,
            live_endpoints: 2,
            endpoint_crashes: 0,
            in_flight: 0,
            outcomes,
        };
        let text = text(&figures).unwrap();
        for line in [
            "posthaste_events_published_total 7",
            "posthaste_attempts_total{outcome=\"success\"} 3",
            "posthaste_attempts_total{outcome=\"timed_out\"} 0",
            "posthaste_endpoints_live 2",
            "posthaste_journal_commits_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
