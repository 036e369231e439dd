//! One delivery in memory, and its next state after an attempt. Pure.

use std::sync::Arc;

use crate::delivery::retry::{Verdict, decide};
use crate::domain::delivery::{DeliveryState, Due, Fallback, Status, Trigger};
use crate::domain::event::Event;
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::Outcome;
use crate::domain::policy::Policy;
use crate::engine::TEST_EVENT;

/// A delivery in memory.
#[derive(Debug, Clone)]
pub struct Entry {
    pub event: Arc<Event>,
    pub state: DeliveryState,
    pub trigger: Trigger,
    /// Whether the delivery has a row; otherwise only its fan-out knows it.
    pub stored: bool,
}

impl Entry {
    /// An entry for a target of a fan-out.
    #[must_use]
    pub fn offered(event: Arc<Event>, recovered: bool) -> Self {
        let state = DeliveryState::pending(None);
        let trigger = match (recovered, event.kind == TEST_EVENT) {
            (true, _) => Trigger::Recovery,
            (false, true) => Trigger::Test,
            (false, false) => Trigger::Scheduled,
        };
        Self { event, state, trigger, stored: false }
    }

    /// An entry read back from its row.
    #[must_use]
    pub fn stored(due: Due, in_doubt: InDoubt) -> Self {
        let Due { event, state } = due;
        let unanswered = state.attempts == 0 && event.seq <= in_doubt.events_to;
        let maybe_sent = unanswered || state.next_at.is_some_and(|at| at <= in_doubt.due_to);
        let trigger = if let Some(asked_for) = asked_for(&state) {
            asked_for
        } else if maybe_sent {
            Trigger::Recovery
        } else if event.kind == TEST_EVENT {
            Trigger::Test
        } else if state.attempts == 0 {
            Trigger::Scheduled
        } else {
            Trigger::Retry
        };
        Self { event, state, trigger, stored: true }
    }

    /// The same entry, in doubt: the receiver may have seen it although no attempt says so.
    #[must_use]
    pub fn maybe_sent(self) -> Self {
        let trigger = asked_for(&self.state).unwrap_or(Trigger::Recovery);
        Self { trigger, ..self }
    }

    /// Whether a person waits for the delivery: it is sent even while the breaker is open.
    #[must_use]
    pub fn is_manual(&self) -> bool {
        asked_for(&self.state) == Some(Trigger::Manual) || self.event.kind == TEST_EVENT
    }

    /// When the delivery falls due. Without a row it is as old as its event, so that it does not overtake rows that
    /// have waited for longer. A delivery that waits for no retry is due whatever the clock says; so is one that a
    /// person waits for, and it goes before all others.
    #[must_use]
    pub fn due(&self, now: UnixMillis) -> UnixMillis {
        match self.state.next_at {
            Some(at) if self.is_manual() || self.state.tries == 0 => at.min(now),
            Some(at) => at,
            None => self.event.seq.accepted_at().min(now),
        }
    }
}

/// Who asks for the next attempt, if a person or an operation does.
fn asked_for(state: &DeliveryState) -> Option<Trigger> {
    state.manual.map(|fallback| if fallback.is_replay { Trigger::Replay } else { Trigger::Manual })
}

/// What an outcome of the webhook's former URL means for the webhook: a `410` from there says nothing about the receiver
/// of now.
pub(super) fn of_former_url(outcome: Outcome) -> Outcome {
    if outcome == Outcome::Gone { Outcome::Rejected } else { outcome }
}

/// The delivery's state after an attempt while the webhook is suspended: a failure uses up no retry, because nothing
/// that is owed may be lost meanwhile. The delivery waits behind the others, so that one that the receiver never accepts
/// does not keep the webhook suspended.
pub(super) fn after_probe(entry: &Entry, outcome: &Outcome, now: UnixMillis) -> DeliveryState {
    let Entry { state, event, .. } = entry;
    if *outcome != Outcome::Success && state.manual.is_none() && event.kind != TEST_EVENT {
        return waiting(*state, state.tries, Some(now));
    }
    after_attempt(&Policy::default(), entry, outcome, 0.0, now)
}

/// The delivery's state after an attempt.
pub(super) fn after_attempt(
    policy: &Policy,
    entry: &Entry,
    outcome: &Outcome,
    jitter: f64,
    now: UnixMillis,
) -> DeliveryState {
    if let Some(fallback) = entry.state.manual {
        return after_manual(entry.state, fallback, outcome, now);
    }
    let tries = entry.state.tries + 1;
    if entry.event.kind == TEST_EVENT {
        let status = if *outcome == Outcome::Success { Status::Success } else { Status::Failed };
        return settled(entry.state, status, tries, now);
    }
    match decide(&policy.retry_policy, tries, outcome, now, jitter) {
        Verdict::Done => settled(entry.state, Status::Success, tries, now),
        Verdict::Exhausted | Verdict::Gone => settled(entry.state, Status::Failed, tries, now),
        Verdict::RetryAt(at) => waiting(entry.state, tries, Some(at)),
    }
}

/// A manual retry or a replay that fails changes nothing but the count of attempts.
fn after_manual(before: DeliveryState, fallback: Fallback, outcome: &Outcome, now: UnixMillis) -> DeliveryState {
    match (outcome, fallback.status) {
        (Outcome::Success, _) => settled(before, Status::Success, before.tries, now),
        (_, Status::Pending) => waiting(before, before.tries, fallback.next_at),
        (_, ended) => DeliveryState { settled_at: before.settled_at, ..settled(before, ended, before.tries, now) },
    }
}

fn settled(before: DeliveryState, status: Status, tries: u16, now: UnixMillis) -> DeliveryState {
    let attempts = before.attempts + 1;
    DeliveryState { status, attempts, tries, next_at: None, settled_at: Some(now), manual: None }
}

fn waiting(before: DeliveryState, tries: u16, next_at: Option<UnixMillis>) -> DeliveryState {
    let attempts = before.attempts + 1;
    DeliveryState { status: Status::Pending, attempts, tries, next_at, settled_at: None, manual: None }
}
