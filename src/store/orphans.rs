//! Ends rows whose event is gone, since no request can be made for them. Such rows are left by a database that has lost
//! its last transactions and was then written to as if it had not, or by a partial copy. The node that activates their
//! shard ends them.

use sea_orm::{FromQueryResult, Statement, Value};

use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::shard::ShardNum;

use super::cancel::TAKE_BACK;
use super::leases;
use super::{Store, StoreError, dialect};

/// The most keys that the log line names.
const MOST_TOLD: usize = 20;

const HAS_NO_EVENT: &str = "NOT EXISTS (SELECT 1 FROM event e WHERE e.seq = event_seq)";

/// Rows whose event is gone, and that were ended.
#[derive(Debug, Default)]
pub struct Orphans {
    /// Pending deliveries, now cancelled.
    pub deliveries: Vec<DeliveryId>,
    /// Deleted fan-outs, by event and shard.
    pub fanouts: Vec<(EventSeq, i16)>,
}

impl Orphans {
    #[must_use]
    pub fn count(&self) -> usize {
        self.deliveries.len() + self.fanouts.len()
    }

    fn log(&self) {
        let deliveries: Vec<String> = self.deliveries.iter().take(MOST_TOLD).map(ToString::to_string).collect();
        let fanouts = self.fanouts.iter().take(MOST_TOLD);
        let fanouts: Vec<String> = fanouts.map(|(event, shard)| format!("{}/{shard}", event.0)).collect();
        tracing::warn!(
            deliveries = self.deliveries.len(),
            fanouts = self.fanouts.len(),
            "rows whose event is gone were ended; deliveries {deliveries:?}, fan-outs {fanouts:?}"
        );
    }
}

#[derive(Debug, FromQueryResult)]
struct FoundRow {
    found: bool,
}

#[derive(Debug, FromQueryResult)]
struct CountRow {
    count: i64,
}

#[derive(Debug, FromQueryResult)]
struct DeliveryRow {
    event_seq: i64,
    webhook_num: i64,
}

#[derive(Debug, FromQueryResult)]
struct FanoutRow {
    event_seq: i64,
    shard: i16,
}

impl Store {
    /// How many orphans there are of each kind, in words; empty if there are none.
    pub(super) async fn orphan_problems(&self) -> Result<Vec<String>, StoreError> {
        let mut problems = Vec::new();
        for (what, from) in [
            ("fan-outs without their event", "fanout WHERE"),
            ("pending deliveries without their event", "delivery WHERE status = 0 AND"),
        ] {
            let sql = format!("SELECT COUNT(*) AS count FROM {from} {HAS_NO_EVENT}");
            let statement = Statement::from_string(self.backend(), sql);
            let row = CountRow::find_by_statement(statement).one(&self.readers().for_scans()).await?;
            if let Some(CountRow { count }) = row.filter(|row| row.count > 0) {
                problems.push(format!("{count} {what}"));
            }
        }
        Ok(problems)
    }

    /// Ends the orphans of these shards, or of all.
    pub(super) async fn end_orphans(
        &self,
        shards: Option<&[ShardNum]>,
        now: UnixMillis,
    ) -> Result<Orphans, StoreError> {
        let backend = self.backend();
        let of = |shard: &str| {
            shards.map_or_else(String::new, |_| format!("AND {}", dialect::is_any_of(backend, shard, "$2")))
        };
        let values = || {
            let shards = shards.map(|some| some.iter().map(|shard| i64::from(shard.num())));
            let shards = shards.map(|some| dialect::numbers(backend, some));
            [Value::from(now.0)].into_iter().chain(shards).collect::<Vec<_>>()
        };
        let (deliveries, fanouts) = (of("(webhook_num & 255)"), of("shard"));
        // Reads first, so that nothing is locked in the usual case of no orphans. Looks each event up once, however
        // many webhooks it is owed to. Measured with 300,000 pending rows: one to three times as long as their
        // count, which follows anyway.
        let sql = format!(
            "SELECT $1 > 0 AND (EXISTS (SELECT 1 FROM \
             (SELECT DISTINCT event_seq FROM delivery WHERE status = 0 {deliveries}) AS pending WHERE {HAS_NO_EVENT}) \
             OR EXISTS (SELECT 1 FROM fanout WHERE {HAS_NO_EVENT} {fanouts})) AS found"
        );
        let statement = Statement::from_sql_and_values(backend, sql, values());
        let found = FoundRow::find_by_statement(statement).one(&self.engine_readers().for_scans()).await?;
        if found.is_none_or(|row| !row.found) {
            return Ok(Orphans::default());
        }
        let transaction = self.inner.writer.for_scans().begin().await?;
        let sql = format!("{TAKE_BACK} {HAS_NO_EVENT} {deliveries} RETURNING event_seq, webhook_num");
        let statement = Statement::from_sql_and_values(backend, sql, values());
        let cancelled = DeliveryRow::find_by_statement(statement).all(&transaction).await?;
        let sql = format!("DELETE FROM fanout WHERE $1 > 0 AND {HAS_NO_EVENT} {fanouts} RETURNING event_seq, shard");
        let statement = Statement::from_sql_and_values(backend, sql, values());
        let deleted = FanoutRow::find_by_statement(statement).all(&transaction).await?;
        transaction.commit().await?;
        let id = |row: DeliveryRow| DeliveryId { event: EventSeq(row.event_seq), webhook: WebhookNum(row.webhook_num) };
        let ended = Orphans {
            deliveries: cancelled.into_iter().map(id).collect(),
            fanouts: deleted.into_iter().map(|row| (EventSeq(row.event_seq), row.shard)).collect(),
        };
        ended.log();
        Ok(ended)
    }

    /// Ends all orphans, in a database that no server has open.
    pub async fn repair(&self, now: UnixMillis) -> Result<Orphans, StoreError> {
        if let Some(on) = &self.inner.lease
            && let Some(node) = leases::anybody(on).await?
        {
            return Err(StoreError::InUse(node));
        }
        self.end_orphans(None, now).await
    }
}
