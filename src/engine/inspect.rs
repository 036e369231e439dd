//! Answers questions of the API about deliveries and totals: rows, and deliveries that only a fan-out knows or that
//! wait in memory.

use std::sync::atomic::Ordering;

use crate::domain::delivery::{DeliveryState, Status};
use crate::domain::id::{DeliveryId, TenantNum, WebhookId, WebhookNum};
use crate::store::StoreError;
use crate::store::deliveries::Delivery;
use crate::store::events::StoredEvent;

use super::Engine;
use super::durations::DurationFigures;
use super::permits::BulkheadView;

/// Figures for the metrics page, counted since the start.
#[derive(Debug, Clone)]
pub struct EngineFigures {
    pub events: u64,
    pub attempts: u64,
    pub commits: u64,
    pub failed_commits: u64,
    pub statements: u64,
    pub rows: u64,
    /// Records that were dropped because another node owns their shard.
    pub fenced: u64,
    /// How often the database was found to lack transactions that this node had seen.
    pub divergences: u64,
    /// Orphans that were ended.
    pub orphans: u64,
    pub journal_depth: usize,
    pub journal_capacity: usize,
    pub live_endpoints: usize,
    pub quarantined_endpoints: usize,
    pub endpoint_crashes: u64,
    pub permits: BulkheadView,
    /// Payload bytes in memory, and the limit from which deliveries wait as rows.
    pub payload_bytes: (usize, usize),
    /// Pending deliveries.
    pub pending: u64,
    /// Webhooks with pending deliveries.
    pub backlogged: usize,
    /// By outcome, in the order of `OutcomeKind::ALL`.
    pub outcomes: Vec<(&'static str, u64)>,
    /// Deliveries that have ended, by status.
    pub ended: Vec<(&'static str, u64)>,
    pub durations: DurationFigures,
    /// Unreadable rows, by table.
    pub unreadable_rows: Vec<(&'static str, u64)>,
    /// Rows that the sweeper has deleted, by table.
    pub swept: Vec<(&'static str, u64)>,
}

impl Engine {
    /// One delivery, with a row or only owed.
    pub async fn delivery(&self, tenant: TenantNum, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        if let Some(found) = self.inner.store.delivery(tenant, id).await? {
            return Ok(Some(found));
        }
        let Some(event) = self.inner.store.event(tenant, id.event).await? else { return Ok(None) };
        if self.inner.store.fanout_targets(id.event).await?.binary_search(&id.webhook).is_ok() {
            return Ok(self.only_owed(&event, &[id.webhook], 1).await?.pop());
        }
        // The row may have been written between the two reads.
        self.inner.store.delivery(tenant, id).await
    }

    /// Deliveries of an event by ascending webhook number after `after`; at most `limit` + 1, so that the caller sees
    /// whether there are more.
    pub async fn deliveries_of_event(
        &self,
        event: &StoredEvent,
        after: WebhookNum,
        limit: u64,
    ) -> Result<Vec<Delivery>, StoreError> {
        let (tenant, seq) = (event.tenant, event.seq);
        let mut owed = self.inner.store.fanout_targets(seq).await?;
        let mut found = self.inner.store.deliveries_of_event(tenant, seq, after, limit).await?;
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1);
        let end = (found.len() >= wanted).then(|| found.last().map(|last| last.id.webhook)).flatten();
        owed.retain(|num| *num > after && end.is_none_or(|end| *num < end));
        owed.retain(|num| found.binary_search_by_key(num, |delivery| delivery.id.webhook).is_err());
        found.extend(self.only_owed(event, &owed, wanted).await?);
        found.sort_by_key(|delivery| delivery.id.webhook);
        found.truncate(wanted);
        Ok(found)
    }

    /// The first `most` deliveries that are only owed. Deleted webhooks are owed nothing any more.
    async fn only_owed(
        &self,
        event: &StoredEvent,
        nums: &[WebhookNum],
        most: usize,
    ) -> Result<Vec<Delivery>, StoreError> {
        let living = self.inner.store.living(nums, most).await?;
        let delivery = |(num, webhook)| owed(DeliveryId { event: event.seq, webhook: num }, webhook, event);
        Ok(living.into_iter().map(delivery).collect())
    }

    /// What the engine has done since its start.
    pub async fn figures(&self) -> EngineFigures {
        let registry = self.inner.registry.figures().await;
        let context = &self.inner.context;
        let stats = self.inner.journal.stats();
        let (journal_depth, journal_capacity) = self.inner.journal.depth();
        let words = Status::FINAL.iter().map(|status| status.as_str());
        EngineFigures {
            events: stats.events.load(Ordering::Relaxed),
            attempts: stats.attempts.load(Ordering::Relaxed),
            commits: stats.commits.load(Ordering::Relaxed),
            failed_commits: stats.failed_commits.load(Ordering::Relaxed),
            statements: stats.statements.load(Ordering::Relaxed),
            rows: stats.rows.load(Ordering::Relaxed),
            fenced: stats.fenced.load(Ordering::Relaxed),
            divergences: stats.divergences.load(Ordering::Relaxed),
            orphans: stats.orphans.load(Ordering::Relaxed),
            journal_depth,
            journal_capacity,
            live_endpoints: registry.live,
            quarantined_endpoints: registry.quarantined,
            endpoint_crashes: registry.crashes,
            permits: context.permits.view(),
            payload_bytes: context.payload_bytes(),
            pending: context.ledger.total_pending(),
            backlogged: context.ledger.backlogged(),
            outcomes: context.outcome_counts(),
            ended: words.zip(stats.ended.iter().map(|count| count.load(Ordering::Relaxed))).collect(),
            durations: context.durations.figures(),
            unreadable_rows: self.inner.store.unreadable_rows(),
            swept: self.inner.swept.by_table(),
        }
    }
}

/// A delivery that has no row yet.
fn owed(id: DeliveryId, webhook: WebhookId, event: &StoredEvent) -> Delivery {
    without_row(id, webhook, event.kind.clone())
}

/// A delivery that is only owed, due since its event was accepted.
pub(super) fn without_row(id: DeliveryId, webhook_id: WebhookId, kind: String) -> Delivery {
    let state = DeliveryState::pending(Some(id.event.accepted_at()));
    Delivery { id, webhook_id, kind, state, last: None }
}

#[cfg(test)]
mod tests;
