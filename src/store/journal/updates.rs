//! Updates that cannot share a statement, and what they changed. They are rare, because people ask for them.

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Statement};

use crate::domain::id::DeliveryId;
use crate::domain::moment::UnixMillis;
use crate::store::cancel::{Purge, TakenBack, purge, take_back_one};

#[derive(Debug)]
pub(super) enum Update {
    Cancel { id: DeliveryId, at: UnixMillis },
    Retry { id: DeliveryId, at: UnixMillis },
    Purge { purge: Purge, at: UnixMillis },
}

/// What the updates of a batch have changed.
#[derive(Debug, Default)]
pub(super) struct Updated {
    /// In the order of the updates.
    pub(super) changes: Vec<Change>,
    /// How many deliveries each purge took back, in the order of the purges.
    pub(super) purged: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// The delivery was pending and is settled.
    TakenBack(TakenBack),
    /// The delivery was settled and is pending.
    Again(DeliveryId),
    /// The delivery was pending and no longer waits for `next_at`.
    Hastened { id: DeliveryId, next_at: UnixMillis },
}

#[derive(Debug, FromQueryResult)]
struct RetriedRow {
    manual_from: i16,
    manual_next_at: Option<i64>,
}

impl Update {
    pub(super) async fn run<C: ConnectionTrait>(self, on: &C, updated: &mut Updated) -> Result<(), DbErr> {
        match self {
            Self::Cancel { id, at } => {
                updated.changes.extend(take_back_one(on, id, at).await?.map(Change::TakenBack));
            }
            Self::Retry { id, at } => updated.changes.extend(retry(on, id, at).await?),
            Self::Purge { purge: which, at } => {
                let taken_back = purge(on, &which, at).await?;
                updated.purged.push(taken_back.len() as u64);
                updated.changes.extend(taken_back.into_iter().map(Change::TakenBack));
            }
        }
        Ok(())
    }
}

/// Keeps the delivery's state in the row: a failed manual retry falls back to it.
async fn retry<C: ConnectionTrait>(on: &C, id: DeliveryId, at: UnixMillis) -> Result<Option<Change>, DbErr> {
    let sql = "UPDATE delivery SET manual_from = status, manual_next_at = next_at, status = 0, next_at = $1 \
               WHERE event_seq = $2 AND webhook_num = $3 AND manual_from IS NULL \
               RETURNING manual_from, manual_next_at";
    let values = [at.0.into(), id.event.0.into(), id.webhook.0.into()];
    let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, values);
    let Some(row) = RetriedRow::find_by_statement(statement).one(on).await? else { return Ok(None) };
    let hastened = |at| Change::Hastened { id, next_at: UnixMillis(at) };
    Ok(if row.manual_from == 0 { row.manual_next_at.map(hastened) } else { Some(Change::Again(id)) })
}
