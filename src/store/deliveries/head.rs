//! Reads what a webhook's rows wait for: which delivery is next, why it waits, and how many wait for a later moment.

use std::collections::HashMap;

use sea_orm::{DbBackend, EntityTrait, FromQueryResult, Statement};

use crate::domain::delivery::{DeliveryState, Status};
use crate::domain::health::LastError;
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::domain::outcome::OutcomeKind;
use crate::store::{Store, StoreError, dialect};

use super::state_of;

/// Rows are counted up to this number.
pub const COUNTED: u64 = 1000;

/// Webhooks per statement.
const CHUNK: usize = 500;

/// What a webhook's rows wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Of the deliveries with a row, the one that is sent next.
    pub first: Waiting,
    /// Of the deliveries that wait for a later moment, the one that falls due first; may be the same as `first`.
    pub later: Option<Waiting>,
    /// Rows that wait for a later moment; [`COUNTED`] means that many or more.
    pub scheduled: u64,
}

/// A pending delivery and its last request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub event: EventSeq,
    pub next_at: Option<UnixMillis>,
    pub attempts: u16,
    /// Attempts that count against the policy.
    pub tries: u16,
    pub is_manual: bool,
    /// An operation asks for its next request.
    pub is_replay: bool,
    /// Its last request, with any outcome; `None` also if this version does not know the outcome.
    pub last: Option<LastError>,
}

#[derive(Debug, FromQueryResult)]
struct HeadRow {
    num: i64,
    /// 0: the row of `first`; 1: the row of `later`.
    nth: i64,
    scheduled: i64,
    event_seq: i64,
    next_at: Option<i64>,
    attempts: i16,
    tries: i16,
    manual_from: Option<i16>,
    operation: Option<i64>,
    started_at: Option<i64>,
    duration_us: Option<i64>,
    outcome: Option<i16>,
    status_code: Option<i16>,
    error: Option<String>,
}

/// Table and key columns, by which an unreadable row is named.
const HEAD: (&str, &[&str]) = ("delivery", &["event_seq", "num"]);

/// Per webhook, one row for `first` and one for `later`, each found by its key.
fn heads_sql(backend: DbBackend, ordered: bool) -> String {
    let order = if ordered { "first.event_seq" } else { "first.next_at, first.event_seq" };
    let is_chosen = dialect::is_any_of(backend, "w.num", "$1");
    format!(
        "SELECT h.num, nth, CASE nth WHEN 0 THEN h.scheduled ELSE 0 END AS scheduled, d.event_seq, d.next_at, \
         d.attempts, d.tries, d.manual_from, d.operation, a.started_at, a.duration_us, a.outcome, a.status_code, a.error \
         FROM (SELECT w.num AS num, (SELECT COUNT(*) FROM (SELECT 1 AS one FROM delivery later WHERE later.status = 0 \
         AND later.webhook_num = w.num AND later.next_at > $2 LIMIT {COUNTED}) counted) AS scheduled, \
         (SELECT first.event_seq FROM delivery first WHERE first.status = 0 AND first.webhook_num = w.num \
         ORDER BY {order} LIMIT 1) AS head, \
         (SELECT later.event_seq FROM delivery later WHERE later.status = 0 AND later.webhook_num = w.num \
         AND later.next_at > $2 ORDER BY later.next_at, later.event_seq LIMIT 1) AS later \
         FROM webhook w WHERE {is_chosen}) h \
         CROSS JOIN (SELECT CAST(0 AS BIGINT) AS nth UNION ALL SELECT CAST(1 AS BIGINT) AS nth) two \
         JOIN delivery d ON d.event_seq = CASE nth WHEN 0 THEN h.head ELSE h.later END AND d.webhook_num = h.num \
         LEFT JOIN attempt a ON a.event_seq = d.event_seq AND a.webhook_num = d.webhook_num AND a.number = d.attempts"
    )
}

impl Store {
    /// The first row of each webhook in the order of sending, and how many rows wait for a moment after `now`. Webhooks
    /// without a pending row are missing.
    pub async fn heads(
        &self,
        webhooks: &[WebhookNum],
        ordered: bool,
        now: UnixMillis,
    ) -> Result<HashMap<WebhookNum, Head>, StoreError> {
        let (backend, mut heads) = (self.backend(), HashMap::new());
        for some in webhooks.chunks(CHUNK) {
            let values = [dialect::numbers(backend, some.iter().map(|webhook| webhook.0)), now.0.into()];
            let statement = Statement::from_sql_and_values(backend, heads_sql(backend, ordered), values);
            let rows: Vec<HeadRow> = self.all_readable(self.readers(), HEAD, statement).await?;
            let (firsts, others): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.nth == 0);
            heads.extend(firsts.into_iter().map(|row| (WebhookNum(row.num), Head::from(row))));
            for row in others {
                if let Some(head) = heads.get_mut(&WebhookNum(row.num)) {
                    head.later = Some(Waiting::from(row));
                }
            }
        }
        Ok(heads)
    }
}

/// The newest deliveries of a webhook, among which its last success is looked for.
const LOOKED_AT: u32 = 16;

#[derive(Debug, FromQueryResult)]
struct SuccessRow {
    num: i64,
    at: Option<i64>,
}

impl Store {
    /// When each of these webhooks last had a successful delivery, if that is one of its newest few deliveries.
    pub async fn last_successes(&self, webhooks: &[WebhookNum]) -> Result<Vec<(WebhookNum, UnixMillis)>, StoreError> {
        let (backend, mut found) = (self.backend(), Vec::new());
        let (then_join, is_one) = (dialect::then_join(backend), dialect::is_any_of(backend, "w.num", "$1"));
        let sql = format!(
            "SELECT w.num AS num, (SELECT MAX(newest.settled_at) FROM (SELECT d.status, d.settled_at \
             FROM delivery_log l {then_join} delivery d ON d.event_seq = l.event_seq AND d.webhook_num = l.webhook_num \
             WHERE l.webhook_num = w.num ORDER BY l.event_seq DESC LIMIT {LOOKED_AT}) newest \
             WHERE newest.status = {}) AS at FROM webhook w WHERE {is_one}",
            Status::Success.code()
        );
        for some in webhooks.chunks(CHUNK) {
            let numbers = dialect::numbers(backend, some.iter().map(|webhook| webhook.0));
            let statement = Statement::from_sql_and_values(backend, &sql, [numbers]);
            let rows: Vec<SuccessRow> =
                self.all_readable(self.readers(), ("delivery_log", &["num"]), statement).await?;
            found.extend(rows.into_iter().filter_map(|row| Some((WebhookNum(row.num), UnixMillis(row.at?)))));
        }
        Ok(found)
    }

    /// The state of a delivery, if it has a row.
    pub async fn delivery_state(&self, id: DeliveryId) -> Result<Option<DeliveryState>, StoreError> {
        let row = entity::delivery::Entity::find_by_id((id.event.0, id.webhook.0)).one(self.readers()).await?;
        row.map(|row| {
            let (counts, moments) = ((row.status, row.attempts, row.tries), (row.next_at, row.settled_at));
            state_of(counts, moments, (row.manual_from, row.manual_next_at, row.operation))
        })
        .transpose()
    }
}

impl From<HeadRow> for Head {
    /// Expects the row of `first`.
    fn from(row: HeadRow) -> Self {
        let scheduled = row.scheduled.cast_unsigned();
        Self { first: row.into(), later: None, scheduled }
    }
}

impl From<HeadRow> for Waiting {
    fn from(row: HeadRow) -> Self {
        let HeadRow { event_seq, next_at, attempts, tries, manual_from, operation, .. } = row;
        let event = EventSeq(event_seq);
        let outcome = row.outcome.and_then(OutcomeKind::from_code);
        let last = outcome.zip(row.started_at).map(|(outcome, started_at)| LastError {
            at: UnixMillis(started_at.saturating_add(row.duration_us.unwrap_or(0) / 1000)),
            outcome,
            status: row.status_code.map(i16::cast_unsigned),
            error: row.error,
            event,
        });
        Self {
            event,
            next_at: next_at.map(UnixMillis),
            attempts: attempts.cast_unsigned(),
            tries: tries.cast_unsigned(),
            is_manual: manual_from.is_some() && operation.is_none(),
            is_replay: manual_from.is_some() && operation.is_some(),
            last,
        }
    }
}
