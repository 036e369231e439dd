//! The schema's history. A migration that has landed is never edited. New migrations expand before they contract: they
//! leave what older versions read and write as it is, so that older versions can run beside a newer one and can be
//! started again. A migration that does not has [`CONTRACTS`] in its name.

use std::collections::BTreeSet;

pub use sea_orm_migration::prelude::MigratorTrait;
use sea_orm_migration::prelude::{DbErr, IntoSchemaManagerConnection, MigrationTrait, SchemaManager, async_trait};
use sea_orm_migration::sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, RuntimeErr, Statement, TransactionTrait,
};

mod dialect;
mod m0001_spine;
mod m0002_isolation;
mod m0003_nodes;
mod m0004_many_nodes;
mod m0005_access;
mod m0006_credentials;
mod m0007_sessions;
mod m0011_bound_credentials;
mod m0013_last_errors;
mod m0014_tls_digests;
mod m0015_trails;
mod m0016_ordered;
mod m0017_operations;
mod m0019_retention;
mod m0020_audit;
mod m0021_requests;
mod m0022_search;
mod m0023_suspension;
mod made;

/// Id of the advisory lock that processes take in turns to migrate one PostgreSQL database. Arbitrary, and never
/// changed.
const TURN: i64 = 0x0070_6F73_7468_6173;

/// Marks the name of a migration after which older versions no longer work.
pub const CONTRACTS: &str = "_contract_";

/// The table in which the library keeps the names of applied migrations.
const TABLE: &str = "seaql_migrations";

/// How often a migration is tried. Older nodes keep working beside it and lock the tables in an order of their own;
/// after a second PostgreSQL aborts one of two transactions that wait for each other. An aborted migration is tried
/// again.
const TRIES: usize = 20;
const DEADLOCK: &str = "40P01";

/// Runs every migration in order.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_spine::Migration),
            Box::new(m0002_isolation::Migration),
            Box::new(m0003_nodes::Migration),
            Box::new(m0004_many_nodes::Migration),
            Box::new(m0005_access::Migration),
            Box::new(m0006_credentials::Migration),
            Box::new(m0007_sessions::Migration),
            Box::new(m0011_bound_credentials::Migration),
            Box::new(m0013_last_errors::Migration),
            Box::new(m0014_tls_digests::Migration),
            Box::new(m0015_trails::Migration),
            Box::new(m0016_ordered::Migration),
            Box::new(m0017_operations::Migration),
            Box::new(m0019_retention::Migration),
            Box::new(m0020_audit::Migration),
            Box::new(m0021_requests::Migration),
            Box::new(m0022_search::Migration),
            Box::new(m0023_suspension::Migration),
        ]
    }
}

/// Why this version cannot work with a schema.
#[derive(Debug)]
pub enum SchemaError {
    /// Newer versions have changed what this version relies on, by these migrations.
    Newer(Vec<String>),
    Database(DbErr),
}

impl From<DbErr> for SchemaError {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

/// For tests: calls `check` before each statement of a migration from now on; its error ends the migration.
pub fn before_each_statement(check: fn() -> Result<(), DbErr>) {
    let _ = dialect::BEFORE_EACH.set(check);
}

/// Runs the migrations that the database has not seen, all of them or none. However many processes do so at once, each
/// migration runs once.
pub async fn up(on: &DatabaseConnection) -> Result<(), SchemaError> {
    match on.get_database_backend() {
        DbBackend::Postgres => {
            let mut tries = 1;
            loop {
                match run_in_turn(on).await {
                    Err(SchemaError::Database(error)) if is_deadlock(&error) && tries < TRIES => tries += 1,
                    done => return done,
                }
            }
        }
        _ => {
            let all = on.begin().await?;
            run(&all).await?;
            Ok(all.commit().await?)
        }
    }
}

async fn run_in_turn(on: &DatabaseConnection) -> Result<(), SchemaError> {
    let turn = turn(on).await?;
    run(&turn).await?;
    Ok(turn.commit().await?)
}

/// Whether PostgreSQL aborted this transaction to resolve a deadlock.
fn is_deadlock(error: &DbErr) -> bool {
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) = error else {
        return false;
    };
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == DEADLOCK)
}

/// Whether the database has seen every migration. Changes nothing.
pub async fn is_up_to_date(on: &DatabaseConnection) -> Result<bool, SchemaError> {
    let (seen, known) = (seen(on).await?, known());
    check(&seen, &known)?;
    Ok(known.is_subset(&seen))
}

/// How many migrations this database has seen.
pub async fn applied(on: &DatabaseConnection) -> Result<usize, DbErr> {
    Ok(seen(on).await?.len())
}

/// Migrations that this database has seen and this version does not know.
pub async fn unknown(on: &DatabaseConnection) -> Result<Vec<String>, DbErr> {
    Ok(seen(on).await?.difference(&known()).cloned().collect())
}

/// Undoes the newest `steps` migrations, all of them or none.
pub async fn down(on: &DatabaseConnection, steps: u32) -> Result<u32, SchemaError> {
    let applied = seen(on).await?;
    let newer: Vec<String> = applied.difference(&known()).cloned().collect();
    if !newer.is_empty() {
        return Err(SchemaError::Newer(newer));
    }
    match on.get_database_backend() {
        DbBackend::Postgres => {
            let turn = turn(on).await?;
            Migrator::down(&turn, Some(steps)).await?;
            turn.commit().await?;
        }
        _ => {
            let all = on.begin().await?;
            Migrator::down(&all, Some(steps)).await?;
            all.commit().await?;
        }
    }
    Ok(steps.min(u32::try_from(applied.len()).unwrap_or(u32::MAX)))
}

async fn run<'c, C>(on: &'c C) -> Result<(), SchemaError>
where
    C: ConnectionTrait,
    &'c C: IntoSchemaManagerConnection<'c>,
{
    let (seen, known) = (seen(on).await?, known());
    check(&seen, &known)?;
    // The library runs nothing if it finds names that it does not know.
    if !known.is_subset(&seen) {
        Migrator::up(on, None).await?;
    }
    Ok(())
}

fn known() -> BTreeSet<String> {
    Migrator::migrations().iter().map(|migration| migration.name().to_owned()).collect()
}

/// The names of the migrations that have run.
async fn seen<'c, C>(on: &'c C) -> Result<BTreeSet<String>, DbErr>
where
    C: ConnectionTrait,
    &'c C: IntoSchemaManagerConnection<'c>,
{
    if !SchemaManager::new(on).has_table(TABLE).await? {
        return Ok(BTreeSet::new());
    }
    let names = Statement::from_string(on.get_database_backend(), format!("SELECT version FROM {TABLE}"));
    on.query_all_raw(names).await?.iter().map(|row| row.try_get_by_index(0)).collect()
}

/// Fails only for migrations that contract: what newer versions have added does no harm.
fn check(seen: &BTreeSet<String>, known: &BTreeSet<String>) -> Result<(), SchemaError> {
    let contracted = seen.difference(known).filter(|name| name.contains(CONTRACTS));
    let contracted: Vec<String> = contracted.cloned().collect();
    if contracted.is_empty() { Ok(()) } else { Err(SchemaError::Newer(contracted)) }
}

/// Begins the transaction of a migration, one at a time for all processes.
async fn turn(on: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let turn = on.begin().await?;
    turn.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({TURN})")).await?;
    Ok(turn)
}
