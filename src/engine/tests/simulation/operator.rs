//! Publishers and operators: what the API checks and writes before it calls the engine's parts. Each operation tells the
//! oracle what its caller may rely on once it is answered.

use std::rc::Rc;

use serde_json::value::RawValue;

use crate::domain::delivery::{DeliveryState, Status};
use crate::domain::id::{DeliveryId, MAX_ATTEMPT, TenantNum, WebhookNum};
use crate::engine::ops::Ops;
use crate::engine::{EngineError, TEST_EVENT};
use crate::journal::{Draft, Published};
use crate::store::memory::{Hook, Tables};
use crate::store::payload::LARGE;

use super::process::Process;
use super::tasks::pause;

/// Events of this type are so large that two of them fill the feed, and that their bodies are read for each request.
pub(super) const HUGE: &str = "huge";
pub(super) const HUGE_BYTES: usize = LARGE + 1;

/// Publishing.
impl Process {
    pub(super) async fn publish(self: Rc<Self>, tenant: TenantNum, kind: &'static str) {
        let targets = self.context.routes.matching(tenant, kind);
        self.world.note(|| format!("{kind} is published to {} webhooks", targets.len()));
        pause().await;
        self.accept(tenant, kind, targets).await;
    }

    /// `Engine::test`.
    pub(super) async fn test(self: Rc<Self>, num: WebhookNum) {
        if let Some(hook) = self.world.hook(num).filter(Hook::is_open) {
            self.world.note(|| format!("{num:?} is tested"));
            self.world.tests.set(self.world.tests.get() + 1);
            pause().await;
            self.accept(hook.tenant, TEST_EVENT, [num].into()).await;
        }
    }

    async fn accept(&self, tenant: TenantNum, kind: &'static str, targets: std::sync::Arc<[WebhookNum]>) {
        let size = if kind == HUGE { HUGE_BYTES } else { 0 };
        let data = RawValue::from_string(format!("\"{}\"", "x".repeat(size))).unwrap();
        let is_ordered = self.context.routes.is_any_ordered(tenant, &targets);
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
        if let Ok([Published::Accepted(receipt)]) = published.as_ref().map(|answer| answer.published.as_slice()) {
            self.world.oracle.borrow_mut().acknowledged(receipt.seq, known);
        }
    }
}

/// Webhooks.
impl Process {
    /// `Engine::update_webhook`, for a webhook that was read before. Answers whether it was unchanged since then.
    async fn update(self: &Rc<Self>, changed: Hook) -> bool {
        pause().await;
        let changing = self.context.changing.write().await;
        let num = changed.num;
        if !self.write_hook(changed) {
            return false;
        }
        pause().await;
        if let Some(hook) = self.world.hook(num) {
            self.context.routes.set(hook.route());
        }
        drop(changing);
        self.context.notifier.notify_changes();
        self.registry.reconfigure(num).await;
        true
    }

    /// `Store::update_webhook`.
    fn write_hook(&self, changed: Hook) -> bool {
        let mut hooks = self.world.hooks.write();
        let Some(hook) = hooks.rows.get_mut(&changed.num) else { return false };
        if hook.version != changed.version || hook.is_deleted {
            return false;
        }
        if hook.url != changed.url || !hook.is_active && changed.is_active {
            self.world.tables.write().forget_health(hook.num);
        }
        *hook = Hook { version: changed.version + 1, is_unreadable: hook.is_unreadable, ..changed };
        let hook = hook.clone();
        hooks.changes.push(hook.num);
        self.world.note(|| format!("row of {:?}: active {}, paused {}", hook.num, hook.is_active, hook.is_paused));
        true
    }

    /// A change after which nothing is sent to the webhook.
    pub(super) async fn close(self: Rc<Self>, num: WebhookNum, change: impl FnOnce(&mut Hook) + 'static) {
        let Some(mut hook) = self.world.hook(num) else { return };
        change(&mut hook);
        if self.update(hook).await && self.world.hook(num).is_some_and(|hook| !hook.is_open()) {
            self.world.note(|| format!("{num:?} is closed"));
            self.world.oracle.borrow_mut().close(&self.world, num);
        }
    }

    /// A change after which deliveries may be sent to the webhook again.
    pub(super) async fn open(self: Rc<Self>, num: WebhookNum, change: impl FnOnce(&mut Hook) + 'static) {
        let Some(mut hook) = self.world.hook(num) else { return };
        self.world.oracle.borrow_mut().begin_opening(self.incarnation, num);
        self.registry.end_quarantine(num).await;
        change(&mut hook);
        self.update(hook).await;
        self.world.oracle.borrow_mut().end_opening(self.incarnation, num);
    }

    /// `Engine::delete_webhook`.
    pub(super) async fn delete(self: Rc<Self>, num: WebhookNum) {
        let Some(doomed) = self.world.hook(num) else { return };
        pause().await;
        let changing = self.context.changing.write().await;
        {
            let mut hooks = self.world.hooks.write();
            match hooks.rows.get_mut(&num) {
                Some(hook) if hook.version == doomed.version && !hook.is_deleted => {
                    (hook.is_deleted, hook.is_active) = (true, false);
                }
                Some(_) | None => return,
            }
            hooks.changes.push(num);
        }
        self.world.note(|| format!("{num:?} is deleted"));
        pause().await;
        self.context.routes.remove(doomed.tenant, num);
        drop(changing);
        self.context.notifier.notify_changes();
        let forgotten = self.ops().forget(vec![num]).await;
        if forgotten.is_ok() {
            self.world.oracle.borrow_mut().close(&self.world, num);
        }
    }

    /// `Engine::probe`.
    pub(super) async fn probe(self: Rc<Self>, num: WebhookNum) {
        if self.world.hook(num).is_some_and(|hook| hook.is_open()) {
            self.world.note(|| format!("{num:?} is probed"));
            self.registry.end_quarantine(num).await;
            self.registry.probe(num).await;
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
        self.world.oracle.borrow_mut().begin_purge(self.incarnation, num);
        let purged = self.ops().purge(num, None).await;
        self.world.oracle.borrow_mut().end_purge(self.incarnation, num);
        self.world.note(|| format!("{num:?} has been purged: {purged:?}"));
    }

    /// `Engine::delivery`: from its row, or from its fan-out alone.
    async fn delivery(&self, id: DeliveryId) -> Option<DeliveryState> {
        let owed = |tables: &Tables| tables.owed_by_fanouts().any(|owed| owed == (id.event, id.webhook));
        let tables = self.db.memory.tables.clone();
        let read = self.db.read(async move {
            let tables = tables.read();
            let row = tables.delivery(id).copied();
            Ok(row.or_else(|| owed(&tables).then(|| DeliveryState::pending(None))))
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
        self.ops().retry(id, delivery.status == Status::Pending).await.ok()
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
        self.world.oracle.borrow_mut().cancels(id);
        let done = self.ops().cancel(id, None).await;
        let is_cancelled = |row: &DeliveryState| row.status == Status::Cancelled;
        // Refused before anything was recorded.
        if matches!(done, Err(EngineError::InFlight | EngineError::Store(_)))
            && !self.world.tables.read().delivery(id).is_some_and(is_cancelled)
        {
            self.world.oracle.borrow_mut().refuses_to_cancel(id);
        }
        done.ok()
    }

    fn ops(&self) -> Ops {
        Ops { context: self.context.clone(), registry: self.registry.clone(), feed: self.feed.clone() }
    }
}
