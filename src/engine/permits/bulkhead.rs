//! Decides how many requests may be in flight, of which endpoints, and which one is next. Pure: `permits` does the
//! waiting.
//!
//! The places are divided as bulkheads divide a ship: the larger part is for healthy endpoints, an eighth for endpoints
//! that fail or are slow. Neither part uses the other's places, even idle ones. So requests that hang fill the small
//! part only; an ailing endpoint finds a place for the request that shows that it has recovered, whatever the load of
//! the others; and a request that turns out to hang can leave the larger part as long as the small one has room. The
//! price is an eighth of the places while nothing is ailing.
//!
//! Within a part, no place is free while a waiter waits for it.

use crate::domain::id::{TenantNum, WebhookNum};

use super::fair_queue::{FairQueue, Spot};

/// One place in this many is for ailing endpoints. Healthy endpoints lose these places for a whole timeout each time,
/// so the part is small; an eighth of the default of 1,024 still tries 128 of them at once.
const AILING_PART: usize = 8;

/// With fewer places than this, one part would have none.
const FEWEST: usize = 2;

/// Which part of the places a request uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Share {
    #[default]
    Healthy,
    /// Failing or slow.
    Ailing,
}

/// A request for a place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) tenant: TenantNum,
    pub(super) webhook: WebhookNum,
    pub(super) share: Share,
}

/// The right to a place, one for each place in use: it cannot be copied, and must be given back.
#[derive(Debug)]
#[must_use = "a grant that is dropped is a place lost"]
pub(super) struct Grant {
    part: Share,
}

impl Grant {
    /// The part that the place belongs to.
    #[must_use]
    pub(super) fn part(&self) -> Share {
        self.part
    }
}

/// Names a waiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    share: Share,
    spot: Spot,
}

#[derive(Debug)]
pub(super) enum Answer<'a, W> {
    Granted(Grant),
    /// The part has no free place.
    Full(Full<'a, W>),
}

/// The way into the queue; exists only while the part is full.
#[derive(Debug)]
pub(super) struct Full<'a, W> {
    queue: &'a mut FairQueue<W>,
    ticket: Ticket,
}

impl<W> Full<'_, W> {
    /// Joins the queue. The waiter comes back with a grant, or through `Bulkhead::forget`.
    pub(super) fn wait(self, waiter: W) -> Ticket {
        self.queue.join(self.ticket.spot, waiter);
        self.ticket
    }
}

/// The use of both parts, for display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BulkheadView {
    pub healthy: PartView,
    pub ailing: PartView,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartView {
    pub places: usize,
    pub in_use: usize,
    pub waiting: usize,
}

impl BulkheadView {
    #[must_use]
    pub fn total(&self) -> usize {
        self.healthy.places + self.ailing.places
    }

    #[must_use]
    pub fn in_use(&self) -> usize {
        self.healthy.in_use + self.ailing.in_use
    }

    #[must_use]
    pub fn waiting(&self) -> usize {
        self.healthy.waiting + self.ailing.waiting
    }
}

#[derive(Debug)]
struct Part<W> {
    places: usize,
    in_use: usize,
    queue: FairQueue<W>,
}

impl<W> Part<W> {
    fn new(places: usize) -> Self {
        Self { places, in_use: 0, queue: FairQueue::new() }
    }

    fn has_room(&self) -> bool {
        self.in_use < self.places
    }

    fn view(&self) -> PartView {
        PartView { places: self.places, in_use: self.in_use, waiting: self.queue.waiting() }
    }
}

/// `W` is what the bulkhead keeps for a waiter and returns with its grant.
#[derive(Debug)]
pub(super) struct Bulkhead<W> {
    healthy: Part<W>,
    ailing: Part<W>,
    next_ticket: u64,
}

impl<W> Bulkhead<W> {
    /// With `total` places, of which an eighth is for ailing endpoints; two at least.
    #[must_use]
    pub(super) fn new(total: usize) -> Self {
        let total = total.max(FEWEST);
        let ailing = (total / AILING_PART).max(1);
        Self { healthy: Part::new(total - ailing), ailing: Part::new(ailing), next_ticket: 0 }
    }

    pub(super) fn undivided(places: usize) -> Self {
        Self { healthy: Part::new(places), ailing: Part::new(0), next_ticket: 0 }
    }

    pub(super) fn ask(&mut self, ask: Ask) -> Answer<'_, W> {
        let Ask { tenant, webhook, share } = ask;
        let number = self.next_ticket;
        self.next_ticket += 1;
        let part = self.part(share);
        if part.has_room() {
            part.in_use += 1;
            return Answer::Granted(Grant { part: share });
        }
        let ticket = Ticket { share, spot: Spot { tenant, webhook, number } };
        Answer::Full(Full { queue: &mut part.queue, ticket })
    }

    /// A request has ended. Its place goes to the next waiter.
    #[must_use = "the waiter is to be told"]
    pub(super) fn give_back(&mut self, grant: Grant) -> Option<(W, Grant)> {
        let part = self.part(grant.part);
        let next = part.queue.next();
        if next.is_none() {
            part.in_use -= 1;
        }
        next.map(|waiter| (waiter, grant))
    }

    /// A request has been in flight for too long. It moves to the ailing part if that has room, and its place goes to
    /// the next waiter. Otherwise nothing changes, and the caller may try again later.
    #[must_use = "the waiter is to be told"]
    pub(super) fn overdue(&mut self, grant: &mut Grant) -> Option<(W, Grant)> {
        match grant.part {
            Share::Healthy if self.ailing.has_room() => {
                self.ailing.in_use += 1;
                let freed = std::mem::replace(grant, Grant { part: Share::Ailing });
                self.give_back(freed)
            }
            Share::Healthy | Share::Ailing => None,
        }
    }

    /// A waiter is gone; `None` if it was not waiting any more.
    pub(super) fn forget(&mut self, ticket: Ticket) -> Option<W> {
        self.part(ticket.share).queue.leave(ticket.spot)
    }

    #[must_use]
    pub(super) fn view(&self) -> BulkheadView {
        BulkheadView { healthy: self.healthy.view(), ailing: self.ailing.view() }
    }

    fn part(&mut self, share: Share) -> &mut Part<W> {
        match share {
            Share::Healthy => &mut self.healthy,
            Share::Ailing => &mut self.ailing,
        }
    }
}

#[cfg(test)]
mod tests;
