//! Follows the config changes of other nodes, and updates this node's routes, live endpoints, and caches of tenants and
//! keys. A node also finds its own changes, which changes nothing.
//!
//! With SQLite there is no other node, and the task does not run.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::id::{TenantNum, WebhookNum};
use crate::fault::or_abort;
use crate::host::Host;
use crate::store::StoreError;
use crate::store::config_changes::{Change, Changes, Position};
use crate::store::webhooks::Routed;

use super::Engine;
use super::context::EngineContext;
use super::registry::RegistryHandle;
use super::routes::RouteTable;
use super::stale::Stale;

/// Fallback poll: peers send NOTIFY on change. At 500 ms, a lost notification still meets the 1 s bound.
const EVERY: Duration = Duration::from_millis(500);

/// A database that takes longer to answer counts as failed.
const ANSWER: Duration = Duration::from_secs(5);

/// Webhooks read at a time.
const CHUNK: usize = 512;

/// With more changed webhooks than this, reading all webhooks is faster.
const MANY: usize = 10_000;

impl Engine {
    /// Notifies the other nodes of a change made here, so that they read it at once.
    pub fn notify_peers(&self) {
        self.inner.context.notifier.notify_changes();
    }

    /// Starts the config sync from `position`, which must have been read before the routes were.
    pub(super) fn follow_config(&self, position: Position) {
        let inner = &self.inner;
        if !inner.store.is_clustered() {
            return;
        }
        let follower = Follower::new(inner.context.clone(), inner.registry.clone(), position);
        let follower = Box::pin(or_abort("the config sync", follower.run()));
        let stopping = inner.stopping.clone();
        inner.tasks.spawn(async move { stopping.run_until_cancelled(follower).await });
    }
}

/// What the changes make stale, each once.
#[derive(Debug, Default, PartialEq, Eq)]
struct Digest {
    webhooks: BTreeSet<WebhookNum>,
    tenants: BTreeSet<TenantNum>,
    deleted: BTreeSet<TenantNum>,
    admin_keys: bool,
}

impl Digest {
    /// `None` if everything must be read again.
    fn of(changes: &[Change]) -> Option<Self> {
        let mut digest = Self::default();
        for change in changes {
            match change {
                Change::Webhook(num) => digest.webhooks.insert(*num),
                Change::Tenant(num) => digest.tenants.insert(*num),
                Change::TenantDeleted(num) => digest.tenants.insert(*num) | digest.deleted.insert(*num),
                Change::AdminKeys => !std::mem::replace(&mut digest.admin_keys, true),
                Change::Anything => return None,
            };
        }
        (digest.webhooks.len() <= MANY).then_some(digest)
    }
}

pub(super) struct Follower {
    context: Arc<EngineContext>,
    registry: RegistryHandle,
    position: Position,
    /// Webhooks whose routes are up to date, but whose endpoints were not told yet.
    untold: BTreeSet<WebhookNum>,
}

impl Follower {
    /// `position` must have been read before the routes were.
    pub(super) fn new(context: Arc<EngineContext>, registry: RegistryHandle, position: Position) -> Self {
        Self { context, registry, position, untold: BTreeSet::new() }
    }

    pub(super) async fn run(mut self) {
        let mut ticks = self.context.host.ticks(EVERY);
        let mut is_away = false;
        loop {
            // Both lead to the same reading.
            tokio::select! {
                biased;
                () = self.context.notifier.changes_notified() => {}
                () = ticks.tick() => {}
            }
            let followed = self.follow().await;
            match &followed {
                Ok(()) if is_away => tracing::info!("config sync recovered; the changes of other nodes are applied"),
                Err(error) if !is_away => {
                    tracing::warn!(%error, "config sync failed; changes of other nodes are not applied until it succeeds");
                }
                Ok(()) | Err(_) => {}
            }
            is_away = followed.is_err();
        }
    }

    /// Applies the changes since the last call that succeeded. After a failure, the next call starts over.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let EngineContext { host, db, .. } = &*self.context;
        let Changes { changes, position } = answered(host, db.changes_since(&self.position)).await?;
        match Digest::of(&changes) {
            Some(digest) => self.take_over(&digest).await?,
            None => self.read_everything().await?,
        }
        self.position = position;
        self.tell_endpoints().await
    }

    async fn take_over(&mut self, digest: &Digest) -> Result<(), StoreError> {
        let Digest { webhooks, tenants, deleted, admin_keys } = digest;
        let webhooks: Vec<WebhookNum> = webhooks.iter().copied().collect();
        for some in webhooks.chunks(CHUNK) {
            let gone = self.route(some).await?;
            self.untold.extend(some);
            self.forget(&gone).await;
        }
        for tenant in deleted {
            let changing = self.context.changing.write().await;
            let gone = self.context.routes.remove_tenant(*tenant);
            drop(changing);
            self.untold.extend(&gone);
            self.forget(&gone).await;
        }
        for tenant in tenants {
            self.context.listeners.tell(Stale::Tenant(*tenant));
        }
        if *admin_keys {
            self.context.listeners.tell(Stale::AdminKeys);
        }
        Ok(())
    }

    /// Enters the routes of these webhooks as they are now. Answers the webhooks that another node has deleted. A
    /// webhook that was deleted here has no route any more, and the call that deleted it does the rest.
    async fn route(&self, nums: &[WebhookNum]) -> Result<Vec<WebhookNum>, StoreError> {
        let EngineContext { host, db, changing, routes, .. } = &*self.context;
        // Makes a change that is made here meanwhile enter the routes after this one.
        let _changing = changing.write().await;
        let mut gone = Vec::new();
        for routed in answered(host, db.routes_of(nums)).await? {
            match routed {
                Routed::Here(route) => routes.set(route),
                Routed::Deleted(tenant, num) => {
                    if routes.remove(tenant, num) {
                        gone.push(num);
                    }
                }
            }
        }
        Ok(gone)
    }

    /// Reads all webhooks again, because it is unknown which ones were changed, or too many were.
    async fn read_everything(&mut self) -> Result<(), StoreError> {
        tracing::info!("config changes unknown or too many; all webhooks are read again");
        let gone = reload(&self.context).await?;
        self.untold.extend(self.context.stats.nums());
        self.forget(&gone).await;
        Ok(())
    }

    /// Drops deleted webhooks from the ledger. The owners of their shards cancel the rows: either the node that deleted
    /// the webhooks, or a node whose due poller finds the rows within a second.
    async fn forget(&self, gone: &[WebhookNum]) {
        if !gone.is_empty() {
            self.context.ledger.forget(gone).await;
        }
    }

    async fn tell_endpoints(&mut self) -> Result<(), StoreError> {
        while !self.untold.is_empty() {
            let some: Vec<WebhookNum> = self.untold.iter().copied().take(CHUNK).collect();
            self.registry.refresh(&some).await?;
            for num in &some {
                self.untold.remove(num);
            }
        }
        Ok(())
    }
}

/// Reads all routes again, and tells the caches of tenants and keys to start over. Answers the webhooks that are gone.
pub(super) async fn reload(context: &EngineContext) -> Result<Vec<WebhookNum>, StoreError> {
    let changing = context.changing.write().await;
    let gone = context.routes.replace(RouteTable::load(context.db.as_ref()).await?);
    drop(changing);
    context.listeners.tell(Stale::Everything);
    Ok(gone)
}

/// Waits for an answer of the database, for [`ANSWER`] at most.
async fn answered<T>(host: &Host, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match host.timeout(ANSWER, read).await {
        Some(answer) => answer,
        None => Err(StoreError::Database("it does not answer".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_over_once_however_often_it_is_told_and_too_many_are_everything() {
        let (webhook, tenant) = (Change::Webhook(WebhookNum(1)), TenantNum(2));
        let digest = Digest::of(&[webhook, Change::TenantDeleted(tenant), Change::Tenant(tenant), webhook]).unwrap();
        assert_eq!((digest.webhooks.len(), digest.tenants.len(), digest.deleted.len()), (1, 1, 1));
        assert_eq!(Digest::of(&[webhook, Change::Anything]), None);
        let many: Vec<Change> = (0..=10_000).map(|num| Change::Webhook(WebhookNum(num))).collect();
        assert!(Digest::of(&many[1..]).is_some() && Digest::of(&many).is_none());
    }
}
