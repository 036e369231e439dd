//! What cluster and node lease ask of the database. The [`Store`] answers; in the simulation, tables in
//! memory do. What each call means is said at the store's function of that name.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::shard::ShardNum;
use crate::store::leases::{AcquiredShard, Membership, Renewal, ShardSet, Survey};
use crate::store::notifier::Notification;
use crate::store::{Store, StoreError};

#[async_trait]
pub(super) trait ClusterDb: Send + Sync {
    fn is_clustered(&self) -> bool;
    fn lease(&self) -> Duration;
    fn renew_connections(&self);

    async fn join(&self, name: &str, address: Option<&str>) -> Result<ShardSet, StoreError>;
    async fn rejoin(
        &self,
        shard_set: &ShardSet,
        name: &str,
        address: Option<&str>,
    ) -> Result<Option<Membership>, StoreError>;
    async fn renew(&self, shard_set: &ShardSet) -> Result<Renewal, StoreError>;
    async fn deregister(&self, shard_set: &ShardSet) -> Result<(), StoreError>;

    async fn survey(&self, shard_set: &ShardSet) -> Result<Option<Survey>, StoreError>;
    async fn reap_expired(&self, node: i64) -> Result<bool, StoreError>;
    async fn acquire(&self, shard_set: &ShardSet, wanted: &[ShardNum]) -> Result<Vec<AcquiredShard>, StoreError>;
    async fn release(&self, shard_set: &ShardSet, shards: &[ShardNum], in_doubt: bool) -> Result<(), StoreError>;
    async fn adopt_foreign_rows(&self) -> Result<u64, StoreError>;
    async fn divide_fanouts(&self) -> Result<(), StoreError>;
    async fn notify(&self, notification: &Notification) -> Result<(), StoreError>;
}

#[async_trait]
impl ClusterDb for Store {
    fn is_clustered(&self) -> bool {
        self.is_clustered()
    }

    fn lease(&self) -> Duration {
        self.lease()
    }

    fn renew_connections(&self) {
        self.renew_connections();
    }

    async fn join(&self, name: &str, address: Option<&str>) -> Result<ShardSet, StoreError> {
        self.join(name, address).await
    }

    async fn rejoin(
        &self,
        shard_set: &ShardSet,
        name: &str,
        address: Option<&str>,
    ) -> Result<Option<Membership>, StoreError> {
        self.rejoin(shard_set, name, address).await
    }

    async fn renew(&self, shard_set: &ShardSet) -> Result<Renewal, StoreError> {
        self.renew(shard_set).await
    }

    async fn deregister(&self, shard_set: &ShardSet) -> Result<(), StoreError> {
        self.deregister(shard_set).await
    }

    async fn survey(&self, shard_set: &ShardSet) -> Result<Option<Survey>, StoreError> {
        self.survey(shard_set).await
    }

    async fn reap_expired(&self, node: i64) -> Result<bool, StoreError> {
        self.reap_expired(node).await
    }

    async fn acquire(&self, shard_set: &ShardSet, wanted: &[ShardNum]) -> Result<Vec<AcquiredShard>, StoreError> {
        self.acquire(shard_set, wanted).await
    }

    async fn release(&self, shard_set: &ShardSet, shards: &[ShardNum], in_doubt: bool) -> Result<(), StoreError> {
        self.release(shard_set, shards, in_doubt).await
    }

    async fn adopt_foreign_rows(&self) -> Result<u64, StoreError> {
        self.adopt_foreign_rows().await
    }

    async fn divide_fanouts(&self) -> Result<(), StoreError> {
        self.divide_fanouts().await
    }

    async fn notify(&self, notification: &Notification) -> Result<(), StoreError> {
        self.notify(notification).await
    }
}
