//! The origin that a webhook's credentials were given for, and which of its headers may be shown.

use sea_orm_migration::prelude::{DbErr, DeriveMigrationName, MigrationTrait, SchemaManager, async_trait};
use sea_orm_migration::sea_orm::DbBackend;

use crate::dialect::run;

#[derive(DeriveMigrationName)]
pub(crate) struct Migration;

const UP: &[&str] = &[
    // A JSON list of names; null for none.
    "ALTER TABLE webhook ADD COLUMN public_headers TEXT",
    // A URL of the origin that headers and credentials were given for. Read where the sealed values do not name the
    // origin; null if an older version created the webhook.
    "ALTER TABLE webhook ADD COLUMN bound_url TEXT",
    "UPDATE webhook SET bound_url = url",
];

/// Chooses the newer layout of sealed values on a new database only: an older version cannot read it, and may go on
/// where it has run.
const NEWER_LAYOUT: [(DbBackend, &str); 2] = [
    (
        DbBackend::Sqlite,
        "UPDATE engine_state SET value = 3 WHERE name = 'seal_layout' AND NOT EXISTS (SELECT 1 FROM tenant)",
    ),
    (
        DbBackend::Postgres,
        "UPDATE engine_state SET value = 3 WHERE name = 'seal_layout' AND NOT EXISTS (SELECT 1 FROM tenant) \
             AND NOT EXISTS (SELECT 1 FROM node)",
    ),
];

const DOWN: &[&str] = &["ALTER TABLE webhook DROP COLUMN bound_url", "ALTER TABLE webhook DROP COLUMN public_headers"];

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
