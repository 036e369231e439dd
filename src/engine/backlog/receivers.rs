//! Answers what is known of a webhook's receiver: since when it has only failed, its last failure and its last success.
//! Called by the API and by `backlog`.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::health::{Health, LastError};
use crate::domain::id::WebhookNum;
use crate::domain::moment::UnixMillis;
use crate::engine::Engine;
use crate::engine::endpoint_stats::StatsSnapshot;
use crate::store::StoreError;

/// How a receiver has answered.
#[derive(Debug, Clone, Default)]
pub struct Receiver {
    /// When the first failure after the last success happened.
    pub failing_since: Option<UnixMillis>,
    pub last_error: Option<Arc<LastError>>,
    pub last_success_at: Option<UnixMillis>,
}

impl Engine {
    /// The receivers of these webhooks. For a webhook that another node serves, the answer is what that node has saved,
    /// up to a minute ago.
    pub async fn receivers(&self, nums: &[WebhookNum]) -> Result<HashMap<WebhookNum, Receiver>, StoreError> {
        let healths = self.inner.store.healths(nums).await?;
        self.receivers_with(nums, healths).await
    }

    /// The same with `healths` already read from the store.
    pub(super) async fn receivers_with(
        &self,
        nums: &[WebhookNum],
        mut healths: HashMap<WebhookNum, Health>,
    ) -> Result<HashMap<WebhookNum, Receiver>, StoreError> {
        let mut receivers = HashMap::with_capacity(nums.len());
        for num in nums {
            let taken = self.inner.context.stats.find(*num).map(|stats| stats.take());
            receivers.insert(*num, known(taken.as_ref(), &healths.remove(num).unwrap_or_default()));
        }
        let unknown = receivers.iter().filter(|(_, receiver)| receiver.last_success_at.is_none()).map(|(num, _)| *num);
        for (num, at) in self.inner.store.last_successes(&unknown.collect::<Vec<_>>()).await? {
            receivers.entry(num).or_default().last_success_at = Some(at);
        }
        Ok(receivers)
    }
}

/// Merges the live endpoint's figures, if there are any, with the saved health.
fn known(taken: Option<&StatsSnapshot>, health: &Health) -> Receiver {
    let living = taken.filter(|taken| taken.live.since.is_some()).map(|taken| &taken.live.gauge);
    let (failing_since, last_error, saved) = match living {
        Some(gauge) => (gauge.failing_since, gauge.last_error.clone(), gauge.last_success_at),
        None => (health.failing_since, health.last_error.clone(), health.last_success_at),
    };
    let lately = taken.and_then(|taken| taken.last_success_at);
    // While the receiver only fails, the saved success is the last one. Otherwise there may have been later ones,
    // because a success alone saves nothing.
    let saved = saved.filter(|_| failing_since.is_some());
    Receiver { failing_since, last_error, last_success_at: lately.max(saved) }
}
