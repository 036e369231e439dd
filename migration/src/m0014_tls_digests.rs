//! Digests of TLS options, by which a tenant's different ones are counted.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

// Null for most webhooks, and for those that were saved before.
const UP: &[&str] = &[
    "ALTER TABLE webhook ADD COLUMN tls_digest {bytes}",
    "CREATE INDEX webhook_by_tls ON webhook (tenant_num, tls_digest) WHERE tls_digest IS NOT NULL AND deleted_at IS NULL",
];

const DOWN: &[&str] = &["DROP INDEX webhook_by_tls", "ALTER TABLE webhook DROP COLUMN tls_digest"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, DOWN).await
    }
}
