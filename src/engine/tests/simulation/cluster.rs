//! The simulated database as cluster member and node lease see it, and the notifications between nodes.

use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;

use crate::cluster::db::ClusterDb;
use crate::cluster::shard_log::ShardLog;
use crate::domain::shard::ShardNum;
use crate::store::StoreError;
use crate::store::leases::{AcquiredShard, Membership, Renewal, ShardSet, Survey};
use crate::store::notifier::Notification;

use super::db::Db;
use super::process::Process;
use super::world::{self, World};

type Result<T> = std::result::Result<T, StoreError>;

#[async_trait]
impl ClusterDb for Db {
    fn is_clustered(&self) -> bool {
        self.memory.is_clustered()
    }

    fn lease(&self) -> Duration {
        self.memory.lease()
    }

    fn renew_connections(&self) {
        self.memory.renew_connections();
    }

    async fn join(&self, name: &str, address: Option<&str>) -> Result<ShardSet> {
        self.write(async {
            let shard_set = self.memory.join(name, address).await?;
            if !self.memory.is_clustered() {
                shard_set.set_in_doubt(self.memory.tables.write().begin_alone(self.memory.client.now()));
            }
            Ok(shard_set)
        })
        .await
    }

    async fn rejoin(&self, shard_set: &ShardSet, name: &str, address: Option<&str>) -> Result<Option<Membership>> {
        let member = self.write(self.memory.rejoin(shard_set, name, address)).await?;
        let world = world::current();
        if let Some(process) = &*world.machines[self.place].process.borrow() {
            world.oracle.borrow_mut().lost(process.incarnation, |_| true);
        }
        Ok(member)
    }

    async fn renew(&self, shard_set: &ShardSet) -> Result<Renewal> {
        let renewed = self.write(self.memory.renew(shard_set)).await?;
        if world::current().machines[self.place].renews_in_vain.get() {
            return Err(StoreError::Database("simulated".to_owned()));
        }
        Ok(renewed)
    }

    async fn deregister(&self, shard_set: &ShardSet) -> Result<()> {
        self.write(self.memory.deregister(shard_set)).await
    }

    async fn survey(&self, shard_set: &ShardSet) -> Result<Option<Survey>> {
        self.read(self.memory.survey(shard_set)).await
    }

    async fn reap_expired(&self, node: i64) -> Result<bool> {
        self.write(async {
            self.memory.node_unlocked(Some(node)).await;
            let was_there = self.memory.tables.read().leases.has_node(node);
            let is_reaped = self.memory.reap_expired(node).await?;
            if is_reaped && was_there {
                let world = world::current();
                world.note(|| format!("node {node} is reaped"));
                if let Some(process) = world.process_of(&world.tables.read(), node) {
                    world.oracle.borrow_mut().lost(process.incarnation, |_| true);
                }
            }
            Ok(is_reaped)
        })
        .await
    }

    async fn acquire(&self, shard_set: &ShardSet, wanted: &[ShardNum]) -> Result<Vec<AcquiredShard>> {
        self.write(async {
            let acquired = self.memory.acquire(shard_set, wanted).await?;
            if !acquired.is_empty() {
                world::current().note(|| format!("machine {} acquires {acquired:?}", self.place));
            }
            Ok(acquired)
        })
        .await
    }

    async fn release(&self, shard_set: &ShardSet, shards: &[ShardNum], is_in_doubt: bool) -> Result<()> {
        self.write(async {
            self.memory.release(shard_set, shards, is_in_doubt).await?;
            let world = world::current();
            world.note(|| format!("machine {} releases {shards:?}, in doubt: {is_in_doubt}", self.place));
            if let Some(process) = world.machines[self.place].process.borrow().as_ref().filter(|_| is_in_doubt) {
                let is_its = |webhook| shards.contains(&ShardNum::of(webhook));
                world.oracle.borrow_mut().lost(process.incarnation, is_its);
            }
            Ok(())
        })
        .await
    }

    async fn adopt_foreign_rows(&self) -> Result<u64> {
        self.write(self.memory.adopt_foreign_rows()).await
    }

    async fn divide_fanouts(&self) -> Result<()> {
        self.write(self.memory.divide_fanouts()).await
    }

    async fn notify(&self, notification: &Notification) -> Result<()> {
        let world = world::current();
        world.processes().iter().for_each(|other| pass_on(&world, notification, other));
        Ok(())
    }
}

/// Passes a notification on, unless it is lost.
fn pass_on(world: &World, notification: &Notification, to: &Rc<Process>) {
    if !world.happens(world.trouble.get().call_lost) {
        let (shard_set, feed) = (&to.shard_set, &to.feed);
        let concerns = |shard| shard_set.serves_shard(shard);
        to.context.notifier.receive(notification, &concerns, &|| feed.request_scan());
    }
}

/// The simulation has no log index.
pub(super) struct NoLogs;

#[async_trait]
impl ShardLog for NoLogs {
    async fn index_shards(&self, _: &[ShardNum]) -> Result<()> {
        Ok(())
    }

    fn detach(&self, _: &[ShardNum]) {}

    fn detach_all(&self) {}
}
