//! What the cluster member tells the log index: which shards this node has acquired, and which it has released.

use async_trait::async_trait;

use crate::domain::shard::ShardNum;
use crate::store::StoreError;
use crate::store::log::LogIndex;

#[async_trait]
pub(crate) trait ShardLog: Send + Sync {
    /// Indexes what earlier owners of these shards left unindexed.
    async fn index_shards(&self, shards: &[ShardNum]) -> Result<(), StoreError>;

    /// Forgets shards that this node releases.
    fn detach(&self, shards: &[ShardNum]);

    /// Forgets all shards: what is indexed was true of another history of the database.
    fn detach_all(&self);
}

#[async_trait]
impl ShardLog for LogIndex {
    async fn index_shards(&self, shards: &[ShardNum]) -> Result<(), StoreError> {
        self.index_shards(shards).await
    }

    fn detach(&self, shards: &[ShardNum]) {
        self.detach(shards);
    }

    fn detach_all(&self) {
        self.detach_all();
    }
}
