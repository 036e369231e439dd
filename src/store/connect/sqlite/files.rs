//! The files of a SQLite database. Creates them for this user alone before SQLite would create them readable for all;
//! SQLite gives its log and index the mode of the database file. Explains file errors in terms of the setting that
//! names the file.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use sea_orm::sqlx::error::DatabaseError;
use sea_orm::{DbErr, RuntimeErr};

use crate::store::OpenError;

/// The first bytes of a SQLite file (SQLite, Database File Format, 1.3.1).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// `SQLITE_CORRUPT` and `SQLITE_NOTADB`.
const DAMAGED: [&str; 2] = ["11", "26"];

/// Files that hold the data, or the key to it.
const SUFFIXES: [&str; 2] = ["", "key"];

/// Opens a file for writing, and creates it for this user alone if it is missing.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Creates the file if it is missing. An existing file must be a database. Its mode is its owner's choice; a warning
/// says so if others may read it.
pub(super) fn prepare(path: &Path) -> Result<(), OpenError> {
    private().truncate(false).open(path).map_err(|error| refused(path, &error))?;
    let mut head = Vec::new();
    let file = File::open(path).map_err(|error| refused(path, &error))?;
    file.take(MAGIC.len() as u64).read_to_end(&mut head).map_err(|error| refused(path, &error))?;
    if !head.is_empty() && head != MAGIC {
        return Err(OpenError::Damaged { path: path.to_owned(), why: "it has no SQLite header".to_owned() });
    }
    for suffix in SUFFIXES {
        let path = if suffix.is_empty() { path.to_owned() } else { path.with_added_extension(suffix) };
        if others_may_read(&path) {
            let path = path.display();
            tracing::warn!(
                "{path} can be read by other users of this machine; it holds events and secrets: chmod 600 {path}"
            );
        }
    }
    Ok(())
}

#[cfg(unix)]
fn others_may_read(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o077 != 0)
}

#[cfg(not(unix))]
fn others_may_read(_: &Path) -> bool {
    false
}

/// Why the file that the setting names cannot be used.
pub(super) fn refused(path: &Path, error: &io::Error) -> OpenError {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let why = match error.kind() {
        ErrorKind::NotFound => {
            format!("there is no directory `{}`; make it, or name another file", directory.display())
        }
        ErrorKind::IsADirectory => "it is a directory; expected a file".to_owned(),
        _ => format!("{error}; expected a file that can be written, in a directory that can be written"),
    };
    let path = path.display();
    OpenError::Setting(format!(
        "POSTHASTE_DATABASE_URL (--database-url, database_url in the file): `sqlite://{path}` cannot be opened: {why}"
    ))
}

/// The file does not exist.
pub(super) fn missing(path: &Path) -> OpenError {
    let path = path.display();
    OpenError::Setting(format!(
        "POSTHASTE_DATABASE_URL (--database-url, database_url in the file): `sqlite://{path}`: there is no such file; \
         `posthaste migrate up` makes one"
    ))
}

/// Tells a damaged database from every other error.
pub(super) fn explained(path: &Path, error: DbErr) -> OpenError {
    let damage = match &error {
        DbErr::Conn(RuntimeErr::SqlxError(error))
        | DbErr::Exec(RuntimeErr::SqlxError(error))
        | DbErr::Query(RuntimeErr::SqlxError(error)) => error.as_database_error(),
        _ => None,
    };
    let damage = damage.filter(|error| error.code().is_some_and(|code| DAMAGED.contains(&code.as_ref())));
    match damage.map(DatabaseError::message) {
        Some(why) => OpenError::Damaged { path: path.to_owned(), why: why.to_owned() },
        None => error.into(),
    }
}
