//! Remembers recent cancellations, so that the outcome of a request that was under way at the time settles nothing.
//!
//! As a rule, a batch does not read the rows that it changes. It looks up only attempts that may come after a
//! cancellation: those for an event not newer than the newest one that was lately cancelled for the webhook. Pure.

use std::collections::HashMap;

use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;

use super::Record;

/// The least time for which a cancellation is remembered. An attempt takes 30 s at most once it has its permit.
const KEPT_MS: i64 = 5 * 60 * 1000;

/// The newest event that was lately cancelled, for each webhook.
#[derive(Debug)]
pub(super) struct RecentCancels {
    /// Cancelled after `since`.
    lately: HashMap<WebhookNum, EventSeq>,
    /// Cancelled in the period before `since`.
    before: HashMap<WebhookNum, EventSeq>,
    since: UnixMillis,
}

impl RecentCancels {
    pub(super) fn new(now: UnixMillis) -> Self {
        Self { lately: HashMap::new(), before: HashMap::new(), since: now }
    }

    pub(super) fn add(&mut self, id: DeliveryId, now: UnixMillis) {
        self.forget_old(now);
        let newest = self.lately.entry(id.webhook).or_insert(id.event);
        *newest = id.event.max(*newest);
    }

    fn forget_old(&mut self, now: UnixMillis) {
        let elapsed = now.0 - self.since.0;
        if elapsed < KEPT_MS {
            return;
        }
        let lately = std::mem::take(&mut self.lately);
        self.before = if elapsed < 2 * KEPT_MS { lately } else { HashMap::new() };
        self.since = now;
    }

    fn may_include(&self, id: DeliveryId) -> bool {
        let newest = [&self.lately, &self.before].into_iter().filter_map(|known| known.get(&id.webhook));
        newest.max().is_some_and(|newest| id.event <= *newest)
    }

    /// The attempts among the records that may come after a cancellation.
    pub(super) fn doubtful_among(&mut self, records: &[Record], now: UnixMillis) -> Vec<DeliveryId> {
        self.forget_old(now);
        if self.lately.is_empty() && self.before.is_empty() {
            return Vec::new();
        }
        let attempt = |record: &Record| {
            let Record::Attempt(record) = record else { return None };
            Some(record.id)
        };
        records.iter().filter_map(attempt).filter(|id| self.may_include(*id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(webhook: i64, event: i64) -> DeliveryId {
        DeliveryId { event: EventSeq(event), webhook: WebhookNum(webhook) }
    }

    #[test]
    fn a_cancellation_is_remembered_for_longer_than_a_request_takes_and_not_for_ever() {
        let start = UnixMillis(1_800_000_000_000);
        let mut cancelled = RecentCancels::new(start);
        let after = |ms: i64| UnixMillis(start.0 + ms);
        cancelled.add(id(1, 10), start);
        cancelled.add(id(1, 5), after(1));
        assert!(cancelled.may_include(id(1, 10)) && cancelled.may_include(id(1, 7)));
        assert!(!cancelled.may_include(id(1, 11)) && !cancelled.may_include(id(2, 10)));
        cancelled.add(id(2, 10), after(KEPT_MS));
        cancelled.add(id(2, 10), after(2 * KEPT_MS - 1));
        assert!(cancelled.may_include(id(1, 10)));
        cancelled.forget_old(after(2 * KEPT_MS));
        assert!(!cancelled.may_include(id(1, 10)) && cancelled.may_include(id(2, 10)));
        cancelled.forget_old(after(4 * KEPT_MS));
        assert!(!cancelled.may_include(id(2, 10)), "it was cancelled too long ago");
    }
}
