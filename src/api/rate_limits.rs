//! Limits how often a key and a tenant may call. The limits are off unless configured; each node counts for itself. An
//! admin key is the operator's own and is not counted; a session counts under the key that opened it. A batch of events
//! counts as one request: the cost of its events is bounded elsewhere.
//!
//! Where a limit is set, answers say how much of it is left, in the fields of draft-ietf-httpapi-ratelimit-headers-10.

use std::fmt::Write;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;

use super::key::Digest;
use super::problem::Problem;
use crate::domain::id::TenantNum;

/// Requests between two sweeps of idle keys; the number of keys, if that is larger.
const FORGET_EVERY: usize = 1_024;

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Requests a second in the long run, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestRate {
    pub per_second: NonZeroU32,
    pub burst: NonZeroU32,
}

/// What is left of the limits of one request's caller. In the request's extensions, if a limit is set.
#[derive(Clone, Default)]
pub(super) struct RateLimitStatus(Arc<Mutex<Fields>>);

/// The values of the two fields; empty if no limit counts the caller.
#[derive(Default)]
struct Fields {
    policy: String,
    left: String,
}

impl RateLimitStatus {
    /// Adds the fields to the answer.
    pub(super) fn show(&self, headers: &mut HeaderMap) {
        let Fields { policy, left } = &*self.0.lock();
        for (name, text) in [(RATELIMIT_POLICY, policy), (RATELIMIT, left)] {
            if let Some(value) = HeaderValue::from_str(text).ok().filter(|value| !value.is_empty()) {
                headers.insert(name, value);
            }
        }
    }
}

impl Fields {
    /// Adds a limit of which `left` requests are left.
    fn add(&mut self, name: &str, RequestRate { per_second, burst }: RequestRate, left: u32) {
        let comma = if self.policy.is_empty() { "" } else { ", " };
        let refilled_in = |requests: u32| requests.div_ceil(per_second.get());
        let (window, reset) = (refilled_in(burst.get()), refilled_in(burst.get().saturating_sub(left)));
        // Writing to a text does not fail.
        let _ = write!(self.policy, "{comma}\"{name}\";q={burst};w={window}");
        let _ = write!(self.left, "{comma}\"{name}\";r={left};t={reset}");
    }
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

    /// Attaches a note to the extensions of a request; `None` without limits.
    pub(super) fn begin(&self, request: &mut Request) -> Option<RateLimitStatus> {
        let is_limited = self.keys.is_some() || self.tenants.is_some();
        let note = is_limited.then(RateLimitStatus::default)?;
        request.extensions_mut().insert(note.clone());
        Some(note)
    }

    /// Counts one request with this key of this tenant, and notes what is left in its extensions.
    ///
    /// # Errors
    ///
    /// `429` when there were too many.
    pub(super) fn admit(&self, key: &Digest, tenant: TenantNum, extensions: &Extensions) -> Result<(), Problem> {
        let note = |name, rate, left| {
            if let Some(RateLimitStatus(fields)) = extensions.get() {
                fields.lock().add(name, rate, left);
            }
        };
        if let Some(keys) = &self.keys {
            let counted = keys.count(key);
            note("key", keys.rate, counted.unwrap_or_default());
            counted.map_err(|wait| Problem::rate_limited("there are too many requests with this key", wait))?;
        }
        if let Some(tenants) = &self.tenants {
            let counted = tenants.count(&tenant);
            note("tenant", tenants.rate, counted.unwrap_or_default());
            counted.map_err(|wait| Problem::rate_limited("there are too many requests of this tenant", wait))?;
        }
        Ok(())
    }
}

struct Counted<K: Hash + Eq + Clone> {
    rate: RequestRate,
    limiter: DefaultKeyedRateLimiter<K, StateInformationMiddleware>,
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
            rate,
            limiter: limiter.with_middleware(),
            clock: DefaultClock::default(),
            asked: AtomicUsize::new(0),
            forget_at: AtomicUsize::new(FORGET_EVERY),
        }
    }

    /// Counts a request. Returns how many more may come at once, or how long the caller has to wait.
    fn count(&self, who: &K) -> Result<u32, Duration> {
        if self.asked.fetch_add(1, Ordering::Relaxed) >= self.forget_at.load(Ordering::Relaxed) {
            self.asked.store(0, Ordering::Relaxed);
            self.limiter.retain_recent();
            self.forget_at.store(FORGET_EVERY.max(self.limiter.len()), Ordering::Relaxed);
        }
        match self.limiter.check_key(who) {
            Ok(state) => Ok(state.remaining_burst_capacity()),
            Err(refusal) => Err(refusal.wait_time_from(self.clock.now())),
        }
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
        assert!((0..1000).all(|_| rates.admit(&[1; 32], TenantNum(1), &Extensions::new()).is_ok()));
    }

    #[test]
    fn each_key_has_its_own_burst_and_the_tenant_one_over_all_its_keys() {
        let rates = RateLimits::new(rate(1, 3), rate(1, 5));
        let none = Extensions::new();
        let admitted =
            |key: u8, tenant| (0..10).filter(|_| rates.admit(&[key; 32], TenantNum(tenant), &none).is_ok()).count();
        assert_eq!(admitted(1, 1), 3);
        assert_eq!(admitted(2, 1), 2);
        assert_eq!(admitted(3, 2), 3);
    }

    #[test]
    fn an_answer_says_what_is_left_of_each_limit_that_counted_its_caller() {
        let rates = RateLimits::new(rate(2, 3), rate(1, 2));
        let shown = |key: u8| {
            let mut request = Request::new(axum::body::Body::empty());
            let (note, mut headers) = (rates.begin(&mut request).unwrap(), HeaderMap::new());
            let is_admitted = rates.admit(&[key; 32], TenantNum(1), request.extensions()).is_ok();
            note.show(&mut headers);
            let text = |name| headers[name].to_str().unwrap().to_owned();
            (is_admitted, text(RATELIMIT_POLICY), text(RATELIMIT))
        };
        let both = "\"key\";q=3;w=2, \"tenant\";q=2;w=2".to_owned();
        assert_eq!(shown(1), (true, both.clone(), "\"key\";r=2;t=1, \"tenant\";r=1;t=1".to_owned()));
        assert_eq!(shown(1), (true, both.clone(), "\"key\";r=1;t=1, \"tenant\";r=0;t=2".to_owned()));
        assert_eq!(shown(1), (false, both, "\"key\";r=0;t=2, \"tenant\";r=0;t=2".to_owned()));
        let (is_admitted, policy, left) = shown(1);
        assert_eq!((is_admitted, policy.as_str(), left.as_str()), (false, "\"key\";q=3;w=2", "\"key\";r=0;t=2"));
    }

    #[test]
    fn an_answer_to_a_caller_that_is_not_counted_says_nothing() {
        let mut request = Request::new(axum::body::Body::empty());
        assert!(RateLimits::new(None, None).begin(&mut request).is_none());
        let mut headers = HeaderMap::new();
        RateLimits::new(rate(1, 1), None).begin(&mut request).unwrap().show(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn idle_keys_are_forgotten() {
        let counted = Counted::new(rate(1_000_000, 1).unwrap());
        for who in 0..20_000_u32 {
            let _ = counted.count(&who);
        }
        assert!(counted.limiter.len() <= 2 * FORGET_EVERY, "{}", counted.limiter.len());
    }
}
