//! SQLite: opens a file for one process, with one writer and some readers.

mod files;

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs4::FileExt;
use sea_orm::sqlx::{self, Connection, SqliteConnection};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, Statement};

use super::{Connected, Options, ensure_schema, migrate_down, without_secrets};
use crate::secrets::key_file;
use crate::store::OpenError;
use crate::store::checkpoint::Checkpoints;

/// Reads of the API at a time; more would only take turns on the same cores.
const READERS: u32 = 4;

/// Reads of the dispatcher, the due poller, and endpoints that start or read their due rows: all short.
const ENGINE_READERS: u32 = 3;

/// The writer's page cache. A batch touches the right edge of a few b-trees; the cache holds them with room to spare.
const WRITER_CACHE_KIB: u32 = 64 * 1024;

/// Prepared statements per connection: room for every size of every statement of the journal, and for the rest of the
/// store.
const PREPARED: usize = 1024;

/// Rows that may wait for their reader. When that many wait, SQLite's thread stops and must be woken again, which costs
/// more than the rows.
const ROWS_AHEAD: usize = 512;

/// Checkpoint the write-ahead log at 16 MiB instead of 4 MiB: fewer, larger checkpoints.
const CHECKPOINT_PAGES: u32 = 4096;

pub(super) async fn open(options: &Options) -> Result<Connected, OpenError> {
    let path = file_of(&options.url)?;
    if !options.migrate && !path.exists() {
        return Err(files::missing(&path));
    }
    let is_new = path.metadata().map_or(true, |file| file.len() == 0);
    let lock = lock(&path)?;
    files::prepare(&path)?;
    let (master_keys, key_setting) = match options.master_key.clone() {
        Some(key) => (vec![key], "POSTHASTE_MASTER_KEY".to_owned()),
        None if options.reads_secrets || key_file::path_of(&path).exists() => {
            let keys = match key_file::read_or_create(&path, is_new) {
                Err(error) if !options.reads_secrets => {
                    tracing::warn!(%error, "key file not read; sealed values stay closed");
                    Vec::new()
                }
                keys => keys?,
            };
            (keys, key_file::path_of(&path).display().to_string())
        }
        None => (Vec::new(), String::new()),
    };
    let master_keys = super::with_previous(master_keys, options);
    // The writer is the first to open the file. A new one gets what it needs to give free pages back; in a file that has
    // tables already, the pragma changes nothing.
    let pragmas = [("cache_size", format!("-{WRITER_CACHE_KIB}")), ("auto_vacuum", "INCREMENTAL".to_owned())];
    let writer = connect(&path, 1, &pragmas).await;
    let writer = writer.map_err(|error| files::explained(&path, error))?;
    ensure_schema(&writer, options.migrate).await?;
    let async_commit_pool = connect(&path, 1, &[("synchronous", "NORMAL".to_owned())]).await?;
    let query_only = [("query_only", "1".to_owned())];
    let readers = connect(&path, READERS, &query_only).await?;
    let engine_readers = connect(&path, ENGINE_READERS, &query_only).await?;
    let checkpoints = Some(Checkpoints::start(connect(&path, 1, &[]).await?));
    let lock = Some(lock);
    let lease = None;
    Ok(Connected {
        writer,
        async_commit_pool,
        readers,
        reader_connections: READERS,
        engine_readers,
        lease,
        checkpoints,
        master_keys,
        key_setting,
        lock,
    })
}

/// Undoes the newest `steps` migrations of a file that nothing else has open.
pub(super) async fn down(url: &str, steps: u32, may_empty: bool) -> Result<u32, OpenError> {
    let path = file_of(url)?;
    let _lock = lock(&path)?;
    let writer = connect(&path, 1, &[]).await?;
    let undone = migrate_down(&writer, steps, may_empty).await?;
    writer.close().await?;
    Ok(undone)
}

/// The path with symbolic links resolved.
fn real(path: &Path) -> std::io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let directory = directory.canonicalize()?;
            Ok(path.file_name().map_or(directory.clone(), |name| directory.join(name)))
        }
        real => real,
    }
}

#[cfg(unix)]
fn has_other_names(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| std::os::unix::fs::MetadataExt::nlink(&file) > 1)
}

#[cfg(not(unix))]
fn has_other_names(_: &Path) -> bool {
    false
}

/// What SQLite reports about the file's integrity; empty when sound.
pub(super) async fn problems<C: ConnectionTrait>(on: &C) -> Result<Vec<String>, DbErr> {
    let statement = Statement::from_string(DbBackend::Sqlite, "PRAGMA integrity_check");
    let rows = on.query_all_raw(statement).await?;
    let lines: Result<Vec<String>, DbErr> = rows.iter().map(|row| row.try_get_by_index(0)).collect();
    Ok(lines?.into_iter().filter(|line| line != "ok").collect())
}

fn file_of(url: &str) -> Result<PathBuf, OpenError> {
    let path = url.strip_prefix("sqlite://").unwrap_or_default();
    if path.is_empty() || path.starts_with(':') || path.contains('?') {
        return Err(OpenError::Unsupported(without_secrets(url)));
    }
    Ok(PathBuf::from(path))
}

/// Locks the file for this process. SQLite's own locks last for one transaction; two engines would each believe that
/// they own every webhook. The lock is the same whatever path names the file.
fn lock(path: &Path) -> Result<File, OpenError> {
    let lock_path = real(path).map_err(|error| files::refused(path, &error))?.with_added_extension("lock");
    if path.is_dir() {
        return Err(files::refused(path, &ErrorKind::IsADirectory.into()));
    }
    if has_other_names(path) {
        let path = path.display();
        return Err(OpenError::Setting(format!("{path} has several names (hard links), with which SQLite damages it")));
    }
    let file = files::private().truncate(false).open(&lock_path).map_err(|error| files::refused(path, &error))?;
    match FileExt::try_lock(&file) {
        Ok(()) => Ok(file),
        Err(_) => Err(OpenError::Locked { path: path.to_owned() }),
    }
}

/// Whether a connection that returns to the pool has no open transaction. When the disk is full, SQLite rolls back by
/// itself while the driver keeps counting: every later transaction would be part of one that nothing commits.
async fn has_ended(connection: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if connection.is_in_transaction() {
        // A rollback may still be queued.
        connection.ping().await?;
    }
    Ok(!connection.is_in_transaction())
}

async fn connect(
    path: &Path,
    connections: u32,
    pragmas: &[(&'static str, String)],
) -> Result<DatabaseConnection, DbErr> {
    let pragmas = pragmas.to_vec();
    let path = path.to_owned();
    let mut options = ConnectOptions::new("sqlite::memory:");
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(30))
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .sqlx_logging(false)
        .map_sqlx_sqlite_pool_opts(|pool| pool.after_release(|connection, _| Box::pin(has_ended(connection))))
        .map_sqlx_sqlite_opts(move |connection| {
            let connection = connection
                .in_memory(false)
                .shared_cache(false)
                .filename(&path)
                .create_if_missing(true)
                .busy_timeout(Duration::from_secs(10))
                .statement_cache_capacity(PREPARED)
                .row_buffer_size(ROWS_AHEAD)
                .pragma("journal_mode", "WAL")
                .pragma("synchronous", "FULL")
                // A statement of many rows keeps copies of pages until it ends; the copies need no file.
                .pragma("temp_store", "MEMORY")
                .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
                .pragma("journal_size_limit", (u64::from(CHECKPOINT_PAGES) * 4096).to_string());
            pragmas.iter().fold(connection, |connection, (name, value)| connection.pragma(*name, value.clone()))
        });
    Database::connect(options).await
}
