//! Reads pending deliveries of a webhook for sending. Endpoints call it. A row that cannot be read never keeps other
//! rows from being sent.

use std::collections::HashSet;

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement, Value};

use crate::domain::delivery::Due;
use crate::domain::event::{Body, Event};
use crate::domain::id::{DeliveryId, EventSeq, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::store::bodies::READ_BYTES;
use crate::store::leases::{STARTED, ShardSet};
use crate::store::payload::LARGE;
use crate::store::pool::Pool;
use crate::store::{Store, StoreError, dialect, payload};

use super::{NumRow, state_of};

/// Rows read at once after a read in which no row could be read.
const BEHIND: usize = 1024;

/// How many reads in succession may find no readable row.
const TRIES: usize = 16;

/// Which pending deliveries of a webhook are to be read.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Rows that fall due by this time.
    pub horizon: UnixMillis,
    /// Rows in the order of publishing, including those that fall due later.
    pub ordered: bool,
    pub limit: usize,
    /// Rows that the caller has already.
    pub known: &'a [EventSeq],
}

/// Pending deliveries of a webhook, and when the next one falls due.
#[derive(Debug, Clone)]
pub struct DueRows {
    pub rows: Vec<Due>,
    /// When the first row after these falls due; `None` if there is none.
    pub next: Option<UnixMillis>,
}

/// Result of one statement.
struct Stretch {
    /// The keys of its rows, including unreadable ones.
    events: Vec<EventSeq>,
    rows: Vec<Due>,
    /// When the first row after these falls due.
    next: Option<UnixMillis>,
    /// Whether more rows may fall due by the horizon.
    has_more: bool,
}

#[derive(Debug, FromQueryResult)]
struct DueRow {
    event_seq: i64,
    tenant_num: i64,
    kind: String,
    body: Option<Vec<u8>>,
    trail: Option<String>,
    size: i64,
    status: i16,
    attempts: i16,
    tries: i16,
    next_at: Option<i64>,
    settled_at: Option<i64>,
    manual_from: Option<i16>,
    manual_next_at: Option<i64>,
    operation: Option<i64>,
    started: Option<String>,
}

const DUE_COLUMNS: &str = "d.event_seq, d.status, d.attempts, d.tries, d.next_at, d.settled_at, d.manual_from, \
                           d.manual_next_at, d.operation";

/// The body of event `e` unless it is large, its size, and the event's trail.
fn body_columns() -> String {
    format!(
        "CASE WHEN OCTET_LENGTH(e.body) <= {LARGE} THEN e.body END AS body, \
         CAST(OCTET_LENGTH(e.body) AS BIGINT) AS size, e.trail"
    )
}

/// Selects what sending needs of the pending deliveries of webhook `$1`: at most `$2` rows, none of `$3`. Looks up the
/// sizes of all bodies, then reads the rows whose bodies fit into [`READ_BYTES`]. Never reads large bodies, which count
/// as no bytes.
fn due_sql(backend: DbBackend, which: &str, order: &str) -> String {
    let is_unknown = dialect::is_none_of(backend, "d.event_seq", "$3");
    format!(
        "WITH due AS (SELECT {DUE_COLUMNS} FROM delivery d WHERE d.status = 0 AND d.webhook_num = $1 AND {is_unknown} \
         {which} \
         ORDER BY {order} LIMIT $2), \
         sized AS (SELECT d.*, CASE WHEN OCTET_LENGTH(e.body) <= {LARGE} THEN OCTET_LENGTH(e.body) ELSE 0 END AS takes \
         FROM due d JOIN event e ON e.seq = d.event_seq), \
         summed AS (SELECT sized.*, COUNT(*) OVER () AS found, \
         SUM(takes) OVER (ORDER BY {order} ROWS UNBOUNDED PRECEDING) AS up_to FROM sized) \
         SELECT {DUE_COLUMNS}, d.found, e.tenant_num, e.kind, {}, {} \
         FROM summed d JOIN event e ON e.seq = d.event_seq WHERE d.up_to <= {READ_BYTES} ORDER BY {order}",
        body_columns(),
        server_column(backend)
    )
}

/// Start time of the server that answers, where the server may change.
fn server_column(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Postgres => STARTED,
        _ => "NULL AS started",
    }
}

/// Refuses rows of a server other than the one that this node has seen: a delivery that is pending there may have been
/// sent already.
fn of_known_server(shard_set: &ShardSet, row: Option<&DueRow>) -> Result<(), StoreError> {
    match row.and_then(|row| row.started.as_deref()) {
        Some(started) if shard_set.server_started().is_some_and(|known| known != started) => {
            Err(StoreError::Database("another server has answered".to_owned()))
        }
        Some(_) | None => Ok(()),
    }
}

impl Store {
    /// Pending deliveries of a webhook, earliest first, with at most 4 MiB of bodies in memory.
    pub async fn due(
        &self,
        shard_set: &ShardSet,
        webhook: WebhookNum,
        wanted: Wanted<'_>,
    ) -> Result<DueRows, StoreError> {
        self.due_on(self.engine_readers(), shard_set, webhook, wanted).await
    }

    async fn due_on(
        &self,
        readers: &Pool,
        shard_set: &ShardSet,
        webhook: WebhookNum,
        wanted: Wanted<'_>,
    ) -> Result<DueRows, StoreError> {
        let (mut known, mut limit) = (wanted.known.to_vec(), wanted.limit);
        for _ in 0..TRIES {
            let wanted = Wanted { limit, known: &known, ..wanted };
            let stretch = self.stretch(readers, shard_set, webhook, wanted).await?;
            let Stretch { events, mut rows, mut next, has_more } = stretch;
            if !rows.is_empty() || !has_more {
                if rows.len() > wanted.limit {
                    rows.truncate(wanted.limit);
                    next = rows.last().and_then(|last| last.state.next_at);
                }
                return Ok(DueRows { rows, next });
            }
            known.extend(events);
            limit = limit.max(BEHIND);
        }
        Err(StoreError::unreadable("deliveries", "none of those that are due can be read"))
    }

    async fn stretch(
        &self,
        readers: &Pool,
        shard_set: &ShardSet,
        webhook: WebhookNum,
        wanted: Wanted<'_>,
    ) -> Result<Stretch, StoreError> {
        let Wanted { horizon, ordered, limit, known } = wanted;
        let backend = self.backend();
        let most: Value = i64::try_from(limit).unwrap_or(i64::MAX).into();
        let known = dialect::numbers(backend, known.iter().map(|event| event.0));
        let (which, order, values) = match ordered {
            true => ("", "event_seq", vec![webhook.0.into(), most, known]),
            false => {
                ("AND d.next_at <= $4", "next_at, event_seq", vec![webhook.0.into(), most, known, horizon.0.into()])
            }
        };
        let statement = Statement::from_sql_and_values(backend, due_sql(backend, which, order), values);
        let read = readers.query_all_raw(statement).await?;
        let rows: Vec<DueRow> = self.readable_joined(&read, Some(webhook));
        of_known_server(shard_set, rows.first())?;
        // Includes rows that were left out for their size.
        let found: i64 = read.first().map_or(Ok(0), |row| row.try_get("", "found"))?;
        let found = usize::try_from(found).unwrap_or(usize::MAX);
        let has_more = found >= limit || read.len() < found;
        let last = read.last().map(|row| row.try_get::<Option<i64>>("", "next_at").ok().flatten().map(UnixMillis));
        let events = read.iter().filter_map(|row| row.try_get("", "event_seq").ok()).map(EventSeq).collect();
        // These raw rows hold the bodies, too.
        drop(read);
        let next = match last {
            Some(last) if has_more => last,
            _ if ordered => None,
            _ => first_due_after(readers, webhook, horizon).await?,
        };
        let rows = rows.into_iter().filter_map(|row| readable(self, webhook, row)).collect();
        Ok(Stretch { events, rows, next, has_more })
    }

    /// How many due rows of a webhook cannot be read or have lost their event, if none of its due rows can be sent;
    /// otherwise 0. Looks at a bounded number of rows. For the API, on whose readers it runs.
    pub async fn unsendable(
        &self,
        shard_set: &ShardSet,
        webhook: WebhookNum,
        ordered: bool,
    ) -> Result<u64, StoreError> {
        let horizon = UnixMillis::now();
        let before = self.due_keys(webhook, horizon).await?;
        if before.is_empty() {
            return Ok(0);
        }
        let wanted = Wanted { horizon, ordered, limit: 1, known: &[] };
        match self.due_on(self.readers(), shard_set, webhook, wanted).await {
            Ok(due) if !due.rows.is_empty() => return Ok(0),
            Ok(_) | Err(StoreError::Unreadable { .. }) => {}
            Err(error) => return Err(error),
        }
        // A row that is gone by now was written meanwhile.
        let after = self.due_keys(webhook, horizon).await?;
        Ok(after.intersection(&before).count() as u64)
    }

    async fn due_keys(&self, webhook: WebhookNum, horizon: UnixMillis) -> Result<HashSet<i64>, StoreError> {
        let sql = "SELECT event_seq AS num FROM delivery WHERE status = 0 AND webhook_num = $1 AND next_at <= $2 \
                   ORDER BY next_at, event_seq LIMIT $3";
        let most = i64::try_from(BEHIND).unwrap_or(i64::MAX);
        let values = [webhook.0.into(), horizon.0.into(), most.into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let rows = NumRow::find_by_statement(statement).all(self.readers()).await?;
        Ok(rows.into_iter().map(|row| row.num).collect())
    }

    /// One pending delivery, whenever it is due.
    pub async fn due_one(&self, shard_set: &ShardSet, id: DeliveryId) -> Result<Option<Due>, StoreError> {
        let sql = format!(
            "SELECT {DUE_COLUMNS}, e.tenant_num, e.kind, {}, {} FROM delivery d \
             JOIN event e ON e.seq = d.event_seq WHERE d.event_seq = $1 AND d.webhook_num = $2 AND d.status = 0",
            body_columns(),
            server_column(self.backend())
        );
        let values = [id.event.0.into(), id.webhook.0.into()];
        let statement = Statement::from_sql_and_values(self.backend(), sql, values);
        let row = DueRow::find_by_statement(statement).one(self.engine_readers()).await?;
        of_known_server(shard_set, row.as_ref())?;
        row.map(|row| due_of(self, row)).transpose()
    }
}

async fn first_due_after(on: &Pool, webhook: WebhookNum, after: UnixMillis) -> Result<Option<UnixMillis>, StoreError> {
    let sql = "SELECT next_at AS num FROM delivery WHERE status = 0 AND webhook_num = $1 AND next_at > $2 \
               ORDER BY next_at LIMIT 1";
    let values = [webhook.0.into(), after.0.into()];
    let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, values);
    let row = NumRow::find_by_statement(statement).one(on).await?;
    Ok(row.map(|row| UnixMillis(row.num)))
}

/// `None` if the row cannot be read, so that the others are sent.
fn readable(store: &Store, webhook: WebhookNum, row: DueRow) -> Option<Due> {
    let key = format!("{}/{}", row.event_seq, webhook.0);
    due_of(store, row).inspect_err(|error| store.pass_over("delivery", key, error)).ok()
}

fn due_of(store: &Store, row: DueRow) -> Result<Due, StoreError> {
    let DueRow { event_seq, tenant_num, kind, body, trail, size, status, attempts, tries, next_at, settled_at, .. } =
        row;
    let counts = (status, attempts, tries);
    let manual = (row.manual_from, row.manual_next_at, row.operation);
    let state = state_of(counts, (next_at, settled_at), manual)?;
    let (seq, tenant) = (EventSeq(event_seq), TenantNum(tenant_num));
    let body = match body {
        Some(body) => Body::InMemory(payload::counted(body)),
        None => Body::Stored { bytes: usize::try_from(size).unwrap_or(usize::MAX) },
    };
    Ok(Due { event: store.share(Event { seq, tenant, kind, body, trail: trail.map(Into::into) }), state })
}
