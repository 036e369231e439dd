//! Limits how often one webhook is called. Its endpoint owns the limiter and asks it before each attempt. governor
//! counts (GCRA), with the caller's clock. Pure.

use std::num::NonZeroU32;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use crate::domain::policy::RateLimit;

/// The rate limiter of one webhook. `now` is an argument, so that the result depends on nothing else.
#[derive(Debug)]
pub struct Limiter {
    /// `None`: no limit, as for most webhooks.
    bucket: Option<Box<Bucket>>,
}

impl Limiter {
    /// Starts with a full bucket; `None` is no limit. Values outside the policy's ranges are clamped.
    #[must_use]
    pub fn new(limit: Option<&RateLimit>) -> Self {
        Self { bucket: limit.and_then(quota).map(|quota| Box::new(Bucket::new(quota))) }
    }

    /// Admits one request, if the limit allows it now.
    ///
    /// # Errors
    ///
    /// When the limit is reached: the moment from which the next request may start, if no other one takes its turn.
    pub fn check(&self, now: Instant) -> Result<(), Instant> {
        self.bucket.as_ref().map_or(Ok(()), |bucket| bucket.check(now))
    }

    /// Whether the bucket is full, so that a new limiter would admit no more than this one.
    #[must_use]
    pub fn is_rested(&self, now: Instant) -> bool {
        self.bucket.as_ref().is_none_or(|bucket| bucket.is_full(now))
    }
}

fn quota(limit: &RateLimit) -> Option<Quota> {
    let within = |value: u32, range: std::ops::RangeInclusive<u32>| value.clamp(*range.start(), *range.end());
    let requests = within(limit.requests, RateLimit::REQUESTS);
    let seconds = within(limit.per_seconds, RateLimit::PER_SECONDS);
    let burst = NonZeroU32::new(within(limit.burst, RateLimit::REQUESTS))?;
    Quota::with_period(Duration::from_secs(seconds.into()) / requests).map(|quota| quota.allow_burst(burst))
}

#[derive(Debug)]
struct Bucket {
    /// The zero of governor's clock: the moment of the first check.
    origin: OnceLock<Instant>,
    permits: RateLimiter<NotKeyed, InMemoryState, ToldClock, NoOpMiddleware<Nanos>>,
    /// How long the bucket takes to regain one request.
    period: Duration,
    /// When the bucket is full again, in nanoseconds since the origin.
    full_at: AtomicU64,
}

impl Bucket {
    fn new(quota: Quota) -> Self {
        Self {
            origin: OnceLock::new(),
            permits: RateLimiter::direct_with_clock(quota, ToldClock::default()),
            period: quota.replenish_interval(),
            full_at: AtomicU64::new(0),
        }
    }

    fn check(&self, now: Instant) -> Result<(), Instant> {
        let origin = *self.origin.get_or_init(|| now);
        self.permits.clock().tell(now.saturating_duration_since(origin));
        self.permits.check().map_err(|refusal| origin + Duration::from(refusal.earliest_possible()))?;
        let (now, period) = (self.permits.clock().now(), nanos(self.period));
        let full_at = self.full_at.load(Ordering::Relaxed).max(now.as_u64());
        self.full_at.store(full_at.saturating_add(period), Ordering::Relaxed);
        Ok(())
    }

    fn is_full(&self, now: Instant) -> bool {
        let full_at = Duration::from_nanos(self.full_at.load(Ordering::Relaxed));
        self.origin.get().is_none_or(|origin| now.saturating_duration_since(*origin) >= full_at)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A clock that shows what it was told last, in nanoseconds since the bucket's origin. Never runs backwards.
#[derive(Debug, Default)]
struct ToldClock(AtomicU64);

impl ToldClock {
    fn tell(&self, elapsed: Duration) {
        self.0.fetch_max(nanos(elapsed), Ordering::Relaxed);
    }
}

impl Clock for ToldClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limiter(requests: u32, per_seconds: u32, burst: u32) -> Limiter {
        Limiter::new(Some(&RateLimit { requests, per_seconds, burst }))
    }

    /// How many of a thousand checks at this moment succeed.
    fn permits(limiter: &Limiter, at: Instant) -> usize {
        (0..1000).filter(|_| limiter.check(at).is_ok()).count()
    }

    #[test]
    fn without_a_limit_every_request_may_start() {
        assert_eq!(permits(&Limiter::new(None), Instant::now()), 1000);
    }

    #[test]
    fn a_burst_may_start_at_once_and_then_the_rate_holds() {
        let (limiter, start) = (limiter(10, 1, 5), Instant::now());
        assert_eq!(permits(&limiter, start), 5);
        assert_eq!(permits(&limiter, start + SECOND / 10), 1);
        assert_eq!(permits(&limiter, start + SECOND / 2), 4);
        assert_eq!(permits(&limiter, start + 60 * SECOND), 5);
    }

    #[test]
    fn who_is_refused_gets_a_permit_at_the_moment_that_was_named() {
        let (limiter, start) = (limiter(1, 10, 1), Instant::now());
        assert_eq!(limiter.check(start), Ok(()));
        assert_eq!(limiter.check(start + 4 * SECOND), Err(start + 10 * SECOND));
        assert_eq!(limiter.check(start + 10 * SECOND), Ok(()));
        assert_eq!(limiter.check(start + 10 * SECOND), Err(start + 20 * SECOND));
    }

    #[test]
    fn it_is_rested_when_a_new_one_would_permit_no_more() {
        let (limiter, start) = (limiter(1, 10, 3), Instant::now());
        assert!(limiter.is_rested(start));
        assert_eq!(limiter.check(start), Ok(()));
        assert!(!limiter.is_rested(start + 9 * SECOND));
        assert!(limiter.is_rested(start + 10 * SECOND), "one was taken, one is back");
        assert_eq!(permits(&limiter, start + 10 * SECOND), 3);
        assert!(!limiter.is_rested(start + 39 * SECOND));
        assert!(limiter.is_rested(start + 40 * SECOND));
        assert!(Limiter::new(None).is_rested(start));
    }

    #[test]
    fn a_moment_before_the_last_one_takes_nothing_back() {
        let (limiter, start) = (limiter(1, 1, 1), Instant::now());
        assert_eq!(limiter.check(start + 9 * SECOND), Ok(()));
        assert_eq!(limiter.check(start), Err(start + 10 * SECOND));
    }

    #[test]
    fn extreme_limits_neither_panic_nor_open_the_gate() {
        let start = Instant::now();
        let slowest = limiter(1, u32::MAX, u32::MAX);
        assert_eq!(permits(&slowest, start), 1000);
        assert_eq!(permits(&limiter(0, 0, 0), start), 1);
        assert_eq!(permits(&limiter(u32::MAX, 1, 1), start), 1);
    }
}
