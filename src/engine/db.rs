//! What dispatcher, registry, endpoints and config sync read from the database, and the little that they write past the
//! journal.
//! [`Store`] is the live one; tests have one in memory.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::delivery::Due;
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::store::config_changes::{Changes, Position};
use crate::store::deliveries::{DueRows, Wanted};
use crate::store::endpoint_configs::EndpointConfigRow;
use crate::store::fanout_scan::{ScanCursor, ScanPage, Which};
use crate::store::fanouts::FanoutPage;
use crate::store::leases::ShardSet;
use crate::store::webhooks::{Route, Routed};
use crate::store::{Store, StoreError};

type Result<T> = std::result::Result<T, StoreError>;

#[async_trait]
pub(super) trait EngineDb: Send + Sync {
    /// Whether other nodes may use the same database.
    fn is_clustered(&self) -> bool;

    /// Deleted webhooks are missing; for those whose rows cannot be read, the error says why.
    async fn endpoint_configs(
        &self,
        nums: &[WebhookNum],
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Result<EndpointConfigRow>>>;

    /// The pending rows of a webhook that are due by the horizon.
    async fn due(&self, shard_set: &ShardSet, webhook: WebhookNum, wanted: Wanted<'_>) -> Result<DueRows>;

    /// One pending row.
    async fn due_one(&self, shard_set: &ShardSet, id: DeliveryId) -> Result<Option<Due>>;

    /// Whether the delivery has a row.
    async fn has_row(&self, id: DeliveryId) -> Result<bool>;

    /// The webhooks that have pending rows which are due by the horizon, and deleted ones that have pending rows.
    async fn webhooks_with_due(&self, horizon: UnixMillis) -> Result<Vec<WebhookNum>>;

    /// The events up to `to` that the webhook is owed by a fan-out and has no row for.
    async fn owed_only_by_fanout(&self, webhook: WebhookNum, to: EventSeq) -> Result<Vec<EventSeq>>;

    /// The key of the newest event of all; zero if there is none.
    async fn last_event(&self) -> Result<EventSeq>;

    /// Notes what may have been sent to the webhook without a record.
    async fn mark_in_doubt(&self, webhook: WebhookNum, in_doubt: InDoubt) -> Result<()>;

    /// The oldest open fan-outs after this event.
    async fn fanouts(&self, after: EventSeq, events: u64) -> Result<FanoutPage>;

    /// The webhooks that have a row for this event, ascending.
    async fn recorded_targets(&self, event: EventSeq) -> Result<Vec<WebhookNum>>;

    /// The next page of a scan.
    async fn visible_fanouts(
        &self,
        shard_set: &ShardSet,
        cursor: &mut ScanCursor,
        which: Which<'_>,
        limit: usize,
    ) -> Result<ScanPage>;

    /// The body of an event, if it is still stored.
    async fn body(&self, event: EventSeq) -> Result<Option<Bytes>>;

    /// The position of a node that is about to read the whole configuration.
    async fn position(&self) -> Result<Position>;

    /// The config changes that have become visible since `position`, and the position after them.
    async fn changes_since(&self, position: &Position) -> Result<Changes>;

    /// The routes of the webhooks after `after`, a chunk at a time; an empty answer is the end.
    async fn routes(&self, after: WebhookNum) -> Result<Vec<Route>>;

    /// The present routes of these webhooks, deleted ones among them.
    async fn routes_of(&self, nums: &[WebhookNum]) -> Result<Vec<Routed>>;
}

#[async_trait]
impl EngineDb for Store {
    fn is_clustered(&self) -> bool {
        Self::is_clustered(self)
    }

    async fn endpoint_configs(
        &self,
        nums: &[WebhookNum],
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Result<EndpointConfigRow>>> {
        Self::endpoint_configs(self, nums, now).await
    }

    async fn due(&self, shard_set: &ShardSet, webhook: WebhookNum, wanted: Wanted<'_>) -> Result<DueRows> {
        Self::due(self, shard_set, webhook, wanted).await
    }

    async fn due_one(&self, shard_set: &ShardSet, id: DeliveryId) -> Result<Option<Due>> {
        Self::due_one(self, shard_set, id).await
    }

    async fn has_row(&self, id: DeliveryId) -> Result<bool> {
        Self::has_row(self, id).await
    }

    async fn webhooks_with_due(&self, horizon: UnixMillis) -> Result<Vec<WebhookNum>> {
        Self::webhooks_with_due(self, horizon).await
    }

    async fn owed_only_by_fanout(&self, webhook: WebhookNum, to: EventSeq) -> Result<Vec<EventSeq>> {
        Self::owed_only_by_fanout(self, webhook, to).await
    }

    async fn last_event(&self) -> Result<EventSeq> {
        Self::last_event(self).await
    }

    async fn mark_in_doubt(&self, webhook: WebhookNum, in_doubt: InDoubt) -> Result<()> {
        Self::mark_in_doubt(self, webhook, in_doubt).await
    }

    async fn fanouts(&self, after: EventSeq, events: u64) -> Result<FanoutPage> {
        Self::fanouts(self, after, events).await
    }

    async fn recorded_targets(&self, event: EventSeq) -> Result<Vec<WebhookNum>> {
        Self::recorded_targets(self, event).await
    }

    async fn visible_fanouts(
        &self,
        shard_set: &ShardSet,
        cursor: &mut ScanCursor,
        which: Which<'_>,
        limit: usize,
    ) -> Result<ScanPage> {
        Self::visible_fanouts(self, shard_set, cursor, which, limit).await
    }

    async fn body(&self, event: EventSeq) -> Result<Option<Bytes>> {
        Self::body(self, event).await
    }

    async fn position(&self) -> Result<Position> {
        Self::position(self).await
    }

    async fn changes_since(&self, position: &Position) -> Result<Changes> {
        Self::changes_since(self, position).await
    }

    async fn routes(&self, after: WebhookNum) -> Result<Vec<Route>> {
        Self::routes(self, after).await
    }

    async fn routes_of(&self, nums: &[WebhookNum]) -> Result<Vec<Routed>> {
        Self::routes_of(self, nums).await
    }
}
