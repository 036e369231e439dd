//! Credentials of a webhook for its receiver.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

// TLS options and authentication, sealed; null for most.
const UP: &[&str] = &["ALTER TABLE webhook ADD COLUMN credentials {bytes}"];

const DOWN: &[&str] = &["ALTER TABLE webhook DROP COLUMN credentials"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, DOWN).await
    }
}
