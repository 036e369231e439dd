//! Expiry and last use of keys, the audit log, and what sealed values are bound to.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};
use sea_orm_migration::sea_orm::DbBackend;

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &[&str] = &[
    "ALTER TABLE api_key ADD COLUMN expires_at BIGINT",
    "ALTER TABLE api_key ADD COLUMN last_used_at BIGINT",
    // `tenant_num` is null if the action concerns no tenant. `subject` is an id, or the name of an event type. `fields`
    // are names, separated by commas.
    "CREATE TABLE audit (
        num {key},
        at BIGINT NOT NULL,
        author TEXT NOT NULL,
        tenant_num BIGINT,
        action TEXT NOT NULL,
        subject TEXT NOT NULL,
        fields TEXT NOT NULL,
        peer TEXT,
        request_id TEXT
    )",
    "CREATE INDEX audit_by_tenant ON audit (tenant_num, num)",
    "CREATE INDEX audit_by_subject ON audit (subject, num)",
];

/// Chooses the newer layout of sealed values on a new database only. Where an older version has run it may go on or be
/// started again, and it cannot read values of the newer layout.
const NEWER_LAYOUT: [(DbBackend, &str); 2] = [
    (
        DbBackend::Sqlite,
        "INSERT INTO engine_state (name, value) SELECT 'seal_layout', 2 WHERE NOT EXISTS (SELECT 1 FROM tenant)",
    ),
    (
        DbBackend::Postgres,
        "INSERT INTO engine_state (name, value) SELECT 'seal_layout', 2 WHERE NOT EXISTS (SELECT 1 FROM tenant) \
             AND NOT EXISTS (SELECT 1 FROM node)",
    ),
];

const DOWN: &[&str] = &[
    "DELETE FROM engine_state WHERE name = 'seal_layout'",
    "DROP TABLE audit",
    "ALTER TABLE api_key DROP COLUMN last_used_at",
    "ALTER TABLE api_key DROP COLUMN expires_at",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, UP).await?;
        let backend = manager.get_database_backend();
        let layout = NEWER_LAYOUT.iter().filter(|(of, _)| *of == backend);
        run(manager, &layout.map(|(_, sql)| *sql).collect::<Vec<_>>()).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run(manager, DOWN).await
    }
}
