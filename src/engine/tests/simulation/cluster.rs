//! The simulated database as cluster member and node lease see it, and the notifications between nodes.

use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;

use crate::cluster::db::ClusterDb;
use crate::cluster::shard_log::ShardLog;
use crate::domain::in_doubt::InDoubt;
use crate::domain::shard::ShardNum;
use crate::journal::model::Tables;
use crate::store::StoreError;
use crate::store::leases::{AcquiredShard, Membership, Renewal, ShardSet, Survey};
use crate::store::notifier::Notification;

use super::db::{Db, must_be_unbroken};
use super::process::Process;
use super::world::{self, World};

type Result<T> = std::result::Result<T, StoreError>;

/// The default.
const LEASE: Duration = Duration::from_secs(15);

impl Db {
    /// What may have been cut short is in doubt, as `leases::give_up_shards` has it.
    fn in_doubt(&self, world: &World, tables: &Tables) -> InDoubt {
        InDoubt { events_to: tables.last_event(), due_to: world.true_now().max(world.wall(self.place)) }
    }
}

#[async_trait]
impl ClusterDb for Db {
    fn is_clustered(&self) -> bool {
        world::current().is_clustered
    }

    fn lease(&self) -> Duration {
        LEASE
    }

    fn renew_connections(&self) {}

    async fn join(&self, _: &str, _: Option<&str>) -> Result<ShardSet> {
        self.write(|world, tables| {
            if !world.is_clustered {
                return tables.join_alone(world.wall(self.place));
            }
            tables.adopt_foreign_rows(world.elapsed());
            tables.leases.join(world.true_now(), LEASE)
        })
        .await
    }

    async fn rejoin(&self, shard_set: &ShardSet, _: &str, _: Option<&str>) -> Result<Option<Membership>> {
        let member = self.write(|world, tables| {
            tables.adopt_foreign_rows(world.elapsed());
            let in_doubt = self.in_doubt(world, tables);
            tables.leases.rejoin(shard_set, world.true_now().plus(LEASE), in_doubt)
        });
        let member = member.await?;
        let world = world::current();
        if let Some(process) = &*world.machines[self.place].process.borrow() {
            world.oracle.borrow_mut().lost(process.incarnation, |_| true);
        }
        Ok(Some(member))
    }

    async fn renew(&self, shard_set: &ShardSet) -> Result<Renewal> {
        let renewed = self.write(|world, tables| tables.leases.renew(shard_set, world.true_now(), LEASE)).await?;
        if world::current().machines[self.place].renews_in_vain.get() {
            return Err(StoreError::Database("simulated".to_owned()));
        }
        Ok(renewed)
    }

    async fn deregister(&self, shard_set: &ShardSet) -> Result<()> {
        self.write(|world, tables| tables.leases.deregister(shard_set, self.in_doubt(world, tables))).await
    }

    async fn survey(&self, shard_set: &ShardSet) -> Result<Option<Survey>> {
        let survey = self.read(|world, tables| {
            must_be_unbroken(tables, shard_set)?;
            Ok(tables.leases.survey(world.true_now()))
        });
        survey.await?.map(Some)
    }

    /// Waits for a batch of that node.
    async fn reap_expired(&self, node: i64) -> Result<bool> {
        let may_lock = |tables: &Tables| !tables.transactions.has_node(node);
        let reaped = self.write_when(may_lock, |world, tables| {
            let was_there = tables.leases.until(node).is_some();
            let is_reaped = tables.leases.reap_expired(node, world.true_now(), self.in_doubt(world, tables));
            if is_reaped && was_there {
                world.note(|| format!("node {node} is reaped"));
                if let Some(process) = world.process_of(tables, node) {
                    world.oracle.borrow_mut().lost(process.incarnation, |_| true);
                }
            }
            is_reaped
        });
        reaped.await
    }

    async fn acquire(&self, shard_set: &ShardSet, wanted: &[ShardNum]) -> Result<Vec<AcquiredShard>> {
        self.write(|world, tables| {
            let acquired = tables.leases.acquire(shard_set, wanted, world.true_now());
            if !acquired.is_empty() {
                world.note(|| format!("machine {} acquires {acquired:?}", self.place));
            }
            acquired
        })
        .await
    }

    /// Waits for batches that write for these shards.
    async fn release(&self, shard_set: &ShardSet, shards: &[ShardNum], is_in_doubt: bool) -> Result<()> {
        let may_lock = |tables: &Tables| !shards.iter().any(|shard| tables.transactions.has_shard(*shard));
        let release = self.write_when(may_lock, |world, tables| {
            let in_doubt = is_in_doubt.then(|| self.in_doubt(world, tables));
            tables.leases.release(shard_set, shards, in_doubt);
            world.note(|| format!("machine {} releases {shards:?}, in doubt: {is_in_doubt}", self.place));
            if let Some(process) = world.machines[self.place].process.borrow().as_ref().filter(|_| is_in_doubt) {
                let is_its = |webhook| shards.contains(&ShardNum::of(webhook));
                world.oracle.borrow_mut().lost(process.incarnation, is_its);
            }
        });
        release.await
    }

    async fn adopt_foreign_rows(&self) -> Result<u64> {
        self.write(|world, tables| tables.adopt_foreign_rows(world.elapsed())).await?;
        Ok(0)
    }

    /// Several nodes never find an undivided fan-out here.
    async fn divide_fanouts(&self) -> Result<()> {
        Ok(())
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
