//! Errors of the store. Finding nothing is no error: lookups return `Option`.

use std::borrow::Cow;
use std::fmt::Display;
use std::path::PathBuf;

use sea_orm::sqlx::Error as SqlxError;
use sea_orm::{DbErr, RuntimeErr, SqlErr};

use crate::secrets::{KeyFileError, SealError};

use super::unreadable::UnreadableRow;

/// PostgreSQL's code.
const DEADLOCK_DETECTED: &str = "40P01";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another row holds this unique value.
    #[error("already exists")]
    Exists,
    /// The row changed since the caller read it.
    #[error("changed meanwhile")]
    Stale,
    /// A stored value cannot be read: wrong master key, or a damaged row. `what`: the value's column, where it has one.
    #[error("cannot read stored {what}: {why}")]
    Unreadable { what: Cow<'static, str>, why: String, row: Option<UnreadableRow> },
    /// The webhooks of one tenant have too many different TLS options.
    #[error("too many different TLS options")]
    TooManyTlsOptions,
    /// A server uses a database that must stand still.
    #[error("{0} is at work on this database; stop every server first")]
    InUse(String),
    /// This transaction and another one waited for each other, and the database aborted this one.
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
            // The database has answered, and to ask again would not help.
            _ if is_of_a_value(&error) => of_a_value(&error),
            _ => Self::Database(error.to_string()),
        }
    }
}

impl From<SealError> for StoreError {
    fn from(error: SealError) -> Self {
        Self::unreadable(error.what(), error)
    }
}

impl StoreError {
    pub(crate) fn unreadable(what: impl Into<Cow<'static, str>>, why: impl ToString) -> Self {
        Self::Unreadable { what: what.into(), why: why.to_string(), row: None }
    }

    /// Names the row of a value that cannot be read. Any other error stays as it is.
    pub(super) fn in_row(self, table: &'static str, key: impl Display) -> Self {
        match self {
            Self::Unreadable { what, why, row: _ } => {
                let column = Some(what.clone()).filter(|what| what != ROW);
                let row = Some(UnreadableRow { table, key: key.to_string(), column });
                Self::Unreadable { what, why, row }
            }
            other => other,
        }
    }
}

/// Stands for the column of a value that cannot be read, if the error does not name one.
const ROW: &str = "row";

/// The error about a value that is not of its column's type.
fn of_a_value(error: &DbErr) -> StoreError {
    let DbErr::Query(RuntimeErr::SqlxError(error)) = error else { return StoreError::unreadable(ROW, error) };
    match error.as_ref() {
        SqlxError::ColumnDecode { index, source } => StoreError::unreadable(index.trim_matches('"').to_owned(), source),
        error => StoreError::unreadable(ROW, error),
    }
}

/// Whether a value is not of its column's type, which SQLite stores all the same.
fn is_of_a_value(error: &DbErr) -> bool {
    match error {
        DbErr::Type(_) | DbErr::TryIntoErr { .. } => true,
        DbErr::Query(RuntimeErr::SqlxError(error)) => {
            matches!(error.as_ref(), SqlxError::ColumnDecode { .. } | SqlxError::Decode(_))
        }
        _ => false,
    }
}

fn is_deadlock(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error else {
        return false;
    };
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == DEADLOCK_DETECTED)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_value_of_another_type_is_damage_and_no_trouble_of_the_database() {
        let of = |error| StoreError::from(DbErr::Query(RuntimeErr::SqlxError(Arc::new(error))));
        let damaged = of(SqlxError::ColumnDecode { index: "\"url\"".to_owned(), source: "not a text".into() });
        assert!(matches!(&damaged, StoreError::Unreadable { what, .. } if what == "url"), "{damaged:?}");
        let cut_off = of(SqlxError::PoolTimedOut);
        assert!(matches!(cut_off, StoreError::Database(_)), "{cut_off:?}");
    }

    #[test]
    fn a_sealed_value_that_does_not_open_is_an_unreadable_secret() {
        let refused = StoreError::from(SealError::ForeignKey);

        assert!(matches!(refused, StoreError::Unreadable { .. }), "{refused:?}");
        assert_eq!(refused.to_string(), "cannot read stored secret: it was sealed under another master key");
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("POSTHASTE_DATABASE_URL: `{0}` is not accepted; expected sqlite://path or postgres://user@host/database")]
    Unsupported(String),
    /// A setting that does not fit the database, or the reverse; says what is wrong and what would be accepted.
    #[error("{0}")]
    Setting(String),
    #[error("{path} is in use by another process; a SQLite database serves one posthaste at a time")]
    Locked { path: PathBuf },
    #[error("the database is served by another posthaste ({name}); stop that one first")]
    Served { name: String },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    #[error("{path} is damaged, or no SQLite database ({why}); restore a copy of it, or name another file")]
    Damaged { path: PathBuf, why: String },
    /// PostgreSQL does not answer, or answers with an unexpected error. `server`: host and port.
    #[error("PostgreSQL at {server}, which POSTHASTE_DATABASE_URL names, cannot be reached: {why}")]
    Unreachable { server: String, why: String },
    #[error("{setting} does not fit this database, whose secrets are sealed under another master key")]
    WrongKey { setting: String },
    #[error("database: {0}")]
    Database(#[from] DbErr),
    #[error("the database has migrations to run; run `posthaste migrate up`")]
    NotMigrated,
    /// Names the migrations that this version cannot work after, or does not know how to undo.
    #[error("the database was written by a newer posthaste: this version does not know {0}")]
    Newer(String),
}

impl OpenError {
    /// Whether a change of settings, of this process or of the database, resolves the error.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Unsupported(_) | Self::Setting(_) | Self::WrongKey { .. } => true,
            Self::KeyFile(error) => matches!(error, KeyFileError::Missing { .. }),
            Self::Locked { .. } | Self::Served { .. } | Self::File { .. } => false,
            Self::Damaged { .. } | Self::Unreachable { .. } => false,
            Self::Database(_) | Self::NotMigrated | Self::Newer(_) => false,
        }
    }
}
