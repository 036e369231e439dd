//! How much memory the bodies may take that are on their way in: so much in all, and a part of it for each tenant, so that
//! one who sends many and slowly neither fills the memory nor keeps the others out.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::api::problem::Problem;
use crate::id::TenantNum;

/// Bodies of all tenants, in bytes, or as many as are needed for [`LARGEST`] of the size that is accepted.
const ALL: usize = 256 << 20;

/// Bodies of full size that must fit in.
const LARGEST: usize = 16;

/// Tenants that can take their whole part at once.
const PARTS: usize = 4;

/// Whose body a request brings; noted by whoever finds out.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct Sender(pub(in crate::api) TenantNum);

#[derive(Debug, Clone)]
pub(in crate::api) struct Budget(Arc<Mutex<Taken>>);

#[derive(Debug)]
struct Taken {
    all: usize,
    most: usize,
    each: HashMap<TenantNum, usize>,
}

impl Budget {
    /// For bodies of at most `largest` bytes.
    pub(in crate::api) fn new(largest: usize) -> Self {
        let most = ALL.max(LARGEST * largest);
        Self(Arc::new(Mutex::new(Taken { all: 0, most, each: HashMap::new() })))
    }

    /// A share of nothing yet. An administrator's is bounded by the whole alone.
    pub(super) fn open(&self, sender: Option<Sender>) -> Share {
        Share { budget: self.clone(), sender, bytes: 0 }
    }
}

impl Taken {
    fn of(&self, sender: Option<Sender>) -> usize {
        sender.and_then(|Sender(tenant)| self.each.get(&tenant)).copied().unwrap_or(0)
    }
}

/// What one body takes, given back when it goes.
#[derive(Debug)]
pub(in crate::api) struct Share {
    budget: Budget,
    sender: Option<Sender>,
    bytes: usize,
}

impl Share {
    /// Takes so many bytes more.
    ///
    /// # Errors
    ///
    /// `503` when there is no room.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        let mut taken = self.budget.0.lock();
        if taken.all + bytes > taken.most || taken.of(self.sender) + bytes > taken.most / PARTS {
            return Err(Problem::overloaded("too many bodies are on their way in; nothing was kept"));
        }
        taken.all += bytes;
        if let Some(Sender(tenant)) = self.sender {
            *taken.each.entry(tenant).or_default() += bytes;
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.budget.0.lock();
        taken.all -= self.bytes;
        if let Some(Sender(tenant)) = self.sender {
            let left = taken.of(self.sender) - self.bytes;
            match left {
                0 => _ = taken.each.remove(&tenant),
                left => _ = taken.each.insert(tenant, left),
            }
        }
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
        let budget = Budget::new(1 << 20);
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
        let budget = Budget::new(1 << 20);
        let mut shares: Vec<_> = (0..PARTS as i64).map(|tenant| open(&budget, tenant)).collect();
        for share in &mut shares {
            share.grow(PART).unwrap();
        }
        assert!(open(&budget, 99).grow(1).is_err() && budget.open(None).grow(1).is_err());
        drop(shares);
        let taken = budget.0.lock();
        assert_eq!((taken.all, taken.each.len()), (0, 0));
    }

    #[test]
    fn bodies_of_full_size_fit_in_whatever_their_size_is() {
        let largest = 64 << 20;
        let budget = Budget::new(largest);
        let mut shares: Vec<_> = (0..LARGEST / PARTS).map(|_| open(&budget, 1)).collect();
        assert!(shares.iter_mut().all(|share| share.grow(largest).is_ok()));
    }
}
