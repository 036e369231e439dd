//! The schema's history. A migration that has landed is never edited; new ones expand before they contract.

pub use sea_orm_migration::prelude::MigratorTrait;
use sea_orm_migration::prelude::{MigrationTrait, async_trait};

mod dialect;
mod m0001_spine;
mod m0002_isolation;

/// Runs every migration in order.
#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_spine::Migration), Box::new(m0002_isolation::Migration)]
    }
}
