//! What the cluster member asks of what runs above it, the engine: to end the endpoints of a shard, since when requests
//! are in flight, and to read the routes again.

use std::collections::BTreeMap;
use std::time::Instant;

use async_trait::async_trait;

use crate::domain::shard::ShardNum;
use crate::store::StoreError;

#[async_trait]
pub(crate) trait ShardRuntime: Send + Sync {
    /// Ends the endpoints of a shard that this node no longer serves, each as soon as its requests in flight have
    /// ended. Resolves when all have ended, and says whether nothing was cut short.
    async fn drain(&self, shard: ShardNum) -> bool;

    /// When the oldest request in flight of each shard began. Shards without requests are missing.
    fn oldest_requests(&self) -> BTreeMap<ShardNum, Instant>;

    /// Reads all routes again, because the database has another history.
    async fn reload_routes(&self) -> Result<(), StoreError>;
}
