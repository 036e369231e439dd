//! Which node may send for which webhook: the rows of nodes and shards. A node is one process from its start to its
//! end. It owns shards for as long as it renews its lease, by the database's clock. A batch that records deliveries of
//! a webhook locks the webhook's shard first, so that no other node acquires the shard before the batch is committed.
//! `cluster/survey` and `cluster/placement` decide which shards to acquire and release, and `cluster/member` carries
//! that out; this module only reads and writes the rows. What the process owns by them it keeps in memory, in the
//! [`ShardSet`].
//!
//! With SQLite one process has the file and owns everything.

mod join;
mod lock;
#[cfg(test)]
pub(crate) mod memory;
mod server;
mod shard_set;
mod snapshot;

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement, Value};

use crate::clock::Question;
use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::in_doubt::InDoubt;
use crate::domain::moment::UnixMillis;
use crate::domain::shard::{SHARDS, ShardNum};

use super::decode::{NumRow, shard_of};
use super::{Store, StoreError, dialect};

pub use self::lock::Locked;
pub(crate) use self::server::Continuity;
pub(super) use self::server::STARTED;
use self::server::{SERVER, Server, ServerRow};
pub use self::shard_set::{Membership, ShardSet};
pub use self::snapshot::Snapshot;

/// How long a transaction that locks shards may be silent before the server ends it, so that a process that froze in
/// the middle of a batch does not block a takeover.
const SILENCE: &str = "5s";

/// The least time to wait for a renewal: the time between two renewals of the shortest lease that can be configured.
const LEAST_PATIENCE: Duration = Duration::from_millis(200);

/// Now, by the database's clock.
pub(super) const NOW: &str = "(EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::int8";

/// A node as other nodes know it. Times are by the database's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Higher for nodes that started later.
    pub num: i64,
    pub name: String,
    /// The address at which other nodes reach it.
    pub address: Option<String>,
    pub started_at: UnixMillis,
    pub lease_until: UnixMillis,
    /// Whether its lease has not ended.
    pub is_alive: bool,
}

/// All nodes, and the owner of each shard.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Ascending by number.
    pub nodes: Vec<Node>,
    /// The owner of each shard, if it has one, and its epoch.
    pub shards: Vec<(Option<i64>, i64)>,
}

/// A shard that this node has just acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcquiredShard {
    pub shard: ShardNum,
    pub(super) epoch: i64,
    /// What an earlier owner may have sent.
    pub(super) in_doubt: InDoubt,
}

#[derive(Debug, FromQueryResult)]
struct NodeRow {
    num: i64,
    name: String,
    address: Option<String>,
    started_at: i64,
    lease_until: i64,
    lives: bool,
}

#[derive(Debug, FromQueryResult)]
struct ShardRow {
    num: i16,
    owner: Option<i64>,
    epoch: i64,
}

#[derive(Debug, FromQueryResult)]
struct AcquiredRow {
    num: i16,
    epoch: i64,
    suspect_events_to: i64,
    suspect_due_to: i64,
}

#[derive(Debug, Default, FromQueryResult)]
struct StartedRow {
    started: String,
}

#[derive(Debug, FromQueryResult)]
struct RenewedRow {
    #[sea_orm(nested)]
    server: ServerRow,
    /// The lease before the renewal. This and the following are `None` if the node's row is gone.
    before: Option<i64>,
    lease_until: Option<i64>,
    clock: Option<i64>,
}

/// What became of an attempt to renew a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    Renewed,
    /// Other nodes have reaped this one.
    Reaped,
    /// The server lacks transactions that this node has seen.
    Diverged,
}

#[derive(Debug, FromQueryResult)]
struct IsOverRow {
    is_over: bool,
}

impl Store {
    /// Whether other nodes may use the same database.
    #[must_use]
    pub fn is_clustered(&self) -> bool {
        self.inner.lease.is_some()
    }

    /// How long a lease is, from its renewal to its end.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.inner.lease_for
    }

    /// Reads all nodes and the owner of each shard; `None` with SQLite.
    pub async fn survey(&self, shard_set: &ShardSet) -> Result<Option<Survey>, StoreError> {
        let Some(connection) = &self.inner.lease else { return Ok(None) };
        let statement = plain(format!("SELECT {STARTED}"));
        let row = StartedRow::find_by_statement(statement).one(connection).await?;
        shard_set.must_be_unbroken(connection, &row.unwrap_or_default().started).await?;
        let nodes = nodes(connection).await?;
        let sql = "SELECT num, owner, epoch FROM shard ORDER BY num";
        let rows = ShardRow::find_by_statement(plain(sql)).all(connection).await?;
        let mut shards = vec![(None, 0); SHARDS];
        for ShardRow { num, owner, epoch } in rows {
            if let Some(shard) = self.if_readable("shard", num, shard_of(num))? {
                shards[shard.place()] = (owner, epoch);
            }
        }
        Ok(Some(Survey { nodes, shards }))
    }

    /// Deletes the row of a node whose lease has ended, and leaves its shards without an owner and in doubt. Returns
    /// false if the lease has not ended; true also if another node has reaped the node already.
    pub async fn reap_expired(&self, node: i64) -> Result<bool, StoreError> {
        let Some(connection) = &self.inner.lease else { return Ok(false) };
        let transaction = connection.begin().await?;
        // If this process freezes here, the server ends the transaction, so that another node can reap.
        transaction.execute_raw(plain(silence())).await?;
        // Locks in the same order as batches. The lock waits for a batch of that node under way; a renewal that waits
        // for the lock finds no row.
        let sql = format!("SELECT lease_until <= {NOW} AS is_over FROM node WHERE num = $1 FOR UPDATE");
        let row = IsOverRow::find_by_statement(about(node, sql)).one(&transaction).await?;
        if row.is_some_and(|row| !row.is_over) {
            return Ok(false);
        }
        let sql = "SELECT num FROM shard WHERE owner = $1 ORDER BY num FOR UPDATE";
        transaction.execute_raw(about(node, sql)).await?;
        give_up_shards(&transaction, node, None).await?;
        transaction.execute_raw(about(node, "DELETE FROM node WHERE num = $1")).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Acquires those of these shards that have no owner. The journal's writer activates them afterwards.
    pub async fn acquire(&self, shard_set: &ShardSet, wanted: &[ShardNum]) -> Result<Vec<AcquiredShard>, StoreError> {
        let (Some(me), Some(connection)) = (shard_set.membership(), &self.inner.lease) else { return Ok(Vec::new()) };
        let sql = format!(
            "WITH me AS (SELECT num FROM node WHERE num = $1 AND started_at = $3 AND lease_until > {NOW} FOR KEY SHARE), \
             free AS (SELECT s.num FROM shard s, me WHERE s.num = ANY($2) AND s.owner IS NULL ORDER BY s.num FOR UPDATE OF s) \
             UPDATE shard SET owner = me.num, epoch = shard.epoch + 1 FROM me, free WHERE shard.num = free.num \
             RETURNING shard.num, shard.epoch, shard.suspect_events_to, shard.suspect_due_to"
        );
        let values = [me.node.into(), nums(wanted), me.started_at.into()];
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        let rows = AcquiredRow::find_by_statement(statement).all(connection).await?;
        let shard = |AcquiredRow { num, epoch, suspect_events_to, suspect_due_to }| {
            let in_doubt = InDoubt { events_to: EventSeq(suspect_events_to), due_to: UnixMillis(suspect_due_to) };
            Ok(AcquiredShard { shard: shard_of(num)?, epoch, in_doubt })
        };
        rows.into_iter().map(shard).collect()
    }

    /// Releases these shards; `in_doubt`: attempts may have been cut short. If another server answers than the one that
    /// this node knows, it may lack outcomes that this node has recorded, and the shards are in doubt, too.
    pub async fn release(&self, shard_set: &ShardSet, shards: &[ShardNum], in_doubt: bool) -> Result<(), StoreError> {
        let (Some(me), Some(connection)) = (shard_set.membership(), &self.inner.lease) else { return Ok(()) };
        let is_in_doubt = in_doubt || shard_set.has_diverged();
        give_up_shards(connection, me.node, Some(Released { shards, me: &me, is_in_doubt })).await?;
        Ok(())
    }

    /// Notes that an attempt of this webhook may have been cut short.
    pub(super) async fn mark_shard_in_doubt(&self, webhook: WebhookNum, in_doubt: InDoubt) -> Result<(), StoreError> {
        let sql = "UPDATE shard SET suspect_events_to = GREATEST(suspect_events_to, $1), \
                   suspect_due_to = GREATEST(suspect_due_to, $2) WHERE num = $3";
        let values = [in_doubt.events_to.0.into(), in_doubt.due_to.0.into(), ShardNum::of(webhook).num().into()];
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        self.write(async |on| Ok(on.execute_raw(statement).await?)).await?;
        Ok(())
    }

    /// The event key up to which the log index covers all of these shards.
    pub(super) async fn shards_indexed_to(&self, shards: &[ShardNum]) -> Result<EventSeq, StoreError> {
        let sql = "SELECT COALESCE(MIN(log_indexed_to), 0) AS num FROM shard WHERE num = ANY($1)";
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, [nums(shards)]);
        let row = NumRow::find_by_statement(statement).one(self.engine_readers()).await?;
        Ok(EventSeq(row.map_or(0, |row| row.num)))
    }

    pub(super) async fn set_shards_indexed_to(
        &self,
        shard_set: &ShardSet,
        shards: &[ShardNum],
        to: EventSeq,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE shard SET log_indexed_to = GREATEST(log_indexed_to, $1) WHERE owner = $2 AND num = ANY($3)";
        let values = [to.0.into(), shard_set.node().into(), nums(shards)];
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        self.inner.async_commit_pool.execute_raw(statement).await?;
        Ok(())
    }

    /// Renews the lease to its full length. The answer also sets the process's clock, since all nodes keep the time of
    /// the clock that measures their leases.
    pub async fn renew(&self, shard_set: &ShardSet) -> Result<Renewal, StoreError> {
        let (Some(member), Some(connection)) = (shard_set.membership(), &self.inner.lease) else {
            return Ok(Renewal::Renewed);
        };
        let sql = format!(
            "WITH renewed AS (UPDATE node SET lease_until = {NOW} + $1 \
               FROM (SELECT num, lease_until AS before FROM node WHERE num = $2 AND started_at = $3 FOR NO KEY UPDATE) AS me \
               WHERE node.num = me.num RETURNING me.before, node.lease_until, {NOW} AS clock) \
             SELECT {SERVER}, renewed.before, renewed.lease_until, renewed.clock \
             FROM (SELECT 1) AS one LEFT JOIN renewed ON true"
        );
        let values = [self.lease_ms(), member.node.into(), member.started_at.into()];
        // If the server does not answer before the next renewal is due, that one uses another connection.
        let connection = connection.within((self.inner.lease_for / 5).max(LEAST_PATIENCE));
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        let question = Question::ask();
        let row = RenewedRow::find_by_statement(statement).one(&connection).await?;
        let row = row.ok_or_else(|| StoreError::unreadable("lease", "its renewal was not answered"))?;
        let server: Server = row.server.try_into()?;
        let flushed = server.flushed;
        let continuity = shard_set.judge(server, row.before);
        // The process may have joined again as another node meanwhile; the renewal was the former one's.
        if continuity != Continuity::Unbroken || shard_set.has_diverged() || shard_set.node() != Some(member.node) {
            return Ok(Renewal::Diverged);
        }
        let (Some(lease_until), Some(clock)) = (row.lease_until, row.clock) else { return Ok(Renewal::Reaped) };
        shard_set.renewed(lease_until, flushed);
        question.answered(UnixMillis(clock));
        Ok(Renewal::Renewed)
    }

    fn lease_ms(&self) -> Value {
        i64::try_from(self.inner.lease_for.as_millis()).unwrap_or(i64::MAX).into()
    }
}

/// Shards that a node releases.
struct Released<'a> {
    shards: &'a [ShardNum],
    me: &'a Membership,
    is_in_doubt: bool,
}

/// Leaves shards without an owner: those that a node releases, or all of a node that is gone, in doubt. The node sent
/// what was due by its own clock, which may differ from the database's for a while, so that the doubt covers what was
/// due by either clock.
async fn give_up_shards<C: ConnectionTrait>(on: &C, node: i64, released: Option<Released<'_>>) -> Result<(), DbErr> {
    // After lost transactions, another node may have got the same number.
    let (in_doubt, which) = match released {
        Some(_) => (
            format!("($5 OR (SELECT {STARTED}) <> $6)"),
            "AND num = ANY($3) AND EXISTS (SELECT 1 FROM node WHERE num = $1 AND started_at = $4)",
        ),
        None => ("true".to_owned(), ""),
    };
    let sql = format!(
        "UPDATE shard SET owner = NULL, epoch = epoch + 1, \
         suspect_due_to = CASE WHEN {in_doubt} THEN GREATEST(suspect_due_to, {NOW}, $2) ELSE suspect_due_to END, \
         suspect_events_to = CASE WHEN {in_doubt} \
           THEN GREATEST(suspect_events_to, COALESCE((SELECT MAX(seq) FROM event), 0)) ELSE suspect_events_to END \
         WHERE owner = $1 {which}"
    );
    let values = released.map(|Released { shards, me, is_in_doubt }| {
        [nums(shards), me.started_at.into(), is_in_doubt.into(), me.server.started.as_str().into()]
    });
    let by_own_clock = UnixMillis::now();
    let values = [Value::from(node), by_own_clock.0.into()].into_iter().chain(values.into_iter().flatten());
    on.execute_raw(Statement::from_sql_and_values(DbBackend::Postgres, sql, values)).await?;
    Ok(())
}

/// Lets the server end the transaction if the process freezes in the middle of it.
fn silence() -> String {
    format!("SELECT set_config('idle_in_transaction_session_timeout', '{SILENCE}', true)")
}

async fn nodes<C: ConnectionTrait>(on: &C) -> Result<Vec<Node>, DbErr> {
    let sql = format!(
        "SELECT num, name, address, started_at, lease_until, lease_until > {NOW} AS lives FROM node ORDER BY num"
    );
    let rows = NodeRow::find_by_statement(plain(sql)).all(on).await?;
    let node = |NodeRow { num, name, address, started_at, lease_until, lives }| {
        let (started_at, lease_until) = (UnixMillis(started_at), UnixMillis(lease_until));
        Node { num, name, address, started_at, lease_until, is_alive: lives }
    };
    Ok(rows.into_iter().map(node).collect())
}

/// The name of a node whose lease has not ended, whatever version of the schema the database has.
pub(super) async fn anybody<C: ConnectionTrait>(on: &C) -> Result<Option<String>, DbErr> {
    let has_nodes = on.query_one_raw(plain("SELECT to_regclass('node') IS NOT NULL")).await?;
    if has_nodes.map(|row| row.try_get_by_index(0)).transpose()? != Some(true) {
        return Ok(None);
    }
    let sql = format!("SELECT name FROM node WHERE lease_until > {NOW} ORDER BY num LIMIT 1");
    on.query_one_raw(plain(sql)).await?.map(|row| row.try_get_by_index(0)).transpose()
}

fn plain(sql: impl Into<String>) -> Statement {
    Statement::from_string(DbBackend::Postgres, sql.into())
}

/// A statement whose only parameter is a node's number.
fn about(node: i64, sql: impl Into<String>) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, sql.into(), [node.into()])
}

fn nums(shards: &[ShardNum]) -> Value {
    dialect::numbers(DbBackend::Postgres, shards.iter().map(|shard| i64::from(shard.num())))
}
