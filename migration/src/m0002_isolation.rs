//! Paused webhooks, and what an endpoint has learnt of its receiver.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &[&str] = &[
    // Null unless an operator has paused its deliveries.
    "ALTER TABLE webhook ADD COLUMN paused_at BIGINT",
    // A webhook without a row has seen no failure. `open_until` is null while the breaker is closed; `failing_since` is
    // the first failure after the last success.
    "CREATE TABLE endpoint_health (
        webhook_num BIGINT NOT NULL PRIMARY KEY,
        consecutive_failures BIGINT NOT NULL,
        openings SMALLINT NOT NULL,
        open_until BIGINT,
        opened_at BIGINT,
        last_failure SMALLINT,
        failing_since BIGINT,
        warned_at BIGINT
    ){clustered}",
];

const DOWN: &[&str] = &["DROP TABLE endpoint_health", "ALTER TABLE webhook DROP COLUMN paused_at"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, DOWN).await
    }
}
