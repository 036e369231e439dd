//! Bounds how many clients are built at once: one for each tenant, and few in all, so that a tenant with many TLS
//! options occupies neither the processors nor the blocking threads. Called by `tls_clients`.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ClientError;
use crate::domain::id::TenantNum;

/// Cheap to clone: the whole process shares one.
#[derive(Debug, Clone)]
pub struct Making {
    all: Arc<Semaphore>,
    tenants: Arc<Mutex<HashMap<TenantNum, Arc<Semaphore>>>>,
}

/// The right to build one client, until it is dropped.
pub(super) struct Leave {
    _of_tenant: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Default for Making {
    /// Half of the processors; the other half stays free for sending.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::at_once((processors / 2).max(1))
    }
}

impl Making {
    fn at_once(places: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(places)), tenants: Arc::default() }
    }

    /// Waits for the tenant's own turn first, so that a tenant takes one place in the common queue.
    pub(super) async fn leave(&self, tenant: TenantNum) -> Result<Leave, ClientError> {
        let acquire = |places: Arc<Semaphore>| async { places.acquire_owned().await.map_err(|_| ClientError::Stopped) };
        let _of_tenant = acquire(self.places_of(tenant)).await?;
        Ok(Leave { _of_tenant, _of_all: acquire(Arc::clone(&self.all)).await? })
    }

    fn places_of(&self, tenant: TenantNum) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock();
        if let Some(places) = tenants.get(&tenant) {
            return Arc::clone(places);
        }
        // A tenant that waits for its turn or builds a client holds another reference; drop the entries of all others.
        tenants.retain(|_, places| Arc::strong_count(places) > 1);
        Arc::clone(tenants.entry(tenant).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_tenant_makes_one_client_at_a_time_and_does_not_keep_others_from_theirs() {
        let making = Making::at_once(2);
        let first = making.leave(TenantNum(1)).await.unwrap();
        assert!(making.leave(TenantNum(1)).now_or_never().is_none());
        let other = making.leave(TenantNum(2)).now_or_never().unwrap().unwrap();
        assert!(making.leave(TenantNum(3)).now_or_never().is_none(), "two are being made");
        drop((first, other));
        drop(making.leave(TenantNum(3)).now_or_never().unwrap().unwrap());
        drop(making.leave(TenantNum(4)).now_or_never().unwrap().unwrap());
        assert_eq!(making.tenants.lock().len(), 1, "those that make none are forgotten");
    }
}
