//! Finds rows that were numbered by another server's transactions. `pg_dump` and logical replication copy the
//! transaction number of a fan-out or a change as a value; in the new server that number lies in the future or means
//! another transaction. Before a node relies on transaction numbers, it gives such rows a number of the new server.
//!
//! PostgreSQL only: with SQLite transactions have no numbers.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Statement};

use super::config_changes::FORGOTTEN_TO;
use super::leases::NOW;
use super::pool::Pool;
use super::{IN_TIME, Inner, Store, StoreError};

/// A statement sees a row exactly if its snapshot shows the transaction that wrote the row. So if a statement sees a
/// row whose number its snapshot does not show, another server gave that number.
const IS_FOREIGN: &str =
    "tx >= pg_snapshot_xmin(pg_current_snapshot()) AND NOT pg_visible_in_snapshot(tx, pg_current_snapshot())";

/// Tables whose rows carry the number of the transaction that wrote them. Each has an index on it.
const NUMBERED: [&str; 2] = ["fanout", "config_change"];

/// The advisory lock by which nodes that start together take turns; any number that nothing else locks.
const TURN: i64 = 0x706f_7374_6861_7374;

#[derive(Debug, FromQueryResult)]
struct FoundRow {
    found: bool,
}

impl Store {
    /// Gives rows of another server the number of a transaction of this one. Returns how many rows that were.
    pub async fn adopt_foreign_rows(&self) -> Result<u64, StoreError> {
        let Some(on) = self.inner.lease.as_ref().map(Pool::for_scans) else { return Ok(0) };
        let statement = Statement::from_string(DbBackend::Postgres, foreign_rows());
        if FoundRow::find_by_statement(statement).one(&on).await?.is_none_or(|row| !row.found) {
            return Ok(0);
        }
        let adopted = adopt(&on).await?;
        if adopted > 0 {
            tracing::warn!(
                rows = adopted,
                "the database was copied from another server; its rows now carry transaction numbers of this server"
            );
        }
        Ok(adopted)
    }

    /// Replaces all connections: an open one may lead to a server that is no longer the primary.
    pub fn renew_connections(&self) {
        let Inner { writer, async_commit_pool, readers, engine_readers, lease, .. } = self.inner.as_ref();
        [writer, async_commit_pool, readers, engine_readers].into_iter().chain(lease).for_each(Pool::renew);
    }
}

/// Whether there is such a row, or a mark that only another server can have set.
fn foreign_rows() -> String {
    let any = NUMBERED.map(|table| format!("EXISTS (SELECT 1 FROM {table} WHERE {IS_FOREIGN})")).join(" OR ");
    format!("SELECT {any} OR EXISTS (SELECT 1 FROM engine_state WHERE {}) AS found", is_foreign_mark())
}

/// A mark is always set to a transaction that was over.
fn is_foreign_mark() -> String {
    format!("name = '{FORGOTTEN_TO}' AND value >= pg_snapshot_xmax(pg_current_snapshot())::text::int8")
}

async fn adopt(on: &Pool) -> Result<u64, DbErr> {
    let transaction = on.begin().await?;
    transaction.execute_unprepared(IN_TIME).await?;
    let turn = Statement::from_sql_and_values(DbBackend::Postgres, "SELECT pg_advisory_xact_lock($1)", [TURN.into()]);
    transaction.query_one_raw(turn).await?;
    let mut adopted = 0;
    for table in NUMBERED {
        let sql = format!("UPDATE {table} SET tx = pg_current_xact_id() WHERE {IS_FOREIGN}");
        adopted += transaction.execute_unprepared(&sql).await?.rows_affected();
    }
    // The server that was copied may have sent more than the copy knows.
    let in_doubt = format!(
        "UPDATE shard SET suspect_due_to = GREATEST(suspect_due_to, {NOW}), \
         suspect_events_to = GREATEST(suspect_events_to, COALESCE((SELECT MAX(seq) FROM event), 0))"
    );
    transaction.execute_unprepared(&in_doubt).await?;
    // Changes that were deleted on the other server were never there on this one.
    transaction.execute_unprepared(&format!("DELETE FROM engine_state WHERE {}", is_foreign_mark())).await?;
    transaction.commit().await?;
    Ok(adopted)
}
