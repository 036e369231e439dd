//! What an attempt called: URL, address, and the headers that were sent.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

// JSON; null for an attempt of an older version, and once the answer to the attempt was cleared.
const UP: &[&str] = &["ALTER TABLE attempt ADD COLUMN request TEXT"];

const DOWN: &[&str] = &["ALTER TABLE attempt DROP COLUMN request"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, DOWN).await
    }
}
