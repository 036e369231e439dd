//! Reads attempts: the last one of each delivery in a list, and all of one delivery page by page. Responses are large,
//! so no statement reads more of them than is shown.

use std::collections::HashMap;

use sea_orm::{DbBackend, EntityTrait, FromQueryResult, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Statement};

use crate::domain::delivery::{Attempt, Trigger};
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::OutcomeKind;
use crate::domain::request::SentRequest;
use crate::store::dialect;
use crate::store::page::{self, PAGE_BYTES, Page};
use crate::store::{Store, StoreError};

use super::number;

/// Bytes of a response body that a list of deliveries shows. The attempts of one delivery show all of it.
pub const LISTED_BODY: usize = 1024;

/// Bytes of the rows on a page of attempts, unless one row alone is larger. A response may be six times as long in
/// JSON; with this limit an answer of the API is at most about as long as [`PAGE_BYTES`], however hostile the receiver.
pub const ATTEMPTS_BYTES: i64 = PAGE_BYTES / 6;

/// The last attempt of a delivery, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastAttempt {
    /// Holds the first [`LISTED_BODY`] bytes of the response body.
    pub attempt: Attempt,
    /// Whether the stored body is longer.
    pub is_cut: bool,
}

#[derive(Debug, FromQueryResult)]
struct LastRow {
    #[sea_orm(nested)]
    attempt: entity::attempt::Model,
    body_bytes: Option<i64>,
}

#[derive(Debug, FromQueryResult)]
struct PageRow {
    #[sea_orm(nested)]
    attempt: entity::attempt::Model,
    /// How many rows matched, including those that were left out for their size.
    found: i64,
}

/// A delivery and the number of one of its attempts.
type Key = (DeliveryId, u16);

fn last_sql(backend: DbBackend) -> String {
    let (keys, then_join) =
        (dialect::keys_as_rows(backend, ["event_seq", "webhook_num", "number"]), dialect::then_join(backend));
    format!(
        "SELECT a.event_seq, a.webhook_num, a.number, a.reason, a.started_at, a.duration_us, a.head_us, a.status_code, \
         a.outcome, a.error, a.response_headers, SUBSTR(a.response_body, 1, {LISTED_BODY}) AS response_body, \
         a.request, CAST(OCTET_LENGTH(a.response_body) AS BIGINT) AS body_bytes \
         FROM {keys} {then_join} attempt a \
         ON a.event_seq = k.event_seq AND a.webhook_num = k.webhook_num AND a.number = k.number"
    )
}

/// Attempts of delivery (`$1`, `$2`) below number `$3`, newest first: at most `$4`, and as many as fit into
/// [`ATTEMPTS_BYTES`]. Looks up the sizes of all attempts before it reads the ones that fit.
fn page_sql() -> String {
    let size = "COALESCE(OCTET_LENGTH(response_body), 0) + COALESCE(OCTET_LENGTH(response_headers), 0) + \
                COALESCE(OCTET_LENGTH(error), 0) + COALESCE(OCTET_LENGTH(request), 0)";
    format!(
        "WITH sized AS (SELECT number, {size} AS size FROM attempt \
         WHERE event_seq = $1 AND webhook_num = $2 AND number < $3 ORDER BY number DESC LIMIT $4), \
         summed AS (SELECT number, size, COUNT(*) OVER () AS found, \
         SUM(size) OVER (ORDER BY number DESC ROWS UNBOUNDED PRECEDING) AS up_to FROM sized) \
         SELECT a.event_seq, a.webhook_num, a.number, a.reason, a.started_at, a.duration_us, a.head_us, a.status_code, \
         a.outcome, a.error, a.response_headers, a.response_body, a.request, s.found \
         FROM summed s JOIN attempt a ON a.event_seq = $1 AND a.webhook_num = $2 AND a.number = s.number \
         WHERE s.up_to <= {ATTEMPTS_BYTES} OR s.up_to = s.size ORDER BY a.number DESC"
    )
}

impl Store {
    /// Attempts of a delivery with numbers below `before`, newest first: at most `limit`, and at most
    /// [`ATTEMPTS_BYTES`] unless one alone is larger. The position of the next page is the number of the last attempt.
    pub async fn attempts(&self, id: DeliveryId, before: u16, limit: u64) -> Result<Page<Attempt>, StoreError> {
        let (before, most) = (i64::from(before), page::one_more(limit));
        let values = [id.event.0.into(), id.webhook.0.into(), before.into(), most.into()];
        let statement = Statement::from_sql_and_values(self.backend(), page_sql(), values);
        let rows: Vec<PageRow> = self.all_readable(self.readers(), ATTEMPT, statement).await?;
        let found = rows.first().map_or(0, |row| usize::try_from(row.found).unwrap_or(usize::MAX));
        let mut rows = Page::part_of(rows, found, limit, |row| row.attempt.number.into());
        let mut items = Vec::with_capacity(rows.items.len());
        for PageRow { attempt, .. } in rows.items.drain(..) {
            items.extend(self.if_readable("attempt", key_of(&attempt), attempt_of(attempt))?);
        }
        Ok(Page { items, next: rows.next })
    }

    /// The first attempt of a delivery, if there is one and it can be read.
    pub async fn first_attempt(&self, id: DeliveryId) -> Result<Option<Attempt>, StoreError> {
        use entity::attempt::{Column, Entity};
        use sea_orm::ColumnTrait;
        let query = Entity::find()
            .filter(Column::EventSeq.eq(id.event.0))
            .filter(Column::WebhookNum.eq(id.webhook.0))
            .order_by_asc(Column::Number);
        let rows: Vec<entity::attempt::Model> =
            self.all_readable(self.readers(), ATTEMPT, query.limit(1).build(self.backend())).await?;
        let Some(first) = rows.into_iter().next() else { return Ok(None) };
        self.if_readable("attempt", key_of(&first), attempt_of(first))
    }

    /// These attempts, as lists show them.
    pub(super) async fn last_attempts(&self, keys: &[Key]) -> Result<HashMap<DeliveryId, LastAttempt>, StoreError> {
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let backend = self.backend();
        let keys: Vec<[i64; 3]> =
            keys.iter().map(|(id, number)| [id.event.0, id.webhook.0, (*number).into()]).collect();
        let statement = Statement::from_sql_and_values(backend, last_sql(backend), dialect::keys(backend, &keys));
        let rows: Vec<LastRow> = self.all_readable(self.readers(), ATTEMPT, statement).await?;
        let mut last = HashMap::with_capacity(rows.len());
        for LastRow { attempt, body_bytes } in rows {
            let id = DeliveryId { event: EventSeq(attempt.event_seq), webhook: WebhookNum(attempt.webhook_num) };
            let is_cut = body_bytes.is_some_and(|bytes| bytes > LISTED_BODY as i64);
            let attempt = self.if_readable("attempt", key_of(&attempt), attempt_of(attempt))?;
            last.extend(attempt.map(|attempt| (id, LastAttempt { attempt, is_cut })));
        }
        Ok(last)
    }
}

/// Table and key columns, by which an unreadable row is named.
const ATTEMPT: (&str, &[&str]) = ("attempt", &["event_seq", "webhook_num", "number"]);

fn key_of(row: &entity::attempt::Model) -> String {
    format!("{}/{}/{}", row.event_seq, row.webhook_num, row.number)
}

/// Checks that the code is known.
fn outcome_of(code: i16) -> Result<OutcomeKind, StoreError> {
    OutcomeKind::from_code(code).ok_or_else(|| StoreError::unreadable("outcome", code))
}

fn trigger_of(code: i16) -> Result<Trigger, StoreError> {
    Trigger::from_code(code).ok_or_else(|| StoreError::unreadable("reason", code))
}

pub(in crate::store) fn attempt_of(row: entity::attempt::Model) -> Result<Attempt, StoreError> {
    let headers = row.response_headers.as_deref().map(serde_json::from_str).transpose();
    let micros = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    Ok(Attempt {
        number: number("number", row.number)?,
        trigger: trigger_of(row.reason)?,
        started_at: UnixMillis(row.started_at),
        duration_us: micros(row.duration_us),
        head_us: row.head_us.map(micros),
        status_code: row.status_code.map(i16::cast_unsigned),
        outcome: outcome_of(row.outcome)?,
        error: row.error,
        // Only for display: what cannot be read hides nothing else.
        request: row.request.and_then(|text| SentRequest::try_new(text).ok()),
        response_headers: headers
            .map_err(|error| StoreError::unreadable("response_headers", error))?
            .unwrap_or_default(),
        response_body: row.response_body.unwrap_or_default(),
    })
}
