//! Finds out whether the database answers, and whether a transaction was committed whose COMMIT was not answered. Asks
//! on any connection, again and again, until the database has answered. Called by the journal's writer.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, RuntimeErr, Statement};

use crate::domain::id::EventSeq;

use super::Store;
use super::journal_db::UnansweredCommit;
use super::leases::{Continuity, STARTED, ShardSet};
use super::pool::Pool;
use super::transaction_id::TransactionId;

/// The limit for one query. A lost packet that opens a connection is sent again after one second and after two more; a
/// longer limit would wait for the next repetition.
const LOOK: Duration = Duration::from_secs(2);

/// The pause between two queries.
const PAUSE: Duration = Duration::from_millis(200);

/// PostgreSQL's error code for a transaction number that it has not given yet.
const INVALID_PARAMETER: &str = "22023";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommitStatus {
    Committed,
    Undone,
    /// The server has not ended the transaction.
    InProgress,
}

#[derive(Debug, FromQueryResult)]
struct StatusRow {
    started: String,
    /// `None` if another server than the known one has answered, or if the server has forgotten the transaction.
    status: Option<String>,
}

impl Store {
    /// Waits until the database answers.
    pub(super) async fn answers(&self) {
        let on = self.engine_readers().within(LOOK);
        while let Err(error) = on.execute_unprepared("SELECT 1").await {
            tracing::debug!(%error, "the database does not answer; asking again");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until it is known whether the batch was committed; returns whether it was.
    pub(super) async fn resolve_commit(&self, batch: &UnansweredCommit<'_>) -> bool {
        let on = self.engine_readers().within(LOOK);
        loop {
            match commit_status(&on, batch).await {
                Ok(CommitStatus::Committed) => return true,
                Ok(CommitStatus::Undone) => return false,
                Ok(CommitStatus::InProgress) => {}
                Err(error) => tracing::debug!(%error, "the commit status could not be read; asking again"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn commit_status(on: &Pool, batch: &UnansweredCommit<'_>) -> Result<CommitStatus, DbErr> {
    let if_its_event_is_there = if batch.event.is_some() { CommitStatus::Committed } else { CommitStatus::Undone };
    let status = match (ConnectionTrait::get_database_backend(on), batch.transaction) {
        (DbBackend::Postgres, Some(transaction)) => {
            status(on, batch.shard_set, transaction).await?.unwrap_or(if_its_event_is_there)
        }
        // The batch had nothing to write.
        (DbBackend::Postgres, None) => CommitStatus::Undone,
        // SQLite undoes a commit that fails, unless the disk reports the failure afterwards: the event tells.
        _ => if_its_event_is_there,
    };
    // Looked up after the status: a query that begins after a commit sees it.
    match (status, batch.event) {
        (CommitStatus::Committed, Some(event)) if !has_event(on, event).await? => Ok(CommitStatus::Undone),
        (status, _) => Ok(status),
    }
}

/// `None`: the server may have lost the transaction and given its number to another one.
async fn status(on: &Pool, shard_set: &ShardSet, transaction: &TransactionId) -> Result<Option<CommitStatus>, DbErr> {
    let known = shard_set.server_started().unwrap_or_default();
    let sql = format!(
        "SELECT server.started, CASE WHEN server.started = $2 THEN pg_xact_status($1::xid8) END AS status \
         FROM (SELECT {STARTED}) AS server"
    );
    let values = [transaction.as_str().into(), known.as_str().into()];
    let statement = Statement::from_sql_and_values(DbBackend::Postgres, sql, values);
    let row = match StatusRow::find_by_statement(statement).one(on).await {
        Err(error) if code(&error).as_deref() == Some(INVALID_PARAMETER) => return Ok(Some(CommitStatus::Undone)),
        row => row?.ok_or_else(|| DbErr::Custom("it was not answered".to_owned()))?,
    };
    match shard_set.continuity(on, &row.started).await? {
        _ if shard_set.has_diverged() => return Ok(None),
        Continuity::Unbroken if row.started == known => {}
        Continuity::Unbroken | Continuity::Diverged | Continuity::Superseded => {
            return Err(DbErr::Custom("another server has answered".to_owned()));
        }
    }
    Ok(Some(match row.status.as_deref() {
        Some("committed") => CommitStatus::Committed,
        Some("in progress") => CommitStatus::InProgress,
        // Aborted, or so old that the server has forgotten it. Writing a batch twice is better than not writing it.
        Some(_) | None => CommitStatus::Undone,
    }))
}

async fn has_event(on: &Pool, EventSeq(event): EventSeq) -> Result<bool, DbErr> {
    let sql = "SELECT 1 FROM event WHERE seq = $1";
    let backend = ConnectionTrait::get_database_backend(on);
    Ok(on.query_one_raw(Statement::from_sql_and_values(backend, sql, [event.into()])).await?.is_some())
}

/// The SQLSTATE code of the error.
fn code(error: &DbErr) -> Option<String> {
    let (DbErr::Query(RuntimeErr::SqlxError(error)) | DbErr::Exec(RuntimeErr::SqlxError(error))) = error else {
        return None;
    };
    error.as_database_error()?.code().map(|code| code.into_owned())
}
