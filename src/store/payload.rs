//! Events in memory: counts the bytes of their bodies, and shares one copy of each event. Lanes look at the count
//! before they keep an event for later; if there is too much, deliveries wait as rows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::domain::id::EventSeq;

use super::events::Event;

/// One count for the whole process, since its events share one memory.
static IN_MEMORY: AtomicUsize = AtomicUsize::new(0);

/// Larger bodies are not kept with their events: each attempt reads the body just before it sends it.
pub const LARGE: usize = 64 * 1024;

/// From this many entries on, entries of dropped events are swept.
const FEW: usize = 1024;

/// The bytes of all bodies in memory.
#[must_use]
pub fn in_memory() -> usize {
    IN_MEMORY.load(Ordering::Relaxed)
}

/// A body that is counted until its last reference is dropped.
pub(crate) fn counted(body: Vec<u8>) -> Bytes {
    IN_MEMORY.fetch_add(body.capacity(), Ordering::Relaxed);
    Bytes::from_owner(Counted(body))
}

struct Counted(Vec<u8>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        IN_MEMORY.fetch_sub(self.0.capacity(), Ordering::Relaxed);
    }
}

/// The events that were read and are still in use.
#[derive(Default)]
pub(super) struct Events(Mutex<Known>);

#[derive(Default)]
struct Known {
    events: HashMap<EventSeq, Weak<Event>>,
    /// The number of entries at which the next sweep runs.
    look_at: usize,
}

impl Events {
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
    use super::*;
    use crate::domain::id::TenantNum;
    use crate::store::events::Body;

    fn event(seq: i64) -> Event {
        let body = Body::InMemory(Bytes::from_static(b"{}"));
        Event { seq: EventSeq(seq), tenant: TenantNum(1), kind: "a".to_owned(), body, trail: None }
    }

    #[test]
    fn whoever_reads_an_event_that_somebody_has_gets_the_same() {
        let events = Events::default();
        let (first, second) = (events.share(event(1)), events.share(event(1)));
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &events.share(event(2))));
    }

    #[test]
    fn events_that_nobody_has_are_forgotten() {
        let events = Events::default();
        let kept = events.share(event(0));
        (1..10_000).for_each(|seq| drop(events.share(event(seq))));
        assert!(events.0.lock().events.len() <= 2 * FEW);
        assert!(Arc::ptr_eq(&kept, &events.share(event(0))));
    }
}
