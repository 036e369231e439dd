//! Bounds the requests in flight of all endpoints together. Attempts ask here before they send; the bulkhead decides
//! which of them gets a permit, and in which order.
//!
//! The lock is held for one decision, never while a waiter is woken or waits. A permit passes to a waiter as a value:
//! if the waiter is gone, dropping the value gives the permit back.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::domain::id::{TenantNum, WebhookNum};

use bulkhead::{Answer, Ask, Bulkhead, Grant, Ticket};

mod bulkhead;
mod fair_queue;

pub use bulkhead::{BulkheadView, PartView, Share};

/// The process-wide permits; cheap to clone.
#[derive(Clone)]
pub struct Permits(Arc<Mutex<Bulkhead<Waiter>>>);

type Waiter = oneshot::Sender<Permit>;

/// The right to have one request in flight; dropping it gives it back.
#[must_use = "a permit that is dropped is given back"]
pub struct Permit {
    permits: Permits,
    /// `None` once it is given back.
    grant: Option<Grant>,
}

enum Asked<'a> {
    Granted(Permit),
    Waits(Waiting<'a>),
}

/// A request that waits for a permit; dropping it leaves the queue.
struct Waiting<'a> {
    permits: &'a Permits,
    ticket: Ticket,
    granted: oneshot::Receiver<Permit>,
}

impl Permits {
    /// With `total` permits, two at least.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self(Arc::new(Mutex::new(Bulkhead::new(total))))
    }

    /// With one part for all requests, which then all ask for the healthy one.
    #[must_use]
    pub fn undivided(places: usize) -> Self {
        Self(Arc::new(Mutex::new(Bulkhead::undivided(places))))
    }

    /// Waits for a permit. May be dropped at any time.
    pub async fn acquire(&self, tenant: TenantNum, webhook: WebhookNum, share: Share) -> Permit {
        loop {
            let mut waiting = match self.ask(Ask { tenant, webhook, share }) {
                Asked::Granted(permit) => return permit,
                Asked::Waits(waiting) => waiting,
            };
            // A waiter is removed only when it is dropped itself; if that ever changes, it asks again.
            if let Ok(permit) = (&mut waiting.granted).await {
                return permit;
            }
        }
    }

    /// A permit, if there is one right now.
    #[must_use]
    pub fn try_acquire(&self, tenant: TenantNum, webhook: WebhookNum, share: Share) -> Option<Permit> {
        match self.0.lock().ask(Ask { tenant, webhook, share }) {
            Answer::Granted(grant) => Some(self.permit(grant)),
            Answer::Full(_) => None,
        }
    }

    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.view().in_use()
    }

    #[must_use]
    pub fn waiting(&self) -> usize {
        self.view().waiting()
    }

    #[must_use]
    pub fn view(&self) -> BulkheadView {
        self.0.lock().view()
    }

    fn ask(&self, ask: Ask) -> Asked<'_> {
        let mut bulkhead = self.0.lock();
        match bulkhead.ask(ask) {
            Answer::Granted(grant) => Asked::Granted(self.permit(grant)),
            Answer::Full(full) => {
                let (waiter, granted) = oneshot::channel();
                Asked::Waits(Waiting { permits: self, ticket: full.wait(waiter), granted })
            }
        }
    }

    fn permit(&self, grant: Grant) -> Permit {
        Permit { permits: self.clone(), grant: Some(grant) }
    }

    /// Hands the permit to the next waiter that still exists.
    fn hand_on(&self, mut next: Option<(Waiter, Grant)>) {
        while let Some((waiter, grant)) = next {
            let Err(mut missed) = waiter.send(self.permit(grant)) else { return };
            next = missed.grant.take().and_then(|grant| self.0.lock().give_back(grant));
        }
    }
}

impl Permit {
    /// Moves the permit of a request that takes too long to the ailing part. Answers whether it is there now; if that
    /// part is full, the caller may try again later.
    pub fn mark_overdue(&mut self) -> bool {
        let Some(grant) = &mut self.grant else { return true };
        let next = self.permits.0.lock().overdue(grant);
        let moved = grant.part() == Share::Ailing;
        self.permits.hand_on(next);
        moved
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(grant) = self.grant.take() {
            let next = self.permits.0.lock().give_back(grant);
            self.permits.hand_on(next);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // The lock is released before the waiter is dropped, because dropping it wakes a task.
        let waiter = self.permits.0.lock().forget(self.ticket);
        drop(waiter);
    }
}

#[cfg(test)]
mod tests;
