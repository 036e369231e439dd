//! The schema's history. A migration that has landed is never edited; new ones expand before they contract.

pub use sea_orm_migration::prelude::MigratorTrait;
use sea_orm_migration::prelude::{DbErr, MigrationTrait, async_trait};
use sea_orm_migration::sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, TransactionTrait,
};

mod dialect;
mod m0001_spine;
mod m0002_isolation;
mod m0003_nodes;
mod m0004_many_nodes;

/// Names the lock that processes which migrate one PostgreSQL database take in turns. Arbitrary, and never changed.
const TURN: i64 = 0x0070_6F73_7468_6173;

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
        ]
    }
}

/// Runs what the database has not seen; however many processes do so at once, each migration runs once.
pub async fn up(on: &DatabaseConnection) -> Result<(), DbErr> {
    match on.get_database_backend() {
        DbBackend::Postgres => {
            let turn = turn(on).await?;
            Migrator::up(&turn, None).await?;
            turn.commit().await
        }
        _ => Migrator::up(on, None).await,
    }
}

/// Undoes the newest `steps`.
pub async fn down(on: &DatabaseConnection, steps: u32) -> Result<(), DbErr> {
    match on.get_database_backend() {
        DbBackend::Postgres => {
            let turn = turn(on).await?;
            Migrator::down(&turn, Some(steps)).await?;
            turn.commit().await
        }
        _ => Migrator::down(on, Some(steps)).await,
    }
}

/// A transaction that nobody else has the like of; all or nothing of what it does stays.
async fn turn(on: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let turn = on.begin().await?;
    turn.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({TURN})")).await?;
    Ok(turn)
}
