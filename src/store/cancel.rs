//! Cancels pending deliveries: one at a user's request, or part of a webhook's backlog for a purge. The journal's
//! writer calls it within a batch.

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Statement, Value};

use crate::domain::delivery::Status;
use crate::domain::id::{DeliveryId, EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;

use super::dialect;

/// Deliveries that a purge cancels per transaction: bounds how long the next batch waits.
const PURGED_AT_ONCE: i64 = 2000;

/// `$1` is the time. A delivery that waits only for a manual retry falls back to what it was before.
pub(super) const TAKE_BACK: &str = "UPDATE delivery SET next_at = NULL, manual_from = NULL, manual_next_at = NULL, \
    status = CASE WHEN manual_from > 0 THEN manual_from ELSE 3 END, \
    settled_at = CASE WHEN manual_from > 0 THEN settled_at ELSE $1 END WHERE status = 0 AND";

/// Which pending deliveries a purge cancels.
#[derive(Debug, Clone)]
pub struct Purge {
    pub webhook: WebhookNum,
    pub through: EventSeq,
    pub except: Vec<EventSeq>,
}

/// A delivery that is no longer pending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakenBack {
    pub id: DeliveryId,
    /// The moment that it waited for.
    pub next_at: Option<UnixMillis>,
    /// Cancelled, or what it was before a manual retry.
    pub status: Status,
}

#[derive(Debug, FromQueryResult)]
struct PendingRow {
    event_seq: i64,
    webhook_num: i64,
    next_at: Option<i64>,
    manual_from: Option<i16>,
}

/// Cancels the pending deliveries that match `which`, whose parameters start at `$2`.
async fn take_back<C: ConnectionTrait>(
    on: &C,
    which: &str,
    of: impl IntoIterator<Item = impl Into<Value>>,
    at: UnixMillis,
) -> Result<(), DbErr> {
    let values = [at.0.into()].into_iter().chain(of.into_iter().map(Into::into));
    let sql = format!("{TAKE_BACK} {which}");
    on.execute_raw(Statement::from_sql_and_values(on.get_database_backend(), sql, values)).await?;
    Ok(())
}

/// Cancels one delivery, if it is pending.
pub(super) async fn take_back_one<C: ConnectionTrait>(
    on: &C,
    id: DeliveryId,
    at: UnixMillis,
) -> Result<Option<TakenBack>, DbErr> {
    let of = [id.event.0, id.webhook.0];
    let found = pending(on, "event_seq = $1 AND webhook_num = $2", of).await?.pop();
    if found.is_some() {
        take_back(on, "event_seq = $2 AND webhook_num = $3", of, at).await?;
    }
    Ok(found)
}

/// Cancels the oldest deliveries of a purge, at most [`PURGED_AT_ONCE`].
pub(super) async fn purge<C: ConnectionTrait>(on: &C, purge: &Purge, at: UnixMillis) -> Result<Vec<TakenBack>, DbErr> {
    let Purge { webhook, through, except } = purge;
    let backend = on.get_database_backend();
    let except = dialect::numbers(backend, except.iter().map(|event| event.0));
    let others = dialect::is_none_of(backend, "event_seq", "$3");
    let which = format!("webhook_num = $1 AND event_seq <= $2 AND {others} ORDER BY event_seq LIMIT $4");
    let of = [webhook.0.into(), through.0.into(), except.clone(), PURGED_AT_ONCE.into()];
    let found = pending(on, &which, of).await?;
    if let Some(last) = found.last() {
        let others = dialect::is_none_of(backend, "event_seq", "$4");
        let which = format!("webhook_num = $2 AND event_seq <= $3 AND {others}");
        take_back(on, &which, [webhook.0.into(), last.id.event.0.into(), except], at).await?;
    }
    Ok(found)
}

/// The pending deliveries that match `which`, whose parameters start at `$1`.
async fn pending<C: ConnectionTrait>(
    on: &C,
    which: &str,
    of: impl IntoIterator<Item = impl Into<Value>>,
) -> Result<Vec<TakenBack>, DbErr> {
    let sql = format!("SELECT event_seq, webhook_num, next_at, manual_from FROM delivery WHERE status = 0 AND {which}");
    let values = of.into_iter().map(Into::into);
    let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, values);
    let rows = PendingRow::find_by_statement(statement).all(on).await?;
    let taken_back = |row: PendingRow| TakenBack {
        id: DeliveryId { event: EventSeq(row.event_seq), webhook: WebhookNum(row.webhook_num) },
        next_at: row.next_at.map(UnixMillis),
        status: row
            .manual_from
            .and_then(Status::from_code)
            .filter(|from| *from != Status::Pending)
            .unwrap_or(Status::Cancelled),
    };
    Ok(rows.into_iter().map(taken_back).collect())
}
