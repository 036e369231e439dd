//! The database in memory as the engine sees it. The journal's part is `store/memory/journal`.

mod cluster;

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;

use crate::domain::delivery::Due;
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::engine::db::EngineDb;
use crate::store::StoreError;
use crate::store::config_changes::{Change, Changes, Position};
use crate::store::deliveries::{DueRows, Wanted};
use crate::store::endpoint_configs::EndpointConfigRow;
use crate::store::fanout_scan::{ScanCursor, ScanPage, ScannedFanout, Which};
use crate::store::fanouts::FanoutPage;
use crate::store::leases::ShardSet;
use crate::store::memory::{Memory, Tables};
use crate::store::webhooks::{Route, Routed};

type Result<T> = std::result::Result<T, StoreError>;

/// Refuses rows of a server other than the one that this node has seen.
fn of_known_server(tables: &Tables, shard_set: &ShardSet, has_rows: bool) -> Result<()> {
    if has_rows && !tables.leases.is_answer_of_known(shard_set) {
        return Err(StoreError::Database("another server has answered".to_owned()));
    }
    Ok(())
}

#[async_trait]
impl EngineDb for Memory {
    fn is_clustered(&self) -> bool {
        Self::is_clustered(self)
    }

    async fn endpoint_configs(
        &self,
        nums: &[WebhookNum],
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Result<EndpointConfigRow>>> {
        let (webhooks, tables) = (self.webhooks.read(), self.tables.read());
        let config = |num: &WebhookNum| Some((*num, webhooks.config(*num, &tables, now)?));
        Ok(nums.iter().filter_map(config).collect())
    }

    async fn due(&self, shard_set: &ShardSet, webhook: WebhookNum, wanted: Wanted<'_>) -> Result<DueRows> {
        let tables = self.tables.read();
        let due = tables.due(webhook, wanted);
        of_known_server(&tables, shard_set, !due.rows.is_empty())?;
        Ok(due)
    }

    async fn due_one(&self, shard_set: &ShardSet, id: DeliveryId) -> Result<Option<Due>> {
        let tables = self.tables.read();
        let due = tables.due_one(id.event, id.webhook);
        of_known_server(&tables, shard_set, due.is_some())?;
        Ok(due)
    }

    async fn has_row(&self, id: DeliveryId) -> Result<bool> {
        Ok(self.tables.read().delivery(id).is_some())
    }

    async fn webhooks_with_due(&self, horizon: UnixMillis) -> Result<Vec<WebhookNum>> {
        Ok(self.webhooks.read().with_due(&self.tables.read(), horizon))
    }

    async fn owed_only_by_fanout(&self, webhook: WebhookNum, to: EventSeq) -> Result<Vec<EventSeq>> {
        Ok(self.tables.read().owed_only_by_fanout(webhook, to))
    }

    async fn last_event(&self) -> Result<EventSeq> {
        Ok(self.tables.read().last_event())
    }

    async fn mark_in_doubt(&self, webhook: WebhookNum, in_doubt: InDoubt) -> Result<()> {
        self.shards_unlocked(&[ShardNum::of(webhook)]).await;
        let mut tables = self.tables.write();
        if self.is_clustered() {
            tables.leases.mark_in_doubt(webhook, in_doubt);
        } else {
            tables.mark_all_in_doubt(in_doubt);
        }
        Ok(())
    }

    async fn fanouts(&self, after: EventSeq, events: u64) -> Result<FanoutPage> {
        Ok(self.tables.read().fanouts(after, usize::try_from(events).unwrap_or(usize::MAX)))
    }

    async fn recorded_targets(&self, event: EventSeq) -> Result<Vec<WebhookNum>> {
        Ok(self.tables.read().recorded_targets(event))
    }

    async fn visible_fanouts(
        &self,
        shard_set: &ShardSet,
        cursor: &mut ScanCursor,
        which: Which<'_>,
        limit: usize,
    ) -> Result<ScanPage> {
        let (served, slot) = (shard_set.served(), shard_set.slot());
        if served.is_empty() {
            cursor.restart();
            return Ok(ScanPage::default());
        }
        let scan = match cursor.scan() {
            Some(scan) => scan,
            None => {
                let scan = {
                    let tables = self.tables.read();
                    tables.leases.must_be_unbroken(shard_set)?;
                    cursor.begin(tables.transactions.snapshot())
                };
                self.client.between_statements().await;
                scan
            }
        };
        let (mut page, cut_at) = self.tables.read().scan((&served, slot), scan.after, which, limit);
        page.retain(|(transaction, _)| scan.shows(*transaction));
        let found = page.into_iter().map(|(transaction, fanout)| ScannedFanout::of(shard_set, transaction, fanout));
        let found = found.collect::<Result<_>>()?;
        cursor.note_read(scan, cut_at);
        Ok(ScanPage { found, is_cut: cut_at.is_some() })
    }

    async fn body(&self, event: EventSeq) -> Result<Option<Bytes>> {
        Ok(self.tables.read().body(event))
    }

    async fn position(&self) -> Result<Position> {
        Ok(Position::at(self.webhooks.read().changes.len()))
    }

    async fn changes_since(&self, position: &Position) -> Result<Changes> {
        if !self.is_clustered() {
            return Ok(Changes { changes: Vec::new(), position: position.clone() });
        }
        let webhooks = self.webhooks.read();
        let new = webhooks.changes[position.index()..].iter().map(|num| Change::Webhook(*num));
        Ok(Changes { changes: new.collect(), position: Position::at(webhooks.changes.len()) })
    }

    async fn routes(&self, after: WebhookNum) -> Result<Vec<Route>> {
        Ok(self.webhooks.read().routes(after))
    }

    async fn routes_of(&self, nums: &[WebhookNum]) -> Result<Vec<Routed>> {
        Ok(self.webhooks.read().routes_of(nums))
    }
}
