//! How a webhook fares, as a list of webhooks shows it: its state, and whether it is in trouble.

use std::collections::HashMap;

use crate::delivery::breaker::ViewState;
use crate::domain::health::Suspension;
use crate::domain::id::{EventSeq, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::engine::Engine;
use crate::engine::registry::Crashes;
use crate::store::StoreError;
use crate::store::webhooks::WebhookSummary;

use super::EndpointState;
use super::facts::{Known, Seen};
use super::receivers::Receiver;

/// What is wrong with a webhook, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TroubleKind {
    /// It cannot be served.
    Quarantined,
    /// Only probes are sent.
    Suspended,
    CircuitOpen,
    /// Its receiver has only failed lately.
    Failing,
    /// Deliveries are pending.
    Backlog,
}

impl TroubleKind {
    pub const ALL: [Self; 5] = [Self::Quarantined, Self::Suspended, Self::CircuitOpen, Self::Failing, Self::Backlog];

    /// The word in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quarantined => "quarantined",
            Self::Suspended => "suspended",
            Self::CircuitOpen => "circuit_open",
            Self::Failing => "failing",
            Self::Backlog => "backlog",
        }
    }
}

/// How a webhook fares.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    pub tenant: TenantNum,
    pub state: EndpointState,
    /// When the oldest pending event was accepted.
    pub oldest_at: Option<UnixMillis>,
    /// What is wrong, and since when, if that is known.
    pub trouble: Option<(TroubleKind, Option<UnixMillis>)>,
}

impl Engine {
    pub(in crate::engine) async fn standings_of(
        &self,
        nums: &[WebhookNum],
    ) -> Result<HashMap<WebhookNum, Standing>, StoreError> {
        let now = self.inner.context.host.now();
        let mut summaries = self.inner.store.webhook_summaries(nums).await?;
        let oldest = self.inner.context.ledger.oldest_of(nums).await?;
        let crashes = self.inner.registry.crashes(nums.to_vec()).await;
        let mut standings = HashMap::with_capacity(summaries.len());
        for (at, num) in nums.iter().enumerate() {
            let Some(summary) = summaries.remove(num) else { continue };
            let known = Known {
                now,
                oldest_at: oldest.get(num).copied().map(EventSeq::accepted_at),
                head: None,
                fate: None,
                paused_by: None,
                receiver: Receiver::default(),
                crashes: crashes.get(at).copied().unwrap_or_default(),
                unreadable: self.unreadable_row(&summary, false).await?,
            };
            standings.insert(*num, standing(&summary, &self.seen(&summary, known)));
        }
        Ok(standings)
    }
}

fn standing(summary: &WebhookSummary, seen: &Seen) -> Standing {
    let oldest_at = seen.known.oldest_at;
    let failing_since = seen.failing_since(summary);
    let Crashes { quarantined, .. } = seen.known.crashes;
    let trouble = if quarantined || seen.known.unreadable.is_some() {
        Some((TroubleKind::Quarantined, oldest_at))
    } else if let Some(Suspension { since, .. }) = seen.breaker.suspension.filter(|_| summary.is_active) {
        Some((TroubleKind::Suspended, Some(since)))
    } else if summary.is_active && seen.breaker.state != ViewState::Closed {
        Some((TroubleKind::CircuitOpen, failing_since))
    } else if summary.is_active && failing_since.is_some() {
        Some((TroubleKind::Failing, failing_since))
    } else {
        oldest_at.map(|at| (TroubleKind::Backlog, Some(at)))
    };
    Standing { tenant: summary.tenant, state: seen.state(summary), oldest_at, trouble }
}
