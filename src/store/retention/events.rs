//! Deletes settled events with their deliveries, attempts, entries of the log index and caller ids.
//!
//! An event with very many deliveries is deleted in several transactions. The first one deletes the event itself, after
//! which no request finds its deliveries; the others delete these part by part. The mark `Unfinished` keeps the event's
//! key meanwhile, so that whichever process comes next finishes the work.

use std::collections::HashSet;

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Statement, Value};

use crate::domain::id::{EventSeq, WebhookNum};
use crate::store::decode::NumRow;
use crate::store::leases::ShardSet;
use crate::store::pool::Transaction;
use crate::store::state::{self, SweepMark};
use crate::store::{Store, StoreError, dialect};

use super::{NOT_SETTLED, last_of_part};

/// Rows that were deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    pub events: u64,
    pub deliveries: u64,
    pub attempts: u64,
    pub log_entries: u64,
}

/// Of the events in `$1`, those that are owed to a webhook: by a row that is not settled or by an open fan-out. The `+`
/// makes the databases look up the rows of each event instead of all pending rows.
fn owed_sql(backend: DbBackend) -> String {
    let is_one = dialect::is_any_of(backend, "event_seq", "$1");
    format!(
        "SELECT event_seq AS num FROM delivery WHERE {is_one} AND (+status) {NOT_SETTLED} \
         UNION SELECT event_seq AS num FROM fanout WHERE {is_one}"
    )
}

/// Of the events in `$1`, those that must stay: they are owed, or an open operation has work to do on their deliveries.
fn needed_sql(backend: DbBackend) -> String {
    let is_one = dialect::is_any_of(backend, "i.event_seq", "$1");
    format!(
        "{} UNION SELECT i.event_seq AS num FROM operation_item i JOIN operation o ON o.num = i.operation \
         WHERE {is_one} AND i.state = 0 AND o.finished_at IS NULL",
        owed_sql(backend)
    )
}

/// Deletes from `table` what belongs to the events in `$1`.
fn of_events_sql(backend: DbBackend, table: &str) -> String {
    format!("DELETE FROM {table} WHERE {}", dialect::is_any_of(backend, "event_seq", "$1"))
}

fn log_entries_sql(which: &str) -> String {
    format!(
        "DELETE FROM delivery_log WHERE (webhook_num, event_seq) IN \
         (SELECT webhook_num, event_seq FROM delivery WHERE {which})"
    )
}

fn caller_ids_sql(backend: DbBackend) -> String {
    let is_one = dialect::is_any_of(backend, "seq", "$1");
    format!(
        "DELETE FROM event_caller_id WHERE (tenant_num, caller_id) IN \
         (SELECT tenant_num, caller_id FROM event WHERE caller_id IS NOT NULL AND {is_one})"
    )
}

const PART: &str = "event_seq = $1 AND webhook_num <= $2";

async fn run<C: ConnectionTrait>(
    on: &C,
    sql: impl Into<String>,
    values: impl IntoIterator<Item = Value>,
) -> Result<u64, StoreError> {
    let statement = Statement::from_sql_and_values(on.get_database_backend(), sql, values);
    Ok(on.execute_raw(statement).await?.rows_affected())
}

fn seqs_of(backend: DbBackend, events: &[EventSeq]) -> Value {
    dialect::numbers(backend, events.iter().map(|event| event.0))
}

/// Which of these events are owed.
pub(in crate::store) async fn owed_among<C: ConnectionTrait>(
    on: &C,
    events: &[EventSeq],
) -> Result<HashSet<EventSeq>, StoreError> {
    found_among(on, owed_sql(on.get_database_backend()), events).await
}

async fn needed_among<C: ConnectionTrait>(on: &C, events: &[EventSeq]) -> Result<HashSet<EventSeq>, StoreError> {
    found_among(on, needed_sql(on.get_database_backend()), events).await
}

async fn found_among<C: ConnectionTrait>(
    on: &C,
    sql: String,
    events: &[EventSeq],
) -> Result<HashSet<EventSeq>, StoreError> {
    let backend = on.get_database_backend();
    let statement = Statement::from_sql_and_values(backend, sql, [seqs_of(backend, events)]);
    let rows = NumRow::find_by_statement(statement).all(on).await?;
    Ok(rows.into_iter().map(|row| EventSeq(row.num)).collect())
}

/// Locks the events that no other transaction has locked, and returns those of them that may go. What the lock waits for
/// has been committed by then, and a second statement sees it.
async fn locked_and_free(on: &Transaction, events: &[EventSeq]) -> Result<Vec<EventSeq>, StoreError> {
    let backend = on.get_database_backend();
    let mut locked = events.to_vec();
    if backend == DbBackend::Postgres {
        let sql = "SELECT seq AS num FROM event WHERE seq = ANY($1) ORDER BY seq FOR UPDATE SKIP LOCKED";
        let statement = Statement::from_sql_and_values(backend, sql, [seqs_of(backend, events)]);
        let rows = NumRow::find_by_statement(statement).all(on).await?;
        locked = rows.into_iter().map(|row| EventSeq(row.num)).collect();
    }
    let needed = needed_among(on, &locked).await?;
    locked.retain(|event| !needed.contains(event));
    Ok(locked)
}

async fn delete_event_rows(on: &Transaction, events: &Value) -> Result<u64, StoreError> {
    let backend = on.get_database_backend();
    run(on, caller_ids_sql(backend), [events.clone()]).await?;
    let sql = format!("DELETE FROM event WHERE {}", dialect::is_any_of(backend, "seq", "$1"));
    run(on, sql, [events.clone()]).await
}

impl Store {
    /// Which of these events must stay: they are owed to a webhook, or an open operation has work to do on them.
    pub async fn needed_events(&self, events: &[EventSeq]) -> Result<HashSet<EventSeq>, StoreError> {
        needed_among(self.engine_readers(), events).await
    }

    /// Deletes those of these events that need not stay, with all that belongs to them. Notes `swept_to`, if given, as
    /// how far the sweep has come.
    pub async fn delete_events(
        &self,
        shard_set: &ShardSet,
        events: &[EventSeq],
        swept_to: Option<EventSeq>,
    ) -> Result<Option<Deleted>, StoreError> {
        let backend = self.backend();
        let delete = async |on: &Transaction| {
            let free = seqs_of(backend, &locked_and_free(on, events).await?);
            let of_events = dialect::is_any_of(backend, "event_seq", "$1");
            let deleted = Deleted {
                attempts: run(on, of_events_sql(backend, "attempt"), [free.clone()]).await?,
                log_entries: run(on, log_entries_sql(&of_events), [free.clone()]).await?,
                deliveries: run(on, of_events_sql(backend, "delivery"), [free.clone()]).await?,
                events: delete_event_rows(on, &free).await?,
            };
            note(on, SweepMark::EventsTo, swept_to).await?;
            Ok(deleted)
        };
        self.sweep(shard_set, delete).await
    }

    /// Deletes one event unless it must stay, and leaves its deliveries to [`Self::delete_part`].
    pub async fn delete_event_alone(
        &self,
        shard_set: &ShardSet,
        event: EventSeq,
        swept_to: Option<EventSeq>,
    ) -> Result<Option<Deleted>, StoreError> {
        let backend = self.backend();
        let delete = async |on: &Transaction| {
            let free = locked_and_free(on, &[event]).await?;
            let events = delete_event_rows(on, &seqs_of(backend, &free)).await?;
            note(on, SweepMark::Unfinished, free.first().copied()).await?;
            note(on, SweepMark::EventsTo, swept_to).await?;
            Ok(Deleted { events, ..Deleted::default() })
        };
        self.sweep(shard_set, delete).await
    }

    /// Deletes the deliveries of the next `webhooks` webhooks of an event that is gone. Once there are none, the event is
    /// no longer unfinished.
    pub async fn delete_part(
        &self,
        shard_set: &ShardSet,
        event: EventSeq,
        webhooks: u32,
    ) -> Result<Option<Deleted>, StoreError> {
        let delete = async |on: &Transaction| {
            let Some(last) = last_of_part(on, event, WebhookNum(0), webhooks).await? else {
                let attempts = run(on, "DELETE FROM attempt WHERE event_seq = $1", [event.0.into()]).await?;
                state::set_sweep_mark(on, SweepMark::Unfinished, EventSeq::ZERO).await?;
                return Ok(Deleted { attempts, ..Deleted::default() });
            };
            let values = || [event.0.into(), last.0.into()];
            Ok(Deleted {
                events: 0,
                attempts: run(on, format!("DELETE FROM attempt WHERE {PART}"), values()).await?,
                log_entries: run(on, log_entries_sql(PART), values()).await?,
                deliveries: run(on, format!("DELETE FROM delivery WHERE {PART}"), values()).await?,
            })
        };
        self.sweep(shard_set, delete).await
    }
}

async fn note<C: ConnectionTrait>(on: &C, mark: SweepMark, to: Option<EventSeq>) -> Result<(), StoreError> {
    match to {
        Some(to) => state::set_sweep_mark(on, mark, to).await,
        None => Ok(()),
    }
}

#[cfg(test)]
pub(super) fn statements(backend: DbBackend) -> Vec<String> {
    vec![
        owed_sql(backend),
        needed_sql(backend),
        of_events_sql(backend, "attempt"),
        of_events_sql(backend, "delivery"),
        log_entries_sql(&dialect::is_any_of(backend, "event_seq", "$1")),
        log_entries_sql(PART),
        caller_ids_sql(backend),
        format!("DELETE FROM delivery WHERE {PART}"),
        format!("DELETE FROM attempt WHERE {PART}"),
    ]
}
