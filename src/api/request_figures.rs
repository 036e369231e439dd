//! Counts the requests that were answered, by method, route and status, and how long they took. The response layer
//! reports every answer, the metrics page reads the counts.
//!
//! There are as many series as the API has routes, whatever callers ask for: a request that matches no route counts as
//! `unmatched`, an unusual method as `other`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::{Method, StatusCode};
use parking_lot::RwLock;

use crate::histogram::{Histogram, HistogramSnapshot, QUICK};

/// The route of a request that matches none.
const UNMATCHED: &str = "unmatched";

/// The counts of this process. Answers take only read locks once their route and status have been seen.
#[derive(Debug, Default)]
pub(super) struct RequestFigures {
    by_method: RwLock<BTreeMap<&'static str, BTreeMap<String, Arc<Counts>>>>,
}

#[derive(Debug)]
struct Counts {
    durations: Histogram,
    by_status: RwLock<BTreeMap<u16, AtomicU64>>,
}

/// The answered requests of one method and route.
#[derive(Debug)]
pub(super) struct RouteFigures {
    pub(super) method: &'static str,
    pub(super) route: String,
    /// Requests by the status of their answers.
    pub(super) by_status: Vec<(u16, u64)>,
    pub(super) durations: HistogramSnapshot,
}

impl RequestFigures {
    /// `route`: the template that the request matches, never its path. `took`: until the head of the answer.
    pub(super) fn count(&self, method: &Method, route: Option<&str>, status: StatusCode, took: Duration) {
        let counts = self.of(word(method), route.unwrap_or(UNMATCHED));
        counts.durations.count(took);
        counts.count(status.as_u16());
    }

    fn of(&self, method: &'static str, route: &str) -> Arc<Counts> {
        if let Some(counts) = self.by_method.read().get(method).and_then(|routes| routes.get(route)) {
            return counts.clone();
        }
        let fresh = || Arc::new(Counts { durations: Histogram::new(&QUICK), by_status: RwLock::default() });
        self.by_method.write().entry(method).or_default().entry(route.to_owned()).or_insert_with(fresh).clone()
    }

    pub(super) fn read(&self) -> Vec<RouteFigures> {
        let by_method = self.by_method.read();
        let all = by_method.iter().flat_map(|(method, routes)| routes.iter().map(move |route| (*method, route)));
        let figures = |(method, (route, counts)): (&'static str, (&String, &Arc<Counts>))| RouteFigures {
            method,
            route: route.clone(),
            by_status: counts.read(),
            durations: counts.durations.snapshot(),
        };
        all.map(figures).collect()
    }
}

impl Counts {
    fn count(&self, status: u16) {
        if let Some(count) = self.by_status.read().get(&status) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.by_status.write().entry(status).or_default().fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> Vec<(u16, u64)> {
        let by_status = self.by_status.read();
        by_status.iter().map(|(status, count)| (*status, count.load(Ordering::Relaxed))).collect()
    }
}

fn word(method: &Method) -> &'static str {
    const USUAL: [Method; 7] =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    const WORDS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    USUAL.iter().position(|usual| usual == method).map_or("other", |place| WORDS[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_cannot_add_series() {
        let figures = RequestFigures::default();
        let took = Duration::from_millis(2);
        for number in 0..100 {
            let method = Method::from_bytes(format!("M{number}").as_bytes()).unwrap();
            figures.count(&method, None, StatusCode::NOT_FOUND, took);
        }
        figures.count(&Method::GET, Some("/api/v1/events/{id}"), StatusCode::OK, took);
        figures.count(&Method::GET, Some("/api/v1/events/{id}"), StatusCode::NOT_FOUND, took);

        let read = figures.read();
        let shown: Vec<_> = read.iter().map(|of| (of.method, of.route.as_str(), of.by_status.as_slice())).collect();
        assert_eq!(
            shown,
            [
                ("GET", "/api/v1/events/{id}", [(200, 1), (404, 1)].as_slice()),
                ("other", UNMATCHED, [(404, 100)].as_slice())
            ]
        );
        assert_eq!(read[1].durations.count(), 100);
    }
}
