//! What cluster member and node lease ask of the database. The [`Store`] answers, and in tests the database in memory.

use std::time::Duration;

use async_trait::async_trait;

use crate::domain::shard::ShardNum;
use crate::store::leases::{AcquiredShard, Membership, Renewal, ShardSet, Survey};
use crate::store::notifier::Notification;
use crate::store::{Store, StoreError};

#[async_trait]
pub(crate) trait ClusterDb: Send + Sync {
    /// Whether other nodes may use the same database.
    fn is_clustered(&self) -> bool;

    /// How long a lease is, from its renewal to its end.
    fn lease(&self) -> Duration;

    /// Replaces all connections: an open one may lead to a server that is no longer the primary.
    fn renew_connections(&self);

    /// Joins as a new node, which owns no shard yet. With SQLite, the process owns everything.
    async fn join(&self, name: &str, address: Option<&str>) -> Result<ShardSet, StoreError>;

    /// Joins as another node after the database has lost transactions, and marks in doubt every shard that the node
    /// owned.
    async fn rejoin(
        &self,
        shard_set: &ShardSet,
        name: &str,
        address: Option<&str>,
    ) -> Result<Option<Membership>, StoreError>;

    /// Renews the lease to its full length.
    async fn renew(&self, shard_set: &ShardSet) -> Result<Renewal, StoreError>;

    /// Deletes the node's row, and releases the shards that the node still owns, in doubt.
    async fn deregister(&self, shard_set: &ShardSet) -> Result<(), StoreError>;

    /// Reads all nodes and the owner of each shard; `None` with SQLite.
    async fn survey(&self, shard_set: &ShardSet) -> Result<Option<Survey>, StoreError>;

    /// Deletes the row of a node whose lease has ended, and leaves its shards without an owner and in doubt, once a
    /// batch of that node that is under way has ended. Answers false if the lease has not ended; true also if another
    /// node has reaped the node already.
    async fn reap_expired(&self, node: i64) -> Result<bool, StoreError>;

    /// Acquires those of these shards that have no owner, unless this node's lease has ended.
    async fn acquire(&self, shard_set: &ShardSet, wanted: &[ShardNum]) -> Result<Vec<AcquiredShard>, StoreError>;

    /// Leaves these shards without an owner. `in_doubt`: attempts may have been cut short.
    async fn release(&self, shard_set: &ShardSet, shards: &[ShardNum], in_doubt: bool) -> Result<(), StoreError>;

    /// Gives rows of another server the number of a transaction of this one. Answers how many rows that were.
    async fn adopt_foreign_rows(&self) -> Result<u64, StoreError>;

    /// Divides by shard the fan-outs that were written when one process served everything.
    async fn divide_fanouts(&self) -> Result<(), StoreError>;

    /// Sends a notification to all nodes.
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
