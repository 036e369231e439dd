//! Checks whether a pooler in between supports prepared statements. The driver prepares a statement in one round trip
//! and runs it in the next, under a name that is unique only within its connection. A pooler that gives each
//! transaction to any session and does not track these names mixes them up.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, RuntimeErr, Statement, TransactionTrait, sqlx};

use crate::store::OpenError;

/// `duplicate_prepared_statement` and `invalid_sql_statement_name`.
const MIXED_UP: [&str; 2] = ["42P05", "26000"];

/// Alternates between two connections, as normal operation does, so that a pooler which mixes up names fails now.
pub(super) async fn check(one: &DatabaseConnection, other: &DatabaseConnection) -> Result<(), DbErr> {
    let asked = || Statement::from_sql_and_values(DbBackend::Postgres, "SELECT $1::int8", [1i64.into()]);
    one.query_one_raw(asked()).await?;
    // This transaction most likely gets the session that has just become free; the first connection then gets another
    // one.
    let transaction = other.begin().await?;
    transaction.query_one_raw(asked()).await?;
    one.query_one_raw(asked()).await?;
    transaction.commit().await
}

/// Turns errors about mixed-up statements into what to change.
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
