//! The registry as the rest of the engine sees it. Reads what a start needs, so that the registry itself never waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use tokio::sync::oneshot;

use crate::clock::UnixMillis;
use crate::engine::endpoint::{Configure, Detach, Unrecorded};
use crate::engine::lane::Detached;
use crate::engine::serving::{self, Serving};
use crate::engine::shared::Shared;
use crate::id::{DeliveryId, EventSeq, WebhookNum};
use crate::store::StoreError;
use crate::store::journal::Record;
use crate::store::journal::feed::Feed;
use crate::store::state::Suspect;

use super::{Count, Drain, Figures, Find, Forget, Introduce, Item, Offer, Offered, Registry, Wake};

/// Pause before the store is read again after it failed.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// Endpoints that are read and started at once; a query has a bounded number of parameters.
const STARTS: usize = 512;

/// Cheap to clone.
#[derive(Clone)]
pub(in crate::engine) struct RegistryHandle {
    registry: Addr<Registry>,
    shared: Arc<Shared>,
}

/// What became of offers.
#[derive(Default)]
pub(in crate::engine) struct Handed {
    /// These become rows.
    pub(in crate::engine) deferred: Vec<DeliveryId>,
    /// Their webhooks are deleted.
    pub(in crate::engine) cancelled: Vec<DeliveryId>,
}

impl RegistryHandle {
    pub(super) fn new(registry: Addr<Registry>, shared: Arc<Shared>) -> Self {
        Self { registry, shared }
    }

    /// Hands each item to its endpoint, which is started if it sleeps.
    pub(in crate::engine) async fn offer(&self, items: Vec<Item>) -> Handed {
        let Offered { refused, unknown } = self.registry.send(Offer(items)).await.unwrap_or_default();
        let mut handed = Handed { deferred: refused.iter().map(Item::id).collect(), cancelled: Vec::new() };
        if unknown.is_empty() {
            return handed;
        }
        let nums: Vec<WebhookNum> = unknown.iter().map(|item| item.num).collect();
        let servings = loop {
            match self.introduce(nums.clone()).await {
                Ok(servings) => break servings,
                Err(error) => tracing::warn!(%error, "webhooks could not be read; trying again"),
            }
            tokio::time::sleep(READ_PAUSE).await;
        };
        let (known, deleted): (Vec<Item>, Vec<Item>) =
            unknown.into_iter().partition(|item| servings.contains_key(&item.num));
        handed.cancelled.extend(deleted.iter().map(Item::id));
        let Offered { refused, unknown } = self.registry.send(Offer(known)).await.unwrap_or_default();
        handed.deferred.extend(refused.iter().chain(&unknown).map(Item::id));
        handed
    }

    /// Starts endpoints for those that are active and asleep.
    async fn introduce(&self, mut nums: Vec<WebhookNum>) -> Result<HashMap<WebhookNum, Arc<Serving>>, StoreError> {
        nums.sort_unstable();
        nums.dedup();
        let servings = serving::load(&self.shared, &nums).await?;
        let all = servings.values().cloned().collect();
        let _ = self.registry.send(Introduce { servings: all, crashed: None }).await;
        Ok(servings)
    }

    /// Tells the endpoints that rows may fall due; starts those that sleep.
    pub(in crate::engine) async fn wake(&self, nums: Vec<WebhookNum>) {
        let Ok(asleep) = self.registry.send(Wake(nums)).await else { return };
        for some in asleep.chunks(STARTS) {
            if let Err(error) = self.introduce(some.to_vec()).await {
                tracing::warn!(%error, "endpoints could not be woken; the waker comes again");
            }
        }
    }

    /// Makes a crashed endpoint again. Whatever it was offered and had not recorded becomes rows first, and later
    /// offers of the same events are dropped by the registry, so nothing is lost and nothing is served twice.
    pub(super) async fn revive(&self, num: WebhookNum, wait: Duration, feed: &Feed) {
        tokio::time::sleep(wait).await;
        loop {
            match self.recover(num, feed).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "a crashed endpoint could not be made again yet"),
            }
            tokio::time::sleep(READ_PAUSE).await;
        }
    }

    async fn recover(&self, num: WebhookNum, feed: &Feed) -> Result<(), StoreError> {
        let journal = &self.shared.journal;
        let _ = journal.barrier().await;
        let covered_to = feed.committed();
        let at = UnixMillis::now();
        for event in self.shared.store.owed_only_by_fanout(num, covered_to).await? {
            let id = DeliveryId { event, webhook: num };
            let _ = journal.record(Record::Defer { id, next_at: at }).await;
        }
        let _ = journal.barrier().await;
        let servings: Vec<Arc<Serving>> = serving::load(&self.shared, &[num]).await?.into_values().collect();
        if servings.is_empty() {
            let _ = self.registry.send(Forget(num)).await;
        }
        let crashed = Some(Suspect { events_to: covered_to, due_to: at });
        let _ = self.registry.send(Introduce { servings, crashed }).await;
        Ok(())
    }

    /// The webhook was changed or deleted.
    pub(in crate::engine) async fn reconfigure(&self, num: WebhookNum) {
        let serving = match serving::load(&self.shared, &[num]).await {
            Ok(mut servings) => servings.remove(&num),
            Err(error) => return tracing::error!(%error, "a changed webhook could not be read"),
        };
        let servings = serving.iter().cloned().collect();
        let _ = self.registry.send(Introduce { servings, crashed: None }).await;
        if let Some(endpoint) = self.registry.send(Find(num)).await.ok().flatten() {
            let _ = endpoint.send(Configure(serving)).await;
        }
    }

    pub(in crate::engine) async fn detach(&self, id: DeliveryId) -> Detached {
        match self.registry.send(Find(id.webhook)).await.ok().flatten() {
            Some(endpoint) => endpoint.send(Detach(id.event)).await.unwrap_or(Detached::Absent),
            None => Detached::Absent,
        }
    }

    /// Events that wait in the endpoint's memory and have no row.
    pub(in crate::engine) async fn unrecorded(&self, num: WebhookNum) -> Vec<EventSeq> {
        match self.registry.send(Find(num)).await.ok().flatten() {
            Some(endpoint) => endpoint.send(Unrecorded).await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    pub(in crate::engine) async fn figures(&self) -> Figures {
        self.registry.send(Count).await.unwrap_or_default()
    }

    /// No attempt begins any more; answers whether all that were in flight have ended within `grace`.
    pub(in crate::engine) async fn drain(&self, grace: Duration) -> bool {
        self.shared.quiet.cancel();
        let (drained, told) = oneshot::channel();
        if self.registry.send(Drain(drained)).await.is_err() {
            return false;
        }
        tokio::time::timeout(grace, told).await.is_ok_and(|told| told.is_ok())
    }
}
