//! PostgreSQL: opens a server that several processes may share. Only `LISTEN`, which may have a URL of its own, relies
//! on session state. So a pooler may run each transaction in another session.

mod checks;
mod contents;
mod pooler;
mod reach;

use std::ops::RangeInclusive;
use std::time::Duration;

use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbBackend, DbErr, Statement};
use url::Url;

use crate::store::leases;

use super::{Connected, Contents, Options, ensure_schema, migrate_down, without_secrets};
use crate::store::OpenError;

/// One connection writes, one writes with asynchronous commit, two keep the lease, and each kind of reader needs at
/// least one.
pub const CONNECTIONS: RangeInclusive<u32> = 6..=200;

/// Reads are short: more of them at once than a small server has cores would only take turns.
pub const DEFAULT_CONNECTIONS: u32 = 12;

const WRITER: u32 = 1;

const ASYNC_COMMIT: u32 = 1;

/// Two connections, so that one which hangs does not keep the lease from being renewed.
const LEASE: u32 = 2;

/// How long a caller waits for a connection. Then it gets an error, as publishers do when the server is away.
const ACQUIRE: Duration = Duration::from_secs(5);

/// A connection that was idle for this long is tested before use. In a busy process no connection is idle that long.
const TESTED_AFTER_IDLE: Duration = Duration::from_secs(1);

/// A connection is replaced after this time, so that the process follows a switch to another server.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Prepared statements per connection: room for every statement of the journal and of the rest of the store. A pooler
/// must keep as many.
const PREPARED: usize = 256;

/// Accepted URL parameters. Any other is more likely a mistake than meant to be ignored.
const PARAMETERS: [&str; 13] = [
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// Accepted values of `sslmode`.
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Prefix of the driver's errors about a URL, which may repeat.
const DRIVER_SAYS: &str = "error with configuration: ";

pub(super) async fn open(options: &Options) -> Result<Connected, OpenError> {
    connected(options).await.map_err(pooler::explained)
}

async fn connected(options: &Options) -> Result<Connected, OpenError> {
    let url = checked(&options.url)?;
    if options.master_key.is_none() && options.reads_secrets {
        let why = "POSTHASTE_MASTER_KEY: not set; with PostgreSQL expected 32 bytes in base64, the same for every \
                   process that uses the database (head -c 32 /dev/urandom | base64)";
        return Err(OpenError::Setting(why.to_owned()));
    }
    reach::once(&url).await?;
    let writer = connect(&url, WRITER).await?;
    checks::run(&writer, options.force_unsafe).await?;
    let async_commit_pool = connect(&url, ASYNC_COMMIT).await?;
    pooler::check(&writer, &async_commit_pool).await?;
    ensure_schema(&writer, options.migrate).await?;
    let (readers, engine_readers) = shares(options.connections);
    Ok(Connected {
        writer,
        async_commit_pool,
        readers: connect(&url, readers).await?,
        reader_connections: readers,
        engine_readers: connect(&url, engine_readers).await?,
        lease: Some(connect(&url, LEASE).await?),
        checkpoints: None,
        master_keys: super::with_previous(options.master_key.clone().into_iter().collect(), options),
        key_setting: "POSTHASTE_MASTER_KEY".to_owned(),
        lock: None,
    })
}

pub(super) async fn down(options: &Options, steps: u32, may_empty: bool) -> Result<u32, OpenError> {
    let url = checked(&options.url)?;
    reach::once(&url).await?;
    let writer = connect(&url, WRITER).await?;
    if let Some(name) = leases::anybody(&writer).await? {
        return Err(OpenError::Served { name });
    }
    let undone = migrate_down(&writer, steps, may_empty).await?;
    writer.close().await?;
    Ok(undone)
}

/// What is in the database. Changes nothing.
pub(super) async fn contents(options: &Options) -> Result<Contents, OpenError> {
    let url = checked(&options.url)?;
    reach::once(&url).await?;
    let writer = connect(&url, WRITER).await?;
    let contents = contents::of(&writer).await.map_err(pooler::explained)?;
    writer.close().await?;
    Ok(contents)
}

/// Connections for readers of the API and for readers of the engine.
fn shares(connections: u32) -> (u32, u32) {
    let rest = connections.max(*CONNECTIONS.start()) - WRITER - ASYNC_COMMIT - LEASE;
    (rest / 2, rest - rest / 2)
}

/// Checks the URL. Errors show only the part of it that is not secret.
fn checked(url: &str) -> Result<String, OpenError> {
    let refused = |why: String| {
        let shown = without_secrets(url);
        OpenError::Setting(format!("POSTHASTE_DATABASE_URL: `{shown}` is not accepted: {why}"))
    };
    let parsed = Url::parse(url).map_err(|error| refused(error.to_string()))?;
    if let Some((name, _)) = parsed.query_pairs().find(|(name, _)| !PARAMETERS.contains(&name.as_ref())) {
        // Text that does not look like a parameter name may be part of a password.
        let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_-".contains(&byte));
        let name = if is_name { format!("`{name}`") } else { "that is not shown".to_owned() };
        return Err(refused(format!("unknown parameter {name}; known are {}", PARAMETERS.join(", "))));
    }
    if parsed.query_pairs().any(|(name, value)| name == "statement-cache-capacity" && value.parse() == Ok(0)) {
        let why = "statement-cache-capacity=0 would leave every statement behind on the server; expected 1 or more";
        return Err(refused(why.to_owned()));
    }
    let is_mode = |mode: &str| SSL_MODES.iter().any(|known| known.eq_ignore_ascii_case(mode));
    if parsed.query_pairs().any(|(name, value)| name == "sslmode" && !is_mode(&value)) {
        return Err(refused(format!("unknown sslmode; expected one of {}", SSL_MODES.join(", "))));
    }
    let of_driver = |error: sea_orm::sqlx::Error| refused(error.to_string().trim_start_matches(DRIVER_SAYS).to_owned());
    url.parse::<PgConnectOptions>().map_err(of_driver)?;
    Ok(url.to_owned())
}

/// Sets the start-up parameters that a connection sends.
fn introduced(connection: PgConnectOptions) -> PgConnectOptions {
    // Poolers refuse start-up parameters that they do not know. The store has no floats, so this one is not needed.
    let connection = connection.extra_float_digits(None);
    match connection.get_application_name() {
        Some(_) => connection,
        None => connection.application_name("posthaste"),
    }
}

async fn connect(url: &str, connections: u32) -> Result<DatabaseConnection, DbErr> {
    let caches = !url.contains("statement-cache-capacity");
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        // With a minimum, the pool's own task would occupy a slot of the pool while it waits for a silent server.
        .min_connections(0)
        .connect_timeout(ACQUIRE)
        .acquire_timeout(ACQUIRE)
        .max_lifetime(LIFETIME)
        .test_before_acquire_if_idle_for(TESTED_AFTER_IDLE)
        .sqlx_logging(false)
        .map_sqlx_postgres_opts(move |connection| {
            let connection = introduced(connection);
            if caches { connection.statement_cache_capacity(PREPARED) } else { connection }
        });
    Database::connect(options).await
}

/// What a running server reports without extra privileges: pages that failed their checksum, and unusable indexes.
pub(super) async fn problems<C: ConnectionTrait>(on: &C) -> Result<Vec<String>, DbErr> {
    let mut problems = Vec::new();
    for (what, sql) in [
        (
            "pages that failed their checksum",
            "SELECT COALESCE(checksum_failures, 0) FROM pg_stat_database WHERE datname = current_database()",
        ),
        ("invalid indexes", "SELECT COUNT(*) FROM pg_index WHERE NOT indisvalid"),
    ] {
        let row = on.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await?;
        let found: i64 = row.map(|row| row.try_get_by_index(0)).transpose()?.unwrap_or(0);
        if found > 0 {
            problems.push(format!("{found} {what}"));
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pool_has_connections_and_none_too_many_in_all() {
        for connections in CONNECTIONS {
            let (readers, engine_readers) = shares(connections);
            assert!(readers > 0 && engine_readers > 0);
            assert_eq!(readers + engine_readers + WRITER + ASYNC_COMMIT + LEASE, connections);
        }
    }

    #[test]
    fn a_url_with_a_mistake_is_refused_without_showing_it() {
        for (url, why) in [
            ("postgres://me:hidden@db/x?ssl_mode=hidden", "unknown parameter `ssl_mode`"),
            ("postgres://me:hidden@db:port/x", "invalid port"),
            (
                "postgres://me:hidden@db/x?sslmode=hidden%20",
                "expected one of disable, allow, prefer, require, verify-ca",
            ),
            ("postgres://me:hidden@db/x?statement-cache-capacity=0", "would leave every statement behind"),
        ] {
            let refused = checked(url).unwrap_err().to_string();
            assert!(refused.starts_with("POSTHASTE_DATABASE_URL: `postgres://…@db"), "{refused}");
            assert!(refused.contains(why) && !refused.contains("me:hidden"), "{refused}");
        }
        checked("postgres://me:hidden@db/x?sslmode=verify-full").unwrap();
    }

    #[test]
    fn no_part_of_a_password_is_taken_for_the_name_of_a_parameter() {
        for url in ["postgres://me:12?Geheim@db/x", "postgres://me:12?34@db/x"] {
            let refused = checked(url).unwrap_err().to_string();
            assert!(!refused.contains("Geheim") && !refused.contains("34"), "{refused}");
        }
        let refused = checked("postgres://me@db/x?sslmod=require").unwrap_err().to_string();
        assert!(refused.contains("unknown parameter `sslmod`"), "{refused}");
    }
}
