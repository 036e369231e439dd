//! Wakes endpoints whose rows fall due while they sleep, and reminds live ones of rows that they may not know of.

use std::time::Duration;

use crate::clock::UnixMillis;
use crate::store::Store;

use super::lane::AHEAD;
use super::registry::RegistryHandle;

/// One indexed query a second.
const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn run(store: Store, registry: RegistryHandle) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match store.webhooks_with_due(UnixMillis::now().plus(AHEAD)).await {
            Ok(nums) if nums.is_empty() => {}
            Ok(nums) => registry.remind(nums).await,
            Err(error) => tracing::warn!(%error, "due deliveries could not be looked for; trying again"),
        }
    }
}
