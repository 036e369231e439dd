//! The journal's database: what the journal asks of it ([`JournalDb`]), and the SQL by which [`Store`] answers.

pub mod pending;
pub mod rows;

mod load;
mod look;
mod statements;
mod traits;
mod updates;

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Statement};

use crate::domain::id::{DeliveryId, EventSeq, TenantNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;

use super::events::{Receipt, newest_event};
use super::fanouts::FanoutKey;
use super::idempotency::{Once, OnceKey, Seen};
use super::leases::{Locked, ShardSet, Snapshot};
use super::pool::Transaction;
use super::{Store, StoreError, dialect, operational_events};

pub use self::traits::{JournalDb, JournalTransaction, KnownCaller, UnansweredCommit};

use self::pending::{PendingAfter, PendingSink};
use self::rows::{Rows, Updated};

pub(super) use self::statements::Statements;

#[async_trait]
impl JournalDb for Store {
    async fn begin_batch(&self, end: Instant) -> Result<Box<dyn JournalTransaction>, StoreError> {
        let transaction = self.inner.writer.begin_until(end.into()).await?;
        Ok(Box::new(Batch { store: self.clone(), transaction }))
    }

    async fn last_event(&self) -> Result<EventSeq, StoreError> {
        Self::last_event(self).await
    }

    async fn read_pending(
        &self,
        shards: &[ShardNum],
        now: UnixMillis,
        found: &mut PendingSink<'_>,
    ) -> Result<Snapshot, StoreError> {
        Self::read_pending(self, shards, now, found).await
    }

    async fn end_orphans(&self, shards: &[ShardNum], now: UnixMillis) -> Result<usize, StoreError> {
        Ok(Self::end_orphans(self, Some(shards), now).await?.count())
    }

    async fn pending_after(&self, questions: &[PendingAfter], most: usize) -> Result<Vec<Vec<EventSeq>>, StoreError> {
        Self::pending_after(self, questions, most).await
    }

    async fn answers(&self) {
        Self::answers(self).await;
    }

    async fn resolve_commit(&self, batch: &UnansweredCommit<'_>) -> bool {
        Self::resolve_commit(self, batch).await
    }
}

/// A transaction of the journal's writer.
struct Batch {
    store: Store,
    transaction: Transaction,
}

#[derive(Debug, FromQueryResult)]
struct SettledRow {
    is_settled: bool,
}

#[derive(Debug, FromQueryResult)]
struct KeyRow {
    event_seq: i64,
    shard: i16,
}

#[derive(Debug, FromQueryResult)]
struct CallerRow {
    event_seq: i64,
    digest: Vec<u8>,
    occurred_at: i64,
    matched: i64,
}

#[async_trait]
impl JournalTransaction for Batch {
    async fn lock(&mut self, shard_set: &ShardSet, shards: &BTreeSet<ShardNum>) -> Result<Locked, StoreError> {
        Ok(shard_set.lock(&self.transaction, shards).await?)
    }

    async fn settled_among(&mut self, deliveries: &[DeliveryId]) -> Result<HashSet<DeliveryId>, StoreError> {
        let mut settled = HashSet::new();
        for id in deliveries {
            if is_settled(&self.transaction, *id).await? {
                settled.insert(*id);
            }
        }
        Ok(settled)
    }

    async fn open_among(&mut self, fanouts: &[FanoutKey]) -> Result<HashSet<FanoutKey>, StoreError> {
        Ok(open_among(&self.transaction, fanouts).await?)
    }

    async fn newest_event(&mut self) -> Result<EventSeq, StoreError> {
        newest_event(&self.transaction).await
    }

    async fn known_caller(&mut self, tenant: TenantNum, id: &str) -> Result<Option<KnownCaller>, StoreError> {
        Ok(known_caller(&self.transaction, tenant, id).await?)
    }

    async fn seen(&mut self, key: &OnceKey) -> Result<Seen, StoreError> {
        self.store.seen_on(&self.transaction, key).await
    }

    async fn remember(&mut self, once: Once, now: UnixMillis) -> Result<(), StoreError> {
        self.store.remember(&self.transaction, Some(once), now).await
    }

    async fn take_operational(&mut self, sequence: i64) -> Result<bool, StoreError> {
        Ok(operational_events::take(&self.transaction, sequence).await?)
    }

    async fn write(&mut self, rows: Rows<'_>) -> Result<Updated, StoreError> {
        let statements = self.store.inner.statements.get_or_init(|| Statements::new(self.store.backend()));
        Ok(statements.run(&self.transaction, rows).await?)
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        Ok(self.transaction.commit().await?)
    }
}

async fn is_settled<C: ConnectionTrait>(on: &C, id: DeliveryId) -> Result<bool, DbErr> {
    let sql = "SELECT status <> 0 AS is_settled FROM delivery WHERE event_seq = $1 AND webhook_num = $2";
    let values = [id.event.0.into(), id.webhook.0.into()];
    let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, values);
    Ok(SettledRow::find_by_statement(statement).one(on).await?.is_some_and(|row| row.is_settled))
}

async fn open_among<C: ConnectionTrait>(on: &C, fanouts: &[FanoutKey]) -> Result<HashSet<FanoutKey>, DbErr> {
    let backend = on.get_database_backend();
    let sql = format!(
        "SELECT f.event_seq, f.shard FROM fanout f \
         JOIN {} ON f.event_seq = k.event_seq AND f.shard = k.shard",
        dialect::keys_as_rows(backend, ["event_seq", "shard"])
    );
    let keys: Vec<[i64; 2]> = fanouts.iter().map(|(event, shard)| [event.0, i64::from(*shard)]).collect();
    let statement = Statement::from_sql_and_values(backend, sql, dialect::keys(backend, &keys));
    let rows = KeyRow::find_by_statement(statement).all(on).await?;
    Ok(rows.into_iter().map(|row| (EventSeq(row.event_seq), row.shard)).collect())
}

async fn known_caller<C: ConnectionTrait>(
    on: &C,
    tenant: TenantNum,
    caller_id: &str,
) -> Result<Option<KnownCaller>, DbErr> {
    let sql = "SELECT c.event_seq, c.digest, e.occurred_at, e.matched FROM event_caller_id c \
               JOIN event e ON e.seq = c.event_seq WHERE c.tenant_num = $1 AND c.caller_id = $2";
    let values = [tenant.0.into(), caller_id.into()];
    let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, values);
    let Some(row) = CallerRow::find_by_statement(statement).one(on).await? else { return Ok(None) };
    // An unreadable digest matches no content, so that its publisher is refused and the rest of the batch is not.
    let digest = row.digest.try_into().unwrap_or_default();
    let receipt = Receipt {
        seq: EventSeq(row.event_seq),
        occurred_at: UnixMillis(row.occurred_at),
        matched: u32::try_from(row.matched).unwrap_or(u32::MAX),
    };
    Ok(Some(KnownCaller { digest, receipt }))
}
