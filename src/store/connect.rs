//! Opens a database: makes sure that no other process does what only one may do, connects one writer and some readers,
//! and migrates. Called by `app` and by the CLI. Each database has its own module below.

mod postgres;
mod sqlite;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use entity::webhook_secret as secret;
use migration::SchemaError;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, EntityTrait, QueryOrder, QuerySelect};

use super::checkpoint::Checkpoints;
use super::event_cache::EventCache;
use super::pool::Pool;
use super::unreadable::Unreadable;
use super::{Inner, OpenError, Store, StoreError, state};
#[cfg(debug_assertions)]
use crate::fault;
use crate::secrets::{MasterKey, Seal};

pub use postgres::{CONNECTIONS, DEFAULT_CONNECTIONS};

/// Long enough to outlast a restart of the database, short enough to wait for after a crash.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(15);

/// How to open a database. SQLite ignores what is marked PostgreSQL.
#[derive(Clone)]
pub struct Options {
    /// `sqlite://path` or `postgres://user@host/database`
    pub url: String,
    /// 32 bytes. `None` with SQLite: `<path>.key` beside the file is read or created.
    pub master_key: Option<MasterKey>,
    /// Earlier master keys, which open what they sealed.
    pub previous_keys: Vec<MasterKey>,
    pub migrate: bool,
    /// PostgreSQL: the most connections that this process opens.
    pub connections: u32,
    /// PostgreSQL: URL of the connection that listens for notifications; `None`: the node does not listen.
    pub listen: Option<String>,
    /// PostgreSQL: how long this process may send after it last reached the database; then other nodes take its shards.
    pub lease: Duration,
    /// PostgreSQL: accept a server that may lose commits, or whose clock differs much.
    pub force_unsafe: bool,
    /// Whether sealed values must be readable. If not, a missing or wrong master key is no error.
    pub reads_secrets: bool,
}

impl Options {
    /// The default options, which include migrating.
    #[must_use]
    pub fn of(url: impl Into<String>) -> Self {
        let (connections, lease) = (DEFAULT_CONNECTIONS, DEFAULT_LEASE);
        let url = url.into();
        let listen = Some(url.clone());
        let (master_key, previous_keys) = (None, Vec::new());
        Self {
            url,
            master_key,
            previous_keys,
            migrate: true,
            connections,
            listen,
            lease,
            force_unsafe: false,
            reads_secrets: true,
        }
    }
}

/// What [`Store::contents`] found in a database.
#[derive(Debug, PartialEq, Eq)]
pub enum Contents {
    Nothing,
    /// The schema, with only the rows of a new one.
    Schema,
    /// Rows that must not be lost, or a running node; the text says which.
    Occupied(String),
}

/// What opening a database yields.
struct Connected {
    writer: DatabaseConnection,
    /// Writes what need not be on disk at once.
    async_commit_pool: DatabaseConnection,
    readers: DatabaseConnection,
    reader_connections: u32,
    engine_readers: DatabaseConnection,
    /// Reserved for the lease, so that nothing else delays its renewal.
    lease: Option<DatabaseConnection>,
    /// Checkpoints SQLite's write-ahead log.
    checkpoints: Option<Checkpoints>,
    /// The master key first, then earlier ones; none if sealed values need not be readable and there is none.
    master_keys: Vec<MasterKey>,
    /// Names the setting or file of the master key, for error messages.
    key_setting: String,
    lock: Option<std::fs::File>,
}

impl Store {
    /// Opens the database and, if the options say so, brings its schema up to date.
    pub async fn open(options: Options) -> Result<Self, OpenError> {
        let connected = match backend_of(&options.url)? {
            DbBackend::Postgres => Box::pin(postgres::open(&options)).await?,
            _ => sqlite::open(&options).await?,
        };
        let Connected {
            writer,
            async_commit_pool,
            readers,
            reader_connections,
            engine_readers,
            lease,
            checkpoints,
            master_keys,
            key_setting,
            lock,
        } = connected;
        let seal = Seal::new(&master_keys, state::seal_layout(&writer).await?);
        if options.reads_secrets && newest_secret(&writer).await?.is_some_and(|sealed| seal.is_foreign(&sealed)) {
            return Err(OpenError::WrongKey { setting: key_setting });
        }
        let pool = if lease.is_some() { Pool::limited } else { Pool::unlimited };
        let (writer, async_commit_pool, lease) = (pool(writer), pool(async_commit_pool), lease.map(pool));
        let (readers, engine_readers) = (pool(readers), pool(engine_readers));
        let (lease_for, listen) = (options.lease, options.listen);
        let (events, unreadable) = (EventCache::default(), Unreadable::default());
        let _lock = lock;
        let inner = Inner {
            writer,
            async_commit_pool,
            readers,
            reader_connections,
            engine_readers,
            lease,
            listen,
            lease_for,
            seal,
            events,
            unreadable,
            checkpoints,
            statements: OnceLock::new(),
            _lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What is in a PostgreSQL database. Changes nothing.
    pub async fn contents(options: &Options) -> Result<Contents, OpenError> {
        match backend_of(&options.url)? {
            DbBackend::Postgres => postgres::contents(options).await,
            _ => Ok(Contents::Occupied("this is no PostgreSQL database".to_owned())),
        }
    }

    /// Undoes the newest `steps` migrations of a database that no server uses. Undoes all of them only if `may_empty`.
    pub async fn migrate_down(options: &Options, steps: u32, may_empty: bool) -> Result<u32, OpenError> {
        match backend_of(&options.url)? {
            DbBackend::Postgres => postgres::down(options, steps, may_empty).await,
            _ => sqlite::down(&options.url, steps, may_empty).await,
        }
    }

    /// What the database reports about its own integrity, as far as it can be asked, and how many rows have lost their
    /// event; empty when sound.
    pub async fn integrity_problems(&self) -> Result<Vec<String>, StoreError> {
        let mut problems = match self.backend() {
            DbBackend::Postgres => postgres::problems(&self.readers().for_scans()).await?,
            _ => sqlite::problems(self.readers()).await?,
        };
        match self.orphan_problems().await {
            Ok(orphans) => problems.extend(orphans),
            Err(error) if problems.is_empty() => return Err(error),
            Err(error) => problems.push(error.to_string()),
        }
        Ok(problems)
    }
}

/// Which database a URL names.
/// The keys that open sealed values: without a master key, earlier ones are of no use.
fn with_previous(mut master_keys: Vec<MasterKey>, options: &Options) -> Vec<MasterKey> {
    if !master_keys.is_empty() {
        master_keys.extend(options.previous_keys.iter().cloned());
    }
    master_keys
}

fn backend_of(url: &str) -> Result<DbBackend, OpenError> {
    match url.split_once("://").map(|(scheme, _)| scheme) {
        Some("sqlite") => Ok(DbBackend::Sqlite),
        Some("postgres" | "postgresql") => Ok(DbBackend::Postgres),
        _ => Err(OpenError::Unsupported(without_secrets(url))),
    }
}

/// The part of a URL that may be shown: no user, no password, and no parameters, which may be a password, too. Shows
/// little if the password may reach beyond its usual place, because it contains a character that ends it.
fn without_secrets(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), url),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (hidden, shown) = match (rest.matches('@').count(), rest.split_once('@')) {
        (0, _) => ("", rest),
        (1, Some((_, shown))) if authority.contains('@') && scheme.is_empty() => ("", shown),
        (1, Some((_, shown))) if authority.contains('@') => ("…@", shown),
        _ => ("…", ""),
    };
    format!("{scheme}{hidden}{}", shown.split('?').next().unwrap_or_default())
}

impl Options {
    /// Where the database is, for the log.
    #[must_use]
    pub fn place(&self) -> String {
        without_secrets(&self.url)
    }
}

/// Lets a test end a migration between two of its statements.
#[cfg(test)]
pub(super) mod cut_short {
    use std::cell::Cell;

    use sea_orm::DbErr;

    thread_local! {
        /// Statements that may still run on this test's thread; other tests migrate at the same time.
        pub(in crate::store) static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    pub(super) fn count_down() -> Result<(), DbErr> {
        let left = LEFT.get().checked_sub(1).ok_or_else(|| DbErr::Custom("cut short".to_owned()))?;
        LEFT.set(left);
        Ok(())
    }
}

async fn ensure_schema(on: &DatabaseConnection, migrate: bool) -> Result<(), OpenError> {
    #[cfg(debug_assertions)]
    migration::before_each_statement(|| {
        fault::point("migration.statement");
        #[cfg(test)]
        cut_short::count_down()?;
        Ok(())
    });
    if migrate {
        return Ok(migration::up(on).await?);
    }
    if migration::is_up_to_date(on).await? { Ok(()) } else { Err(OpenError::NotMigrated) }
}

async fn migrate_down(on: &DatabaseConnection, steps: u32, may_empty: bool) -> Result<u32, OpenError> {
    let applied = u32::try_from(migration::applied(on).await?).unwrap_or(u32::MAX);
    if steps >= applied && !may_empty {
        return Err(OpenError::Setting(format!(
            "--steps: `{steps}` is not accepted: the database has {applied} migrations, and without the first one it holds \
             nothing any more; say so with --yes"
        )));
    }
    Ok(migration::down(on, steps).await?)
}

impl From<SchemaError> for OpenError {
    fn from(error: SchemaError) -> Self {
        match error {
            SchemaError::Newer(migrations) => Self::Newer(migrations.join(", ")),
            SchemaError::Database(error) => error.into(),
        }
    }
}

async fn newest_secret<C: ConnectionTrait>(on: &C) -> Result<Option<Vec<u8>>, DbErr> {
    let newest = secret::Entity::find().select_only().column(secret::Column::Sealed);
    newest.order_by_desc(secret::Column::Num).into_tuple().one(on).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shown_of_a_url_is_secret() {
        for (url, shown) in [
            ("mysql://me:secret@db/x", "mysql://…@db/x"),
            ("mysql://me:se@cret@db/x", "mysql://…"),
            ("mysql://me:cret?ss@db/x", "mysql://…"),
            ("mysql://me:c@ret?word@db", "mysql://…"),
            ("me:secret@db", "db"),
            ("redis://db/?password=secret", "redis://db/"),
            ("posthaste.db", "posthaste.db"),
        ] {
            let refused = backend_of(url).unwrap_err().to_string();
            assert!(refused.contains(&format!("`{shown}`")) && !refused.contains("cret"), "{refused}");
        }
    }
}
