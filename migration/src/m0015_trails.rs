//! The trail of an event: the engines that it has come through.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

// Names of engines, separated by commas; null for an event that no other engine published.
const UP: &[&str] = &["ALTER TABLE event ADD COLUMN trail TEXT"];

const DOWN: &[&str] = &["ALTER TABLE event DROP COLUMN trail"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, DOWN).await
    }
}
