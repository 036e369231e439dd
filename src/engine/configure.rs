//! Changes webhooks and tenants: in the store, in the routes and in the live endpoints, and notifies the other nodes.
//! The API calls it.

use crate::domain::id::SecretId;
use crate::store::StoreError;
use crate::store::audit::Author;
use crate::store::idempotency::Once;
use crate::store::tenants::Tenant;
use crate::store::webhooks::{NewWebhook, Rotation, Route, SecretEnd, SecretInfo, Webhook, WebhookRef};

use super::{Engine, EngineError};

impl Engine {
    pub async fn create_webhook(
        &self,
        new: NewWebhook,
        once: Option<Once>,
        by: &Author,
    ) -> Result<Webhook, StoreError> {
        let _changing = self.inner.context.changing.write().await;
        let webhook = self.inner.store.create_webhook(new, once, by).await?;
        self.notify_peers();
        self.inner.routes.set(route_of(&webhook));
        self.inner.operations_changed.notify_waiters();
        Ok(webhook)
    }

    /// Writes the changed webhook if its version is still the stored one. Requests in flight finish with the old
    /// configuration.
    pub async fn update_webhook(&self, changed: &Webhook, by: &Author) -> Result<Webhook, EngineError> {
        let changing = self.inner.context.changing.write().await;
        let webhook = self.inner.store.update_webhook(changed, self.inner.context.host.now(), by).await?;
        self.inner.routes.set(route_of(&webhook));
        drop(changing);
        self.notify_peers();
        self.inner.registry.reconfigure(webhook.num).await;
        Ok(webhook)
    }

    /// Deletes the webhook and cancels its pending deliveries.
    pub async fn delete_webhook(&self, doomed: impl Into<WebhookRef>, by: &Author) -> Result<(), EngineError> {
        let doomed = doomed.into();
        let changing = self.inner.context.changing.write().await;
        self.inner.store.delete_webhook(doomed, self.inner.context.host.now(), by).await?;
        self.inner.routes.remove(doomed.tenant, doomed.num);
        drop(changing);
        self.notify_peers();
        self.ops().forget(vec![doomed.num]).await
    }

    /// Deletes the tenant with its keys and webhooks, and cancels their pending deliveries.
    pub async fn delete_tenant(&self, doomed: &Tenant, by: &Author) -> Result<(), EngineError> {
        let changing = self.inner.context.changing.write().await;
        self.inner.store.delete_tenant(doomed, self.inner.context.host.now(), by).await?;
        let nums = self.inner.routes.remove_tenant(doomed.num);
        drop(changing);
        self.notify_peers();
        self.ops().forget(nums).await
    }

    /// Makes a new secret the current one; the previous ones keep signing for a while.
    pub async fn rotate_secret(
        &self,
        webhook: &Webhook,
        rotation: Rotation<'_>,
        by: &Author,
    ) -> Result<(Webhook, Vec<SecretInfo>), EngineError> {
        let changing = self.inner.context.changing.write().await;
        let rotated = self.inner.store.rotate_secret(webhook, rotation, self.inner.context.host.now(), by).await?;
        drop(changing);
        self.notify_peers();
        self.inner.registry.reconfigure(webhook.num).await;
        Ok(rotated)
    }

    /// Ends a secret that was rotated out: it signs no more.
    pub async fn end_secret(&self, webhook: &Webhook, id: SecretId, by: &Author) -> Result<SecretEnd, EngineError> {
        let changing = self.inner.context.changing.write().await;
        let end = self.inner.store.end_secret(webhook, id, self.inner.context.host.now(), by).await?;
        drop(changing);
        if let SecretEnd::Ended(webhook) = &end {
            self.notify_peers();
            self.inner.registry.reconfigure(webhook.num).await;
        }
        Ok(end)
    }
}

fn route_of(webhook: &Webhook) -> Route {
    let Webhook { num, tenant, is_active, .. } = *webhook;
    let is_ordered = webhook.policy.ordered;
    Route { num, tenant, events: webhook.events.clone(), is_active, is_ordered }
}
