//! What the store could not do. Finding nothing is no error: lookups answer `Option`.

use sea_orm::{DbErr, SqlErr};

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
    #[error("database: {0}")]
    Database(String),
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        match error.sql_err() {
            Some(SqlErr::UniqueConstraintViolation(_)) => Self::Exists,
            _ => Self::Database(error.to_string()),
        }
    }
}

impl StoreError {
    pub(super) fn unreadable(what: &'static str, why: impl ToString) -> Self {
        Self::Unreadable { what, why: why.to_string() }
    }
}
