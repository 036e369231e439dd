//! The fan-outs that the writer watches, and those that end with the batch it is about to commit. Pure.

use std::sync::Arc;

use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::store::fanouts::Fanout;
use crate::store::leases::ShardSet;

use super::outstanding::{FanoutKey, OutstandingTargets};

#[derive(Debug, Default)]
pub(super) struct FanoutTracker {
    outstanding: OutstandingTargets,
    /// Their last target is recorded in a batch that is not committed yet.
    ended: Vec<FanoutKey>,
}

impl FanoutTracker {
    /// The target has a row, once the batch is committed. Marking it again when the batch is tried again changes nothing.
    pub(super) fn mark(&mut self, id: DeliveryId) {
        self.ended.extend(self.outstanding.record(id.event, id.webhook));
    }

    pub(super) fn mark_all(&mut self, event: EventSeq, recorded: &[WebhookNum]) {
        for webhook in recorded {
            self.mark(DeliveryId { event, webhook: *webhook });
        }
    }

    /// It was committed from here.
    pub(super) fn begin(&mut self, key: FanoutKey, targets: Arc<[WebhookNum]>) {
        self.outstanding.insert(key, targets);
    }

    /// It was read back, and may have ended since.
    pub(super) fn adopt(&mut self, fanout: &Fanout) {
        let key = (fanout.event.seq, fanout.shard);
        if !self.ended.contains(&key) {
            self.outstanding.insert(key, fanout.targets.clone());
        }
    }

    /// It was found; answers whether nobody has started on it.
    pub(super) fn watch(&mut self, fanout: &Fanout) -> bool {
        self.outstanding.watch((fanout.event.seq, fanout.shard), fanout.targets.clone())
    }

    pub(super) fn knows(&self, key: FanoutKey) -> bool {
        self.outstanding.contains(key) || self.ended.contains(&key)
    }

    /// Whether a delivery may get a row because its fan-out owes it. Among several nodes not before the fan-out is watched: what
    /// another node has accepted may not be in the ledger before, and what is still to be found comes after what is found first.
    pub(super) fn may_get_row(&self, id: DeliveryId, shard_set: &ShardSet) -> bool {
        shard_set.is_everything() || self.knows((id.event, shard_set.part_of(id.webhook).num()))
    }

    /// These are another node's to end, also by what an earlier try of this batch has marked.
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

    /// The oldest event that still has a target without a row.
    pub(super) fn oldest(&self) -> Option<EventSeq> {
        self.outstanding.oldest()
    }
}
