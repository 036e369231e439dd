//! Mirrors [`crate::engine::registry::RegistryHandle`]: the registry as the rest of the engine sees it, and the reads
//! that an activation needs.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::engine::endpoint_config::EndpointConfig;
use crate::engine::lane::Detached;
use crate::engine::registry::{Item, Offered};
use crate::store::journal::Record;
use crate::store::leases::ShardNum;

use super::endpoint::Endpoint;
use super::messages::Message;
use super::process::{Process, STORE_PAUSE};
use super::tasks::Owner;
use super::world::Unreadable;

/// The offers that a sleeping endpoint did not take, and those of deleted webhooks.
pub(super) struct Handed {
    pub(super) refused: Vec<Item>,
    pub(super) deleted: Vec<Item>,
}

/// `RegistryHandle`.
impl Process {
    /// Passes endpoint events to the registry, one at a time.
    pub(super) async fn hear_events(self: Rc<Self>) {
        loop {
            let notice = self.world.tasks.until(|| self.notices.borrow_mut().pop_front()).await;
            self.registry.borrow_mut().hear(&self, notice);
        }
    }

    pub(super) async fn offer(&self, items: Vec<Item>) -> Offered {
        self.pause().await;
        let mut answer = Offered::default();
        for item in items {
            self.registry.borrow().offer(self, item, &mut answer);
        }
        self.pause().await;
        answer
    }

    pub(super) async fn offer_to_sleeping(self: &Rc<Self>, items: Vec<Item>) -> Handed {
        let nums: Vec<WebhookNum> = items.iter().map(|item| item.num).collect();
        let loaded = loop {
            if let Ok(loaded) = self.activate(nums.clone()).await {
                break loaded;
            }
            self.world.sleep(STORE_PAUSE).await;
        };
        let (known, deleted) = items.into_iter().partition(|item| loaded.contains_key(&item.num));
        let Offered { mut refused, unknown } = self.offer(known).await;
        refused.extend(unknown);
        Handed { refused, deleted }
    }

    async fn activate(
        self: &Rc<Self>,
        nums: Vec<WebhookNum>,
    ) -> Result<BTreeMap<WebhookNum, Arc<EndpointConfig>>, Unreadable> {
        let _unchanged = self.changing.read().await;
        let loaded = self.load(&nums).await?;
        for config in loaded.values() {
            self.registry.borrow_mut().activate(self, config, false);
        }
        self.pause().await;
        Ok(loaded)
    }

    pub(super) async fn wake(self: &Rc<Self>, nums: Vec<WebhookNum>) {
        self.pause().await;
        let asleep = self.registry.borrow_mut().wake(nums);
        self.wake_sleeping(asleep).await;
    }

    pub(super) async fn remind(self: &Rc<Self>, nums: Vec<WebhookNum>) {
        self.pause().await;
        let asleep = self.registry.borrow_mut().remind(nums);
        self.wake_sleeping(asleep).await;
    }

    /// `RegistryHandle::wake_sleeping`: cancels what deleted webhooks are still owed.
    async fn wake_sleeping(self: &Rc<Self>, nums: Vec<WebhookNum>) {
        if nums.is_empty() {
            return;
        }
        let Ok(loaded) = self.activate(nums.clone()).await else { return };
        let deleted: Vec<WebhookNum> = nums.into_iter().filter(|num| !loaded.contains_key(num)).collect();
        for num in &deleted {
            let _ = self.journal.purge(*num, EventSeq(i64::MAX), &[]).await;
        }
        if !deleted.is_empty() {
            self.forget_in_ledger(&deleted).await;
        }
    }

    pub(super) async fn restart(self: &Rc<Self>, num: WebhookNum, wait: Option<Duration>) {
        self.world.sleep(wait.unwrap_or_default()).await;
        while self.recover(num, wait.is_some()).await.is_err() {
            self.world.sleep(STORE_PAUSE).await;
        }
    }

    /// `RegistryHandle::recover`.
    async fn recover(self: &Rc<Self>, num: WebhookNum, again: bool) -> Result<(), Unreadable> {
        let _ = self.journal.barrier().await;
        let covered_to = self.feed.seen_watermark();
        self.set_row_watermark(num, covered_to).await;
        let at = self.wall();
        for event in self.read(|tables| tables.owed_only_by_fanout(num, covered_to)).await? {
            let id = DeliveryId { event, webhook: num };
            let _ = self.journal.record(Record::Defer { id, next_at: at }).await;
        }
        let _ = self.journal.barrier().await;
        let in_doubt = InDoubt { events_to: covered_to, due_to: at };
        self.write(|tables| tables.in_doubt(&self.shard_set, num, in_doubt)).await?;
        self.registry.borrow_mut().mark_in_doubt(num, in_doubt);
        if !again {
            return Ok(());
        }
        let _unchanged = self.changing.read().await;
        let config = self.load(&[num]).await?.remove(&num);
        let mut registry = self.registry.borrow_mut();
        match config {
            Some(config) => registry.activate(self, &config, true),
            None => registry.forget(num),
        }
        Ok(())
    }

    pub(super) async fn reconfigure(self: &Rc<Self>, num: WebhookNum) {
        while self.configure(num).await.is_err() {
            if self.draining.run_until_cancelled(self.world.sleep(STORE_PAUSE)).await.is_none() {
                return;
            }
        }
    }

    async fn configure(self: &Rc<Self>, num: WebhookNum) -> Result<(), Unreadable> {
        let loaded = self.activate(vec![num]).await?;
        if let (Some(config), Some(endpoint)) = (loaded.get(&num), self.find(num).await) {
            endpoint.ask(|told| Message::Configure(Some(config.clone()), told)).await;
        }
        Ok(())
    }

    /// `RegistryHandle::refresh`.
    pub(super) async fn refresh(self: &Rc<Self>, nums: &[WebhookNum]) -> Result<(), Unreadable> {
        let mut living = Vec::new();
        for num in nums {
            living.extend(self.find(*num).await.map(|endpoint| (*num, endpoint)));
        }
        if living.is_empty() {
            return Ok(());
        }
        let loaded = self.activate(living.iter().map(|(num, _)| *num).collect()).await?;
        for (num, endpoint) in living {
            let config = loaded.get(&num).cloned();
            endpoint.ask(|told| Message::Configure(config, told)).await;
        }
        Ok(())
    }

    /// `RegistryHandle::hand_off`.
    pub(super) async fn hand_off_shard(&self, shard: ShardNum) -> bool {
        self.pause().await;
        let (to_drain, answer) = self.registry.borrow_mut().hand_off(shard);
        for endpoint in to_drain {
            self.spawn(async move { endpoint.drain().await });
        }
        answer.await.unwrap_or(false)
    }

    /// `RegistryHandle::dismiss`.
    pub(super) async fn dismiss(&self, num: WebhookNum) {
        if let Some(endpoint) = self.find(num).await {
            endpoint.ask(|told| Message::Configure(None, told)).await;
        }
    }

    pub(super) async fn find(&self, num: WebhookNum) -> Option<Rc<Endpoint>> {
        self.pause().await;
        self.registry.borrow().find(num)
    }

    pub(super) async fn detach(&self, id: DeliveryId) -> Detached {
        match self.find(id.webhook).await {
            Some(endpoint) => endpoint.ask(|told| Message::Detach(id.event, told)).await.unwrap_or(Detached::Absent),
            None => Detached::Absent,
        }
    }

    pub(super) async fn withdraw(&self, id: DeliveryId) -> Detached {
        match self.find(id.webhook).await {
            Some(endpoint) => endpoint.ask(|told| Message::Withdraw(id.event, told)).await.unwrap_or(Detached::Absent),
            None => Detached::Absent,
        }
    }

    pub(super) async fn withdraw_all(&self, num: WebhookNum, to: EventSeq) -> Vec<EventSeq> {
        match self.find(num).await {
            Some(endpoint) => endpoint.ask(|told| Message::WithdrawAll(to, told)).await.unwrap_or_default(),
            None => Vec::new(),
        }
    }

    pub(super) async fn send_now(self: &Rc<Self>, id: DeliveryId) {
        self.wake(vec![id.webhook]).await;
        if let Some(endpoint) = self.find(id.webhook).await {
            endpoint.ask(|told| Message::SendNow(id.event, told)).await;
        }
    }

    pub(super) async fn probe_endpoint(self: &Rc<Self>, num: WebhookNum) {
        self.wake(vec![num]).await;
        if let Some(endpoint) = self.find(num).await {
            endpoint.ask(Message::Probe).await;
        }
    }

    pub(super) async fn set_row_watermark(&self, num: WebhookNum, to: EventSeq) {
        self.pause().await;
        self.registry.borrow_mut().set_row_watermark(num, to);
    }

    /// `RegistryHandle::release`.
    pub(super) async fn release(self: &Rc<Self>, num: WebhookNum) {
        self.pause().await;
        let held = self.registry.borrow_mut().release(num);
        if held {
            self.wake(vec![num]).await;
        }
    }

    /// Spawns a task that ends with the process.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.world.tasks.spawn(Owner::Process(self.incarnation), task);
    }

    pub(super) async fn pause(&self) {
        self.world.tasks.pause().await;
    }
}
