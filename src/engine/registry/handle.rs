//! The registry as the rest of the engine sees it. It reads from the store what an activation needs, so that the
//! registry itself never waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::shard::ShardNum;
use crate::engine::address::{Address, ask};
use crate::engine::context::EngineContext;
use crate::engine::endpoint::EndpointMessage;
use crate::engine::endpoint_config::{self, EndpointConfig, Loaded};
use crate::engine::lane::InLane;
use crate::journal::Record;
use crate::journal::feed::Feed;
use crate::store::StoreError;

use super::{Crashes, Figures, Item, Offered, RegistryMessage};

/// Pause after a failed read of the store.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// Endpoints that are read and activated together; a query has a bounded number of parameters.
const ACTIVATIONS: usize = 512;

/// Cheap to clone.
#[derive(Clone)]
pub(in crate::engine) struct RegistryHandle {
    registry: Address<RegistryMessage>,
    context: Arc<EngineContext>,
}

/// The items that [`RegistryHandle::offer_to_sleeping`] could not hand over.
#[derive(Default)]
pub(in crate::engine) struct NotHanded {
    /// No endpoint could take these items; they become rows.
    pub(in crate::engine) refused: Vec<Item>,
    /// The webhooks of these items are deleted.
    pub(in crate::engine) deleted: Vec<Item>,
}

impl RegistryHandle {
    pub(in crate::engine) fn new(registry: Address<RegistryMessage>, context: Arc<EngineContext>) -> Self {
        Self { registry, context }
    }

    /// Hands each item to its endpoint; answers the items whose endpoint sleeps or cannot take them.
    pub(in crate::engine) async fn offer(&self, items: Vec<Item>) -> Offered {
        let Ok(places) = u32::try_from(items.len()) else { return Offered { refused: items, ..Offered::default() } };
        let Ok(room) = self.context.offers.clone().acquire_many_owned(places).await else { return Offered::default() };
        ask(&self.registry, |answer| RegistryMessage::Offer { items, room, answer }).await.unwrap_or_default()
    }

    /// Activates the endpoints and hands each its items.
    pub(in crate::engine) async fn offer_to_sleeping(&self, items: Vec<Item>) -> NotHanded {
        let nums: Vec<WebhookNum> = items.iter().map(|item| item.num).collect();
        let loaded = loop {
            match self.activate(nums.clone()).await {
                Ok(loaded) => break loaded,
                Err(error) => tracing::warn!(%error, "webhooks could not be read; trying again"),
            }
            self.context.host.sleep(READ_PAUSE).await;
        };
        let (known, deleted): (Vec<Item>, Vec<Item>) = items.into_iter().partition(|item| loaded.exists(item.num));
        let Offered { mut refused, unknown } = self.offer(known).await;
        for item in &unknown {
            self.context.stats.of(item.num).passed_by();
        }
        refused.extend(unknown);
        NotHanded { refused, deleted }
    }

    /// Activates the sleeping endpoints of active webhooks.
    async fn activate(&self, mut nums: Vec<WebhookNum>) -> Result<Loaded, StoreError> {
        nums.sort_unstable();
        nums.dedup();
        let _unchanged = self.context.changing.read().await;
        let loaded = endpoint_config::load(&self.context, &nums).await?;
        let configs = loaded.configs.values().cloned().collect();
        let _ = ask(&self.registry, |done| RegistryMessage::Activate { configs, rested: false, done }).await;
        Ok(loaded)
    }

    /// Tells live endpoints that they have rows that they do not know of; activates the sleeping ones, and purges those
    /// whose webhook is deleted.
    pub(in crate::engine) async fn wake(&self, nums: Vec<WebhookNum>) {
        if let Some(asleep) = ask(&self.registry, |answer| RegistryMessage::Wake(nums, answer)).await {
            self.wake_sleeping(asleep).await;
        }
    }

    /// Tells live endpoints that they have rows that fall due; activates the sleeping ones, and purges those whose webhook
    /// is deleted.
    pub(in crate::engine) async fn remind(&self, nums: Vec<WebhookNum>) {
        if let Some(asleep) = ask(&self.registry, |answer| RegistryMessage::Remind(nums, answer)).await {
            self.wake_sleeping(asleep).await;
        }
    }

    /// Activates sleeping endpoints. Webhooks that turn out to be deleted are purged: a crash may have left rows of theirs.
    async fn wake_sleeping(&self, asleep: Vec<WebhookNum>) {
        for some in asleep.chunks(ACTIVATIONS) {
            match self.activate(some.to_vec()).await {
                Ok(loaded) => {
                    self.purge_deleted(some.iter().copied().filter(|num| !loaded.exists(*num)).collect()).await
                }
                Err(error) => {
                    tracing::warn!(%error, "sleeping endpoints could not be activated; the due poller will try again");
                }
            }
        }
    }

    /// Cancels what is still owed to webhooks that are deleted.
    async fn purge_deleted(&self, deleted: Vec<WebhookNum>) {
        if deleted.is_empty() {
            return;
        }
        for num in &deleted {
            let _ = self.context.journal.purge(*num, EventSeq(i64::MAX), &[]).await;
        }
        self.context.ledger.forget(&deleted).await;
    }

    /// Restarts a crashed endpoint. First, every event that the endpoint was offered and had not recorded gets a row.
    /// The registry refuses later offers of these events, so nothing is lost and nothing is taken up twice. The work
    /// of a quarantined endpoint (`wait` is `None`) becomes rows all the same.
    pub(super) async fn restart(&self, num: WebhookNum, wait: Option<Duration>, feed: &Feed) {
        self.context.host.sleep(wait.unwrap_or_default()).await;
        loop {
            match self.try_restart(num, wait.is_some(), feed).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "crashed endpoint could not be restarted; trying again"),
            }
            self.context.host.sleep(READ_PAUSE).await;
        }
    }

    async fn try_restart(&self, num: WebhookNum, again: bool, feed: &Feed) -> Result<(), StoreError> {
        let journal = &self.context.journal;
        let _ = journal.barrier().await;
        let watermark = feed.seen_watermark();
        self.set_row_watermark(num, watermark).await;
        let at = self.context.host.now();
        for event in self.context.db.owed_only_by_fanout(num, watermark).await? {
            let id = DeliveryId { event, webhook: num };
            let _ = journal.record(Record::Defer { id, next_at: at }).await;
        }
        let _ = journal.barrier().await;
        // Not the watermark: rows of newer events may have been sent, too, whose former owner's clock is ahead.
        let in_doubt = InDoubt { events_to: self.context.db.last_event().await?, due_to: at };
        self.context.db.mark_in_doubt(num, in_doubt).await?;
        let _ = ask(&self.registry, |done| RegistryMessage::MarkInDoubt(num, in_doubt, done)).await;
        if !again {
            return Ok(());
        }
        let _unchanged = self.context.changing.read().await;
        let configs: Vec<Arc<EndpointConfig>> = match endpoint_config::load_one(&self.context, num).await {
            Ok(config) => config.into_iter().collect(),
            // The endpoint is activated as soon as the webhook's row can be read.
            Err(StoreError::Unreadable { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        if configs.is_empty() {
            self.forget(num).await;
        }
        let _ = ask(&self.registry, |done| RegistryMessage::Activate { configs, rested: true, done }).await;
        Ok(())
    }

    /// Tells the endpoint that its webhook was changed. Tries until the store answers or the engine
    /// stops; a row that cannot be read halts the endpoint.
    pub(in crate::engine) async fn reconfigure(&self, num: WebhookNum) {
        while let Err(error) = self.configure(num).await {
            tracing::error!(webhook_num = num.0, %error, "changed webhook could not be read from the database; trying again");
            let pause = self.context.host.sleep(READ_PAUSE);
            if self.context.draining.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn configure(&self, num: WebhookNum) -> Result<(), StoreError> {
        let loaded = self.activate(vec![num]).await?;
        if let Some(endpoint) = self.find(num).await {
            tell(&endpoint, &loaded, num).await;
        }
        Ok(())
    }

    /// Tells the live endpoints of these webhooks what the webhooks are now, or that they are deleted. Sleeping
    /// endpoints read that when they are activated.
    pub(in crate::engine) async fn refresh(&self, nums: &[WebhookNum]) -> Result<(), StoreError> {
        let mut living = Vec::new();
        for num in nums {
            living.extend(self.find(*num).await.map(|endpoint| (*num, endpoint)));
        }
        let crashes = self.crashes(nums.to_vec()).await.into_iter();
        let is_left_alone = |(num, crashes): (&WebhookNum, Crashes)| {
            let is_it = crashes.quarantined || self.context.unreadable.lock().contains_key(num);
            is_it.then_some(*num)
        };
        let left_alone: Vec<WebhookNum> = nums.iter().zip(crashes).filter_map(is_left_alone).collect();
        if living.is_empty() && left_alone.is_empty() {
            return Ok(());
        }
        let loaded = self.activate(living.iter().map(|(num, _)| *num).chain(left_alone.clone()).collect()).await?;
        for num in left_alone.into_iter().filter(|num| !loaded.exists(*num)) {
            self.forget(num).await;
        }
        for (num, endpoint) in living {
            tell(&endpoint, &loaded, num).await;
        }
        Ok(())
    }

    /// Tells the endpoints of these webhooks that the webhooks are deleted.
    pub(in crate::engine) async fn dismiss(&self, nums: Vec<WebhookNum>) {
        for num in &nums {
            self.context.unreadable.lock().remove(num);
            self.forget(*num).await;
        }
        for endpoint in self.find_all(nums).await {
            let _ = ask(&endpoint, |done| EndpointMessage::Configure(None, done)).await;
        }
    }

    async fn find(&self, num: WebhookNum) -> Option<Address<EndpointMessage>> {
        self.find_all(vec![num]).await.pop()
    }

    async fn find_all(&self, nums: Vec<WebhookNum>) -> Vec<Address<EndpointMessage>> {
        ask(&self.registry, |answer| RegistryMessage::Find(nums, answer)).await.unwrap_or_default()
    }

    async fn forget(&self, num: WebhookNum) {
        let _ = ask(&self.registry, |done| RegistryMessage::Forget(num, done)).await;
    }

    /// Takes a waiting delivery out of its endpoint's lane.
    pub(in crate::engine) async fn take_out(&self, id: DeliveryId) -> InLane {
        match self.find(id.webhook).await {
            Some(endpoint) => {
                ask(&endpoint, |answer| EndpointMessage::TakeOut(id.event, answer)).await.unwrap_or(InLane::Absent)
            }
            None => InLane::Absent,
        }
    }

    /// Takes a cancelled delivery out of its endpoint's lane.
    pub(in crate::engine) async fn withdraw(&self, id: DeliveryId) {
        if let Some(endpoint) = self.find(id.webhook).await {
            let _ = ask(&endpoint, |done| EndpointMessage::Withdraw(id.event, done)).await;
        }
    }

    /// Sends this delivery now, because a person asked for it. Activates the endpoint if it sleeps.
    pub(in crate::engine) async fn send_now(&self, id: DeliveryId) {
        self.wake(vec![id.webhook]).await;
        if let Some(endpoint) = self.find(id.webhook).await {
            let _ = ask(&endpoint, |done| EndpointMessage::SendNow(id.event, done)).await;
        }
    }

    /// Notes that every fan-out up to `to` that names this webhook has a row for it.
    pub(in crate::engine) async fn set_row_watermark(&self, num: WebhookNum, to: EventSeq) {
        let _ = ask(&self.registry, |done| RegistryMessage::SetRowWatermark(num, to, done)).await;
    }

    /// Ends the quarantine of an endpoint; answers whether it was quarantined.
    pub(in crate::engine) async fn end_quarantine(&self, num: WebhookNum) -> bool {
        let was_quarantined =
            ask(&self.registry, |answer| RegistryMessage::EndQuarantine(num, answer)).await.unwrap_or(false);
        if was_quarantined {
            self.wake(vec![num]).await;
        }
        was_quarantined
    }

    pub(in crate::engine) async fn crashes(&self, nums: Vec<WebhookNum>) -> Vec<Crashes> {
        ask(&self.registry, |answer| RegistryMessage::Crashed(nums, answer)).await.unwrap_or_default()
    }

    /// Quarantined webhooks that this node serves, at most `most` of each kind: those whose endpoints crashed too often,
    /// and those with an unreadable row.
    pub(in crate::engine) async fn quarantined(&self, most: usize) -> Vec<WebhookNum> {
        let crashed = ask(&self.registry, |answer| RegistryMessage::ListQuarantined(most, answer)).await;
        let mut nums = crashed.unwrap_or_default();
        nums.extend(self.context.unreadable.lock().keys().copied().take(most));
        nums
    }

    /// Lets the endpoint probe its receiver now. Activates the endpoint if it sleeps.
    pub(in crate::engine) async fn probe(&self, num: WebhookNum) {
        self.wake(vec![num]).await;
        if let Some(endpoint) = self.find(num).await {
            let _ = ask(&endpoint, EndpointMessage::Probe).await;
        }
    }

    /// Withdraws the deliveries in flight up to this event, so that they are not sent again; answers their events.
    pub(in crate::engine) async fn withdraw_all(&self, num: WebhookNum, to: EventSeq) -> Vec<EventSeq> {
        match self.find(num).await {
            Some(endpoint) => {
                ask(&endpoint, |answer| EndpointMessage::WithdrawAll(to, answer)).await.unwrap_or_default()
            }
            None => Vec::new(),
        }
    }

    /// Counts a webhook with an unreadable row as quarantined, as its backlog shows it.
    pub(in crate::engine) async fn figures(&self) -> Figures {
        let figures = ask(&self.registry, RegistryMessage::Count).await.unwrap_or_default();
        let serves = |num: &WebhookNum| self.context.shard_set.serves(*num);
        let unreadable: Vec<WebhookNum> = self.context.unreadable.lock().keys().copied().filter(serves).collect();
        let others = self.crashes(unreadable).await.into_iter().filter(|crashes| !crashes.quarantined).count();
        Figures { quarantined: figures.quarantined + others, ..figures }
    }

    /// Ends the endpoints of a shard that this node gives up. Resolves when all have ended, and says whether nothing
    /// was cut short.
    pub(in crate::engine) async fn hand_off(&self, shard: ShardNum) -> bool {
        ask(&self.registry, |answer| RegistryMessage::HandOff(shard, answer)).await.unwrap_or(false)
    }

    /// Lets no further attempt begin; answers whether all attempts in flight have ended cleanly by `by`.
    pub(in crate::engine) async fn drain(&self, by: Instant) -> bool {
        self.context.draining.cancel();
        self.context.host.timeout_at(by, ask(&self.registry, RegistryMessage::Drain)).await.flatten().is_some()
    }
}

/// Tells an endpoint what its webhook is now: changed, deleted, or unreadable.
async fn tell(endpoint: &Address<EndpointMessage>, loaded: &Loaded, num: WebhookNum) {
    let config = loaded.configs.get(&num).cloned();
    if config.is_none() && loaded.exists(num) {
        let _ = ask(endpoint, EndpointMessage::Halt).await;
    } else {
        let _ = ask(endpoint, |done| EndpointMessage::Configure(config, done)).await;
    }
}
