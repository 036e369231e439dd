//! Turns what `backlog` has read into what the API shows. Pure.

use std::time::Instant;

use crate::delivery::breaker::{View, ViewState};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::Policy;
use crate::engine::endpoint::MAILBOX;
use crate::engine::endpoint_stats::StatsSnapshot;
use crate::engine::lane::{Gauge, WINDOW};
use crate::engine::rates::Snapshot;
use crate::engine::registry::Crashes;
use crate::store::deliveries::{COUNTED, Head};
use crate::store::unreadable::UnreadableRow;
use crate::store::webhooks::WebhookSummary;

use super::receivers::Receiver;
use super::why::{self, Counts, Facts, Fate, Node};
use super::{Actor, Backlog, EndpointState};

/// What the store and the registry know of a webhook.
pub(super) struct Known {
    pub(super) now: UnixMillis,
    pub(super) oldest_at: Option<UnixMillis>,
    pub(super) head: Option<Head>,
    pub(super) fate: Option<Fate>,
    pub(super) paused_by: Option<String>,
    pub(super) receiver: Receiver,
    pub(super) crashes: Crashes,
    /// The row that keeps the webhook from being served, if one cannot be read.
    pub(super) unreadable: Option<UnreadableRow>,
}

/// Everything that was read of a webhook.
pub(super) struct Seen {
    pub(super) known: Known,
    pub(super) pending: u64,
    /// As the ledger counts: exact to the second or the minute.
    pub(super) scheduled: u64,
    pub(super) breaker: View,
    pub(super) policy: Policy,
    pub(super) taken: Option<StatsSnapshot>,
    pub(super) node: Node,
    /// Due rows that cannot be read; counted only where nothing else explains why due deliveries are not sent.
    pub(super) unsendable: u64,
}

impl Seen {
    pub(super) fn state(&self, webhook: &WebhookSummary) -> EndpointState {
        if !webhook.is_active {
            EndpointState::Inactive
        } else if webhook.paused_at.is_some() {
            EndpointState::Paused
        } else if self.known.crashes.quarantined || self.known.unreadable.is_some() {
            EndpointState::Quarantined
        } else if self.breaker.suspension.is_some() {
            EndpointState::Suspended
        } else if self.breaker.state == ViewState::Closed {
            EndpointState::Active
        } else {
            EndpointState::Open
        }
    }

    /// Since when the receiver has only failed; the live endpoint knows better than the row.
    pub(super) fn failing_since(&self, webhook: &WebhookSummary) -> Option<UnixMillis> {
        let live = self.taken.as_ref().map(|taken| &taken.live).filter(|live| live.since.is_some());
        live.map_or(webhook.health.failing_since, |live| live.gauge.failing_since)
    }

    /// When the first delivery of an ordered webhook is retried, if that is what all others wait for.
    fn blocking(&self) -> Option<UnixMillis> {
        let head = self.known.head.as_ref().filter(|_| self.policy.ordered)?;
        head.first.next_at.filter(|at| *at > self.known.now)
    }

    fn counts(&self, state: EndpointState) -> Counts {
        let in_flight = self.taken.as_ref().map_or(0, |taken| taken.in_flight);
        let in_flight = self.pending.min(in_flight as u64);
        // The head counts rows exactly, up to `COUNTED`; above that the ledger's count is nearer.
        let counted = self.known.head.as_ref().map_or(0, |head| head.scheduled);
        let scheduled = if counted < COUNTED { counted } else { counted.max(self.scheduled) };
        let scheduled = scheduled.min(self.pending - in_flight);
        let due = self.pending - in_flight - scheduled;
        let flows = state == EndpointState::Active && self.blocking().is_none();
        let (ready, held) = if flows { (due, 0) } else { (0, due) };
        Counts { ready, scheduled, held, in_flight }
    }

    /// Deliveries are due and nothing is in flight: either they are about to be read, or they cannot be.
    pub(super) fn may_be_stuck(&self, webhook: &WebhookSummary) -> bool {
        let state = self.state(webhook);
        let counts = self.counts(state);
        let waits = |taken: &StatsSnapshot| {
            let Gauge { limited_until, slow_until, attempts, .. } = taken.live.gauge;
            limited_until.or(slow_until).is_some() || attempts > 0
        };
        state == EndpointState::Active
            && counts.ready > 0
            && counts.in_flight == 0
            && !self.taken.as_ref().is_some_and(waits)
            && self.node.serves_it
    }

    fn why(
        &self,
        webhook: &WebhookSummary,
        (state, counts): (EndpointState, Counts),
        throttled_ms: u64,
    ) -> Option<String> {
        let taken = self.taken.as_ref();
        why::sentence(&Facts {
            webhook,
            state,
            paused_by: self.known.paused_by.as_deref(),
            breaker: self.breaker,
            receiver: &self.known.receiver,
            crashes: self.known.crashes,
            unreadable: self.known.unreadable.as_ref(),
            crash: taken.and_then(|taken| taken.crash.as_deref()),
            counts,
            lane: taken.filter(|taken| taken.live.since.is_some()).map(|taken| &taken.live.gauge),
            waits: taken.map(|taken| taken.waits).unwrap_or_default(),
            policy: &self.policy,
            throttled_ms,
            head: self.known.head.as_ref(),
            fate: self.known.fate,
            node: self.node,
            unsendable: self.unsendable,
            now: self.known.now,
        })
    }

    pub(super) fn told(self, webhook: WebhookSummary, now: Instant) -> Backlog {
        let state = self.state(&webhook);
        let counts = self.counts(state);
        let live = self.taken.as_ref().map(|taken| taken.live.clone()).unwrap_or_default();
        let wait = live.gauge.limited_until.map(|until| until.saturating_duration_since(now));
        let throttled_ms = wait.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        let rates = self.taken.as_ref().map_or(Snapshot::NOTHING, |taken| taken.rates);
        let why = self.why(&webhook, (state, counts), throttled_ms);
        let crash = self.taken.as_ref().and_then(|taken| taken.crash.clone());
        Backlog {
            as_of: self.known.now,
            num: webhook.num,
            webhook: webhook.id,
            tenant: webhook.tenant,
            state,
            why,
            pending: self.pending,
            ready: counts.ready,
            scheduled: counts.scheduled,
            held: counts.held,
            in_flight: counts.in_flight,
            oldest_at: self.known.oldest_at,
            next_attempt_at: self.next_attempt_at(state, counts, throttled_ms),
            in_per_second: rates.in_per_second,
            out_per_second: rates.out_per_second,
            success_5m: rates.success_5m,
            success_1h: rates.success_1h,
            latency: rates.latency,
            rate_limit: self.policy.rate_limit,
            throttled_ms,
            breaker: self.breaker,
            actor: Actor {
                since: live.since,
                mailbox: self.taken.as_ref().map_or(0, |taken| taken.mailbox),
                mailbox_capacity: MAILBOX,
                window: live.gauge.window,
                window_capacity: WINDOW,
                restarts: self.known.crashes.recent,
                crash,
            },
            receiver: self.known.receiver,
            name: webhook.name,
        }
    }

    /// When the next request starts, if that is known and in the future.
    fn next_attempt_at(&self, state: EndpointState, counts: Counts, throttled_ms: u64) -> Option<UnixMillis> {
        let ahead = |at: &UnixMillis| *at > self.known.now;
        match state {
            EndpointState::Paused | EndpointState::Inactive | EndpointState::Quarantined => None,
            EndpointState::Open | EndpointState::Suspended => {
                self.breaker.next_probe_at.filter(|_| self.pending > 0).filter(ahead)
            }
            EndpointState::Active if counts.in_flight > 0 => None,
            EndpointState::Active if counts.ready > 0 && throttled_ms > 0 => {
                Some(UnixMillis(self.known.now.0.saturating_add_unsigned(throttled_ms)))
            }
            EndpointState::Active if counts.ready > 0 => None,
            EndpointState::Active => self.known.head.as_ref().and_then(|head| head.first.next_at).filter(ahead),
        }
    }
}
