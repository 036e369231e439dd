//! Finds webhooks with rows that fall due, once a second: activates their sleeping endpoints, and reminds live ones of
//! rows that they may not know of. Once a minute it also drops the stats of endpoints that have slept for an hour. A task
//! of the engine; it sends nothing itself.

use std::sync::Arc;
use std::time::Duration;

use super::context::EngineContext;
use super::lane::AHEAD;
use super::registry::RegistryHandle;

/// One indexed query a second.
const EVERY: Duration = Duration::from_secs(1);

/// Every so many ticks, stale endpoint stats are dropped.
const TIDY_EVERY: u32 = 60;

pub(super) async fn run(context: Arc<EngineContext>, registry: RegistryHandle) {
    let mut ticks = context.host.ticks(EVERY);
    let mut count = 0u32;
    loop {
        ticks.tick().await;
        count = count.wrapping_add(1);
        if count.is_multiple_of(TIDY_EVERY) {
            context.stats.forget_stale();
        }
        match context.db.webhooks_with_due(context.host.now().plus(AHEAD)).await {
            Ok(mut nums) => {
                nums.retain(|num| context.shard_set.serves(*num));
                if !nums.is_empty() {
                    registry.remind(nums).await;
                }
            }
            Err(error) => tracing::warn!(%error, "webhooks with due rows could not be read; trying again"),
        }
    }
}
