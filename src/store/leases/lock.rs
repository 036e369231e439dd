//! Statements by which a node's shards guard what it reads and writes: a batch locks its shards, and a read makes sure that
//! the server that answers has everything that this node has seen.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};

use crate::domain::shard::ShardNum;
use crate::store::dialect;
use crate::store::transaction_id::TransactionId;

use super::server::{Continuity, SERVER, STARTED, Server, ServerRow};
use super::shard_set::{DIVERGED, SUPERSEDED};
use super::{Membership, NumRow, SILENCE, ShardSet};

/// What a batch has found when it locked its shards.
#[derive(Debug, Default)]
pub struct Locked {
    /// Other nodes have reaped this one, or the server lacks transactions that this node has seen.
    pub is_reaped: bool,
    pub lost: BTreeSet<ShardNum>,
    pub statements: u64,
    /// The transaction's number, by which the server tells later whether it was committed; `None` if nothing may be
    /// written.
    pub transaction: Option<TransactionId>,
}

#[derive(Debug, Default, FromQueryResult)]
struct TransactionRow {
    started: String,
    transaction: Option<String>,
}

#[derive(Debug, FromQueryResult)]
struct JudgedRow {
    #[sea_orm(nested)]
    server: ServerRow,
    lease_there: Option<i64>,
}

impl ShardSet {
    /// Judges the server that has answered [`STARTED`] with `started`; asks it for more only if it is another one.
    pub(in crate::store) async fn continuity<C: ConnectionTrait>(
        &self,
        on: &C,
        started: &str,
    ) -> Result<Continuity, DbErr> {
        let is_another = |member: &Membership| member.server.started != started;
        let Some(member) = self.membership().filter(is_another) else { return Ok(Continuity::Unbroken) };
        let sql = format!(
            "SELECT {SERVER}, (SELECT lease_until FROM node WHERE num = $1 AND started_at = $2) AS lease_there"
        );
        let values = [member.node.into(), member.started_at.into()];
        let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
        let row = JudgedRow::find_by_statement(statement).one(on).await?;
        let row = row.ok_or_else(|| DbErr::Custom("the server does not say which one it is".to_owned()))?;
        let server = Server::try_from(row.server).map_err(|error| DbErr::Custom(error.to_string()))?;
        Ok(self.judge(server, row.lease_there))
    }

    /// Like [`Self::continuity`], but anything else than an unbroken history is an error.
    pub(in crate::store) async fn must_be_unbroken<C: ConnectionTrait>(
        &self,
        on: &C,
        started: &str,
    ) -> Result<(), DbErr> {
        match self.continuity(on, started).await? {
            Continuity::Unbroken if !self.has_diverged() => Ok(()),
            Continuity::Unbroken | Continuity::Diverged => Err(DbErr::Custom(DIVERGED.to_owned())),
            Continuity::Superseded => Err(DbErr::Custom(SUPERSEDED.to_owned())),
        }
    }

    /// Keeps other nodes from acquiring these shards, and from reaping this node, until the transaction ends.
    pub(in crate::store) async fn lock<C: ConnectionTrait>(
        &self,
        on: &C,
        shards: &BTreeSet<ShardNum>,
    ) -> Result<Locked, DbErr> {
        let Some(node) = self.node() else { return Ok(Locked::default()) };
        let sql = format!(
            "SELECT {STARTED}, me.transaction FROM (SELECT 1) AS one LEFT JOIN ( \
               SELECT {id} AS transaction, \
                 (SELECT set_config('idle_in_transaction_session_timeout', '{SILENCE}', true)) \
               FROM node WHERE num = $1 FOR KEY SHARE) AS me ON true",
            id = TransactionId::SELECTED
        );
        let lives = Statement::from_sql_and_values(DbBackend::Postgres, sql, [node.into()]);
        let lives = TransactionRow::find_by_statement(lives).one(on).await?;
        let TransactionRow { started, transaction } = lives.unwrap_or_default();
        let continuity = self.continuity(on, &started).await?;
        if continuity == Continuity::Superseded {
            return Err(DbErr::Custom(SUPERSEDED.to_owned()));
        }
        let has_diverged = continuity == Continuity::Diverged || self.has_diverged();
        let transaction = transaction.filter(|_| !has_diverged).map(TransactionId::of);
        let is_reaped = transaction.is_none();
        let mut locked = Locked { is_reaped, lost: shards.clone(), statements: 1, transaction };
        if is_reaped || shards.is_empty() {
            return Ok(locked);
        }
        locked.statements += 1;
        let sql = "SELECT s.num::int8 AS num FROM shard s \
                   JOIN unnest($1, $2) AS mine (num, epoch) ON s.num = mine.num AND s.epoch = mine.epoch \
                   WHERE s.owner = $3 ORDER BY s.num FOR SHARE OF s";
        for row in NumRow::find_by_statement(self.about_owned(shards, sql)).all(on).await? {
            locked.lost.retain(|shard| i64::from(shard.num()) != row.num);
        }
        Ok(locked)
    }

    /// A statement with three parameters: the shards' numbers, the epochs under which this node owns them, and the
    /// node.
    fn about_owned(&self, shards: &BTreeSet<ShardNum>, sql: &str) -> Statement {
        let epochs = shards.iter().map(|shard| self.epoch_in_row(*shard).unwrap_or(-1));
        let nums = shards.iter().map(|shard| i64::from(shard.num()));
        let values = [dialect::numbers(DbBackend::Postgres, nums), dialect::numbers(DbBackend::Postgres, epochs)];
        Statement::from_sql_and_values(DbBackend::Postgres, sql, values.into_iter().chain([self.node().into()]))
    }
}
