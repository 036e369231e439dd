//! The requests that a lane has in flight: a few as a rule, none most of the time. An empty set takes no memory. Pure.

use std::time::Instant;

use crate::domain::id::EventSeq;
use crate::engine::concurrency::Epoch;

use super::Entry;

/// A request in flight.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) entry: Entry,
    pub(super) epoch: Epoch,
    pub(super) since: Instant,
    /// The delivery was cancelled meanwhile.
    pub(super) withdrawn: bool,
}

/// Unordered: there are at most 256, and the keys that are searched lie side by side in memory.
#[derive(Debug, Default)]
pub(super) struct Flights(Vec<(EventSeq, Box<Flight>)>);

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().map(|(_, flight)| &flight.entry)
    }

    pub(super) fn holds(&self, event: EventSeq) -> bool {
        self.get(event).is_some()
    }

    pub(super) fn get(&self, event: EventSeq) -> Option<&Flight> {
        self.place(event).map(|place| self.0[place].1.as_ref())
    }

    pub(super) fn begin(&mut self, entry: Entry, epoch: Epoch, since: Instant) {
        self.0.push((entry.event.seq, Box::new(Flight { entry, epoch, since, withdrawn: false })));
    }

    /// When the oldest request began.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.0.iter().map(|(_, flight)| flight.since).min()
    }

    pub(super) fn end(&mut self, event: EventSeq) -> Option<Flight> {
        let (_, flight) = self.0.swap_remove(self.place(event)?);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        Some(*flight)
    }

    /// Marks the chosen deliveries, so that they are not sent again. Answers which they are.
    pub(super) fn withdraw(&mut self, which: impl Fn(EventSeq) -> bool) -> Vec<EventSeq> {
        let chosen = self.0.iter_mut().filter(|(event, _)| which(*event));
        chosen
            .map(|(event, flight)| {
                flight.withdrawn = true;
                *event
            })
            .collect()
    }

    fn place(&self, event: EventSeq) -> Option<usize> {
        self.0.iter().position(|(known, _)| *known == event)
    }
}
