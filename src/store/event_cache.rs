//! Shares one copy of each event in memory.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::domain::event::Event;
use crate::domain::id::EventSeq;

/// From this many entries on, entries of dropped events are swept.
const FEW: usize = 1024;

/// The events that were read and are still in use.
#[derive(Default)]
pub(super) struct EventCache(Mutex<Known>);

#[derive(Default)]
struct Known {
    events: HashMap<EventSeq, Weak<Event>>,
    /// The number of entries at which the next sweep runs.
    look_at: usize,
}

impl EventCache {
    /// The event, if it is in memory.
    pub(super) fn known(&self, seq: EventSeq) -> Option<Arc<Event>> {
        self.0.lock().events.get(&seq).and_then(Weak::upgrade)
    }

    /// Returns the copy that is in memory already, or shares this one from now on.
    pub(super) fn share(&self, event: Event) -> Arc<Event> {
        let mut known = self.0.lock();
        if let Some(event) = known.events.get(&event.seq).and_then(Weak::upgrade) {
            return event;
        }
        if known.events.len() >= known.look_at.max(FEW) {
            known.events.retain(|_, event| event.strong_count() > 0);
            known.look_at = 2 * known.events.len();
        }
        let event = Arc::new(event);
        known.events.insert(event.seq, Arc::downgrade(&event));
        event
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::event::Body;
    use crate::domain::id::TenantNum;

    fn event(seq: i64) -> Event {
        let body = Body::InMemory(Bytes::from_static(b"{}"));
        Event { seq: EventSeq(seq), tenant: TenantNum(1), kind: "a".to_owned(), body, trail: None }
    }

    #[test]
    fn an_event_in_memory_is_shared() {
        let events = EventCache::default();
        let (first, second) = (events.share(event(1)), events.share(event(1)));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &events.share(event(2))));
    }

    #[test]
    fn events_that_nobody_has_are_forgotten() {
        let events = EventCache::default();
        let kept = events.share(event(0));
        (1..10_000).for_each(|seq| drop(events.share(event(seq))));
        assert!(events.0.lock().events.len() <= 2 * FEW);
        assert!(Arc::ptr_eq(&kept, &events.share(event(0))));
    }
}
