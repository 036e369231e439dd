//! Sessions: keys that a browser holds for a while.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

// Digest of the key that opened a session; null for a key that is no session.
const UP: &[&str] = &[
    "ALTER TABLE api_key ADD COLUMN opened_by {bytes}",
    "CREATE INDEX api_key_by_opener ON api_key (opened_by, expires_at) WHERE opened_by IS NOT NULL",
];

const DOWN: &[&str] = &[
    "DELETE FROM api_key WHERE opened_by IS NOT NULL",
    "DROP INDEX api_key_by_opener",
    "ALTER TABLE api_key DROP COLUMN opened_by",
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
