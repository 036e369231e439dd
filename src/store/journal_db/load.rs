//! Reads all that webhooks are owed, for a journal that starts or acquires shards: counts pending rows, and reads the
//! targets of open fan-outs that have no row, in bounded memory.

use std::pin::Pin;

use futures_util::{Stream, TryStreamExt};
use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement, Value};

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;
use crate::store::fanouts::{FANOUT_KEY, last_key};
use crate::store::leases::{STARTED, Snapshot};
use crate::store::pool::Transaction;
use crate::store::{Store, StoreError, dialect, targets};

use super::look::{FANOUTS, FanoutRow};
use super::pending::{Pending, PendingSink};

/// SQL for the shard of a delivery's webhook.
const SHARD_OF: &str = "(webhook_num & 255)";

/// Pending rows whose due times one query counts: bounds what the database sorts, unless one webhook has more.
const ROWS: i64 = 262_144;

#[derive(Debug, Default, FromQueryResult)]
struct SnapshotRow {
    snapshot: String,
    started: String,
}

#[derive(Debug, FromQueryResult)]
struct PendingRow {
    webhook_num: i64,
    pending: i64,
    oldest: i64,
}

#[derive(Debug, FromQueryResult)]
struct ScheduledRow {
    webhook_num: i64,
    second: i64,
    scheduled: i64,
}

#[derive(Debug, FromQueryResult)]
struct RecordedRow {
    event_seq: i64,
    shard: i16,
    webhook_num: i64,
}

impl Store {
    /// Reads what the webhooks of these shards are owed (with SQLite, all webhooks); returns the snapshot at which that
    /// was true.
    pub(in crate::store) async fn read_pending(
        &self,
        shards: &[ShardNum],
        now: UnixMillis,
        found: &mut PendingSink<'_>,
    ) -> Result<Snapshot, StoreError> {
        if self.is_clustered() && shards.is_empty() {
            return Ok(Snapshot::of_everything());
        }
        let moment = self.engine_readers().for_scans().begin_moment().await?;
        let snapshot = self.snapshot(&moment).await?;
        let load = Load { store: self, on: &moment, shards: self.is_clustered().then_some(shards) };
        load.rows(now, found).await?;
        load.fanouts(found).await?;
        moment.commit().await?;
        Ok(snapshot)
    }

    /// Which transactions a reader on `on` sees.
    pub(in crate::store) async fn snapshot<C: ConnectionTrait>(&self, on: &C) -> Result<Snapshot, StoreError> {
        if !self.is_clustered() {
            return Ok(Snapshot::of_everything());
        }
        Ok(self.server_snapshot(on).await?.0)
    }

    /// The same, with the start time of the server in the form of [`STARTED`].
    pub(in crate::store) async fn server_snapshot<C: ConnectionTrait>(
        &self,
        on: &C,
    ) -> Result<(Snapshot, String), StoreError> {
        let sql = format!("SELECT pg_current_snapshot()::text AS snapshot, {STARTED}");
        let row = SnapshotRow::find_by_statement(Statement::from_string(DbBackend::Postgres, sql)).one(on).await?;
        let SnapshotRow { snapshot, started } = row.unwrap_or_default();
        let parsed = Snapshot::parse(&snapshot).ok_or_else(|| StoreError::unreadable("snapshot", snapshot))?;
        Ok((parsed, started))
    }
}

/// One load: from which snapshot, and for which shards.
struct Load<'a> {
    store: &'a Store,
    on: &'a Transaction,
    /// `None`: all shards.
    shards: Option<&'a [ShardNum]>,
}

impl Load<'_> {
    fn backend(&self) -> DbBackend {
        self.on.get_database_backend()
    }

    /// SQL condition: a column names one of the shards, which are bound to parameter `place`.
    fn is_ours(&self, shard: &str, place: usize) -> String {
        self.shards.map_or_else(String::new, |_| format!("AND {shard} = ANY(${place})"))
    }

    fn with_shards(&self, values: impl IntoIterator<Item = Value>) -> Vec<Value> {
        let shards = self
            .shards
            .map(|shards| dialect::numbers(self.backend(), shards.iter().map(|shard| i64::from(shard.num()))));
        values.into_iter().chain(shards).collect()
    }

    async fn rows(&self, now: UnixMillis, found: &mut PendingSink<'_>) -> Result<(), StoreError> {
        let is_ours = self.is_ours(SHARD_OF, 1);
        let sql = format!(
            "SELECT webhook_num, COUNT(*) AS pending, MIN(event_seq) AS oldest FROM delivery \
             WHERE status = 0 {is_ours} GROUP BY webhook_num ORDER BY webhook_num"
        );
        let statement = Statement::from_sql_and_values(self.backend(), sql, self.with_shards([]));
        let rows = PendingRow::find_by_statement(statement).all(self.on).await?;
        let (mut from, mut gathered) = (None, 0);
        for row in &rows {
            let (webhook, count) = (WebhookNum(row.webhook_num), row.pending.cast_unsigned());
            found(Pending::Rows { webhook, count, oldest: EventSeq(row.oldest) });
            gathered += row.pending;
            let first = *from.get_or_insert(row.webhook_num);
            if gathered >= ROWS {
                self.scheduled((first, row.webhook_num), now, found).await?;
                (from, gathered) = (None, 0);
            }
        }
        if let (Some(first), Some(last)) = (from, rows.last()) {
            self.scheduled((first, last.webhook_num), now, found).await?;
        }
        Ok(())
    }

    async fn scheduled(
        &self,
        (first, last): (i64, i64),
        now: UnixMillis,
        found: &mut PendingSink<'_>,
    ) -> Result<(), StoreError> {
        let is_ours = self.is_ours(SHARD_OF, 4);
        let sql = format!(
            "SELECT webhook_num, next_at / 1000 AS second, COUNT(*) AS scheduled FROM delivery \
             WHERE status = 0 AND webhook_num BETWEEN $1 AND $2 AND next_at > $3 {is_ours} \
             GROUP BY webhook_num, next_at / 1000"
        );
        let values = self.with_shards([first, last, now.0].map(Into::into));
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        for row in ScheduledRow::find_by_statement(statement).all(self.on).await? {
            let ScheduledRow { webhook_num, second, scheduled } = row;
            let (webhook, until) = (WebhookNum(webhook_num), UnixMillis(second * 1000));
            found(Pending::Waiting { webhook, until, count: u32::try_from(scheduled).unwrap_or(u32::MAX) });
        }
        Ok(())
    }

    /// Reads what open fan-outs owe to targets without a row.
    async fn fanouts(&self, found: &mut PendingSink<'_>) -> Result<(), StoreError> {
        let is_ours = self.is_ours("shard", 4);
        let sql = format!(
            "SELECT event_seq, shard, targets FROM fanout WHERE (event_seq, shard) > ($1, $2) {is_ours} \
             ORDER BY event_seq, shard LIMIT $3"
        );
        let mut after = (EventSeq::ZERO.0, i16::MAX);
        loop {
            let values = self.with_shards([after.0.into(), after.1.into(), FANOUTS.into()]);
            let statement = Statement::from_sql_and_values(self.backend(), &sql, values);
            let rows = self.on.query_all_raw(statement).await?;
            let Some(last) = last_key(&rows) else { return Ok(()) };
            after = last;
            let fanouts: Vec<FanoutRow> = self.store.readable("fanout", &FANOUT_KEY, &rows);
            let Some(first) = fanouts.first() else { continue };
            let mut recorded = Recorded::read(self.on, first.event_seq, last.0).await?;
            for fanout in fanouts {
                let recorded = recorded.of(&fanout).await?;
                match targets::decode(&fanout.targets) {
                    Ok(mut left) => {
                        left.retain(|webhook| recorded.binary_search(webhook).is_err());
                        found(Pending::Targets { event: EventSeq(fanout.event_seq), webhooks: &left });
                    }
                    // What this fan-out owes is not counted.
                    Err(error) => {
                        let key = format_args!("{}/{}", fanout.event_seq, fanout.shard);
                        self.store.pass_over("fanout", key, error);
                    }
                }
            }
        }
    }
}

/// The targets that have a row, read fan-out by fan-out.
struct Recorded<'a> {
    rows: Pin<Box<dyn Stream<Item = Result<RecordedRow, DbErr>> + Send + 'a>>,
    next: Option<RecordedRow>,
}

impl<'a> Recorded<'a> {
    async fn read(on: &'a Transaction, first: i64, last: i64) -> Result<Self, StoreError> {
        let backend = on.get_database_backend();
        let then_join = dialect::then_join(backend);
        let sql = format!(
            "SELECT f.event_seq, f.shard, d.webhook_num \
             FROM fanout f {then_join} delivery d ON d.event_seq = f.event_seq \
             WHERE f.event_seq BETWEEN $1 AND $2 ORDER BY f.event_seq, f.shard, d.webhook_num"
        );
        let statement = Statement::from_sql_and_values(backend, sql, [first.into(), last.into()]);
        let mut rows = RecordedRow::find_by_statement(statement).stream(on).await?;
        let next = rows.try_next().await?;
        Ok(Self { rows, next })
    }

    /// The recorded targets of one fan-out, ascending. Call in the order of the fan-outs.
    async fn of(&mut self, fanout: &FanoutRow) -> Result<Vec<WebhookNum>, StoreError> {
        let key = (fanout.event_seq, fanout.shard);
        let mut recorded = Vec::new();
        while let Some(row) = self.next.take_if(|row| (row.event_seq, row.shard) <= key) {
            if (row.event_seq, row.shard) == key {
                recorded.push(WebhookNum(row.webhook_num));
            }
            self.next = self.rows.try_next().await?;
        }
        Ok(recorded)
    }
}
