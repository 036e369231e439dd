//! Counts the endpoint actors that each tenant has in memory. When a tenant has many, idle ones end at once and
//! activations are paced, so that one event to very many webhooks costs a bounded amount of memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::domain::id::TenantNum;

/// With this many live endpoints of one tenant, none of them stays idle in memory for the next event: about 25 MB. With
/// twice as many, each group of activations waits a moment for live endpoints to end.
pub(super) const LARGE: usize = 4_096;

pub(super) struct LiveEndpoints {
    large: usize,
    of: Mutex<HashMap<TenantNum, Arc<AtomicUsize>>>,
}

/// One live endpoint of its tenant, counted until this is dropped.
pub(super) struct LiveGuard {
    live: Arc<AtomicUsize>,
    large: usize,
}

impl LiveEndpoints {
    /// `large`: how many live endpoints of one tenant are many.
    pub(super) fn new(large: usize) -> Self {
        Self { large, of: Mutex::default() }
    }

    pub(super) fn join(&self, tenant: TenantNum) -> LiveGuard {
        let live = self.of.lock().entry(tenant).or_default().clone();
        live.fetch_add(1, Ordering::Relaxed);
        LiveGuard { live, large: self.large }
    }

    pub(super) fn is_exhausted(&self, tenant: TenantNum) -> bool {
        self.of.lock().get(&tenant).is_some_and(|live| live.load(Ordering::Relaxed) >= 2 * self.large)
    }
}

impl LiveGuard {
    pub(super) fn is_tight(&self) -> bool {
        self.live.load(Ordering::Relaxed) >= self.large
    }
}

impl Drop for LiveGuard {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_its_tenants_own_and_shrinks_as_its_members_leave() {
        let (live, tenant, other) = (LiveEndpoints::new(LARGE), TenantNum(1), TenantNum(2));
        let mut guards: Vec<LiveGuard> = (0..2 * LARGE).map(|_| live.join(tenant)).collect();
        assert!(live.is_exhausted(tenant) && guards[0].is_tight());
        assert!(!live.is_exhausted(other) && !live.join(other).is_tight());
        guards.pop();
        assert!(!live.is_exhausted(tenant) && guards[0].is_tight());
        guards.truncate(LARGE - 1);
        assert!(!guards[0].is_tight());
    }
}
