//! Opens a database: locks the file, connects one writer and some readers, migrates.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use entity::webhook_secret as secret;
use fs4::FileExt;
use migration::{Migrator, MigratorTrait as _};
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, EntityTrait, QueryOrder, QuerySelect,
};

use tokio_util::task::AbortOnDropHandle;

use super::payload::Events;
use super::seal::{MasterKey, Seal};
use super::{Inner, Store, checkpoint};

/// Lists and logs that the API reads at a time; more would only take turns on the same cores.
const READERS: u32 = 4;

/// The dispatcher, the waker, and endpoints that start or read their due rows: all short.
const ENGINE_READERS: u32 = 3;

/// The writer's page cache. A batch touches the right edge of a few b-trees; this holds them with room to spare.
const WRITER_CACHE_KIB: u32 = 64 * 1024;

/// Room for every size of every statement of the journal, and for what the rest of the store asks.
const PREPARED: usize = 1024;

/// Rows that may wait for whoever reads them. SQLite's thread stops and is woken again whenever that many do, which costs
/// more than the rows.
const ROWS_AHEAD: usize = 512;

/// Fold the write-ahead log back at 16 MiB instead of 4 MiB: fewer, larger checkpoints.
const CHECKPOINT_PAGES: u32 = 4096;

#[derive(Debug, Clone)]
pub struct Options {
    /// `sqlite://path`
    pub url: String,
    /// 32 bytes; `None` reads or creates `<path>.key` beside the file.
    pub master_key: Option<MasterKey>,
    pub migrate: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("`{0}` is not a database that this version can open; use sqlite://path")]
    Unsupported(String),
    #[error("{path} is in use by another process; a SQLite database serves one posthaste at a time")]
    Locked { path: PathBuf },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{path}: {why}; expected 32 bytes in base64")]
    MasterKey { path: PathBuf, why: String },
    #[error("{setting} does not fit this database, whose secrets are sealed under another master key")]
    WrongKey { setting: String },
    #[error("database: {0}")]
    Database(#[from] DbErr),
    #[error("the database has migrations to run; run `posthaste migrate up`")]
    NotMigrated,
    #[error("the database was written by a newer posthaste: {0}")]
    Newer(String),
}

impl Store {
    /// Opens the database and, if asked to, brings its schema up to date.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let path = file_of(&options.url)?;
        if !options.migrate && !path.exists() {
            return Err(OpenError::NotMigrated);
        }
        let lock = lock(&path)?;
        let (master_key, setting) = match options.master_key {
            Some(key) => (key, "POSTHASTE_MASTER_KEY".to_owned()),
            None => (MasterKey::beside(&path)?, with_suffix(&path, "key").display().to_string()),
        };
        let seal = Seal::new(&master_key);
        let writer = connect(&path, 1, &[("cache_size", format!("-{WRITER_CACHE_KIB}"))]).await?;
        prepare(&writer, options.migrate).await?;
        if newest_secret(&writer).await?.is_some_and(|sealed| seal.is_foreign(&sealed)) {
            return Err(OpenError::WrongKey { setting });
        }
        let query_only = [("query_only", "1".to_owned())];
        let readers = connect(&path, READERS, &query_only).await?;
        let engine_readers = connect(&path, ENGINE_READERS, &query_only).await?;
        let checkpoints = connect(&path, 1, &[]).await?;
        let checkpoints = AbortOnDropHandle::new(tokio::spawn(checkpoint::run(checkpoints)));
        let inner =
            Inner { writer, readers, engine_readers, seal, events: Events::default(), checkpoints, _lock: Some(lock) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Undoes the newest `steps` migrations of a database that nothing else has open.
    pub async fn migrate_down(url: &str, steps: u32) -> Result<(), OpenError> {
        let path = file_of(url)?;
        let _lock = lock(&path)?;
        let writer = connect(&path, 1, &[]).await?;
        Migrator::down(&writer, Some(steps)).await?;
        writer.close().await?;
        Ok(())
    }

    /// What the database says of its own soundness; empty when sound.
    pub async fn integrity_problems(&self) -> Result<Vec<String>, OpenError> {
        let statement = sea_orm::Statement::from_string(sea_orm::DbBackend::Sqlite, "PRAGMA integrity_check");
        let rows = self.readers().query_all_raw(statement).await?;
        let lines: Result<Vec<String>, DbErr> = rows.iter().map(|row| row.try_get_by_index(0)).collect();
        Ok(lines?.into_iter().filter(|line| line != "ok").collect())
    }
}

fn file_of(url: &str) -> Result<PathBuf, OpenError> {
    let path = url.strip_prefix("sqlite://").unwrap_or_default();
    if path.is_empty() || path.starts_with(':') || path.contains('?') {
        return Err(OpenError::Unsupported(url.split('@').next_back().unwrap_or_default().to_owned()));
    }
    Ok(PathBuf::from(path))
}

/// SQLite's own locks are per transaction; two engines would each believe that they own every webhook.
fn lock(path: &Path) -> Result<File, OpenError> {
    let lock_path = with_suffix(path, "lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .map_err(|source| OpenError::File { path: lock_path, source })?;
    match FileExt::try_lock(&file) {
        Ok(()) => Ok(file),
        Err(_) => Err(OpenError::Locked { path: path.to_owned() }),
    }
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
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
                // A statement of many rows keeps copies of pages until it ends; they need not go through a file.
                .pragma("temp_store", "MEMORY")
                .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
                .pragma("journal_size_limit", (u64::from(CHECKPOINT_PAGES) * 4096).to_string());
            pragmas.iter().fold(connection, |connection, (name, value)| connection.pragma(*name, value.clone()))
        });
    Database::connect(options).await
}

async fn prepare(writer: &DatabaseConnection, migrate: bool) -> Result<(), OpenError> {
    let known: Vec<String> = Migrator::migrations().iter().map(|m| m.name().to_owned()).collect();
    if migrate {
        return Migrator::up(writer, None).await.map_err(|error| match error {
            DbErr::Custom(text) if text.contains("missing") => OpenError::Newer(text),
            other => other.into(),
        });
    }
    let applied = Migrator::get_applied_migrations(writer).await.map_err(|_| OpenError::NotMigrated)?;
    if applied.len() < known.len() { Err(OpenError::NotMigrated) } else { Ok(()) }
}

async fn newest_secret(on: &DatabaseConnection) -> Result<Option<Vec<u8>>, DbErr> {
    let newest = secret::Entity::find().select_only().column(secret::Column::Sealed);
    newest.order_by_desc(secret::Column::Num).into_tuple().one(on).await
}
