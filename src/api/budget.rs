//! Bounds the memory of request bodies on their way in and of answers on their way out: by a total, and by a part of it
//! for each tenant. So a tenant that sends many bodies slowly, or takes none of its answers, neither fills the memory
//! nor keeps the others out.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::api::problem::Problem;
use crate::domain::id::TenantNum;

/// Bytes of all tenants; more if [`LARGEST`] bodies of the accepted size need more.
const ALL: usize = 256 << 20;

/// Bodies of full size that must fit into the total.
const LARGEST: usize = 16;

/// Tenants that can take their whole part at once.
const PARTS: usize = 4;

/// Bytes of answers that each tenant may hold even when the total is taken: no number of tenants that take none of
/// their answers keeps another tenant from reading.
const FIRST_ANSWERS: usize = 4 << 20;

/// The tenant that a request is for, noted in its extensions once the key is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sender(pub(super) TenantNum);

#[derive(Debug, Clone)]
pub(super) struct Budget {
    taken: Arc<Mutex<Taken>>,
    /// Detail of the problem when there is no room.
    full: &'static str,
}

#[derive(Debug)]
struct Taken {
    all: usize,
    most: usize,
    /// Bytes that each tenant may take even when the total is taken.
    first: usize,
    each: HashMap<TenantNum, usize>,
}

impl Budget {
    /// The budget for request bodies of at most `largest` bytes.
    pub(super) fn of_bodies(largest: usize) -> Self {
        Self::new(largest, 0, "too many bodies are on their way in; nothing was kept")
    }

    /// The budget for answers, the largest of which shows an event of `largest` bytes.
    pub(super) fn of_answers(largest: usize) -> Self {
        Self::new(largest, FIRST_ANSWERS, "too many answers are on their way out; take those, or ask for less at once")
    }

    fn new(largest: usize, first: usize, full: &'static str) -> Self {
        let most = ALL.max(LARGEST * largest);
        Self { taken: Arc::new(Mutex::new(Taken { all: 0, most, first, each: HashMap::new() })), full }
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.taken.lock().all
    }

    /// Opens an empty share. Without a sender, only the total bounds it.
    pub(super) fn open(&self, sender: Option<Sender>) -> Share {
        Share { budget: self.clone(), sender, bytes: 0 }
    }
}

impl Taken {
    fn of(&self, sender: Option<Sender>) -> usize {
        sender.and_then(|Sender(tenant)| self.each.get(&tenant)).copied().unwrap_or(0)
    }

    fn take(&mut self, sender: Option<Sender>, bytes: usize) {
        self.all += bytes;
        if let Some(Sender(tenant)) = sender {
            *self.each.entry(tenant).or_default() += bytes;
        }
    }

    fn give_back(&mut self, sender: Option<Sender>, bytes: usize) {
        self.all -= bytes;
        if let Some(Sender(tenant)) = sender {
            match self.of(sender) - bytes {
                0 => _ = self.each.remove(&tenant),
                left => _ = self.each.insert(tenant, left),
            }
        }
    }
}

/// The memory that one body or answer takes; given back when the share is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Budget,
    sender: Option<Sender>,
    bytes: usize,
}

impl Share {
    /// Takes this many bytes more.
    ///
    /// # Errors
    ///
    /// `503` when there is no room.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let mut taken = self.budget.taken.lock();
        let own = taken.of(self.sender) + bytes;
        if own > taken.most / PARTS || taken.all + bytes > taken.most && own > taken.first {
            return Err(Problem::overloaded(self.budget.full));
        }
        taken.take(self.sender, bytes);
        self.bytes += bytes;
        Ok(())
    }

    /// Checks that the share's tenant has room left, even when others have taken the total.
    ///
    /// # Errors
    ///
    /// `503` when there is none.
    pub(super) fn require_room(&self) -> Result<(), Problem> {
        let taken = self.budget.taken.lock();
        if taken.of(self.sender) < taken.most / PARTS { Ok(()) } else { Err(Problem::overloaded(self.budget.full)) }
    }

    /// Sets the share to this many bytes, which are in memory already.
    pub(super) fn correct(&mut self, bytes: usize) {
        let mut taken = self.budget.taken.lock();
        taken.give_back(self.sender, self.bytes);
        taken.take(self.sender, bytes);
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.taken.lock().give_back(self.sender, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: usize = ALL / PARTS;

    fn open(budget: &Budget, tenant: i64) -> Share {
        budget.open(Some(Sender(TenantNum(tenant))))
    }

    #[test]
    fn one_tenant_has_its_part_and_the_others_have_theirs() {
        let budget = Budget::of_bodies(1 << 20);
        let mut shares: Vec<_> = (0..2).map(|_| open(&budget, 1)).collect();
        for share in &mut shares {
            share.grow(PART / 2).unwrap();
        }
        assert!(open(&budget, 1).grow(1).is_err());
        open(&budget, 2).grow(PART).unwrap();
        shares.pop();
        open(&budget, 1).grow(PART / 2).unwrap();
    }

    #[test]
    fn all_together_have_so_much_and_give_it_back() {
        let budget = Budget::of_bodies(1 << 20);
        let mut shares: Vec<_> = (0..PARTS as i64).map(|tenant| open(&budget, tenant)).collect();
        for share in &mut shares {
            share.grow(PART).unwrap();
        }
        assert!(open(&budget, 99).grow(1).is_err() && budget.open(None).grow(1).is_err());
        drop(shares);
        let taken = budget.taken.lock();
        assert_eq!((taken.all, taken.each.len()), (0, 0));
    }

    #[test]
    fn each_tenant_has_its_first_answers_whatever_others_take_and_none_of_its_bodies() {
        let full = |budget: &Budget| {
            let mut shares: Vec<_> = (0..PARTS as i64).map(|tenant| open(budget, tenant)).collect();
            shares.iter_mut().for_each(|share| share.grow(PART).unwrap());
            shares
        };
        let (answers, bodies) = (Budget::of_answers(1 << 20), Budget::of_bodies(1 << 20));
        let (_answers, _bodies) = (full(&answers), full(&bodies));
        let mut first = open(&answers, 99);
        first.grow(FIRST_ANSWERS).unwrap();
        assert!(first.grow(1).is_err() && open(&bodies, 99).grow(1).is_err());
    }

    #[test]
    fn bodies_of_full_size_fit_in_whatever_their_size_is() {
        let largest = 64 << 20;
        let budget = Budget::of_bodies(largest);
        let mut shares: Vec<_> = (0..LARGEST / PARTS).map(|_| open(&budget, 1)).collect();
        assert!(shares.iter_mut().all(|share| share.grow(largest).is_ok()));
    }
}
