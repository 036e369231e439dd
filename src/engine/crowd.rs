//! How many endpoint actors each tenant has in memory. A tenant whose crowd is large is asked to do with less: whoever is
//! idle leaves at once, and starts are paced, so that one event to very many webhooks costs a bounded amount of memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::id::TenantNum;

/// Endpoints of one tenant beyond which none stays idle in memory for the next event: about 25 MB.
const LARGE: usize = 4_096;

/// Beyond this, starts wait for others to leave.
const TOO_LARGE: usize = 2 * LARGE;

#[derive(Default)]
pub(super) struct Crowds(Mutex<HashMap<TenantNum, Arc<AtomicUsize>>>);

/// One endpoint in its tenant's crowd; leaves when dropped.
pub(super) struct Member(Arc<AtomicUsize>);

impl Crowds {
    pub(super) fn join(&self, tenant: TenantNum) -> Member {
        let crowd = self.0.lock().entry(tenant).or_default().clone();
        crowd.fetch_add(1, Ordering::Relaxed);
        Member(crowd)
    }

    pub(super) fn is_too_large(&self, tenant: TenantNum) -> bool {
        self.0.lock().get(&tenant).is_some_and(|crowd| crowd.load(Ordering::Relaxed) >= TOO_LARGE)
    }
}

impl Member {
    pub(super) fn crowd_is_large(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= LARGE
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_is_its_tenants_own_and_shrinks_as_its_members_leave() {
        let (crowds, tenant, other) = (Crowds::default(), TenantNum(1), TenantNum(2));
        let mut members: Vec<Member> = (0..TOO_LARGE).map(|_| crowds.join(tenant)).collect();
        assert!(crowds.is_too_large(tenant) && members[0].crowd_is_large());
        assert!(!crowds.is_too_large(other) && !crowds.join(other).crowd_is_large());
        members.pop();
        assert!(!crowds.is_too_large(tenant) && members[0].crowd_is_large());
        members.truncate(LARGE - 1);
        assert!(!members[0].crowd_is_large());
    }
}
