//! Offers committed fan-outs to the endpoints, in the order of publishing, a bounded chunk at a time. What an endpoint
//! cannot take becomes a row. One that has fallen behind, or has just started, reads its work back from the store.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::clock::UnixMillis;
use crate::fault;
use crate::id::{DeliveryId, EventSeq, WebhookNum};
use crate::store::StoreError;
use crate::store::fanouts::Fanout;
use crate::store::journal::feed::{Feed, Next};
use crate::store::journal::{Record, Stopped};
use crate::store::state::Suspect;

use super::registry::{Item, RegistryHandle};
use super::shared::Shared;

/// Targets offered at once.
const CHUNK: usize = 512;

/// Fan-outs read back at once.
const READ: u64 = 64;

/// Pause after the store failed.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Dispatcher {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    registry: RegistryHandle,
    suspect: Suspect,
    overflowed: UnboundedSender<Vec<WebhookNum>>,
    overflow: Option<UnboundedReceiver<Vec<WebhookNum>>>,
}

#[derive(Debug, thiserror::Error)]
enum DispatchError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl Dispatcher {
    pub(super) fn new(shared: &Arc<Shared>, feed: &Arc<Feed>, registry: &RegistryHandle, suspect: Suspect) -> Self {
        let (overflowed, overflow) = unbounded_channel();
        let (shared, feed, registry) = (shared.clone(), feed.clone(), registry.clone());
        Self { shared, feed, registry, suspect, overflowed, overflow: Some(overflow) }
    }

    pub(super) async fn run(mut self) {
        let Some(overflow) = self.overflow.take() else { return };
        let poke = poke(overflow, self.shared.clone(), self.registry.clone());
        tokio::join!(self.dispatch(), poke);
    }

    async fn dispatch(&self) {
        loop {
            let dispatched = match self.feed.next().await {
                Next::Dispatch(fanouts) => self.offer_all(&fanouts).await,
                Next::ReadAfter(after) => self.read_back(after).await,
            };
            if let Err(error) = dispatched {
                tracing::warn!(%error, "fan-outs could not be dispatched; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn read_back(&self, after: EventSeq) -> Result<(), DispatchError> {
        let seen = self.feed.committed();
        let fanouts = self.shared.store.fanouts(after, READ).await?;
        let Some(last) = fanouts.last().map(|fanout| fanout.event.seq) else {
            self.feed.caught_up(seen);
            return Ok(());
        };
        let mut owed = Vec::with_capacity(fanouts.len());
        for fanout in fanouts {
            let recorded = self.shared.store.recorded_targets(fanout.event.seq).await?;
            let left = fanout.targets.iter().filter(|num| recorded.binary_search(num).is_err()).copied().collect();
            owed.push(Fanout { targets: left, ..fanout.clone() });
            self.shared.journal.record(Record::Adopt { fanout, recorded }).await?;
        }
        self.shared.journal.barrier().await?;
        self.feed.read_up_to(last);
        self.offer_all(&owed).await
    }

    async fn offer_all(&self, fanouts: &[Fanout]) -> Result<(), DispatchError> {
        let mut chunk = Vec::with_capacity(CHUNK);
        for fanout in fanouts {
            let recovered = fanout.event.seq <= self.suspect.events_to;
            for num in fanout.targets.iter() {
                chunk.push(Item { event: fanout.event.clone(), num: *num, recovered });
                if chunk.len() == CHUNK {
                    self.offer(std::mem::take(&mut chunk)).await?;
                }
            }
        }
        if chunk.is_empty() { Ok(()) } else { self.offer(chunk).await }
    }

    async fn offer(&self, chunk: Vec<Item>) -> Result<(), DispatchError> {
        let handed = self.registry.offer(chunk).await;
        fault::point("fanout.after_dispatch");
        let now = UnixMillis::now();
        for id in handed.cancelled {
            self.shared.journal.record(Record::Cancel { id, at: now }).await?;
        }
        if handed.deferred.is_empty() {
            return Ok(());
        }
        let nums = handed.deferred.iter().map(|id: &DeliveryId| id.webhook).collect();
        for id in handed.deferred {
            self.shared.journal.record(Record::Defer { id, next_at: now }).await?;
        }
        let _ = self.overflowed.send(nums);
        Ok(())
    }
}

/// Tells endpoints of rows that were made for them, once those are committed.
async fn poke(mut overflow: UnboundedReceiver<Vec<WebhookNum>>, shared: Arc<Shared>, registry: RegistryHandle) {
    while let Some(mut nums) = overflow.recv().await {
        while let Ok(more) = overflow.try_recv() {
            nums.extend(more);
        }
        nums.sort_unstable();
        nums.dedup();
        if shared.journal.barrier().await.is_err() {
            return;
        }
        registry.wake(nums).await;
    }
}
