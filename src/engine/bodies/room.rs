//! Decides how much memory bodies take, who gets room next, and which one body may exceed the limit. Pure: `bodies`
//! does the waiting.

use std::collections::{HashMap, VecDeque};

use crate::domain::id::TenantNum;

/// The right to some bytes of room; must be given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    tenant: TenantNum,
    bytes: usize,
    is_overdrawn: bool,
}

/// Names a waiting request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    tenant: TenantNum,
    number: u64,
}

struct Waiting<W> {
    number: u64,
    bytes: usize,
    waiter: W,
}

/// Tenants take turns; within a tenant, requests are served in the order of arrival. A tenant has at most half of the
/// room, so that others find some however slow its receivers are. One body always fits when nothing else is there.
pub(super) struct Room<W> {
    size: usize,
    taken: usize,
    by_tenant: HashMap<TenantNum, usize>,
    waiting: VecDeque<(TenantNum, VecDeque<Waiting<W>>)>,
    is_overdrawn: bool,
    arrivals: u64,
}

impl<W> Room<W> {
    pub(super) fn new(size: usize) -> Self {
        let (by_tenant, waiting) = (HashMap::new(), VecDeque::new());
        Self { size, taken: 0, by_tenant, waiting, is_overdrawn: false, arrivals: 0 }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn fits(&self, tenant: TenantNum, bytes: usize) -> bool {
        let of_tenant = self.by_tenant.get(&tenant).copied().unwrap_or_default();
        let is_within = |taken: usize, most: usize| taken == 0 || taken.saturating_add(bytes) <= most;
        let is_within_all = self.taken == 0 || self.taken.saturating_add(bytes) <= self.size;
        is_within_all && is_within(of_tenant, self.size / 2)
    }

    /// Takes room if there is some and no other request of the tenant is waiting.
    pub(super) fn take(&mut self, tenant: TenantNum, bytes: usize) -> Option<Ticket> {
        let is_first = self.waiting.iter().all(|(waiting, _)| *waiting != tenant);
        (is_first && self.fits(tenant, bytes)).then(|| self.ticket(tenant, bytes, false))
    }

    fn ticket(&mut self, tenant: TenantNum, bytes: usize, is_overdrawn: bool) -> Ticket {
        self.taken += bytes;
        *self.by_tenant.entry(tenant).or_default() += bytes;
        self.is_overdrawn |= is_overdrawn;
        Ticket { tenant, bytes, is_overdrawn }
    }

    pub(super) fn wait(&mut self, tenant: TenantNum, bytes: usize, waiter: W) -> Place {
        self.arrivals += 1;
        let number = self.arrivals;
        let waiting = Waiting { number, bytes, waiter };
        match self.waiting.iter_mut().find(|(known, _)| *known == tenant) {
            Some((_, line)) => line.push_back(waiting),
            None => self.waiting.push_back((tenant, VecDeque::from([waiting]))),
        }
        Place { tenant, number }
    }

    /// Takes room beyond the limit, for a request that has waited long; only one request at a time may. `None`: the
    /// request goes on waiting.
    pub(super) fn overdraw(&mut self, place: Place) -> Option<Ticket> {
        if self.is_overdrawn {
            return None;
        }
        let at = self.waiting.iter().position(|(tenant, _)| *tenant == place.tenant)?;
        let (_, line) = &mut self.waiting[at];
        let waiting = line.remove(line.iter().position(|waiting| waiting.number == place.number)?)?;
        if line.is_empty() {
            self.waiting.remove(at);
        }
        Some(self.ticket(place.tenant, waiting.bytes, true))
    }

    pub(super) fn give_back(&mut self, ticket: Ticket) {
        let Ticket { tenant, bytes, is_overdrawn } = ticket;
        self.taken -= bytes;
        self.is_overdrawn &= !is_overdrawn;
        if let Some(taken) = self.by_tenant.get_mut(&tenant) {
            *taken -= bytes;
            if *taken == 0 {
                self.by_tenant.remove(&tenant);
            }
        }
    }

    /// Gives room to the waiters that fit now.
    pub(super) fn grant(&mut self) -> Vec<(Ticket, W)> {
        let mut granted = Vec::new();
        while let Some(at) = self
            .waiting
            .iter()
            .position(|(tenant, line)| line.front().is_some_and(|first| self.fits(*tenant, first.bytes)))
        {
            let Some((tenant, mut line)) = self.waiting.remove(at) else { break };
            if let Some(Waiting { bytes, waiter, .. }) = line.pop_front() {
                granted.push((self.ticket(tenant, bytes, false), waiter));
            }
            if !line.is_empty() {
                self.waiting.push_back((tenant, line));
            }
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 100;

    #[test]
    fn one_larger_than_all_the_room_is_let_in_alone() {
        let mut room = Room::<()>::new(SIZE);
        let ticket = room.take(TenantNum(1), 10 * SIZE).unwrap();
        assert!(room.take(TenantNum(2), 1).is_none());
        room.give_back(ticket);
        assert!(room.take(TenantNum(2), 1).is_some());
    }

    #[test]
    fn nobody_has_more_than_half_and_tenants_take_turns() {
        let (mut room, [a, b]) = (Room::new(SIZE), [1, 2].map(TenantNum));
        let ticket = room.take(a, 50).unwrap();
        assert!(room.take(a, 1).is_none());
        room.wait(a, 30, "a1");
        room.wait(a, 30, "a2");
        assert!(room.take(b, 40).is_some(), "there is room for others");
        room.wait(b, 10, "b1");
        room.give_back(ticket);
        let granted: Vec<_> = room.grant().into_iter().map(|(_, waiter)| waiter).collect();
        assert_eq!(granted, ["a1", "b1"], "no third one fits");
    }

    #[test]
    fn one_request_at_a_time_that_has_waited_long_takes_more_than_there_is() {
        let (mut room, [a, b]) = (Room::new(SIZE), [1, 2].map(TenantNum));
        let _taken = [room.take(a, 50).unwrap(), room.take(b, 50).unwrap()];
        let (first, second) = (room.wait(a, 200, ()), room.wait(b, 200, ()));
        let overdrawn = room.overdraw(second).unwrap();
        assert_eq!((room.overdraw(first), room.overdraw(second)), (None, None));
        room.give_back(overdrawn);
        assert!(room.overdraw(first).is_some());
    }

    proptest! {
        /// The limit is exceeded by one body at most, and nothing waits while all the room is free.
        #[test]
        fn the_room_is_kept_and_used(steps in proptest::collection::vec((1i64..4, 1usize..150, 0u8..4), 1..200)) {
            let (mut room, mut held, mut places) = (Room::new(SIZE), Vec::new(), Vec::new());
            for (tenant, bytes, what) in steps {
                let tenant = TenantNum(tenant);
                match what {
                    0 | 1 => match room.take(tenant, bytes) {
                        Some(ticket) => held.push(ticket),
                        None => places.push(room.wait(tenant, bytes, ())),
                    },
                    2 if !held.is_empty() => {
                        room.give_back(held.swap_remove(bytes % held.len()));
                        held.extend(room.grant().into_iter().map(|(ticket, ())| ticket));
                    }
                    _ => held.extend(places.pop().and_then(|place| room.overdraw(place))),
                }
                let taken: usize = held.iter().map(|ticket| ticket.bytes).sum();
                let largest = held.iter().map(|ticket| ticket.bytes).max().unwrap_or_default();
                let overdrawn: usize = held.iter().filter(|ticket| ticket.is_overdrawn).map(|ticket| ticket.bytes).sum();
                prop_assert_eq!(taken, room.taken);
                prop_assert!(taken - overdrawn <= SIZE.max(largest));
                prop_assert!(held.iter().filter(|ticket| ticket.is_overdrawn).count() <= 1);
                prop_assert!(!held.is_empty() || room.waiting.is_empty(), "a request waits although nothing is held");
            }
        }
    }
}
