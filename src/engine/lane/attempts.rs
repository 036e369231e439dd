//! The attempts that a lane has started and that have not ended: a few as a rule, none most of the time. Their requests
//! may still wait to be sent. An empty set takes no memory. Pure.

use crate::domain::id::EventSeq;
use crate::engine::concurrency::Round;

use super::Entry;

/// An attempt that has started.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) entry: Entry,
    pub(super) round: Round,
    /// The delivery was cancelled meanwhile.
    pub(super) withdrawn: bool,
}

/// Unordered: there are at most 256, and the keys that are searched lie side by side in memory.
#[derive(Debug, Default)]
pub(super) struct Attempts(Vec<(EventSeq, Box<Attempt>)>);

impl Attempts {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().map(|(_, attempt)| &attempt.entry)
    }

    pub(super) fn contains(&self, event: EventSeq) -> bool {
        self.get(event).is_some()
    }

    pub(super) fn get(&self, event: EventSeq) -> Option<&Attempt> {
        self.place(event).map(|place| self.0[place].1.as_ref())
    }

    pub(super) fn begin(&mut self, entry: Entry, round: Round) {
        self.0.push((entry.event.seq, Box::new(Attempt { entry, round, withdrawn: false })));
    }

    pub(super) fn end(&mut self, event: EventSeq) -> Option<Attempt> {
        let (_, attempt) = self.0.swap_remove(self.place(event)?);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        Some(*attempt)
    }

    /// Marks the chosen deliveries, so that they are not sent again. Answers which they are.
    pub(super) fn withdraw(&mut self, which: impl Fn(EventSeq) -> bool) -> Vec<EventSeq> {
        let chosen = self.0.iter_mut().filter(|(event, _)| which(*event));
        chosen
            .map(|(event, attempt)| {
                attempt.withdrawn = true;
                *event
            })
            .collect()
    }

    fn place(&self, event: EventSeq) -> Option<usize> {
        self.0.iter().position(|(known, _)| *known == event)
    }
}
