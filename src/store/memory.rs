//! The database in memory, for tests: tables as maps, and the journal's transactions over them ([`journal`]). They keep
//! the promises of the SQL, which the conformance suite of the engine checks. The simulation runs the engine over them.
//! They fail only as the SQL would: a key that is taken, a transaction that the server has ended, another server. A
//! simulation wraps them to make them slow, fail, or lose an answer.

mod batch;
mod journal;
mod tables;
mod transactions;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::leases::Snapshot;

pub(crate) use self::tables::Tables;
pub(crate) use self::webhooks::{Hook, Webhooks};

/// What the database in memory asks of the process that uses it.
pub(crate) trait Client: Send + Sync {
    /// The time by the process's clock.
    fn now(&self) -> UnixMillis;

    /// The time by the database's clock.
    fn database_now(&self) -> UnixMillis;

    /// Lets other processes work between two statements of one call.
    fn between_statements(&self) -> BoxFuture<'static, ()>;
}

/// Rows that several processes share, all on one thread: reading may be nested.
pub(crate) struct SharedRows<T>(Arc<RwLock<T>>);

impl<T> Clone for SharedRows<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Default> Default for SharedRows<T> {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(T::default())))
    }
}

impl<T> SharedRows<T> {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write()
    }
}

/// One process's connection to the database.
#[derive(Clone)]
pub(crate) struct Memory {
    pub(crate) tables: SharedRows<Tables>,
    pub(crate) webhooks: SharedRows<Webhooks>,
    /// How long a lease is; `None` if one process has the database alone.
    lease: Option<Duration>,
    pub(crate) client: Arc<dyn Client>,
}

impl Memory {
    /// `lease`: how long a lease is; `None` if one process has the database alone.
    pub(crate) fn new(
        tables: &SharedRows<Tables>,
        webhooks: &SharedRows<Webhooks>,
        lease: Option<Duration>,
        client: Arc<dyn Client>,
    ) -> Self {
        Self { tables: tables.clone(), webhooks: webhooks.clone(), lease, client }
    }

    pub(crate) fn is_clustered(&self) -> bool {
        self.lease.is_some()
    }

    /// How long a lease is.
    pub(crate) fn lease(&self) -> Duration {
        self.lease.unwrap_or_default()
    }

    /// Mirrors `Store::snapshot`.
    fn snapshot(&self, tables: &Tables) -> Snapshot {
        if self.is_clustered() { tables.transactions.snapshot() } else { Snapshot::of_everything() }
    }

    /// What may have been cut short by this moment, by either clock, as `leases::give_up_shards` has it.
    pub(crate) fn in_doubt(&self, tables: &Tables) -> InDoubt {
        let due_to = self.client.database_now().max(self.client.now());
        InDoubt { events_to: tables.last_event(), due_to }
    }

    /// Waits until no transaction holds a lock that would keep a statement waiting.
    pub(crate) async fn unlocked(&self, is_unlocked: impl Fn(&Tables) -> bool + Send + Sync) {
        loop {
            let ended = self.tables.read().transactions.ended();
            let any_ends = ended.notified();
            if is_unlocked(&self.tables.read()) {
                return;
            }
            any_ends.await;
        }
    }

    /// Waits until no batch of this node is under way.
    pub(crate) async fn node_unlocked(&self, node: Option<i64>) {
        self.unlocked(|tables| node.is_none_or(|node| !tables.transactions.has_node(node))).await;
    }

    /// Waits until no batch that writes for these shards is under way.
    pub(crate) async fn shards_unlocked(&self, shards: &[ShardNum]) {
        self.unlocked(|tables| !shards.iter().any(|shard| tables.transactions.has_shard(*shard))).await;
    }
}
