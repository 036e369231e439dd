//! Counts what the sweeper has deleted since the start, for the metrics and its log line.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::retention::Deleted;

/// What a sweep deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Event,
    Delivery,
    Attempt,
    LogEntry,
    Response,
    Audit,
    Idempotency,
}

/// In the order of the variants.
const NAMES: [&str; 7] = ["event", "delivery", "attempt", "delivery_log", "response", "audit", "idempotency"];

#[derive(Debug, Default)]
pub(in crate::engine) struct Counts([AtomicU64; NAMES.len()]);

impl Counts {
    pub(super) fn add(&self, kind: Kind, count: u64) {
        self.0[kind as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_deleted(&self, deleted: Deleted) {
        let Deleted { events, deliveries, attempts, log_entries } = deleted;
        self.add(Kind::Event, events);
        self.add(Kind::Delivery, deliveries);
        self.add(Kind::Attempt, attempts);
        self.add(Kind::LogEntry, log_entries);
    }

    pub(super) fn all(&self) -> [u64; NAMES.len()] {
        array::from_fn(|place| self.0[place].load(Ordering::Relaxed))
    }

    /// Each table with its count. Answers of receivers are columns of `attempt`; they count as `response`.
    pub(in crate::engine) fn by_table(&self) -> Vec<(&'static str, u64)> {
        NAMES.into_iter().zip(self.all()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_counts_under_its_own_name() {
        let counts = Counts::default();
        counts.add_deleted(Deleted { events: 1, deliveries: 2, attempts: 3, log_entries: 4 });
        counts.add(Kind::Response, 5);
        counts.add(Kind::Audit, 6);
        counts.add(Kind::Idempotency, 7);
        let expected =
            [("event", 1), ("delivery", 2), ("attempt", 3), ("delivery_log", 4), ("response", 5), ("audit", 6)];
        assert_eq!(counts.by_table()[..6], expected);
        assert_eq!(counts.by_table()[6], ("idempotency", 7));
    }
}
