//! What other nodes change of the configuration reaches this one: its routes, its live endpoints, and whoever keeps
//! tenants and keys in memory. A node hears of its own changes again, which changes nothing.
//!
//! With SQLite there is no other node, and nobody looks.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::time::MissedTickBehavior;

use crate::domain::id::{TenantNum, WebhookNum};
use crate::fault::or_abort;
use crate::store::StoreError;
use crate::store::config_changes::{Change, Changes, Position};
use crate::store::webhooks::Routed;

use super::Engine;
use super::context::EngineContext;
use super::registry::RegistryHandle;
use super::routes::RouteTable;

/// Whoever changes something calls. Of a call that is lost, twice within the second that a change may take.
const EVERY: Duration = Duration::from_millis(500);

/// A database that takes longer to answer is away.
const ANSWER: Duration = Duration::from_secs(5);

/// Webhooks read at a time.
const CHUNK: usize = 512;

/// So many changed webhooks are read faster with all others.
const MANY: usize = 10_000;

/// What is known of tenants and keys in memory is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// This tenant was changed or deleted, or a key of it.
    Tenant(TenantNum),
    /// A session of an admin has ended.
    AdminKeys,
    Everything,
}

type Listener = Box<dyn Fn(Stale) + Send + Sync>;

/// Who keeps tenants and keys in memory.
#[derive(Default)]
pub(super) struct Listeners(RwLock<Vec<Listener>>);

impl Listeners {
    fn tell(&self, stale: Stale) {
        for listener in self.0.read().iter() {
            listener(stale);
        }
    }
}

impl Engine {
    /// Whoever keeps tenants and keys in memory is told from now on what other nodes have changed of them. `listener`
    /// must not wait.
    pub fn on_stale(&self, listener: impl Fn(Stale) + Send + Sync + 'static) {
        self.inner.context.listeners.0.write().push(Box::new(listener));
    }

    /// Lets the other nodes look at once at what was changed here.
    pub fn notify_peers(&self) {
        self.inner.context.notifier.notify_changes();
    }

    /// `position`: before the routes were read.
    pub(super) fn follow_config(&self, position: Position) {
        let inner = &self.inner;
        if !inner.store.is_clustered() {
            return;
        }
        let (context, registry) = (inner.context.clone(), inner.registry.clone());
        let follower = Follower { context, registry, position, untold: BTreeSet::new() };
        let follower = Box::pin(or_abort("the follower of changes", follower.run()));
        let stopping = inner.stopping.clone();
        inner.tasks.spawn(async move { stopping.run_until_cancelled(follower).await });
    }
}

/// What is to be read again, each once.
#[derive(Debug, Default, PartialEq, Eq)]
struct Digest {
    webhooks: BTreeSet<WebhookNum>,
    tenants: BTreeSet<TenantNum>,
    deleted: BTreeSet<TenantNum>,
    admin_keys: bool,
}

impl Digest {
    /// Nothing if everything is to be read.
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

struct Follower {
    context: Arc<EngineContext>,
    registry: RegistryHandle,
    position: Position,
    /// The routes of these are right; their endpoints must hear of it.
    untold: BTreeSet<WebhookNum>,
}

impl Follower {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_away = false;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.context.notifier.changes_notified() => {}
            }
            let followed = self.follow().await;
            match &followed {
                Ok(()) if is_away => tracing::info!("caught up with what other nodes have changed"),
                Err(error) if !is_away => {
                    tracing::warn!(%error, "what other nodes change could not be read; trying again");
                }
                Ok(()) | Err(_) => {}
            }
            is_away = followed.is_err();
        }
    }

    /// What fails on the way is done again from the start.
    async fn follow(&mut self) -> Result<(), StoreError> {
        let Changes { changes, position } = answered(self.context.store.changes_since(&self.position)).await?;
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

    /// Enters these as they are now. Answers those that are deleted, unless that was done here: then they are taken out
    /// already, and whoever does it sees to the rest.
    async fn route(&self, nums: &[WebhookNum]) -> Result<Vec<WebhookNum>, StoreError> {
        let EngineContext { changing, store, routes, .. } = &*self.context;
        // A change that is made here meanwhile is entered after this one.
        let _changing = changing.write().await;
        let mut gone = Vec::new();
        for routed in answered(store.routes_of(nums)).await? {
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

    /// Nobody knows what was changed, or it was too much.
    async fn read_everything(&mut self) -> Result<(), StoreError> {
        tracing::info!("much was changed; reading all webhooks again");
        let gone = reload(&self.context).await?;
        self.untold.extend(self.context.stats.nums());
        self.forget(&gone).await;
        Ok(())
    }

    /// They are deleted, and what they were owed counts no more. Whoever holds their shards cancels the rows: the node
    /// that deleted them, or the waker, which finds them within a second.
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

/// Reads all routes again, and tells the caches of tenants and keys to begin anew. Answers the webhooks that are gone.
pub(super) async fn reload(context: &EngineContext) -> Result<Vec<WebhookNum>, StoreError> {
    let changing = context.changing.write().await;
    let gone = context.routes.replace(RouteTable::load(&context.store).await?);
    drop(changing);
    context.listeners.tell(Stale::Everything);
    Ok(gone)
}

/// Waits for an answer of the database, but not for ever.
async fn answered<T>(read: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(ANSWER, read).await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::Database("it does not answer".to_owned())),
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
