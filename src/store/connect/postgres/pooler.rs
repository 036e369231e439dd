//! Whether a pooler in between knows prepared statements. The driver prepares in one round trip and runs in the next, each
//! statement under a name of its connection's own; a pooler that hands each transaction to any session and takes no notice
//! of names mixes them up.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, RuntimeErr, Statement, TransactionTrait, sqlx};

use crate::store::OpenError;

/// `duplicate_prepared_statement` and `invalid_sql_statement_name`.
const MIXED_UP: [&str; 2] = ["42P05", "26000"];

/// Asks on two connections in turns, as it will be all the time, so that it goes wrong now if it ever does.
pub(super) async fn check(one: &DatabaseConnection, other: &DatabaseConnection) -> Result<(), DbErr> {
    let asked = || Statement::from_sql_and_values(DbBackend::Postgres, "SELECT $1::int8", [1i64.into()]);
    one.query_one_raw(asked()).await?;
    // Most likely in the session that has just become free; the first connection gets another one then.
    let transaction = other.begin().await?;
    transaction.query_one_raw(asked()).await?;
    one.query_one_raw(asked()).await?;
    transaction.commit().await
}

/// What such errors mean.
pub(super) fn explained(error: OpenError) -> OpenError {
    match error {
        OpenError::Database(error) if is_mixed_up(&error) => OpenError::Setting(
            "POSTHASTE_DATABASE_URL: leads to a pooler that mixes up prepared statements; expected PgBouncer 1.21 or newer \
             with max_prepared_statements at 256 or more, pool_mode = session, or the server itself"
                .to_owned(),
        ),
        other => other,
    }
}

fn is_mixed_up(error: &DbErr) -> bool {
    let (DbErr::Conn(error) | DbErr::Exec(error) | DbErr::Query(error)) = error else { return false };
    let RuntimeErr::SqlxError(error) = error else { return false };
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| MIXED_UP.contains(&code.as_ref()))
}
