//! The operations on a backlog: pause, resume, probe, purge. The API calls them.

use crate::domain::moment::UnixMillis;
use crate::store::audit::{Action, Author, Deed};
use crate::store::webhooks::WebhookRef;

use super::{Engine, EngineError};

impl Engine {
    /// Holds the webhook's deliveries, pending and new ones. Requests in flight end as they would. Answers whether the
    /// call has changed anything. If `only` is given, the webhook must have that version.
    pub async fn pause(&self, webhook: &WebhookRef, only: Option<i64>, by: &Author) -> Result<bool, EngineError> {
        let changing = self.inner.context.changing.write().await;
        let is_changed = self.inner.store.pause_webhook(*webhook, only, self.inner.context.host.now(), by).await?;
        drop(changing);
        if is_changed {
            self.notify_peers();
            self.inner.registry.reconfigure(webhook.num).await;
        }
        Ok(is_changed)
    }

    /// Lets the webhook's deliveries flow again, and ends a quarantine. Answers whether the call has
    /// changed anything. If `only` is given, the webhook must have that version.
    pub async fn resume(&self, webhook: &WebhookRef, only: Option<i64>, by: &Author) -> Result<bool, EngineError> {
        let changing = self.inner.context.changing.write().await;
        let was_paused = self.inner.store.resume_webhook(*webhook, only, self.inner.context.host.now(), by).await?;
        drop(changing);
        if !was_paused {
            self.enter(by, Action::ResumeWebhook, webhook).await?;
        }
        let was_quarantined = self.inner.registry.end_quarantine(webhook.num).await;
        if was_paused {
            self.notify_peers();
            self.inner.registry.reconfigure(webhook.num).await;
        }
        Ok(was_paused || was_quarantined)
    }

    /// Ends the cool-down: the next delivery is the probe.
    pub async fn probe(&self, webhook: &WebhookRef, by: &Author) -> Result<(), EngineError> {
        self.sendable(webhook.num).await?;
        self.enter(by, Action::ProbeWebhook, webhook).await?;
        self.inner.registry.end_quarantine(webhook.num).await;
        self.inner.registry.probe(webhook.num).await;
        Ok(())
    }

    /// Cancels the webhook's pending deliveries: all, or those accepted before `before`. Requests in flight end; those
    /// that fail are not retried, and the answer does not count them. Answers how many deliveries were cancelled.
    pub async fn purge(
        &self,
        webhook: &WebhookRef,
        before: Option<UnixMillis>,
        by: &Author,
    ) -> Result<u64, EngineError> {
        let deed = Deed::new(Action::PurgeWebhook, Some(webhook.tenant), webhook.id);
        let entry = self.inner.store.enter_begun(by, deed).await?;
        let cancelled = self.ops().purge(webhook.num, before).await?;
        if let Err(error) = self.inner.store.note_affected(entry, cancelled).await {
            tracing::warn!(%error, entry, cancelled, "audit entry of a purge cannot be completed; it does not say how many deliveries were cancelled");
        }
        Ok(cancelled)
    }

    pub(super) async fn enter(&self, by: &Author, action: Action, webhook: &WebhookRef) -> Result<(), EngineError> {
        Ok(self.inner.store.enter(by, Deed::new(action, Some(webhook.tenant), webhook.id)).await?)
    }
}
