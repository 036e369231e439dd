//! How long a tenant's events are kept, when the payload of an event was erased, and how PostgreSQL vacuums tables whose
//! oldest rows are deleted all the time.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};
use sea_orm_migration::sea_orm::DbBackend;

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &[&str] = &[
    // In seconds; null for the setting of the engine. The index finds the few tenants that have one of their own.
    "ALTER TABLE tenant ADD COLUMN retention_events BIGINT",
    "ALTER TABLE tenant ADD COLUMN retention_responses BIGINT",
    "CREATE INDEX tenant_with_retention ON tenant (num) \
     WHERE retention_events IS NOT NULL OR retention_responses IS NOT NULL",
    // Null for an event whose payload is there. The body of an erased one is empty.
    "ALTER TABLE event ADD COLUMN erased_at BIGINT",
];

/// Tables that grow at one end and are deleted from at the other. By default a fifth of a table has to be dead before it
/// is vacuumed, which is a fifth of its size in bloat; these settings keep it at a fiftieth.
const SHRINKING: [&str; 7] =
    ["event", "event_caller_id", "delivery", "attempt", "delivery_log", "audit", "idempotency"];

const VACUUM: &str = "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000";
const NO_VACUUM: &str = "autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold";

const DOWN: &[&str] = &[
    "ALTER TABLE event DROP COLUMN erased_at",
    "DROP INDEX tenant_with_retention",
    "ALTER TABLE tenant DROP COLUMN retention_responses",
    "ALTER TABLE tenant DROP COLUMN retention_events",
];

async fn set_all(manager: &SchemaManager<'_>, what: &str) -> Result<(), DbErr> {
    if manager.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    for table in SHRINKING {
        run(manager, &[&format!("ALTER TABLE {table} {what}")]).await?;
    }
    Ok(())
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await?;
        set_all(manager, &format!("SET ({VACUUM})")).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        set_all(manager, &format!("RESET ({NO_VACUUM})")).await?;
        run(manager, DOWN).await
    }
}
