//! The rows of a batch that wait for its commit. Pure.

use std::sync::Arc;

use crate::domain::delivery::{Attempt, DeliveryState};
use crate::domain::health::Health;
use crate::domain::id::{DeliveryId, WebhookNum};
use crate::domain::operational_event::OperationalEvent;
use crate::store::fanouts::FanoutKey;
use crate::store::journal_db::rows::{Change, NewEvent, Rows, Update};

use super::Tables;

pub(super) struct BatchRows {
    events: Vec<NewEvent>,
    fanouts: Vec<(FanoutKey, Arc<[WebhookNum]>)>,
    deferrals: Vec<(DeliveryId, DeliveryState)>,
    deliveries: Vec<(DeliveryId, DeliveryState)>,
    attempts: Vec<(DeliveryId, Attempt)>,
    updates: Vec<Update>,
    ended: Vec<FanoutKey>,
    health: Vec<(WebhookNum, Health)>,
    operational: Vec<OperationalEvent>,
}

/// What the updates of a batch have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) changes: Vec<Change>,
    /// How many deliveries each purge took back.
    pub(super) purged: Vec<u64>,
}

impl BatchRows {
    pub(super) fn of(rows: Rows<'_>) -> Self {
        let Rows { events, fanouts, deferrals, deliveries, attempts, updates, ended, health, operational, .. } = rows;
        let attempts = attempts.into_iter().map(|(id, attempt)| (id, attempt.clone())).collect();
        let health = health.into_iter().map(|(webhook, health)| (webhook, health.clone())).collect();
        let operational = operational.into_iter().cloned().collect();
        Self { events, fanouts, deferrals, deliveries, attempts, updates, ended, health, operational }
    }

    /// Whether one of the keys that must be unique is taken.
    pub(super) fn has_taken_key(&self, tables: &Tables) -> bool {
        let is_taken = |NewEvent { event, caller, .. }: &NewEvent| {
            let is_known = |id: &str| tables.known_caller(event.tenant, id).is_some();
            tables.has_event(event.seq) || caller.as_ref().is_some_and(|caller| is_known(&caller.id))
        };
        self.events.iter().any(is_taken) || self.fanouts.iter().any(|(key, _)| tables.has_fanout(*key))
    }

    /// Whether updates read what is there before they change it.
    pub(super) fn has_updates(&self) -> bool {
        !self.updates.is_empty()
    }

    /// Mirrors `Statements::run`.
    pub(super) fn apply(&self, tables: &mut Tables, transaction: u64) -> Applied {
        self.events.iter().for_each(|new| tables.accept(new));
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
        for event in &self.operational {
            tables.add_operational(event.clone());
        }
        applied
    }
}

impl Applied {
    fn add(&mut self, tables: &mut Tables, update: &Update) {
        match update {
            Update::Cancel { id, at, .. } => self.changes.extend(tables.cancel(*id, *at).map(Change::TakenBack)),
            Update::Owe { id, at, .. } => self.changes.extend(tables.owe(*id, *at)),
            Update::Retry { id, at, operation } => self.changes.extend(tables.retry(*id, *at, *operation)),
            Update::Purge { purge, at } => {
                let taken_back = tables.purge(purge, *at);
                self.purged.push(taken_back.len() as u64);
                self.changes.extend(taken_back.into_iter().map(Change::TakenBack));
            }
        }
    }
}
