//! The operations on a backlog: pause, resume, probe, purge. The API calls them.

use crate::domain::moment::UnixMillis;
use crate::store::audit::{Action, Author, Deed};
use crate::store::webhooks::Webhook;

use super::{Engine, EngineError};

impl Engine {
    /// Holds the webhook's deliveries, pending and new ones. Requests in flight end as they would. Answers whether the
    /// call has changed anything.
    pub async fn pause(&self, webhook: &Webhook, by: &Author) -> Result<(Webhook, bool), EngineError> {
        if webhook.paused_at.is_some() {
            return Ok((webhook.clone(), false));
        }
        let paused = Webhook { paused_at: Some(self.inner.context.host.now()), ..webhook.clone() };
        Ok((self.update_webhook(&paused, by).await?, true))
    }

    /// Lets the webhook's deliveries flow again, and releases a quarantined endpoint. Answers whether the call has
    /// changed anything.
    pub async fn resume(&self, webhook: &Webhook, by: &Author) -> Result<(Webhook, bool), EngineError> {
        if webhook.paused_at.is_none() {
            self.enter(by, Action::ResumeWebhook, webhook).await?;
        }
        let was_quarantined = self.inner.registry.release(webhook.num).await;
        if webhook.paused_at.is_none() {
            return Ok((webhook.clone(), was_quarantined));
        }
        Ok((self.update_webhook(&Webhook { paused_at: None, ..webhook.clone() }, by).await?, true))
    }

    /// Ends the cool-down: the next delivery is the probe.
    pub async fn probe(&self, webhook: &Webhook, by: &Author) -> Result<(), EngineError> {
        self.sendable(webhook.num).await?;
        self.enter(by, Action::ProbeWebhook, webhook).await?;
        self.inner.registry.release(webhook.num).await;
        self.inner.registry.probe(webhook.num).await;
        Ok(())
    }

    /// Cancels the webhook's pending deliveries: all, or those accepted before `before`. Requests in flight end; those
    /// that fail are not retried, and the answer does not count them. Answers how many deliveries were cancelled.
    pub async fn purge(&self, webhook: &Webhook, before: Option<UnixMillis>, by: &Author) -> Result<u64, EngineError> {
        self.enter(by, Action::PurgeWebhook, webhook).await?;
        self.ops().purge(webhook.num, before).await
    }

    pub(super) async fn enter(&self, by: &Author, action: Action, webhook: &Webhook) -> Result<(), EngineError> {
        Ok(self.inner.store.enter(by, Deed::new(action, Some(webhook.tenant), webhook.id)).await?)
    }
}
