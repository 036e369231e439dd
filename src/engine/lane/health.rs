//! What a lane has learnt of its receiver: the breaker, the concurrency, whether the receiver fails or is slow, and
//! since when it has only failed. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::delivery::breaker::{Breaker, Change, Permission, Saved, View};
use crate::domain::health::{Health, LastError};
use crate::domain::id::EventSeq;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::{Outcome, OutcomeKind};
use crate::domain::policy::Policy;
use crate::engine::concurrency::{Concurrency, Round, Signal};
use crate::engine::permits::Share;

use super::protocol::{Gauge, Said};

/// A request that takes longer than this occupies its permit for longer than a healthy one does.
pub const SLOW: Duration = Duration::from_secs(1);

/// A last failure of another kind is saved, but no more often than this.
const SAVE_OTHER_AFTER: Duration = Duration::from_secs(1);

/// A last failure of the same kind is saved again after this time: what is shown after a restart may be this old.
const SAVE_SAME_AFTER: Duration = Duration::from_secs(60);

/// How many bytes of an error's text are kept.
const ERROR_TEXT: usize = 256;

/// The owner is warned when this much of `disableAfterSeconds` has passed: with five days, one day before the end.
const WARN_AFTER: f64 = 0.8;

/// How a request ended.
#[derive(Debug, Clone)]
pub(super) struct RequestEnd<'a> {
    pub(super) event: EventSeq,
    pub(super) outcome: &'a Outcome,
    pub(super) said: Said,
    pub(super) took: Duration,
    pub(super) jitter: f64,
    /// Attempts that had started and not ended, this one included.
    pub(super) attempts: usize,
    pub(super) round: Round,
}

/// What the end of a request has changed besides its delivery.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Learnt {
    /// Health has changed and must be saved.
    pub(super) save: bool,
    pub(super) breaker: Option<Change>,
    /// The receiver has failed for most of the time until the webhook is switched off.
    pub(super) warn: bool,
    /// The receiver has failed for all of `disableAfterSeconds`.
    pub(super) give_up: bool,
}

#[derive(Debug)]
pub(super) struct Receiver {
    breaker: Breaker,
    concurrency: Concurrency,
    ailing: bool,
    failing_since: Option<UnixMillis>,
    warned_at: Option<UnixMillis>,
    last_error: Option<Arc<LastError>>,
    last_success_at: Option<UnixMillis>,
    /// The last failure as it is saved.
    saved_error: Option<Arc<LastError>>,
    /// The failure that reduced the concurrency.
    strained_by: Option<Arc<LastError>>,
}

impl Receiver {
    pub(super) fn new(policy: &Policy, health: Health) -> Self {
        let Health { consecutive_failures, openings, open_until, opened_at, last_failure, failing_since, .. } = health;
        let saved = Saved { consecutive_failures, openings, open_until, opened_at, last_failure };
        Self {
            breaker: Breaker::new(policy.breaker, saved),
            concurrency: Concurrency::new(policy.max_in_flight),
            ailing: failing_since.is_some(),
            failing_since,
            warned_at: health.warned_at,
            saved_error: health.last_error.clone(),
            last_error: health.last_error,
            last_success_at: health.last_success_at,
            strained_by: None,
        }
    }

    /// The part that survives a restart.
    pub(super) fn health(&self) -> Health {
        let Saved { consecutive_failures, openings, open_until, opened_at, last_failure } = self.breaker.saved();
        Health {
            consecutive_failures,
            openings,
            open_until,
            opened_at,
            last_failure,
            failing_since: self.failing_since,
            warned_at: self.warned_at,
            last_error: self.last_error.clone(),
            last_success_at: self.last_success_at,
        }
    }

    /// Adds what is known of the receiver to the gauge.
    pub(super) fn shown(&self, gauge: Gauge) -> Gauge {
        Gauge {
            strained_by: self.strained_by.clone(),
            share: self.share(),
            last_error: self.last_error.clone(),
            last_success_at: self.last_success_at,
            failing_since: self.failing_since,
            ..gauge
        }
    }

    pub(super) fn follow(&mut self, policy: &Policy) {
        self.breaker.set_settings(policy.breaker);
        self.concurrency.set_most(policy.max_in_flight);
    }

    pub(super) fn cap(&self) -> usize {
        self.concurrency.cap()
    }

    pub(super) fn round(&self) -> Round {
        self.concurrency.round()
    }

    pub(super) fn may_start(&self, now: UnixMillis) -> Permission {
        self.breaker.may_start(now)
    }

    pub(super) fn probe_started(&mut self, event: EventSeq) {
        self.breaker.started(event);
    }

    pub(super) fn not_sent(&mut self, event: EventSeq) {
        self.breaker.not_sent(event);
    }

    pub(super) fn probe_now(&mut self) -> bool {
        self.breaker.probe_now()
    }

    pub(super) fn is_well(&self) -> bool {
        self.breaker.is_closed()
    }

    /// Which part of the bulkhead the requests use.
    pub(super) fn share(&self) -> Share {
        if self.ailing || !self.is_well() { Share::Ailing } else { Share::Healthy }
    }

    pub(super) fn breaker(&self, now: UnixMillis) -> View {
        self.breaker.view(now)
    }

    pub(super) fn failing_since(&self) -> Option<UnixMillis> {
        self.failing_since
    }

    pub(super) fn ended(&mut self, ended: RequestEnd<'_>, policy: &Policy, now: UnixMillis) -> Learnt {
        let RequestEnd { event, outcome, said, took, jitter, attempts, round } = ended;
        let kind = outcome.kind();
        let is_news = self.remember(event, kind, said, now);
        self.adapt(Signal::from(kind), attempts, round);
        let breaker = self.breaker.finished(event, kind, now, jitter);
        if kind == OutcomeKind::Crashed {
            return Learnt { save: is_news, breaker, ..Learnt::default() };
        }
        self.ailing = kind != OutcomeKind::Success || took > SLOW;
        let failed_before = self.failing_since.is_some();
        if kind == OutcomeKind::Success {
            (self.failing_since, self.warned_at) = (None, None);
            return Learnt { save: failed_before || breaker.is_some(), breaker, ..Learnt::default() };
        }
        let since = *self.failing_since.get_or_insert(now);
        let (warn, give_up) = self.patience(since, policy, now);
        if warn {
            self.warned_at = Some(now);
        }
        let save = !failed_before || warn || breaker.is_some() || is_news;
        if save {
            self.saved_error.clone_from(&self.last_error);
        }
        Learnt { save, breaker, warn, give_up }
    }

    /// Remembers how the request ended; answers whether that is to be saved.
    fn remember(&mut self, event: EventSeq, kind: OutcomeKind, said: Said, now: UnixMillis) -> bool {
        if kind == OutcomeKind::Success {
            self.last_success_at = Some(now);
            return false;
        }
        let error = said.error.map(|mut text| {
            text.truncate(text.floor_char_boundary(ERROR_TEXT));
            text
        });
        let last = LastError { at: now, outcome: kind, status: said.status, error, event };
        let is_news = self.saved_error.as_ref().is_none_or(|saved| {
            let is_other = (saved.outcome, saved.status) != (last.outcome, last.status);
            now.since(saved.at) >= if is_other { SAVE_OTHER_AFTER } else { SAVE_SAME_AFTER }
        });
        let last = Some(Arc::new(last));
        if is_news {
            self.saved_error.clone_from(&last);
        }
        self.last_error = last;
        is_news
    }

    /// Adapts the concurrency. The failure that reduced it is kept until the concurrency is back at its maximum.
    fn adapt(&mut self, signal: Signal, attempts: usize, round: Round) {
        let before = self.concurrency.cap();
        self.concurrency.finished(signal, attempts, round);
        if self.concurrency.cap() < before || signal == Signal::Strained && before == 1 {
            self.strained_by.clone_from(&self.last_error);
        } else if self.concurrency.is_full() {
            self.strained_by = None;
        }
    }

    fn patience(&self, since: UnixMillis, policy: &Policy, now: UnixMillis) -> (bool, bool) {
        let (failing, patience) = (now.since(since), Duration::from_secs(policy.disable_after_seconds.into()));
        let warn = self.warned_at.is_none() && failing >= patience.mul_f64(WARN_AFTER);
        (warn, failing >= patience)
    }
}

/// The breaker of a sleeping endpoint, for display.
#[must_use]
pub fn breaker_of(policy: &Policy, health: Health, now: UnixMillis) -> View {
    Receiver::new(policy, health).breaker(now)
}
