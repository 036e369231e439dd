//! Fan-outs that are not yet covered by rows, read. The journal writes and deletes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use sea_orm::{ConnectionTrait, FromQueryResult, Statement};

use crate::id::{EventSeq, TenantNum, WebhookNum};

use super::events::Event;
use super::leases::ShardNum;
use super::{Store, StoreError, payload, targets};

/// An event and the webhooks of one shard that it is owed to.
#[derive(Debug, Clone)]
pub struct Fanout {
    pub event: Arc<Event>,
    pub shard: i16,
    /// Ascending.
    pub targets: Arc<[WebhookNum]>,
    /// It was accepted here, and is offered when it is found among what other nodes have accepted: in their order.
    pub in_order: bool,
}

impl Fanout {
    /// What it costs to keep in memory, roughly.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.event.body.len() + self.targets.len() * size_of::<WebhookNum>()
    }
}

#[derive(Debug, FromQueryResult)]
struct FanoutRow {
    event_seq: i64,
    shard: i16,
    targets: Vec<u8>,
    tenant_num: i64,
    kind: String,
    body: Vec<u8>,
}

#[derive(Debug, FromQueryResult)]
struct TargetsRow {
    event_seq: i64,
    targets: Vec<u8>,
}

impl Store {
    /// The open fan-outs of the first `limit` events after `after`, in the order of publishing. All shards of an event
    /// come together, so that the next call can go on after it.
    pub async fn fanouts(&self, after: EventSeq, limit: u64) -> Result<Vec<Fanout>, StoreError> {
        let sql = "SELECT f.event_seq, f.shard, f.targets, e.tenant_num, e.kind, e.body \
                   FROM fanout f JOIN event e ON e.seq = f.event_seq \
                   WHERE f.event_seq IN (SELECT DISTINCT event_seq FROM fanout WHERE event_seq > $1 \
                                         ORDER BY event_seq LIMIT $2) \
                   ORDER BY f.event_seq, f.shard";
        let values = [after.0.into(), limit.cast_signed().into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let rows = FanoutRow::find_by_statement(statement).all(self.engine_readers()).await?;
        rows.into_iter().map(|row| self.fanout_of(row)).collect()
    }

    /// The targets of an event that its open fan-outs name, with or without a row.
    pub async fn fanout_targets(&self, event: EventSeq) -> Result<Vec<WebhookNum>, StoreError> {
        let sql = "SELECT event_seq, targets FROM fanout WHERE event_seq = $1 ORDER BY shard";
        let statement = Statement::from_sql_and_values(self.backend(), sql, [event.0.into()]);
        let mut all = Vec::new();
        for row in TargetsRow::find_by_statement(statement).all(self.readers()).await? {
            all.extend(targets::decode(&row.targets)?);
        }
        all.sort_unstable();
        Ok(all)
    }

    /// Events up to `to` whose open fan-outs name this webhook although it has no row for them.
    pub async fn owed_only_by_fanout(&self, webhook: WebhookNum, to: EventSeq) -> Result<Vec<EventSeq>, StoreError> {
        let sql = "SELECT f.event_seq, f.targets FROM fanout f WHERE f.event_seq <= $1 AND NOT EXISTS ( \
                   SELECT 1 FROM delivery d WHERE d.event_seq = f.event_seq AND d.webhook_num = $2)";
        let statement = Statement::from_sql_and_values(self.backend(), sql, [to.0.into(), webhook.0.into()]);
        let mut owed = Vec::new();
        for row in TargetsRow::find_by_statement(statement).all(self.engine_readers()).await? {
            if targets::decode(&row.targets)?.binary_search(&webhook).is_ok() {
                owed.push(EventSeq(row.event_seq));
            }
        }
        Ok(owed)
    }

    /// Divides fan-outs that were written when one node served everything: they are in one piece, under the first shard.
    pub async fn divide_fanouts(&self) -> Result<(), StoreError> {
        let sql = "SELECT event_seq, targets FROM fanout WHERE shard = 0 ORDER BY event_seq";
        let statement = Statement::from_string(self.backend(), sql);
        for row in TargetsRow::find_by_statement(statement).all(self.engine_readers()).await? {
            let targets = targets::decode(&row.targets)?;
            if targets.iter().any(|webhook| ShardNum::of(*webhook) != ShardNum::WHOLE) {
                self.divide(row.event_seq, &targets).await?;
            }
        }
        Ok(())
    }

    async fn divide(&self, event: i64, targets: &[WebhookNum]) -> Result<(), StoreError> {
        let mut parts: BTreeMap<i16, Vec<WebhookNum>> = BTreeMap::new();
        for webhook in targets {
            parts.entry(ShardNum::of(*webhook).num()).or_default().push(*webhook);
        }
        let backend = self.backend();
        self.write(async |on| {
            let whole =
                Statement::from_sql_and_values(backend, "DELETE FROM fanout WHERE event_seq = $1", [event.into()]);
            if on.execute_raw(whole).await?.rows_affected() == 0 {
                return Ok(());
            }
            let sql = "INSERT INTO fanout (event_seq, shard, targets) VALUES ($1, $2, $3)";
            for (shard, targets) in &parts {
                let values = [event.into(), (*shard).into(), targets::encode(targets).into()];
                on.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
            }
            Ok(())
        })
        .await
    }

    fn fanout_of(&self, row: FanoutRow) -> Result<Fanout, StoreError> {
        let FanoutRow { event_seq, shard, targets, tenant_num, kind, body } = row;
        let (seq, tenant, body) = (EventSeq(event_seq), TenantNum(tenant_num), payload::counted(body));
        let event = self.share(Event { seq, tenant, kind, body });
        Ok(Fanout { event, shard, targets: targets::decode(&targets)?.into(), in_order: false })
    }
}
