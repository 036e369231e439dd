//! The database in memory as cluster member and node lease see it.

use std::time::Duration;

use async_trait::async_trait;

use crate::cluster::db::ClusterDb;
use crate::domain::id::EventSeq;
use crate::domain::shard::ShardNum;
use crate::store::leases::memory::Joining;
use crate::store::leases::{AcquiredShard, Membership, Renewal, ShardSet, Survey};
use crate::store::memory::Memory;
use crate::store::notifier::Notification;

use super::Result;

impl Memory {
    fn joining<'a>(&self, name: &'a str, address: Option<&'a str>, newest: EventSeq) -> Joining<'a> {
        Joining { name, address, until: self.client.database_now().plus(self.lease()), newest }
    }
}

#[async_trait]
impl ClusterDb for Memory {
    fn is_clustered(&self) -> bool {
        Self::is_clustered(self)
    }

    fn lease(&self) -> Duration {
        Self::lease(self)
    }

    fn renew_connections(&self) {}

    async fn join(&self, name: &str, address: Option<&str>) -> Result<ShardSet> {
        if !self.is_clustered() {
            return Ok(ShardSet::everything());
        }
        let mut tables = self.tables.write();
        tables.adopt_foreign_rows(self.client.database_now());
        let newest = tables.last_event();
        Ok(tables.leases.join(&self.joining(name, address, newest)))
    }

    async fn rejoin(&self, shard_set: &ShardSet, name: &str, address: Option<&str>) -> Result<Option<Membership>> {
        if !self.is_clustered() {
            return Ok(None);
        }
        self.node_unlocked(shard_set.node()).await;
        let mut tables = self.tables.write();
        tables.adopt_foreign_rows(self.client.database_now());
        let in_doubt = self.in_doubt(&tables);
        let newest = tables.last_event();
        Ok(Some(tables.leases.rejoin(shard_set, &self.joining(name, address, newest), in_doubt)))
    }

    async fn renew(&self, shard_set: &ShardSet) -> Result<Renewal> {
        Ok(self.tables.write().leases.renew(shard_set, self.client.database_now(), self.lease()))
    }

    async fn deregister(&self, shard_set: &ShardSet) -> Result<()> {
        self.node_unlocked(shard_set.node()).await;
        let mut tables = self.tables.write();
        let in_doubt = self.in_doubt(&tables);
        tables.leases.deregister(shard_set, in_doubt);
        Ok(())
    }

    async fn survey(&self, shard_set: &ShardSet) -> Result<Option<Survey>> {
        if !self.is_clustered() {
            return Ok(None);
        }
        let tables = self.tables.read();
        tables.leases.must_be_unbroken(shard_set)?;
        Ok(Some(tables.leases.survey(self.client.database_now())))
    }

    async fn reap_expired(&self, node: i64) -> Result<bool> {
        if !self.is_clustered() {
            return Ok(false);
        }
        self.node_unlocked(Some(node)).await;
        let mut tables = self.tables.write();
        let in_doubt = self.in_doubt(&tables);
        Ok(tables.leases.reap_expired(node, self.client.database_now(), in_doubt))
    }

    async fn acquire(&self, shard_set: &ShardSet, wanted: &[ShardNum]) -> Result<Vec<AcquiredShard>> {
        Ok(self.tables.write().leases.acquire(shard_set, wanted, self.client.database_now()))
    }

    async fn release(&self, shard_set: &ShardSet, shards: &[ShardNum], is_in_doubt: bool) -> Result<()> {
        let owned = self.tables.read().leases.owned_among(shard_set.node(), shards);
        self.shards_unlocked(&owned).await;
        let mut tables = self.tables.write();
        let is_known = tables.leases.is_answer_of_known(shard_set) && !shard_set.has_diverged();
        let in_doubt = (is_in_doubt || !is_known).then(|| self.in_doubt(&tables));
        tables.leases.release(shard_set, shards, in_doubt);
        Ok(())
    }

    async fn adopt_foreign_rows(&self) -> Result<u64> {
        Ok(self.tables.write().adopt_foreign_rows(self.client.database_now()))
    }

    async fn divide_fanouts(&self) -> Result<()> {
        self.tables.write().divide_fanouts(self.client.database_now());
        Ok(())
    }

    /// No other process listens.
    async fn notify(&self, _: &Notification) -> Result<()> {
        Ok(())
    }
}
