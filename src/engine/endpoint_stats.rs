//! Publishes the state and the rates of each endpoint, so that readers need not ask its mailbox. The endpoint's actor
//! and the registry write them, the API reads them. They outlive the actor while they have something to show.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::delivery::breaker::View as BreakerView;
use crate::domain::id::WebhookNum;
use crate::domain::moment::UnixMillis;
use crate::host::Host;

use super::lane::Gauge;
use super::rates::{Rates, Snapshot};

/// The stats of endpoints that are live or were lately.
pub(super) struct AllEndpointStats {
    host: Host,
    origin: Instant,
    of: Mutex<HashMap<WebhookNum, Arc<EndpointStats>>>,
}

pub(super) struct EndpointStats {
    host: Host,
    origin: Instant,
    inner: Mutex<Inner>,
    /// Waiting requests, by what they wait for.
    waits: [AtomicU32; AWAITED],
}

struct Inner {
    rates: Rates,
    live: Live,
    offers: u32,
    /// When each request that is being made began.
    in_flight: Vec<Instant>,
    last_success_at: Option<UnixMillis>,
    /// Where the actor crashed last.
    crash: Option<Arc<str>>,
}

/// What a request may have to wait for before it is sent, as a backlog shows it. Two waits are not counted: for a start
/// slot, each of which is held for 5 ms at most, and for a large body, which is read before the permit is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// A permit.
    Permit,
    /// A slot in the journal.
    Journal,
    /// A valid node lease.
    Lease,
    /// A file descriptor.
    Descriptor,
}

const AWAITED: usize = 4;

/// How many requests wait for each [`Awaited`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waits {
    pub(super) permit: u32,
    pub(super) journal: u32,
    pub(super) lease: u32,
    pub(super) descriptor: u32,
}

impl Waits {
    /// Attempts that wait for any of these.
    pub(super) fn total(&self) -> usize {
        let Self { permit, journal, lease, descriptor } = *self;
        [permit, journal, lease, descriptor].iter().map(|waits| *waits as usize).sum()
    }
}

/// Counts one waiting request until it is dropped.
pub(super) struct Waiting<'a> {
    stats: &'a EndpointStats,
    awaited: Awaited,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.stats.waits[self.awaited as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts one request in flight until it is dropped.
pub(super) struct InFlight<'a> {
    stats: &'a EndpointStats,
    began: Instant,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let in_flight = &mut self.stats.inner.lock().in_flight;
        if let Some(place) = in_flight.iter().position(|began| *began == self.began) {
            in_flight.swap_remove(place);
        }
        if in_flight.is_empty() {
            *in_flight = Vec::new();
        }
    }
}

/// The state of the actor, while it lives.
#[derive(Debug, Clone, Default)]
pub(super) struct Live {
    /// `None` while the endpoint is asleep.
    pub(super) since: Option<UnixMillis>,
    pub(super) gauge: Gauge,
    pub(super) breaker: Option<BreakerView>,
}

/// An endpoint's stats at one moment.
#[derive(Debug, Clone)]
pub(super) struct StatsSnapshot {
    pub(super) live: Live,
    pub(super) waits: Waits,
    pub(super) last_success_at: Option<UnixMillis>,
    pub(super) crash: Option<Arc<str>>,
    pub(super) mailbox: u32,
    /// Requests that are being made.
    pub(super) in_flight: usize,
    pub(super) rates: Snapshot,
}

impl AllEndpointStats {
    pub(super) fn new(host: &Host) -> Self {
        Self { host: host.clone(), origin: host.steady(), of: Mutex::new(HashMap::new()) }
    }

    /// The stats of an endpoint; new ones if it has none.
    pub(super) fn of(&self, num: WebhookNum) -> Arc<EndpointStats> {
        let fresh = || {
            let (host, origin) = (self.host.clone(), self.origin);
            let rates = Rates::new(host.steady() - origin);
            let inner = Inner {
                rates,
                live: Live::default(),
                offers: 0,
                in_flight: Vec::new(),
                last_success_at: None,
                crash: None,
            };
            Arc::new(EndpointStats { host, origin, inner: Mutex::new(inner), waits: Default::default() })
        };
        self.of.lock().entry(num).or_insert_with(fresh).clone()
    }

    pub(super) fn find(&self, num: WebhookNum) -> Option<Arc<EndpointStats>> {
        self.of.lock().get(&num).cloned()
    }

    pub(super) fn forget(&self, num: WebhookNum) {
        self.of.lock().remove(&num);
    }

    /// Every live endpoint, and some that are asleep.
    pub(super) fn nums(&self) -> Vec<WebhookNum> {
        self.of.lock().keys().copied().collect()
    }

    /// Endpoints with requests in flight, and when the oldest request of each began.
    pub(super) fn oldest_requests(&self) -> Vec<(WebhookNum, Instant)> {
        let of = self.of.lock();
        of.iter().filter_map(|(num, stats)| Some((*num, stats.inner.lock().in_flight.iter().copied().min()?))).collect()
    }

    /// Forgets endpoints that are asleep and have done nothing for an hour.
    pub(super) fn forget_stale(&self) {
        let now = self.host.steady() - self.origin;
        self.of.lock().retain(|_, stats| {
            let inner = stats.inner.lock();
            inner.live.since.is_some() || inner.crash.is_some() || !inner.rates.is_stale(now)
        });
    }
}

impl EndpointStats {
    fn now(&self) -> Duration {
        self.host.steady() - self.origin
    }

    /// An offer went into the endpoint's mailbox.
    pub(super) fn offered(&self) {
        let now = self.now();
        let mut inner = self.inner.lock();
        inner.rates.arrived(1, now);
        inner.offers = inner.offers.saturating_add(1);
    }

    /// A delivery became a row without passing the mailbox.
    pub(super) fn passed_by(&self) {
        let now = self.now();
        self.inner.lock().rates.arrived(1, now);
    }

    /// The endpoint has taken an offer out of its mailbox.
    pub(super) fn taken(&self) {
        let mut inner = self.inner.lock();
        inner.offers = inner.offers.saturating_sub(1);
    }

    /// `succeeded_at`: `None` for a failure.
    pub(super) fn answered(&self, latency: Duration, succeeded_at: Option<UnixMillis>, settled: bool) {
        let now = self.now();
        let mut inner = self.inner.lock();
        inner.rates.answered(latency, succeeded_at.is_some(), now);
        inner.last_success_at = inner.last_success_at.max(succeeded_at);
        if settled {
            inner.rates.settled(now);
        }
    }

    pub(super) fn publish(&self, live: Live) {
        self.inner.lock().live = live;
    }

    /// The actor has ended, and its mailbox with it.
    pub(super) fn ended(&self) {
        let mut inner = self.inner.lock();
        (inner.live, inner.offers) = (Live::default(), 0);
    }

    /// The actor crashed at `place`.
    pub(super) fn crashed(&self, place: Arc<str>) {
        self.inner.lock().crash = Some(place);
    }

    /// Counts a request as waiting until the returned guard is dropped.
    pub(super) fn waits_for(&self, awaited: Awaited) -> Waiting<'_> {
        self.waits[awaited as usize].fetch_add(1, Ordering::Relaxed);
        Waiting { stats: self, awaited }
    }

    /// Counts a request as in flight until the returned guard is dropped.
    pub(super) fn sends(&self) -> InFlight<'_> {
        let began = self.host.steady();
        self.inner.lock().in_flight.push(began);
        InFlight { stats: self, began }
    }

    pub(super) fn take(&self) -> StatsSnapshot {
        let now = self.now();
        let at = |awaited: Awaited| self.waits[awaited as usize].load(Ordering::Relaxed);
        let waits = Waits {
            permit: at(Awaited::Permit),
            journal: at(Awaited::Journal),
            lease: at(Awaited::Lease),
            descriptor: at(Awaited::Descriptor),
        };
        let inner = self.inner.lock();
        let (live, last_success_at, crash) = (inner.live.clone(), inner.last_success_at, inner.crash.clone());
        StatsSnapshot {
            live,
            waits,
            last_success_at,
            crash,
            mailbox: inner.offers,
            in_flight: inner.in_flight.len(),
            rates: inner.rates.snapshot(now),
        }
    }
}
