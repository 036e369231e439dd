//! Who may send what: the rows of nodes and shards. A node is one process from its start to its end; it holds shards for
//! as long as it renews its lease, by the database's clock. Whoever writes what was sent for a webhook locks the
//! webhook's shard first, so that nobody else takes the shard before the write is committed.
//!
//! With SQLite one process has the file, and with it everything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement, Value};

use crate::clock::UnixMillis;
use crate::id::WebhookNum;

use super::fate::TransactionId;
use super::pool::{Pool, Transaction};
use super::{Store, StoreError, dialect};

/// A power of two, many more than there will be nodes, few enough to lock all of them in a batch.
const SHARDS: usize = 256;

/// A transaction that holds shards and falls silent is ended by the server after this: a process that was frozen in the
/// middle of a batch keeps nobody from taking over.
const SILENCE: &str = "5s";

/// A renewal is waited for at least as long: the time between two of the shortest lease that can be set.
const LEAST_PATIENCE: Duration = Duration::from_millis(200);

/// Now, by the database's clock.
const NOW: &str = "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::int8";

/// A 256th of all webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardNum(u8);

impl ShardNum {
    /// Numbers of webhooks are dense, so this spreads them evenly.
    #[must_use]
    pub fn of(webhook: WebhookNum) -> Self {
        Self(webhook.0.to_le_bytes()[0])
    }

    /// Whoever holds this one gives events their keys, which must ascend.
    pub const OF_KEYS: Self = Self(0);
}

/// What one node holds.
#[derive(Debug, Clone)]
pub struct Holding(Option<Arc<Held>>);

#[derive(Debug)]
struct Held {
    node: i64,
    /// Of each shard, when it was taken.
    epochs: [i64; SHARDS],
}

/// Another node, which holds what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Higher for nodes that started later.
    pub node: i64,
    pub name: String,
    /// By the database's clock.
    pub started_at: UnixMillis,
    /// By the database's clock.
    pub lease_until: UnixMillis,
}

#[derive(Debug)]
pub enum Taken {
    Mine(Holding),
    /// Nothing was taken.
    Held(Holder),
}

#[derive(Debug, FromQueryResult)]
struct NodeRow {
    num: i64,
    name: String,
    started_at: i64,
    lease_until: i64,
    is_live: bool,
}

#[derive(Debug, FromQueryResult)]
struct ShardRow {
    num: i16,
    epoch: i64,
}

/// What a transaction was given.
#[derive(Debug, Default)]
pub(super) struct Locked {
    /// Shards that are held no longer.
    pub(super) lost: BTreeSet<ShardNum>,
    /// `None` if there is nothing that it may write.
    pub(super) transaction: Option<TransactionId>,
}

#[derive(Debug, FromQueryResult)]
struct LockedRow {
    num: i16,
    transaction: String,
}

#[derive(Debug, FromQueryResult)]
struct NumRow {
    num: i64,
}

impl Store {
    /// Whether what this process holds must be renewed.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.inner.lease.is_some()
    }

    /// How long a lease is, from its renewal to its end.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.inner.lease_for
    }

    /// Takes every shard for a new node of this name, unless a node that lives holds any.
    pub async fn take_shards(&self, name: &str) -> Result<Taken, StoreError> {
        let Some(connection) = &self.inner.lease else { return Ok(Taken::Mine(Holding(None))) };
        if let Some(holder) = living(connection, "").await? {
            return Ok(Taken::Held(holder));
        }
        let transaction = connection.begin().await?;
        // Whoever freezes here keeps no other from starting.
        let silence = format!("SELECT set_config('idle_in_transaction_session_timeout', '{SILENCE}', true)");
        transaction.execute_raw(plain(silence)).await?;
        // Locked in order, as batches do, so that nobody waits in a ring. Waits for batches under way, too.
        transaction.execute_raw(plain("SELECT num FROM shard ORDER BY num FOR UPDATE")).await?;
        // Another one may have been faster; and whoever renews now comes too late.
        if let Some(holder) = living(&transaction, "FOR UPDATE").await? {
            return Ok(Taken::Held(holder));
        }
        transaction.execute_raw(plain("DELETE FROM node")).await?;
        let node = self.new_node(&transaction, name).await?;
        let taken = "UPDATE shard SET owner = $1, epoch = epoch + 1 RETURNING num, epoch";
        let taken = Statement::from_sql_and_values(DbBackend::Postgres, taken, [node.into()]);
        let mut epochs = [0; SHARDS];
        for ShardRow { num, epoch } in ShardRow::find_by_statement(taken).all(&transaction).await? {
            if let Some(place) = usize::try_from(num).ok().and_then(|num| epochs.get_mut(num)) {
                *place = epoch;
            }
        }
        transaction.commit().await?;
        Ok(Taken::Mine(Holding(Some(Arc::new(Held { node, epochs })))))
    }

    async fn new_node(&self, on: &Transaction, name: &str) -> Result<i64, StoreError> {
        let sql =
            format!("INSERT INTO node (name, started_at, lease_until) SELECT $1, {NOW}, {NOW} + $2 RETURNING num");
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [name.into(), self.lease_ms()]);
        let row = NumRow::find_by_statement(statement).one(on).await?;
        row.map(|row| row.num).ok_or_else(|| StoreError::unreadable("node", "its number was not answered"))
    }

    /// Makes the lease as long as it was at first. Answers whether everything is still held: not when another node has
    /// taken over.
    pub async fn renew(&self, holding: &Holding) -> Result<bool, StoreError> {
        let (Some(held), Some(connection)) = (&holding.0, &self.inner.lease) else { return Ok(true) };
        let sql = format!("UPDATE node SET lease_until = {NOW} + $1 WHERE num = $2");
        let values = [self.lease_ms(), held.node.into()];
        // Whoever does not answer within what is left between two renewals is asked again, on another connection.
        let connection = connection.within((self.inner.lease_for / 5).max(LEAST_PATIENCE));
        let renewed = connection.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, values)).await?;
        Ok(renewed.rows_affected() == 1)
    }

    /// Gives everything up: nothing is sent or recorded any more.
    pub async fn release(&self, holding: &Holding) -> Result<(), StoreError> {
        let (Some(held), Some(connection)) = (&holding.0, &self.inner.lease) else { return Ok(()) };
        release(connection, held.node).await?;
        Ok(())
    }

    fn lease_ms(&self) -> Value {
        i64::try_from(self.inner.lease_for.as_millis()).unwrap_or(i64::MAX).into()
    }
}

async fn release(connection: &Pool, node: i64) -> Result<(), DbErr> {
    let transaction = connection.begin().await?;
    // In the order in which a start locks them.
    for sql in ["UPDATE shard SET owner = NULL WHERE owner = $1", "DELETE FROM node WHERE num = $1"] {
        transaction.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, [node.into()])).await?;
    }
    transaction.commit().await
}

/// A node whose lease has not ended.
async fn living<C: ConnectionTrait>(on: &C, lock: &str) -> Result<Option<Holder>, DbErr> {
    let sql = format!(
        "SELECT num, name, started_at, lease_until, lease_until > {NOW} AS is_live FROM node ORDER BY num {lock}"
    );
    let nodes = NodeRow::find_by_statement(plain(sql)).all(on).await?;
    let living = nodes.into_iter().find(|node| node.is_live);
    Ok(living.map(|NodeRow { num, name, started_at, lease_until, is_live: _ }| {
        let (started_at, lease_until) = (UnixMillis(started_at), UnixMillis(lease_until));
        Holder { node: num, name, started_at, lease_until }
    }))
}

/// A node that is at work on this database, whatever its schema.
pub(super) async fn holder<C: ConnectionTrait>(on: &C) -> Result<Option<Holder>, DbErr> {
    let has_nodes = on.query_one_raw(plain("SELECT to_regclass('node') IS NOT NULL")).await?;
    match has_nodes.map(|row| row.try_get_by_index(0)).transpose()? {
        Some(true) => living(on, "").await,
        Some(false) | None => Ok(None),
    }
}

fn plain(sql: impl Into<String>) -> Statement {
    Statement::from_string(DbBackend::Postgres, sql.into())
}

impl Holding {
    /// Keeps others from taking these shards until the transaction ends.
    pub(super) async fn lock<C: ConnectionTrait>(&self, on: &C, shards: &BTreeSet<ShardNum>) -> Result<Locked, DbErr> {
        let Some(held) = &self.0 else { return Ok(Locked::default()) };
        let sql = format!(
            "SELECT s.num, {id} AS transaction, \
                (SELECT set_config('idle_in_transaction_session_timeout', '{SILENCE}', true)) \
             FROM shard s JOIN unnest($1, $2) AS mine (num, epoch) ON s.num = mine.num AND s.epoch = mine.epoch \
             WHERE s.owner = $3 ORDER BY s.num FOR SHARE OF s",
            id = TransactionId::SELECTED
        );
        let nums = shards.iter().map(|shard| i64::from(shard.0));
        let epochs = shards.iter().map(|shard| held.epochs[usize::from(shard.0)]);
        let values = [dialect::numbers(DbBackend::Postgres, nums), dialect::numbers(DbBackend::Postgres, epochs)];
        let values = values.into_iter().chain([held.node.into()]);
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        let mut locked = Locked { lost: shards.clone(), transaction: None };
        for row in LockedRow::find_by_statement(statement).all(on).await? {
            locked.lost.retain(|shard| i16::from(shard.0) != row.num);
            locked.transaction = Some(TransactionId::of(row.transaction));
        }
        Ok(locked)
    }

    /// Whether there is anybody to lock anything against.
    pub(super) fn is_everything(&self) -> bool {
        self.0.is_none()
    }
}
