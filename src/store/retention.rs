//! Deletes rows that are older than their retention: settled events with all that belongs to them, receivers' answers,
//! and rows of the audit log. Each call is one short transaction. `engine/retention` decides which rows, how many and
//! when; this module makes sure that nothing owed is among them.
//!
//! With PostgreSQL the node that owns the first shard deletes for all. Its transactions lock that shard, so that a node
//! that has lost it deletes nothing. They also lock each event that they delete, and a retry by hand locks the event of
//! its delivery (`journal_db/updates`): so no settled delivery becomes pending while its event is being deleted.

mod events;
mod responses;

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement, Value};

use crate::domain::id::{EventSeq, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;

use super::decode::NumRow;
use super::leases::ShardSet;
use super::pool::Transaction;
use super::{Store, StoreError};

pub use self::events::Deleted;
pub(super) use self::events::owed_among;
pub use super::state::SweepMark;

/// Bounds how long a deletion waits for a lock. Shorter than the time after which PostgreSQL looks for a deadlock, so
/// that of a deletion and a batch of the journal that wait for each other, the deletion gives way. The other settings
/// keep the planner from reading a whole table when its statistics are old.
const GIVE_WAY: &str = "SELECT set_config('lock_timeout', '500ms', true), set_config('enable_seqscan', 'off', true), \
    set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)";

/// A delivery whose status cannot be read counts as pending, so that nothing owed is deleted.
pub(super) const NOT_SETTLED: &str = "NOT IN (1, 2, 3)";

/// Which events a sweep reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepScope {
    All,
    Of(TenantNum),
}

/// An event as a sweep reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldEvent {
    pub seq: EventSeq,
    pub tenant: TenantNum,
    /// About how many deliveries it has.
    pub matched: u64,
    pub body_bytes: u64,
}

/// A tenant that keeps events or answers for another time than the engine does. In seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnRetention {
    pub tenant: TenantNum,
    pub events: Option<u64>,
    pub responses: Option<u64>,
}

#[derive(Debug, FromQueryResult)]
struct OldRow {
    seq: i64,
    tenant_num: i64,
    matched: i64,
    body_bytes: i64,
}

#[derive(Debug, FromQueryResult)]
struct OwnRow {
    num: i64,
    retention_events: Option<i64>,
    retention_responses: Option<i64>,
}

#[derive(Debug, FromQueryResult)]
struct LastRow {
    last: Option<i64>,
}

const OLD_EVENTS: &str =
    "SELECT seq, tenant_num, matched, CAST(OCTET_LENGTH(body) AS BIGINT) AS body_bytes FROM event WHERE";

fn old_events_sql(scope: SweepScope) -> String {
    let of = match scope {
        SweepScope::All => "",
        SweepScope::Of(_) => "tenant_num = $4 AND",
    };
    format!("{OLD_EVENTS} {of} seq > $1 AND seq < $2 ORDER BY seq LIMIT $3")
}

const OWN_RETENTION: &str = "SELECT num, retention_events, retention_responses FROM tenant \
    WHERE retention_events IS NOT NULL OR retention_responses IS NOT NULL ORDER BY num";

const LEFT_BEHIND: &str = "SELECT num FROM tenant WHERE num > $1 AND retention_events IS NULL \
    AND EXISTS (SELECT 1 FROM event e WHERE e.tenant_num = num AND e.seq < $2) ORDER BY num LIMIT $3";

const LAST_OF_PART: &str = "SELECT MAX(part.webhook_num) AS last FROM (SELECT webhook_num FROM delivery \
    WHERE event_seq = $1 AND webhook_num > $2 ORDER BY webhook_num LIMIT $3) AS part";

const OLD_AUDIT: &str =
    "DELETE FROM audit WHERE at < $1 AND num IN (SELECT num FROM audit WHERE num > 0 ORDER BY num LIMIT $2)";

impl Store {
    /// The first events between two keys, both exclusive.
    pub async fn old_events(
        &self,
        scope: SweepScope,
        (after, before): (EventSeq, EventSeq),
        limit: u32,
    ) -> Result<Vec<OldEvent>, StoreError> {
        let values = [after.0.into(), before.0.into(), i64::from(limit).into()];
        let tenant = match scope {
            SweepScope::All => None,
            SweepScope::Of(tenant) => Some(Value::from(tenant.0)),
        };
        let values = values.into_iter().chain(tenant);
        let statement = Statement::from_sql_and_values(self.backend(), old_events_sql(scope), values);
        let rows: Vec<OldRow> = self.all_readable(self.engine_readers(), ("event", &["seq"]), statement).await?;
        let event = |row: OldRow| OldEvent {
            seq: EventSeq(row.seq),
            tenant: TenantNum(row.tenant_num),
            matched: u64::try_from(row.matched).unwrap_or(0),
            body_bytes: u64::try_from(row.body_bytes).unwrap_or(0),
        };
        Ok(rows.into_iter().map(event).collect())
    }

    /// The tenants with settings of their own.
    pub async fn own_retention(&self) -> Result<Vec<OwnRetention>, StoreError> {
        let statement = Statement::from_string(self.backend(), OWN_RETENTION);
        let rows: Vec<OwnRow> = self.all_readable(self.engine_readers(), ("tenant", &["num"]), statement).await?;
        let own = |row: OwnRow| OwnRetention {
            tenant: TenantNum(row.num),
            events: row.retention_events.map(i64::unsigned_abs),
            responses: row.retention_responses.map(i64::unsigned_abs),
        };
        Ok(rows.into_iter().map(own).collect())
    }

    /// The first tenants after `after` that keep events as long as the engine does and have events before this key.
    pub async fn tenants_with_events_before(
        &self,
        before: EventSeq,
        after: TenantNum,
        limit: u32,
    ) -> Result<Vec<TenantNum>, StoreError> {
        let values = [after.0.into(), before.0.into(), i64::from(limit).into()];
        let statement = Statement::from_sql_and_values(self.backend(), LEFT_BEHIND, values);
        let rows = NumRow::find_by_statement(statement).all(self.engine_readers()).await?;
        Ok(rows.into_iter().map(|row| TenantNum(row.num)).collect())
    }

    /// How far a sweep had come when it was last noted.
    pub async fn sweep_mark(&self, mark: SweepMark) -> Result<EventSeq, StoreError> {
        super::state::sweep_mark(self.engine_readers(), mark).await
    }

    /// Deletes audit rows from before this moment, `limit` at most; returns how many.
    pub async fn delete_old_audit(
        &self,
        shard_set: &ShardSet,
        before: UnixMillis,
        limit: u32,
    ) -> Result<Option<u64>, StoreError> {
        let values = [before.0.into(), i64::from(limit).into()];
        let statement = Statement::from_sql_and_values(self.backend(), OLD_AUDIT, values);
        self.sweep(shard_set, async |on| Ok(on.execute_raw(statement).await?.rows_affected())).await
    }

    /// Runs one deletion in a transaction that returns before it is on disk: a deletion that a crash undoes is made
    /// again. `None` if this node has lost the first shard.
    async fn sweep<T>(
        &self,
        shard_set: &ShardSet,
        delete: impl AsyncFnOnce(&Transaction) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let mut deleted = None;
        let sweep = self.write_async_commit(async |on| {
            if owns_the_first_shard(on, shard_set).await? {
                deleted = Some(delete(on).await?);
            }
            Ok(())
        });
        sweep.await?;
        Ok(deleted)
    }
}

/// The last of the next `webhooks` webhooks after `after` that have a delivery of this event. `None`: there are no more.
/// So the deliveries of an event are changed part by part.
pub(super) async fn last_of_part<C: ConnectionTrait>(
    on: &C,
    event: EventSeq,
    after: WebhookNum,
    webhooks: u32,
) -> Result<Option<WebhookNum>, StoreError> {
    let values = [event.0.into(), after.0.into(), i64::from(webhooks).into()];
    let statement = Statement::from_sql_and_values(on.get_database_backend(), LAST_OF_PART, values);
    let row = LastRow::find_by_statement(statement).one(on).await?;
    Ok(row.and_then(|row| row.last).map(WebhookNum))
}

/// Locks the first shard until the transaction ends. With SQLite there is nothing to lock.
async fn owns_the_first_shard(on: &Transaction, shard_set: &ShardSet) -> Result<bool, StoreError> {
    if on.get_database_backend() != DbBackend::Postgres {
        return Ok(true);
    }
    on.execute_raw(Statement::from_string(DbBackend::Postgres, GIVE_WAY)).await?;
    let locked = shard_set.lock(on, &BTreeSet::from([ShardNum::WHOLE])).await?;
    Ok(!locked.is_reaped && locked.lost.is_empty())
}

/// Every statement that a sweep runs, for a test of their plans.
#[cfg(test)]
pub(super) fn all_statements(backend: DbBackend) -> Vec<String> {
    let scopes = [SweepScope::All, SweepScope::Of(TenantNum(1))].map(old_events_sql);
    let fixed = [OWN_RETENTION, LEFT_BEHIND, LAST_OF_PART, OLD_AUDIT].map(str::to_owned);
    scopes.into_iter().chain(fixed).chain(events::statements(backend)).chain(responses::statements(backend)).collect()
}
