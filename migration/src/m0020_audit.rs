//! Why something was changed, how much an action has changed, and the old and new values of a change.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

// Null in rows that an older version wrote.
const UP: &[&str] = &[
    "ALTER TABLE audit ADD COLUMN reason TEXT",
    "ALTER TABLE audit ADD COLUMN affected BIGINT",
    "ALTER TABLE audit ADD COLUMN changes TEXT",
];

const DOWN: &[&str] = &[
    "ALTER TABLE audit DROP COLUMN changes",
    "ALTER TABLE audit DROP COLUMN affected",
    "ALTER TABLE audit DROP COLUMN reason",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, DOWN).await
    }
}
