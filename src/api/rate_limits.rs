//! Limits how often a key and a tenant may call. The limits are off unless configured; each node counts for itself. An
//! admin key is the operator's own and is not counted; a session counts under the key that opened it. A batch of events
//! counts as one request: the cost of its events is bounded elsewhere.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::key::Digest;
use super::problem::Problem;
use crate::domain::id::TenantNum;

/// Requests between two sweeps of idle keys; the number of keys, if that is larger.
const FORGET_EVERY: usize = 1_024;

/// Requests a second in the long run, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRate {
    pub per_second: NonZeroU32,
    pub burst: NonZeroU32,
}

pub(super) struct RateLimits {
    keys: Option<Counted<Digest>>,
    tenants: Option<Counted<TenantNum>>,
}

impl RateLimits {
    /// `None` means no limit.
    pub(super) fn new(key: Option<RequestRate>, tenant: Option<RequestRate>) -> Self {
        Self { keys: key.map(Counted::new), tenants: tenant.map(Counted::new) }
    }

    /// Counts one request with this key of this tenant.
    ///
    /// # Errors
    ///
    /// `429` when there were too many.
    pub(super) fn admit(&self, key: &Digest, tenant: TenantNum) -> Result<(), Problem> {
        if let Some(wait) = self.keys.as_ref().and_then(|keys| keys.wait(key)) {
            return Err(Problem::rate_limited("there are too many requests with this key", wait));
        }
        if let Some(wait) = self.tenants.as_ref().and_then(|tenants| tenants.wait(&tenant)) {
            return Err(Problem::rate_limited("there are too many requests of this tenant", wait));
        }
        Ok(())
    }
}

struct Counted<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
    asked: AtomicUsize,
    /// Number of requests at which idle keys are swept.
    forget_at: AtomicUsize,
}

impl<K: Hash + Eq + Clone> Counted<K> {
    fn new(rate: RequestRate) -> Self {
        let RequestRate { per_second, burst } = rate;
        let limiter = RateLimiter::keyed(Quota::per_second(per_second).allow_burst(burst));
        Self {
            limiter,
            clock: DefaultClock::default(),
            asked: AtomicUsize::new(0),
            forget_at: AtomicUsize::new(FORGET_EVERY),
        }
    }

    /// How long the caller has to wait; `None` if not at all.
    fn wait(&self, who: &K) -> Option<Duration> {
        if self.asked.fetch_add(1, Ordering::Relaxed) >= self.forget_at.load(Ordering::Relaxed) {
            self.asked.store(0, Ordering::Relaxed);
            self.limiter.retain_recent();
            self.forget_at.store(FORGET_EVERY.max(self.limiter.len()), Ordering::Relaxed);
        }
        self.limiter.check_key(who).err().map(|refusal| refusal.wait_time_from(self.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32) -> Option<RequestRate> {
        let number = |number| NonZeroU32::new(number).unwrap();
        Some(RequestRate { per_second: number(per_second), burst: number(burst) })
    }

    #[test]
    fn without_a_limit_nothing_is_refused() {
        let rates = RateLimits::new(None, None);
        assert!((0..1000).all(|_| rates.admit(&[1; 32], TenantNum(1)).is_ok()));
    }

    #[test]
    fn each_key_has_its_own_burst_and_the_tenant_one_over_all_its_keys() {
        let rates = RateLimits::new(rate(1, 3), rate(1, 5));
        let admitted = |key: u8, tenant| (0..10).filter(|_| rates.admit(&[key; 32], TenantNum(tenant)).is_ok()).count();
        assert_eq!(admitted(1, 1), 3);
        assert_eq!(admitted(2, 1), 2);
        assert_eq!(admitted(3, 2), 3);
    }

    #[test]
    fn whoever_rests_is_forgotten() {
        let counted = Counted::new(rate(1_000_000, 1).unwrap());
        for who in 0..20_000_u32 {
            counted.wait(&who);
        }
        assert!(counted.limiter.len() <= 2 * FORGET_EVERY, "{}", counted.limiter.len());
    }
}
