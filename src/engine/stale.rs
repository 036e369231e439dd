//! The caches of tenants and keys in memory: what has become stale of them, and whom to tell. The config sync tells them.

use parking_lot::RwLock;

use crate::domain::id::TenantNum;

use super::Engine;

/// What has become stale of the tenants and keys that are kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// This tenant, or one of its keys, was changed or deleted.
    Tenant(TenantNum),
    /// A session of an admin has ended.
    AdminKeys,
    Everything,
}

type Listener = Box<dyn Fn(Stale) + Send + Sync>;

/// Callbacks of the caches that keep tenants and keys in memory.
#[derive(Default)]
pub(super) struct Listeners(RwLock<Vec<Listener>>);

impl Listeners {
    pub(super) fn add(&self, listener: impl Fn(Stale) + Send + Sync + 'static) {
        self.0.write().push(Box::new(listener));
    }

    pub(super) fn tell(&self, stale: Stale) {
        for listener in self.0.read().iter() {
            listener(stale);
        }
    }
}

impl Engine {
    /// Registers a cache of tenants and keys: from now on `listener` is told what other nodes have changed of them. It
    /// must not wait.
    pub fn on_stale(&self, listener: impl Fn(Stale) + Send + Sync + 'static) {
        self.inner.context.listeners.add(listener);
    }
}
