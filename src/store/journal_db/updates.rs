//! Updates of the journal that cannot share a statement.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};

use crate::domain::id::{DeliveryId, EventSeq, OperationNum};
use crate::domain::moment::UnixMillis;
use crate::store::cancel::{purge, take_back_one};
use crate::store::journal_db::rows::{Change, Update, Updated};

#[derive(Debug, FromQueryResult)]
struct RetriedRow {
    manual_from: i16,
    manual_next_at: Option<i64>,
    attempts: i16,
}

pub(super) async fn run<C: ConnectionTrait>(update: Update, on: &C, updated: &mut Updated) -> Result<(), DbErr> {
    match update {
        Update::Cancel { id, at, operation } => {
            let taken_back = take_back_one(on, id, at).await?;
            if let (Some(_), Some(operation)) = (taken_back, operation) {
                note_operation(on, operation, id).await?;
            }
            updated.changes.extend(taken_back.map(Change::TakenBack));
        }
        Update::Retry { id, at, operation } => updated.changes.extend(retry(on, id, at, operation).await?),
        Update::Owe { id, at, operation } => {
            updated.changes.extend(owe(on, id, at, operation).await?.then_some(Change::Again(id)));
        }
        Update::Purge { purge: which, at } => {
            let taken_back = purge(on, &which, at).await?;
            updated.purged.push(taken_back.len() as u64);
            updated.changes.extend(taken_back.into_iter().map(Change::TakenBack));
        }
    }
    Ok(())
}

/// Whether the event is there with its payload. If so, neither is deleted before this transaction ends.
async fn keep_event<C: ConnectionTrait>(on: &C, event: EventSeq) -> Result<bool, DbErr> {
    let sql = match on.get_database_backend() {
        DbBackend::Postgres => "SELECT seq FROM event WHERE seq = $1 AND erased_at IS NULL FOR KEY SHARE",
        _ => "SELECT seq FROM event WHERE seq = $1 AND erased_at IS NULL",
    };
    let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, [event.0.into()]);
    Ok(on.query_one_raw(statement).await?.is_some())
}

/// Keeps the delivery's state in the row: a failed manual retry or replay falls back to it. Nothing is retried whose
/// event is gone, or whose payload was erased.
async fn retry<C: ConnectionTrait>(
    on: &C,
    id: DeliveryId,
    at: UnixMillis,
    operation: Option<OperationNum>,
) -> Result<Option<Change>, DbErr> {
    if !keep_event(on, id.event).await? {
        return Ok(None);
    }
    let sql = "UPDATE delivery SET manual_from = status, manual_next_at = next_at, status = 0, next_at = $1, \
                   operation = $4 \
               WHERE event_seq = $2 AND webhook_num = $3 AND manual_from IS NULL \
               RETURNING manual_from, manual_next_at, attempts";
    let values = [at.0.into(), id.event.0.into(), id.webhook.0.into(), operation.map(|num| num.0).into()];
    let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, values);
    let Some(row) = RetriedRow::find_by_statement(statement).one(on).await? else { return Ok(None) };
    if let Some(operation) = operation {
        note_attempt(on, operation, id, row.attempts + 1).await?;
    }
    let hastened = |at| Change::Hastened { id, next_at: UnixMillis(at) };
    Ok(if row.manual_from == 0 { row.manual_next_at.map(hastened) } else { Some(Change::Again(id)) })
}

/// Makes a pending delivery of an event that is there with its payload, unless there is one. Answers whether it did.
async fn owe<C: ConnectionTrait>(
    on: &C,
    id: DeliveryId,
    at: UnixMillis,
    operation: OperationNum,
) -> Result<bool, DbErr> {
    if !keep_event(on, id.event).await? {
        return Ok(false);
    }
    let sql = "INSERT INTO delivery (event_seq, webhook_num, status, attempts, tries, next_at, operation) \
               SELECT seq, CAST($2 AS BIGINT), 0, 0, 0, CAST($3 AS BIGINT), CAST($4 AS BIGINT) \
               FROM event WHERE seq = $1 ON CONFLICT DO NOTHING";
    let values = [id.event.0.into(), id.webhook.0.into(), at.0.into(), operation.0.into()];
    let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, values);
    let is_new = on.execute_raw(statement).await?.rows_affected() > 0;
    if is_new {
        note_attempt(on, operation, id, 1).await?;
    }
    Ok(is_new)
}

/// Notes which operation has cancelled a delivery.
async fn note_operation<C: ConnectionTrait>(on: &C, operation: OperationNum, id: DeliveryId) -> Result<(), DbErr> {
    let sql = "UPDATE delivery SET operation = $1 WHERE event_seq = $2 AND webhook_num = $3";
    let values = [operation.0.into(), id.event.0.into(), id.webhook.0.into()];
    on.execute_raw(Statement::from_sql_and_values(on.get_database_backend(), sql, values)).await?;
    Ok(())
}

/// Notes which attempt an item's operation has asked for.
async fn note_attempt<C: ConnectionTrait>(
    on: &C,
    operation: OperationNum,
    id: DeliveryId,
    number: i16,
) -> Result<(), DbErr> {
    let sql = "UPDATE operation_item SET attempt = $4 WHERE operation = $1 AND webhook_num = $2 AND event_seq = $3";
    let values = [operation.0.into(), id.webhook.0.into(), id.event.0.into(), number.into()];
    on.execute_raw(Statement::from_sql_and_values(on.get_database_backend(), sql, values)).await?;
    Ok(())
}
