//! The simulated database as the engine sees it: the database in memory, behind calls that take a while, fail, lose their
//! answers and are stale when they are answered.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::domain::delivery::Due;
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::engine::db::EngineDb;
use crate::store::StoreError;
use crate::store::config_changes::{Changes, Position};
use crate::store::deliveries::{DueRows, Wanted};
use crate::store::endpoint_configs::EndpointConfigRow;
use crate::store::fanout_scan::{ScanCursor, ScanPage, Which};
use crate::store::fanouts::FanoutPage;
use crate::store::leases::ShardSet;
use crate::store::memory::{Client, Memory};
use crate::store::webhooks::{Route, Routed};

use super::tasks::pause;
use super::world::{self, World};

type Result<T> = std::result::Result<T, StoreError>;

/// The default.
const LEASE: Duration = Duration::from_secs(15);

/// The connections of one process to the database.
#[derive(Clone)]
pub(super) struct Db {
    pub(super) place: usize,
    pub(super) memory: Memory,
}

fn no_answer() -> StoreError {
    StoreError::Database("simulated".to_owned())
}

/// The process on this machine, as the database in memory knows it.
struct Machine {
    place: usize,
}

impl Client for Machine {
    fn now(&self) -> UnixMillis {
        world::current().wall(self.place)
    }

    fn database_now(&self) -> UnixMillis {
        world::current().true_now()
    }

    fn between_statements(&self) -> BoxFuture<'static, ()> {
        let turns = 1 + world::current().pick(4);
        Box::pin(async move {
            for _ in 0..turns {
                pause().await;
            }
        })
    }
}

impl Db {
    pub(super) fn new(world: &World, place: usize) -> Self {
        let lease = world.is_clustered.then_some(LEASE);
        Self { place, memory: Memory::new(&world.tables, &world.hooks, lease, Arc::new(Machine { place })) }
    }

    fn is_cut_off(&self) -> bool {
        world::current().machines[self.place].is_cut_off.get()
    }

    fn fails(&self) -> bool {
        let world = world::current();
        self.is_cut_off() || world.happens(world.trouble.get().read_fails)
    }

    /// Reads, which takes a while and may fail. The answer may be stale when it arrives.
    pub(super) async fn read<T: Send>(&self, read: impl Future<Output = Result<T>> + Send) -> Result<T> {
        pause().await;
        if self.fails() {
            return Err(no_answer());
        }
        let read = read.await;
        let turns = world::current().pick(4);
        for _ in 0..turns {
            pause().await;
        }
        read
    }

    /// A read without which the process does not follow config changes.
    pub(super) async fn read_config<T: Send>(&self, read: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let read = self.read(read).await;
        let has_failed = &world::current().machines[self.place].has_failed;
        has_failed.set(has_failed.get() || read.is_err());
        read
    }

    /// Writes: it may fail, and its answer may be lost.
    pub(super) async fn write<T: Send>(&self, write: impl Future<Output = Result<T>> + Send) -> Result<T> {
        pause().await;
        if self.is_cut_off() || world::current().is_clustered && self.fails() {
            return Err(no_answer());
        }
        let written = write.await?;
        world::current().remember();
        pause().await;
        let world = world::current();
        if world.happens(world.trouble.get().answer_lost) { Err(no_answer()) } else { Ok(written) }
    }
}

#[async_trait]
impl EngineDb for Db {
    fn is_clustered(&self) -> bool {
        self.memory.is_clustered()
    }

    async fn endpoint_configs(
        &self,
        nums: &[WebhookNum],
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Result<EndpointConfigRow>>> {
        self.read_config(self.memory.endpoint_configs(nums, now)).await
    }

    async fn due(&self, shard_set: &ShardSet, webhook: WebhookNum, wanted: Wanted<'_>) -> Result<DueRows> {
        self.read(self.memory.due(shard_set, webhook, wanted)).await
    }

    async fn due_one(&self, shard_set: &ShardSet, id: DeliveryId) -> Result<Option<Due>> {
        self.read(self.memory.due_one(shard_set, id)).await
    }

    async fn has_row(&self, id: DeliveryId) -> Result<bool> {
        self.read(self.memory.has_row(id)).await
    }

    async fn webhooks_with_due(&self, horizon: UnixMillis) -> Result<Vec<WebhookNum>> {
        self.read(self.memory.webhooks_with_due(horizon)).await
    }

    async fn owed_only_by_fanout(&self, webhook: WebhookNum, to: EventSeq) -> Result<Vec<EventSeq>> {
        self.read(self.memory.owed_only_by_fanout(webhook, to)).await
    }

    async fn last_event(&self) -> Result<EventSeq> {
        self.read(EngineDb::last_event(&self.memory)).await
    }

    async fn mark_in_doubt(&self, webhook: WebhookNum, in_doubt: InDoubt) -> Result<()> {
        self.write(self.memory.mark_in_doubt(webhook, in_doubt)).await
    }

    async fn fanouts(&self, after: EventSeq, events: u64) -> Result<FanoutPage> {
        self.read(self.memory.fanouts(after, events)).await
    }

    async fn recorded_targets(&self, event: EventSeq) -> Result<Vec<WebhookNum>> {
        self.read(self.memory.recorded_targets(event)).await
    }

    async fn visible_fanouts(
        &self,
        shard_set: &ShardSet,
        cursor: &mut ScanCursor,
        which: Which<'_>,
        limit: usize,
    ) -> Result<ScanPage> {
        self.read(self.memory.visible_fanouts(shard_set, cursor, which, limit)).await
    }

    async fn body(&self, event: EventSeq) -> Result<Option<Bytes>> {
        self.read(self.memory.body(event)).await
    }

    async fn position(&self) -> Result<Position> {
        self.read(self.memory.position()).await
    }

    async fn changes_since(&self, position: &Position) -> Result<Changes> {
        world::current().machines[self.place].follows_from(position.index());
        self.read_config(self.memory.changes_since(position)).await
    }

    async fn routes(&self, after: WebhookNum) -> Result<Vec<Route>> {
        self.read(self.memory.routes(after)).await
    }

    async fn routes_of(&self, nums: &[WebhookNum]) -> Result<Vec<Routed>> {
        self.read_config(self.memory.routes_of(nums)).await
    }
}
