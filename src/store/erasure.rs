//! Erases the payload of one event: its body, and the answers of receivers, which may repeat it. The event and its
//! deliveries stay.

use std::collections::HashSet;

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement, Value};

use crate::domain::id::{EventId, EventSeq, TenantNum, WebhookNum};
use crate::domain::moment::UnixMillis;

use super::audit::{self, Action, Author, Deed};
use super::decode::NumRow;
use super::pool::Transaction;
use super::{Store, StoreError, dialect, retention};

/// Webhooks whose answers are erased in one transaction.
const PART: u32 = 256;

/// What became of a wish to erase a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Erasure {
    Erased,
    /// A delivery of the event is pending, or the event has an open fan-out.
    Owed,
    NotFound,
}

#[derive(Debug, FromQueryResult)]
struct ErasedRow {
    erased_at: Option<i64>,
}

const ERASE_ANSWERS: &str = "UPDATE attempt SET response_headers = NULL, response_body = NULL, request = NULL \
    WHERE event_seq = $1 AND webhook_num > $2 AND webhook_num <= $3";

impl Store {
    /// Erases the payload unless the event is owed. To repeat the call completes an erasure that was cut short.
    pub async fn erase_payload(&self, tenant: TenantNum, event: EventSeq, by: &Author) -> Result<Erasure, StoreError> {
        let erased = self.write(async |on| erase_body(on, tenant, event, by).await).await?;
        let mut next = (erased == Erasure::Erased).then_some(WebhookNum(0));
        while let Some(after) = next {
            next = self.erase_answers(event, after).await?;
        }
        Ok(erased)
    }

    /// Erases the answers to the next deliveries; returns where the rest begins.
    async fn erase_answers(&self, event: EventSeq, after: WebhookNum) -> Result<Option<WebhookNum>, StoreError> {
        let last = retention::last_of_part(self.readers(), event, after, PART).await?;
        if let Some(last) = last {
            let values: [Value; 3] = [event.0.into(), after.0.into(), last.0.into()];
            let statement = Statement::from_sql_and_values(self.backend(), ERASE_ANSWERS, values);
            self.write(async |on| Ok(on.execute_raw(statement).await?)).await?;
        }
        Ok(last)
    }

    /// Which of these events are there with their payload.
    pub async fn events_with_payload(&self, events: &[EventSeq]) -> Result<HashSet<EventSeq>, StoreError> {
        let backend = self.backend();
        let is_one = dialect::is_any_of(backend, "seq", "$1");
        let sql = format!("SELECT seq AS num FROM event WHERE erased_at IS NULL AND {is_one}");
        let seqs = dialect::numbers(backend, events.iter().map(|event| event.0));
        let statement = Statement::from_sql_and_values(backend, sql, [seqs]);
        let rows = NumRow::find_by_statement(statement).all(self.engine_readers()).await?;
        Ok(rows.into_iter().map(|row| EventSeq(row.num)).collect())
    }

    /// Whether the payload of this event was erased.
    pub async fn is_erased(&self, event: EventSeq) -> Result<bool, StoreError> {
        let sql = "SELECT erased_at FROM event WHERE seq = $1";
        let statement = Statement::from_sql_and_values(self.backend(), sql, [event.0.into()]);
        let row = ErasedRow::find_by_statement(statement).one(self.readers()).await?;
        Ok(row.is_some_and(|row| row.erased_at.is_some()))
    }
}

/// Locks the event first, so that no delivery of it becomes pending meanwhile.
async fn erase_body(on: &Transaction, tenant: TenantNum, event: EventSeq, by: &Author) -> Result<Erasure, StoreError> {
    let backend = on.get_database_backend();
    let lock = if backend == DbBackend::Postgres { "FOR UPDATE" } else { "" };
    let sql = format!("SELECT erased_at FROM event WHERE seq = $1 AND tenant_num = $2 {lock}");
    let statement = Statement::from_sql_and_values(backend, sql, [event.0.into(), tenant.0.into()]);
    match ErasedRow::find_by_statement(statement).one(on).await? {
        None => return Ok(Erasure::NotFound),
        Some(row) if row.erased_at.is_some() => return Ok(Erasure::Erased),
        Some(_) => {}
    }
    if !retention::owed_among(on, &[event]).await?.is_empty() {
        return Ok(Erasure::Owed);
    }
    let now = UnixMillis::now();
    let values: [Value; 3] = [Vec::<u8>::new().into(), now.0.into(), event.0.into()];
    let sql = "UPDATE event SET body = $1, erased_at = $2 WHERE seq = $3";
    on.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
    audit::enter(on, by, Deed::new(Action::ErasePayload, Some(tenant), EventId(event)), now).await?;
    Ok(Erasure::Erased)
}
