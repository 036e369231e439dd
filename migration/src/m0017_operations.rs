//! Operations: work on many deliveries that a person asks for at once, with its items, one for each delivery.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

// `selection` is JSON: which deliveries were asked for. `kind` and `state`: see `domain/operation`.
// `operation_item.attempt` is the number of the attempt that was asked for, and null before. `delivery.operation` is the
// operation that made the delivery, asked for its latest replay, or cancelled it; an older version does not know the
// column and makes the attempt as if a person had asked.
const UP: &[&str] = &[
    "CREATE TABLE operation (\
        num {key}, \
        id {bytes} NOT NULL UNIQUE, \
        tenant_num BIGINT NOT NULL, \
        kind SMALLINT NOT NULL, \
        state SMALLINT NOT NULL, \
        selection TEXT NOT NULL, \
        rate_per_second INTEGER NOT NULL, \
        matched BIGINT NOT NULL, \
        success BIGINT NOT NULL, \
        failed BIGINT NOT NULL, \
        skipped BIGINT NOT NULL, \
        error TEXT, \
        created_by TEXT NOT NULL, \
        created_at BIGINT NOT NULL, \
        started_at BIGINT, \
        finished_at BIGINT)",
    "CREATE INDEX operation_by_tenant ON operation (tenant_num, num)",
    "CREATE INDEX operation_open ON operation (num) WHERE finished_at IS NULL",
    "CREATE TABLE operation_item (\
        operation BIGINT NOT NULL, \
        webhook_num BIGINT NOT NULL, \
        event_seq BIGINT NOT NULL, \
        state SMALLINT NOT NULL, \
        attempt SMALLINT, \
        PRIMARY KEY (operation, webhook_num, event_seq)){clustered}",
    "CREATE INDEX operation_item_to_do ON operation_item (operation, webhook_num, event_seq) WHERE state = 0",
    "CREATE INDEX operation_item_asked_for ON operation_item (operation, webhook_num, event_seq) \
        WHERE state = 0 AND attempt IS NOT NULL",
    "CREATE INDEX operation_item_by_event ON operation_item (event_seq) WHERE state = 0",
    "ALTER TABLE delivery ADD COLUMN operation BIGINT",
];

const DOWN: &[&str] =
    &["ALTER TABLE delivery DROP COLUMN operation", "DROP TABLE operation_item", "DROP TABLE operation"];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, DOWN).await
    }
}
