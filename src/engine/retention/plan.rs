//! Which events a sweep deletes together, and up to which key. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use crate::domain::id::EventSeq;
use crate::domain::moment::UnixMillis;
use crate::store::FreeSpace;
use crate::store::retention::OldEvent;

/// Bytes of bodies that are deleted at once, unless one alone is larger: SQLite reads every page of a long body to free
/// it.
const BYTES: u64 = 1 << 20;

/// Free pages that a file may keep: a tenth of it, or 16 MiB if that is more. New rows take them, and to give them back
/// would only make the file grow again.
const SPARE_PART: u64 = 10;
const SPARE_BYTES: u64 = 16 << 20;

/// Whether a file has more free pages than it needs, and can give them back.
pub(super) fn gives_back(space: &FreeSpace) -> bool {
    let FreeSpace { free_pages, all_pages, page_bytes, can_shrink } = *space;
    let spare = (all_pages / SPARE_PART).max(SPARE_BYTES / page_bytes.max(1));
    can_shrink && free_pages > spare
}

/// What is deleted next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Batch {
    /// Events with all that belongs to them, and how many deliveries that is.
    Whole { events: Vec<EventSeq>, rows: u32 },
    /// One event with so many deliveries that these are deleted part by part.
    Large(EventSeq),
}

impl Batch {
    /// The last event of the batch.
    pub(super) fn last(&self) -> Option<EventSeq> {
        match self {
            Self::Whole { events, .. } => events.last().copied(),
            Self::Large(event) => Some(*event),
        }
    }
}

/// Takes the first events that have `rows` deliveries together at most.
pub(super) fn next_batch(events: &mut VecDeque<OldEvent>, rows: u32) -> Option<Batch> {
    let first = *events.front()?;
    if first.matched > u64::from(rows) {
        events.pop_front();
        return Some(Batch::Large(first.seq));
    }
    let (mut taken, mut bytes, mut batch) = (0u32, 0, Vec::new());
    while let Some(event) = events.front() {
        // An event without deliveries is a row, too.
        let with_it = taken.saturating_add(u32::try_from(event.matched.max(1)).unwrap_or(u32::MAX));
        bytes += event.body_bytes;
        if !batch.is_empty() && (with_it > rows || bytes > BYTES) {
            break;
        }
        taken = with_it;
        batch.push(event.seq);
        events.pop_front();
    }
    Some(Batch::Whole { events: batch, rows: taken })
}

/// The first key that is kept: of events accepted within `kept`, and of the newest event, because the next key is made
/// from it.
pub(super) fn first_kept(now: UnixMillis, kept: Duration, newest: EventSeq) -> EventSeq {
    first_within(now, kept).min(newest)
}

/// The first key of events accepted within `kept`.
pub(super) fn first_within(now: UnixMillis, kept: Duration) -> EventSeq {
    EventSeq::first_at(moment_before(now, kept))
}

/// The moment `kept` before `now`.
pub(super) fn moment_before(now: UnixMillis, kept: Duration) -> UnixMillis {
    UnixMillis(now.0.saturating_sub(i64::try_from(kept.as_millis()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::TenantNum;

    fn event(seq: i64, matched: u64, body_bytes: u64) -> OldEvent {
        OldEvent { seq: EventSeq(seq), tenant: TenantNum(1), matched, body_bytes }
    }

    fn batches(events: &[OldEvent], rows: u32) -> Vec<Batch> {
        let mut left = events.iter().copied().collect();
        std::iter::from_fn(|| next_batch(&mut left, rows)).collect()
    }

    fn whole(events: &[i64], rows: u32) -> Batch {
        Batch::Whole { events: events.iter().copied().map(EventSeq).collect(), rows }
    }

    #[test]
    fn a_batch_is_bounded_in_deliveries_and_in_bytes() {
        let many: Vec<OldEvent> = (1..=5).map(|seq| event(seq, 3, 10)).collect();
        assert_eq!(batches(&many, 6), [whole(&[1, 2], 6), whole(&[3, 4], 6), whole(&[5], 3)]);
        let unmatched: Vec<OldEvent> = (1..=3).map(|seq| event(seq, 0, 10)).collect();
        assert_eq!(batches(&unmatched, 2), [whole(&[1, 2], 2), whole(&[3], 1)], "an event without deliveries is a row");
        let long = [event(1, 1, BYTES), event(2, 1, 1), event(3, 1, BYTES * 3), event(4, 1, 1)];
        assert_eq!(batches(&long, 100), [1, 2, 3, 4].map(|seq| whole(&[seq], 1)));
    }

    #[test]
    fn an_event_with_too_many_deliveries_comes_alone() {
        let events = [event(1, 2, 1), event(2, 11, 1), event(3, 2, 1)];
        assert_eq!(batches(&events, 10), [whole(&[1], 2), Batch::Large(EventSeq(2)), whole(&[3], 2)]);
    }

    #[test]
    fn a_file_keeps_a_tenth_of_free_pages_and_16_mib_at_least() {
        let space = |free_pages, all_pages| FreeSpace { free_pages, all_pages, page_bytes: 4096, can_shrink: true };
        assert!(!gives_back(&space(4096, 5000)) && gives_back(&space(4097, 5000)));
        assert!(!gives_back(&space(100_000, 1_000_000)) && gives_back(&space(100_001, 1_000_000)));
        assert!(!gives_back(&FreeSpace { can_shrink: false, ..space(100_001, 1_000_000) }));
    }

    #[test]
    fn the_newest_event_is_kept_however_old_it_is() {
        let (now, kept) = (UnixMillis(1_900_000_000_000), Duration::from_secs(60));
        let boundary = EventSeq::first_at(UnixMillis(now.0 - 60_000));
        assert_eq!(first_kept(now, kept, EventSeq(i64::MAX)), boundary);
        assert_eq!(first_kept(now, kept, EventSeq(boundary.0 - 1)), EventSeq(boundary.0 - 1));
        assert_eq!(moment_before(now, Duration::MAX), UnixMillis(now.0.saturating_sub(i64::MAX)));
    }
}
