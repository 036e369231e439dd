//! What is owed at the start: counted once from the rows and the open fan-outs, in bounded memory. From then on the
//! ledger is told of every change.

use std::pin::Pin;

use futures_util::{Stream, TryStreamExt};
use sea_orm::{DbErr, FromQueryResult, Statement};

use crate::clock::UnixMillis;
use crate::id::{EventSeq, WebhookNum};
use crate::store::ledger::Ledger;
use crate::store::{Store, StoreError, dialect, targets};

use super::look::{FANOUTS, FanoutRow};

/// Pending rows whose moments are counted by one query: bounds what it sorts, unless one webhook has more.
const ROWS: i64 = 262_144;

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
    /// Everything that is owed, before anything changes it.
    pub(in crate::store) async fn ledger(&self, now: UnixMillis) -> Result<Ledger, StoreError> {
        let mut ledger = Ledger::default();
        self.load_rows(&mut ledger, now).await?;
        self.load_fanouts(&mut ledger).await?;
        Ok(ledger)
    }

    async fn load_rows(&self, ledger: &mut Ledger, now: UnixMillis) -> Result<(), StoreError> {
        let sql = "SELECT webhook_num, COUNT(*) AS pending, MIN(event_seq) AS oldest FROM delivery WHERE status = 0 \
                   GROUP BY webhook_num ORDER BY webhook_num";
        let statement = Statement::from_string(self.backend(), sql);
        let rows = PendingRow::find_by_statement(statement).all(&self.engine_readers().for_scans()).await?;
        let (mut from, mut gathered) = (None, 0);
        for row in &rows {
            ledger.load(WebhookNum(row.webhook_num), row.pending.cast_unsigned(), EventSeq(row.oldest));
            gathered += row.pending;
            let first = *from.get_or_insert(row.webhook_num);
            if gathered >= ROWS {
                self.load_scheduled(ledger, (first, row.webhook_num), now).await?;
                (from, gathered) = (None, 0);
            }
        }
        if let (Some(first), Some(last)) = (from, rows.last()) {
            self.load_scheduled(ledger, (first, last.webhook_num), now).await?;
        }
        Ok(())
    }

    async fn load_scheduled(
        &self,
        ledger: &mut Ledger,
        (first, last): (i64, i64),
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let sql = "SELECT webhook_num, next_at / 1000 AS second, COUNT(*) AS scheduled FROM delivery \
                   WHERE status = 0 AND webhook_num BETWEEN $1 AND $2 AND next_at > $3 \
                   GROUP BY webhook_num, next_at / 1000";
        let statement = Statement::from_sql_and_values(self.backend(), sql, [first, last, now.0].map(Into::into));
        for row in ScheduledRow::find_by_statement(statement).all(&self.engine_readers().for_scans()).await? {
            let ScheduledRow { webhook_num, second, scheduled } = row;
            let scheduled = u32::try_from(scheduled).unwrap_or(u32::MAX);
            ledger.schedule_many(WebhookNum(webhook_num), UnixMillis(second * 1000), scheduled, now);
        }
        Ok(())
    }

    /// What open fan-outs owe to targets without a row.
    async fn load_fanouts(&self, ledger: &mut Ledger) -> Result<(), StoreError> {
        let sql = "SELECT event_seq, shard, targets FROM fanout WHERE (event_seq, shard) > ($1, $2) \
                   ORDER BY event_seq, shard LIMIT $3";
        let mut after = (EventSeq::ZERO.0, i16::MAX);
        loop {
            let values = [after.0.into(), after.1.into(), FANOUTS.into()];
            let statement = Statement::from_sql_and_values(self.backend(), sql, values);
            let fanouts = FanoutRow::find_by_statement(statement).all(self.engine_readers()).await?;
            let (Some(first), Some(last)) = (fanouts.first(), fanouts.last()) else { return Ok(()) };
            let mut recorded = Recorded::read(self, first.event_seq, last.event_seq).await?;
            after = (last.event_seq, last.shard);
            for fanout in fanouts {
                let recorded = recorded.of(&fanout).await?;
                match targets::decode(&fanout.targets) {
                    Ok(mut left) => {
                        left.retain(|webhook| recorded.binary_search(webhook).is_err());
                        ledger.owe_all(&left, EventSeq(fanout.event_seq));
                    }
                    Err(error) => tracing::error!(
                        event = fanout.event_seq, %error, "a fan-out cannot be read; what it owes is not counted"
                    ),
                }
            }
        }
    }
}

/// Which targets of some fan-outs have a row, one fan-out after the other.
struct Recorded<'a> {
    rows: Pin<Box<dyn Stream<Item = Result<RecordedRow, DbErr>> + Send + 'a>>,
    next: Option<RecordedRow>,
}

impl<'a> Recorded<'a> {
    async fn read(store: &'a Store, first: i64, last: i64) -> Result<Self, StoreError> {
        let then_join = dialect::then_join(store.backend());
        let sql = format!(
            "SELECT f.event_seq, f.shard, d.webhook_num \
             FROM fanout f {then_join} delivery d ON d.event_seq = f.event_seq \
             WHERE f.event_seq BETWEEN $1 AND $2 ORDER BY f.event_seq, f.shard, d.webhook_num"
        );
        let statement = Statement::from_sql_and_values(store.backend(), sql, [first.into(), last.into()]);
        let mut rows = RecordedRow::find_by_statement(statement).stream(store.engine_readers()).await?;
        let next = rows.try_next().await?;
        Ok(Self { rows, next })
    }

    /// Ascending. To be asked in the order of the fan-outs.
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
