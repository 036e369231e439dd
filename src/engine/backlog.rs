//! Answers what waits for each webhook, since when and why. The API calls it; it reads the ledger, the endpoint stats
//! and a few indexed rows, and counts no rows itself.

mod facts;
mod receivers;
mod standing;
pub(super) mod why;

use std::collections::HashMap;
use std::sync::Arc;

use crate::delivery::breaker::View;
use crate::domain::health::LastError;
use crate::domain::id::{DeliveryId, EventSeq, TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::policy::RateLimit;
use crate::journal::ledger::Among;
use crate::store::StoreError;
use crate::store::audit::Action;
use crate::store::deliveries::Head;
use crate::store::unreadable::UnreadableRow;
use crate::store::webhooks::WebhookSummary;

use super::Engine;
use super::lane::breaker_of;
use super::rates::Percentiles;

pub use self::receivers::Receiver;
pub use self::standing::{Standing, TroubleKind};
pub use self::why::cannot_be_served;

use self::facts::{Known, Seen};
use self::why::{Fate, Node};

/// The state of an endpoint as the API shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    Active,
    /// Paused by an operator.
    Paused,
    /// The webhook is switched off.
    Inactive,
    /// The receiver has failed for too long, or is gone: only probes and what a person asked for are sent.
    Suspended,
    /// The breaker is not closed: only probes and what a person asked for are sent.
    Open,
    /// The actor crashed too often, or the webhook's row cannot be read.
    Quarantined,
}

impl EndpointState {
    pub const ALL: [Self; 6] =
        [Self::Active, Self::Paused, Self::Inactive, Self::Suspended, Self::Open, Self::Quarantined];
}

/// The order of a list of backlogs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BacklogOrder {
    /// The oldest pending event first.
    Oldest,
    /// The most pending deliveries first.
    Depth,
}

/// The backlog of one webhook. Every pending delivery is counted once: as ready, scheduled, held or in flight.
#[derive(Debug, Clone)]
pub struct Backlog {
    /// When the backlog was read.
    pub as_of: UnixMillis,
    pub num: WebhookNum,
    pub webhook: WebhookId,
    pub tenant: TenantNum,
    pub name: String,
    pub state: EndpointState,
    /// What keeps the deliveries from flowing, in a sentence; `None` when nothing does.
    pub why: Option<String>,
    pub pending: u64,
    /// Due, and about to be sent.
    pub ready: u64,
    /// Not due yet.
    pub scheduled: u64,
    /// Due, and kept back by the state or, in an ordered webhook, by the delivery before them.
    pub held: u64,
    pub in_flight: u64,
    /// When the oldest pending event was accepted.
    pub oldest_at: Option<UnixMillis>,
    /// `None` when a delivery is due or in flight, or nothing is pending.
    pub next_attempt_at: Option<UnixMillis>,
    pub receiver: Receiver,
    pub in_per_second: f64,
    pub out_per_second: f64,
    pub success_5m: Option<f64>,
    pub success_1h: Option<f64>,
    pub latency: Option<Percentiles>,
    pub rate_limit: Option<RateLimit>,
    /// Until the limiter lets the next request start.
    pub throttled_ms: u64,
    pub breaker: View,
    pub actor: Actor,
}

/// The live half of a webhook.
#[derive(Debug, Clone)]
pub struct Actor {
    /// Since when the actor lives; `None` while the endpoint is asleep.
    pub since: Option<UnixMillis>,
    pub mailbox: u32,
    pub mailbox_capacity: usize,
    pub window: usize,
    pub window_capacity: usize,
    /// Crashes in a row.
    pub restarts: u32,
    /// Where the actor crashed last, as file and line.
    pub crash: Option<Arc<str>>,
}

impl Engine {
    /// The backlog of a webhook; `None` if it is deleted. The webhook's rows are read as its endpoint would read them:
    /// while the endpoint is asleep, nothing else finds out that they cannot be read.
    pub async fn backlog(&self, num: WebhookNum) -> Result<Option<Backlog>, StoreError> {
        Ok(self.backlogs_of(&[num], true).await?.pop())
    }

    /// The worst backlogs of a tenant, or of all tenants: `limit` of them after the first `skipped`. Webhooks without a
    /// backlog are left out. Only the rows of the webhooks in the answer are read.
    pub async fn backlogs(
        &self,
        tenant: Option<TenantNum>,
        order: BacklogOrder,
        skipped: usize,
        limit: usize,
    ) -> Result<Vec<Backlog>, StoreError> {
        let ranked = skipped.saturating_add(limit);
        let ledger = &self.inner.context.ledger;
        let of_tenant = tenant.map(|tenant| self.inner.routes.of_tenant(tenant));
        let among = of_tenant.as_deref().map_or(Among::All, Among::These);
        let nums: Vec<WebhookNum> = match order {
            BacklogOrder::Depth => ledger.deepest(among, ranked).into_iter().map(|(num, _)| num).collect(),
            BacklogOrder::Oldest => ledger.oldest_first(among, ranked).await?.into_iter().map(|(num, _)| num).collect(),
        };
        self.backlogs_of(nums.get(skipped..).unwrap_or_default(), false).await
    }

    /// In the order of `nums`; deleted webhooks are left out. `closely` also reads rows that otherwise only an endpoint
    /// reads, which would be too many for a list.
    async fn backlogs_of(&self, nums: &[WebhookNum], closely: bool) -> Result<Vec<Backlog>, StoreError> {
        let store = &self.inner.store;
        let now = self.inner.context.host.now();
        let mut summaries = store.webhook_summaries(nums).await?;
        let oldest = self.inner.context.ledger.oldest_of(nums).await?;
        let crashes = self.inner.registry.crashes(nums.to_vec()).await;
        let mut heads = self.heads(&summaries, now).await?;
        let mut pausers = self.pausers(&summaries).await?;
        let healths = summaries.iter().map(|(num, summary)| (*num, summary.health.clone())).collect();
        let mut receivers = self.receivers_with(nums, healths).await?;
        let mut backlogs = Vec::with_capacity(nums.len());
        for (at, num) in nums.iter().enumerate() {
            let Some(summary) = summaries.remove(num) else { continue };
            let receiver = receivers.remove(num).unwrap_or_default();
            let oldest = oldest.get(num).copied();
            let known = Known {
                now,
                oldest_at: oldest.map(EventSeq::accepted_at),
                head: heads.remove(num),
                fate: self.fate(*num, oldest.is_some(), receiver.last_error.as_deref()).await?,
                paused_by: pausers.remove(&summary.id.to_string()),
                receiver,
                crashes: crashes.get(at).copied().unwrap_or_default(),
                unreadable: self.unreadable_row(&summary, closely).await?,
            };
            let mut seen = self.seen(&summary, known);
            if closely && seen.may_be_stuck(&summary) {
                seen.unsendable = store.unsendable(&self.inner.context.shard_set, *num, seen.policy.ordered).await?;
            }
            backlogs.push(seen.told(summary, self.inner.context.host.steady()));
        }
        Ok(backlogs)
    }

    /// The row that keeps the webhook from being served, if one cannot be read.
    async fn unreadable_row(
        &self,
        summary: &WebhookSummary,
        closely: bool,
    ) -> Result<Option<UnreadableRow>, StoreError> {
        if closely {
            return self.inner.store.unreadable_row_of(summary.num).await;
        }
        let noticed = || self.inner.context.unreadable.lock().get(&summary.num).cloned();
        Ok(summary.unreadable.clone().or_else(noticed))
    }

    async fn heads(
        &self,
        summaries: &HashMap<WebhookNum, WebhookSummary>,
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Head>, StoreError> {
        let ledger = &self.inner.context.ledger;
        let owed = summaries.values().filter(|summary| ledger.pending(summary.num) > 0);
        let (ordered, others): (Vec<_>, Vec<_>) = owed.partition(|summary| summary.policy.ordered);
        let nums =
            |summaries: Vec<&WebhookSummary>| summaries.into_iter().map(|summary| summary.num).collect::<Vec<_>>();
        let mut heads = self.inner.store.heads(&nums(others), false, now).await?;
        heads.extend(self.inner.store.heads(&nums(ordered), true, now).await?);
        Ok(heads)
    }

    fn seen(&self, summary: &WebhookSummary, known: Known) -> Seen {
        let (ledger, num) = (&self.inner.context.ledger, summary.num);
        let policy = summary.policy.clone();
        let taken = self.inner.context.stats.find(num).map(|stats| stats.take());
        let breaker = taken.as_ref().and_then(|taken| taken.live.breaker);
        Seen {
            pending: ledger.pending(num),
            scheduled: ledger.scheduled(num, known.now),
            breaker: breaker.unwrap_or_else(|| breaker_of(&policy, summary.health.clone(), known.now)),
            known,
            policy,
            taken,
            node: self.node_now(num),
            unsendable: 0,
        }
    }

    /// The status of the delivery that failed last, if nothing is pending.
    async fn fate(
        &self,
        webhook: WebhookNum,
        is_owed: bool,
        last: Option<&LastError>,
    ) -> Result<Option<Fate>, StoreError> {
        let Some(last) = last.filter(|_| !is_owed) else { return Ok(None) };
        let id = DeliveryId { event: last.event, webhook };
        let state = self.inner.store.delivery_state(id).await?;
        Ok(state.map(|state| Fate { id, status: state.status, attempts: state.attempts }))
    }

    /// Who paused each paused webhook, as far as the audit knows.
    async fn pausers(
        &self,
        summaries: &HashMap<WebhookNum, WebhookSummary>,
    ) -> Result<HashMap<String, String>, StoreError> {
        let paused = summaries.values().filter(|summary| summary.paused_at.is_some());
        let paused: Vec<String> = paused.map(|summary| summary.id.to_string()).collect();
        self.inner.store.last_authors(Action::PauseWebhook, &paused).await
    }

    /// What keeps this node from sending to a webhook, whatever state its endpoint is in.
    fn node_now(&self, num: WebhookNum) -> Node {
        let context = &self.inner.context;
        Node {
            is_stopping: self.inner.stopping.is_cancelled(),
            has_lease: context.lease.is_valid(),
            serves_it: context.shard_set.serves(num),
            is_behind: self.is_behind(),
            is_purging: context.holds.lock().contains_key(&num),
            tight: context.is_memory_tight().then(|| context.payload_bytes()),
            permits: context.permits.view(),
        }
    }
}
