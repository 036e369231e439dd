//! The shards that this node serves, as the cluster member sees them: their endpoints, and the routes to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use crate::cluster::shard_runtime::ShardRuntime;
use crate::domain::shard::ShardNum;
use crate::store::StoreError;

use super::config_sync;
use super::context::EngineContext;
use super::registry::RegistryHandle;

pub(super) struct ServedShards {
    pub(super) context: Arc<EngineContext>,
    pub(super) registry: RegistryHandle,
}

#[async_trait]
impl ShardRuntime for ServedShards {
    async fn drain(&self, shard: ShardNum) -> bool {
        self.registry.hand_off(shard).await
    }

    fn oldest_requests(&self) -> BTreeMap<ShardNum, Instant> {
        let mut oldest = BTreeMap::<ShardNum, Instant>::new();
        for (num, since) in self.context.stats.oldest_requests() {
            let oldest = oldest.entry(ShardNum::of(num)).or_insert(since);
            *oldest = since.min(*oldest);
        }
        oldest
    }

    async fn reload_routes(&self) -> Result<(), StoreError> {
        config_sync::reload(&self.context).await.map(drop)
    }
}
