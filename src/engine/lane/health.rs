//! What a lane has learnt of its receiver: the breaker, the concurrency, whether the receiver fails or is slow, and
//! since when it has only failed. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::delivery::breaker::{Breaker, Change, Permission, Saved, View};
use crate::domain::health::{Health, LastError, Suspension, SuspensionCause};
use crate::domain::id::EventSeq;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::{Outcome, OutcomeKind};
use crate::domain::policy::Policy;
use crate::engine::concurrency::{Concurrency, Round, Signal};
use crate::engine::permits::Share;

use super::protocol::{Gauge, News, Now, Said};
use super::slow_start::SlowStart;

/// A request that takes longer than this occupies its permit for longer than a healthy one does.
pub const SLOW: Duration = Duration::from_secs(1);

/// A last failure of another kind is saved, but no more often than this.
const SAVE_OTHER_AFTER: Duration = Duration::from_secs(1);

/// A last failure of the same kind is saved again after this time: what is shown after a restart may be this old.
const SAVE_SAME_AFTER: Duration = Duration::from_secs(60);

/// How many bytes of an error's text are kept.
const ERROR_TEXT: usize = 256;

/// The owner is warned when these parts of `disableAfterSeconds` have passed.
const WARN_AFTER: [f64; 2] = [0.5, 0.8];

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
    pub(super) news: Option<News>,
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
    recovered_at: Option<UnixMillis>,
    slow_start: Option<SlowStart>,
}

impl Receiver {
    pub(super) fn new(policy: &Policy, health: Health) -> Self {
        let Health { consecutive_failures, openings, open_until, opened_at, last_failure, failing_since, .. } = health;
        let suspension = health.suspension;
        let saved = Saved { consecutive_failures, openings, open_until, opened_at, last_failure, suspension };
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
            recovered_at: health.recovered_at,
            slow_start: health.recovered_at.map(SlowStart::new),
        }
    }

    /// The part that survives a restart.
    pub(super) fn health(&self) -> Health {
        let Saved { consecutive_failures, openings, open_until, opened_at, last_failure, suspension } =
            self.breaker.saved();
        Health {
            consecutive_failures,
            openings,
            open_until,
            opened_at,
            last_failure,
            failing_since: self.failing_since,
            warned_at: self.warned_at,
            suspension,
            recovered_at: self.recovered_at,
            last_error: self.last_error.clone(),
            last_success_at: self.last_success_at,
        }
    }

    /// Adds what is known of the receiver to the gauge.
    pub(super) fn shown(&self, gauge: Gauge, now: UnixMillis) -> Gauge {
        Gauge {
            strained_by: self.strained_by.clone(),
            share: self.share(),
            last_error: self.last_error.clone(),
            last_success_at: self.last_success_at,
            failing_since: self.failing_since,
            slow_start: self.slow_start.as_ref().and_then(|slow| slow.rate(now)),
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

    pub(super) fn is_suspended(&self) -> bool {
        self.breaker.suspension().is_some()
    }

    /// Before when no request of the backlog may start, because the receiver has just come back.
    pub(super) fn slow_until(&self, now: Now) -> Option<Instant> {
        self.slow_start.as_ref().and_then(|slow| slow.waits_until(now))
    }

    pub(super) fn started(&mut self, now: Now) {
        if let Some(slow) = &mut self.slow_start {
            slow.started(now);
        }
    }

    pub(super) fn ended(&mut self, ended: RequestEnd<'_>, policy: &Policy, now: UnixMillis) -> Learnt {
        let RequestEnd { event, outcome, said, took, jitter, attempts, round } = ended;
        let kind = outcome.kind();
        let is_news = self.remember(event, kind, said, now);
        self.adapt(Signal::from(kind), attempts, round);
        let suspension = self.breaker.suspension();
        let mut breaker = self.breaker.finished(event, kind, now, jitter);
        if kind == OutcomeKind::Crashed {
            return Learnt { save: is_news, breaker, ..Learnt::default() };
        }
        self.ailing = kind != OutcomeKind::Success || took > SLOW;
        let failed_before = self.failing_since.is_some();
        if kind == OutcomeKind::Success {
            (self.failing_since, self.warned_at) = (None, None);
            let news = suspension.map(|Suspension { since, cause }| News::Recovered { since, cause });
            if news.is_some() {
                (self.recovered_at, self.slow_start) = (Some(now), Some(SlowStart::new(now)));
            }
            return Learnt { save: failed_before || breaker.is_some(), breaker, news };
        }
        let failing_since = *self.failing_since.get_or_insert(now);
        let news = self.news_of_failure(kind, failing_since, policy, now);
        if let Some(News::Suspended { cause, .. }) = news {
            self.breaker.suspend(Suspension { since: now, cause }, jitter);
            breaker = breaker.or(Some(Change::Opened));
        }
        if let Some(suspension) = suspension.filter(|_| kind == OutcomeKind::Gone) {
            self.breaker.suspend(Suspension { cause: SuspensionCause::Gone, ..suspension }, jitter);
        }
        if let Some(News::Failing { .. }) = news {
            self.warned_at = Some(now);
        }
        let save = !failed_before || news.is_some() || breaker.is_some() || is_news;
        if save {
            self.saved_error.clone_from(&self.last_error);
        }
        Learnt { save, breaker, news }
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

    /// What the owner must hear of a failure: that the webhook is suspended now, or will be.
    fn news_of_failure(
        &self,
        outcome: OutcomeKind,
        failing_since: UnixMillis,
        policy: &Policy,
        now: UnixMillis,
    ) -> Option<News> {
        if self.breaker.suspension().is_some() {
            return None;
        }
        if outcome == OutcomeKind::Gone {
            return Some(News::Suspended { cause: SuspensionCause::Gone, failing_since });
        }
        let (failing, patience) = (now.since(failing_since), Duration::from_secs(policy.disable_after_seconds.into()));
        if failing >= patience {
            return Some(News::Suspended { cause: SuspensionCause::Failing, failing_since });
        }
        let warned_after = self.warned_at.map(|warned_at| warned_at.since(failing_since));
        let is_due = |part: &f64| {
            let after = patience.mul_f64(*part);
            failing >= after && warned_after.is_none_or(|warned| warned < after)
        };
        WARN_AFTER
            .iter()
            .any(is_due)
            .then_some(News::Failing { failing_since, suspended_at: failing_since.plus(patience) })
    }
}

/// The breaker of a sleeping endpoint, for display.
#[must_use]
pub fn breaker_of(policy: &Policy, health: Health, now: UnixMillis) -> View {
    Receiver::new(policy, health).breaker(now)
}
