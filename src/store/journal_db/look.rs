//! Looks up the next few pending events of a webhook in a long backlog.

use sea_orm::{ConnectionTrait, FromQueryResult, Statement};

use crate::domain::id::EventSeq;
use crate::store::fanouts::{FANOUT_KEY, last_key};
use crate::store::{Store, StoreError, targets};

use super::pending::PendingAfter;

/// Fan-outs read at once.
pub(super) const FANOUTS: i64 = 64;

#[derive(Debug, FromQueryResult)]
struct SeqRow {
    event_seq: i64,
}

#[derive(Debug, FromQueryResult)]
pub(super) struct FanoutRow {
    pub(super) event_seq: i64,
    pub(super) shard: i16,
    pub(super) targets: Vec<u8>,
}

impl Store {
    /// Answers these questions from one snapshot, so that a delivery which gets its row meanwhile is neither missed nor
    /// found twice. Each answer has at most `most` events.
    pub(super) async fn pending_after(
        &self,
        questions: &[PendingAfter],
        most: usize,
    ) -> Result<Vec<Vec<EventSeq>>, StoreError> {
        let moment = self.moment().await?;
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            let mut found = with_rows(&moment, *question, most).await?;
            let last = found.last().copied().unwrap_or(question.after);
            let to = if found.len() < most { EventSeq(i64::MAX) } else { last };
            found.extend(self.by_fanouts(&moment, *question, to, most).await?);
            found.sort_unstable();
            found.truncate(most);
            answers.push(found);
        }
        moment.commit().await?;
        Ok(answers)
    }
}

async fn with_rows<C: ConnectionTrait>(
    on: &C,
    PendingAfter { webhook, after }: PendingAfter,
    most: usize,
) -> Result<Vec<EventSeq>, StoreError> {
    let sql = "SELECT event_seq FROM delivery WHERE status = 0 AND webhook_num = $1 AND event_seq > $2 \
               ORDER BY event_seq LIMIT $3";
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let values = [webhook.0.into(), after.0.into(), limit.into()];
    let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, values);
    let rows = SeqRow::find_by_statement(statement).all(on).await?;
    Ok(rows.into_iter().map(|row| EventSeq(row.event_seq)).collect())
}

impl Store {
    /// Events up to `to` that the webhook is owed by fan-outs alone; stops once it has `most` of them.
    async fn by_fanouts<C: ConnectionTrait>(
        &self,
        on: &C,
        PendingAfter { webhook, after }: PendingAfter,
        to: EventSeq,
        most: usize,
    ) -> Result<Vec<EventSeq>, StoreError> {
        let sql = "SELECT event_seq, shard, targets FROM fanout f \
               WHERE (event_seq, shard) > ($1, $2) AND event_seq <= $3 AND NOT EXISTS ( \
                 SELECT 1 FROM delivery d WHERE d.event_seq = f.event_seq AND d.webhook_num = $4) \
               ORDER BY event_seq, shard LIMIT $5";
        let mut after = (after.0, i16::MAX);
        let mut owed = Vec::new();
        while owed.len() < most {
            let values = [after.0.into(), after.1.into(), to.0.into(), webhook.0.into(), FANOUTS.into()];
            let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, values);
            let rows = on.query_all_raw(statement).await?;
            let Some(last) = last_key(&rows) else { break };
            after = last;
            for row in self.readable::<FanoutRow>("fanout", &FANOUT_KEY, &rows) {
                let key = format_args!("{}/{}", row.event_seq, row.shard);
                let targets = self.if_readable("fanout", key, targets::decode(&row.targets))?.unwrap_or_default();
                if targets.binary_search(&webhook).is_ok() {
                    owed.push(EventSeq(row.event_seq));
                }
            }
        }
        Ok(owed)
    }
}
