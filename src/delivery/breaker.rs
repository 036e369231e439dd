//! The circuit breaker of one endpoint: decides whether its receiver may be called at all. Pure: the lane asks before
//! it starts a request and reports how the request ended, the store keeps [`Saved`].
//!
//! ```text
//! closed ── failures in a row ──▶ open ── cool-down passed, or an operator asked ──▶ half-open ── started ──▶ probing
//!    ▲                             ▲                                                    ▲                        │
//!    │                             └───────────────────── failure ──────────────────────┼────────────────────────┤
//!    │                                                                                  └── not sent, crashed ───┤
//!    └── success of any request ◀────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Half-open is not a state of its own: it is open with a cool-down that is over. While the webhook is suspended, the
//! cool-down is an hour, or never ends by itself.

use std::time::Duration;

use serde::Serialize;

use super::retry::lengthened;
use crate::domain::health::{Suspension, SuspensionCause};
use crate::domain::id::EventSeq;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::OutcomeKind;
use crate::domain::policy::BreakerSettings;

/// The cool-down while the webhook is suspended because its receiver fails.
const SUSPENDED_COOLDOWN: Duration = Duration::from_hours(1);

/// The end of a cool-down that is over: in the past, whatever the clock shows.
const DUE: UnixMillis = UnixMillis(0);

/// The state that survives a restart. The default is a closed breaker that has seen no failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Saved {
    pub consecutive_failures: u32,
    /// How often the breaker has opened since the last success; each opening doubles the cool-down.
    pub openings: u16,
    /// When the breaker may be probed; `None` when closed.
    pub open_until: Option<UnixMillis>,
    /// When the breaker last left the closed state; `None` when closed.
    pub opened_at: Option<UnixMillis>,
    pub last_failure: Option<OutcomeKind>,
    pub suspension: Option<Suspension>,
}

/// Whether a request may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Any number of requests may start.
    Free,
    /// One request may start, as the probe.
    Probe,
    /// No request may start before this moment.
    Wait { until: UnixMillis },
    /// No request may start before the probe has ended.
    ProbeUnderWay,
    /// No request may start before a person asks for a probe.
    Held,
}

/// The change of state that an outcome has caused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Opened,
    /// The probe failed.
    Reopened,
    Closed,
}

/// A breaker as the API shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub state: ViewState,
    pub consecutive_failures: u32,
    /// Set while open. A half-open breaker probes with the next delivery, if the probe is not under way.
    pub next_probe_at: Option<UnixMillis>,
    /// When the breaker last left the closed state; `None` when closed.
    pub opened_at: Option<UnixMillis>,
    pub last_failure: Option<OutcomeKind>,
    pub suspension: Option<Suspension>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ViewState {
    Closed,
    Open,
    /// A probe is due or under way.
    HalfOpen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    /// No request starts before this moment; then one probe may.
    Open {
        until: UnixMillis,
    },
    /// Open without an end: only a person may ask for a probe.
    Held,
    Probing {
        event: EventSeq,
    },
}

/// The circuit breaker of one endpoint.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: State,
    consecutive_failures: u32,
    openings: u16,
    opened_at: Option<UnixMillis>,
    last_failure: Option<OutcomeKind>,
    suspension: Option<Suspension>,
}

impl Breaker {
    /// Restores a saved breaker. A probe that was under way when it was saved is due again.
    #[must_use]
    pub fn new(settings: BreakerSettings, saved: Saved) -> Self {
        let Saved { consecutive_failures, openings, open_until, opened_at, last_failure, suspension } = saved;
        let state = match (open_until, suspension) {
            (Some(until), _) => State::Open { until },
            (None, Some(_)) => State::Held,
            (None, None) => State::Closed,
        };
        Self { settings, state, consecutive_failures, openings, opened_at, last_failure, suspension }
    }

    #[must_use]
    pub fn saved(&self) -> Saved {
        let open_until = match self.state {
            State::Closed | State::Held => None,
            State::Open { until } => Some(until),
            State::Probing { .. } => Some(DUE),
        };
        Saved {
            consecutive_failures: self.consecutive_failures,
            openings: self.openings,
            open_until,
            opened_at: self.opened_at,
            last_failure: self.last_failure,
            suspension: self.suspension,
        }
    }

    /// Whether a request may start now. Changes nothing: the caller reports a start with [`Self::started`].
    #[must_use]
    pub fn may_start(&self, now: UnixMillis) -> Permission {
        match self.state {
            State::Closed => Permission::Free,
            State::Open { until } if self.is_due(until, now) => Permission::Probe,
            State::Open { until } => Permission::Wait { until },
            State::Probing { .. } => Permission::ProbeUnderWay,
            State::Held => Permission::Held,
        }
    }

    /// Notes that a request has started. If the breaker is open, the request is the probe; otherwise nothing changes.
    pub fn started(&mut self, event: EventSeq) {
        match self.state {
            State::Open { .. } | State::Held => self.state = State::Probing { event },
            State::Closed | State::Probing { .. } => {}
        }
    }

    /// Notes how a request ended, whether it was the probe or not.
    ///
    /// A success closes the breaker, even a late one: a request that began before the breaker opened still proves that
    /// the receiver works. A late failure proves nothing new and must not lengthen the cool-down.
    ///
    /// `jitter`, from 0 to 1, lengthens a cool-down by up to a tenth, so that endpoints that failed together are not
    /// probed together.
    pub fn finished(&mut self, event: EventSeq, outcome: OutcomeKind, now: UnixMillis, jitter: f64) -> Option<Change> {
        match outcome {
            OutcomeKind::Success => self.succeeded(),
            // Our own fault: it says nothing about the receiver.
            OutcomeKind::Crashed => {
                self.not_sent(event);
                None
            }
            OutcomeKind::Rejected
            | OutcomeKind::Throttled
            | OutcomeKind::Gone
            | OutcomeKind::TimedOut
            | OutcomeKind::ConnectFailed
            | OutcomeKind::TlsFailed
            | OutcomeKind::DnsFailed
            | OutcomeKind::Blocked
            | OutcomeKind::ProtocolError => self.failed(event, outcome, now, jitter),
        }
    }

    /// Notes that a request was given up before anything was sent. If it was the probe, another may start at once.
    pub fn not_sent(&mut self, event: EventSeq) {
        if self.state == (State::Probing { event }) {
            self.state = State::Open { until: DUE };
        }
    }

    /// Ends the cool-down, because an operator asked. Returns whether there was one to end.
    pub fn probe_now(&mut self) -> bool {
        match self.state {
            State::Open { .. } | State::Held => {
                self.state = State::Open { until: DUE };
                true
            }
            State::Closed | State::Probing { .. } => false,
        }
    }

    /// Applies new settings, which neither open nor close the breaker. If the failures already exceed a lowered
    /// threshold, the next failure opens it. A cool-down ends if the new settings make it shorter, and is never
    /// lengthened.
    pub fn set_settings(&mut self, settings: BreakerSettings) {
        if self.suspension.is_none() && settings.cooldown(self.openings) < self.settings.cooldown(self.openings) {
            self.probe_now();
        }
        self.settings = settings;
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    #[must_use]
    pub fn view(&self, now: UnixMillis) -> View {
        let (state, next_probe_at) = match self.may_start(now) {
            Permission::Free => (ViewState::Closed, None),
            Permission::Wait { until } => (ViewState::Open, Some(until)),
            Permission::Held => (ViewState::Open, None),
            Permission::Probe | Permission::ProbeUnderWay => (ViewState::HalfOpen, None),
        };
        View {
            state,
            consecutive_failures: self.consecutive_failures,
            next_probe_at,
            opened_at: self.opened_at,
            last_failure: self.last_failure,
            suspension: self.suspension,
        }
    }

    /// Opens the breaker until a probe succeeds: an hourly one, or one that a person asks for.
    pub fn suspend(&mut self, suspension: Suspension, jitter: f64) {
        self.opened_at.get_or_insert(suspension.since);
        self.suspension = Some(suspension);
        self.open(suspension.since, jitter);
    }

    #[must_use]
    pub fn suspension(&self) -> Option<Suspension> {
        self.suspension
    }

    fn cooldown(&self) -> Duration {
        if self.suspension.is_some() { SUSPENDED_COOLDOWN } else { self.settings.cooldown(self.openings) }
    }

    /// Whether the cool-down is over. An end further away than a whole cool-down means that the clock has gone back
    /// since, or that settings were changed during a restart. Waiting for it gains nothing, and a probe costs one
    /// request.
    fn is_due(&self, until: UnixMillis, now: UnixMillis) -> bool {
        let left = until.since(now);
        left.is_zero() || left > lengthened(self.cooldown(), 1.0)
    }

    fn succeeded(&mut self) -> Option<Change> {
        let change = (!self.is_closed()).then_some(Change::Closed);
        *self = Self::new(self.settings, Saved::default());
        change
    }

    fn failed(&mut self, event: EventSeq, outcome: OutcomeKind, now: UnixMillis, jitter: f64) -> Option<Change> {
        match self.state {
            State::Closed => {
                self.count(outcome);
                let opens = self.consecutive_failures >= self.settings.failure_threshold.into();
                opens.then(|| {
                    self.opened_at = Some(now);
                    self.open(now, jitter);
                    Change::Opened
                })
            }
            State::Probing { event: probe } if probe == event => {
                self.count(outcome);
                self.open(now, jitter);
                Some(Change::Reopened)
            }
            State::Open { .. } | State::Held | State::Probing { .. } => None,
        }
    }

    fn count(&mut self, outcome: OutcomeKind) {
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.last_failure = Some(outcome);
    }

    fn open(&mut self, now: UnixMillis, jitter: f64) {
        self.openings = self.openings.saturating_add(1);
        self.state = match self.suspension.map(|suspension| suspension.cause) {
            Some(SuspensionCause::Gone) => State::Held,
            Some(SuspensionCause::Failing) | None => {
                State::Open { until: now.plus(lengthened(self.cooldown(), jitter)) }
            }
        };
    }
}

#[cfg(test)]
mod tests;
