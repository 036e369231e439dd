//! The rows of a batch that wait for its commit. Pure.

use std::sync::Arc;

use crate::domain::delivery::{Attempt, DeliveryState};
use crate::domain::health::Health;
use crate::domain::id::{DeliveryId, WebhookNum};
use crate::domain::shard::ShardNum;
use crate::store::fanouts::FanoutKey;
use crate::store::journal_db::rows::{Change, NewEvent, Rows, Update};

use super::Tables;

pub(super) struct BatchRows {
    pub(super) events: Vec<NewEvent>,
    fanouts: Vec<(FanoutKey, Arc<[WebhookNum]>)>,
    pub(super) deferrals: Vec<(DeliveryId, DeliveryState)>,
    pub(super) deliveries: Vec<(DeliveryId, DeliveryState)>,
    attempts: Vec<(DeliveryId, Attempt)>,
    pub(super) updates: Vec<Update>,
    pub(super) ended: Vec<FanoutKey>,
    health: Vec<(WebhookNum, Health)>,
}

/// What the updates of a batch have changed.
#[derive(Debug, Default)]
pub(super) struct Applied {
    pub(super) changes: Vec<Change>,
    /// How many deliveries each purge took back.
    pub(super) purged: Vec<u64>,
    pub(super) purged_deliveries: Vec<DeliveryId>,
}

impl BatchRows {
    pub(super) fn of(rows: Rows<'_>) -> Self {
        let Rows { events, fanouts, deferrals, deliveries, attempts, updates, ended, health, .. } = rows;
        let attempts = attempts.into_iter().map(|(id, attempt)| (id, attempt.clone())).collect();
        let health = health.into_iter().map(|(webhook, health)| (webhook, health.clone())).collect();
        Self { events, fanouts, deferrals, deliveries, attempts, updates, ended, health }
    }

    /// The shards that only their owner may write to.
    pub(super) fn shards(&self) -> impl Iterator<Item = ShardNum> {
        let states = self.deferrals.iter().chain(&self.deliveries).map(|(id, _)| id.webhook);
        let updates = self.updates.iter().map(|update| match update {
            Update::Cancel { id, .. } | Update::Retry { id, .. } => id.webhook,
            Update::Purge { purge, .. } => purge.webhook,
        });
        let webhooks = states.chain(updates).chain(self.health.iter().map(|(webhook, _)| *webhook));
        webhooks.map(ShardNum::of).chain(self.ended.iter().filter_map(|(_, shard)| ShardNum::try_from(*shard).ok()))
    }

    /// Mirrors `Statements::run`.
    pub(super) fn apply(&self, tables: &mut Tables, transaction: u64) -> Applied {
        for new in &self.events {
            tables.accept(new.event.clone(), new.targets.clone());
        }
        for (key, targets) in &self.fanouts {
            tables.open_fanout(*key, targets.clone(), transaction);
        }
        for (id, state) in &self.deferrals {
            tables.insert_delivery(*id, *state);
        }
        for (id, state) in &self.deliveries {
            tables.upsert_delivery(*id, *state);
        }
        for (id, attempt) in &self.attempts {
            tables.insert_attempt(*id, attempt.clone());
        }
        let mut applied = Applied::default();
        self.updates.iter().for_each(|update| applied.add(tables, update));
        for key in &self.ended {
            tables.end_fanout(*key);
        }
        for (webhook, health) in &self.health {
            tables.set_health(*webhook, health.clone());
        }
        applied
    }
}

impl Applied {
    fn add(&mut self, tables: &mut Tables, update: &Update) {
        match update {
            Update::Cancel { id, at } => self.changes.extend(tables.cancel(*id, *at)),
            Update::Retry { id, at } => self.changes.extend(tables.retry(*id, *at)),
            Update::Purge { purge, at } => {
                let changes = tables.purge(purge, *at);
                self.purged.push(changes.len() as u64);
                self.purged_deliveries.extend(changes.iter().filter_map(|change| match change {
                    Change::TakenBack(taken_back) => Some(taken_back.id),
                    Change::Again(_) | Change::Hastened { .. } => None,
                }));
                self.changes.extend(changes);
            }
        }
    }
}
