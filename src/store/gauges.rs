//! Figures of the whole database for the metrics page: how many webhooks are in which state, how many breakers are
//! open, and for how long deliveries have been due. They take a scan of the webhooks, and a look at each webhook with something
//! pending, so the caller must not ask often.

use std::time::Duration;

use sea_orm::{FromQueryResult, Statement};

use crate::domain::id::EventSeq;
use crate::domain::moment::UnixMillis;
use crate::domain::operation::OperationState;

use super::deliveries::OWED_WEBHOOKS;
use super::{Store, StoreError};

/// The states of webhooks, as far as rows tell. A webhook that an actor's crashes have quarantined counts as what it is
/// otherwise.
const STATES: [&str; 5] = ["active", "paused", "inactive", "suspended", "circuit_open"];

/// Why deliveries that are due are not sent, as far as rows tell.
const REASONS: [&str; 7] = ["dispatch", "ready", "ordered", "suspended", "circuit_open", "paused", "inactive"];

/// The states of operations that have not ended. A cancelled one waits for attempts that it has asked for.
const OPEN: [OperationState; 4] =
    [OperationState::Counting, OperationState::Running, OperationState::Paused, OperationState::Cancelled];

/// What rows say of a webhook `w` and its health `h`.
const STATE: &str = "WHEN NOT w.is_active THEN 'inactive' WHEN w.paused_at IS NOT NULL THEN 'paused' \
                     WHEN h.suspended_at IS NOT NULL THEN 'suspended' \
                     WHEN h.open_until IS NOT NULL THEN 'circuit_open'";

/// The figures at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseGauges {
    /// Webhooks that are not deleted, by state.
    pub webhooks: Vec<(&'static str, u64)>,
    /// Webhooks whose breaker is not closed, paused and inactive ones included.
    pub breakers_open: u64,
    /// For how long the delivery that is due for longest has been due, by the reason why it waits. Zero if none is due.
    pub oldest_due: Vec<(&'static str, Duration)>,
    /// Operations that have not ended, by state.
    pub operations: Vec<(&'static str, u64)>,
}

#[derive(Debug, FromQueryResult)]
struct StateRow {
    state: String,
    webhooks: i64,
    breakers: i64,
}

#[derive(Debug, FromQueryResult)]
struct DueRow {
    reason: String,
    due: i64,
}

#[derive(Debug, FromQueryResult)]
struct OperationsRow {
    state: i16,
    operations: i64,
}

#[derive(Debug, FromQueryResult)]
struct OldestRow {
    event: Option<i64>,
}

impl Store {
    pub async fn gauges(&self, now: UnixMillis) -> Result<DatabaseGauges, StoreError> {
        let (backend, on) = (self.backend(), &self.readers().for_scans());
        let sql = format!(
            "SELECT CASE {STATE} ELSE 'active' END AS state, COUNT(*) AS webhooks, \
             COUNT(COALESCE(h.open_until, h.suspended_at)) AS breakers \
             FROM webhook w LEFT JOIN endpoint_health h ON h.webhook_num = w.num \
             WHERE w.deleted_at IS NULL GROUP BY 1"
        );
        let states = StateRow::find_by_statement(Statement::from_string(backend, sql)).all(on).await?;
        let sql = format!(
            "{OWED_WEBHOOKS} \
             SELECT CASE {STATE} WHEN w.ordered THEN 'ordered' ELSE 'ready' END AS reason, MIN(oldest.due) AS due \
             FROM (SELECT owed.num, (SELECT MIN(next_at) FROM delivery WHERE status = 0 AND webhook_num = owed.num) \
                   AS due FROM owed WHERE owed.num IS NOT NULL) oldest \
             JOIN webhook w ON w.num = oldest.num LEFT JOIN endpoint_health h ON h.webhook_num = w.num \
             WHERE w.deleted_at IS NULL AND oldest.due <= $1 GROUP BY 1"
        );
        let statement = Statement::from_sql_and_values(backend, sql, [now.0.into()]);
        let due = DueRow::find_by_statement(statement).all(on).await?;
        let oldest = Statement::from_string(backend, "SELECT MIN(event_seq) AS event FROM fanout");
        let oldest = OldestRow::find_by_statement(oldest).one(on).await?.and_then(|row| row.event);
        let oldest_due = |reason: &'static str| {
            let since = match reason {
                "dispatch" => oldest.map(|event| EventSeq(event).accepted_at()),
                _ => due.iter().find(|row| row.reason == reason).map(|row| UnixMillis(row.due)),
            };
            (reason, since.map_or(Duration::ZERO, |since| now.since(since)))
        };
        let webhooks = |state: &'static str| {
            let found = states.iter().find(|row| row.state == state);
            (state, found.map_or(0, |row| row.webhooks.unsigned_abs()))
        };
        let sql = "SELECT state, COUNT(*) AS operations FROM operation WHERE finished_at IS NULL GROUP BY state";
        let open = OperationsRow::find_by_statement(Statement::from_string(backend, sql)).all(on).await?;
        let operations = |state: &OperationState| {
            let found = open.iter().find(|row| row.state == state.code());
            (state.as_str(), found.map_or(0, |row| row.operations.unsigned_abs()))
        };
        Ok(DatabaseGauges {
            operations: OPEN.iter().map(operations).collect(),
            webhooks: STATES.map(webhooks).into(),
            breakers_open: states.iter().map(|row| row.breakers.unsigned_abs()).sum(),
            oldest_due: REASONS.map(oldest_due).into(),
        })
    }
}
