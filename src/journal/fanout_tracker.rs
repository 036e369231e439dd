//! The fan-outs that the writer tracks, and those that end with the batch under way. Pure.

use std::sync::Arc;

use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::store::fanouts::Fanout;
use crate::store::leases::ShardSet;

use crate::store::fanouts::FanoutKey;

use super::outstanding::OutstandingTargets;

#[derive(Debug, Default)]
pub(super) struct FanoutTracker {
    outstanding: OutstandingTargets,
    /// Fan-outs whose last target gets its row in the batch under way.
    ended: Vec<FanoutKey>,
}

impl FanoutTracker {
    /// The target has a row once the batch is committed. A retry of the batch may mark it again; that changes nothing.
    pub(super) fn mark(&mut self, id: DeliveryId) {
        self.ended.extend(self.outstanding.record(id.event, id.webhook));
    }

    pub(super) fn mark_all(&mut self, event: EventSeq, recorded: &[WebhookNum]) {
        for webhook in recorded {
            self.mark(DeliveryId { event, webhook: *webhook });
        }
    }

    /// Tracks a fan-out that this node has committed.
    pub(super) fn begin(&mut self, key: FanoutKey, targets: Arc<[WebhookNum]>) {
        self.outstanding.insert(key, targets);
    }

    /// Tracks a fan-out that was read from the store, unless it ends with the batch under way.
    pub(super) fn track(&mut self, fanout: &Fanout) {
        let key = (fanout.event.seq, fanout.shard);
        if !self.ended.contains(&key) {
            self.outstanding.insert(key, fanout.targets.clone());
        }
    }

    /// Tracks a fan-out that a scan has found; returns whether it was not tracked yet.
    pub(super) fn claim(&mut self, fanout: &Fanout) -> bool {
        self.outstanding.claim((fanout.event.seq, fanout.shard), fanout.targets.clone())
    }

    pub(super) fn knows(&self, key: FanoutKey) -> bool {
        self.outstanding.contains(key) || self.ended.contains(&key)
    }

    /// Whether a delivery may get a row because its fan-out owes it. With several nodes, the fan-out must be tracked:
    /// before that, the ledger may lack the event of another node, and an event of a later scan must not precede those
    /// of an earlier one.
    pub(super) fn may_get_row(&self, id: DeliveryId, shard_set: &ShardSet) -> bool {
        shard_set.is_everything() || self.knows((id.event, shard_set.part_of(id.webhook).num()))
    }

    /// Forgets fan-outs that another node ends, including those that an earlier try of this batch has marked.
    pub(super) fn forget(&mut self, is_forgotten: impl Fn(i16) -> bool) {
        self.ended.retain(|(_, shard)| !is_forgotten(*shard));
        self.outstanding.forget(|(_, shard)| is_forgotten(shard));
    }

    pub(super) fn ended(&self) -> &[FanoutKey] {
        &self.ended
    }

    pub(super) fn committed(&mut self) {
        self.ended.clear();
    }

    /// The oldest event with a target that has no row.
    pub(super) fn oldest(&self) -> Option<EventSeq> {
        self.outstanding.oldest()
    }
}
