//! The targets of tracked fan-outs that have no durable row yet. Pure; owned by the writer.
//!
//! A set, not a count: a target may be recorded twice, and a fan-out ends only when *every* target has its row.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::id::{EventSeq, WebhookNum};
use crate::store::fanouts::FanoutKey;

#[derive(Debug, Default)]
pub(super) struct OutstandingTargets {
    open: BTreeMap<FanoutKey, Open>,
}

#[derive(Debug)]
struct Open {
    targets: Arc<[WebhookNum]>,
    /// One bit for each target.
    recorded: Vec<u64>,
    left: usize,
}

impl OutstandingTargets {
    /// Tracks a fan-out. A fan-out that is tracked already stays as it is.
    pub(super) fn insert(&mut self, key: FanoutKey, targets: Arc<[WebhookNum]>) {
        let recorded = vec![0; targets.len().div_ceil(64)];
        let left = targets.len();
        self.open.entry(key).or_insert(Open { targets, recorded, left });
    }

    /// The target has a durable row. Returns the fan-out if this was its last target.
    pub(super) fn record(&mut self, event: EventSeq, webhook: WebhookNum) -> Option<FanoutKey> {
        let shards = self.open.range_mut((event, i16::MIN)..=(event, i16::MAX));
        for (&key, open) in shards {
            let Ok(index) = open.targets.binary_search(&webhook) else { continue };
            let bit = 1 << (index % 64);
            if open.recorded[index / 64] & bit != 0 {
                return None;
            }
            open.recorded[index / 64] |= bit;
            open.left -= 1;
            if open.left == 0 {
                self.open.remove(&key);
                return Some(key);
            }
            return None;
        }
        None
    }

    /// Tracks a fan-out; returns whether it is new.
    pub(super) fn claim(&mut self, key: FanoutKey, targets: Arc<[WebhookNum]>) -> bool {
        let is_new = !self.open.contains_key(&key);
        self.insert(key, targets);
        is_new
    }

    #[must_use]
    pub(super) fn contains(&self, key: FanoutKey) -> bool {
        self.open.contains_key(&key)
    }

    /// Tracks these fan-outs no longer.
    pub(super) fn forget(&mut self, is_forgotten: impl Fn(FanoutKey) -> bool) {
        self.open.retain(|key, _| !is_forgotten(*key));
    }

    /// The oldest event with a target that has no row.
    #[must_use]
    pub(super) fn oldest(&self) -> Option<EventSeq> {
        self.open.first_key_value().map(|((event, _), _)| *event)
    }

    #[cfg(test)]
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_fan_out_ends_exactly_when_every_target_has_a_row(
            targets in proptest::collection::btree_set(1i64..500, 1..150),
            records in proptest::collection::vec(1i64..500, 0..1500),
        ) {
            let key = (EventSeq(9), 0);
            let mut open = OutstandingTargets::default();
            open.insert(key, targets.iter().copied().map(WebhookNum).collect());
            let mut missing: BTreeSet<i64> = targets;
            for webhook in records {
                let was_missing = missing.remove(&webhook);
                let ended = open.record(EventSeq(9), WebhookNum(webhook));
                prop_assert_eq!(ended.is_some(), was_missing && missing.is_empty());
            }
            prop_assert_eq!(open.is_empty(), missing.is_empty());
        }
    }
}
