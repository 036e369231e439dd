//! What waits for each webhook, since when and why. Reads the ledger, the pulses and a few indexed rows; counts nothing.

use crate::clock::UnixMillis;
use crate::delivery::breaker::{View, ViewState};
use crate::delivery::outcome::OutcomeKind;
use crate::id::{TenantNum, WebhookId, WebhookNum};
use crate::store::StoreError;
use crate::store::backlog::Among;
use crate::store::webhooks::{Webhook, WebhookSummary};

use super::endpoint::MAILBOX;
use super::lane::{WINDOW, breaker_of};
use super::pulse::Taken;
use super::registry::Crashes;
use super::vitals::{Percentiles, Snapshot};
use super::{Engine, Policy, RateLimit};

mod why;

/// How an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    Active,
    /// An operator holds it.
    Paused,
    /// It is switched off.
    Inactive,
    /// Its receiver fails and is left alone.
    Open,
    /// Its actor crashed too often.
    Quarantined,
}

/// Which backlogs come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BacklogOrder {
    /// Who has waited for the longest time.
    Oldest,
    /// Who waits for the most.
    Depth,
}

/// The backlog of one webhook. Every delivery that is pending is one of ready, scheduled, held or in flight.
#[derive(Debug, Clone)]
pub struct Backlog {
    pub webhook: WebhookId,
    pub state: EndpointState,
    /// What keeps its deliveries from flowing, in a sentence; `None` when nothing does.
    pub why: Option<String>,
    pub pending: u64,
    /// Due, and about to be sent.
    pub ready: u64,
    /// They wait for their time.
    pub scheduled: u64,
    /// Due, and kept back by the state.
    pub held: u64,
    pub in_flight: u64,
    /// When the oldest pending event was accepted.
    pub oldest_at: Option<UnixMillis>,
    pub next_attempt_at: Option<UnixMillis>,
    pub in_per_second: f64,
    pub out_per_second: f64,
    pub success_5m: Option<f64>,
    pub success_1h: Option<f64>,
    pub latency: Option<Percentiles>,
    pub rate_limit: Option<RateLimit>,
    /// Until the limiter lets the next one through.
    pub throttled_ms: u64,
    pub breaker: View,
    pub actor: Actor,
}

/// The live half of a webhook.
#[derive(Debug, Clone, Copy)]
pub struct Actor {
    /// Since when; `None` while it sleeps.
    pub since: Option<UnixMillis>,
    pub mailbox: u32,
    pub mailbox_capacity: usize,
    pub window: usize,
    pub window_capacity: usize,
    /// Crashes that count against it.
    pub restarts: u32,
}

impl Engine {
    /// What waits for a webhook.
    pub async fn backlog(&self, webhook: &Webhook) -> Result<Option<Backlog>, StoreError> {
        Ok(self.backlogs_of(&[webhook.num]).await?.pop())
    }

    /// The worst backlogs of a tenant, or of all, `limit` of them after the first `skipped`; webhooks without any are
    /// left out. Only those that are answered are read.
    pub async fn backlogs(
        &self,
        tenant: Option<TenantNum>,
        order: BacklogOrder,
        skipped: usize,
        limit: usize,
    ) -> Result<Vec<Backlog>, StoreError> {
        let ranked = skipped.saturating_add(limit);
        let ledger = &self.inner.shared.ledger;
        let of_tenant = tenant.map(|tenant| self.inner.routes.of_tenant(tenant));
        let among = of_tenant.as_deref().map_or(Among::All, Among::These);
        let nums: Vec<WebhookNum> = match order {
            BacklogOrder::Depth => ledger.deepest(among, ranked).into_iter().map(|(num, _)| num).collect(),
            BacklogOrder::Oldest => ledger.oldest_first(among, ranked).await?.into_iter().map(|(num, _)| num).collect(),
        };
        self.backlogs_of(nums.get(skipped..).unwrap_or_default()).await
    }

    /// In the order of the numbers given; those that are deleted are left out.
    async fn backlogs_of(&self, nums: &[WebhookNum]) -> Result<Vec<Backlog>, StoreError> {
        let mut summaries = self.inner.store.webhook_summaries(nums).await?;
        let oldest = self.inner.shared.ledger.oldest_of(nums).await?;
        let crashes = self.inner.registry.crashes(nums.to_vec()).await;
        let mut backlogs = Vec::with_capacity(nums.len());
        for (at, num) in nums.iter().enumerate() {
            if let Some(summary) = summaries.remove(num) {
                let oldest_at = oldest.get(num).map(|event| event.accepted_at());
                backlogs.push(self.backlog_of(summary, oldest_at, crashes.get(at).copied().unwrap_or_default()));
            }
        }
        Ok(backlogs)
    }

    fn backlog_of(&self, summary: WebhookSummary, oldest_at: Option<UnixMillis>, crashes: Crashes) -> Backlog {
        let (ledger, now) = (&self.inner.shared.ledger, UnixMillis::now());
        let num = summary.num;
        let taken = self.inner.shared.pulses.find(num).map(|pulse| pulse.take());
        let policy: Policy = serde_json::from_value(summary.policy.clone()).unwrap_or_default();
        let breaker = taken.and_then(|taken| taken.live.breaker);
        let seen = Seen {
            pending: ledger.pending(num),
            scheduled: ledger.scheduled(num, now),
            oldest_at,
            next_due: summary.next_due,
            breaker: breaker.unwrap_or_else(|| breaker_of(&policy, summary.health, now)),
            policy,
            taken,
            crashes,
        };
        seen.told(&summary)
    }
}

/// Everything that was looked at.
struct Seen {
    pending: u64,
    scheduled: u64,
    oldest_at: Option<UnixMillis>,
    next_due: Option<UnixMillis>,
    breaker: View,
    policy: Policy,
    taken: Option<Taken>,
    crashes: Crashes,
}

impl Seen {
    fn state(&self, webhook: &WebhookSummary) -> EndpointState {
        if !webhook.is_active {
            EndpointState::Inactive
        } else if webhook.paused_at.is_some() {
            EndpointState::Paused
        } else if self.crashes.quarantined {
            EndpointState::Quarantined
        } else if self.breaker.state == ViewState::Closed {
            EndpointState::Active
        } else {
            EndpointState::Open
        }
    }

    fn told(self, webhook: &WebhookSummary) -> Backlog {
        let state = self.state(webhook);
        let live = self.taken.map(|taken| taken.live).unwrap_or_default();
        let in_flight = self.pending.min(live.in_flight as u64);
        let scheduled = self.scheduled.min(self.pending - in_flight);
        let due = self.pending - in_flight - scheduled;
        let (ready, held) = if state == EndpointState::Active { (due, 0) } else { (0, due) };
        let wait = live.limited_until.map(|until| until.saturating_duration_since(std::time::Instant::now()));
        let throttled_ms = wait.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        let vitals = self.taken.map(|taken| taken.vitals).unwrap_or(Snapshot::NOTHING);
        let figures = why::Figures { ready, in_flight, throttled_ms };
        Backlog {
            webhook: webhook.id,
            state,
            why: why::sentence(webhook, state, &self.breaker, self.crashes.recent, figures),
            pending: self.pending,
            ready,
            scheduled,
            held,
            in_flight,
            oldest_at: self.oldest_at,
            next_attempt_at: self.next_attempt_at(state),
            in_per_second: vitals.in_per_second,
            out_per_second: vitals.out_per_second,
            success_5m: vitals.success_5m,
            success_1h: vitals.success_1h,
            latency: vitals.latency,
            rate_limit: self.policy.rate_limit,
            throttled_ms,
            breaker: self.breaker,
            actor: Actor {
                since: live.since,
                mailbox: self.taken.map_or(0, |taken| taken.mailbox),
                mailbox_capacity: MAILBOX,
                window: live.window,
                window_capacity: WINDOW,
                restarts: self.crashes.recent,
            },
        }
    }

    /// What is only owed by a fan-out is due since it was accepted.
    fn next_attempt_at(&self, state: EndpointState) -> Option<UnixMillis> {
        match state {
            EndpointState::Paused | EndpointState::Inactive | EndpointState::Quarantined => None,
            EndpointState::Open => self.breaker.next_probe_at.filter(|_| self.pending > 0),
            EndpointState::Active => self.next_due.or(self.oldest_at),
        }
    }
}

/// An outcome as a word.
fn word(outcome: Option<OutcomeKind>) -> &'static str {
    outcome.map_or("unknown", OutcomeKind::as_str)
}
