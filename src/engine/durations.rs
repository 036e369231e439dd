//! How long publishes, attempts and deliveries take, for the metrics page. Counted by the engine and its endpoints.

use std::time::Duration;

use crate::domain::outcome::{OutcomeClass, OutcomeKind};
use crate::histogram::{Histogram, HistogramSnapshot, PATIENT, QUICK};

pub(super) struct Durations {
    publishes: Histogram,
    /// By [`OutcomeClass`].
    attempts: [Histogram; OutcomeClass::ALL.len()],
    deliveries: Histogram,
}

/// The durations at one moment.
#[derive(Debug, Clone)]
pub struct DurationFigures {
    /// From the call to the answer, of publishes that were accepted.
    pub publishes: HistogramSnapshot,
    /// Of attempts, by the class of their outcome.
    pub attempts: Vec<(&'static str, HistogramSnapshot)>,
    /// From the acceptance of an event to the first 2xx answer to its delivery.
    pub deliveries: HistogramSnapshot,
}

impl Durations {
    pub(super) fn new() -> Self {
        Self {
            publishes: Histogram::new(&QUICK),
            attempts: OutcomeClass::ALL.map(|_| Histogram::new(&QUICK)),
            deliveries: Histogram::new(&PATIENT),
        }
    }

    pub(super) fn published(&self, took: Duration) {
        self.publishes.count(took);
    }

    pub(super) fn attempted(&self, outcome: OutcomeKind, took: Duration) {
        self.attempts[outcome.class() as usize].count(took);
    }

    /// `took`: since the event was accepted.
    pub(super) fn delivered(&self, took: Duration) {
        self.deliveries.count(took);
    }

    pub(super) fn figures(&self) -> DurationFigures {
        let attempts = OutcomeClass::ALL.iter().map(|class| class.as_str());
        DurationFigures {
            publishes: self.publishes.snapshot(),
            attempts: attempts.zip(self.attempts.iter().map(Histogram::snapshot)).collect(),
            deliveries: self.deliveries.snapshot(),
        }
    }
}
