//! The store: everything durable, and the only place that names sea_orm. The API, the engine and the CLI call
//! [`Store`]; the tables and their history are in the crates `entity` and `migration`.
//!
//! Reads of the API use one pool of readers, reads of the running engine another. Writes go through a single writer
//! connection in one of two ways: the journal ([`journal_db`]) batches what the hot path records, and `Store::write`
//! runs one change of configuration. `Store::write_async_commit` has a connection of its own for data that is rebuilt
//! after a crash. Every wait for PostgreSQL has a time limit (`pool`).

pub mod admin_keys;
pub mod audit;
pub mod cancel;
pub mod config_changes;
mod decode;
pub mod deliveries;
pub mod endpoint_configs;
pub mod erasure;
pub mod error;
mod event_cache;
pub mod event_types;
pub mod events;
pub mod fanout_scan;
pub mod fanouts;
pub mod gauges;
pub mod health;
pub mod idempotency;
pub mod journal_db;
pub mod keys;
pub mod leases;
pub mod log;
pub mod notifier;
pub mod operational_events;
pub mod operations;
pub mod orphans;
pub mod owed;
pub mod page;
pub mod payload;
pub mod progress;
pub mod retention;
pub mod rewrap;
pub mod sessions;
pub mod state;
pub mod targets;
pub mod tenants;
pub mod transaction_id;
pub mod unreadable;
pub mod webhooks;

mod bodies;
mod checkpoint;
mod commit_status;
mod connect;
mod dialect;
mod history;
#[cfg(test)]
pub(crate) mod memory;
mod pool;
mod rows;
mod scan;
mod space;
mod tenant_lock;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

pub use connect::{CONNECTIONS, Contents, DEFAULT_CONNECTIONS, DEFAULT_LEASE, Options};
pub use error::{OpenError, StoreError};
pub use pool::TimingFigures;
use sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

use crate::domain::event::Event;
use crate::secrets::Seal;

use self::checkpoint::Checkpoints;
use self::event_cache::EventCache;
use self::journal_db::Statements;
use self::page::Page;
use self::pool::{Pool, Transaction};
use self::unreadable::Unreadable;

pub use self::space::FreeSpace;

/// Makes the server end an idle transaction, so that a transaction whose COMMIT or ROLLBACK was lost on the network
/// does not keep rows locked. Journal batches set the same limit in the statement that takes their locks.
const IN_TIME: &str = "SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// One database: a writer, some readers, and the key that seals secrets. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    writer: Pool,
    /// Commits return before they are on disk.
    async_commit_pool: Pool,
    readers: Pool,
    reader_connections: u32,
    engine_readers: Pool,
    /// PostgreSQL only, where other nodes may share the database: connections for the node lease.
    lease: Option<Pool>,
    /// URL of the connection that listens for notifications.
    listen: Option<String>,
    lease_for: Duration,
    seal: Seal,
    /// Events in memory, shared by everything that reads them.
    events: EventCache,
    unreadable: Unreadable,
    /// SQLite only.
    checkpoints: Option<Checkpoints>,
    /// The texts of the journal's statements, made for its first batch.
    statements: OnceLock<Statements>,
    /// Held for the life of the store: a second process must not open the same file.
    _lock: Option<std::fs::File>,
}

impl Store {
    /// How many reads of the API the database runs at once.
    #[must_use]
    pub fn readers_at_once(&self) -> usize {
        self.inner.reader_connections as usize
    }

    /// How long the database has taken to answer, by operation, over all connections.
    #[must_use]
    pub fn timings(&self) -> TimingFigures {
        let Inner { writer, async_commit_pool, readers, engine_readers, lease, .. } = self.inner.as_ref();
        Pool::timings([writer, async_commit_pool, readers, engine_readers].into_iter().chain(lease))
    }

    fn readers(&self) -> &Pool {
        &self.inner.readers
    }

    /// For reads that deliveries wait for: slow lists of the API never delay them.
    fn engine_readers(&self) -> &Pool {
        &self.inner.engine_readers
    }

    fn backend(&self) -> DbBackend {
        self.inner.writer.get_database_backend()
    }

    fn share(&self, event: Event) -> Arc<Event> {
        self.inner.events.share(event)
    }

    fn seal(&self) -> &Seal {
        &self.inner.seal
    }

    async fn begin(&self) -> Result<Transaction, DbErr> {
        let transaction = self.inner.writer.begin().await?;
        if self.backend() == DbBackend::Postgres {
            transaction.execute_unprepared(IN_TIME).await?;
        }
        Ok(transaction)
    }

    /// Begins reads on one snapshot: they all see what was committed before the first of them, and nothing that is
    /// committed later.
    async fn moment(&self) -> Result<Transaction, DbErr> {
        self.readers().begin_moment().await
    }

    /// Bytes that PostgreSQL has ever written to its write-ahead log; `None` with SQLite.
    pub async fn wal_bytes(&self) -> Result<Option<u64>, StoreError> {
        if self.backend() != DbBackend::Postgres {
            return Ok(None);
        }
        let sql = "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8";
        let row = self.readers().query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
        let bytes: Option<i64> = row.map(|row| row.try_get_by_index(0)).transpose()?;
        Ok(bytes.map(i64::cast_unsigned))
    }

    /// Runs one change of configuration in its own transaction. The writer connection serves such changes and the
    /// journal's batches one at a time.
    async fn write<T>(&self, change: impl AsyncFnOnce(&Transaction) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let transaction = self.begin().await?;
        let result = change(&transaction).await?;
        transaction.commit().await?;
        Ok(result)
    }

    /// Like [`Self::write`], for data that is rebuilt after a crash: returns before the commit is on disk. The commit
    /// reaches the disk before any later one.
    async fn write_async_commit(
        &self,
        change: impl AsyncFnOnce(&Transaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let its_turn = match self.backend() {
            // If two connections wrote at once, SQLite would let one of them sleep. So this write first waits for the
            // writer connection.
            DbBackend::Sqlite => Some(self.begin().await?),
            _ => None,
        };
        let transaction = self.inner.async_commit_pool.begin().await?;
        if its_turn.is_none() {
            transaction.execute_unprepared("SET LOCAL synchronous_commit = off").await?;
            transaction.execute_unprepared(IN_TIME).await?;
        }
        change(&transaction).await?;
        transaction.commit().await?;
        if let Some(turn) = its_turn {
            turn.rollback().await?;
        }
        Ok(())
    }

    /// Closes every connection. SQLite folds what is left of its write-ahead log into the file.
    pub async fn close(&self) {
        let Inner { writer, async_commit_pool, readers, engine_readers, lease, checkpoints, .. } = self.inner.as_ref();
        if let Some(checkpoints) = checkpoints
            && let Err(error) = checkpoints.stop().await
        {
            tracing::warn!(%error, "closing the database failed");
        }
        for pool in [async_commit_pool, readers, engine_readers].into_iter().chain(lease).chain([writer]) {
            if let Err(error) = pool.close().await {
                tracing::warn!(%error, "closing the database failed");
            }
        }
    }
}

#[cfg(test)]
mod tests;
