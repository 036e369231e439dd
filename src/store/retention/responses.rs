//! Clears what is kept of receivers' answers, heads and bodies, and of what was called. The attempts stay, with status,
//! outcome and duration.

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement, Value};

use crate::domain::id::{EventSeq, WebhookNum};
use crate::domain::moment::UnixMillis;
use crate::store::decode::NumRow;
use crate::store::leases::ShardSet;
use crate::store::pool::Transaction;
use crate::store::state::{self, SweepMark};
use crate::store::{Store, StoreError, dialect};

use super::{NOT_SETTLED, last_of_part};

const HAS_ANSWER: &str = "(response_headers IS NOT NULL OR response_body IS NOT NULL OR request IS NOT NULL)";

/// Clears the answers to attempts that began before `$1`. A delivery that is still pending keeps its answers.
const CLEAR: &str = "UPDATE attempt SET response_headers = NULL, response_body = NULL, request = NULL \
    WHERE started_at < $1 AND";

fn is_settled() -> String {
    format!(
        "NOT EXISTS (SELECT 1 FROM delivery d WHERE d.event_seq = attempt.event_seq \
         AND d.webhook_num = attempt.webhook_num AND d.status {NOT_SETTLED})"
    )
}

fn clear_sql(backend: DbBackend) -> String {
    let is_one = dialect::is_any_of(backend, "event_seq", "$2");
    format!("{CLEAR} {is_one} AND {HAS_ANSWER} AND {}", is_settled())
}

fn find_sql(backend: DbBackend) -> String {
    let is_one = dialect::is_any_of(backend, "event_seq", "$2");
    format!(
        "SELECT DISTINCT event_seq AS num FROM attempt WHERE started_at < $1 AND {is_one} AND {HAS_ANSWER} AND {}",
        is_settled()
    )
}

fn clear_part_sql() -> String {
    format!("{CLEAR} {CLEAR_PART} AND {HAS_ANSWER} AND {}", is_settled())
}

const CLEAR_PART: &str = "event_seq = $2 AND webhook_num > $3 AND webhook_num <= $4";

impl Store {
    /// Which of these events have answers to clear: to attempts from before this moment, of settled deliveries.
    pub async fn events_with_responses(
        &self,
        events: &[EventSeq],
        before: UnixMillis,
    ) -> Result<Vec<EventSeq>, StoreError> {
        let backend = self.backend();
        let values = [before.0.into(), dialect::numbers(backend, events.iter().map(|event| event.0))];
        let statement = Statement::from_sql_and_values(backend, find_sql(backend), values);
        let rows = NumRow::find_by_statement(statement).all(self.engine_readers()).await?;
        Ok(rows.into_iter().map(|row| EventSeq(row.num)).collect())
    }

    /// Clears these answers; returns how many. Notes `swept_to`, if given, as how far the sweep has come.
    pub async fn clear_responses(
        &self,
        shard_set: &ShardSet,
        events: &[EventSeq],
        before: UnixMillis,
        swept_to: Option<EventSeq>,
    ) -> Result<Option<u64>, StoreError> {
        let backend = self.backend();
        let values = [before.0.into(), dialect::numbers(backend, events.iter().map(|event| event.0))];
        let statement = Statement::from_sql_and_values(backend, clear_sql(backend), values);
        let clear = async |on: &Transaction| {
            let cleared = on.execute_raw(statement).await?.rows_affected();
            if let Some(to) = swept_to {
                state::set_sweep_mark(on, SweepMark::ResponsesTo, to).await?;
            }
            Ok(cleared)
        };
        self.sweep(shard_set, clear).await
    }

    /// Clears the answers of the next `webhooks` webhooks of one event after `after`. Returns how many, and where the
    /// next part begins; `None` for that at the end.
    pub async fn clear_responses_of_part(
        &self,
        shard_set: &ShardSet,
        event: EventSeq,
        before: UnixMillis,
        (after, webhooks): (WebhookNum, u32),
    ) -> Result<Option<(u64, Option<WebhookNum>)>, StoreError> {
        let Some(last) = last_of_part(self.engine_readers(), event, after, webhooks).await? else {
            return Ok(Some((0, None)));
        };
        let values: [Value; 4] = [before.0.into(), event.0.into(), after.0.into(), last.0.into()];
        let statement = Statement::from_sql_and_values(self.backend(), clear_part_sql(), values);
        let clear = async |on: &Transaction| Ok((on.execute_raw(statement).await?.rows_affected(), Some(last)));
        self.sweep(shard_set, clear).await
    }
}

#[cfg(test)]
pub(super) fn statements(backend: DbBackend) -> Vec<String> {
    vec![clear_sql(backend), find_sql(backend), clear_part_sql()]
}
