//! How long the database takes to answer, for the metrics page.

use std::time::Duration;

use crate::histogram::{Histogram, HistogramSnapshot, QUICK};

/// What the database is asked to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    /// To begin a transaction, which includes the wait for a connection.
    Begin,
    /// A statement that answers rows. Outside a transaction, it includes the wait for a connection.
    Query,
    /// A statement that answers none.
    Execute,
    Commit,
    Rollback,
}

impl Operation {
    /// In the order of their discriminants.
    const WORDS: [&str; 5] = ["begin", "query", "execute", "commit", "rollback"];
}

/// The durations of one pool's operations, answered or not.
#[derive(Debug)]
pub(super) struct Timings([Histogram; Operation::WORDS.len()]);

/// Durations by operation.
pub type TimingFigures = Vec<(&'static str, HistogramSnapshot)>;

impl Timings {
    pub(super) fn new() -> Self {
        Self(Operation::WORDS.map(|_| Histogram::new(&QUICK)))
    }

    pub(super) fn count(&self, operation: Operation, took: Duration) {
        self.0[operation as usize].count(took);
    }

    /// Adds the durations of several pools up.
    pub(super) fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> TimingFigures {
        let mut sums = TimingFigures::new();
        for timings in all {
            let snapshots = timings.0.iter().map(Histogram::snapshot);
            if sums.is_empty() {
                sums = Operation::WORDS.into_iter().zip(snapshots).collect();
            } else {
                sums.iter_mut().zip(snapshots).for_each(|((_, sum), snapshot)| sum.add(&snapshot));
            }
        }
        sums
    }
}
