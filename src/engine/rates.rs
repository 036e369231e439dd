//! The recent rates, latencies and successes of one endpoint, in at most 512 bytes. Pure: `endpoint_stats` counts what
//! happens and takes snapshots.
//!
//! Everything is counted in time slots that are reused when they are too old (`ring`). A window therefore covers a
//! little more than its name says: full slots and the one that has begun. `now` is the time since some fixed moment, by
//! a monotonic clock.

mod latency;
mod ring;

use std::time::Duration;

use latency::Latencies;
pub use latency::Percentiles;
use ring::Ring;

/// An endpoint that has done nothing for as long as the longest window has nothing to show.
const STALE_AFTER: Duration = Duration::from_hours(1);

/// The counts of one endpoint.
#[derive(Debug, Clone)]
pub struct Rates {
    born: Duration,
    /// The last 60 to 70 seconds. Its newest slot is when anything last happened.
    traffic: Ring<Traffic, 7, 10>,
    /// The last 5 to 6 minutes.
    minutes: Ring<Answers, 6, 60>,
    /// The last 60 to 65 minutes.
    hour: Ring<Answers, 13, 300>,
    latencies: Latencies,
}

/// Deliveries that came in and were settled.
#[derive(Debug, Clone, Copy, Default)]
struct Traffic {
    arrived: u32,
    settled: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Answers {
    all: u32,
    ok: u32,
}

/// The counts as rates and shares, for display.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot {
    /// Over the last two and a half to five minutes; `None` when nothing was answered in that time.
    pub latency: Option<Percentiles>,
    /// The share of successes in the last five minutes, 0 to 1; `None` without an answer.
    pub success_5m: Option<f64>,
    /// The share of successes in the last hour; `None` without an answer.
    pub success_1h: Option<f64>,
    /// Over the last minute, or over the endpoint's life when it is younger.
    pub in_per_second: f64,
    /// Over the last minute, or over the endpoint's life when it is younger.
    pub out_per_second: f64,
}

impl Snapshot {
    /// The snapshot of an endpoint that has done nothing.
    pub const NOTHING: Self =
        Self { latency: None, success_5m: None, success_1h: None, in_per_second: 0.0, out_per_second: 0.0 };
}

impl Rates {
    /// Empty counts, from `now` on.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            born: now,
            traffic: Ring::new(now),
            minutes: Ring::new(now),
            hour: Ring::new(now),
            latencies: Latencies::new(now),
        }
    }

    /// Counts deliveries that the endpoint now has to make.
    pub fn arrived(&mut self, deliveries: u32, now: Duration) {
        let traffic = self.traffic.slot(now);
        traffic.arrived = traffic.arrived.saturating_add(deliveries);
    }

    /// Counts an attempt that has ended; `ok` when it succeeded.
    pub fn answered(&mut self, latency: Duration, ok: bool, now: Duration) {
        // Marks the slot as used: an answer is neither in nor out, but a sign of life.
        self.traffic.slot(now);
        self.minutes.slot(now).count(ok);
        self.hour.slot(now).count(ok);
        self.latencies.count(latency, now);
    }

    /// Counts a delivery that the endpoint no longer has to make.
    pub fn settled(&mut self, now: Duration) {
        let traffic = self.traffic.slot(now);
        traffic.settled = traffic.settled.saturating_add(1);
    }

    #[must_use]
    pub fn snapshot(&self, now: Duration) -> Snapshot {
        let seconds = self.traffic.covered(self.born, now).as_secs_f64();
        Snapshot {
            latency: self.latencies.percentiles(now),
            success_5m: success(self.minutes.recent(now)),
            success_1h: success(self.hour.recent(now)),
            in_per_second: sum(self.traffic.recent(now), |slot| slot.arrived) / seconds,
            out_per_second: sum(self.traffic.recent(now), |slot| slot.settled) / seconds,
        }
    }

    /// Whether nothing has happened for an hour, give or take a slot of ten seconds: then these rates are as good as
    /// new ones.
    #[must_use]
    pub fn is_stale(&self, now: Duration) -> bool {
        now.saturating_sub(self.traffic.last_used()) > STALE_AFTER
    }
}

impl Answers {
    fn count(&mut self, ok: bool) {
        self.all = self.all.saturating_add(1);
        self.ok = self.ok.saturating_add(ok.into());
    }
}

fn sum<'a, T: 'a>(slots: impl Iterator<Item = &'a T>, count: impl Fn(&T) -> u32) -> f64 {
    slots.map(|slot| f64::from(count(slot))).sum()
}

fn success<'a>(slots: impl Iterator<Item = &'a Answers> + Clone) -> Option<f64> {
    let all = sum(slots.clone(), |slot| slot.all);
    (all > 0.0).then(|| sum(slots, |slot| slot.ok) / all)
}

#[cfg(test)]
mod tests;
