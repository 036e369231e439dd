//! The operations on a delivery: test, retry, cancel. The API calls them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use crate::domain::delivery::Status;
use crate::domain::id::{DeliveryId, MAX_ATTEMPT, TenantNum, WebhookNum};
use crate::journal::{Draft, Published};
use crate::store::audit::{Action, Author, Deed};
use crate::store::idempotency::OnceKey;
use crate::store::unreadable::UnreadableRow;
use crate::store::webhooks::{Webhook, WebhookRef};

use super::backlog::why;
use super::{Engine, EngineError, TEST_EVENT};

/// Beyond the webhook's own timeout, how long a test waits for its attempt to start and to be committed.
const TEST_PATIENCE: Duration = Duration::from_secs(10);

/// How often a test looks for its outcome; a person is waiting.
const TEST_POLL: Duration = Duration::from_millis(10);

/// The delivery of a test to this webhook, of what became of the test's event.
#[must_use]
pub fn tested(published: &[Published], webhook: WebhookNum) -> Option<DeliveryId> {
    match published.first()? {
        Published::Accepted(receipt) => Some(DeliveryId { event: receipt.seq, webhook }),
        Published::Duplicate(_) | Published::Conflict => None,
    }
}

impl Engine {
    /// Publishes a `webhook.test` event like any other event and waits for its first outcome. When the endpoint has
    /// other work first, the answer may come before the outcome; the delivery is still pending then. A repeated request
    /// with a key makes no second event.
    pub async fn test(&self, num: WebhookNum, once: Option<OnceKey>, by: &Author) -> Result<DeliveryId, EngineError> {
        let webhook = self.sendable(num).await?;
        self.require_running(num).await?;
        self.enter(by, Action::TestWebhook, &WebhookRef::from(&webhook)).await?;
        let text = serde_json::json!({ "webhookId": webhook.id, "message": "This is a test event from Posthaste." });
        let data = RawValue::from_string(text.to_string()).unwrap_or_default();
        let draft = Draft {
            tenant: webhook.tenant,
            kind: TEST_EVENT.into(),
            occurred_at: None,
            data,
            caller: None,
            trail: None,
            targets: Arc::new([webhook.num]),
            is_ordered: self.inner.routes.is_any_ordered(webhook.tenant, &[webhook.num]),
        };
        let answer = self.inner.journal.publish(vec![draft], once).await?;
        let id = tested(&answer.published, num).ok_or(EngineError::NotFound)?;
        let host = &self.inner.context.host;
        let until = host.steady() + Duration::from_millis(webhook.policy.timeout_ms.into()) + TEST_PATIENCE;
        while self.inner.store.first_attempt(id).await?.is_none() && host.steady() < until && self.is_ready() {
            host.sleep(TEST_POLL).await;
        }
        Ok(id)
    }

    /// Makes one more attempt now, whatever the delivery's status is. Its automatic retries stay as they were.
    pub async fn retry(&self, tenant: TenantNum, id: DeliveryId, by: &Author) -> Result<(), EngineError> {
        let delivery = self.delivery(tenant, id).await?.ok_or(EngineError::NotFound)?;
        if delivery.state.attempts >= MAX_ATTEMPT {
            return Err(EngineError::TooManyAttempts);
        }
        if self.inner.store.is_erased(id.event).await? {
            return Err(EngineError::PayloadErased);
        }
        self.sendable(id.webhook).await?;
        self.require_running(id.webhook).await?;
        self.inner.store.enter(by, Deed::new(Action::RetryDelivery, Some(tenant), id)).await?;
        self.ops().retry(id, delivery.state.status == Status::Pending).await
    }

    /// The webhook, unless its rows keep it from being sent to.
    pub(super) async fn sendable(&self, num: WebhookNum) -> Result<Webhook, EngineError> {
        let mut configs = self.inner.store.endpoint_configs(&[num], self.inner.context.host.now()).await?;
        let webhook = match configs.remove(&num) {
            Some(Ok(config)) => config.webhook,
            Some(Err(error)) => {
                let row = UnreadableRow::of_webhook(num, &error);
                return Err(EngineError::Quarantined(why::cannot_be_served(&row)));
            }
            None => return Err(EngineError::WebhookDeleted),
        };
        if !webhook.is_active {
            return Err(EngineError::Inactive);
        }
        if webhook.paused_at.is_some() {
            return Err(EngineError::Paused);
        }
        Ok(webhook)
    }

    /// Refuses a webhook whose endpoint is not restarted any more.
    async fn require_running(&self, num: WebhookNum) -> Result<(), EngineError> {
        let crashes = self.inner.registry.crashes(vec![num]).await.pop().unwrap_or_default();
        if !crashes.quarantined {
            return Ok(());
        }
        let crash = self.inner.context.stats.find(num).and_then(|stats| stats.take().crash);
        Err(EngineError::Quarantined(why::crashed(crashes, crash.as_deref())))
    }

    /// Cancels a pending delivery, or the manual retry of a settled one. A delivery whose request is
    /// being made cannot be cancelled.
    pub async fn cancel(&self, tenant: TenantNum, id: DeliveryId, by: &Author) -> Result<(), EngineError> {
        let before = self.delivery(tenant, id).await?.ok_or(EngineError::NotFound)?.state;
        if before.status != Status::Pending {
            return Err(EngineError::Settled);
        }
        self.inner.store.enter(by, Deed::new(Action::CancelDelivery, Some(tenant), id)).await?;
        self.ops().cancel(id, None).await?;
        // An outcome that was recorded while this call was being made wins.
        let after = self.delivery(tenant, id).await?.ok_or(EngineError::NotFound)?.state;
        let taken_back = after.status != Status::Pending && after.attempts == before.attempts;
        if taken_back { Ok(()) } else { Err(EngineError::Settled) }
    }
}
