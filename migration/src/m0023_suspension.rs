//! Suspension of webhooks, and operational events that are written together with the change that they report.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

// An operational event is deleted in the transaction in which it is published. `data` is a JSON object. `num` is its
// `sequence`.
const UP: &[&str] = &[
    "ALTER TABLE endpoint_health ADD COLUMN suspended_at BIGINT",
    "ALTER TABLE endpoint_health ADD COLUMN suspension_cause SMALLINT",
    "ALTER TABLE endpoint_health ADD COLUMN recovered_at BIGINT",
    "CREATE INDEX endpoint_suspended ON endpoint_health (suspended_at, webhook_num) WHERE suspended_at IS NOT NULL",
    "CREATE TABLE operational_event (\
        num {key}, \
        tenant_num BIGINT NOT NULL, \
        kind TEXT NOT NULL, \
        data TEXT NOT NULL, \
        at BIGINT NOT NULL)",
];

const DOWN: &[&str] = &[
    "DROP TABLE operational_event",
    "DROP INDEX endpoint_suspended",
    "ALTER TABLE endpoint_health DROP COLUMN recovered_at",
    "ALTER TABLE endpoint_health DROP COLUMN suspension_cause",
    "ALTER TABLE endpoint_health DROP COLUMN suspended_at",
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
