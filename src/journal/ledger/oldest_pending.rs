//! The smallest pending events of a webhook, in order, and the key up to which they are complete. Pure; each account of
//! the ledger has one, and counts what lies beyond it.
//!
//! The front holds *exactly* what is pending up to `upto`. Up to there it recognises changes that are reported twice.
//! With at most [`FRONT`] events, each look-up in the store is good for that many settled deliveries.

use crate::domain::id::EventSeq;

/// Events that an account knows by key. More would make look-ups rarer; these take a quarter of a kilobyte.
pub const FRONT: usize = 32;

/// Changes that are noted during a look-up. A look-up takes milliseconds, a change takes a request.
const NOTED: usize = 32;

/// No event is after this one; the number after it is where an empty front begins.
const END: EventSeq = EventSeq(i64::MAX - 1);

#[derive(Debug)]
pub(super) struct OldestPending {
    /// Nothing before this event is pending. The event itself is pending, unless it lies after `upto`: then none is
    /// known.
    from: EventSeq,
    /// The front is complete up to here.
    upto: EventSeq,
    /// The known events after `from`, ascending. Most accounts have one event, which takes no allocation.
    rest: Vec<EventSeq>,
    watch: Option<Box<Watch>>,
}

/// The changes since a look-up began.
#[derive(Debug)]
struct Watch {
    number: u64,
    after: EventSeq,
    /// In the order of the changes, each with whether the event is pending after it.
    changes: Vec<(EventSeq, bool)>,
}

impl OldestPending {
    /// Exactly this event is pending.
    pub(super) fn only(event: EventSeq) -> Self {
        Self { from: event, upto: END, rest: Vec::new(), watch: None }
    }

    /// This event is pending, and nothing before it.
    pub(super) fn starting_with(event: EventSeq) -> Self {
        Self { from: event, upto: event, rest: Vec::new(), watch: None }
    }

    /// Nothing before this is pending.
    pub(super) fn not_before(&self) -> EventSeq {
        self.from
    }

    /// The oldest pending event, if it is known.
    pub(super) fn first(&self) -> Option<EventSeq> {
        (self.from <= self.upto).then_some(self.from)
    }

    pub(super) fn len(&self) -> usize {
        self.first().map_or(0, |_| 1 + self.rest.len())
    }

    /// Nothing but the known events is pending.
    pub(super) fn complete(&mut self) {
        self.upto = END;
    }

    /// An event became pending; returns `false` if it is known that it was.
    pub(super) fn insert(&mut self, event: EventSeq) -> bool {
        self.note(event, true);
        if event > self.upto {
            return true;
        }
        if self.first().is_none() {
            self.from = event;
            return true;
        }
        let mut event = event;
        if event < self.from {
            std::mem::swap(&mut event, &mut self.from);
        } else if event == self.from {
            return false;
        }
        let Err(place) = self.rest.binary_search(&event) else { return false };
        if self.len() < FRONT {
            self.rest.insert(place, event);
        } else if place == self.rest.len() {
            self.upto = before(event);
        } else {
            let last = self.rest.pop();
            self.rest.insert(place, event);
            self.upto = last.map_or(self.upto, before);
        }
        true
    }

    /// An event is no longer pending; returns `false` if it is known that it was not.
    pub(super) fn remove(&mut self, event: EventSeq) -> bool {
        self.note(event, false);
        if event > self.upto {
            return true;
        }
        if event == self.from {
            self.from = if self.rest.is_empty() { after(self.upto) } else { self.rest.remove(0) };
            return true;
        }
        let Ok(place) = self.rest.binary_search(&event) else { return false };
        self.rest.remove(place);
        true
    }

    /// Notes changes from now on, for the answer to this look-up. Returns the event after which to read.
    pub(super) fn watch(&mut self, number: u64) -> EventSeq {
        self.watch = Some(Box::new(Watch { number, after: self.upto, changes: Vec::new() }));
        self.upto
    }

    /// Takes the answer to the look-up with this number, unless a later one has replaced it.
    pub(super) fn learn(&mut self, number: u64, found: &[EventSeq]) {
        let Some(watch) = self.watch.take_if(|watch| watch.number == number) else { return };
        let Some(end) = found.iter().copied().max() else { return };
        if self.upto < watch.after || end <= self.upto {
            return;
        }
        let is_news = |event: &EventSeq| *event > self.upto && *event <= end;
        let mut news: Vec<_> = found.iter().copied().filter(is_news).collect();
        for (event, pending) in watch.changes.into_iter().filter(|(event, _)| is_news(event)) {
            news.retain(|other| *other != event);
            if pending {
                news.push(event);
            }
        }
        let known = self.events().chain(news).collect();
        self.set(known, end);
    }

    fn events(&self) -> impl Iterator<Item = EventSeq> + '_ {
        self.first().into_iter().chain(self.rest.iter().copied())
    }

    /// Exactly these events are pending up to `upto`.
    fn set(&mut self, mut known: Vec<EventSeq>, upto: EventSeq) {
        known.sort_unstable();
        known.dedup();
        self.upto = known.get(FRONT).map_or(upto, |dropped| before(*dropped));
        known.truncate(FRONT);
        self.from = known.first().copied().unwrap_or_else(|| after(self.upto));
        self.rest.clear();
        self.rest.extend(known.into_iter().skip(1));
    }

    fn note(&mut self, event: EventSeq, pending: bool) {
        let Some(watch) = &mut self.watch else { return };
        if event <= watch.after {
            return;
        }
        if watch.changes.len() < NOTED {
            watch.changes.push((event, pending));
        } else {
            self.watch = None;
        }
    }

    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let watch = self
            .watch
            .as_ref()
            .map_or(0, |watch| size_of::<Watch>() + watch.changes.capacity() * size_of::<(EventSeq, bool)>());
        self.rest.capacity() * size_of::<EventSeq>() + watch
    }

    #[cfg(test)]
    pub(super) fn known(&self) -> (Vec<EventSeq>, EventSeq) {
        (self.events().collect(), self.upto)
    }
}

fn before(event: EventSeq) -> EventSeq {
    EventSeq(event.0 - 1)
}

fn after(event: EventSeq) -> EventSeq {
    EventSeq(event.0 + 1)
}
