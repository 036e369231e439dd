//! What an endpoint publishes of itself, for whoever looks: written by its actor and the registry, read by the API,
//! which waits for nobody's mailbox. Outlives the actor for as long as it has something to tell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock::UnixMillis;
use crate::delivery::breaker::View as BreakerView;
use crate::id::WebhookNum;

use super::vitals::{Snapshot, Vitals};

/// The pulses of endpoints that have lived lately.
pub(super) struct Pulses {
    origin: Instant,
    of: Mutex<HashMap<WebhookNum, Arc<Pulse>>>,
}

pub(super) struct Pulse {
    origin: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    vitals: Vitals,
    live: Live,
    offers: u32,
}

/// The state of the actor, while there is one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Live {
    /// `None`: it sleeps.
    pub(super) since: Option<UnixMillis>,
    pub(super) in_flight: usize,
    /// Since when the request that takes longest is under way.
    pub(super) oldest_flight: Option<Instant>,
    pub(super) window: usize,
    pub(super) breaker: Option<BreakerView>,
    /// When its limiter lets the next one through.
    pub(super) limited_until: Option<Instant>,
}

/// A pulse as it was taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) live: Live,
    pub(super) mailbox: u32,
    pub(super) vitals: Snapshot,
}

impl Pulses {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), of: Mutex::new(HashMap::new()) }
    }

    /// The pulse of an endpoint, from now on if it has none.
    pub(super) fn of(&self, num: WebhookNum) -> Arc<Pulse> {
        let fresh = || {
            let vitals = Vitals::new(self.origin.elapsed());
            let inner = Inner { vitals, live: Live::default(), offers: 0 };
            Arc::new(Pulse { origin: self.origin, inner: Mutex::new(inner) })
        };
        self.of.lock().entry(num).or_insert_with(fresh).clone()
    }

    pub(super) fn find(&self, num: WebhookNum) -> Option<Arc<Pulse>> {
        self.of.lock().get(&num).cloned()
    }

    pub(super) fn forget(&self, num: WebhookNum) {
        self.of.lock().remove(&num);
    }

    /// Every endpoint that lives, and some that do no more.
    pub(super) fn nums(&self) -> Vec<WebhookNum> {
        self.of.lock().keys().copied().collect()
    }

    /// Endpoints with requests under way, and since when the one that takes longest is.
    pub(super) fn oldest_flights(&self) -> Vec<(WebhookNum, Instant)> {
        let of = self.of.lock();
        of.iter().filter_map(|(num, pulse)| Some((*num, pulse.inner.lock().live.oldest_flight?))).collect()
    }

    /// Forgets endpoints that sleep and have done nothing for an hour.
    pub(super) fn forget_stale(&self) {
        let now = self.origin.elapsed();
        self.of.lock().retain(|_, pulse| {
            let inner = pulse.inner.lock();
            inner.live.since.is_some() || !inner.vitals.is_stale(now)
        });
    }
}

impl Pulse {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// A delivery was put into the endpoint's mailbox.
    pub(super) fn offered(&self) {
        let now = self.now();
        let mut inner = self.inner.lock();
        inner.vitals.arrived(1, now);
        inner.offers = inner.offers.saturating_add(1);
    }

    /// A delivery became a row without having been there.
    pub(super) fn passed_by(&self) {
        let now = self.now();
        self.inner.lock().vitals.arrived(1, now);
    }

    /// The endpoint has taken a delivery out of its mailbox.
    pub(super) fn taken(&self) {
        let mut inner = self.inner.lock();
        inner.offers = inner.offers.saturating_sub(1);
    }

    pub(super) fn answered(&self, latency: Duration, ok: bool, settled: bool) {
        let now = self.now();
        let mut inner = self.inner.lock();
        inner.vitals.answered(latency, ok, now);
        if settled {
            inner.vitals.settled(now);
        }
    }

    pub(super) fn publish(&self, live: Live) {
        self.inner.lock().live = live;
    }

    /// The actor is gone, with whatever was in its mailbox.
    pub(super) fn ended(&self) {
        let mut inner = self.inner.lock();
        (inner.live, inner.offers) = (Live::default(), 0);
    }

    pub(super) fn take(&self) -> Taken {
        let now = self.now();
        let inner = self.inner.lock();
        Taken { live: inner.live, mailbox: inner.offers, vitals: inner.vitals.snapshot(now) }
    }
}
