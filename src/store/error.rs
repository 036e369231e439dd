//! What the store could not do. Finding nothing is no error: lookups answer `Option`.

use sea_orm::{DbErr, RuntimeErr, SqlErr};

/// PostgreSQL's.
const DEADLOCK_DETECTED: &str = "40P01";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another row holds this unique value.
    #[error("already exists")]
    Exists,
    /// The row changed since the caller read it.
    #[error("changed meanwhile")]
    Stale,
    /// A stored value cannot be read: wrong master key, or a damaged row.
    #[error("cannot read stored {what}: {why}")]
    Unreadable { what: &'static str, why: String },
    /// The webhooks of one tenant have too many different TLS options.
    #[error("too many different TLS options")]
    TooManyTlsOptions,
    /// A server is at work on what must stand still.
    #[error("{0} is at work on this database; stop every server first")]
    InUse(String),
    /// Another transaction and this one waited for each other, and this one was chosen to give way.
    #[error("gave way to another transaction")]
    Deadlock,
    #[error("database: {0}")]
    Database(String),
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match error.sql_err() {
            Some(SqlErr::UniqueConstraintViolation(_)) => Self::Exists,
            _ if is_deadlock(&error) => Self::Deadlock,
            _ => Self::Database(error.to_string()),
        }
    }
}

impl StoreError {
    pub(super) fn unreadable(what: &'static str, why: impl ToString) -> Self {
        Self::Unreadable { what, why: why.to_string() }
    }
}

fn is_deadlock(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error else {
        return false;
    };
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == DEADLOCK_DETECTED)
}
