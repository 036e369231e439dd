//! Receivers in the sink, one per path, whose behaviour can change while they are called.

use std::ops::Range;

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::percentiles::Latency;

/// How a receiver answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Answers,
    /// Answers 500 at once.
    Fails,
    /// Does not answer until the manner changes or the caller gives up.
    Hangs,
}

pub(super) struct Receivers {
    manners: Mutex<Vec<Manner>>,
    changed: Notify,
    /// The arrival times of the first `watched` receivers are recorded.
    watched: usize,
    arrivals: Mutex<Histogram<u64>>,
}

impl Receivers {
    /// Creates `count` receivers that answer at once.
    pub(super) fn new(count: usize, watched: usize) -> Self {
        Self {
            manners: Mutex::new(vec![Manner::Answers; count]),
            changed: Notify::new(),
            watched,
            arrivals: Mutex::new(Latency::histogram()),
        }
    }

    pub(super) fn set(&self, places: Range<usize>, manner: Manner) {
        if let Some(manners) = self.manners.lock().get_mut(places) {
            manners.fill(manner);
        }
        self.changed.notify_waiters();
    }

    /// Waits while the receiver hangs; returns whether the request is accepted. A place out of range accepts nothing.
    pub(super) async fn accepts(&self, place: usize) -> bool {
        loop {
            let changed = self.changed.notified();
            let manner = self.manners.lock().get(place).copied();
            match manner {
                Some(Manner::Answers) => return true,
                Some(Manner::Fails) | None => return false,
                Some(Manner::Hangs) => changed.await,
            }
        }
    }

    pub(super) fn note(&self, place: usize, micros: u64) {
        if place < self.watched {
            self.arrivals.lock().saturating_record(micros);
        }
    }

    /// Arrivals at the watched receivers since the histogram was last taken.
    pub(super) fn seen(&self) -> u64 {
        self.arrivals.lock().len()
    }

    pub(super) fn take_arrivals(&self) -> Histogram<u64> {
        std::mem::replace(&mut *self.arrivals.lock(), Latency::histogram())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_hangs_answers_as_soon_as_its_manner_changes() {
        let receivers = Receivers::new(2, 1);
        receivers.set(0..1, Manner::Hangs);
        let (accepted, ()) = tokio::join!(receivers.accepts(0), async { receivers.set(0..2, Manner::Answers) });
        assert!(accepted);
        receivers.set(1..2, Manner::Fails);
        assert!(!receivers.accepts(1).await);
    }

    #[test]
    fn only_those_that_are_watched_are_remembered() {
        let receivers = Receivers::new(2, 1);
        receivers.note(0, 10);
        receivers.note(1, 20);
        assert_eq!(receivers.seen(), 1);
        assert_eq!(receivers.take_arrivals().max(), 10);
        assert_eq!(receivers.seen(), 0);
    }
}
