//! The bound on requests in flight, for all endpoints together. Attempts ask here before they send; who gets a place,
//! and whose turn it is, the bulkhead decides.
//!
//! The lock is held for a decision and never while somebody is woken or waits. A place changes hands as a value: if its
//! new owner is gone, dropping it gives it back.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::domain::id::{TenantNum, WebhookNum};

use bulkhead::{Answer, Ask, Bulkhead, Grant, Ticket};

mod bulkhead;
mod fair_queue;

pub use bulkhead::{BulkheadView, PartView, Share};

/// Cheap to clone.
#[derive(Clone)]
pub struct Permits(Arc<Mutex<Bulkhead<Waiter>>>);

type Waiter = oneshot::Sender<Permit>;

/// The right to have one request in flight; ends when dropped.
#[must_use = "a permit that is dropped is given back"]
pub struct Permit {
    permits: Permits,
    /// Taken when it is given back.
    grant: Option<Grant>,
}

enum Asked<'a> {
    Granted(Permit),
    Waits(Waiting<'a>),
}

/// Leaves the queue when dropped.
struct Waiting<'a> {
    permits: &'a Permits,
    ticket: Ticket,
    granted: oneshot::Receiver<Permit>,
}

impl Permits {
    /// With `total` places, at least two.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self(Arc::new(Mutex::new(Bulkhead::new(total))))
    }

    /// With places that are for healthy endpoints and ailing ones alike, who all ask for healthy ones.
    #[must_use]
    pub fn undivided(places: usize) -> Self {
        Self(Arc::new(Mutex::new(Bulkhead::undivided(places))))
    }

    /// Waits for a place. May be dropped at any time.
    pub async fn acquire(&self, tenant: TenantNum, webhook: WebhookNum, share: Share) -> Permit {
        loop {
            let mut waiting = match self.ask(Ask { tenant, webhook, share }) {
                Asked::Granted(permit) => return permit,
                Asked::Waits(waiting) => waiting,
            };
            // A waiter is forgotten by its own end only; if it were by anything else, it would ask again.
            if let Ok(permit) = (&mut waiting.granted).await {
                return permit;
            }
        }
    }

    /// A place if there is one right now.
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

    /// Hands a place on until somebody takes it or nobody waits.
    fn hand_on(&self, mut next: Option<(Waiter, Grant)>) {
        while let Some((waiter, grant)) = next {
            let Err(mut missed) = waiter.send(self.permit(grant)) else { return };
            next = missed.grant.take().and_then(|grant| self.0.lock().give_back(grant));
        }
    }
}

impl Permit {
    /// The request takes too long: it shall no longer keep a place from healthy endpoints. Answers whether it does not;
    /// otherwise there is no room for it elsewhere, and the same may be said again later.
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
        // The lock is released before the waiter is dropped, which wakes.
        let waiter = self.permits.0.lock().forget(self.ticket);
        drop(waiter);
    }
}

#[cfg(test)]
mod tests;
