//! Bounds how many requests of one thread are in their first moments at once; tenants take turns. Every attempt waits
//! here before it asks for its permit.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::domain::id::{TenantNum, WebhookNum};
use crate::host::Host;

use super::permits::{Permit, Permits, Share};

/// Requests that may be in their first moments at once, per thread. More would not end sooner, but only push each
/// other out of the CPU's caches.
const SLOTS: usize = 32;

/// How long a request's first moments last. A request without an answer by then waits for its receiver, which costs no
/// work, and passes its slot on.
const FIRST_MOMENTS: Duration = Duration::from_millis(5);

/// Cheap to clone. Each thread has its own slots, so that passing a slot on wakes no other thread.
#[derive(Clone)]
pub(super) struct StartSlots(Permits);

impl StartSlots {
    pub(super) fn new() -> Self {
        Self(Permits::undivided(SLOTS))
    }

    /// Waits for a slot; `None` if nothing may be sent any more by then. Tenants take turns.
    pub(super) async fn wait(
        &self,
        draining: &CancellationToken,
        tenant: TenantNum,
        webhook: WebhookNum,
    ) -> Option<StartSlot> {
        let permit = self.0.acquire(tenant, webhook, Share::Healthy).await;
        (!draining.is_cancelled()).then_some(StartSlot(permit))
    }
}

/// The right to have a request in its first moments.
pub(super) struct StartSlot(#[allow(dead_code, reason = "passes the slot on when it is dropped")] Permit);

impl StartSlot {
    /// Makes a request in this slot. If the receiver takes longer than [`FIRST_MOMENTS`], the request goes on without the
    /// slot.
    pub(super) async fn make<T>(self, host: &Host, request: impl Future<Output = T>) -> T {
        let mut request = pin!(request);
        match host.timeout(FIRST_MOMENTS, &mut request).await {
            Some(answer) => answer,
            None => {
                drop(self);
                request.await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHO: (TenantNum, WebhookNum) = (TenantNum(1), WebhookNum(1));

    #[tokio::test]
    async fn a_request_whose_slot_comes_after_the_stop_is_not_begun() {
        let (slots, draining) = (StartSlots::new(), CancellationToken::new());
        let mut others = Vec::new();
        for _ in 0..SLOTS {
            others.push(slots.wait(&draining, WHO.0, WHO.1).await);
        }
        let slot = slots.wait(&draining, WHO.0, WHO.1);
        let stop = async {
            tokio::task::yield_now().await;
            draining.cancel();
            drop(others);
        };
        let (slot, ()) = tokio::join!(slot, stop);
        assert!(slot.is_none());
    }

    #[tokio::test]
    async fn a_request_that_waits_for_its_receiver_gives_its_slot_to_the_next() {
        let (host, slots, draining) = (Host::live(), StartSlots::new(), CancellationToken::new());
        let mut slow = Vec::new();
        for _ in 0..SLOTS {
            let slot = slots.wait(&draining, WHO.0, WHO.1).await.unwrap();
            slow.push(slot.make(&host, std::future::pending::<()>()));
        }
        let next = async { slots.wait(&draining, WHO.0, WHO.1).await.unwrap().make(&host, async { 7 }).await };
        let served = tokio::select! {
            _ = futures_util::future::join_all(slow) => None,
            served = next => Some(served),
        };
        assert_eq!(served, Some(7));
    }
}
