//! What one batch writes, as plain data, and what its updates have changed. Pure.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::domain::delivery::{Attempt, DeliveryState};
use crate::domain::event::Event;
use crate::domain::health::Health;
use crate::domain::id::{DeliveryId, OperationNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::operational_event::OperationalEvent;
use crate::store::cancel::{Purge, TakenBack};
use crate::store::events::Caller;
use crate::store::fanouts::FanoutKey;

/// The rows of one batch, in the order in which they are written.
#[derive(Default)]
pub struct Rows<'a> {
    pub events: Vec<NewEvent>,
    pub fanouts: Vec<(FanoutKey, Arc<[WebhookNum]>)>,
    /// Rows of deliveries that stay as they are if they exist.
    pub deferrals: Vec<(DeliveryId, DeliveryState)>,
    /// The states in which attempts leave their deliveries; each delivery occurs once.
    pub deliveries: Vec<(DeliveryId, DeliveryState)>,
    /// The position of each delivery in `deliveries`: a statement must not name a row twice.
    delivery_at: HashMap<DeliveryId, usize>,
    pub attempts: Vec<(DeliveryId, &'a Attempt)>,
    pub updates: Vec<Update>,
    /// Fan-outs to delete.
    pub ended: Vec<FanoutKey>,
    /// The latest state of each: a statement must not name a row twice.
    pub health: BTreeMap<WebhookNum, &'a Health>,
    /// What the changes in this batch tell tenants.
    pub operational: Vec<&'a OperationalEvent>,
}

/// An event in the batch that accepts it.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub event: Arc<Event>,
    pub body: Bytes,
    pub occurred_at: UnixMillis,
    pub caller: Option<Caller>,
    pub targets: Arc<[WebhookNum]>,
}

/// An update that cannot share a statement. Such updates are rare, because people ask for them.
#[derive(Debug, Clone)]
pub enum Update {
    Cancel { id: DeliveryId, at: UnixMillis, operation: Option<OperationNum> },
    Retry { id: DeliveryId, at: UnixMillis, operation: Option<OperationNum> },
    Owe { id: DeliveryId, at: UnixMillis, operation: OperationNum },
    Purge { purge: Purge, at: UnixMillis },
}

/// What the updates of a batch have changed.
#[derive(Debug, Default)]
pub struct Updated {
    /// In the order of the updates.
    pub changes: Vec<Change>,
    /// How many deliveries each purge took back, in the order of the purges.
    pub purged: Vec<u64>,
    /// How many statements wrote the batch.
    pub statements: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The delivery was pending and is settled.
    TakenBack(TakenBack),
    /// The delivery was settled or was not there, and is pending.
    Again(DeliveryId),
    /// The delivery was pending and no longer waits for `next_at`.
    Hastened { id: DeliveryId, next_at: UnixMillis },
}

impl<'a> Rows<'a> {
    pub(crate) fn count(&self) -> usize {
        self.events.len()
            + self.events.iter().filter(|new| new.caller.is_some()).count()
            + self.fanouts.len()
            + self.deferrals.len()
            + self.deliveries.len()
            + self.attempts.len()
            + self.updates.len()
            + self.ended.len()
            + self.health.len()
            + self.operational.len()
    }

    /// The state in which an attempt leaves its delivery. A batch may hold several attempts of a delivery, made one
    /// after the other; the last one counts.
    pub(crate) fn delivery(&mut self, id: DeliveryId, state: DeliveryState) {
        match self.delivery_at.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(self.deliveries.len());
                self.deliveries.push((id, state));
            }
            Entry::Occupied(entry) => self.deliveries[*entry.get()].1 = state,
        }
    }
}
