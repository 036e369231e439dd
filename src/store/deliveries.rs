//! Reads deliveries and attempts, for the engine and the API. Never writes them: the journal does.

mod attempts;
mod due;
mod head;
mod list;

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, EntityTrait, FromQueryResult, QueryResult, Statement};

use crate::domain::delivery::{DeliveryState, Fallback, Status};
use crate::domain::id::{DeliveryId, EventSeq, TenantNum, WebhookId, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::operation::Kind;
use crate::domain::outcome::OutcomeKind;

use super::decode::{NumRow, webhook_id_of};
use super::unreadable::{is_damage_of_event, is_damaged, key_of};
use super::{Store, StoreError, dialect};

use self::list::{ListQuery, Source};

pub(super) use self::attempts::attempt_of;
pub use self::attempts::{ATTEMPTS_BYTES, LISTED_BODY, LastAttempt};
pub use self::due::{DueRows, Wanted};
pub use self::head::{COUNTED, Head, Waiting};
pub use self::list::RowPage;

/// The webhooks with a pending row, as `owed(num)`, and one row that is null. A skip scan from one webhook to the next
/// along the index of pending rows.
pub(super) const OWED_WEBHOOKS: &str = "WITH RECURSIVE owed(num) AS ( \
      SELECT MIN(webhook_num) FROM delivery WHERE status = 0 \
      UNION ALL \
      SELECT (SELECT MIN(webhook_num) FROM delivery WHERE status = 0 AND webhook_num > owed.num) \
      FROM owed WHERE owed.num IS NOT NULL \
    )";

/// A delivery as it is listed.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub id: DeliveryId,
    pub webhook_id: WebhookId,
    pub kind: String,
    pub state: DeliveryState,
    pub last: Option<LastAttempt>,
}

/// The row of a delivery, as an explanation needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwedRow {
    pub status: Status,
    /// Whether an operation has made the delivery.
    pub is_of_operation: bool,
}

#[derive(Debug, FromQueryResult)]
struct OwedStatusRow {
    webhook_num: i64,
    status: i16,
    /// What the operation that the row names does.
    kind: Option<i16>,
}

/// Which deliveries a list shows.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    pub webhook: Option<WebhookNum>,
    pub event: Option<EventSeq>,
    pub status: Option<Status>,
    /// The outcome of the last attempt.
    pub outcome: Option<OutcomeKind>,
    /// The HTTP status of the last attempt.
    pub status_code: Option<u16>,
    /// How many attempts were made.
    pub attempts: Option<u16>,
    pub kind: Option<String>,
    pub since: Option<UnixMillis>,
    pub until: Option<UnixMillis>,
}

#[derive(Debug, FromQueryResult)]
struct DeliveryRow {
    event_seq: i64,
    webhook_num: i64,
    webhook_id: Vec<u8>,
    kind: String,
    status: i16,
    attempts: i16,
    tries: i16,
    next_at: Option<i64>,
    settled_at: Option<i64>,
    manual_from: Option<i16>,
    manual_next_at: Option<i64>,
    operation: Option<i64>,
}

impl Store {
    /// One delivery, if it has a row.
    pub async fn delivery(&self, tenant: TenantNum, id: DeliveryId) -> Result<Option<Delivery>, StoreError> {
        let mut query = ListQuery::new(self.backend(), Source::Delivery, tenant);
        query.and("d.event_seq =", id.event.0);
        query.and("d.webhook_num =", id.webhook.0);
        let rows = self.readers().query_all_raw(query.statement("d.event_seq", 1)).await?;
        Ok(self.with_last_attempts(self.readable_joined(&rows, None)).await?.pop())
    }

    /// The rows of an event's deliveries to these webhooks.
    pub async fn owed_rows(
        &self,
        event: EventSeq,
        nums: &[WebhookNum],
    ) -> Result<HashMap<WebhookNum, OwedRow>, StoreError> {
        let backend = self.backend();
        let is_one = dialect::is_any_of(backend, "d.webhook_num", "$2");
        let sql = format!(
            "SELECT d.event_seq, d.webhook_num, d.status, o.kind FROM delivery d \
             LEFT JOIN operation o ON o.num = d.operation WHERE d.event_seq = $1 AND {is_one}"
        );
        let values = [event.0.into(), dialect::numbers(backend, nums.iter().map(|num| num.0))];
        let statement = Statement::from_sql_and_values(backend, sql, values);
        let rows: Vec<OwedStatusRow> =
            self.all_readable(self.readers(), ("delivery", &["event_seq", "webhook_num"]), statement).await?;
        let mut found = HashMap::with_capacity(rows.len());
        for OwedStatusRow { webhook_num, status, kind } in rows {
            let read = Status::from_code(status).ok_or_else(|| StoreError::unreadable("status", status));
            let Some(status) = self.if_readable("delivery", format!("{}/{webhook_num}", event.0), read)? else {
                continue;
            };
            let is_of_operation = kind == Some(Kind::Owe.code());
            found.insert(WebhookNum(webhook_num), OwedRow { status, is_of_operation });
        }
        Ok(found)
    }

    /// Whether the delivery has a row.
    pub async fn has_row(&self, id: DeliveryId) -> Result<bool, StoreError> {
        use entity::delivery::Entity;
        Ok(Entity::find_by_id((id.event.0, id.webhook.0)).one(self.readers()).await?.is_some())
    }

    /// Deliveries of an event by ascending webhook number, after `after`. Returns more than `limit` if there are more.
    pub async fn deliveries_of_event(
        &self,
        tenant: TenantNum,
        event: EventSeq,
        mut after: WebhookNum,
        limit: u64,
    ) -> Result<Vec<Delivery>, StoreError> {
        let mut found = Vec::new();
        loop {
            let mut query = ListQuery::new(self.backend(), Source::Delivery, tenant);
            query.and("d.event_seq =", event.0);
            query.and("d.webhook_num >", after.0);
            let rows = self.readers().query_all_raw(query.statement("d.webhook_num", limit)).await?;
            let last: Option<i64> = rows.last().and_then(|row| row.try_get("", "webhook_num").ok());
            found.extend(self.with_last_attempts(self.readable_joined(&rows, None)).await?);
            match last {
                // Some rows cannot be read, and more follow.
                Some(last) if rows.len() as u64 > limit && found.len() as u64 <= limit => after = WebhookNum(last),
                _ => return Ok(found),
            }
        }
    }

    /// The rows that can be read, of deliveries joined with their events and webhooks. An unreadable row is logged
    /// under the table that is damaged. `webhook`: the webhook of all rows, where they do not name it.
    fn readable_joined<T: FromQueryResult>(&self, rows: &[QueryResult], webhook: Option<WebhookNum>) -> Vec<T> {
        let read = |row: &QueryResult| {
            let read = T::from_query_result(row, "").map_err(StoreError::from);
            read.inspect_err(|error| {
                let (table, key) = blamed(row, webhook);
                self.pass_over(table, key, error);
            })
            .ok()
        };
        rows.iter().filter_map(read).collect()
    }

    async fn with_last_attempts(&self, rows: Vec<DeliveryRow>) -> Result<Vec<Delivery>, StoreError> {
        let mut deliveries = Vec::with_capacity(rows.len());
        for row in rows {
            let key = format!("{}/{}", row.event_seq, row.webhook_num);
            let id = webhook_id_of(&row.webhook_id);
            let Some(id) = self.if_readable("webhook", row.webhook_num, id)? else { continue };
            deliveries.extend(self.if_readable("delivery", key, delivery_of(row, id))?);
        }
        let made = deliveries.iter().map(|delivery| (delivery.id, delivery.state.attempts));
        let keys: Vec<_> = made.filter(|(_, attempts)| *attempts > 0).collect();
        let mut last = self.last_attempts(&keys).await?;
        for delivery in &mut deliveries {
            delivery.last = last.remove(&delivery.id);
        }
        Ok(deliveries)
    }

    /// Webhooks that are active, not paused, and have a delivery that falls due by `horizon`; and deleted webhooks with
    /// any pending delivery. The cost grows with the number of webhooks that have a backlog, not with the length of a
    /// backlog.
    pub async fn webhooks_with_due(&self, horizon: UnixMillis) -> Result<Vec<WebhookNum>, StoreError> {
        let sql = format!(
            "{OWED_WEBHOOKS} \
             SELECT owed.num AS num FROM owed JOIN webhook w ON w.num = owed.num \
             WHERE w.deleted_at IS NOT NULL OR (w.is_active AND w.paused_at IS NULL AND $1 >= ( \
               SELECT MIN(next_at) FROM delivery WHERE status = 0 AND webhook_num = owed.num))"
        );
        let statement = Statement::from_sql_and_values(self.backend(), sql, [horizon.0.into()]);
        let rows = NumRow::find_by_statement(statement).all(self.engine_readers()).await?;
        Ok(rows.into_iter().map(|row| WebhookNum(row.num)).collect())
    }

    /// Webhooks that already have a row for this event.
    pub async fn recorded_targets(&self, event: EventSeq) -> Result<Vec<WebhookNum>, StoreError> {
        let sql = "SELECT webhook_num AS num FROM delivery WHERE event_seq = $1 ORDER BY webhook_num";
        let statement = Statement::from_sql_and_values(self.backend(), sql, [event.0.into()]);
        let rows = NumRow::find_by_statement(statement).all(self.engine_readers()).await?;
        Ok(rows.into_iter().map(|row| WebhookNum(row.num)).collect())
    }
}

fn number(what: &'static str, value: i16) -> Result<u16, StoreError> {
    u16::try_from(value).map_err(|error| StoreError::unreadable(what, error))
}

fn status_of(code: i16) -> Result<Status, StoreError> {
    Status::from_code(code).ok_or_else(|| StoreError::unreadable("status", code))
}

fn state_of(
    (status, attempts, tries): (i16, i16, i16),
    (next_at, settled_at): (Option<i64>, Option<i64>),
    (manual_from, manual_next_at, operation): (Option<i16>, Option<i64>, Option<i64>),
) -> Result<DeliveryState, StoreError> {
    let (next_at_before, is_replay) = (manual_next_at.map(UnixMillis), operation.is_some());
    let fallback =
        |from| Ok::<_, StoreError>(Fallback { status: status_of(from)?, next_at: next_at_before, is_replay });
    let manual = manual_from.map(fallback).transpose()?;
    Ok(DeliveryState {
        status: status_of(status)?,
        attempts: number("attempts", attempts)?,
        tries: number("tries", tries)?,
        next_at: next_at.map(UnixMillis),
        settled_at: settled_at.map(UnixMillis),
        manual,
    })
}

/// The state that a row holds.
pub(super) fn state_of_row(row: &entity::delivery::Model) -> Result<DeliveryState, StoreError> {
    let counts = (row.status, row.attempts, row.tries);
    state_of(counts, (row.next_at, row.settled_at), (row.manual_from, row.manual_next_at, row.operation))
}

/// The damaged table, and the key of its row there.
fn blamed(row: &QueryResult, webhook: Option<WebhookNum>) -> (&'static str, String) {
    let event = key_of(row, &["event_seq"]);
    if is_damage_of_event(row) {
        return ("event", event);
    }
    let webhook = webhook.map_or_else(|| key_of(row, &["webhook_num"]), |webhook| webhook.0.to_string());
    if is_damaged::<Vec<u8>>(row, "webhook_id") {
        return ("webhook", webhook);
    }
    ("delivery", format!("{event}/{webhook}"))
}

/// Leaves the last attempt empty.
fn delivery_of(row: DeliveryRow, webhook_id: WebhookId) -> Result<Delivery, StoreError> {
    let DeliveryRow { event_seq, webhook_num, kind, status, attempts, tries, next_at, settled_at, .. } = row;
    let counts = (status, attempts, tries);
    let manual = (row.manual_from, row.manual_next_at, row.operation);
    let state = state_of(counts, (next_at, settled_at), manual)?;
    let id = DeliveryId { event: EventSeq(event_seq), webhook: WebhookNum(webhook_num) };
    Ok(Delivery { id, webhook_id, kind, state, last: None })
}
