//! Publishers and operators. Mirrors what the API calls: `Engine::publish`, `engine/backlog_ops`, `engine/delivery_ops`
//! and `engine/configure`. Each operation tells the oracle what its caller may rely on once it is answered.

use std::rc::Rc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::domain::id::{DeliveryId, EventSeq, MAX_ATTEMPT, TenantNum, WebhookNum};
use crate::engine::TEST_EVENT;
use crate::engine::lane::Detached;
use crate::store::deliveries::{DeliveryState, Status};
use crate::store::journal::model::Tables;
use crate::store::journal::{Draft, Published, Record, Stopped};

use super::process::{Process, STORE_PAUSE};
use super::world::Hook;

/// `backlog_ops::FINDING`, shortened.
const FINDING: Duration = Duration::from_millis(200);

/// `backlog_ops::Hold`: while this lives, the endpoint of the webhook sends nothing, even if it is activated meanwhile.
struct Hold {
    process: Rc<Process>,
    webhook: WebhookNum,
}

impl Hold {
    fn new(process: &Rc<Process>, webhook: WebhookNum) -> Self {
        *process.holds.borrow_mut().entry(webhook).or_default() += 1;
        Self { process: process.clone(), webhook }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = self.process.holds.borrow_mut();
        let holders = holds.remove(&self.webhook).unwrap_or(1) - 1;
        if holders > 0 {
            holds.insert(self.webhook, holders);
        }
    }
}

/// Publishing.
impl Process {
    pub(super) async fn publish(self: Rc<Self>, tenant: TenantNum, kind: &'static str) {
        let targets = self.routes.matching(tenant, kind);
        self.world.note(|| format!("{kind} is published to {} webhooks", targets.len()));
        self.pause().await;
        self.accept(tenant, kind, targets).await;
    }

    /// `Engine::test`.
    pub(super) async fn test(self: Rc<Self>, num: WebhookNum) {
        if let Some(hook) = self.world.hook(num).filter(Hook::is_open) {
            self.world.note(|| format!("{num:?} is tested"));
            self.world.tests.set(self.world.tests.get() + 1);
            self.pause().await;
            self.accept(hook.tenant, TEST_EVENT, [num].into()).await;
        }
    }

    async fn accept(&self, tenant: TenantNum, kind: &'static str, targets: std::sync::Arc<[WebhookNum]>) {
        let data = RawValue::from_string("{}".to_owned()).unwrap();
        let is_ordered = self.routes.is_any_ordered(tenant, &targets);
        let draft = Draft {
            tenant,
            kind: kind.into(),
            occurred_at: None,
            data,
            caller: None,
            trail: None,
            targets,
            is_ordered,
        };
        let known = self.world.oracle.borrow().acknowledged.len();
        let published = self.journal.publish(vec![draft], None).await;
        if let Ok([Published::Accepted(receipt)]) = published.as_deref() {
            self.world.oracle.borrow_mut().acknowledged(receipt.seq, known);
        }
    }
}

/// Webhooks.
impl Process {
    /// `Engine::update_webhook`, for a webhook that was read before. Answers whether it was unchanged since then.
    async fn update(self: &Rc<Self>, changed: Hook) -> bool {
        self.pause().await;
        let changing = self.changing.write().await;
        let num = changed.num;
        if !self.write_hook(changed) {
            return false;
        }
        self.pause().await;
        if let Some(hook) = self.world.hook(num) {
            self.routes.set(hook.route());
        }
        drop(changing);
        self.reconfigure(num).await;
        true
    }

    /// `Store::update_webhook`.
    fn write_hook(&self, changed: Hook) -> bool {
        let mut hooks = self.world.hooks.borrow_mut();
        let Some(hook) = hooks.get_mut(&changed.num) else { return false };
        if hook.version != changed.version || hook.is_deleted {
            return false;
        }
        if hook.url != changed.url || !hook.is_active && changed.is_active {
            self.world.tables.borrow_mut().forget_health(hook.num);
        }
        *hook = Hook { version: changed.version + 1, ..changed };
        self.world.changed(hook.num);
        self.world.note(|| format!("row of {:?}: active {}, paused {}", hook.num, hook.is_active, hook.is_paused));
        true
    }

    /// A change after which nothing is sent to the webhook.
    pub(super) async fn close(self: Rc<Self>, num: WebhookNum, change: impl FnOnce(&mut Hook)) {
        let Some(mut hook) = self.world.hook(num) else { return };
        change(&mut hook);
        if self.update(hook).await && self.world.hook(num).is_some_and(|hook| !hook.is_open()) {
            self.world.note(|| format!("{num:?} is closed"));
            self.world.oracle.borrow_mut().close(&self.world, num);
        }
    }

    /// A change after which deliveries may be sent to the webhook again.
    pub(super) async fn open(self: Rc<Self>, num: WebhookNum, change: impl FnOnce(&mut Hook)) {
        let Some(mut hook) = self.world.hook(num) else { return };
        self.world.oracle.borrow_mut().begin_opening(self.incarnation, num);
        self.release(num).await;
        change(&mut hook);
        self.update(hook).await;
        self.world.oracle.borrow_mut().end_opening(self.incarnation, num);
    }

    /// `Engine::delete_webhook`.
    pub(super) async fn delete(self: Rc<Self>, num: WebhookNum) {
        let Some(doomed) = self.world.hook(num) else { return };
        self.pause().await;
        let changing = self.changing.write().await;
        {
            let mut hooks = self.world.hooks.borrow_mut();
            match hooks.get_mut(&num) {
                Some(hook) if hook.version == doomed.version && !hook.is_deleted => {
                    (hook.is_deleted, hook.is_active) = (true, false);
                    self.world.changed(num);
                }
                Some(_) | None => return,
            }
        }
        self.world.note(|| format!("{num:?} is deleted"));
        self.pause().await;
        self.routes.remove(doomed.tenant, num);
        drop(changing);
        self.dismiss(num).await;
        self.world.oracle.borrow_mut().close(&self.world, num);
        let pending = self.ledger.lock().pending(num);
        if pending > 0 && self.journal.purge(num, EventSeq(i64::MAX), &[]).await.is_err() {
            return;
        }
        self.forget_in_ledger(&[num]).await;
    }

    /// `Engine::probe`.
    pub(super) async fn probe(self: Rc<Self>, num: WebhookNum) {
        if self.world.hook(num).is_some_and(|hook| hook.is_open()) {
            self.world.note(|| format!("{num:?} is probed"));
            self.release(num).await;
            self.probe_endpoint(num).await;
        }
    }
}

/// Deliveries.
impl Process {
    /// `Engine::purge`.
    pub(super) async fn purge(self: Rc<Self>, num: WebhookNum) {
        if self.world.hook(num).is_none() {
            return;
        }
        self.world.note(|| format!("{num:?} is purged"));
        let hold = Hold::new(&self, num);
        self.reconfigure(num).await;
        let _ = self.purge_held(num).await;
        drop(hold);
        self.world.note(|| format!("{num:?} has been purged"));
        self.reconfigure(num).await;
    }

    /// `Engine::purge_held`.
    async fn purge_held(&self, webhook: WebhookNum) -> Result<(), Stopped> {
        self.journal.barrier().await?;
        let (newest, end) = (self.feed.committed(), self.world.elapsed() + FINDING);
        let has_found = || !self.world.is_clustered || self.feed.has_scanned(newest) || self.world.elapsed() >= end;
        self.world.tasks.until(|| has_found().then_some(())).await;
        let through = self.feed.seen_watermark();
        self.world.oracle.borrow_mut().purges(webhook, through);
        self.set_row_watermark(webhook, through).await;
        let under_way = self.withdraw_all(webhook, through).await;
        self.note_withdrawn(webhook, &under_way);
        self.journal.barrier().await?;
        let next_at = self.wall();
        for event in self.owed_only_by_fanout(webhook, through).await? {
            if !under_way.contains(&event) {
                self.journal.record(Record::Defer { id: DeliveryId { event, webhook }, next_at }).await?;
            }
        }
        self.journal.barrier().await?;
        self.journal.purge(webhook, through, &under_way).await?;
        self.world.note(|| format!("what {webhook:?} was owed up to {through:?} is cancelled, but not {under_way:?}"));
        Ok(())
    }

    /// Notes that the endpoint does not send these again.
    fn note_withdrawn(&self, webhook: WebhookNum, under_way: &[EventSeq]) {
        if let Some(endpoint) = self.registry.borrow().find(webhook) {
            let ids = under_way.iter().map(|event| DeliveryId { event: *event, webhook });
            self.world.oracle.borrow_mut().withdraws((self.incarnation, endpoint.generation), ids);
        }
    }

    /// `Engine::owed_only_by_fanout`.
    async fn owed_only_by_fanout(&self, webhook: WebhookNum, through: EventSeq) -> Result<Vec<EventSeq>, Stopped> {
        loop {
            if let Ok(owed) = self.read(|tables| tables.owed_only_by_fanout(webhook, through)).await {
                return Ok(owed);
            }
            self.draining.run_until_cancelled(self.world.sleep(STORE_PAUSE)).await.ok_or(Stopped)?;
        }
    }

    /// `Engine::delivery`: from its row, or from its fan-out alone.
    async fn delivery(&self, id: DeliveryId) -> Option<DeliveryState> {
        let owed = |tables: &Tables| tables.owed_by_fanouts().any(|owed| owed == (id.event, id.webhook));
        let read = self.read(|tables| {
            let row = tables.delivery(id).copied();
            row.or_else(|| owed(tables).then(|| DeliveryState::pending(None)))
        });
        read.await.ok().flatten()
    }

    /// `Engine::retry`.
    pub(super) async fn retry(self: Rc<Self>, id: DeliveryId) {
        self.world.oracle.borrow_mut().meddle(self.incarnation, id);
        let done = self.retry_meddling(id).await;
        self.world.note(|| format!("retry of {id:?}: {done:?}"));
        self.world.oracle.borrow_mut().meddled(self.incarnation, id);
    }

    async fn retry_meddling(self: &Rc<Self>, id: DeliveryId) -> Option<()> {
        let delivery = self.delivery(id).await.filter(|state| state.attempts < MAX_ATTEMPT)?;
        self.world.hook(id.webhook).filter(Hook::is_open)?;
        let now = self.wall();
        self.take_out(id).await?;
        if delivery.status == Status::Pending {
            self.journal.record(Record::Defer { id, next_at: now }).await.ok()?;
        }
        self.world.oracle.borrow_mut().manual_retries.insert(id);
        self.record(Record::Retry { id, at: now.min(id.event.accepted_at()) }).await?;
        self.detach(id).await;
        self.send_now(id).await;
        Some(())
    }

    /// `Engine::take_out`.
    async fn take_out(&self, id: DeliveryId) -> Option<()> {
        match self.detach(id).await {
            Detached::Waiting => Some(()),
            Detached::Absent => self.read(|tables| tables.delivery(id).is_some()).await.ok()?.then_some(()),
            Detached::InFlight { .. } => None,
        }
    }

    /// `Engine::cancel`.
    pub(super) async fn cancel(self: Rc<Self>, id: DeliveryId) {
        self.world.oracle.borrow_mut().meddle(self.incarnation, id);
        let done = self.cancel_meddling(id).await;
        self.world.note(|| format!("cancellation of {id:?}: {done:?}"));
        self.world.oracle.borrow_mut().meddled(self.incarnation, id);
    }

    async fn cancel_meddling(&self, id: DeliveryId) -> Option<()> {
        self.delivery(id).await.filter(|state| state.status == Status::Pending)?;
        self.take_out(id).await?;
        self.world.oracle.borrow_mut().cancellations.insert(id);
        self.record(Record::Cancel { id, at: self.wall() }).await?;
        self.withdraw(id).await;
        Some(())
    }

    /// `Engine::record`.
    async fn record(&self, record: Record) -> Option<()> {
        self.journal.record(record).await.ok()?;
        self.journal.barrier().await.ok()
    }
}
