//! The last failure and the last success of each endpoint.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

// Null in rows that an older version wrote.
const UP: &[&str] = &[
    "ALTER TABLE endpoint_health ADD COLUMN last_error_at BIGINT",
    "ALTER TABLE endpoint_health ADD COLUMN last_error_outcome SMALLINT",
    "ALTER TABLE endpoint_health ADD COLUMN last_error_status SMALLINT",
    "ALTER TABLE endpoint_health ADD COLUMN last_error_text TEXT",
    "ALTER TABLE endpoint_health ADD COLUMN last_error_event BIGINT",
    "ALTER TABLE endpoint_health ADD COLUMN last_success_at BIGINT",
];

const DOWN: &[&str] = &[
    "ALTER TABLE endpoint_health DROP COLUMN last_success_at",
    "ALTER TABLE endpoint_health DROP COLUMN last_error_event",
    "ALTER TABLE endpoint_health DROP COLUMN last_error_text",
    "ALTER TABLE endpoint_health DROP COLUMN last_error_status",
    "ALTER TABLE endpoint_health DROP COLUMN last_error_outcome",
    "ALTER TABLE endpoint_health DROP COLUMN last_error_at",
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
