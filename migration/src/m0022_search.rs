//! Indexes for the list of webhooks by name and by trouble.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &[&str] = &[
    "CREATE INDEX webhook_by_name ON webhook (tenant_num, name, num) WHERE deleted_at IS NULL",
    "CREATE INDEX endpoint_failing ON endpoint_health (failing_since, webhook_num) WHERE failing_since IS NOT NULL",
];

const DOWN: &[&str] = &["DROP INDEX endpoint_failing", "DROP INDEX webhook_by_name"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, DOWN).await
    }
}
